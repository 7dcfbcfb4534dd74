/* How far the operations that memory bounds are from memory's own speed: batch norms, depthwise
 * convolutions, pools and the optimiser. The floor of each is the bytes that it must move, written
 * lines counted twice (they are read first), over the rate of a plain a = b + s c on as many
 * threads. Tensors that fit a cache can be faster than that. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_peak.h"
#include "delta/cli.h"
#include "device.h"
#include "pool.h"

struct settings {
    int64_t batch, threads;
    double seconds;
    bool json;
};

static const struct delta_verb_help help = {
    .program = "bench_norm",
    .operands = "",
    .summary = "measures operations that are bound by memory",
    .details = "Each row: time, bytes that have to move, and the share of the rate that a plain "
               "loop over large arrays reaches on as many threads.",
};

#define STREAM_COUNT ((size_t)24 << 20) /* floats of each of three arrays */

struct stream {
    float *a;
    const float *b, *c;
};

static void triad(void *context, size_t member, size_t members)
{
    const struct stream *stream = context;
    size_t first, end;

    learner_pool_share(STREAM_COUNT, member, members, &first, &end);
    float *restrict a = stream->a;
    const float *restrict b = stream->b, *restrict c = stream->c;
    for (size_t i = first; i < end; i++)
        a[i] = b[i] + 0.5f * c[i];
}

/* Bytes a second, write-allocation counted. */
static double stream_rate(int threads, struct delta_error *err)
{
    struct learner_pool *pool = NULL;
    float *block = delta_calloc_aligned(3 * STREAM_COUNT, sizeof *block);
    struct stream stream = {block, block + STREAM_COUNT, block + 2 * STREAM_COUNT};
    double best = 0;

    if (block && !learner_pool_new(&pool, threads, err))
        for (int run = 0; run < 10; run++) {
            const double begin = bench_wall_seconds();
            learner_pool_run(pool, triad, &stream);
            const double rate = 4.0 * sizeof(float) * STREAM_COUNT / (bench_wall_seconds() - begin);
            best = rate > best ? rate : best;
        }
    learner_pool_free(pool);
    free(block);
    return best;
}

/* Seconds of one empty fork and join. */
static void nothing(void *context, size_t member, size_t members)
{
    (void)context;
    (void)member;
    (void)members;
}

static double fork_seconds(int threads, struct delta_error *err)
{
    struct learner_pool *pool = NULL;
    double best = 1e30;

    if (learner_pool_new(&pool, threads, err))
        return 0;
    for (int run = 0; run < 20; run++) {
        const double begin = bench_wall_seconds();
        for (int i = 0; i < 500; i++)
            learner_pool_run(pool, nothing, NULL);
        const double now = (bench_wall_seconds() - begin) / 500;
        best = now < best ? now : best;
    }
    learner_pool_free(pool);
    return best;
}

enum variant { FORWARD, LAZY_FORWARD, BACKWARD, LAZY_BACKWARD, FROZEN_BACKWARD };
static const char *const variant_names[] = {"forward", "forward, lazy", "backward",
                                            "backward, lazy", "backward, frozen"};

struct row {
    enum learner_op_kind kind;
    size_t channels, side, stride;
    enum variant variant;
};

/* Tensors of MobileNetV2 and ResNet-18 w64 and w16 on 32x32. */
static const struct row rows[] = {
    {LEARNER_OP_NORM, 96, 32, 1, FORWARD},         {LEARNER_OP_NORM, 96, 32, 1, LAZY_FORWARD},
    {LEARNER_OP_NORM, 96, 32, 1, BACKWARD},        {LEARNER_OP_NORM, 96, 32, 1, LAZY_BACKWARD},
    {LEARNER_OP_NORM, 96, 32, 1, FROZEN_BACKWARD}, {LEARNER_OP_NORM, 16, 32, 1, LAZY_BACKWARD},
    {LEARNER_OP_NORM, 24, 32, 1, LAZY_BACKWARD},   {LEARNER_OP_NORM, 512, 4, 1, LAZY_BACKWARD},
    {LEARNER_OP_CONV, 32, 32, 1, LAZY_FORWARD},    {LEARNER_OP_CONV, 96, 32, 1, LAZY_FORWARD},
    {LEARNER_OP_CONV, 144, 32, 2, LAZY_FORWARD},   {LEARNER_OP_CONV, 192, 16, 1, LAZY_FORWARD},
    {LEARNER_OP_CONV, 384, 8, 1, LAZY_FORWARD},    {LEARNER_OP_CONV, 960, 4, 1, LAZY_FORWARD},
    {LEARNER_OP_CONV, 96, 32, 1, LAZY_BACKWARD},   {LEARNER_OP_CONV, 144, 32, 2, LAZY_BACKWARD},
    {LEARNER_OP_CONV, 192, 16, 1, LAZY_BACKWARD},  {LEARNER_OP_CONV, 384, 8, 1, LAZY_BACKWARD},
    {LEARNER_OP_CONV, 960, 4, 1, LAZY_BACKWARD},   {LEARNER_OP_POOL, 1280, 4, 1, FORWARD},
    {LEARNER_OP_POOL, 1280, 4, 1, BACKWARD},       {LEARNER_OP_MAX_POOL, 64, 32, 2, FORWARD},
    {LEARNER_OP_MAX_POOL, 64, 32, 2, BACKWARD},
};

/* An operation with memory of its own. */
struct bench {
    struct learner_op op;
    float *buffers[20];
    size_t count;
    double *sums;
    bool failed;
};

static float *floats(struct bench *bench, size_t count)
{
    float *data = delta_calloc_aligned(count, sizeof *data);

    bench->failed = bench->failed || !data;
    for (size_t i = 0; data && i < count; i++)
        data[i] = (float)(i * 2654435761u % 1024) / 1024 + 0.25f;
    bench->buffers[bench->count++] = data;
    return data;
}

static void bench_init(struct bench *bench, const struct row *row, size_t n)
{
    struct learner_op *op = &bench->op;
    const bool lazy = row->variant == LAZY_FORWARD || row->variant == LAZY_BACKWARD;
    const size_t c = row->channels;

    memset(bench, 0, sizeof *bench);
    op->kind = row->kind;
    op->name = "bench";
    op->in = op->out = (struct learner_shape){c, row->side, row->side};
    op->kernel = 3;
    op->pad = 1;
    op->stride = row->stride;
    op->groups = c;
    op->act = LEARNER_ACT_RELU6;
    op->out.h = op->out.w = row->kind == LEARNER_OP_POOL ? 1 : (row->side - 1) / row->stride + 1;
    const size_t in = n * learner_shape_count(&op->in), out = n * learner_shape_count(&op->out);
    op->x = floats(bench, in);
    op->y = floats(bench, out);
    op->dy = floats(bench, out);
    op->dx = floats(bench, in);
    op->weight = floats(bench, c * 9);
    op->dweight = floats(bench, c * 9);
    op->scale = floats(bench, c);
    op->shift = floats(bench, c);
    op->dscale = floats(bench, c);
    op->dshift = floats(bench, c);
    op->mean = floats(bench, c);
    op->var = floats(bench, c);
    op->batch_mean = floats(bench, c);
    op->inv_std = floats(bench, c);
    bench->sums = delta_calloc_aligned(2 * c, sizeof *bench->sums);
    bench->failed = bench->failed || !bench->sums;
    if (row->variant == FROZEN_BACKWARD)
        op->dscale = op->dshift = NULL;
    if (lazy && row->kind == LEARNER_OP_CONV) {
        op->x_gain = floats(bench, c);
        op->x_offset = floats(bench, c);
        op->x_act = LEARNER_ACT_RELU6;
        op->sums = bench->sums;
    } else if (lazy) {
        op->y = NULL;
        op->dx = (float *)op->dy;
    }
}

static void bench_release(struct bench *bench)
{
    for (size_t i = 0; i < bench->count; i++)
        free(bench->buffers[i]);
    free(bench->sums);
}

/* Tensors read, and written twice where a line has to be fetched first. In place: once. */
static double bytes_of(const struct row *row, const struct learner_op *op, size_t n)
{
    const double in = (double)(n * learner_shape_count(&op->in)) * sizeof(float);
    const double out = (double)(n * learner_shape_count(&op->out)) * sizeof(float);

    if (row->kind == LEARNER_OP_NORM)
        switch (row->variant) {
        case FORWARD:
            return (1 + 1 + 2) * in;
        case LAZY_FORWARD:
            return in;
        case BACKWARD:
            return (3 + 3 + 2) * in;
        case LAZY_BACKWARD:
            return (2 + 2 + 1) * in;
        case FROZEN_BACKWARD:
            return (2 + 2) * in;
        }
    if (row->variant == FORWARD || row->variant == LAZY_FORWARD)
        return in + 2 * out;
    /* depthwise: x and dy once; max pool: x, dy; mean pool: dy */
    return (row->kind == LEARNER_OP_POOL ? 0 : in) + out + 2 * in;
}

static double best_seconds(struct learner_device *device, const struct learner_op *op,
                           const struct learner_pass *pass, double seconds)
{
    const double begin = bench_wall_seconds();
    double best = 1e30;

    for (int run = 0; run < 3 || bench_wall_seconds() - begin < seconds; run++) {
        const double start = bench_wall_seconds();
        device->ops->run(device, op, pass);
        const double now = bench_wall_seconds() - start;
        best = now < best ? now : best;
    }
    return best;
}

static const char *kind_name(enum learner_op_kind kind)
{
    return kind == LEARNER_OP_NORM   ? "batch norm"
           : kind == LEARNER_OP_CONV ? "depthwise"
           : kind == LEARNER_OP_POOL ? "mean pool"
                                     : "max pool";
}

static enum delta_status bench_row(const struct settings *settings, struct learner_device *device,
                                   const struct row *row, double rate, json_t *out,
                                   struct delta_error *err)
{
    const size_t n = (size_t)settings->batch;
    struct learner_pass pass = {.n = n, .mode = LEARNER_TRAIN};
    struct bench bench;
    enum delta_status st = DELTA_NO_MEMORY;

    bench_init(&bench, row, n);
    if (bench.failed) {
        delta_fail(err, st, "no memory for a measurement");
        goto done;
    }
    st = device->ops->prepare(device, &bench.op, n, true, err);
    if (st)
        goto done;
    device->ops->run(device, &bench.op, &pass);
    pass.backward = row->variant >= BACKWARD;
    if (row->variant == FROZEN_BACKWARD)
        pass.mode = LEARNER_TRAIN_EVAL;
    const double seconds = best_seconds(device, &bench.op, &pass, settings->seconds);
    const double bytes = bytes_of(row, &bench.op, n);
    if (settings->json)
        json_array_append_new(
            out, json_pack("{s:s, s:s, s:i, s:i, s:i, s:f, s:f, s:f}", "op", kind_name(row->kind),
                           "variant", variant_names[row->variant], "channels", (int)row->channels,
                           "side", (int)row->side, "stride", (int)row->stride, "ms", seconds * 1e3,
                           "bytes", bytes, "share_of_stream", bytes / rate / seconds));
    else
        printf("%-10s %-17s %4zu x %2zu x %2zu /%zu %8.3f ms %8.1f MB %7.1f GB/s %5.0f %% of "
               "memory's rate\n",
               kind_name(row->kind), variant_names[row->variant], row->channels, row->side,
               row->side, row->stride, seconds * 1e3, bytes * 1e-6, bytes / seconds * 1e-9,
               100 * bytes / rate / seconds);
done:
    bench_release(&bench);
    return st;
}

int main(int argc, char **argv)
{
    struct settings settings = {.batch = 64, .seconds = 0.5};
    struct delta_opt opts[] = {{"batch", DELTA_OPT_INT, &settings.batch, "N",
                                "images of a batch (64)", NULL, NULL, 1, 1024, false},
                               {"threads", DELTA_OPT_INT, &settings.threads, "N",
                                "threads; 0: all cores", NULL, NULL, 0, 64, false},
                               {"seconds", DELTA_OPT_REAL, &settings.seconds, "S",
                                "time for each measurement (0.5)", NULL, NULL, 0, 60, false},
                               {"json", DELTA_OPT_FLAG, &settings.json, NULL,
                                "one JSON object on stdout", NULL, NULL, 0, 0, false},
                               {0}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_device *device = NULL;
    int first;
    const int exit_status = delta_opt_parse(&help, opts, argc, argv, &first);

    if (exit_status >= 0)
        return exit_status;
    const double rate = stream_rate((int)settings.threads, &err);
    const double fork = fork_seconds((int)settings.threads, &err);
    json_t *list = json_array();
    enum delta_status st = learner_device_open(&device, "blas", (int)settings.threads, &err);
    if (!settings.json)
        printf("memory: %.1f GB/s; fork and join: %.2f us\n", rate * 1e-9, fork * 1e6);
    for (size_t i = 0; !st && i < sizeof rows / sizeof *rows; i++)
        st = bench_row(&settings, device, &rows[i], rate, list, &err);
    if (!st && settings.json) {
        json_t *root = json_pack("{s:i, s:f, s:f, s:O}", "schema", 1, "stream_bytes_per_s", rate,
                                 "fork_us", fork * 1e6, "runs", list);
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
        json_decref(root);
    }
    json_decref(list);
    if (device)
        device->ops->close(device);
    return st ? delta_cli_fail(&help, &err) : 0;
}
