#include "delta/buf.h"

#include <stdlib.h>
#include <string.h>

#include "delta/class_id.h"
#include "delta/hash.h"
#include "delta_fixture.h"

static void buf_grows_to_its_cap_and_no_further(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf buf;
    uint8_t *at;

    (void)state;
    delta_buf_init(&buf, 1000);
    assert_ok(delta_buf_append(&buf, "abc", 3, &err));
    assert_ok(delta_buf_extend(&buf, 997, &at, &err));
    for (size_t i = 0; i < 997; i++)
        assert_int_equal(at[i], 0);
    assert_status(delta_buf_append(&buf, "x", 1, &err), DELTA_LIMIT);
    assert_int_equal(buf.len, 1000);
    assert_memory_equal(buf.data, "abc", 3);
    assert_status(delta_buf_extend(&buf, SIZE_MAX, NULL, &err), DELTA_LIMIT);
    delta_buf_clear(&buf);
    assert_status(delta_buf_append(&buf, "x", SIZE_MAX - 2, &err), DELTA_LIMIT);
    assert_ok(delta_buf_append(&buf, NULL, 0, &err));
    assert_int_equal(buf.len, 0);
    assert_true(buf.room <= 1000);
    delta_buf_release(&buf);
    delta_buf_release(&buf); /* twice is fine */
    delta_buf_release(NULL);
}

static void buf_never_allocates_what_it_refuses(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf buf;

    (void)state;
    delta_buf_init(&buf, 16);
    assert_status(delta_buf_extend(&buf, (size_t)1 << 40, NULL, &err), DELTA_LIMIT);
    assert_null(buf.data);
    delta_buf_release(&buf);
}

static void sizes_are_checked(void **state)
{
    size_t n;

    (void)state;
    assert_true(delta_size_mul(1 << 20, 1 << 20, &n));
    assert_false(delta_size_mul(SIZE_MAX / 2, 3, &n));
    assert_false(delta_size_add(SIZE_MAX, 1, &n));
    assert_null(delta_calloc(SIZE_MAX / 2, 3));
    assert_null(delta_calloc_aligned(SIZE_MAX / 2, 3));
    assert_null(delta_calloc_aligned(1, SIZE_MAX - 3));
    void *p = delta_calloc_aligned(0, 4);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    free(p);
}

static void hex_round_trip(void **state)
{
    uint8_t bytes[4] = {0x00, 0x9f, 0xab, 0xff}, back[4];
    char text[9];

    (void)state;
    delta_hex(text, bytes, 4);
    assert_string_equal(text, "009fabff");
    assert_true(delta_unhex(back, 4, text));
    assert_memory_equal(bytes, back, 4);
    assert_true(delta_unhex(back, 4, "009FABFF"));
    assert_false(delta_unhex(back, 4, "009fabf"));
    assert_false(delta_unhex(back, 4, "009fabff0"));
    assert_false(delta_unhex(back, 4, "009fabfg"));
    assert_false(delta_unhex(back, 4, ""));
}

/* FIPS 180-4's examples. */
static void hash_known_answers(void **state)
{
    static const struct {
        const char *text, *hex;
    } rows[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        const size_t len = strlen(rows[i].text);
        struct delta_digest whole = delta_sha256(delta_bytes(rows[i].text, len)), parts, read;
        struct delta_hash hash;
        char hex[DELTA_DIGEST_HEX];
        delta_digest_hex(hex, &whole);
        assert_string_equal(hex, rows[i].hex);
        assert_ok(delta_hash_init(&hash, &err));
        for (size_t k = 0; k < len; k++)
            delta_hash_update(&hash, delta_bytes(rows[i].text + k, 1));
        parts = delta_hash_finish(&hash);
        assert_true(delta_digest_equal(&whole, &parts));
        assert_true(delta_digest_parse(&read, hex));
        assert_true(delta_digest_equal(&whole, &read));
        assert_false(delta_digest_is_zero(&whole));
    }
    assert_true(delta_digest_is_zero(&(struct delta_digest){{0}}));
}

static void class_ids_are_normalised(void **state)
{
    static const struct {
        const char *name, *id; /* NULL: refused */
        enum delta_status want;
    } rows[] = {
        {"Aquarium Fish", "aquarium_fish", DELTA_OK},
        {"  a \t b  ", "a_b", DELTA_OK},
        {"x-1.y_z", "x-1.y_z", DELTA_OK},
        {"_", "_", DELTA_OK},
        {"", NULL, DELTA_FORMAT},
        {"   ", NULL, DELTA_FORMAT},
        {".hidden", NULL, DELTA_FORMAT},
        {"-rf", NULL, DELTA_FORMAT},
        {"..", NULL, DELTA_FORMAT},
        {"a/b", NULL, DELTA_FORMAT},
        {"a\nb", NULL, DELTA_FORMAT},
        {"a%n", NULL, DELTA_FORMAT},
        {"\xc3\xa9", NULL, DELTA_FORMAT},
        {"123456789012345678901234567890123456789012345678901234567890123",
         "123456789012345678901234567890123456789012345678901234567890123", DELTA_OK},
        {"1234567890123456789012345678901234567890123456789012345678901234", NULL, DELTA_LIMIT},
    };
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct delta_class_id id = {"untouched"};
        assert_status(delta_class_id_make(&id, rows[i].name, &err), rows[i].want);
        assert_string_equal(id.text, rows[i].id ? rows[i].id : "untouched");
        if (rows[i].id)
            assert_ok(delta_class_id_check(rows[i].id, &err)); /* normal form is stable */
    }
    assert_status(delta_class_id_check("Dog", &err), DELTA_FORMAT);
    assert_status(delta_class_id_check("a b", &err), DELTA_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buf_grows_to_its_cap_and_no_further),
        cmocka_unit_test(buf_never_allocates_what_it_refuses),
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(hex_round_trip),
        cmocka_unit_test(hash_known_answers),
        cmocka_unit_test(class_ids_are_normalised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
