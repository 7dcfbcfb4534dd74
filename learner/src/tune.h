/* Gradient training of an increment: what the methods with back-propagation share.
 * Batch norm in evaluation mode, no augmentation but mirrored views: teacher logits are cached, and
 * so is what layers make of an image below the lowest one that learns (tune_data.h). */
#ifndef LEARNER_TUNE_H
#define LEARNER_TUNE_H

#include "embed.h"
#include "learner/loss.h"
#include "method.h"
#include "tune_data.h"

struct learner_tune_phase {
    const char *stage; /* for progress */
    int epochs;
    bool replay;                     /* new samples and exemplars, or new samples only */
    bool distil;                     /* L_C + kd_weight * L_Df against the teacher */
    const struct delta_model *plan;  /* what is frozen; NULL: nothing */
    bool balanced;                   /* with replay: see learner_increment_options */
    double adjust;                   /* logit adjustment by the phase's own class frequencies */
    double ema;                      /* 0: off */
    const struct learner_seen *seen; /* of the cross-entropy; NULL: all images count as they are */
    double lr;                       /* 0: the options' */
    int parts;                       /* "steps": parts of the phase, each at a tenth; 0: 4 */
    size_t only_from, only_below;    /* outputs that take part in the cross-entropy; 0, 0: all */
    const struct learner_outputs *blocks; /* distilled apart; NULL: all in one */
    size_t block_count;
};

/* What a training may be given and may leave; all zero: nothing of it. */
struct learner_tune_extra {
    const struct delta_model *teacher;     /* NULL: the task's base */
    const struct learner_embedding *known; /* the teacher's logits of all views; NULL: made here */
    size_t views;                          /* 2: mirrored ones too */
    struct learner_embedding *after; /* not NULL: features of all views when training is done */
    struct learner_prefix *prefix;   /* not NULL: of the task's pool, taken over where it fits */
};

/* Trains task->model in place through the phases, in order.
 *   extra    may be NULL
 * When the time is up, less what the guard needs, it ends with what it has and sets
 * task->cut_short. fails    NONFINITE (names the layer), INTERRUPTED, NO_MEMORY; the model is
 * unspecified then */
DELTA_MUST_USE enum delta_status learner_tune_with(struct learner_task *task,
                                                   const struct learner_tune_phase *phases,
                                                   size_t phase_count,
                                                   const struct learner_tune_extra *extra,
                                                   struct delta_error *err);
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
