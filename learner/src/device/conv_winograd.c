/* 3x3 convolutions at stride 1 by Winograd's F(4x4, 3x3): a quarter of the multiplications. Inputs
 * and weights are transformed into 36 points, each point is a matrix product over channels, its
 * result is transformed back. Everything happens in blocks of at most 64 tiles and 64 by 64
 * channels, so that the transformed numbers stay in the second-level cache.
 *
 * At inference the transformed weights are kept while they do not change, up to
 * WINOGRAD_SHARED_BLOCKS blocks a layer. Beyond (512 channels: 38 MB) transforming them anew in the
 * cache costs no more than reading them from memory.
 *
 * A value's sum always runs over its channels in the same order, so outputs and input gradients do
 * not depend on the number of members or images; weight gradients are summed over tiles and may
 * depend on the members. */
#include <math.h>
#include <string.h>

#include "conv_winograd.h"

void blas_winograd_input(const struct winograd_layer *layer, const float *x, bool norm, size_t b,
                         size_t first, size_t count, float *v)
{
    const struct learner_op *op = layer->job->op;
    const size_t width = winograd_block_width(layer->ci, b), c = b * WINOGRAD_CHANNELS;

    const struct learner_kernel_norm x_norm = {
        .gain = op->x_gain + (op->x_gain ? c : 0),
        .offset = op->x_offset + (op->x_gain ? c : 0),
        .low = op->x_act == LEARNER_ACT_NONE ? -INFINITY : 0,
        .high = op->x_act == LEARNER_ACT_RELU6 ? 6 : INFINITY,
    };
    for (size_t t = 0; t < count; t++) {
        size_t image;
        struct learner_winograd_tile tile = winograd_tile_of(layer, first + t, 1, &image);
        tile.stride = layer->ci;
        tile.channels = width;
        layer->job->blas->kernels->winograd_input(
            &tile, x + image * layer->h * layer->w * layer->ci + c,
            norm && op->x_gain ? &x_norm : NULL, v + t * width,
            winograd_point_floats(count, width));
    }
}

/* u[36][ci of block i][co of block o] */
static void transform_weights(const struct winograd_layer *layer, bool dx, size_t i, size_t o,
                              float *u)
{
    const struct learner_op *op = layer->job->op;
    const struct learner_winograd_weights w = {
        .weight =
            op->weight + (dx ? (i * op->in.c + o) : (o * op->in.c + i)) * WINOGRAD_CHANNELS * 9,
        .row_stride = dx ? op->in.c * 9 : 9,
        .col_stride = dx ? 9 : op->in.c * 9,
        .rows = winograd_block_width(layer->ci, i),
        .cols = winograd_block_width(layer->co, o),
        .rotated = dx,
    };

    layer->job->blas->kernels->winograd_weights(&w, u, winograd_point_floats(w.rows, w.cols));
}

/* Forward, and dx, which is the same with weights rotated and transposed. */
struct pass {
    struct winograd_layer layer;
    bool dx, by_channels;
    const float *x;
    float *packed; /* transformed weights; NULL: too many to keep */
    size_t slots;  /* blocks of transformed input that a member keeps */
    struct learner_winograd_output out;
};

static bool is_packed(const struct winograd_layer *layer)
{
    return winograd_blocks(layer->ci) * winograd_blocks(layer->co) <= WINOGRAD_SHARED_BLOCKS;
}

/* Of one member: transformed input, products, weights, sums of all channels in double, of a block
 * in float */
static size_t pass_floats(const struct winograd_layer *layer)
{
    const size_t slots = winograd_blocks(layer->co) > 1 ? winograd_blocks(layer->ci) : 1;

    return (slots + 1) * layer->tile_floats + (is_packed(layer) ? 0 : layer->weight_floats) +
           6 * layer->co;
}

struct pass_scratch {
    float *v, *m, *u, *channels;
    double *sums;
};

static struct pass_scratch pass_scratch(const struct pass *pass, size_t member)
{
    const struct winograd_layer *layer = &pass->layer;
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
    const struct winograd_layer *layer = &pass->layer;
    const size_t inputs = winograd_blocks(layer->ci);
    size_t first, end;

    learner_pool_share(inputs * winograd_blocks(layer->co), member, members, &first, &end);
    for (size_t b = first; b < end; b++)
        transform_weights(layer, pass->dx, b % inputs, b / inputs,
                          pass->packed + b * layer->weight_floats);
}

/* Products of all input channels for output block o: m[36][count][width] */
static void multiply(const struct pass *pass, const struct pass_scratch *s, size_t o, bool fresh,
                     size_t first, size_t count)
{
    const struct winograd_layer *layer = &pass->layer;
    const size_t inputs = winograd_blocks(layer->ci), cols = winograd_block_width(layer->co, o);

    for (size_t i = 0; i < inputs; i++) {
        float *v = s->v + (pass->slots > 1 ? i : 0) * layer->tile_floats;
        float *u = pass->packed ? pass->packed + (o * inputs + i) * layer->weight_floats : s->u;
        const size_t depth = winograd_block_width(layer->ci, i);
        if (fresh)
            blas_winograd_input(layer, pass->x, !pass->dx, i, first, count, v);
        if (!pass->packed)
            transform_weights(layer, pass->dx, i, o, u);
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
            .a_point = winograd_point_floats(count, depth),
            .b_point = winograd_point_floats(depth, cols),
            .c_point = winograd_point_floats(count, cols),
            .add = i > 0,
        });
    }
}

static void transform_output(const struct pass *pass, const struct pass_scratch *s, size_t o,
                             size_t first, size_t count)
{
    const struct winograd_layer *layer = &pass->layer;
    const size_t c = o * WINOGRAD_CHANNELS, cols = winograd_block_width(layer->co, o);
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
        struct learner_winograd_tile tile = winograd_tile_of(layer, first + t, 0, &image);
        const size_t at = image * layer->h * layer->w * layer->co + c;
        tile.stride = layer->co;
        tile.channels = cols;
        out.y = pass->out.y + at;
        out.residual = pass->out.residual ? pass->out.residual + at : NULL;
        layer->job->blas->kernels->winograd_output(&tile, &out, s->m + t * cols,
                                                   winograd_point_floats(count, cols));
    }
    for (size_t i = 0; out.sum && i < cols; i++) {
        s->sums[c + i] += sums[i];
        s->sums[layer->co + c + i] += sums[cols + i];
    }
}

static void run_member(void *context, size_t member, size_t members)
{
    const struct pass *pass = context;
    const struct winograd_layer *layer = &pass->layer;
    const struct pass_scratch s = pass_scratch(pass, member);
    size_t first = 0, end = layer->tiles, block = 0, blocks = winograd_blocks(layer->co);

    if (pass->by_channels)
        learner_pool_share(blocks, member, members, &block, &blocks);
    else
        learner_pool_share(layer->tiles, member, members, &first, &end);
    if (pass->out.sum)
        memset(s.sums, 0, 2 * layer->co * sizeof *s.sums);
    for (size_t t = first; t < end; t += layer->block_tiles)
        for (size_t o = block; o < blocks; o++) {
            const size_t count = winograd_minimum(end - t, layer->block_tiles);
            multiply(pass, &s, o, o == block || pass->slots == 1, t, count);
            transform_output(pass, &s, o, t, count);
        }
}

/* Where they are, transformed anew unless they were kept since they last changed. */
static float *packed_weights(struct pass *pass)
{
    const struct blas_job *job = pass->layer.job;
    bool stale = true;

    if (!is_packed(&pass->layer))
        return NULL;
    if (!pass->dx)
        pass->packed = blas_packed_weights(job->blas, job->op, BLAS_PACKED_WINOGRAD,
                                           job->pass->weights_version, &stale);
    if (!pass->packed)
        pass->packed = job->blas->shared;
    if (stale)
        learner_pool_run(job->blas->pool, pack_member, pass);
    return pass->packed;
}

static void run(struct pass *pass)
{
    const struct winograd_layer *layer = &pass->layer;
    struct learner_pool *pool = layer->job->blas->pool;
    const size_t members = learner_pool_members(pool);

    pass->slots = winograd_blocks(layer->co) > 1 ? winograd_blocks(layer->ci) : 1;
    pass->packed = packed_weights(pass);
    /* with few tiles each weight had better be transformed, and read, by one member only */
    pass->by_channels =
        layer->tiles < layer->block_tiles * members && winograd_blocks(layer->co) >= members;
    learner_pool_run(pool, run_member, pass);
}

static void forward(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    static float wanted; /* an address for flags */
    struct pass pass = {
        .layer = winograd_layer_of(op, job->pass->n, false),
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
        .layer = winograd_layer_of(job->op, job->pass->n, true),
        .dx = true,
        .x = job->op->dy,
        .out = {.y = job->op->dx, .add = job->op->dx_add},
    };

    pass.layer.job = job;
    run(&pass);
    blas_conv_back_sums(job);
}

static enum delta_status prepare(struct blas *blas, const struct learner_op *op, bool train,
                                 struct delta_error *err)
{
    size_t member = 0, shared = 0;
    enum delta_status st = DELTA_OK;

    for (int swapped = 0; swapped <= (train ? 1 : 0); swapped++) {
        const struct winograd_layer layer = winograd_layer_of(op, 1, swapped);
        const size_t floats = pass_floats(&layer);
        const size_t weights =
            winograd_blocks(layer.ci) * winograd_blocks(layer.co) * layer.weight_floats;
        member = floats > member ? floats : member;
        if (is_packed(&layer) && train)
            shared = weights > shared ? weights : shared;
        else if (is_packed(&layer))
            st = blas_packed_reserve(blas, op, BLAS_PACKED_WINOGRAD, weights, err);
    }
    if (train)
        blas_winograd_dweight_scratch(op, &member, &shared);
    return st ? st : blas_scratch(blas, member, shared, op, err);
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
    .dweight = blas_winograd_dweight,
};
