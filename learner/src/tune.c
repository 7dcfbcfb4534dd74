#include "tune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "delta/clock.h"
#include "embed.h"
#include "gather.h"
#include "learner/optim.h"
#include "net_device.h"
#include "rng.h"

/* For what a frozen prefix makes of the images, in memory; what does not fit goes to a file. Under
 * a memory budget a part of that. */
#define CACHE_BYTES ((size_t)256 << 20)
#define CACHE_SHARE 8

enum stream { STREAM_ROWS = 1, STREAM_ORDER };

struct tuner {
    struct learner_task *task;
    struct learner_net *net;
    struct learner_samples pool; /* new samples first, then exemplars */
    int32_t *labels;             /* [pool.count] */
    struct learner_embedding teacher;
    struct learner_cache *cache; /* of the frozen prefix; NULL: there is none, or no use for it */
    float *fresh;                /* [micro, prefix] records on their way into the cache */
    uint32_t *order;             /* images of the epoch */
    float *targets;              /* teacher logits of a pass */
    size_t micro;                /* images of a pass */
    float *sum; /* [parameters] gradients of a step's earlier passes; NULL: one pass */
    struct learner_rng rng;
    struct learner_budget patient; /* the task's without its deadline, which ends in good order */
    int64_t begun_ms;
    size_t trained; /* images since then */
};

enum delta_status learner_start_rows(struct learner_task *task, struct delta_error *err)
{
    const size_t old = task->base->class_count;
    struct delta_tensor *weight, *bias;
    struct learner_rng rng;
    const enum delta_status st = delta_model_head(task->model, &weight, &bias, err);

    if (st)
        return st;
    const size_t d = weight->count / task->model->class_count;
    const double bound = 1 / sqrt((double)d);
    learner_rng_init(&rng, task->budget->seed, STREAM_ROWS);
    for (size_t i = old * d; i < weight->count; i++)
        weight->data[i] = (float)learner_rng_between(&rng, -bound, bound);
    for (size_t k = old; k < bias->count; k++)
        bias->data[k] = (float)learner_rng_between(&rng, -bound, bound);
    return DELTA_OK;
}

static void tuner_release(struct tuner *tuner)
{
    if (tuner->net)
        learner_gather_free(tuner->net, tuner->sum);
    learner_net_free(tuner->net);
    learner_samples_release(&tuner->pool);
    learner_embedding_release(&tuner->teacher);
    learner_cache_free(tuner->cache);
    free(tuner->fresh);
    free(tuner->labels);
    free(tuner->order);
    free(tuner->targets);
}

/* What is frozen in every phase; NULL: nothing is. */
static const struct delta_model *common_plan(const struct learner_tune_phase *phases, size_t count)
{
    for (size_t i = 1; i < count; i++)
        if (phases[i].plan != phases[0].plan)
            return NULL;
    return count ? phases[0].plan : NULL;
}

static size_t cache_room(const struct learner_budget *budget)
{
    const size_t part = budget->memory_bytes / CACHE_SHARE;

    return budget->memory_bytes && part < CACHE_BYTES ? part : CACHE_BYTES;
}

static enum delta_status make_cache(struct tuner *tuner, int epochs, struct delta_error *err)
{
    const size_t floats = learner_net_prefix_count(tuner->net);
    struct delta_error no_cache = DELTA_ERROR_INIT;

    if (!floats || epochs < 2)
        return DELTA_OK;
    enum delta_status st = learner_cache_new(&tuner->cache, tuner->pool.count, floats,
                                             cache_room(tuner->task->budget), NULL, &no_cache);
    if (st) /* no room, on the disk or otherwise: the prefix is then computed each time */
        return DELTA_OK;
    tuner->fresh = delta_calloc(tuner->micro * floats, sizeof *tuner->fresh);
    if (!tuner->fresh)
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for training");
    return st;
}

static enum delta_status tuner_init(struct tuner *tuner, struct learner_task *task,
                                    const struct learner_tune_phase *phases, size_t phase_count,
                                    struct delta_error *err)
{
    const size_t micro = learner_budget_images(task->budget, task->options->batch);
    const struct learner_net_options options = {.device = task->budget->device,
                                                .batch = micro,
                                                .threads = task->budget->threads,
                                                .train = true,
                                                .plan = common_plan(phases, phase_count)};
    bool replay = false, distil = false;
    int epochs = 0;

    for (size_t i = 0; i < phase_count; i++) {
        replay |= phases[i].replay;
        distil |= phases[i].distil;
        epochs += phases[i].epochs;
    }
    enum delta_status st = learner_samples_append(&tuner->pool, task->fresh, err);

    tuner->task = task;
    tuner->micro = micro;
    tuner->patient = *task->budget;
    tuner->patient.deadline_ms = 0;
    learner_rng_init(&tuner->rng, task->budget->seed, STREAM_ORDER);
    if (!st && replay && task->replay->count)
        st = learner_samples_append(&tuner->pool, task->replay, err);
    if (!st)
        st = learner_net_new(&tuner->net, task->model, &options, err);
    if (!st && micro < task->options->batch) {
        tuner->sum = learner_gather_new(tuner->net);
        if (!tuner->sum)
            st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for training");
    }
    if (!st)
        st = make_cache(tuner, epochs, err);
    if (!st && distil) {
        st = learner_embed(&tuner->teacher, task->base, &tuner->pool, task->budget, "teacher", err);
        task->image_passes += (double)tuner->pool.count / 3;
    }
    if (st)
        return st;
    tuner->labels = learner_samples_outputs(&tuner->pool, task->model);
    tuner->order = delta_calloc(tuner->pool.count + 1, sizeof *tuner->order);
    tuner->targets =
        delta_calloc(options.batch * task->base->class_count + 1, sizeof *tuner->targets);
    if (!tuner->labels || !tuner->order || !tuner->targets)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for training");
    return DELTA_OK;
}

/* Loss gradient of n of a batch's `whole` images into the net's logit gradients. */
static void loss_gradient(struct tuner *tuner, const uint32_t *index, size_t n, size_t whole,
                          bool distil)
{
    const double share = (double)n / (double)whole;
    const struct learner_increment_options *options = tuner->task->options;
    const size_t old = tuner->task->base->class_count;
    struct learner_loss_sum sum;
    int32_t labels[1024];

    for (size_t i = 0; i < n; i++)
        labels[i] = tuner->labels[index[i]];
    for (size_t i = 0; distil && i < n; i++)
        memcpy(tuner->targets + i * old, tuner->teacher.logits + index[i] * old,
               old * sizeof *tuner->targets);
    learner_net_loss(tuner->net,
                     &(struct learner_loss){.labels = labels,
                                            .scale = share,
                                            .teacher = distil ? tuner->targets : NULL,
                                            .old = old,
                                            .temperature = options->temperature,
                                            .kd_scale = share * options->kd_weight},
                     n, &sum);
}

/* From the cache when it has all of these images; else the whole way, and they are kept. */
static enum delta_status forward(struct tuner *tuner, const uint32_t *index, size_t n,
                                 struct delta_error *err)
{
    const float *records[1024];
    struct learner_net *net = tuner->net;
    const size_t floats = learner_net_prefix_count(net);
    bool kept = tuner->cache != NULL;
    enum delta_status st;

    for (size_t i = 0; kept && i < n; i++) {
        kept = learner_cache_has(tuner->cache, index[i]);
        records[i] = learner_cache_record(tuner->cache, index[i]);
    }
    if (kept) {
        st = learner_net_forward_from(net, records, n, LEARNER_TRAIN_EVAL, err);
        learner_cache_relax(tuner->cache);
        return st;
    }
    learner_samples_batch(learner_net_input(net), &tuner->pool, &tuner->task->model->arch, index, n,
                          NULL);
    st = learner_net_forward(net, n, LEARNER_TRAIN_EVAL, err);
    if (st || !tuner->cache)
        return st;
    learner_net_prefix_read(net, tuner->fresh, n);
    for (size_t i = 0; i < n; i++) {
        memcpy(learner_cache_record(tuner->cache, index[i]), tuner->fresh + i * floats,
               floats * sizeof *tuner->fresh);
        learner_cache_set(tuner->cache, index[i]);
    }
    learner_cache_relax(tuner->cache);
    return DELTA_OK;
}

static enum delta_status run_batch(struct tuner *tuner, const struct learner_tune_phase *phase,
                                   const uint32_t *index, size_t n, struct delta_error *err)
{
    const size_t passes = learner_gather_passes(n, tuner->micro);
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; !st && i < passes; i++) {
        const size_t first = n * i / passes, count = n * (i + 1) / passes - first;
        st = forward(tuner, index + first, count, err);
        if (st)
            break;
        loss_gradient(tuner, index + first, count, n, phase->distil);
        st = learner_net_backward(tuner->net, count, err);
        if (!st && passes > 1)
            learner_gather(tuner->net, tuner->sum, i == 0, i + 1 == passes);
    }
    return st;
}

/* The guard's images are kept time for: half of a training image's for each, which is plenty. */
static bool time_is_up(const struct tuner *tuner)
{
    const struct delta_clock clock = delta_clock_system();
    const int64_t left_ms = learner_budget_left_ms(tuner->task->budget);

    if (left_ms == INT64_MAX)
        return false;
    const double spent_ms = (double)(delta_clock_monotonic_ms(&clock) - tuner->begun_ms);
    const double each_ms = tuner->trained ? spent_ms / (double)tuner->trained : 0;
    return (double)left_ms <= 0.5 * each_ms * (double)tuner->task->guard_images;
}

static enum delta_status run_epoch(struct tuner *tuner, const struct learner_tune_phase *phase,
                                   struct learner_sgd *sgd, size_t images, int epoch,
                                   struct delta_error *err)
{
    struct learner_task *task = tuner->task;
    const size_t batch = task->options->batch;
    enum delta_status st = DELTA_OK;

    learner_rng_shuffle(&tuner->rng, tuner->order, images);
    for (size_t at = 0; !st && !task->cut_short && at < images; at += batch) {
        const size_t n = images - at < batch ? images - at : batch;
        st = run_batch(tuner, phase, tuner->order + at, n, err);
        if (st)
            break;
        learner_sgd_step(sgd, task->options->lr);
        task->image_passes += (double)n;
        tuner->trained += n;
        task->cut_short = time_is_up(tuner);
        st = learner_budget_tick(&tuner->patient, phase->stage,
                                 epoch + (double)(at + n) / (double)images, phase->epochs, err);
    }
    return st;
}

static enum delta_status run_phase(struct tuner *tuner, const struct learner_tune_phase *phase,
                                   struct delta_error *err)
{
    const struct learner_increment_options *options = tuner->task->options;
    const struct learner_sgd_options sgd_options = {.momentum = options->momentum,
                                                    .weight_decay = options->weight_decay};
    const size_t among = phase->replay ? tuner->pool.count : tuner->task->fresh->count;
    struct learner_sgd *sgd = NULL;
    size_t images = 0;
    enum delta_status st = learner_sgd_new(&sgd, tuner->net, phase->plan, &sgd_options, err);

    for (size_t i = 0; i < among; i++)
        if (tuner->labels[i] >= 0)
            tuner->order[images++] = (uint32_t)i;
    for (int epoch = 0; !st && !tuner->task->cut_short && epoch < phase->epochs; epoch++)
        st = run_epoch(tuner, phase, sgd, images, epoch, err);
    learner_sgd_free(sgd);
    return st;
}

enum delta_status learner_tune(struct learner_task *task, const struct learner_tune_phase *phases,
                               size_t phase_count, struct delta_error *err)
{
    const struct delta_clock clock = delta_clock_system();
    struct tuner tuner = {0};
    enum delta_status st;

    if (task->options->batch < 1 || task->options->batch > 1024)
        return delta_fail(err, DELTA_CONFIG, "batch of %zu is not within 1 and 1024",
                          task->options->batch);
    st = tuner_init(&tuner, task, phases, phase_count, err);
    tuner.begun_ms = delta_clock_monotonic_ms(&clock);
    for (size_t i = 0; !st && i < phase_count; i++)
        st = run_phase(&tuner, &phases[i], err);
    if (!st)
        st = learner_net_store(tuner.net, task->model, err);
    tuner_release(&tuner);
    return st;
}

/* Teacher and network are there at the same time. */
enum delta_status learner_tune_need(const struct learner_task *task, const struct delta_model *plan,
                                    bool replay, bool distil, size_t images, size_t *bytes,
                                    struct delta_error *err)
{
    const size_t pool = task->fresh->count + (replay ? task->replay->count : 0);
    const size_t batch = task->options->batch, micro = images < batch ? images : batch;
    const size_t values = learner_model_bytes(task->model);
    struct delta_tensor *weight, *bias;
    const struct learner_net_options options = {.device = task->budget->device,
                                                .batch = micro,
                                                .threads = task->budget->threads,
                                                .train = true,
                                                .plan = plan};
    size_t net = 0, teacher = 0, prefix = 0;
    enum delta_status st = delta_model_head(task->base, &weight, &bias, err);

    if (!st)
        st = learner_net_plan_bytes(&net, &prefix, task->model, &options, err);
    if (!st && distil)
        st = learner_budget_net(&teacher, task->base, task->budget, images, false, err);
    if (st)
        return st;
    if (distil)
        teacher += pool * (weight->count + bias->count) / bias->count * sizeof(float);
    *bytes = net + teacher + values + values / sizeof(float); /* velocities, live flags */
    *bytes += micro < batch ? values : 0;
    prefix *= sizeof(float);
    const size_t room = cache_room(task->budget);
    *bytes += micro * prefix + (pool * prefix < room ? pool * prefix : room);
    *bytes += learner_samples_bytes(task->fresh) + pool * 2 * sizeof(uint32_t);
    *bytes += replay ? learner_samples_bytes(task->replay) : 0;
    return DELTA_OK;
}
