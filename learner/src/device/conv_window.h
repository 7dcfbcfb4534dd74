/* The rows of a convolution's matrix product: what each output pixel sees of the input. A part of
 * the input is copied into scratch where it is padded or normalised (a few thousand pixels, read
 * by every filter while they are in cache); a 1x1 convolution of an input that is ready is read
 * where it is. Taps of one kernel row are neighbours in memory, so only kernel rows are taps. */
#ifndef LEARNER_CONV_WINDOW_H
#define LEARNER_CONV_WINDOW_H

#include "blas.h"

struct blas_window {
    const float *x;             /* [n, in]; borrowed */
    const float *gain, *offset; /* NULL: x is ready */
    enum learner_act act;
    size_t n;
    struct learner_shape in;
    size_t kernel_h, kernel_w, stride;
    ptrdiff_t top, left; /* padding, may be negative */
    size_t h, w;         /* of the output; h = 0: no pixel */
};

/* A block of output rows, ready for the product. */
struct blas_window_block {
    const float *a;           /* tap 0 of pixel 0, the others follow; NULL: use rows */
    const float *const *rows; /* [kernel_h][rows_stride] */
    size_t rows_stride, pixels;
};

/* Of the forward pass over n images. 1x1 without stride and padding: pixels become rows, of one
 * tall image. */
struct blas_window blas_window_of(const struct learner_op *op, size_t n);
/* The same, for a window made by hand. */
void blas_window_flatten(struct blas_window *window);

/* Floats of scratch for a block of so many output rows, which count through the images. */
size_t blas_window_floats(const struct blas_window *window, size_t rows);

/* pointers: rows are wanted even where a would do */
struct blas_window_block blas_window_load(const struct learner_kernels *kernels,
                                          const struct blas_window *window, size_t first,
                                          size_t rows, bool pointers, float *scratch);

#endif
