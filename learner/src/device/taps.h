/* A convolution as a sum over taps on flat padded planes, without im2col.
 *
 * The planes of a source are copied once into rows of a common pitch with their zero border, so
 * that output position q (row * pitch + column) sees tap (ky, kx) at q + offset: all positions of a
 * row, of a plane and of several images form one long vector. The border right of a row is the one
 * left of the next row where stride 1 allows it; the results that fall on a border are dropped.
 * A source read with stride s is split into s * s planes, each read with stride 1; a result written
 * with stride s (gradient of the input) is computed in s * s phases, each with its own taps. */
#ifndef LEARNER_TAPS_H
#define LEARNER_TAPS_H

#include "device.h"
#include "kernels.h"

#define LEARNER_TAPS_KERNEL_MAX 7
#define LEARNER_TAPS_STRIDE_MAX 2

struct learner_tap_phase {
    size_t count; /* taps */
    unsigned char ky[LEARNER_TAPS_KERNEL_MAX * LEARNER_TAPS_KERNEL_MAX];
    unsigned char kx[LEARNER_TAPS_KERNEL_MAX * LEARNER_TAPS_KERNEL_MAX];
    size_t at[LEARNER_TAPS_KERNEL_MAX * LEARNER_TAPS_KERNEL_MAX]; /* within a source channel */
    size_t rows, cols;                                            /* of results */
    size_t row0, col0;    /* where the first result lies in the destination */
    size_t first_offset;  /* into the offsets of the plan */
    size_t first_weights; /* into the packed weights */
};

struct learner_tap_plan {
    bool transposed;         /* gradient of the input: sources are the op's output channels */
    size_t sources, results; /* channels */
    size_t src_h, src_w, dst_h, dst_w;
    size_t kernel, step; /* step: between results in the destination */
    size_t split;        /* of the sources, per axis */
    size_t top, left;    /* border before the first pixel */
    size_t pitch;        /* floats of a row */
    size_t image_rows;   /* rows of an image in a tile */
    size_t shared;       /* border rows (and columns) that neighbours share */
    size_t images;       /* of a tile */
    size_t tile_rows;    /* result rows of a tile; all of them when images > 1 */
    size_t rows;         /* most result rows of any phase */
    size_t plane;        /* floats of one split plane of a tile, a multiple of the lanes */
    size_t offset_count, weight_count;
    bool gaps; /* some results have no tap: they are zero */
    size_t phase_count;
    struct learner_tap_phase phases[LEARNER_TAPS_STRIDE_MAX * LEARNER_TAPS_STRIDE_MAX];
};

/* A group of whole images, or a band of rows of one. */
struct learner_tap_tile {
    size_t image, images;
    size_t row, rows;
};

static inline bool learner_taps_fit(const struct learner_op *op)
{
    return op->kernel >= 1 && op->kernel <= LEARNER_TAPS_KERNEL_MAX && op->stride >= 1 &&
           op->stride <= LEARNER_TAPS_STRIDE_MAX && op->pad < op->kernel;
}

/* Plans the forward pass, the gradient of the weights (the forward pass in larger tiles) or the
 * gradient of the input; only for ops that fit. */
void learner_taps_forward(struct learner_tap_plan *plan, const struct learner_op *op,
                          const struct learner_kernels *kernels);
void learner_taps_gradient(struct learner_tap_plan *plan, const struct learner_op *op,
                           const struct learner_kernels *kernels);
void learner_taps_backward(struct learner_tap_plan *plan, const struct learner_op *op,
                           const struct learner_kernels *kernels);

/* Floats of one channel of a tile, and of all packed sources. */
static inline size_t learner_taps_channel(const struct learner_tap_plan *plan)
{
    return plan->split * plan->split * plan->plane;
}

/* Offsets of (source, tap) for every phase: [plan->offset_count]. */
void learner_taps_offsets(const struct learner_tap_plan *plan, size_t *offsets);
/* Packs blocks first..end of `rows` result channels for every phase: [plan->weight_count]. */
void learner_taps_weights(const struct learner_tap_plan *plan,
                          const struct learner_kernels *kernels, const float *weight, float *packed,
                          size_t first, size_t end);
/* The tile that follows *tile within images first..end; a zeroed tile begins. False: no more. */
bool learner_taps_next(const struct learner_tap_plan *plan, struct learner_tap_tile *tile,
                       size_t first, size_t end);
/* Copies a tile of src [n, sources, src_h, src_w] into out [sources][split * split][plane]. */
void learner_taps_pack(const struct learner_tap_plan *plan, const struct learner_tap_tile *tile,
                       const float *src, float *out);
/* Copies a tile of results [n, results, dst_h, dst_w] onto the positions of the only phase of a
 * forward plan, zero elsewhere: out [results, rounded up to whole blocks][plane]. */
void learner_taps_spread(const struct learner_tap_plan *plan, const struct learner_tap_tile *tile,
                         const float *dst, float *out, size_t padded_results);
/* Positions of a tile in a phase, rounded up to whole vectors. */
size_t learner_taps_positions(const struct learner_tap_plan *plan,
                              const struct learner_tap_phase *phase,
                              const struct learner_tap_tile *tile, size_t lanes);

#endif
