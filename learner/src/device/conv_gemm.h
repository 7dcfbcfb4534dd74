/* What the two halves of the `gemm` algorithm share. */
#ifndef LEARNER_CONV_GEMM_H
#define LEARNER_CONV_GEMM_H

#include "conv_window.h"

static inline size_t conv_round_up(size_t count, size_t to)
{
    return (count + to - 1) / to * to;
}

/* Output rows of a block of about so many pixels. */
static inline size_t conv_block_rows(const struct blas_window *window, size_t pixels)
{
    const size_t rows = pixels / (window->w ? window->w : 1);

    return rows ? rows : 1;
}

/* conv_dweight.c */
DELTA_MUST_USE enum delta_status
conv_gemm_dweight_prepare(struct blas *blas, const struct learner_op *op, struct delta_error *err);
void conv_gemm_dweight(const struct blas_job *job);

#endif
