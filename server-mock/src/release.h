/* Versions and channels: publish a model, merge what is pending, keep channel documents fresh.
 * What the coordinator and its command line share to change a channel. Everything is prepared as
 * files under their digests first, then one transaction makes it visible: killed at any moment,
 * the channel points to the old version or the new one, and what is pending stays pending.
 */
#ifndef SERVER_RELEASE_H
#define SERVER_RELEASE_H

#include "delta/clock.h"
#include "delta/key.h"
#include "places.h"
#include "store/store.h"

#define SERVER_EDGES 8         /* deltas lead from so many versions back to the newest */
#define SERVER_MERGE_BATCH 256 /* contributions of one merge */
#define SERVER_DOCUMENT_DAYS 7 /* a channel document expires; half of it left: sealed again */

/* A coordinator's directory, opened. Threads: const use from any; what signs with the release key
 * takes the release lock itself. */
struct server_keeper {
    struct server_places places;
    struct server_store *store;
    struct delta_key release_key;
    struct delta_public_key release_public;
    struct delta_clock clock;
};

/* clock: zeroed for the system's.  fails: NOT_FOUND, FORMAT, IO */
DELTA_MUST_USE enum delta_status server_keeper_open(struct server_keeper *keeper, const char *dir,
                                                    const struct delta_clock *clock,
                                                    struct delta_error *err);
void server_keeper_release(struct server_keeper *keeper);

struct server_publish_options {
    uint32_t poll_s;   /* 0: keep the channel's, or 60 */
    uint32_t permille; /* 0: keep the channel's, or 1000 */
};
/* Makes a model file the channel's version; the channel is made if need be. A version of before is
 * made current again (a rollback by the operator).
 *   wait_ms  how long to wait for another publisher
 *   fails    EXISTS (it is current), FORMAT and the like (not a model), NONFINITE, BUSY */
DELTA_MUST_USE enum delta_status server_publish(struct server_keeper *keeper, const char *channel,
                                                const char *path,
                                                const struct server_publish_options *options,
                                                int wait_ms, struct server_version *out,
                                                struct delta_error *err);

struct server_merge_result {
    size_t merged;
    size_t rejected;
    bool released;                 /* a new version came of it */
    struct server_version version; /* the channel's version afterwards */
};
/* Merges what is pending on a channel. BUSY when another publisher is at work. */
DELTA_MUST_USE enum delta_status server_merge_channel(struct server_keeper *keeper,
                                                      const char *channel, int wait_ms,
                                                      struct server_merge_result *out,
                                                      struct delta_error *err);
/* Seals the channel's document anew when half of its validity is gone. */
DELTA_MUST_USE enum delta_status
server_channel_refresh(struct server_keeper *keeper, const char *channel, struct delta_error *err);

#endif
