/* What the CUDA backend asks of a GPU: memory, kernels, matrix products, convolutions, recordings.
 * Implemented by the .cu files, beyond which no CUDA type goes, and once more on the processor by
 * the tests (tests/unit/learner/cuda_emulated.c), which so run the whole backend without a GPU.
 *
 * Everything is queued and runs in order; nothing here fails at once: the first failure is kept and
 * gpu_sync tells it. Plain C, and C++ for the .cu files. Private to the folder. */
#ifndef LEARNER_DEVICE_CUDA_GPU_H
#define LEARNER_DEVICE_CUDA_GPU_H

#include "cuda_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

struct delta_error;
struct gpu;
struct gpu_conv;
struct gpu_recording;

enum gpu_math { GPU_FP32, GPU_TF32, GPU_BF16 };

/* A GPU with its libraries; NULL and a reason of at most `size` bytes when there is none: no
 * driver, no device, a library missing. */
struct gpu *gpu_open(char *why, size_t size);
void gpu_close(struct gpu *gpu);
void gpu_set_math(struct gpu *gpu, enum gpu_math math); /* of what follows */
bool gpu_has_bf16(const struct gpu *gpu);
unsigned gpu_processors(const struct gpu *gpu); /* that run blocks at the same time */

void *gpu_alloc(struct gpu *gpu, size_t bytes); /* zeroed, 256-byte aligned; NULL: no memory */
void gpu_free(struct gpu *gpu, void *block);
void *gpu_host_alloc(struct gpu *gpu, size_t bytes); /* zeroed */
void gpu_host_free(struct gpu *gpu, void *block);
size_t gpu_free_bytes(struct gpu *gpu);
/* The first two wait: they return when the host's side may be used again. */
void gpu_upload(struct gpu *gpu, void *to, const void *host, size_t bytes);
void gpu_download(struct gpu *gpu, void *host, const void *from, size_t bytes);
void gpu_copy(struct gpu *gpu, void *to, const void *from, size_t bytes);
void gpu_zero(struct gpu *gpu, void *to, size_t bytes);
/* Upload that does not wait. host: of gpu_host_alloc, left alone until the GPU was waited for */
void gpu_send(struct gpu *gpu, void *to, const void *host, size_t bytes);
void gpu_wait(struct gpu *gpu);

/* args: the struct that belongs to the kernel */
void gpu_launch(struct gpu *gpu, enum gpu_kernel kernel, unsigned blocks, const void *args);

/* c [m, n] = a b + beta c, row-major with rows of lda, ldb, ldc numbers. */
struct gpu_product {
    bool transpose_a, transpose_b; /* a is [m, k], transposed [k, m]; b is [k, n], or [n, k] */
    size_t m, n, k, lda, ldb, ldc;
    const void *a, *b;
    void *c;
    bool narrow;   /* a and b are bf16 */
    bool narrow_c; /* c too */
    bool exact;    /* float32 whatever the precision */
    float beta;    /* 0 or 1 */
};
void gpu_multiply(struct gpu *gpu, const struct gpu_product *product);

/* Convolutions of the vendor's library: activations [n, h, w, c], weights [co, k, k, ci], weight
 * gradients alike, all of one type. Deterministic. */
enum gpu_conv_part { GPU_CONV_FORWARD, GPU_CONV_DATA, GPU_CONV_FILTER };
struct gpu_conv_shape {
    enum gpu_conv_part part;
    unsigned n, ci, h, w, co, out_h, out_w, kernel, stride, pad;
    bool narrow;
};
/* NULL: the library has no algorithm for it within so many bytes of scratch memory. */
struct gpu_conv *gpu_conv_new(struct gpu *gpu, const struct gpu_conv_shape *shape, size_t most);
size_t gpu_conv_scratch(const struct gpu_conv *conv);
void gpu_conv_free(struct gpu *gpu, struct gpu_conv *conv);
/* FORWARD writes y, DATA writes x from y, FILTER writes w from x and y. add: to what is there */
void gpu_conv_run(struct gpu *gpu, const struct gpu_conv *conv, void *x, void *w, void *y,
                  void *scratch, bool add);

/* What is queued between the two is recorded and not run. NULL: it could not be recorded, and was
 * not run either. */
bool gpu_record(struct gpu *gpu);
struct gpu_recording *gpu_record_end(struct gpu *gpu);
void gpu_play(struct gpu *gpu, struct gpu_recording *recording);
void gpu_recording_free(struct gpu *gpu, struct gpu_recording *recording);

/* Waits. false: something failed since the last time, `why` says what. */
bool gpu_sync(struct gpu *gpu, char *why, size_t size);

#ifdef __cplusplus
}
#endif

#endif
