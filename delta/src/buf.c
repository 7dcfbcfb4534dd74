#include "delta/buf.h"

#include <stdlib.h>
#include <string.h>

bool delta_bytes_equal(struct delta_bytes a, struct delta_bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

void *delta_calloc(size_t count, size_t size)
{
    size_t bytes;

    /* calloc checks too, but the sanitizers' one aborts instead of answering NULL. */
    if (!delta_size_mul(count, size, &bytes))
        return NULL;
    return calloc(bytes ? bytes : 1, 1);
}

void *delta_calloc_aligned(size_t count, size_t size)
{
    size_t bytes;
    void *p;

    if (!delta_size_mul(count, size, &bytes) || !delta_size_add(bytes, 64, &bytes))
        return NULL;
    bytes &= ~(size_t)63;
    if (bytes == 0)
        bytes = 64;
    p = aligned_alloc(64, bytes);
    if (p)
        memset(p, 0, bytes);
    return p;
}

void delta_buf_init(struct delta_buf *buf, size_t cap)
{
    *buf = (struct delta_buf){.cap = cap};
}

void delta_buf_release(struct delta_buf *buf)
{
    if (!buf)
        return;
    free(buf->data);
    *buf = (struct delta_buf){.cap = buf->cap};
}

void delta_buf_clear(struct delta_buf *buf)
{
    buf->len = 0;
}

static enum delta_status buf_reserve(struct delta_buf *buf, size_t more, struct delta_error *err)
{
    size_t need, room;
    uint8_t *data;

    if (!delta_size_add(buf->len, more, &need) || need > buf->cap)
        return delta_fail(err, DELTA_LIMIT, "would exceed the limit of %zu bytes", buf->cap);
    if (need <= buf->room)
        return DELTA_OK;
    room = buf->room ? buf->room : 256;
    while (room < need)
        room = room > SIZE_MAX / 2 ? need : room * 2;
    if (room > buf->cap)
        room = buf->cap;
    data = realloc(buf->data, room);
    if (!data)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu bytes", room);
    buf->data = data;
    buf->room = room;
    return DELTA_OK;
}

enum delta_status delta_buf_append(struct delta_buf *buf, const void *data, size_t len,
                                   struct delta_error *err)
{
    const enum delta_status st = buf_reserve(buf, len, err);

    if (st)
        return st;
    if (len)
        memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    return DELTA_OK;
}

enum delta_status delta_buf_extend(struct delta_buf *buf, size_t len, uint8_t **at,
                                   struct delta_error *err)
{
    const enum delta_status st = buf_reserve(buf, len, err);

    if (st)
        return st;
    if (len)
        memset(buf->data + buf->len, 0, len);
    if (at)
        *at = buf->data ? buf->data + buf->len : NULL; /* NULL + 0 is undefined */
    buf->len += len;
    return DELTA_OK;
}

void delta_hex(char *out, const void *data, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *p = data;

    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * len] = '\0';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool delta_unhex(void *out, size_t len, const char *text)
{
    uint8_t *p = out;

    for (size_t i = 0; i < len; i++) {
        const int high = hex_digit(text[2 * i]);
        const int low = high < 0 ? -1 : hex_digit(text[2 * i + 1]);
        if (low < 0)
            return false;
        p[i] = (uint8_t)(high << 4 | low);
    }
    return text[2 * len] == '\0';
}
