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

void blas_norm_finish(const struct learner_op *op, size_t first, size_t pixels)
{
    const size_t channels = op->out.c;

    for (size_t p = first; p < first + pixels; p++)
        for (size_t c = 0; c < channels; c++) {
            const size_t at = p * channels + c;
            const float gain = op->scale[c] * op->inv_std[c];
            const float v = op->y[at] * gain + (op->shift[c] - op->batch_mean[c] * gain);
            op->y[at] = blas_activate(op->act, op->residual ? v + op->residual[at] : v);
        }
}

/* Of channel c over the batch; moves the running statistics. */
static void batch_statistics(const struct learner_op *op, size_t pixels, size_t c)
{
    const double count = (double)pixels;
    double mean = 0, var = 0;

    if (op->sums) {
        const double shift = op->sums[c] / count;
        mean = op->mean[c] + shift;
        var = op->sums[op->in.c + c] - op->sums[c] * shift;
        var = var > 0 ? var : 0;
    } else {
        for (size_t p = 0; p < pixels; p++)
            mean += op->x[p * op->in.c + c];
        mean /= count;
        for (size_t p = 0; p < pixels; p++) {
            const double d = op->x[p * op->in.c + c] - mean;
            var += d * d;
        }
    }
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
    const struct learner_op *op = job->op;
    const size_t pixels = job->pass->n * op->in.h * op->in.w;
    size_t first, end;

    learner_pool_share(op->in.c, member, members, &first, &end);
    for (size_t c = first; c < end; c++) {
        if (job->pass->mode == LEARNER_TRAIN)
            batch_statistics(op, pixels, c);
        const float gain = op->scale[c] * op->inv_std[c];
        const float shift = op->shift[c] - op->batch_mean[c] * gain;
        if (op->gain) {
            op->gain[c] = gain;
            op->offset[c] = shift;
        }
        for (size_t p = 0; op->y && p < pixels; p++) {
            const size_t at = p * op->in.c + c;
            const float v = op->x[at] * gain + shift;
            op->y[at] = blas_activate(op->act, op->residual ? v + op->residual[at] : v);
        }
    }
}

/* The gradient before the activation. */
static float passed(const struct learner_op *op, size_t at, float gain, float offset)
{
    const float y =
        op->y ? op->y[at] : op->x[at] * gain + offset + (op->residual ? op->residual[at] : 0);

    return blas_passes(op->act, y) ? op->dy[at] : 0;
}

static void backward(void *context, size_t member, size_t members)
{
    const struct blas_job *job = context;
    const struct learner_op *op = job->op;
    const size_t pixels = job->pass->n * op->in.h * op->in.w, channels = op->in.c;
    const bool batch = job->pass->mode == LEARNER_TRAIN;
    size_t first, end;

    learner_pool_share(channels, member, members, &first, &end);
    for (size_t c = first; c < end; c++) {
        const float mean = op->batch_mean[c], inv = op->inv_std[c], gain = op->scale[c] * inv;
        const float shift = op->shift[c] - mean * gain;
        double sum = 0, sum_hat = 0;
        for (size_t at = c; at < pixels * channels; at += channels) {
            const float g = passed(op, at, gain, shift);
            sum += g;
            sum_hat += g * (op->x[at] - mean);
            if (op->dresidual)
                op->dresidual[at] = op->dresidual_add ? op->dresidual[at] + g : g;
        }
        sum_hat *= inv;
        if (op->dscale)
            op->dscale[c] = (float)sum_hat;
        if (op->dshift)
            op->dshift[c] = (float)sum;
        const float offset = batch ? (float)(sum / (double)pixels) : 0;
        const float slope = batch ? (float)(sum_hat / (double)pixels) * inv : 0;
        for (size_t at = c; at < pixels * channels; at += channels) {
            const float d =
                (passed(op, at, gain, shift) - offset - slope * (op->x[at] - mean)) * gain;
            op->dx[at] = op->dx_add ? op->dx[at] + d : d;
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
