#include "identity.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <mbedtls/asn1.h>
#include <mbedtls/error.h>
#include <mbedtls/oid.h>
#include <mbedtls/pem.h>
#include <mbedtls/x509_crt.h>
#include <mbedtls/x509_csr.h>

#include "delta/file.h"

#define MAX_CSR 4096
#define MAX_CA_FILE ((size_t)256 << 10)
#define MAX_IDENTITY_FILE 16384

static int mbed_random(void *context, unsigned char *out, size_t len)
{
    struct delta_error err;

    (void)context;
    return delta_random(out, len, &err) ? MBEDTLS_ERR_ASN1_INVALID_DATA : 0;
}

static enum delta_status mbed_fail(struct delta_error *err, enum delta_status status,
                                   const char *what, int code)
{
    char text[128];

    mbedtls_strerror(code, text, sizeof text);
    return delta_fail(err, status, "%s: %s", what, text);
}

/* ---- key and request ---- */

enum delta_status agent_identity_key(struct delta_key *key, const char *dir,
                                     struct delta_error *err)
{
    char path[AGENT_PATH_MAX];
    enum delta_status st = delta_dir_make(dir, 0700, err);

    if (!st)
        st = delta_path_join(path, sizeof path, dir, AGENT_FILE_KEY, err);
    if (st)
        return st;
    if (delta_file_exists(path))
        return delta_key_load(key, path, err);
    st = delta_key_generate(key, err);
    if (st)
        return st;
    st = delta_key_save(key, path, err);
    if (st)
        delta_key_release(key);
    return st;
}

enum delta_status agent_identity_csr(struct delta_buf *csr, const struct delta_key *key,
                                     const char *device, struct delta_error *err)
{
    mbedtls_x509write_csr request;
    uint8_t der[MAX_CSR];
    char subject[96];
    enum delta_status st = delta_name_check("device", device, err);
    int got;

    delta_buf_init(csr, MAX_CSR);
    if (st)
        return st;
    snprintf(subject, sizeof subject, "CN=%s", device);
    mbedtls_x509write_csr_init(&request);
    mbedtls_x509write_csr_set_md_alg(&request, MBEDTLS_MD_SHA256);
    mbedtls_x509write_csr_set_key(&request, key->context);
    got = mbedtls_x509write_csr_set_subject_name(&request, subject);
    if (!got) /* written from the end of the buffer */
        got = mbedtls_x509write_csr_der(&request, der, sizeof der, mbed_random, NULL);
    mbedtls_x509write_csr_free(&request);
    if (got < 0)
        return mbed_fail(err, DELTA_INTERNAL, "cannot make a certificate request", got);
    return delta_buf_append(csr, der + sizeof der - (size_t)got, (size_t)got, err);
}

/* ---- saving what the coordinator answered ---- */

static bool common_name_is(const mbedtls_x509_crt *certificate, const char *device)
{
    for (const mbedtls_x509_name *name = &certificate->subject; name; name = name->next)
        if (name->oid.p && MBEDTLS_OID_CMP(MBEDTLS_OID_AT_CN, &name->oid) == 0)
            return name->val.len == strlen(device) &&
                   memcmp(name->val.p, device, name->val.len) == 0;
    return false;
}

static enum delta_status check_certificate(mbedtls_x509_crt *certificate, mbedtls_x509_crt *ca,
                                           const struct delta_key *key, const char *device,
                                           const char *ca_path, struct delta_error *err)
{
    struct delta_public_key own;
    uint8_t der[DELTA_PUBLIC_KEY_MAX];
    uint32_t flags = 0;
    enum delta_status st = delta_key_public(key, &own, err);
    int len;

    if (st)
        return st;
    if (mbedtls_x509_crt_verify(certificate, ca, NULL, NULL, &flags, NULL, NULL)) {
        char why[160] = "";
        mbedtls_x509_crt_verify_info(why, sizeof why, "", flags);
        why[strcspn(why, "\n")] = '\0';
        return delta_fail(err, DELTA_UNTRUSTED,
                          "coordinator's certificate for this device is not signed by '%s' (%s)",
                          ca_path, why);
    }
    len = mbedtls_pk_write_pubkey_der(&certificate->pk, der, sizeof der);
    if (len < 0 || (size_t)len != own.len ||
        memcmp(der + sizeof der - (size_t)len, own.der, own.len) != 0)
        return delta_fail(err, DELTA_UNTRUSTED,
                          "coordinator answered with a certificate for another key");
    if (!common_name_is(certificate, device))
        return delta_fail(err, DELTA_UNTRUSTED,
                          "coordinator answered with a certificate that does not name '%s'",
                          device);
    return DELTA_OK;
}

static enum delta_status check_answer(const struct agent_enrol_options *options,
                                      const struct delta_key *key,
                                      const struct agent_enrolment *answer, struct delta_buf *ca,
                                      struct delta_error *err)
{
    mbedtls_x509_crt root, certificate;
    enum delta_status st = DELTA_OK;
    int code;

    mbedtls_x509_crt_init(&root);
    mbedtls_x509_crt_init(&certificate);
    st = delta_buf_append(ca, "", 1, err); /* mbedTLS wants PEM with its NUL */
    if (st)
        goto done;
    code = mbedtls_x509_crt_parse(&root, ca->data, ca->len);
    ca->len--;
    if (code) {
        st = delta_fail(err, DELTA_CONFIG, "'%s' is not a PEM certificate file", options->ca_path);
        goto done;
    }
    code = mbedtls_x509_crt_parse_der(&certificate, answer->certificate, answer->certificate_len);
    if (code) {
        st = mbed_fail(err, DELTA_FORMAT, "certificate from the coordinator", code);
        goto done;
    }
    st = check_certificate(&certificate, &root, key, options->device, options->ca_path, err);
done:
    mbedtls_x509_crt_free(&root);
    mbedtls_x509_crt_free(&certificate);
    return st;
}

static enum delta_status write_in(const char *dir, const char *name, struct delta_bytes bytes,
                                  unsigned mode, struct delta_error *err)
{
    char path[AGENT_PATH_MAX];
    const enum delta_status st = delta_path_join(path, sizeof path, dir, name, err);

    return st ? st : delta_file_write(path, bytes, mode, err);
}

static enum delta_status write_certificate(const char *dir, const struct agent_enrolment *answer,
                                           struct delta_error *err)
{
    uint8_t pem[2 * AGENT_CERTIFICATE_MAX];
    size_t len;
    const int code = mbedtls_pem_write_buffer("-----BEGIN CERTIFICATE-----\n",
                                              "-----END CERTIFICATE-----\n", answer->certificate,
                                              answer->certificate_len, pem, sizeof pem, &len);

    if (code)
        return mbed_fail(err, DELTA_INTERNAL, "cannot write the certificate", code);
    return write_in(dir, AGENT_FILE_CERTIFICATE, delta_bytes(pem, len - 1), 0644, err);
}

static enum delta_status write_release_key(const char *dir, const struct agent_enrolment *answer,
                                           struct delta_error *err)
{
    struct delta_public_key key;
    char keys[AGENT_PATH_MAX], name[DELTA_DIGEST_HEX + 4], hex[DELTA_DIGEST_HEX];
    enum delta_status st = delta_public_key_parse(
        &key, delta_bytes(answer->release_key, answer->release_key_len), err);

    if (st)
        return delta_fail_in(err, st, "release key from the coordinator");
    st = delta_path_join(keys, sizeof keys, dir, AGENT_FILE_RELEASE_KEYS, err);
    if (!st)
        st = delta_dir_make(keys, 0700, err);
    if (st)
        return st;
    delta_digest_hex(hex, &key.id);
    snprintf(name, sizeof name, "%s.der", hex);
    return write_in(keys, name, delta_bytes(key.der, key.len), 0644, err);
}

static enum delta_status write_names(const struct agent_enrol_options *options,
                                     const struct agent_enrolment *answer, struct delta_error *err)
{
    json_t *root = json_pack("{s:i, s:s, s:s, s:s}", "schema", 1, "device", options->device,
                             "channel", answer->channel, "server", options->server);
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
    enum delta_status st;

    json_decref(root);
    if (!text)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot write '%s'", AGENT_FILE_IDENTITY);
    st = write_in(options->dir, AGENT_FILE_IDENTITY, delta_bytes(text, strlen(text)), 0644, err);
    free(text);
    return st;
}

enum delta_status agent_identity_save(const struct agent_enrol_options *options,
                                      const struct delta_key *key,
                                      const struct agent_enrolment *answer, struct delta_error *err)
{
    struct delta_buf ca;
    enum delta_status st = delta_file_read(options->ca_path, MAX_CA_FILE, &ca, err);

    if (st)
        return st;
    ca.cap = MAX_CA_FILE + 1;
    st = check_answer(options, key, answer, &ca, err);
    if (!st)
        st = write_in(options->dir, AGENT_FILE_CA, delta_buf_bytes(&ca), 0644, err);
    delta_buf_release(&ca);
    if (!st)
        st = write_certificate(options->dir, answer, err);
    if (!st)
        st = write_release_key(options->dir, answer, err);
    if (!st)
        st = write_names(options, answer, err);
    return st;
}

/* ---- loading ---- */

static enum delta_status load_keys(struct delta_keyring *ring, const char *dir,
                                   struct delta_error *err)
{
    char keys[AGENT_PATH_MAX], path[AGENT_PATH_MAX];
    struct delta_dir_list list;
    enum delta_status st = delta_path_join(keys, sizeof keys, dir, AGENT_FILE_RELEASE_KEYS, err);

    if (!st)
        st = delta_dir_read(&list, keys, DELTA_KEYRING_MAX, err);
    if (st)
        return st;
    for (size_t i = 0; !st && i < list.count; i++) {
        struct delta_public_key key;
        struct delta_buf der;
        st = delta_path_join(path, sizeof path, keys, list.names[i], err);
        if (!st)
            st = delta_file_read(path, DELTA_PUBLIC_KEY_MAX, &der, err);
        if (st)
            break;
        st = delta_public_key_parse(&key, delta_buf_bytes(&der), err);
        delta_buf_release(&der);
        if (!st)
            st = delta_keyring_add(ring, &key, err);
    }
    delta_dir_list_release(&list);
    if (!st && ring->count == 0)
        st = delta_fail(err, DELTA_CONFIG, "'%s' holds no key", keys);
    return st;
}

static enum delta_status json_text(const json_t *root, const char *key, char *out, size_t size,
                                   struct delta_error *err)
{
    const char *text = json_string_value(json_object_get(root, key));

    if (!text || strlen(text) >= size)
        return delta_fail(err, DELTA_CONFIG, "'%s' is missing or too long", key);
    snprintf(out, size, "%s", text);
    return DELTA_OK;
}

static enum delta_status load_names(struct agent_identity *out, struct delta_error *err)
{
    char path[AGENT_PATH_MAX];
    struct delta_buf file;
    json_error_t problem;
    json_t *root;
    enum delta_status st = delta_path_join(path, sizeof path, out->dir, AGENT_FILE_IDENTITY, err);

    if (!st)
        st = delta_file_read(path, MAX_IDENTITY_FILE, &file, err);
    if (st == DELTA_NOT_FOUND)
        return delta_fail(
            err, DELTA_CONFIG,
            "'%s' is not an enrolled device: run frostline-agent enrol --dir %s first", out->dir,
            out->dir);
    if (st)
        return st;
    root = json_loadb((const char *)file.data, file.len, JSON_REJECT_DUPLICATES, &problem);
    delta_buf_release(&file);
    if (!root)
        return delta_fail(err, DELTA_CONFIG, "'%s' line %d: %s; enrol again", path, problem.line,
                          problem.text);
    st = json_text(root, "device", out->device, sizeof out->device, err);
    if (!st)
        st = json_text(root, "channel", out->channel, sizeof out->channel, err);
    if (!st)
        st = json_text(root, "server", out->server, sizeof out->server, err);
    if (!st)
        st = delta_name_check("device", out->device, err);
    if (!st)
        st = delta_name_check("channel", out->channel, err);
    json_decref(root);
    return st ? delta_fail_in(err, st, "'%s'", path) : DELTA_OK;
}

enum delta_status agent_identity_load(struct agent_identity *out, const char *dir,
                                      struct delta_error *err)
{
    char path[AGENT_PATH_MAX];
    enum delta_status st;

    *out = (struct agent_identity){0};
    if (strlen(dir) >= sizeof out->dir / 2)
        return delta_fail(err, DELTA_LIMIT, "device directory path is too long");
    snprintf(out->dir, sizeof out->dir, "%s", dir);
    st = load_names(out, err);
    if (!st)
        st = delta_path_join(path, sizeof path, dir, AGENT_FILE_KEY, err);
    if (st)
        return st;
    st = delta_key_load(&out->key, path, err);
    if (st)
        return delta_fail_in(err, st, "device key");
    st = delta_key_public(&out->key, &out->public_key, err);
    if (!st)
        st = load_keys(&out->release, dir, err);
    if (!st) {
        out->installed = out->release;
        st = delta_keyring_add(&out->installed, &out->public_key, err);
    }
    if (st)
        agent_identity_release(out);
    return st;
}

void agent_identity_release(struct agent_identity *identity)
{
    if (identity && identity->key.context)
        delta_key_release(&identity->key);
}
