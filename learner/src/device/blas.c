/* Backend `blas`: all cores. Vector kernels for convolutions, batch norms and the linear layer's
 * outputs (kernels.h), OpenBLAS, kept at one thread, for the linear layer's gradients. */
#include <cblas.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"

static void blas_close(struct learner_device *device)
{
    struct blas *blas = (struct blas *)device;

    learner_pool_free(blas->pool);
    blas_packed_release(blas);
    free(blas->scratch);
    free(blas->shared);
    free(blas->fold);
    free(blas);
}

static enum delta_status blas_open(struct learner_device **out, int threads,
                                   struct delta_error *err)
{
    struct blas *blas = delta_calloc(1, sizeof *blas);

    if (!blas)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for device 'blas'");
    blas->device.ops = &learner_device_blas;
    blas->kernels = learner_kernels_find(NULL);
    if (!blas->kernels) {
        free(blas);
        return delta_fail(err, DELTA_UNSUPPORTED,
                          "FROSTLINE_KERNELS names kernels that this processor does not run; "
                          "known: base, avx2, avx512");
    }
    const enum delta_status st = learner_pool_new(&blas->pool, threads, err);
    if (st) {
        free(blas);
        return st;
    }
    openblas_set_num_threads(1);
    *out = &blas->device;
    return DELTA_OK;
}

static void *blas_alloc(struct learner_device *device, size_t bytes)
{
    (void)device;
    return delta_calloc_aligned(bytes, 1);
}

static void blas_release(struct learner_device *device, void *block)
{
    (void)device;
    free(block);
}

static bool blas_supports(const struct learner_device *device, const struct learner_op *op)
{
    (void)device;
    (void)op;
    return true;
}

static size_t blas_memory_bytes(const struct learner_device *device)
{
    const struct blas *blas = (const struct blas *)device;

    return (learner_pool_members(blas->pool) * blas->scratch_floats + blas->shared_floats +
            2 * blas->fold_channels + blas_packed_floats(blas)) *
           sizeof(float);
}

float *blas_grow(float *block, size_t *have, size_t want, size_t copies)
{
    size_t count;

    if (want <= *have)
        return block;
    free(block);
    *have = want;
    return delta_size_mul(want, copies, &count) ? delta_calloc_aligned(count, sizeof(float)) : NULL;
}

enum delta_status blas_scratch(struct blas *blas, size_t member_floats, size_t shared_floats,
                               const struct learner_op *op, struct delta_error *err)
{
    /* whole cache lines, so that no two members write to the same one */
    member_floats += (16 - member_floats % 16) % 16;
    blas->scratch = blas_grow(blas->scratch, &blas->scratch_floats, member_floats,
                              learner_pool_members(blas->pool));
    blas->shared = blas_grow(blas->shared, &blas->shared_floats, shared_floats, 1);
    if ((!blas->scratch && blas->scratch_floats) || (!blas->shared && blas->shared_floats))
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for the scratch space of layer '%s'",
                          op->name);
    return DELTA_OK;
}

static enum delta_status linear_prepare(struct blas *blas, const struct learner_op *op, bool train,
                                        struct delta_error *err)
{
    const size_t packed = blas->kernels->gemm_packed_floats(op->in.c, op->out.c);
    const enum delta_status st = blas_scratch(blas, 0, packed, op, err);

    return st || train ? st : blas_packed_reserve(blas, op, BLAS_PACKED_FORWARD, packed, err);
}

/* OpenBLAS chooses its kernel by the number of images, and with it the order of the sums. */
static void linear_forward(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    const struct learner_kernels *kernels = job->blas->kernels;
    const size_t in = op->in.c, out = op->out.c;
    bool stale;
    float *packed =
        blas_packed_weights(job->blas, op, BLAS_PACKED_FORWARD, job->pass->weights_version, &stale);

    if (!packed)
        packed = job->blas->shared;
    if (stale)
        kernels->gemm_pack(packed, op->weight, 1, in, in, out, 0, in);
    for (size_t i = 0; i < job->pass->n; i++)
        memcpy(op->y + i * out, op->bias, out * sizeof(float));
    const struct learner_gemm gemm = {.rows = job->pass->n,
                                      .cols = out,
                                      .depth = in,
                                      .taps = 1,
                                      .a = op->x,
                                      .a_stride = in,
                                      .b = packed,
                                      .c = op->y,
                                      .c_stride = out,
                                      .add = true};
    kernels->gemm(&gemm);
}

static enum delta_status blas_prepare(struct learner_device *device, const struct learner_op *op,
                                      size_t batch, bool train, struct delta_error *err)
{
    (void)batch;
    if (op->kind == LEARNER_OP_NORM)
        return blas_norm_prepare((struct blas *)device, op, err);
    if (op->kind == LEARNER_OP_MAX_POOL && op->kernel > BLAS_MAX_POOL_KERNEL)
        return delta_fail(err, DELTA_UNSUPPORTED,
                          "layer '%s': max pools of more than %d x %d are not supported", op->name,
                          BLAS_MAX_POOL_KERNEL, BLAS_MAX_POOL_KERNEL);
    if (op->kind == LEARNER_OP_CONV || op->kind == LEARNER_OP_CONV_NORM)
        return blas_conv_prepare((struct blas *)device, op, train, err);
    if (op->kind == LEARNER_OP_LINEAR)
        return linear_prepare((struct blas *)device, op, train, err);
    return DELTA_OK;
}

static void linear_backward(const struct learner_op *op, size_t n)
{
    const int in = (int)op->in.c, out = (int)op->out.c;

    if (op->dweight)
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, out, in, (int)n, 1, op->dy, out, op->x,
                    in, 0, op->dweight, in);
    if (op->dbias)
        memset(op->dbias, 0, op->out.c * sizeof(float));
    for (size_t i = 0; op->dbias && i < n; i++)
        for (size_t o = 0; o < op->out.c; o++)
            op->dbias[o] += op->dy[i * op->out.c + o];
    if (op->dx)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, in, out, 1, op->dy, out,
                    op->weight, in, op->dx_add ? 1 : 0, op->dx, in);
}

static void run_forward(const struct blas_job *job)
{
    switch (job->op->kind) {
    case LEARNER_OP_CONV:
    case LEARNER_OP_CONV_NORM:
        blas_conv_forward(job);
        break;
    case LEARNER_OP_NORM:
        blas_norm_forward(job);
        break;
    case LEARNER_OP_POOL:
        blas_pool_forward(job);
        break;
    case LEARNER_OP_MAX_POOL:
        blas_max_pool_forward(job);
        break;
    case LEARNER_OP_LINEAR:
        linear_forward(job);
        break;
    }
}

static void run_backward(const struct blas_job *job)
{
    switch (job->op->kind) {
    case LEARNER_OP_CONV:
        blas_conv_backward(job);
        break;
    case LEARNER_OP_NORM:
        blas_norm_backward(job);
        break;
    case LEARNER_OP_POOL:
        blas_pool_backward(job);
        break;
    case LEARNER_OP_MAX_POOL:
        blas_max_pool_backward(job);
        break;
    case LEARNER_OP_LINEAR:
        linear_backward(job->op, job->pass->n);
        break;
    case LEARNER_OP_CONV_NORM: /* inference only */
        break;
    }
}

static void blas_run(struct learner_device *device, const struct learner_op *op,
                     const struct learner_pass *pass)
{
    const struct blas_job job = {(struct blas *)device, op, pass};

    if (pass->backward)
        run_backward(&job);
    else
        run_forward(&job);
}

static void blas_team(struct learner_device *device, learner_pool_work *work, void *context)
{
    learner_pool_run(((struct blas *)device)->pool, work, context);
}

const struct learner_device_ops learner_device_blas = {
    .name = "blas",
    .open = blas_open,
    .close = blas_close,
    .alloc = blas_alloc,
    .release = blas_release,
    .supports = blas_supports,
    .prepare = blas_prepare,
    .run = blas_run,
    .team = blas_team,
    .memory_bytes = blas_memory_bytes,
};
