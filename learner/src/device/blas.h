/* Inside of the `blas` backend: its state and its parts. */
#ifndef LEARNER_BLAS_H
#define LEARNER_BLAS_H

#include "device.h"
#include "kernels.h"
#include "pool.h"

struct blas {
    struct learner_device device;
    struct learner_pool *pool;
    const struct learner_kernels *kernels;
    /* scratch, grown by prepare */
    float *tiles; /* [members][tile_floats]: packed sources and results of a tile */
    size_t tile_floats;
    float *partial; /* [members][partial_floats]: weight gradients */
    size_t partial_floats;
    float *weights; /* [weight_floats]: packed, shared by all members */
    size_t weight_floats;
    size_t *offsets; /* [offset_count] */
    size_t offset_count;
};

struct blas_job {
    struct blas *blas;
    const struct learner_op *op;
    const struct learner_pass *pass;
};

/* conv.c: CONV and CONV_NORM. Another algorithm (Winograd) belongs behind these three. */
DELTA_MUST_USE enum delta_status blas_conv_prepare(struct blas *blas, const struct learner_op *op,
                                                   bool train, struct delta_error *err);
void blas_conv_forward(const struct blas_job *job);
void blas_conv_backward(const struct blas_job *job);

/* blas_norm.c */
void blas_norm_fix(const struct learner_op *op); /* from the running statistics */
void blas_norm_forward(const struct blas_job *job);
void blas_norm_backward(const struct blas_job *job);

#endif
