/* A process that measures one network on request (bench_step, bench_torch.py) and rests otherwise.
 * Every wait has a limit. Numbers come back as JSON lines. */
#ifndef BENCH_CHILD_H
#define BENCH_CHILD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "delta/status.h"

struct bench_child {
    pid_t pid;
    FILE *to, *from;
    json_t *ready; /* what it said first */
};

/* argv: NULL-terminated, argv[0] the program. Waits until it is ready.
 *   fails    IO (cannot start, or ended: its own message went to stderr unless quiet), TIMEOUT */
DELTA_MUST_USE enum delta_status bench_child_start(struct bench_child *out, char *const argv[],
                                                   bool quiet, struct delta_error *err);
/* Ends the process; accepts a zeroed child. */
void bench_child_stop(struct bench_child *child);

/* Seconds of each of `runs` runs. */
DELTA_MUST_USE enum delta_status bench_child_run(struct bench_child *child, size_t runs,
                                                 double *seconds, struct delta_error *err);
/* The most memory that the process had until now. */
DELTA_MUST_USE enum delta_status bench_child_memory(struct bench_child *child, double *bytes,
                                                    struct delta_error *err);

#endif
