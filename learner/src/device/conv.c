/* Which algorithm computes a convolution. */
#include "blas.h"

static const struct blas_conv *algorithm(const struct learner_op *op)
{
    return op->groups > 1 ? &blas_conv_depthwise : &blas_conv_gemm;
}

enum delta_status blas_conv_prepare(struct blas *blas, const struct learner_op *op, bool train,
                                    struct delta_error *err)
{
    if (op->groups != 1 && (op->groups != op->in.c || op->out.c != op->in.c))
        return delta_fail(err, DELTA_UNSUPPORTED,
                          "layer '%s': %zu groups of %zu channels are not supported", op->name,
                          op->groups, op->in.c);
    return algorithm(op)->prepare(blas, op, train, err);
}

static void sums_of_channels(void *context, size_t member, size_t members)
{
    const struct blas_job *job = context;
    const struct learner_op *op = job->op;
    const size_t channels = op->out.c;
    size_t first, end;

    learner_pool_share(channels, member, members, &first, &end);
    for (size_t c = first; c < end; c++) {
        op->sums[c] = op->sums[channels + c] = 0;
        for (size_t at = c; at < job->pass->n * learner_shape_count(&op->out); at += channels) {
            const double d = (double)op->y[at] - op->mean[c];
            op->sums[c] += d;
            op->sums[channels + c] += d * d;
        }
    }
}

void blas_conv_sums(const struct blas_job *job)
{
    if (job->op->kind == LEARNER_OP_CONV && job->pass->mode == LEARNER_TRAIN && job->op->sums)
        learner_pool_run(job->blas->pool, sums_of_channels, (void *)job);
}

void blas_conv_forward(const struct blas_job *job)
{
    if (job->op->kind == LEARNER_OP_CONV_NORM)
        blas_norm_fix(job->op);
    algorithm(job->op)->forward(job);
}

void blas_conv_backward(const struct blas_job *job)
{
    const struct blas_conv *conv = algorithm(job->op);

    if (job->op->dweight && (!job->op->live || job->op->live_count))
        conv->dweight(job);
    if (job->op->dx)
        conv->dx(job);
}
