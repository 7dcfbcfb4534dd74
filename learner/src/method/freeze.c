/* The published method: Efficient On-Device Incremental Learning by Weight Freezing (ASP-DAC
 * 2022). Importance I_m = (g_m w_m)^2, g the gradient of the mean cross-entropy on old data; per
 * layer the top share is frozen; the others learn W_nf - lr dE/dW_nf: first the new classes alone,
 * then fine-tuning with replay, loss L_C + L_Df, L_Df the cross-entropy between the base's and the
 * network's softmax over the old classes at temperature T.
 * Left open there and chosen here: old data = the exemplars; T 2; batch norm frozen; both phases
 * constant steps of SGD with momentum, plain cross-entropy over all outputs; new rows start as
 * torch.nn.Linear does; how many epochs (METHODS.md).
 * Variations for ablation: mask, adjust, balanced, kd_weight, epochs_new 0. */
#include "common.h"
#include "importance.h"
#include "tune.h"

/* Chooses the plan on the base, whose outputs are those of the old data, and takes it over. */
static enum delta_status make_plan(struct learner_task *task, struct delta_error *err)
{
    const struct learner_plan_choice choice = {.ratio = task->options->ratio,
                                               .mask = task->options->mask};
    struct delta_model base = DELTA_MODEL_INIT;
    enum delta_status st;

    if (task->replay->count == 0)
        return delta_fail(err, DELTA_NOT_FOUND,
                          "a freeze ratio needs exemplars of the old classes");
    st = delta_model_copy(&base, task->base, err);
    if (!st)
        st = learner_freeze_plan_by(&base, task->replay, &choice, task->budget, err);
    task->image_passes += (double)task->replay->count;
    if (!st)
        st = learner_take_plan(task->model, &base, err);
    delta_model_release(&base);
    return st;
}

static enum delta_status run(struct learner_task *task, struct delta_error *err)
{
    const struct learner_increment_options *options = task->options;
    const bool replay = task->replay->count > 0;
    const struct learner_tune_phase phases[] = {
        {.stage = "new classes",
         .epochs = options->epochs_new,
         .plan = task->model,
         .adjust = options->adjust},
        {.stage = "fine-tuning",
         .epochs = options->epochs_tune,
         .replay = true,
         .distil = options->kd_weight > 0,
         .plan = task->model,
         .balanced = options->balanced && replay,
         .adjust = options->adjust,
         .ema = options->ema},
    };
    const struct learner_tune_extra extra = {.views = options->mirror ? 2 : 1};
    enum delta_status st = DELTA_OK;

    if (options->ratio >= 0) {
        st = make_plan(task, err);
    } else if (!learner_has_plan(task->model)) {
        st = delta_fail(err, DELTA_MISMATCH,
                        "the base has no freeze plan; make one with 'frostline-learn plan', or "
                        "give a ratio");
    }
    if (!st)
        st = learner_start_rows(task, err);
    if (!st)
        st = learner_tune_with(task, phases, 2, &extra, err);
    return st;
}

static enum delta_status need(const struct learner_task *task, size_t images, size_t *bytes,
                              struct delta_error *err)
{
    size_t plan = 0;
    enum delta_status st =
        learner_tune_need(task, task->options->ratio < 0 ? task->model : NULL, true,
                          task->options->kd_weight > 0, images, bytes, err);

    if (!st && task->options->ratio >= 0) {
        st = learner_freeze_plan_need(task->base, task->replay, NULL, task->budget, images, &plan,
                                      err);
        plan += 2 * learner_model_bytes(task->base);
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
     .min_new_recall = 0.20,
     .min_images = 2},
    run,
    need,
};
