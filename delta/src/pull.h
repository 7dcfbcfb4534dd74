/* Where a payload decoder gets its bytes: front to back, a piece at a time, from memory or from a
 * file of which no more than one piece is held. Bytes from a file are hashed on their way; whether
 * the digest is right is known at the end only, so decoders trust nothing.
 */
#ifndef DELTA_PULL_H
#define DELTA_PULL_H

#include "delta/hash.h"

#define DELTA_PULL_MAX ((size_t)1 << 18) /* bytes that one call can ask for */

struct delta_pull {
    const uint8_t *memory; /* the next byte, or NULL: from the file */
    size_t left;
    int fd;
    uint64_t offset; /* of the next byte in the file */
    uint8_t *piece;  /* the caller's, [DELTA_PULL_MAX] */
    struct delta_hash *hash;
};

void delta_pull_memory(struct delta_pull *pull, struct delta_bytes bytes);
/* fd, piece and hash (may be NULL) are the caller's and outlive the pull. */
void delta_pull_file(struct delta_pull *pull, int fd, uint64_t offset, size_t len, uint8_t *piece,
                     struct delta_hash *hash);

/* The next `len` bytes; *out stays valid until the next call.
 *   fails    FORMAT (fewer are left, or more than DELTA_PULL_MAX asked for), IO */
DELTA_MUST_USE enum delta_status delta_pull_take(struct delta_pull *pull, size_t len,
                                                 const uint8_t **out, struct delta_error *err);
/* FORMAT unless all bytes were taken. */
DELTA_MUST_USE enum delta_status delta_pull_end(const struct delta_pull *pull,
                                                struct delta_error *err);

static inline uint32_t delta_le16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static inline uint32_t delta_le32(const uint8_t *p)
{
    return delta_le16(p) | delta_le16(p + 2) << 16;
}

#endif
