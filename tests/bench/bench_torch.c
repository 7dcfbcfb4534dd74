/* Ours against PyTorch on the same shapes: each side in a fresh process of its own, in turn, so
 * that both see the same machine. Of PyTorch the fastest variant (layout, compiled, frozen) of each
 * --python counts; ratios are against the faster of those. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_child.h"
#include "bench_peak.h"
#include "bench_table.h"
#include "delta/cli.h"

#define SCREEN_RUNS 3
#define RUNS_MAX 256  /* of a turn */
#define REST_US 50000 /* between turns: threads of the other side go to sleep */

struct settings {
    struct delta_opt_list pythons;
    const char *network, *job, *variant, *script, *step, *device, *precision;
    int64_t rounds, batch, side, threads;
    double turn_seconds;
    bool json, markdown;
};

/* Wanted ratios: of time for training and inference, of memory for a training step. */
static const struct bench_row wanted[] = {
    {&bench_nets[0], BENCH_TRAIN, 0, 0, 1.5, 2, 2, 3, 0, {{0}}},
    {&bench_nets[1], BENCH_TRAIN, 0, 0, 2, 3, 2, 3, 0, {{0}}},
    {&bench_nets[2], BENCH_TRAIN, 0, 0, 1.5, 2.5, 2, 3, 0, {{0}}},
    {&bench_nets[0], BENCH_INFER, 0, 0, 1.3, 2, 0, 0, 0, {{0}}},
    {&bench_nets[1], BENCH_INFER, 0, 0, 1.3, 2, 0, 0, 0, {{0}}},
    {&bench_nets[2], BENCH_INFER, 0, 0, 1.3, 2, 0, 0, 0, {{0}}},
    {&bench_nets[0], BENCH_LATENCY, 1, 0, 0, 0, 0, 0, 0, {{0}}},
    {&bench_nets[1], BENCH_LATENCY, 1, 0, 0, 0, 0, 0, 0, {{0}}},
    {&bench_nets[2], BENCH_LATENCY, 1, 0, 0, 0, 0, 0, 0, {{0}}},
};
#define ROWS (sizeof wanted / sizeof *wanted)

static const char *const train_variants[] = {"contiguous", "channels_last", "compile", NULL};
static const char *const infer_variants[] = {"contiguous", "channels_last", "frozen", "compile",
                                             NULL};

static const struct delta_verb_help help = {
    .program = "bench_torch",
    .operands = "",
    .summary = "measures the training engine and PyTorch in turn",
    .details = "Rates count multiply-adds of direct convolutions twice, whatever algorithm runs; "
               "the peak is measured on registers. Memory is the most that a fresh process had "
               "(VmHWM), for PyTorch that of its leanest variant.",
};

static enum delta_status start(struct bench_child *child, const struct settings *settings,
                               const struct bench_row *row, const char *python, const char *variant,
                               struct delta_error *err)
{
    char width[16], batch[24], side[24], threads[24], place[32];
    const char *job = row->job == BENCH_TRAIN ? "train" : "infer";
    char *argv[32];
    size_t count = 0;

    snprintf(width, sizeof width, "%u", row->net->width);
    snprintf(batch, sizeof batch, "%zu", row->batch);
    snprintf(side, sizeof side, "%lld", (long long)settings->side);
    snprintf(threads, sizeof threads, "%lld", (long long)settings->threads);
    const char *const common[] = {"--network", row->net->name, "--width", width,    "--job",
                                  job,         "--batch",      batch,     "--side", side,
                                  "--threads", threads};
    const char *const theirs[] = {"--variant",   variant,
                                  "--device",    strcmp(settings->device, "cuda") ? "cpu" : "cuda",
                                  "--precision", settings->precision};
    const char *const mine[] = {"--device", place};
    argv[count++] = (char *)(python ? python : settings->step);
    if (python)
        argv[count++] = (char *)settings->script;
    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        argv[count++] = (char *)common[i];
    snprintf(place, sizeof place, "%s:%s", settings->device, settings->precision);
    for (size_t i = 0; variant && i < sizeof theirs / sizeof *theirs; i++)
        argv[count++] = (char *)theirs[i];
    for (size_t i = 0; !variant && i < sizeof mine / sizeof *mine; i++)
        argv[count++] = (char *)mine[i];
    argv[count] = NULL;
    return bench_child_start(child, argv, python != NULL, err);
}

static double least(const double *values, size_t count)
{
    double best = values[0];

    for (size_t i = 1; i < count; i++)
        best = values[i] < best ? values[i] : best;
    return best;
}

static void keep_version(struct bench_column *column, const struct bench_child *child)
{
    const char *version = json_string_value(json_object_get(child->ready, "version"));

    snprintf(column->version, sizeof column->version, "%.63s", version ? version : "?");
}

/* Tries every variant that this PyTorch has; leaves the fastest running. */
static void screen(struct bench_child *best, struct bench_cell *cell, struct bench_column *column,
                   const struct settings *settings, const struct bench_row *row)
{
    const char *const *variants = row->job == BENCH_TRAIN ? train_variants : infer_variants;
    double best_seconds = 0, seconds[SCREEN_RUNS], bytes = 0;

    for (size_t v = 0; variants[v]; v++) {
        struct delta_error err = DELTA_ERROR_INIT;
        struct bench_child child;
        if (settings->variant && strcmp(settings->variant, variants[v]))
            continue;
        if (start(&child, settings, row, column->python, variants[v], &err))
            continue;
        if (bench_child_run(&child, SCREEN_RUNS, seconds, &err) ||
            bench_child_memory(&child, &bytes, &err)) {
            bench_child_stop(&child);
            continue;
        }
        keep_version(column, &child);
        if (!cell->present || bytes < cell->bytes) {
            cell->bytes = bytes;
            cell->imported = 1024 * json_number_value(json_object_get(child.ready, "imported_kb"));
        }
        const double now = least(seconds, SCREEN_RUNS);
        fprintf(stderr, "%s %s, %s %s: %.2f ms, %.0f MB\n", bench_job_text[row->job],
                row->net->text, column->python, variants[v], now * 1e3, bytes * 1e-6);
        if (cell->present && now >= best_seconds) {
            bench_child_stop(&child);
            continue;
        }
        bench_child_stop(best);
        *best = child;
        best_seconds = now;
        cell->present = true;
        cell->seconds = now;
        snprintf(cell->variant, sizeof cell->variant, "%s", variants[v]);
    }
}

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

static size_t runs_of_turn(const struct settings *settings, double seconds)
{
    const double runs = settings->turn_seconds / (seconds > 0 ? seconds : 1);

    return runs < 1 ? 1 : runs > RUNS_MAX ? RUNS_MAX : (size_t)runs;
}

/* Rounds in turn; the median over all runs of a column becomes its time. */
static enum delta_status take_turns(struct bench_child *children, struct bench_row *row,
                                    size_t columns, const struct settings *settings,
                                    struct delta_error *err)
{
    const size_t rounds = (size_t)settings->rounds;
    double *times = delta_calloc(columns * rounds * RUNS_MAX, sizeof *times);
    double *peaks = delta_calloc(rounds, sizeof *peaks);
    size_t runs[BENCH_COLUMNS_MAX] = {0}, counts[BENCH_COLUMNS_MAX] = {0};
    enum delta_status st = DELTA_OK;

    if (!times || !peaks) {
        st = delta_fail(err, DELTA_NO_MEMORY, "no memory for times");
        goto done;
    }
    for (size_t c = 0; c < columns; c++)
        runs[c] = runs_of_turn(settings, row->cells[c].seconds);
    for (size_t r = 0; !st && r < rounds; r++) {
        for (size_t c = 0; !st && c < columns; c++) {
            if (!row->cells[c].present)
                continue;
            usleep(REST_US);
            st = bench_child_run(&children[c], runs[c], times + c * rounds * RUNS_MAX + counts[c],
                                 err);
            counts[c] += runs[c];
        }
        usleep(REST_US);
        peaks[r] = bench_peak_together_gflops((int)settings->threads);
    }
    row->peak = median(peaks, rounds);
    for (size_t c = 0; !st && c < columns; c++)
        if (row->cells[c].present)
            row->cells[c].seconds = median(times + c * rounds * RUNS_MAX, counts[c]);
done:
    free(times);
    free(peaks);
    return st;
}

static enum delta_status start_ours(struct bench_child *child, struct bench_row *row,
                                    const struct settings *settings, struct delta_error *err)
{
    struct bench_cell *cell = &row->cells[0];
    struct delta_error absent = DELTA_ERROR_INIT;
    double seconds[SCREEN_RUNS];

    if (start(child, settings, row, NULL, NULL, &absent)) {
        fprintf(stderr, "ABSENT: ours, %s: the engine cannot do it\n", row->net->text);
        return DELTA_OK;
    }
    const char *device = json_string_value(json_object_get(child->ready, "device"));
    cell->present = true;
    snprintf(cell->variant, sizeof cell->variant, "%.31s", device ? device : "?");
    cell->imported = 1024 * json_number_value(json_object_get(child->ready, "imported_kb"));
    row->flops = (double)row->batch * json_number_value(json_object_get(child->ready, "flops"));
    enum delta_status st = bench_child_run(child, SCREEN_RUNS, seconds, err);
    if (!st)
        st = bench_child_memory(child, &cell->bytes, err);
    cell->seconds = st ? 0 : least(seconds, SCREEN_RUNS);
    return st;
}

static enum delta_status measure_row(struct bench_table *table, struct bench_row *row,
                                     const struct settings *settings, struct delta_error *err)
{
    struct bench_child children[BENCH_COLUMNS_MAX] = {{0}};
    enum delta_status st = start_ours(&children[0], row, settings, err);

    for (size_t c = 1; !st && c < table->column_count; c++)
        screen(&children[c], &row->cells[c], &table->columns[c], settings, row);
    if (!st)
        st = take_turns(children, row, table->column_count, settings, err);
    for (size_t c = 0; c < table->column_count; c++)
        bench_child_stop(&children[c]);
    return st;
}

static bool wants(const struct settings *settings, const struct bench_row *row)
{
    static const char *const jobs[] = {"train", "infer", "latency"};
    char name[64];

    snprintf(name, sizeof name, "%s-%u", row->net->name, row->net->width);
    return (!settings->job || !strcmp(settings->job, jobs[row->job])) &&
           (!settings->network || !strcmp(settings->network, name));
}

static void name_machine(char *out, size_t size)
{
    FILE *info = fopen("/proc/cpuinfo", "r");
    char line[256];

    snprintf(out, size, "unknown processor");
    while (info && fgets(line, sizeof line, info))
        if (!strncmp(line, "model name", 10) && strchr(line, ':')) {
            snprintf(out, size, "%.100s", strchr(line, ':') + 2);
            out[strcspn(out, "\n")] = 0;
            break;
        }
    if (info)
        fclose(info);
}

static enum delta_status measure_all(struct bench_table *table, const struct settings *settings,
                                     struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    name_machine(table->machine, sizeof table->machine);
    table->threads = (int)settings->threads;
    table->rounds = (size_t)settings->rounds;
    table->side = (size_t)settings->side;
    table->column_count = 1 + settings->pythons.count;
    for (size_t c = 1; c < table->column_count; c++)
        table->columns[c].python = settings->pythons.items[c - 1];
    for (size_t r = 0; !st && r < ROWS; r++) {
        if (!wants(settings, &wanted[r]))
            continue;
        struct bench_row *row = &table->rows[table->row_count++];
        *row = wanted[r];
        if (!row->batch)
            row->batch = (size_t)settings->batch;
        st = measure_row(table, row, settings, err);
    }
    return st;
}

/* A file beside this program; `otherwise` where there is none. */
static void find_beside(char *out, size_t size, const char *name, const char *otherwise)
{
    char self[512];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);

    self[length > 0 ? length : 0] = 0;
    char *slash = strrchr(self, '/');
    snprintf(out, size, "%.*s/%s", slash ? (int)(slash - self) : 0, self, name);
    if (access(out, F_OK) != 0)
        snprintf(out, size, "%s", otherwise);
}

int main(int argc, char **argv)
{
    static struct bench_row rows[ROWS];
    char step[600], script[600];
    struct settings s = {.rounds = 5,
                         .batch = 64,
                         .side = 32,
                         .threads = 2,
                         .turn_seconds = 1,
                         .device = "cpu",
                         .precision = "fp32"};
    struct delta_opt opts[] = {
        {"python", DELTA_OPT_LIST, &s.pythons, "PATH",
         "an interpreter with torch and torchvision; a column each, at most 4", NULL, NULL, 0, 0,
         false},
        {"network", DELTA_OPT_CHOICE, &s.network, "NAME", "only this network", NULL,
         "resnet18-64|mobilenet_v2-100|resnet18-16", 0, 0, false},
        {"job", DELTA_OPT_CHOICE, &s.job, "NAME", "only this job", NULL, "train|infer|latency", 0,
         0, false},
        {"variant", DELTA_OPT_CHOICE, &s.variant, "NAME",
         "only this variant of PyTorch (all, the fastest counts)", NULL,
         "contiguous|channels_last|frozen|compile", 0, 0, false},
        {"rounds", DELTA_OPT_INT, &s.rounds, "N", "turns of each side (5)", NULL, NULL, 1, 100,
         false},
        {"turn", DELTA_OPT_REAL, &s.turn_seconds, "S", "length of a turn (1)", NULL, NULL, 0, 60,
         false},
        {"batch", DELTA_OPT_INT, &s.batch, "N", "images of a batch (64)", NULL, NULL, 1, 4096,
         false},
        {"side", DELTA_OPT_INT, &s.side, "N", "pixels a side of the images (32)", NULL, NULL, 8,
         512, false},
        {"threads", DELTA_OPT_INT, &s.threads, "N", "threads of both sides (2)", NULL, NULL, 1, 64,
         false},
        {"device", DELTA_OPT_CHOICE, &s.device, "NAME", "both sides: cpu or cuda; ours alone: ref",
         NULL, "cpu|cuda|ref", 0, 0, false},
        {"precision", DELTA_OPT_CHOICE, &s.precision, "NAME",
         "of a GPU's arithmetic, both sides; PyTorch: allow_tf32, autocast (fp32)", NULL,
         "fp32|tf32|bf16", 0, 0, false},
        {"markdown", DELTA_OPT_FLAG, &s.markdown, NULL, "the table of PERFORMANCE.md", NULL, NULL,
         0, 0, false},
        {"json", DELTA_OPT_FLAG, &s.json, NULL, "one JSON object on stdout", NULL, NULL, 0, 0,
         false},
        {0}};
    struct bench_table table = {.rows = rows};
    struct delta_error err = DELTA_ERROR_INIT;
    int first;
    const int exit_status = delta_opt_parse(&help, opts, argc, argv, &first);

    if (exit_status >= 0)
        return exit_status;
    if (s.pythons.count > BENCH_RIVALS_MAX) {
        delta_fail(&err, DELTA_USAGE, "at most %d --python", BENCH_RIVALS_MAX);
        return delta_cli_fail(&help, &err);
    }
    find_beside(step, sizeof step, "bench_step", "bench_step");
    find_beside(script, sizeof script, "bench_torch.py", FROSTLINE_BENCH_SCRIPT);
    s.step = step;
    s.script = script;
    signal(SIGPIPE, SIG_IGN); /* a side that died is an error, not the end */
    if (measure_all(&table, &s, &err))
        return delta_cli_fail(&help, &err);
    if (s.json)
        bench_table_json(&table, stdout);
    else if (s.markdown)
        bench_table_markdown(&table, stdout);
    else
        bench_table_text(&table, stdout);
    return 0;
}
