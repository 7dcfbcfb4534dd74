/* Inside of the `blas` backend: its state and its parts. */
#ifndef LEARNER_BLAS_H
#define LEARNER_BLAS_H

#include "device.h"
#include "kernels.h"
#include "pool.h"

enum blas_packed_kind { BLAS_PACKED_FORWARD, BLAS_PACKED_WINOGRAD };

struct blas_packed {
    const float *weight; /* whose; borrowed */
    enum blas_packed_kind kind;
    float *data; /* owned */
    size_t floats;
    uint64_t version; /* of the weights it was made of; 0: none */
};

#define BLAS_PACKED_MAX 256

struct blas {
    struct learner_device device;
    struct learner_pool *pool;
    const struct learner_kernels *kernels;
    /* scratch, grown by prepare; [members][scratch_floats] */
    float *scratch;
    size_t scratch_floats;
    float *shared; /* [shared_floats]: of all members together, such as packed weights */
    size_t shared_floats;
    /* of the CONV_NORM that runs: y = act(y * gain + offset + residual); [2][fold_channels] */
    float *fold;
    size_t fold_channels;
    struct learner_kernel_norm norm;
    struct blas_packed packed[BLAS_PACKED_MAX]; /* reserved by prepare */
    size_t packed_count;
    const struct blas_conv *algorithm; /* of convolutions of one group; NULL: by their shape */
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

/* At least `want` floats times `copies`, zeroed; contents are lost when it grows. NULL: no memory
 */
float *blas_grow(float *block, size_t *have, size_t want, size_t copies);
/* blas_packed.c: weights in the order that a kernel wants. A net for inference reserves a place for
 * them; without one (training, where they change each step) the caller packs into blas->shared,
 * which it has asked for.
 *   fails    NO_MEMORY, LIMIT */
DELTA_MUST_USE enum delta_status blas_packed_reserve(struct blas *blas, const struct learner_op *op,
                                                     enum blas_packed_kind kind, size_t floats,
                                                     struct delta_error *err);
/* The place reserved for op->weight, or NULL. stale: pack them (now); version: of the pass. */
float *blas_packed_weights(struct blas *blas, const struct learner_op *op,
                           enum blas_packed_kind kind, uint64_t version, bool *stale);
size_t blas_packed_floats(const struct blas *blas);
void blas_packed_release(struct blas *blas);

/* One way to compute convolutions. forward is CONV and CONV_NORM; dx is called only where wanted,
 * dweight likewise (op->live: only those rows). What they need was asked for in prepare. */
struct blas_conv {
    const char *name;
    enum delta_status (*prepare)(struct blas *blas, const struct learner_op *op, bool train,
                                 struct delta_error *err);
    void (*forward)(const struct blas_job *job);
    void (*dx)(const struct blas_job *job);
    void (*dweight)(const struct blas_job *job);
    void (*backward)(const struct blas_job *job); /* both at once, whatever is wanted; or NULL */
};
extern const struct blas_conv blas_conv_gemm;      /* any shape, one group */
extern const struct blas_conv blas_conv_winograd;  /* where blas_winograd_fits */
extern const struct blas_conv blas_conv_depthwise; /* one channel a group */

/* conv.c: chooses among them by the shape. */
DELTA_MUST_USE enum delta_status blas_conv_prepare(struct blas *blas, const struct learner_op *op,
                                                   bool train, struct delta_error *err);
void blas_conv_forward(const struct blas_job *job);
void blas_conv_backward(const struct blas_job *job);

bool blas_winograd_fits(const struct learner_op *op);

/* For algorithms that do not add up op->sums themselves: reads y once more; op->back_sums: reads x
 * and dx once more. */
void blas_conv_sums(const struct blas_job *job);
void blas_conv_back_sums(const struct blas_job *job);
static inline bool blas_wants_back_sums(const struct blas_job *job)
{
    return job->op->back_sums && job->pass->mode == LEARNER_TRAIN;
}

/* blas_norm.c */
#define BLAS_SUMS_FLOATS                                                                           \
    6 /* of a member's scratch for a channel: two sums in float and in double */
DELTA_MUST_USE enum delta_status blas_norm_prepare(struct blas *blas, const struct learner_op *op,
                                                   struct delta_error *err);
void blas_norm_forward(const struct blas_job *job);
void blas_norm_backward(const struct blas_job *job);
void blas_norm_bounds(struct learner_kernel_norm *norm, enum learner_act act); /* low and high */
/* For CONV_NORM: sets blas->norm from the running statistics, before the convolution runs. */
void blas_norm_fold(struct blas *blas, const struct learner_op *op);
/* The sums that a convolution's op wants: reads y once more. Needs what prepare asked for. */
void blas_norm_sums(const struct blas_job *job);
void blas_norm_back_sums(const struct blas_job *job);
/* For norm_reduce, of channels c.. of what a convolution's op->back_sums are about; without sums */
struct learner_kernel_norm_back blas_norm_back_of(const struct learner_op *op, size_t c,
                                                  size_t channels);
/* In place: y = act(y * gain + offset + residual) for `pixels` from pixel `first` on. On a tile of
 * some channels: kernels->normalise with a copy of blas->norm. */
void blas_norm_finish(const struct blas_job *job, size_t first, size_t pixels);

/* blas_pool.c: mean over the plane, largest of a window */
#define BLAS_MAX_POOL_KERNEL 15
void blas_pool_forward(const struct blas_job *job);
void blas_pool_backward(const struct blas_job *job);
void blas_max_pool_forward(const struct blas_job *job);
void blas_max_pool_backward(const struct blas_job *job);

#endif
