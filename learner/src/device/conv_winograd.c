/* 3x3 convolutions at stride 1 by Winograd's F(4x4, 3x3): a quarter of the multiplications. Inputs
 * and weights are transformed into 36 points, each point is a matrix product over channels, its
 * result is transformed back. Everything happens in blocks of at most TILES tiles and CHANNELS by
 * CHANNELS weights, so that the transformed numbers stay in the second-level cache.
 *
 * A value's sum always runs over its channels in the same order, so outputs and input gradients do
 * not depend on the number of members or images; weight gradients are summed over tiles and may
 * depend on the members. */
#include <math.h>
#include <string.h>

#include "blas.h"

#define TILE 4
#define POINTS LEARNER_WINOGRAD_POINTS
#define TILES 64
#define CHANNELS 64
#define SKEW 16 /* floats between two points, so that all 36 do not meet in one cache set */
/* Of what all members share: transformed weights, or tiles of weight gradients. Beyond it weights
 * are transformed as they are needed. */
#define SHARED_BLOCKS 16

static size_t minimum(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t blocks_of(size_t channels)
{
    return (channels + CHANNELS - 1) / CHANNELS;
}

/* Channels of block b */
static size_t block_width(size_t channels, size_t b)
{
    return minimum(channels - b * CHANNELS, CHANNELS);
}

static size_t padded(size_t channels)
{
    return (channels + LEARNER_KERNEL_LANES_MAX - 1) / LEARNER_KERNEL_LANES_MAX *
           LEARNER_KERNEL_LANES_MAX;
}

static size_t point_floats(size_t rows, size_t cols)
{
    return rows * cols + SKEW;
}

/* The tiles of a batch, and which channels go in and come out; dx swaps them. */
struct layer {
    const struct blas_job *job;
    size_t ci, co;
    size_t h, w, tiles_across, tiles_per_image, tiles; /* tiles: of all images */
    size_t tile_floats, weight_floats;                 /* of the largest blocks */
};

static struct layer layer_of(const struct learner_op *op, size_t n, bool swapped)
{
    struct layer layer = {.ci = op->in.c, .co = op->out.c, .h = op->in.h, .w = op->in.w};

    if (swapped) {
        layer.ci = op->out.c;
        layer.co = op->in.c;
    }
    layer.tiles_across = (layer.w + TILE - 1) / TILE;
    layer.tiles_per_image = layer.tiles_across * ((layer.h + TILE - 1) / TILE);
    layer.tiles = n * layer.tiles_per_image;
    const size_t ci = minimum(layer.ci, CHANNELS), co = minimum(padded(layer.co), CHANNELS);
    layer.tile_floats = POINTS * point_floats(TILES, ci > co ? ci : co);
    layer.weight_floats = POINTS * point_floats(ci, co);
    return layer;
}

/* Of tile t; border: how far the window reaches beyond the 4x4 outputs. */
static struct learner_winograd_tile tile_of(const struct layer *layer, size_t t, ptrdiff_t border,
                                            size_t *image)
{
    const size_t at = t % layer->tiles_per_image;

    *image = t / layer->tiles_per_image;
    return (struct learner_winograd_tile){
        .h = layer->h,
        .w = layer->w,
        .top = (ptrdiff_t)(at / layer->tiles_across * TILE) - border,
        .left = (ptrdiff_t)(at % layer->tiles_across * TILE) - border,
    };
}

/* Tiles first.. of channel block b into v[36][count][width]. lazy: normalise as op says */
static void transform_input(const struct layer *layer, const float *x, bool lazy, size_t b,
                            size_t first, size_t count, float *v)
{
    const struct learner_op *op = layer->job->op;
    const size_t width = block_width(layer->ci, b), c = b * CHANNELS;

    const struct learner_kernel_norm norm = {
        .gain = op->x_gain + (op->x_gain ? c : 0),
        .offset = op->x_offset + (op->x_gain ? c : 0),
        .low = op->x_act == LEARNER_ACT_NONE ? -INFINITY : 0,
        .high = op->x_act == LEARNER_ACT_RELU6 ? 6 : INFINITY,
    };
    for (size_t t = 0; t < count; t++) {
        size_t image;
        struct learner_winograd_tile tile = tile_of(layer, first + t, 1, &image);
        tile.stride = layer->ci;
        tile.channels = width;
        layer->job->blas->kernels->winograd_input(
            &tile, x + image * layer->h * layer->w * layer->ci + c,
            lazy && op->x_gain ? &norm : NULL, v + t * width, point_floats(count, width));
    }
}

/* u[36][ci of block i][co of block o] */
static void transform_weights(const struct layer *layer, bool dx, size_t i, size_t o, float *u)
{
    const struct learner_op *op = layer->job->op;
    const struct learner_winograd_weights w = {
        .weight = op->weight + (dx ? (i * op->in.c + o) : (o * op->in.c + i)) * CHANNELS * 9,
        .row_stride = dx ? op->in.c * 9 : 9,
        .col_stride = dx ? 9 : op->in.c * 9,
        .rows = block_width(layer->ci, i),
        .cols = block_width(layer->co, o),
        .rotated = dx,
    };

    layer->job->blas->kernels->winograd_weights(&w, u, point_floats(w.rows, w.cols));
}

/* Forward, and dx, which is the same with weights rotated and transposed. */
struct pass {
    struct layer layer;
    bool dx, packed, by_channels;
    const float *x;
    size_t slots; /* blocks of transformed input that a member keeps */
    struct learner_winograd_output out;
};

static bool is_packed(const struct layer *layer)
{
    return blocks_of(layer->ci) * blocks_of(layer->co) <= SHARED_BLOCKS;
}

/* Of one member: transformed input, products, weights, sums of all channels in double, of a block
 * in float */
static size_t pass_floats(const struct layer *layer)
{
    const size_t slots = blocks_of(layer->co) > 1 ? blocks_of(layer->ci) : 1;

    return (slots + 1) * layer->tile_floats + (is_packed(layer) ? 0 : layer->weight_floats) +
           6 * layer->co;
}

struct pass_scratch {
    float *v, *m, *u, *channels;
    double *sums;
};

static struct pass_scratch pass_scratch(const struct pass *pass, size_t member)
{
    const struct layer *layer = &pass->layer;
    const struct blas *blas = layer->job->blas;
    struct pass_scratch s = {.v = blas->scratch + member * blas->scratch_floats};

    s.m = s.v + pass->slots * layer->tile_floats;
    s.sums = (double *)(s.m + layer->tile_floats);
    s.channels = (float *)(s.sums + 2 * layer->co);
    s.u = s.channels + 2 * layer->co;
    return s;
}

static void pack_member(void *context, size_t member, size_t members)
{
    const struct pass *pass = context;
    const struct layer *layer = &pass->layer;
    const size_t inputs = blocks_of(layer->ci);
    size_t first, end;

    learner_pool_share(inputs * blocks_of(layer->co), member, members, &first, &end);
    for (size_t b = first; b < end; b++)
        transform_weights(layer, pass->dx, b % inputs, b / inputs,
                          layer->job->blas->shared + b * layer->weight_floats);
}

/* Products of all input channels for output block o: m[36][count][width] */
static void multiply(const struct pass *pass, const struct pass_scratch *s, size_t o, bool fresh,
                     size_t first, size_t count)
{
    const struct layer *layer = &pass->layer;
    const size_t inputs = blocks_of(layer->ci), cols = block_width(layer->co, o);

    for (size_t i = 0; i < inputs; i++) {
        float *v = s->v + (pass->slots > 1 ? i : 0) * layer->tile_floats;
        const float *u = layer->job->blas->shared + (o * inputs + i) * layer->weight_floats;
        const size_t depth = block_width(layer->ci, i);
        if (fresh)
            transform_input(layer, pass->x, !pass->dx, i, first, count, v);
        if (!pass->packed) {
            transform_weights(layer, pass->dx, i, o, s->u);
            u = s->u;
        }
        layer->job->blas->kernels->winograd_product(&(struct learner_winograd_product){
            .a = v,
            .b = u,
            .c = s->m,
            .rows = count,
            .cols = cols,
            .depth = depth,
            .a_stride = depth,
            .b_stride = cols,
            .c_stride = cols,
            .a_point = point_floats(count, depth),
            .b_point = point_floats(depth, cols),
            .c_point = point_floats(count, cols),
            .add = i > 0,
        });
    }
}

static void transform_output(const struct pass *pass, const struct pass_scratch *s, size_t o,
                             size_t first, size_t count)
{
    const struct layer *layer = &pass->layer;
    const size_t c = o * CHANNELS, cols = block_width(layer->co, o);
    struct learner_winograd_output out = pass->out;
    struct learner_kernel_norm norm = layer->job->blas->norm;
    float *sums = s->channels;

    if (out.sum) {
        out.sum = sums;
        out.square = sums + cols;
        out.mean += c;
        memset(sums, 0, 2 * cols * sizeof *sums);
    }
    if (out.norm) {
        norm.gain += c;
        norm.offset += c;
        out.norm = &norm;
    }
    for (size_t t = 0; t < count; t++) {
        size_t image;
        struct learner_winograd_tile tile = tile_of(layer, first + t, 0, &image);
        const size_t at = image * layer->h * layer->w * layer->co + c;
        tile.stride = layer->co;
        tile.channels = cols;
        out.y = pass->out.y + at;
        out.residual = pass->out.residual ? pass->out.residual + at : NULL;
        layer->job->blas->kernels->winograd_output(&tile, &out, s->m + t * cols,
                                                   point_floats(count, cols));
    }
    for (size_t i = 0; out.sum && i < cols; i++) {
        s->sums[c + i] += sums[i];
        s->sums[layer->co + c + i] += sums[cols + i];
    }
}

static void run_member(void *context, size_t member, size_t members)
{
    const struct pass *pass = context;
    const struct layer *layer = &pass->layer;
    const struct pass_scratch s = pass_scratch(pass, member);
    size_t first = 0, end = layer->tiles, block = 0, blocks = blocks_of(layer->co);

    if (pass->by_channels)
        learner_pool_share(blocks, member, members, &block, &blocks);
    else
        learner_pool_share(layer->tiles, member, members, &first, &end);
    if (pass->out.sum)
        memset(s.sums, 0, 2 * layer->co * sizeof *s.sums);
    for (size_t t = first; t < end; t += TILES)
        for (size_t o = block; o < blocks; o++) {
            const size_t count = minimum(end - t, TILES);
            multiply(pass, &s, o, o == block || pass->slots == 1, t, count);
            transform_output(pass, &s, o, t, count);
        }
}

static void run(struct pass *pass)
{
    const struct layer *layer = &pass->layer;
    struct learner_pool *pool = layer->job->blas->pool;
    const size_t members = learner_pool_members(pool);

    pass->slots = blocks_of(layer->co) > 1 ? blocks_of(layer->ci) : 1;
    pass->packed = is_packed(layer);
    /* with few tiles each weight had better be transformed, and read, by one member only */
    pass->by_channels = layer->tiles < TILES * members && blocks_of(layer->co) >= members;
    if (pass->packed)
        learner_pool_run(pool, pack_member, pass);
    learner_pool_run(pool, run_member, pass);
}

static void forward(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    static float wanted; /* an address for flags */
    struct pass pass = {
        .layer = layer_of(op, job->pass->n, false),
        .x = op->x,
        .out = {.y = op->y},
    };

    pass.layer.job = job;
    if (op->kind == LEARNER_OP_CONV_NORM) {
        pass.out.norm = &job->blas->norm;
        pass.out.residual = op->residual;
    } else if (job->pass->mode == LEARNER_TRAIN && op->sums) {
        pass.out.sum = &wanted;
        pass.out.mean = op->mean;
    }
    run(&pass);
    for (size_t i = 0; pass.out.sum && i < 2 * op->out.c; i++) {
        op->sums[i] = 0;
        for (size_t m = 0; m < learner_pool_members(job->blas->pool); m++)
            op->sums[i] += pass_scratch(&pass, m).sums[i];
    }
}

static void backward_data(const struct blas_job *job)
{
    struct pass pass = {
        .layer = layer_of(job->op, job->pass->n, true),
        .dx = true,
        .x = job->op->dy,
        .out = {.y = job->op->dx, .add = job->op->dx_add},
    };

    pass.layer.job = job;
    run(&pass);
}

/* Weight gradients: dU = sum over tiles of (A dY A^T) . V, dw = G^T dU G. Rows are live filters. */
struct gradient {
    struct layer layer;
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
    return blocks_of(g->rows) * blocks_of(g->layer.ci);
}

/* Blocks of TILES tiles that fit the shared memory, all their channels, both sides. */
static size_t chunk_blocks(const struct layer *layer)
{
    const size_t blocks = blocks_of(layer->ci) + blocks_of(layer->co);

    return blocks < SHARED_BLOCKS ? SHARED_BLOCKS / blocks : 1;
}

/* Tiles first.. of the live filters of block b into y[36][count][padded width] */
static void transform_gradient(const struct gradient *g, size_t b, size_t first, size_t count,
                               float *y)
{
    const struct layer *layer = &g->layer;
    const struct learner_op *op = layer->job->op;
    const size_t rows = block_width(g->rows, b), width = padded(rows);
    float gathered[TILE * TILE * CHANNELS];

    for (size_t t = 0; t < count; t++) {
        size_t image;
        struct learner_winograd_tile tile = tile_of(layer, first + t, 0, &image);
        const float *dy = op->dy + image * layer->h * layer->w * op->out.c;
        tile.channels = width;
        tile.stride = op->out.c;
        if (op->live) {
            const size_t top = (size_t)tile.top, left = (size_t)tile.left;
            tile.h = minimum(layer->h - top, TILE);
            tile.w = minimum(layer->w - left, TILE);
            for (size_t p = 0; p < tile.h * tile.w; p++) {
                const size_t pixel = (top + p / tile.w) * layer->w + left + p % tile.w;
                for (size_t r = 0; r < width; r++)
                    gathered[p * width + r] =
                        r < rows ? dy[pixel * op->out.c + op->live[b * CHANNELS + r]] : 0;
            }
            tile.top = tile.left = 0;
            tile.stride = width;
            dy = gathered;
        } else {
            dy += b * CHANNELS;
        }
        layer->job->blas->kernels->winograd_gradient(&tile, dy, y + t * width,
                                                     point_floats(count, width));
    }
}

static void multiply_gradient(const struct gradient *g, size_t r, size_t i, size_t count,
                              const float *y, const float *v, float *du, bool add)
{
    const size_t rows = block_width(g->rows, r), cols = block_width(g->layer.ci, i);

    g->layer.job->blas->kernels->winograd_product(&(struct learner_winograd_product){
        .a = y,
        .b = v,
        .c = du,
        .rows = rows,
        .cols = cols,
        .depth = count,
        .a_stride = padded(rows),
        .b_stride = cols,
        .c_stride = cols,
        .a_point = point_floats(count, padded(rows)),
        .b_point = point_floats(count, cols),
        .c_point = point_floats(rows, cols),
        .a_transposed = true,
        .add = add,
    });
}

/* Rows row.. to end of pair (r, i) */
static void store_gradient(const struct gradient *g, size_t r, size_t i, size_t row, size_t end,
                           const float *du, bool add)
{
    const struct learner_op *op = g->layer.job->op;
    const size_t cols = block_width(g->layer.ci, i);
    const size_t point = point_floats(block_width(g->rows, r), cols);

    for (; row < end; row++) {
        const size_t at = r * CHANNELS + row, filter = op->live ? op->live[at] : at;
        g->layer.job->blas->kernels->winograd_dweight(
            du + row * cols, point, cols, op->dweight + (filter * op->in.c + i * CHANNELS) * 9,
            add);
    }
}

/* One pair of blocks: members share the tiles. Scratch: v, y, du. */
static void gradient_of_tiles(void *context, size_t member, size_t members)
{
    const struct gradient *g = context;
    const struct layer *layer = &g->layer;
    float *v = layer->job->blas->scratch + member * layer->job->blas->scratch_floats;
    float *y = v + layer->tile_floats, *du = y + layer->tile_floats;
    size_t first, end;

    learner_pool_share(layer->tiles, member, members, &first, &end);
    if (first == end)
        memset(du, 0, layer->weight_floats * sizeof *du);
    for (size_t t = first; t < end; t += TILES) {
        const size_t count = minimum(end - t, TILES);
        transform_input(layer, layer->job->op->x, true, 0, t, count, v);
        transform_gradient(g, 0, t, count, y);
        multiply_gradient(g, 0, 0, count, y, v, du, t > first);
    }
}

static void reduce_tiles(void *context, size_t member, size_t members)
{
    const struct gradient *g = context;
    const struct blas *blas = g->layer.job->blas;
    float *du = blas->scratch + 2 * g->layer.tile_floats;
    const size_t cols = g->layer.ci, point = point_floats(g->rows, cols);
    size_t first, end;

    learner_pool_share(g->rows, member, members, &first, &end);
    for (size_t m = 1; m < members; m++)
        for (size_t p = 0; p < POINTS; p++)
            for (size_t i = p * point + first * cols; i < p * point + end * cols; i++)
                du[i] += du[m * blas->scratch_floats + i];
    store_gradient(g, 0, 0, first, end, du, false);
}

/* Several pairs: members share the tiles of a chunk, then the pairs. */
static void gradient_inputs(void *context, size_t member, size_t members)
{
    const struct gradient *g = context;
    const struct layer *layer = &g->layer;
    const size_t inputs = blocks_of(layer->ci), both = inputs + blocks_of(g->rows);
    const size_t tile_blocks = (g->chunk_tiles + TILES - 1) / TILES;
    size_t first, end;

    learner_pool_share(tile_blocks * both, member, members, &first, &end);
    for (size_t b = first; b < end; b++) {
        const size_t t = b / both * TILES, count = minimum(g->chunk_tiles - t, TILES);
        float *to = layer->job->blas->shared + b * layer->tile_floats;
        if (b % both < inputs)
            transform_input(layer, layer->job->op->x, true, b % both, g->chunk + t, count, to);
        else
            transform_gradient(g, b % both - inputs, g->chunk + t, count, to);
    }
}

static void gradient_of_pairs(void *context, size_t member, size_t members)
{
    const struct gradient *g = context;
    const struct layer *layer = &g->layer;
    const struct blas *blas = layer->job->blas;
    const size_t inputs = blocks_of(layer->ci), both = inputs + blocks_of(g->rows);
    float *du = blas->scratch + member * blas->scratch_floats;
    size_t first, end;

    learner_pool_share(pairs_of(g), member, members, &first, &end);
    for (size_t pair = first; pair < end; pair++) {
        const size_t r = pair / inputs, i = pair % inputs;
        for (size_t t = 0; t < g->chunk_tiles; t += TILES) {
            const float *from = blas->shared + t / TILES * both * layer->tile_floats;
            multiply_gradient(g, r, i, minimum(g->chunk_tiles - t, TILES),
                              from + (inputs + r) * layer->tile_floats,
                              from + i * layer->tile_floats, du, t > 0);
        }
        store_gradient(g, r, i, 0, block_width(g->rows, r), du, g->chunk > 0);
    }
}

static void backward_weight(const struct blas_job *job)
{
    struct gradient g = {.layer = layer_of(job->op, job->pass->n, false),
                         .rows = live_rows(job->op)};
    struct learner_pool *pool = job->blas->pool;

    g.layer.job = job;
    if (pairs_of(&g) == 1) {
        learner_pool_run(pool, gradient_of_tiles, &g);
        learner_pool_run(pool, reduce_tiles, &g);
        return;
    }
    for (; g.chunk < g.layer.tiles; g.chunk += g.chunk_tiles) {
        g.chunk_tiles = minimum(g.layer.tiles - g.chunk, chunk_blocks(&g.layer) * TILES);
        learner_pool_run(pool, gradient_inputs, &g);
        learner_pool_run(pool, gradient_of_pairs, &g);
    }
}

static enum delta_status prepare(struct blas *blas, const struct learner_op *op, bool train,
                                 struct delta_error *err)
{
    size_t member = 0, shared = 0;

    for (int swapped = 0; swapped <= (train ? 1 : 0); swapped++) {
        const struct layer layer = layer_of(op, 1, swapped);
        const size_t blocks = blocks_of(layer.ci) * blocks_of(layer.co);
        const size_t floats = pass_floats(&layer);
        member = floats > member ? floats : member;
        if (is_packed(&layer) && blocks * layer.weight_floats > shared)
            shared = blocks * layer.weight_floats;
    }
    if (train) {
        const struct layer layer = layer_of(op, 1, false);
        const size_t floats = 2 * layer.tile_floats + layer.weight_floats;
        const size_t chunk =
            chunk_blocks(&layer) * (blocks_of(op->in.c) + blocks_of(op->out.c)) * layer.tile_floats;
        member = floats > member ? floats : member;
        if (blocks_of(op->in.c) * blocks_of(op->out.c) > 1 && chunk > shared)
            shared = chunk;
    }
    return blas_scratch(blas, member, shared, op, err);
}

bool blas_winograd_fits(const struct learner_op *op)
{
    return op->groups == 1 && op->kernel == 3 && op->stride == 1 && op->pad == 1 &&
           op->in.c % LEARNER_KERNEL_LANES_MAX == 0 && op->out.c % LEARNER_KERNEL_LANES_MAX == 0;
}

const struct blas_conv blas_conv_winograd = {
    .name = "winograd",
    .prepare = prepare,
    .forward = forward,
    .dx = backward_data,
    .dweight = backward_weight,
};
