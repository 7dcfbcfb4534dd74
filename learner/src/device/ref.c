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

static float activate(enum learner_act act, float v)
{
    /* written so that NaN passes through */
    if (act != LEARNER_ACT_NONE && v < 0)
        return 0;
    return act == LEARNER_ACT_RELU6 && v > 6 ? 6 : v;
}

static bool passes(enum learner_act act, float y)
{
    return act == LEARNER_ACT_NONE || (y > 0 && !(act == LEARNER_ACT_RELU6 && y >= 6));
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

/* Calls below visit, for image i, output pixel o and output channel co, every product of the
 * convolution: x[x_at] * weight[w_at]. */
struct product {
    size_t x_at, w_at;
};

static size_t products(const struct learner_op *op, size_t i, size_t o, size_t co,
                       struct product *out)
{
    const size_t k = op->kernel, ci_count = op->in.c / op->groups;
    const size_t first = co / (op->out.c / op->groups) * ci_count; /* input channel of the group */
    size_t count = 0, at;

    for (size_t t = 0; t < k * k; t++) {
        if (!tap(op, o / op->out.w, o % op->out.w, t / k, t % k, &at))
            continue;
        for (size_t ci = 0; ci < ci_count; ci++)
            out[count++] = (struct product){(i * op->in.h * op->in.w + at) * op->in.c + first + ci,
                                            (co * ci_count + ci) * k * k + t};
    }
    return count;
}

/* The input of a convolution, normalised if that was left to it. */
static float input(const struct learner_op *op, size_t at)
{
    const size_t c = at % op->in.c;

    if (!op->x_gain)
        return op->x[at];
    return activate(op->x_act, op->x[at] * op->x_gain[c] + op->x_offset[c]);
}

enum conv_part { CONV_FORWARD, CONV_DX, CONV_DWEIGHT };

static void conv_one(const struct learner_op *op, enum conv_part part, size_t y_at,
                     const struct product *list, size_t count, double *dweight)
{
    double sum = 0;

    for (size_t j = 0; j < count; j++) {
        if (part == CONV_FORWARD)
            sum += (double)input(op, list[j].x_at) * op->weight[list[j].w_at];
        else if (part == CONV_DX)
            op->dx[list[j].x_at] += op->dy[y_at] * op->weight[list[j].w_at];
        else
            dweight[list[j].w_at] += (double)op->dy[y_at] * input(op, list[j].x_at);
    }
    if (part == CONV_FORWARD)
        op->y[y_at] = (float)sum;
}

static void conv_each(const struct learner_op *op, size_t n, enum conv_part part, double *dweight)
{
    const size_t plane = op->out.h * op->out.w;
    struct product *list =
        delta_calloc(op->in.c / op->groups * op->kernel * op->kernel, sizeof *list);

    for (size_t i = 0; list && i < n; i++)
        for (size_t o = 0; o < plane; o++)
            for (size_t co = 0; co < op->out.c; co++)
                conv_one(op, part, (i * plane + o) * op->out.c + co, list,
                         products(op, i, o, co, list), dweight);
    free(list);
}

static void conv_forward(const struct learner_op *op, const struct learner_pass *pass)
{
    conv_each(op, pass->n, CONV_FORWARD, NULL);
    if (pass->mode != LEARNER_TRAIN || !op->sums)
        return;
    for (size_t c = 0; c < op->out.c; c++) {
        op->sums[c] = op->sums[op->out.c + c] = 0;
        for (size_t at = c; at < pass->n * learner_shape_count(&op->out); at += op->out.c) {
            const double d = (double)op->y[at] - op->mean[c];
            op->sums[c] += d;
            op->sums[op->out.c + c] += d * d;
        }
    }
}

static bool is_live(const struct learner_op *op, size_t channel)
{
    for (size_t i = 0; op->live && i < op->live_count; i++)
        if (op->live[i] == channel)
            return true;
    return !op->live;
}

/* What the norm that this input was left from wants of its gradient. */
static void conv_back_sums(const struct learner_op *op, size_t n)
{
    for (size_t c = 0; c < op->in.c; c++) {
        double sum = 0, sum_x = 0;
        for (size_t at = c; at < n * learner_shape_count(&op->in); at += op->in.c) {
            const double g = passes(op->x_act, input(op, at)) ? op->dx[at] : 0;
            sum += g;
            sum_x += g * ((double)op->x[at] - op->x_mean[c]);
        }
        op->back_sums[c] = sum;
        op->back_sums[op->in.c + c] = sum_x;
    }
}

static void conv_backward(const struct learner_op *op, const struct learner_pass *pass)
{
    const size_t n = pass->n;
    const size_t filter = op->in.c / op->groups * op->kernel * op->kernel;

    if (op->dx && !op->dx_add)
        for (size_t i = 0; i < n * learner_shape_count(&op->in); i++)
            op->dx[i] = 0;
    if (op->dx)
        conv_each(op, n, CONV_DX, NULL);
    if (op->back_sums && pass->mode == LEARNER_TRAIN)
        conv_back_sums(op, n);
    if (!op->dweight)
        return;
    double *dweight = delta_calloc(op->out.c * filter, sizeof *dweight);
    if (dweight)
        conv_each(op, n, CONV_DWEIGHT, dweight);
    for (size_t e = 0; dweight && e < op->out.c * filter; e++)
        if (is_live(op, e / filter))
            op->dweight[e] = (float)dweight[e];
    free(dweight);
}

/* Mean and 1/std for this pass; TRAIN takes them from the batch and moves the running ones. */
static void norm_statistics(const struct learner_op *op, size_t n, enum learner_mode mode, size_t c)
{
    const size_t count = n * op->in.h * op->in.w;
    double mean = op->mean[c], var = op->var[c];

    if (mode == LEARNER_TRAIN) {
        mean = var = 0;
        for (size_t p = 0; p < count; p++)
            mean += op->x[p * op->in.c + c];
        mean /= (double)count;
        for (size_t p = 0; p < count; p++) {
            const double d = op->x[p * op->in.c + c] - mean;
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

static float norm_value(const struct learner_op *op, size_t at)
{
    const size_t c = at % op->in.c;
    const float v = (op->x[at] - op->batch_mean[c]) * op->inv_std[c] * op->scale[c] + op->shift[c];

    return activate(op->act, op->residual ? v + op->residual[at] : v);
}

static void norm_forward(const struct learner_op *op, size_t n, enum learner_mode mode)
{
    for (size_t c = 0; c < op->in.c; c++) {
        norm_statistics(op, n, mode, c);
        if (op->gain) {
            op->gain[c] = op->scale[c] * op->inv_std[c];
            op->offset[c] = op->shift[c] - op->batch_mean[c] * op->gain[c];
        }
    }
    for (size_t at = 0; op->y && at < n * learner_shape_count(&op->in); at++)
        op->y[at] = norm_value(op, at);
}

/* The gradient before the activation. */
static double norm_gradient(const struct learner_op *op, size_t at)
{
    return passes(op->act, op->y ? op->y[at] : norm_value(op, at)) ? op->dy[at] : 0;
}

static void norm_backward(const struct learner_op *op, size_t n, enum learner_mode mode)
{
    const double count = (double)(n * op->in.h * op->in.w);
    const size_t end = n * learner_shape_count(&op->in);

    for (size_t c = 0; c < op->in.c; c++) {
        double sum = 0, sum_hat = 0;
        for (int round = 0; round < 2; round++)
            for (size_t at = c; at < end; at += op->in.c) {
                const double g = norm_gradient(op, at);
                const double hat = op->x ? (op->x[at] - op->batch_mean[c]) * op->inv_std[c] : 0;
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
        if (op->dscale)
            op->dscale[c] = (float)sum_hat;
        if (op->dshift)
            op->dshift[c] = (float)sum;
    }
}

static void pool_run(const struct learner_op *op, const struct learner_pass *pass)
{
    const size_t plane = op->in.h * op->in.w, channels = op->in.c;

    for (size_t i = 0; i < pass->n * channels; i++) {
        const size_t first = i / channels * plane * channels + i % channels;
        double sum = 0;
        for (size_t at = first; at < first + plane * channels; at += channels) {
            if (pass->backward)
                op->dx[at] = op->dy[i] / (float)plane + (op->dx_add ? op->dx[at] : 0);
            else
                sum += op->x[at];
        }
        if (!pass->backward)
            op->y[i] = (float)(sum / (double)plane);
    }
}

/* The first of equal values wins, as in PyTorch; NaN wins over everything. */
static size_t max_tap(const struct learner_op *op, size_t image, size_t o, size_t c)
{
    const size_t k = op->kernel;
    size_t best = SIZE_MAX, at;

    for (size_t t = 0; t < k * k; t++) {
        if (!tap(op, o / op->out.w, o % op->out.w, t / k, t % k, &at))
            continue;
        at = (image * op->in.h * op->in.w + at) * op->in.c + c;
        if (best == SIZE_MAX || op->x[at] > op->x[best] || op->x[at] != op->x[at])
            best = at;
    }
    return best;
}

static void max_pool_run(const struct learner_op *op, const struct learner_pass *pass)
{
    const size_t plane = op->out.h * op->out.w;

    if (pass->backward && !op->dx_add)
        for (size_t i = 0; i < pass->n * learner_shape_count(&op->in); i++)
            op->dx[i] = 0;
    for (size_t i = 0; i < pass->n * plane * op->out.c; i++) {
        const size_t pixel = i / op->out.c;
        const size_t from = max_tap(op, pixel / plane, pixel % plane, i % op->out.c);
        if (pass->backward)
            op->dx[from] += op->dy[i];
        else
            op->y[i] = op->x[from];
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
        if (op->dbias)
            op->dbias[o] = (float)bias;
        for (size_t d = 0; op->dweight && d < in; d++) {
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
        if (pass->backward)
            conv_backward(op, pass);
        else
            conv_forward(op, pass);
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
    case LEARNER_OP_MAX_POOL:
        max_pool_run(op, pass);
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
