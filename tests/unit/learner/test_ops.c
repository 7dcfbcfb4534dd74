/* Every operation, one row of a table each: `ref` against finite differences, `blas` with each of
 * its kernel sets and thread counts against `ref` within the row's tolerance, `cuda` against `ref`
 * within a multiple of it. One source, two programs: with EMULATED, device `cuda` is the backend on
 * a GPU that the processor plays, and that alone is tested. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device/blas.h"
#include "fixture.h"

struct row {
    const char *name;
    enum learner_op_kind kind;
    size_t n;
    struct learner_shape in;
    size_t channels; /* out */
    size_t kernel, stride, pad;
    enum learner_act act;
    bool residual, add; /* add: gradients add to what is there */
    double tolerance;   /* ||blas - ref|| / ||ref|| of each result */
    size_t groups;      /* 0: one */
    float mean;         /* of the input, which has variance 1 */
    size_t live;        /* convolution: only every so many-th filter is live; 0: all */
    enum lazy {
        WHOLE,
        LAZY, /* convolution: normalises its input, adds up its output; norm: writes no y,
                 gradient in place */
        LAZY_RELU,
        LAZY_RELU6
    } lazy;
    bool frozen; /* norm: no gradient of scale and shift is wanted */
};

#define CONV LEARNER_OP_CONV
#define NORM LEARNER_OP_NORM
#define FUSED LEARNER_OP_CONV_NORM
#define RELU LEARNER_ACT_RELU
#define RELU6 LEARNER_ACT_RELU6
#define MAX_POOL LEARNER_OP_MAX_POOL

/* images, channels, height, width, output channels, kernel, stride, padding */
#define WINDOW(k, n_, c, h, w, co, size, s, p, tol)                                                \
    .kind = k, .n = n_, .in = {c, h, w}, .channels = co, .kernel = size, .stride = s, .pad = p,    \
    .tolerance = tol
#define CONV_OF(...) WINDOW(CONV, __VA_ARGS__, 1e-5)
#define FUSED_OF(...) WINDOW(FUSED, __VA_ARGS__, 1e-5)
/* Winograd's transforms cancel large terms: three times the rounding of the direct sum at few
 * channels, ten times at many (2e-6 measured). */
#define WINOGRAD_OF(...) WINDOW(CONV, __VA_ARGS__, 5e-6)
#define WINOGRAD_FUSED_OF(...) WINDOW(FUSED, __VA_ARGS__, 5e-6)
#define MAX_POOL_OF(...) WINDOW(MAX_POOL, __VA_ARGS__, 1e-6)
#define NORM_OF(n_, c, h, w)                                                                       \
    .kind = NORM, .n = n_, .in = {c, h, w}, .channels = c, .tolerance = 2e-6
#define POOL_OF(n_, c, h, w)                                                                       \
    .kind = LEARNER_OP_POOL, .n = n_, .in = {c, h, w}, .channels = c, .tolerance = 1e-6
#define LINEAR_OF(n_, c, co)                                                                       \
    .kind = LEARNER_OP_LINEAR, .n = n_, .in = {c, 1, 1}, .channels = co, .tolerance = 1e-5

/* Sums run over up to 4608 products in float: 1e-5 is some hundred roundings. */
static const struct row rows[] = {
    {"conv 3x3", CONV_OF(3, 5, 9, 7, 6, 3, 1, 1)},
    {"conv 3x3, gradients add", CONV_OF(3, 5, 9, 7, 6, 3, 1, 1), .add = true},
    {"conv 3x3, 1x1 plane", CONV_OF(2, 9, 1, 1, 17, 3, 1, 1)},
    {"conv 3x3, tiles of images", CONV_OF(70, 3, 4, 4, 9, 3, 1, 1)},
    {"conv 3x3, many channels", CONV_OF(3, 512, 2, 2, 20, 3, 1, 1)},
    {"conv 3x3, bands of rows", CONV_OF(1, 2, 240, 231, 3, 3, 1, 1)},
    {"conv 3x3, no padding", CONV_OF(2, 3, 8, 6, 4, 3, 1, 0)},
    {"conv 3x3, padding 2", CONV_OF(2, 3, 5, 6, 4, 3, 1, 2)},
    {"conv 3x3 stride 2, even", CONV_OF(3, 4, 8, 10, 7, 3, 2, 1)},
    {"conv 3x3 stride 2, odd", CONV_OF(3, 4, 13, 9, 7, 3, 2, 1), .add = true},
    {"conv 3x3 stride 2, bands", CONV_OF(1, 2, 241, 260, 3, 3, 2, 1)},
    {"conv 1x1", CONV_OF(3, 5, 6, 7, 9, 1, 1, 0)},
    {"conv 1x1 stride 2, even", CONV_OF(3, 5, 6, 8, 9, 1, 2, 0)},
    {"conv 1x1 stride 2, odd, add", CONV_OF(3, 5, 7, 5, 9, 1, 2, 0), .add = true},
    {"conv 7x7 stride 2", CONV_OF(2, 3, 20, 17, 5, 7, 2, 3)},
    {"conv 5x5", CONV_OF(2, 3, 9, 8, 5, 5, 1, 2)},
    {"norm", NORM_OF(4, 6, 5, 7)},
    {"norm, relu", NORM_OF(4, 6, 5, 7), .act = RELU, .add = true},
    {"norm, residual", NORM_OF(4, 6, 8, 8), .residual = true},
    {"norm, residual, relu, add", NORM_OF(4, 6, 8, 8), .act = RELU, .residual = true, .add = true},
    {"conv and norm", FUSED_OF(3, 5, 9, 7, 6, 3, 1, 1), .act = RELU},
    {"conv and norm, residual", FUSED_OF(3, 5, 8, 8, 5, 3, 1, 1), .act = RELU, .residual = true},
    {"conv and norm, bands", FUSED_OF(1, 2, 230, 231, 3, 3, 1, 1), .act = RELU, .residual = true},
    {"conv and norm, stride 2", FUSED_OF(3, 5, 9, 8, 6, 1, 2, 0)},
    {"conv 3x3, some filters live", CONV_OF(3, 5, 9, 7, 19, 3, 1, 1), .live = 3},
    {"conv 1x1, some filters live", CONV_OF(3, 35, 9, 7, 19, 1, 1, 0), .live = 4},
    {"conv 1x1, pixels and filters over", CONV_OF(3, 24, 5, 7, 90, 1, 1, 0), .add = true,
     .lazy = LAZY_RELU6},
    {"conv 1x1, deep", CONV_OF(2, 700, 3, 3, 130, 1, 1, 0), .add = true},
    {"conv 1x1, big plane", CONV_OF(1, 16, 70, 61, 24, 1, 1, 0), .lazy = LAZY_RELU},
    {"conv 1x1, padded", CONV_OF(2, 3, 4, 5, 7, 1, 1, 1), .add = true, .lazy = LAZY},
    {"conv 1x1 stride 2, live, many", CONV_OF(2, 96, 5, 6, 160, 1, 2, 0), .live = 11},
    {"conv 3x3, three panels", CONV_OF(1, 70, 3, 3, 192, 3, 1, 1), .add = true},
    {"conv 3x3, more weights than pixels", CONV_OF(2, 96, 4, 4, 100, 3, 1, 1), .live = 7},
    {"conv 3x3 stride 2, many channels", CONV_OF(2, 70, 9, 8, 130, 3, 2, 1), .add = true},
    {"conv 3x3 stride 3", CONV_OF(2, 5, 11, 10, 6, 3, 3, 1), .lazy = LAZY_RELU},
    {"conv 2x2 stride 3, gaps", CONV_OF(2, 5, 11, 10, 6, 2, 3, 0)},
    {"conv 2x2 stride 3, gaps, add", CONV_OF(2, 5, 11, 10, 6, 2, 3, 0), .add = true},
    {"conv 5x5 stride 2", CONV_OF(3, 17, 9, 9, 33, 5, 2, 2), .lazy = LAZY_RELU6},
    {"conv 7x7 stride 2, many", CONV_OF(1, 3, 40, 37, 64, 7, 2, 3)},
    {"conv 1x1 and norm, over", FUSED_OF(3, 24, 5, 7, 90, 1, 1, 0), .act = RELU6, .residual = true},
    {"conv 3x3 and norm, over", FUSED_OF(3, 40, 7, 5, 70, 3, 1, 1), .act = RELU},
    {"conv 3x3 stride 2 and norm", FUSED_OF(2, 16, 9, 9, 130, 3, 2, 1), .residual = true},
    {"depthwise", CONV_OF(3, 7, 9, 8, 7, 3, 1, 1), .groups = 7},
    {"depthwise, wide, add", CONV_OF(2, 37, 6, 5, 37, 3, 1, 1), .add = true, .groups = 37},
    {"depthwise stride 2, even", CONV_OF(3, 16, 8, 8, 16, 3, 2, 1), .groups = 16},
    {"depthwise stride 2, odd", CONV_OF(3, 9, 7, 9, 9, 3, 2, 1), .groups = 9},
    {"depthwise, live filters", CONV_OF(3, 9, 7, 9, 9, 3, 1, 1), .groups = 9, .live = 2},
    {"depthwise 5x5", CONV_OF(2, 5, 9, 9, 5, 5, 1, 2), .groups = 5},
    {"depthwise 5x5 stride 2, add", CONV_OF(2, 24, 11, 8, 24, 5, 2, 2), .add = true, .groups = 24},
    {"depthwise 2x2 stride 3", CONV_OF(2, 17, 11, 8, 17, 2, 3, 0), .groups = 17},
    {"depthwise 3x3, padding 2", CONV_OF(2, 17, 3, 4, 17, 3, 1, 2), .groups = 17},
    {"depthwise 3x3, no padding, stride 2", CONV_OF(2, 17, 8, 7, 17, 3, 2, 0), .groups = 17},
    {"depthwise 1x1 plane", CONV_OF(2, 90, 1, 1, 90, 3, 1, 1), .groups = 90},
    {"depthwise stride 2, 1x1 plane", CONV_OF(2, 90, 1, 1, 90, 3, 2, 1), .groups = 90},
    {"depthwise, strips", CONV_OF(2, 90, 5, 70, 90, 3, 1, 1), .groups = 90, .live = 7,
     .lazy = LAZY_RELU6},
    {"depthwise stride 2, strips", CONV_OF(3, 90, 6, 71, 90, 3, 2, 1), .groups = 90,
     .lazy = LAZY_RELU},
    {"depthwise, fours, add", CONV_OF(3, 36, 6, 5, 36, 3, 1, 1), .add = true, .groups = 36},
    {"depthwise, tiles of fours", CONV_OF(2, 144, 4, 4, 144, 3, 1, 1), .groups = 144, .live = 11},
    {"depthwise, fours, 1x1 plane", CONV_OF(2, 12, 1, 1, 12, 3, 1, 1), .groups = 12},
    {"depthwise, fours, input normed", CONV_OF(2, 12, 9, 34, 12, 3, 1, 1), .groups = 12,
     .lazy = LAZY_RELU6},
    {"depthwise stride 2, fours, even", CONV_OF(5, 24, 8, 6, 24, 3, 2, 1), .groups = 24,
     .lazy = LAZY_RELU},
    {"depthwise stride 2, fours, odd, add", CONV_OF(2, 140, 7, 9, 140, 3, 2, 1), .add = true,
     .groups = 140, .live = 11},
    {"depthwise and norm, strips", FUSED_OF(1, 90, 9, 70, 90, 3, 1, 1), .act = RELU6, .groups = 90},
    {"depthwise and norm", FUSED_OF(3, 7, 9, 8, 7, 3, 1, 1), .act = RELU6, .groups = 7},
    {"depthwise and norm, stride 2", FUSED_OF(3, 7, 9, 8, 7, 3, 2, 1), .act = RELU6,
     .residual = true, .groups = 7},
    {"norm, relu6", NORM_OF(4, 6, 5, 7), .act = RELU6},
    {"norm, tiles", NORM_OF(3, 144, 4, 5), .act = RELU6},
    {"norm, tiles, residual, add", NORM_OF(2, 132, 3, 3), .act = RELU, .residual = true,
     .add = true},
    {"norm, relu6, residual, add", NORM_OF(4, 35, 5, 7), .act = RELU6, .residual = true,
     .add = true},
    {"conv and norm, relu6", FUSED_OF(3, 5, 9, 7, 6, 1, 1, 0), .act = RELU6, .residual = true},
    {"conv 3x3, input normed", CONV_OF(3, 5, 9, 7, 19, 3, 1, 1), .lazy = LAZY},
    {"conv 3x3, input normed, relu", CONV_OF(3, 16, 8, 8, 16, 3, 1, 1), .add = true, .live = 3,
     .lazy = LAZY_RELU},
    {"conv 3x3, stride 2, input normed", CONV_OF(3, 16, 8, 8, 16, 3, 2, 1), .lazy = LAZY_RELU6},
    {"conv 1x1, input normed", CONV_OF(3, 19, 9, 7, 35, 1, 1, 0), .lazy = LAZY_RELU6},
    {"conv 1x1 stride 2, input normed", CONV_OF(3, 19, 9, 7, 35, 1, 2, 0), .add = true, .live = 4,
     .lazy = LAZY_RELU6},
    {"depthwise, input normed", CONV_OF(2, 37, 6, 5, 37, 3, 1, 1), .groups = 37,
     .lazy = LAZY_RELU6},
    {"depthwise stride 2, input normed", CONV_OF(2, 16, 8, 8, 16, 3, 2, 1), .add = true,
     .groups = 16, .lazy = LAZY_RELU},
    {"norm, no output", NORM_OF(4, 6, 5, 7), .act = RELU, .lazy = LAZY},
    {"norm, no output, relu6", NORM_OF(4, 35, 5, 7), .act = RELU6, .lazy = LAZY},
    {"norm, blocks of pixels", NORM_OF(5, 24, 9, 17), .act = RELU, .residual = true},
    {"norm, blocks, no output", NORM_OF(5, 90, 9, 17), .act = RELU6, .lazy = LAZY},
    {"norm, residual, no output", NORM_OF(3, 71, 5, 7), .act = RELU, .residual = true,
     .lazy = LAZY},
    {"norm, frozen", NORM_OF(4, 24, 5, 7), .act = RELU, .residual = true, .frozen = true},
    {"norm, frozen, add", NORM_OF(4, 90, 5, 7), .act = RELU6, .add = true, .frozen = true},
    {"norm, frozen, no output", NORM_OF(4, 90, 5, 7), .act = RELU6, .lazy = LAZY, .frozen = true},
    {"max pool 3x3 stride 2", MAX_POOL_OF(3, 5, 9, 8, 5, 3, 2, 1)},
    {"max pool 2x2 stride 2, add", MAX_POOL_OF(3, 18, 8, 8, 18, 2, 2, 0), .add = true},
    {"max pool 2x2 stride 1, wide", MAX_POOL_OF(2, 90, 5, 7, 90, 2, 1, 0), .add = true},
    {"max pool 5x5 stride 3", MAX_POOL_OF(2, 24, 11, 8, 24, 5, 3, 2)},
    {"pool, wide", POOL_OF(5, 90, 3, 5)},
    {"pool, one pixel", POOL_OF(1, 24, 1, 1), .add = true},
    {"pool", POOL_OF(3, 5, 4, 6), .add = true},
    {"winograd", WINOGRAD_OF(3, 16, 9, 7, 32, 3, 1, 1)},
    {"winograd, add", WINOGRAD_OF(3, 32, 8, 8, 16, 3, 1, 1), .add = true},
    {"winograd, one tile", WINOGRAD_OF(1, 48, 4, 4, 48, 3, 1, 1)},
    {"winograd, less than a tile", WINOGRAD_OF(3, 16, 3, 3, 16, 3, 1, 1)},
    {"winograd, long rows", WINOGRAD_OF(2, 16, 3, 41, 16, 3, 1, 1)},
    {"winograd, several blocks of tiles", WINOGRAD_OF(1, 16, 45, 38, 16, 3, 1, 1)},
    {"winograd, several blocks of inputs", WINOGRAD_OF(3, 144, 7, 5, 16, 3, 1, 1)},
    {"winograd, several blocks of outputs", WINOGRAD_OF(3, 16, 7, 5, 144, 3, 1, 1)},
    {"winograd, several blocks", WINOGRAD_OF(17, 80, 5, 5, 96, 3, 1, 1), .add = true},
    {"winograd, several chunks", WINOGRAD_OF(330, 16, 3, 3, 80, 3, 1, 1)},
    {"winograd, many weights", WINOGRAD_OF(2, 272, 4, 4, 272, 3, 1, 1)},
    {"winograd, some filters live", WINOGRAD_OF(3, 16, 9, 7, 48, 3, 1, 1), .live = 4},
    {"winograd, few filters live", WINOGRAD_OF(3, 144, 9, 7, 80, 3, 1, 1), .live = 33},
    {"winograd, many filters live", WINOGRAD_OF(3, 80, 9, 7, 144, 3, 1, 1), .live = 10},
    {"winograd, input normed", WINOGRAD_OF(3, 16, 9, 7, 32, 3, 1, 1), .lazy = LAZY},
    {"winograd, input normed, relu", WINOGRAD_OF(3, 16, 12, 15, 64, 3, 1, 1), .add = true,
     .live = 5, .lazy = LAZY_RELU},
    {"winograd, input normed, relu6", WINOGRAD_OF(3, 96, 7, 5, 80, 3, 1, 1), .lazy = LAZY_RELU6},
    {"winograd, large mean", WINOGRAD_OF(3, 48, 9, 7, 32, 3, 1, 1), .mean = 100},
    {"winograd and norm", WINOGRAD_FUSED_OF(3, 16, 9, 7, 32, 3, 1, 1)},
    {"winograd and norm, relu", WINOGRAD_FUSED_OF(3, 16, 9, 7, 80, 3, 1, 1), .act = RELU,
     .residual = true},
    {"winograd and norm, relu6", WINOGRAD_FUSED_OF(3, 80, 8, 8, 96, 3, 1, 1), .act = RELU6,
     .residual = true},
    {"linear", LINEAR_OF(5, 33, 10)},
    {"linear, gradients add", LINEAR_OF(5, 33, 10), .add = true},
};
#define ROWS (sizeof rows / sizeof *rows)

#define CHANNELS_MAX 288

/* One operation with buffers of its own; every result that a device writes is listed. */
struct operation {
    struct learner_op op;
    float *buffers[24];
    size_t counts[24];
    size_t count;
    uint32_t live[16];
    double sums[2 * CHANNELS_MAX], back_sums[2 * CHANNELS_MAX];
    int first_result;
};

static float *buffer(struct operation *o, size_t count, uint64_t seed)
{
    float *data = delta_calloc_aligned(count, sizeof *data);

    assert_non_null(data);
    assert_true(o->count < 24);
    if (seed)
        fixture_fill(data, count, seed);
    o->counts[o->count] = count;
    o->buffers[o->count++] = data;
    return data;
}

static void operation_init(struct operation *o, const struct row *row)
{
    struct learner_op *op = &o->op;
    const bool conv = row->kind == CONV || row->kind == FUSED,
               windows = conv || row->kind == MAX_POOL;

    assert_true(row->channels <= CHANNELS_MAX && (!row->lazy || row->in.c <= CHANNELS_MAX));
    memset(o, 0, sizeof *o);
    op->kind = row->kind;
    op->name = row->name;
    op->in = row->in;
    op->out = row->in;
    op->kernel = row->kernel;
    op->stride = row->stride;
    op->pad = row->pad;
    op->groups = row->groups ? row->groups : 1;
    op->act = row->act;
    op->out.c = row->channels;
    if (windows) {
        op->out.h = (row->in.h + 2 * row->pad - row->kernel) / row->stride + 1;
        op->out.w = (row->in.w + 2 * row->pad - row->kernel) / row->stride + 1;
    } else if (row->kind != NORM) {
        op->out.h = op->out.w = 1;
    }
    const size_t c = op->out.c,
                 weights = c * (row->in.c / op->groups) * (conv ? row->kernel * row->kernel : 1);
    const size_t in = row->n * learner_shape_count(&op->in);
    const size_t out = row->n * learner_shape_count(&op->out);
    op->x = buffer(o, in, 1);
    for (size_t i = 0; i < in; i++)
        ((float *)op->x)[i] += row->mean;
    op->dy = buffer(o, out, 2);
    op->residual = row->residual ? buffer(o, out, 3) : NULL;
    op->weight = buffer(o, weights, 4);
    op->bias = buffer(o, c, 5);
    op->scale = buffer(o, c, 6);
    op->shift = buffer(o, c, 7);
    op->mean = buffer(o, c, 8);
    float *var = buffer(o, c, 9);
    for (size_t i = 0; i < c; i++)
        var[i] = 0.5f + fabsf(var[i]);
    op->var = var;
    o->first_result = (int)o->count;
    op->y = buffer(o, out, 0);
    op->batch_mean = buffer(o, c, 0);
    op->inv_std = buffer(o, c, 0);
    op->dx = buffer(o, in, row->add ? 10 : 0);
    op->dresidual = row->residual ? buffer(o, out, row->add ? 11 : 0) : NULL;
    op->dx_add = op->dresidual_add = row->add;
    if (row->kind == NORM) {
        op->gain = buffer(o, c, 0);
        op->offset = buffer(o, c, 0);
    }
    if (row->lazy && conv) {
        op->x_gain = buffer(o, row->in.c, 13);
        op->x_offset = buffer(o, row->in.c, 14);
        op->x_act = row->lazy == LAZY_RELU    ? LEARNER_ACT_RELU
                    : row->lazy == LAZY_RELU6 ? LEARNER_ACT_RELU6
                                              : LEARNER_ACT_NONE;
        op->sums = o->sums;
        op->x_mean = buffer(o, row->in.c, 15);
        op->back_sums = o->back_sums;
    } else if (row->lazy) {
        op->y = NULL;
        op->dx = (float *)op->dy; /* in place */
    }
    op->dweight = buffer(o, weights, 12); /* rows of frozen filters must stay as they are */
    if (row->live) {
        assert_true(c / row->live < sizeof o->live / sizeof *o->live);
        for (size_t i = row->live - 1; i < c; i += row->live)
            o->live[op->live_count++] = (uint32_t)i;
        op->live = o->live;
    }
    op->dbias = buffer(o, c, 0);
    op->dscale = row->frozen ? NULL : buffer(o, c, 0);
    op->dshift = row->frozen ? NULL : buffer(o, c, 0);
}

static void operation_release(struct operation *o)
{
    for (size_t i = 0; i < o->count; i++)
        free(o->buffers[i]);
}

static struct learner_device *open_device(const char *name, int threads, const char *kernels)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_device *device = NULL;

    assert_ok(learner_device_open(&device, name, threads, &err));
    if (kernels)
        ((struct blas *)device)->kernels = learner_kernels_find(kernels);
    return device;
}

static void run(struct learner_device *device, const struct learner_op *op, size_t n,
                enum learner_mode mode, bool backward)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_pass pass = {.n = n, .mode = mode};

    if (device->ops->prepare)
        assert_ok(device->ops->prepare(device, op, n, true, &err));
    device->ops->run(device, op, &pass);
    pass.backward = true;
    if (backward)
        device->ops->run(device, op, &pass);
}

/* What a fused operation means: its two parts on the oracle. */
static void run_ref(struct learner_device *ref, const struct operation *o, size_t n,
                    enum learner_mode mode)
{
    if (o->op.kind != FUSED) {
        run(ref, &o->op, n, mode, true);
        return;
    }
    struct learner_op conv = o->op, norm = o->op;
    float *z = calloc(n * learner_shape_count(&o->op.out), sizeof *z);
    assert_non_null(z);
    conv.kind = CONV;
    conv.y = z;
    norm.kind = NORM;
    norm.in = norm.out;
    norm.x = z;
    run(ref, &conv, n, mode, false);
    run(ref, &norm, n, mode, false);
    free(z);
}

/* Two sums a channel, of `terms` numbers near 1 each. */
static void compare_sums(const char *name, const char *what, const double *found,
                         const double *wanted, size_t count, size_t terms)
{
    for (size_t c = 0; c < count; c++)
        if (!(fabs(found[c] - wanted[c]) <= 1e-4 * (fabs(wanted[c]) + (double)terms)))
            fail_msg("%s: %s %zu is %g, wanted %g", name, what, c, found[c], wanted[c]);
}

static void compare_row(const struct row *row, enum learner_mode mode, int threads,
                        const char *kernels, const struct blas_conv *algorithm)
{
    struct operation a, b;
    struct learner_device *ref = open_device("ref", 1, NULL);
    struct learner_device *blas = open_device("blas", threads, kernels);

    ((struct blas *)blas)->algorithm = algorithm;
    operation_init(&a, row);
    operation_init(&b, row);
    run_ref(ref, &a, row->n, mode);
    run(blas, &b.op, row->n, mode, row->kind != FUSED);
    if (a.op.sums && mode == LEARNER_TRAIN) {
        compare_sums(row->name, "sum", b.sums, a.sums, 2 * row->channels, row->n);
        compare_sums(row->name, "back sum", b.back_sums, a.back_sums, 2 * row->in.c, row->n);
    }
    for (size_t i = 0; i < a.count; i++) {
        const double distance = fixture_distance(b.buffers[i], a.buffers[i], a.counts[i]);
        if (!(distance <= row->tolerance))
            fail_msg("%s, mode %d, %d threads, kernels %s: buffer %zu differs by %g", row->name,
                     (int)mode, threads, kernels, i, distance);
    }
    operation_release(&a);
    operation_release(&b);
    ref->ops->close(ref);
    blas->ops->close(blas);
}

static void compare_modes(const struct row *row, int threads, const char *kernels,
                          const struct blas_conv *algorithm)
{
    if (row->kind == FUSED) {
        compare_row(row, LEARNER_INFER, threads, kernels, algorithm);
        return;
    }
    compare_row(row, LEARNER_TRAIN_EVAL, threads, kernels, algorithm);
    if (row->kind == NORM || row->lazy)
        compare_row(row, LEARNER_TRAIN, threads, kernels, algorithm);
}

static void blas_agrees_with_ref(void **state)
{
    static const char *const kernels[] = {"base", "avx2", "avx512"};
    static const int threads[] = {1, 3};
    size_t sets = 0;

    (void)state;
    for (size_t k = 0; k < 3; k++) {
        if (!learner_kernels_find(kernels[k])) {
            print_message("SKIP: kernels %s do not run on this processor\n", kernels[k]);
            continue;
        }
        sets++;
        for (size_t r = 0; r < ROWS; r++) {
            for (int t = 0; t < 2; t++)
                compare_modes(&rows[r], threads[t], kernels[k], NULL);
            if ((rows[r].kind == CONV || rows[r].kind == FUSED) && rows[r].kernel == 3 &&
                rows[r].groups < 2) /* not chosen for them, as a rule */
                compare_modes(&rows[r], 2, kernels[k], &blas_conv_gemm);
        }
    }
    assert_true(sets >= 1);
}

#include "ops_cuda.h"

/* The scalar that is differentiated: sum dy * y. */
static double scalar(struct learner_device *ref, struct operation *o, const struct row *row,
                     enum learner_mode mode)
{
    float mean[CHANNELS_MAX], var[CHANNELS_MAX];
    double sum = 0;

    /* a training pass moves the running statistics */
    const bool norm = row->kind == NORM;
    if (norm) {
        memcpy(mean, o->op.mean, row->channels * sizeof *mean);
        memcpy(var, o->op.var, row->channels * sizeof *var);
    }
    run(ref, &o->op, row->n, mode, false);
    if (norm) {
        memcpy(o->op.mean, mean, row->channels * sizeof *mean);
        memcpy(o->op.var, var, row->channels * sizeof *var);
    }
    for (size_t i = 0; i < row->n * learner_shape_count(&o->op.out); i++)
        sum += (double)o->op.dy[i] * o->op.y[i];
    return sum;
}

static void check_input(struct learner_device *ref, struct operation *o, const struct row *row,
                        enum learner_mode mode, float *input, const float *gradient, size_t count,
                        const char *what)
{
    float *keep = calloc(count, sizeof *keep), *direction = calloc(count, sizeof *direction);
    double slope = 0, size = 0, at[3];
    const double h = row->act || row->kind == MAX_POOL ? 1e-4 : 1e-3; /* few kinks within a step */

    assert_true(keep && direction);
    memcpy(keep, input, count * sizeof *keep);
    fixture_fill(direction, count, 55);
    for (size_t i = 0; i < count; i++) {
        slope += (double)direction[i] * gradient[i];
        size += (double)gradient[i] * gradient[i];
    }
    for (int side = 0; side < 3; side++) {
        for (size_t i = 0; i < count; i++)
            input[i] = (float)(keep[i] + (side - 1) * h * direction[i]);
        at[side] = scalar(ref, o, row, mode);
    }
    memcpy(input, keep, count * sizeof *keep);
    const double found = (at[2] - at[0]) / (2 * h);
    if (!(fabs(found - slope) <= 5e-3 * sqrt(size) + 2e-3 * fabs(slope)))
        fail_msg("%s, mode %d, %s: gradient %.7g, finite difference %.7g", row->name, (int)mode,
                 what, slope, found);
    free(keep);
    free(direction);
}

static void check_row(struct learner_device *ref, const struct row *table_row,
                      enum learner_mode mode)
{
    struct row row = *table_row;
    struct operation o;

    row.add = false; /* the oracle's adding is checked by a test of its own */
    row.live = 0;
    operation_init(&o, &row);
    const struct learner_op *op = &o.op;
    const size_t in = row.n * learner_shape_count(&op->in);
    const size_t out = row.n * learner_shape_count(&op->out);
    scalar(ref, &o, &row, mode);
    ref->ops->run(ref, op, &(struct learner_pass){.n = row.n, .mode = mode, .backward = true});
    if (!op->x_gain) /* else dx is the gradient of the normalised input */
        check_input(ref, &o, &row, mode, (float *)op->x, op->dx, in, "input");
    if (row.residual)
        check_input(ref, &o, &row, mode, (float *)op->residual, op->dresidual, out, "residual");
    if (row.kind == CONV || row.kind == LEARNER_OP_LINEAR)
        check_input(ref, &o, &row, mode, (float *)op->weight, op->dweight,
                    op->out.c * (op->in.c / op->groups) *
                        (row.kind == CONV ? row.kernel * row.kernel : 1),
                    "weight");
    if (row.kind == LEARNER_OP_LINEAR)
        check_input(ref, &o, &row, mode, (float *)op->bias, op->dbias, op->out.c, "bias");
    if (row.kind == NORM && !row.frozen) {
        check_input(ref, &o, &row, mode, (float *)op->scale, op->dscale, op->out.c, "scale");
        check_input(ref, &o, &row, mode, (float *)op->shift, op->dshift, op->out.c, "shift");
    }
    operation_release(&o);
}

static void ref_agrees_with_finite_differences(void **state)
{
    struct learner_device *ref = open_device("ref", 1, NULL);
    size_t candidates = 0;

    (void)state;
    if (harness_slowdown() > 1)
        print_message("one row in %zu is checked\n", harness_slowdown());
    for (size_t r = 0; r < ROWS; r++) {
        if (rows[r].kind == FUSED || rows[r].in.h > 100)
            continue; /* no backward; too slow for plain loops */
        if (rows[r].kind == NORM && rows[r].lazy)
            continue; /* nothing to differentiate; lazy_is_the_whole covers it */
        if (candidates++ % harness_slowdown())
            continue;
        check_row(ref, &rows[r], LEARNER_TRAIN_EVAL);
        if (rows[r].kind == NORM)
            check_row(ref, &rows[r], LEARNER_TRAIN);
    }
    ref->ops->close(ref);
}

/* What is left to a convolution is what the norm would have done. */
static void lazy_conv(struct learner_device *ref, const struct row *row)
{
    struct row whole_row = *row;
    struct operation lazy, whole;

    whole_row.lazy = WHOLE;
    operation_init(&lazy, row);
    operation_init(&whole, &whole_row);
    const size_t in = row->n * learner_shape_count(&row->in);
    float *x = (float *)whole.op.x;
    for (size_t i = 0; i < in; i++) {
        const size_t c = i % row->in.c;
        x[i] = x[i] * lazy.op.x_gain[c] + lazy.op.x_offset[c];
        if (lazy.op.x_act != LEARNER_ACT_NONE && x[i] < 0)
            x[i] = 0;
        if (lazy.op.x_act == LEARNER_ACT_RELU6 && x[i] > 6)
            x[i] = 6;
    }
    run(ref, &lazy.op, row->n, LEARNER_TRAIN, true);
    run(ref, &whole.op, row->n, LEARNER_TRAIN, true);
    const size_t out = learner_shape_count(&lazy.op.out) * row->n;
    const size_t weights = row->channels * (row->in.c / lazy.op.groups) * row->kernel * row->kernel;
    assert_true(fixture_distance(lazy.op.y, whole.op.y, out) < 1e-6);
    assert_true(fixture_distance(lazy.op.dx, whole.op.dx, in) < 1e-6);
    assert_true(fixture_distance(lazy.op.dweight, whole.op.dweight, weights) < 1e-6);
    for (size_t c = 0; c < row->channels; c++) {
        double sum = 0, square = 0;
        for (size_t i = c; i < out; i += row->channels) {
            const double d = (double)lazy.op.y[i] - lazy.op.mean[c];
            sum += d;
            square += d * d;
        }
        assert_true(fabs(lazy.sums[c] - sum) < 1e-6 * (1 + fabs(sum)));
        assert_true(fabs(lazy.sums[row->channels + c] - square) < 1e-6 * (1 + square));
    }
    operation_release(&lazy);
    operation_release(&whole);
}

/* A norm that writes no output leaves the same gradients, and gain and offset that give it; sums
 * that came with its input give the same statistics. */
static void lazy_norm(const char *device_name, const struct row *row, enum learner_mode mode)
{
    struct learner_device *device = open_device(device_name, 2, NULL);
    struct row whole_row = *row;
    struct operation lazy, whole;

    whole_row.lazy = WHOLE;
    operation_init(&lazy, row);
    operation_init(&whole, &whole_row);
    const size_t count = row->n * learner_shape_count(&row->in), channels = row->channels;
    for (size_t i = 0; i < count; i++) {
        const double d = (double)lazy.op.x[i] - lazy.op.mean[i % channels];
        lazy.sums[i % channels] += d;
        lazy.sums[channels + i % channels] += d * d;
    }
    lazy.op.sums = lazy.sums;
    run(device, &lazy.op, row->n, mode, true);
    run(device, &whole.op, row->n, mode, true);
    assert_true(fixture_distance(lazy.op.dx, whole.op.dx, count) < 2e-6);
    if (!row->frozen) {
        assert_true(fixture_distance(lazy.op.dscale, whole.op.dscale, channels) < 2e-6);
        assert_true(fixture_distance(lazy.op.dshift, whole.op.dshift, channels) < 2e-6);
    }
    assert_true(fixture_distance(lazy.op.mean, whole.op.mean, channels) < 1e-6);
    assert_true(fixture_distance(lazy.op.var, whole.op.var, channels) < 1e-6);
    for (size_t i = 0; i < count; i++) {
        float y = lazy.op.x[i] * lazy.op.gain[i % channels] + lazy.op.offset[i % channels];
        if (row->residual)
            y += lazy.op.residual[i];
        if (row->act != LEARNER_ACT_NONE && y < 0)
            y = 0;
        if (row->act == LEARNER_ACT_RELU6 && y > 6)
            y = 6;
        assert_true(fabsf(y - whole.op.y[i]) < 1e-5);
    }
    operation_release(&lazy);
    operation_release(&whole);
    device->ops->close(device);
}

static void lazy_is_the_whole(void **state)
{
    struct learner_device *ref = open_device("ref", 1, NULL);
    size_t convs = 0, norms = 0;

    (void)state;
    for (size_t r = 0; r < ROWS; r++) {
        if (rows[r].lazy && rows[r].kind == CONV) {
            lazy_conv(ref, &rows[r]);
            convs++;
        }
        for (int mode = LEARNER_TRAIN_EVAL; rows[r].lazy && mode <= LEARNER_TRAIN; mode++)
            if (rows[r].kind == NORM) {
                lazy_norm("ref", &rows[r], (enum learner_mode)mode);
                lazy_norm("blas", &rows[r], (enum learner_mode)mode);
                norms++;
            }
    }
    assert_true(convs >= 5 && norms >= 4);
    ref->ops->close(ref);
}

static void ref_adds_where_asked(void **state)
{
    struct learner_device *ref = open_device("ref", 1, NULL);
    size_t checked = 0;

    (void)state;
    for (size_t r = 0; r < ROWS; r++) {
        struct row row = rows[r];
        struct operation added, fresh, before;
        if (!row.add)
            continue;
        operation_init(&added, &row);
        operation_init(&before, &row);
        row.add = false;
        operation_init(&fresh, &row);
        run(ref, &added.op, row.n, LEARNER_TRAIN, true);
        run(ref, &fresh.op, row.n, LEARNER_TRAIN, true);
        const size_t in = row.n * learner_shape_count(&fresh.op.in);
        for (size_t i = 0; i < in; i++)
            before.op.dx[i] += fresh.op.dx[i];
        assert_true(fixture_distance(added.op.dx, before.op.dx, in) < 1e-6);
        for (size_t i = 0; row.residual && i < in; i++)
            before.op.dresidual[i] += fresh.op.dresidual[i];
        if (row.residual)
            assert_true(fixture_distance(added.op.dresidual, before.op.dresidual, in) < 1e-6);
        operation_release(&added);
        operation_release(&before);
        operation_release(&fresh);
        checked++;
    }
    assert_true(checked >= 5);
    ref->ops->close(ref);
}

/* Rounding may depend on the number of threads in weight gradients only. */
static void check_division(struct learner_device *one, struct learner_device *many,
                           const struct row *row)
{
    const enum learner_mode mode = row->kind == FUSED ? LEARNER_INFER : LEARNER_TRAIN_EVAL;
    struct operation a, b;

    operation_init(&a, row);
    operation_init(&b, row);
    run(one, &a.op, row->n, mode, row->kind != FUSED);
    run(many, &b.op, row->n, mode, row->kind != FUSED);
    const size_t out = learner_shape_count(&a.op.out), in = learner_shape_count(&a.op.in);
    if (memcmp(a.op.y, b.op.y, row->n * out * sizeof(float)) ||
        memcmp(a.op.dx, b.op.dx, row->n * in * sizeof(float)))
        fail_msg("%s: depends on the number of threads", row->name);
    memset(b.op.y, 0, row->n * out * sizeof(float));
    run(many, &b.op, 1, mode, false);
    if (memcmp(a.op.y, b.op.y, out * sizeof(float)))
        fail_msg("%s: depends on the size of the batch", row->name);
    operation_release(&a);
    operation_release(&b);
}

static void forward_does_not_depend_on_threads_or_batch(void **state)
{
    size_t checked = 0;

    (void)state;
    for (size_t r = 0; r < ROWS; r++) {
        if (rows[r].kind != CONV && rows[r].kind != FUSED)
            continue;
        struct learner_device *one = open_device("blas", 1, NULL);
        struct learner_device *many = open_device("blas", 5, NULL);
        check_division(one, many, &rows[r]);
        one->ops->close(one);
        many->ops->close(many);
        checked++;
    }
    assert_true(checked >= 30);
}

/* For inference, what is derived from the weights stays until they change. */
static void check_kept_weights(const struct row *row)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_device *device = open_device("blas", 2, NULL);
    struct operation o;

    operation_init(&o, row);
    struct learner_pass pass = {.n = row->n, .mode = LEARNER_INFER, .weights_version = 7};
    const size_t bytes = row->n * learner_shape_count(&o.op.out) * sizeof(float);
    float *first = malloc(bytes), *second = malloc(bytes);
    assert_true(first && second);
    const size_t before = device->ops->memory_bytes(device);
    assert_ok(device->ops->prepare(device, &o.op, row->n, false, &err));
    const size_t prepared = device->ops->memory_bytes(device);
    assert_true(prepared > before);
    device->ops->run(device, &o.op, &pass);
    memcpy(first, o.op.y, bytes);
    ((float *)o.op.weight)[0] += 1;
    device->ops->run(device, &o.op, &pass);
    assert_memory_equal(first, o.op.y, bytes);
    pass.weights_version++;
    device->ops->run(device, &o.op, &pass);
    memcpy(second, o.op.y, bytes);
    assert_true(memcmp(first, second, bytes) != 0);
    ((float *)o.op.weight)[0] -= 1;
    pass.weights_version = 0; /* may have changed */
    device->ops->run(device, &o.op, &pass);
    assert_true(memcmp(second, o.op.y, bytes) != 0);
    assert_int_equal(device->ops->memory_bytes(device), prepared);
    free(first);
    free(second);
    operation_release(&o);
    device->ops->close(device);
}

static void inference_keeps_weights_until_they_change(void **state)
{
    size_t checked = 0;

    (void)state;
    for (size_t r = 0; r < ROWS; r++)
        if (rows[r].kind == FUSED && !strncmp(rows[r].name, "winograd", 8)) {
            check_kept_weights(&rows[r]);
            checked++;
        }
    assert_true(checked >= 3);
}

/* usage: test_ops [PATTERN of the tests to run] */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_agrees_with_finite_differences),
        cmocka_unit_test(lazy_is_the_whole),
        cmocka_unit_test(ref_adds_where_asked),
        cmocka_unit_test(blas_agrees_with_ref),
        cmocka_unit_test(cuda_agrees_with_ref),
        cmocka_unit_test(forward_does_not_depend_on_threads_or_batch),
        cmocka_unit_test(inference_keeps_weights_until_they_change),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
#ifdef EMULATED
    const struct CMUnitTest emulated[] = {
        cmocka_unit_test(cuda_agrees_with_ref),
        cmocka_unit_test(cuda_agrees_without_the_library),
        cmocka_unit_test(order_of_threads_changes_no_bit),
    };
    (void)tests;
    return cmocka_run_group_tests(emulated, NULL, NULL);
#else
    return cmocka_run_group_tests(tests, NULL, NULL);
#endif
}
