/* Rival: End-to-End Incremental Learning (Castro, Marin-Jimenez, Guil, Schmid, Alahari, ECCV 2018).
 * 1. New samples and exemplars: cross-entropy over all classes + for each earlier step's block of
 *    classes a distillation loss with a softmax of its own at T = 2, the teacher being the base.
 * 2. Balanced fine-tuning: as many herded images of each new class as there are exemplars of an old
 *    one, a tenth of the step; the network after 1 is the teacher then, of the new block too.
 * Every weight learns. Schedule "steps": a tenth of the step at each quarter of 1 (published: 40
 * epochs, every 10) and each third of 2 (30 epochs, every 10).
 * The published CIFAR-100 setting is --epochs-tune 40 --epochs-balance 30 --lr 0.1 --batch 128
 * (weight decay 1e-4); the defaults here are a budget that a device has.
 * Left open there, or not done here: batch norm stays in evaluation mode; of the published
 * augmentation (brightness, contrast, crop, mirror) only mirrored views, which let teacher logits
 * be cached; no gradient noise; the head's block of each step is options->blocks. */
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "tune.h"

#define BLOCKS_MAX 256

/* The earlier steps' blocks, which make up the base; then the new one. */
static enum delta_status parse_blocks(struct learner_outputs blocks[BLOCKS_MAX], size_t *count,
                                      const struct learner_task *task, struct delta_error *err)
{
    const char *text = task->options->blocks;
    const size_t old = task->base->class_count;
    size_t sum = 0;

    *count = 0;
    if (!text || !*text) {
        blocks[(*count)++] = (struct learner_outputs){0, old};
        sum = old;
    }
    while (text && *text && *count + 1 < BLOCKS_MAX) {
        char *end;
        const unsigned long size = strtoul(text, &end, 10);
        if (end == text || (*end && *end != ',') || !size || size > old)
            break;
        blocks[(*count)++] = (struct learner_outputs){sum, size};
        sum += size;
        text = *end ? end + 1 : end;
    }
    if (sum != old || (text && *text))
        return delta_fail(err, DELTA_CONFIG,
                          "blocks '%s' do not make up the %zu classes of the base",
                          task->options->blocks, old);
    blocks[*count] = (struct learner_outputs){old, task->model->class_count - old};
    return DELTA_OK;
}

/* As many images of each new class as there are exemplars of an old one, herded. */
static enum delta_status balance(struct learner_exemplars *out, const struct learner_task *task,
                                 struct delta_error *err)
{
    const size_t classes = task->replay->class_count ? task->replay->class_count : 1;
    const size_t each = (task->replay->count + classes - 1) / classes;

    return learner_exemplars_choose_within(out, task->model, task->fresh, each ? each : 1, 0,
                                           task->budget, err);
}

static enum delta_status balanced_tuning(struct learner_task *task,
                                         const struct learner_outputs *blocks, size_t count,
                                         struct delta_error *err)
{
    const struct learner_tune_phase phase = {.stage = "balanced fine-tuning",
                                             .epochs = task->options->epochs_balance,
                                             .replay = true,
                                             .distil = true,
                                             .lr = task->options->lr / 10,
                                             .parts = 3,
                                             .blocks = blocks,
                                             .block_count = count};
    struct learner_exemplars few = {.probe = LEARNER_SAMPLES_INIT};
    struct delta_model teacher = DELTA_MODEL_INIT;
    const struct learner_tune_extra extra = {.teacher = &teacher,
                                             .views = task->options->mirror ? 2 : 1};
    enum delta_status st = delta_model_copy(&teacher, task->model, err);

    if (!st)
        st = balance(&few, task, err);
    task->image_passes += (double)task->fresh->count / 3;
    if (!st) {
        const struct learner_samples *fresh = task->fresh;
        task->fresh = &few.replay;
        st = learner_tune_with(task, &phase, 1, &extra, err);
        task->fresh = fresh;
    }
    learner_exemplars_release(&few);
    delta_model_release(&teacher);
    return st;
}

static enum delta_status run(struct learner_task *task, struct delta_error *err)
{
    struct learner_outputs blocks[BLOCKS_MAX];
    size_t count = 0;
    const struct learner_tune_extra extra = {.views = task->options->mirror ? 2 : 1};
    enum delta_status st = learner_need_exemplars(task, err);

    if (!st)
        st = parse_blocks(blocks, &count, task, err);
    if (!st)
        st = learner_start_rows(task, err);
    if (!st)
        st = learner_unfreeze(task->model, err);
    const struct learner_tune_phase phase = {.stage = "cross-distillation",
                                             .epochs = task->options->epochs_tune,
                                             .replay = true,
                                             .distil = true,
                                             .blocks = blocks,
                                             .block_count = count};
    if (!st)
        st = learner_tune_with(task, &phase, 1, &extra, err);
    if (!st && task->options->epochs_balance > 0 && !task->cut_short)
        st = balanced_tuning(task, blocks, count + 1, err);
    return st;
}

/* The teacher of the second phase lies beside what training takes. */
static enum delta_status need(const struct learner_task *task, size_t images, size_t *bytes,
                              struct delta_error *err)
{
    const enum delta_status st = learner_tune_need(task, NULL, true, true, images, bytes, err);

    *bytes += learner_model_bytes(task->model) + learner_samples_bytes(task->fresh);
    return st;
}

const struct learner_method learner_method_e2e = {
    "e2e",
    {.method = "e2e",
     .ratio = -1,
     .schedule = "steps",
     .epochs_tune = 8,
     .epochs_balance = 6,
     .batch = 64,
     .lr = 0.02,
     .momentum = 0.9,
     .weight_decay = 1e-4,
     .temperature = 2,
     .kd_weight = 1,
     .mirror = true,
     .max_old_drop = 1,
     .min_new_recall = 0},
    run,
    need,
};
