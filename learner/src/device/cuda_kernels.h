/* The arguments of our own kernels; what each computes stands above its body in
 * cuda_kernels_body.h. Plain C, and C++ for the .cu files. Private to the folder.
 *
 * Activations are [rows, c], rows = n h w, in float32 or, where `narrow`, in bf16. They are looked
 * at `width` channels at a time: 4 where c is a multiple of it, else 1. */
#ifndef LEARNER_DEVICE_CUDA_KERNELS_H
#define LEARNER_DEVICE_CUDA_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GPU_THREADS 256u   /* of every block */
#define GPU_TILE 32u       /* widths side by side in a block that walks over rows, at most */
#define GPU_TOTALS 8u      /* columns that a block adds up */
#define GPU_TAPS 49u       /* of a depthwise kernel, at most */
#define GPU_STEP_SLOTS 40u /* parameters of one launch: arguments are 4 KB at most */
#define GPU_STEP_PIECE (16 * GPU_THREADS)

/* How a block walks over [rows, c]: `tile` widths side by side, every one of them in as many rows
 * at a time as there are threads for; tiles beside each other, and below them `row_blocks`. */
struct gpu_walk {
    unsigned rows, c, width, tile, row_blocks;
};

/* y = act(x * gain + offset + residual) */
struct gpu_affine {
    struct gpu_walk walk;
    const void *x, *residual; /* residual NULL: none */
    void *y;                  /* may be x */
    const float *gain, *offset;
    unsigned narrow;
    int act;
};

/* One block sums a tile of channels over a stretch of rows into partial [blocks of rows][2][c]. */
struct gpu_moments {
    struct gpu_walk walk;
    const void *x;
    const float *mean;
    double *partial;
    unsigned narrow;
};

/* sums [2][c] = partial added up; the halves in float32 too, where they are gradients */
struct gpu_total {
    const double *partial;
    double *sums;
    float *dshift, *dscale; /* NULL: not wanted */
    unsigned row_blocks, c;
};

struct gpu_norm_finish {
    const double *sums; /* NULL: the running statistics are used */
    const float *scale, *shift;
    float *mean, *var; /* running; updated when there are sums */
    float *batch_mean, *inv_std, *gain, *offset;
    double rows;
    unsigned c;
};

struct gpu_norm_back {
    struct gpu_walk walk;
    const void *x, *y, *dy, *residual; /* y NULL: anew from x and residual; x NULL: hat = 0 */
    void *dx, *dresidual;              /* dresidual NULL: not wanted; dx may be dy */
    const float *batch_mean, *inv_std, *scale, *shift;
    double *partial;    /* as moments: sum of g, sum of g * hat */
    const double *sums; /* apply: those, added up; NULL: statistics are constants */
    double share;       /* 1 / rows */
    unsigned narrow;
    int act;
    bool dx_add, dresidual_add;
};

struct gpu_window {
    unsigned n, c, h, w, out_h, out_w, kernel, stride, pad;
};

struct gpu_pool { /* x narrow perhaps, y float32 */
    const void *x;
    float *y;
    unsigned n, c, plane, narrow;
};
struct gpu_pool_back {
    const float *dy;
    void *dx;
    unsigned n, c, plane, narrow;
    bool add;
};

struct gpu_max_pool {
    struct gpu_window window;
    const void *x, *dy;
    void *y, *dx;
    unsigned narrow;
    bool add;
};

struct gpu_depthwise {
    struct gpu_window window;
    const void *x, *dy;
    void *y, *dx;
    const float *weight;            /* [c, k, k] */
    const float *x_gain, *x_offset; /* NULL: x itself */
    int x_act;
    unsigned narrow;
    bool add;
    /* weight gradients: partial [blocks of rows][channels][k k], of the live channels; the fast way
     * has all of them, and spans `tile` fours side by side in a block */
    double *partial;
    const uint32_t *live;
    unsigned channels, row_blocks, tile;
    unsigned lines; /* fast way, not weight gradients: of the result, by one thread */
};

struct gpu_depthwise_total {
    const double *partial; /* [blocks of rows][channels, or c where `all`][taps] */
    float *dweight;        /* [c, k, k] */
    const uint32_t *live;
    unsigned channels, c, taps, row_blocks;
    bool all;
};

/* to [co, row] = from [co, ci, k k]: of a row, k k times ci, then zeros */
struct gpu_pack {
    const float *from;
    void *to;
    unsigned co, ci, taps, row, narrow;
};
/* to [live[i], ci, k k] = from [i, row] */
struct gpu_unpack {
    const void *from;
    float *to;
    const uint32_t *live; /* NULL: all */
    unsigned count, ci, taps, row, narrow;
};

/* to [rows, live] = from [rows, c] */
struct gpu_choose {
    const void *from;
    void *to;
    const uint32_t *live;
    unsigned rows, c, count, narrow;
};

/* patches [images out_h out_w, row]: of a row, k k times c, 0 outside of the image; then zeros */
struct gpu_patches {
    struct gpu_window window; /* n: images of this piece */
    const void *x;            /* of the first of them */
    void *patches;
    const float *x_gain, *x_offset;
    int x_act;
    unsigned row, narrow;
};
/* dx = patches added up where they came from */
struct gpu_unpatch {
    struct gpu_window window;
    const void *patches;
    void *dx;
    unsigned row, narrow;
    bool add;
};

/* y [rows, c] = bias */
struct gpu_bias {
    const float *bias;
    float *y;
    unsigned rows, c;
};
/* dbias [c] = columns added up */
struct gpu_columns {
    const float *dy;
    float *dbias;
    unsigned rows, c;
};

/* sum += more, either of both types */
struct gpu_add {
    void *sum;
    const void *more;
    size_t count;
    unsigned narrow;
};
struct gpu_blend {
    float *average;
    const float *values;
    size_t count;
    float keep, take;
};
struct gpu_swap {
    float *a, *b;
    size_t count;
};
struct gpu_finite {
    const void *data;
    size_t count;
    unsigned *bad; /* set to 1 */
    unsigned narrow;
};
struct gpu_convert { /* float32 to bf16, or back */
    const void *from;
    void *to;
    size_t count;
    unsigned narrow_to; /* else narrow from */
};

struct gpu_step {
    struct {
        float *values, *velocity;
        const float *grad;
        const uint8_t *live;
        size_t count;
        float decay;
        unsigned first_block; /* of GPU_STEP_PIECE elements each */
    } slots[GPU_STEP_SLOTS];
    unsigned count;
    float lr, momentum;
    bool nesterov;
};

/* One block a row. out [n][2]: loss, 1 when the largest logit is the label's */
struct gpu_loss {
    const float *logits, *offset, *level;
    const int32_t *labels, *others;
    float *grad;
    double *out;
    unsigned n, classes;
    int seen; /* rows whose label is below are taken `near` from `level` (loss.h) */
    double share, smoothing, scale, near;
    bool soft;
};

/* One block a row and part of the outputs; parts do not overlap. Adds to grad. */
struct gpu_distil {
    const float *logits, *teacher; /* [n, classes], [n, old] */
    const uint32_t *parts;         /* [count][2]: first output, how many */
    float *grad;
    double *out; /* [n][count]: loss */
    unsigned n, classes, old, count;
    double temperature, scale;
};

struct gpu_view { /* as struct learner_view */
    uint32_t index;
    int16_t dx, dy, cut_left, cut_top;
    uint8_t mirror, cut;
};
struct gpu_load {
    const uint8_t *pixels;        /* [images, c, h, w] */
    const struct gpu_view *views; /* [n] */
    const float *table;           /* [c][256] */
    void *input;                  /* [n, h, w, c] */
    unsigned n, c, h, w, side, narrow;
    uint8_t fill[4];
    float share;
};

/* Rows of a table to or from numbers of n images, `words` of `unit` bytes each. */
struct gpu_rows {
    char *table, *images;
    const uint32_t *index; /* [n] */
    size_t row, at;        /* bytes: of a row, and before these numbers in it */
    unsigned n, words, unit, keep;
};

/* Kernel and arguments. */
#define GPU_KERNELS(X)                                                                             \
    X(affine, gpu_affine)                                                                          \
    X(moments, gpu_moments)                                                                        \
    X(total, gpu_total)                                                                            \
    X(norm_finish, gpu_norm_finish)                                                                \
    X(norm_back_sums, gpu_norm_back)                                                               \
    X(norm_back, gpu_norm_back)                                                                    \
    X(pool, gpu_pool)                                                                              \
    X(pool_back, gpu_pool_back)                                                                    \
    X(max_pool, gpu_max_pool)                                                                      \
    X(max_pool_back, gpu_max_pool)                                                                 \
    X(depthwise, gpu_depthwise)                                                                    \
    X(depthwise_data, gpu_depthwise)                                                               \
    X(depthwise_filter, gpu_depthwise)                                                             \
    X(depthwise_total, gpu_depthwise_total)                                                        \
    X(depthwise3, gpu_depthwise)                                                                   \
    X(depthwise3_narrow, gpu_depthwise)                                                            \
    X(depthwise3_lazy, gpu_depthwise)                                                              \
    X(depthwise3_data, gpu_depthwise)                                                              \
    X(depthwise3_data_narrow, gpu_depthwise)                                                       \
    X(depthwise3_filter, gpu_depthwise)                                                            \
    X(depthwise3_filter_narrow, gpu_depthwise)                                                     \
    X(depthwise3_filter_lazy, gpu_depthwise)                                                       \
    X(pack, gpu_pack)                                                                              \
    X(unpack, gpu_unpack)                                                                          \
    X(choose, gpu_choose)                                                                          \
    X(patches3, gpu_patches)                                                                       \
    X(patches, gpu_patches)                                                                        \
    X(unpatch, gpu_unpatch)                                                                        \
    X(bias, gpu_bias)                                                                              \
    X(columns, gpu_columns)                                                                        \
    X(add, gpu_add)                                                                                \
    X(blend, gpu_blend)                                                                            \
    X(swap, gpu_swap)                                                                              \
    X(finite, gpu_finite)                                                                          \
    X(convert, gpu_convert)                                                                        \
    X(step, gpu_step)                                                                              \
    X(loss, gpu_loss)                                                                              \
    X(distil, gpu_distil)                                                                          \
    X(load, gpu_load)                                                                              \
    X(rows, gpu_rows)

#define GPU_KERNEL_NAME(name, args) GPU_KERNEL_##name,
enum gpu_kernel { GPU_KERNELS(GPU_KERNEL_NAME) GPU_KERNEL_COUNT };
#undef GPU_KERNEL_NAME

#endif
