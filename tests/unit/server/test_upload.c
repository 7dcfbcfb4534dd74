/* Contributions over real mutual TLS: whole, in pieces, broken off, resumed, repeated, refused. */
#include "server_fleet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta/msg.h"

struct world {
    struct fleet fleet;
    struct device device;
    struct delta_buf file;
    struct delta_digest digest;
    const char *path;
};

static const struct learned fox = {.classes = {"fox"}, .row = 1, .slice = 0.25f, .new_samples = 9};

static void make(struct world *w, const struct server_options *options)
{
    fleet_make(&w->fleet);
    fleet_start(&w->fleet, options);
    device_make(&w->device, &w->fleet, "cam-1");
    device_enrol_quietly(&w->device, &w->fleet);
    device_learn(&w->device, &w->fleet.base, &fox, &w->file);
    w->digest = delta_sha256(delta_buf_bytes(&w->file));
    w->path = fleet_path("contribution", &w->digest);
}

static void drop(struct world *w)
{
    delta_buf_release(&w->file);
    device_release(&w->device);
    fleet_remove(&w->fleet);
}

/* PUT of bytes [from, to) of the file; send_only as in struct call. */
static void put(struct world *w, size_t from, size_t to, long send_only, struct answer *answer)
{
    char header[128];

    snprintf(header, sizeof header, "Content-Range: bytes %zu-%zu/%zu", from, to - 1, w->file.len);
    const struct call call = {.method = "PUT",
                              .path = w->path,
                              .header = header,
                              .body = w->file.data + from,
                              .body_len = to - from,
                              .send_only = send_only};
    fleet_call(&w->fleet, &w->device, &call, answer);
}

static long put_status(struct world *w, size_t from, size_t to)
{
    struct answer answer;

    put(w, from, to, 0, &answer);
    const long status = answer.status;
    answer_release(&answer);
    return status;
}

/* What HEAD says is held; -1: 404. */
static long held(struct world *w)
{
    const struct call call = {.method = "HEAD", .path = w->path};
    struct answer answer;
    const char *at;
    long have = -1;

    fleet_call(&w->fleet, &w->device, &call, &answer);
    if (answer.status == 200) {
        at = strstr(answer.headers, "Upload-Offset: ");
        assert_non_null(at);
        have = strtol(at + 15, NULL, 10);
    } else {
        assert_int_equal(answer.status, 404);
    }
    answer_release(&answer);
    return have;
}

static uint64_t number_in(const struct answer *answer, const char *key)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_msg msg;
    uint64_t value;

    assert_ok(delta_msg_parse(&msg, delta_bytes(answer->body, answer->len), &err));
    assert_ok(delta_msg_get_uint(delta_msg_root(&msg), key, UINT64_MAX, &value, &err));
    delta_msg_release(&msg);
    return value;
}

static void whole_upload_is_admitted_merged_and_idempotent(void **state)
{
    struct server_contribution c;
    struct delta_channel channel;
    struct delta_error err = DELTA_ERROR_INIT;
    struct answer answer;
    struct world w;

    (void)state;
    make(&w, NULL);
    assert_int_equal(held(&w), -1);
    fleet_put(&w.fleet, &w.device, &w.file, &w.digest, &answer);
    assert_int_equal(answer.status, 201);
    answer_release(&answer);
    assert_int_equal(held(&w), w.file.len);
    fleet_put(&w.fleet, &w.device, &w.file, &w.digest, &answer);
    assert_int_equal(answer.status, 200);
    answer_release(&answer);
    fleet_await(&w.fleet, &w.digest, &c);
    assert_int_equal(c.state, SERVER_CONTRIBUTION_MERGED);
    const struct call get = {.path = w.path, .header = "Accept: application/json"};
    fleet_call(&w.fleet, &w.device, &get, &answer);
    assert_non_null(strstr((char *)answer.body, "\"state\": \"merged\""));
    answer_release(&answer);
    assert_ok(server_store_channel(w.fleet.keeper.store, "main", &channel, NULL, &err));
    assert_int_equal(channel.serial, 2);
    assert_true(delta_digest_equal(&channel.version, &c.version));
    drop(&w);
}

static void pieces_add_up(void **state)
{
    const struct server_options options = {.merge_off = true};
    struct answer answer;
    struct world w;

    (void)state;
    make(&w, &options);
    put(&w, 0, 500, 0, &answer);
    assert_int_equal(answer.status, 202);
    assert_int_equal(number_in(&answer, "have"), 500);
    answer_release(&answer);
    assert_int_equal(held(&w), 500);
    put(&w, 600, 700, 0, &answer); /* a gap */
    assert_refused(&answer, 409, "MISMATCH");
    assert_int_equal(number_in(&answer, "have"), 500);
    answer_release(&answer);
    assert_int_equal(put_status(&w, 0, 100), 409); /* again from the start */
    assert_int_equal(put_status(&w, 500, 900), 202);
    assert_int_equal(put_status(&w, 900, w.file.len), 201);
    assert_int_equal(put_status(&w, 900, w.file.len), 200);
    drop(&w);
}

static void broken_upload_is_resumed_even_by_another_coordinator(void **state)
{
    const struct server_options options = {.merge_off = true};
    struct answer answer;
    struct world w;
    long have;

    (void)state;
    make(&w, &options);
    put(&w, 0, w.file.len, 700, &answer); /* truncated: the connection dies in the middle */
    assert_int_equal(answer.status, 0);
    answer_release(&answer);
    for (int i = 0; (have = held(&w)) < 0 && i < 100; i++)
        usleep(20000);
    assert_in_range(have, 1, 700);
    fleet_stop(&w.fleet);
    fleet_start(&w.fleet, &options);
    assert_int_equal(held(&w), have);
    assert_int_equal(put_status(&w, (size_t)have, w.file.len), 201);
    drop(&w);
}

static void wrong_bytes_are_refused(void **state)
{
    const struct server_options options = {.merge_off = true};
    struct delta_digest digest;
    struct answer answer;
    struct world w;

    (void)state;
    make(&w, &options);
    /* flipped on the way: the digest in the path is another's */
    w.file.data[w.file.len / 2] ^= 1;
    put(&w, 0, w.file.len, 0, &answer);
    assert_refused(&answer, 422, "DIGEST");
    answer_release(&answer);
    assert_int_equal(held(&w), -1); /* dropped: the next try starts afresh */
    /* flipped before it was named: a payload that its header does not know */
    w.file.data[w.file.len / 2] ^= 1;
    w.file.data[w.file.len - 1] ^= 1;
    fleet_put(&w.fleet, &w.device, &w.file, &digest, &answer);
    assert_refused(&answer, 422, "DIGEST");
    answer_release(&answer);
    w.file.data[w.file.len - 1] ^= 1;
    assert_int_equal(put_status(&w, 0, w.file.len), 201);
    drop(&w);
}

static void refusals_come_as_422_with_their_names(void **state)
{
    const struct server_options options = {.merge_off = true, .max_pending_per_device = 1};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model stranger;
    struct delta_digest digest;
    struct delta_buf file, second;
    struct learned lie = fox, frozen = fox, elk = {.classes = {"elk"}, .row = 1, .new_samples = 1};
    struct device other;
    struct answer answer;
    struct world w;

    (void)state;
    make(&w, &options);
    device_make(&other, &w.fleet, "cam-2");
    device_enrol_quietly(&other, &w.fleet);
    assert_ok(delta_model_copy(&stranger, &w.fleet.base, &err));
    stranger.tensors[0].data[0] += 1;
    device_learn(&w.device, &stranger, &fox, &file);
    fleet_put(&w.fleet, &w.device, &file, &digest, &answer);
    assert_refused(&answer, 422, "BASE_UNKNOWN");
    answer_release(&answer);
    delta_buf_release(&file);
    fleet_put(&w.fleet, &other, &w.file, &digest, &answer); /* another's contribution */
    assert_refused(&answer, 422, "UNTRUSTED");
    answer_release(&answer);
    lie.provenance = "cam-2";
    device_learn(&w.device, &w.fleet.base, &lie, &file);
    fleet_put(&w.fleet, &w.device, &file, &digest, &answer);
    assert_refused(&answer, 422, "MISMATCH");
    answer_release(&answer);
    delta_buf_release(&file);
    frozen.touch_frozen = true;
    device_learn(&w.device, &w.fleet.base, &frozen, &file);
    fleet_put(&w.fleet, &w.device, &file, &digest, &answer);
    assert_refused(&answer, 422, "MISMATCH");
    answer_release(&answer);
    fleet_put(&w.fleet, &w.device, &file, &digest, &answer); /* remembered */
    assert_int_equal(answer.status, 200);
    answer_release(&answer);
    delta_buf_release(&file);
    /* none of that kept the right one out; a second one is above the quota */
    assert_int_equal(put_status(&w, 0, w.file.len), 201);
    device_learn(&w.device, &w.fleet.base, &elk, &second);
    fleet_put(&w.fleet, &w.device, &second, &digest, &answer);
    assert_refused(&answer, 422, "LIMIT");
    answer_release(&answer);
    delta_buf_release(&second);
    delta_model_release(&stranger);
    device_release(&other);
    drop(&w);
}

static void malformed_puts_are_refused(void **state)
{
    static const struct {
        const char *header;
        size_t len;
        long status;
    } table[] = {{"Content-Range: bytes 0-9/10", 9, 400},
                 {"Content-Range: bytes 0-9", 10, 400},
                 {"Content-Range: bytes 9-0/10", 10, 400},
                 {"Content-Range: bytes 0-9/99999999999", 10, 413},
                 {"Content-Range: bytes 0-9/10\nTransfer-Encoding: chunked", 11, 400},
                 {"Content-Range: bytes 0-19/20\nTransfer-Encoding: chunked", 11, 400},
                 {"X: y", 0, 400}};
    struct answer answer;
    struct world w;

    (void)state;
    make(&w, NULL);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const struct call call = {.method = "PUT",
                                  .path = w.path,
                                  .header = table[i].header,
                                  .body = "01234567890123456789",
                                  .body_len = table[i].len};
        fleet_call(&w.fleet, &w.device, &call, &answer);
        if (answer.status != table[i].status)
            fail_msg("row %zu: %ld (curl %d)", i, answer.status, answer.curl_code);
        answer_release(&answer);
    }
    const struct call bad = {
        .method = "PUT", .path = "/v1/contribution/..%2f..%2fx", .body = "a", .body_len = 1};
    fleet_call(&w.fleet, &w.device, &bad, &answer);
    assert_int_equal(answer.status, 400);
    answer_release(&answer);
    drop(&w);
}

static void nobody_sees_anothers_contribution(void **state)
{
    const struct server_options options = {.merge_off = true};
    struct device other;
    struct answer answer;
    struct world w;

    (void)state;
    make(&w, &options);
    assert_int_equal(put_status(&w, 0, w.file.len), 201);
    device_make(&other, &w.fleet, "cam-2");
    device_enrol_quietly(&other, &w.fleet);
    const struct call get = {.path = w.path};
    fleet_call(&w.fleet, &other, &get, &answer);
    assert_refused(&answer, 404, "NOT_FOUND");
    answer_release(&answer);
    const struct call blob = {.path = fleet_path("blob", &w.digest)};
    fleet_call(&w.fleet, &other, &blob, &answer);
    assert_refused(&answer, 404, "NOT_FOUND");
    answer_release(&answer);
    fleet_call(&w.fleet, NULL, &get, &answer);
    assert_refused(&answer, 401, "UNTRUSTED");
    answer_release(&answer);
    device_release(&other);
    drop(&w);
}

static void unfinished_uploads_are_bounded(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_dir_list list;
    struct answer answer;
    struct world w;

    (void)state;
    make(&w, NULL);
    for (uint8_t i = 0; i < 20; i++) {
        struct delta_digest digest = {{i, 1}};
        const struct call call = {.method = "PUT",
                                  .path = fleet_path("contribution", &digest),
                                  .header = "Content-Range: bytes 0-2/10",
                                  .body = "abc",
                                  .body_len = 3};
        fleet_call(&w.fleet, &w.device, &call, &answer);
        assert_int_equal(answer.status, 202);
        answer_release(&answer);
    }
    assert_ok(delta_dir_read(&list, w.fleet.keeper.places.uploads, 100, &err));
    assert_in_range(list.count, 1, 8);
    delta_dir_list_release(&list);
    drop(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_upload_is_admitted_merged_and_idempotent),
        cmocka_unit_test(pieces_add_up),
        cmocka_unit_test(broken_upload_is_resumed_even_by_another_coordinator),
        cmocka_unit_test(wrong_bytes_are_refused),
        cmocka_unit_test(refusals_come_as_422_with_their_names),
        cmocka_unit_test(malformed_puts_are_refused),
        cmocka_unit_test(nobody_sees_anothers_contribution),
        cmocka_unit_test(unfinished_uploads_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
