/* Backend `blas`: all cores. Convolutions by im2col and OpenBLAS sgemm, one group of images per
 * member of the pool; weight gradients are summed per member and reduced in member order, so one
 * thread count always gives the same bytes. OpenBLAS itself is kept at one thread. */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "pool.h"

/* Target size of an im2col tile: half of a common L2 cache. */
#define TILE_FLOATS (128 * 1024)

struct blas {
    struct learner_device device;
    struct learner_pool *pool;
    float *tiles; /* [members][tile_floats] */
    size_t tile_floats;
    float *partial; /* [members][partial_floats], weight gradients */
    size_t partial_floats;
};

struct job {
    struct blas *blas;
    const struct learner_op *op;
    const struct learner_pass *pass;
};

static void blas_close(struct learner_device *device)
{
    struct blas *blas = (struct blas *)device;

    learner_pool_free(blas->pool);
    free(blas->tiles);
    free(blas->partial);
    free(blas);
}

static enum delta_status blas_open(struct learner_device **out, int threads,
                                   struct delta_error *err)
{
    struct blas *blas = delta_calloc(1, sizeof *blas);

    if (!blas)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for device 'blas'");
    blas->device.ops = &learner_device_blas;
    const enum delta_status st = learner_pool_new(&blas->pool, threads, err);
    if (st) {
        free(blas);
        return st;
    }
    openblas_set_num_threads(1);
    *out = &blas->device;
    return DELTA_OK;
}

static void *blas_alloc(struct learner_device *device, size_t bytes)
{
    (void)device;
    return delta_calloc_aligned(bytes, 1);
}

static void blas_release(struct learner_device *device, void *block)
{
    (void)device;
    free(block);
}

static bool blas_supports(const struct learner_device *device, const struct learner_op *op)
{
    (void)device;
    (void)op;
    return true;
}

static size_t blas_memory_bytes(const struct learner_device *device)
{
    const struct blas *blas = (const struct blas *)device;

    return learner_pool_members(blas->pool) * (blas->tile_floats + blas->partial_floats) *
           sizeof(float);
}

static size_t taps(const struct learner_op *op)
{
    return op->in.c * op->kernel * op->kernel;
}

/* Rows of output whose im2col fits the tile; at least one. */
static size_t tile_rows(const struct learner_op *op)
{
    const size_t rows = TILE_FLOATS / (taps(op) * op->out.w);

    if (rows < 1)
        return 1;
    return rows < op->out.h ? rows : op->out.h;
}

static bool is_pointwise(const struct learner_op *op)
{
    return op->kernel == 1 && op->stride == 1 && op->pad == 0;
}

static enum delta_status grow(float **block, size_t *have, size_t want, size_t members,
                              struct delta_error *err)
{
    size_t count;

    if (want <= *have)
        return DELTA_OK;
    free(*block);
    *have = 0;
    *block =
        delta_size_mul(want, members, &count) ? delta_calloc_aligned(count, sizeof(float)) : NULL;
    if (!*block)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for the scratch space of a convolution");
    *have = want;
    return DELTA_OK;
}

static enum delta_status blas_prepare(struct learner_device *device, const struct learner_op *op,
                                      size_t batch, bool train, struct delta_error *err)
{
    struct blas *blas = (struct blas *)device;
    const size_t members = learner_pool_members(blas->pool);
    enum delta_status st = DELTA_OK;

    (void)batch;
    if (op->kind != LEARNER_OP_CONV && op->kind != LEARNER_OP_CONV_NORM)
        return DELTA_OK;
    st = grow(&blas->tiles, &blas->tile_floats, taps(op) * tile_rows(op) * op->out.w, members, err);
    if (!st && train)
        st = grow(&blas->partial, &blas->partial_floats, taps(op) * op->out.c, members, err);
    return st;
}

/* Row `tap` of the matrix [taps, rows * out.w] for output rows first..end of one image. */
static void im2col_row(const struct learner_op *op, const float *plane, size_t ky, size_t kx,
                       size_t first, size_t end, float *out)
{
    const size_t w = op->in.w, ow = op->out.w, s = op->stride;

    for (size_t oy = first; oy < end; oy++, out += ow) {
        const size_t y = oy * s + ky - op->pad; /* wraps below zero: then too large */
        if (y >= op->in.h) {
            memset(out, 0, ow * sizeof *out);
            continue;
        }
        const float *row = plane + y * w;
        for (size_t ox = 0; ox < ow; ox++) {
            const size_t x = ox * s + kx - op->pad;
            out[ox] = x < w ? row[x] : 0;
        }
    }
}

static void im2col(const struct learner_op *op, const float *x, size_t first, size_t end,
                   float *out)
{
    const size_t k = op->kernel, count = (end - first) * op->out.w;

    for (size_t c = 0; c < op->in.c; c++)
        for (size_t t = 0; t < k * k; t++, out += count)
            im2col_row(op, x + c * op->in.h * op->in.w, t / k, t % k, first, end, out);
}

/* The transpose of im2col: adds every entry to the pixel that it was copied from. */
static void col2im(const struct learner_op *op, const float *col, size_t first, size_t end,
                   float *dx)
{
    const size_t k = op->kernel, w = op->in.w, ow = op->out.w, s = op->stride;

    for (size_t c = 0; c < op->in.c; c++)
        for (size_t t = 0; t < k * k; t++)
            for (size_t oy = first; oy < end; oy++, col += ow) {
                const size_t y = oy * s + t / k - op->pad;
                if (y >= op->in.h)
                    continue;
                float *row = dx + (c * op->in.h + y) * w;
                for (size_t ox = 0; ox < ow; ox++) {
                    const size_t x = ox * s + t % k - op->pad;
                    if (x < w)
                        row[x] += col[ox];
                }
            }
}

static void activate(const struct learner_op *op, const float *x, const float *residual, float *y,
                     size_t count, float scale, float shift)
{
    const bool relu = op->act == LEARNER_ACT_RELU;

    for (size_t p = 0; p < count; p++) {
        float v = x[p] * scale + shift;
        if (residual)
            v += residual[p];
        y[p] = relu && v < 0 ? 0 : v;
    }
}

static void conv_forward(void *context, size_t member, size_t members)
{
    const struct job *job = context;
    const struct learner_op *op = job->op;
    const size_t plane = op->out.h * op->out.w, k = taps(op), rows = tile_rows(op);
    float *tile = job->blas->tiles + member * job->blas->tile_floats;
    size_t first, end;

    learner_pool_share(job->pass->n, member, members, &first, &end);
    for (size_t i = first; i < end; i++) {
        const float *x = op->x + i * learner_shape_count(&op->in);
        for (size_t row = 0; row < op->out.h; row += rows) {
            const size_t stop = row + rows < op->out.h ? row + rows : op->out.h;
            const size_t count = (stop - row) * op->out.w, at = row * op->out.w;
            float *y = op->y + i * op->out.c * plane + at;
            const float *columns = x + at;
            size_t ldb = plane;
            if (!is_pointwise(op)) {
                im2col(op, x, row, stop, tile);
                columns = tile;
                ldb = count;
            }
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)op->out.c, (int)count,
                        (int)k, 1, op->weight, (int)k, columns, (int)ldb, 0, y, (int)plane);
            for (size_t c = 0; op->kind == LEARNER_OP_CONV_NORM && c < op->out.c; c++) {
                const float scale = op->scale[c] * op->inv_std[c];
                activate(op, y + c * plane,
                         op->residual ? op->residual + (i * op->out.c + c) * plane + at : NULL,
                         y + c * plane, count, scale, op->shift[c] - op->mean[c] * scale);
            }
        }
    }
}

static void backward_image(const struct job *job, size_t i, float *tile, float *dweight)
{
    const struct learner_op *op = job->op;
    const size_t plane = op->out.h * op->out.w, k = taps(op), rows = tile_rows(op);
    const float *x = op->x + i * learner_shape_count(&op->in);
    float *dx = op->dx ? op->dx + i * learner_shape_count(&op->in) : NULL;

    if (dx && !op->dx_add)
        memset(dx, 0, learner_shape_count(&op->in) * sizeof *dx);
    for (size_t row = 0; row < op->out.h; row += rows) {
        const size_t stop = row + rows < op->out.h ? row + rows : op->out.h;
        const size_t count = (stop - row) * op->out.w;
        const float *dy = op->dy + i * op->out.c * plane + row * op->out.w;
        im2col(op, x, row, stop, tile);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)op->out.c, (int)k, (int)count, 1,
                    dy, (int)plane, tile, (int)count, 1, dweight, (int)k);
        if (!dx)
            continue;
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)k, (int)count, (int)op->out.c, 1,
                    op->weight, (int)k, dy, (int)plane, 0, tile, (int)count);
        col2im(op, tile, row, stop, dx);
    }
}

static void conv_backward(void *context, size_t member, size_t members)
{
    const struct job *job = context;
    struct blas *blas = job->blas;
    float *tile = blas->tiles + member * blas->tile_floats;
    float *dweight = blas->partial + member * blas->partial_floats;
    size_t first, end;

    memset(dweight, 0, taps(job->op) * job->op->out.c * sizeof *dweight);
    learner_pool_share(job->pass->n, member, members, &first, &end);
    for (size_t i = first; i < end; i++)
        backward_image(job, i, tile, dweight);
}

static void conv_reduce(void *context, size_t member, size_t members)
{
    const struct job *job = context;
    const struct blas *blas = job->blas;
    size_t first, end;

    learner_pool_share(taps(job->op) * job->op->out.c, member, members, &first, &end);
    for (size_t e = first; e < end; e++) {
        float sum = blas->partial[e];
        for (size_t m = 1; m < members; m++)
            sum += blas->partial[m * blas->partial_floats + e];
        job->op->dweight[e] = sum;
    }
}

static void fix_statistics(const struct learner_op *op)
{
    for (size_t c = 0; c < op->out.c; c++) {
        op->batch_mean[c] = op->mean[c];
        op->inv_std[c] = (float)(1.0 / sqrt((double)op->var[c] + LEARNER_NORM_EPSILON));
    }
}

/* Of channel c over the batch; moves the running statistics. Two passes, sums in double. */
static void batch_statistics(const struct learner_op *op, size_t n, size_t c)
{
    const size_t plane = op->in.h * op->in.w, step = op->in.c * plane;
    const double count = (double)n * (double)plane;
    double mean = 0, var = 0;

    for (size_t i = 0; i < n; i++) {
        const float *x = op->x + i * step + c * plane;
        double sum = 0;
        for (size_t p = 0; p < plane; p++)
            sum += x[p];
        mean += sum;
    }
    mean /= count;
    for (size_t i = 0; i < n; i++) {
        const float *x = op->x + i * step + c * plane;
        double sum = 0;
        for (size_t p = 0; p < plane; p++)
            sum += (x[p] - mean) * (x[p] - mean);
        var += sum;
    }
    const double unbiased = count > 1 ? var / (count - 1) : 0;
    var /= count;
    op->mean[c] += (float)(LEARNER_NORM_MOMENTUM * (mean - op->mean[c]));
    op->var[c] += (float)(LEARNER_NORM_MOMENTUM * (unbiased - op->var[c]));
    op->batch_mean[c] = (float)mean;
    op->inv_std[c] = (float)(1.0 / sqrt(var + LEARNER_NORM_EPSILON));
}

static void norm_forward(void *context, size_t member, size_t members)
{
    const struct job *job = context;
    const struct learner_op *op = job->op;
    const size_t plane = op->in.h * op->in.w, n = job->pass->n;
    size_t first, end;

    learner_pool_share(op->in.c, member, members, &first, &end);
    for (size_t c = first; c < end; c++) {
        if (job->pass->mode == LEARNER_TRAIN)
            batch_statistics(op, n, c);
        const float scale = op->scale[c] * op->inv_std[c];
        const float shift = op->shift[c] - op->batch_mean[c] * scale;
        for (size_t i = 0; i < n; i++) {
            const size_t at = (i * op->in.c + c) * plane;
            activate(op, op->x + at, op->residual ? op->residual + at : NULL, op->y + at, plane,
                     scale, shift);
        }
    }
}

/* dresidual = gradient behind the activation, and its sums with 1 and x^ = (x - mean) / std. */
static void norm_gather(const struct learner_op *op, size_t at, size_t plane, float mean,
                        double *sum, double *sum_hat)
{
    float part = 0, part_hat = 0;

    for (size_t p = at; p < at + plane; p++) {
        const float g = op->act == LEARNER_ACT_NONE || op->y[p] > 0 ? op->dy[p] : 0;
        part += g;
        part_hat += g * (op->x[p] - mean);
        if (op->dresidual)
            op->dresidual[p] = op->dresidual_add ? op->dresidual[p] + g : g;
    }
    *sum += part;
    *sum_hat += part_hat;
}

static void norm_backward(void *context, size_t member, size_t members)
{
    const struct job *job = context;
    const struct learner_op *op = job->op;
    const size_t plane = op->in.h * op->in.w, n = job->pass->n;
    const double count = (double)n * (double)plane;
    size_t first, end;

    learner_pool_share(op->in.c, member, members, &first, &end);
    for (size_t c = first; c < end; c++) {
        const float mean = op->batch_mean[c], inv = op->inv_std[c];
        double sum = 0, sum_hat = 0;
        for (size_t i = 0; i < n; i++)
            norm_gather(op, (i * op->in.c + c) * plane, plane, mean, &sum, &sum_hat);
        sum_hat *= inv;
        op->dscale[c] = (float)sum_hat;
        op->dshift[c] = (float)sum;
        const bool batch = job->pass->mode == LEARNER_TRAIN;
        const float gain = op->scale[c] * inv;
        const float offset = batch ? (float)(sum / count) : 0;
        const float slope = batch ? (float)(sum_hat / count) * inv : 0;
        for (size_t i = 0; i < n; i++) {
            const size_t at = (i * op->in.c + c) * plane;
            for (size_t p = at; p < at + plane; p++) {
                const float g = op->act == LEARNER_ACT_NONE || op->y[p] > 0 ? op->dy[p] : 0;
                const float d = (g - offset - slope * (op->x[p] - mean)) * gain;
                op->dx[p] = op->dx_add ? op->dx[p] + d : d;
            }
        }
    }
}

static void pool_forward(const struct learner_op *op, size_t n)
{
    const size_t plane = op->in.h * op->in.w;

    for (size_t i = 0; i < n * op->in.c; i++) {
        float sum = 0;
        for (size_t p = 0; p < plane; p++)
            sum += op->x[i * plane + p];
        op->y[i] = sum / (float)plane;
    }
}

static void pool_backward(const struct learner_op *op, size_t n)
{
    const size_t plane = op->in.h * op->in.w;

    for (size_t i = 0; i < n * op->in.c; i++) {
        const float d = op->dy[i] / (float)plane;
        for (size_t p = i * plane; p < (i + 1) * plane; p++)
            op->dx[p] = op->dx_add ? op->dx[p] + d : d;
    }
}

static void linear_forward(const struct learner_op *op, size_t n)
{
    const int in = (int)op->in.c, out = (int)op->out.c;

    for (size_t i = 0; i < n; i++)
        memcpy(op->y + i * op->out.c, op->bias, op->out.c * sizeof(float));
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, out, in, 1, op->x, in, op->weight,
                in, 1, op->y, out);
}

static void linear_backward(const struct learner_op *op, size_t n)
{
    const int in = (int)op->in.c, out = (int)op->out.c;

    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, out, in, (int)n, 1, op->dy, out, op->x, in,
                0, op->dweight, in);
    memset(op->dbias, 0, op->out.c * sizeof(float));
    for (size_t i = 0; i < n; i++)
        for (size_t o = 0; o < op->out.c; o++)
            op->dbias[o] += op->dy[i * op->out.c + o];
    if (op->dx)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, in, out, 1, op->dy, out,
                    op->weight, in, op->dx_add ? 1 : 0, op->dx, in);
}

static void run_forward(struct job *job)
{
    const struct learner_op *op = job->op;
    struct learner_pool *pool = job->blas->pool;

    switch (op->kind) {
    case LEARNER_OP_CONV_NORM:
        fix_statistics(op);
        learner_pool_run(pool, conv_forward, job);
        break;
    case LEARNER_OP_CONV:
        learner_pool_run(pool, conv_forward, job);
        break;
    case LEARNER_OP_NORM:
        if (job->pass->mode != LEARNER_TRAIN)
            fix_statistics(op);
        learner_pool_run(pool, norm_forward, job);
        break;
    case LEARNER_OP_POOL:
        pool_forward(op, job->pass->n);
        break;
    case LEARNER_OP_LINEAR:
        linear_forward(op, job->pass->n);
        break;
    }
}

static void blas_run(struct learner_device *device, const struct learner_op *op,
                     const struct learner_pass *pass)
{
    struct blas *blas = (struct blas *)device;
    struct job job = {blas, op, pass};

    if (!pass->backward) {
        run_forward(&job);
        return;
    }
    switch (op->kind) {
    case LEARNER_OP_CONV:
        learner_pool_run(blas->pool, conv_backward, &job);
        learner_pool_run(blas->pool, conv_reduce, &job);
        break;
    case LEARNER_OP_NORM:
        learner_pool_run(blas->pool, norm_backward, &job);
        break;
    case LEARNER_OP_POOL:
        pool_backward(op, pass->n);
        break;
    case LEARNER_OP_LINEAR:
        linear_backward(op, pass->n);
        break;
    case LEARNER_OP_CONV_NORM: /* inference only */
        break;
    }
}

const struct learner_device_ops learner_device_blas = {
    .name = "blas",
    .open = blas_open,
    .close = blas_close,
    .alloc = blas_alloc,
    .release = blas_release,
    .supports = blas_supports,
    .prepare = blas_prepare,
    .run = blas_run,
    .memory_bytes = blas_memory_bytes,
};
