/* What bench_torch found, and how it is printed: for people, as Markdown, as JSON. */
#ifndef BENCH_TABLE_H
#define BENCH_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "bench_net.h"

#define BENCH_RIVALS_MAX 4
#define BENCH_COLUMNS_MAX (1 + BENCH_RIVALS_MAX) /* ours first */

enum bench_job { BENCH_TRAIN, BENCH_INFER, BENCH_LATENCY };
extern const char *const bench_job_text[]; /* "training step", ... */

struct bench_column {
    const char *python; /* NULL: ours */
    char version[64];   /* empty: nothing of it ran */
};

struct bench_cell {
    bool present;
    char variant[32]; /* PyTorch: the fastest of its variants; ours: the device */
    double seconds;   /* median of a run */
    double bytes;     /* most memory of the process; PyTorch: the least of its variants */
    double imported;  /* ... of it after `import torch` alone; ours: before the network */
};

struct bench_row {
    const struct bench_net_row *net;
    enum bench_job job;
    size_t batch;
    double flops;         /* of one run of the whole batch; 0: not known */
    double at_least, aim; /* wanted ratios of time; 0: none */
    double memory_at_least, memory_aim;
    double peak; /* GFLOP/s of all threads, median of the same rounds */
    struct bench_cell cells[BENCH_COLUMNS_MAX];
};

struct bench_table {
    char machine[128];
    int threads;
    size_t rounds, side;
    struct bench_column columns[BENCH_COLUMNS_MAX];
    size_t column_count;
    struct bench_row *rows;
    size_t row_count;
};

/* Of the rivals that ran: the least seconds or bytes; 0 where none did. */
double bench_row_rival_seconds(const struct bench_table *table, const struct bench_row *row);
double bench_row_rival_bytes(const struct bench_table *table, const struct bench_row *row);

void bench_table_text(const struct bench_table *table, FILE *out);
void bench_table_markdown(const struct bench_table *table, FILE *out);
void bench_table_json(const struct bench_table *table, FILE *out);

#endif
