/* The program frostline-agent: options, signals, what a person reads. */
#include "agent/agent_cli.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "agent/agent.h"
#include "delta/cli.h"
#include "delta/file.h"
#include "delta/log.h"

#define PROGRAM "frostline-agent"

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};

    stop = 0;
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* ---- enrol ---- */

/* The first line of a file, so that a token need not appear in a process list. */
static enum delta_status read_token(const char *path, char *out, size_t size,
                                    struct delta_error *err)
{
    struct delta_buf file;
    enum delta_status st = delta_file_read(path, 4096, &file, err);

    if (st)
        return st;
    size_t len = 0;
    while (len < file.len && file.data[len] != '\n' && file.data[len] != '\r')
        len++;
    if (len == 0 || len >= size)
        st = delta_fail(err, DELTA_CONFIG, "'%s' holds no token in its first line", path);
    else
        snprintf(out, size, "%.*s", (int)len, (const char *)file.data);
    delta_buf_release(&file);
    return st;
}

static int run_enrol(int argc, char **argv)
{
    const struct delta_verb_help help = {
        PROGRAM,
        "enrol",
        "",
        "get a certificate from the coordinator for this device",
        "Makes the device's key and directory, asks the coordinator for a certificate with the\n"
        "token that the operator handed out, and checks the answer against the operator's CA.\n"
        "Enrolling again renews the certificate of the same key.",
        0,
        0};
    struct agent_enrol_options options = {NULL};
    const char *token_file = NULL;
    char token[256];
    struct delta_opt opts[] = {
        {"dir", DELTA_OPT_TEXT, &options.dir, "DIR", "the device's directory", .required = true},
        {"server", DELTA_OPT_TEXT, &options.server, "URL", "the coordinator, https://host:port",
         .required = true},
        {"ca", DELTA_OPT_TEXT, &options.ca_path, "FILE", "the fleet's CA certificate (PEM)",
         .required = true},
        {"token", DELTA_OPT_TEXT, &options.token, "TEXT", "enrolment token",
         .env = "FROSTLINE_TOKEN"},
        {"token-file", DELTA_OPT_TEXT, &token_file, "FILE",
         .help = "file with the token in its first line"},
        {"device", DELTA_OPT_TEXT, &options.device, "NAME", "this device's name, [a-z0-9._-]",
         .required = true},
        {"exemplars", DELTA_OPT_TEXT, &options.exemplars_path, "FILE",
         .help = "old samples for replay and self-test, copied into the directory"},
        {NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    int first, code = delta_opt_parse(&help, opts, argc, argv, &first);

    if (code >= 0)
        return code;
    if (token_file) {
        if (read_token(token_file, token, sizeof token, &err))
            return delta_cli_fail(&help, &err);
        options.token = token;
    }
    if (!options.token || !options.token[0]) {
        delta_fail(&err, DELTA_USAGE,
                   "--token or --token-file is needed; the operator gets one "
                   "with: frostline-server token");
        return delta_cli_fail(&help, &err);
    }
    catch_signals();
    if (agent_enrol(&options, &stop, &err))
        return delta_cli_fail(&help, &err);
    printf("device '%s' is enrolled in '%s'; put samples into %s/inbox/CLASS/ and start it with:\n"
           "  " PROGRAM " run --dir %s\n",
           options.device, options.dir, options.dir, options.dir);
    return 0;
}

/* ---- run ---- */

static int run_run(int argc, char **argv)
{
    const struct delta_verb_help help = {
        PROGRAM,
        "run",
        "",
        "learn from the inbox, share with the fleet, install its versions",
        "Watches DIR/inbox/CLASS/ for PNG and JPEG files, learns new classes in a process without\n"
        "network, uploads the signed difference, polls the coordinator and installs what it\n"
        "publishes: download, verify, stage in the other slot, health check, commit or roll back.\n"
        "Killed at any moment, it goes on where it was. SIGTERM and SIGINT end it in good order.",
        0,
        0};
    struct agent_options options = agent_options_defaults();
    const char *device = options.device, *precision = "fp32";
    char place[32];
    bool verbose = false;
    struct delta_opt opts[] = {
        {"dir", DELTA_OPT_TEXT, &options.dir, "DIR", "the device's directory", .required = true},
        {"poll-s", DELTA_OPT_INT, &options.poll_s, "SECONDS",
         "seconds between polls; 0: as the channel says", .low = 0, .high = 86400},
        {"settle", DELTA_OPT_REAL, &options.settle_s, "SECONDS",
         "a class is learned when its folder was quiet for so long", .low = 0, .high = 3600},
        {"min-images", DELTA_OPT_INT, &options.min_images, "N", "and holds at least so many images",
         .low = 1, .high = 10000},
        {"method", DELTA_OPT_CHOICE, &options.method, "NAME", "how to learn",
         .choices = "frostline|freeze|finetune|do-nothing"},
        {"stages", DELTA_OPT_CHOICE, &options.stages, "STAGES",
         "frostline: A learns new classifier rows alone, which merge with other devices' rows "
         "almost without loss; the others move the last block, too",
         .choices = "A|AB|ABC|AC"},
        {"max-drop", DELTA_OPT_REAL, &options.max_drop, "SHARE",
         "health check: old accuracy may fall by so much", .low = 0, .high = 1},
        {"max-old-drop", DELTA_OPT_REAL, &options.max_old_drop, "SHARE",
         "guard of learning: the same; -1: the method's own", .low = -1, .high = 1},
        {"min-new-recall", DELTA_OPT_REAL, &options.min_new_recall, "SHARE",
         "guard of learning: recall of the new class at least; -1: the method's own", .low = -1,
         .high = 1},
        {"device", DELTA_OPT_CHOICE, &device, "NAME",
         "where to learn; auto: on an NVIDIA GPU where there is one. Where a GPU may be used, "
         "memory-mb does not limit the address space",
         .choices = "auto|cpu|cuda", .env = "FROSTLINE_DEVICE"},
        {"precision", DELTA_OPT_CHOICE, &precision, "NAME",
         "a GPU's arithmetic; weights are fp32 always", .choices = "fp32|tf32|bf16",
         .env = "FROSTLINE_PRECISION"},
        {"threads", DELTA_OPT_INT, &options.threads, "N", "threads for learning; 0: all cores",
         .low = 0, .high = 256},
        {"seed", DELTA_OPT_INT, &options.seed, "N", "seed of learning", .low = 0, .high = 1e15},
        {"learn-limit", DELTA_OPT_INT, &options.learn_s, "SECONDS",
         "learning is given up after so long", .low = 1, .high = 86400},
        {"memory-mb", DELTA_OPT_INT, &options.memory_mb, "MB",
         "address space for learning; 0: unlimited", .low = 0, .high = 1e6},
        {"open-network", DELTA_OPT_FLAG, &options.open_network,
         .help = "learn without seccomp, on kernels that lack it"},
        {"once", DELTA_OPT_FLAG, &options.once, .help = "end when nothing is left to do"},
        {"verbose", DELTA_OPT_FLAG, &verbose, .help = "log every step"},
        {NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    int first, code = delta_opt_parse(&help, opts, argc, argv, &first);

    if (code >= 0)
        return code;
    if (verbose)
        delta_log_set(DELTA_LOG_DEBUG, NULL, NULL);
    snprintf(place, sizeof place, "%s:%s", device, precision);
    options.device = place;
    catch_signals();
    return agent_run(&options, &stop, &err) ? delta_cli_fail(&help, &err) : 0;
}

/* ---- status ---- */

static void print_list(const char *title, const json_t *list)
{
    const json_t *item;
    size_t i;

    printf("%-16s%zu", title, json_array_size(list));
    json_array_foreach(list, i, item)
    {
        if (i == 8) {
            printf(" ...");
            break;
        }
        printf("%s%s", i ? ", " : ": ", json_string_value(item));
    }
    printf("\n");
}

static const char *text_of(const json_t *root, const char *key)
{
    const char *text = json_string_value(json_object_get(root, key));

    return text ? text : "none";
}

static void print_status(const json_t *root)
{
    const char *kind;
    json_t *row;
    const json_t *event;
    char up[16], down[16];
    size_t i;

    printf("%-16s%s\n", "device", text_of(root, "device"));
    printf("%-16s%s on %s\n", "channel", text_of(root, "channel"), text_of(root, "server"));
    printf("%-16s%s\n", "state", text_of(root, "state"));
    printf("%-16s%.16s\n", "version", text_of(root, "version"));
    printf("%-16s%s\n", "active model", text_of(root, "active_model"));
    print_list("fleet classes", json_object_get(root, "classes"));
    print_list("local classes", json_object_get(root, "local_classes"));
    printf("%-16s%s\n", "last error", text_of(root, "last_error"));
    printf("\n%-16s%12s%12s\n", "bytes", "up", "down");
    json_object_foreach(json_object_get(root, "bytes"), kind, row)
    {
        delta_human_bytes(up, (double)json_integer_value(json_object_get(row, "up")));
        delta_human_bytes(down, (double)json_integer_value(json_object_get(row, "down")));
        printf("  %-14s%12s%12s\n", kind, up, down);
    }
    printf("\nevents\n");
    json_array_foreach(json_object_get(root, "events"), i, event)
    {
        const time_t at = (time_t)(json_integer_value(json_object_get(event, "at_ms")) / 1000);
        struct tm local;
        char when[32] = "";
        if (localtime_r(&at, &local))
            strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &local);
        printf("  %s  %s\n", when, text_of(event, "text"));
    }
}

static int run_status(int argc, char **argv)
{
    const struct delta_verb_help help = {PROGRAM,
                                         "status",
                                         "",
                                         "tell what a device runs, learned, and sent",
                                         "Reads the directory of a device, running or not.",
                                         0,
                                         0};
    const char *dir = NULL;
    bool json = false;
    struct delta_opt opts[] = {
        {"dir", DELTA_OPT_TEXT, &dir, "DIR", "the device's directory", .required = true},
        {"json", DELTA_OPT_FLAG, &json, .help = "one JSON object"},
        {NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    char *text;
    int first, code = delta_opt_parse(&help, opts, argc, argv, &first);

    if (code >= 0)
        return code;
    if (agent_status_json(dir, &text, &err))
        return delta_cli_fail(&help, &err);
    if (json) {
        printf("%s\n", text);
    } else {
        json_t *root = json_loads(text, 0, NULL);
        print_status(root);
        json_decref(root);
    }
    free(text);
    return 0;
}

int agent_cli_main(int argc, char **argv)
{
    static const struct delta_verb verbs[] = {
        {"enrol", "get a certificate for this device", run_enrol},
        {"run", "learn from the inbox, share with the fleet, install its versions", run_run},
        {"status", "tell what a device runs, learned, and sent", run_status},
        {NULL, NULL, NULL}};

    return delta_cli_run(PROGRAM, "the device's side of a fleet that learns", verbs, argc, argv);
}
