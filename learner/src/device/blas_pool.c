/* Pooling of the `blas` backend: [n, h, w, c], so every loop runs along the channels. */
#include <string.h>

#include "blas.h"

void blas_pool_forward(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    const size_t plane = op->in.h * op->in.w, channels = op->in.c;

    memset(op->y, 0, job->pass->n * channels * sizeof(float));
    for (size_t i = 0; i < job->pass->n; i++) {
        float *y = op->y + i * channels;
        for (size_t p = 0; p < plane; p++)
            for (size_t c = 0; c < channels; c++)
                y[c] += op->x[(i * plane + p) * channels + c];
        for (size_t c = 0; c < channels; c++)
            y[c] /= (float)plane;
    }
}

void blas_pool_backward(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    const size_t plane = op->in.h * op->in.w, channels = op->in.c;

    for (size_t p = 0; p < job->pass->n * plane; p++) {
        const float *dy = op->dy + p / plane * channels;
        float *dx = op->dx + p * channels;
        for (size_t c = 0; c < channels; c++)
            dx[c] = dy[c] / (float)plane + (op->dx_add ? dx[c] : 0);
    }
}

/* Where the window of output pixel o of an image has its largest value; the first of equal ones,
 * NaN before all. */
static size_t largest(const struct learner_op *op, size_t image, size_t o, size_t c)
{
    const size_t k = op->kernel;
    size_t best = SIZE_MAX;

    for (size_t t = 0; t < k * k; t++) {
        const size_t y = o / op->out.w * op->stride + t / k - op->pad;
        const size_t x = o % op->out.w * op->stride + t % k - op->pad;
        const size_t at = ((image * op->in.h + y) * op->in.w + x) * op->in.c + c;
        if (y >= op->in.h || x >= op->in.w) /* wraps round below zero */
            continue;
        if (best == SIZE_MAX || op->x[at] > op->x[best] || op->x[at] != op->x[at])
            best = at;
    }
    return best;
}

static void max_pool_images(void *context, size_t member, size_t members)
{
    const struct blas_job *job = context;
    const struct learner_op *op = job->op;
    const size_t plane = op->out.h * op->out.w, in = learner_shape_count(&op->in);
    size_t first, end;

    learner_pool_share(job->pass->n, member, members, &first, &end);
    if (job->pass->backward && !op->dx_add)
        memset(op->dx + first * in, 0, (end - first) * in * sizeof(float));
    for (size_t at = first * plane * op->out.c; at < end * plane * op->out.c; at++) {
        const size_t pixel = at / op->out.c;
        const size_t from = largest(op, pixel / plane, pixel % plane, at % op->out.c);
        if (job->pass->backward)
            op->dx[from] += op->dy[at];
        else
            op->y[at] = op->x[from];
    }
}

void blas_max_pool_forward(const struct blas_job *job)
{
    learner_pool_run(job->blas->pool, max_pool_images, (void *)job);
}

void blas_max_pool_backward(const struct blas_job *job)
{
    learner_pool_run(job->blas->pool, max_pool_images, (void *)job);
}
