/* From pending contributions to a candidate model: loads each with its base, in the order of
 * their digests, and feeds merge.h one at a time, so memory holds a handful of models however many
 * contributions there are. Decides which are merged and which are rejected, with a reason; stores
 * nothing.
 */
#ifndef SERVER_CANDIDATE_H
#define SERVER_CANDIDATE_H

#include "delta/delta.h"
#include "merge.h"
#include "release.h"

struct server_candidate {
    struct delta_model model; /* only when changed */
    bool changed;
    struct server_contribution *items; /* owned; each MERGED or REJECTED */
    size_t count;
    size_t merged;
    struct server_merge *merge;
    struct delta_model current;
};

/* fails: only what is this machine's fault (IO, NO_MEMORY, ...); a bad contribution is rejected */
DELTA_MUST_USE enum delta_status server_candidate_make(struct server_candidate *out,
                                                       struct server_keeper *keeper,
                                                       const struct server_version *current,
                                                       struct delta_error *err);
/* Tells every merged item into which version it went. */
void server_candidate_settle(struct server_candidate *candidate,
                             const struct delta_digest *version);
const struct server_owner *server_candidate_owners(const struct server_candidate *candidate,
                                                   size_t *count);
void server_candidate_release(struct server_candidate *candidate);

#endif
