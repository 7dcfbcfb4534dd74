#include "harness.h"

#include "retry.h"

static void retry_waits_grow_with_full_jitter(void **state)
{
    const struct agent_retry_policy policy = {1000, 6000, 6};
    /* Upper ends of the ranges: 1, 2, 4, 6 (capped), 6 seconds. */
    static const int64_t ranges[] = {1000, 2000, 4000, 6000, 6000};
    struct agent_retry retry;
    int64_t wait;

    (void)state;
    agent_retry_init(&retry, &policy);
    for (size_t i = 0; i < 5; i++) {
        struct agent_retry low = retry;
        assert_true(agent_retry_next(&low, DELTA_CONNECT, 0, -1, &wait));
        assert_int_equal(wait, 0);
        assert_true(agent_retry_next(&retry, DELTA_CONNECT, UINT32_MAX, -1, &wait));
        assert_true(wait < ranges[i] && wait >= ranges[i] - 1);
    }
}

static void retry_tries_are_finite(void **state)
{
    const struct agent_retry_policy policy = {10, 100, 3};
    struct agent_retry retry;
    int64_t wait;

    (void)state;
    agent_retry_init(&retry, &policy);
    assert_true(agent_retry_next(&retry, DELTA_TIMEOUT, 1, -1, &wait));
    assert_true(agent_retry_next(&retry, DELTA_BUSY, 1, -1, &wait));
    assert_false(agent_retry_next(&retry, DELTA_CONNECT, 1, -1, &wait));
}

static void retry_only_what_time_mends(void **state)
{
    const struct agent_retry_policy policy = agent_retry_defaults();
    int64_t wait;

    (void)state;
    for (int value = 1; value < 27; value++) {
        struct agent_retry retry;
        const enum delta_status st = delta_status_from(value);
        agent_retry_init(&retry, &policy);
        assert_int_equal(agent_retry_next(&retry, st, 0, -1, &wait),
                         delta_status_class(st) == DELTA_CLASS_NET);
    }
}

static void retry_after_is_a_lower_bound(void **state)
{
    const struct agent_retry_policy policy = {1000, 6000, 6};
    struct agent_retry retry;
    int64_t wait;

    (void)state;
    agent_retry_init(&retry, &policy);
    assert_true(agent_retry_next(&retry, DELTA_BUSY, 0, 7000, &wait));
    assert_int_equal(wait, 7000);
    assert_true(agent_retry_next(&retry, DELTA_BUSY, UINT32_MAX, 7000, &wait));
    assert_true(wait > 8990 && wait < 9000);
    assert_true(agent_retry_next(&retry, DELTA_BUSY, 0, INT64_MAX, &wait));
    assert_int_equal(wait, AGENT_RETRY_AFTER_MAX_MS);
}

static void retry_jitter_adds_up_to_a_quarter(void **state)
{
    (void)state;
    assert_int_equal(agent_retry_jitter(60000, 0), 60000);
    assert_in_range(agent_retry_jitter(60000, UINT32_MAX), 74999, 75000);
    assert_int_equal(agent_retry_jitter(60000, 1u << 31), 60000 + 7500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(retry_waits_grow_with_full_jitter),
        cmocka_unit_test(retry_tries_are_finite),
        cmocka_unit_test(retry_only_what_time_mends),
        cmocka_unit_test(retry_after_is_a_lower_bound),
        cmocka_unit_test(retry_jitter_adds_up_to_a_quarter),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
