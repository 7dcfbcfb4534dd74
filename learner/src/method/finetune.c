/* Baseline: plain fine-tuning on the new samples, nothing frozen, nothing replayed. Forgets. */
#include "tune.h"

static enum delta_status run(struct learner_task *task, struct delta_error *err)
{
    const struct learner_tune_phase phase = {"fine-tuning", task->options->epochs_new, false, false,
                                             NULL};
    enum delta_status st = learner_start_rows(task, err);

    if (!st)
        st = learner_tune(task, &phase, 1, err);
    /* what moved may not be called frozen */
    for (size_t i = 0; !st && i < task->model->tensor_count; i++)
        st = delta_tensor_set_freeze(&task->model->tensors[i], DELTA_FREEZE_LIVE, NULL, 0, err);
    return st;
}

static enum delta_status need(const struct learner_task *task, size_t images, size_t *bytes,
                              struct delta_error *err)
{
    return learner_tune_need(task, NULL, false, false, images, bytes, err);
}

/* A baseline is there to be measured: its guard lets everything pass. */
const struct learner_method learner_method_finetune = {
    "finetune",
    {.method = "finetune",
     .ratio = -1,
     .epochs_new = 10,
     .batch = 32,
     .lr = 0.01,
     .momentum = 0.9,
     .weight_decay = 5e-4,
     .max_old_drop = 1,
     .min_new_recall = 0},
    run,
    need,
};
