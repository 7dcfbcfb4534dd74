#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "delta/file.h"
#include "delta_fixture.h"

static struct harness_scratch scratch;

static int setup(void **state)
{
    (void)state;
    harness_scratch_make(&scratch);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

static void key_signs_and_only_the_same_bytes_verify(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_public_key key, other;
    uint8_t signature[DELTA_SIGNATURE_MAX];
    uint8_t text[] = "what is signed";
    size_t len;

    (void)state;
    assert_ok(delta_key_public(fixture_key(), &key, &err));
    assert_ok(delta_key_public(fixture_other_key(), &other, &err));
    assert_ok(delta_key_sign(fixture_key(), delta_bytes(text, sizeof text), signature, &len, &err));
    const struct delta_bytes der = delta_bytes(signature, len);
    assert_ok(delta_public_key_verify(&key, delta_bytes(text, sizeof text), der, &err));
    assert_status(delta_public_key_verify(&other, delta_bytes(text, sizeof text), der, &err),
                  DELTA_SIGNATURE);
    for (size_t bit = 0; bit < len * 8; bit++) {
        signature[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_status(delta_public_key_verify(&key, delta_bytes(text, sizeof text), der, &err),
                      DELTA_SIGNATURE);
        signature[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    text[3] ^= 1;
    assert_status(delta_public_key_verify(&key, delta_bytes(text, sizeof text), der, &err),
                  DELTA_SIGNATURE);
    assert_status(delta_public_key_verify(&key, delta_bytes(text, sizeof text),
                                          delta_bytes(signature, len - 1), &err),
                  DELTA_SIGNATURE);
    assert_status(
        delta_public_key_verify(&key, delta_bytes(text, sizeof text), delta_bytes(NULL, 0), &err),
        DELTA_SIGNATURE);
}

static void key_survives_its_file_which_is_private(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const char *path = harness_path(&scratch, "key.pem");
    const char *pub = harness_path(&scratch, "key.pub.pem");
    struct delta_public_key a, b, c, d;
    struct delta_key loaded;
    struct stat info;

    (void)state;
    assert_ok(delta_key_save(fixture_key(), path, &err));
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_ok(delta_key_load(&loaded, path, &err));
    assert_ok(delta_key_public(fixture_key(), &a, &err));
    assert_ok(delta_key_public(&loaded, &b, &err));
    assert_memory_equal(a.id.bytes, b.id.bytes, 32);
    delta_key_release(&loaded);
    assert_ok(delta_public_key_save(&a, pub, &err));
    assert_ok(delta_public_key_load(&c, pub, &err));
    assert_ok(delta_public_key_load(&d, path, &err));
    assert_memory_equal(a.id.bytes, c.id.bytes, 32);
    assert_memory_equal(a.id.bytes, d.id.bytes, 32);
    assert_int_equal(a.len, 91);
}

static void key_refuses_other_files(void **state)
{
    static const char rsa[] = "-----BEGIN PUBLIC KEY-----\n"
                              "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf\n"
                              "9Cnzj4p4WGeKLs1Pt8QuKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==\n"
                              "-----END PUBLIC KEY-----\n";
    struct delta_error err = DELTA_ERROR_INIT;
    const char *path = harness_path(&scratch, "bad.pem");
    struct delta_public_key pub;
    struct delta_key key;

    (void)state;
    assert_status(delta_key_load(&key, harness_path(&scratch, "absent"), &err), DELTA_NOT_FOUND);
    assert_ok(delta_file_write(path, delta_bytes("hello\n", 6), 0644, &err));
    assert_status(delta_key_load(&key, path, &err), DELTA_FORMAT);
    assert_non_null(strstr(err.text, "bad.pem"));
    assert_status(delta_public_key_load(&pub, path, &err), DELTA_FORMAT);
    assert_ok(delta_file_write(path, delta_bytes("", 0), 0644, &err));
    assert_status(delta_key_load(&key, path, &err), DELTA_FORMAT);
    assert_ok(delta_file_write(path, delta_bytes("\0\1\2", 3), 0644, &err));
    assert_status(delta_key_load(&key, path, &err), DELTA_FORMAT);
    assert_ok(delta_file_write(path, delta_bytes(rsa, sizeof rsa - 1), 0644, &err));
    assert_status(delta_public_key_load(&pub, path, &err), DELTA_UNSUPPORTED);
    assert_status(delta_public_key_parse(&pub, delta_bytes("\x30\x03\x02\x01\x00", 5), &err),
                  DELTA_FORMAT);
}

static void key_der_has_one_encoding(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_public_key key, again;

    (void)state;
    assert_ok(delta_key_public(fixture_key(), &key, &err));
    assert_ok(delta_public_key_parse(&again, delta_bytes(key.der, key.len), &err));
    assert_memory_equal(key.id.bytes, again.id.bytes, 32);
    for (size_t len = 0; len < key.len; len++)
        assert_status(delta_public_key_parse(&again, delta_bytes(key.der, len), &err),
                      DELTA_FORMAT);
}

static void keyring_finds_what_was_added_and_is_bounded(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_keyring ring = {.count = 0};
    struct delta_public_key key;

    (void)state;
    assert_ok(delta_key_public(fixture_key(), &key, &err));
    assert_ok(delta_keyring_add(&ring, &key, &err));
    assert_ok(delta_keyring_add(&ring, &key, &err)); /* twice is once */
    assert_int_equal(ring.count, 1);
    assert_non_null(delta_keyring_find(&ring, &key.id));
    for (uint8_t i = 1; i < DELTA_KEYRING_MAX; i++) {
        key.id.bytes[0] ^= i;
        key.id.bytes[1] = i;
        assert_ok(delta_keyring_add(&ring, &key, &err));
    }
    key.id.bytes[1] = 200;
    assert_null(delta_keyring_find(&ring, &key.id));
    assert_status(delta_keyring_add(&ring, &key, &err), DELTA_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(key_signs_and_only_the_same_bytes_verify),
        cmocka_unit_test(key_survives_its_file_which_is_private),
        cmocka_unit_test(key_refuses_other_files),
        cmocka_unit_test(key_der_has_one_encoding),
        cmocka_unit_test(keyring_finds_what_was_added_and_is_bounded),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
