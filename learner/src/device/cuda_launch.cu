/* Our kernels on a GPU. */
#include "cuda_driver.h"

#if defined __CUDA_ARCH__ && __CUDA_ARCH__ >= 800
static __device__ __forceinline__ unsigned short round_bf16(float f)
{
    unsigned short out;

    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(f));
    return out;
}
#define GPU_ROUND(f) round_bf16(f)
#endif

#define GPU_ALIGN(bytes) __align__(bytes)
#define GPU_INLINE static __device__ __forceinline__
#define GPU_SHARED __shared__
#define GPU_UNROLL _Pragma("unroll")
#define GPU_UNROLL_4 _Pragma("unroll 4")
#define GPU_UNROLL_8 _Pragma("unroll 8")
#define GPU_TIMES(a, b) __fmul_rn(a, b)
#define GPU_KERNEL(name, args)                                                                     \
    static __device__ __forceinline__ void body_##name(const struct args &a, unsigned block,       \
                                                       unsigned blocks);                           \
    static __global__ void __launch_bounds__(GPU_THREADS) kernel_##name(const struct args a)       \
    {                                                                                              \
        body_##name(a, blockIdx.x, gridDim.x);                                                     \
    }                                                                                              \
    static __device__ __forceinline__ void body_##name(const struct args &a, unsigned block,       \
                                                       unsigned blocks)
/* All wait at the end of a section, wherever it was left by `continue`. */
#define GPU_EACH_THREAD(t)                                                                         \
    for (unsigned t = threadIdx.x, gpu_once = 1; gpu_once; gpu_once = 0, __syncthreads())

#include "cuda_kernels_conv.h"
#include "cuda_kernels_norm.h"
#include "cuda_kernels_train.h"

extern "C" void gpu_launch(struct gpu *gpu, enum gpu_kernel kernel, unsigned blocks,
                           const void *args)
{
    switch (kernel) {
#define LAUNCH(name, type)                                                                         \
    case GPU_KERNEL_##name:                                                                        \
        kernel_##name<<<blocks, GPU_THREADS, 0, gpu->stream>>>(*(const struct type *)args);        \
        gpu_check(gpu, cudaGetLastError(), "kernel " #name);                                       \
        break;
        GPU_KERNELS(LAUNCH)
#undef LAUNCH
    case GPU_KERNEL_COUNT:
        break;
    }
}
