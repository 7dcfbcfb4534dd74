/* The device program against the real coordinator: TLS, broken transfers, a coordinator that lies,
 * kills at any time. An untrained network is enough: here bytes matter, not accuracy. */
#include "harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "delta/delta.h"
#include "delta/file.h"
#include "learner/net.h"
#include "learner/samples.h"
#include "throwaway.h"

#define DATA "synthetic:classes=4,train=8,test=2,seed=3"

struct fixture {
    struct fleet fleet;
    char base[FLEET_PATH], images[FLEET_PATH];
    uint64_t base_bytes;
    struct delta_class_id known[2], fresh[2];
};

static void must(const struct fixture *f, bool ok)
{
    if (!ok)
        fail_msg("%s", f->fleet.error);
}

/* A network of two classes, and a folder of images of two others. */
static void make_inputs(struct fixture *f)
{
    const struct delta_arch arch = {"resnet18",      "cifar",           4, 3, 32, 32,
                                    {0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}};
    struct learner_samples all, two = LEARNER_SAMPLES_INIT;
    struct delta_model model;
    struct delta_error err;
    struct stat info;

    snprintf(f->base, sizeof f->base, "%s/base.flm", f->fleet.root);
    snprintf(f->images, sizeof f->images, "%s/images", f->fleet.root);
    assert_ok(learner_samples_open(&all, DATA, LEARNER_SPLIT_TRAIN, &err));
    assert_true(all.class_count == 4);
    memcpy(f->known, all.classes, sizeof f->known);
    memcpy(f->fresh, all.classes + 2, sizeof f->fresh);
    assert_ok(learner_samples_select(&two, &all, f->fresh, 2, 0, &err));
    assert_ok(learner_samples_export(&two, f->images, &err));
    assert_ok(learner_net_init_model(&model, &arch, f->known, 2, 7, &err));
    assert_ok(delta_model_save(&model, f->base, &err));
    assert_int_equal(stat(f->base, &info), 0);
    f->base_bytes = (uint64_t)info.st_size;
    delta_model_release(&model);
    learner_samples_release(&two);
    learner_samples_release(&all);
}

static int set_up(void **state)
{
    static struct fixture f;

    memset(&f, 0, sizeof f);
    must(&f, fleet_init(&f.fleet));
    make_inputs(&f);
    must(&f, fleet_server_init(&f.fleet));
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    fleet_release(&((struct fixture *)*state)->fleet);
    return 0;
}

static void start(struct fixture *f, const char *faults)
{
    const char *extra[] = {"--no-merge", faults ? "--faults" : NULL, faults, NULL};

    must(f, fleet_server_start(&f->fleet, extra));
}

static void restart(struct fixture *f, const char *faults)
{
    must(f, fleet_server_stop(&f->fleet, SIGTERM));
    start(f, faults);
}

/* One round of the device; returns its exit status. */
static int round_of(struct fixture *f, const struct fleet_device *device)
{
    return FLEET_RUN(&f->fleet, NULL, "frostline-agent", "run", "--dir", device->dir, "--once",
                     "--settle", "0.1", "--min-new-recall", "0", "--max-old-drop", "1",
                     "--verbose");
}

static json_int_t number_of(const json_t *status, const char *kind, const char *what)
{
    return json_integer_value(
        json_object_get(json_object_get(json_object_get(status, "bytes"), kind), what));
}

static json_t *status_of(struct fixture *f, const struct fleet_device *device)
{
    json_t *status = fleet_device_status(&f->fleet, device);

    must(f, status != NULL);
    return status;
}

static bool said(const json_t *status, const char *words)
{
    const json_t *event;
    size_t i;

    json_array_foreach(json_object_get(status, "events"), i, event)
    {
        if (strstr(json_string_value(json_object_get(event, "text")), words))
            return true;
    }
    return false;
}

static void drop(struct fixture *f, const struct fleet_device *device, size_t k)
{
    char dir[FLEET_PATH + 80];

    snprintf(dir, sizeof dir, "%s/%s", f->images, f->fresh[k].text);
    must(f, fleet_drop(&f->fleet, device, dir, f->fresh[k].text));
}

static struct fleet_device *enrol(struct fixture *f, const char *name)
{
    struct fleet_device *device = fleet_enrol(&f->fleet, name, NULL);

    must(f, device != NULL);
    return device;
}

static void wire_broken_download_is_resumed(void **state)
{
    struct fixture *f = *state;

    start(f, "blob:drop-after=40000:times=3");
    must(f, fleet_publish(&f->fleet, f->base));
    struct fleet_device *device = enrol(f, "cam-1");
    assert_int_equal(round_of(f, device), 0);
    json_t *status = status_of(f, device);
    assert_int_equal(json_array_size(json_object_get(status, "classes")), 2);
    /* Four exchanges and no byte twice (the published file has a signature more than the base). */
    assert_int_equal(number_of(status, "model", "exchanges"), 4);
    assert_in_range(number_of(status, "model", "body_down"), f->base_bytes, f->base_bytes + 500);
    json_decref(status);
}

static void wire_broken_upload_is_resumed(void **state)
{
    struct fixture *f = *state;

    start(f, NULL);
    must(f, fleet_publish(&f->fleet, f->base));
    struct fleet_device *device = enrol(f, "cam-1");
    assert_int_equal(round_of(f, device), 0);
    restart(f, "contribution:drop-after=300:times=1");
    drop(f, device, 0);
    assert_int_equal(round_of(f, device), 0);
    json_t *status = status_of(f, device);
    const json_t *row = json_array_get(json_object_get(status, "learning"), 0);
    assert_string_equal(json_string_value(json_object_get(row, "offer")), "pending");
    assert_string_equal(
        json_string_value(json_array_get(json_object_get(status, "local_classes"), 0)),
        f->fresh[0].text);
    json_decref(status);
}

static void wire_flipped_bit_is_noticed_and_nothing_lost(void **state)
{
    struct fixture *f = *state;

    start(f, "blob:flip=5000:times=1");
    must(f, fleet_publish(&f->fleet, f->base));
    struct fleet_device *device = enrol(f, "cam-1");
    assert_int_not_equal(round_of(f, device), 0);
    assert_non_null(strstr(f->fleet.error, "digest"));
    json_t *status = status_of(f, device);
    assert_true(json_is_null(json_object_get(status, "active_model")));
    json_decref(status);
    assert_int_equal(round_of(f, device), 0);
    status = status_of(f, device);
    assert_true(json_is_string(json_object_get(status, "active_model")));
    json_decref(status);
}

static void wire_flipped_document_is_not_believed(void **state)
{
    struct fixture *f = *state;

    start(f, "channel:flip=60:times=1");
    must(f, fleet_publish(&f->fleet, f->base));
    struct fleet_device *device = enrol(f, "cam-1");
    const int code = round_of(f, device);
    assert_true(code == 3 || code == 4); /* input or trust, by where the bit lies */
    json_t *status = status_of(f, device);
    assert_true(json_is_null(json_object_get(status, "version")));
    json_decref(status);
    assert_int_equal(round_of(f, device), 0);
}

static void wire_busy_coordinator_is_waited_for(void **state)
{
    struct fixture *f = *state;

    start(f, "channel:status=503:times=2,blob:status=503:times=2,report:status=503:times=1");
    must(f, fleet_publish(&f->fleet, f->base));
    struct fleet_device *device = enrol(f, "cam-1");
    assert_int_equal(round_of(f, device), 0);
}

static void wire_absent_coordinator_is_a_network_error(void **state)
{
    struct fixture *f = *state;

    start(f, NULL);
    must(f, fleet_publish(&f->fleet, f->base));
    struct fleet_device *device = enrol(f, "cam-1");
    must(f, fleet_server_stop(&f->fleet, SIGKILL));
    assert_int_equal(round_of(f, device), 5);
    assert_non_null(strstr(f->fleet.error, "cannot reach"));
    start(f, NULL);
    assert_int_equal(round_of(f, device), 0);
}

static void wire_wrong_ca_is_told_with_the_remedy(void **state)
{
    struct fixture *f = *state;
    struct fleet other;
    struct harness_result result;
    char ca[FLEET_PATH + 32];

    start(f, NULL);
    must(f, fleet_init(&other) && fleet_server_init(&other));
    snprintf(ca, sizeof ca, "%s/ca.pem", other.server_dir);
    harness_run(&result, "frostline-agent", "enrol", "--dir", f->images, "--server", f->fleet.url,
                "--ca", ca, "--token", f->fleet.token, "--device", "cam-1", NULL);
    assert_int_equal(result.status, 4);
    assert_non_null(strstr(result.err, "not the coordinator of this fleet"));
    assert_non_null(strstr(result.err, "--ca"));
    fleet_release(&other);
}

/* Enrolled with one fleet, then another coordinator sits at the address. */
static void wire_impostor_gets_nothing(void **state)
{
    struct fixture *f = *state;
    struct fleet other;

    start(f, NULL);
    must(f, fleet_publish(&f->fleet, f->base));
    struct fleet_device *device = enrol(f, "cam-1");
    must(f, fleet_server_stop(&f->fleet, SIGTERM));
    must(f, fleet_init(&other) && fleet_server_init(&other));
    snprintf(other.url, sizeof other.url, "%s", f->fleet.url);
    must(f, fleet_server_start(&other, NULL));
    assert_int_equal(round_of(f, device), 4);
    assert_non_null(strstr(f->fleet.error, "not the coordinator of this fleet"));
    fleet_release(&other);
}

static void wire_wrong_token_and_taken_name_are_refused(void **state)
{
    struct fixture *f = *state;
    struct harness_result result;
    char ca[FLEET_PATH + 32], dir[FLEET_PATH];

    start(f, NULL);
    enrol(f, "cam-1");
    snprintf(ca, sizeof ca, "%s/ca.pem", f->fleet.server_dir);
    snprintf(dir, sizeof dir, "%s/another", f->fleet.root);
    harness_run(&result, "frostline-agent", "enrol", "--dir", dir, "--server", f->fleet.url, "--ca",
                ca, "--token", "guess", "--device", "cam-2", NULL);
    assert_int_equal(result.status, 3);
    assert_non_null(strstr(result.err, "token"));
    harness_run(&result, "frostline-agent", "enrol", "--dir", dir, "--server", f->fleet.url, "--ca",
                ca, "--token", f->fleet.token, "--device", "cam-1", NULL);
    assert_int_equal(result.status, 3);
    harness_run(&result, "frostline-agent", "run", "--dir", dir, "--once", NULL);
    assert_int_equal(result.status, 2);
    assert_non_null(strstr(result.err, "enrol"));
    /* Once more with the right name, and again, which renews. */
    for (int i = 0; i < 2; i++) {
        harness_run(&result, "frostline-agent", "enrol", "--dir", dir, "--server", f->fleet.url,
                    "--ca", ca, "--token", f->fleet.token, "--device", "cam-2", NULL);
        assert_int_equal(result.status, 0);
    }
}

static void wire_bad_addresses_are_usage_errors(void **state)
{
    static const char *const urls[] = {"http://127.0.0.1:1", "127.0.0.1",   "https://",
                                       "https:///x",         "https://a b", "https://host/path",
                                       "file:///etc/passwd"};
    struct fixture *f = *state;
    struct harness_result result;

    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        harness_run(&result, "frostline-agent", "enrol", "--dir", f->images, "--server", urls[i],
                    "--ca", f->base, "--token", "t", "--device", "cam-1", NULL);
        if (result.status != 2)
            fail_msg("'%s': status %d: %s", urls[i], result.status, result.err);
    }
}

static void wire_one_process_runs_a_directory(void **state)
{
    struct fixture *f = *state;
    struct harness_result result;

    start(f, NULL);
    struct fleet_device *device = enrol(f, "cam-1");
    must(f, fleet_device_start(&f->fleet, device, NULL));
    for (json_int_t polls = 0; polls == 0;) { /* until it runs, and so holds the lock */
        json_t *status = status_of(f, device);
        polls = number_of(status, "poll", "exchanges");
        json_decref(status);
        must(f, fleet_alive(&f->fleet));
        fleet_pause_ms(20);
    }
    harness_run(&result, "frostline-agent", "run", "--dir", device->dir, "--once", NULL);
    assert_int_equal(result.status, 3);
    assert_non_null(strstr(result.err, "another process"));
    must(f, fleet_device_stop(&f->fleet, device, SIGTERM));
}

/* kill -9 after ever longer times, in whatever step that falls. */
static void wire_killed_at_any_time_it_ends_up_complete(void **state)
{
    static const char *const extra[] = {
        "--settle", "0.05", "--poll-s", "1", "--min-new-recall", "0", "--max-old-drop", "1", NULL};
    struct fixture *f = *state;

    start(f, NULL);
    must(f, fleet_publish(&f->fleet, f->base));
    struct fleet_device *device = enrol(f, "cam-1");
    drop(f, device, 0);
    for (long ms = 10; ms < 500; ms += 35) {
        must(f, fleet_device_start(&f->fleet, device, extra));
        fleet_pause_ms(ms);
        must(f, fleet_device_stop(&f->fleet, device, SIGKILL));
    }
    assert_int_equal(round_of(f, device), 0);
    json_t *status = status_of(f, device);
    const json_t *row = json_array_get(json_object_get(status, "learning"), 0);
    assert_int_equal(json_array_size(json_object_get(status, "classes")), 2);
    assert_string_equal(json_string_value(json_object_get(row, "offer")), "pending");
    assert_false(said(status, "given up"));
    json_decref(status);
}

/* Empty, cut and garbage files beside good ones; a folder of garbage alone. */
static void wire_bad_images_are_told_and_left(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    char path[FLEET_PATH + 120];

    start(f, NULL);
    must(f, fleet_publish(&f->fleet, f->base));
    struct fleet_device *device = enrol(f, "cam-1");
    drop(f, device, 0);
    snprintf(path, sizeof path, "%s/inbox/%s/zz-empty.png", device->dir, f->fresh[0].text);
    assert_ok(delta_file_write(path, delta_bytes("", 0), 0644, &err));
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "%s/inbox/junk", device->dir);
        assert_ok(delta_dir_make(path, 0755, &err));
        snprintf(path, sizeof path, "%s/inbox/junk/%d.png", device->dir, i);
        assert_ok(delta_file_write(path, delta_bytes("\x89PNG\r\n\x1a\njunk", 12), 0644, &err));
    }
    assert_int_equal(round_of(f, device), 0);
    json_t *status = status_of(f, device);
    assert_true(said(status, "1 files were left out, first 'zz-empty.png'"));
    assert_true(said(status, "class 'junk' is not learned"));
    assert_int_equal(json_array_size(json_object_get(status, "local_classes")), 1);
    json_decref(status);
    assert_true(delta_file_exists(path));
    assert_int_equal(round_of(f, device), 0); /* and not tried again */
    status = status_of(f, device);
    assert_int_equal(number_of(status, "contribution", "exchanges"), 4); /* HEAD, PUT, a GET each */
    json_decref(status);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(wire_broken_download_is_resumed),
        CASE(wire_broken_upload_is_resumed),
        CASE(wire_flipped_bit_is_noticed_and_nothing_lost),
        CASE(wire_flipped_document_is_not_believed),
        CASE(wire_busy_coordinator_is_waited_for),
        CASE(wire_absent_coordinator_is_a_network_error),
        CASE(wire_wrong_ca_is_told_with_the_remedy),
        CASE(wire_impostor_gets_nothing),
        CASE(wire_wrong_token_and_taken_name_are_refused),
        CASE(wire_bad_addresses_are_usage_errors),
        CASE(wire_one_process_runs_a_directory),
        CASE(wire_killed_at_any_time_it_ends_up_complete),
        CASE(wire_bad_images_are_told_and_left),
    };

    if (access("/dev/shm", W_OK) == 0) /* many small fsyncs, of which none matters here */
        setenv("TMPDIR", "/dev/shm", 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
