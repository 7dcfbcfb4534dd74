#include "head_rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "exemplar_features.h"
#include "head_fit.h"

/* A Gaussian prior on each weight of a new row, this many times as wide (in variance) as old rows
 * scatter: what a network's rows look like is known, and one that was trained to the end on its
 * images has small ones. 3 to 30 do as well for three networks (METHODS.md). */
#define PRIOR_WIDTH 10
#define PRIOR_VARIANCE 4 /* where no old rows tell */
#define MAX_ITERATIONS 300

void learner_pool_release(struct learner_pool *pool)
{
    learner_embedding_release(&pool->embedding);
    free(pool->labels);
    pool->labels = NULL;
}

/* Behind the embedding of the new samples: what is known of the exemplars. */
static enum delta_status add_known(struct learner_embedding *to, const struct learner_task *task,
                                   struct delta_error *err)
{
    const struct learner_features *known = task->known;
    const size_t d = to->d, count = to->count + known->replay_count;
    size_t bytes;
    float *features = NULL, *logits = NULL;

    if (delta_size_mul(count, d * sizeof *features, &bytes))
        features = realloc(to->features, bytes + 1);
    to->features = features ? features : to->features;
    if (features && delta_size_mul(count, to->classes * sizeof *logits, &bytes))
        logits = realloc(to->logits, bytes + 1);
    to->logits = logits ? logits : to->logits;
    if (!features || !logits)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for features");
    memcpy(features + to->count * d, known->replay, known->replay_count * d * sizeof *features);
    const enum delta_status st =
        learner_features_logits(logits + to->count * to->classes, known->replay,
                                known->replay_count, known->d, task->base, err);
    to->count = count;
    return st;
}

enum delta_status learner_pool_embed(struct learner_pool *out, const struct learner_task *task,
                                     size_t views, const struct delta_model *plan,
                                     struct learner_prefix *prefix, struct delta_error *err)
{
    struct learner_samples all = LEARNER_SAMPLES_INIT;
    struct learner_pool made = {.labels = NULL};
    int32_t *labels = NULL;
    enum delta_status st = learner_samples_append(&all, task->fresh, err);

    if (!st && task->replay->count)
        st = learner_samples_append(&all, task->replay, err);
    const bool known = task->known && task->replay->count && views == 1 && !prefix;
    if (!st)
        st = prefix ? learner_prefix_embed(&made.embedding, prefix, task, plan, views, err)
                    : learner_embed_views(&made.embedding, task->base, known ? task->fresh : &all,
                                          views, task->budget, "features", err);
    made.forwards = made.embedding.count;
    if (!st && made.forwards < views * all.count)
        st = add_known(&made.embedding, task, err);
    made.images = all.count;
    if (!st) {
        labels = learner_samples_outputs(&all, task->model);
        made.labels = delta_calloc(views * all.count + 1, sizeof *made.labels);
        if (!labels || !made.labels)
            st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    }
    for (size_t i = 0; !st && i < views * all.count; i++)
        made.labels[i] = labels[i % all.count];
    free(labels);
    learner_samples_release(&all);
    if (st)
        learner_pool_release(&made);
    else
        *out = made;
    return st;
}

enum delta_status learner_rows_imprint(struct learner_task *task,
                                       const struct learner_embedding *features,
                                       const int32_t *labels, struct delta_error *err)
{
    const size_t old = task->base->class_count, d = features->d;
    double length = 0, level = 0;
    struct delta_tensor *weight, *bias;
    const enum delta_status st = delta_model_head(task->model, &weight, &bias, err);

    if (st)
        return st;
    for (size_t c = 0; c < old; c++) {
        double square = 0;
        for (size_t j = 0; j < d; j++)
            square += (double)weight->data[c * d + j] * weight->data[c * d + j];
        length += sqrt(square) / (double)old;
        level += bias->data[c] / (double)old;
    }
    for (size_t k = old; k < task->model->class_count; k++) {
        float *row = weight->data + k * d;
        double square = 0;
        memset(row, 0, d * sizeof *row);
        for (size_t i = 0; i < features->count; i++)
            if (labels[i] == (int32_t)k)
                for (size_t j = 0; j < d; j++)
                    row[j] += features->features[i * d + j];
        for (size_t j = 0; j < d; j++)
            square += (double)row[j] * row[j];
        const double scale = square > 0 ? length / sqrt(square) : 0;
        for (size_t j = 0; j < d; j++)
            row[j] = (float)(row[j] * scale);
        bias->data[k] = (float)level;
    }
    return DELTA_OK;
}

/* 1 / variance of a new row's weights. */
static double prior_of(const struct delta_tensor *weight, size_t old)
{
    const size_t d = weight->count / (size_t)weight->shape[0];
    double scatter = 0;

    for (size_t j = 0; j < d; j++) {
        double mean = 0, square = 0;
        for (size_t c = 0; c < old; c++) {
            mean += weight->data[c * d + j];
            square += (double)weight->data[c * d + j] * weight->data[c * d + j];
        }
        if (old)
            scatter += fmax(square - mean * mean / (double)old, 0) / (double)old;
    }
    scatter /= (double)d;
    return 1 / (scatter > 0 && old > 1 ? PRIOR_WIDTH * scatter : PRIOR_VARIANCE);
}

enum delta_status learner_rows_level(float *level, const struct learner_task *task,
                                     const struct learner_embedding *features,
                                     const int32_t *labels, struct delta_error *err)
{
    const size_t d = features->d;
    float *middle = delta_calloc(d + 1, sizeof *middle);
    size_t count = 0;

    if (!middle)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < features->count; i++)
        count += labels[i] >= 0 && (size_t)labels[i] < task->base->class_count;
    for (size_t i = 0; i < features->count; i++)
        if (labels[i] >= 0 && (size_t)labels[i] < task->base->class_count)
            for (size_t j = 0; j < d; j++)
                middle[j] += features->features[i * d + j] / (float)count;
    const enum delta_status st = learner_features_logits(level, middle, 1, d, task->model, err);
    free(middle);
    return st;
}

enum delta_status learner_rows_fit(struct learner_task *task,
                                   const struct learner_embedding *features, const int32_t *labels,
                                   bool all, double anchor, int64_t until_ms,
                                   struct delta_error *err)
{
    const size_t fixed = all ? 0 : task->base->class_count;
    const struct learner_head_data data = {.count = features->count,
                                           .d = features->d,
                                           .old_classes = fixed,
                                           .new_classes = task->model->class_count - fixed,
                                           .features = features->features,
                                           .old_logits = features->logits,
                                           .labels = labels,
                                           .deadline_ms = until_ms,
                                           .anchored = all,
                                           .pull = all ? 1 : task->options->pull};
    struct learner_lbfgs_report report = {0};
    struct delta_tensor *weight, *bias;
    enum delta_status st = delta_model_head(task->model, &weight, &bias, err);

    if (st)
        return st;
    const double prior = prior_of(weight, task->base->class_count);
    st = learner_head_fit(weight->data + fixed * data.d, bias->data + fixed, &data,
                          all ? anchor : prior / (double)(data.count + !data.count), MAX_ITERATIONS,
                          &report, err);
    task->cut_short |= report.cut_short;
    return st;
}
