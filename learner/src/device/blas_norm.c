/* Batch norm of the `blas` backend. Pixels are shared among the members; sums run in float over a
 * short block, then in double, and are reduced in member order, so that one thread count always
 * gives the same bytes. */
#include <math.h>
#include <string.h>

#include "blas.h"

#define BLOCK LEARNER_KERNEL_SUM_PIXELS

struct work {
    const struct blas_job *job;
    size_t pixels;
    const float *values, *near; /* what is added up, less `near` [channels] */
    struct learner_kernel_norm norm;
    struct learner_kernel_norm_back back;
    bool fixed; /* backward: statistics are constants */
};

enum delta_status blas_norm_prepare(struct blas *blas, const struct learner_op *op,
                                    struct delta_error *err)
{
    const size_t channels = op->out.c;

    /* shared: gain, offset, slope, constant */
    return blas_scratch(blas, BLAS_SUMS_FLOATS * channels, 4 * channels, op, err);
}

void blas_norm_bounds(struct learner_kernel_norm *norm, enum learner_act act)
{
    norm->low = act == LEARNER_ACT_NONE ? -INFINITY : 0;
    norm->high = act == LEARNER_ACT_RELU6 ? 6 : INFINITY;
}

static void fold(const struct learner_op *op, float *gain, float *offset)
{
    for (size_t c = 0; c < op->out.c; c++) {
        gain[c] = op->scale[c] * op->inv_std[c];
        offset[c] = op->shift[c] - op->batch_mean[c] * gain[c];
    }
}

static void fix(const struct learner_op *op)
{
    for (size_t c = 0; c < op->out.c; c++) {
        op->batch_mean[c] = op->mean[c];
        op->inv_std[c] = (float)(1.0 / sqrt((double)op->var[c] + LEARNER_NORM_EPSILON));
    }
}

void blas_norm_fold(struct blas *blas, const struct learner_op *op)
{
    float *offset = blas->fold + op->out.c;

    fix(op);
    fold(op, blas->fold, offset);
    blas->norm = (struct learner_kernel_norm){
        .channels = op->out.c, .stride = op->out.c, .gain = blas->fold, .offset = offset};
    blas_norm_bounds(&blas->norm, op->act);
}

void blas_norm_finish(const struct blas_job *job, size_t first, size_t pixels)
{
    const struct learner_op *op = job->op;
    const size_t at = first * op->out.c;

    job->blas->kernels->normalise(op->y + at, op->y + at, op->residual ? op->residual + at : NULL,
                                  &job->blas->norm, pixels);
}

static double *member_totals(const struct blas *blas, size_t member)
{
    return (double *)(void *)(blas->scratch + member * blas->scratch_floats);
}

static float *member_sums(const struct blas *blas, size_t member, size_t channels)
{
    return blas->scratch + member * blas->scratch_floats + 4 * channels;
}

static float *start_sums(const struct work *work, size_t member)
{
    const size_t channels = work->norm.channels;

    memset(member_totals(work->job->blas, member), 0, BLAS_SUMS_FLOATS * channels * sizeof(float));
    return member_sums(work->job->blas, member, channels);
}

/* Leaves the members' totals in the first one's. */
static const double *total_sums(const struct work *work)
{
    const struct blas *blas = work->job->blas;
    double *total = member_totals(blas, 0);

    for (size_t m = 1; m < learner_pool_members(blas->pool); m++)
        for (size_t i = 0; i < 2 * work->norm.channels; i++)
            total[i] += member_totals(blas, m)[i];
    return total;
}

static void add_up(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    const struct learner_kernels *kernels = work->job->blas->kernels;
    const size_t channels = work->norm.channels;
    double *total = member_totals(work->job->blas, member);
    float *sum = start_sums(work, member);
    size_t first, end;

    learner_pool_share(work->pixels, member, members, &first, &end);
    for (size_t p = first, count; p < end; p += count) {
        count = end - p < BLOCK ? end - p : BLOCK;
        kernels->sums(work->values + p * channels, count, channels, channels, work->near, sum,
                      sum + channels);
        kernels->flush(total, sum, 2 * channels);
    }
}

/* The variance of a channel is a difference of two numbers; when its mean lies far from what was
 * taken off, nothing but rounding is left of it. */
#define FAR 16 /* squared distance of the mean, in variances: four bits are lost */

static bool is_far(const double *sums, size_t channels, double count)
{
    for (size_t c = 0; c < channels; c++) {
        const double shift = sums[c] / count;
        if (shift * shift > FAR * (sums[channels + c] / count - shift * shift))
            return true;
    }
    return false;
}

/* Mean and 1/std of the batch; moves the running statistics. */
static void batch_statistics(struct work *work)
{
    const struct learner_op *op = work->job->op;
    const double *sums = op->sums, count = (double)work->pixels;

    work->values = op->x;
    /* the first pixel is near the mean, which keeps the squares small */
    work->near = op->sums ? op->mean : op->x;
    if (!sums) {
        learner_pool_run(work->job->blas->pool, add_up, work);
        sums = total_sums(work);
    }
    if (is_far(sums, op->in.c, count)) { /* once more, around the mean that was found */
        for (size_t c = 0; c < op->in.c; c++)
            op->batch_mean[c] = (float)(work->near[c] + sums[c] / count);
        work->near = op->batch_mean;
        learner_pool_run(work->job->blas->pool, add_up, work);
        sums = total_sums(work);
    }
    for (size_t c = 0; c < op->in.c; c++) {
        const double shift = sums[c] / count, mean = work->near[c] + shift;
        double var = sums[op->in.c + c] - sums[c] * shift;
        var = var > 0 || var != var ? var : 0; /* rounding; NaN stays */
        /* running variance is unbiased, the one used here is not (as PyTorch does) */
        const double unbiased = count > 1 ? var / (count - 1) : 0;
        var /= count;
        op->mean[c] += (float)(LEARNER_NORM_MOMENTUM * (mean - op->mean[c]));
        op->var[c] += (float)(LEARNER_NORM_MOMENTUM * (unbiased - op->var[c]));
        op->batch_mean[c] = (float)mean;
        op->inv_std[c] = (float)(1.0 / sqrt(var + LEARNER_NORM_EPSILON));
    }
}

void blas_norm_sums(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    struct work work = {.job = job,
                        .pixels = job->pass->n * op->out.h * op->out.w,
                        .values = op->y,
                        .near = op->mean,
                        .norm = {.channels = op->out.c}};

    learner_pool_run(job->blas->pool, add_up, &work);
    memcpy(op->sums, total_sums(&work), 2 * op->out.c * sizeof(double));
}

static void write_output(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    const struct learner_op *op = work->job->op;
    const size_t channels = op->in.c;
    size_t first, end;

    learner_pool_share(work->pixels, member, members, &first, &end);
    const size_t at = first * channels;
    work->job->blas->kernels->normalise(
        op->y + at, op->x + at, op->residual ? op->residual + at : NULL, &work->norm, end - first);
}

static struct work work_of(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    float *shared = job->blas->shared;
    struct work work = {
        .job = job,
        .pixels = job->pass->n * op->in.h * op->in.w,
        .norm = {
            .channels = op->in.c, .stride = op->in.c, .gain = shared, .offset = shared + op->in.c}};

    blas_norm_bounds(&work.norm, op->act);
    return work;
}

void blas_norm_forward(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    struct work work = work_of(job);
    float *gain = job->blas->shared, *offset = gain + op->in.c;

    if (job->pass->mode == LEARNER_TRAIN)
        batch_statistics(&work);
    else
        fix(op);
    fold(op, gain, offset);
    if (op->gain) {
        memcpy(op->gain, gain, op->in.c * sizeof(float));
        memcpy(op->offset, offset, op->in.c * sizeof(float));
    }
    if (op->y)
        learner_pool_run(job->blas->pool, write_output, &work);
}

static void reduce(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    const struct learner_kernels *kernels = work->job->blas->kernels;
    const size_t channels = work->norm.channels;
    struct learner_kernel_norm_back back = work->back;
    double *total = member_totals(work->job->blas, member);
    size_t first, end;

    back.sum = start_sums(work, member);
    back.sum_x = back.sum + channels;
    learner_pool_share(work->pixels, member, members, &first, &end);
    for (size_t p = first, count; p < end; p += count) {
        count = end - p < BLOCK ? end - p : BLOCK;
        if (work->fixed)
            kernels->norm_apply_fixed(&back, p, count);
        else
            kernels->norm_reduce(&back, p, count);
        kernels->flush(total, back.sum, 2 * channels);
    }
}

/* Backwards, because the end of what `reduce` read is still in the cache. */
static void apply(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    const struct learner_kernels *kernels = work->job->blas->kernels;
    size_t first, end;

    learner_pool_share(work->pixels, member, members, &first, &end);
    for (size_t p = end, count; p > first; p -= count) {
        count = p - first < BLOCK ? p - first : BLOCK;
        if (work->fixed)
            kernels->norm_apply_fixed(&work->back, p - count, count);
        else
            kernels->norm_apply(&work->back, p - count, count);
    }
}

static void use_sums(const struct work *work, const double *sum, float *slope, float *constant)
{
    const struct learner_op *op = work->job->op;
    const double *sum_x = sum + op->in.c;
    const double pixels = (double)work->pixels;

    for (size_t c = 0; c < op->in.c; c++) {
        const double inv = op->inv_std[c];
        if (op->dscale)
            op->dscale[c] = (float)(sum_x[c] * inv);
        if (op->dshift)
            op->dshift[c] = (float)sum[c];
        slope[c] = (float)(sum_x[c] * inv * inv * work->norm.gain[c] / pixels);
        constant[c] = (float)(sum[c] * work->norm.gain[c] / pixels);
    }
}

static struct learner_kernel_norm_back back_of(const struct work *work)
{
    const struct learner_op *op = work->job->op;

    return (struct learner_kernel_norm_back){
        .norm = work->norm,
        .act = op->act != LEARNER_ACT_NONE,
        .x = op->x,
        .dy = op->dy,
        .y = op->y,
        .residual = op->residual,
        .dx = op->dx,
        .dresidual = op->dresidual,
        .dx_add = op->dx_add,
        .dresidual_add = op->dresidual_add,
        .mean = op->batch_mean,
        .slope = work->norm.gain + 2 * op->in.c,
        .constant = work->norm.gain + 3 * op->in.c,
    };
}

struct learner_kernel_norm_back blas_norm_back_of(const struct learner_op *op, size_t c,
                                                  size_t channels)
{
    struct learner_kernel_norm_back back = {
        .norm = {.channels = channels,
                 .stride = op->in.c,
                 .gain = op->x_gain + c,
                 .offset = op->x_offset + c},
        .act = op->x_act != LEARNER_ACT_NONE,
        .x = op->x + c,
        .dy = op->dx + c,
        .mean = op->x_mean + c,
    };

    blas_norm_bounds(&back.norm, op->x_act);
    return back;
}

void blas_norm_back_sums(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    struct work work = {.job = job,
                        .pixels = job->pass->n * op->in.h * op->in.w,
                        .norm = {.channels = op->in.c},
                        .back = blas_norm_back_of(op, 0, op->in.c)};

    learner_pool_run(job->blas->pool, reduce, &work);
    memcpy(op->back_sums, total_sums(&work), 2 * op->in.c * sizeof(double));
}

void blas_norm_backward(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    struct learner_pool *pool = job->blas->pool;
    float *shared = job->blas->shared;
    struct work work = work_of(job);

    fold(op, shared, shared + op->in.c);
    work.back = back_of(&work);
    work.fixed = job->pass->mode != LEARNER_TRAIN;
    if (work.fixed && !op->dscale && !op->dshift) {
        learner_pool_run(pool, apply, &work);
        return;
    }
    const double *sums = work.fixed ? NULL : op->back_sums;
    if (!sums) {
        learner_pool_run(pool, reduce, &work);
        sums = total_sums(&work);
    }
    use_sums(&work, sums, shared + 2 * op->in.c, shared + 3 * op->in.c);
    if (work.fixed)
        return;
    if (op->dresidual && !op->dresidual_add) { /* holds what the activation let pass */
        work.back.dy = op->dresidual;
        work.back.act = false;
    }
    work.back.dresidual = NULL;
    learner_pool_run(pool, apply, &work);
}
