#include "delta/npy.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pack.h"

static const uint8_t magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

#define PREFIX 10 /* magic, version, two bytes of header length */
#define ALIGN 64
#define HEADER_MAX 65535

enum delta_status delta_npy_write(struct delta_buf *out, const struct delta_tensor *tensor,
                                  struct delta_error *err)
{
    char head[256];
    uint8_t prefix[PREFIX] = {0, 0, 0, 0, 0, 0, 1, 0};
    size_t used =
        (size_t)snprintf(head, sizeof head, "{'descr': '<f4', 'fortran_order': False, 'shape': (");
    enum delta_status st;

    for (uint32_t i = 0; i < tensor->rank; i++)
        used += (size_t)snprintf(head + used, sizeof head - used, "%" PRIu64 "%s", tensor->shape[i],
                                 i + 1 < tensor->rank ? ", "
                                 : tensor->rank == 1  ? ","
                                                      : "");
    used += (size_t)snprintf(head + used, sizeof head - used, "), }");
    while ((PREFIX + used + 1) % ALIGN) /* numpy wants the data aligned and a newline before it */
        head[used++] = ' ';
    head[used++] = '\n';
    memcpy(prefix, magic, sizeof magic);
    prefix[8] = (uint8_t)used;
    prefix[9] = (uint8_t)(used >> 8);
    st = delta_buf_append(out, prefix, sizeof prefix, err);
    if (!st)
        st = delta_buf_append(out, head, used, err);
    return st ? st : delta_buf_append(out, tensor->data, tensor->count * sizeof(float), err);
}

/* ---- reading: the header is a Python dict of three known keys ---- */

struct cursor {
    const char *at, *end;
};

static void skip_blanks(struct cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t'))
        c->at++;
}

static bool take(struct cursor *c, const char *word)
{
    const size_t len = strlen(word);

    skip_blanks(c);
    if ((size_t)(c->end - c->at) < len || memcmp(c->at, word, len) != 0)
        return false;
    c->at += len;
    return true;
}

/* A word in single or double quotes, without escapes. */
static bool take_quoted(struct cursor *c, char *out, size_t size)
{
    const char quote = take(c, "'") ? '\'' : take(c, "\"") ? '"' : '\0';
    size_t len = 0;

    if (!quote)
        return false;
    while (c->at < c->end && *c->at != quote && *c->at != '\\' && len + 1 < size)
        out[len++] = *c->at++;
    out[len] = '\0';
    if (c->at == c->end || *c->at != quote)
        return false;
    c->at++;
    return true;
}

static bool take_number(struct cursor *c, uint64_t *out)
{
    bool any = false;

    *out = 0;
    skip_blanks(c);
    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++, any = true)
        if (__builtin_mul_overflow(*out, (uint64_t)10, out) ||
            __builtin_add_overflow(*out, (uint64_t)(*c->at - '0'), out))
            return false;
    return any;
}

static enum delta_status take_shape(struct cursor *c, struct delta_npy *out,
                                    struct delta_error *err)
{
    out->rank = 0;
    if (!take(c, "("))
        return delta_fail(err, DELTA_FORMAT, "its npy header has no shape");
    while (!take(c, ")")) {
        if (out->rank == DELTA_TENSOR_RANK_MAX)
            return delta_fail(err, DELTA_UNSUPPORTED, "an array of more than %d dimensions",
                              DELTA_TENSOR_RANK_MAX);
        if (!take_number(c, &out->shape[out->rank++]))
            return delta_fail(err, DELTA_FORMAT, "its npy header has no shape");
        (void)take(c, ",");
    }
    if (out->rank == 0) {
        out->rank = 1;
        out->shape[0] = 1;
    }
    return DELTA_OK;
}

static enum delta_status take_dict(struct cursor *c, struct delta_npy *out, struct delta_error *err)
{
    bool descr = false, order = false, shape = false;
    char key[32], word[32];
    enum delta_status st = DELTA_OK;

    if (!take(c, "{"))
        return delta_fail(err, DELTA_FORMAT, "its npy header is no dictionary");
    while (!st && !take(c, "}")) {
        if (!take_quoted(c, key, sizeof key) || !take(c, ":"))
            return delta_fail(err, DELTA_FORMAT, "its npy header is malformed");
        if (strcmp(key, "descr") == 0 && !descr) {
            descr = take_quoted(c, word, sizeof word);
            if (!descr || strcmp(word, "<f4") != 0)
                return delta_fail(err, DELTA_UNSUPPORTED,
                                  "its values are not float32 ('<f4'); convert them first");
        } else if (strcmp(key, "fortran_order") == 0 && !order) {
            order = take(c, "False");
            if (!order)
                return delta_fail(err, DELTA_UNSUPPORTED,
                                  "Fortran order; write numpy.ascontiguousarray() of it");
        } else if (strcmp(key, "shape") == 0 && !shape) {
            shape = true;
            st = take_shape(c, out, err);
        } else {
            return delta_fail(err, DELTA_FORMAT, "its npy header has the key '%s' unasked", key);
        }
        (void)take(c, ",");
    }
    if (!st && !(descr && order && shape))
        st = delta_fail(err, DELTA_FORMAT, "its npy header lacks descr, fortran_order or shape");
    return st;
}

enum delta_status delta_npy_read(struct delta_npy *out, struct delta_bytes file,
                                 struct delta_error *err)
{
    size_t skip, len;
    enum delta_status st;

    *out = (struct delta_npy){.rank = 0};
    if (file.len < PREFIX + 2)
        return delta_fail(err, DELTA_TRUNCATED, "it ends within the npy header");
    if (memcmp(file.data, magic, sizeof magic) != 0)
        return delta_fail(err, DELTA_FORMAT, "it is not in npy format");
    if (file.data[6] < 1 || file.data[6] > 3)
        return delta_fail(err, DELTA_UNSUPPORTED, "npy format %d.%d", file.data[6], file.data[7]);
    skip = file.data[6] == 1 ? PREFIX : PREFIX + 2;
    len = (size_t)file.data[8] | (size_t)file.data[9] << 8;
    if (file.data[6] > 1)
        len |= (size_t)file.data[10] << 16 | (size_t)file.data[11] << 24;
    if (len > HEADER_MAX)
        return delta_fail(err, DELTA_LIMIT, "an npy header of %zu bytes", len);
    if (len > file.len - skip)
        return delta_fail(err, DELTA_TRUNCATED, "it ends within the npy header");
    struct cursor cursor = {(const char *)file.data + skip, (const char *)file.data + skip + len};
    st = take_dict(&cursor, out, err);
    if (!st)
        st = delta_shape_count(out->rank, out->shape, &out->count, err);
    if (st)
        return st;
    out->values = delta_bytes(file.data + skip + len, file.len - skip - len);
    if (out->values.len != out->count * sizeof(float))
        return delta_fail(
            err, out->values.len < out->count * sizeof(float) ? DELTA_TRUNCATED : DELTA_FORMAT,
            "%zu bytes of values instead of %zu", out->values.len, out->count * sizeof(float));
    return DELTA_OK;
}
