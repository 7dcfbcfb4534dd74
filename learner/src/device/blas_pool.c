/* Pooling of the `blas` backend: [n, h, w, c], so every loop runs along the channels. Images are
 * shared among the members; of max pools also rows, where windows do not write to each other's. */
#include <string.h>

#include "blas.h"

#define TAPS_MAX (BLAS_MAX_POOL_KERNEL * BLAS_MAX_POOL_KERNEL)

static void mean_images(void *context, size_t member, size_t members)
{
    const struct blas_job *job = context;
    const struct learner_op *op = job->op;
    const size_t plane = op->in.h * op->in.w, channels = op->in.c;
    size_t first, end;

    learner_pool_share(job->pass->n, member, members, &first, &end);
    for (size_t i = first; i < end; i++)
        if (job->pass->backward)
            job->blas->kernels->pool_spread(op->dx + i * plane * channels, op->dy + i * channels,
                                            plane, channels, op->dx_add);
        else
            job->blas->kernels->pool_mean(op->y + i * channels, op->x + i * plane * channels, plane,
                                          channels);
}

void blas_pool_forward(const struct blas_job *job)
{
    learner_pool_run(job->blas->pool, mean_images, (void *)job);
}

void blas_pool_backward(const struct blas_job *job)
{
    learner_pool_run(job->blas->pool, mean_images, (void *)job);
}

/* First floats of the input pixels that output pixel o of an image sees, in the order of the
 * window. */
static size_t window(const struct learner_op *op, size_t image, size_t o, size_t at[TAPS_MAX])
{
    size_t count = 0;

    for (size_t t = 0; t < op->kernel * op->kernel; t++) {
        const size_t y = o / op->out.w * op->stride + t / op->kernel - op->pad;
        const size_t x = o % op->out.w * op->stride + t % op->kernel - op->pad;
        if (y < op->in.h && x < op->in.w) /* wraps round below zero */
            at[count++] = ((image * op->in.h + y) * op->in.w + x) * op->in.c;
    }
    return count;
}

static void max_pool_pixel(const struct blas_job *job, size_t image, size_t o)
{
    const struct learner_op *op = job->op;
    const size_t to = (image * op->out.h * op->out.w + o) * op->out.c;
    const float *taps[TAPS_MAX];
    float *dx[TAPS_MAX];
    size_t at[TAPS_MAX];
    const size_t count = window(op, image, o, at);

    for (size_t t = 0; t < count; t++)
        taps[t] = op->x + at[t];
    for (size_t t = 0; job->pass->backward && t < count; t++)
        dx[t] = op->dx + at[t];
    if (job->pass->backward)
        job->blas->kernels->pool_largest_back(dx, op->dy + to, taps, count, op->in.c);
    else
        job->blas->kernels->pool_largest(op->y + to, taps, count, op->in.c);
}

static void max_pool_rows(void *context, size_t member, size_t members)
{
    const struct blas_job *job = context;
    const struct learner_op *op = job->op;
    const size_t plane = op->out.h * op->out.w, in = learner_shape_count(&op->in);
    const size_t rows = job->pass->backward ? plane : op->out.w; /* pixels that stay together */
    size_t first, end;

    learner_pool_share(job->pass->n * plane / rows, member, members, &first, &end);
    if (job->pass->backward && !op->dx_add)
        memset(op->dx + first * in, 0, (end - first) * in * sizeof(float));
    for (size_t pixel = first * rows; pixel < end * rows; pixel++)
        max_pool_pixel(job, pixel / plane, pixel % plane);
}

void blas_max_pool_forward(const struct blas_job *job)
{
    learner_pool_run(job->blas->pool, max_pool_rows, (void *)job);
}

void blas_max_pool_backward(const struct blas_job *job)
{
    learner_pool_run(job->blas->pool, max_pool_rows, (void *)job);
}
