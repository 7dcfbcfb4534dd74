/* Strict reading of JSON objects through tables of keys: an unknown key, a wrong type or a number
 * out of range is refused with file, line and place ("methods[2].ratio"). One table also makes
 * the manual. Private to the folder. */
#ifndef EXP_JSON_H
#define EXP_JSON_H

#include <jansson.h>
#include <stdbool.h>

#include "delta/buf.h"

#define EXP_LIST_MAX 64

struct exp_numbers {
    double values[EXP_LIST_MAX];
    size_t count;
};
struct exp_texts {
    const char *values[EXP_LIST_MAX]; /* borrowed from the JSON tree */
    size_t count;
};

enum exp_kind {
    EXP_TEXT,    /* const char * */
    EXP_INT,     /* int64_t */
    EXP_REAL,    /* double */
    EXP_BOOL,    /* bool */
    EXP_INTS,    /* struct exp_numbers: one number or a list */
    EXP_REALS,   /* struct exp_numbers */
    EXP_BOOLS,   /* struct exp_numbers of 0 and 1 */
    EXP_TEXTS,   /* struct exp_texts: one or a list */
    EXP_OBJECTS, /* read by the caller; list of objects */
    EXP_OBJECT   /* read by the caller */
};

struct exp_field {
    const char *name; /* NULL ends a table */
    enum exp_kind kind;
    size_t offset; /* into the struct to fill */
    double low, high;
    bool required;
    const char *help;
};

/* A file being read. */
struct exp_source {
    const char *path, *text;
};

/* Where a value stands: a chain up to the root, on the reader's stack. */
struct exp_place {
    const struct exp_place *up;
    const char *key; /* NULL: an element of a list */
    size_t index;
};

/* "'plan.json', line 7, methods[2].ratio: <text>"; status FORMAT. */
enum delta_status exp_refuse(struct delta_error *err, const struct exp_source *source,
                             const struct exp_place *place, const char *fmt, ...)
    DELTA_PRINTF(4, 5);

/* Fills `out` by the table. Keys that are absent leave it as it is.
 *   more     a second table into the same struct; may be NULL
 *   fails    FORMAT */
DELTA_MUST_USE enum delta_status exp_read(void *out, const struct exp_field *fields,
                                          const struct exp_field *more, const json_t *object,
                                          const struct exp_source *source,
                                          const struct exp_place *place, struct delta_error *err);

/* Line (from 1) on which the value at this place begins; 0 when it is not there. `text` must be
 * valid JSON. */
size_t exp_line_of(const char *text, const struct exp_place *place);

#endif
