#include "exp_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"

const struct exp_metric_info exp_metrics[EXP_METRICS] = {
    [EXP_ALL] = {"all", "all %", 1, 2},
    [EXP_OLD] = {"old", "old %", 1, 2},
    [EXP_NEW] = {"new", "new %", 1, 2},
    [EXP_HARMONIC] = {"harmonic", "harmonic %", 1, 2},
    [EXP_AVERAGE] = {"average", "average %", 1, 2},
    [EXP_GAP] = {"gap", "gap %", 1, 2},
    [EXP_PASSES] = {"image_passes", "passes", 1, 0},
    [EXP_SECONDS] = {"seconds", "seconds", 1, 1},
    [EXP_CPU] = {"cpu_seconds", "cpu s", 1, 1},
    [EXP_PEAK] = {"peak_bytes", "peak MB", 1e-6, 1},
    [EXP_DELTA] = {"delta_bytes", "delta KB", 1e-3, 2},
};

static const char *text_of(const json_t *line, const char *key)
{
    const char *text = json_string_value(json_object_get(line, key));

    return text ? text : "";
}

static size_t size_of(const json_t *line, const char *key)
{
    const json_int_t value = json_integer_value(json_object_get(line, key));

    return value > 0 ? (size_t)value : 0;
}

static double number_of(const json_t *line, const char *key)
{
    return json_number_value(json_object_get(line, key));
}

static bool same_text(const json_t *a, const json_t *b, const char *key)
{
    return strcmp(text_of(a, key), text_of(b, key)) == 0;
}

static bool same_size(const json_t *a, const json_t *b, const char *key)
{
    return size_of(a, key) == size_of(b, key);
}

static bool same_table(const json_t *a, const json_t *b)
{
    return same_text(a, b, "base") && same_text(a, b, "protocol") && same_size(a, b, "count") &&
           same_text(a, b, "budget");
}

/* One seed and one class order: what the mean over groups is taken within. */
static bool same_draw(const json_t *a, const json_t *b)
{
    return same_size(a, b, "seed") && same_text(a, b, "order");
}

static bool same_run(const json_t *a, const json_t *b)
{
    return same_table(a, b) && same_draw(a, b) && same_size(a, b, "group") &&
           same_text(a, b, "label");
}

/* ---- mean and deviation ---- */

/* Lines of one row. */
struct members {
    const json_t **lines;
    size_t count;
};

typedef double exp_value_of(const json_t *line, const void *context);

/* First the mean over the groups of each draw, then over draws. NaN values are left out. */
static struct exp_stat statistic(const struct members *m, exp_value_of *value, const void *context)
{
    double sum = 0, squares = 0;
    struct exp_stat stat = {0, 0, 0};

    for (size_t i = 0; i < m->count; i++) {
        double part = 0;
        size_t groups = 0;
        bool first = true;
        for (size_t j = 0; j < i; j++)
            first &= !same_draw(m->lines[i], m->lines[j]);
        for (size_t j = i; first && j < m->count; j++) {
            const double one =
                same_draw(m->lines[i], m->lines[j]) ? value(m->lines[j], context) : NAN;
            if (isnan(one))
                continue;
            part += one;
            groups++;
        }
        if (!groups)
            continue;
        part /= (double)groups;
        sum += part;
        squares += part * part;
        stat.count++;
    }
    if (stat.count) {
        const double n = (double)stat.count;
        stat.mean = sum / n;
        const double spread = squares - n * stat.mean * stat.mean;
        stat.deviation = stat.count > 1 && spread > 0 ? sqrt(spread / (n - 1)) : 0;
    }
    return stat;
}

static double top_value(const json_t *line, const void *context)
{
    const json_t *value = json_object_get(line, context);

    return json_is_number(value) ? json_number_value(value) : NAN;
}

struct gap {
    const json_t *runs;
    const char *reference;
};

static double gap_value(const json_t *line, const void *context)
{
    const struct gap *gap = context;
    size_t i;
    json_t *other;

    if (!gap->reference[0])
        return NAN;
    json_array_foreach((json_t *)gap->runs, i, other)
    {
        if (strcmp(text_of(other, "label"), gap->reference) == 0 && same_table(line, other) &&
            same_draw(line, other) && same_size(line, other, "group"))
            return number_of(other, "all") - number_of(line, "all");
    }
    return NAN;
}

struct step_key {
    size_t step;
    const char *key;
};

static double step_value(const json_t *line, const void *context)
{
    const struct step_key *at = context;
    const json_t *step = json_array_get(json_object_get(line, "steps"), at->step);
    const json_t *value = json_object_get(step, at->key);

    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* ---- rows ---- */

static enum delta_status fill_row(struct exp_row *row, const struct exp_table *table,
                                  const struct members *m, const struct exp_tables *tables,
                                  struct delta_error *err)
{
    const struct gap gap = {tables->lines.runs, tables->reference};

    row->sample = m->lines[0];
    row->label = text_of(row->sample, "label");
    row->method = text_of(row->sample, "method");
    row->settings = json_object_get(row->sample, "settings");
    row->runs = m->count;
    for (size_t i = 0; i < EXP_METRICS; i++)
        row->metrics[i] = i == EXP_GAP ? statistic(m, gap_value, &gap)
                                       : statistic(m, top_value, exp_metrics[i].key);
    row->steps = delta_calloc(table->step_count + 1, sizeof *row->steps);
    if (!row->steps)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t s = 0; s < table->step_count; s++) {
        struct exp_step_stats *step = &row->steps[s];
        step->classes = table->base_count + (s + 1) * table->count;
        step->all = statistic(m, step_value, &(struct step_key){s, "all"});
        step->peak_bytes = statistic(m, step_value, &(struct step_key){s, "peak_bytes"});
        step->model_bytes = statistic(m, step_value, &(struct step_key){s, "model_bytes"});
        step->exemplar_bytes = statistic(m, step_value, &(struct step_key){s, "exemplar_bytes"});
        step->delta_bytes = statistic(m, step_value, &(struct step_key){s, "delta_bytes"});
    }
    return DELTA_OK;
}

/* The lines of this table with this label. */
static void collect(struct members *m, const json_t *runs, const json_t *sample, const char *label)
{
    size_t i;
    json_t *line;

    m->count = 0;
    json_array_foreach((json_t *)runs, i, line)
    {
        if (same_table(line, sample) && strcmp(text_of(line, "label"), label) == 0)
            m->lines[m->count++] = line;
    }
}

static size_t count_draws(const json_t *runs, const json_t *sample)
{
    size_t i, j, draws = 0;
    json_t *line;

    json_array_foreach((json_t *)runs, i, line)
    {
        bool first = same_table(line, sample);
        for (j = 0; first && j < i; j++)
            first = !same_table(json_array_get(runs, j), sample) ||
                    !same_draw(json_array_get(runs, j), line);
        draws += first;
    }
    return draws;
}

static enum delta_status fill_table(struct exp_table *table, const struct exp_tables *tables,
                                    const json_t *sample, struct delta_error *err)
{
    const json_t *runs = tables->lines.runs;
    const json_t *rows = json_object_get(tables->lines.plan, "rows");
    struct members m = {delta_calloc(json_array_size(runs) + 1, sizeof *m.lines), 0};
    enum delta_status st = DELTA_OK;

    table->base = text_of(sample, "base");
    table->network = text_of(sample, "network");
    table->protocol = text_of(sample, "protocol");
    table->budget = text_of(sample, "budget");
    table->base_count = size_of(sample, "base_count");
    table->count = size_of(sample, "count");
    table->step_count = json_array_size(json_object_get(sample, "steps"));
    table->seeds = count_draws(runs, sample);
    table->rows = delta_calloc(json_array_size(rows) + 1, sizeof *table->rows);
    if (!m.lines || !table->rows)
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t i = 0; !st && i < json_array_size(rows); i++) {
        const char *label = json_string_value(json_array_get(rows, i));
        collect(&m, runs, sample, label ? label : "");
        for (size_t j = 0; j < m.count; j++)
            if (size_of(m.lines[j], "group") >= table->groups)
                table->groups = size_of(m.lines[j], "group") + 1;
        if (m.count)
            st = fill_row(&table->rows[table->row_count++], table, &m, tables, err);
    }
    free(m.lines);
    return st;
}

/* ---- all of it ---- */

/* Drops lines of rows that the plan does not have, and earlier lines of the same run. */
static void clean_runs(struct exp_tables *tables)
{
    json_t *runs = tables->lines.runs;
    const json_t *rows = json_object_get(tables->lines.plan, "rows");

    for (size_t i = json_array_size(runs); i-- > 0;) {
        const json_t *line = json_array_get(runs, i);
        bool wanted = false;
        for (size_t r = 0; !wanted && r < json_array_size(rows); r++)
            wanted =
                strcmp(json_string_value(json_array_get(rows, r)), text_of(line, "label")) == 0;
        for (size_t j = i + 1; wanted && j < json_array_size(runs); j++)
            wanted = !same_run(line, json_array_get(runs, j));
        if (!wanted)
            json_array_remove(runs, i);
    }
}

static void look_for_mixtures(struct exp_tables *tables)
{
    const json_t *first = json_array_get(tables->lines.runs, 0);
    size_t i;
    json_t *line;

    json_array_foreach(tables->lines.runs, i, line)
    {
        tables->mixed_versions |= !same_text(first, line, "version");
        tables->mixed_machines |=
            !same_text(first, line, "machine") || !same_text(first, line, "device");
        tables->mixed_threads |=
            !same_size(first, line, "threads") || !same_size(first, line, "workers");
    }
}

static enum delta_status make_tables(struct exp_tables *tables, struct delta_error *err)
{
    const json_t *runs = tables->lines.runs;
    enum delta_status st = DELTA_OK;

    tables->tables = delta_calloc(json_array_size(runs) + 1, sizeof *tables->tables);
    if (!tables->tables)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t i = 0; !st && i < json_array_size(runs); i++) {
        const json_t *line = json_array_get(runs, i);
        bool first = true;
        for (size_t j = 0; first && j < i; j++)
            first = !same_table(json_array_get(runs, j), line);
        if (first)
            st = fill_table(&tables->tables[tables->count++], tables, line, err);
    }
    return st;
}

enum delta_status exp_tables_read(struct exp_tables *out, const char *results,
                                  struct delta_error *err)
{
    struct exp_tables made = {.count = 0};
    enum delta_status st = DELTA_OK;

    if (!delta_file_exists(results))
        return delta_fail(err, DELTA_NOT_FOUND, "'%s': no such file", results);
    st = exp_lines_read(&made.lines, results, err);
    if (!st && !made.lines.plan)
        st = delta_fail(err, DELTA_FORMAT, "'%s' does not hold a line of its plan", results);
    if (!st) {
        made.name = text_of(made.lines.plan, "name");
        made.title = text_of(made.lines.plan, "title");
        made.description = text_of(made.lines.plan, "description");
        made.reference = text_of(made.lines.plan, "reference");
        clean_runs(&made);
        if (json_array_size(made.lines.runs) == 0)
            st = delta_fail(err, DELTA_NOT_FOUND, "'%s' holds no run of plan '%s' yet", results,
                            made.name);
    }
    if (!st) {
        look_for_mixtures(&made);
        st = make_tables(&made, err);
    }
    if (st)
        exp_tables_release(&made);
    else
        *out = made;
    return st;
}

void exp_tables_release(struct exp_tables *tables)
{
    for (size_t t = 0; t < tables->count; t++) {
        for (size_t r = 0; r < tables->tables[t].row_count; r++)
            free(tables->tables[t].rows[r].steps);
        free(tables->tables[t].rows);
    }
    free(tables->tables);
    exp_lines_release(&tables->lines);
    *tables = (struct exp_tables){.count = 0};
}
