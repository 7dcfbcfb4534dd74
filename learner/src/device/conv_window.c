#include "conv_window.h"

#include <math.h>
#include <string.h>

#define FLOATS_OF_POINTER (sizeof(const void *) / sizeof(float))

/* What is copied of the input: a kernel of one pixel leaves out what the stride passes over. */
struct band {
    size_t step_y, step_x;     /* input pixels from one copied pixel to the next */
    size_t stride_y, stride_x; /* copied pixels from one output pixel to the next */
    size_t w;                  /* copied pixels of a row */
};

static struct band band_of(const struct blas_window *window)
{
    const bool thin_y = window->kernel_h == 1, thin_x = window->kernel_w == 1;
    struct band band = {.step_y = thin_y ? window->stride : 1,
                        .step_x = thin_x ? window->stride : 1,
                        .stride_y = thin_y ? 1 : window->stride,
                        .stride_x = thin_x ? 1 : window->stride};

    band.w = (window->w - 1) * band.stride_x + window->kernel_w;
    return band;
}

static bool is_plain(const struct blas_window *window)
{
    return window->kernel_h == 1 && window->kernel_w == 1;
}

/* Output pixels see input pixels of the same place. */
static bool is_flat(const struct blas_window *window)
{
    return is_plain(window) && window->stride == 1 && !window->top && !window->left &&
           window->h == window->in.h && window->w == window->in.w;
}

void blas_window_flatten(struct blas_window *window)
{
    if (!is_flat(window))
        return;
    window->h = window->in.h = window->n * window->h * window->w;
    window->w = window->in.w = window->n = 1;
}

struct blas_window blas_window_of(const struct learner_op *op, size_t n)
{
    struct blas_window window = {.x = op->x,
                                 .gain = op->x_gain,
                                 .offset = op->x_offset,
                                 .act = op->x_act,
                                 .n = n,
                                 .in = op->in,
                                 .kernel_h = op->kernel,
                                 .kernel_w = op->kernel,
                                 .stride = op->stride,
                                 .top = (ptrdiff_t)op->pad,
                                 .left = (ptrdiff_t)op->pad,
                                 .h = op->out.h,
                                 .w = op->out.w};

    blas_window_flatten(&window);
    return window;
}

static size_t pointer_floats(const struct blas_window *window, size_t rows)
{
    const size_t floats = window->kernel_h * rows * window->w * FLOATS_OF_POINTER;

    return floats + (16 - floats % 16) % 16;
}

size_t blas_window_floats(const struct blas_window *window, size_t rows)
{
    if (!window->h || !window->w)
        return 0;
    const struct band band = band_of(window);
    const size_t images = rows < rows / window->h + 2 ? rows : rows / window->h + 2;

    return pointer_floats(window, rows) +
           (rows * band.stride_y + images * window->kernel_h) * band.w * window->in.c;
}

static void copy_pixels(const struct learner_kernels *kernels, const struct blas_window *window,
                        float *to, const float *from, size_t pixels)
{
    const struct learner_kernel_norm norm = {.channels = window->in.c,
                                             .stride = window->in.c,
                                             .gain = window->gain,
                                             .offset = window->offset,
                                             .low = window->act == LEARNER_ACT_NONE ? -INFINITY : 0,
                                             .high =
                                                 window->act == LEARNER_ACT_RELU6 ? 6 : INFINITY};

    if (window->gain)
        kernels->normalise(to, from, NULL, &norm, pixels);
    else
        memcpy(to, from, pixels * window->in.c * sizeof *to);
}

/* One row of the band, from input row y. */
static void copy_row(const struct learner_kernels *kernels, const struct blas_window *window,
                     const struct band *band, size_t image, ptrdiff_t y, float *to)
{
    const size_t c = window->in.c, w = window->in.w;

    if (y < 0 || (size_t)y >= window->in.h) {
        memset(to, 0, band->w * c * sizeof *to);
        return;
    }
    const float *row = window->x + (image * window->in.h + (size_t)y) * w * c;
    if (band->step_x == 1) {
        const ptrdiff_t from = -window->left, end = from + (ptrdiff_t)band->w;
        const ptrdiff_t first = from > 0 ? from : 0, stop = end < (ptrdiff_t)w ? end : (ptrdiff_t)w;
        if (stop <= first) {
            memset(to, 0, band->w * c * sizeof *to);
            return;
        }
        memset(to, 0, (size_t)(first - from) * c * sizeof *to);
        copy_pixels(kernels, window, to + (size_t)(first - from) * c, row + (size_t)first * c,
                    (size_t)(stop - first));
        memset(to + (size_t)(stop - from) * c, 0, (size_t)(end - stop) * c * sizeof *to);
        return;
    }
    for (size_t i = 0; i < band->w; i++, to += c) {
        const ptrdiff_t x = (ptrdiff_t)(i * band->step_x) - window->left;
        if (x < 0 || (size_t)x >= w)
            memset(to, 0, c * sizeof *to);
        else
            copy_pixels(kernels, window, to, row + (size_t)x * c, 1);
    }
}

/* Copies rows [y, y_end) of the output's window in one image; returns the band's end. */
static float *copy_band(const struct learner_kernels *kernels, const struct blas_window *window,
                        const struct band *band, size_t image, size_t y, size_t y_end, float *to)
{
    const size_t count = (y_end - y - 1) * band->stride_y + window->kernel_h;

    if (is_flat(window)) {
        copy_pixels(kernels, window, to,
                    window->x + (image * window->h + y) * band->w * window->in.c, count * band->w);
        return to + count * band->w * window->in.c;
    }
    for (size_t i = 0; i < count; i++, to += band->w * window->in.c)
        copy_row(kernels, window, band, image,
                 (ptrdiff_t)(y * window->stride + i * band->step_y) - window->top, to);
    return to;
}

struct blas_window_block blas_window_load(const struct learner_kernels *kernels,
                                          const struct blas_window *window, size_t first,
                                          size_t rows, bool pointers, float *scratch)
{
    const struct band band = band_of(window);
    const size_t c = window->in.c, pixels = rows * window->w;
    const float **table = (const float **)(void *)scratch;
    float *to = scratch + pointer_floats(window, rows);
    struct blas_window_block block = {
        .a = is_plain(window) ? to : NULL, .rows = table, .rows_stride = pixels, .pixels = pixels};
    const float **next = table;

    if (is_flat(window) && !window->gain) {
        block.a = window->x + first * window->w * c;
        for (size_t p = 0; pointers && p < pixels; p++)
            table[p] = block.a + p * c;
        return block;
    }
    for (size_t row = first; row < first + rows;) {
        const size_t image = row / window->h, y = row % window->h;
        const size_t left = first + rows - row;
        const size_t count = window->h - y < left ? window->h - y : left;
        const float *at = to;
        to = copy_band(kernels, window, &band, image, y, y + count, to);
        for (size_t i = 0; (pointers || !block.a) && i < count; i++)
            for (size_t x = 0; x < window->w; x++)
                *next++ = at + (i * band.stride_y * band.w + x * band.stride_x) * c;
        row += count;
    }
    for (size_t t = 1; t < window->kernel_h; t++)
        for (size_t p = 0; p < pixels; p++)
            table[t * pixels + p] = table[p] + t * band.w * c;
    return block;
}
