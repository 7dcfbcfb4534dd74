/* The inner loops of the `blas` backend, written once over vectors of a fixed number of lanes and
 * compiled once per instruction set. The best that this processor runs is chosen at run time.
 * Nothing here knows images, threads or memory plans. */
#ifndef LEARNER_KERNELS_H
#define LEARNER_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

#define LEARNER_KERNEL_ROWS_MAX 8
#define LEARNER_KERNEL_LANES_MAX 16

struct learner_kernels {
    const char *name; /* "avx512" "avx2" "base" */
    size_t lanes;     /* floats of a vector */
    size_t rows;      /* output channels computed together */

    /* out[m * out_stride + q] = sum_j w[j * rows + m] * x[offsets[j] + q]
     * for m < rows, q < positions; positions is a multiple of lanes. */
    void (*correlate)(const float *x, const size_t *offsets, size_t count, const float *w,
                      float *out, size_t out_stride, size_t positions);
    /* dw[m * dw_stride + j] += sum_q dy[m * dy_stride + q] * x[offsets[j] + q]
     * for m < live (<= rows; dy has all rows), q < positions, a multiple of lanes. */
    void (*gradient)(const float *x, const size_t *offsets, size_t count, const float *dy,
                     size_t dy_stride, size_t positions, float *dw, size_t dw_stride, size_t live);

    /* y = x * scale + shift + residual (NULL: none), negative numbers to 0 if relu; NaN stays */
    void (*affine)(const float *x, const float *residual, float *y, size_t count, float scale,
                   float shift, bool relu);
    float (*sum)(const float *x, size_t count);
    float (*sum_squares)(const float *x, size_t count, float mean); /* of x - mean */
    /* g = dy where !relu or y > 0, else 0.  *sum += g, *sum_hat += g * (x - mean);
     * dresidual (NULL: none) = g, or += g */
    void (*norm_gather)(const float *x, const float *y, const float *dy, size_t count, float mean,
                        bool relu, float *dresidual, bool add, float *sum, float *sum_hat);
    /* dx = (g - offset - slope * (x - mean)) * gain, g as above; or += */
    void (*norm_apply)(const float *x, const float *y, const float *dy, size_t count, float mean,
                       bool relu, float offset, float slope, float gain, float *dx, bool add);
};

/* The fastest this processor runs, or the named one; NULL when it cannot run here. */
const struct learner_kernels *learner_kernels_find(const char *name);

extern const struct learner_kernels learner_kernels_base;
#ifdef __x86_64__
extern const struct learner_kernels learner_kernels_avx2;
extern const struct learner_kernels learner_kernels_avx512;
#endif

#endif
