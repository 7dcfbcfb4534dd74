/* What the parts of the Winograd convolution share: how a batch is cut into tiles and blocks. See
 * conv_winograd.c. */
#ifndef LEARNER_CONV_WINOGRAD_H
#define LEARNER_CONV_WINOGRAD_H

#include "blas.h"

#define WINOGRAD_TILE 4
#define WINOGRAD_POINTS LEARNER_WINOGRAD_POINTS
#define WINOGRAD_CHANNELS 64 /* of a block at most */
#define WINOGRAD_SKEW 16     /* floats between points, lest all 36 meet in one cache set */
/* Of what all members share: transformed weights, or tiles of weight gradients. Beyond it weights
 * are transformed as they are needed. */
#define WINOGRAD_SHARED_BLOCKS 16

static inline size_t winograd_minimum(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t winograd_blocks(size_t channels)
{
    return (channels + WINOGRAD_CHANNELS - 1) / WINOGRAD_CHANNELS;
}

/* Channels of block b */
static inline size_t winograd_block_width(size_t channels, size_t b)
{
    return winograd_minimum(channels - b * WINOGRAD_CHANNELS, WINOGRAD_CHANNELS);
}

static inline size_t winograd_padded(size_t channels)
{
    return (channels + LEARNER_KERNEL_LANES_MAX - 1) / LEARNER_KERNEL_LANES_MAX *
           LEARNER_KERNEL_LANES_MAX;
}

static inline size_t winograd_point_floats(size_t rows, size_t cols)
{
    return rows * cols + WINOGRAD_SKEW;
}

/* The tiles of a batch, and which channels go in and come out; dx swaps them. */
struct winograd_layer {
    const struct blas_job *job;
    size_t ci, co;
    size_t h, w, tiles_across, tiles_per_image, tiles; /* tiles: of all images */
    size_t block_tiles;                                /* of a block at most */
    size_t tile_floats, weight_floats;                 /* of the largest blocks */
};

static inline struct winograd_layer winograd_layer_of(const struct learner_op *op, size_t n,
                                                      bool swapped)
{
    struct winograd_layer layer = {.ci = op->in.c, .co = op->out.c, .h = op->in.h, .w = op->in.w};

    if (swapped) {
        layer.ci = op->out.c;
        layer.co = op->in.c;
    }
    layer.tiles_across = (layer.w + WINOGRAD_TILE - 1) / WINOGRAD_TILE;
    layer.tiles_per_image = layer.tiles_across * ((layer.h + WINOGRAD_TILE - 1) / WINOGRAD_TILE);
    layer.tiles = n * layer.tiles_per_image;
    const size_t ci = winograd_minimum(layer.ci, WINOGRAD_CHANNELS),
                 co = winograd_minimum(winograd_padded(layer.co), WINOGRAD_CHANNELS);
    /* fewer where input, product and weights of one block are all there is */
    layer.block_tiles = layer.ci > WINOGRAD_CHANNELS || layer.co > WINOGRAD_CHANNELS ? 64 : 32;
    layer.tile_floats =
        WINOGRAD_POINTS * winograd_point_floats(layer.block_tiles, ci > co ? ci : co);
    layer.weight_floats = WINOGRAD_POINTS * winograd_point_floats(ci, co);
    return layer;
}

/* Of tile t; border: how far the window reaches beyond the 4x4 outputs. */
static inline struct learner_winograd_tile
winograd_tile_of(const struct winograd_layer *layer, size_t t, ptrdiff_t border, size_t *image)
{
    const size_t at = t % layer->tiles_per_image;

    *image = t / layer->tiles_per_image;
    return (struct learner_winograd_tile){
        .h = layer->h,
        .w = layer->w,
        .top = (ptrdiff_t)(at / layer->tiles_across * WINOGRAD_TILE) - border,
        .left = (ptrdiff_t)(at % layer->tiles_across * WINOGRAD_TILE) - border,
    };
}

/* Tiles first.. of channel block b into v[36][count][width]; norm: as the layer's op says */
void blas_winograd_input(const struct winograd_layer *layer, const float *x, bool norm, size_t b,
                         size_t first, size_t count, float *v);

/* conv_winograd_gradient.c */
void blas_winograd_dweight(const struct blas_job *job);
void blas_winograd_dweight_scratch(const struct learner_op *op, size_t *member, size_t *shared);

#endif
