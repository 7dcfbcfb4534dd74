#include "delta/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <mbedtls/sha256.h>
#include <mbedtls/version.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* mbedTLS 2.28 names the checked functions *_ret; 3.x dropped the suffix. */
#if MBEDTLS_VERSION_NUMBER < 0x03000000
#define sha_starts mbedtls_sha256_starts_ret
#define sha_update mbedtls_sha256_update_ret
#define sha_finish mbedtls_sha256_finish_ret
#else
#define sha_starts mbedtls_sha256_starts
#define sha_update mbedtls_sha256_update
#define sha_finish mbedtls_sha256_finish
#endif

struct delta_digest delta_sha256(struct delta_bytes bytes)
{
    struct delta_digest digest;
    mbedtls_sha256_context ctx;

    mbedtls_sha256_init(&ctx);
    /* The software implementation has no failure path; hardware ones do not apply here. */
    (void)sha_starts(&ctx, 0);
    if (bytes.len)
        (void)sha_update(&ctx, bytes.data, bytes.len);
    (void)sha_finish(&ctx, digest.bytes);
    mbedtls_sha256_free(&ctx);
    return digest;
}

enum delta_status delta_hash_init(struct delta_hash *hash, struct delta_error *err)
{
    mbedtls_sha256_context *ctx = delta_calloc(1, sizeof *ctx);

    hash->state = ctx;
    if (!ctx)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a hash");
    mbedtls_sha256_init(ctx);
    (void)sha_starts(ctx, 0);
    return DELTA_OK;
}

void delta_hash_update(struct delta_hash *hash, struct delta_bytes bytes)
{
    if (bytes.len)
        (void)sha_update(hash->state, bytes.data, bytes.len);
}

struct delta_digest delta_hash_finish(struct delta_hash *hash)
{
    struct delta_digest digest;

    (void)sha_finish(hash->state, digest.bytes);
    delta_hash_release(hash);
    return digest;
}

void delta_hash_release(struct delta_hash *hash)
{
    if (!hash || !hash->state)
        return;
    mbedtls_sha256_free(hash->state);
    free(hash->state);
    hash->state = NULL;
}

enum delta_status delta_sha256_file(const char *path, struct delta_digest *digest, uint64_t *size,
                                    struct delta_error *err)
{
    enum delta_status st = DELTA_INTERNAL;
    struct delta_hash hash = {NULL};
    uint8_t piece[65536];
    uint64_t total = 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return delta_fail_errno(err, "cannot open '%s'", path);
    st = delta_hash_init(&hash, err);
    if (st)
        goto done;
    for (;;) {
        const ssize_t got = read(fd, piece, sizeof piece);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            st = delta_fail_errno(err, "cannot read '%s'", path);
            goto done;
        }
        if (got == 0)
            break;
        delta_hash_update(&hash, delta_bytes(piece, (size_t)got));
        total += (uint64_t)got;
    }
    *digest = delta_hash_finish(&hash);
    if (size)
        *size = total;
    st = DELTA_OK;
done:
    delta_hash_release(&hash);
    close(fd);
    return st;
}

bool delta_digest_equal(const struct delta_digest *a, const struct delta_digest *b)
{
    return memcmp(a->bytes, b->bytes, DELTA_DIGEST_BYTES) == 0;
}

bool delta_digest_is_zero(const struct delta_digest *digest)
{
    static const struct delta_digest zero;

    return delta_digest_equal(digest, &zero);
}

void delta_digest_hex(char out[DELTA_DIGEST_HEX], const struct delta_digest *digest)
{
    delta_hex(out, digest->bytes, DELTA_DIGEST_BYTES);
}

bool delta_digest_parse(struct delta_digest *out, const char *hex)
{
    return delta_unhex(out->bytes, DELTA_DIGEST_BYTES, hex);
}

enum delta_status delta_random(void *out, size_t len, struct delta_error *err)
{
    uint8_t *p = out;

    while (len) {
        const ssize_t got = getrandom(p, len, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return delta_fail_errno(err, "cannot read random bytes");
        p += got;
        len -= (size_t)got;
    }
    return DELTA_OK;
}
