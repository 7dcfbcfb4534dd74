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
    /* scratch, grown by prepare; [members][scratch_floats] */
    float *scratch;
    size_t scratch_floats;
    float *shared; /* [shared_floats]: of all members together, such as packed weights */
    size_t shared_floats;
};

static inline float blas_activate(enum learner_act act, float v)
{
    /* written so that NaN passes through */
    if (act != LEARNER_ACT_NONE && v < 0)
        return 0;
    return act == LEARNER_ACT_RELU6 && v > 6 ? 6 : v;
}

static inline bool blas_passes(enum learner_act act, float y)
{
    return act == LEARNER_ACT_NONE || (y > 0 && (act == LEARNER_ACT_RELU || y < 6));
}

struct blas_job {
    struct blas *blas;
    const struct learner_op *op;
    const struct learner_pass *pass;
};

/* Raises the scratch space to at least so many floats a member, and together. */
DELTA_MUST_USE enum delta_status blas_scratch(struct blas *blas, size_t member_floats,
                                              size_t shared_floats, const struct learner_op *op,
                                              struct delta_error *err);

/* One way to compute convolutions. forward is CONV and CONV_NORM; dx is called only where wanted,
 * dweight likewise (op->live: only those rows). What they need was asked for in prepare. */
struct blas_conv {
    const char *name;
    enum delta_status (*prepare)(struct blas *blas, const struct learner_op *op, bool train,
                                 struct delta_error *err);
    void (*forward)(const struct blas_job *job);
    void (*dx)(const struct blas_job *job);
    void (*dweight)(const struct blas_job *job);
};
extern const struct blas_conv blas_conv_gemm;      /* any shape, one group */
extern const struct blas_conv blas_conv_depthwise; /* one channel a group */

/* conv.c: chooses among them by the shape. */
DELTA_MUST_USE enum delta_status blas_conv_prepare(struct blas *blas, const struct learner_op *op,
                                                   bool train, struct delta_error *err);
void blas_conv_forward(const struct blas_job *job);
void blas_conv_backward(const struct blas_job *job);

/* For algorithms that do not add up op->sums themselves: reads y once more. */
void blas_conv_sums(const struct blas_job *job);

/* blas_norm.c */
void blas_norm_fix(const struct learner_op *op); /* from the running statistics */
void blas_norm_forward(const struct blas_job *job);
void blas_norm_backward(const struct blas_job *job);
/* In place, for CONV_NORM: y = act(y * scale + shift + residual) for `pixels` from pixel `first` */
void blas_norm_finish(const struct learner_op *op, size_t first, size_t pixels);

/* blas_pool.c: mean over the plane, largest of a window */
void blas_pool_forward(const struct blas_job *job);
void blas_pool_backward(const struct blas_job *job);
void blas_max_pool_forward(const struct blas_job *job);
void blas_max_pool_backward(const struct blas_job *job);

#endif
