/* The arithmetic of a merge: contributions in, one candidate model out. No disk, no clock, no
 * database. Bit-reproducible: contributions are added in the order of their digests, sums are
 * float64, so neither the order of arrival nor the machine matters.
 *
 * Rows by owner. A class that the current version lacks is appended with the contribution's head
 * row; when several contributions of one merge bring the same class, the row is their mean
 * weighted by the number of new samples. New classes are appended in the order of their ids. A
 * class that the current version has already keeps its row unless the contributor owns it, in
 * which case his newer row replaces it.
 *
 * Live slice. For every other element that is not frozen in the current version:
 *     new = current + sum_i w_i (target_i - base_i) / sum_i w_i,     w_i = 1 / sqrt(1 + tau_i)
 * where tau_i counts the versions between contribution i's base and the current one. A head row is
 * averaged only over the contributions that changed it: absent rows are absent, never zeros.
 * Frozen elements keep their bits.
 *
 * Refuses (leaves a contribution out, with a reason): other architecture or shapes, non-finite
 * numbers, a base that is not a prefix of the current version's classes.
 */
#ifndef SERVER_MERGE_H
#define SERVER_MERGE_H

#include "delta/model.h"
#include "store/store.h"

struct server_merge; /* one thread at a time */

/* Answers whether a device owns a class; may fail (the merge stops then). */
typedef enum delta_status server_merge_owns(void *context, const char *class_id, const char *device,
                                            bool *owns, struct delta_error *err);

/* current: borrowed until free. */
DELTA_MUST_USE enum delta_status server_merge_new(struct server_merge **out,
                                                  const struct delta_model *current,
                                                  server_merge_owns *owns, void *context,
                                                  struct delta_error *err);
void server_merge_free(struct server_merge *merge);

struct server_merge_item {
    struct delta_digest id; /* strictly greater than the one before */
    const char *device;     /* borrowed for the call */
    uint32_t staleness;
    uint32_t new_samples;
    const struct delta_model *base;
    const struct delta_model *target;
};

/* Adds one contribution.
 *   note     what was left out, or "" (SERVER_REASON_MAX)
 *   fails    MISMATCH, NONFINITE (the contribution is refused; nothing was added), INTERNAL
 * (order), NO_MEMORY and what `owns` fails with (the merge is to be given up) */
DELTA_MUST_USE enum delta_status server_merge_add(struct server_merge *merge,
                                                  const struct server_merge_item *item,
                                                  char note[SERVER_REASON_MAX],
                                                  struct delta_error *err);

/* The candidate; its parent is the current version. *changed false: it equals the current one.
 *   fails    NONFINITE (sums overflow), LIMIT (classes), NO_MEMORY */
DELTA_MUST_USE enum delta_status server_merge_finish(struct server_merge *merge,
                                                     struct delta_model *out, bool *changed,
                                                     struct delta_error *err);
/* Who brought the classes that finish() appended; borrowed. */
const struct server_owner *server_merge_owners(const struct server_merge *merge, size_t *count);

#endif
