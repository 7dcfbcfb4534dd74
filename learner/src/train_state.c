/* What a training run is made of, as a checkpoint and as a moving average. */
#include <stdlib.h>
#include <string.h>

#include "delta/hash.h"
#include "graph.h"
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
    if (strcmp(learner_net_precision(trainer->net), "fp32") != 0)
        learner_checkpoint_option(state, "precision", "%s", learner_net_precision(trainer->net));
    learner_checkpoint_option(state, "seed", "%llu", (unsigned long long)trainer->budget->seed);
    learner_checkpoint_option(state, "software", "%s", FROSTLINE_VERSION);
    learner_checkpoint_option(state, "threads", "%zu", learner_pool_size(trainer->budget->threads));
    learner_checkpoint_option(state, "weight-decay", "%.17g", options->weight_decay);
    return DELTA_OK;
}

/* The payload in its order, in host memory, and where each piece belongs. */
struct payload {
    struct learner_checkpoint_block *blocks;
    float **places; /* [count]; the blocks' own data where the device's memory is the host's */
    size_t count;
    float *staged; /* NULL: nothing was copied */
};

static void payload_release(struct payload *payload)
{
    free(payload->blocks);
    free(payload->places);
    free(payload->staged);
}

static void list_blocks(struct payload *payload, struct trainer *trainer)
{
    struct learner_net *net = trainer->net;
    const size_t params = learner_net_param_count(net), slots = learner_sgd_slots(trainer->sgd);

    for (size_t i = 0; i < params; i++) {
        const struct learner_param *param = learner_net_param(net, i);
        payload->blocks[payload->count++] =
            (struct learner_checkpoint_block){param->data, param->count};
    }
    for (size_t i = 0; i < slots; i++) {
        struct learner_checkpoint_block *block = &payload->blocks[payload->count++];
        block->data = learner_sgd_velocity(trainer->sgd, i, &block->count);
    }
    for (size_t i = 0; trainer->average && i < params; i++) {
        const struct learner_param *param = learner_net_param(net, i);
        payload->blocks[payload->count++] = (struct learner_checkpoint_block){
            trainer->average + (param->data - net->values), param->count};
    }
    for (size_t i = 0; i < payload->count; i++)
        payload->places[i] = payload->blocks[i].data;
}

/* fill: with what is there */
static enum delta_status payload_init(struct payload *payload, struct trainer *trainer, bool fill,
                                      struct delta_error *err)
{
    struct learner_net *net = trainer->net;
    const size_t room = 2 * learner_net_param_count(net) + learner_sgd_slots(trainer->sgd);
    size_t floats = 0;

    payload->blocks = delta_calloc(room, sizeof *payload->blocks);
    payload->places = delta_calloc(room, sizeof *payload->places);
    if (!payload->blocks || !payload->places)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for a checkpoint");
    list_blocks(payload, trainer);
    if (!net->device->ops->remote)
        return DELTA_OK;
    for (size_t i = 0; i < payload->count; i++)
        floats += payload->blocks[i].count;
    payload->staged = delta_calloc(floats, sizeof *payload->staged);
    if (!payload->staged)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for a checkpoint");
    floats = 0;
    for (size_t i = 0; i < payload->count; i++) {
        struct learner_checkpoint_block *block = &payload->blocks[i];
        block->data = payload->staged + floats;
        floats += block->count;
        if (fill)
            learner_device_download(net->device, block->data, payload->places[i],
                                    block->count * sizeof *block->data);
    }
    return learner_device_sync(net->device, err);
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
    struct payload payload = {NULL};
    enum delta_status st = payload_init(&payload, trainer, true, err);

    trainer->state.step = trainer->status.step;
    trainer->state.steps = trainer->status.steps;
    trainer->state.microbatch = trainer->micro;
    if (!st)
        st = check_blocks(trainer, payload.blocks, payload.count, err);
    if (!st)
        st = learner_checkpoint_save(&trainer->state, payload.blocks, payload.count,
                                     trainer->options->checkpoint, err);
    payload_release(&payload);
    return st;
}

enum delta_status learner_train_load(struct trainer *trainer, struct learner_checkpoint_file *file,
                                     struct delta_error *err)
{
    struct payload payload = {NULL};
    enum delta_status st = payload_init(&payload, trainer, false, err);

    if (!st)
        st = learner_checkpoint_read(file, payload.blocks, payload.count, err);
    if (!st)
        st = check_blocks(trainer, payload.blocks, payload.count, err);
    for (size_t i = 0; !st && payload.staged && i < payload.count; i++)
        learner_device_upload(trainer->net->device, payload.places[i], payload.blocks[i].data,
                              payload.blocks[i].count * sizeof(float));
    learner_net_changed(trainer->net);
    payload_release(&payload);
    return st;
}

/* Young averages follow fast: the start, which is noise, is forgotten (as in TensorFlow's
 * ExponentialMovingAverage with num_updates). */
void learner_train_average(struct trainer *trainer)
{
    const double age = (double)trainer->status.step;
    const double young = (1 + age) / (10 + age);
    const double decay = young < trainer->options->ema ? young : trainer->options->ema;
    const struct learner_net *net = trainer->net;

    if (trainer->average)
        learner_device_blend(net->device, trainer->average, net->values, (float)decay,
                             (float)(1 - decay), net->value_count);
}

void learner_train_swap(struct trainer *trainer)
{
    struct learner_net *net = trainer->net;

    if (!trainer->average)
        return;
    learner_net_changed(net);
    learner_device_swap(net->device, net->values, trainer->average, net->value_count);
}
