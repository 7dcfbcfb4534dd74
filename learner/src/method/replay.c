/* Controls with replay: every weight learns (replay: cross-entropy alone, replay-kd: and
 * distillation), the last stage alone (layer4-only), or the classifier's rows alone (head-only).
 * One phase over new samples and exemplars; the loss is the published one (freeze.c). */
#include "common.h"
#include "importance.h"
#include "tune.h"

/* The classifier alone is live. */
static enum delta_status plan_head(struct delta_model *plan, struct delta_error *err)
{
    struct delta_tensor *weight, *bias;
    enum delta_status st = delta_model_head(plan, &weight, &bias, err);

    for (size_t i = 0; !st && i < plan->tensor_count; i++) {
        struct delta_tensor *tensor = &plan->tensors[i];
        const bool head = tensor == weight || tensor == bias;
        st = delta_tensor_set_freeze(tensor, head ? DELTA_FREEZE_LIVE : DELTA_FREEZE_ALL, NULL, 0,
                                     err);
    }
    return st;
}

static enum delta_status plan_stage(struct delta_model *plan, const char *live,
                                    struct delta_error *err)
{
    const enum delta_status st = learner_unfreeze(plan, err);

    return st ? st : learner_plan_confine(plan, live ? live : LEARNER_LAST_STAGE, err);
}

/* plan: NULL: everything learns. */
static enum delta_status train(struct learner_task *task, const struct delta_model *plan,
                               struct delta_error *err)
{
    const struct learner_increment_options *options = task->options;
    const struct learner_tune_phase phase = {.stage = "replay",
                                             .epochs = options->epochs_tune,
                                             .replay = true,
                                             .distil = options->kd_weight > 0,
                                             .plan = plan,
                                             .balanced = options->balanced,
                                             .adjust = options->adjust,
                                             .ema = options->ema};
    const struct learner_tune_extra extra = {.views = options->mirror ? 2 : 1};
    enum delta_status st = learner_need_exemplars(task, err);

    if (!st)
        st = learner_start_rows(task, err);
    if (!st)
        st = learner_tune_with(task, &phase, 1, &extra, err);
    return st;
}

static enum delta_status run(struct learner_task *task, struct delta_error *err)
{
    const enum delta_status st = train(task, NULL, err);

    return st ? st : learner_unfreeze(task->model, err);
}

typedef enum delta_status make_plan(struct delta_model *plan, const char *live,
                                    struct delta_error *err);

static enum delta_status run_under(struct learner_task *task, make_plan *make,
                                   struct delta_error *err)
{
    struct delta_model plan = DELTA_MODEL_INIT;
    enum delta_status st = delta_model_copy(&plan, task->model, err);

    if (!st)
        st = make(&plan, task->options->live, err);
    if (!st)
        st = train(task, &plan, err);
    if (!st)
        st = learner_take_plan(task->model, &plan, err);
    delta_model_release(&plan);
    return st;
}

static enum delta_status head_alone(struct delta_model *plan, const char *live,
                                    struct delta_error *err)
{
    (void)live;
    return plan_head(plan, err);
}

static enum delta_status run_head(struct learner_task *task, struct delta_error *err)
{
    return run_under(task, head_alone, err);
}

static enum delta_status run_stage(struct learner_task *task, struct delta_error *err)
{
    return run_under(task, plan_stage, err);
}

static enum delta_status need(const struct learner_task *task, size_t images, size_t *bytes,
                              struct delta_error *err)
{
    return learner_tune_need(task, NULL, true, task->options->kd_weight > 0, images, bytes, err);
}

static enum delta_status need_under(const struct learner_task *task, make_plan *make, size_t images,
                                    size_t *bytes, struct delta_error *err)
{
    struct delta_model plan = DELTA_MODEL_INIT;
    enum delta_status st = delta_model_copy(&plan, task->model, err);

    if (!st)
        st = make(&plan, task->options->live, err);
    if (!st)
        st = learner_tune_need(task, &plan, true, task->options->kd_weight > 0, images, bytes, err);
    *bytes += learner_model_bytes(task->model);
    delta_model_release(&plan);
    return st;
}

static enum delta_status need_head(const struct learner_task *task, size_t images, size_t *bytes,
                                   struct delta_error *err)
{
    return need_under(task, head_alone, images, bytes, err);
}

static enum delta_status need_stage(const struct learner_task *task, size_t images, size_t *bytes,
                                    struct delta_error *err)
{
    return need_under(task, plan_stage, images, bytes, err);
}

#define DEFAULTS(name, kd)                                                                         \
    {                                                                                              \
        .method = name, .ratio = -1, .epochs_tune = 5, .batch = 32, .lr = 0.01, .momentum = 0.9,   \
        .weight_decay = 5e-4, .temperature = 2, .kd_weight = kd, .max_old_drop = 1,                \
        .min_new_recall = 0                                                                        \
    }

const struct learner_method learner_method_replay = {"replay", DEFAULTS("replay", 0), run, need};
const struct learner_method learner_method_replay_kd = {"replay-kd", DEFAULTS("replay-kd", 1), run,
                                                        need};
const struct learner_method learner_method_head_only = {"head-only", DEFAULTS("head-only", 1),
                                                        run_head, need_head};
const struct learner_method learner_method_layer4_only = {"layer4-only", DEFAULTS("layer4-only", 1),
                                                          run_stage, need_stage};
