/* The file of results: JSON lines, appended only. Every line is one object with "schema" and
 * "kind": "plan" (the plan as it was run; the last one counts) or "run" (one per key).
 * Private to the folder. */
#ifndef EXP_RESULTS_H
#define EXP_RESULTS_H

#include <jansson.h>

#include "delta/buf.h"

#define EXP_SCHEMA 1

/* What a file holds. */
struct exp_lines {
    json_t *plan; /* the last line of that kind; NULL: none */
    json_t *runs; /* array of objects; where a key stands twice the first one counts */
    json_t *keys; /* object: key -> run */
    size_t whole; /* bytes up to the end of the last whole line */
    bool cut;     /* there was half a line behind it */
};
void exp_lines_release(struct exp_lines *lines);

/* Reads a file; one that is absent is empty.
 *   fails    FORMAT (names file and line), LIMIT, IO, NO_MEMORY */
DELTA_MUST_USE enum delta_status exp_lines_read(struct exp_lines *lines, const char *path,
                                                struct delta_error *err);

/* Appends one object as one line in one write and makes it durable.  fails: IO, NO_SPACE */
DELTA_MUST_USE enum delta_status exp_lines_append(int fd, const json_t *object, const char *path,
                                                  struct delta_error *err);

#endif
