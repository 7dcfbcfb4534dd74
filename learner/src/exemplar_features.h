/* Pooled features that are kept beside the exemplars: made once, used while only head rows change.
 * Private. */
#ifndef LEARNER_EXEMPLAR_FEATURES_H
#define LEARNER_EXEMPLAR_FEATURES_H

#include "learner/exemplars.h"
#include "learner/learn.h"

void learner_features_release(struct learner_features *features);

/* Makes the features of all exemplars by the model's network, whatever was there; from the latents
 * where these are true of it.
 *   fails    what learner_embed fails with; then there are none */
DELTA_MUST_USE enum delta_status learner_features_make(struct learner_exemplars *exemplars,
                                                       const struct delta_model *model,
                                                       const struct learner_budget *budget,
                                                       struct delta_error *err);

/* Appends those of `more`, which has been appended to the exemplars and has features by the same
 * network as the exemplars (or they had no images).  fails: NO_MEMORY, LIMIT; then there are none
 */
DELTA_MUST_USE enum delta_status learner_features_append(struct learner_features *features,
                                                         const struct learner_features *more,
                                                         struct delta_error *err);

/* Do both models make the same features? Compares the tensors, so that no SHA-256 is needed. */
bool learner_same_body(const struct delta_model *a, const struct delta_model *b);

/* logits [count, classes] = features times the classifier.  fails: MISMATCH (d), FORMAT */
DELTA_MUST_USE enum delta_status learner_features_logits(float *logits, const float *features,
                                                         size_t count, size_t d,
                                                         const struct delta_model *model,
                                                         struct delta_error *err);

#endif
