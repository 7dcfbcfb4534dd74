/* Kernels of batch norms and pools. Part of cuda_kernels_body.h. */
#ifndef LEARNER_DEVICE_CUDA_KERNELS_NORM_H
#define LEARNER_DEVICE_CUDA_KERNELS_NORM_H

#include "cuda_kernels_body.h"

/* ---- walks over rows ---- */

struct gpu_place {
    unsigned lanes, lane, channel, row_block, row, step;
    bool idle;
};

GPU_INLINE struct gpu_place gpu_place_of(unsigned block, unsigned thread, const struct gpu_walk *w)
{
    struct gpu_place p;

    p.lanes = GPU_THREADS / w->tile;
    p.lane = thread / w->tile;
    p.row_block = block % w->row_blocks;
    p.channel = (block / w->row_blocks * w->tile + thread % w->tile) * w->width;
    p.row = p.row_block * p.lanes + p.lane;
    p.step = w->row_blocks * p.lanes;
    p.idle = p.lane >= p.lanes || p.channel >= w->c;
    return p;
}

/* Rows that a thread asks for before it stores anything, so that memory is not waited for one row
 * at a time. */
#define GPU_ROWS 2u

/* `of` for the width and the type that the arguments have, both of them constants there. */
#define GPU_BY_TYPE(of, ...)                                                                       \
    if (a.walk.width == 1)                                                                         \
        of(&a, block, a.narrow, 1, __VA_ARGS__);                                                   \
    else if (a.narrow)                                                                             \
        of(&a, block, 1, 4, __VA_ARGS__);                                                          \
    else                                                                                           \
        of(&a, block, 0, 4, __VA_ARGS__)

GPU_INLINE struct gpu_wide gpu_zeros(void)
{
    struct gpu_wide out;

    out.v[0] = out.v[1] = out.v[2] = out.v[3] = 0;
    return out;
}

/* Numbers of a thread's channels, which may begin anywhere. */
GPU_INLINE struct gpu_wide gpu_of_channels(const float *of, unsigned channel, unsigned width)
{
    struct gpu_wide out = gpu_zeros();

    GPU_UNROLL
    for (unsigned j = 0; j < 4; j++)
        if (j < width)
            out.v[j] = of[channel + j];
    return out;
}

/* ---- channel by channel ---- */

GPU_INLINE void gpu_affine_walk(const struct gpu_affine *a, unsigned block, unsigned narrow,
                                unsigned width, bool residual)
{
    GPU_EACH_THREAD (t) {
        const struct gpu_place p = gpu_place_of(block, t, &a->walk);
        if (p.idle)
            continue;
        const struct gpu_wide gain = gpu_of_channels(a->gain, p.channel, width);
        const struct gpu_wide offset = gpu_of_channels(a->offset, p.channel, width);
        for (size_t row = p.row; row < a->walk.rows; row += GPU_ROWS * p.step) {
            struct gpu_wide v[GPU_ROWS], r[GPU_ROWS];
            GPU_UNROLL
            for (unsigned k = 0; k < GPU_ROWS; k++) {
                const size_t at = (row + k * p.step) * a->walk.c + p.channel;
                v[k] = r[k] = gpu_zeros();
                if (row + k * p.step < a->walk.rows) {
                    v[k] = gpu_get_wide(a->x, at, narrow, width);
                    if (residual)
                        r[k] = gpu_get_wide(a->residual, at, narrow, width);
                }
            }
            GPU_UNROLL
            for (unsigned k = 0; k < GPU_ROWS; k++) {
                const size_t at = (row + k * p.step) * a->walk.c + p.channel;
                GPU_UNROLL
                for (unsigned j = 0; j < 4; j++)
                    v[k].v[j] =
                        gpu_activate(a->act, v[k].v[j] * gain.v[j] + offset.v[j] + r[k].v[j]);
                if (row + k * p.step < a->walk.rows)
                    gpu_put_wide(a->y, at, narrow, width, v[k]);
            }
        }
    }
}

GPU_KERNEL(affine, gpu_affine)
{
    (void)blocks;
    GPU_BY_TYPE(gpu_affine_walk, a.residual != NULL);
}

/* Two sums of `width` channels of every thread; the first lane adds those of its column. */
GPU_INLINE void gpu_column(double *out, const float (*shared)[8], unsigned block, unsigned thread,
                           const struct gpu_walk *walk, unsigned width)
{
    const struct gpu_place p = gpu_place_of(block, thread, walk);

    if (p.idle || p.lane != 0)
        return;
    for (unsigned j = 0; j < width; j++) {
        double sum = 0, other = 0;
        for (unsigned lane = 0; lane < p.lanes; lane++) {
            sum += shared[thread + lane * walk->tile][j];
            other += shared[thread + lane * walk->tile][4 + j];
        }
        out[(size_t)p.row_block * 2 * walk->c + p.channel + j] = sum;
        out[(size_t)p.row_block * 2 * walk->c + walk->c + p.channel + j] = other;
    }
}

GPU_INLINE void gpu_moments_walk(const struct gpu_moments *a, unsigned block, unsigned narrow,
                                 unsigned width, float (*shared)[8])
{
    GPU_EACH_THREAD (t) {
        const struct gpu_place p = gpu_place_of(block, t, &a->walk);
        struct gpu_wide sum = gpu_zeros(), square = gpu_zeros(), mean = gpu_zeros();
        if (!p.idle)
            mean = gpu_of_channels(a->mean, p.channel, width);
        GPU_UNROLL_8
        for (size_t row = p.row; row < (p.idle ? 0 : a->walk.rows); row += p.step) {
            const struct gpu_wide v =
                gpu_get_wide(a->x, row * a->walk.c + p.channel, narrow, width);
            GPU_UNROLL
            for (unsigned j = 0; j < 4; j++) {
                const float d = v.v[j] - mean.v[j];
                sum.v[j] += d;
                square.v[j] += d * d;
            }
        }
        GPU_UNROLL
        for (unsigned j = 0; j < 4; j++) {
            shared[t][j] = sum.v[j];
            shared[t][4 + j] = square.v[j];
        }
    }
    GPU_EACH_THREAD (t)
        gpu_column(a->partial, (const float(*)[8])shared, block, t, &a->walk, width);
}

GPU_KERNEL(moments, gpu_moments)
{
    GPU_SHARED float shared[GPU_THREADS][8];

    (void)blocks;
    GPU_BY_TYPE(gpu_moments_walk, shared);
}

/* A block adds up GPU_TOTALS columns, 32 threads each. */
GPU_KERNEL(total, gpu_total)
{
    GPU_SHARED double shared[GPU_THREADS];

    (void)blocks;
    GPU_EACH_THREAD (t) {
        const unsigned column = block * GPU_TOTALS + t % GPU_TOTALS;
        double sum = 0;
        GPU_UNROLL_4
        for (size_t r = t / GPU_TOTALS; r < (column < 2 * a.c ? a.row_blocks : 0);
             r += GPU_THREADS / GPU_TOTALS)
            sum += a.partial[r * 2 * a.c + column];
        shared[t] = sum;
    }
    GPU_EACH_THREAD (t) {
        const unsigned column = block * GPU_TOTALS + t;
        double sum = 0;
        if (t >= GPU_TOTALS || column >= 2 * a.c)
            continue;
        for (unsigned r = 0; r < GPU_THREADS / GPU_TOTALS; r++)
            sum += shared[r * GPU_TOTALS + t];
        a.sums[column] = sum;
        if (column < a.c && a.dshift)
            a.dshift[column] = (float)sum;
        if (column >= a.c && a.dscale)
            a.dscale[column - a.c] = (float)sum;
    }
}

/* Mean and 1/std of this pass; with sums, of the batch, and the running ones move (unbiased
 * variance there, as PyTorch does). */
GPU_KERNEL(norm_finish, gpu_norm_finish)
{
    GPU_EACH (c, a.c) {
        double mean = a.mean[c], var = a.var[c];
        if (a.sums) {
            const double shift = a.sums[c] / a.rows;
            const double square = a.sums[a.c + c] - shift * a.sums[c];
            const double all = square > 0 ? square : square == square ? 0 : square;
            mean += shift;
            var = all / a.rows;
            a.mean[c] += (float)(0.1 * (mean - a.mean[c]));
            a.var[c] += (float)(0.1 * ((a.rows > 1 ? all / (a.rows - 1) : 0) - a.var[c]));
        }
        const float inv_std = (float)(1.0 / sqrt(var + 1e-5));
        const float gain = a.scale[c] * inv_std;
        a.batch_mean[c] = (float)mean;
        a.inv_std[c] = inv_std;
        a.gain[c] = gain;
        a.offset[c] = a.shift[c] - (float)mean * gain;
    }
}

/* What a thread keeps of its channels. */
struct gpu_norm_channels {
    struct gpu_wide mean, inv_std, gain, offset;
};

GPU_INLINE struct gpu_norm_channels gpu_norm_channels_of(const struct gpu_norm_back *a,
                                                         unsigned channel, unsigned width)
{
    struct gpu_norm_channels k;

    k.mean = gpu_of_channels(a->batch_mean, channel, width);
    k.inv_std = gpu_of_channels(a->inv_std, channel, width);
    k.gain = gpu_of_channels(a->scale, channel, width);
    k.offset = gpu_of_channels(a->shift, channel, width);
    GPU_UNROLL
    for (unsigned j = 0; j < 4; j++) { /* as norm_finish has them */
        k.gain.v[j] *= k.inv_std.v[j];
        k.offset.v[j] -= k.mean.v[j] * k.gain.v[j];
    }
    return k;
}

/* The gradient before the activation, and x normalised. */
GPU_INLINE void gpu_norm_gradient(struct gpu_wide *g, struct gpu_wide *hat,
                                  const struct gpu_norm_back *a, const struct gpu_norm_channels *k,
                                  size_t at, unsigned narrow, unsigned width)
{
    struct gpu_wide y = gpu_zeros(), r = gpu_zeros();

    *g = gpu_get_wide(a->dy, at, narrow, width);
    *hat = gpu_zeros();
    if (a->x)
        *hat = gpu_get_wide(a->x, at, narrow, width);
    if (a->y)
        y = gpu_get_wide(a->y, at, narrow, width);
    else if (a->residual)
        r = gpu_get_wide(a->residual, at, narrow, width);
    GPU_UNROLL
    for (unsigned j = 0; j < 4; j++) {
        const float out = a->y ? y.v[j] : hat->v[j] * k->gain.v[j] + k->offset.v[j] + r.v[j];
        g->v[j] = gpu_passes(a->act, out) ? g->v[j] : 0;
        hat->v[j] = a->x ? (hat->v[j] - k->mean.v[j]) * k->inv_std.v[j] : 0;
    }
}

GPU_INLINE void gpu_norm_back_sums_walk(const struct gpu_norm_back *a, unsigned block,
                                        unsigned narrow, unsigned width, float (*shared)[8])
{
    GPU_EACH_THREAD (t) {
        const struct gpu_place p = gpu_place_of(block, t, &a->walk);
        const struct gpu_norm_channels k = gpu_norm_channels_of(a, p.idle ? 0 : p.channel, width);
        struct gpu_wide sum = gpu_zeros(), product = gpu_zeros();
        GPU_UNROLL_4
        for (size_t row = p.row; row < (p.idle ? 0 : a->walk.rows); row += p.step) {
            struct gpu_wide g, hat;
            gpu_norm_gradient(&g, &hat, a, &k, row * a->walk.c + p.channel, narrow, width);
            GPU_UNROLL
            for (unsigned j = 0; j < 4; j++) {
                sum.v[j] += g.v[j];
                product.v[j] += g.v[j] * hat.v[j];
            }
        }
        GPU_UNROLL
        for (unsigned j = 0; j < 4; j++) {
            shared[t][j] = sum.v[j];
            shared[t][4 + j] = product.v[j];
        }
    }
    GPU_EACH_THREAD (t)
        gpu_column(a->partial, (const float(*)[8])shared, block, t, &a->walk, width);
}

GPU_KERNEL(norm_back_sums, gpu_norm_back)
{
    GPU_SHARED float shared[GPU_THREADS][8];

    (void)blocks;
    GPU_BY_TYPE(gpu_norm_back_sums_walk, shared);
}

GPU_INLINE void gpu_norm_store(const struct gpu_norm_back *a, const struct gpu_norm_channels *k,
                               const struct gpu_wide *g, const struct gpu_wide *hat,
                               const struct gpu_wide *of_g, const struct gpu_wide *of_hat,
                               size_t at, unsigned narrow, unsigned width)
{
    struct gpu_wide to = gpu_zeros();

    if (a->dresidual && a->dresidual_add)
        to = gpu_get_wide(a->dresidual, at, narrow, width);
    GPU_UNROLL
    for (unsigned j = 0; j < 4; j++)
        to.v[j] += g->v[j];
    if (a->dresidual)
        gpu_put_wide(a->dresidual, at, narrow, width, to);
    to = gpu_zeros();
    if (a->dx_add)
        to = gpu_get_wide(a->dx, at, narrow, width);
    GPU_UNROLL
    for (unsigned j = 0; j < 4; j++)
        to.v[j] += (g->v[j] - (of_g->v[j] + hat->v[j] * of_hat->v[j])) * k->gain.v[j];
    gpu_put_wide(a->dx, at, narrow, width, to);
}

GPU_INLINE void gpu_norm_back_walk(const struct gpu_norm_back *a, unsigned block, unsigned narrow,
                                   unsigned width, bool batch)
{
    GPU_EACH_THREAD (t) {
        const struct gpu_place p = gpu_place_of(block, t, &a->walk);
        if (p.idle)
            continue;
        const struct gpu_norm_channels k = gpu_norm_channels_of(a, p.channel, width);
        struct gpu_wide of_g = gpu_zeros(), of_hat = gpu_zeros();
        for (unsigned j = 0; batch && j < width; j++) {
            of_g.v[j] = (float)(a->sums[p.channel + j] * a->share);
            of_hat.v[j] = (float)(a->sums[a->walk.c + p.channel + j] * a->share);
        }
        for (size_t row = p.row; row < a->walk.rows; row += GPU_ROWS * p.step) {
            struct gpu_wide g[GPU_ROWS], hat[GPU_ROWS];
            GPU_UNROLL
            for (unsigned i = 0; i < GPU_ROWS; i++)
                if (row + i * p.step < a->walk.rows)
                    gpu_norm_gradient(&g[i], &hat[i], a, &k,
                                      (row + i * p.step) * a->walk.c + p.channel, narrow, width);
            GPU_UNROLL
            for (unsigned i = 0; i < GPU_ROWS; i++)
                if (row + i * p.step < a->walk.rows)
                    gpu_norm_store(a, &k, &g[i], &hat[i], &of_g, &of_hat,
                                   (row + i * p.step) * a->walk.c + p.channel, narrow, width);
        }
    }
}

GPU_KERNEL(norm_back, gpu_norm_back)
{
    (void)blocks;
    GPU_BY_TYPE(gpu_norm_back_walk, a.sums != NULL);
}

/* ---- pools ---- */

GPU_KERNEL(pool, gpu_pool)
{
    GPU_EACH (i, (size_t)a.n * a.c) {
        const size_t first = i / a.c * a.plane * a.c + i % a.c;
        float sum = 0;
        for (size_t p = 0; p < a.plane; p++)
            sum += gpu_get(a.x, first + p * a.c, a.narrow);
        a.y[i] = sum / (float)a.plane;
    }
}

GPU_KERNEL(pool_back, gpu_pool_back)
{
    GPU_EACH (i, (size_t)a.n * a.plane * a.c) {
        const unsigned at = (unsigned)i, image = at / (a.plane * a.c);
        const float d = a.dy[image * a.c + at % a.c] / (float)a.plane;
        gpu_put(a.dx, i, a.narrow, a.add ? gpu_get(a.dx, i, a.narrow) + d : d);
    }
}

/* The first of equal values wins, as in PyTorch; NaN wins over everything. */
GPU_INLINE long gpu_max_tap(const struct gpu_max_pool *a, size_t image, unsigned oy, unsigned ox,
                            size_t c)
{
    const struct gpu_window *w = &a->window;
    float best_value = 0;
    long best = -1;

    for (unsigned ky = 0; ky < w->kernel; ky++)
        for (unsigned kx = 0; kx < w->kernel; kx++) {
            const long at = gpu_tap(w, oy, ox, ky, kx);
            if (at < 0)
                continue;
            const float v = gpu_get(a->x, (image * w->h * w->w + (size_t)at) * w->c + c, a->narrow);
            if (best < 0 || v > best_value || v != v) {
                best = at;
                best_value = v;
            }
        }
    return best;
}

GPU_KERNEL(max_pool, gpu_max_pool)
{
    const size_t plane = (size_t)a.window.out_h * a.window.out_w;

    GPU_EACH (i, a.window.n * plane * a.window.c) {
        const size_t c = i % a.window.c, pixel = i / a.window.c, image = pixel / plane;
        const unsigned o = (unsigned)(pixel % plane);
        const long at = gpu_max_tap(&a, image, o / a.window.out_w, o % a.window.out_w, c);
        const size_t from = (image * a.window.h * a.window.w + (size_t)at) * a.window.c + c;
        gpu_put(a.y, i, a.narrow, gpu_get(a.x, from, a.narrow));
    }
}

/* From the input's side, so that every sum has its order. */
GPU_KERNEL(max_pool_back, gpu_max_pool)
{
    const struct gpu_window *w = &a.window;
    const size_t plane = (size_t)w->h * w->w;

    GPU_EACH (i, w->n * plane * w->c) {
        const size_t c = i % w->c, pixel = i / w->c, image = pixel / plane;
        const long here = (long)(pixel % plane);
        unsigned oy, ox, y_end, x_first, x_end;
        float sum = a.add ? gpu_get(a.dx, i, a.narrow) : 0;
        gpu_seen_by(&oy, &y_end, (unsigned)here / w->w, w->out_h, w);
        gpu_seen_by(&x_first, &x_end, (unsigned)here % w->w, w->out_w, w);
        for (; oy < y_end; oy++)
            for (ox = x_first; ox < x_end; ox++)
                if (gpu_max_tap(&a, image, oy, ox, c) == here)
                    sum += gpu_get(a.dy, ((image * w->out_h + oy) * w->out_w + ox) * w->c + c,
                                   a.narrow);
        gpu_put(a.dx, i, a.narrow, sum);
    }
}

#endif
