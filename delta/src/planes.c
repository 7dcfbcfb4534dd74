#include "planes.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

/* A reader holds a window: 2 MiB cost nothing on planes, which have no long matches. */
#define WINDOW_LOG 21

static uint32_t zigzag(uint32_t d)
{
    return d << 1 ^ (0u - (d >> 31));
}

static void split(uint8_t *planes, bool diff, const uint32_t *values, const uint32_t *base,
                  size_t count)
{
    const size_t block = diff ? DELTA_PLACES_BLOCK : count;

    for (size_t first = 0; first < count; first += block) {
        const size_t n = count - first < block ? count - first : block;
        for (size_t i = first; i < first + n; i++) {
            const uint32_t bits = diff ? zigzag(values[i] - base[i]) : values[i] ^ base[i];
            for (size_t k = 0; k < 4; k++)
                planes[4 * first + k * n + (i - first)] = (uint8_t)(bits >> (8 * k));
        }
    }
}

enum delta_status delta_planes_put(struct delta_buf *out, bool diff, int level,
                                   const uint32_t *values, const uint32_t *base, size_t count,
                                   bool *fits, struct delta_error *err)
{
    const size_t raw = count * sizeof *values; /* bounded by DELTA_MODEL_MAX_BYTES */
    uint8_t *planes = delta_calloc(raw, 1), *packed = delta_calloc(raw, 1);
    ZSTD_CCtx *ctx = ZSTD_createCCtx();
    enum delta_status st = DELTA_OK;
    size_t len;

    *fits = false;
    if (!planes || !packed || !ctx) {
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu bytes", raw);
        goto done;
    }
    split(planes, diff, values, base, count);
    (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_compressionLevel, level);
    if (raw > (size_t)1 << WINDOW_LOG)
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_windowLog, WINDOW_LOG);
    /* Room for less than raw only: what does not fit is not worth having. */
    len = ZSTD_compress2(ctx, packed, raw ? raw - 1 : 0, planes, raw);
    *fits = !ZSTD_isError(len);
    if (*fits)
        st = delta_buf_append(out, packed, len, err);
done:
    ZSTD_freeCCtx(ctx);
    free(planes);
    free(packed);
    return st;
}

/* ---- reading ---- */

struct unpacking {
    ZSTD_DCtx *ctx;
    struct delta_pull *pull;
    ZSTD_inBuffer in;
    size_t rest; /* what zstd said last; 0: the frame has ended */
};

static enum delta_status more_input(struct unpacking *u, struct delta_error *err)
{
    const size_t len = u->pull->left < DELTA_PULL_MAX ? u->pull->left : DELTA_PULL_MAX;
    const uint8_t *bytes;
    enum delta_status st;

    if (len == 0)
        return delta_fail(err, DELTA_FORMAT, "zstd: frame ends early");
    st = delta_pull_take(u->pull, len, &bytes, err);
    if (!st)
        u->in = (ZSTD_inBuffer){bytes, len, 0};
    return st;
}

static enum delta_status unpack(struct unpacking *u, uint8_t *out, size_t len,
                                struct delta_error *err)
{
    ZSTD_outBuffer to = {out, len, 0};

    while (to.pos < len) {
        const size_t before = to.pos;
        enum delta_status st = DELTA_OK;
        if (u->rest == 0)
            return delta_fail(err, DELTA_FORMAT, "zstd: frame is too short");
        u->rest = ZSTD_decompressStream(u->ctx, &to, &u->in);
        if (ZSTD_isError(u->rest))
            return delta_fail(err, DELTA_FORMAT, "zstd: %s", ZSTD_getErrorName(u->rest));
        if (to.pos < len && to.pos == before && u->in.pos == u->in.size && u->rest)
            st = more_input(u, err);
        if (st)
            return st;
    }
    return DELTA_OK;
}

/* The checksum, if there is one, and nothing behind it. */
static enum delta_status unpack_end(struct unpacking *u, struct delta_error *err)
{
    uint8_t none;
    ZSTD_outBuffer to = {&none, 0, 0};

    while (u->rest) {
        enum delta_status st;
        const size_t before = u->in.pos;
        u->rest = ZSTD_decompressStream(u->ctx, &to, &u->in);
        if (ZSTD_isError(u->rest))
            return delta_fail(err, DELTA_FORMAT, "zstd: %s", ZSTD_getErrorName(u->rest));
        if (u->rest == 0)
            break;
        if (u->in.pos < u->in.size && u->in.pos == before)
            return delta_fail(err, DELTA_FORMAT, "zstd: frame is longer than it states");
        st = u->in.pos == u->in.size ? more_input(u, err) : DELTA_OK;
        if (st)
            return st;
    }
    if (u->in.pos != u->in.size || u->pull->left)
        return delta_fail(err, DELTA_FORMAT, "payload is not one zstd frame");
    return DELTA_OK;
}

static enum delta_status get_xor(struct unpacking *u, struct delta_places start, uint32_t *elements,
                                 uint8_t *scratch, uint32_t *data, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    for (int k = 0; k < 4 && !st; k++) {
        struct delta_places places = start;
        size_t n;
        while (!st && (n = delta_places_next(&places, elements, DELTA_PLACES_BLOCK)) > 0) {
            st = unpack(u, scratch, n, err);
            for (size_t i = 0; i < n && !st; i++)
                data[elements[i]] ^= (uint32_t)scratch[i] << (8 * k);
        }
    }
    return st;
}

static enum delta_status get_diff(struct unpacking *u, struct delta_places places,
                                  uint32_t *elements, uint8_t *scratch, uint32_t *data,
                                  struct delta_error *err)
{
    enum delta_status st = DELTA_OK;
    size_t n;

    while (!st && (n = delta_places_next(&places, elements, DELTA_PLACES_BLOCK)) > 0) {
        st = unpack(u, scratch, 4 * n, err);
        for (size_t i = 0; i < n && !st; i++) {
            const uint32_t v = (uint32_t)scratch[i] | (uint32_t)scratch[n + i] << 8 |
                               (uint32_t)scratch[2 * n + i] << 16 |
                               (uint32_t)scratch[3 * n + i] << 24;
            data[elements[i]] += v >> 1 ^ (0u - (v & 1));
        }
    }
    return st;
}

enum delta_status delta_planes_get(struct delta_pull *pull, bool diff,
                                   const struct delta_tensor *tensor, enum delta_scope scope,
                                   size_t base_count, size_t count, uint32_t *elements,
                                   uint8_t *scratch, uint32_t *data, struct delta_error *err)
{
    struct unpacking u = {.ctx = ZSTD_createDCtx(), .pull = pull, .rest = 1};
    struct delta_places places;
    enum delta_status st = DELTA_OK;

    if (!u.ctx)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a zstd context");
    st = more_input(&u, err);
    if (!st && ZSTD_getFrameContentSize(u.in.src, u.in.size) != 4ull * count)
        st = delta_fail(err, DELTA_FORMAT, "zstd frame does not state the %llu bytes expected",
                        4ull * count);
    delta_places_begin(&places, tensor, scope, base_count);
    if (!st)
        st = diff ? get_diff(&u, places, elements, scratch, data, err)
                  : get_xor(&u, places, elements, scratch, data, err);
    if (!st)
        st = unpack_end(&u, err);
    ZSTD_freeDCtx(u.ctx);
    return st;
}
