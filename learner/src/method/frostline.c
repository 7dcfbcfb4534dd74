/* Our method, stage A: only the new rows of the classifier, fitted on cached features. */
#include "method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "delta/clock.h"
#include "embed.h"
#include "head_fit.h"

#define L2 1e-4
#define MAX_ITERATIONS 300

/* Start: the mean feature of a class as direction, the old rows' mean length and bias (weight
 * imprinting, Qi et al. 2018). The problem is convex: it only saves steps. */
static void imprint(float *weight, float *bias, const struct delta_tensor *old_weight,
                    const struct delta_tensor *old_bias, const struct learner_head_data *data)
{
    double length = 0, level = 0;

    for (size_t c = 0; c < data->old_classes; c++) {
        double square = 0;
        for (size_t j = 0; j < data->d; j++)
            square += (double)old_weight->data[c * data->d + j] * old_weight->data[c * data->d + j];
        length += sqrt(square) / (double)data->old_classes;
        level += old_bias->data[c] / (double)data->old_classes;
    }
    for (size_t k = 0; k < data->new_classes; k++) {
        float *row = weight + k * data->d;
        double square = 0;
        memset(row, 0, data->d * sizeof *row);
        for (size_t i = 0; i < data->count; i++)
            if (data->labels[i] == (int32_t)(data->old_classes + k))
                for (size_t j = 0; j < data->d; j++)
                    row[j] += data->features[i * data->d + j];
        for (size_t j = 0; j < data->d; j++)
            square += (double)row[j] * row[j];
        const double scale = square > 0 ? length / sqrt(square) : 0;
        for (size_t j = 0; j < data->d; j++)
            row[j] = (float)(row[j] * scale);
        bias[k] = (float)level;
    }
}

/* Features, old logits and labels of new samples and exemplars in one pool. */
static enum delta_status make_pool(struct learner_embedding *pool, int32_t **labels,
                                   const struct learner_task *task, struct delta_error *err)
{
    struct learner_samples all = LEARNER_SAMPLES_INIT;
    enum delta_status st = learner_samples_append(&all, task->fresh, err);

    if (!st && task->replay->count)
        st = learner_samples_append(&all, task->replay, err);
    if (!st)
        st = learner_embed(pool, task->base, &all, task->budget, "features", err);
    if (!st) {
        *labels = learner_samples_outputs(&all, task->model);
        if (!*labels)
            st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    }
    learner_samples_release(&all);
    return st;
}

/* Exemplars of classes that the model lacks (from another channel) are left out. */
static void drop_unknown(struct learner_embedding *pool, int32_t *labels)
{
    size_t kept = 0;

    for (size_t i = 0; i < pool->count; i++) {
        if (labels[i] < 0)
            continue;
        memmove(pool->features + kept * pool->d, pool->features + i * pool->d,
                pool->d * sizeof(float));
        memmove(pool->logits + kept * pool->classes, pool->logits + i * pool->classes,
                pool->classes * sizeof(float));
        labels[kept++] = labels[i];
    }
    pool->count = kept;
}

/* The pool of images goes before the fit begins. */
static enum delta_status need(const struct learner_task *task, size_t images, size_t *bytes,
                              struct delta_error *err)
{
    const size_t pool = task->fresh->count + task->replay->count;
    const size_t added = task->model->class_count - task->base->class_count;
    struct delta_tensor *weight, *bias;
    size_t net = 0;
    enum delta_status st = delta_model_head(task->base, &weight, &bias, err);

    if (!st)
        st = learner_budget_net(&net, task->base, task->budget, images, false, err);
    if (st)
        return st;
    const size_t d = weight->count / bias->count;
    const size_t fit = (added * (d + 1) * (LEARNER_LBFGS_CELLS + 1) + 2 * pool) * sizeof(double);
    net += learner_samples_bytes(task->fresh) + learner_samples_bytes(task->replay);
    *bytes = pool * (d + bias->count + 1) * sizeof(float) + (net > fit ? net : fit);
    return DELTA_OK;
}

/* When the fit must end so that the guard has its time: it classifies as fast as features came. */
static int64_t fit_until(const struct learner_task *task, size_t images, int64_t begun_ms)
{
    const struct delta_clock clock = delta_clock_system();
    const double each_ms =
        (double)(delta_clock_monotonic_ms(&clock) - begun_ms) / (double)(images + 1);
    const int64_t until_ms =
        task->budget->deadline_ms - (int64_t)(1.2 * each_ms * (double)task->guard_images);

    return task->budget->deadline_ms ? until_ms > 1 ? until_ms : 1 : 0;
}

static enum delta_status run(struct learner_task *task, struct delta_error *err)
{
    struct learner_embedding pool = {0, 0, 0, NULL, NULL};
    struct delta_tensor *weight, *bias, *old_weight, *old_bias;
    const struct delta_clock clock = delta_clock_system();
    const int64_t begun_ms = delta_clock_monotonic_ms(&clock);
    struct learner_lbfgs_report report = {0};
    int32_t *labels = NULL;
    enum delta_status st = delta_model_head(task->model, &weight, &bias, err);

    if (!st)
        st = delta_model_head(task->base, &old_weight, &old_bias, err);
    if (!st)
        st = make_pool(&pool, &labels, task, err);
    if (st)
        goto done;
    task->image_passes += (double)pool.count / 3;
    drop_unknown(&pool, labels);
    const size_t old = task->base->class_count;
    const struct learner_head_data data = {
        pool.count,    pool.d,      old,    task->model->class_count - old,
        pool.features, pool.logits, labels, fit_until(task, pool.count, begun_ms)};
    float *rows = weight->data + old * pool.d;
    imprint(rows, bias->data + old, old_weight, old_bias, &data);
    st = learner_head_fit(rows, bias->data + old, &data, L2, MAX_ITERATIONS, &report, err);
    task->cut_short = report.cut_short;
done:
    learner_embedding_release(&pool);
    free(labels);
    return st;
}

const struct learner_method learner_method_frostline = {
    "frostline",
    {.method = "frostline", .ratio = -1, .batch = 64, .max_old_drop = 0.10, .min_new_recall = 0.20},
    run,
    need,
};
