/* How far a job is, by the clock that is handed in: by hand, and across a fork. */
#include "harness.h"

#include <math.h>
#include <sys/wait.h>
#include <unistd.h>

#include "experiment/exp_pulse.h"

static void assert_near(double found, double wanted)
{
    if (!(fabs(found - wanted) < 1e-5))
        fail_msg("%g instead of %g", found, wanted);
}

static void a_stage_tells_how_long_a_step_takes(void **state)
{
    struct exp_pulse *pulse = exp_pulse_new();

    (void)state;
    assert_non_null(pulse);
    exp_pulse_start(pulse, 1, 100000);
    assert_near(exp_pulse_share(pulse), 0);
    exp_pulse_tick(pulse, "features", 0, 10, 104000); /* four seconds went before it */
    assert_near(exp_pulse_share(pulse), 0);
    exp_pulse_tick(pulse, "features", 5, 10, 107000); /* half in three: 4 + 6 in all */
    assert_near(exp_pulse_share(pulse), 0.7);
    exp_pulse_tick(pulse, "tuning", 0, 1, 110000);
    exp_pulse_tick(pulse, "tuning", 0.001, 1, 115000); /* too little to say anything */
    assert_near(exp_pulse_share(pulse), 0.7);
    exp_pulse_tick(pulse, "tuning", 0.25, 1, 120000); /* 10 + 40: longer than was thought */
    assert_near(exp_pulse_share(pulse), 20.0 / 50);
    exp_pulse_tick(pulse, "tuning", 1, 1, 150000); /* what comes after is not known */
    assert_near(exp_pulse_share(pulse), 0.99);
    exp_pulse_free(pulse);
}

static void steps_to_come_take_as_long_as_those_before(void **state)
{
    struct exp_pulse *pulse = exp_pulse_new();

    (void)state;
    assert_non_null(pulse);
    exp_pulse_start(pulse, 4, 0);
    exp_pulse_tick(pulse, "tuning", 0, 1, 0);
    exp_pulse_tick(pulse, "tuning", 0.5, 1, 5000); /* one in 10 s, four in 40 */
    assert_near(exp_pulse_share(pulse), 5.0 / 40);
    exp_pulse_step(pulse, 20000); /* it took 20 */
    assert_near(exp_pulse_share(pulse), 0.25);
    exp_pulse_tick(pulse, "tuning", 0, 1, 20000);
    exp_pulse_tick(pulse, "tuning", 0.5, 1, 26000); /* 12 in all; the other two 20 each */
    assert_near(exp_pulse_share(pulse), 26.0 / (20 + 12 + 40));
    exp_pulse_free(pulse);
}

static void a_child_tells_its_parent(void **state)
{
    struct exp_pulse *pulse = exp_pulse_new();
    int status = -1;

    (void)state;
    assert_non_null(pulse);
    const pid_t pid = fork();
    if (pid == 0) {
        exp_pulse_start(pulse, 2, 0);
        exp_pulse_step(pulse, 1000);
        _exit(0);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_near(exp_pulse_share(pulse), 0.5);
    exp_pulse_free(pulse);
}

static void without_memory_nothing_is_told(void **state)
{
    (void)state;
    exp_pulse_start(NULL, 1, 0);
    exp_pulse_tick(NULL, "a", 1, 2, 5000);
    exp_pulse_step(NULL, 5000);
    assert_near(exp_pulse_share(NULL), 0);
    exp_pulse_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stage_tells_how_long_a_step_takes),
        cmocka_unit_test(steps_to_come_take_as_long_as_those_before),
        cmocka_unit_test(a_child_tells_its_parent),
        cmocka_unit_test(without_memory_nothing_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
