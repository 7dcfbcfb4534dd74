/* Gradient training of an increment: what the methods with back-propagation share.
 * Batch norm in evaluation mode, constant step, no augmentation: teacher logits are cached, and
 * so is what layers make of an image below the lowest one that learns. */
#ifndef LEARNER_TUNE_H
#define LEARNER_TUNE_H

#include "method.h"

struct learner_tune_phase {
    const char *stage; /* for progress */
    int epochs;
    bool replay;                    /* new samples and exemplars, or new samples only */
    bool distil;                    /* L_C + kd_weight * L_Df against the base */
    const struct delta_model *plan; /* what is frozen; NULL: nothing */
};

/* Trains task->model in place through the phases, in order.
 * When the time is up, less what the guard needs, it ends with what it has and sets
 * task->cut_short. fails    NONFINITE (names the layer), INTERRUPTED, NO_MEMORY; the model is
 * unspecified then */
DELTA_MUST_USE enum delta_status learner_tune(struct learner_task *task,
                                              const struct learner_tune_phase *phases,
                                              size_t phase_count, struct delta_error *err);

/* What it takes, with a teacher if one is wanted and so many images at once.
 *   plan     that of all phases; NULL: none */
DELTA_MUST_USE enum delta_status learner_tune_need(const struct learner_task *task,
                                                   const struct delta_model *plan, bool replay,
                                                   bool distil, size_t images, size_t *bytes,
                                                   struct delta_error *err);

/* Seeded uniform rows within +-1/sqrt(d), as torch.nn.Linear starts. */
DELTA_MUST_USE enum delta_status learner_start_rows(struct learner_task *task,
                                                    struct delta_error *err);

#endif
