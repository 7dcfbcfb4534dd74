/* What the coordinator remembers: devices, tokens, versions, blobs, contributions, channels,
 * edges, reports. Every change is one transaction that is durable when the function returns;
 * killing the process at any moment leaves the state before or after it.
 *
 * Threads: any; a lock inside serialises them. Several processes may have the same store open
 * (publish while the coordinator runs). Calls may wait for the disk: never from the event loop.
 * Failures of all: IO, NO_SPACE, BUSY (another process holds the lock for more than 10 s),
 * FORMAT (not our database), and those named.
 */
#ifndef SERVER_STORE_H
#define SERVER_STORE_H

#include "delta/channel.h"
#include "delta/hash.h"

#define SERVER_REASON_MAX 256

struct server_store;

/* Opens; `create` makes a new one and refuses an existing file (EXISTS). */
DELTA_MUST_USE enum delta_status server_store_open(struct server_store **out, const char *path,
                                                   bool create, struct delta_error *err);
void server_store_close(struct server_store *store);

/* Small settings by name ("names": host names of the certificate). NOT_FOUND when absent. */
DELTA_MUST_USE enum delta_status server_store_set(struct server_store *store, const char *key,
                                                  const char *value, struct delta_error *err);
DELTA_MUST_USE enum delta_status server_store_get(struct server_store *store, const char *key,
                                                  char *out, size_t size, struct delta_error *err);

/* ---- tokens and devices ---- */

/* Only the digest of a token is kept. */
DELTA_MUST_USE enum delta_status server_store_token_add(struct server_store *store,
                                                        const struct delta_digest *token,
                                                        const char *channel, uint64_t uses,
                                                        int64_t expires_ms,
                                                        struct delta_error *err);

struct server_device {
    char name[64];
    char channel[64];
    struct delta_digest key_id;
    uint8_t key_der[DELTA_PUBLIC_KEY_MAX];
    size_t key_len;
    int64_t enrolled_ms;
    int64_t seen_ms;
    int64_t revoked_ms; /* 0: not revoked */
};

DELTA_MUST_USE enum delta_status server_store_device(struct server_store *store, const char *name,
                                                     struct server_device *out,
                                                     struct delta_error *err);
/* Adds a device against a use of the token; the same name with the same key again costs no use.
 *   device   in: name, key; out: channel too
 *   proven   the caller showed a valid certificate of this very device: no token is needed then
 *   fails    UNTRUSTED (token wrong, used up or expired; name taken by another key; revoked) */
DELTA_MUST_USE enum delta_status server_store_enrol(struct server_store *store,
                                                    struct server_device *device,
                                                    const struct delta_digest *token, bool proven,
                                                    int64_t now_ms, struct delta_error *err);
/* NOT_FOUND */
DELTA_MUST_USE enum delta_status server_store_revoke(struct server_store *store, const char *name,
                                                     int64_t now_ms, struct delta_error *err);
/* Forgets a device so that its name can be enrolled with another key; what it contributed stays.
 * NOT_FOUND */
DELTA_MUST_USE enum delta_status server_store_remove(struct server_store *store, const char *name,
                                                     struct delta_error *err);
DELTA_MUST_USE enum delta_status server_store_seen(struct server_store *store, const char *name,
                                                   int64_t now_ms, struct delta_error *err);
DELTA_MUST_USE enum delta_status server_store_report(struct server_store *store, const char *device,
                                                     const struct delta_digest *version,
                                                     const char *event, double old_accuracy,
                                                     uint64_t tested, const char *reason,
                                                     int64_t now_ms, struct delta_error *err);

/* ---- versions ---- */

struct server_version {
    struct delta_digest digest;
    struct delta_digest parent; /* zero: none */
    struct delta_digest blob;
    uint64_t bytes;
    char channel[64];
    uint64_t number; /* 1, 2, ... within its channel */
    char origin[16]; /* "published" | "merged" */
    int64_t created_ms;
};

DELTA_MUST_USE enum delta_status server_store_version(struct server_store *store,
                                                      const struct delta_digest *digest,
                                                      struct server_version *out,
                                                      struct delta_error *err);
/* The newest versions of a channel, newest first; *count in: room. */
DELTA_MUST_USE enum delta_status server_store_versions(struct server_store *store,
                                                       const char *channel,
                                                       struct server_version *out, size_t *count,
                                                       struct delta_error *err);
/* How many steps up the parents lead from `from` to `to` (0 = same). NOT_FOUND when none do. */
DELTA_MUST_USE enum delta_status server_store_distance(struct server_store *store,
                                                       const struct delta_digest *from,
                                                       const struct delta_digest *to,
                                                       uint32_t *steps, struct delta_error *err);
/* Size of a blob that may be served. NOT_FOUND */
DELTA_MUST_USE enum delta_status server_store_blob(struct server_store *store,
                                                   const struct delta_digest *digest,
                                                   uint64_t *bytes, struct delta_error *err);

/* ---- channels ---- */

/* The sealed document into `out` (initialised here) and, unless NULL, what it says. NOT_FOUND */
DELTA_MUST_USE enum delta_status server_store_channel(struct server_store *store, const char *name,
                                                      struct delta_channel *channel,
                                                      struct delta_buf *document,
                                                      struct delta_error *err);
struct server_channel_names {
    char names[64][64];
    size_t count;
};
DELTA_MUST_USE enum delta_status server_store_channels(struct server_store *store,
                                                       struct server_channel_names *out,
                                                       struct delta_error *err);

/* ---- contributions ---- */

enum server_contribution_state {
    SERVER_CONTRIBUTION_PENDING,
    SERVER_CONTRIBUTION_MERGED,
    SERVER_CONTRIBUTION_REJECTED
};
const char *server_contribution_state_name(enum server_contribution_state state);

struct server_contribution {
    struct delta_digest digest;
    char device[64];
    char channel[64];
    struct delta_digest base;
    uint64_t bytes;
    uint32_t new_samples;
    enum server_contribution_state state;
    char reason[SERVER_REASON_MAX];
    struct delta_digest version; /* merged into; zero: none */
    int64_t received_ms;
};

/* EXISTS when the digest is there already. */
DELTA_MUST_USE enum delta_status
server_store_contribution_add(struct server_store *store,
                              const struct server_contribution *contribution,
                              struct delta_error *err);
DELTA_MUST_USE enum delta_status server_store_contribution(struct server_store *store,
                                                           const struct delta_digest *digest,
                                                           struct server_contribution *out,
                                                           struct delta_error *err);
DELTA_MUST_USE enum delta_status server_store_pending_of(struct server_store *store,
                                                         const char *device, uint64_t *count,
                                                         struct delta_error *err);
struct server_pending {
    uint64_t count;
    int64_t oldest_ms;
};
DELTA_MUST_USE enum delta_status server_store_pending(struct server_store *store,
                                                      const char *channel,
                                                      struct server_pending *out,
                                                      struct delta_error *err);
/* The first `*count` pending contributions of a channel in order of their digests. */
DELTA_MUST_USE enum delta_status server_store_pending_list(struct server_store *store,
                                                           const char *channel,
                                                           struct server_contribution *out,
                                                           size_t *count, struct delta_error *err);
/* Does this device own this class on this channel? */
DELTA_MUST_USE enum delta_status server_store_owns(struct server_store *store, const char *channel,
                                                   const char *class_id, const char *device,
                                                   bool *owns, struct delta_error *err);

/* ---- a release: everything that a new version changes, in one transaction ---- */

struct server_owner {
    char class_id[64];
    char device[64];
};

struct server_release {
    const struct server_version *version; /* NULL: only the document changes */
    const struct delta_channel *channel;  /* serial = old + 1; its edges are stored too */
    struct delta_bytes document;          /* sealed; empty: the channel stays, only decisions */
    uint64_t serial_before;               /* 0: the channel is new */
    const struct server_contribution *decided; /* state, reason and version are stored */
    size_t decided_count;
    const struct server_owner *owners;
    size_t owner_count;
};
/* fails: BUSY when the channel's serial is not serial_before any more (someone else published) */
DELTA_MUST_USE enum delta_status server_store_release_version(struct server_store *store,
                                                              const struct server_release *release,
                                                              struct delta_error *err);

/* ---- lists for people: appended as one MessagePack array of maps, newest first ---- */

enum server_list { SERVER_LIST_DEVICES, SERVER_LIST_VERSIONS, SERVER_LIST_CONTRIBUTIONS };
#define SERVER_LIST_ROWS 1000
DELTA_MUST_USE enum delta_status server_store_list(struct server_store *store,
                                                   enum server_list list, struct delta_buf *out,
                                                   struct delta_error *err);
/* Counts and the current version of each channel, as one MessagePack map. */
DELTA_MUST_USE enum delta_status
server_store_summary(struct server_store *store, struct delta_buf *out, struct delta_error *err);

#endif
