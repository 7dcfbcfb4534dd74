/* What a training run is made of, as a checkpoint and as a moving average. */
#include <stdlib.h>

#include "delta/hash.h"
#include "pool.h"
#include "sources.h"
#include "trainer.h"

#ifndef FROSTLINE_VERSION
#define FROSTLINE_VERSION "unknown"
#endif

static enum delta_status data_digest(char hex[DELTA_DIGEST_HEX],
                                     const struct learner_samples *samples, struct delta_error *err)
{
    struct delta_hash hash = {NULL};
    struct delta_digest digest;
    const enum delta_status st = delta_hash_init(&hash, err);

    if (st)
        return st;
    const size_t shape[] = {samples->channels, samples->height, samples->width, samples->count};
    delta_hash_update(&hash, delta_bytes(shape, sizeof shape));
    for (size_t k = 0; k < samples->class_count; k++)
        delta_hash_update(&hash,
                          delta_bytes(samples->classes[k].text, sizeof samples->classes[k].text));
    delta_hash_update(&hash,
                      delta_bytes(samples->labels, samples->count * sizeof *samples->labels));
    delta_hash_update(
        &hash, delta_bytes(samples->pixels, samples->count * learner_samples_image_bytes(samples)));
    digest = delta_hash_finish(&hash);
    delta_digest_hex(hex, &digest);
    return DELTA_OK;
}

enum delta_status learner_train_describe(struct trainer *trainer, struct delta_error *err)
{
    const struct learner_pretrain_options *options = trainer->options;
    struct learner_checkpoint *state = &trainer->state;
    struct delta_digest model;
    char data[DELTA_DIGEST_HEX], start[DELTA_DIGEST_HEX];
    enum delta_status st = data_digest(data, trainer->samples, err);

    if (!st)
        st = delta_model_digest(trainer->model, &model, err);
    if (st)
        return st;
    delta_digest_hex(start, &model);
    state->option_count = 0;
    learner_checkpoint_option(state, "augment", "%d", options->augment);
    learner_checkpoint_option(state, "batch", "%zu", options->batch);
    learner_checkpoint_option(state, "cutout", "%zu", options->cutout);
    learner_checkpoint_option(state, "data", "%s", data);
    learner_checkpoint_option(state, "device", "%s", learner_net_device(trainer->net));
    learner_checkpoint_option(state, "ema", "%.17g", options->ema);
    learner_checkpoint_option(state, "epochs", "%d", options->epochs);
    learner_checkpoint_option(state, "held-out", "%zu", options->held_out);
    learner_checkpoint_option(state, "label-smoothing", "%.17g", options->label_smoothing);
    learner_checkpoint_option(state, "lr", "%.17g", options->lr);
    learner_checkpoint_option(state, "mixup", "%.17g", options->mixup);
    learner_checkpoint_option(state, "model", "%s", start);
    learner_checkpoint_option(state, "momentum", "%.17g", options->momentum);
    learner_checkpoint_option(state, "seed", "%llu", (unsigned long long)trainer->budget->seed);
    learner_checkpoint_option(state, "software", "%s", FROSTLINE_VERSION);
    learner_checkpoint_option(state, "threads", "%zu", learner_pool_size(trainer->budget->threads));
    learner_checkpoint_option(state, "weight-decay", "%.17g", options->weight_decay);
    return DELTA_OK;
}

/* The payload in its order; free() *out. */
static enum delta_status list_blocks(struct learner_checkpoint_block **out, size_t *count,
                                     struct trainer *trainer, struct delta_error *err)
{
    const size_t params = learner_net_param_count(trainer->net);
    const size_t slots = learner_sgd_slots(trainer->sgd);
    struct learner_checkpoint_block *blocks = delta_calloc(params + slots + 1, sizeof *blocks);
    size_t used = 0;

    if (!blocks)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for a checkpoint");
    for (size_t i = 0; i < params; i++) {
        const struct learner_param *param = learner_net_param(trainer->net, i);
        blocks[used++] = (struct learner_checkpoint_block){param->data, param->count};
    }
    for (size_t i = 0; i < slots; i++, used++)
        blocks[used].data = learner_sgd_velocity(trainer->sgd, i, &blocks[used].count);
    if (trainer->average)
        blocks[used++] = (struct learner_checkpoint_block){trainer->average, trainer->values};
    *out = blocks;
    *count = used;
    return DELTA_OK;
}

static bool is_finite(const struct learner_checkpoint_block *block)
{
    float sum = 0; /* of x - x, which is NaN for what is not finite, and else 0 */

    for (size_t k = 0; k < block->count; k++)
        sum += block->data[k] - block->data[k];
    return sum == 0;
}

/* A step can leave weights that only the next forward pass would find out: such a state must not
 * replace a good one. */
static enum delta_status check_blocks(const struct trainer *trainer,
                                      const struct learner_checkpoint_block *blocks, size_t count,
                                      struct delta_error *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct learner_param *param = learner_net_param(trainer->net, i);
        if (!is_finite(&blocks[i]))
            return delta_fail(err, DELTA_NONFINITE, "%s%s%s holds a number that is not finite",
                              param ? "'" : "", param ? param->name : "momentum or average",
                              param ? "' of the network" : "");
    }
    return DELTA_OK;
}

enum delta_status learner_train_save(struct trainer *trainer, struct delta_error *err)
{
    struct learner_checkpoint_block *blocks = NULL;
    size_t count = 0;
    enum delta_status st = list_blocks(&blocks, &count, trainer, err);

    trainer->state.step = trainer->status.step;
    trainer->state.steps = trainer->status.steps;
    trainer->state.microbatch = trainer->micro;
    if (!st)
        st = check_blocks(trainer, blocks, count, err);
    if (!st)
        st = learner_checkpoint_save(&trainer->state, blocks, count, trainer->options->checkpoint,
                                     err);
    free(blocks);
    return st;
}

enum delta_status learner_train_load(struct trainer *trainer, struct learner_checkpoint_file *file,
                                     struct delta_error *err)
{
    struct learner_checkpoint_block *blocks = NULL;
    size_t count = 0;
    enum delta_status st = list_blocks(&blocks, &count, trainer, err);

    if (!st)
        st = learner_checkpoint_read(file, blocks, count, err);
    if (!st)
        st = check_blocks(trainer, blocks, count, err);
    learner_net_changed(trainer->net);
    free(blocks);
    return st;
}

/* Young averages follow fast: the start, which is noise, is forgotten (as in TensorFlow's
 * ExponentialMovingAverage with num_updates). */
void learner_train_average(struct trainer *trainer)
{
    const double age = (double)trainer->status.step;
    const double young = (1 + age) / (10 + age);
    const double decay = young < trainer->options->ema ? young : trainer->options->ema;
    const float keep = (float)decay, take = (float)(1 - decay);
    float *average = trainer->average;

    if (!average)
        return;
    for (size_t i = 0; i < learner_net_param_count(trainer->net); i++) {
        const struct learner_param *param = learner_net_param(trainer->net, i);
        for (size_t k = 0; k < param->count; k++)
            average[k] = keep * average[k] + take * param->data[k];
        average += param->count;
    }
}

void learner_train_swap(struct trainer *trainer)
{
    float *average = trainer->average;

    if (!average)
        return;
    learner_net_changed(trainer->net);
    for (size_t i = 0; i < learner_net_param_count(trainer->net); i++) {
        const struct learner_param *param = learner_net_param(trainer->net, i);
        for (size_t k = 0; k < param->count; k++) {
            const float kept = param->data[k];
            param->data[k] = average[k];
            average[k] = kept;
        }
        average += param->count;
    }
}
