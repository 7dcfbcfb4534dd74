/* Latents (latent replay, Pellegrini et al. 2020): what the layers below the last block make of the
 * exemplars to replay, kept beside them as bfloat16. While those layers stand still, a class is
 * learned without sending an old image through them again. Private. */
#ifndef LEARNER_LATENTS_H
#define LEARNER_LATENTS_H

#include "embed.h"
#include "learner/exemplars.h"

void learner_latents_release(struct learner_latents *latents);

/* Appends those of `more`, made by the same layers (or there were none). Where `more` has none, or
 * all would be too many, there are none afterwards. */
void learner_latents_append(struct learner_latents *latents, const struct learner_latents *more);

/* Are they what the first `layers` layers of the model's network make of `count` exemplars,
 * `values` numbers each? Reads those layers' tensors (SHA-256). */
bool learner_latents_fit(const struct learner_latents *latents, size_t count,
                         const struct delta_model *model, size_t layers, size_t values);

/* [values] of exemplar i. */
void learner_latents_read(float *to, const struct learner_latents *latents, size_t i);

/* Features and logits of the exemplars to replay by the model, from the latents.
 *   out      left empty where they do not fit the model
 *   fails    what learner_embed fails with */
DELTA_MUST_USE enum delta_status learner_latents_embed(struct learner_embedding *out,
                                                       const struct learner_exemplars *exemplars,
                                                       const struct delta_model *model,
                                                       const struct learner_budget *budget,
                                                       struct delta_error *err);

#endif
