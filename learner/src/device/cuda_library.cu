/* NVIDIA's libraries: cuDNN's convolutions, cuBLAS's matrix products. */
#include "cuda_driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALGORITHMS 8
#define WORKSPACE ((size_t)32 << 20) /* what cuBLAS asks for from Hopper on */

/* ---- loading ---- */

/* In the first of some directories, separated by colons, that has it; `why` is of the last. */
static void *load_from(const char *directories, const char *file, char *why, size_t size)
{
    char path[1024];
    void *handle = NULL;

    for (const char *at = directories; !handle && at && *at;) {
        const size_t len = strcspn(at, ":");
        snprintf(path, sizeof path, "%.*s/%s", (int)len, at, file);
        handle = len ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
        if (len && !handle)
            snprintf(why, size, "%s", dlerror());
        at += len + (at[len] == ':');
    }
    return handle;
}

/* What the user names goes first, and what is wrong with it is told; else where the loader looks,
 * and where the toolkit was that this was built with. */
static void *load(const char *file, char *why, size_t size)
{
    const char *named = getenv("FROSTLINE_CUDA_LIBRARIES");
    char unused[256];
    void *handle = load_from(named, file, why, size);

    if (!handle)
        handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!handle && !(named && *named))
        snprintf(why, size, "%s; FROSTLINE_CUDA_LIBRARIES can name its directory", dlerror());
    return handle ? handle : load_from(FROSTLINE_CUDA_LIBRARY_DIR, file, unused, sizeof unused);
}

/* Handles stay open: the libraries do not expect to be unloaded. */
static bool load_libraries(struct gpu_libraries *lib, char *why, size_t size)
{
    void *dnn = load(COMPAT_CUDNN_FILE, why, size);
    void *blas = dnn ? load(COMPAT_CUBLAS_FILE, why, size) : NULL;
    const char *missing = NULL;

    if (!dnn || !blas)
        return false;
#define FIND(library, name)                                                                        \
    lib->name = (decltype(lib->name))dlsym(library, #name);                                        \
    missing = lib->name ? missing : #name;
#define FIND_DNN(name) FIND(dnn, name)
#define FIND_BLAS(name) FIND(blas, name)
    CUDNN_FUNCTIONS(FIND_DNN)
    CUBLAS_FUNCTIONS(FIND_BLAS)
    lib->gemm_ex = (compat_gemm_ex)dlsym(blas, "cublasGemmEx");
    missing = lib->gemm_ex ? missing : "cublasGemmEx";
    if (missing)
        snprintf(why, size, "%s and %s lack %s", COMPAT_CUDNN_FILE, COMPAT_CUBLAS_FILE, missing);
    return !missing;
}

bool gpu_libraries_open(struct gpu *gpu, char *why, size_t size)
{
    struct gpu_libraries *lib = &gpu->lib;

    if (!load_libraries(lib, why, size))
        return false;
    const cudnnStatus_t code = lib->cudnnCreate(&gpu->dnn);
    if (code != CUDNN_STATUS_SUCCESS || lib->cudnnSetStream(gpu->dnn, gpu->stream)) {
        snprintf(why, size, "cuDNN: %s", lib->cudnnGetErrorString(code));
        return false;
    }
    if (lib->cublasCreate_v2(&gpu->blas) || lib->cublasSetStream_v2(gpu->blas, gpu->stream)) {
        snprintf(why, size, "cuBLAS cannot be used on this GPU");
        return false;
    }
#if COMPAT_HAS_WORKSPACE
    gpu->workspace = gpu_alloc(gpu, WORKSPACE);
    if (!gpu->workspace || lib->cublasSetWorkspace_v2(gpu->blas, gpu->workspace, WORKSPACE)) {
        snprintf(why, size, "no memory for cuBLAS");
        return false;
    }
#endif
    return true;
}

void gpu_libraries_close(struct gpu *gpu)
{
    if (gpu->blas)
        gpu->lib.cublasDestroy_v2(gpu->blas);
    if (gpu->dnn)
        gpu->lib.cudnnDestroy(gpu->dnn);
    if (gpu->workspace)
        gpu_free(gpu, gpu->workspace);
}

/* ---- products ---- */

void gpu_multiply(struct gpu *gpu, const struct gpu_product *p)
{
    const float one = 1, beta = p->beta;
    const cudaDataType in = p->narrow ? COMPAT_R_16BF : CUDA_R_32F;
    const cudaDataType out = p->narrow_c ? COMPAT_R_16BF : CUDA_R_32F;
    const compat_compute compute = gpu->math == GPU_TF32 && !p->exact && !p->narrow
                                       ? COMPAT_COMPUTE_TF32
                                       : COMPAT_COMPUTE_EXACT;

    /* cuBLAS has columns where we have rows: it computes the transposed product */
    const cublasStatus_t code =
        gpu->lib.gemm_ex(gpu->blas, p->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                         p->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, (int)p->n, (int)p->m,
                         (int)p->k, &one, p->b, in, (int)p->ldb, p->a, in, (int)p->lda, &beta, p->c,
                         out, (int)p->ldc, compute, CUBLAS_GEMM_DEFAULT);
    if (code != CUBLAS_STATUS_SUCCESS) {
        char why[32];
        snprintf(why, sizeof why, "status %d", (int)code);
        gpu_failed(gpu, "cuBLAS, product", why);
    }
}

/* ---- convolutions ---- */

struct gpu_conv {
    enum gpu_conv_part part;
    cudnnTensorDescriptor_t x, y;
    cudnnFilterDescriptor_t w;
    cudnnConvolutionDescriptor_t conv;
    union {
        cudnnConvolutionFwdAlgo_t forward;
        cudnnConvolutionBwdDataAlgo_t data;
        cudnnConvolutionBwdFilterAlgo_t filter;
    } algorithm;
    size_t scratch;
};

static bool describe(struct gpu *gpu, struct gpu_conv *conv, const struct gpu_conv_shape *s)
{
    const struct gpu_libraries *lib = &gpu->lib;
    const cudnnDataType_t type = s->narrow ? COMPAT_DNN_BF16 : CUDNN_DATA_FLOAT;
    const int pad = (int)s->pad, stride = (int)s->stride, kernel = (int)s->kernel;

    return !lib->cudnnCreateTensorDescriptor(&conv->x) &&
           !lib->cudnnCreateTensorDescriptor(&conv->y) &&
           !lib->cudnnCreateFilterDescriptor(&conv->w) &&
           !lib->cudnnCreateConvolutionDescriptor(&conv->conv) &&
           !lib->cudnnSetTensor4dDescriptor(conv->x, CUDNN_TENSOR_NHWC, type, (int)s->n, (int)s->ci,
                                            (int)s->h, (int)s->w) &&
           !lib->cudnnSetTensor4dDescriptor(conv->y, CUDNN_TENSOR_NHWC, type, (int)s->n, (int)s->co,
                                            (int)s->out_h, (int)s->out_w) &&
           !lib->cudnnSetFilter4dDescriptor(conv->w, type, CUDNN_TENSOR_NHWC, (int)s->co,
                                            (int)s->ci, kernel, kernel) &&
           !lib->cudnnSetConvolution2dDescriptor(conv->conv, pad, pad, stride, stride, 1, 1,
                                                 CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT) &&
           !lib->cudnnSetConvolutionMathType(
               conv->conv, gpu->math == GPU_FP32 ? CUDNN_FMA_MATH : CUDNN_TENSOR_OP_MATH);
}

/* The first of the list, which is the fastest by the library's guess, that gives the same bytes
 * every time and keeps within `most`. The guess misses that of two kinds of kernels one may be
 * worth twice the other: tensor cores go first where the precision allows them, whatever the order.
 * workspace: asks for the bytes it needs */
template <typename Perf, typename Workspace>
static bool choose(struct gpu *gpu, struct gpu_conv *conv, const Perf *list, int count, size_t most,
                   Workspace workspace, int *chosen)
{
    for (int turn = 0; turn < 2 * count; turn++) {
        const int i = turn % count;
        const bool tensor = list[i].mathType == CUDNN_TENSOR_OP_MATH;
        size_t bytes = 0;
        if (list[i].status != CUDNN_STATUS_SUCCESS || list[i].determinism != CUDNN_DETERMINISTIC ||
            (gpu->math == GPU_FP32 && list[i].mathType != CUDNN_FMA_MATH &&
             list[i].mathType != CUDNN_DEFAULT_MATH) ||
            (gpu->math != GPU_FP32 && tensor != (turn < count)))
            continue;
        const cudnnMathType_t math = gpu->math == GPU_FP32 ? CUDNN_FMA_MATH : list[i].mathType;
        if (gpu->lib.cudnnSetConvolutionMathType(conv->conv, math) || workspace(list[i], &bytes) ||
            bytes > most)
            continue;
        conv->scratch = bytes;
        *chosen = i;
        return true;
    }
    return false;
}

static bool choose_forward(struct gpu *gpu, struct gpu_conv *c, size_t most)
{
    cudnnConvolutionFwdAlgoPerf_t list[ALGORITHMS];
    int count = 0, chosen = 0;

    if (gpu->lib.cudnnGetConvolutionForwardAlgorithm_v7(gpu->dnn, c->x, c->w, c->conv, c->y,
                                                        ALGORITHMS, &count, list) ||
        !choose(
            gpu, c, list, count, most,
            [=](const cudnnConvolutionFwdAlgoPerf_t &perf, size_t *bytes) {
                return gpu->lib.cudnnGetConvolutionForwardWorkspaceSize(
                    gpu->dnn, c->x, c->w, c->conv, c->y, perf.algo, bytes);
            },
            &chosen))
        return false;
    c->algorithm.forward = list[chosen].algo;
    return true;
}

static bool choose_data(struct gpu *gpu, struct gpu_conv *c, size_t most)
{
    cudnnConvolutionBwdDataAlgoPerf_t list[ALGORITHMS];
    int count = 0, chosen = 0;

    if (gpu->lib.cudnnGetConvolutionBackwardDataAlgorithm_v7(gpu->dnn, c->w, c->y, c->conv, c->x,
                                                             ALGORITHMS, &count, list) ||
        !choose(
            gpu, c, list, count, most,
            [=](const cudnnConvolutionBwdDataAlgoPerf_t &perf, size_t *bytes) {
                return gpu->lib.cudnnGetConvolutionBackwardDataWorkspaceSize(
                    gpu->dnn, c->w, c->y, c->conv, c->x, perf.algo, bytes);
            },
            &chosen))
        return false;
    c->algorithm.data = list[chosen].algo;
    return true;
}

static bool choose_filter(struct gpu *gpu, struct gpu_conv *c, size_t most)
{
    cudnnConvolutionBwdFilterAlgoPerf_t list[ALGORITHMS];
    int count = 0, chosen = 0;

    if (gpu->lib.cudnnGetConvolutionBackwardFilterAlgorithm_v7(gpu->dnn, c->x, c->y, c->conv, c->w,
                                                               ALGORITHMS, &count, list) ||
        !choose(
            gpu, c, list, count, most,
            [=](const cudnnConvolutionBwdFilterAlgoPerf_t &perf, size_t *bytes) {
                return gpu->lib.cudnnGetConvolutionBackwardFilterWorkspaceSize(
                    gpu->dnn, c->x, c->y, c->conv, c->w, perf.algo, bytes);
            },
            &chosen))
        return false;
    c->algorithm.filter = list[chosen].algo;
    return true;
}

struct gpu_conv *gpu_conv_new(struct gpu *gpu, const struct gpu_conv_shape *shape, size_t most)
{
    struct gpu_conv *conv = (struct gpu_conv *)calloc(1, sizeof *conv);
    bool found;

    if (!conv)
        return NULL;
    conv->part = shape->part;
    found = describe(gpu, conv, shape);
    if (found && shape->part == GPU_CONV_FORWARD)
        found = choose_forward(gpu, conv, most);
    else if (found && shape->part == GPU_CONV_DATA)
        found = choose_data(gpu, conv, most);
    else if (found)
        found = choose_filter(gpu, conv, most);
    if (found)
        return conv;
    gpu_conv_free(gpu, conv);
    return NULL;
}

size_t gpu_conv_scratch(const struct gpu_conv *conv)
{
    return conv->scratch;
}

void gpu_conv_free(struct gpu *gpu, struct gpu_conv *conv)
{
    if (conv->x)
        gpu->lib.cudnnDestroyTensorDescriptor(conv->x);
    if (conv->y)
        gpu->lib.cudnnDestroyTensorDescriptor(conv->y);
    if (conv->w)
        gpu->lib.cudnnDestroyFilterDescriptor(conv->w);
    if (conv->conv)
        gpu->lib.cudnnDestroyConvolutionDescriptor(conv->conv);
    free(conv);
}

void gpu_conv_run(struct gpu *gpu, const struct gpu_conv *c, void *x, void *w, void *y,
                  void *scratch, bool add)
{
    const struct gpu_libraries *lib = &gpu->lib;
    const float one = 1, keep = add ? 1 : 0;
    cudnnStatus_t code;

    if (c->part == GPU_CONV_FORWARD)
        code =
            lib->cudnnConvolutionForward(gpu->dnn, &one, c->x, x, c->w, w, c->conv,
                                         c->algorithm.forward, scratch, c->scratch, &keep, c->y, y);
    else if (c->part == GPU_CONV_DATA)
        code = lib->cudnnConvolutionBackwardData(gpu->dnn, &one, c->w, w, c->y, y, c->conv,
                                                 c->algorithm.data, scratch, c->scratch, &keep,
                                                 c->x, x);
    else
        code = lib->cudnnConvolutionBackwardFilter(gpu->dnn, &one, c->x, x, c->y, y, c->conv,
                                                   c->algorithm.filter, scratch, c->scratch, &keep,
                                                   c->w, w);
    if (code != CUDNN_STATUS_SUCCESS)
        gpu_failed(gpu, "cuDNN, convolution", lib->cudnnGetErrorString(code));
}
