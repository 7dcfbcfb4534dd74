/* Backend `ref`: plain loops, one thread, sums in double. Slow and obvious: the oracle that every
 * other backend is tested against. Nothing here is to be made faster. */
#include <math.h>
#include <stdlib.h>

#include "device.h"

static enum delta_status ref_open(struct learner_device **out, int threads, struct delta_error *err)
{
    (void)threads;
    *out = delta_calloc(1, sizeof **out);
    if (!*out)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for device 'ref'");
    (*out)->ops = &learner_device_ref;
    return DELTA_OK;
}

static void ref_close(struct learner_device *device)
{
    free(device);
}

static void *ref_alloc(struct learner_device *device, size_t bytes)
{
    (void)device;
    return delta_calloc_aligned(bytes, 1);
}

static void ref_release(struct learner_device *device, void *block)
{
    (void)device;
    free(block);
}

static size_t ref_memory_bytes(const struct learner_device *device)
{
    (void)device;
    return 0;
}

/* One tap of a convolution: which input pixel, if any, output (oy, ox) sees through (ky, kx). */
static bool tap(const struct learner_op *op, size_t oy, size_t ox, size_t ky, size_t kx, size_t *at)
{
    const size_t y = oy * op->stride + ky, x = ox * op->stride + kx;

    if (y < op->pad || x < op->pad || y - op->pad >= op->in.h || x - op->pad >= op->in.w)
        return false;
    *at = (y - op->pad) * op->in.w + (x - op->pad);
    return true;
}

static void conv_forward(const struct learner_op *op, size_t n)
{
    const size_t plane_in = op->in.h * op->in.w, k = op->kernel;
    float *y = op->y;
    size_t at;

    for (size_t i = 0; i < n; i++)
        for (size_t co = 0; co < op->out.c; co++)
            for (size_t oy = 0; oy < op->out.h; oy++)
                for (size_t ox = 0; ox < op->out.w; ox++) {
                    double sum = 0;
                    for (size_t ci = 0; ci < op->in.c; ci++) {
                        const float *x = op->x + (i * op->in.c + ci) * plane_in;
                        const float *w = op->weight + (co * op->in.c + ci) * k * k;
                        for (size_t ky = 0; ky < k; ky++)
                            for (size_t kx = 0; kx < k; kx++)
                                if (tap(op, oy, ox, ky, kx, &at))
                                    sum += (double)x[at] * w[ky * k + kx];
                    }
                    *y++ = (float)sum;
                }
}

static void conv_backward_data(const struct learner_op *op, size_t n)
{
    const size_t plane_in = op->in.h * op->in.w, plane_out = op->out.h * op->out.w, k = op->kernel;
    size_t at;

    if (!op->dx_add)
        for (size_t i = 0; i < n * op->in.c * plane_in; i++)
            op->dx[i] = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t co = 0; co < op->out.c; co++)
            for (size_t ci = 0; ci < op->in.c; ci++) {
                const float *dy = op->dy + (i * op->out.c + co) * plane_out;
                const float *w = op->weight + (co * op->in.c + ci) * k * k;
                float *dx = op->dx + (i * op->in.c + ci) * plane_in;
                for (size_t o = 0; o < plane_out; o++)
                    for (size_t t = 0; t < k * k; t++)
                        if (tap(op, o / op->out.w, o % op->out.w, t / k, t % k, &at))
                            dx[at] += dy[o] * w[t];
            }
}

static void conv_backward_weight(const struct learner_op *op, size_t n)
{
    const size_t plane_in = op->in.h * op->in.w, plane_out = op->out.h * op->out.w, k = op->kernel;
    float *dw = op->dweight;
    size_t at;

    for (size_t co = 0; co < op->out.c; co++)
        for (size_t ci = 0; ci < op->in.c; ci++)
            for (size_t t = 0; t < k * k; t++) {
                double sum = 0;
                for (size_t i = 0; i < n; i++) {
                    const float *dy = op->dy + (i * op->out.c + co) * plane_out;
                    const float *x = op->x + (i * op->in.c + ci) * plane_in;
                    for (size_t o = 0; o < plane_out; o++)
                        if (tap(op, o / op->out.w, o % op->out.w, t / k, t % k, &at))
                            sum += (double)dy[o] * x[at];
                }
                *dw++ = (float)sum;
            }
}

/* Mean and 1/std for this pass; TRAIN takes them from the batch and moves the running ones. */
static void norm_statistics(const struct learner_op *op, size_t n, enum learner_mode mode, size_t c)
{
    const size_t plane = op->in.h * op->in.w, count = n * plane;
    double mean = op->mean[c], var = op->var[c];

    if (mode == LEARNER_TRAIN) {
        mean = var = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t p = 0; p < plane; p++)
                mean += op->x[(i * op->in.c + c) * plane + p];
        mean /= (double)count;
        for (size_t i = 0; i < n; i++)
            for (size_t p = 0; p < plane; p++) {
                const double d = op->x[(i * op->in.c + c) * plane + p] - mean;
                var += d * d;
            }
        /* running variance is unbiased, the one used here is not (as PyTorch does) */
        const double unbiased = count > 1 ? var / (double)(count - 1) : 0;
        var /= (double)count;
        op->mean[c] += (float)(LEARNER_NORM_MOMENTUM * (mean - op->mean[c]));
        op->var[c] += (float)(LEARNER_NORM_MOMENTUM * (unbiased - op->var[c]));
    }
    op->batch_mean[c] = (float)mean;
    op->inv_std[c] = (float)(1.0 / sqrt(var + LEARNER_NORM_EPSILON));
}

static void norm_forward(const struct learner_op *op, size_t n, enum learner_mode mode)
{
    const size_t plane = op->in.h * op->in.w;

    for (size_t c = 0; c < op->in.c; c++) {
        norm_statistics(op, n, mode, c);
        for (size_t i = 0; i < n; i++)
            for (size_t p = 0; p < plane; p++) {
                const size_t at = (i * op->in.c + c) * plane + p;
                float v =
                    (op->x[at] - op->batch_mean[c]) * op->inv_std[c] * op->scale[c] + op->shift[c];
                if (op->residual)
                    v += op->residual[at];
                /* written so that NaN passes through */
                op->y[at] = op->act == LEARNER_ACT_RELU && v < 0 ? 0 : v;
            }
    }
}

static void norm_backward(const struct learner_op *op, size_t n, enum learner_mode mode)
{
    const size_t plane = op->in.h * op->in.w;
    const double count = (double)(n * plane);

    for (size_t c = 0; c < op->in.c; c++) {
        double sum = 0, sum_hat = 0;
        for (int round = 0; round < 2; round++)
            for (size_t i = 0; i < n; i++)
                for (size_t p = 0; p < plane; p++) {
                    const size_t at = (i * op->in.c + c) * plane + p;
                    const bool live = op->act == LEARNER_ACT_NONE || op->y[at] > 0;
                    const double g = live ? op->dy[at] : 0;
                    const double hat = (op->x[at] - op->batch_mean[c]) * op->inv_std[c];
                    if (round == 0) {
                        sum += g;
                        sum_hat += g * hat;
                        if (op->dresidual)
                            op->dresidual[at] =
                                (float)(g + (op->dresidual_add ? op->dresidual[at] : 0));
                        continue;
                    }
                    double d = g;
                    if (mode == LEARNER_TRAIN)
                        d -= sum / count + hat * sum_hat / count;
                    op->dx[at] =
                        (float)(d * op->scale[c] * op->inv_std[c] + (op->dx_add ? op->dx[at] : 0));
                }
        op->dscale[c] = (float)sum_hat;
        op->dshift[c] = (float)sum;
    }
}

static void pool_run(const struct learner_op *op, const struct learner_pass *pass)
{
    const size_t plane = op->in.h * op->in.w;

    for (size_t i = 0; i < pass->n * op->in.c; i++) {
        double sum = 0;
        for (size_t p = 0; p < plane; p++) {
            if (pass->backward)
                op->dx[i * plane + p] =
                    op->dy[i] / (float)plane + (op->dx_add ? op->dx[i * plane + p] : 0);
            else
                sum += op->x[i * plane + p];
        }
        if (!pass->backward)
            op->y[i] = (float)(sum / (double)plane);
    }
}

static void linear_forward(const struct learner_op *op, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t o = 0; o < op->out.c; o++) {
            double sum = op->bias[o];
            for (size_t d = 0; d < op->in.c; d++)
                sum += (double)op->x[i * op->in.c + d] * op->weight[o * op->in.c + d];
            op->y[i * op->out.c + o] = (float)sum;
        }
}

static void linear_backward(const struct learner_op *op, size_t n)
{
    const size_t in = op->in.c, out = op->out.c;

    for (size_t o = 0; o < out; o++) {
        double bias = 0;
        for (size_t i = 0; i < n; i++)
            bias += op->dy[i * out + o];
        op->dbias[o] = (float)bias;
        for (size_t d = 0; d < in; d++) {
            double sum = 0;
            for (size_t i = 0; i < n; i++)
                sum += (double)op->dy[i * out + o] * op->x[i * in + d];
            op->dweight[o * in + d] = (float)sum;
        }
    }
    for (size_t i = 0; op->dx && i < n; i++)
        for (size_t d = 0; d < in; d++) {
            double sum = op->dx_add ? op->dx[i * in + d] : 0;
            for (size_t o = 0; o < out; o++)
                sum += (double)op->dy[i * out + o] * op->weight[o * in + d];
            op->dx[i * in + d] = (float)sum;
        }
}

static void ref_run(struct learner_device *device, const struct learner_op *op,
                    const struct learner_pass *pass)
{
    (void)device;
    switch (op->kind) {
    case LEARNER_OP_CONV:
        if (!pass->backward) {
            conv_forward(op, pass->n);
            break;
        }
        conv_backward_weight(op, pass->n);
        if (op->dx)
            conv_backward_data(op, pass->n);
        break;
    case LEARNER_OP_NORM:
        if (pass->backward)
            norm_backward(op, pass->n, pass->mode);
        else
            norm_forward(op, pass->n, pass->mode);
        break;
    case LEARNER_OP_POOL:
        pool_run(op, pass);
        break;
    case LEARNER_OP_LINEAR:
        if (pass->backward)
            linear_backward(op, pass->n);
        else
            linear_forward(op, pass->n);
        break;
    case LEARNER_OP_CONV_NORM: /* not supported here; the net runs the two parts */
        break;
    }
}

const struct learner_device_ops learner_device_ref = {
    .name = "ref",
    .open = ref_open,
    .close = ref_close,
    .alloc = ref_alloc,
    .release = ref_release,
    .run = ref_run,
    .memory_bytes = ref_memory_bytes,
};
