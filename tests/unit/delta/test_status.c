#include <errno.h>
#include <string.h>

#include "delta_fixture.h"

static void status_table_is_stable(void **state)
{
    /* stored and sent: these numbers and names may never change */
    static const struct {
        enum delta_status status;
        int value;
        const char *name;
        int exit;
    } rows[] = {
        {DELTA_OK, 0, "OK", 0},
        {DELTA_INTERNAL, 1, "INTERNAL", 7},
        {DELTA_TRUNCATED, 2, "TRUNCATED", 3},
        {DELTA_FORMAT, 3, "FORMAT", 3},
        {DELTA_LIMIT, 4, "LIMIT", 3},
        {DELTA_DIGEST, 5, "DIGEST", 3},
        {DELTA_BASE_UNKNOWN, 6, "BASE_UNKNOWN", 3},
        {DELTA_MISMATCH, 7, "MISMATCH", 3},
        {DELTA_EXISTS, 8, "EXISTS", 3},
        {DELTA_NOT_FOUND, 9, "NOT_FOUND", 3},
        {DELTA_UNSUPPORTED, 10, "UNSUPPORTED", 3},
        {DELTA_NONFINITE, 11, "NONFINITE", 3},
        {DELTA_REFUSED, 12, "REFUSED", 3},
        {DELTA_REJECTED, 13, "REJECTED", 1},
        {DELTA_SIGNATURE, 14, "SIGNATURE", 4},
        {DELTA_UNTRUSTED, 15, "UNTRUSTED", 4},
        {DELTA_EXPIRED, 16, "EXPIRED", 4},
        {DELTA_ROLLBACK, 17, "ROLLBACK", 4},
        {DELTA_IO, 18, "IO", 6},
        {DELTA_NO_SPACE, 19, "NO_SPACE", 6},
        {DELTA_NO_MEMORY, 20, "NO_MEMORY", 6},
        {DELTA_CONNECT, 21, "CONNECT", 5},
        {DELTA_TIMEOUT, 22, "TIMEOUT", 5},
        {DELTA_BUSY, 23, "BUSY", 5},
        {DELTA_USAGE, 24, "USAGE", 2},
        {DELTA_CONFIG, 25, "CONFIG", 2},
        {DELTA_INTERRUPTED, 26, "INTERRUPTED", 6},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(rows[i].status, rows[i].value);
        assert_string_equal(delta_status_name(rows[i].status), rows[i].name);
        assert_int_equal(delta_status_exit(rows[i].status), rows[i].exit);
        assert_int_equal(delta_status_from(rows[i].value), rows[i].status);
        assert_true(strlen(delta_status_text(rows[i].status)) > 1);
    }
    assert_int_equal(delta_status_from(-1), DELTA_INTERNAL);
    assert_int_equal(delta_status_from(27), DELTA_INTERNAL);
    assert_string_equal(delta_status_name((enum delta_status)999), "INTERNAL");
}

static void status_errno_becomes_the_right_class(void **state)
{
    static const struct {
        int code;
        enum delta_status status;
    } rows[] = {{ENOSPC, DELTA_NO_SPACE},  {EDQUOT, DELTA_NO_SPACE},  {EFBIG, DELTA_NO_SPACE},
                {ENOMEM, DELTA_NO_MEMORY}, {ENOENT, DELTA_NOT_FOUND}, {EACCES, DELTA_IO},
                {EIO, DELTA_IO},           {EINTR, DELTA_INTERRUPTED}};
    struct delta_error err;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        errno = rows[i].code;
        assert_int_equal(delta_fail_errno(&err, "cannot open '%s'", "x"), rows[i].status);
        assert_int_equal(err.status, rows[i].status);
        assert_non_null(strstr(err.text, "cannot open 'x': "));
        assert_non_null(strstr(err.text, strerror(rows[i].code)));
    }
}

static void status_texts_never_overflow(void **state)
{
    struct delta_error err;
    char big[2000];

    (void)state;
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    assert_int_equal(delta_fail(&err, DELTA_FORMAT, "%s", big), DELTA_FORMAT);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_int_equal(delta_fail_in(&err, DELTA_FORMAT, "%s", "prefix"), DELTA_FORMAT);
    assert_int_equal(strncmp(err.text, "prefix: xxx", 11), 0);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_int_equal(delta_fail_in(&err, DELTA_FORMAT, "%s", big), DELTA_FORMAT);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    errno = EIO;
    assert_int_equal(delta_fail_errno(&err, "%s", big), DELTA_IO);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_int_equal(delta_fail(NULL, DELTA_LIMIT, "nobody listens"), DELTA_LIMIT);
    assert_int_equal(delta_fail_in(NULL, DELTA_LIMIT, "nobody listens"), DELTA_LIMIT);
}

/* What a stranger wrote gets into these texts, and they go to terminals. */
static void status_texts_hold_no_control_characters(void **state)
{
    static const char evil[] = "a\033[2J\nb\r\007\177";
    static const char tame[] = "a?[2J?b???";
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    assert_int_equal(delta_fail(&err, DELTA_FORMAT, "dtype '%s'", evil), DELTA_FORMAT);
    assert_non_null(strstr(err.text, tame));
    assert_int_equal(delta_fail_in(&err, DELTA_FORMAT, "member '%s'", evil), DELTA_FORMAT);
    assert_ptr_equal(strstr(err.text, tame), err.text + strlen("member '"));
    assert_non_null(strstr(err.text + 12, tame));
    errno = ENOENT;
    assert_int_equal(delta_fail_errno(&err, "cannot open '%s'", evil), DELTA_NOT_FOUND);
    assert_non_null(strstr(err.text, tame));
    /* names in other alphabets stay readable */
    assert_int_equal(delta_fail(&err, DELTA_FORMAT, "%s", "\xc3\xa4.flm"), DELTA_FORMAT);
    assert_string_equal(err.text, "\xc3\xa4.flm");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_table_is_stable),
        cmocka_unit_test(status_errno_becomes_the_right_class),
        cmocka_unit_test(status_texts_never_overflow),
        cmocka_unit_test(status_texts_hold_no_control_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
