/* 3.x hides fields that have no accessor there (a CSR's signature). */
#define MBEDTLS_ALLOW_PRIVATE_ACCESS

#include "ca.h"

#include <arpa/inet.h>
#include <mbedtls/asn1write.h>
#include <mbedtls/error.h>
#include <mbedtls/oid.h>
#include <mbedtls/pem.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>
#include <mbedtls/x509_csr.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "delta/channel.h"
#include "delta/file.h"

#define DAY_S 86400
#define CA_DAYS 3650
#define LEAF_DAYS 397
#define SAN_MAX 32

struct server_ca {
    mbedtls_x509_crt certificate;
    struct delta_key key;
};

static int random_bytes(void *context, unsigned char *out, size_t len)
{
    (void)context;
    return delta_random(out, len, NULL) ? MBEDTLS_ERR_ERROR_GENERIC_ERROR : 0;
}

static enum delta_status mbed_fail(struct delta_error *err, enum delta_status status, int code,
                                   const char *what)
{
    char text[160];

    mbedtls_strerror(code, text, sizeof text);
    return delta_fail(err, status, "%s: %s", what, text);
}

static void x509_time(char out[15], int64_t ms)
{
    const time_t seconds = (time_t)(ms / 1000);
    struct tm utc;

    gmtime_r(&seconds, &utc);
    strftime(out, 15, "%Y%m%d%H%M%S", &utc);
}

/* ---- extensions that mbedTLS 2.28 has no writer for ---- */

static int write_san_name(unsigned char **p, unsigned char *start, const char *name)
{
    uint8_t address[16];
    const unsigned char *value = address;
    unsigned char tag = MBEDTLS_ASN1_CONTEXT_SPECIFIC | 7; /* iPAddress */
    size_t value_len;
    int ret, len = 0; /* MBEDTLS_ASN1_CHK_ADD uses both */

    if (inet_pton(AF_INET, name, address) == 1) {
        value_len = 4;
    } else if (inet_pton(AF_INET6, name, address) == 1) {
        value_len = 16;
    } else {
        value = (const unsigned char *)name;
        value_len = strlen(name);
        tag = MBEDTLS_ASN1_CONTEXT_SPECIFIC | 2; /* dNSName */
    }
    MBEDTLS_ASN1_CHK_ADD(len, mbedtls_asn1_write_raw_buffer(p, start, value, value_len));
    MBEDTLS_ASN1_CHK_ADD(len, mbedtls_asn1_write_len(p, start, value_len));
    MBEDTLS_ASN1_CHK_ADD(len, mbedtls_asn1_write_tag(p, start, tag));
    return len;
}

static bool host_name_ok(const char *name)
{
    const size_t len = strlen(name);
    uint8_t address[16];

    if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1)
        return true;
    if (len == 0 || len > 253 || name[0] == '.' || name[0] == '-')
        return false;
    for (const char *c = name; *c; c++)
        if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
              *c == '.' || *c == '-'))
            return false;
    return true;
}

enum delta_status server_san_write(const char *const *names, size_t count, uint8_t *out,
                                   size_t room, size_t *len, struct delta_error *err)
{
    unsigned char *p = out + room;
    size_t total = 0;
    int rc;

    if (count == 0 || count > SAN_MAX)
        return delta_fail(err, DELTA_LIMIT, "%zu host names; 1 to %d are possible", count, SAN_MAX);
    for (size_t i = count; i-- > 0;) { /* DER is written backwards */
        if (!host_name_ok(names[i]))
            return delta_fail(err, DELTA_FORMAT, "'%s' is neither a host name nor an address",
                              names[i]);
        rc = write_san_name(&p, out, names[i]);
        if (rc < 0)
            return mbed_fail(err, DELTA_LIMIT, rc, "host names");
        total += (size_t)rc;
    }
    rc = mbedtls_asn1_write_len(&p, out, total);
    if (rc > 0)
        total += (size_t)rc;
    if (rc >= 0)
        rc = mbedtls_asn1_write_tag(&p, out, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE);
    if (rc < 0)
        return mbed_fail(err, DELTA_LIMIT, rc, "host names");
    total += (size_t)rc;
    memmove(out, p, total);
    *len = total;
    return DELTA_OK;
}

/* SEQUENCE { OID } with one purpose */
static int set_purpose(mbedtls_x509write_cert *crt, const char *oid, size_t oid_len)
{
    unsigned char der[32], *p = der + sizeof der;
    int ret, len = 0; /* MBEDTLS_ASN1_CHK_ADD uses both */

    MBEDTLS_ASN1_CHK_ADD(len, mbedtls_asn1_write_oid(&p, der, oid, oid_len));
    MBEDTLS_ASN1_CHK_ADD(len, mbedtls_asn1_write_len(&p, der, (size_t)len));
    MBEDTLS_ASN1_CHK_ADD(
        len, mbedtls_asn1_write_tag(&p, der, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE));
    return mbedtls_x509write_crt_set_extension(crt, MBEDTLS_OID_EXTENDED_KEY_USAGE,
                                               sizeof MBEDTLS_OID_EXTENDED_KEY_USAGE - 1, 0, p,
                                               (size_t)len);
}

/* ---- writing certificates ---- */

struct leaf {
    const char *subject;
    const char *issuer;
    mbedtls_pk_context *subject_key;
    mbedtls_pk_context *issuer_key;
    int64_t from_ms, until_ms;
    bool is_ca;
    unsigned key_usage;
    const char *purpose; /* extended key usage OID; NULL: none */
    size_t purpose_len;
    struct delta_bytes san; /* empty: none */
};

static int set_serial(mbedtls_x509write_cert *crt)
{
    uint8_t serial[15];
    int rc = random_bytes(NULL, serial, sizeof serial);

    serial[0] = (serial[0] & 0x7f) | 0x40; /* positive, and of full length */
#if MBEDTLS_VERSION_NUMBER < 0x03000000
    mbedtls_mpi number;
    mbedtls_mpi_init(&number);
    if (!rc)
        rc = mbedtls_mpi_read_binary(&number, serial, sizeof serial);
    if (!rc)
        rc = mbedtls_x509write_crt_set_serial(crt, &number);
    mbedtls_mpi_free(&number);
#else
    if (!rc)
        rc = mbedtls_x509write_crt_set_serial_raw(crt, serial, sizeof serial);
#endif
    return rc;
}

static int write_fields(mbedtls_x509write_cert *crt, const struct leaf *leaf)
{
    char from[15], until[15];
    int rc;

    x509_time(from, leaf->from_ms);
    x509_time(until, leaf->until_ms);
    mbedtls_x509write_crt_set_version(crt, MBEDTLS_X509_CRT_VERSION_3);
    mbedtls_x509write_crt_set_md_alg(crt, MBEDTLS_MD_SHA256);
    mbedtls_x509write_crt_set_subject_key(crt, leaf->subject_key);
    mbedtls_x509write_crt_set_issuer_key(crt, leaf->issuer_key);
    rc = mbedtls_x509write_crt_set_subject_name(crt, leaf->subject);
    if (!rc)
        rc = mbedtls_x509write_crt_set_issuer_name(crt, leaf->issuer);
    if (!rc)
        rc = set_serial(crt);
    if (!rc)
        rc = mbedtls_x509write_crt_set_validity(crt, from, until);
    if (!rc)
        rc = mbedtls_x509write_crt_set_basic_constraints(crt, leaf->is_ca, leaf->is_ca ? 0 : -1);
    if (!rc)
        rc = mbedtls_x509write_crt_set_subject_key_identifier(crt);
    if (!rc)
        rc = mbedtls_x509write_crt_set_authority_key_identifier(crt);
    if (!rc)
        rc = mbedtls_x509write_crt_set_key_usage(crt, (unsigned char)leaf->key_usage);
    if (!rc && leaf->purpose)
        rc = set_purpose(crt, leaf->purpose, leaf->purpose_len);
    if (!rc && leaf->san.len)
        rc = mbedtls_x509write_crt_set_extension(crt, MBEDTLS_OID_SUBJECT_ALT_NAME,
                                                 sizeof MBEDTLS_OID_SUBJECT_ALT_NAME - 1, 0,
                                                 leaf->san.data, leaf->san.len);
    return rc;
}

static enum delta_status write_certificate(const struct leaf *leaf, struct server_certificate *out,
                                           struct delta_error *err)
{
    mbedtls_x509write_cert crt;
    int rc;

    mbedtls_x509write_crt_init(&crt);
    rc = write_fields(&crt, leaf);
    if (!rc)
        rc = mbedtls_x509write_crt_der(&crt, out->der, sizeof out->der, random_bytes, NULL);
    mbedtls_x509write_crt_free(&crt);
    if (rc < 0)
        return mbed_fail(err, DELTA_INTERNAL, rc, "cannot write a certificate");
    out->len = (size_t)rc; /* mbedTLS wrote it at the end of the buffer */
    memmove(out->der, out->der + sizeof out->der - out->len, out->len);
    return DELTA_OK;
}

enum delta_status server_ca_make(const struct delta_key *key, const char *name, int64_t now_ms,
                                 struct server_certificate *out, struct delta_error *err)
{
    char subject[96];
    const struct leaf leaf = {.subject = subject,
                              .issuer = subject,
                              .subject_key = key->context,
                              .issuer_key = key->context,
                              .from_ms = now_ms - (int64_t)DAY_S * 1000,
                              .until_ms = now_ms + (int64_t)CA_DAYS * DAY_S * 1000,
                              .is_ca = true,
                              .key_usage =
                                  MBEDTLS_X509_KU_KEY_CERT_SIGN | MBEDTLS_X509_KU_CRL_SIGN};

    snprintf(subject, sizeof subject, "CN=%s,O=frostline", name);
    return write_certificate(&leaf, out, err);
}

enum delta_status server_ca_load(struct server_ca **out, const char *certificate, const char *key,
                                 struct delta_error *err)
{
    struct server_ca *ca = delta_calloc(1, sizeof *ca);
    enum delta_status st;
    int rc;

    if (!ca)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate the CA");
    mbedtls_x509_crt_init(&ca->certificate);
    rc = mbedtls_x509_crt_parse_file(&ca->certificate, certificate);
    st = rc ? mbed_fail(err, DELTA_FORMAT, rc, certificate) : delta_key_load(&ca->key, key, err);
    if (st) {
        server_ca_free(ca);
        return st;
    }
    *out = ca;
    return DELTA_OK;
}

void server_ca_free(struct server_ca *ca)
{
    if (!ca)
        return;
    mbedtls_x509_crt_free(&ca->certificate);
    delta_key_release(&ca->key);
    free(ca);
}

struct delta_bytes server_ca_certificate(const struct server_ca *ca)
{
    return delta_bytes(ca->certificate.raw.p, ca->certificate.raw.len);
}

/* The issuer's name in the form that mbedtls_x509write takes. */
static int issuer_name(const struct server_ca *ca, char *out, size_t size)
{
    const int rc = mbedtls_x509_dn_gets(out, size, &ca->certificate.subject);

    return rc < 0 ? rc : 0;
}

enum delta_status server_ca_issue_server(struct server_ca *ca, const struct delta_key *key,
                                         const char *const *names, size_t count, int64_t now_ms,
                                         struct server_certificate *out, struct delta_error *err)
{
    uint8_t san[1024];
    char issuer[256];
    size_t san_len;
    enum delta_status st = server_san_write(names, count, san, sizeof san, &san_len, err);

    if (st)
        return st;
    if (issuer_name(ca, issuer, sizeof issuer))
        return delta_fail(err, DELTA_INTERNAL, "cannot name the CA");
    const struct leaf leaf = {.subject = "CN=frostline-server,O=coordinator",
                              .issuer = issuer,
                              .subject_key = key->context,
                              .issuer_key = ca->key.context,
                              .from_ms = now_ms - (int64_t)DAY_S * 1000,
                              .until_ms = now_ms + (int64_t)LEAF_DAYS * DAY_S * 1000,
                              .key_usage = MBEDTLS_X509_KU_DIGITAL_SIGNATURE,
                              .purpose = MBEDTLS_OID_SERVER_AUTH,
                              .purpose_len = sizeof MBEDTLS_OID_SERVER_AUTH - 1,
                              .san = delta_bytes(san, san_len)};
    return write_certificate(&leaf, out, err);
}

enum delta_status server_ca_issue_client(struct server_ca *ca, const struct delta_public_key *key,
                                         const char *name, const char *organisation, int64_t now_ms,
                                         int64_t valid_s, struct server_certificate *out,
                                         struct delta_error *err)
{
    mbedtls_pk_context subject_key;
    char issuer[256], subject[160];
    enum delta_status st = delta_name_check("name", name, err);
    int rc;

    if (st)
        return st;
    if (valid_s == 0)
        valid_s = (int64_t)LEAF_DAYS * DAY_S;
    mbedtls_pk_init(&subject_key);
    rc = mbedtls_pk_parse_public_key(&subject_key, key->der, key->len);
    if (rc) {
        st = mbed_fail(err, DELTA_FORMAT, rc, "public key");
        goto done;
    }
    snprintf(subject, sizeof subject, "CN=%s,O=%s", name, organisation);
    if (issuer_name(ca, issuer, sizeof issuer)) {
        st = delta_fail(err, DELTA_INTERNAL, "cannot name the CA");
        goto done;
    }
    /* A device's clock may lag: valid since yesterday. */
    const struct leaf leaf = {.subject = subject,
                              .issuer = issuer,
                              .subject_key = &subject_key,
                              .issuer_key = ca->key.context,
                              .from_ms = now_ms - (int64_t)DAY_S * 1000,
                              .until_ms = now_ms + valid_s * 1000,
                              .key_usage = MBEDTLS_X509_KU_DIGITAL_SIGNATURE,
                              .purpose = MBEDTLS_OID_CLIENT_AUTH,
                              .purpose_len = sizeof MBEDTLS_OID_CLIENT_AUTH - 1};
    st = write_certificate(&leaf, out, err);
done:
    mbedtls_pk_free(&subject_key);
    return st;
}

/* ---- certificate requests ---- */

static enum delta_status csr_name(const mbedtls_x509_csr *csr, char out[64],
                                  struct delta_error *err)
{
    out[0] = '\0';
    for (const mbedtls_x509_name *part = &csr->subject; part; part = part->next) {
        if (part->oid.len != sizeof MBEDTLS_OID_AT_CN - 1 ||
            memcmp(part->oid.p, MBEDTLS_OID_AT_CN, part->oid.len) != 0)
            continue;
        if (out[0] || part->val.len >= 64 || memchr(part->val.p, 0, part->val.len))
            return delta_fail(err, DELTA_FORMAT,
                              "certificate request: more than one common name, or too long");
        memcpy(out, part->val.p, part->val.len);
        out[part->val.len] = '\0';
    }
    return delta_name_check("certificate request's common", out, err);
}

/* The request is signed by the key it asks for: whoever sent it holds that key. */
static enum delta_status csr_possession(mbedtls_x509_csr *csr, struct delta_error *err)
{
    uint8_t hash[MBEDTLS_MD_MAX_SIZE];
    const mbedtls_md_info_t *md = mbedtls_md_info_from_type(csr->sig_md);
    int rc = MBEDTLS_ERR_X509_UNKNOWN_SIG_ALG;

    if (md && csr->sig_md == MBEDTLS_MD_SHA256)
        rc = mbedtls_md(md, csr->cri.p, csr->cri.len, hash);
    if (!rc)
        rc = mbedtls_pk_verify_ext(csr->sig_pk, csr->sig_opts, &csr->pk, csr->sig_md, hash,
                                   mbedtls_md_get_size(md), csr->sig.p, csr->sig.len);
    if (rc)
        return mbed_fail(err, DELTA_SIGNATURE, rc, "certificate request is not signed by its key");
    return DELTA_OK;
}

enum delta_status server_csr_read(struct server_csr *out, struct delta_bytes der,
                                  struct delta_error *err)
{
    mbedtls_x509_csr csr;
    uint8_t key[DELTA_PUBLIC_KEY_MAX];
    enum delta_status st;
    int rc;

    if (der.len > SERVER_CSR_MAX)
        return delta_fail(err, DELTA_LIMIT, "certificate request has %zu bytes, the limit is %d",
                          der.len, SERVER_CSR_MAX);
    mbedtls_x509_csr_init(&csr);
    rc = mbedtls_x509_csr_parse_der(&csr, der.data, der.len);
    if (rc) {
        st = mbed_fail(err, DELTA_FORMAT, rc, "certificate request");
        goto done;
    }
    rc = mbedtls_pk_write_pubkey_der(&csr.pk, key, sizeof key); /* at the end of the buffer */
    if (rc < 0) {
        st = delta_fail(err, DELTA_UNSUPPORTED, "certificate request: the key is not ECDSA P-256");
        goto done;
    }
    st = delta_public_key_parse(&out->key, delta_bytes(key + sizeof key - (size_t)rc, (size_t)rc),
                                err);
    if (!st)
        st = csr_possession(&csr, err);
    if (!st)
        st = csr_name(&csr, out->name, err);
done:
    mbedtls_x509_csr_free(&csr);
    return st;
}

enum delta_status server_certificate_save(const struct server_certificate *crt, const char *path,
                                          struct delta_error *err)
{
    uint8_t pem[2 * SERVER_CERTIFICATE_MAX];
    size_t len;
    const int rc =
        mbedtls_pem_write_buffer("-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n",
                                 crt->der, crt->len, pem, sizeof pem, &len);

    if (rc)
        return mbed_fail(err, DELTA_INTERNAL, rc, path);
    return delta_file_write(path, delta_bytes(pem, len - 1), 0644, err); /* len counts the NUL */
}
