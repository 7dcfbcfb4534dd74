#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "fake_coord.h"

struct fixture {
    struct harness_scratch scratch;
    struct fake_coord fake;
    struct agent_env env;
    struct agent_coord coord;
    uint8_t *data; /* a blob of 10 000 bytes, or an upload of 2.5 pieces */
    size_t len;
    struct delta_digest id;
    char path[300], part[310];
};

static int set_up(void **state)
{
    static struct fixture f;

    memset(&f, 0, sizeof f);
    harness_scratch_make(&f.scratch);
    fake_coord_init(&f.fake);
    f.env = fake_coord_env(&f.fake);
    agent_coord_init(&f.coord, fake_coord_transport(&f.fake), &f.env);
    f.len = AGENT_UPLOAD_PIECE * 5 / 2;
    f.data = malloc(f.len);
    for (size_t i = 0; i < f.len; i++)
        f.data[i] = (uint8_t)(i * 2654435761u >> 13);
    fake_coord_add_blob(&f.fake, delta_bytes(f.data, 10000), &f.id);
    snprintf(f.path, sizeof f.path, "%s/blob", f.scratch.path);
    snprintf(f.part, sizeof f.part, "%s.part", f.path);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    free(f->data);
    fake_coord_release(&f->fake);
    harness_scratch_remove(&f->scratch);
    return 0;
}

static enum delta_status fetch(struct fixture *f, struct delta_error *err)
{
    return agent_coord_fetch(&f->coord, AGENT_TRAFFIC_MODEL, &f->id, 10000, f->path, err);
}

static void assert_fetched(struct fixture *f)
{
    struct delta_error err;
    struct delta_buf file;

    assert_ok(delta_file_read(f->path, 20000, &file, &err));
    assert_int_equal(file.len, 10000);
    assert_memory_equal(file.data, f->data, 10000);
    assert_false(delta_file_exists(f->part));
    delta_buf_release(&file);
}

static void coord_fetch_resumes_a_broken_download(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    f->fake.break_after = 3000;
    assert_ok(fetch(f, &err));
    assert_fetched(f);
    assert_string_equal(f->fake.pieces, "GET 0,GET 3000,");
}

static void coord_fetch_goes_on_after_a_restart(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    f->coord.retry.tries = 1;
    f->fake.break_after = 7000;
    assert_status(fetch(f, &err), DELTA_CONNECT);
    assert_true(delta_file_exists(f->part));
    assert_ok(fetch(f, &err));
    assert_fetched(f);
    assert_string_equal(f->fake.pieces, "GET 0,GET 7000,");
}

static void coord_fetch_copes_without_ranges(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    f->fake.no_ranges = true;
    f->fake.break_after = 3000;
    assert_ok(fetch(f, &err));
    assert_fetched(f);
}

static void coord_fetch_drops_wrong_bytes(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    f->fake.flip = true;
    assert_status(fetch(f, &err), DELTA_DIGEST);
    assert_false(delta_file_exists(f->part));
    assert_false(delta_file_exists(f->path));
}

static void coord_fetch_drops_more_than_announced(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    assert_status(agent_coord_fetch(&f->coord, AGENT_TRAFFIC_MODEL, &f->id, 9999, f->path, &err),
                  DELTA_LIMIT);
    assert_false(delta_file_exists(f->part));
}

static void coord_fetch_names_a_missing_blob(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    f->id.bytes[0] ^= 1;
    assert_status(fetch(f, &err), DELTA_NOT_FOUND);
    assert_int_equal(f->fake.exchanges, 1);
}

static void coord_gives_up_after_finite_tries(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    f->fake.fail_next = 100;
    f->fake.fail_status = DELTA_CONNECT;
    assert_status(fetch(f, &err), DELTA_CONNECT);
    assert_int_equal(f->fake.exchanges, f->coord.retry.tries);
}

static void coord_does_not_retry_distrust(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    f->fake.fail_next = 1;
    f->fake.fail_status = DELTA_UNTRUSTED;
    assert_status(fetch(f, &err), DELTA_UNTRUSTED);
    assert_int_equal(f->fake.exchanges, 1);
}

static void coord_honours_retry_after(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    f->fake.busy_next = 1;
    f->fake.busy_after_ms = 9000;
    assert_ok(fetch(f, &err));
    assert_int_equal(f->fake.slept_ms, 9000);
}

static void coord_does_not_sleep_for_hours(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    f->fake.busy_next = 1;
    f->fake.busy_after_ms = AGENT_PATIENCE_MS + 1000;
    assert_status(fetch(f, &err), DELTA_BUSY);
    assert_int_equal(f->fake.sleeps, 0);
    assert_int_equal(f->coord.retry_after_ms, AGENT_PATIENCE_MS + 1000);
}

static void coord_poll_knows_unchanged(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct delta_buf sealed;
    char etag[80] = "";
    bool changed;

    assert_status(agent_coord_poll(&f->coord, "main", etag, &sealed, &changed, &err),
                  DELTA_NOT_FOUND);
    delta_buf_release(&sealed);
    assert_ok(delta_buf_append(&f->fake.document, "document", 8, &err));
    assert_ok(agent_coord_poll(&f->coord, "main", etag, &sealed, &changed, &err));
    assert_true(changed);
    assert_memory_equal(sealed.data, "document", 8);
    delta_buf_release(&sealed);
    assert_ok(agent_coord_poll(&f->coord, "main", etag, &sealed, &changed, &err));
    assert_false(changed);
    delta_buf_release(&sealed);
}

static enum delta_status offer(struct fixture *f, struct agent_answer *answer,
                               struct delta_error *err)
{
    const struct delta_bytes file = delta_bytes(f->data, f->len);
    const struct delta_digest id = delta_sha256(file);

    return agent_coord_offer(&f->coord, &id, file, answer, err);
}

static void coord_offer_sends_pieces(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_answer answer;

    assert_ok(offer(f, &answer, &err));
    assert_int_equal(answer.verdict, AGENT_VERDICT_PENDING);
    assert_string_equal(f->fake.pieces, "HEAD 0,PUT 0,PUT 1048576,PUT 2097152,");
    assert_int_equal(f->fake.upload.len, f->len);
    assert_memory_equal(f->fake.upload.data, f->data, f->len);
    /* The same again sends nothing. */
    f->fake.verdict = AGENT_VERDICT_MERGED;
    assert_ok(offer(f, &answer, &err));
    assert_int_equal(answer.verdict, AGENT_VERDICT_MERGED);
    assert_int_equal(f->fake.puts, 3);
}

static void coord_offer_survives_a_lost_answer(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_answer answer;

    f->fake.lose_put_answer = true;
    assert_ok(offer(f, &answer, &err));
    assert_int_equal(f->fake.puts, 3);
    assert_memory_equal(f->fake.upload.data, f->data, f->len);
}

static void coord_offer_goes_on_from_what_is_held(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_answer answer;

    assert_ok(delta_buf_append(&f->fake.upload, f->data, 12345, &err));
    assert_ok(offer(f, &answer, &err));
    assert_non_null(strstr(f->fake.pieces, "PUT 12345,"));
    assert_memory_equal(f->fake.upload.data, f->data, f->len);
}

static void coord_offer_tells_why_it_is_refused(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_answer answer;

    f->fake.refuse_code = 422;
    assert_status(offer(f, &answer, &err), DELTA_REFUSED);
    assert_int_equal(f->coord.peer_status, DELTA_BASE_UNKNOWN);
    assert_non_null(strstr(err.text, "base is unknown (BASE_UNKNOWN)"));
    assert_int_equal(f->fake.puts, 1);
}

static void coord_report_carries_its_numbers(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_report report = {"rolled-back", 0.25, 40, "old accuracy fell", {{7}}};

    f->fake.fail_next = 2;
    f->fake.fail_status = DELTA_TIMEOUT;
    assert_ok(agent_coord_report(&f->coord, &report, &err));
    assert_int_equal(f->fake.reports, 1);
    assert_string_equal(f->fake.last_report.event, "rolled-back");
    assert_string_equal(f->fake.last_report.reason, "old accuracy fell");
    assert_true(f->fake.last_report.old == 0.25);
    assert_int_equal(f->fake.last_report.tested, 40);
    assert_memory_equal(f->fake.last_report.version.bytes, report.version.bytes, 32);
}

static void coord_stops_when_asked(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;

    f->fake.fail_next = 100;
    f->fake.fail_status = DELTA_CONNECT;
    f->fake.stop = true;
    assert_status(fetch(f, &err), DELTA_CONNECT);
    assert_int_equal(f->fake.exchanges, 1);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(coord_fetch_resumes_a_broken_download),
        CASE(coord_fetch_goes_on_after_a_restart),
        CASE(coord_fetch_copes_without_ranges),
        CASE(coord_fetch_drops_wrong_bytes),
        CASE(coord_fetch_drops_more_than_announced),
        CASE(coord_fetch_names_a_missing_blob),
        CASE(coord_gives_up_after_finite_tries),
        CASE(coord_does_not_retry_distrust),
        CASE(coord_honours_retry_after),
        CASE(coord_does_not_sleep_for_hours),
        CASE(coord_poll_knows_unchanged),
        CASE(coord_offer_sends_pieces),
        CASE(coord_offer_survives_a_lost_answer),
        CASE(coord_offer_goes_on_from_what_is_held),
        CASE(coord_offer_tells_why_it_is_refused),
        CASE(coord_report_carries_its_numbers),
        CASE(coord_stops_when_asked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
