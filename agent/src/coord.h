/* The coordinator's protocol (server-mock/PROTOCOL.md) as calls: builds and reads the MessagePack
 * bodies, retries what time may mend, resumes transfers. It moves files and numbers; it neither
 * judges a channel document nor trusts a blob beyond its digest. */
#ifndef AGENT_COORD_H
#define AGENT_COORD_H

#include "delta/channel.h"
#include "retry.h"
#include "transport.h"

/* Upload pieces: small enough that a broken link loses little. */
#define AGENT_UPLOAD_PIECE ((size_t)1 << 20)
/* Longer waits than this are not slept through: the call fails and `retry_after_ms` tells. */
#define AGENT_PATIENCE_MS (60 * 1000)

struct agent_coord {
    struct agent_transport transport;
    const struct agent_env *env; /* borrowed */
    struct agent_retry_policy retry;
    /* Of the last failed call: */
    enum delta_status peer_status; /* what the coordinator named, OK = nothing */
    int64_t retry_after_ms;        /* what it asked for, -1 = nothing */
};

void agent_coord_init(struct agent_coord *coord, struct agent_transport transport,
                      const struct agent_env *env);

/* All calls below: fails with NET statuses when the tries are used up, REFUSED with the
 * coordinator's words for other 4xx, NOT_FOUND for 404, UNTRUSTED, FORMAT, INTERRUPTED. */

#define AGENT_CERTIFICATE_MAX 4096
struct agent_enrolment {
    uint8_t ca[AGENT_CERTIFICATE_MAX];
    size_t ca_len;
    uint8_t certificate[AGENT_CERTIFICATE_MAX];
    size_t certificate_len;
    char channel[DELTA_CHANNEL_NAME_MAX + 1];
    uint8_t release_key[DELTA_PUBLIC_KEY_MAX];
    size_t release_key_len;
};
DELTA_MUST_USE enum delta_status agent_coord_enrol(struct agent_coord *coord,
                                                   struct delta_bytes csr, const char *device,
                                                   const char *token, struct agent_enrolment *out,
                                                   struct delta_error *err);

/* The channel document as sealed.
 *   etag     in: of the stored one, "" = none; out: of the new one
 *   sealed   initialised here; filled only when *changed; release it in any case */
DELTA_MUST_USE enum delta_status agent_coord_poll(struct agent_coord *coord, const char *channel,
                                                  char etag[80], struct delta_buf *sealed,
                                                  bool *changed, struct delta_error *err);

/* Downloads a blob of exactly `bytes` bytes to `path` through `path`.part, which a later call goes
 * on from. The content has the digest when this succeeds.
 *   fails    DIGEST and LIMIT (the coordinator sends something else; the part is dropped), disk */
DELTA_MUST_USE enum delta_status agent_coord_fetch(struct agent_coord *coord,
                                                   enum agent_traffic kind,
                                                   const struct delta_digest *blob, uint64_t bytes,
                                                   const char *path, struct delta_error *err);

enum agent_verdict { AGENT_VERDICT_PENDING, AGENT_VERDICT_MERGED, AGENT_VERDICT_REJECTED };
struct agent_answer {
    enum agent_verdict verdict;
    char reason[200];
    struct delta_digest version; /* zero unless merged */
};
/* Uploads a contribution, from where an earlier attempt ended. Idempotent.
 *   fails    REFUSED when admission said no (peer_status tells why) */
DELTA_MUST_USE enum delta_status
agent_coord_offer(struct agent_coord *coord, const struct delta_digest *digest,
                  struct delta_bytes file, struct agent_answer *answer, struct delta_error *err);
DELTA_MUST_USE enum delta_status agent_coord_ask(struct agent_coord *coord,
                                                 const struct delta_digest *digest,
                                                 struct agent_answer *answer,
                                                 struct delta_error *err);

struct agent_report {
    char event[16]; /* "installed" | "rolled-back" | "rejected" */
    double old;     /* accuracy on old classes, 0..1 */
    uint32_t tested;
    char reason[200];
    struct delta_digest version;
};
DELTA_MUST_USE enum delta_status agent_coord_report(struct agent_coord *coord,
                                                    const struct agent_report *report,
                                                    struct delta_error *err);

#endif
