/* Borrowed byte ranges, growable buffers born with a cap, and checked size arithmetic.
 * A buffer refuses to grow beyond its cap: that is how a hostile length costs nothing. */
#ifndef DELTA_BUF_H
#define DELTA_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "delta/status.h"

/* Borrowed bytes; whoever gave them keeps them alive. */
struct delta_bytes {
    const uint8_t *data;
    size_t len;
};

static inline struct delta_bytes delta_bytes(const void *data, size_t len)
{
    return (struct delta_bytes){data, len};
}

bool delta_bytes_equal(struct delta_bytes a, struct delta_bytes b);

/* True and *out = a*b (a+b), or false where it would overflow. */
static inline bool delta_size_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool delta_size_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* Zeroed array, or NULL when out of memory or count*size overflows. free() it. */
void *delta_calloc(size_t count, size_t size);

/* Zeroed and aligned to 64 bytes; free() it. NULL as above; bytes == 0 gives a valid pointer. */
void *delta_calloc_aligned(size_t count, size_t size);

struct delta_buf {
    uint8_t *data;
    size_t len;
    size_t room;
    size_t cap; /* never grows beyond; set at init */
};

void delta_buf_init(struct delta_buf *buf, size_t cap);
void delta_buf_release(struct delta_buf *buf); /* accepts a zeroed one */
void delta_buf_clear(struct delta_buf *buf);   /* len = 0, memory kept */

/* fails: LIMIT (cap), NO_MEMORY; the buffer is unchanged then */
DELTA_MUST_USE enum delta_status delta_buf_append(struct delta_buf *buf, const void *data,
                                                  size_t len, struct delta_error *err);
/* Appends `len` zero bytes; *at (may be NULL) points to them until the next growth. */
DELTA_MUST_USE enum delta_status delta_buf_extend(struct delta_buf *buf, size_t len, uint8_t **at,
                                                  struct delta_error *err);

static inline struct delta_bytes delta_buf_bytes(const struct delta_buf *buf)
{
    return (struct delta_bytes){buf->data, buf->len};
}

/* Lower-case hex, NUL-terminated: out holds 2*len + 1. */
void delta_hex(char *out, const void *data, size_t len);
/* Exactly 2*len hex digits and nothing else; false otherwise. */
bool delta_unhex(void *out, size_t len, const char *text);

#endif
