#include "tune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "embed.h"
#include "learner/loss.h"
#include "learner/optim.h"
#include "rng.h"

enum stream { STREAM_ROWS = 1, STREAM_ORDER };

struct tuner {
    struct learner_task *task;
    struct learner_net *net;
    struct learner_samples pool; /* new samples first, then exemplars */
    int32_t *labels;             /* [pool.count] */
    struct learner_embedding teacher;
    uint32_t *order; /* images of the epoch */
    float *targets;  /* teacher logits of a batch */
    struct learner_rng rng;
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
    learner_net_free(tuner->net);
    learner_samples_release(&tuner->pool);
    learner_embedding_release(&tuner->teacher);
    free(tuner->labels);
    free(tuner->order);
    free(tuner->targets);
}

static enum delta_status tuner_init(struct tuner *tuner, struct learner_task *task, bool replay,
                                    bool distil, struct delta_error *err)
{
    const struct learner_net_options options = {.device = task->budget->device,
                                                .batch = task->options->batch,
                                                .threads = task->budget->threads,
                                                .train = true};
    enum delta_status st = learner_samples_append(&tuner->pool, task->fresh, err);

    tuner->task = task;
    learner_rng_init(&tuner->rng, task->budget->seed, STREAM_ORDER);
    if (!st && replay && task->replay->count)
        st = learner_samples_append(&tuner->pool, task->replay, err);
    if (!st)
        st = learner_net_new(&tuner->net, task->model, &options, err);
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

/* Loss gradient of a batch into the net's logit gradients. */
static void loss_gradient(struct tuner *tuner, const uint32_t *index, size_t n, bool distil)
{
    const struct learner_increment_options *options = tuner->task->options;
    const size_t classes = learner_net_class_count(tuner->net);
    const size_t old = tuner->task->base->class_count;
    const float *logits = learner_net_logits(tuner->net);
    float *grad = learner_net_logits_grad(tuner->net);
    int32_t labels[1024];

    for (size_t i = 0; i < n; i++)
        labels[i] = tuner->labels[index[i]];
    learner_loss_ce(logits, labels, NULL, n, classes, 1, grad);
    if (!distil)
        return;
    for (size_t i = 0; i < n; i++)
        memcpy(tuner->targets + i * old, tuner->teacher.logits + index[i] * old,
               old * sizeof *tuner->targets);
    learner_loss_kd(logits, tuner->targets, n, classes, old, options->temperature,
                    options->kd_weight, grad);
}

static enum delta_status run_epoch(struct tuner *tuner, const struct learner_tune_phase *phase,
                                   struct learner_sgd *sgd, size_t images, int epoch,
                                   struct delta_error *err)
{
    struct learner_task *task = tuner->task;
    const size_t batch = task->options->batch;
    enum delta_status st = DELTA_OK;

    learner_rng_shuffle(&tuner->rng, tuner->order, images);
    for (size_t at = 0; !st && at < images; at += batch) {
        const size_t n = images - at < batch ? images - at : batch;
        const uint32_t *index = tuner->order + at;
        learner_samples_batch(learner_net_input(tuner->net), &tuner->pool, &task->model->arch,
                              index, n, NULL);
        st = learner_net_forward(tuner->net, n, LEARNER_TRAIN_EVAL, err);
        if (st)
            break;
        loss_gradient(tuner, index, n, phase->distil);
        st = learner_net_backward(tuner->net, n, err);
        if (st)
            break;
        learner_sgd_step(sgd, task->options->lr);
        task->image_passes += (double)n;
        st = learner_budget_tick(task->budget, phase->stage,
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
    for (int epoch = 0; !st && epoch < phase->epochs; epoch++)
        st = run_epoch(tuner, phase, sgd, images, epoch, err);
    learner_sgd_free(sgd);
    return st;
}

enum delta_status learner_tune(struct learner_task *task, const struct learner_tune_phase *phases,
                               size_t phase_count, struct delta_error *err)
{
    struct tuner tuner = {0};
    bool replay = false, distil = false;
    enum delta_status st;

    if (task->options->batch < 1 || task->options->batch > 1024)
        return delta_fail(err, DELTA_CONFIG, "batch of %zu is not within 1 and 1024",
                          task->options->batch);
    for (size_t i = 0; i < phase_count; i++) {
        replay |= phases[i].replay;
        distil |= phases[i].distil;
    }
    st = tuner_init(&tuner, task, replay, distil, err);
    for (size_t i = 0; !st && i < phase_count; i++)
        st = run_phase(&tuner, &phases[i], err);
    if (!st)
        st = learner_net_store(tuner.net, task->model, err);
    tuner_release(&tuner);
    return st;
}
