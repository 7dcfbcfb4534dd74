/* Our side of bench_torch, with the same conversation as bench_torch.py: one network, one job in
 * one fresh process. A JSON line when ready; a number N is answered with the seconds of N runs,
 * `memory` with the kilobytes that the process had at most. Ends with its input. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_net.h"
#include "bench_peak.h"
#include "delta/cli.h"

#define RUNS_MAX 10000

static const struct delta_verb_help help = {
    .program = "bench_step",
    .operands = "",
    .summary = "measures one network on request",
    .details = "Reads lines: a number of runs, or 'memory'. Answers each with a line of JSON.",
};

static long high_water_kb(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long found = 0;

    while (status && !found && fgets(line, sizeof line, status))
        if (!strncmp(line, "VmHWM:", 6))
            found = strtol(line + 6, NULL, 10);
    if (status)
        fclose(status);
    return found;
}

static void say(json_t *value)
{
    json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    fflush(stdout);
    json_decref(value);
}

static enum delta_status time_runs(struct bench_net *bench, long runs, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;
    json_t *seconds = json_array();

    for (long i = 0; !st && i < runs; i++) {
        const double begin = bench_wall_seconds();
        st = bench_net_run(bench, err);
        json_array_append_new(seconds, json_real(bench_wall_seconds() - begin));
    }
    if (st)
        json_decref(seconds);
    else
        say(seconds);
    return st;
}

static enum delta_status serve(const struct bench_net_options *options, struct delta_error *err)
{
    const long before_kb = high_water_kb();
    struct bench_net bench;
    char line[64], name[32];
    enum delta_status st = bench_net_init(&bench, options, err);

    if (st)
        return st;
    snprintf(name, sizeof name, "%s %s", learner_net_device(bench.net),
             learner_net_precision(bench.net));
    for (int warm = 0; !st && warm < 2; warm++)
        st = bench_net_run(&bench, err);
    if (!st)
        say(json_pack("{s:s, s:I, s:s, s:f, s:I}", "version", FROSTLINE_VERSION, "imported_kb",
                      (json_int_t)before_kb, "device", name, "flops", bench_net_flops(&bench),
                      "planned_bytes", (json_int_t)learner_net_memory_bytes(bench.net)));
    while (!st && fgets(line, sizeof line, stdin)) {
        const long runs = strtol(line, NULL, 10);
        if (!strcmp(line, "memory\n"))
            say(json_integer(high_water_kb()));
        else if (runs > 0 && runs <= RUNS_MAX)
            st = time_runs(&bench, runs, err);
        else
            st = delta_fail(err, DELTA_FORMAT, "wanted a number of runs or 'memory'");
    }
    bench_net_release(&bench);
    return st;
}

int main(int argc, char **argv)
{
    int64_t width = 64, side = 32, batch = 64, threads = 0, classes = 100;
    const char *network = "resnet18", *job = "train", *device = "auto";
    struct delta_opt opts[] = {
        {"network", DELTA_OPT_TEXT, &network, "NAME", "architecture (resnet18)", NULL, NULL, 0, 0,
         false},
        {"width", DELTA_OPT_INT, &width, "N", "as in a model file (64)", NULL, NULL, 1, 1024,
         false},
        {"job", DELTA_OPT_CHOICE, &job, "NAME", "train or infer", NULL, "train|infer", 0, 0, false},
        {"side", DELTA_OPT_INT, &side, "N", "pixels a side of the images (32)", NULL, NULL, 8, 512,
         false},
        {"batch", DELTA_OPT_INT, &batch, "N", "images of a batch (64)", NULL, NULL, 1, 4096, false},
        {"classes", DELTA_OPT_INT, &classes, "N", "outputs (100)", NULL, NULL, 1, BENCH_CLASSES_MAX,
         false},
        {"threads", DELTA_OPT_INT, &threads, "N", "threads; 0: all cores", NULL, NULL, 0, 64,
         false},
        {"device", DELTA_OPT_TEXT, &device, "NAME", "ref, cpu, cuda, cuda:tf32, cuda:bf16 or auto",
         NULL, NULL, 0, 0, false},
        {0}};
    struct delta_error err = DELTA_ERROR_INIT;
    int first;
    const int exit_status = delta_opt_parse(&help, opts, argc, argv, &first);

    if (exit_status >= 0)
        return exit_status;
    const struct bench_net_options options = {.name = network,
                                              .width = (uint32_t)width,
                                              .side = (size_t)side,
                                              .batch = (size_t)batch,
                                              .classes = (size_t)classes,
                                              .threads = (int)threads,
                                              .device = device,
                                              .train = !strcmp(job, "train")};
    return serve(&options, &err) ? delta_cli_fail(&help, &err) : 0;
}
