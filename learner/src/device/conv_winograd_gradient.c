/* The weight gradient of the Winograd convolution: dU = sum over tiles of (A dY A^T) . V, then
 * dw = G^T dU G, for live filters only. Small layers: the members share the tiles and add up at the
 * end, in their order. Others: the members share pairs of blocks of filters and input channels. */
#include <string.h>

#include "conv_winograd.h"

struct gradient {
    struct winograd_layer layer;
    size_t rows;
    size_t chunk; /* several pairs: first tile and number of tiles in `shared` */
    size_t chunk_tiles;
};

static size_t live_rows(const struct learner_op *op)
{
    return op->live ? op->live_count : op->out.c;
}

static size_t pairs_of(const struct gradient *g)
{
    return winograd_blocks(g->rows) * winograd_blocks(g->layer.ci);
}

/* Blocks of tiles that fit the shared memory, all their channels, both sides. */
static size_t chunk_blocks(const struct winograd_layer *layer)
{
    const size_t blocks = winograd_blocks(layer->ci) + winograd_blocks(layer->co);

    return blocks < WINOGRAD_SHARED_BLOCKS ? WINOGRAD_SHARED_BLOCKS / blocks : 1;
}

/* Tiles first.. of the live filters of block b into y[36][count][padded width] */
static void transform_gradient(const struct gradient *g, size_t b, size_t first, size_t count,
                               float *y)
{
    const struct winograd_layer *layer = &g->layer;
    const struct learner_op *op = layer->job->op;
    const size_t rows = winograd_block_width(g->rows, b), width = winograd_padded(rows);
    float gathered[WINOGRAD_TILE * WINOGRAD_TILE * WINOGRAD_CHANNELS];

    for (size_t t = 0; t < count; t++) {
        size_t image;
        struct learner_winograd_tile tile = winograd_tile_of(layer, first + t, 0, &image);
        const float *dy = op->dy + image * layer->h * layer->w * op->out.c;
        tile.channels = width;
        tile.stride = op->out.c;
        if (op->live) {
            const size_t top = (size_t)tile.top, left = (size_t)tile.left;
            tile.h = winograd_minimum(layer->h - top, WINOGRAD_TILE);
            tile.w = winograd_minimum(layer->w - left, WINOGRAD_TILE);
            for (size_t p = 0; p < tile.h * tile.w; p++) {
                const size_t pixel = (top + p / tile.w) * layer->w + left + p % tile.w;
                for (size_t r = 0; r < width; r++)
                    gathered[p * width + r] =
                        r < rows ? dy[pixel * op->out.c + op->live[b * WINOGRAD_CHANNELS + r]] : 0;
            }
            tile.top = tile.left = 0;
            tile.stride = width;
            dy = gathered;
        } else {
            dy += b * WINOGRAD_CHANNELS;
        }
        layer->job->blas->kernels->winograd_gradient(&tile, dy, y + t * width,
                                                     winograd_point_floats(count, width));
    }
}

static void multiply_gradient(const struct gradient *g, size_t r, size_t i, size_t count,
                              const float *y, const float *v, float *du, bool add)
{
    const size_t rows = winograd_block_width(g->rows, r),
                 cols = winograd_block_width(g->layer.ci, i);

    g->layer.job->blas->kernels->winograd_product(&(struct learner_winograd_product){
        .a = y,
        .b = v,
        .c = du,
        .rows = rows,
        .cols = cols,
        .depth = count,
        .a_stride = winograd_padded(rows),
        .b_stride = cols,
        .c_stride = cols,
        .a_point = winograd_point_floats(count, winograd_padded(rows)),
        .b_point = winograd_point_floats(count, cols),
        .c_point = winograd_point_floats(rows, cols),
        .a_transposed = true,
        .add = add,
    });
}

/* Rows row.. to end of pair (r, i) */
static void store_gradient(const struct gradient *g, size_t r, size_t i, size_t row, size_t end,
                           const float *du, bool add)
{
    const struct learner_op *op = g->layer.job->op;
    const size_t cols = winograd_block_width(g->layer.ci, i);
    const size_t point = winograd_point_floats(winograd_block_width(g->rows, r), cols);

    for (; row < end; row++) {
        const size_t at = r * WINOGRAD_CHANNELS + row, filter = op->live ? op->live[at] : at;
        g->layer.job->blas->kernels->winograd_dweight(
            du + row * cols, point, cols,
            op->dweight + (filter * op->in.c + i * WINOGRAD_CHANNELS) * 9, add);
    }
}

/* One pair of blocks: members share the tiles. Scratch: v, y, du. */
static void gradient_of_tiles(void *context, size_t member, size_t members)
{
    const struct gradient *g = context;
    const struct winograd_layer *layer = &g->layer;
    float *v = layer->job->blas->scratch + member * layer->job->blas->scratch_floats;
    float *y = v + layer->tile_floats, *du = y + layer->tile_floats;
    size_t first, end;

    learner_pool_share(layer->tiles, member, members, &first, &end);
    if (first == end)
        memset(du, 0, layer->weight_floats * sizeof *du);
    for (size_t t = first; t < end; t += layer->block_tiles) {
        const size_t count = winograd_minimum(end - t, layer->block_tiles);
        blas_winograd_input(layer, layer->job->op->x, true, 0, t, count, v);
        transform_gradient(g, 0, t, count, y);
        multiply_gradient(g, 0, 0, count, y, v, du, t > first);
    }
}

static void reduce_tiles(void *context, size_t member, size_t members)
{
    const struct gradient *g = context;
    const struct blas *blas = g->layer.job->blas;
    float *du = blas->scratch + 2 * g->layer.tile_floats;
    const size_t cols = g->layer.ci, point = winograd_point_floats(g->rows, cols);
    size_t first, end;

    learner_pool_share(g->rows, member, members, &first, &end);
    for (size_t m = 1; m < members; m++)
        for (size_t p = 0; p < WINOGRAD_POINTS; p++)
            for (size_t i = p * point + first * cols; i < p * point + end * cols; i++)
                du[i] += du[m * blas->scratch_floats + i];
    store_gradient(g, 0, 0, first, end, du, false);
}

/* Several pairs: members share the tiles of a chunk, then the pairs. */
static void gradient_inputs(void *context, size_t member, size_t members)
{
    const struct gradient *g = context;
    const struct winograd_layer *layer = &g->layer;
    const size_t inputs = winograd_blocks(layer->ci), both = inputs + winograd_blocks(g->rows);
    const size_t tile_blocks = (g->chunk_tiles + layer->block_tiles - 1) / layer->block_tiles;
    size_t first, end;

    learner_pool_share(tile_blocks * both, member, members, &first, &end);
    for (size_t b = first; b < end; b++) {
        const size_t t = b / both * layer->block_tiles,
                     count = winograd_minimum(g->chunk_tiles - t, layer->block_tiles);
        float *to = layer->job->blas->shared + b * layer->tile_floats;
        if (b % both < inputs)
            blas_winograd_input(layer, layer->job->op->x, true, b % both, g->chunk + t, count, to);
        else
            transform_gradient(g, b % both - inputs, g->chunk + t, count, to);
    }
}

static void gradient_of_pairs(void *context, size_t member, size_t members)
{
    const struct gradient *g = context;
    const struct winograd_layer *layer = &g->layer;
    const struct blas *blas = layer->job->blas;
    const size_t inputs = winograd_blocks(layer->ci), both = inputs + winograd_blocks(g->rows);
    float *du = blas->scratch + member * blas->scratch_floats;
    size_t first, end;

    learner_pool_share(pairs_of(g), member, members, &first, &end);
    for (size_t pair = first; pair < end; pair++) {
        const size_t r = pair / inputs, i = pair % inputs;
        for (size_t t = 0; t < g->chunk_tiles; t += layer->block_tiles) {
            const float *from = blas->shared + t / layer->block_tiles * both * layer->tile_floats;
            multiply_gradient(g, r, i, winograd_minimum(g->chunk_tiles - t, layer->block_tiles),
                              from + (inputs + r) * layer->tile_floats,
                              from + i * layer->tile_floats, du, t > 0);
        }
        store_gradient(g, r, i, 0, winograd_block_width(g->rows, r), du, g->chunk > 0);
    }
}

void blas_winograd_dweight(const struct blas_job *job)
{
    struct gradient g = {.layer = winograd_layer_of(job->op, job->pass->n, false),
                         .rows = live_rows(job->op)};
    struct learner_pool *pool = job->blas->pool;

    g.layer.job = job;
    if (pairs_of(&g) == 1) {
        learner_pool_run(pool, gradient_of_tiles, &g);
        learner_pool_run(pool, reduce_tiles, &g);
        return;
    }
    for (; g.chunk < g.layer.tiles; g.chunk += g.chunk_tiles) {
        g.chunk_tiles =
            winograd_minimum(g.layer.tiles - g.chunk, chunk_blocks(&g.layer) * g.layer.block_tiles);
        learner_pool_run(pool, gradient_inputs, &g);
        learner_pool_run(pool, gradient_of_pairs, &g);
    }
}

void blas_winograd_dweight_scratch(const struct learner_op *op, size_t *member, size_t *shared)
{
    const struct winograd_layer layer = winograd_layer_of(op, 1, false);
    const size_t blocks = winograd_blocks(layer.ci) + winograd_blocks(layer.co);
    const size_t floats = 2 * layer.tile_floats + layer.weight_floats;
    const size_t chunk = chunk_blocks(&layer) * blocks * layer.tile_floats;

    *member = floats > *member ? floats : *member;
    if (blocks > 2 && chunk > *shared)
        *shared = chunk;
}
