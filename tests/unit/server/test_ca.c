/* Certificates: what mbedTLS reads back from what we wrote. */
#define MBEDTLS_ALLOW_PRIVATE_ACCESS
#include "harness.h"

#include <mbedtls/oid.h>
#include <mbedtls/x509_crt.h>
#include <stdio.h>
#include <string.h>

#include "ca.h"
#include "delta/clock.h"
#include "server_fleet.h"

struct authority {
    struct harness_scratch scratch;
    struct delta_key key;
    struct server_ca *ca;
    mbedtls_x509_crt certificate;
    int64_t now;
};

static void make(struct authority *a, const char *name)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_clock clock = delta_clock_system();
    struct server_certificate crt;

    memset(a, 0, sizeof *a);
    harness_scratch_make(&a->scratch);
    a->now = delta_clock_wall_ms(&clock);
    assert_ok(delta_key_generate(&a->key, &err));
    assert_ok(delta_key_save(&a->key, harness_path(&a->scratch, "ca.key"), &err));
    assert_ok(server_ca_make(&a->key, name, a->now, &crt, &err));
    assert_ok(server_certificate_save(&crt, harness_path(&a->scratch, "ca.pem"), &err));
    assert_ok(server_ca_load(&a->ca, harness_path(&a->scratch, "ca.pem"),
                             harness_path(&a->scratch, "ca.key"), &err));
    mbedtls_x509_crt_init(&a->certificate);
    assert_int_equal(mbedtls_x509_crt_parse_der(&a->certificate, crt.der, crt.len), 0);
}

static void drop(struct authority *a)
{
    mbedtls_x509_crt_free(&a->certificate);
    server_ca_free(a->ca);
    delta_key_release(&a->key);
    harness_scratch_remove(&a->scratch);
}

/* Verification flags of a certificate under this CA, for this host (NULL: any). */
static uint32_t verify(struct authority *a, const struct server_certificate *crt, const char *host)
{
    mbedtls_x509_crt leaf;
    uint32_t flags = 0;

    mbedtls_x509_crt_init(&leaf);
    assert_int_equal(mbedtls_x509_crt_parse_der(&leaf, crt->der, crt->len), 0);
    (void)mbedtls_x509_crt_verify(&leaf, &a->certificate, NULL, host, &flags, NULL, NULL);
    mbedtls_x509_crt_free(&leaf);
    return flags;
}

static void server_certificate_names_its_hosts(void **state)
{
    static const char *const names[] = {"coordinator.example", "127.0.0.1", "::1", "localhost"};
    static const uint8_t v4[] = {127, 0, 0, 1};
    struct authority a;
    struct server_certificate crt;
    struct delta_error err = DELTA_ERROR_INIT;
    mbedtls_x509_crt leaf;
    size_t count = 0;

    (void)state;
    make(&a, "test-ca");
    assert_ok(server_ca_issue_server(a.ca, &a.key, names, 4, a.now, &crt, &err));
    assert_int_equal(verify(&a, &crt, "coordinator.example"), 0);
    assert_int_equal(verify(&a, &crt, "localhost"), 0);
    assert_int_equal(verify(&a, &crt, "elsewhere.example"), MBEDTLS_X509_BADCERT_CN_MISMATCH);
    mbedtls_x509_crt_init(&leaf);
    assert_int_equal(mbedtls_x509_crt_parse_der(&leaf, crt.der, crt.len), 0);
    for (const mbedtls_x509_sequence *san = &leaf.subject_alt_names; san; san = san->next) {
        const unsigned type = san->buf.tag & 0x1f;
        assert_int_equal(type, count == 1 || count == 2 ? 7 : 2);
        if (count == 1) {
            assert_int_equal(san->buf.len, 4);
            assert_memory_equal(san->buf.p, v4, 4);
        }
        if (count == 2)
            assert_int_equal(san->buf.len, 16);
        if (count == 0)
            assert_memory_equal(san->buf.p, names[0], strlen(names[0]));
        count++;
    }
    assert_int_equal(count, 4);
    assert_int_equal(mbedtls_x509_crt_check_extended_key_usage(
                         &leaf, MBEDTLS_OID_SERVER_AUTH, MBEDTLS_OID_SIZE(MBEDTLS_OID_SERVER_AUTH)),
                     0);
    assert_int_not_equal(
        mbedtls_x509_crt_check_extended_key_usage(&leaf, MBEDTLS_OID_CLIENT_AUTH,
                                                  MBEDTLS_OID_SIZE(MBEDTLS_OID_CLIENT_AUTH)),
        0);
    mbedtls_x509_crt_free(&leaf);
    drop(&a);
}

static void san_der_is_exact(void **state)
{
    static const char *const names[] = {"ab", "10.0.0.1"};
    static const uint8_t want[] = {0x30, 10, 0x82, 2, 'a', 'b', 0x87, 4, 10, 0, 0, 1};
    static const char *const bad[] = {"", "a b", "-x", "a\nb", "a,b", "*"};
    struct delta_error err = DELTA_ERROR_INIT;
    uint8_t der[64];
    size_t len;

    (void)state;
    assert_ok(server_san_write(names, 2, der, sizeof der, &len, &err));
    assert_int_equal(len, sizeof want);
    assert_memory_equal(der, want, len);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_status(server_san_write(&bad[i], 1, der, sizeof der, &len, &err), DELTA_FORMAT);
    assert_status(server_san_write(names, 2, der, 8, &len, &err), DELTA_LIMIT);
}

static void client_certificates_verify_expire_and_belong(void **state)
{
    struct authority a, other;
    struct server_certificate first, second, old;
    struct delta_public_key key;
    struct delta_error err = DELTA_ERROR_INIT;
    mbedtls_x509_crt x, y;

    (void)state;
    make(&a, "ca-one");
    make(&other, "ca-two");
    assert_ok(delta_key_public(&a.key, &key, &err));
    assert_ok(server_ca_issue_client(a.ca, &key, "cam-1", "device", a.now, 0, &first, &err));
    assert_ok(server_ca_issue_client(a.ca, &key, "cam-1", "device", a.now, 0, &second, &err));
    assert_ok(server_ca_issue_client(a.ca, &key, "cam-1", "device", a.now, -60, &old, &err));
    assert_int_equal(verify(&a, &first, NULL), 0);
    assert_int_equal(verify(&other, &first, NULL), MBEDTLS_X509_BADCERT_NOT_TRUSTED);
    assert_int_equal(verify(&a, &old, NULL), MBEDTLS_X509_BADCERT_EXPIRED);
    mbedtls_x509_crt_init(&x);
    mbedtls_x509_crt_init(&y);
    assert_int_equal(mbedtls_x509_crt_parse_der(&x, first.der, first.len), 0);
    assert_int_equal(mbedtls_x509_crt_parse_der(&y, second.der, second.len), 0);
    assert_int_equal(x.serial.len, 15);
    assert_memory_not_equal(x.serial.p, y.serial.p, 15);
    assert_false(x.ca_istrue);
    mbedtls_x509_crt_free(&x);
    mbedtls_x509_crt_free(&y);
    assert_status(
        server_ca_issue_client(a.ca, &key, "cam,O=operator", "device", a.now, 0, &first, &err),
        DELTA_FORMAT);
    drop(&a);
    drop(&other);
}

static void requests_prove_possession(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct device device = {.name = "cam-1"};
    struct delta_public_key key;
    struct server_csr csr;
    uint8_t der[1024];
    size_t len;

    (void)state;
    assert_ok(delta_key_generate(&device.key, &err));
    assert_ok(delta_key_public(&device.key, &key, &err));
    device_request(&device, "cam-1", false, der, sizeof der, &len);
    assert_ok(server_csr_read(&csr, delta_bytes(der, len), &err));
    assert_string_equal(csr.name, "cam-1");
    assert_true(delta_digest_equal(&csr.key.id, &key.id));
    assert_status(server_csr_read(&csr, delta_bytes(der, len - 1), &err), DELTA_FORMAT);
    device_request(&device, "cam-1", true, der, sizeof der, &len);
    assert_status(server_csr_read(&csr, delta_bytes(der, len), &err), DELTA_SIGNATURE);
    device_request(&device, "Cam 1", false, der, sizeof der, &len);
    assert_status(server_csr_read(&csr, delta_bytes(der, len), &err), DELTA_FORMAT);
    delta_key_release(&device.key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(server_certificate_names_its_hosts),
        cmocka_unit_test(san_der_is_exact),
        cmocka_unit_test(client_certificates_verify_expire_and_belong),
        cmocka_unit_test(requests_prove_possession),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
