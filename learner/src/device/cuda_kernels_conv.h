/* Kernels of convolutions, and of the head. Part of cuda_kernels_body.h. */
#ifndef LEARNER_DEVICE_CUDA_KERNELS_CONV_H
#define LEARNER_DEVICE_CUDA_KERNELS_CONV_H

#include "cuda_kernels_body.h"

/* ---- depthwise convolutions ---- */

GPU_INLINE float gpu_input(const void *x, size_t at, unsigned c, const float *gain,
                           const float *offset, int act, unsigned narrow)
{
    const float v = gpu_get(x, at, narrow);

    return gain ? gpu_activate(act, v * gain[c] + offset[c]) : v;
}

GPU_KERNEL(depthwise, gpu_depthwise)
{
    const struct gpu_window *w = &a.window;
    const unsigned plane = w->out_h * w->out_w;

    GPU_EACH (i, (size_t)w->n * plane * w->c) {
        const unsigned c = (unsigned)i % w->c, pixel = (unsigned)i / w->c;
        const unsigned oy = pixel % plane / w->out_w, ox = pixel % plane % w->out_w;
        const size_t image = pixel / plane;
        const float *weight = a.weight + (size_t)c * w->kernel * w->kernel;
        float sum = 0;
        for (unsigned ky = 0; ky < w->kernel; ky++)
            for (unsigned kx = 0; kx < w->kernel; kx++) {
                const long at = gpu_tap(w, oy, ox, ky, kx);
                if (at >= 0)
                    sum += weight[ky * w->kernel + kx] *
                           gpu_input(a.x, (image * w->h * w->w + (size_t)at) * w->c + c, c,
                                     a.x_gain, a.x_offset, a.x_act, a.narrow);
            }
        gpu_put(a.y, i, a.narrow, sum);
    }
}

GPU_KERNEL(depthwise_data, gpu_depthwise)
{
    const struct gpu_window *w = &a.window;
    const unsigned plane = w->h * w->w;

    GPU_EACH (i, (size_t)w->n * plane * w->c) {
        const unsigned c = (unsigned)i % w->c, pixel = (unsigned)i / w->c;
        const unsigned y = pixel % plane / w->w, x = pixel % plane % w->w;
        const size_t image = pixel / plane;
        const float *weight = a.weight + (size_t)c * w->kernel * w->kernel;
        unsigned oy, y_end, x_first, x_end;
        float sum = 0;
        gpu_seen_by(&oy, &y_end, y, w->out_h, w);
        gpu_seen_by(&x_first, &x_end, x, w->out_w, w);
        for (; oy < y_end; oy++)
            for (unsigned ox = x_first; ox < x_end; ox++) {
                const unsigned ky = y + w->pad - oy * w->stride, kx = x + w->pad - ox * w->stride;
                sum +=
                    weight[ky * w->kernel + kx] *
                    gpu_get(a.dy, ((image * w->out_h + oy) * w->out_w + ox) * w->c + c, a.narrow);
            }
        gpu_put(a.dx, i, a.narrow, a.add ? gpu_get(a.dx, i, a.narrow) + sum : sum);
    }
}

/* All taps of one channel over one thread's stretch of output pixels. k: a constant where inlined
 */
GPU_INLINE void gpu_depthwise_taps(double *out, const struct gpu_depthwise *a, unsigned c,
                                   unsigned first, unsigned step, unsigned k)
{
    const struct gpu_window *w = &a->window;
    const unsigned plane = w->out_h * w->out_w, pixels = w->n * plane;
    float sum[GPU_TAPS];

    for (unsigned tap = 0; tap < k * k; tap++)
        sum[tap] = 0;
    for (unsigned pixel = first; pixel < pixels; pixel += step) {
        const size_t image = pixel / plane;
        const unsigned oy = pixel % plane / w->out_w, ox = pixel % plane % w->out_w;
        const float d = gpu_get(a->dy, (size_t)pixel * w->c + c, a->narrow);
        GPU_UNROLL
        for (unsigned tap = 0; tap < k * k; tap++) {
            const long at = gpu_tap(w, oy, ox, tap / k, tap % k);
            if (at >= 0)
                sum[tap] += d * gpu_input(a->x, (image * w->h * w->w + (size_t)at) * w->c + c, c,
                                          a->x_gain, a->x_offset, a->x_act, a->narrow);
        }
    }
    for (unsigned tap = 0; tap < k * k; tap++)
        out[tap] = sum[tap];
}

/* A thread for each channel and stretch of pixels: channels side by side, so that reads are too. */
GPU_KERNEL(depthwise_filter, gpu_depthwise)
{
    const unsigned k = a.window.kernel;

    GPU_EACH (i, (size_t)a.channels * a.row_blocks) {
        const unsigned at = (unsigned)i % a.channels, stretch = (unsigned)i / a.channels;
        const unsigned c = a.live ? a.live[at] : at;
        double *out = a.partial + ((size_t)stretch * a.channels + at) * k * k;
        if (k == 3)
            gpu_depthwise_taps(out, &a, c, stretch, a.row_blocks, 3);
        else
            gpu_depthwise_taps(out, &a, c, stretch, a.row_blocks, k);
    }
}

GPU_KERNEL(depthwise_total, gpu_depthwise_total)
{
    const unsigned count = a.channels * a.taps;

    GPU_EACH (i, count) {
        const unsigned at = (unsigned)i / a.taps, tap = (unsigned)i % a.taps;
        double sum = 0;
        for (size_t r = 0; r < a.row_blocks; r++)
            sum += a.partial[r * count + i];
        a.dweight[(size_t)(a.live ? a.live[at] : at) * a.taps + tap] = (float)sum;
    }
}

/* ---- convolutions: what lies around the library's ---- */

GPU_KERNEL(pack, gpu_pack)
{
    GPU_EACH (i, (size_t)a.co * a.ci * a.taps) {
        const size_t ci = i % a.ci, tap = i / a.ci % a.taps, co = i / a.ci / a.taps;
        gpu_put(a.to, i, a.narrow, a.from[(co * a.ci + ci) * a.taps + tap]);
    }
}

GPU_KERNEL(unpack, gpu_unpack)
{
    GPU_EACH (i, (size_t)a.count * a.ci * a.taps) {
        const size_t tap = i % a.taps, ci = i / a.taps % a.ci, at = i / a.taps / a.ci;
        const size_t co = a.live ? a.live[at] : at;
        a.to[(co * a.ci + ci) * a.taps + tap] =
            gpu_get(a.from, (at * a.taps + tap) * a.ci + ci, a.narrow);
    }
}

GPU_KERNEL(choose, gpu_choose)
{
    GPU_EACH (i, (size_t)a.rows * a.count) {
        const size_t row = (unsigned)i / a.count;
        const unsigned from = a.live[(unsigned)i % a.count];
        gpu_put(a.to, i, a.narrow, gpu_get(a.from, row * a.c + from, a.narrow));
    }
}

GPU_KERNEL(patches, gpu_patches)
{
    const struct gpu_window *w = &a.window;
    const unsigned taps = w->kernel * w->kernel, plane = w->out_h * w->out_w;

    GPU_EACH (i, (size_t)w->n * plane * taps * w->c) {
        const unsigned c = (unsigned)i % w->c, tap = (unsigned)i / w->c % taps;
        const unsigned pixel = (unsigned)i / w->c / taps, o = pixel % plane;
        const size_t image = pixel / plane;
        const long at = gpu_tap(w, o / w->out_w, o % w->out_w, tap / w->kernel, tap % w->kernel);
        gpu_put(a.patches, i, a.narrow,
                at < 0 ? 0
                       : gpu_input(a.x, (image * w->h * w->w + (size_t)at) * w->c + c, c, a.x_gain,
                                   a.x_offset, a.x_act, a.narrow));
    }
}

GPU_KERNEL(unpatch, gpu_unpatch)
{
    const struct gpu_window *w = &a.window;
    const size_t taps = (size_t)w->kernel * w->kernel;
    const unsigned plane = w->h * w->w;

    GPU_EACH (i, (size_t)w->n * plane * w->c) {
        const unsigned c = (unsigned)i % w->c, pixel = (unsigned)i / w->c;
        const unsigned y = pixel % plane / w->w, x = pixel % plane % w->w;
        const size_t image = pixel / plane;
        unsigned oy, y_end, x_first, x_end;
        float sum = a.add ? gpu_get(a.dx, i, a.narrow) : 0;
        gpu_seen_by(&oy, &y_end, y, w->out_h, w);
        gpu_seen_by(&x_first, &x_end, x, w->out_w, w);
        for (; oy < y_end; oy++)
            for (unsigned ox = x_first; ox < x_end; ox++) {
                const size_t tap = (size_t)(y + w->pad - oy * w->stride) * w->kernel +
                                   (x + w->pad - ox * w->stride);
                const size_t row = (image * w->out_h + oy) * w->out_w + ox;
                sum += gpu_get(a.patches, (row * taps + tap) * w->c + c, a.narrow);
            }
        gpu_put(a.dx, i, a.narrow, sum);
    }
}

/* ---- the head ---- */

GPU_KERNEL(bias, gpu_bias)
{
    GPU_EACH (i, (size_t)a.rows * a.c)
        a.y[i] = a.bias[i % a.c];
}

/* A block adds up 32 columns, eight threads each. */
GPU_KERNEL(columns, gpu_columns)
{
    GPU_SHARED double shared[GPU_THREADS];

    (void)blocks;
    GPU_EACH_THREAD (t) {
        const unsigned column = block * GPU_TILE + t % GPU_TILE;
        double sum = 0;
        for (size_t r = t / GPU_TILE; column < a.c && r < a.rows; r += GPU_THREADS / GPU_TILE)
            sum += a.dy[r * a.c + column];
        shared[t] = sum;
    }
    GPU_EACH_THREAD (t) {
        const unsigned column = block * GPU_TILE + t;
        double sum = 0;
        if (t >= GPU_TILE || column >= a.c)
            continue;
        for (unsigned r = 0; r < GPU_THREADS / GPU_TILE; r++)
            sum += shared[r * GPU_TILE + t];
        a.dbias[column] = (float)sum;
    }
}

#endif
