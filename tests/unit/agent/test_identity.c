#include "harness.h"

#include <mbedtls/error.h>
#include <mbedtls/pem.h>
#include <mbedtls/x509_crt.h>
#include <mbedtls/x509_csr.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "delta/file.h"
#include "identity.h"

static int rng(void *context, unsigned char *out, size_t len)
{
    struct delta_error err;

    (void)context;
    return delta_random(out, len, &err) ? -1 : 0;
}

/* A certificate for `subject`, issued by `issuer`; a throw-away CA when both keys are one. */
static size_t issue(uint8_t *der, size_t room, const char *subject, struct delta_key *key,
                    const char *issuer, struct delta_key *ca, bool is_ca)
{
    mbedtls_x509write_cert cert;
    mbedtls_mpi serial;
    int got;

    mbedtls_x509write_crt_init(&cert);
    mbedtls_mpi_init(&serial);
    assert_int_equal(mbedtls_mpi_lset(&serial, 7), 0);
    mbedtls_x509write_crt_set_version(&cert, MBEDTLS_X509_CRT_VERSION_3);
    mbedtls_x509write_crt_set_md_alg(&cert, MBEDTLS_MD_SHA256);
    mbedtls_x509write_crt_set_subject_key(&cert, key->context);
    mbedtls_x509write_crt_set_issuer_key(&cert, ca->context);
    assert_int_equal(mbedtls_x509write_crt_set_subject_name(&cert, subject), 0);
    assert_int_equal(mbedtls_x509write_crt_set_issuer_name(&cert, issuer), 0);
    assert_int_equal(mbedtls_x509write_crt_set_serial(&cert, &serial), 0);
    assert_int_equal(mbedtls_x509write_crt_set_validity(&cert, "20200101000000", "20991231235959"),
                     0);
    assert_int_equal(mbedtls_x509write_crt_set_basic_constraints(&cert, is_ca, -1), 0);
    got = mbedtls_x509write_crt_der(&cert, der, room, rng, NULL);
    assert_true(got > 0);
    memmove(der, der + room - got, (size_t)got);
    mbedtls_x509write_crt_free(&cert);
    mbedtls_mpi_free(&serial);
    return (size_t)got;
}

struct fixture {
    struct harness_scratch scratch;
    struct delta_key key, ca, stranger;
    struct agent_enrolment answer;
    struct agent_enrol_options options;
    char dir[300], ca_path[300];
};

static void write_pem(const char *path, const uint8_t *der, size_t len)
{
    struct delta_error err;
    unsigned char pem[4096];
    size_t used;

    assert_int_equal(mbedtls_pem_write_buffer("-----BEGIN CERTIFICATE-----\n",
                                              "-----END CERTIFICATE-----\n", der, len, pem,
                                              sizeof pem, &used),
                     0);
    assert_ok(delta_file_write(path, delta_bytes(pem, used - 1), 0644, &err));
}

static int set_up(void **state)
{
    static struct fixture f;
    struct delta_error err;
    struct delta_public_key release;

    memset(&f, 0, sizeof f);
    harness_scratch_make(&f.scratch);
    snprintf(f.dir, sizeof f.dir, "%s/device", f.scratch.path);
    snprintf(f.ca_path, sizeof f.ca_path, "%s/ca.pem", f.scratch.path);
    assert_ok(agent_identity_key(&f.key, f.dir, &err));
    assert_ok(delta_key_generate(&f.ca, &err));
    assert_ok(delta_key_generate(&f.stranger, &err));
    f.answer.ca_len = issue(f.answer.ca, sizeof f.answer.ca, "CN=ca", &f.ca, "CN=ca", &f.ca, true);
    write_pem(f.ca_path, f.answer.ca, f.answer.ca_len);
    f.answer.certificate_len = issue(f.answer.certificate, sizeof f.answer.certificate, "CN=cam-1",
                                     &f.key, "CN=ca", &f.ca, false);
    snprintf(f.answer.channel, sizeof f.answer.channel, "main");
    assert_ok(delta_key_public(&f.stranger, &release, &err));
    memcpy(f.answer.release_key, release.der, release.len);
    f.answer.release_key_len = release.len;
    f.options = (struct agent_enrol_options){.dir = f.dir,
                                             .server = "https://127.0.0.1:8443",
                                             .ca_path = f.ca_path,
                                             .token = "t",
                                             .device = "cam-1"};
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    delta_key_release(&f->key);
    delta_key_release(&f->ca);
    delta_key_release(&f->stranger);
    harness_scratch_remove(&f->scratch);
    return 0;
}

static void identity_csr_is_signed_by_the_device_key(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct delta_public_key own;
    struct delta_buf csr;
    mbedtls_x509_csr parsed;
    uint8_t der[DELTA_PUBLIC_KEY_MAX];
    char subject[128];

    assert_ok(agent_identity_csr(&csr, &f->key, "cam-1", &err));
    mbedtls_x509_csr_init(&parsed);
    assert_int_equal(mbedtls_x509_csr_parse_der(&parsed, csr.data, csr.len), 0);
    assert_true(mbedtls_x509_dn_gets(subject, sizeof subject, &parsed.subject) > 0);
    assert_string_equal(subject, "CN=cam-1");
    assert_ok(delta_key_public(&f->key, &own, &err));
    const int len = mbedtls_pk_write_pubkey_der(&parsed.pk, der, sizeof der);
    assert_int_equal(len, own.len);
    assert_memory_equal(der + sizeof der - (size_t)len, own.der, own.len);
    mbedtls_x509_csr_free(&parsed);
    delta_buf_release(&csr);
    assert_status(agent_identity_csr(&csr, &f->key, "Bad Name", &err), DELTA_FORMAT);
}

static void identity_key_is_made_once_and_private(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct delta_public_key a, b;
    struct delta_key again;
    struct stat info;
    char path[400];

    assert_ok(agent_identity_key(&again, f->dir, &err));
    assert_ok(delta_key_public(&f->key, &a, &err));
    assert_ok(delta_key_public(&again, &b, &err));
    assert_true(delta_digest_equal(&a.id, &b.id));
    delta_key_release(&again);
    snprintf(path, sizeof path, "%s/device.key", f->dir);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
}

static void identity_survives_saving_and_loading(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_identity identity;

    assert_status(agent_identity_load(&identity, f->dir, &err), DELTA_CONFIG);
    assert_non_null(strstr(err.text, "enrol"));
    assert_ok(agent_identity_save(&f->options, &f->key, &f->answer, &err));
    assert_ok(agent_identity_load(&identity, f->dir, &err));
    assert_string_equal(identity.device, "cam-1");
    assert_string_equal(identity.channel, "main");
    assert_string_equal(identity.server, "https://127.0.0.1:8443");
    assert_int_equal(identity.release.count, 1);
    assert_int_equal(identity.installed.count, 2);
    agent_identity_release(&identity);
}

static void identity_refuses_a_certificate_of_another_ca(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    f->answer.certificate_len = issue(f->answer.certificate, sizeof f->answer.certificate,
                                      "CN=cam-1", &f->key, "CN=ca", &f->stranger, false);
    assert_status(agent_identity_save(&f->options, &f->key, &f->answer, &err), DELTA_UNTRUSTED);
}

static void identity_refuses_a_certificate_for_another_key(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    f->answer.certificate_len = issue(f->answer.certificate, sizeof f->answer.certificate,
                                      "CN=cam-1", &f->stranger, "CN=ca", &f->ca, false);
    assert_status(agent_identity_save(&f->options, &f->key, &f->answer, &err), DELTA_UNTRUSTED);
    assert_non_null(strstr(err.text, "another key"));
}

static void identity_refuses_a_certificate_for_another_name(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    f->answer.certificate_len = issue(f->answer.certificate, sizeof f->answer.certificate,
                                      "CN=cam-2", &f->key, "CN=ca", &f->ca, false);
    assert_status(agent_identity_save(&f->options, &f->key, &f->answer, &err), DELTA_UNTRUSTED);
}

static void identity_refuses_garbage(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_identity identity;

    f->answer.certificate[5] ^= 1;
    f->answer.certificate_len = 40;
    assert_status(agent_identity_save(&f->options, &f->key, &f->answer, &err), DELTA_FORMAT);
    assert_status(agent_identity_load(&identity, f->dir, &err), DELTA_CONFIG);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(identity_csr_is_signed_by_the_device_key),
        CASE(identity_key_is_made_once_and_private),
        CASE(identity_survives_saving_and_loading),
        CASE(identity_refuses_a_certificate_of_another_ca),
        CASE(identity_refuses_a_certificate_for_another_key),
        CASE(identity_refuses_a_certificate_for_another_name),
        CASE(identity_refuses_garbage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
