/* Convolutions as matrix products: the patch of each output pixel is a row (im2col), the weights
 * are the other factor. Images are shared among the members; weight gradients are summed per
 * member and reduced in member order, so that one thread count always gives the same bytes. */
#include <cblas.h>
#include <string.h>

#include "blas.h"

#define PATCH_ROWS 256 /* pixels of one product */

static size_t patch_size(const struct learner_op *op)
{
    return op->kernel * op->kernel * op->in.c;
}

static enum delta_status prepare(struct blas *blas, const struct learner_op *op, bool train,
                                 struct delta_error *err)
{
    const size_t patch = patch_size(op), weights = patch * op->out.c;

    return blas_scratch(blas, PATCH_ROWS * patch + (train ? weights : 0), weights, op, err);
}

/* [co, ci, k, k] -> [co, k, k, ci] */
static void pack_weights(const struct learner_op *op, float *packed)
{
    const size_t taps = op->kernel * op->kernel;

    for (size_t co = 0; co < op->out.c; co++)
        for (size_t t = 0; t < taps; t++)
            for (size_t ci = 0; ci < op->in.c; ci++)
                *packed++ = op->weight[(co * op->in.c + ci) * taps + t];
}

/* Visits the taps of `rows` output pixels from `pixel` on (counted through all images). */
static void patches(const struct learner_op *op, size_t pixel, size_t rows, float *patch, float *dx)
{
    const size_t k = op->kernel, c = op->in.c, plane = op->out.h * op->out.w;

    for (size_t r = 0; r < rows; r++) {
        const size_t image = (pixel + r) / plane, o = (pixel + r) % plane;
        for (size_t t = 0; t < k * k; t++, patch += c) {
            const size_t y = o / op->out.w * op->stride + t / k - op->pad;
            const size_t x = o % op->out.w * op->stride + t % k - op->pad;
            const bool inside = y < op->in.h && x < op->in.w; /* wraps round below zero */
            const size_t at = ((image * op->in.h + y) * op->in.w + x) * c;
            if (dx && inside)
                for (size_t i = 0; i < c; i++)
                    dx[at + i] += patch[i];
            else if (!dx && inside)
                for (size_t i = 0; i < c; i++)
                    patch[i] = op->x_gain ? blas_activate(op->x_act, op->x[at + i] * op->x_gain[i] +
                                                                         op->x_offset[i])
                                          : op->x[at + i];
            else if (!dx)
                memset(patch, 0, c * sizeof *patch);
        }
    }
}

enum part { FORWARD, DX, DWEIGHT };

struct work {
    const struct blas_job *job;
    enum part part;
};

static void product(const struct blas_job *job, enum part part, size_t pixel, size_t rows,
                    float *patch, float *dweight)
{
    const struct learner_op *op = job->op;
    const int size = (int)patch_size(op), out = (int)op->out.c, m = (int)rows;

    if (part == DX) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, size, out, 1,
                    op->dy + pixel * op->out.c, out, job->blas->shared, size, 0, patch, size);
        patches(op, pixel, rows, patch, op->dx);
        return;
    }
    patches(op, pixel, rows, patch, NULL);
    if (part == DWEIGHT) {
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, out, size, m, 1,
                    op->dy + pixel * op->out.c, out, patch, size, 1, dweight, size);
        return;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, out, size, 1, patch, size,
                job->blas->shared, size, 0, op->y + pixel * op->out.c, out);
    if (op->kind == LEARNER_OP_CONV_NORM)
        blas_norm_finish(job, pixel, rows);
}

static void run_images(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    const struct learner_op *op = work->job->op;
    const struct blas *blas = work->job->blas;
    float *patch = blas->scratch + member * blas->scratch_floats;
    float *dweight = patch + PATCH_ROWS * patch_size(op);
    const size_t plane = op->out.h * op->out.w, in = learner_shape_count(&op->in);
    size_t first, end;

    learner_pool_share(work->job->pass->n, member, members, &first, &end);
    if (work->part == DX && !op->dx_add)
        memset(op->dx + first * in, 0, (end - first) * in * sizeof(float));
    if (work->part == DWEIGHT)
        memset(dweight, 0, patch_size(op) * op->out.c * sizeof(float));
    for (size_t pixel = first * plane; pixel < end * plane; pixel += PATCH_ROWS) {
        const size_t left = end * plane - pixel;
        product(work->job, work->part, pixel, left < PATCH_ROWS ? left : PATCH_ROWS, patch,
                dweight);
    }
}

static void run(const struct blas_job *job, enum part part)
{
    struct work work = {job, part};

    pack_weights(job->op, job->blas->shared);
    learner_pool_run(job->blas->pool, run_images, &work);
}

static void forward(const struct blas_job *job)
{
    run(job, FORWARD);
    blas_conv_sums(job);
}

static void backward_data(const struct blas_job *job)
{
    run(job, DX);
}

static void backward_weight(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    const struct blas *blas = job->blas;
    const size_t taps = op->kernel * op->kernel, filter = patch_size(op);
    const size_t rows = op->live ? op->live_count : op->out.c;
    const float *first = blas->scratch + PATCH_ROWS * filter;

    run(job, DWEIGHT);
    for (size_t r = 0; r < rows; r++) {
        const size_t co = op->live ? op->live[r] : r;
        for (size_t ci = 0; ci < op->in.c; ci++)
            for (size_t t = 0; t < taps; t++) {
                float sum = 0;
                for (size_t m = 0; m < learner_pool_members(blas->pool); m++)
                    sum += first[m * blas->scratch_floats + co * filter + t * op->in.c + ci];
                op->dweight[(co * op->in.c + ci) * taps + t] = sum;
            }
    }
}

const struct blas_conv blas_conv_gemm = {
    .name = "gemm",
    .prepare = prepare,
    .forward = forward,
    .dx = backward_data,
    .dweight = backward_weight,
};
