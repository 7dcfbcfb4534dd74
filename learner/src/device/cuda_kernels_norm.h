/* Kernels of batch norms and pools. Part of cuda_kernels_body.h. */
#ifndef LEARNER_DEVICE_CUDA_KERNELS_NORM_H
#define LEARNER_DEVICE_CUDA_KERNELS_NORM_H

#include "cuda_kernels_body.h"

/* ---- channel by channel ---- */

GPU_KERNEL(affine, gpu_affine)
{
    const unsigned per_row = a.c / a.width;

    GPU_EACH (i, (size_t)a.rows * per_row) {
        const unsigned c = (unsigned)i % per_row * a.width;
        struct gpu_wide v = gpu_get_wide(a.x, i * a.width, a.narrow, a.width);
        struct gpu_wide r;
        r.v[0] = r.v[1] = r.v[2] = r.v[3] = 0;
        if (a.residual)
            r = gpu_get_wide(a.residual, i * a.width, a.narrow, a.width);
        GPU_UNROLL
        for (unsigned j = 0; j < 4; j++)
            if (j < a.width)
                v.v[j] = gpu_activate(a.act, v.v[j] * a.gain[c + j] + a.offset[c + j] + r.v[j]);
        gpu_put_wide(a.y, i * a.width, a.narrow, a.width, v);
    }
}

/* A reduction's block: tiles of channels side by side, stretches of rows below each other. Threads
 * are `lanes` rows of `tile` widths. */
struct gpu_place {
    unsigned tile, lanes, lane, first_channel, first_row, row_step, row_block;
    bool idle;
};

GPU_INLINE struct gpu_place gpu_place_of(unsigned block, unsigned thread, unsigned c,
                                         unsigned width, unsigned row_blocks)
{
    const unsigned per_row = c / width;
    struct gpu_place p;

    p.tile = per_row < GPU_TILE ? per_row : GPU_TILE;
    p.lanes = GPU_THREADS / p.tile;
    p.lane = thread / p.tile;
    p.row_block = block % row_blocks;
    p.first_channel = (block / row_blocks * p.tile + thread % p.tile) * width;
    p.first_row = p.row_block * p.lanes + p.lane;
    p.row_step = row_blocks * p.lanes;
    p.idle = p.lane >= p.lanes || p.first_channel >= c;
    return p;
}

/* Two sums of `width` channels of every thread; the first lane adds those of its column. */
GPU_INLINE void gpu_column(double *out, const float (*shared)[8], const struct gpu_place *p,
                           unsigned thread, unsigned c, unsigned width)
{
    if (p->idle || p->lane != 0)
        return;
    for (unsigned j = 0; j < width; j++) {
        double sum = 0, other = 0;
        for (unsigned lane = 0; lane < p->lanes; lane++) {
            sum += shared[thread + lane * p->tile][j];
            other += shared[thread + lane * p->tile][4 + j];
        }
        out[(size_t)p->row_block * 2 * c + p->first_channel + j] = sum;
        out[(size_t)p->row_block * 2 * c + c + p->first_channel + j] = other;
    }
}

GPU_KERNEL(moments, gpu_moments)
{
    GPU_SHARED float shared[GPU_THREADS][8];

    (void)blocks;
    GPU_EACH_THREAD (t) {
        const struct gpu_place p = gpu_place_of(block, t, a.c, a.width, a.row_blocks);
        float sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        for (size_t row = p.first_row; !p.idle && row < a.rows; row += p.row_step) {
            const struct gpu_wide v =
                gpu_get_wide(a.x, row * a.c + p.first_channel, a.narrow, a.width);
            GPU_UNROLL
            for (unsigned j = 0; j < 4; j++) {
                const float d = j < a.width ? v.v[j] - a.mean[p.first_channel + j] : 0;
                sum[j] += d;
                sum[4 + j] += d * d;
            }
        }
        GPU_UNROLL
        for (unsigned j = 0; j < 8; j++)
            shared[t][j] = sum[j];
    }
    GPU_EACH_THREAD (t) {
        const struct gpu_place p = gpu_place_of(block, t, a.c, a.width, a.row_blocks);
        gpu_column(a.partial, (const float(*)[8])shared, &p, t, a.c, a.width);
    }
}

/* A block adds up 32 columns, eight threads each. */
GPU_KERNEL(total, gpu_total)
{
    GPU_SHARED double shared[GPU_THREADS];

    (void)blocks;
    GPU_EACH_THREAD (t) {
        const unsigned column = block * GPU_TILE + t % GPU_TILE;
        double sum = 0;
        for (size_t r = t / GPU_TILE; column < a.count && r < a.row_blocks;
             r += GPU_THREADS / GPU_TILE)
            sum += a.partial[r * a.count + column];
        shared[t] = sum;
    }
    GPU_EACH_THREAD (t) {
        const unsigned column = block * GPU_TILE + t;
        double sum = 0;
        if (t >= GPU_TILE || column >= a.count)
            continue;
        for (unsigned r = 0; r < GPU_THREADS / GPU_TILE; r++)
            sum += shared[r * GPU_TILE + t];
        a.sums[column] = sum;
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

/* The gradient before the activation, and x normalised. */
GPU_INLINE void gpu_norm_gradient(struct gpu_wide *g, struct gpu_wide *hat,
                                  const struct gpu_norm_back *a, size_t at, unsigned channel)
{
    struct gpu_wide y, r;

    *g = gpu_get_wide(a->dy, at, a->narrow, a->width);
    hat->v[0] = hat->v[1] = hat->v[2] = hat->v[3] = 0;
    r = y = *hat;
    if (a->x)
        *hat = gpu_get_wide(a->x, at, a->narrow, a->width);
    if (a->y)
        y = gpu_get_wide(a->y, at, a->narrow, a->width);
    else if (a->residual)
        r = gpu_get_wide(a->residual, at, a->narrow, a->width);
    GPU_UNROLL
    for (unsigned j = 0; j < 4; j++) {
        if (j >= a->width)
            continue;
        const unsigned c = channel + j;
        const float out = a->y ? y.v[j] : hat->v[j] * a->gain[c] + a->offset[c] + r.v[j];
        g->v[j] = gpu_passes(a->act, out) ? g->v[j] : 0;
        hat->v[j] = a->x ? (hat->v[j] - a->batch_mean[c]) * a->inv_std[c] : 0;
    }
}

GPU_KERNEL(norm_back_sums, gpu_norm_back)
{
    GPU_SHARED float shared[GPU_THREADS][8];

    (void)blocks;
    GPU_EACH_THREAD (t) {
        const struct gpu_place p = gpu_place_of(block, t, a.c, a.width, a.row_blocks);
        float sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        for (size_t row = p.first_row; !p.idle && row < a.rows; row += p.row_step) {
            struct gpu_wide g, hat;
            gpu_norm_gradient(&g, &hat, &a, row * a.c + p.first_channel, p.first_channel);
            GPU_UNROLL
            for (unsigned j = 0; j < 4; j++) {
                sum[j] += j < a.width ? g.v[j] : 0;
                sum[4 + j] += j < a.width ? g.v[j] * hat.v[j] : 0;
            }
        }
        GPU_UNROLL
        for (unsigned j = 0; j < 8; j++)
            shared[t][j] = sum[j];
    }
    GPU_EACH_THREAD (t) {
        const struct gpu_place p = gpu_place_of(block, t, a.c, a.width, a.row_blocks);
        gpu_column(a.partial, (const float(*)[8])shared, &p, t, a.c, a.width);
    }
}

GPU_KERNEL(norm_back, gpu_norm_back)
{
    const unsigned per_row = a.c / a.width;

    GPU_EACH (i, (size_t)a.rows * per_row) {
        const unsigned channel = (unsigned)i % per_row * a.width;
        const size_t at = i * a.width;
        struct gpu_wide g, hat, out;
        gpu_norm_gradient(&g, &hat, &a, at, channel);
        if (a.dresidual) {
            out = g;
            if (a.dresidual_add)
                out = gpu_get_wide(a.dresidual, at, a.narrow, a.width);
            GPU_UNROLL
            for (unsigned j = 0; j < 4; j++)
                out.v[j] = a.dresidual_add ? out.v[j] + g.v[j] : out.v[j];
            gpu_put_wide(a.dresidual, at, a.narrow, a.width, out);
        }
        out.v[0] = out.v[1] = out.v[2] = out.v[3] = 0;
        if (a.dx_add)
            out = gpu_get_wide(a.dx, at, a.narrow, a.width);
        GPU_UNROLL
        for (unsigned j = 0; j < 4; j++) {
            if (j >= a.width)
                continue;
            const unsigned c = channel + j;
            float d = g.v[j];
            if (a.sums)
                d -= (float)(a.sums[c] / a.rows) + hat.v[j] * (float)(a.sums[a.c + c] / a.rows);
            out.v[j] += d * a.scale[c] * a.inv_std[c];
        }
        gpu_put_wide(a.dx, at, a.narrow, a.width, out);
    }
}

GPU_KERNEL(norm_grads, gpu_norm_grads)
{
    GPU_EACH (c, a.c) {
        if (a.dshift)
            a.dshift[c] = (float)a.sums[c];
        if (a.dscale)
            a.dscale[c] = (float)a.sums[a.c + c];
    }
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
