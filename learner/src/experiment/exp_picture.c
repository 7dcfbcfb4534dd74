/* Which chart shows what: the pictures that a plan names, one for each base and protocol. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "exp_chart.h"
#include "exp_table.h"
#include "learner/experiment.h"

#define SERIES_MAX 64

/* One chart being put together; points of all series in one block. */
struct sheet {
    struct exp_chart chart;
    struct exp_chart_series series[SERIES_MAX];
    struct exp_chart_point *points;
    size_t used, room;
    const char *groups[SERIES_MAX];
    char title[200], subtitle[260];
};

static enum delta_status sheet_init(struct sheet *sheet, const struct exp_tables *tables,
                                    const struct exp_table *table, size_t points,
                                    struct delta_error *err)
{
    char steps[40] = "", draws[80];

    memset(sheet, 0, sizeof *sheet);
    if (table->step_count > 1)
        snprintf(steps, sizeof steps, "%zu x ", table->step_count);
    snprintf(sheet->title, sizeof sheet->title, "%s", tables->title);
    snprintf(draws, sizeof draws, "mean and standard deviation of %zu draws", table->seeds);
    snprintf(sheet->subtitle, sizeof sheet->subtitle, "%s (%s), %s: %zu + %s%zu %s; %s%s",
             table->base, table->network, table->protocol, table->base_count, steps, table->count,
             table->count == 1 ? "class" : "classes",
             table->seeds == 1 ? "one draw of seed and order" : draws,
             table->groups > 1 ? ", each over all held-out groups" : "");
    sheet->chart.title = sheet->title;
    sheet->chart.subtitle = sheet->subtitle;
    sheet->chart.series = sheet->series;
    sheet->points = delta_calloc(points + 1, sizeof *sheet->points);
    sheet->room = points;
    return sheet->points ? DELTA_OK : delta_fail(err, DELTA_NO_MEMORY, "out of memory");
}

/* NULL when there is no room: a chart with more is no chart. */
static struct exp_chart_series *add_series(struct sheet *sheet, const char *name, size_t points)
{
    struct exp_chart_series *series;

    if (sheet->chart.series_count == SERIES_MAX || sheet->used + points > sheet->room)
        return NULL;
    series = &sheet->series[sheet->chart.series_count++];
    *series = (struct exp_chart_series){.name = name, .points = sheet->points + sheet->used};
    sheet->used += points;
    return series;
}

static void add_point(struct exp_chart_series *series, double x, const struct exp_stat *y,
                      double scale)
{
    series->points[series->count++] =
        (struct exp_chart_point){x, scale * y->mean, scale * y->deviation};
}

static bool is_control(const struct exp_row *row)
{
    return strcmp(row->method, "do-nothing") == 0;
}

/* ---- the charts ---- */

/* Returns false where the table has nothing for this picture. */
typedef bool fill_chart(struct sheet *sheet, const struct exp_table *table, const char *knob);

static bool fill_steps(struct sheet *sheet, const struct exp_table *table, const char *knob)
{
    (void)knob;
    if (table->step_count < 2)
        return false;
    for (size_t r = 0; r < table->row_count; r++) {
        const struct exp_row *row = &table->rows[r];
        struct exp_chart_series *series = add_series(sheet, row->label, table->step_count);
        if (!series)
            break;
        series->joined = true;
        series->grey = is_control(row);
        for (size_t s = 0; s < table->step_count; s++)
            if (row->steps[s].all.count)
                add_point(series, (double)row->steps[s].classes, &row->steps[s].all, 1);
    }
    sheet->chart.whole_x = sheet->chart.percent = true;
    sheet->chart.x_title = "classes known";
    sheet->chart.y_title = "accuracy over all of them, %";
    return true;
}

static bool fill_seconds(struct sheet *sheet, const struct exp_table *table, const char *knob)
{
    (void)knob;
    for (size_t r = 0; r < table->row_count; r++) {
        const struct exp_row *row = &table->rows[r];
        struct exp_chart_series *series = add_series(sheet, row->label, 1);
        if (!series)
            break;
        series->grey = is_control(row);
        add_point(series, fmax(row->metrics[EXP_SECONDS].mean, 0.01), &row->metrics[EXP_ALL], 1);
    }
    sheet->chart.log_x = sheet->chart.percent = true;
    sheet->chart.x_title = "seconds of learning, all steps";
    sheet->chart.y_title = "accuracy over all classes, %";
    return table->row_count > 0;
}

/* What grows on a device, for the first row that learns. */
static bool fill_growth(struct sheet *sheet, const struct exp_table *table, const char *knob)
{
    static const char *const names[] = {"peak memory", "exemplars", "model file", "this delta",
                                        "all deltas so far"};
    const struct exp_row *row = NULL;
    double sum = 0;

    (void)knob;
    for (size_t r = 0; !row && r < table->row_count; r++)
        if (!is_control(&table->rows[r]))
            row = &table->rows[r];
    if (!row || table->step_count < 2)
        return false;
    for (size_t i = 0; i < 5; i++) {
        struct exp_chart_series *series = add_series(sheet, names[i], table->step_count);
        if (!series)
            return false;
        series->joined = true;
        for (size_t s = 0; s < table->step_count; s++) {
            const struct exp_step_stats *step = &row->steps[s];
            const struct exp_stat *all[] = {&step->peak_bytes, &step->exemplar_bytes,
                                            &step->model_bytes, &step->delta_bytes};
            struct exp_stat total = {0, 0, 1};
            sum += i == 4 ? step->delta_bytes.mean : 0;
            total.mean = sum;
            add_point(series, (double)step->classes, i == 4 ? &total : all[i], 1e-6);
        }
    }
    const size_t used = strlen(sheet->title);
    snprintf(sheet->title + used, sizeof sheet->title - used, ": %s", row->label);
    sheet->chart.log_y = sheet->chart.whole_x = true;
    sheet->chart.x_title = "classes known";
    sheet->chart.y_title = "MB";
    return true;
}

static bool fill_bars(struct sheet *sheet, const struct exp_table *table, const char *knob)
{
    static const char *const names[] = {"all", "old", "new"};
    static const enum exp_metric metrics[] = {EXP_ALL, EXP_OLD, EXP_NEW};

    (void)knob;
    for (size_t i = 0; i < 3; i++) {
        struct exp_chart_series *series = add_series(sheet, names[i], table->row_count);
        for (size_t r = 0; series && r < table->row_count; r++)
            add_point(series, 0, &table->rows[r].metrics[metrics[i]], 1);
    }
    for (size_t r = 0; r < table->row_count && r < SERIES_MAX; r++)
        sheet->groups[sheet->chart.group_count++] = table->rows[r].label;
    sheet->chart.groups = sheet->groups;
    sheet->chart.percent = true;
    sheet->chart.x_title = "accuracy, %";
    return table->row_count > 0;
}

/* Our seconds beside the paper's. */
static bool fill_overhead(struct sheet *sheet, const struct exp_table *table, const char *knob)
{
    struct exp_chart_series *ours = add_series(sheet, "ours", table->row_count);
    struct exp_chart_series *passes = add_series(sheet, "ours, image passes", table->row_count);
    struct exp_chart_series *paper = NULL;

    (void)knob;
    if (table->count == 1 && table->step_count == 1)
        paper = add_series(sheet, "paper, Jetson Nano", table->row_count);
    for (size_t r = 0; ours && passes && r < table->row_count && r < SERIES_MAX; r++) {
        const struct exp_paper_time *time = exp_paper_find(table->rows[r].method);
        const struct exp_stat known = {time ? time->train_s + time->tune_s : NAN, 0, 1};
        add_point(ours, 0, &table->rows[r].metrics[EXP_SECONDS], 1);
        add_point(passes, 0, &table->rows[r].metrics[EXP_PASSES], 1);
        if (paper)
            add_point(paper, 0, &known, 1);
        sheet->groups[sheet->chart.group_count++] = table->rows[r].label;
    }
    sheet->chart.groups = sheet->groups;
    sheet->chart.log_x = true;
    sheet->chart.x_title = "seconds to learn, and images through the network";
    sheet->chart.note = paper ? "The paper's machine, base network and details of protocol are not "
                                "ours: compare ratios."
                              : NULL;
    return table->row_count > 0;
}

/* Rows of one method that have this knob; numbers along an axis. */
static bool fill_sweep(struct sheet *sheet, const struct exp_table *table, const char *knob)
{
    static const char *const names[] = {"all", "old", "new"};
    static const enum exp_metric metrics[] = {EXP_ALL, EXP_OLD, EXP_NEW};
    bool numbers = true;
    size_t rows = 0;

    for (size_t r = 0; r < table->row_count; r++) {
        const json_t *value = json_object_get(table->rows[r].settings, knob);
        rows += value != NULL;
        numbers &= !value || json_is_number(value);
    }
    if (rows < 2)
        return false;
    for (size_t i = 0; i < 3; i++) {
        struct exp_chart_series *series = add_series(sheet, names[i], rows);
        for (size_t r = 0; series && r < table->row_count; r++) {
            const json_t *value = json_object_get(table->rows[r].settings, knob);
            if (!value)
                continue;
            if (numbers)
                series->joined = true;
            else if (i == 0 && sheet->chart.group_count < SERIES_MAX)
                sheet->groups[sheet->chart.group_count++] = table->rows[r].label;
            add_point(series, json_number_value(value), &table->rows[r].metrics[metrics[i]], 1);
        }
    }
    if (!numbers)
        sheet->chart.groups = sheet->groups;
    sheet->chart.percent = true;
    sheet->chart.log_x = numbers && strcmp(knob, "lr") == 0;
    sheet->chart.x_title = numbers ? knob : "accuracy, %";
    sheet->chart.y_title = "accuracy, %";
    return true;
}

static int by_x(const void *a, const void *b)
{
    const struct exp_chart_point *p = a, *q = b;

    return (p->x > q->x) - (p->x < q->x);
}

/* ---- files ---- */

static const struct {
    const char *name;
    fill_chart *fill;
} kinds[] = {{"steps", fill_steps},       {"seconds", fill_seconds}, {"growth", fill_growth},
             {"overhead", fill_overhead}, {"bars", fill_bars},       {"sweep", fill_sweep}};

static enum delta_status one_picture(const struct exp_tables *tables, const struct exp_table *table,
                                     const char *name, const char *dir, size_t *count,
                                     struct delta_error *err)
{
    const char *colon = strchr(name, ':');
    const size_t len = colon ? (size_t)(colon - name) : strlen(name);
    struct sheet *sheet = delta_calloc(1, sizeof *sheet);
    char file[300], stem[1100];
    bool filled = false;
    enum delta_status st =
        sheet ? sheet_init(sheet, tables, table,
                           5 * (table->row_count + 1) * (table->step_count + 1), err)
              : delta_fail(err, DELTA_NO_MEMORY, "out of memory");

    for (size_t i = 0; !st && i < sizeof kinds / sizeof kinds[0]; i++)
        if (strlen(kinds[i].name) == len && strncmp(kinds[i].name, name, len) == 0)
            filled = kinds[i].fill(sheet, table, colon ? colon + 1 : "");
    if (filled) {
        for (size_t s = 0; s < sheet->chart.series_count; s++)
            if (sheet->series[s].joined)
                qsort(sheet->series[s].points, sheet->series[s].count,
                      sizeof *sheet->series[s].points, by_x);
        snprintf(file, sizeof file, "%s-%s-%s-%zu%s%s%s%s-%.*s", tables->name, table->base,
                 table->protocol, table->count, table->budget[0] ? "-" : "", table->budget,
                 colon ? "-" : "", colon ? colon + 1 : "", (int)len, name);
        st = delta_path_join(stem, sizeof stem, dir, file, err);
        if (!st)
            st = exp_chart_save(&sheet->chart, stem, err);
        *count += !st;
    }
    if (sheet)
        free(sheet->points);
    free(sheet);
    return st;
}

enum delta_status learner_experiment_pictures(const char *results, const char *dir, size_t *count,
                                              struct delta_error *err)
{
    struct exp_tables tables;
    const json_t *names;
    size_t written = 0;
    enum delta_status st = exp_tables_read(&tables, results, err);

    if (st)
        return st;
    names = json_object_get(tables.lines.plan, "pictures");
    st = delta_dir_make(dir, 0755, err);
    for (size_t t = 0; !st && t < tables.count; t++)
        for (size_t i = 0; !st && i < json_array_size(names); i++)
            st = one_picture(&tables, &tables.tables[t],
                             json_string_value(json_array_get(names, i)), dir, &written, err);
    exp_tables_release(&tables);
    if (count)
        *count = written;
    return st;
}
