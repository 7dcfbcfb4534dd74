#include "tune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "delta/clock.h"
#include "gather.h"
#include "learner/optim.h"
#include "net_device.h"
#include "rng.h"
#include "schedule.h"
#include "tune_data.h"

enum stream { STREAM_ROWS = 1, STREAM_ORDER };

struct tuner {
    struct learner_task *task;
    struct learner_net *net;
    struct learner_tune_data data;
    uint32_t *order; /* views of the epoch */
    float *targets;  /* teacher logits of a pass */
    float *offsets;  /* [classes] logit adjustment */
    float *average;  /* [parameters] of the moving average; NULL: off */
    size_t micro;    /* images of a pass */
    float *sum;      /* [parameters] gradients of a step's earlier passes; NULL: one pass */
    struct learner_rng rng;
    struct learner_budget patient; /* the task's without its deadline, which ends in good order */
    double pass_cost; /* of an image whose prefix is cached, beside one that goes all the way */
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
    learner_tune_data_release(&tuner->data);
    if (tuner->net) {
        learner_gather_free(tuner->net, tuner->sum);
        learner_net_block_free(tuner->net, tuner->average);
    }
    learner_net_free(tuner->net);
    free(tuner->order);
    free(tuner->targets);
    free(tuner->offsets);
}

/* What is frozen in every phase; NULL: nothing is. */
static const struct delta_model *common_plan(const struct learner_tune_phase *phases, size_t count)
{
    for (size_t i = 1; i < count; i++)
        if (phases[i].plan != phases[0].plan)
            return NULL;
    return count ? phases[0].plan : NULL;
}

static enum delta_status tuner_buffers(struct tuner *tuner, const struct delta_model *teacher,
                                       struct delta_error *err)
{
    const size_t views = tuner->data.views * tuner->data.pool.count;

    tuner->order = delta_calloc(views + 1, sizeof *tuner->order);
    tuner->targets = delta_calloc(tuner->micro * teacher->class_count + 1, sizeof *tuner->targets);
    tuner->offsets = delta_calloc(tuner->task->model->class_count + 1, sizeof *tuner->offsets);
    if (!tuner->order || !tuner->targets || !tuner->offsets)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for training");
    return DELTA_OK;
}

static enum delta_status tuner_init(struct tuner *tuner, struct learner_task *task,
                                    const struct learner_tune_phase *phases, size_t phase_count,
                                    const struct learner_tune_extra *extra, struct delta_error *err)
{
    const struct delta_model *teacher = extra->teacher ? extra->teacher : task->base;
    const size_t micro = learner_budget_images(task->budget, task->options->batch);
    const struct learner_net_options options = {.device = task->budget->device,
                                                .batch = micro,
                                                .threads = task->budget->threads,
                                                .train = true,
                                                .plan = common_plan(phases, phase_count)};
    const size_t views = extra->views > 1 ? 2 : 1;
    bool replay = false, distil = false;
    int epochs = 0;

    for (size_t i = 0; i < phase_count; i++) {
        replay |= phases[i].replay;
        distil |= phases[i].distil;
        epochs += phases[i].epochs;
    }
    tuner->task = task;
    tuner->micro = micro;
    tuner->patient = *task->budget;
    tuner->patient.deadline_ms = 0;
    learner_rng_init(&tuner->rng, task->budget->seed, STREAM_ORDER);
    enum delta_status st = learner_tune_data_init(&tuner->data, task, replay, views, err);
    if (!st)
        st = tuner_buffers(tuner, teacher, err);
    if (!st)
        st = learner_net_new(&tuner->net, task->model, &options, err);
    if (!st)
        learner_tune_data_feed(&tuner->data, tuner->net, &task->model->arch, epochs > 1);
    if (!st && micro < task->options->batch) {
        tuner->sum = learner_gather_new(tuner->net);
        if (!tuner->sum)
            st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for training");
    }
    if (!st && extra->prefix)
        st = learner_tune_data_take(&tuner->data, extra->prefix, micro, task->budget, err);
    else if (!st && (epochs > 1 || extra->after))
        st = learner_tune_data_cache(&tuner->data, micro, task->budget, err);
    if (st)
        return st;
    tuner->pass_cost =
        learner_tune_data_caches(&tuner->data) ? 1 - learner_net_prefix_share(tuner->net) : 1;
    if (!distil)
        return DELTA_OK;
    tuner->data.teacher = extra->known;
    if (extra->known)
        return DELTA_OK;
    task->image_passes += (double)(views * tuner->data.pool.count) / 3;
    return learner_tune_data_teach(&tuner->data, teacher, task->budget, err);
}

/* Loss and gradients of n of a batch's `whole` images, after their forward pass. */
static enum delta_status learn_pass(struct tuner *tuner, const struct learner_tune_phase *phase,
                                    const uint32_t *index, size_t n, size_t whole,
                                    struct delta_error *err)
{
    const struct learner_increment_options *options = tuner->task->options;
    const struct learner_embedding *teacher = phase->distil ? tuner->data.teacher : NULL;
    const double share = (double)n / (double)whole;
    struct learner_outcome outcome;
    int32_t labels[LEARNER_VIEWS_MAX];
    const struct learner_loss loss = {.labels = labels,
                                      .offset = tuner->offsets,
                                      .seen = phase->seen,
                                      .scale = share,
                                      .teacher = teacher ? tuner->targets : NULL,
                                      .old = teacher ? teacher->classes : 0,
                                      .temperature = options->temperature,
                                      .kd_scale = share * options->kd_weight,
                                      .blocks = phase->blocks,
                                      .block_count = phase->block_count};

    for (size_t i = 0; i < n; i++)
        labels[i] = tuner->data.labels[index[i] % tuner->data.pool.count];
    for (size_t i = 0; teacher && i < n; i++)
        memcpy(tuner->targets + i * loss.old, teacher->logits + index[i] * loss.old,
               loss.old * sizeof *tuner->targets);
    return learner_net_learn(tuner->net, &loss, n, &outcome, err);
}

static enum delta_status run_batch(struct tuner *tuner, const struct learner_tune_phase *phase,
                                   const uint32_t *index, size_t n, struct delta_error *err)
{
    const size_t passes = learner_gather_passes(n, tuner->micro);
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; !st && i < passes; i++) {
        const size_t first = n * i / passes, count = n * (i + 1) / passes - first;
        st = learner_tune_data_forward(&tuner->data, index + first, count, err);
        if (!st)
            st = learn_pass(tuner, phase, index + first, count, n, err);
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
    return (double)left_ms <= 0.5 / tuner->pass_cost * each_ms * (double)tuner->task->guard_images;
}

/* How many images of a new class a balanced epoch has: as many as an old one has on average. */
static size_t quota_of(const struct tuner *tuner)
{
    const size_t old = tuner->task->base->class_count, fresh = tuner->task->fresh->count;
    size_t images = 0, classes = 0;
    uint8_t *seen = delta_calloc(old + 1, 1);

    for (size_t i = fresh; seen && i < tuner->data.pool.count; i++) {
        const int32_t label = tuner->data.labels[i];
        if (label < 0 || (size_t)label >= old)
            continue;
        images++;
        classes += !seen[label];
        seen[label] = 1;
    }
    free(seen);
    return classes ? (images + classes - 1) / classes : SIZE_MAX;
}

/* The epoch's views in order; counts [classes] of their labels. */
static size_t choose_views(struct tuner *tuner, const struct learner_tune_phase *phase,
                           size_t quota, size_t *counts)
{
    const struct learner_tune_data *data = &tuner->data;
    const size_t among = phase->replay ? data->pool.count : tuner->task->fresh->count;
    const size_t fresh = tuner->task->fresh->count;
    size_t images = 0, kept = 0;

    memset(counts, 0, learner_net_class_count(tuner->net) * sizeof *counts);
    for (size_t i = 0; i < among; i++)
        if (data->labels[i] >= 0)
            tuner->order[images++] = (uint32_t)i;
    learner_rng_shuffle(&tuner->rng, tuner->order, images);
    for (size_t i = 0; i < images; i++) {
        const uint32_t image = tuner->order[i];
        size_t *count = &counts[data->labels[image]];
        if (phase->balanced && image < fresh && *count >= quota)
            continue;
        ++*count;
        const bool mirrored = data->views > 1 && learner_rng_below(&tuner->rng, 2);
        tuner->order[kept++] = image + (mirrored ? (uint32_t)data->pool.count : 0);
    }
    return kept;
}

#define NEVER (-1e4f) /* far below any logit, and finite */

static void set_offsets(struct tuner *tuner, const struct learner_tune_phase *phase,
                        const size_t *counts, size_t images)
{
    for (size_t c = 0; c < learner_net_class_count(tuner->net); c++) {
        const double share = (double)(counts[c] ? counts[c] : 1) / (double)(images + !images);
        const bool out = c < phase->only_from || (phase->only_below && c >= phase->only_below);
        tuner->offsets[c] = out ? NEVER : (float)(phase->adjust * log(share));
    }
}

static enum delta_status average_begin(struct tuner *tuner, struct delta_error *err)
{
    struct learner_net *net = tuner->net;

    if (!tuner->average)
        tuner->average = learner_net_block(net, net->value_count);
    if (!tuner->average)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for training");
    learner_device_copy(net->device, tuner->average, net->values, net->value_count * sizeof(float));
    return DELTA_OK;
}

/* Short at first, so that the start is forgotten. */
static void average_move(struct tuner *tuner, double ema, size_t step)
{
    const double warm = (double)step / ((double)step + 9), decay = ema < warm ? ema : warm;

    learner_device_blend(tuner->net->device, tuner->average, tuner->net->values, (float)decay,
                         (float)(1 - decay), tuner->net->value_count);
}

/* Puts the average in the weights' place. Not where they are frozen: averaging rounds, and what is
 * frozen keeps its bits. */
static enum delta_status average_finish(struct tuner *tuner, const struct delta_model *plan,
                                        struct delta_error *err)
{
    struct learner_net *net = tuner->net;
    struct learner_device *device = net->device;
    const size_t params = learner_net_param_count(net);
    size_t most = 1;

    for (size_t i = 0; i < params; i++)
        if (learner_net_param(net, i)->count > most)
            most = learner_net_param(net, i)->count;
    float *scratch = delta_calloc(3 * most, sizeof *scratch);
    if (!scratch)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for training");
    for (size_t i = 0; i < params; i++) {
        const struct learner_param *param = learner_net_param(net, i);
        const struct delta_tensor *marks = plan ? delta_model_find(plan, param->name) : NULL;
        if (!param->grad)
            continue;
        const float *mean = learner_device_view(
            device, tuner->average + (param->data - net->values), param->count, scratch);
        const float *now = learner_device_view(device, param->data, param->count, scratch + most);
        for (size_t k = 0; k < param->count; k++)
            scratch[2 * most + k] = marks && delta_tensor_is_frozen(marks, k) ? now[k] : mean[k];
        learner_device_upload(device, param->data, scratch + 2 * most,
                              param->count * sizeof *scratch);
    }
    learner_net_changed(net);
    free(scratch);
    return learner_device_sync(device, err);
}

static double rate(const struct tuner *tuner, const struct learner_tune_phase *phase, size_t step,
                   size_t steps)
{
    const char *schedule = tuner->task->options->schedule;
    const double top = phase->lr > 0 ? phase->lr : tuner->task->options->lr;
    const size_t parts = phase->parts ? (size_t)phase->parts : 4;

    if (schedule && strcmp(schedule, "cosine") == 0)
        return learner_schedule_cosine(top, step, steps, 0);
    if (schedule && strcmp(schedule, "steps") == 0)
        return top * pow(0.1, (double)(parts * step / (steps + !steps)));
    return top;
}

struct progress {
    size_t step, steps; /* of the phase; steps by the first epoch's length */
    int epoch;
};

static enum delta_status run_epoch(struct tuner *tuner, const struct learner_tune_phase *phase,
                                   struct learner_sgd *sgd, size_t images,
                                   struct progress *progress, struct delta_error *err)
{
    struct learner_task *task = tuner->task;
    const size_t batch = task->options->batch;
    enum delta_status st = DELTA_OK;

    for (size_t at = 0; !st && !task->cut_short && at < images; at += batch) {
        const size_t n = images - at < batch ? images - at : batch;
        st = run_batch(tuner, phase, tuner->order + at, n, err);
        if (st)
            break;
        learner_sgd_step(sgd, rate(tuner, phase, progress->step++, progress->steps));
        if (phase->ema > 0)
            average_move(tuner, phase->ema, progress->step);
        task->image_passes += (double)n * tuner->pass_cost;
        tuner->trained += n;
        task->cut_short = time_is_up(tuner);
        st = learner_budget_tick(&tuner->patient, phase->stage,
                                 progress->epoch + (double)(at + n) / (double)images, phase->epochs,
                                 err);
    }
    return st;
}

static enum delta_status run_phase(struct tuner *tuner, const struct learner_tune_phase *phase,
                                   struct delta_error *err)
{
    const struct learner_increment_options *options = tuner->task->options;
    const struct learner_sgd_options sgd_options = {.momentum = options->momentum,
                                                    .weight_decay = options->weight_decay};
    const size_t quota = quota_of(tuner);
    size_t *counts = delta_calloc(learner_net_class_count(tuner->net) + 1, sizeof *counts);
    struct progress progress = {0};
    struct learner_sgd *sgd = NULL;
    enum delta_status st = learner_sgd_new(&sgd, tuner->net, phase->plan, &sgd_options, err);

    if (!st && !counts)
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for training");
    if (!st && phase->ema > 0)
        st = average_begin(tuner, err);
    for (; !st && !tuner->task->cut_short && progress.epoch < phase->epochs; progress.epoch++) {
        const size_t images = choose_views(tuner, phase, quota, counts);
        if (!progress.steps)
            progress.steps =
                (size_t)phase->epochs * ((images + options->batch - 1) / options->batch);
        set_offsets(tuner, phase, counts, images);
        st = run_epoch(tuner, phase, sgd, images, &progress, err);
    }
    if (!st && phase->ema > 0)
        st = average_finish(tuner, phase->plan, err);
    learner_sgd_free(sgd);
    free(counts);
    return st;
}

enum delta_status learner_tune_with(struct learner_task *task,
                                    const struct learner_tune_phase *phases, size_t phase_count,
                                    const struct learner_tune_extra *extra, struct delta_error *err)
{
    const struct learner_tune_extra none = {0};
    const struct delta_clock clock = delta_clock_system();
    struct tuner tuner = {0};
    enum delta_status st;

    if (task->options->batch < 1 || task->options->batch > LEARNER_VIEWS_MAX)
        return delta_fail(err, DELTA_CONFIG, "batch of %zu is not within 1 and %d",
                          task->options->batch, LEARNER_VIEWS_MAX);
    extra = extra ? extra : &none;
    st = tuner_init(&tuner, task, phases, phase_count, extra, err);
    tuner.begun_ms = delta_clock_monotonic_ms(&clock);
    for (size_t i = 0; !st && i < phase_count; i++)
        st = run_phase(&tuner, &phases[i], err);
    if (!st && extra->after) {
        task->image_passes +=
            tuner.pass_cost / 3 * (double)(tuner.data.views * tuner.data.pool.count);
        st = learner_tune_data_embed(extra->after, &tuner.data,
                                     tuner.data.views * tuner.data.pool.count, &tuner.patient, err);
    }
    if (!st)
        st = learner_net_store(tuner.net, task->model, err);
    tuner_release(&tuner);
    return st;
}

enum delta_status learner_tune(struct learner_task *task, const struct learner_tune_phase *phases,
                               size_t phase_count, struct delta_error *err)
{
    return learner_tune_with(task, phases, phase_count, NULL, err);
}

/* Teacher and network are there at the same time. */
enum delta_status learner_tune_need(const struct learner_task *task, const struct delta_model *plan,
                                    bool replay, bool distil, size_t images, size_t *bytes,
                                    struct delta_error *err)
{
    const struct learner_increment_options *given = task->options;
    const size_t pool =
        (task->fresh->count + (replay ? task->replay->count : 0)) * (given->mirror ? 2 : 1);
    const size_t batch = given->batch, micro = images < batch ? images : batch;
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
    *bytes += given->ema > 0 ? values : 0;
    *bytes +=
        micro * prefix * sizeof(float) + learner_tune_data_cache_bytes(task->budget, pool, prefix);
    *bytes += learner_samples_bytes(task->fresh) + pool * 2 * sizeof(uint32_t);
    *bytes += replay ? learner_samples_bytes(task->replay) : 0;
    return DELTA_OK;
}
