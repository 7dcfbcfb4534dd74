/* Which elements of a tensor a delta's values are for: the scopes, as a walk over element numbers
 * in ascending order, so that neither side holds a list of them all. Scope `some` brings its
 * positions along as entropy-coded gaps (gap_* below); the others follow from shape and plan.
 */
#ifndef DELTA_POSITIONS_H
#define DELTA_POSITIONS_H

#include "delta/delta.h"
#include "rans.h"

enum delta_scope {
    DELTA_SCOPE_ALL,  /* every element */
    DELTA_SCOPE_LIVE, /* live elements of the base's plan, grown rows included */
    DELTA_SCOPE_NEW,  /* elements behind the base's last one: grown rows */
    DELTA_SCOPE_SOME  /* elements whose positions travel */
};

const char *delta_scope_name(enum delta_scope scope);
DELTA_MUST_USE enum delta_status delta_scope_parse(const char *name, enum delta_scope *scope,
                                                   struct delta_error *err);

/* Elements in scope; not for SOME. `tensor` is the base's, grown to the target's shape;
 * `base_count` the number of elements before it grew. */
size_t delta_scope_count(const struct delta_tensor *tensor, enum delta_scope scope,
                         size_t base_count);

#define DELTA_PLACES_BLOCK DELTA_RANS_BLOCK

struct delta_places {
    const struct delta_tensor *tensor; /* data is not looked at */
    enum delta_scope scope;
    size_t next; /* element to look at */
};

/* Not for SOME. */
void delta_places_begin(struct delta_places *places, const struct delta_tensor *tensor,
                        enum delta_scope scope, size_t base_count);
/* Element numbers of the next `max` places (fewer at the end only; 0: no more). */
size_t delta_places_next(struct delta_places *places, uint32_t *elements, size_t max);

/* ---- positions that travel: per element the number of elements skipped before it ---- */

struct delta_gaps {
    struct delta_rans_freqs freqs;
    unsigned shift; /* so many low bits of a gap are not modelled */
};

/* Chooses shift and frequencies for these ascending elements. */
void delta_gaps_plan(struct delta_gaps *gaps, const uint32_t *elements, size_t count);
DELTA_MUST_USE enum delta_status
delta_gaps_put(struct delta_buf *out, const struct delta_gaps *gaps, struct delta_error *err);
/* One block of at most DELTA_PLACES_BLOCK; `from` is the element behind the last one before. */
DELTA_MUST_USE enum delta_status delta_gaps_put_block(struct delta_buf *out,
                                                      const struct delta_gaps *gaps, uint32_t from,
                                                      const uint32_t *elements, size_t count,
                                                      struct delta_error *err);

struct delta_gaps_in {
    struct delta_rans_table table;
    unsigned shift;
    uint64_t next;  /* element behind the last one read */
    uint64_t limit; /* elements of the tensor */
    uint8_t symbols[DELTA_PLACES_BLOCK];
};

/* fails: FORMAT, IO */
DELTA_MUST_USE enum delta_status delta_gaps_get(struct delta_gaps_in *gaps, struct delta_pull *pull,
                                                size_t limit, struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_gaps_get_block(struct delta_gaps_in *gaps,
                                                      struct delta_pull *pull, uint32_t *elements,
                                                      size_t count, struct delta_error *err);

#endif
