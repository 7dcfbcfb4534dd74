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

/* A block adds up GPU_TOTALS columns, 32 threads each. */
GPU_KERNEL(depthwise_total, gpu_depthwise_total)
{
    GPU_SHARED double shared[GPU_THREADS];
    const unsigned count = a.channels * a.taps;
    const size_t width = (size_t)(a.all ? a.c : a.channels) * a.taps;

    (void)blocks;
    GPU_EACH_THREAD (t) {
        const unsigned i = block * GPU_TOTALS + t % GPU_TOTALS;
        const unsigned at = i / a.taps, tap = i % a.taps;
        double sum = 0;
        if (i < count) {
            const unsigned from = a.all && a.live ? a.live[at] : at;
            GPU_UNROLL_4
            for (size_t r = t / GPU_TOTALS; r < a.row_blocks; r += GPU_THREADS / GPU_TOTALS)
                sum += a.partial[r * width + from * a.taps + tap];
        }
        shared[t] = sum;
    }
    GPU_EACH_THREAD (t) {
        const unsigned i = block * GPU_TOTALS + t;
        double sum = 0;
        if (t >= GPU_TOTALS || i >= count)
            continue;
        for (unsigned r = 0; r < GPU_THREADS / GPU_TOTALS; r++)
            sum += shared[r * GPU_TOTALS + t];
        a.dweight[(size_t)(a.live ? a.live[i / a.taps] : i / a.taps) * a.taps + i % a.taps] =
            (float)sum;
    }
}

/* ---- depthwise, 3x3 padded by 1, four channels at a time ---- */

/* Three pixels of a column, from the row above `y` on; 0 outside of the image. The image is at
 * `base`, and [h, w, c]. They stay as they lie in memory, half the registers in bf16; but those
 * that are still to be normalised (lazy) are, to float32. */
struct gpu_column3 {
    uint32_t raw[3][4]; /* of bf16 the first two, two numbers each */
};
struct gpu_plane {
    const void *at;
    size_t base;
    int h, w;
    unsigned c;
};
struct GPU_ALIGN(8) gpu_two_words {
    uint32_t v[2];
};

GPU_INLINE float gpu_raw_value(const uint32_t *raw, unsigned j, bool packed)
{
    if (!packed)
        return gpu_bits_to_float(raw[j]);
    return gpu_bits_to_float(j % 2 ? raw[j / 2] & 0xffff0000u : raw[j / 2] << 16);
}

GPU_INLINE struct gpu_column3 gpu_column3_of(const struct gpu_depthwise *a,
                                             const struct gpu_plane *p, int y, int x,
                                             unsigned channel, unsigned narrow, bool lazy)
{
    struct gpu_column3 out;

    GPU_UNROLL
    for (int r = 0; r < 3; r++) {
        const int row = y - 1 + r;
        const size_t at =
            p->base + ((unsigned)row * (unsigned)p->w + (unsigned)x) * (size_t)p->c + channel;
        out.raw[r][0] = out.raw[r][1] = out.raw[r][2] = out.raw[r][3] = 0;
        if (row < 0 || row >= p->h || x < 0 || x >= p->w)
            continue;
        if (narrow && !lazy) {
            const struct gpu_two_words two =
                *(const struct gpu_two_words *)((const uint16_t *)p->at + at);
            out.raw[r][0] = two.v[0];
            out.raw[r][1] = two.v[1];
        } else {
            const struct gpu_wide v = gpu_get_wide(p->at, at, narrow, 4);
            GPU_UNROLL
            for (unsigned j = 0; j < 4; j++)
                out.raw[r][j] = gpu_float_to_bits(
                    lazy ? gpu_activate(a->x_act,
                                        v.v[j] * a->x_gain[channel + j] + a->x_offset[channel + j])
                         : v.v[j]);
        }
    }
    return out;
}

/* Outputs that a thread asks for the inputs of before it stores any. */
#define GPU_AHEAD 4u
#define GPU_COLUMNS (2 * GPU_AHEAD + 1) /* that they see, at stride 2 */

/* The columns that outputs ox, ox + 1, .. of a line see: output o has them from `o stride` on. What
 * the outputs before saw last is kept. ox: 0 first, then by GPU_AHEAD */
GPU_INLINE void gpu_next_columns(struct gpu_column3 *column, const struct gpu_depthwise *a,
                                 const struct gpu_plane *plane, int y, unsigned ox,
                                 unsigned channel, unsigned narrow, unsigned stride, bool lazy)
{
    const unsigned columns = stride * (GPU_AHEAD - 1) + 3, kept = 3 - stride;
    const int x = (int)(ox * stride) - 1;

    GPU_UNROLL
    for (unsigned k = 0; k < kept; k++)
        column[k] = ox ? column[columns - kept + k]
                       : gpu_column3_of(a, plane, y, x + (int)k, channel, narrow, lazy);
    GPU_UNROLL
    for (unsigned k = kept; k < columns; k++)
        column[k] = gpu_column3_of(a, plane, y, x + (int)k, channel, narrow, lazy);
}

/* out [out_h, out_w] of every image = its window times the weights, which are turned where flip. */
GPU_INLINE void gpu_depthwise3_walk(const struct gpu_depthwise *a, const struct gpu_plane *from,
                                    unsigned out_h, unsigned out_w, void *out, unsigned block,
                                    unsigned narrow, unsigned stride, bool flip, bool lazy)
{
    const unsigned fours = from->c / 4, pieces = (out_h + a->lines - 1) / a->lines;
    const bool packed = narrow && !lazy;

    GPU_EACH_THREAD (t) {
        const unsigned i = block * GPU_THREADS + t, channel = i % fours * 4, piece = i / fours;
        const unsigned image = piece / pieces, first = piece % pieces * a->lines;
        struct gpu_plane plane = *from;
        struct gpu_wide weight[9];
        if (image >= a->window.n)
            continue;
        plane.base = (size_t)image * (unsigned)(plane.h * plane.w) * plane.c;
        GPU_UNROLL
        for (unsigned tap = 0; tap < 9; tap++)
            GPU_UNROLL
        for (unsigned j = 0; j < 4; j++)
            weight[tap].v[j] = a->weight[(channel + j) * 9 + (flip ? 8 - tap : tap)];
        for (unsigned oy = first; oy < first + a->lines && oy < out_h; oy++) {
            const int y = (int)(oy * stride);
            const size_t line = ((size_t)image * out_h + oy) * out_w * plane.c + channel;
            struct gpu_column3 column[GPU_COLUMNS];
            for (unsigned ox = 0; ox < out_w; ox += GPU_AHEAD) {
                gpu_next_columns(column, a, &plane, y, ox, channel, narrow, stride, lazy);
                GPU_UNROLL
                for (unsigned o = 0; o < GPU_AHEAD; o++) {
                    const size_t at = line + (size_t)(ox + o) * plane.c;
                    struct gpu_wide sum;
                    sum.v[0] = sum.v[1] = sum.v[2] = sum.v[3] = 0;
                    if (ox + o >= out_w)
                        continue;
                    if (a->add)
                        sum = gpu_get_wide(out, at, narrow, 4);
                    GPU_UNROLL
                    for (unsigned tap = 0; tap < 9; tap++)
                        GPU_UNROLL
                    for (unsigned j = 0; j < 4; j++)
                        sum.v[j] +=
                            weight[tap].v[j] *
                            gpu_raw_value(column[o * stride + tap % 3].raw[tap / 3], j, packed);
                    gpu_put_wide(out, at, narrow, 4, sum);
                }
            }
        }
    }
}

GPU_INLINE struct gpu_plane gpu_plane_of(const void *at, unsigned h, unsigned w, unsigned c)
{
    struct gpu_plane p;

    p.at = at;
    p.base = 0;
    p.h = (int)h;
    p.w = (int)w;
    p.c = c;
    return p;
}

GPU_INLINE void gpu_depthwise3_forward(const struct gpu_depthwise *a, unsigned block,
                                       unsigned narrow, bool lazy)
{
    const struct gpu_window *w = &a->window;
    const struct gpu_plane from = gpu_plane_of(a->x, w->h, w->w, w->c);

    if (w->stride == 1)
        gpu_depthwise3_walk(a, &from, w->out_h, w->out_w, a->y, block, narrow, 1, false, lazy);
    else
        gpu_depthwise3_walk(a, &from, w->out_h, w->out_w, a->y, block, narrow, 2, false, lazy);
}

/* In bf16 it is a kernel of its own: a kernel takes the registers of its hungriest branch. */
GPU_KERNEL(depthwise3, gpu_depthwise)
{
    (void)blocks;
    gpu_depthwise3_forward(&a, block, 0, false);
}

GPU_KERNEL(depthwise3_narrow, gpu_depthwise)
{
    (void)blocks;
    gpu_depthwise3_forward(&a, block, 1, false);
}

GPU_KERNEL(depthwise3_lazy, gpu_depthwise)
{
    (void)blocks;
    gpu_depthwise3_forward(&a, block, a.narrow, true);
}

/* dx at stride 2. An even row of x is seen by one row of outputs, through the middle row of the
 * weights; an odd one by two, through the last row and the first. Columns alike. */
GPU_INLINE void gpu_depthwise3_stretch(const struct gpu_depthwise *a, unsigned block,
                                       unsigned narrow)
{
    const struct gpu_window *w = &a->window;
    const unsigned fours = w->c / 4, pieces = (w->h + a->lines - 1) / a->lines;

    GPU_EACH_THREAD (t) {
        const unsigned i = block * GPU_THREADS + t, channel = i % fours * 4, piece = i / fours;
        const unsigned image = piece / pieces, first = piece % pieces * a->lines;
        if (image >= w->n)
            continue;
        for (unsigned y = first; y < first + a->lines && y < w->h; y++) {
            const unsigned ky[2] = {y % 2 ? 2u : 1u, 0};
            const unsigned oy[2] = {y / 2, y % 2 ? y / 2 + 1 : w->out_h};
            struct gpu_wide weight[2][3], here[2], next[2];
            GPU_UNROLL
            for (unsigned r = 0; r < 2; r++) {
                GPU_UNROLL
                for (unsigned k = 0; k < 3; k++)
                    GPU_UNROLL
                for (unsigned j = 0; j < 4; j++)
                    weight[r][k].v[j] = a->weight[(channel + j) * 9 + ky[r] * 3 + k];
                here[r].v[0] = here[r].v[1] = here[r].v[2] = here[r].v[3] = 0;
                if (oy[r] < w->out_h)
                    here[r] = gpu_get_wide(
                        a->dy, ((size_t)image * w->out_h + oy[r]) * w->out_w * w->c + channel,
                        narrow, 4);
            }
            for (unsigned ox = 0; ox < w->out_w; ox++) {
                const size_t at = (((size_t)image * w->h + y) * w->w + 2 * ox) * w->c + channel;
                const bool second = 2 * ox + 1 < w->w;
                struct gpu_wide even, odd;
                even.v[0] = even.v[1] = even.v[2] = even.v[3] = 0;
                odd = even;
                if (a->add)
                    even = gpu_get_wide(a->dx, at, narrow, 4);
                if (a->add && second)
                    odd = gpu_get_wide(a->dx, at + w->c, narrow, 4);
                GPU_UNROLL
                for (unsigned r = 0; r < 2; r++) {
                    next[r].v[0] = next[r].v[1] = next[r].v[2] = next[r].v[3] = 0;
                    if (oy[r] < w->out_h && ox + 1 < w->out_w)
                        next[r] = gpu_get_wide(
                            a->dy,
                            (((size_t)image * w->out_h + oy[r]) * w->out_w + ox + 1) * w->c +
                                channel,
                            narrow, 4);
                    GPU_UNROLL
                    for (unsigned j = 0; j < 4; j++) {
                        even.v[j] += weight[r][1].v[j] * here[r].v[j];
                        odd.v[j] +=
                            weight[r][2].v[j] * here[r].v[j] + weight[r][0].v[j] * next[r].v[j];
                    }
                    here[r] = next[r];
                }
                gpu_put_wide(a->dx, at, narrow, 4, even);
                if (second)
                    gpu_put_wide(a->dx, at + w->c, narrow, 4, odd);
            }
        }
    }
}

GPU_INLINE void gpu_depthwise3_back(const struct gpu_depthwise *a, unsigned block, unsigned narrow)
{
    const struct gpu_window *w = &a->window;
    const struct gpu_plane from = gpu_plane_of(a->dy, w->out_h, w->out_w, w->c);

    if (w->stride == 2)
        gpu_depthwise3_stretch(a, block, narrow);
    else
        gpu_depthwise3_walk(a, &from, w->h, w->w, a->dx, block, narrow, 1, true, false);
}

GPU_KERNEL(depthwise3_data, gpu_depthwise)
{
    (void)blocks;
    gpu_depthwise3_back(&a, block, 0);
}

GPU_KERNEL(depthwise3_data_narrow, gpu_depthwise)
{
    (void)blocks;
    gpu_depthwise3_back(&a, block, 1);
}

/* All taps of four channels over one thread's lines of outputs. */
GPU_INLINE void gpu_depthwise3_lines(struct gpu_wide *sum, const struct gpu_depthwise *a,
                                     unsigned channel, unsigned line, unsigned step,
                                     unsigned narrow, unsigned stride, bool lazy)
{
    const struct gpu_window *w = &a->window;
    struct gpu_plane plane = gpu_plane_of(a->x, w->h, w->w, w->c);

    for (; line < w->n * w->out_h; line += step) {
        const unsigned image = line / w->out_h;
        const int y = (int)(line % w->out_h * stride);
        struct gpu_column3 column[GPU_COLUMNS];
        plane.base = (size_t)image * w->h * w->w * w->c;
        for (unsigned ox = 0; ox < w->out_w; ox += GPU_AHEAD) {
            struct gpu_wide d[GPU_AHEAD];
            gpu_next_columns(column, a, &plane, y, ox, channel, narrow, stride, lazy);
            GPU_UNROLL
            for (unsigned o = 0; o < GPU_AHEAD; o++) {
                d[o].v[0] = d[o].v[1] = d[o].v[2] = d[o].v[3] = 0;
                if (ox + o < w->out_w)
                    d[o] = gpu_get_wide(a->dy, ((size_t)line * w->out_w + ox + o) * w->c + channel,
                                        narrow, 4);
            }
            GPU_UNROLL
            for (unsigned o = 0; o < GPU_AHEAD; o++)
                GPU_UNROLL
            for (unsigned tap = 0; tap < 9; tap++)
                GPU_UNROLL
            for (unsigned j = 0; j < 4; j++)
                sum[tap].v[j] +=
                    d[o].v[j] *
                    gpu_raw_value(column[o * stride + tap % 3].raw[tap / 3], j, narrow && !lazy);
        }
    }
}

#define GPU_FILTER3 36u /* sums of a thread */

GPU_INLINE void gpu_depthwise3_filter(const struct gpu_depthwise *a, unsigned block,
                                      unsigned narrow, bool lazy, float *shared)
{
    const unsigned lanes = GPU_THREADS / a->tile, c = a->window.c;
    const unsigned row_block = block % a->row_blocks, first = block / a->row_blocks * a->tile;

    GPU_EACH_THREAD (t) {
        const unsigned lane = t / a->tile, channel = (first + t % a->tile) * 4;
        const unsigned line = row_block * lanes + lane, step = a->row_blocks * lanes;
        struct gpu_wide sum[9];
        if (lane >= lanes || channel >= c)
            continue;
        GPU_UNROLL
        for (unsigned tap = 0; tap < 9; tap++)
            sum[tap].v[0] = sum[tap].v[1] = sum[tap].v[2] = sum[tap].v[3] = 0;
        if (a->window.stride == 1)
            gpu_depthwise3_lines(sum, a, channel, line, step, narrow, 1, lazy);
        else
            gpu_depthwise3_lines(sum, a, channel, line, step, narrow, 2, lazy);
        GPU_UNROLL
        for (unsigned tap = 0; tap < 9; tap++)
            GPU_UNROLL
        for (unsigned j = 0; j < 4; j++)
            shared[t * GPU_FILTER3 + 9 * j + tap] = sum[tap].v[j];
    }
    GPU_EACH_THREAD (t) {
        for (unsigned i = t; i < a->tile * GPU_FILTER3; i += GPU_THREADS) {
            const unsigned number = first * GPU_FILTER3 + i; /* of [c, 9] */
            double sum = 0;
            if (number >= c * 9)
                continue;
            for (unsigned lane = 0; lane < lanes; lane++)
                sum += shared[lane * a->tile * GPU_FILTER3 + i];
            a->partial[(size_t)row_block * c * 9 + number] = sum;
        }
    }
}

GPU_KERNEL(depthwise3_filter, gpu_depthwise)
{
    GPU_SHARED float shared[GPU_THREADS * GPU_FILTER3];

    (void)blocks;
    gpu_depthwise3_filter(&a, block, 0, false, shared);
}

GPU_KERNEL(depthwise3_filter_narrow, gpu_depthwise)
{
    GPU_SHARED float shared[GPU_THREADS * GPU_FILTER3];

    (void)blocks;
    gpu_depthwise3_filter(&a, block, 1, false, shared);
}

GPU_KERNEL(depthwise3_filter_lazy, gpu_depthwise)
{
    GPU_SHARED float shared[GPU_THREADS * GPU_FILTER3];

    (void)blocks;
    gpu_depthwise3_filter(&a, block, a.narrow, true, shared);
}

/* ---- convolutions: what lies around the library's ---- */

GPU_KERNEL(pack, gpu_pack)
{
    GPU_EACH (i, (size_t)a.co * a.row) {
        const unsigned co = (unsigned)i / a.row, at = (unsigned)i % a.row;
        const unsigned ci = at % a.ci, tap = at / a.ci;
        gpu_put(a.to, i, a.narrow,
                tap < a.taps ? a.from[((size_t)co * a.ci + ci) * a.taps + tap] : 0);
    }
}

GPU_KERNEL(unpack, gpu_unpack)
{
    GPU_EACH (i, (size_t)a.count * a.ci * a.taps) {
        const unsigned tap = (unsigned)i % a.taps, ci = (unsigned)i / a.taps % a.ci;
        const unsigned at = (unsigned)i / a.taps / a.ci;
        const size_t co = a.live ? a.live[at] : at;
        a.to[(co * a.ci + ci) * a.taps + tap] =
            gpu_get(a.from, (size_t)at * a.row + tap * a.ci + ci, a.narrow);
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

/* A thread has one row of a patch of three colours, 3x3, filled up to 32: constants throughout. */
GPU_INLINE void gpu_patches_of_colours(const struct gpu_patches *a, unsigned block)
{
    const struct gpu_window *w = &a->window;
    const unsigned plane = w->out_h * w->out_w;

    GPU_EACH_THREAD (t) {
        const unsigned pixel = block * GPU_THREADS + t, o = pixel % plane;
        const size_t image = pixel / plane * (size_t)(w->h * w->w);
        struct gpu_wide four[8];
        if (pixel >= w->n * plane)
            continue;
        GPU_UNROLL
        for (unsigned i = 0; i < 32; i++)
            four[i / 4].v[i % 4] = 0;
        GPU_UNROLL
        for (unsigned tap = 0; tap < 9; tap++) {
            const long at = gpu_tap(w, o / w->out_w, o % w->out_w, tap / 3, tap % 3);
            GPU_UNROLL
            for (unsigned c = 0; c < 3; c++)
                if (at >= 0)
                    four[(3 * tap + c) / 4].v[(3 * tap + c) % 4] =
                        gpu_input(a->x, (image + (size_t)at) * 3 + c, c, a->x_gain, a->x_offset,
                                  a->x_act, a->narrow);
        }
        GPU_UNROLL
        for (unsigned i = 0; i < 8; i++)
            gpu_put_wide(a->patches, (size_t)pixel * 32 + 4 * i, a->narrow, 4, four[i]);
    }
}

GPU_KERNEL(patches3, gpu_patches)
{
    (void)blocks;
    gpu_patches_of_colours(&a, block);
}

GPU_KERNEL(patches, gpu_patches)
{
    const struct gpu_window *w = &a.window;
    const unsigned taps = w->kernel * w->kernel, plane = w->out_h * w->out_w;

    GPU_EACH (i, (size_t)w->n * plane * a.row) {
        const unsigned pixel = (unsigned)i / a.row, in_row = (unsigned)i % a.row;
        const unsigned c = in_row % w->c, tap = in_row / w->c, o = pixel % plane;
        const size_t image = pixel / plane;
        const long at =
            tap < taps ? gpu_tap(w, o / w->out_w, o % w->out_w, tap / w->kernel, tap % w->kernel)
                       : -1;
        gpu_put(a.patches, i, a.narrow,
                at < 0 ? 0
                       : gpu_input(a.x, (image * w->h * w->w + (size_t)at) * w->c + c, c, a.x_gain,
                                   a.x_offset, a.x_act, a.narrow));
    }
}

GPU_KERNEL(unpatch, gpu_unpatch)
{
    const struct gpu_window *w = &a.window;
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
                sum += gpu_get(a.patches, row * a.row + tap * w->c + c, a.narrow);
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
