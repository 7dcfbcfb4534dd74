#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "delta/log.h"
#include "state.h"

/* Where each step leads, as the design has it; a change of the table must be made twice. */
static void state_table_leads_where_it_should(void **state)
{
    static const struct {
        enum agent_step from;
        enum agent_outcome outcome;
        enum agent_step to;
    } rows[] = {
        {AGENT_POLL, AGENT_OUTCOME_DONE, AGENT_DOWNLOAD},
        {AGENT_POLL, AGENT_OUTCOME_NOTHING, AGENT_IDLE},
        {AGENT_POLL, AGENT_OUTCOME_FAILED, AGENT_IDLE},
        {AGENT_DOWNLOAD, AGENT_OUTCOME_DONE, AGENT_VERIFY},
        {AGENT_DOWNLOAD, AGENT_OUTCOME_NOTHING, AGENT_DOWNLOAD},
        {AGENT_DOWNLOAD, AGENT_OUTCOME_FAILED, AGENT_IDLE},
        {AGENT_VERIFY, AGENT_OUTCOME_DONE, AGENT_STAGE},
        {AGENT_VERIFY, AGENT_OUTCOME_NOTHING, AGENT_DOWNLOAD},
        {AGENT_VERIFY, AGENT_OUTCOME_REFUSED, AGENT_REPORT},
        {AGENT_STAGE, AGENT_OUTCOME_DONE, AGENT_CHECK},
        {AGENT_CHECK, AGENT_OUTCOME_DONE, AGENT_COMMIT},
        {AGENT_CHECK, AGENT_OUTCOME_REFUSED, AGENT_REPORT},
        {AGENT_CHECK, AGENT_OUTCOME_FAILED, AGENT_IDLE},
        {AGENT_COMMIT, AGENT_OUTCOME_DONE, AGENT_ADOPT},
        {AGENT_ADOPT, AGENT_OUTCOME_DONE, AGENT_REPORT},
        {AGENT_REPORT, AGENT_OUTCOME_FAILED, AGENT_IDLE},
        {AGENT_LEARN, AGENT_OUTCOME_DONE, AGENT_SEAL},
        {AGENT_LEARN, AGENT_OUTCOME_NOTHING, AGENT_IDLE},
        {AGENT_LEARN, AGENT_OUTCOME_REFUSED, AGENT_IDLE},
        {AGENT_SEAL, AGENT_OUTCOME_DONE, AGENT_UPLOAD},
        {AGENT_UPLOAD, AGENT_OUTCOME_DONE, AGENT_AWAIT},
        {AGENT_UPLOAD, AGENT_OUTCOME_FAILED, AGENT_IDLE},
        {AGENT_AWAIT, AGENT_OUTCOME_DONE, AGENT_IDLE},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (agent_step_next(rows[i].from, rows[i].outcome) != rows[i].to)
            fail_msg("%s on %d leads to %s", agent_step_name(rows[i].from), rows[i].outcome,
                     agent_step_name(agent_step_next(rows[i].from, rows[i].outcome)));
}

/* A stop repeats the step; from everywhere some number of failures leads to idle. */
static void state_table_has_no_trap(void **state)
{
    (void)state;
    for (int step = 0; step < AGENT_STEP_COUNT; step++) {
        assert_int_equal(agent_step_next((enum agent_step)step, AGENT_OUTCOME_STOPPED), step);
        enum agent_step at = (enum agent_step)step;
        for (int i = 0; i < 3; i++)
            at = agent_step_next(at, AGENT_OUTCOME_FAILED);
        assert_int_equal(at, AGENT_IDLE);
    }
}

static void state_outcome_follows_the_class_of_a_failure(void **state)
{
    (void)state;
    assert_int_equal(agent_outcome_of(DELTA_OK), AGENT_OUTCOME_DONE);
    assert_int_equal(agent_outcome_of(DELTA_CONNECT), AGENT_OUTCOME_FAILED);
    assert_int_equal(agent_outcome_of(DELTA_NO_SPACE), AGENT_OUTCOME_FAILED);
    assert_int_equal(agent_outcome_of(DELTA_SIGNATURE), AGENT_OUTCOME_REFUSED);
    assert_int_equal(agent_outcome_of(DELTA_REJECTED), AGENT_OUTCOME_REFUSED);
    assert_int_equal(agent_outcome_of(DELTA_INTERRUPTED), AGENT_OUTCOME_STOPPED);
}

static void fill(struct agent_state *s)
{
    memset(s, 0, sizeof *s);
    s->step = AGENT_VERIFY;
    s->loops = 3;
    s->serial = 77;
    snprintf(s->etag, sizeof s->etag, "\"abc\"");
    s->target = (struct agent_target){.version = {{1}},
                                      .blob = {{2}},
                                      .bytes = 123456789012,
                                      .model_blob = {{3}},
                                      .model_bytes = 9,
                                      .full = true,
                                      .old_before = 0.75,
                                      .old_after = 0.5,
                                      .tested = 40};
    for (int i = 0; i < 2; i++) {
        struct delta_class_id id;
        snprintf(id.text, sizeof id.text, "class-%d", i);
        struct agent_class *class = agent_state_add_class(s, &id);
        snprintf(class->folder, sizeof class->folder, "Class %d", i);
        class->content.bytes[0] = 9;
        class->base.bytes[1] = (uint8_t)i;
        class->contribution.bytes[2] = 8;
        class->refused = i == 0;
        class->again = i == 1;
        class->offer = i ? AGENT_OFFER_MERGED : AGENT_OFFER_PENDING;
    }
    s->local_base.bytes[5] = 5;
    agent_state_reject(s, &(struct delta_digest){{4}});
    s->report = (struct agent_report){"rolled-back", 0.25, 7, "because", {{6}}};
    s->report_due = true;
    agent_state_note(s, &(struct delta_digest){{10}});
    agent_state_event(s, 1234, "event %d", 1);
    snprintf(s->last_error, sizeof s->last_error, "some error");
    s->last_error_ms = 4321;
}

static void state_survives_saving_and_loading(void **unused)
{
    struct harness_scratch scratch;
    struct delta_error err;
    struct agent_state *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    bool fresh;

    (void)unused;
    harness_scratch_make(&scratch);
    fill(a);
    assert_ok(agent_state_save(a, scratch.path, &err));
    assert_ok(agent_state_load(b, scratch.path, &fresh, &err));
    assert_false(fresh);
    assert_int_equal(b->class_count, 2);
    assert_int_equal(b->step, AGENT_VERIFY);
    assert_int_equal(b->serial, 77);
    assert_int_equal(b->target.bytes, 123456789012);
    assert_true(b->target.full && b->target.old_after == 0.5);
    assert_true(b->classes[0].refused && !b->classes[0].again && b->classes[1].again);
    assert_int_equal(b->classes[0].offer, AGENT_OFFER_PENDING);
    assert_int_equal(b->classes[1].offer, AGENT_OFFER_MERGED);
    /* The rest: saved once more it gives the same bytes. */
    struct delta_buf first, second;
    assert_ok(delta_file_read(harness_path(&scratch, "state.json"), 100000, &first, &err));
    assert_ok(agent_state_save(b, scratch.path, &err));
    assert_ok(delta_file_read(harness_path(&scratch, "state.json"), 100000, &second, &err));
    assert_true(delta_bytes_equal(delta_buf_bytes(&first), delta_buf_bytes(&second)));
    delta_buf_release(&first);
    delta_buf_release(&second);
    free(a);
    free(b);
    harness_scratch_remove(&scratch);
}

static void state_strange_bytes_in_words_do_not_lose_it(void **unused)
{
    struct harness_scratch scratch;
    struct delta_error err;
    struct agent_state *a = malloc(sizeof *a);
    bool fresh;

    (void)unused;
    harness_scratch_make(&scratch);
    fill(a);
    agent_state_event(a, 1, "folder '\xff\xfe\x01'");
    snprintf(a->last_error, sizeof a->last_error, "peer said \xc3");
    assert_ok(agent_state_save(a, scratch.path, &err));
    assert_ok(agent_state_load(a, scratch.path, &fresh, &err));
    assert_int_equal(a->event_count, 2);
    assert_string_equal(a->events[1].text, "folder '?"
                                           "?"
                                           "?'");
    free(a);
    harness_scratch_remove(&scratch);
}

static void state_missing_or_broken_is_fresh(void **unused)
{
    static const char *const broken[] = {"", "{", "[]", "{\"step\": 5}", "\xff\xff"};
    struct harness_scratch scratch;
    struct delta_error err;
    struct agent_state *a = malloc(sizeof *a);
    bool fresh;

    (void)unused;
    harness_scratch_make(&scratch);
    assert_ok(agent_state_load(a, scratch.path, &fresh, &err));
    assert_true(fresh);
    for (size_t i = 0; i < 5; i++) {
        assert_ok(delta_file_write(harness_path(&scratch, "state.json"),
                                   delta_bytes(broken[i], strlen(broken[i])), 0644, &err));
        assert_ok(agent_state_load(a, scratch.path, &fresh, &err));
        assert_int_equal(a->step, AGENT_IDLE);
    }
    free(a);
    harness_scratch_remove(&scratch);
}

static void state_lists_keep_the_newest(void **unused)
{
    struct agent_state *s = calloc(1, sizeof *s);

    (void)unused;
    for (int i = 0; i < AGENT_REJECTED_MAX + 3; i++)
        agent_state_reject(s, &(struct delta_digest){{(uint8_t)(i + 1)}});
    assert_int_equal(s->rejected_count, AGENT_REJECTED_MAX);
    assert_false(agent_state_is_rejected(s, &(struct delta_digest){{1}}));
    assert_true(agent_state_is_rejected(s, &(struct delta_digest){{AGENT_REJECTED_MAX + 3}}));
    assert_true(agent_state_note(s, &(struct delta_digest){{1}}));
    assert_false(agent_state_note(s, &(struct delta_digest){{1}}));
    for (int i = 0; i < AGENT_EVENTS_MAX + 5; i++)
        agent_state_event(s, i, "event %d", i);
    assert_int_equal(s->event_count, AGENT_EVENTS_MAX);
    assert_string_equal(s->events[0].text, "event 5");
    free(s);
}

static void state_traffic_survives(void **unused)
{
    struct harness_scratch scratch;
    struct delta_error err;
    struct agent_traffic_count a[AGENT_TRAFFIC_COUNT] = {{0}}, b[AGENT_TRAFFIC_COUNT];

    (void)unused;
    harness_scratch_make(&scratch);
    for (int i = 0; i < AGENT_TRAFFIC_COUNT; i++)
        a[i] = (struct agent_traffic_count){1 + i, 20 + i, 300 + i, 4000 + i, 50000 + i};
    assert_ok(agent_traffic_save(a, scratch.path, &err));
    agent_traffic_load(b, scratch.path);
    assert_memory_equal(a, b, sizeof a);
    harness_scratch_remove(&scratch);
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
        cmocka_unit_test(state_table_leads_where_it_should),
        cmocka_unit_test(state_table_has_no_trap),
        cmocka_unit_test(state_outcome_follows_the_class_of_a_failure),
        cmocka_unit_test(state_survives_saving_and_loading),
        cmocka_unit_test(state_strange_bytes_in_words_do_not_lose_it),
        cmocka_unit_test(state_missing_or_broken_is_fresh),
        cmocka_unit_test(state_lists_keep_the_newest),
        cmocka_unit_test(state_traffic_survives),
    };

    delta_log_set(DELTA_LOG_ERROR, quiet, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
