/* The inner loops of the `blas` backend, written once over vectors of a fixed number of lanes and
 * compiled once per instruction set. The best that this processor runs is chosen at run time.
 * Nothing here knows images, threads or memory plans. */
#ifndef LEARNER_KERNELS_H
#define LEARNER_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

#define LEARNER_KERNEL_LANES_MAX 16

/* C[rows][cols] (+)= sum over taps t and k < depth of A_t[row][k] * B[t * depth + k][col].
 * Nothing outside of the matrices is read or written; every value's sum has an order of its own
 * that depends on depth, taps and cols only, not on where its row stands or on how many there are.
 * Choose rows so that their part of A and C stays in the second-level cache. */
struct learner_gemm {
    size_t rows, cols, depth, taps; /* cols, taps, depth >= 1 */
    /* Row r of A_t is a_rows[t * a_rows_stride + r]; a_rows NULL: a + r * a_stride, and one tap */
    const float *const *a_rows;
    size_t a_rows_stride;
    const float *a;
    size_t a_stride;
    const float *b; /* packed */
    float *c;
    size_t c_stride;
    bool add; /* to what is there */
    /* Only these columns; whole panels, see gemm_panel_cols. Both 0: all */
    size_t col_first, col_end;
};

struct learner_kernels {
    const char *name; /* "avx512" "avx2" "base" */
    size_t lanes;     /* floats of a vector */

    void (*gemm)(const struct learner_gemm *gemm);
    size_t gemm_rows; /* of a tile: work is best divided in multiples of it */
    size_t gemm_cols; /* of a panel at most */
    /* of each panel but the last of a matrix so wide */
    size_t (*gemm_panel_cols)(size_t cols);
    size_t (*gemm_packed_floats)(size_t depth, size_t cols); /* depth: of all taps together */
    /* Packs rows k_first.. of B, which has k_total: b[k * k_stride + col * col_stride], k < depth.
     * All of B: k_first 0, depth = k_total. */
    void (*gemm_pack)(float *packed, const float *b, size_t k_stride, size_t col_stride,
                      size_t depth, size_t cols, size_t k_first, size_t k_total);
};

/* The fastest this processor runs, or the named one; NULL when it cannot run here. */
const struct learner_kernels *learner_kernels_find(const char *name);

extern const struct learner_kernels learner_kernels_base;
#ifdef __x86_64__
extern const struct learner_kernels learner_kernels_avx2;
extern const struct learner_kernels learner_kernels_avx512;
#endif

#endif
