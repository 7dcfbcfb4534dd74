#include "bench_table.h"

#include <jansson.h>
#include <math.h>

const char *const bench_job_text[] = {"training step", "inference", "one image"};

double bench_row_rival_seconds(const struct bench_table *table, const struct bench_row *row)
{
    double best = 0;

    for (size_t c = 1; c < table->column_count; c++)
        if (row->cells[c].present && (best == 0 || row->cells[c].seconds < best))
            best = row->cells[c].seconds;
    return best;
}

double bench_row_rival_bytes(const struct bench_table *table, const struct bench_row *row)
{
    double best = 0;

    for (size_t c = 1; c < table->column_count; c++)
        if (row->cells[c].present && (best == 0 || row->cells[c].bytes < best))
            best = row->cells[c].bytes;
    return best;
}

/* 0 when either side is missing */
static double ratio_of(double rival, const struct bench_cell *ours, double own)
{
    return ours->present && own > 0 ? rival / own : 0;
}

static double gflops(const struct bench_row *row)
{
    return row->cells[0].present ? row->flops / row->cells[0].seconds * 1e-9 : 0;
}

static double share(const struct bench_row *row)
{
    return row->peak > 0 ? gflops(row) / row->peak : 0;
}

static void column_name(char *out, size_t size, const struct bench_column *column)
{
    if (!column->python)
        snprintf(out, size, "ours");
    else if (column->version[0])
        snprintf(out, size, "PyTorch %.48s", column->version);
    else
        snprintf(out, size, "ABSENT: %.48s", column->python);
}

static void speed_text(char *out, size_t size, const struct bench_row *row,
                       const struct bench_cell *cell)
{
    if (!cell->present)
        snprintf(out, size, "absent");
    else if (row->job == BENCH_LATENCY)
        snprintf(out, size, "%.2f ms", cell->seconds * 1e3);
    else
        snprintf(out, size, "%.1f img/s", (double)row->batch / cell->seconds);
}

static void ratio_text(char *out, size_t size, double ratio)
{
    if (ratio > 0)
        snprintf(out, size, "%.2f", ratio);
    else
        snprintf(out, size, "-");
}

static const char *verdict(double ratio, double at_least, double aim)
{
    if (at_least <= 0)
        return "-";
    if (ratio <= 0)
        return "not measured";
    return ratio >= aim ? "aim reached" : ratio >= at_least ? "reached" : "missed";
}

static void print_speed(const struct bench_table *table, const struct bench_row *row, FILE *out,
                        bool markdown)
{
    char text[64];
    const double ratio =
        ratio_of(bench_row_rival_seconds(table, row), &row->cells[0], row->cells[0].seconds);

    fprintf(out, markdown ? "| %s %s |" : "%-13s %-17s", bench_job_text[row->job], row->net->text);
    for (size_t c = 0; c < table->column_count; c++) {
        const struct bench_cell *cell = &row->cells[c];
        speed_text(text, sizeof text, row, cell);
        fprintf(out, markdown ? " %s" : " %14s", text);
        if (c && cell->present)
            fprintf(out, markdown ? " (%s)" : " %-13s", cell->variant);
        if (markdown)
            fprintf(out, " |");
    }
    ratio_text(text, sizeof text, ratio);
    fprintf(out, markdown ? " %s |" : "  ratio %5s", text);
    if (row->at_least > 0)
        fprintf(out, markdown ? " %.1f / %.1f, %s |" : "  wanted %.1f / %.1f: %s", row->at_least,
                row->aim, verdict(ratio, row->at_least, row->aim));
    else if (markdown)
        fprintf(out, " - |");
    if (row->flops > 0 && row->cells[0].present)
        fprintf(out,
                markdown ? " %.0f | %.0f %% of %.0f |\n"
                         : "  %.0f GFLOP/s, %.0f %% of the peak of %.0f\n",
                gflops(row), 100 * share(row), row->peak);
    else
        fprintf(out, markdown ? " - | - |\n" : "\n");
}

static void print_memory(const struct bench_table *table, const struct bench_row *row, FILE *out,
                         bool markdown)
{
    char text[64];
    const double ratio =
        ratio_of(bench_row_rival_bytes(table, row), &row->cells[0], row->cells[0].bytes);

    fprintf(out, markdown ? "| memory of a step %s |" : "memory        %-17s", row->net->text);
    for (size_t c = 0; c < table->column_count; c++) {
        const struct bench_cell *cell = &row->cells[c];
        if (!cell->present)
            snprintf(text, sizeof text, "absent");
        else if (c)
            snprintf(text, sizeof text, "%.0f MB (%.0f MB without the import)", cell->bytes * 1e-6,
                     (cell->bytes - cell->imported) * 1e-6);
        else
            snprintf(text, sizeof text, "%.0f MB", cell->bytes * 1e-6);
        fprintf(out, markdown ? " %s |" : " %14s", text);
    }
    ratio_text(text, sizeof text, ratio);
    fprintf(out, markdown ? " %s |" : "  ratio %5s", text);
    fprintf(out, markdown ? " %.1f / %.1f, %s | - | - |\n" : "  wanted %.1f / %.1f: %s\n",
            row->memory_at_least, row->memory_aim,
            verdict(ratio, row->memory_at_least, row->memory_aim));
}

static void print_rows(const struct bench_table *table, FILE *out, bool markdown)
{
    for (size_t r = 0; r < table->row_count; r++)
        print_speed(table, &table->rows[r], out, markdown);
    for (size_t r = 0; r < table->row_count; r++)
        if (table->rows[r].job == BENCH_TRAIN)
            print_memory(table, &table->rows[r], out, markdown);
}

static void print_absent(const struct bench_table *table, FILE *out)
{
    for (size_t c = 1; c < table->column_count; c++)
        if (!table->columns[c].version[0])
            fprintf(out, "ABSENT: %s runs no torch with torchvision; its column is empty\n",
                    table->columns[c].python);
    if (table->column_count == 1)
        fprintf(out, "ABSENT: no --python was given; nothing to compare with\n");
}

void bench_table_text(const struct bench_table *table, FILE *out)
{
    char name[80];

    fprintf(out, "%s; %d threads; %zux%zu images, %zu rounds in turn\n", table->machine,
            table->threads, table->side, table->side, table->rounds);
    print_absent(table, out);
    fprintf(out, "columns:");
    for (size_t c = 0; c < table->column_count; c++) {
        column_name(name, sizeof name, &table->columns[c]);
        fprintf(out, "%s %s", c ? "," : "", name);
    }
    fputc('\n', out);
    print_rows(table, out, false);
}

void bench_table_markdown(const struct bench_table *table, FILE *out)
{
    char name[80];

    fprintf(out,
            "%s, %d threads; images %zux%zu, batch of %zu; medians of %zu rounds in turn, the FMA "
            "peak measured in the same rounds.\n",
            table->machine, table->threads, table->side, table->side,
            table->row_count ? table->rows[0].batch : 0, table->rounds);
    print_absent(table, out);
    fprintf(out, "\n| work |");
    for (size_t c = 0; c < table->column_count; c++) {
        column_name(name, sizeof name, &table->columns[c]);
        fprintf(out, " %s |", name);
    }
    fprintf(out, " ratio | at least / aim | GFLOP/s | of the peak |\n|---|");
    for (size_t c = 0; c < table->column_count; c++)
        fprintf(out, "---|");
    fprintf(out, "---|---|---|---|\n");
    print_rows(table, out, true);
}

static json_t *cell_json(const struct bench_table *table, const struct bench_row *row, size_t c)
{
    const struct bench_cell *cell = &row->cells[c];
    char name[80];

    column_name(name, sizeof name, &table->columns[c]);
    if (!cell->present)
        return json_pack("{s:s, s:b}", "column", name, "present", 0);
    return json_pack("{s:s, s:b, s:s, s:f, s:f, s:f, s:f}", "column", name, "present", 1, "variant",
                     cell->variant, "seconds", cell->seconds, "images_per_s",
                     (double)row->batch / cell->seconds, "peak_bytes", cell->bytes, "import_bytes",
                     cell->imported);
}

void bench_table_json(const struct bench_table *table, FILE *out)
{
    json_t *rows = json_array();

    for (size_t r = 0; r < table->row_count; r++) {
        const struct bench_row *row = &table->rows[r];
        json_t *cells = json_array();
        for (size_t c = 0; c < table->column_count; c++)
            json_array_append_new(cells, cell_json(table, row, c));
        const double time =
            ratio_of(bench_row_rival_seconds(table, row), &row->cells[0], row->cells[0].seconds);
        const double memory =
            ratio_of(bench_row_rival_bytes(table, row), &row->cells[0], row->cells[0].bytes);
        json_array_append_new(rows,
                              json_pack("{s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}",
                                        "network", row->net->text, "job", bench_job_text[row->job],
                                        "batch", (json_int_t)row->batch, "ratio", time, "at_least",
                                        row->at_least, "aim", row->aim, "memory_ratio", memory,
                                        "gflops", gflops(row), "share_of_peak", share(row),
                                        "peak_gflops", row->peak, "columns", cells));
    }
    json_t *root =
        json_pack("{s:i, s:s, s:i, s:I, s:I, s:o}", "schema", 1, "machine", table->machine,
                  "threads", table->threads, "side", (json_int_t)table->side, "rounds",
                  (json_int_t)table->rounds, "rows", rows);
    json_dumpf(root, out, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    fputc('\n', out);
    json_decref(root);
}
