/* The dispatcher `frostline`. */
#include "harness.h"

#include <string.h>

static struct harness_result result;

static void help_lists_verbs_beside_it(void **state)
{
    (void)state;
    harness_run(&result, "frostline", "--help", NULL);
    assert_int_equal(result.status, 0);
    assert_non_null(strstr(result.out, "  delta\n"));
    assert_non_null(strstr(result.out, "  learn\n"));
    assert_non_null(strstr(result.out, "  agent\n"));
    assert_non_null(strstr(result.out, "  server\n"));
}

static void verb_runs_the_program(void **state)
{
    (void)state;
    harness_run(&result, "frostline", "delta", "--version", NULL);
    assert_int_equal(result.status, 0);
    assert_memory_equal(result.out, "frostline-delta ", 16);
}

static void exit_status_is_passed_on(void **state)
{
    (void)state;
    harness_run(&result, "frostline", "delta", "no-such-verb", NULL);
    assert_int_equal(result.status, 2);
}

static void bad_verbs_are_usage_errors(void **state)
{
    static const char *const bad[] = {"no-such-program", "../bin/frostline", "-x", "a/b"};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        harness_run(&result, "frostline", bad[i], NULL);
        assert_int_equal(result.status, 2);
        assert_non_null(strstr(result.err, "frostline: "));
        assert_non_null(strstr(result.err, "--help"));
    }
}

static void nothing_shows_help_as_an_error(void **state)
{
    (void)state;
    harness_run(&result, "frostline", NULL);
    assert_int_equal(result.status, 2);
    assert_non_null(strstr(result.err, "usage: frostline"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(help_lists_verbs_beside_it),
        cmocka_unit_test(verb_runs_the_program),
        cmocka_unit_test(exit_status_is_passed_on),
        cmocka_unit_test(bad_verbs_are_usage_errors),
        cmocka_unit_test(nothing_shows_help_as_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
