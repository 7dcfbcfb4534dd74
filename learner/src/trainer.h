/* Inside of learner_pretrain: one run's state, shared by train.c (the run), train_step.c (one step)
 * and train_state.c (checkpoint and moving average). Private to those.
 *
 * Everything random is drawn from (seed, purpose, epoch or step) alone: a run goes on from any step
 * without having gone through those before. */
#ifndef LEARNER_TRAINER_H
#define LEARNER_TRAINER_H

#include "augment.h"
#include "checkpoint.h"
#include "learner/learn.h"
#include "learner/optim.h"

struct trainer {
    const struct delta_model *model;
    const struct learner_samples *samples;
    const struct learner_pretrain_options *options;
    const struct learner_budget *budget; /* without the deadline: a tick would fail at it */
    int64_t deadline_ms;                 /* 0: none */

    struct learner_net *net;
    struct learner_sgd *sgd;
    struct learner_feed feed;
    struct learner_augment augment;
    size_t micro;     /* images per pass; several passes make a batch when memory is short */
    float *sum;       /* gradients of the earlier passes of a step (gather.h); NULL: one pass */
    float *average;   /* moving average, laid out as the net's values; NULL: none */
    int32_t *outputs; /* [samples] */
    int32_t *labels, *others; /* [micro] */
    bool *is_held;            /* [samples] */
    uint32_t *held;           /* [held_count] images kept from training */
    uint32_t *order;          /* [count] images to train on, shuffled for each epoch */
    size_t count, held_count;
    size_t per_epoch; /* steps */
    size_t planned;   /* steps of the whole run, were there time enough */

    struct learner_checkpoint state; /* options of this run; step and steps */
    struct learner_pretrain_status status;
    double loss_sum, correct; /* of the epoch so far, in images */
    size_t seen;
};

/* ---- train_step.c ---- */

/* Loads, forward, backward, one step of the optimiser and of the average.
 *   index    n images
 *   fails    NONFINITE */
DELTA_MUST_USE enum delta_status learner_train_step(struct trainer *trainer, const uint32_t *index,
                                                    size_t n, double lr, struct delta_error *err);
/* Accuracy on the held-out images, by the averaged weights where there are some. */
DELTA_MUST_USE enum delta_status learner_train_test(struct trainer *trainer,
                                                    struct delta_error *err);

/* ---- train_state.c ---- */

/* Lists what the run was started with.  fails: NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_train_describe(struct trainer *trainer,
                                                        struct delta_error *err);
DELTA_MUST_USE enum delta_status learner_train_save(struct trainer *trainer,
                                                    struct delta_error *err);
/* Loads weights, velocities and average; the step was taken over before. */
DELTA_MUST_USE enum delta_status learner_train_load(struct trainer *trainer,
                                                    struct learner_checkpoint_file *file,
                                                    struct delta_error *err);
/* The average follows the weights after a step. */
void learner_train_average(struct trainer *trainer);
/* Exchanges weights and average, exactly; twice = as before. Nothing without an average. */
void learner_train_swap(struct trainer *trainer);

#endif
