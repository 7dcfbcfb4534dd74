/* The channel document: what a device polls. Signed by the release key, cacheable, the same for
 * every device: each device computes from it what concerns itself. Shared by coordinator and
 * agent, hence here; wire form in server-mock/PROTOCOL.md. */
#ifndef DELTA_CHANNEL_H
#define DELTA_CHANNEL_H

#include "delta/delta.h"

#define DELTA_CHANNEL_NAME_MAX 63
#define DELTA_CHANNEL_MAX_EDGES 16
#define DELTA_CHANNEL_MAX_BYTES 16384

/* A delta file that leads from an older version to the document's version. */
struct delta_channel_edge {
    struct delta_digest from; /* version digest */
    struct delta_digest blob; /* SHA-256 of the .fld file */
    uint64_t bytes;
};

struct delta_channel {
    char name[DELTA_CHANNEL_NAME_MAX + 1];
    uint64_t serial; /* strictly growing per channel; a device never accepts a smaller one */
    int64_t issued_ms;
    int64_t expires_ms;
    uint32_t poll_s;   /* devices poll again after poll_s plus up to 25 % jitter */
    bool paused;       /* true: do not install */
    uint32_t permille; /* cohort: devices with SHA-256(rollout || device) mod 1000 < permille */
    struct delta_digest rollout;
    struct delta_digest version;
    struct delta_digest model_blob; /* the full signed .flm */
    uint64_t model_bytes;
    struct delta_channel_edge edges[DELTA_CHANNEL_MAX_EDGES];
    size_t edge_count;
};

/* Encodes and signs; out is initialised here. */
DELTA_MUST_USE enum delta_status delta_channel_seal(const struct delta_channel *channel,
                                                    const struct delta_key *key,
                                                    struct delta_buf *out, struct delta_error *err);
/* Verifies, then decodes. Expiry and serial are the caller's to judge (it owns clock and memory).
 *   fails    TRUNCATED, FORMAT, LIMIT, SIGNATURE, UNTRUSTED */
DELTA_MUST_USE enum delta_status delta_channel_open(struct delta_channel *out,
                                                    struct delta_bytes sealed,
                                                    const struct delta_keyring *ring,
                                                    struct delta_error *err);

/* Does the document's rollout reach this device? (permille cohort) */
bool delta_channel_reaches(const struct delta_channel *channel, const char *device);

/* Channel and device names: [a-z0-9._-], 1..63 bytes, not starting with '.' or '-'. */
DELTA_MUST_USE enum delta_status delta_name_check(const char *what, const char *name,
                                                  struct delta_error *err);

#endif
