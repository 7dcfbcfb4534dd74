/* The checkpoint file: what is written comes back; every kind of damage is refused. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint.h"
#include "delta/file.h"
#include "harness.h"

static struct harness_scratch scratch;

static int set_up(void **state)
{
    (void)state;
    harness_scratch_make(&scratch);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

static struct learner_checkpoint some_state(void)
{
    struct learner_checkpoint state = {.step = 17, .steps = 300, .microbatch = 64};

    learner_checkpoint_option(&state, "lr", "%.17g", 0.1);
    learner_checkpoint_option(&state, "batch", "%d", 128);
    learner_checkpoint_option(&state, "seed", "%d", 7);
    return state;
}

static float first[5] = {1, -2, 3.5f, 1e-30f, 0}, second[2] = {7, 8};

static void write_some(const char *path)
{
    const struct learner_checkpoint_block blocks[] = {{first, 5}, {second, 2}};
    const struct learner_checkpoint state = some_state();
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(learner_checkpoint_save(&state, blocks, 2, path, &err));
}

static void what_is_written_comes_back(void **state)
{
    const char *path = harness_path(&scratch, "a.ck");
    const struct learner_checkpoint mine = some_state();
    float a[5], b[2];
    const struct learner_checkpoint_block blocks[] = {{a, 5}, {b, 2}}, other[] = {{a, 5}, {b, 1}};
    struct learner_checkpoint_file file;
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    write_some(path);
    assert_ok(learner_checkpoint_open(&file, path, &err));
    assert_int_equal(file.state.step, 17);
    assert_int_equal(file.state.steps, 300);
    assert_int_equal(file.state.microbatch, 64);
    assert_int_equal(file.floats, 7);
    assert_int_equal(file.state.option_count, 3);
    assert_string_equal(file.state.options[0].name, "batch"); /* sorted */
    assert_ok(learner_checkpoint_same_run(&file.state, &mine, &err));
    assert_status(learner_checkpoint_read(&file, other, 2, &err), DELTA_FORMAT);
    assert_ok(learner_checkpoint_read(&file, blocks, 2, &err));
    assert_memory_equal(a, first, sizeof a);
    assert_memory_equal(b, second, sizeof b);
    learner_checkpoint_close(&file);
    learner_checkpoint_close(&file);
}

static void another_runs_options_are_named(void **state)
{
    const struct learner_checkpoint mine = some_state();
    struct learner_checkpoint other = {.step = 1}, more = some_state();
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    learner_checkpoint_option(&other, "seed", "%d", 7);
    learner_checkpoint_option(&other, "lr", "%.17g", 0.2);
    learner_checkpoint_option(&other, "batch", "%d", 128);
    assert_status(learner_checkpoint_same_run(&other, &mine, &err), DELTA_MISMATCH);
    assert_non_null(strstr(err.text, "lr is 0.2"));
    assert_non_null(strstr(err.text, "0.1"));
    learner_checkpoint_option(&more, "zebra", "1");
    assert_status(learner_checkpoint_same_run(&more, &mine, &err), DELTA_MISMATCH);
    assert_non_null(strstr(err.text, "'zebra'"));
    assert_status(learner_checkpoint_same_run(&mine, &more, &err), DELTA_MISMATCH);
}

/* Each byte changed, each length cut, one byte more: never accepted, never a crash. */
static void damage_is_refused(void **state)
{
    const char *path = harness_path(&scratch, "b.ck"), *bad = harness_path(&scratch, "bad.ck");
    struct delta_buf whole;
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_checkpoint_file file;

    (void)state;
    write_some(path);
    assert_ok(delta_file_read(path, 1 << 20, &whole, &err));
    for (size_t i = 0; i < whole.len; i++) {
        for (int bit = 0; bit < 8; bit += 7) {
            whole.data[i] ^= (uint8_t)(1 << bit);
            assert_ok(delta_file_write(bad, delta_buf_bytes(&whole), 0600, &err));
            const enum delta_status st = learner_checkpoint_open(&file, bad, &err);
            if (!st)
                fail_msg("byte %zu changed and accepted", i);
            assert_true(delta_status_class(st) == DELTA_CLASS_INPUT);
            assert_non_null(strstr(err.text, "bad.ck"));
            whole.data[i] ^= (uint8_t)(1 << bit);
        }
    }
    for (size_t len = 0; len < whole.len; len++) {
        assert_ok(delta_file_write(bad, delta_bytes(whole.data, len), 0600, &err));
        if (!learner_checkpoint_open(&file, bad, &err))
            fail_msg("cut to %zu bytes and accepted", len);
    }
    assert_ok(delta_buf_append(&whole, "", 1, &err));
    assert_ok(delta_file_write(bad, delta_buf_bytes(&whole), 0600, &err));
    assert_status(learner_checkpoint_open(&file, bad, &err), DELTA_FORMAT);
    assert_status(learner_checkpoint_open(&file, scratch.path, &err), DELTA_FORMAT);
    assert_status(learner_checkpoint_open(&file, harness_path(&scratch, "none"), &err),
                  DELTA_NOT_FOUND);
    bad = harness_path(&scratch, "fifo");
    assert_int_equal(mkfifo(bad, 0600), 0); /* nobody will ever write into it */
    assert_status(learner_checkpoint_open(&file, bad, &err), DELTA_FORMAT);
    delta_buf_release(&whole);
}

static void a_header_that_lies_costs_nothing(void **state)
{
    const char *bad = harness_path(&scratch, "lie.ck");
    const uint8_t giant[] = {'F', 'R', 'O', 'S', 'T', 'C', 'K', '1', 0xff, 0xff, 0xff, 0x7f, 0, 0};
    struct learner_checkpoint_file file;
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    assert_ok(delta_file_write(bad, delta_bytes(giant, sizeof giant), 0600, &err));
    assert_status(learner_checkpoint_open(&file, bad, &err), DELTA_LIMIT);
}

static void a_failed_write_leaves_the_old_file(void **state)
{
    const char *path = harness_path(&scratch, "c.ck");
    const struct learner_checkpoint mine = some_state();
    const struct learner_checkpoint_block block = {first, 5};
    struct learner_checkpoint_file file;
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    write_some(path);
    assert_status(learner_checkpoint_save(&mine, &block, 1, harness_path(&scratch, "no/x"), &err),
                  DELTA_NOT_FOUND);
    assert_non_null(strstr(err.text, "no/x"));
    assert_ok(learner_checkpoint_open(&file, path, &err));
    learner_checkpoint_close(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_comes_back),
        cmocka_unit_test(another_runs_options_are_named),
        cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(a_header_that_lies_costs_nothing),
        cmocka_unit_test(a_failed_write_leaves_the_old_file),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
