/* The bound: one training on all classes at once. The exemplars' replay set is all old training
 * images (the caller passes them); batch norm in training mode, crops and mirrors, a cosine: the
 * trainer of base networks. Starts from the base with new rows beside the old ones, or ("scratch")
 * from an untrained network. */
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "tune.h"

static enum delta_status start(struct learner_task *task, struct delta_error *err)
{
    const char *from = task->options->start;
    struct delta_model fresh = DELTA_MODEL_INIT;

    if (!from || strcmp(from, "base") == 0)
        return learner_start_rows(task, err);
    if (strcmp(from, "scratch") != 0)
        return delta_fail(err, DELTA_CONFIG, "start '%s' is unknown; there are base, scratch",
                          from);
    enum delta_status st =
        learner_net_init_model(&fresh, &task->model->arch, task->model->classes,
                               task->model->class_count, task->budget->seed, err);
    for (size_t i = 0; !st && i < task->model->tensor_count; i++) {
        struct delta_tensor *tensor = &task->model->tensors[i];
        const struct delta_tensor *now = delta_model_find(&fresh, tensor->name);
        if (!now || now->count != tensor->count)
            st = delta_fail(err, DELTA_INTERNAL, "tensor '%s' has another size", tensor->name);
        else
            memcpy(tensor->data, now->data, now->count * sizeof *now->data);
    }
    delta_model_release(&fresh);
    return st;
}

static struct learner_pretrain_options options_of(const struct learner_task *task)
{
    struct learner_pretrain_options options = learner_pretrain_defaults();

    options.epochs = task->options->epochs_tune;
    options.batch = task->options->batch;
    options.lr = task->options->lr;
    options.momentum = task->options->momentum;
    options.weight_decay = task->options->weight_decay;
    options.test_images = task->guard_images;
    return options;
}

static enum delta_status run(struct learner_task *task, struct delta_error *err)
{
    const struct learner_pretrain_options options = options_of(task);
    struct learner_samples all = LEARNER_SAMPLES_INIT;
    struct learner_pretrain_status status;
    enum delta_status st = learner_need_exemplars(task, err);

    if (!st)
        st = learner_samples_append(&all, task->fresh, err);
    if (!st)
        st = learner_samples_append(&all, task->replay, err);
    if (!st)
        st = start(task, err);
    if (!st)
        st = learner_unfreeze(task->model, err);
    if (!st)
        st = learner_pretrain_run(task->model, &all, &options, task->budget, &status, err);
    if (!st) {
        task->image_passes += (double)status.step * (double)options.batch;
        const size_t each = (all.count + options.batch - 1) / options.batch;
        task->cut_short = status.step < each * (size_t)options.epochs;
    }
    learner_samples_release(&all);
    return st;
}

static enum delta_status need(const struct learner_task *task, size_t images, size_t *bytes,
                              struct delta_error *err)
{
    const size_t values = learner_model_bytes(task->model);
    const enum delta_status st =
        learner_budget_net(bytes, task->model, task->budget, images, true, err);

    *bytes += 3 * values + learner_samples_bytes(task->fresh) + learner_samples_bytes(task->replay);
    return st;
}

const struct learner_method learner_method_joint = {
    "joint",
    {.method = "joint",
     .start = "base",
     .ratio = -1,
     .epochs_tune = 13,
     .batch = 128,
     .lr = 0.1,
     .momentum = 0.9,
     .weight_decay = 5e-4,
     .max_old_drop = 1,
     .min_new_recall = 0},
    run,
    need,
};
