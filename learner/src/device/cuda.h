/* Inside of the CUDA backend: what its parts share. Plain C; everything of CUDA is behind
 * cuda_gpu.h. Private to the folder. */
#ifndef LEARNER_DEVICE_CUDA_H
#define LEARNER_DEVICE_CUDA_H

#include "cuda_gpu.h"
#include "device.h"

/* Weights in the order and type that the library wants, kept while the weights stay. */
struct cuda_packed {
    const float *weight;
    void *at;         /* [co, row], a row being k k times ci, filled up with zeros */
    uint64_t version; /* 0: not made yet */
};

/* An operation's list of live filters, on the GPU. */
struct cuda_live {
    const uint32_t *host;
    size_t count;
    uint32_t *at;
};

struct cuda_conv {
    struct gpu_conv_shape shape;
    struct gpu_conv *conv; /* NULL: the library has none, patches are multiplied instead */
};

/* A list of operations that was run once, then recorded. */
struct cuda_recording {
    const struct learner_op *ops;
    size_t count, n; /* n 0: not the operations, but the packing of their weights */
    enum learner_mode mode;
    bool backward;
    bool refused;
    struct gpu_recording *recording; /* NULL: not yet */
};

#define CUDA_RECORDINGS 24

struct cuda {
    struct learner_device device;
    struct gpu *gpu;
    unsigned narrow; /* activations are bf16 */

    /* Scratch memory of the operation that runs. While an operation is prepared it is `measured`:
     * goes the whole way, but launches nothing, so that it takes later just what it took then. */
    bool measured;
    char *scratch;
    size_t scratch_bytes, used, needed;

    struct cuda_packed *packed;
    size_t packed_count;
    struct cuda_live *lives;
    size_t live_count;
    struct cuda_conv *convs;
    size_t conv_count;
    struct cuda_recording recordings[CUDA_RECORDINGS];
    size_t recording_count;

    char *packet, *host_packet; /* small things on their way, device and host */
    size_t packet_bytes, packet_used;
    char *results, *host_results; /* of the latest loss, device and host */
    size_t results_bytes, result_rows, result_blocks;
    unsigned *bad;
    size_t bytes; /* of all that prepare took */
    bool failed;  /* host memory ran out while something was listed */
};

/* One operation in one pass. */
struct cuda_job {
    struct cuda *cuda;
    const struct learner_op *op;
    const struct learner_pass *pass;
};

static inline size_t cuda_activation_bytes(const struct cuda *cuda, size_t count)
{
    return count * (cuda->narrow ? sizeof(uint16_t) : sizeof(float));
}

/* Never NULL; the place means nothing while measured. */
void *cuda_scratch(struct cuda *cuda, size_t bytes);
size_t cuda_scratch_left(const struct cuda *cuda); /* SIZE_MAX while measured */
void cuda_launch(struct cuda *cuda, enum gpu_kernel kernel, size_t blocks, const void *args);
/* A kernel that walks over `count` elements. */
void cuda_each(struct cuda *cuda, enum gpu_kernel kernel, size_t count, const void *args);
void cuda_multiply(struct cuda *cuda, const struct gpu_product *product);
unsigned cuda_width(size_t channels);
/* How many of so many widths a block spans, so that its tiles are alike; tiles: how many those are.
 */
unsigned cuda_tile(size_t widths, size_t *tiles);
/* Walks over [rows, c]; the caller fills in what, not how. */
void cuda_affine(struct cuda *cuda, struct gpu_affine *affine, size_t rows, size_t c);

/* ---- cuda_conv.c ---- */

DELTA_MUST_USE enum delta_status cuda_conv_check(const struct learner_op *op,
                                                 struct delta_error *err);
void cuda_conv_forward(const struct cuda_job *job); /* CONV_NORM too */
void cuda_conv_backward(const struct cuda_job *job);
/* Packed weights of an operation: whether they are of another version than the pass asks for;
 * making them; writing down that they are of its version. */
bool cuda_conv_is_stale(const struct cuda_job *job);
void cuda_conv_pack(const struct cuda_job *job);
void cuda_conv_packed(const struct cuda_job *job);

/* ---- cuda_norm.c ---- */

/* sums [2][c] of x - mean and its square; y [rows, c] */
void cuda_moments(struct cuda *cuda, const float *x, const float *mean, double *sums, size_t rows,
                  size_t c);
void cuda_norm_forward(const struct cuda_job *job);
void cuda_norm_backward(const struct cuda_job *job);
/* What follows a convolution in CONV_NORM, in place. */
void cuda_norm_after(const struct cuda_job *job);
void cuda_pool_run(const struct cuda_job *job);
void cuda_max_pool_run(const struct cuda_job *job);
void cuda_linear_run(const struct cuda_job *job);

/* ---- cuda_remote.c ---- */

extern const struct learner_remote_ops cuda_remote;
void cuda_run(struct learner_device *device, const struct learner_op *op,
              const struct learner_pass *pass);

#endif
