/* The chain of versions that a directory of models (.flm) and deltas (.fld) tells: which version
 * came of which, by which file, and whether anything is missing in between.
 *
 * Order is by descent: whatever a file builds on stands before it. Content counts, file names do
 * not. Files of neither kind are left out; a damaged one is listed with its fault.
 */
#ifndef DELTA_HISTORY_H
#define DELTA_HISTORY_H

#include "delta/delta.h"

#define DELTA_HISTORY_MAX 4096 /* files of a directory */
#define DELTA_HISTORY_NAME_MAX 255

struct delta_history_item {
    char name[DELTA_HISTORY_NAME_MAX + 1]; /* in the directory */
    enum delta_container_kind kind;
    uint64_t bytes;
    enum delta_status status; /* not OK: `problem` says why, and nothing below is set */
    char problem[200];
    struct delta_digest from;    /* delta: its base; model: its parent, zero: none */
    struct delta_digest version; /* delta: its target; model: itself */
    size_t classes;              /* delta: added; model: all */
    size_t signatures;           /* claimed, not verified */
    bool has_provenance;
    struct delta_provenance provenance;
    bool reached;  /* a model here, or deltas here that begin at one, lead to `from` or hold it */
    bool verified; /* delta_history_verify() made this version bit for bit, or read it */
};

struct delta_history {
    struct delta_history_item *items; /* by descent, then by name */
    size_t count;
    size_t faults;  /* items whose status is not OK */
    size_t gaps;    /* deltas that no model here leads to */
    size_t heads;   /* versions on which nothing here builds */
    size_t ignored; /* files of neither kind */
};

/* out is initialised here; end with delta_history_release().
 *   fails    NOT_FOUND, IO, LIMIT (more than DELTA_HISTORY_MAX files), NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_history_read(struct delta_history *out, const char *dir,
                                                    struct delta_error *err);
void delta_history_release(struct delta_history *history);

/* Applies every delta that is reached and compares with the models that lie there: marks what
 * holds as verified and counts what does not as a fault. One model is held at a time.
 *   watch    may be NULL; called after each file
 *   fails    NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_history_verify(struct delta_history *history,
                                                      const char *dir, delta_watch *watch,
                                                      void *context, struct delta_error *err);

#endif
