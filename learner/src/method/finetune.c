/* Baseline: plain fine-tuning on the new samples, nothing frozen, nothing replayed. Forgets. */
#include "common.h"
#include "tune.h"

static enum delta_status run(struct learner_task *task, struct delta_error *err)
{
    const struct learner_tune_phase phase = {.stage = "fine-tuning",
                                             .epochs = task->options->epochs_new,
                                             .adjust = task->options->adjust};
    const struct learner_tune_extra extra = {.views = task->options->mirror ? 2 : 1};
    enum delta_status st = learner_start_rows(task, err);

    if (!st)
        st = learner_tune_with(task, &phase, 1, &extra, err);
    return st ? st : learner_unfreeze(task->model, err);
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
