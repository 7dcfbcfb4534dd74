/* The frame that model and delta files share: a fixed prefix, a MessagePack header, a signature
 * block, zero padding, then the payload area. Parses and builds the frame; knows nothing of what
 * header and payloads mean. Every byte of a file is bound: lengths must add up to the file's
 * size, padding must be zero, and the header binds the payloads by digest.
 */
#ifndef DELTA_CONTAINER_H
#define DELTA_CONTAINER_H

#include "delta/delta.h"
#include "delta/msg.h"

#define DELTA_FRAME_PREFIX 24
#define DELTA_FRAME_ALIGN 64
#define DELTA_HEADER_MAX ((size_t)16 << 20)
#define DELTA_SIGNATURES_MAX 8
#define DELTA_SIGNATURE_BLOCK_MAX 1024
/* A whole file: payload, header, paddings between 4096 tensors and their bitmaps. */
#define DELTA_CONTAINER_MAX (DELTA_MODEL_MAX_BYTES + ((size_t)64 << 20))

struct delta_frame {
    enum delta_container_kind kind;
    struct delta_bytes header;     /* borrowed */
    struct delta_bytes signatures; /* borrowed; empty: unsigned */
    struct delta_bytes payload;    /* borrowed; data is NULL where only the front is at hand */
    uint64_t payload_at;           /* offset in the file */
};

/* One element of the signature block. */
struct delta_signature {
    struct delta_digest key;
    struct delta_bytes der; /* borrowed */
};

/* Splits a file; the signature block's structure is checked, no signature is verified.
 *   fails    TRUNCATED, FORMAT, LIMIT */
DELTA_MUST_USE enum delta_status delta_frame_parse(struct delta_frame *out, struct delta_bytes file,
                                                   struct delta_error *err);

/* The same of the file's front alone (delta_front_read): all but the payload area, of which only
 * the length is known. */
DELTA_MUST_USE enum delta_status delta_frame_parse_front(struct delta_frame *out,
                                                         struct delta_bytes front,
                                                         uint64_t file_len,
                                                         struct delta_error *err);

/* Begins an unsigned file image in `out` (initialised here): prefix, header, padding and
 * `payload_len` zero bytes; *payload (may be NULL) points to them.  fails: LIMIT, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_frame_build(enum delta_container_kind kind,
                                                   struct delta_bytes header, size_t payload_len,
                                                   struct delta_buf *out, uint8_t **payload,
                                                   struct delta_error *err);

/* Everything before the payload area of an unsigned file, appended to `out` (initialised here).
 *   fails    LIMIT, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_frame_front(enum delta_container_kind kind,
                                                   struct delta_bytes header, size_t payload_len,
                                                   struct delta_buf *out, struct delta_error *err);

/* Bytes before the payload area, told by a file's first DELTA_FRAME_PREFIX bytes.
 *   fails    TRUNCATED, FORMAT, LIMIT, UNSUPPORTED */
DELTA_MUST_USE enum delta_status delta_front_len(struct delta_bytes prefix, size_t *len,
                                                 struct delta_error *err);

/* Elements of a frame's signature block, in file order. */
DELTA_MUST_USE enum delta_status
delta_frame_signatures(const struct delta_frame *frame,
                       struct delta_signature out[DELTA_SIGNATURES_MAX], size_t *count,
                       struct delta_error *err);

/* *offset rounded up to the frame's alignment; false where it would overflow. */
static inline bool delta_frame_align(size_t *offset)
{
    if (!delta_size_add(*offset, DELTA_FRAME_ALIGN - 1, offset))
        return false;
    *offset &= ~(size_t)(DELTA_FRAME_ALIGN - 1);
    return true;
}

/* Takes the next `len` bytes of a payload area that is read front to back: skips padding up to the
 * alignment (which must be zero) and moves *offset behind. Where only the front is at hand, *out
 * has a length and no data.  fails: TRUNCATED, FORMAT */
DELTA_MUST_USE enum delta_status delta_frame_take(struct delta_bytes payload, size_t *offset,
                                                  size_t len, struct delta_bytes *out,
                                                  struct delta_error *err);

#endif
