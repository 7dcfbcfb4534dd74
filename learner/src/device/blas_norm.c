/* Batch norm of the `blas` backend; channels are shared among the members, so that every sum has
 * one order whatever the number of threads. */
#include <math.h>

#include "blas.h"

void blas_norm_fix(const struct learner_op *op)
{
    for (size_t c = 0; c < op->out.c; c++) {
        op->batch_mean[c] = op->mean[c];
        op->inv_std[c] = (float)(1.0 / sqrt((double)op->var[c] + LEARNER_NORM_EPSILON));
    }
}

/* Of channel c over the batch; moves the running statistics. Planes in float, their sum in double.
 */
static void batch_statistics(const struct learner_kernels *kernels, const struct learner_op *op,
                             size_t n, size_t c)
{
    const size_t plane = op->in.h * op->in.w, step = op->in.c * plane;
    const float *x = op->x + c * plane;
    const double count = (double)n * (double)plane;
    double mean = 0, var = 0;

    for (size_t i = 0; i < n; i++)
        mean += (double)kernels->sum(x + i * step, plane);
    mean /= count;
    for (size_t i = 0; i < n; i++)
        var += (double)kernels->sum_squares(x + i * step, plane, (float)mean);
    const double unbiased = count > 1 ? var / (count - 1) : 0;
    var /= count;
    op->mean[c] += (float)(LEARNER_NORM_MOMENTUM * (mean - op->mean[c]));
    op->var[c] += (float)(LEARNER_NORM_MOMENTUM * (unbiased - op->var[c]));
    op->batch_mean[c] = (float)mean;
    op->inv_std[c] = (float)(1.0 / sqrt(var + LEARNER_NORM_EPSILON));
}

static void forward(void *context, size_t member, size_t members)
{
    const struct blas_job *job = context;
    const struct learner_kernels *kernels = job->blas->kernels;
    const struct learner_op *op = job->op;
    const size_t plane = op->in.h * op->in.w, n = job->pass->n;
    size_t first, end;

    learner_pool_share(op->in.c, member, members, &first, &end);
    for (size_t c = first; c < end; c++) {
        if (job->pass->mode == LEARNER_TRAIN)
            batch_statistics(kernels, op, n, c);
        const float scale = op->scale[c] * op->inv_std[c];
        const float shift = op->shift[c] - op->batch_mean[c] * scale;
        for (size_t i = 0; i < n; i++) {
            const size_t at = (i * op->in.c + c) * plane;
            kernels->affine(op->x + at, op->residual ? op->residual + at : NULL, op->y + at, plane,
                            scale, shift, op->act == LEARNER_ACT_RELU);
        }
    }
}

static void backward(void *context, size_t member, size_t members)
{
    const struct blas_job *job = context;
    const struct learner_kernels *kernels = job->blas->kernels;
    const struct learner_op *op = job->op;
    const size_t plane = op->in.h * op->in.w, n = job->pass->n;
    const bool relu = op->act == LEARNER_ACT_RELU, batch = job->pass->mode == LEARNER_TRAIN;
    const double count = (double)n * (double)plane;
    size_t first, end;

    learner_pool_share(op->in.c, member, members, &first, &end);
    for (size_t c = first; c < end; c++) {
        const float mean = op->batch_mean[c], inv = op->inv_std[c];
        double sum = 0, sum_hat = 0;
        for (size_t i = 0; i < n; i++) {
            const size_t at = (i * op->in.c + c) * plane;
            float part = 0, part_hat = 0;
            kernels->norm_gather(op->x + at, op->y + at, op->dy + at, plane, mean, relu,
                                 op->dresidual ? op->dresidual + at : NULL, op->dresidual_add,
                                 &part, &part_hat);
            sum += part;
            sum_hat += part_hat;
        }
        sum_hat *= inv;
        op->dscale[c] = (float)sum_hat;
        op->dshift[c] = (float)sum;
        const float offset = batch ? (float)(sum / count) : 0;
        const float slope = batch ? (float)(sum_hat / count) * inv : 0;
        for (size_t i = 0; i < n; i++) {
            const size_t at = (i * op->in.c + c) * plane;
            kernels->norm_apply(op->x + at, op->y + at, op->dy + at, plane, mean, relu, offset,
                                slope, op->scale[c] * inv, op->dx + at, op->dx_add);
        }
    }
}

void blas_norm_forward(const struct blas_job *job)
{
    if (job->pass->mode != LEARNER_TRAIN)
        blas_norm_fix(job->op);
    learner_pool_run(job->blas->pool, forward, (void *)job);
}

void blas_norm_backward(const struct blas_job *job)
{
    learner_pool_run(job->blas->pool, backward, (void *)job);
}
