/* The classifier's rows from cached features: imprinted, fitted, or class means. Private. */
#ifndef LEARNER_HEAD_ROWS_H
#define LEARNER_HEAD_ROWS_H

#include "embed.h"
#include "method.h"
#include "tune_data.h"

/* Features of the task's pool: new samples, then exemplars, in `views` (embed.h). */
struct learner_pool {
    struct learner_embedding embedding; /* [views * images] by the base */
    int32_t *labels;                    /* [views * images]; -1: not a class of the model */
    size_t images;
    size_t forwards; /* images that went through the network */
};

/*   plan, prefix  not NULL: also kept is what lies below the plan's live layers (tune_data.h) */
DELTA_MUST_USE enum delta_status learner_pool_embed(struct learner_pool *out,
                                                    const struct learner_task *task, size_t views,
                                                    const struct delta_model *plan,
                                                    struct learner_prefix *prefix,
                                                    struct delta_error *err);
void learner_pool_release(struct learner_pool *pool);

/* New rows: the mean feature of a class as direction, the old rows' mean length and bias (weight
 * imprinting, Qi et al. 2018). */
DELTA_MUST_USE enum delta_status learner_rows_imprint(struct learner_task *task,
                                                      const struct learner_embedding *features,
                                                      const int32_t *labels,
                                                      struct delta_error *err);

/* The model's logits [classes] of the middle: the mean feature of the old classes' images. */
DELTA_MUST_USE enum delta_status learner_rows_level(float *level, const struct learner_task *task,
                                                    const struct learner_embedding *features,
                                                    const int32_t *labels, struct delta_error *err);

/* Fits the new rows (all: every row, pulled towards its start by `anchor`) by logit-adjusted
 * cross-entropy from where they are; head_fit.h.
 *   until_ms  when it must end; 0: never. Sets task->cut_short */
DELTA_MUST_USE enum delta_status learner_rows_fit(struct learner_task *task,
                                                  const struct learner_embedding *features,
                                                  const int32_t *labels, bool all, double anchor,
                                                  int64_t until_ms, struct delta_error *err);

#endif
