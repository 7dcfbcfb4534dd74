/* Fault rules: what is parsed, and that the coordinator does misbehave as told. */
#include "server_fleet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/msg.h"
#include "faults.h"

static void rules_are_parsed_or_refused(void **state)
{
    static const char *const bad[] = {"blob",         "blob:",          "nowhere:delay=1",
                                      "blob:delay",   "blob:delay=x",   "blob:delay=-1",
                                      "blob:times=2", "blob:status=99", "blob:explode=1"};
    struct server_faults faults;
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_fault fault;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_status(server_faults_parse(&faults, bad[i], &err), DELTA_CONFIG);
    assert_ok(server_faults_parse(&faults, "", &err));
    assert_int_equal(faults.count, 0);
    assert_ok(server_faults_parse(&faults, "blob:drop-after=10000:times=2,any:delay=5", &err));
    for (int i = 0; i < 2; i++) {
        fault = server_faults_take(&faults, "blob");
        assert_int_equal(fault.action, SERVER_FAULT_DROP);
        assert_int_equal(fault.value, 10000);
    }
    assert_int_equal(server_faults_take(&faults, "blob").action, SERVER_FAULT_DELAY);
    assert_int_equal(server_faults_take(&faults, "enrol").action, SERVER_FAULT_DELAY);
}

struct world {
    struct fleet fleet;
    struct device device;
    char path[128];
    struct answer good;
};

/* A coordinator with faults on blobs; `good` is the blob without them. */
static void make(struct world *w, const char *faults)
{
    const struct server_options options = {.faults = faults};
    struct server_version version;
    struct delta_error err = DELTA_ERROR_INIT;

    fleet_make(&w->fleet);
    assert_ok(server_store_version(w->fleet.keeper.store, &w->fleet.version, &version, &err));
    snprintf(w->path, sizeof w->path, "%s", fleet_path("blob", &version.blob));
    device_make(&w->device, &w->fleet, "cam-1");
    device_enrol_quietly(&w->device, &w->fleet);
    fleet_start(&w->fleet, &options);
}

static void get(struct world *w, struct answer *answer)
{
    const struct call call = {.path = w->path};

    fleet_call(&w->fleet, &w->device, &call, answer);
}

static void drop(struct world *w)
{
    answer_release(&w->good);
    device_release(&w->device);
    fleet_remove(&w->fleet);
}

static void downloads_break_flip_and_end_early(void **state)
{
    struct answer answer;
    struct world w = {.good = {0}};

    (void)state;
    make(&w, "blob:drop-after=100:times=1,blob:flip=7:times=1,blob:truncate=50:times=1,"
             "blob:status=503:times=1");
    get(&w, &answer);
    assert_int_equal(answer.len, 100);
    assert_int_not_equal(answer.curl_code, 0);
    answer_release(&answer);
    get(&w, &answer);
    assert_int_equal(answer.status, 200);
    get(&w, &w.good); /* truncated */
    assert_int_equal(w.good.status, 200);
    assert_int_equal(w.good.curl_code, 0);
    assert_int_equal(w.good.len, 50);
    answer_release(&w.good);
    get(&w, &w.good);
    assert_refused(&w.good, 503, "BUSY");
    assert_non_null(strstr(w.good.headers, "Retry-After"));
    answer_release(&w.good);
    get(&w, &w.good); /* all rules are used up */
    assert_int_equal(w.good.status, 200);
    assert_int_equal(answer.len, w.good.len);
    assert_int_equal(answer.body[7], w.good.body[7] ^ 1);
    answer.body[7] ^= 1;
    assert_memory_equal(answer.body, w.good.body, answer.len);
    answer_release(&answer);
    drop(&w);
}

static void answers_are_delayed(void **state)
{
    const struct delta_clock clock = delta_clock_system();
    struct answer answer;
    struct world w = {.good = {0}};
    int64_t start;

    (void)state;
    make(&w, "blob:delay=400:times=1");
    start = delta_clock_monotonic_ms(&clock);
    get(&w, &answer);
    assert_int_equal(answer.status, 200);
    assert_true(delta_clock_monotonic_ms(&clock) - start >= 400);
    answer_release(&answer);
    drop(&w);
}

static void uploads_are_cut_and_resumed(void **state)
{
    const struct learned fox = {.classes = {"fox"}, .row = 1, .new_samples = 9};
    struct delta_digest digest;
    struct delta_buf file;
    struct answer answer;
    struct world w = {.good = {0}};

    (void)state;
    make(&w, "contribution:drop-after=10:times=1");
    device_learn(&w.device, &w.fleet.base, &fox, &file);
    fleet_put(&w.fleet, &w.device, &file, &digest, &answer);
    assert_int_equal(answer.status, 0);
    answer_release(&answer);
    fleet_put(&w.fleet, &w.device, &file, &digest, &answer);
    if (answer.status == 409) { /* something was kept: go on from there */
        struct delta_error err = DELTA_ERROR_INIT;
        struct delta_msg msg;
        uint64_t have;
        char header[100];
        assert_ok(delta_msg_parse(&msg, delta_bytes(answer.body, answer.len), &err));
        assert_ok(delta_msg_get_uint(delta_msg_root(&msg), "have", file.len, &have, &err));
        delta_msg_release(&msg);
        answer_release(&answer);
        snprintf(header, sizeof header, "Content-Range: bytes %llu-%zu/%zu",
                 (unsigned long long)have, file.len - 1, file.len);
        const struct call call = {.method = "PUT",
                                  .path = fleet_path("contribution", &digest),
                                  .header = header,
                                  .body = file.data + have,
                                  .body_len = file.len - (size_t)have};
        fleet_call(&w.fleet, &w.device, &call, &answer);
    }
    assert_int_equal(answer.status, 201);
    answer_release(&answer);
    delta_buf_release(&file);
    drop(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_are_parsed_or_refused),
        cmocka_unit_test(downloads_break_flip_and_end_early),
        cmocka_unit_test(answers_are_delayed),
        cmocka_unit_test(uploads_are_cut_and_resumed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
