/* The whole agent against a coordinator inside the test. */
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta/log.h"
#include "fake_device.h"

static int set_up(void **state)
{
    static struct device d;

    device_init(&d);
    *state = &d;
    return 0;
}

static int tear_down(void **state)
{
    device_release(*state);
    return 0;
}

static void assert_installed(struct device *d, const struct delta_digest *version)
{
    struct agent *agent = device_open(d);

    if (delta_digest_is_zero(version))
        assert_int_equal(agent->slots.current, -1);
    else
        assert_true(agent->slots.current >= 0);
    assert_memory_equal(&agent->slots.version, version, sizeof *version);
    assert_int_equal(agent->state.step, AGENT_IDLE);
    agent_core_release(agent);
    free(agent);
}

static enum agent_offer offer_of(struct device *d, const char *id)
{
    struct agent *agent = device_open(d);
    const struct agent_class *class = agent_state_class(&agent->state, id);
    const enum agent_offer offer = class ? class->offer : (enum agent_offer)99;

    agent_core_release(agent);
    free(agent);
    return offer;
}

static unsigned events_with(struct device *d, const char *words)
{
    struct agent *agent = device_open(d);
    unsigned count = 0;

    for (size_t i = 0; i < agent->state.event_count; i++)
        count += strstr(agent->state.events[i].text, words) != NULL;
    agent_core_release(agent);
    free(agent);
    return count;
}

static bool in_dir(struct device *d, const char *name)
{
    char path[600];

    snprintf(path, sizeof path, "%s/%s", d->dir, name);
    return delta_file_exists(path);
}

/* ---- installing ---- */

static void machine_installs_the_first_version_whole(void **state)
{
    struct device *d = *state;
    struct delta_error err;
    const struct delta_digest v1 = device_publish(d, "cat dog", 1, DEVICE_PLAIN);

    assert_ok(device_run(d, &err));
    assert_installed(d, &v1);
    assert_int_equal(d->fake.blob_gets, 1);
    assert_int_equal(d->fake.reports, 1);
    assert_string_equal(d->fake.last_report.event, "installed");
    assert_memory_equal(&d->fake.last_report.version, &v1, sizeof v1);
    assert_int_equal(d->fake.last_report.tested, 40);
    /* Nothing new: nothing done. */
    assert_ok(device_run(d, &err));
    assert_int_equal(d->fake.blob_gets, 1);
    assert_int_equal(d->fake.reports, 1);
}

static void machine_waits_for_a_first_version(void **state)
{
    struct device *d = *state;
    struct delta_error err;

    device_drop(d, "fox", 5);
    assert_ok(device_run(d, &err));
    assert_int_equal(d->fake.polls, 1);
    assert_int_equal(device_jobs.learned, 0);
}

static void machine_updates_by_delta(void **state)
{
    struct device *d = *state;
    struct delta_error err;

    device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    assert_ok(device_run(d, &err));
    const struct delta_digest v2 = device_publish(d, "cat dog emu", 1, DEVICE_PLAIN);
    assert_ok(device_run(d, &err));
    assert_installed(d, &v2);
    assert_int_equal(events_with(d, "delta of"), 1);
    assert_int_equal(d->fake.blob_gets, 2);
}

static void machine_takes_the_model_when_the_delta_does_not_do(void **state)
{
    static const unsigned ways[] = {DEVICE_BAD_DELTA, DEVICE_LYING_DELTA};
    struct device *d = *state;
    struct delta_error err;

    device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    assert_ok(device_run(d, &err));
    for (size_t i = 0; i < 2; i++) {
        const unsigned before = d->fake.blob_gets;
        const struct delta_digest v = device_publish(d, "cat dog", 2 + (float)i, ways[i]);
        assert_ok(device_run(d, &err));
        assert_installed(d, &v);
        assert_int_equal(d->fake.blob_gets - before, 2);
    }
    assert_int_equal(events_with(d, "taking the whole model"), 2);
}

static void machine_takes_the_model_when_the_delta_is_gone(void **state)
{
    struct device *d = *state;
    struct delta_error err;

    device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    assert_ok(device_run(d, &err));
    const struct delta_digest v2 = device_publish(d, "cat dog", 2, DEVICE_PLAIN);
    d->fake.blobs[d->fake.blob_count - 2].id.bytes[0] ^= 1; /* the delta */
    assert_ok(device_run(d, &err));
    assert_installed(d, &v2);
}

static void machine_rejects_a_version_signed_by_a_stranger(void **state)
{
    struct device *d = *state;
    struct delta_error err;
    const struct delta_digest v1 = device_publish(d, "cat dog", 1, DEVICE_PLAIN);

    assert_ok(device_run(d, &err));
    const struct delta_digest v2 =
        device_publish(d, "cat dog", 2, DEVICE_BAD_DELTA | DEVICE_BAD_MODEL);
    assert_ok(device_run(d, &err));
    assert_installed(d, &v1);
    assert_string_equal(d->fake.last_report.event, "rejected");
    assert_memory_equal(&d->fake.last_report.version, &v2, sizeof v2);
    const unsigned gets = d->fake.blob_gets;
    assert_ok(device_run(d, &err)); /* remembered */
    assert_int_equal(d->fake.blob_gets, gets);
    assert_int_equal(d->fake.reports, 2);
}

static void machine_rolls_back_what_fails_its_health_check(void **state)
{
    struct device *d = *state;
    struct delta_error err;
    const struct delta_digest v1 = device_publish(d, "cat dog", 1, DEVICE_PLAIN);

    assert_ok(device_run(d, &err));
    const struct delta_digest v2 = device_publish(d, "cat dog", 2, DEVICE_PLAIN);
    device_jobs.check_status = DELTA_REJECTED;
    assert_ok(device_run(d, &err));
    assert_installed(d, &v1);
    assert_string_equal(d->fake.last_report.event, "rolled-back");
    assert_true(d->fake.last_report.old == 0.5);
    assert_non_null(strstr(d->fake.last_report.reason, "75 % to 50 %"));
    assert_memory_equal(&d->fake.last_report.version, &v2, sizeof v2);
    assert_ok(device_run(d, &err));
    assert_int_equal(device_jobs.checked, 2);
    /* The next version is another matter. */
    device_jobs.check_status = DELTA_OK;
    const struct delta_digest v3 = device_publish(d, "cat dog", 3, DEVICE_NO_EDGE);
    assert_ok(device_run(d, &err));
    assert_installed(d, &v3);
}

static void machine_does_not_blame_a_version_for_a_lack_of_memory(void **state)
{
    struct device *d = *state;
    struct delta_error err;
    const struct delta_digest none = {{0}};
    const struct delta_digest v1 = device_publish(d, "cat dog", 1, DEVICE_PLAIN);

    device_jobs.check_status = DELTA_NO_MEMORY;
    assert_status(device_run(d, &err), DELTA_NO_MEMORY);
    assert_installed(d, &none);
    assert_int_equal(d->fake.reports, 0);
    device_jobs.check_status = DELTA_OK;
    assert_ok(device_run(d, &err));
    assert_installed(d, &v1);
}

/* Documents that must not lead to an installation. */
static void machine_obeys_the_document(void **state)
{
    struct device *d = *state;
    struct delta_error err;
    const struct delta_digest v1 = device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    struct delta_channel good;
    enum delta_status st;

    assert_ok(device_run(d, &err));
    const struct delta_digest v2 = device_publish(d, "cat dog", 2, DEVICE_PLAIN);
    good = d->channel;
    for (int way = 0; way < 6; way++) {
        static const enum delta_status want[] = {DELTA_OK,       DELTA_OK,        DELTA_EXPIRED,
                                                 DELTA_ROLLBACK, DELTA_UNTRUSTED, DELTA_UNTRUSTED};
        d->channel = good;
        if (way == 0)
            d->channel.paused = true;
        if (way == 1)
            d->channel.permille = 0;
        if (way == 2) {
            d->channel.issued_ms = d->fake.now_ms - 5000;
            d->channel.expires_ms = d->fake.now_ms - 1;
        }
        if (way == 3)
            d->channel.serial = 0;
        if (way == 4)
            snprintf(d->channel.name, sizeof d->channel.name, "other");
        device_seal(d, way == 5 ? &d->stranger : &d->release);
        st = device_run(d, &err);
        if (st != want[way])
            fail_msg("way %d: %s", way, delta_status_name(st));
        assert_installed(d, &v1);
    }
    d->channel = good;
    device_seal(d, &d->release);
    assert_ok(device_run(d, &err));
    assert_installed(d, &v2);
}

static void machine_goes_on_with_a_part_without_fetching_the_document_again(void **state)
{
    struct device *d = *state;
    struct delta_error err;
    const struct delta_digest v1 = device_publish(d, "cat dog", 1, DEVICE_PLAIN);

    d->fake.fail_status = DELTA_CONNECT;
    d->fake.fail_next = 0;
    d->fake.break_after = 100;
    d->options.once = true;
    /* Network gone in the middle of the download: the part stays, the document is known. */
    struct agent *agent = device_open(d);
    agent->coord.retry.tries = 1;
    assert_status(agent_core_loop(agent, &err), DELTA_CONNECT);
    agent_core_release(agent);
    free(agent);
    d->fake.pieces[0] = '\0';
    assert_ok(device_run(d, &err));
    assert_installed(d, &v1);
    assert_non_null(strstr(d->fake.pieces, "GET 100,"));
}

/* ---- teaching ---- */

static void machine_learns_offers_and_adopts(void **state)
{
    struct device *d = *state;
    struct delta_error err;
    struct delta_reader reader;

    device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    device_drop(d, "Red Fox", 5);
    assert_ok(device_run(d, &err));
    assert_int_equal(device_jobs.learned, 1);
    assert_string_equal(device_jobs.last_classes, "red_fox+ ");
    assert_int_equal(offer_of(d, "red_fox"), AGENT_OFFER_PENDING);
    assert_true(in_dir(d, "local.flm"));
    assert_true(in_dir(d, "inbox/Red Fox"));
    /* What was sent is a delta, signed by this device, with the new class and nothing else. */
    assert_ok(delta_reader_init(&reader, delta_buf_bytes(&d->fake.upload), &err));
    assert_int_equal(reader.classes_added_count, 1);
    assert_string_equal(reader.classes_added[0].text, "red_fox");
    assert_string_equal(reader.provenance.device, "cam-1");
    delta_reader_release(&reader);
    struct agent *agent = device_open(d);
    assert_ok(delta_container_verify(delta_buf_bytes(&d->fake.upload), &agent->identity.installed,
                                     NULL, &err));
    agent_core_release(agent);
    free(agent);
    /* Again: nothing is learned or sent twice. */
    assert_ok(device_run(d, &err));
    assert_int_equal(device_jobs.learned, 1);
    assert_int_equal(d->fake.puts, 1);
    /* The fleet has it: adopted, the samples kept out of the way. */
    d->fake.verdict = AGENT_VERDICT_MERGED;
    const struct delta_digest v2 = device_publish(d, "cat dog red_fox", 1, DEVICE_PLAIN);
    assert_ok(device_run(d, &err));
    assert_installed(d, &v2);
    assert_int_equal(device_jobs.adopted, 1);
    assert_false(in_dir(d, "local.flm"));
    assert_false(in_dir(d, "inbox/Red Fox"));
    assert_true(in_dir(d, "learned/red_fox/0.png"));
    assert_int_equal(offer_of(d, "red_fox"), 99);
}

static void machine_remembers_what_the_guard_refused(void **state)
{
    struct device *d = *state;
    struct delta_error err;

    device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    device_drop(d, "fox", 5);
    device_jobs.learn_status = DELTA_REJECTED;
    assert_ok(device_run(d, &err) == DELTA_REJECTED ? DELTA_OK : DELTA_INTERNAL);
    assert_int_equal(events_with(d, "'fox' is not learned: recall is 3 %"), 1);
    assert_false(in_dir(d, "local.flm"));
    assert_ok(device_run(d, &err));
    assert_int_equal(device_jobs.learned, 1);
    /* More samples: another try. */
    device_jobs.learn_status = DELTA_OK;
    device_drop(d, "fox", 7);
    assert_ok(device_run(d, &err));
    assert_int_equal(device_jobs.learned, 2);
    assert_int_equal(offer_of(d, "fox"), AGENT_OFFER_PENDING);
}

static void machine_learns_the_good_beside_the_refused(void **state)
{
    struct device *d = *state;
    struct delta_error err;

    device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    device_drop(d, "fox", 5);
    device_drop(d, "noise", 5);
    snprintf(device_jobs.refuse_class, sizeof device_jobs.refuse_class, "noise");
    assert_ok(device_run(d, &err));
    assert_int_equal(offer_of(d, "fox"), AGENT_OFFER_PENDING);
    assert_int_equal(events_with(d, "'noise' is not learned"), 1);
    assert_ok(device_run(d, &err));
    assert_int_equal(device_jobs.learned, 1);
}

static void machine_tells_of_known_classes_once(void **state)
{
    struct device *d = *state;
    struct delta_error err;

    device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    device_drop(d, "cat", 5);
    device_drop(d, "b@d", 5);
    assert_ok(device_run(d, &err));
    assert_ok(device_run(d, &err));
    assert_int_equal(device_jobs.learned, 0);
    assert_int_equal(events_with(d, "class 'cat' is already in the model"), 1);
    assert_int_equal(events_with(d, "'b@d' cannot be a class"), 1);
    assert_true(in_dir(d, "inbox/cat/0.png"));
}

static void machine_learns_again_on_a_new_base_but_offers_once(void **state)
{
    struct device *d = *state;
    struct delta_error err;

    device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    device_drop(d, "fox", 5);
    assert_ok(device_run(d, &err));
    const struct delta_digest v2 = device_publish(d, "cat dog emu", 1, DEVICE_PLAIN);
    assert_ok(device_run(d, &err));
    assert_installed(d, &v2);
    assert_int_equal(device_jobs.learned, 2);
    assert_string_equal(device_jobs.last_classes, "fox ");
    assert_int_equal(d->fake.puts, 1);
    struct agent *agent = device_open(d);
    assert_memory_equal(&agent->state.local_base, &v2, sizeof v2);
    agent_core_release(agent);
    free(agent);
}

static void machine_offers_only_what_is_new(void **state)
{
    struct device *d = *state;
    struct delta_error err;
    struct delta_reader reader;

    device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    device_drop(d, "fox", 5);
    assert_ok(device_run(d, &err));
    delta_buf_clear(&d->fake.upload);
    device_drop(d, "gnu", 5);
    assert_ok(device_run(d, &err));
    assert_string_equal(device_jobs.last_classes, "fox gnu+ ");
    assert_ok(delta_reader_init(&reader, delta_buf_bytes(&d->fake.upload), &err));
    assert_int_equal(reader.classes_added_count, 1);
    assert_string_equal(reader.classes_added[0].text, "gnu");
    delta_reader_release(&reader);
}

static void machine_keeps_what_the_coordinator_rejects(void **state)
{
    struct device *d = *state;
    struct delta_error err;

    device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    device_drop(d, "fox", 5);
    assert_ok(device_run(d, &err));
    d->fake.verdict = AGENT_VERDICT_REJECTED;
    assert_ok(device_run(d, &err));
    assert_int_equal(offer_of(d, "fox"), AGENT_OFFER_REJECTED);
    assert_int_equal(events_with(d, "test says no"), 1);
    assert_true(in_dir(d, "local.flm"));
    device_publish(d, "cat dog emu", 1, DEVICE_PLAIN);
    assert_ok(device_run(d, &err));
    assert_int_equal(device_jobs.learned, 2); /* on the new base, for this device alone */
    assert_int_equal(d->fake.puts, 1);
}

static void machine_offers_again_what_had_an_unknown_base(void **state)
{
    struct device *d = *state;
    struct delta_error err;

    device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    device_drop(d, "fox", 5);
    d->fake.refuse_code = 422; /* BASE_UNKNOWN */
    assert_status(device_run(d, &err), DELTA_REFUSED);
    assert_int_equal(offer_of(d, "fox"), AGENT_OFFER_REJECTED);
    d->fake.refuse_code = 0;
    assert_ok(device_run(d, &err));
    assert_int_equal(d->fake.puts, 1); /* the same is not sent again */
    device_publish(d, "cat dog emu", 1, DEVICE_PLAIN);
    assert_ok(device_run(d, &err));
    assert_int_equal(offer_of(d, "fox"), AGENT_OFFER_PENDING);
}

static void machine_uploads_later_when_the_network_is_down(void **state)
{
    struct device *d = *state;
    struct delta_error err;

    device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    assert_ok(device_run(d, &err));
    device_drop(d, "fox", 5);
    d->fake.fail_next = 1000;
    d->fake.fail_status = DELTA_CONNECT;
    assert_status(device_run(d, &err), DELTA_CONNECT);
    assert_int_equal(offer_of(d, "fox"), AGENT_OFFER_SEALED);
    assert_true(in_dir(d, "local.flm")); /* useful all the same */
    d->fake.fail_next = 0;
    assert_ok(device_run(d, &err));
    assert_int_equal(offer_of(d, "fox"), AGENT_OFFER_PENDING);
    assert_int_equal(device_jobs.learned, 1);
}

static void machine_sends_again_what_the_coordinator_forgot(void **state)
{
    struct device *d = *state;
    struct delta_error err;

    device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    device_drop(d, "fox", 5);
    assert_ok(device_run(d, &err));
    delta_buf_clear(&d->fake.upload);
    d->fake.admitted = false;
    assert_ok(device_run(d, &err));
    assert_true(d->fake.admitted);
    assert_int_equal(device_jobs.learned, 1);
}

/* A power cut may leave any step in the state file: from each the agent comes to the same end. */
static void machine_comes_back_from_every_step(void **state)
{
    struct device *d = *state;
    struct delta_error err;

    (void)state;
    for (int step = 0; step < AGENT_STEP_COUNT; step++) {
        for (int where = 0; where < 2; where++) { /* before and after the first installation */
            device_release(d);
            device_init(d);
            const struct delta_digest v1 = device_publish(d, "cat dog", 1, DEVICE_PLAIN);
            device_drop(d, "fox", 5);
            if (where)
                assert_ok(device_run(d, &err));
            struct agent *agent = device_open(d);
            agent->state.step = (enum agent_step)step;
            agent->state.loops = 1;
            assert_ok(agent_state_save(&agent->state, d->dir, &err));
            agent_core_release(agent);
            free(agent);
            const enum delta_status st = device_run(d, &err);
            if (st)
                assert_ok(device_run(d, &err));
            assert_installed(d, &v1);
            if (offer_of(d, "fox") != AGENT_OFFER_PENDING)
                fail_msg("step %s: class is %s", agent_step_name((enum agent_step)step),
                         agent_offer_name(offer_of(d, "fox")));
        }
    }
}

static void machine_gives_up_what_kills_it(void **state)
{
    struct device *d = *state;
    struct delta_error err;
    struct agent *agent;

    const struct delta_digest v1 = device_publish(d, "cat dog", 1, DEVICE_PLAIN);
    assert_ok(device_run(d, &err));
    device_publish(d, "cat dog", 2, DEVICE_PLAIN);
    agent = device_open(d);
    agent->state.step = AGENT_CHECK;
    agent->state.target.version = d->channel.version;
    agent->state.loops = AGENT_LOOPS_MAX;
    assert_ok(agent_state_save(&agent->state, d->dir, &err));
    agent_core_release(agent);
    free(agent);
    assert_ok(device_run(d, &err));
    assert_installed(d, &v1);
    assert_string_equal(d->fake.last_report.event, "rolled-back");
    assert_non_null(strstr(d->fake.last_report.reason, "interrupted"));
}

static void quiet(void *context, enum delta_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(machine_installs_the_first_version_whole),
        CASE(machine_waits_for_a_first_version),
        CASE(machine_updates_by_delta),
        CASE(machine_takes_the_model_when_the_delta_does_not_do),
        CASE(machine_takes_the_model_when_the_delta_is_gone),
        CASE(machine_rejects_a_version_signed_by_a_stranger),
        CASE(machine_rolls_back_what_fails_its_health_check),
        CASE(machine_does_not_blame_a_version_for_a_lack_of_memory),
        CASE(machine_obeys_the_document),
        CASE(machine_goes_on_with_a_part_without_fetching_the_document_again),
        CASE(machine_learns_offers_and_adopts),
        CASE(machine_remembers_what_the_guard_refused),
        CASE(machine_learns_the_good_beside_the_refused),
        CASE(machine_tells_of_known_classes_once),
        CASE(machine_learns_again_on_a_new_base_but_offers_once),
        CASE(machine_offers_only_what_is_new),
        CASE(machine_keeps_what_the_coordinator_rejects),
        CASE(machine_offers_again_what_had_an_unknown_base),
        CASE(machine_uploads_later_when_the_network_is_down),
        CASE(machine_sends_again_what_the_coordinator_forgot),
        CASE(machine_comes_back_from_every_step),
        CASE(machine_gives_up_what_kills_it),
    };

    if (access("/dev/shm", W_OK) == 0) /* thousands of fsyncs, of which none matters here */
        setenv("TMPDIR", "/dev/shm", 0);
    delta_log_set(DELTA_LOG_ERROR, getenv("VERBOSE") ? NULL : quiet, NULL);
    if (getenv("VERBOSE"))
        delta_log_set(DELTA_LOG_DEBUG, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
