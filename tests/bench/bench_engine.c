/* How fast the engine is: forward pass and training step of each network, and its share of what
 * the processor can do. Rates per processor second stay comparable on a machine that others use;
 * wall time does not. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_net.h"
#include "bench_peak.h"
#include "delta/cli.h"

#define CLASSES 100

struct settings {
    int64_t width, side, batch, threads;
    double seconds;
    const char *device, *network;
    bool layers, json;
};

struct timing {
    double wall, cpu; /* per run */
};

static const struct delta_verb_help help = {
    .program = "bench_engine",
    .operands = "",
    .summary = "measures the training engine",
    .details = "Rates are multiply-adds of convolutions and linear layers, counted twice, per "
               "second of processor time; the peak is measured on registers.",
};

/* The best of as many runs as fit the time; at least two after one to warm up. */
static enum delta_status measure(struct bench_net *bench, double seconds, struct timing *best,
                                 struct delta_error *err)
{
    const double begin = bench_wall_seconds();
    enum delta_status st = bench_net_run(bench, err);

    *best = (struct timing){1e30, 1e30};
    for (int run = 0; !st && (run < 2 || bench_wall_seconds() - begin < seconds); run++) {
        const double wall = bench_wall_seconds(), cpu = bench_cpu_seconds();
        st = bench_net_run(bench, err);
        const struct timing now = {bench_wall_seconds() - wall, bench_cpu_seconds() - cpu};
        best->wall = now.wall < best->wall ? now.wall : best->wall;
        best->cpu = now.cpu < best->cpu ? now.cpu : best->cpu;
    }
    return st;
}

static void report(const struct settings *settings, json_t *rows, const char *what,
                   const struct bench_net_row *row, double flops, const struct timing *timing,
                   double peak, size_t memory)
{
    const double images = (double)settings->batch;
    const double rate = flops * images / timing->cpu * 1e-9;

    if (settings->json)
        json_array_append_new(
            rows,
            json_pack("{s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:I}", "network", row->name, "pass",
                      what, "width", (int)row->width, "wall_ms", timing->wall * 1e3, "images_per_s",
                      images / timing->wall, "mflop_per_image", flops * 1e-6, "gflops_per_core",
                      rate, "share_of_peak", rate / peak, "memory_bytes", (json_int_t)memory));
    else
        printf("%-12s w%-3u %-8s %9.2f ms %9.0f images/s %8.0f MFLOP/image %7.1f GFLOP/s/core "
               "%5.1f %% of peak %7.1f MB\n",
               row->name, row->width, what, timing->wall * 1e3, images / timing->wall, flops * 1e-6,
               rate, 100 * rate / peak, (double)memory * 1e-6);
}

static double op_cpu_seconds(struct learner_net *net, const struct learner_op *op,
                             const struct learner_pass *pass)
{
    double best = 1e30;

    for (int run = 0; run < 5; run++) {
        const double begin = bench_cpu_seconds();
        net->device->ops->run(net->device, op, pass);
        const double now = bench_cpu_seconds() - begin;
        best = now < best ? now : best;
    }
    return best;
}

static void report_op(const struct learner_net *net, const struct learner_op *op, const char *what,
                      double seconds, double flops, double peak)
{
    const double rate = flops * (double)net->batch / seconds * 1e-9;

    printf("    %-8s %-24s %4zu x %3zu x %3zu -> %4zu  %8.3f ms", what, op->name, op->in.c,
           op->in.h, op->in.w, op->out.c, seconds * 1e3);
    if (flops > 0)
        printf(" %7.1f GFLOP/s/core %5.1f %%", rate, 100 * rate / peak);
    putchar('\n');
}

static void report_layers(struct learner_net *net, double peak)
{
    struct learner_pass pass = {.n = net->batch, .mode = LEARNER_INFER};

    for (size_t i = 0; !net->train && i < net->forward.count; i++) {
        const struct learner_op *op = &net->forward.items[i];
        report_op(net, op, "infer", op_cpu_seconds(net, op, &pass), bench_op_flops(op), peak);
    }
    pass.mode = LEARNER_TRAIN;
    for (size_t i = 0; net->train && i < net->forward.count; i++) {
        const struct learner_op *op = &net->forward.items[i];
        report_op(net, op, "forward", op_cpu_seconds(net, op, &pass), bench_op_flops(op), peak);
    }
    pass.backward = true;
    for (size_t i = 0; i < net->backward.count; i++) {
        const struct learner_op *op = &net->backward.items[i];
        report_op(net, op, "backward", op_cpu_seconds(net, op, &pass),
                  bench_op_flops(op) * (op->dx ? 2 : 1), peak);
    }
}

static enum delta_status bench_row(const struct settings *settings, json_t *rows,
                                   const struct bench_net_row *row, double peak,
                                   struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    for (int train = 0; !st && train < 2; train++) {
        const struct bench_net_options options = {.name = row->name,
                                                  .width = row->width,
                                                  .side = (size_t)settings->side,
                                                  .batch = (size_t)settings->batch,
                                                  .classes = CLASSES,
                                                  .threads = (int)settings->threads,
                                                  .device = settings->device,
                                                  .train = train};
        struct bench_net bench;
        struct timing best;
        st = bench_net_init(&bench, &options, err);
        if (st)
            return st;
        st = measure(&bench, settings->seconds, &best, err);
        if (!st)
            report(settings, rows, train ? "step" : "forward", row, bench_net_flops(&bench), &best,
                   peak, learner_net_memory_bytes(bench.net));
        if (!st && settings->layers)
            report_layers(bench.net, peak);
        bench_net_release(&bench);
    }
    return st;
}

int main(int argc, char **argv)
{
    struct settings settings = {
        .batch = 64, .side = 32, .seconds = 2, .device = "cpu", .network = "resnet18"};
    struct delta_opt opts[] = {{"network", DELTA_OPT_TEXT, &settings.network, "NAME",
                                "architecture (resnet18)", NULL, NULL, 0, 0, false},
                               {"width", DELTA_OPT_INT, &settings.width, "N",
                                "as in a model file; 0: those that bench_torch measures", NULL,
                                NULL, 0, 1024, false},
                               {"side", DELTA_OPT_INT, &settings.side, "N",
                                "pixels a side of the images (32)", NULL, NULL, 8, 512, false},
                               {"batch", DELTA_OPT_INT, &settings.batch, "N",
                                "images of a batch (64)", NULL, NULL, 1, 4096, false},
                               {"threads", DELTA_OPT_INT, &settings.threads, "N",
                                "threads; 0: all cores", NULL, NULL, 0, 64, false},
                               {"seconds", DELTA_OPT_REAL, &settings.seconds, "S",
                                "time for each measurement (2)", NULL, NULL, 0, 600, false},
                               {"device", DELTA_OPT_CHOICE, &settings.device, "NAME",
                                "cpu, ref or blas", NULL, "cpu|ref|blas", 0, 0, false},
                               {"layers", DELTA_OPT_FLAG, &settings.layers, NULL,
                                "also every operation by itself", NULL, NULL, 0, 0, false},
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
        printf("peak of one core: %.1f GFLOP/s\n", peak);
    for (size_t i = 0; !st && i < bench_net_count; i++)
        if (!strcmp(settings.network, bench_nets[i].name) && !settings.width)
            st = bench_row(&settings, rows, &bench_nets[i], peak, &err);
    const struct bench_net_row one = {settings.network, (uint32_t)settings.width, NULL};
    if (settings.width)
        st = bench_row(&settings, rows, &one, peak, &err);
    if (!st && settings.json) {
        json_t *root = json_pack("{s:i, s:f, s:O}", "schema", 1, "peak_gflops", peak, "runs", rows);
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
        json_decref(root);
    }
    json_decref(rows);
    return st ? delta_cli_fail(&help, &err) : 0;
}
