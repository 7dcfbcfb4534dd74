/* What freezing saves: a training step under freeze plans, with the frozen prefix cached, beside a
 * full step of the same network, in turn in one run. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_net.h"
#include "bench_peak.h"
#include "delta/cli.h"

#define ROUNDS_MAX 99

struct settings {
    int64_t width, side, batch, threads, rounds;
    const char *device, *network;
    bool json;
};

/* Where the live part begins; the deepest of all first. */
struct depth {
    const char *network, *live_from, *text;
};
static const struct depth depths[] = {
    {"resnet18", "conv1", "all layers"},
    {"resnet18", "layer2", "last three stages"},
    {"resnet18", "layer3", "last two stages"},
    {"resnet18", "layer4", "last stage"},
    {"resnet18", "fc", "head"},
    {"mobilenet_v2", "features.0", "all layers"},
    {"mobilenet_v2", "features.7", "from block 7"},
    {"mobilenet_v2", "features.14", "from block 14"},
    {"mobilenet_v2", "features.17", "from block 17"},
    {"mobilenet_v2", "classifier", "head"},
};
static const double ratios[] = {0, 0.5, 0.9};

static const struct delta_verb_help help = {
    .program = "bench_freeze",
    .operands = "",
    .summary = "measures what freezing saves",
    .details = "Each row's step takes turns with a full training step; its speed-up is the median "
               "of the ratios of neighbours. The limit is the ratio of their multiply-adds.",
};

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, by_size);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* Seconds of one run, out of as many as last as long as a full step does. */
static enum delta_status seconds_of(struct bench_net *bench, size_t runs, double *seconds,
                                    struct delta_error *err)
{
    const double begin = bench_wall_seconds();
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; !st && i < runs; i++)
        st = bench_net_run(bench, err);
    *seconds = (bench_wall_seconds() - begin) / (double)runs;
    return st;
}

static enum delta_status compare(struct bench_net *full, struct bench_net *part, size_t rounds,
                                 double *speedup, double *seconds, struct delta_error *err)
{
    double ratio[ROUNDS_MAX], times[ROUNDS_MAX], one = 0, other = 0;
    size_t runs = 1;
    enum delta_status st = seconds_of(full, 1, &one, err);

    if (!st)
        st = seconds_of(part, 2, &other, err);
    if (!st && other > 0 && one > other)
        runs = (size_t)(one / other + 0.5);
    for (size_t i = 0; !st && i < rounds; i++) {
        st = seconds_of(full, 1, &one, err);
        if (!st)
            st = seconds_of(part, runs, &other, err);
        ratio[i] = one / other;
        times[i] = other;
    }
    if (st)
        return st;
    *speedup = median(ratio, rounds);
    *seconds = median(times, rounds);
    return DELTA_OK;
}

static enum delta_status measure(const struct settings *settings, struct bench_net *full,
                                 const struct depth *depth, double frozen, json_t *rows,
                                 struct delta_error *err)
{
    const struct bench_net_options options = {.name = settings->network,
                                              .width = (uint32_t)settings->width,
                                              .side = (size_t)settings->side,
                                              .batch = (size_t)settings->batch,
                                              .classes = 100,
                                              .threads = (int)settings->threads,
                                              .device = settings->device,
                                              .train = true,
                                              .live_from = depth->live_from,
                                              .frozen = frozen};
    struct bench_net part;
    double speedup = 0, seconds = 0;
    enum delta_status st = bench_net_init(&part, &options, err);

    if (st)
        return st;
    st = compare(full, &part, (size_t)settings->rounds, &speedup, &seconds, err);
    const double limit = bench_net_flops(full) / bench_net_live_flops(&part);
    const size_t memory = learner_net_memory_bytes(part.net);
    if (!st && settings->json)
        json_array_append_new(rows, json_pack("{s:s, s:f, s:f, s:f, s:f, s:I}", "live_from",
                                              depth->live_from, "frozen", frozen, "step_ms",
                                              seconds * 1e3, "speedup", speedup, "limit", limit,
                                              "memory_bytes", (json_int_t)memory));
    else if (!st)
        printf("| %s | %.0f %% | %.1f | %.2f | %.2f | %.0f |\n", depth->text, 100 * frozen,
               seconds * 1e3, speedup, limit, (double)memory * 1e-6);
    fflush(stdout);
    bench_net_release(&part);
    return st;
}

static enum delta_status measure_all(const struct settings *settings, json_t *rows,
                                     struct delta_error *err)
{
    const struct bench_net_options options = {.name = settings->network,
                                              .width = (uint32_t)settings->width,
                                              .side = (size_t)settings->side,
                                              .batch = (size_t)settings->batch,
                                              .classes = 100,
                                              .threads = (int)settings->threads,
                                              .device = settings->device,
                                              .train = true};
    struct bench_net full;
    enum delta_status st = bench_net_init(&full, &options, err);

    if (st)
        return st;
    if (!settings->json)
        printf("%s, width %d, batch %d; full step: %.0f MB, %.0f MFLOP an image\n\n"
               "| live | filters frozen there | step in ms | speed-up | limit | MB |\n"
               "|---|---|---|---|---|---|\n",
               settings->network, (int)settings->width, (int)settings->batch,
               (double)learner_net_memory_bytes(full.net) * 1e-6, bench_net_flops(&full) * 1e-6);
    for (size_t d = 0; !st && d < sizeof depths / sizeof *depths; d++) {
        const bool head = d + 1 == sizeof depths / sizeof *depths ||
                          strcmp(depths[d].network, depths[d + 1].network) != 0;
        if (strcmp(depths[d].network, settings->network) != 0)
            continue;
        for (size_t r = 0; !st && r < (head ? 1 : sizeof ratios / sizeof *ratios); r++)
            st = measure(settings, &full, &depths[d], ratios[r], rows, err);
    }
    bench_net_release(&full);
    return st;
}

int main(int argc, char **argv)
{
    struct settings settings = {
        .width = 64, .side = 32, .batch = 64, .rounds = 5, .device = "auto", .network = "resnet18"};
    struct delta_opt opts[] = {{"network", DELTA_OPT_CHOICE, &settings.network, "NAME",
                                "architecture (resnet18)", NULL, "resnet18|mobilenet_v2", 0, 0,
                                false},
                               {"width", DELTA_OPT_INT, &settings.width, "N",
                                "as in a model file (64)", NULL, NULL, 1, 1024, false},
                               {"side", DELTA_OPT_INT, &settings.side, "N",
                                "pixels a side of the images (32)", NULL, NULL, 8, 512, false},
                               {"batch", DELTA_OPT_INT, &settings.batch, "N",
                                "images of a batch (64)", NULL, NULL, 1, 4096, false},
                               {"threads", DELTA_OPT_INT, &settings.threads, "N",
                                "threads; 0: all cores", NULL, NULL, 0, 64, false},
                               {"rounds", DELTA_OPT_INT, &settings.rounds, "N",
                                "turns of each side (5)", NULL, NULL, 1, ROUNDS_MAX, false},
                               {"device", DELTA_OPT_TEXT, &settings.device, "NAME",
                                "ref, cpu, cuda or auto", NULL, NULL, 0, 0, false},
                               {"json", DELTA_OPT_FLAG, &settings.json, NULL,
                                "one JSON object on stdout", NULL, NULL, 0, 0, false},
                               {0}};
    struct delta_error err = DELTA_ERROR_INIT;
    int first;
    const int exit_status = delta_opt_parse(&help, opts, argc, argv, &first);

    if (exit_status >= 0)
        return exit_status;
    json_t *rows = json_array();
    const enum delta_status st = measure_all(&settings, rows, &err);
    if (!st && settings.json) {
        json_t *root = json_pack("{s:i, s:s, s:I, s:O}", "schema", 1, "network", settings.network,
                                 "width", (json_int_t)settings.width, "rows", rows);
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
        json_decref(root);
    }
    json_decref(rows);
    return st ? delta_cli_fail(&help, &err) : 0;
}
