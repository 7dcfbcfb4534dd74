/* How fast single convolutions are: the shapes of the networks that bench_torch measures, each part
 * by itself, whatever algorithm the engine chooses for them. One thread by its processor time,
 * which stays comparable on a machine that others use, and several by the clock. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_peak.h"
#include "delta/buf.h"
#include "delta/cli.h"
#include "device.h"

struct layer {
    const char *net;
    size_t c, side, out, kernel, stride;
};

static const struct layer layers[] = {
    {"resnet18-64", 3, 32, 64, 3, 1},    {"resnet18-64", 64, 32, 64, 3, 1},
    {"resnet18-64", 64, 32, 128, 3, 2},  {"resnet18-64", 64, 32, 128, 1, 2},
    {"resnet18-64", 128, 16, 128, 3, 1}, {"resnet18-64", 128, 16, 256, 3, 2},
    {"resnet18-64", 256, 8, 256, 3, 1},  {"resnet18-64", 256, 8, 512, 3, 2},
    {"resnet18-64", 256, 8, 512, 1, 2},  {"resnet18-64", 512, 4, 512, 3, 1},
    {"resnet18-16", 3, 32, 16, 3, 1},    {"resnet18-16", 16, 32, 16, 3, 1},
    {"resnet18-16", 16, 32, 32, 3, 2},   {"resnet18-16", 32, 16, 32, 3, 1},
    {"resnet18-16", 32, 16, 64, 3, 2},   {"resnet18-16", 64, 8, 64, 3, 1},
    {"resnet18-16", 64, 8, 128, 3, 2},   {"resnet18-16", 128, 4, 128, 3, 1},
    {"mobilenet_v2", 3, 32, 32, 3, 1},   {"mobilenet_v2", 32, 32, 16, 1, 1},
    {"mobilenet_v2", 16, 32, 96, 1, 1},  {"mobilenet_v2", 96, 32, 24, 1, 1},
    {"mobilenet_v2", 24, 32, 144, 1, 1}, {"mobilenet_v2", 144, 32, 24, 1, 1},
    {"mobilenet_v2", 144, 16, 32, 1, 1}, {"mobilenet_v2", 32, 16, 192, 1, 1},
    {"mobilenet_v2", 192, 16, 32, 1, 1}, {"mobilenet_v2", 192, 8, 64, 1, 1},
    {"mobilenet_v2", 64, 8, 384, 1, 1},  {"mobilenet_v2", 384, 8, 64, 1, 1},
    {"mobilenet_v2", 384, 8, 96, 1, 1},  {"mobilenet_v2", 96, 8, 576, 1, 1},
    {"mobilenet_v2", 576, 8, 96, 1, 1},  {"mobilenet_v2", 576, 4, 160, 1, 1},
    {"mobilenet_v2", 160, 4, 960, 1, 1}, {"mobilenet_v2", 960, 4, 160, 1, 1},
    {"mobilenet_v2", 960, 4, 320, 1, 1}, {"mobilenet_v2", 320, 4, 1280, 1, 1},
};

enum part { INFER, FORWARD, DX, DWEIGHT, PARTS };
static const char *const part_names[PARTS] = {"infer", "forward", "dx", "dweight"};

struct settings {
    int64_t batch, threads, frozen;
    double seconds;
    const char *network;
    bool json;
};

static const struct delta_verb_help help = {
    .program = "bench_conv",
    .operands = "",
    .summary = "measures convolutions one by one",
    .details =
        "infer: with batch norm and ReLU6; forward: as in training, with the sums for the "
        "batch norm and an input that it left unnormalised; dx and dweight: gradients. "
        "GFLOP/s are multiply-adds of the direct way, counted twice: Winograd can pass 100 % "
        "of the peak. First one thread per second of its processor time, then --threads by "
        "the clock.",
};

#define BUFFERS_MAX 20

struct bench {
    struct learner_device *device;
    struct learner_op op;
    void *buffers[BUFFERS_MAX];
    size_t count;
    bool no_memory;
};

static void *take(struct bench *bench, size_t count, size_t size)
{
    float *data = delta_calloc_aligned(count ? count : 1, size);

    bench->no_memory |= !data;
    if (!data)
        return NULL;
    for (size_t i = 0; size == sizeof *data && i < count; i++)
        data[i] = 0.5f + (float)(i * 7919 % 1024) / 1024;
    return bench->buffers[bench->count++] = data;
}

static void bench_release(struct bench *bench)
{
    for (size_t i = 0; i < bench->count; i++)
        free(bench->buffers[i]);
    if (bench->device)
        bench->device->ops->close(bench->device);
}

static void set_buffers(struct bench *bench, const struct settings *settings, enum part part)
{
    struct learner_op *op = &bench->op;
    const size_t n = (size_t)settings->batch, c = op->in.c, co = op->out.c;
    const size_t in = n * learner_shape_count(&op->in), out = n * learner_shape_count(&op->out);
    const size_t weights = co * c * op->kernel * op->kernel;

    op->weight = take(bench, weights, sizeof(float));
    op->x = take(bench, in, sizeof(float));
    op->y = part <= FORWARD ? take(bench, out, sizeof(float)) : NULL;
    op->dy = part >= DX ? take(bench, out, sizeof(float)) : NULL;
    op->dx = part == DX ? take(bench, in, sizeof(float)) : NULL;
    op->dweight = part == DWEIGHT ? take(bench, weights, sizeof(float)) : NULL;
    op->x_gain = part != INFER ? take(bench, c, sizeof(float)) : NULL;
    op->x_offset = part != INFER ? take(bench, c, sizeof(float)) : NULL;
    op->x_act = LEARNER_ACT_RELU6;
    op->act = LEARNER_ACT_RELU6;
    op->scale = take(bench, co, sizeof(float));
    op->shift = take(bench, co, sizeof(float));
    op->mean = take(bench, co, sizeof(float));
    op->var = take(bench, co, sizeof(float));
    op->batch_mean = take(bench, co, sizeof(float));
    op->inv_std = take(bench, co, sizeof(float));
    op->sums = part == FORWARD ? take(bench, 2 * co, sizeof(double)) : NULL;
    uint32_t *live = settings->frozen ? take(bench, 2 * co, sizeof(float)) : NULL;
    const size_t live_count = co - co * (size_t)settings->frozen / 100;
    for (size_t i = 0; live && i < live_count; i++)
        live[i] = (uint32_t)(i * co / live_count);
    op->live = live;
    op->live_count = live_count;
}

static enum delta_status bench_init(struct bench *out, const struct layer *layer, enum part part,
                                    const struct settings *settings, int threads,
                                    struct delta_error *err)
{
    struct learner_op *op = &out->op;
    const size_t pad = layer->kernel / 2;
    const size_t side = (layer->side + 2 * pad - layer->kernel) / layer->stride + 1;

    *out = (struct bench){0};
    op->kind = part == INFER ? LEARNER_OP_CONV_NORM : LEARNER_OP_CONV;
    op->name = layer->net;
    op->in = (struct learner_shape){layer->c, layer->side, layer->side};
    op->out = (struct learner_shape){layer->out, side, side};
    op->kernel = layer->kernel;
    op->stride = layer->stride;
    op->pad = pad;
    op->groups = 1;
    set_buffers(out, settings, part);
    if (out->no_memory)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for a batch of %d",
                          (int)settings->batch);
    const enum delta_status st = learner_device_open(&out->device, NULL, threads, err);
    if (st || !out->device->ops->prepare)
        return st;
    return out->device->ops->prepare(out->device, op, (size_t)settings->batch, part != INFER, err);
}

/* Seconds of the best run. */
static enum delta_status measure(double *best, const struct layer *layer, enum part part,
                                 const struct settings *settings, int threads,
                                 struct delta_error *err)
{
    double (*const now)(void) = threads == 1 ? bench_cpu_seconds : bench_wall_seconds;
    struct learner_pass pass = {.n = (size_t)settings->batch,
                                .mode = part == INFER ? LEARNER_INFER : LEARNER_TRAIN,
                                .backward = part >= DX,
                                .weights_version = part == INFER};
    struct bench bench;
    const enum delta_status st = bench_init(&bench, layer, part, settings, threads, err);

    *best = 1e30;
    const double begin = now();
    for (int run = 0; !st && (run < 3 || now() - begin < settings->seconds); run++) {
        const double start = now();
        bench.device->ops->run(bench.device, &bench.op, &pass);
        const double time = now() - start;
        if (run && time < *best)
            *best = time;
    }
    bench_release(&bench);
    return st;
}

static enum delta_status bench_layer(json_t *rows, const struct layer *layer,
                                     const struct settings *settings, double peak,
                                     struct delta_error *err)
{
    const double side = (double)((layer->side - 1) / layer->stride + 1);
    const double flops = 2.0 * (double)settings->batch * side * side *
                         (double)(layer->c * layer->out * layer->kernel * layer->kernel);

    for (enum part part = INFER; part < PARTS; part++) {
        double one, many;
        enum delta_status st = measure(&one, layer, part, settings, 1, err);
        if (!st)
            st = measure(&many, layer, part, settings, (int)settings->threads, err);
        if (st)
            return st;
        if (settings->json)
            json_array_append_new(
                rows,
                json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:s, s:f, s:f, s:f, s:f}", "network",
                          layer->net, "in", (int)layer->c, "side", (int)layer->side, "out",
                          (int)layer->out, "kernel", (int)layer->kernel, "stride",
                          (int)layer->stride, "part", part_names[part], "one_thread_ms", one * 1e3,
                          "gflops", flops / one * 1e-9, "share_of_peak", flops / one * 1e-9 / peak,
                          "threads_ms", many * 1e3));
        else
            printf("%-12s %4zu x %2zu -> %4zu, %zux%zu / %zu  %-8s %8.3f ms %6.1f GFLOP/s %5.1f %%"
                   " | %8.3f ms %6.1f GFLOP/s\n",
                   layer->net, layer->c, layer->side, layer->out, layer->kernel, layer->kernel,
                   layer->stride, part_names[part], one * 1e3, flops / one * 1e-9,
                   flops / one * 1e-7 / peak, many * 1e3, flops / many * 1e-9);
        fflush(stdout);
    }
    return DELTA_OK;
}

int main(int argc, char **argv)
{
    struct settings settings = {.batch = 64, .threads = 2, .seconds = 0.05, .network = ""};
    struct delta_opt opts[] = {{"network", DELTA_OPT_TEXT, &settings.network, "NAME",
                                "only layers of networks whose name begins so", NULL, NULL, 0, 0,
                                false},
                               {"batch", DELTA_OPT_INT, &settings.batch, "N",
                                "images of a batch (64)", NULL, NULL, 1, 4096, false},
                               {"threads", DELTA_OPT_INT, &settings.threads, "N",
                                "threads of the second measurement (2)", NULL, NULL, 2, 64, false},
                               {"frozen", DELTA_OPT_INT, &settings.frozen, "PERCENT",
                                "of the filters, for dweight (0)", NULL, NULL, 0, 99, false},
                               {"seconds", DELTA_OPT_REAL, &settings.seconds, "S",
                                "time for each measurement (0.05)", NULL, NULL, 0, 60, false},
                               {"json", DELTA_OPT_FLAG, &settings.json, NULL,
                                "one JSON object on stdout", NULL, NULL, 0, 0, false},
                               {0}};
    struct delta_error err = DELTA_ERROR_INIT;
    enum delta_status st = DELTA_OK;
    int first;
    const int exit_status = delta_opt_parse(&help, opts, argc, argv, &first);

    if (exit_status >= 0)
        return exit_status;
    const double peak = bench_peak_gflops();
    json_t *rows = json_array();
    if (!settings.json)
        printf("peak of one core: %.1f GFLOP/s; one thread | %d threads\n", peak,
               (int)settings.threads);
    for (size_t i = 0; !st && i < sizeof layers / sizeof *layers; i++)
        if (!strncmp(layers[i].net, settings.network, strlen(settings.network)))
            st = bench_layer(rows, &layers[i], &settings, peak, &err);
    if (!st && settings.json) {
        json_t *root = json_pack("{s:i, s:f, s:O}", "schema", 1, "peak_gflops", peak, "runs", rows);
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
        json_decref(root);
    }
    json_decref(rows);
    return st ? delta_cli_fail(&help, &err) : 0;
}
