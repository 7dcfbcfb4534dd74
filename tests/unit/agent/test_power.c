/* The whole agent under power cuts: the process ends before each single disk operation of a day's
 * work, comes back with another process, and must end up where it would have without the cut. */
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta/log.h"
#include "fake_device.h"
#include "power.h"

/* Sanitizers make forks and models ten times as slow: every third moment does there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STRIDE 3
#else
#define STRIDE 1
#endif

static bool in_dir(struct device *d, const char *name)
{
    char path[600];

    snprintf(path, sizeof path, "%s/%s", d->dir, name);
    return delta_file_exists(path);
}

/* True when the child came to its end; false when the power went. The child's coordinator is a
 * copy: what was uploaded before the cut is forgotten there, which is one more thing to survive. */
static bool run_with_cut(struct device *d, long operation)
{
    int status;
    const pid_t child = fork();

    if (child == 0) {
        struct delta_error err;
        power_cut_before(operation);
        _exit(device_run(d, &err) ? 1 : 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_true(WEXITSTATUS(status) == POWER_CUT || WEXITSTATUS(status) == 0);
    return WEXITSTATUS(status) == 0;
}

static struct delta_digest current(struct device *d)
{
    struct agent *agent = device_open(d);
    const struct delta_digest version = agent->slots.version;

    agent_core_release(agent);
    free(agent);
    return version;
}

/* A fresh device that has version 1 and learned "fox"; version 2 with it is out. */
static void prepare_update(struct device *d, struct delta_digest *v1, struct delta_digest *v2)
{
    struct delta_error err;

    *v1 = device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    device_drop(d, "fox", 5);
    assert_ok(device_run(d, &err));
    *v2 = device_publish(d, "cat dog fox", 1, DEVICE_PLAIN);
    d->fake.verdict = AGENT_VERDICT_MERGED;
}

static void power_cut_anywhere_in_an_update(void **state)
{
    bool finished = false;
    long cuts = 0, old = 0;

    (void)state;
    while (!finished) {
        struct device d;
        struct delta_error err;
        struct delta_digest v1, v2;
        device_init(&d);
        prepare_update(&d, &v1, &v2);
        finished = run_with_cut(&d, cuts);
        const struct delta_digest now = current(&d);
        if (!delta_digest_equal(&now, &v1) && !delta_digest_equal(&now, &v2))
            fail_msg("cut %ld: neither version opens", cuts);
        old += delta_digest_equal(&now, &v1);
        assert_ok(device_run(&d, &err));
        assert_ok(device_run(&d, &err));
        const struct delta_digest end = current(&d);
        if (!delta_digest_equal(&end, &v2))
            fail_msg("cut %ld: the update is not installed in the end", cuts);
        if (!in_dir(&d, "learned/fox/0.png") || in_dir(&d, "inbox/fox") || in_dir(&d, "local.flm"))
            fail_msg("cut %ld: the class was not adopted", cuts);
        device_release(&d);
        cuts += STRIDE;
        assert_true(cuts < 1000);
    }
    print_message("%ld cuts, %ld times the old version was up after it\n", cuts, old);
    assert_true(cuts > 40 && old > 10 && old < cuts);
}

static void power_cut_anywhere_in_learning(void **state)
{
    bool finished = false;
    long cuts = 0;

    (void)state;
    while (!finished) {
        struct device d;
        struct delta_error err;
        device_init(&d);
        device_publish(&d, "cat dog", 1, DEVICE_PLAIN);
        assert_ok(device_run(&d, &err));
        device_drop(&d, "fox", 5);
        finished = run_with_cut(&d, cuts);
        assert_true(in_dir(&d, "inbox/fox/4.png")); /* never touched before the fleet has it */
        assert_ok(device_run(&d, &err));
        assert_ok(device_run(&d, &err));
        struct agent *agent = device_open(&d);
        const struct agent_class *class = agent_state_class(&agent->state, "fox");
        if (!class || class->offer != AGENT_OFFER_PENDING || !d.fake.admitted ||
            !in_dir(&d, "local.flm"))
            fail_msg("cut %ld: class is %s", cuts, class ? agent_offer_name(class->offer) : "lost");
        agent_core_release(agent);
        free(agent);
        device_release(&d);
        cuts += STRIDE;
        assert_true(cuts < 1000);
    }
    print_message("%ld cuts\n", cuts);
    assert_true(cuts > 30);
}

/* The disk fills up at any moment of an update: the old or the new version is up, what is told is
 * NO_SPACE or IO, and with space again the update completes. */
static void full_disk_anywhere_in_an_update(void **state)
{
    bool finished = false;
    unsigned told = 0;

    (void)state;
    for (long at = 0; !finished; at += 3 * STRIDE) {
        struct device d;
        struct delta_error err;
        struct delta_digest v1, v2;
        int status;
        device_init(&d);
        prepare_update(&d, &v1, &v2);
        const pid_t child = fork();
        if (child == 0) {
            power_disk_full_from(at);
            _exit((int)device_run(&d, &err));
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        const enum delta_status said = delta_status_from(WEXITSTATUS(status));
        finished = said == DELTA_OK;
        told += said == DELTA_NO_SPACE;
        if (said && said != DELTA_NO_SPACE)
            fail_msg("full at %ld: %s", at, delta_status_name(said));
        const struct delta_digest now = current(&d);
        if (!delta_digest_equal(&now, &v1) && !delta_digest_equal(&now, &v2))
            fail_msg("full at %ld: neither version opens", at);
        assert_ok(device_run(&d, &err));
        assert_ok(device_run(&d, &err));
        const struct delta_digest end = current(&d);
        if (!delta_digest_equal(&end, &v2) || !in_dir(&d, "learned/fox/0.png"))
            fail_msg("full at %ld: the update is not complete in the end", at);
        device_release(&d);
        assert_true(at < 1000);
    }
    print_message("NO_SPACE was told %u times\n", told);
    assert_true(told > 5);
}

static void quiet(void *context, enum delta_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(power_cut_anywhere_in_an_update),
        cmocka_unit_test(power_cut_anywhere_in_learning),
        cmocka_unit_test(full_disk_anywhere_in_an_update),
    };

    delta_log_set(DELTA_LOG_ERROR, quiet, NULL);
    power_fast_disk();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
