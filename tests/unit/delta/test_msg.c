#include "delta/msg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "delta_fixture.h"

#define ROW(bytes, want)                                                                           \
    {                                                                                              \
        bytes, sizeof(bytes) - 1, want                                                             \
    }

static void msg_hostile_bytes_are_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        enum delta_status want;
    } rows[] = {
        ROW("", DELTA_TRUNCATED),
        /* lengths that promise more than there is */
        ROW("\xdd\x20\x00\x00\x00", DELTA_TRUNCATED),
        ROW("\xdd\xff\xff\xff\xff", DELTA_TRUNCATED),
        ROW("\xdf\x7f\xff\xff\xff", DELTA_TRUNCATED),
        ROW("\xdc\xff\xff\x01", DELTA_TRUNCATED),
        ROW("\xc6\xff\xff\xff\xff", DELTA_TRUNCATED),
        ROW("\xdb\xff\xff\xff\xff", DELTA_TRUNCATED),
        ROW("\xc4", DELTA_TRUNCATED),
        ROW("\xc4\x05"
            "abcd",
            DELTA_TRUNCATED),
        ROW("\xa5"
            "abcd",
            DELTA_TRUNCATED),
        ROW("\x92\x01", DELTA_TRUNCATED),
        ROW("\x81\xa1"
            "a",
            DELTA_TRUNCATED),
        ROW("\x81", DELTA_TRUNCATED),
        ROW("\xcd\x01", DELTA_TRUNCATED),
        ROW("\xcb\x00\x00", DELTA_TRUNCATED),
        ROW("\xd9", DELTA_TRUNCATED),
        /* more than one value */
        ROW("\x01\x01", DELTA_FORMAT),
        ROW("\x90\xc0", DELTA_FORMAT),
        /* types of no schema */
        ROW("\xc0", DELTA_FORMAT),
        ROW("\xc1", DELTA_FORMAT),
        ROW("\xca\x00\x00\x00\x00", DELTA_FORMAT),
        ROW("\xc7\x01\x00\x00", DELTA_FORMAT),
        ROW("\xd4\x00\x00", DELTA_FORMAT),
        /* not the shortest form */
        ROW("\xcc\x7f", DELTA_FORMAT),
        ROW("\xcd\x00\xff", DELTA_FORMAT),
        ROW("\xce\x00\x00\xff\xff", DELTA_FORMAT),
        ROW("\xcf\x00\x00\x00\x00\xff\xff\xff\xff", DELTA_FORMAT),
        ROW("\xd0\x01", DELTA_FORMAT),
        ROW("\xd0\xe0", DELTA_FORMAT),
        ROW("\xd1\xff\x80", DELTA_FORMAT),
        ROW("\xd2\xff\xff\x80\x00", DELTA_FORMAT),
        ROW("\xd3\x00\x00\x00\x00\x00\x00\x00\x01", DELTA_FORMAT),
        ROW("\xd9\x01"
            "a",
            DELTA_FORMAT),
        ROW("\xda\x00\x01"
            "a",
            DELTA_FORMAT),
        ROW("\xc5\x00\x01"
            "a",
            DELTA_FORMAT),
        ROW("\xdc\x00\x01\x01", DELTA_FORMAT),
        ROW("\xde\x00\x01\xa1"
            "a\x01",
            DELTA_FORMAT),
        /* maps */
        ROW("\x82\xa1"
            "a\x01\xa1"
            "a\x02",
            DELTA_FORMAT),
        ROW("\x82\xa1"
            "b\x01\xa1"
            "a\x02",
            DELTA_FORMAT),
        ROW("\x82\xa2"
            "ab\x01\xa1"
            "a\x02",
            DELTA_FORMAT),
        ROW("\x81\x01\x01", DELTA_FORMAT),
        ROW("\x81\xc4\x01"
            "a\x01",
            DELTA_FORMAT),
        /* depth */
        ROW("\x91\x91\x91\x91\x91\x91\x91\x01", DELTA_OK),
        ROW("\x91\x91\x91\x91\x91\x91\x91\x91\x01", DELTA_LIMIT),
        /* and what is right */
        ROW("\x00", DELTA_OK),
        ROW("\xff", DELTA_OK),
        ROW("\xcc\x80", DELTA_OK),
        ROW("\xd0\xdf", DELTA_OK),
        ROW("\xcf\xff\xff\xff\xff\xff\xff\xff\xff", DELTA_OK),
        ROW("\xd3\x80\x00\x00\x00\x00\x00\x00\x00", DELTA_OK),
        ROW("\x82\xa1"
            "a\x01\xa2"
            "ab\xc3",
            DELTA_OK),
        ROW("\x80", DELTA_OK),
    };
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        /* a copy of the exact size, so that the sanitizer sees a read behind it */
        uint8_t *copy = malloc(rows[i].len ? rows[i].len : 1);
        struct delta_msg msg = {NULL, NULL};
        memcpy(copy, rows[i].bytes, rows[i].len);
        const enum delta_status st = delta_msg_parse(&msg, delta_bytes(copy, rows[i].len), &err);
        if (st != rows[i].want)
            fail_msg("row %zu: %s: %s", i, delta_status_name(st), err.text);
        delta_msg_release(&msg);
        free(copy);
    }
}

/* Five bytes must not reserve gigabytes: parsing works within a quarter of one. */
static void msg_cost_is_bounded(void **state)
{
    static const uint8_t bombs[][5] = {
        {0xdd, 0x20, 0, 0, 0}, {0xdf, 0x10, 0, 0, 0}, {0xdd, 0x0f, 0xff, 0xff, 0xff}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_msg msg;
    uint8_t *wide = malloc(70005);

    (void)state;
    for (size_t i = 0; i < 3; i++)
        assert_status(delta_msg_parse(&msg, delta_bytes(bombs[i], 5), &err), DELTA_TRUNCATED);
    memset(wide, 1, 70005);
    memcpy(wide, "\xdd\x00\x01\x11\x70", 5); /* 70,000 elements, all there */
    assert_status(delta_msg_parse(&msg, delta_bytes(wide, 70005), &err), DELTA_LIMIT);
    memcpy(wide, "\xdc\xff\xff", 3); /* 65,535 elements and the array: just allowed */
    assert_ok(delta_msg_parse(&msg, delta_bytes(wide, 65538), &err));
    assert_int_equal(delta_msg_count(delta_msg_root(&msg)), 65535);
    delta_msg_release(&msg);
    free(wide);
}

static void msg_round_trip(void **state)
{
    static const uint64_t numbers[] = {
        0, 1, 127, 128, 255, 256, 65535, 65536, UINT32_MAX, (uint64_t)UINT32_MAX + 1, UINT64_MAX};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf buf;
    struct delta_msg_out out = {&buf, DELTA_OK};
    struct delta_msg msg;
    struct delta_msg_value list;
    struct delta_bytes bytes;
    char text[8];
    double real;
    bool flag;
    uint64_t n;

    (void)state;
    delta_buf_init(&buf, 1 << 20);
    delta_msg_map(&out, 5);
    delta_msg_str(&out, "bin");
    delta_msg_bin(&out, "\0\1\2", 3);
    delta_msg_str(&out, "flag");
    delta_msg_bool(&out, true);
    delta_msg_str(&out, "list");
    delta_msg_array(&out, sizeof numbers / sizeof numbers[0]);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        delta_msg_uint(&out, numbers[i]);
    delta_msg_str(&out, "real");
    delta_msg_real(&out, -0.1);
    delta_msg_str(&out, "text");
    delta_msg_str(&out, "seven77");
    assert_int_equal(out.status, DELTA_OK);
    assert_ok(delta_msg_parse(&msg, delta_buf_bytes(&buf), &err));
    const struct delta_msg_value root = delta_msg_root(&msg);
    assert_ok(delta_msg_get_bin(root, "bin", &bytes, &err));
    assert_memory_equal(bytes.data, "\0\1\2", 3);
    assert_ok(delta_msg_get_bool(root, "flag", &flag, &err));
    assert_true(flag);
    assert_ok(delta_msg_get_array(root, "list", 11, &list, &err));
    for (size_t i = 0; i < 11; i++) {
        assert_ok(delta_msg_to_uint(delta_msg_at(list, i), "x", UINT64_MAX, &n, &err));
        assert_true(n == numbers[i]);
    }
    assert_status(delta_msg_get_array(root, "list", 10, &list, &err), DELTA_LIMIT);
    assert_ok(delta_msg_get_real(root, "real", &real, &err));
    assert_true(real == -0.1);
    assert_ok(delta_msg_get_str(root, "text", text, sizeof text, &err));
    assert_string_equal(text, "seven77");
    assert_status(delta_msg_get_str(root, "text", text, 7, &err), DELTA_LIMIT);
    assert_status(delta_msg_get_str(root, "absent", text, 8, &err), DELTA_FORMAT);
    assert_non_null(strstr(err.text, "absent"));
    assert_status(delta_msg_get_str(root, "real", text, 8, &err), DELTA_FORMAT);
    assert_status(delta_msg_get_uint(root, "text", 9, &n, &err), DELTA_FORMAT);
    assert_status(delta_msg_get_fixed(root, "bin", text, 4, &err), DELTA_FORMAT);
    assert_false(delta_msg_has(root, "zzz"));
    assert_false(delta_msg_has(list, "real"));
    delta_msg_release(&msg);
    delta_buf_release(&buf);
}

static void msg_negative_numbers_are_written_canonically(void **state)
{
    static const int64_t numbers[] = {-1,
                                      -32,
                                      -33,
                                      INT8_MIN,
                                      INT8_MIN - 1,
                                      INT16_MIN,
                                      INT16_MIN - 1,
                                      INT32_MIN,
                                      (int64_t)INT32_MIN - 1,
                                      INT64_MIN,
                                      0,
                                      127,
                                      128,
                                      INT64_MAX};
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct delta_buf buf;
        struct delta_msg_out out = {&buf, DELTA_OK};
        size_t used;
        delta_buf_init(&buf, 64);
        delta_msg_int(&out, numbers[i]);
        assert_ok(delta_msg_scan(delta_buf_bytes(&buf), &used, &err));
        assert_int_equal(used, buf.len);
        delta_buf_release(&buf);
    }
}

static void msg_refuses_nan_and_nul(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_msg msg;
    double real;
    char text[8];
    static const uint8_t nan[] = {0x81, 0xa1, 'a', 0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0};
    static const uint8_t nul[] = {0x81, 0xa1, 'a', 0xa3, 'x', 0, 'y'};

    (void)state;
    assert_ok(delta_msg_parse(&msg, delta_bytes(nan, sizeof nan), &err));
    assert_status(delta_msg_get_real(delta_msg_root(&msg), "a", &real, &err), DELTA_NONFINITE);
    delta_msg_release(&msg);
    assert_ok(delta_msg_parse(&msg, delta_bytes(nul, sizeof nul), &err));
    assert_status(delta_msg_get_str(delta_msg_root(&msg), "a", text, 8, &err), DELTA_FORMAT);
    delta_msg_release(&msg);
}

static void msg_writing_into_a_full_buffer_is_remembered(void **state)
{
    struct delta_buf buf;
    struct delta_msg_out out = {&buf, DELTA_OK};

    (void)state;
    delta_buf_init(&buf, 4);
    delta_msg_str(&out, "abc");
    assert_int_equal(out.status, DELTA_OK);
    delta_msg_uint(&out, 1);
    delta_msg_bool(&out, true);
    assert_int_equal(out.status, DELTA_LIMIT);
    assert_int_equal(buf.len, 4);
    delta_buf_release(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(msg_hostile_bytes_are_refused),
        cmocka_unit_test(msg_cost_is_bounded),
        cmocka_unit_test(msg_round_trip),
        cmocka_unit_test(msg_negative_numbers_are_written_canonically),
        cmocka_unit_test(msg_refuses_nan_and_nul),
        cmocka_unit_test(msg_writing_into_a_full_buffer_is_remembered),
    };
    /* with the sanitizer the address space itself is huge and cannot be limited */
#ifndef __SANITIZE_ADDRESS__
    const struct rlimit quarter = {256u << 20, 256u << 20};
    setrlimit(RLIMIT_AS, &quarter);
#endif
    return cmocka_run_group_tests(tests, NULL, NULL);
}
