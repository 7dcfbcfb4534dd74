/* The published method: Efficient On-Device Incremental Learning by Weight Freezing (ASP-DAC
 * 2022). The important weights are frozen; the others learn the new classes first, then are tuned
 * with replay and distillation. */
#include "budget.h"
#include "importance.h"
#include "tune.h"

static bool has_plan(const struct delta_model *model)
{
    for (size_t i = 0; i < model->tensor_count; i++)
        if (model->tensors[i].freeze.mode != DELTA_FREEZE_LIVE)
            return true;
    return false;
}

/* Chooses the plan on the base, whose outputs are those of the old data, and takes it over. */
static enum delta_status make_plan(struct learner_task *task, struct delta_error *err)
{
    struct delta_model base = DELTA_MODEL_INIT;
    enum delta_status st;

    if (task->replay->count == 0)
        return delta_fail(err, DELTA_NOT_FOUND,
                          "a freeze ratio needs exemplars of the old classes");
    st = delta_model_copy(&base, task->base, err);
    if (!st)
        st = learner_freeze_plan(&base, task->replay, task->options->ratio, task->budget, err);
    task->image_passes += (double)task->replay->count;
    for (size_t i = 0; !st && i < base.tensor_count; i++) {
        const struct delta_freeze *freeze = &base.tensors[i].freeze;
        struct delta_tensor *tensor = delta_model_find(task->model, base.tensors[i].name);
        if (tensor)
            st = delta_tensor_set_freeze(tensor, freeze->mode, freeze->bits, freeze->count, err);
    }
    delta_model_release(&base);
    return st;
}

static enum delta_status run(struct learner_task *task, struct delta_error *err)
{
    const struct learner_tune_phase phases[] = {
        {"new classes", task->options->epochs_new, false, false, task->model},
        {"fine-tuning", task->options->epochs_tune, true, true, task->model},
    };
    enum delta_status st = DELTA_OK;

    if (task->options->ratio >= 0) {
        st = make_plan(task, err);
    } else if (!has_plan(task->model)) {
        st = delta_fail(err, DELTA_MISMATCH,
                        "the base has no freeze plan; make one with 'frostline-learn plan', or "
                        "give a ratio");
    }
    if (!st)
        st = learner_start_rows(task, err);
    if (!st)
        st = learner_tune(task, phases, 2, err);
    return st;
}

static enum delta_status need(const struct learner_task *task, size_t images, size_t *bytes,
                              struct delta_error *err)
{
    size_t plan = 0;
    enum delta_status st = learner_tune_need(task, task->options->ratio < 0 ? task->model : NULL,
                                             true, true, images, bytes, err);

    if (!st && task->options->ratio >= 0) {
        st = learner_freeze_plan_need(task->base, task->replay, task->budget, images, &plan, err);
        plan += learner_model_bytes(task->base);
    }
    if (*bytes < plan)
        *bytes = plan;
    return st;
}

const struct learner_method learner_method_freeze = {
    "freeze",
    {.method = "freeze",
     .ratio = -1,
     .epochs_new = 1,
     .epochs_tune = 6,
     .batch = 32,
     .lr = 0.01,
     .momentum = 0.9,
     .weight_decay = 5e-4,
     .temperature = 2,
     .kd_weight = 2,
     .max_old_drop = 0.10,
     .min_new_recall = 0.20},
    run,
    need,
};
