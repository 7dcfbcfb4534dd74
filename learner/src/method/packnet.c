/* Rival: PackNet (Mallya and Lazebnik, CVPR 2018).
 * 1. Per layer the smallest weights are pruned (set to zero), the classifier and batch norm aside.
 * 2. The kept ones are retrained on the old task, then frozen.
 * 3. The freed ones learn the new task: a softmax over the new classes alone; the old rows rest.
 * Task-aware: with epochs_tune 0 that is all, and learner_packnet_view gives the network of a task
 * whose id is known: the old one without the freed weights, as it was after 2.
 * Single head (epochs_tune > 0): then the freed weights and all rows learn with replay and
 * distillation over all classes, loss as in freeze.c.
 * Left open there and chosen here: the base as a whole is the old task; its training data are the
 * exemplars, so 2 distils the unpruned base too; the new task's weights are not pruned, since no
 * further task waits. */
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "importance.h"
#include "learner/learn.h"
#include "tune.h"

#define PRUNED 0.5

#define NEVER (-1e4f) /* far below any logit, and finite */

static bool is_packed(const struct delta_tensor *tensor)
{
    return tensor->freeze.mode == DELTA_FREEZE_WEIGHTS;
}

static void zero_live(struct delta_model *model)
{
    for (size_t i = 0; i < model->tensor_count; i++) {
        struct delta_tensor *tensor = &model->tensors[i];
        for (size_t k = 0; is_packed(tensor) && k < tensor->count; k++)
            if (!delta_tensor_is_frozen(tensor, k))
                tensor->data[k] = 0;
    }
}

/* Kept weights are marked as frozen, the pruned ones are zero. */
static enum delta_status prune(struct learner_task *task, struct delta_error *err)
{
    const double ratio = task->options->ratio;
    const struct learner_plan_choice choice = {.ratio = 1 - (ratio < 0 ? PRUNED : ratio),
                                               .mask = "magnitude"};
    const enum delta_status st =
        learner_freeze_plan_by(task->model, task->replay, &choice, task->budget, err);

    if (!st)
        zero_live(task->model);
    return st;
}

/* The plan of the retraining: the pruned rest, the kept learn. */
static enum delta_status invert(struct delta_model *plan, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; !st && i < plan->tensor_count; i++)
        for (size_t k = 0; is_packed(&plan->tensors[i]) && k < plan->tensors[i].freeze.count; k++)
            plan->tensors[i].freeze.bits[k / 8] ^= (uint8_t)(1u << k % 8);
    (void)err;
    return st;
}

static enum delta_status retrain(struct learner_task *task, struct delta_error *err)
{
    const struct learner_samples none = LEARNER_SAMPLES_INIT;
    struct delta_model plan = DELTA_MODEL_INIT;
    const struct learner_tune_phase phase = {.stage = "retraining",
                                             .epochs = task->options->epochs_balance,
                                             .distil = task->options->kd_weight > 0,
                                             .plan = &plan,
                                             .only_below = task->base->class_count};
    struct learner_task old = *task;
    enum delta_status st = delta_model_copy(&plan, task->model, err);

    old.fresh = task->replay;
    old.replay = &none;
    if (!st)
        st = invert(&plan, err);
    if (!st)
        st = learner_tune(&old, &phase, 1, err);
    task->image_passes = old.image_passes;
    task->cut_short = old.cut_short;
    delta_model_release(&plan);
    return st;
}

/* Old rows rest, new ones learn. */
static enum delta_status rest_old_rows(struct delta_model *plan, size_t old,
                                       struct delta_error *err)
{
    struct delta_tensor *weight, *bias;
    uint8_t *bits = delta_calloc(plan->class_count / 8 + 1, 1);
    enum delta_status st = delta_model_head(plan, &weight, &bias, err);

    if (!st && !bits)
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t c = 0; bits && c < old; c++)
        bits[c / 8] |= (uint8_t)(1u << c % 8);
    if (!st)
        st = delta_tensor_set_freeze(weight, DELTA_FREEZE_ROWS, bits, plan->class_count, err);
    if (!st)
        st = delta_tensor_set_freeze(bias, DELTA_FREEZE_ROWS, bits, plan->class_count, err);
    free(bits);
    return st;
}

static enum delta_status learn_new(struct learner_task *task, struct delta_error *err)
{
    struct delta_model plan = DELTA_MODEL_INIT;
    const struct learner_tune_phase phase = {.stage = "new classes",
                                             .epochs = task->options->epochs_new,
                                             .plan = &plan,
                                             .only_from = task->base->class_count};
    const struct learner_tune_extra extra = {.views = task->options->mirror ? 2 : 1};
    enum delta_status st = learner_start_rows(task, err);

    if (!st)
        st = delta_model_copy(&plan, task->model, err);
    if (!st)
        st = rest_old_rows(&plan, task->base->class_count, err);
    if (!st)
        st = learner_tune_with(task, &phase, 1, &extra, err);
    delta_model_release(&plan);
    return st;
}

static enum delta_status run(struct learner_task *task, struct delta_error *err)
{
    const struct learner_increment_options *options = task->options;
    const struct learner_tune_phase single = {.stage = "one head",
                                              .epochs = options->epochs_tune,
                                              .replay = true,
                                              .distil = options->kd_weight > 0,
                                              .plan = task->model,
                                              .balanced = options->balanced,
                                              .adjust = options->adjust};
    const struct learner_tune_extra extra = {.views = options->mirror ? 2 : 1};
    enum delta_status st = learner_need_exemplars(task, err);

    if (!st)
        st = prune(task, err);
    if (!st && options->epochs_balance > 0)
        st = retrain(task, err);
    if (!st && !task->cut_short)
        st = learn_new(task, err);
    if (!st && options->epochs_tune > 0 && !task->cut_short)
        st = learner_tune_with(task, &single, 1, &extra, err);
    return st;
}

enum delta_status learner_packnet_view(struct delta_model *out, const struct delta_model *model,
                                       size_t old_classes, bool fresh, struct delta_error *err)
{
    struct delta_tensor *weight, *bias;
    struct delta_model view = DELTA_MODEL_INIT;
    enum delta_status st = delta_model_copy(&view, model, err);

    if (!st)
        st = delta_model_head(&view, &weight, &bias, err);
    if (st) {
        delta_model_release(&view);
        return st;
    }
    for (size_t k = 0; k < bias->count; k++)
        if ((k >= old_classes) != fresh)
            bias->data[k] = NEVER;
    if (!fresh)
        zero_live(&view);
    *out = view;
    return DELTA_OK;
}

/* Batch norms are part of their convolutions in every phase. */
static enum delta_status need(const struct learner_task *task, size_t images, size_t *bytes,
                              struct delta_error *err)
{
    struct delta_model plan = DELTA_MODEL_INIT;
    enum delta_status st = delta_model_copy(&plan, task->model, err);

    if (!st)
        st = learner_plan_confine(&plan, "", err);
    if (!st)
        st = learner_tune_need(task, &plan, true, task->options->kd_weight > 0, images, bytes, err);
    *bytes += learner_model_bytes(task->model) + learner_samples_bytes(task->replay);
    delta_model_release(&plan);
    return st;
}

const struct learner_method learner_method_packnet = {
    "packnet",
    {.method = "packnet",
     .ratio = -1,
     .epochs_balance = 5,
     .epochs_new = 5,
     .epochs_tune = 5,
     .batch = 32,
     .lr = 0.01,
     .momentum = 0.9,
     .weight_decay = 5e-4,
     .temperature = 2,
     .kd_weight = 1,
     .max_old_drop = 1,
     .min_new_recall = 0},
    run,
    need,
};
