#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "learner/experiment.h"
#include "learner_verbs.h"

#define DETAILS                                                                                    \
    "Runs a declared plan: bases x protocols x methods x orders x seeds x budgets, each run in a " \
    "process of its own. With the operand 'report RESULTS' nothing is run: tables go to stdout, "  \
    "pictures to --pictures.\n\n"                                                                  \
    "Results are JSON lines, one object a run, appended and made durable one by one. A run whose " \
    "key is there already is skipped, so that the same command goes on after a kill; half a last " \
    "line is dropped. SIGINT and SIGTERM end it in good order. A run that fails or crashes is "    \
    "told on stderr and leaves no line; the others go on, and the exit status is 1.\n\n"           \
    "The same run gives the same numbers whatever the number of workers; seconds and memory "      \
    "depend on what else the machine does. Bases that a plan trains, and exemplars, are kept in "  \
    "--cache; exemplars are samples, so keep that directory to yourself.\n\n"                      \
    "Each line holds accuracy in percent over all test images of all classes so far (all), over "  \
    "those known before the last step (old) and those of the last step (new), over the base's "    \
    "and "                                                                                         \
    "all added ones; their harmonic mean; the mean of 'all' over the steps (average); image "      \
    "passes (forward and backward 1, forward alone 1/3), wall and processor seconds of learning, " \
    "peak memory of the process without what only the experiment holds (test images, images of "   \
    "later steps), bytes of the deltas sealed under the learned model's freeze plan, and the "     \
    "same "                                                                                        \
    "for each step, with the seconds of each stage. The gap to the reference row is worked out "   \
    "by the report, so that no line depends on another.\n\n"                                       \
    "Plans are JSON; unknown keys are refused with line and place.\n\n"

static struct delta_verb_help help = {
    .program = LEARNER_PROGRAM,
    .verb = "experiment",
    .operands = "PLAN | report RESULTS",
    .summary = "Runs a plan of experiments, or reports on the results of one.",
    .min_operands = 1,
    .max_operands = 2,
};

struct experiment {
    struct learner_common common;
    const char *data, *out, *cache, *pictures, *format;
    struct delta_opt_list bases, only;
    int64_t workers;
    bool small, list;
    size_t failed;
    char label[96];
};

static volatile sig_atomic_t stop_asked;

static void ask_to_stop(int number)
{
    (void)number;
    stop_asked = 1;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = ask_to_stop, .sa_flags = SA_RESETHAND};

    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static void watch(void *context, enum learner_experiment_event event, const char *text,
                  double share)
{
    struct experiment *e = context;

    switch (event) {
    case LEARNER_EXPERIMENT_FAILED:
        delta_progress_end(&e->common.progress);
        fprintf(stderr, "%s experiment: failed: %s\n", LEARNER_PROGRAM, text);
        e->common.progress.label = NULL;
        break;
    case LEARNER_EXPERIMENT_DROPPED:
        fprintf(stderr, "%s experiment: '%s' ended in half a line, which is dropped\n",
                LEARNER_PROGRAM, text);
        break;
    case LEARNER_EXPERIMENT_STARTED:
        snprintf(e->label, sizeof e->label, "%.90s", text);
        break;
    default:
        break;
    }
    if (!e->common.progress.label)
        delta_progress_start(&e->common.progress, e->label, false);
    delta_progress_at(&e->common.progress, share, 1);
}

static enum delta_status report(const struct experiment *e, const char *results,
                                struct delta_error *err)
{
    struct delta_buf text = {0};
    enum learner_report_format format = LEARNER_REPORT_TEXT;
    size_t count = 0;
    enum delta_status st;

    if (e->common.json || strcmp(e->format, "json") == 0)
        format = LEARNER_REPORT_JSON;
    else if (strcmp(e->format, "markdown") == 0)
        format = LEARNER_REPORT_MARKDOWN;
    st = learner_experiment_report(&text, results, format, err);
    if (!st && e->pictures)
        st = learner_experiment_pictures(results, e->pictures, &count, err);
    if (!st) {
        fwrite(text.data, 1, text.len, stdout);
        if (e->pictures)
            fprintf(stderr, "%s experiment: %zu pictures in '%s'\n", LEARNER_PROGRAM, count,
                    e->pictures);
    }
    delta_buf_release(&text);
    return st;
}

/* Device and precision. Without the usual one: results are kept under this name. */
static const char *place(struct experiment *e)
{
    struct learner_common *c = &e->common;

    if (strcmp(c->precision, "fp32") == 0)
        return c->device;
    snprintf(c->place, sizeof c->place, "%s:%s", c->device, c->precision);
    return c->place;
}

/* Not before the runs: a process that has looked for a GPU cannot lend it to its children. */
static void tell_missing(const struct experiment *e)
{
    char why[256];

    if (learner_device_missing(why, sizeof why, e->common.device))
        fprintf(stderr, "%s experiment: %s; computed on the CPU\n", LEARNER_PROGRAM, why);
}

static enum delta_status run(struct experiment *e, const char *path, struct delta_error *err)
{
    const struct learner_experiment_choice choice = {.small = e->small,
                                                     .data = e->data,
                                                     .bases = e->bases.items,
                                                     .base_count = e->bases.count,
                                                     .only = e->only.items,
                                                     .only_count = e->only.count,
                                                     .device = place(e),
                                                     .threads = (int)e->common.threads};
    struct learner_experiment *plan = NULL;
    struct learner_experiment_summary summary = {0};
    char results[200];
    enum delta_status st = learner_experiment_load(&plan, path, &choice, err);

    if (!st && e->list) {
        for (size_t i = 0; i < learner_experiment_run_count(plan); i++)
            printf("%s\n", learner_experiment_run_key(plan, i));
        learner_experiment_free(plan);
        return st;
    }
    if (!st)
        snprintf(results, sizeof results, "%s%s.jsonl", learner_experiment_name(plan),
                 e->small ? "-small" : "");
    const struct learner_experiment_options options = {.results = e->out ? e->out : results,
                                                       .cache = e->cache,
                                                       .workers = (int)e->workers,
                                                       .stop = &stop_asked,
                                                       .watch = watch,
                                                       .context = e};
    if (!st) {
        catch_signals();
        st = learner_experiment_run(plan, &options, &summary, err);
        delta_progress_end(&e->common.progress);
    }
    if (!st)
        fprintf(stderr,
                "%s experiment: %zu runs: %zu done, %zu were there already, %zu failed; '%s'\n",
                LEARNER_PROGRAM, summary.runs, summary.done, summary.skipped, summary.failed,
                options.results);
    e->failed = summary.failed;
    if (!st && summary.done)
        tell_missing(e);
    learner_experiment_free(plan);
    return st ? st : report(e, options.results, err);
}

int learner_cmd_experiment(int argc, char **argv)
{
    struct experiment e = {.common = LEARNER_COMMON_INIT, .format = "text"};
    struct delta_opt opts[] = {
        {"out", DELTA_OPT_TEXT, &e.out, .arg = "FILE",
         .help = "results, appended to; default: NAME.jsonl, or NAME-small.jsonl"},
        {"data", DELTA_OPT_TEXT, &e.data, .arg = "SOURCE", .help = "images, instead of the plan's"},
        {"base", DELTA_OPT_LIST, &e.bases, .arg = "NAME=FILE",
         .help = "a model file, instead of the plan's base of that name"},
        {"only", DELTA_OPT_LIST, &e.only, .arg = "PATTERN",
         .help = "only runs whose key matches, e.g. 'resnet18-w64/*/frostline*/seed 1*'"},
        {"small", DELTA_OPT_FLAG, &e.small, .help = "the plan's small version"},
        {"workers", DELTA_OPT_INT, &e.workers, .arg = "N",
         .help = "runs at once; 0: the plan's, or one for each core", .low = 0, .high = 1024},
        {"cache", DELTA_OPT_TEXT, &e.cache, .arg = "DIR",
         .help = "bases and exemplars; default: RESULTS.cache"},
        {"list", DELTA_OPT_FLAG, &e.list, .help = "only print the keys of the runs"},
        {"format", DELTA_OPT_CHOICE, &e.format, .choices = "text|markdown|json",
         .help = "of the tables"},
        {"pictures", DELTA_OPT_TEXT, &e.pictures, .arg = "DIR",
         .help = "write the plan's pictures there, each as SVG and PNG"},
        {"device", DELTA_OPT_CHOICE, &e.common.device, .choices = "auto|cpu|cuda|ref|blas",
         .help = "where to compute; auto: on an NVIDIA GPU where there is one",
         .env = "FROSTLINE_DEVICE"},
        {"precision", DELTA_OPT_CHOICE, &e.common.precision, .choices = "fp32|tf32|bf16",
         .help = "a GPU's arithmetic; weights are fp32 always", .env = "FROSTLINE_PRECISION"},
        {"threads", DELTA_OPT_INT, &e.common.threads, .arg = "N",
         .help = "threads of each run; 0: the plan's", .low = 0, .high = 1024},
        LEARNER_OPT_JSON(e.common),
        {0}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf schema = {0}, details;
    int first, rc;
    enum delta_status st = learner_experiment_schema(&schema, &err);

    delta_buf_init(&details, (size_t)1 << 20);
    if (!st)
        st = delta_buf_append(&details, DETAILS, sizeof DETAILS - 1, &err);
    if (!st)
        st = delta_buf_append(&details, schema.data, schema.len, &err);
    if (!st)
        st = delta_buf_append(&details, LEARNER_DATA_HELP, sizeof LEARNER_DATA_HELP, &err);
    help.details = st ? NULL : (const char *)details.data;
    rc = delta_opt_parse(&help, opts, argc, argv, &first);
    delta_buf_release(&schema);
    if (rc < 0) {
        const bool only_report = strcmp(argv[first], "report") == 0 && argc - first == 2;
        if (argc - first == 2 && !only_report)
            st = delta_fail(&err, DELTA_USAGE, "'%s' is one operand too many", argv[first + 1]);
        else
            st = only_report ? report(&e, argv[first + 1], &err) : run(&e, argv[first], &err);
        rc = st ? delta_cli_fail(&help, &err) : e.failed ? 1 : 0;
    }
    help.details = NULL;
    delta_buf_release(&details);
    return rc;
}
