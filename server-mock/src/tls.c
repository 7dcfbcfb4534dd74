#include "tls.h"

#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/error.h>
#include <mbedtls/oid.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_ticket.h>
#include <mbedtls/version.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "delta/channel.h"

#define TICKET_LIFETIME_S 86400

struct server_tls_config {
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
    mbedtls_ssl_config ssl;
    mbedtls_ssl_ticket_context tickets;
    mbedtls_x509_crt certificate;
    mbedtls_x509_crt ca;
    mbedtls_pk_context key;
};

struct server_tls {
    mbedtls_ssl_context ssl;
    uint8_t in[SERVER_TLS_IN_MAX];
    size_t in_at, in_len; /* unread: in[in_at .. in_len) */
    struct delta_buf out;
};

static enum delta_status mbed_fail(struct delta_error *err, enum delta_status status, int code,
                                   const char *what)
{
    char text[160];

    mbedtls_strerror(code, text, sizeof text);
    return delta_fail(err, status, "%s: %s (-0x%04x)", what, text, (unsigned)-code);
}

/* ---- shared configuration ---- */

/* Perfect forward secrecy and authenticated encryption only. */
static const int suites[] = {MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                             MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                             MBEDTLS_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, 0};

static const char *const protocols[] = {"http/1.1", NULL};

/* mbedTLS fills a cache inside the group of a key at its first use, without a lock. Using both
 * shared keys once here, before any worker exists, makes them read-only afterwards. */
static int warm_up(struct server_tls_config *config)
{
    uint32_t flags;
    uint8_t hash[32] = {1}, signature[MBEDTLS_ECDSA_MAX_LEN];
    size_t len;
#if MBEDTLS_VERSION_NUMBER < 0x03000000
    int rc = mbedtls_pk_sign(&config->key, MBEDTLS_MD_SHA256, hash, sizeof hash, signature, &len,
                             mbedtls_ctr_drbg_random, &config->random);
#else
    int rc = mbedtls_pk_sign(&config->key, MBEDTLS_MD_SHA256, hash, sizeof hash, signature,
                             sizeof signature, &len, mbedtls_ctr_drbg_random, &config->random);
#endif
    if (!rc)
        (void)mbedtls_x509_crt_verify(&config->certificate, &config->ca, NULL, NULL, &flags, NULL,
                                      NULL);
    return rc;
}

static enum delta_status config_files(struct server_tls_config *config, const char *certificate,
                                      const char *key, const char *ca, struct delta_error *err)
{
    int rc = mbedtls_x509_crt_parse_file(&config->certificate, certificate);

    if (rc)
        return mbed_fail(err, DELTA_FORMAT, rc, certificate);
    rc = mbedtls_x509_crt_parse_file(&config->ca, ca);
    if (rc)
        return mbed_fail(err, DELTA_FORMAT, rc, ca);
#if MBEDTLS_VERSION_NUMBER < 0x03000000
    rc = mbedtls_pk_parse_keyfile(&config->key, key, NULL);
    if (!rc)
        rc = mbedtls_pk_check_pair(&config->certificate.pk, &config->key);
#else
    rc =
        mbedtls_pk_parse_keyfile(&config->key, key, NULL, mbedtls_ctr_drbg_random, &config->random);
    if (!rc)
        rc = mbedtls_pk_check_pair(&config->certificate.pk, &config->key, mbedtls_ctr_drbg_random,
                                   &config->random);
#endif
    if (rc)
        return mbed_fail(err, DELTA_FORMAT, rc, key);
    return DELTA_OK;
}

static int config_ssl(struct server_tls_config *config)
{
    mbedtls_ssl_config *ssl = &config->ssl;
    int rc = mbedtls_ssl_config_defaults(ssl, MBEDTLS_SSL_IS_SERVER, MBEDTLS_SSL_TRANSPORT_STREAM,
                                         MBEDTLS_SSL_PRESET_DEFAULT);

    if (rc)
        return rc;
#if MBEDTLS_VERSION_NUMBER < 0x03000000
    mbedtls_ssl_conf_min_version(ssl, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
#else
    mbedtls_ssl_conf_min_tls_version(ssl, MBEDTLS_SSL_VERSION_TLS1_2);
    mbedtls_ssl_conf_max_tls_version(ssl, MBEDTLS_SSL_VERSION_TLS1_2);
#endif
    mbedtls_ssl_conf_ciphersuites(ssl, suites);
    mbedtls_ssl_conf_rng(ssl, mbedtls_ctr_drbg_random, &config->random);
    mbedtls_ssl_conf_authmode(ssl, MBEDTLS_SSL_VERIFY_OPTIONAL);
    mbedtls_ssl_conf_ca_chain(ssl, &config->ca, NULL);
    rc = mbedtls_ssl_conf_own_cert(ssl, &config->certificate, &config->key);
    if (rc)
        return rc;
    rc = mbedtls_ssl_conf_alpn_protocols(ssl, (const char **)(uintptr_t)protocols);
    if (rc)
        return rc;
    rc = mbedtls_ssl_ticket_setup(&config->tickets, mbedtls_ctr_drbg_random, &config->random,
                                  MBEDTLS_CIPHER_AES_256_GCM, TICKET_LIFETIME_S);
    if (rc)
        return rc;
    mbedtls_ssl_conf_session_tickets_cb(ssl, mbedtls_ssl_ticket_write, mbedtls_ssl_ticket_parse,
                                        &config->tickets);
    return 0;
}

enum delta_status server_tls_config_new(struct server_tls_config **out, const char *certificate,
                                        const char *key, const char *ca, struct delta_error *err)
{
    static const char label[] = "frostline-server";
    struct server_tls_config *config = delta_calloc(1, sizeof *config);
    enum delta_status st = DELTA_INTERNAL;
    int rc;

    if (!config)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate the TLS configuration");
    mbedtls_entropy_init(&config->entropy);
    mbedtls_ctr_drbg_init(&config->random);
    mbedtls_ssl_config_init(&config->ssl);
    mbedtls_ssl_ticket_init(&config->tickets);
    mbedtls_x509_crt_init(&config->certificate);
    mbedtls_x509_crt_init(&config->ca);
    mbedtls_pk_init(&config->key);
    rc = mbedtls_ctr_drbg_seed(&config->random, mbedtls_entropy_func, &config->entropy,
                               (const uint8_t *)label, sizeof label - 1);
    if (rc) {
        st = mbed_fail(err, DELTA_INTERNAL, rc, "cannot seed the random generator");
        goto done;
    }
    st = config_files(config, certificate, key, ca, err);
    if (st)
        goto done;
    rc = config_ssl(config);
    if (!rc)
        rc = warm_up(config);
    if (rc) {
        st = mbed_fail(err, DELTA_INTERNAL, rc, "cannot set up TLS");
        goto done;
    }
    *out = config;
    config = NULL;
done:
    server_tls_config_free(config);
    return st;
}

void server_tls_config_free(struct server_tls_config *config)
{
    if (!config)
        return;
    mbedtls_ssl_config_free(&config->ssl);
    mbedtls_ssl_ticket_free(&config->tickets);
    mbedtls_x509_crt_free(&config->certificate);
    mbedtls_x509_crt_free(&config->ca);
    mbedtls_pk_free(&config->key);
    mbedtls_ctr_drbg_free(&config->random);
    mbedtls_entropy_free(&config->entropy);
    free(config);
}

/* ---- a connection ---- */

static int bio_send(void *context, const unsigned char *data, size_t len)
{
    struct server_tls *tls = context;

    if (len > INT32_MAX || delta_buf_append(&tls->out, data, len, NULL))
        return MBEDTLS_ERR_SSL_ALLOC_FAILED;
    return (int)len;
}

static int bio_receive(void *context, unsigned char *data, size_t room)
{
    struct server_tls *tls = context;
    size_t len = tls->in_len - tls->in_at;

    if (len == 0)
        return MBEDTLS_ERR_SSL_WANT_READ;
    if (len > room)
        len = room;
    memcpy(data, tls->in + tls->in_at, len);
    tls->in_at += len;
    return (int)len;
}

enum delta_status server_tls_new(struct server_tls **out, struct server_tls_config *config,
                                 struct delta_error *err)
{
    struct server_tls *tls = delta_calloc(1, sizeof *tls);
    int rc;

    if (!tls)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a TLS connection");
    delta_buf_init(&tls->out, SERVER_TLS_OUT_MAX);
    mbedtls_ssl_init(&tls->ssl);
    rc = mbedtls_ssl_setup(&tls->ssl, &config->ssl);
    if (rc) {
        server_tls_free(tls);
        return mbed_fail(err, DELTA_NO_MEMORY, rc, "cannot set up a TLS connection");
    }
    mbedtls_ssl_set_bio(&tls->ssl, tls, bio_send, bio_receive, NULL);
    *out = tls;
    return DELTA_OK;
}

void server_tls_free(struct server_tls *tls)
{
    if (!tls)
        return;
    mbedtls_ssl_free(&tls->ssl);
    delta_buf_release(&tls->out);
    free(tls);
}

uint8_t *server_tls_room(struct server_tls *tls, size_t *room)
{
    if (tls->in_at) {
        memmove(tls->in, tls->in + tls->in_at, tls->in_len - tls->in_at);
        tls->in_len -= tls->in_at;
        tls->in_at = 0;
    }
    *room = sizeof tls->in - tls->in_len;
    return tls->in + tls->in_len;
}

void server_tls_received(struct server_tls *tls, size_t len)
{
    tls->in_len += len;
}

struct delta_buf *server_tls_out(struct server_tls *tls)
{
    return &tls->out;
}

enum server_tls_step server_tls_handshake(struct server_tls *tls, struct delta_error *err)
{
    const int rc = mbedtls_ssl_handshake(&tls->ssl);

    if (rc == 0)
        return SERVER_TLS_DONE;
    if (rc == MBEDTLS_ERR_SSL_WANT_READ || rc == MBEDTLS_ERR_SSL_WANT_WRITE)
        return SERVER_TLS_WANT;
    mbed_fail(err, DELTA_UNTRUSTED, rc, "TLS handshake");
    return SERVER_TLS_FAILED;
}

enum server_tls_step server_tls_read(struct server_tls *tls, uint8_t *data, size_t room,
                                     size_t *len, struct delta_error *err)
{
    const int rc = mbedtls_ssl_read(&tls->ssl, data, room);

    *len = 0;
    if (rc > 0) {
        *len = (size_t)rc;
        return SERVER_TLS_DONE;
    }
    if (rc == MBEDTLS_ERR_SSL_WANT_READ || rc == MBEDTLS_ERR_SSL_WANT_WRITE)
        return SERVER_TLS_WANT;
    if (rc == 0 || rc == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY || rc == MBEDTLS_ERR_SSL_CONN_EOF)
        return SERVER_TLS_CLOSED;
    mbed_fail(err, DELTA_IO, rc, "TLS");
    return SERVER_TLS_FAILED;
}

enum delta_status server_tls_write(struct server_tls *tls, struct delta_bytes bytes,
                                   struct delta_error *err)
{
    while (bytes.len) {
        const int rc = mbedtls_ssl_write(&tls->ssl, bytes.data, bytes.len);
        if (rc <= 0)
            return mbed_fail(err, DELTA_IO, rc, "TLS");
        bytes.data += rc;
        bytes.len -= (size_t)rc;
    }
    return DELTA_OK;
}

void server_tls_goodbye(struct server_tls *tls)
{
    (void)mbedtls_ssl_close_notify(&tls->ssl);
}

/* ---- who is there ---- */

static void name_part(const mbedtls_x509_name *names, const char *oid, size_t oid_len, char *out,
                      size_t size)
{
    out[0] = '\0';
    for (; names; names = names->next) {
        if (names->oid.len != oid_len || memcmp(names->oid.p, oid, oid_len) != 0)
            continue;
        if (names->val.len >= size || memchr(names->val.p, 0, names->val.len))
            return;
        memcpy(out, names->val.p, names->val.len);
        out[names->val.len] = '\0';
        return;
    }
}

static int64_t x509_ms(const mbedtls_x509_time *t)
{
    struct tm utc = {.tm_year = t->year - 1900,
                     .tm_mon = t->mon - 1,
                     .tm_mday = t->day,
                     .tm_hour = t->hour,
                     .tm_min = t->min,
                     .tm_sec = t->sec};

    return (int64_t)timegm(&utc) * 1000;
}

static const char *flags_text(uint32_t flags)
{
    if (flags & MBEDTLS_X509_BADCERT_NOT_TRUSTED)
        return "is not from this fleet's CA";
    if (flags & MBEDTLS_X509_BADCERT_EXPIRED)
        return "has expired";
    if (flags & MBEDTLS_X509_BADCERT_FUTURE)
        return "is not valid yet (is a clock wrong?)";
    if (flags & (MBEDTLS_X509_BADCERT_KEY_USAGE | MBEDTLS_X509_BADCERT_EXT_KEY_USAGE))
        return "is not meant for clients";
    return "does not verify";
}

void server_tls_peer(struct server_tls *tls, struct server_peer *peer)
{
    const mbedtls_x509_crt *crt = mbedtls_ssl_get_peer_cert(&tls->ssl);
    const uint32_t flags = mbedtls_ssl_get_verify_result(&tls->ssl);

    memset(peer, 0, sizeof *peer);
    if (!crt)
        return;
    peer->shown = true;
    peer->expires_ms = x509_ms(&crt->valid_to);
    name_part(&crt->subject, MBEDTLS_OID_AT_CN, sizeof MBEDTLS_OID_AT_CN - 1, peer->name,
              sizeof peer->name);
    name_part(&crt->subject, MBEDTLS_OID_AT_ORGANIZATION, sizeof MBEDTLS_OID_AT_ORGANIZATION - 1,
              peer->organisation, sizeof peer->organisation);
    if (delta_name_check("common name", peer->name, NULL))
        peer->name[0] = '\0';
    peer->key_id = delta_sha256(delta_bytes(crt->pk_raw.p, crt->pk_raw.len));
    if (crt->pk_raw.len <= sizeof peer->key_der) {
        memcpy(peer->key_der, crt->pk_raw.p, crt->pk_raw.len);
        peer->key_len = crt->pk_raw.len;
    }
    peer->trusted = flags == 0 && peer->key_len && peer->name[0];
    if (!peer->trusted)
        snprintf(peer->problem, sizeof peer->problem, "%s",
                 flags ? flags_text(flags) : "has no usable common name or key");
}
