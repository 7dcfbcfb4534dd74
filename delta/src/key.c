#include "delta/key.h"

#include <mbedtls/ecp.h>
#include <mbedtls/pem.h>
#include <mbedtls/pk.h>
#include <mbedtls/platform_util.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"

/* A key or certificate file is a few kilobytes; more is a mistaken path. */
#define KEY_FILE_MAX 65536

/* The kernel is the generator: no seeding, nothing to share between threads or across fork. */
static int key_random(void *context, unsigned char *out, size_t len)
{
    (void)context;
    return delta_random(out, len, NULL) ? MBEDTLS_ERR_PK_BAD_INPUT_DATA : 0;
}

static mbedtls_ecp_group_id curve_of(const mbedtls_pk_context *pk)
{
    if (!mbedtls_pk_can_do(pk, MBEDTLS_PK_ECKEY))
        return MBEDTLS_ECP_DP_NONE;
#if MBEDTLS_VERSION_NUMBER < 0x03000000
    return mbedtls_pk_ec(*pk)->grp.id;
#else
    return mbedtls_ecp_keypair_get_group_id(mbedtls_pk_ec(*pk));
#endif
}

static enum delta_status check_curve(const mbedtls_pk_context *pk, struct delta_error *err)
{
    if (curve_of(pk) != MBEDTLS_ECP_DP_SECP256R1)
        return delta_fail(err, DELTA_UNSUPPORTED,
                          "key is not ECDSA P-256; make one with 'frostline delta keygen'");
    return DELTA_OK;
}

static enum delta_status key_new(mbedtls_pk_context **out, struct delta_error *err)
{
    *out = delta_calloc(1, sizeof **out);
    if (!*out)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a key");
    mbedtls_pk_init(*out);
    return DELTA_OK;
}

static void key_drop(mbedtls_pk_context *pk)
{
    if (pk)
        mbedtls_pk_free(pk);
    free(pk);
}

void delta_key_release(struct delta_key *key)
{
    if (!key)
        return;
    key_drop(key->context); /* mbedTLS wipes the private number */
    key->context = NULL;
}

enum delta_status delta_key_generate(struct delta_key *key, struct delta_error *err)
{
    mbedtls_pk_context *pk;
    enum delta_status st = key_new(&pk, err);

    if (st)
        return st;
    if (mbedtls_pk_setup(pk, mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY)) ||
        mbedtls_ecp_gen_key(MBEDTLS_ECP_DP_SECP256R1, mbedtls_pk_ec(*pk), key_random, NULL)) {
        key_drop(pk);
        return delta_fail(err, DELTA_INTERNAL, "cannot generate a key");
    }
    key->context = pk;
    return DELTA_OK;
}

/* mbedTLS wants PEM text with its NUL counted in. */
static enum delta_status read_text(const char *path, struct delta_buf *out, struct delta_error *err)
{
    enum delta_status st = delta_file_read(path, KEY_FILE_MAX, out, err);

    if (st)
        return st;
    if (memchr(out->data ? out->data : (const uint8_t *)"", 0, out->len))
        st = delta_fail(err, DELTA_FORMAT, "'%s' is not a PEM file: it holds zero bytes", path);
    if (!st) {
        out->cap = KEY_FILE_MAX + 1;
        st = delta_buf_append(out, "", 1, err);
    }
    if (st)
        delta_buf_release(out);
    return st;
}

/* Wipes a buffer that held a private key before it goes back to the heap. */
static void wipe_release(struct delta_buf *buf)
{
    if (buf->data)
        mbedtls_platform_zeroize(buf->data, buf->room);
    delta_buf_release(buf);
}

static int parse_private(mbedtls_pk_context *pk, struct delta_bytes text)
{
#if MBEDTLS_VERSION_NUMBER < 0x03000000
    return mbedtls_pk_parse_key(pk, text.data, text.len, NULL, 0);
#else
    return mbedtls_pk_parse_key(pk, text.data, text.len, NULL, 0, key_random, NULL);
#endif
}

enum delta_status delta_key_load(struct delta_key *key, const char *path, struct delta_error *err)
{
    struct delta_buf text;
    mbedtls_pk_context *pk = NULL;
    enum delta_status st = read_text(path, &text, err);

    if (st)
        return st;
    st = key_new(&pk, err);
    if (st)
        goto done;
    if (parse_private(pk, delta_buf_bytes(&text))) {
        st = delta_fail(err, DELTA_FORMAT, "'%s' is not an unencrypted private key in PEM form",
                        path);
        goto done;
    }
    st = check_curve(pk, err);
    if (st) {
        st = delta_fail_in(err, st, "'%s'", path);
        goto done;
    }
    key->context = pk;
    pk = NULL;
done:
    key_drop(pk);
    wipe_release(&text);
    return st;
}

static enum delta_status write_private(const struct delta_key *key, const char *path, bool replace,
                                       struct delta_error *err)
{
    unsigned char text[1024]; /* P-256: 227 bytes */
    enum delta_status st;

    if (mbedtls_pk_write_key_pem(key->context, text, sizeof text))
        return delta_fail(err, DELTA_INTERNAL, "cannot encode a key");
    const struct delta_bytes bytes = delta_bytes(text, strlen((char *)text));
    st = replace ? delta_file_write(path, bytes, 0600, err)
                 : delta_file_write_new(path, bytes, 0600, err);
    mbedtls_platform_zeroize(text, sizeof text);
    return st;
}

enum delta_status delta_key_save(const struct delta_key *key, const char *path,
                                 struct delta_error *err)
{
    return write_private(key, path, false, err);
}

enum delta_status delta_key_replace(const struct delta_key *key, const char *path,
                                    struct delta_error *err)
{
    return write_private(key, path, true, err);
}

static enum delta_status public_from(mbedtls_pk_context *pk, struct delta_public_key *out,
                                     struct delta_error *err)
{
    struct delta_public_key key = {.len = 0};
    enum delta_status st = check_curve(pk, err);
    int len;

    if (st)
        return st;
    len = mbedtls_pk_write_pubkey_der(pk, key.der, sizeof key.der); /* at the end of the buffer */
    if (len <= 0)
        return delta_fail(err, DELTA_INTERNAL, "cannot encode a public key");
    memmove(key.der, key.der + sizeof key.der - (size_t)len, (size_t)len);
    memset(key.der + len, 0, sizeof key.der - (size_t)len);
    key.len = (size_t)len;
    key.id = delta_sha256(delta_bytes(key.der, key.len));
    *out = key;
    return DELTA_OK;
}

enum delta_status delta_key_public(const struct delta_key *key, struct delta_public_key *out,
                                   struct delta_error *err)
{
    return public_from(key->context, out, err);
}

enum delta_status delta_public_key_parse(struct delta_public_key *out, struct delta_bytes der,
                                         struct delta_error *err)
{
    mbedtls_pk_context pk;
    enum delta_status st;

    mbedtls_pk_init(&pk);
    if (der.len == 0 || der.len > DELTA_PUBLIC_KEY_MAX ||
        mbedtls_pk_parse_public_key(&pk, der.data, der.len))
        st = delta_fail(err, DELTA_FORMAT, "not a public key (DER SubjectPublicKeyInfo)");
    else
        st = public_from(&pk, out, err);
    mbedtls_pk_free(&pk);
    /* One key has one id: a second encoding of the same point would get another. */
    if (!st && !delta_bytes_equal(der, delta_bytes(out->der, out->len)))
        st = delta_fail(err, DELTA_FORMAT, "public key is not in its canonical encoding");
    return st;
}

enum delta_status delta_public_key_load(struct delta_public_key *out, const char *path,
                                        struct delta_error *err)
{
    struct delta_buf text;
    mbedtls_pk_context pk;
    mbedtls_x509_crt crt;
    enum delta_status st = read_text(path, &text, err);

    if (st)
        return st;
    mbedtls_pk_init(&pk);
    mbedtls_x509_crt_init(&crt);
    if (mbedtls_pk_parse_public_key(&pk, text.data, text.len) == 0) {
        st = public_from(&pk, out, err);
        goto done;
    }
    mbedtls_pk_free(&pk);
    mbedtls_pk_init(&pk);
    if (parse_private(&pk, delta_buf_bytes(&text)) == 0) {
        st = public_from(&pk, out, err);
        goto done;
    }
    if (mbedtls_x509_crt_parse(&crt, text.data, text.len) == 0) {
        st = public_from(&crt.pk, out, err);
        goto done;
    }
    st = delta_fail(err, DELTA_FORMAT, "no public key, private key or certificate in PEM form");
done:
    if (st)
        st = delta_fail_in(err, st, "'%s'", path);
    mbedtls_x509_crt_free(&crt);
    mbedtls_pk_free(&pk);
    wipe_release(&text);
    return st;
}

enum delta_status delta_public_key_save(const struct delta_public_key *key, const char *path,
                                        struct delta_error *err)
{
    unsigned char text[512];
    size_t len;

    if (mbedtls_pem_write_buffer("-----BEGIN PUBLIC KEY-----\n", "-----END PUBLIC KEY-----\n",
                                 key->der, key->len, text, sizeof text, &len))
        return delta_fail(err, DELTA_INTERNAL, "cannot encode a public key");
    return delta_file_write_new(path, delta_bytes(text, strlen((char *)text)), 0644, err);
}

enum delta_status delta_key_sign(const struct delta_key *key, struct delta_bytes bytes,
                                 uint8_t signature[DELTA_SIGNATURE_MAX], size_t *len,
                                 struct delta_error *err)
{
    const struct delta_digest digest = delta_sha256(bytes);
    unsigned char der[MBEDTLS_PK_SIGNATURE_MAX_SIZE];
    size_t size = 0;
    int rc;

#if MBEDTLS_VERSION_NUMBER < 0x03000000
    rc = mbedtls_pk_sign(key->context, MBEDTLS_MD_SHA256, digest.bytes, sizeof digest.bytes, der,
                         &size, key_random, NULL);
#else
    rc = mbedtls_pk_sign(key->context, MBEDTLS_MD_SHA256, digest.bytes, sizeof digest.bytes, der,
                         sizeof der, &size, key_random, NULL);
#endif
    if (rc || size > DELTA_SIGNATURE_MAX)
        return delta_fail(err, DELTA_INTERNAL, "cannot sign");
    memcpy(signature, der, size);
    *len = size;
    return DELTA_OK;
}

enum delta_status delta_public_key_verify(const struct delta_public_key *key,
                                          struct delta_bytes bytes, struct delta_bytes signature,
                                          struct delta_error *err)
{
    const struct delta_digest digest = delta_sha256(bytes);
    mbedtls_pk_context pk;
    enum delta_status st = DELTA_OK;

    mbedtls_pk_init(&pk);
    if (mbedtls_pk_parse_public_key(&pk, key->der, key->len))
        st = delta_fail(err, DELTA_FORMAT, "not a public key (DER SubjectPublicKeyInfo)");
    else if (signature.len == 0 || signature.len > DELTA_SIGNATURE_MAX ||
             mbedtls_pk_verify(&pk, MBEDTLS_MD_SHA256, digest.bytes, sizeof digest.bytes,
                               signature.data, signature.len))
        st = delta_fail(err, DELTA_SIGNATURE, "signature does not match");
    mbedtls_pk_free(&pk);
    return st;
}

enum delta_status delta_keyring_add(struct delta_keyring *ring, const struct delta_public_key *key,
                                    struct delta_error *err)
{
    if (delta_keyring_find(ring, &key->id))
        return DELTA_OK;
    if (ring->count == DELTA_KEYRING_MAX)
        return delta_fail(err, DELTA_LIMIT, "keyring holds %d keys already", DELTA_KEYRING_MAX);
    ring->keys[ring->count++] = *key;
    return DELTA_OK;
}

const struct delta_public_key *delta_keyring_find(const struct delta_keyring *ring,
                                                  const struct delta_digest *id)
{
    for (size_t i = 0; i < ring->count; i++)
        if (delta_digest_equal(&ring->keys[i].id, id))
            return &ring->keys[i];
    return NULL;
}
