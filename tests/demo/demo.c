/* frostline-demo: the main job on this machine, with real processes and real TLS. */
#include "demo.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "delta/cli.h"

static const struct delta_verb_help help = {
    .program = "frostline-demo",
    .operands = "",
    .summary = "Shows a fleet learn two new classes: two devices from samples, one over the air.",
    .details =
        "Makes a throw-away CA, starts the coordinator, publishes a base model, starts three "
        "devices, drops images of a different new class into the inbox of two of them, and "
        "waits until all three have both classes.\n\nData: --data, else FROSTLINE_DATA, else "
        "../shared/data where it exists (CIFAR-100), else procedural images. Base: --base, "
        "else the reference network beside the data, else one trained on the spot.\n\nExit "
        "status 0 when all three devices recognise both new classes, 1 when not.",
    .max_operands = 0,
};

static volatile sig_atomic_t stop_asked;

static void on_signal(int number)
{
    (void)number;
    stop_asked = 1;
}

void demo_say(const struct demo *demo, const char *fmt, ...)
{
    va_list args;

    fprintf(stderr, "[%5.1f s] ", fleet_seconds() - demo->started);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

bool demo_stopped(void)
{
    return stop_asked != 0;
}

int main(int argc, char **argv)
{
    struct demo demo = {.method = "frostline", .samples = 100, .limit_old = 100};
    struct demo_result result = {.learn_seconds = 0};
    bool keep = false, ok, recognised = false;
    int first;
    struct delta_opt opts[] = {
        {"data", DELTA_OPT_TEXT, &demo.data, .arg = "SOURCE", .env = "FROSTLINE_DATA",
         .help = "directory with CIFAR-100 or class folders, or 'synthetic'"},
        {"base", DELTA_OPT_TEXT, &demo.base, .arg = "FILE",
         .help = "base model, .flm or .safetensors"},
        {"order", DELTA_OPT_TEXT, &demo.order, .arg = "FILE",
         .help = "class order: one label of the data set a line"},
        {"method", DELTA_OPT_TEXT, &demo.method, .arg = "NAME", .help = "how devices learn"},
        {"samples", DELTA_OPT_INT, &demo.samples, .arg = "N", .low = 5, .high = 500,
         .help = "images of the new class that a device gets"},
        {"test-images", DELTA_OPT_INT, &demo.limit_old, .arg = "N", .low = 1, .high = 100000,
         .help = "test images per class that accuracies are measured on"},
        {"json", DELTA_OPT_FLAG, &demo.json, .help = "print one JSON object instead of tables"},
        {"keep", DELTA_OPT_FLAG, &keep, .help = "keep all files and say where"},
        {.name = NULL},
    };
    const int rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);
    demo.started = fleet_seconds();
    ok = fleet_init(&demo.fleet) && demo_stage(&demo) && demo_story(&demo, &result);
    if (ok)
        recognised = demo_table(&demo, &result);
    else
        fprintf(stderr, "frostline-demo: %s\n", demo.fleet.error);
    for (size_t i = 0; i < DEMO_DEVICES; i++)
        json_decref(result.status[i]);
    demo.fleet.keep = keep || (!ok && !demo_stopped());
    if (demo.fleet.keep)
        fprintf(stderr, "files and logs are kept in %s\n", demo.fleet.root);
    fleet_release(&demo.fleet);
    return ok ? !recognised : 6;
}
