/* Tables for people and for programs. Text and Markdown come from one grid of cells. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exp_table.h"
#include "learner/experiment.h"

#define MAX_REPORT_BYTES ((size_t)64 << 20)
#define CELL_MAX 160
#define COLUMNS_MAX 16

struct writer {
    struct delta_buf *out;
    bool markdown;
    enum delta_status st; /* the first failure; later writes do nothing */
    struct delta_error *err;
};

static void put(struct writer *w, const char *fmt, ...) DELTA_PRINTF(2, 3);

static void put(struct writer *w, const char *fmt, ...)
{
    char text[2048];
    va_list args;

    va_start(args, fmt);
    const int len = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (!w->st && len > 0)
        w->st = delta_buf_append(w->out, text,
                                 (size_t)len < sizeof text ? (size_t)len : sizeof text - 1, w->err);
}

/* ---- a grid ---- */

struct grid {
    size_t rows, columns;
    char (*cells)[COLUMNS_MAX][CELL_MAX]; /* [rows]; row 0 is the head */
};

/* Characters on a terminal: bytes that begin one in UTF-8. */
static size_t width_of(const char *text)
{
    size_t width = 0;

    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static void put_cell(struct writer *w, const char *text, size_t width, bool left)
{
    const size_t own = width_of(text), gap = width > own ? width - own : 0;

    if (left)
        put(w, "%s%*s", text, (int)gap, "");
    else
        put(w, "%*s%s", (int)gap, "", text);
}

static void put_grid(struct writer *w, const struct grid *grid)
{
    size_t widths[COLUMNS_MAX] = {0};

    for (size_t r = 0; r < grid->rows; r++)
        for (size_t c = 0; c < grid->columns; c++)
            if (widths[c] < width_of(grid->cells[r][c]))
                widths[c] = width_of(grid->cells[r][c]);
    for (size_t r = 0; r < grid->rows; r++) {
        put(w, w->markdown ? "| " : "");
        for (size_t c = 0; c < grid->columns; c++) {
            put_cell(w, grid->cells[r][c], widths[c], c == 0);
            put(w, c + 1 == grid->columns ? "" : w->markdown ? " | " : "  ");
        }
        put(w, w->markdown ? " |\n" : "\n");
        for (size_t c = 0; w->markdown && r == 0 && c < grid->columns; c++)
            put(w, "%s%s", c == 0 ? "|---|" : "---:|", c + 1 == grid->columns ? "\n" : "");
    }
    put(w, "\n");
}

static void number_cell(char *cell, const struct exp_stat *stat, double scale, int digits)
{
    if (!stat->count)
        snprintf(cell, CELL_MAX, "-");
    else if (stat->count == 1)
        snprintf(cell, CELL_MAX, "%.*f", digits, scale * stat->mean);
    else
        snprintf(cell, CELL_MAX, "%.*f ± %.*f", digits, scale * stat->mean, digits,
                 scale * stat->deviation);
}

/* ---- tables ---- */

static bool column_wanted(const struct exp_table *table, enum exp_metric metric)
{
    bool any = false;

    if (metric == EXP_AVERAGE && table->step_count < 2)
        return false;
    for (size_t r = 0; r < table->row_count; r++)
        any |= table->rows[r].metrics[metric].count > 0;
    return any;
}

/* A row that has not all the runs that others have says so: its means are of other held-out
 * classes. */
static void label_cell(char *out, const struct exp_table *table, const struct exp_row *row)
{
    size_t most = 0;

    for (size_t r = 0; r < table->row_count; r++)
        if (table->rows[r].runs > most)
            most = table->rows[r].runs;
    if (row->runs < most)
        snprintf(out, CELL_MAX, "%s (%zu of %zu runs)", row->label, row->runs, most);
    else
        snprintf(out, CELL_MAX, "%s", row->label);
}

static void put_main(struct writer *w, const struct exp_table *table)
{
    struct grid grid = {table->row_count + 1, 1, NULL};

    grid.cells = delta_calloc(grid.rows, sizeof *grid.cells);
    if (!grid.cells) {
        w->st = delta_fail(w->err, DELTA_NO_MEMORY, "out of memory");
        return;
    }
    snprintf(grid.cells[0][0], CELL_MAX, "row");
    for (size_t r = 0; r < table->row_count; r++)
        label_cell(grid.cells[r + 1][0], table, &table->rows[r]);
    for (size_t m = 0; m < EXP_METRICS; m++) {
        if (!column_wanted(table, (enum exp_metric)m))
            continue;
        snprintf(grid.cells[0][grid.columns], CELL_MAX, "%s", exp_metrics[m].title);
        for (size_t r = 0; r < table->row_count; r++)
            number_cell(grid.cells[r + 1][grid.columns], &table->rows[r].metrics[m],
                        exp_metrics[m].scale, exp_metrics[m].digits);
        grid.columns++;
    }
    put_grid(w, &grid);
    free(grid.cells);
}

/* "features 1.2, evaluation 0.3" of one line, all steps together. */
static void stage_text(char *out, size_t size, const json_t *line)
{
    const char *names[16];
    double seconds[16];
    size_t count = 0, used = 0, s, i, at;
    json_t *step, *stage;

    json_array_foreach(json_object_get(line, "steps"), s, step)
    {
        json_array_foreach(json_object_get(step, "stages"), i, stage)
        {
            const char *name = json_string_value(json_object_get(stage, "name"));
            for (at = 0; at < count && name && strcmp(names[at], name) != 0; at++)
                ;
            if (!name || at == 16)
                continue;
            if (at == count) {
                names[count] = name;
                seconds[count++] = 0;
            }
            seconds[at] += json_number_value(json_object_get(stage, "seconds"));
        }
    }
    out[0] = '\0';
    for (i = 0; i < count && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s %.1f", i ? ", " : "", names[i],
                                 seconds[i]);
}

static void put_stages(struct writer *w, const struct exp_table *table)
{
    struct grid grid = {table->row_count + 1, 2, NULL};

    grid.cells = delta_calloc(grid.rows, sizeof *grid.cells);
    if (!grid.cells) {
        w->st = delta_fail(w->err, DELTA_NO_MEMORY, "out of memory");
        return;
    }
    snprintf(grid.cells[0][0], CELL_MAX, "row");
    snprintf(grid.cells[0][1], CELL_MAX, "seconds by stage, first run");
    for (size_t r = 0; r < table->row_count; r++) {
        snprintf(grid.cells[r + 1][0], CELL_MAX, "%s", table->rows[r].label);
        stage_text(grid.cells[r + 1][1], CELL_MAX, table->rows[r].sample);
    }
    put_grid(w, &grid);
    free(grid.cells);
}

static const struct exp_row *find_method(const struct exp_table *table, const char *method)
{
    for (size_t r = 0; r < table->row_count; r++)
        if (strcmp(table->rows[r].method, method) == 0)
            return &table->rows[r];
    return NULL;
}

/* Times for one class beside the paper's, each as a multiple of its own weight freezing. */
static void put_paper(struct writer *w, const struct exp_table *table)
{
    const struct exp_row *own = find_method(table, "freeze");
    const struct exp_paper_time *theirs = exp_paper_find("freeze");
    const double unit = own ? own->metrics[EXP_SECONDS].mean : 0;
    static const char *const heads[] = {"row",           "ours s",       "ours / freeze",
                                        "paper train s", "paper tune s", "paper total s",
                                        "paper / freeze"};
    struct grid grid = {1, 7, NULL};

    grid.cells = delta_calloc(table->row_count + 1, sizeof *grid.cells);
    if (!grid.cells) {
        w->st = delta_fail(w->err, DELTA_NO_MEMORY, "out of memory");
        return;
    }
    for (size_t c = 0; c < grid.columns; c++)
        snprintf(grid.cells[0][c], CELL_MAX, "%s", heads[c]);
    for (size_t r = 0; r < table->row_count; r++) {
        const struct exp_row *row = &table->rows[r];
        const struct exp_paper_time *time = exp_paper_find(row->method);
        char(*cells)[CELL_MAX] = grid.cells[grid.rows++];
        for (size_t c = 0; c < grid.columns; c++)
            snprintf(cells[c], CELL_MAX, "-");
        snprintf(cells[0], CELL_MAX, "%s", row->label);
        number_cell(cells[1], &row->metrics[EXP_SECONDS], 1, 1);
        if (unit > 0)
            snprintf(cells[2], CELL_MAX, "%.3f", row->metrics[EXP_SECONDS].mean / unit);
        if (!time)
            continue;
        snprintf(cells[3], CELL_MAX, "%.0f", time->train_s);
        snprintf(cells[4], CELL_MAX, "%.0f", time->tune_s);
        snprintf(cells[5], CELL_MAX, "%.0f", time->train_s + time->tune_s);
        snprintf(cells[6], CELL_MAX, "%.3f",
                 (time->train_s + time->tune_s) / (theirs->train_s + theirs->tune_s));
    }
    put(w, "Beside the paper (%s). %s\n\n", exp_paper_source, exp_paper_caveat);
    put_grid(w, &grid);
    free(grid.cells);
}

static void put_head(struct writer *w, const struct exp_table *table)
{
    put(w, w->markdown ? "### " : "");
    put(w, "%s (%s), %s: %zu + ", table->base, table->network, table->protocol, table->base_count);
    if (table->step_count > 1)
        put(w, "%zu x ", table->step_count);
    put(w, "%zu class%s", table->count, table->count == 1 ? "" : "es");
    if (table->budget[0])
        put(w, ", budget %s", table->budget);
    put(w, "\n%s%zu draw%s of seed and order", w->markdown ? "\n" : "", table->seeds,
        table->seeds == 1 ? "" : "s");
    if (table->groups > 1)
        put(w, ", each the mean over %zu groups of held-out classes", table->groups);
    put(w, "\n\n");
}

static void put_notes(struct writer *w, const struct exp_tables *tables)
{
    const char *bullet = w->markdown ? "- " : "* ";

    if (tables->reference[0])
        put(w,
            "%sgap: '%s' minus the row, accuracy over all classes, in the draws and groups that "
            "both have.\n",
            bullet, tables->reference);
    put(w,
        "%spasses: images forward and backward 1, forward alone 1/3. peak MB: of the process while "
        "it learned. delta KB: all steps, lossless, under the freeze plan.\n",
        bullet);
    if (tables->mixed_versions)
        put(w, "%sWARNING: these runs come from different versions of the program.\n", bullet);
    if (tables->mixed_machines)
        put(w,
            "%sWARNING: these runs come from different machines or devices; do not compare "
            "their seconds.\n",
            bullet);
    if (tables->mixed_threads)
        put(w,
            "%sWARNING: these runs had different numbers of threads or neighbours; do not "
            "compare their seconds.\n",
            bullet);
    put(w, "%sPublished figures, where they stand beside ours: %s\n", bullet, exp_paper_caveat);
}

static void put_tables(struct writer *w, const struct exp_tables *tables)
{
    const json_t *sample = json_array_get(tables->lines.runs, 0);

    put(w, "%s%s\n", w->markdown ? "## " : "", tables->title);
    put(w, "%s%s%s", w->markdown ? "\n" : "", tables->description,
        tables->description[0] ? "\n" : "");
    put(w, "%s, frostline %s, %s, device %s, %lld thread(s) a run\n\n",
        json_is_true(json_object_get(tables->lines.plan, "small")) ? "Small version"
                                                                   : "Plan as it is",
        json_string_value(json_object_get(sample, "version")),
        json_string_value(json_object_get(sample, "machine")),
        json_string_value(json_object_get(sample, "device")),
        (long long)json_integer_value(json_object_get(sample, "threads")));
    for (size_t t = 0; t < tables->count; t++) {
        const struct exp_table *table = &tables->tables[t];
        put_head(w, table);
        put_main(w, table);
        if (table->count == 1 && table->step_count == 1) {
            put_stages(w, table);
            put_paper(w, table);
        }
    }
    put_notes(w, tables);
}

/* ---- JSON ---- */

static json_t *stat_json(const struct exp_stat *stat, double scale)
{
    return json_pack("{s:f, s:f, s:I}", "mean", scale * stat->mean, "deviation",
                     scale * stat->deviation, "count", (json_int_t)stat->count);
}

static json_t *row_json(const struct exp_row *row, const struct exp_table *table)
{
    json_t *json = json_pack("{s:s, s:s, s:I, s:O}", "label", row->label, "method", row->method,
                             "runs", (json_int_t)row->runs, "settings", row->settings);
    json_t *steps = json_array();
    const struct exp_paper_time *time = exp_paper_find(row->method);

    for (size_t m = 0; m < EXP_METRICS; m++)
        if (row->metrics[m].count)
            json_object_set_new(json, exp_metrics[m].key, stat_json(&row->metrics[m], 1));
    for (size_t s = 0; s < table->step_count; s++)
        json_array_append_new(steps,
                              json_pack("{s:I, s:o, s:o, s:o, s:o, s:o}", "classes",
                                        (json_int_t)row->steps[s].classes, "all",
                                        stat_json(&row->steps[s].all, 1), "peak_bytes",
                                        stat_json(&row->steps[s].peak_bytes, 1), "model_bytes",
                                        stat_json(&row->steps[s].model_bytes, 1), "exemplar_bytes",
                                        stat_json(&row->steps[s].exemplar_bytes, 1), "delta_bytes",
                                        stat_json(&row->steps[s].delta_bytes, 1)));
    json_object_set_new(json, "steps", steps);
    if (time && table->count == 1 && table->step_count == 1)
        json_object_set_new(json, "paper",
                            json_pack("{s:f, s:f, s:s}", "train_seconds", time->train_s,
                                      "tune_seconds", time->tune_s, "source", exp_paper_source));
    return json;
}

static void put_json(struct writer *w, const struct exp_tables *tables)
{
    json_t *list = json_array(), *root;
    char *text;

    for (size_t t = 0; t < tables->count; t++) {
        const struct exp_table *table = &tables->tables[t];
        json_t *rows = json_array();
        for (size_t r = 0; r < table->row_count; r++)
            json_array_append_new(rows, row_json(&table->rows[r], table));
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o}", "base",
                            table->base, "network", table->network, "protocol", table->protocol,
                            "budget", table->budget, "base_count", (json_int_t)table->base_count,
                            "count", (json_int_t)table->count, "step_count",
                            (json_int_t)table->step_count, "groups", (json_int_t)table->groups,
                            "draws", (json_int_t)table->seeds, "rows", rows));
    }
    root =
        json_pack("{s:i, s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:o}", "schema", EXP_SCHEMA, "plan",
                  tables->name, "title", tables->title, "reference", tables->reference, "caveat",
                  exp_paper_caveat, "mixed_versions", tables->mixed_versions, "mixed_machines",
                  tables->mixed_machines, "mixed_threads", tables->mixed_threads, "tables", list);
    text = json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(10));
    if (!w->st && !text)
        w->st = delta_fail(w->err, DELTA_NO_MEMORY, "out of memory");
    if (!w->st)
        w->st = delta_buf_append(w->out, text, strlen(text), w->err);
    put(w, "\n");
    free(text);
    json_decref(root);
}

enum delta_status learner_experiment_report(struct delta_buf *out, const char *results,
                                            enum learner_report_format format,
                                            struct delta_error *err)
{
    struct exp_tables tables;
    struct writer w = {out, format == LEARNER_REPORT_MARKDOWN, DELTA_OK, err};
    const enum delta_status st = exp_tables_read(&tables, results, err);

    if (st)
        return st;
    delta_buf_init(out, MAX_REPORT_BYTES);
    if (format == LEARNER_REPORT_JSON)
        put_json(&w, &tables);
    else
        put_tables(&w, &tables);
    exp_tables_release(&tables);
    if (w.st)
        delta_buf_release(out);
    return w.st;
}
