/* Backend `cuda`: an NVIDIA GPU. cuDNN convolves, cuBLAS multiplies, the rest are kernels of our
 * own; all of it in order on one stream, each list of operations recorded once and then played.
 * Batch norms, pools and depthwise convolutions are ours because they wait for memory alone and the
 * library would pass over it more often; see learner/PERFORMANCE.md. */
#include "cuda.h"

#include <stdlib.h>
#include <string.h>

#define PLACE ((void *)(uintptr_t)4096) /* told from NULL, never looked at */
#define SCRATCH_ALIGN 256
#define BLOCKS_EACH 16 /* of a processor, for kernels that walk over elements */

static void cuda_close(struct learner_device *device)
{
    struct cuda *cuda = (struct cuda *)device;
    struct gpu *gpu = cuda->gpu;

    gpu_wait(gpu);
    for (size_t i = 0; i < cuda->recording_count; i++)
        if (cuda->recordings[i].recording)
            gpu_recording_free(gpu, cuda->recordings[i].recording);
    for (size_t i = 0; i < cuda->conv_count; i++)
        if (cuda->convs[i].conv)
            gpu_conv_free(gpu, cuda->convs[i].conv);
    for (size_t i = 0; i < cuda->packed_count; i++)
        gpu_free(gpu, cuda->packed[i].at);
    for (size_t i = 0; i < cuda->live_count; i++)
        gpu_free(gpu, cuda->lives[i].at);
    void *blocks[] = {cuda->scratch, cuda->packet, cuda->results, cuda->bad};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (blocks[i])
            gpu_free(gpu, blocks[i]);
    if (cuda->host_packet)
        gpu_host_free(gpu, cuda->host_packet);
    if (cuda->host_results)
        gpu_host_free(gpu, cuda->host_results);
    gpu_close(gpu);
    free(cuda->packed);
    free(cuda->lives);
    free(cuda->convs);
    free(cuda);
}

static enum delta_status cuda_open(struct learner_device **out, int threads,
                                   struct delta_error *err)
{
    struct cuda *cuda = delta_calloc(1, sizeof *cuda);
    char why[256] = "";

    (void)threads;
    if (!cuda)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for device 'cuda'");
    cuda->gpu = gpu_open(why, sizeof why);
    if (!cuda->gpu) {
        free(cuda);
        return delta_fail(err, DELTA_UNSUPPORTED, "no GPU to use: %s", why);
    }
    cuda->device.ops = &learner_device_cuda;
    gpu_set_math(cuda->gpu, GPU_FP32);
    cuda->bad = gpu_alloc(cuda->gpu, sizeof *cuda->bad);
    if (!cuda->bad) {
        cuda_close(&cuda->device);
        return delta_fail(err, DELTA_NO_MEMORY, "no memory on the GPU");
    }
    *out = &cuda->device;
    return DELTA_OK;
}

static enum delta_status cuda_set_precision(struct learner_device *device, const char *precision,
                                            struct delta_error *err)
{
    struct cuda *cuda = (struct cuda *)device;
    const bool narrow = precision && !strcmp(precision, "bf16");

    if (precision && !gpu_has_bf16(cuda->gpu))
        return delta_fail(err, DELTA_UNSUPPORTED,
                          "this GPU has no %s; use fp32, which every one has", precision);
    cuda->narrow = narrow;
    device->precision = narrow ? "bf16" : precision ? "tf32" : NULL;
    gpu_set_math(cuda->gpu, narrow ? GPU_BF16 : precision ? GPU_TF32 : GPU_FP32);
    return DELTA_OK;
}

static void *cuda_alloc(struct learner_device *device, size_t bytes)
{
    return gpu_alloc(((struct cuda *)device)->gpu, bytes);
}

static void cuda_release(struct learner_device *device, void *block)
{
    gpu_free(((struct cuda *)device)->gpu, block);
}

static bool cuda_supports(const struct learner_device *device, const struct learner_op *op)
{
    (void)device;
    (void)op;
    return true;
}

static size_t cuda_memory_bytes(const struct learner_device *device)
{
    const struct cuda *cuda = (const struct cuda *)device;

    return cuda->bytes + cuda->scratch_bytes + 2 * (cuda->packet_bytes + cuda->results_bytes);
}

/* ---- what every operation uses ---- */

void *cuda_scratch(struct cuda *cuda, size_t bytes)
{
    const size_t at = cuda->used;

    cuda->used += (bytes + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN * SCRATCH_ALIGN;
    if (cuda->measured && cuda->used > cuda->needed)
        cuda->needed = cuda->used;
    return cuda->measured ? PLACE : cuda->scratch + at;
}

size_t cuda_scratch_left(const struct cuda *cuda)
{
    if (cuda->measured)
        return SIZE_MAX;
    return cuda->used < cuda->scratch_bytes ? cuda->scratch_bytes - cuda->used : 0;
}

void cuda_launch(struct cuda *cuda, enum gpu_kernel kernel, size_t blocks, const void *args)
{
    if (!cuda->measured && blocks)
        gpu_launch(cuda->gpu, kernel, (unsigned)blocks, args);
}

void cuda_each(struct cuda *cuda, enum gpu_kernel kernel, size_t count, const void *args)
{
    const size_t most = (size_t)BLOCKS_EACH * gpu_processors(cuda->gpu);
    const size_t blocks = (count + GPU_THREADS - 1) / GPU_THREADS;

    cuda_launch(cuda, kernel, blocks < most ? blocks : most, args);
}

void cuda_multiply(struct cuda *cuda, const struct gpu_product *product)
{
    if (!cuda->measured)
        gpu_multiply(cuda->gpu, product);
}

unsigned cuda_width(size_t channels)
{
    return channels % 4 ? 1 : 4;
}

/* ---- running ---- */

static void run_job(const struct cuda_job *job)
{
    job->cuda->used = 0;
    switch (job->op->kind) {
    case LEARNER_OP_CONV:
        if (job->pass->backward)
            cuda_conv_backward(job);
        else
            cuda_conv_forward(job);
        break;
    case LEARNER_OP_CONV_NORM: /* forward only */
        cuda_conv_forward(job);
        cuda_norm_after(job);
        break;
    case LEARNER_OP_NORM:
        if (job->pass->backward)
            cuda_norm_backward(job);
        else
            cuda_norm_forward(job);
        break;
    case LEARNER_OP_POOL:
        cuda_pool_run(job);
        break;
    case LEARNER_OP_MAX_POOL:
        cuda_max_pool_run(job);
        break;
    case LEARNER_OP_LINEAR:
        cuda_linear_run(job);
        break;
    }
}

void cuda_run(struct learner_device *device, const struct learner_op *op,
              const struct learner_pass *pass)
{
    const struct cuda_job job = {(struct cuda *)device, op, pass};

    run_job(&job);
}

static bool has_backward(const struct learner_op *op)
{
    return op->kind != LEARNER_OP_CONV_NORM && op->dy && (op->dx || op->dweight || op->dscale);
}

static enum delta_status cuda_prepare(struct learner_device *device, const struct learner_op *op,
                                      size_t batch, bool train, struct delta_error *err)
{
    struct cuda *cuda = (struct cuda *)device;
    struct learner_pass pass = {.n = batch, .mode = train ? LEARNER_TRAIN : LEARNER_INFER};
    const struct cuda_job job = {cuda, op, &pass};
    const bool conv = op->kind == LEARNER_OP_CONV || op->kind == LEARNER_OP_CONV_NORM;
    const enum delta_status st = conv ? cuda_conv_check(op, err) : DELTA_OK;

    if (st)
        return st;
    cuda->needed = 0;
    cuda->measured = true;
    run_job(&job);
    pass.backward = true;
    if (train && has_backward(op))
        run_job(&job);
    cuda->measured = false;
    if (cuda->needed > cuda->scratch_bytes) {
        if (cuda->scratch)
            gpu_free(cuda->gpu, cuda->scratch);
        cuda->scratch = gpu_alloc(cuda->gpu, cuda->needed);
        cuda->scratch_bytes = cuda->scratch ? cuda->needed : 0;
    }
    if (cuda->failed || cuda->needed > cuda->scratch_bytes)
        return delta_fail(
            err, DELTA_NO_MEMORY,
            "no memory for the scratch space of layer '%s': %zu MiB on the GPU; use a "
            "smaller batch",
            op->name, (cuda->needed >> 20) + 1);
    return DELTA_OK;
}

const struct learner_device_ops learner_device_cuda = {
    .name = "cuda",
    .remote = &cuda_remote,
    .whole_outputs = true,
    .open = cuda_open,
    .close = cuda_close,
    .set_precision = cuda_set_precision,
    .alloc = cuda_alloc,
    .release = cuda_release,
    .supports = cuda_supports,
    .prepare = cuda_prepare,
    .run = cuda_run,
    .memory_bytes = cuda_memory_bytes,
};
