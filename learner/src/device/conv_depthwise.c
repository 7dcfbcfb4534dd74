/* Depthwise convolutions: one filter a channel. Channels are shared among the members. */
#include <string.h>

#include "blas.h"

static enum delta_status prepare(struct blas *blas, const struct learner_op *op, bool train,
                                 struct delta_error *err)
{
    (void)blas;
    (void)op;
    (void)train;
    (void)err;
    return DELTA_OK;
}

enum part { FORWARD, DX, DWEIGHT };

struct work {
    const struct blas_job *job;
    enum part part;
};

/* The input, normalised if that was left to the convolution. */
static float input(const struct learner_op *op, size_t at, size_t c)
{
    return op->x_gain ? blas_activate(op->x_act, op->x[at] * op->x_gain[c] + op->x_offset[c])
                      : op->x[at];
}

/* One output pixel of one channel; at: the pixel's first float in the output. */
static void pixel(const struct learner_op *op, enum part part, size_t image, size_t o, size_t c,
                  float *dweight)
{
    const size_t k = op->kernel, channels = op->in.c;
    const size_t at = (image * op->out.h * op->out.w + o) * channels + c;
    const float *w = op->weight + c * k * k;
    float sum = 0;

    for (size_t t = 0; t < k * k; t++) {
        const size_t y = o / op->out.w * op->stride + t / k - op->pad;
        const size_t x = o % op->out.w * op->stride + t % k - op->pad;
        const size_t from = ((image * op->in.h + y) * op->in.w + x) * channels + c;
        if (y >= op->in.h || x >= op->in.w) /* wraps round below zero */
            continue;
        if (part == FORWARD)
            sum += input(op, from, c) * w[t];
        else if (part == DX)
            op->dx[from] += op->dy[at] * w[t];
        else
            dweight[t] += op->dy[at] * input(op, from, c);
    }
    if (part == FORWARD)
        op->y[at] = sum;
}

static bool is_live(const struct learner_op *op, size_t channel)
{
    for (size_t i = 0; op->live && i < op->live_count; i++)
        if (op->live[i] == channel)
            return true;
    return !op->live;
}

static void run_channels(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    const struct learner_op *op = work->job->op;
    const size_t n = work->job->pass->n, taps = op->kernel * op->kernel, channels = op->in.c;
    size_t first, end;

    learner_pool_share(channels, member, members, &first, &end);
    for (size_t c = first; c < end; c++) {
        if (work->part == DWEIGHT && !is_live(op, c))
            continue;
        if (work->part == DWEIGHT)
            memset(op->dweight + c * taps, 0, taps * sizeof(float));
        for (size_t i = c; work->part == DX && !op->dx_add && i < n * learner_shape_count(&op->in);
             i += channels)
            op->dx[i] = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t o = 0; o < op->out.h * op->out.w; o++)
                pixel(op, work->part, i, o, c,
                      work->part == DWEIGHT ? op->dweight + c * taps : NULL);
    }
}

static void run(const struct blas_job *job, enum part part)
{
    struct work work = {job, part};

    learner_pool_run(job->blas->pool, run_channels, &work);
}

static void forward(const struct blas_job *job)
{
    const struct learner_op *op = job->op;

    run(job, FORWARD);
    blas_conv_sums(job);
    if (op->kind == LEARNER_OP_CONV_NORM)
        blas_norm_finish(job, 0, job->pass->n * op->out.h * op->out.w);
}

static void backward_data(const struct blas_job *job)
{
    run(job, DX);
}

static void backward_weight(const struct blas_job *job)
{
    run(job, DWEIGHT);
}

const struct blas_conv blas_conv_depthwise = {
    .name = "depthwise",
    .prepare = prepare,
    .forward = forward,
    .dx = backward_data,
    .dweight = backward_weight,
};
