/* A GPU's memory, its stream and recordings of what goes through it. CUDA's runtime is linked in;
 * it looks for the driver when it is first called, and says so where there is none. */
#include "cuda_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void gpu_failed(struct gpu *gpu, const char *what, const char *why)
{
    if (!gpu->failure[0])
        snprintf(gpu->failure, sizeof gpu->failure, "%s: %s", what, why);
}

bool gpu_check(struct gpu *gpu, cudaError_t code, const char *what)
{
    if (code == cudaSuccess)
        return true;
    gpu_failed(gpu, what, cudaGetErrorString(code));
    return false;
}

static bool find_gpu(struct gpu *gpu, char *why, size_t size)
{
    int count = 0, major = 0, minor = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);

    if (code != cudaSuccess || count < 1) {
        cudaGetLastError();
        if (code == cudaErrorInsufficientDriver)
            snprintf(why, size, "no NVIDIA driver is loaded, or one older than CUDA %d.%d needs",
                     CUDART_VERSION / 1000, CUDART_VERSION / 10 % 100);
        else
            snprintf(why, size, "%s", code ? cudaGetErrorString(code) : "the driver finds none");
        return false;
    }
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0) ||
        cudaDeviceGetAttribute(&gpu->processors, cudaDevAttrMultiProcessorCount, 0) ||
        cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking)) {
        snprintf(why, size, "%s", cudaGetErrorString(cudaGetLastError()));
        return false;
    }
    gpu->capability = 10 * major + minor;
    return true;
}

struct gpu *gpu_open(char *why, size_t size)
{
    struct gpu *gpu = (struct gpu *)calloc(1, sizeof *gpu);

    if (!gpu) {
        snprintf(why, size, "out of memory");
        return NULL;
    }
    if (!find_gpu(gpu, why, size) || !gpu_libraries_open(gpu, why, size)) {
        gpu_close(gpu);
        return NULL;
    }
    return gpu;
}

void gpu_close(struct gpu *gpu)
{
    gpu_libraries_close(gpu);
    if (gpu->stream)
        cudaStreamDestroy(gpu->stream);
    free(gpu);
}

void gpu_set_math(struct gpu *gpu, enum gpu_math math)
{
    gpu->math = math;
}

bool gpu_has_bf16(const struct gpu *gpu)
{
    return COMPAT_HAS_BF16 && gpu->capability >= 80;
}

unsigned gpu_processors(const struct gpu *gpu)
{
    return (unsigned)gpu->processors;
}

/* ---- memory ---- */

void *gpu_alloc(struct gpu *gpu, size_t bytes)
{
    void *block = NULL;

    if (cudaMalloc(&block, bytes ? bytes : 1) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    gpu_zero(gpu, block, bytes);
    return block;
}

void gpu_free(struct gpu *gpu, void *block)
{
    gpu_check(gpu, cudaFree(block), "memory");
}

size_t gpu_free_bytes(struct gpu *gpu)
{
    size_t unused = 0, all = 0;

    gpu_check(gpu, cudaMemGetInfo(&unused, &all), "memory");
    return unused;
}

void *gpu_host_alloc(struct gpu *gpu, size_t bytes)
{
    void *block = NULL;

    (void)gpu;
    if (cudaMallocHost(&block, bytes ? bytes : 1) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    memset(block, 0, bytes);
    return block;
}

void gpu_host_free(struct gpu *gpu, void *block)
{
    gpu_check(gpu, cudaFreeHost(block), "host memory");
}

static void cross(struct gpu *gpu, void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    if (bytes && gpu_check(gpu, cudaMemcpyAsync(to, from, bytes, kind, gpu->stream), "copy"))
        gpu_check(gpu, cudaStreamSynchronize(gpu->stream), "copy");
}

void gpu_upload(struct gpu *gpu, void *to, const void *host, size_t bytes)
{
    cross(gpu, to, host, bytes, cudaMemcpyHostToDevice);
}

void gpu_download(struct gpu *gpu, void *host, const void *from, size_t bytes)
{
    cross(gpu, host, from, bytes, cudaMemcpyDeviceToHost);
}

void gpu_copy(struct gpu *gpu, void *to, const void *from, size_t bytes)
{
    if (bytes)
        gpu_check(gpu, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, gpu->stream),
                  "copy");
}

void gpu_zero(struct gpu *gpu, void *to, size_t bytes)
{
    if (bytes)
        gpu_check(gpu, cudaMemsetAsync(to, 0, bytes, gpu->stream), "fill");
}

void gpu_send(struct gpu *gpu, void *to, const void *host, size_t bytes)
{
    if (bytes)
        gpu_check(gpu, cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, gpu->stream),
                  "copy");
}

void gpu_wait(struct gpu *gpu)
{
    gpu_check(gpu, cudaStreamSynchronize(gpu->stream), "computing");
}

/* ---- recordings ---- */

bool gpu_record(struct gpu *gpu)
{
    if (gpu->failure[0])
        return false;
    if (cudaStreamBeginCapture(gpu->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess)
        return true;
    cudaGetLastError();
    return false;
}

/* What fails in here was not run: it leaves no trace. */
struct gpu_recording *gpu_record_end(struct gpu *gpu)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    const bool whole = cudaStreamEndCapture(gpu->stream, &graph) == cudaSuccess && !gpu->failure[0];

    if (!whole || compat_instantiate(&exec, graph) != cudaSuccess) {
        gpu->failure[0] = '\0';
        cudaGetLastError();
        exec = NULL;
    }
    if (graph)
        cudaGraphDestroy(graph);
    return (struct gpu_recording *)exec;
}

void gpu_play(struct gpu *gpu, struct gpu_recording *recording)
{
    gpu_check(gpu, cudaGraphLaunch((cudaGraphExec_t)recording, gpu->stream), "recorded operations");
}

void gpu_recording_free(struct gpu *gpu, struct gpu_recording *recording)
{
    gpu_check(gpu, cudaGraphExecDestroy((cudaGraphExec_t)recording), "recorded operations");
}

bool gpu_sync(struct gpu *gpu, char *why, size_t size)
{
    gpu_check(gpu, cudaStreamSynchronize(gpu->stream), "computing");
    if (!gpu->failure[0])
        return true;
    snprintf(why, size, "%s", gpu->failure);
    gpu->failure[0] = '\0';
    return false;
}
