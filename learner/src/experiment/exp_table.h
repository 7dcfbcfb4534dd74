/* Results gathered into tables: one table per base, protocol, classes at a time and budget; one
 * row per method; mean and standard deviation over seeds and orders. Private to the folder. */
#ifndef EXP_TABLE_H
#define EXP_TABLE_H

#include "exp_results.h"

/* Columns. GAP is worked out here: reference row minus this one, same seed, order and group. */
enum exp_metric {
    EXP_ALL,
    EXP_OLD,
    EXP_NEW,
    EXP_HARMONIC,
    EXP_AVERAGE,
    EXP_GAP,
    EXP_PASSES,
    EXP_SECONDS,
    EXP_CPU,
    EXP_PEAK,
    EXP_DELTA,
    EXP_METRICS
};

struct exp_metric_info {
    const char *key;   /* in a line of the results */
    const char *title; /* with its unit */
    double scale;
    int digits;
};
extern const struct exp_metric_info exp_metrics[EXP_METRICS];

/* Of `count` seeds and orders; deviation is that of a sample (n - 1), 0 for one. */
struct exp_stat {
    double mean, deviation;
    size_t count;
};

/* Along the steps of a protocol. */
struct exp_step_stats {
    size_t classes;
    struct exp_stat all, peak_bytes, model_bytes, exemplar_bytes, delta_bytes;
};

struct exp_row {
    const char *label, *method; /* borrowed from the lines */
    const json_t *settings;
    struct exp_stat metrics[EXP_METRICS];
    struct exp_step_stats *steps; /* owned, [step_count of the table] */
    const json_t *sample;         /* one of its lines */
    size_t runs;
};

struct exp_table {
    const char *base, *network, *protocol, *budget;
    size_t base_count, count, step_count, groups, seeds;
    struct exp_row *rows; /* owned; in the plan's order */
    size_t row_count;
};

struct exp_tables {
    struct exp_lines lines;
    struct exp_table *tables; /* owned */
    size_t count;
    const char *name, *title, *description, *reference;
    /* what one table should not mix */
    bool mixed_versions, mixed_machines, mixed_threads;
};

/* Rows that the last plan of the file does not name are left out; of two lines for the same run
 * the later one counts.
 *   fails    NOT_FOUND (no such file, no runs), FORMAT, NO_MEMORY */
DELTA_MUST_USE enum delta_status exp_tables_read(struct exp_tables *out, const char *results,
                                                 struct delta_error *err);
void exp_tables_release(struct exp_tables *tables);

/* What a publication says about a method; looked up by our method's name. */
struct exp_paper_time {
    const char *method, *name;
    double train_s, tune_s;
};
extern const struct exp_paper_time exp_paper_times[]; /* method NULL ends it */
extern const char exp_paper_source[], exp_paper_caveat[];
const struct exp_paper_time *exp_paper_find(const char *method);

#endif
