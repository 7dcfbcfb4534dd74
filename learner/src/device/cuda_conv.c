/* Convolutions of the CUDA backend, four ways: depthwise ones by kernels of our own, 1x1 ones as
 * one matrix product over all pixels, the others by the vendor's library or, where it has no
 * algorithm that is deterministic and fits, as a product over patches, some images at a time. So
 * are those of an image's three colours, for which its tensor cores have no use: a row of patches
 * is filled up with zeros to a length that they like. */
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

#define LIBRARY_SCRATCH ((size_t)256 << 20) /* bytes, at most */
#define PATCH_BYTES ((size_t)64 << 20)
#define DEPTHWISE_THREADS 2048 /* of a processor, for weight gradients */
#define FILTER_BLOCKS 3        /* of a processor, the fast way */
#define PATCH_ROW 8            /* numbers that a row of patches is a multiple of */
#define LINE_OUTPUTS 16        /* of one thread, at least: its weights cost nine reads of memory */

static bool is_depthwise(const struct learner_op *op)
{
    return op->groups > 1;
}

/* Every pixel by itself. */
static bool is_pointwise(const struct learner_op *op)
{
    return op->kernel == 1 && op->stride == 1 && op->pad == 0;
}

static size_t taps(const struct learner_op *op)
{
    return op->kernel * op->kernel;
}

static bool is_small_input(const struct cuda_job *job)
{
    return job->cuda->narrow && job->op->in.c % PATCH_ROW && !is_pointwise(job->op);
}

/* Numbers of a row of patches, and of the weights that it is multiplied with. */
static size_t patch_row(const struct cuda_job *job)
{
    const size_t row = taps(job->op) * job->op->in.c;

    return is_small_input(job) ? (row + PATCH_ROW - 1) / PATCH_ROW * PATCH_ROW : row;
}

static size_t out_rows(const struct cuda_job *job)
{
    return job->pass->n * job->op->out.h * job->op->out.w;
}

static size_t live_count(const struct learner_op *op)
{
    return op->live ? op->live_count : op->out.c;
}

enum delta_status cuda_conv_check(const struct learner_op *op, struct delta_error *err)
{
    if (is_depthwise(op) && (op->groups != op->in.c || op->in.c != op->out.c))
        return delta_fail(err, DELTA_UNSUPPORTED,
                          "layer '%s': convolutions in groups are not supported, but for depthwise",
                          op->name);
    if (is_depthwise(op) && taps(op) > GPU_TAPS)
        return delta_fail(err, DELTA_UNSUPPORTED,
                          "layer '%s': depthwise kernels of more than 7 x 7 are not supported",
                          op->name);
    return DELTA_OK;
}

static struct gpu_window window_of(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    struct gpu_window window = {.n = (unsigned)job->pass->n,
                                .c = (unsigned)op->in.c,
                                .h = (unsigned)op->in.h,
                                .w = (unsigned)op->in.w,
                                .out_h = (unsigned)op->out.h,
                                .out_w = (unsigned)op->out.w,
                                .kernel = (unsigned)op->kernel,
                                .stride = (unsigned)op->stride,
                                .pad = (unsigned)op->pad};

    return window;
}

/* ---- weights ---- */

static struct cuda_packed *find_packed(const struct cuda_job *job)
{
    struct cuda *cuda = job->cuda;
    const struct learner_op *op = job->op;
    const size_t bytes = cuda_activation_bytes(cuda, op->out.c * patch_row(job));

    for (size_t i = 0; i < cuda->packed_count; i++)
        if (cuda->packed[i].weight == op->weight)
            return &cuda->packed[i];
    struct cuda_packed *more =
        realloc(cuda->packed, (cuda->packed_count + 1) * sizeof *cuda->packed);
    if (!more) {
        cuda->failed = true;
        return NULL;
    }
    cuda->packed = more;
    more += cuda->packed_count;
    *more = (struct cuda_packed){.weight = op->weight, .at = gpu_alloc(cuda->gpu, bytes)};
    if (!more->at) {
        cuda->failed = true;
        return NULL;
    }
    cuda->packed_count++;
    cuda->bytes += bytes;
    return more;
}

static bool needs_packing(const struct cuda_job *job)
{
    return !is_depthwise(job->op) && (job->cuda->narrow || job->op->kernel > 1);
}

bool cuda_conv_is_stale(const struct cuda_job *job)
{
    const struct cuda_packed *packed = needs_packing(job) ? find_packed(job) : NULL;
    const uint64_t version = job->pass->weights_version;

    return packed && (!version || packed->version != version);
}

void cuda_conv_pack(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    const struct cuda_packed *packed = needs_packing(job) ? find_packed(job) : NULL;

    if (!packed)
        return;
    const struct gpu_pack pack = {.from = op->weight,
                                  .to = packed->at,
                                  .co = (unsigned)op->out.c,
                                  .ci = (unsigned)op->in.c,
                                  .taps = (unsigned)taps(op),
                                  .row = (unsigned)patch_row(job),
                                  .narrow = job->cuda->narrow};
    cuda_each(job->cuda, GPU_KERNEL_pack, op->out.c * patch_row(job), &pack);
}

void cuda_conv_packed(const struct cuda_job *job)
{
    struct cuda_packed *packed = needs_packing(job) ? find_packed(job) : NULL;

    if (packed)
        packed->version = job->pass->weights_version;
}

/* [co, row], of the activations' type */
static const void *weights(const struct cuda_job *job)
{
    if (!needs_packing(job))
        return job->op->weight;
    if (cuda_conv_is_stale(job)) {
        cuda_conv_pack(job);
        if (!job->cuda->measured)
            cuda_conv_packed(job);
    }
    const struct cuda_packed *packed = find_packed(job);
    return packed ? packed->at : NULL;
}

/* The live filters' numbers where kernels can read them; NULL: all are. */
static const uint32_t *live_list(const struct cuda_job *job)
{
    struct cuda *cuda = job->cuda;
    const struct learner_op *op = job->op;
    const size_t bytes = op->live_count * sizeof *op->live;

    if (!op->live)
        return NULL;
    for (size_t i = 0; i < cuda->live_count; i++)
        if (cuda->lives[i].host == op->live && cuda->lives[i].count == op->live_count)
            return cuda->lives[i].at;
    struct cuda_live *more = realloc(cuda->lives, (cuda->live_count + 1) * sizeof *cuda->lives);
    if (!more) {
        cuda->failed = true;
        return NULL;
    }
    cuda->lives = more;
    more += cuda->live_count;
    *more = (struct cuda_live){op->live, op->live_count, gpu_alloc(cuda->gpu, bytes)};
    if (!more->at) {
        cuda->failed = true;
        return NULL;
    }
    gpu_upload(cuda->gpu, more->at, op->live, bytes);
    cuda->live_count++;
    cuda->bytes += bytes;
    return more->at;
}

/* ---- inputs ---- */

/* The input, normalised into scratch memory where that was left to the convolution. */
static const void *input(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    const size_t rows = job->pass->n * op->in.h * op->in.w;
    struct gpu_affine affine = {
        .x = op->x, .gain = op->x_gain, .offset = op->x_offset, .act = (int)op->x_act};

    if (!op->x_gain)
        return op->x;
    affine.y = cuda_scratch(job->cuda, cuda_activation_bytes(job->cuda, rows * op->in.c));
    cuda_affine(job->cuda, &affine, rows, op->in.c);
    return affine.y;
}

/* ---- the library's ---- */

/* NULL: it has none, or none that is worth it. */
static struct gpu_conv *library_conv(const struct cuda_job *job, enum gpu_conv_part part, size_t co)
{
    const struct gpu_window w = window_of(job);
    const struct gpu_conv_shape shape = {.part = part,
                                         .n = w.n,
                                         .ci = w.c,
                                         .h = w.h,
                                         .w = w.w,
                                         .co = (unsigned)co,
                                         .out_h = w.out_h,
                                         .out_w = w.out_w,
                                         .kernel = w.kernel,
                                         .stride = w.stride,
                                         .pad = w.pad,
                                         .narrow = job->cuda->narrow != 0};
    struct cuda *cuda = job->cuda;
    const size_t left = cuda_scratch_left(cuda);

    if (is_small_input(job))
        return NULL;
    for (size_t i = 0; i < cuda->conv_count; i++) {
        const struct gpu_conv_shape *s = &cuda->convs[i].shape;
        if (s->part == shape.part && s->n == shape.n && s->ci == shape.ci && s->h == shape.h &&
            s->w == shape.w && s->co == shape.co && s->out_h == shape.out_h &&
            s->out_w == shape.out_w && s->kernel == shape.kernel && s->stride == shape.stride &&
            s->pad == shape.pad)
            return cuda->convs[i].conv;
    }
    struct cuda_conv *more = realloc(cuda->convs, (cuda->conv_count + 1) * sizeof *cuda->convs);
    if (!more) /* then patches will do */
        return NULL;
    cuda->convs = more;
    more += cuda->conv_count++;
    more->shape = shape;
    more->conv = gpu_conv_new(cuda->gpu, &shape, left < LIBRARY_SCRATCH ? left : LIBRARY_SCRATCH);
    return more->conv;
}

static void run_library(const struct cuda_job *job, const struct gpu_conv *conv, const void *x,
                        const void *w, const void *y, bool add)
{
    void *scratch = cuda_scratch(job->cuda, gpu_conv_scratch(conv));

    if (!job->cuda->measured)
        gpu_conv_run(job->cuda->gpu, conv, (void *)x, (void *)w, (void *)y, scratch, add);
}

/* ---- by patches ---- */

static size_t images_at_once(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    const size_t image = cuda_activation_bytes(job->cuda, op->out.h * op->out.w * patch_row(job));
    const size_t fit = PATCH_BYTES / image ? PATCH_BYTES / image : 1;

    return fit < job->pass->n ? fit : job->pass->n;
}

static const void *activations_at(const struct cuda_job *job, const void *base, size_t at)
{
    return job->cuda->measured ? base : (const char *)base + cuda_activation_bytes(job->cuda, at);
}

enum part { PART_FORWARD, PART_DATA, PART_FILTER };

/* x, w, y as gpu_conv_run has them, but for FILTER w is float32. co: channels of y */
static void run_patches(const struct cuda_job *job, enum part part, const void *x, const void *w,
                        const void *y, size_t co)
{
    const struct learner_op *op = job->op;
    struct cuda *cuda = job->cuda;
    const size_t most = images_at_once(job), plane = op->out.h * op->out.w;
    const size_t row = patch_row(job);
    void *patches = cuda_scratch(cuda, cuda_activation_bytes(cuda, most * plane * row));

    for (size_t at = 0, n; at < job->pass->n; at += n) {
        n = job->pass->n - at < most ? job->pass->n - at : most;
        const void *x_at = activations_at(job, x, at * learner_shape_count(&op->in));
        void *y_at = (void *)activations_at(job, y, at * plane * co);
        struct gpu_patches make = {.window = window_of(job),
                                   .x = x_at,
                                   .patches = patches,
                                   .row = (unsigned)row,
                                   .narrow = cuda->narrow};
        make.window.n = (unsigned)n;
        struct gpu_product product = {
            .m = n * plane, .narrow = cuda->narrow != 0, .narrow_c = cuda->narrow != 0};
        if (part != PART_DATA && op->in.c == 3 && op->kernel == 3 && row == 32)
            cuda_launch(cuda, GPU_KERNEL_patches3, (n * plane + GPU_THREADS - 1) / GPU_THREADS,
                        &make);
        else if (part != PART_DATA)
            cuda_each(cuda, GPU_KERNEL_patches, n * plane * row, &make);
        if (part == PART_FORWARD) { /* y = patches w^T */
            product.transpose_b = true;
            product.n = product.ldc = co;
            product.k = product.lda = product.ldb = row;
            product.a = patches;
            product.b = w;
            product.c = y_at;
        } else if (part == PART_DATA) { /* patches = dy w */
            product.n = product.ldb = product.ldc = row;
            product.k = product.lda = co;
            product.a = y_at;
            product.b = w;
            product.c = patches;
        } else { /* dw = dy^T patches */
            product.transpose_a = true;
            product.m = product.lda = co;
            product.n = product.ldb = product.ldc = row;
            product.k = n * plane;
            product.a = y_at;
            product.b = patches;
            product.c = (void *)w;
            product.narrow_c = false;
            product.beta = at ? 1 : 0;
        }
        cuda_multiply(cuda, &product);
        const struct gpu_unpatch back = {.window = make.window,
                                         .patches = patches,
                                         .dx = (void *)x_at,
                                         .row = (unsigned)row,
                                         .narrow = cuda->narrow,
                                         .add = op->dx_add};
        if (part == PART_DATA)
            cuda_each(cuda, GPU_KERNEL_unpatch, n * learner_shape_count(&op->in), &back);
    }
}

/* ---- depthwise ---- */

static struct gpu_depthwise depthwise(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    struct gpu_depthwise args = {.window = window_of(job),
                                 .x = op->x,
                                 .dy = op->dy,
                                 .y = op->y,
                                 .dx = op->dx,
                                 .weight = op->weight,
                                 .x_gain = op->x_gain,
                                 .x_offset = op->x_offset,
                                 .x_act = (int)op->x_act,
                                 .narrow = job->cuda->narrow,
                                 .add = op->dx_add,
                                 .channels = (unsigned)live_count(op)};

    return args;
}

/* Four channels at a time, each input read once for three outputs. */
static bool is_fast(const struct learner_op *op)
{
    return op->kernel == 3 && op->pad == 1 && op->stride <= 2 && op->in.c % 4 == 0;
}

/* A thread has four channels of some lines of what is written. */
static void launch_lines(const struct cuda_job *job, enum gpu_kernel kernel,
                         struct gpu_depthwise *args, size_t h, size_t w)
{
    const size_t lines = (LINE_OUTPUTS + w - 1) / w, pieces = (h + lines - 1) / lines;
    const size_t threads = job->pass->n * pieces * (job->op->in.c / 4);

    args->lines = (unsigned)lines;
    cuda_launch(job->cuda, kernel, (threads + GPU_THREADS - 1) / GPU_THREADS, args);
}

static void depthwise_forward(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    struct gpu_depthwise args = depthwise(job);

    if (is_fast(op))
        launch_lines(job,
                     args.x_gain   ? GPU_KERNEL_depthwise3_lazy
                     : args.narrow ? GPU_KERNEL_depthwise3_narrow
                                   : GPU_KERNEL_depthwise3,
                     &args, op->out.h, op->out.w);
    else
        cuda_each(job->cuda, GPU_KERNEL_depthwise, job->pass->n * learner_shape_count(&op->out),
                  &args);
}

static void depthwise_data(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    struct gpu_depthwise args = depthwise(job);

    if (is_fast(op))
        launch_lines(job,
                     args.narrow ? GPU_KERNEL_depthwise3_data_narrow : GPU_KERNEL_depthwise3_data,
                     &args, op->in.h, op->in.w);
    else
        cuda_each(job->cuda, GPU_KERNEL_depthwise_data, job->pass->n * learner_shape_count(&op->in),
                  &args);
}

/* Partial sums of all channels. */
static void filter_fast(const struct cuda_job *job, struct gpu_depthwise *args)
{
    const struct learner_op *op = job->op;
    size_t tiles;

    args->tile = cuda_tile(op->in.c / 4, &tiles);
    const size_t lanes = GPU_THREADS / args->tile;
    const size_t useful = (job->pass->n * op->out.h + lanes - 1) / lanes;
    const size_t wanted = (size_t)FILTER_BLOCKS * gpu_processors(job->cuda->gpu) / tiles;
    const size_t few = wanted < useful ? wanted : useful;
    args->row_blocks = few ? (unsigned)few : 1;
    args->partial =
        cuda_scratch(job->cuda, args->row_blocks * op->in.c * taps(op) * sizeof(double));
    cuda_launch(job->cuda,
                args->x_gain   ? GPU_KERNEL_depthwise3_filter_lazy
                : args->narrow ? GPU_KERNEL_depthwise3_filter_narrow
                               : GPU_KERNEL_depthwise3_filter,
                args->row_blocks * tiles, args);
}

/* Of the live channels, pixel by pixel. */
static void filter_slow(const struct cuda_job *job, struct gpu_depthwise *args)
{
    const size_t pixels = out_rows(job), channels = args->channels;
    const size_t threads = (size_t)DEPTHWISE_THREADS * gpu_processors(job->cuda->gpu);
    const size_t wanted = threads / channels ? threads / channels : 1;
    const size_t useful = pixels / 16 + 1;

    args->row_blocks = (unsigned)(wanted < useful ? wanted : useful);
    args->partial =
        cuda_scratch(job->cuda, args->row_blocks * channels * taps(job->op) * sizeof(double));
    cuda_each(job->cuda, GPU_KERNEL_depthwise_filter, channels * args->row_blocks, args);
}

static void depthwise_filter(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    struct gpu_depthwise args = depthwise(job);

    args.live = live_list(job);
    if (is_fast(op))
        filter_fast(job, &args);
    else
        filter_slow(job, &args);
    const struct gpu_depthwise_total total = {.partial = args.partial,
                                              .dweight = op->dweight,
                                              .live = args.live,
                                              .channels = args.channels,
                                              .c = (unsigned)op->in.c,
                                              .taps = (unsigned)taps(op),
                                              .row_blocks = args.row_blocks,
                                              .all = is_fast(op)};
    cuda_launch(job->cuda, GPU_KERNEL_depthwise_total,
                (args.channels * taps(op) + GPU_TOTALS - 1) / GPU_TOTALS, &total);
}

static void depthwise_backward(const struct cuda_job *job)
{
    if (job->op->dx)
        depthwise_data(job);
    if (job->op->dweight && live_count(job->op))
        depthwise_filter(job);
}

/* ---- dense ---- */

static void dense_forward(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    const void *w = weights(job), *x = input(job);
    const struct gpu_product product = {.transpose_b = true,
                                        .m = out_rows(job),
                                        .n = op->out.c,
                                        .k = op->in.c,
                                        .lda = op->in.c,
                                        .ldb = op->in.c,
                                        .ldc = op->out.c,
                                        .a = x,
                                        .b = w,
                                        .c = op->y,
                                        .narrow = job->cuda->narrow != 0,
                                        .narrow_c = job->cuda->narrow != 0};

    if (is_pointwise(op)) {
        cuda_multiply(job->cuda, &product);
        return;
    }
    const struct gpu_conv *conv = library_conv(job, GPU_CONV_FORWARD, op->out.c);
    if (conv)
        run_library(job, conv, x, w, op->y, false);
    else
        run_patches(job, PART_FORWARD, x, w, op->y, op->out.c);
}

static void dense_data(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    const void *w = weights(job);
    const struct gpu_product product = {.m = out_rows(job),
                                        .n = op->in.c,
                                        .k = op->out.c,
                                        .lda = op->out.c,
                                        .ldb = op->in.c,
                                        .ldc = op->in.c,
                                        .a = op->dy,
                                        .b = w,
                                        .c = op->dx,
                                        .narrow = job->cuda->narrow != 0,
                                        .narrow_c = job->cuda->narrow != 0,
                                        .beta = op->dx_add ? 1 : 0};

    if (is_pointwise(op)) {
        cuda_multiply(job->cuda, &product);
        return;
    }
    const struct gpu_conv *conv = library_conv(job, GPU_CONV_DATA, op->out.c);
    if (conv)
        run_library(job, conv, op->dx, w, op->dy, op->dx_add);
    else
        run_patches(job, PART_DATA, op->dx, w, op->dy, op->out.c);
}

/* The gradient's live channels alone: what is frozen costs nothing from here on. */
static const void *live_gradient(const struct cuda_job *job, const uint32_t *live)
{
    const struct learner_op *op = job->op;
    const size_t rows = out_rows(job), count = op->live_count;
    struct gpu_choose choose = {.from = op->dy,
                                .live = live,
                                .rows = (unsigned)rows,
                                .c = (unsigned)op->out.c,
                                .count = (unsigned)count,
                                .narrow = job->cuda->narrow};

    if (!op->live)
        return op->dy;
    choose.to = cuda_scratch(job->cuda, cuda_activation_bytes(job->cuda, rows * count));
    cuda_each(job->cuda, GPU_KERNEL_choose, rows * count, &choose);
    return choose.to;
}

static void dense_filter(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    struct cuda *cuda = job->cuda;
    const size_t count = live_count(op), numbers = count * patch_row(job);
    const bool pointwise = is_pointwise(op);

    if (!count)
        return;
    const uint32_t *live = live_list(job);
    const void *dy = live_gradient(job, live), *x = input(job);
    const struct gpu_conv *conv = pointwise ? NULL : library_conv(job, GPU_CONV_FILTER, count);
    /* a matrix product leaves float32 whatever it read */
    void *dw = pointwise && !live ? op->dweight
                                  : cuda_scratch(cuda, conv ? cuda_activation_bytes(cuda, numbers)
                                                            : numbers * sizeof(float));
    const struct gpu_product product = {.transpose_a = true,
                                        .m = count,
                                        .n = op->in.c,
                                        .k = out_rows(job),
                                        .lda = count,
                                        .ldb = op->in.c,
                                        .ldc = op->in.c,
                                        .a = dy,
                                        .b = x,
                                        .c = dw,
                                        .narrow = cuda->narrow != 0};
    if (pointwise)
        cuda_multiply(cuda, &product);
    else if (conv)
        run_library(job, conv, x, dw, dy, false);
    else
        run_patches(job, PART_FILTER, x, dw, dy, count);
    const struct gpu_unpack unpack = {.from = dw,
                                      .to = op->dweight,
                                      .live = live,
                                      .count = (unsigned)count,
                                      .ci = (unsigned)op->in.c,
                                      .taps = (unsigned)taps(op),
                                      .row = (unsigned)patch_row(job),
                                      .narrow = conv ? cuda->narrow : 0};
    if (!pointwise || live)
        cuda_each(cuda, GPU_KERNEL_unpack, count * op->in.c * taps(op), &unpack);
}

/* ---- the operation ---- */

void cuda_conv_forward(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;

    if (is_depthwise(op)) {
        depthwise_forward(job);
    } else {
        dense_forward(job);
    }
    if (job->pass->mode == LEARNER_TRAIN && op->sums)
        cuda_moments(job->cuda, op->y, op->mean, op->sums, out_rows(job), op->out.c);
}

void cuda_conv_backward(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;

    if (is_depthwise(op)) {
        depthwise_backward(job);
        return;
    }
    if (op->dx)
        dense_data(job);
    job->cuda->used = 0; /* the two halves share scratch memory */
    if (op->dweight)
        dense_filter(job);
}
