/* Which algorithm computes a convolution. */
#include "blas.h"

static const struct blas_conv *algorithm(const struct blas *blas, const struct learner_op *op)
{
    if (op->groups > 1)
        return &blas_conv_depthwise;
    if (blas->algorithm)
        return blas->algorithm;
    return blas_winograd_fits(op) && op->in.h > 2 && op->in.w > 2 ? &blas_conv_winograd
                                                                  : &blas_conv_gemm;
}

enum delta_status blas_conv_prepare(struct blas *blas, const struct learner_op *op, bool train,
                                    struct delta_error *err)
{
    if (op->groups != 1 && (op->groups != op->in.c || op->out.c != op->in.c))
        return delta_fail(err, DELTA_UNSUPPORTED,
                          "layer '%s': %zu groups of %zu channels are not supported", op->name,
                          op->groups, op->in.c);
    enum delta_status st = blas_norm_prepare(blas, op, err); /* for its sums */
    if (!st && op->back_sums)
        st = blas_scratch(blas, BLAS_SUMS_FLOATS * op->in.c, 0, op, err);
    if (st)
        return st;
    if (op->kind == LEARNER_OP_CONV_NORM) {
        blas->fold = blas_grow(blas->fold, &blas->fold_channels, op->out.c, 2);
        if (!blas->fold)
            return delta_fail(err, DELTA_NO_MEMORY, "no memory for the batch norm of layer '%s'",
                              op->name);
    }
    return algorithm(blas, op)->prepare(blas, op, train, err);
}

void blas_conv_sums(const struct blas_job *job)
{
    if (job->op->kind == LEARNER_OP_CONV && job->pass->mode == LEARNER_TRAIN && job->op->sums)
        blas_norm_sums(job);
}

void blas_conv_back_sums(const struct blas_job *job)
{
    if (blas_wants_back_sums(job))
        blas_norm_back_sums(job);
}

void blas_conv_forward(const struct blas_job *job)
{
    if (job->op->kind == LEARNER_OP_CONV_NORM)
        blas_norm_fold(job->blas, job->op);
    algorithm(job->blas, job->op)->forward(job);
}

void blas_conv_backward(const struct blas_job *job)
{
    const struct blas_conv *conv = algorithm(job->blas, job->op);

    if (conv->backward) {
        conv->backward(job);
        return;
    }
    if (job->op->dweight && (!job->op->live || job->op->live_count))
        conv->dweight(job);
    if (job->op->dx)
        conv->dx(job);
}
