/* ECDSA P-256 keys and signatures over SHA-256 (mbedTLS behind this one file). */
#ifndef DELTA_KEY_H
#define DELTA_KEY_H

#include "delta/hash.h"

#define DELTA_SIGNATURE_MAX 80   /* DER-encoded ECDSA P-256 */
#define DELTA_PUBLIC_KEY_MAX 128 /* DER SubjectPublicKeyInfo: 91 bytes for P-256 */

/* A private key; release clears it from memory. One thread at a time. */
struct delta_key {
    void *context; /* mbedtls_pk_context */
};

/* A public key; its id is the SHA-256 of its DER SubjectPublicKeyInfo. */
struct delta_public_key {
    uint8_t der[DELTA_PUBLIC_KEY_MAX];
    size_t len;
    struct delta_digest id;
};

DELTA_MUST_USE enum delta_status delta_key_generate(struct delta_key *key, struct delta_error *err);
/* PEM (SEC1 or PKCS#8), unencrypted.  fails: FORMAT, UNSUPPORTED (not P-256), NOT_FOUND, IO */
DELTA_MUST_USE enum delta_status delta_key_load(struct delta_key *key, const char *path,
                                                struct delta_error *err);
/* Atomically, mode 0600.  fails: EXISTS (a symbolic link counts), IO, NO_SPACE */
DELTA_MUST_USE enum delta_status delta_key_save(const struct delta_key *key, const char *path,
                                                struct delta_error *err);
/* The same, and the key that lies there is lost. */
DELTA_MUST_USE enum delta_status delta_key_replace(const struct delta_key *key, const char *path,
                                                   struct delta_error *err);
void delta_key_release(struct delta_key *key);
DELTA_MUST_USE enum delta_status delta_key_public(const struct delta_key *key,
                                                  struct delta_public_key *out,
                                                  struct delta_error *err);

/* From DER SubjectPublicKeyInfo.  fails: FORMAT, UNSUPPORTED */
DELTA_MUST_USE enum delta_status delta_public_key_parse(struct delta_public_key *out,
                                                        struct delta_bytes der,
                                                        struct delta_error *err);
/* From a PEM file that holds a public key, a private key or a certificate. */
DELTA_MUST_USE enum delta_status delta_public_key_load(struct delta_public_key *out,
                                                       const char *path, struct delta_error *err);

/* PEM, atomically, mode 0644.  fails: EXISTS, IO, NO_SPACE */
DELTA_MUST_USE enum delta_status delta_public_key_save(const struct delta_public_key *key,
                                                       const char *path, struct delta_error *err);

/* Signs SHA-256(bytes); *len = length of the DER signature. */
DELTA_MUST_USE enum delta_status delta_key_sign(const struct delta_key *key,
                                                struct delta_bytes bytes,
                                                uint8_t signature[DELTA_SIGNATURE_MAX], size_t *len,
                                                struct delta_error *err);
/* fails: SIGNATURE */
DELTA_MUST_USE enum delta_status delta_public_key_verify(const struct delta_public_key *key,
                                                         struct delta_bytes bytes,
                                                         struct delta_bytes signature,
                                                         struct delta_error *err);

/* The keys one trusts for one purpose. */
#define DELTA_KEYRING_MAX 16
struct delta_keyring {
    struct delta_public_key keys[DELTA_KEYRING_MAX];
    size_t count;
};
DELTA_MUST_USE enum delta_status delta_keyring_add(struct delta_keyring *ring,
                                                   const struct delta_public_key *key,
                                                   struct delta_error *err);
const struct delta_public_key *delta_keyring_find(const struct delta_keyring *ring,
                                                  const struct delta_digest *id);

#endif
