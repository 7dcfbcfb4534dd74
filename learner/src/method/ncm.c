/* Control: nearest class mean (Mensink et al. 2013), as iCaRL (Rebuffi et al. 2017) classifies.
 * Features and means have length one, so the nearest mean is the largest inner product: the means
 * are the classifier's rows, with no bias. Every row is replaced; features stay.
 * Left open there and chosen here: an old class without exemplars keeps its softmax row scaled to
 * length one; new classes use all their training samples, old ones their exemplars. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "head_rows.h"

static double length_of(const float *row, size_t d)
{
    double square = 0;

    for (size_t j = 0; j < d; j++)
        square += (double)row[j] * row[j];
    return sqrt(square);
}

/* fails: NO_MEMORY */
static enum delta_status set_means(float *weight, size_t classes, const struct learner_pool *pool,
                                   struct delta_error *err)
{
    const size_t d = pool->embedding.d;
    double *sums = delta_calloc(classes * d + 1, sizeof *sums);

    if (!sums)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for class means");
    for (size_t i = 0; i < pool->embedding.count; i++) {
        const float *feature = pool->embedding.features + i * d;
        const double length = length_of(feature, d);
        if (pool->labels[i] < 0 || !(length > 0))
            continue;
        for (size_t j = 0; j < d; j++)
            sums[(size_t)pool->labels[i] * d + j] += feature[j] / length;
    }
    for (size_t c = 0; c < classes; c++) {
        float *row = weight + c * d;
        double length = 0;
        for (size_t j = 0; j < d; j++)
            length += sums[c * d + j] * sums[c * d + j];
        for (size_t j = 0; j < d && length > 0; j++)
            row[j] = (float)sums[c * d + j];
        length = length_of(row, d);
        for (size_t j = 0; j < d && length > 0; j++)
            row[j] = (float)(row[j] / length);
    }
    free(sums);
    return DELTA_OK;
}

static enum delta_status run(struct learner_task *task, struct delta_error *err)
{
    struct learner_pool pool = {.labels = NULL};
    struct delta_tensor *weight, *bias;
    enum delta_status st = learner_need_exemplars(task, err);

    if (!st)
        st = delta_model_head(task->model, &weight, &bias, err);
    if (!st)
        st = learner_pool_embed(&pool, task, task->options->mirror ? 2 : 1, NULL, NULL, err);
    if (!st)
        st = set_means(weight->data, task->model->class_count, &pool, err);
    if (!st) {
        memset(bias->data, 0, bias->count * sizeof *bias->data);
        task->image_passes += (double)pool.forwards / 3;
        st = delta_tensor_set_freeze(weight, DELTA_FREEZE_LIVE, NULL, 0, err);
    }
    if (!st)
        st = delta_tensor_set_freeze(bias, DELTA_FREEZE_LIVE, NULL, 0, err);
    learner_pool_release(&pool);
    return st;
}

static enum delta_status need(const struct learner_task *task, size_t images, size_t *bytes,
                              struct delta_error *err)
{
    const size_t views =
        (task->options->mirror ? 2 : 1) * (task->fresh->count + task->replay->count);
    const size_t classes = task->model->class_count;
    struct delta_tensor *weight, *bias;
    size_t net = 0;
    enum delta_status st = delta_model_head(task->base, &weight, &bias, err);

    if (!st)
        st = learner_budget_net(&net, task->base, task->budget, images, false, err);
    if (st)
        return st;
    const size_t d = weight->count / bias->count;
    net += learner_samples_bytes(task->fresh) + learner_samples_bytes(task->replay);
    *bytes = net + views * (d + bias->count + 1) * sizeof(float) + classes * d * sizeof(double);
    return DELTA_OK;
}

const struct learner_method learner_method_ncm = {
    "ncm",
    {.method = "ncm", .ratio = -1, .batch = 64, .max_old_drop = 1, .min_new_recall = 0},
    run,
    need,
};
