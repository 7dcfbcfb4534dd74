/* Every difference between the versions of CUDA (10.2 to 13), cuDNN (8 and 9) and cuBLAS that the
 * backend meets is settled here. For .cu files only. */
#ifndef LEARNER_DEVICE_CUDA_COMPAT_H
#define LEARNER_DEVICE_CUDA_COMPAT_H

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cudnn.h>

#if CUDART_VERSION < 10020
#error "CUDA 10.2 or newer is needed"
#endif
#if CUDNN_MAJOR < 8
#error "cuDNN 8 or newer is needed"
#endif

/* ---- libraries are loaded when a GPU is opened: what they are called ---- */

#define COMPAT_TEXT_OF(x) #x
#define COMPAT_TEXT(x) COMPAT_TEXT_OF(x)
#define COMPAT_CUDNN_FILE "libcudnn.so." COMPAT_TEXT(CUDNN_MAJOR)
#define COMPAT_CUBLAS_FILE "libcublas.so." COMPAT_TEXT(CUBLAS_VER_MAJOR)

/* ---- cuBLAS ---- */

#if CUDART_VERSION >= 11000
#define COMPAT_HAS_NARROW_TYPES 1
typedef cublasComputeType_t compat_compute;
#define COMPAT_COMPUTE_EXACT CUBLAS_COMPUTE_32F
#define COMPAT_COMPUTE_TF32 CUBLAS_COMPUTE_32F_FAST_TF32
#define COMPAT_R_16BF CUDA_R_16BF
#else
#define COMPAT_HAS_NARROW_TYPES 0
typedef cudaDataType compat_compute;
#define COMPAT_COMPUTE_EXACT CUDA_R_32F
#define COMPAT_COMPUTE_TF32 CUDA_R_32F
#define COMPAT_R_16BF CUDA_R_32F /* never asked for */
#endif

/* From 11.2 on a handle takes its workspace from outside, which a recording needs. */
#if CUDART_VERSION >= 11020
#define COMPAT_HAS_WORKSPACE 1
#else
#define COMPAT_HAS_WORKSPACE 0
#endif

/* In C++, cublasGemmEx is two functions from 11 on; this is the one that the library exports. */
typedef cublasStatus_t(CUBLASWINAPI *compat_gemm_ex)(cublasHandle_t, cublasOperation_t,
                                                     cublasOperation_t, int, int, int, const void *,
                                                     const void *, cudaDataType, int, const void *,
                                                     cudaDataType, int, const void *, void *,
                                                     cudaDataType, int, compat_compute,
                                                     cublasGemmAlgo_t);
/* Never called: a type that differs from the header's does not compile. */
char compat_same_type(compat_gemm_ex);
static_assert(sizeof(compat_same_type(cublasGemmEx)) == 1, "cublasGemmEx has another type");

/* ---- cuDNN ---- */

#if COMPAT_HAS_NARROW_TYPES && CUDNN_VERSION >= 8100
#define COMPAT_HAS_BF16 1
#define COMPAT_DNN_BF16 CUDNN_DATA_BFLOAT16
#else
#define COMPAT_HAS_BF16 0
#define COMPAT_DNN_BF16 CUDNN_DATA_FLOAT /* never asked for */
#endif

/* ---- graphs ---- */

static inline cudaError_t compat_instantiate(cudaGraphExec_t *out, cudaGraph_t graph)
{
#if CUDART_VERSION >= 12000
    return cudaGraphInstantiate(out, graph, 0);
#else
    return cudaGraphInstantiate(out, graph, NULL, NULL, 0);
#endif
}

#endif
