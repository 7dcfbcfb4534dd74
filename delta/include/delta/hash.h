/* SHA-256 (FIPS 180-4, computed by mbedTLS) and the digest type that names everything. */
#ifndef DELTA_HASH_H
#define DELTA_HASH_H

#include "delta/buf.h"

#define DELTA_DIGEST_BYTES 32
#define DELTA_DIGEST_HEX (2 * DELTA_DIGEST_BYTES + 1)

struct delta_digest {
    uint8_t bytes[DELTA_DIGEST_BYTES];
};

struct delta_hash { /* streaming; one thread at a time; no release needed before finish */
    void *state;
};

/* Digest of bytes in memory; cannot fail. */
struct delta_digest delta_sha256(struct delta_bytes bytes);

DELTA_MUST_USE enum delta_status delta_hash_init(struct delta_hash *hash, struct delta_error *err);
void delta_hash_update(struct delta_hash *hash, struct delta_bytes bytes);
struct delta_digest delta_hash_finish(struct delta_hash *hash); /* also releases */
void delta_hash_release(struct delta_hash *hash);               /* to give up early */

/* Digest and size of a file's content, read in pieces.  fails: NOT_FOUND, IO */
DELTA_MUST_USE enum delta_status delta_sha256_file(const char *path, struct delta_digest *digest,
                                                   uint64_t *size, struct delta_error *err);

bool delta_digest_equal(const struct delta_digest *a, const struct delta_digest *b);
bool delta_digest_is_zero(const struct delta_digest *digest); /* zero = "none" */
void delta_digest_hex(char out[DELTA_DIGEST_HEX], const struct delta_digest *digest);
bool delta_digest_parse(struct delta_digest *out, const char *hex);

/* Cryptographic random bytes from the kernel (getrandom). fails: IO */
DELTA_MUST_USE enum delta_status delta_random(void *out, size_t len, struct delta_error *err);

#endif
