/* What the network makes of a whole sample set, computed once: pooled features and logits.
 * Running statistics, no gradients, nothing of the model changes. Private. */
#ifndef LEARNER_EMBED_H
#define LEARNER_EMBED_H

#include "budget.h"
#include "learner/learn.h"

struct learner_embedding {
    size_t count, d, classes;
    float *features; /* owned, [count, d] */
    float *logits;   /* owned, [count, classes] */
};

void learner_embedding_release(struct learner_embedding *embedding);

/*   budget   NULL: defaults, no progress
 *   stage    name for the progress callback
 *   fails    MISMATCH (image size), INTERRUPTED, what learner_net_new fails with */
DELTA_MUST_USE enum delta_status learner_embed(struct learner_embedding *out,
                                               const struct delta_model *model,
                                               const struct learner_samples *samples,
                                               const struct learner_budget *budget,
                                               const char *stage, struct delta_error *err);

/* The same with `views` of each image: 1, or 2, when rows count.. 2 count - 1 are the images
 * mirrored left to right, in the same order. out->count is views times the samples'. */
DELTA_MUST_USE enum delta_status learner_embed_views(struct learner_embedding *out,
                                                     const struct delta_model *model,
                                                     const struct learner_samples *samples,
                                                     size_t views,
                                                     const struct learner_budget *budget,
                                                     const char *stage, struct delta_error *err);

#define LEARNER_VIEWS_MAX 1024 /* of a batch */

/* MISMATCH unless the images have the size that the model takes. */
DELTA_MUST_USE enum delta_status learner_samples_check(const struct learner_samples *samples,
                                                       const struct delta_arch *arch,
                                                       struct delta_error *err);

/* Index of the largest logit, of equal ones the first. */
static inline size_t learner_best_of(const float *logits, size_t classes)
{
    size_t best = 0;

    for (size_t k = 1; k < classes; k++)
        if (logits[k] > logits[best])
            best = k;
    return best;
}

/* Label of each image as the model's output index, -1 where the model lacks the class. free() it;
 * NULL when out of memory. */
int32_t *learner_samples_outputs(const struct learner_samples *samples,
                                 const struct delta_model *model);

/* One call of the progress callback, and a look at the clock. fails: INTERRUPTED */
DELTA_MUST_USE enum delta_status learner_budget_tick(const struct learner_budget *budget,
                                                     const char *stage, double done, double total,
                                                     struct delta_error *err);

#endif
