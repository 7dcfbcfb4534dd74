/* What the .cu files share. */
#ifndef LEARNER_DEVICE_CUDA_DRIVER_H
#define LEARNER_DEVICE_CUDA_DRIVER_H

#include "cuda_compat.h"
#include "cuda_gpu.h"

/* Functions of the libraries that are loaded when a GPU is opened, so that a program starts where
 * they are not. */
#define CUDNN_FUNCTIONS(X)                                                                         \
    X(cudnnCreate)                                                                                 \
    X(cudnnDestroy)                                                                                \
    X(cudnnGetErrorString)                                                                         \
    X(cudnnSetStream)                                                                              \
    X(cudnnCreateTensorDescriptor)                                                                 \
    X(cudnnDestroyTensorDescriptor)                                                                \
    X(cudnnSetTensor4dDescriptor)                                                                  \
    X(cudnnCreateFilterDescriptor)                                                                 \
    X(cudnnDestroyFilterDescriptor)                                                                \
    X(cudnnSetFilter4dDescriptor)                                                                  \
    X(cudnnCreateConvolutionDescriptor)                                                            \
    X(cudnnDestroyConvolutionDescriptor)                                                           \
    X(cudnnSetConvolution2dDescriptor)                                                             \
    X(cudnnSetConvolutionMathType)                                                                 \
    X(cudnnGetConvolutionForwardAlgorithm_v7)                                                      \
    X(cudnnGetConvolutionForwardWorkspaceSize)                                                     \
    X(cudnnConvolutionForward)                                                                     \
    X(cudnnGetConvolutionBackwardDataAlgorithm_v7)                                                 \
    X(cudnnGetConvolutionBackwardDataWorkspaceSize)                                                \
    X(cudnnConvolutionBackwardData)                                                                \
    X(cudnnGetConvolutionBackwardFilterAlgorithm_v7)                                               \
    X(cudnnGetConvolutionBackwardFilterWorkspaceSize)                                              \
    X(cudnnConvolutionBackwardFilter)

#if COMPAT_HAS_WORKSPACE
#define CUBLAS_FUNCTIONS(X)                                                                        \
    X(cublasCreate_v2)                                                                             \
    X(cublasDestroy_v2)                                                                            \
    X(cublasSetStream_v2)                                                                          \
    X(cublasSetWorkspace_v2)
#else
#define CUBLAS_FUNCTIONS(X)                                                                        \
    X(cublasCreate_v2)                                                                             \
    X(cublasDestroy_v2)                                                                            \
    X(cublasSetStream_v2)
#endif

struct gpu_libraries {
#define MEMBER(name) decltype(&::name) name;
    CUDNN_FUNCTIONS(MEMBER)
    CUBLAS_FUNCTIONS(MEMBER)
#undef MEMBER
    compat_gemm_ex gemm_ex;
};

struct gpu {
    cudaStream_t stream;
    struct gpu_libraries lib;
    cudnnHandle_t dnn;
    cublasHandle_t blas;
    void *workspace; /* of cuBLAS */
    enum gpu_math math;
    int processors, capability; /* 53, 90 */
    char failure[192];          /* the first; "" none */
};

/* Keeps the first failure. */
void gpu_failed(struct gpu *gpu, const char *what, const char *why);
bool gpu_check(struct gpu *gpu, cudaError_t code, const char *what); /* true: fine */

/* Loads the libraries and opens their handles. false: why. */
bool gpu_libraries_open(struct gpu *gpu, char *why, size_t size);
void gpu_libraries_close(struct gpu *gpu);

#endif
