/* The small version of every plan that ships, run for real, and what must be true of any machine's
 * numbers. All of them share one base of ten synthetic classes. */
#include "harness.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiment/exp_results.h"
#include "experiment/exp_table.h"

#define HEAD_ROWS "frostline, stage A"
#define MARGIN 2.0 /* percent; the seeds' deviation is below one */

static struct harness_scratch scratch;
static struct harness_result run;
static struct delta_error err;

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

/* Runs learner/experiments/<name>.json --small and reads its tables. */
static void run_plan(struct exp_tables *tables, const char *name)
{
    char plan[600], results[300], cache[300], pictures[300];

    snprintf(plan, sizeof plan, "%s/learner/experiments/%s.json", getenv("FROSTLINE_SOURCE"), name);
    snprintf(results, sizeof results, "%s/%s.jsonl", scratch.path, name);
    snprintf(cache, sizeof cache, "%s/cache", scratch.path);
    snprintf(pictures, sizeof pictures, "%s/pictures", scratch.path);
    harness_run(&run, "frostline-learn", "experiment", plan, "--small", "--out", results, "--cache",
                cache, "--pictures", pictures, NULL);
    if (run.status)
        fail_msg("%s: status %d: %s", name, run.status, run.err);
    assert_null(strstr(run.err, " 0 pictures"));
    assert_ok(exp_tables_read(tables, results, &err));
}

static const struct exp_row *row(const struct exp_tables *tables, size_t table, const char *label)
{
    assert_true(table < tables->count);
    for (size_t r = 0; r < tables->tables[table].row_count; r++)
        if (strcmp(tables->tables[table].rows[r].label, label) == 0)
            return &tables->tables[table].rows[r];
    fail_msg("there is no row '%s'", label);
    return NULL;
}

static double value(const struct exp_tables *tables, const char *label, enum exp_metric metric)
{
    return row(tables, 0, label)->metrics[metric].mean;
}

/* No step of any run moved an element that it calls frozen; returns the largest number frozen. */
static json_int_t frozen_stays(const struct exp_tables *tables)
{
    size_t i, s;
    json_t *line, *step;
    json_int_t most = 0;

    json_array_foreach(tables->lines.runs, i, line)
        json_array_foreach(json_object_get(line, "steps"), s, step)
    {
        const json_int_t frozen = json_integer_value(json_object_get(step, "frozen"));
        /* packnet trains what it keeps before it calls that frozen */
        if (strcmp(json_string_value(json_object_get(line, "method")), "packnet") == 0)
            continue;
        assert_int_equal(json_integer_value(json_object_get(step, "frozen_moved")), 0);
        most = most < frozen ? frozen : most;
    }
    return most;
}

static void ten_classes(void **state)
{
    struct exp_tables t;
    (void)state;

    run_plan(&t, "ten-classes");
    const double nothing = value(&t, "do-nothing", EXP_ALL);
    assert_true(value(&t, "do-nothing", EXP_OLD) > 70); /* or the rest shows nothing */
    assert_float_equal(value(&t, "do-nothing", EXP_NEW), 0, 1e-9);
    assert_true(value(&t, "frostline", EXP_ALL) > nothing + MARGIN);
    assert_true(value(&t, HEAD_ROWS, EXP_ALL) > nothing + MARGIN);
    assert_true(value(&t, HEAD_ROWS, EXP_NEW) > 40);
    assert_true(value(&t, "ncm", EXP_ALL) > nothing + MARGIN);
    assert_true(value(&t, "finetune", EXP_OLD) < value(&t, "do-nothing", EXP_OLD) - 40);
    assert_true(value(&t, "finetune", EXP_ALL) < nothing - 20);
    assert_true(value(&t, "replay", EXP_OLD) > value(&t, "finetune", EXP_OLD) + 10);
    assert_true(value(&t, "frostline", EXP_ALL) > value(&t, "replay-kd", EXP_ALL) + 5);
    assert_true(value(&t, "joint", EXP_OLD) > value(&t, "replay", EXP_OLD) + 10);
    assert_float_equal(value(&t, "frostline", EXP_GAP),
                       value(&t, "joint", EXP_ALL) - value(&t, "frostline", EXP_ALL), 1e-3);
    /* whoever knows the task does not confuse the new classes with old ones; what pruning for it
     * costs the old ones is too noisy at this size */
    const json_t *step = json_array_get(json_object_get(row(&t, 0, "packnet")->sample, "steps"), 0);
    assert_true(json_number_value(json_object_get(step, "task_new")) >
                value(&t, "packnet", EXP_NEW) - 1e-6);
    /* bytes and passes follow what is live */
    assert_true(value(&t, HEAD_ROWS, EXP_DELTA) < 2000);
    assert_true(value(&t, "freeze ratio=0.9", EXP_DELTA) <
                0.5 * value(&t, "freeze ratio=0.5", EXP_DELTA));
    assert_true(value(&t, "freeze ratio=0.5", EXP_DELTA) < value(&t, "finetune", EXP_DELTA));
    assert_true(value(&t, HEAD_ROWS, EXP_PASSES) < value(&t, "freeze ratio=0.9", EXP_PASSES) / 5);
    assert_true(frozen_stays(&t) > 100000); /* of 178,000 elements */
    exp_tables_release(&t);
}

static void increments(void **state)
{
    struct exp_tables t;
    (void)state;

    run_plan(&t, "increments");
    const struct exp_row *ours = row(&t, 0, HEAD_ROWS), *nothing = row(&t, 0, "do-nothing");
    assert_int_equal(t.tables[0].step_count, 2);
    assert_true(ours->steps[1].all.mean > nothing->steps[1].all.mean + MARGIN / 2);
    assert_true(row(&t, 0, "finetune")->steps[1].all.mean < nothing->steps[1].all.mean - 20);
    exp_tables_release(&t);
}

static void overhead(void **state)
{
    struct exp_tables t;
    (void)state;

    run_plan(&t, "overhead");
    assert_non_null(strstr(run.out, "1610"));
    assert_non_null(strstr(run.out, "compare ratios, not seconds"));
    assert_true(value(&t, HEAD_ROWS, EXP_PASSES) < value(&t, "freeze ratio=0.9", EXP_PASSES) / 5);
    assert_true(value(&t, HEAD_ROWS, EXP_CPU) < value(&t, "freeze ratio=0.9", EXP_CPU));
    exp_tables_release(&t);
}

/* Two tables; each class at a time is the mean over both groups of held-out classes. */
static void few_classes(void **state)
{
    struct exp_tables t;
    (void)state;

    run_plan(&t, "few-classes");
    assert_int_equal(t.count, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(t.tables[i].groups, 2);
        assert_int_equal(row(&t, i, HEAD_ROWS)->runs, 2);
        assert_true(row(&t, i, HEAD_ROWS)->metrics[EXP_ALL].mean >
                    row(&t, i, "do-nothing")->metrics[EXP_ALL].mean + MARGIN / 2);
    }
    exp_tables_release(&t);
}

static void ablation(void **state)
{
    struct exp_tables t;
    (void)state;

    run_plan(&t, "ablation");
    /* new samples alone, most weights frozen: the old classes are lost all the same */
    assert_true(value(&t, "without fine-tuning", EXP_OLD) <
                value(&t, "freeze 0.9", EXP_OLD) - MARGIN);
    frozen_stays(&t);
    exp_tables_release(&t);
}

static void learning_rate(void **state)
{
    struct exp_tables t;
    (void)state;

    run_plan(&t, "learning-rate");
    assert_true(value(&t, "freeze ratio=0.9 epochs_tune=3 lr=0.01", EXP_NEW) >
                value(&t, "freeze ratio=0.9 epochs_tune=3 lr=0.0001", EXP_NEW) + MARGIN);
    exp_tables_release(&t);
}

static void freeze_ratio(void **state)
{
    struct exp_tables t;
    (void)state;

    run_plan(&t, "freeze-ratio");
    const double none = value(&t, "freeze ratio=0 epochs_tune=3", EXP_DELTA);
    const double half = value(&t, "freeze ratio=0.5 epochs_tune=3", EXP_DELTA);
    const double most = value(&t, "freeze ratio=0.99 epochs_tune=3", EXP_DELTA);
    assert_true(half < 0.6 * none && most < 0.1 * none);
    frozen_stays(&t);
    exp_tables_release(&t);
}

static void masks(void **state)
{
    struct exp_tables t;
    (void)state;

    run_plan(&t, "masks");
    assert_true(frozen_stays(&t) > 100000);
    assert_true(value(&t, "freeze mask=importance ratio=0.9 epochs_tune=3", EXP_ALL) !=
                value(&t, "freeze mask=random ratio=0.9 epochs_tune=3", EXP_ALL));
    exp_tables_release(&t);
}

/* Nothing but head rows and exemplars grows. */
static void long_life(void **state)
{
    struct exp_tables t;
    (void)state;

    run_plan(&t, "long-life");
    const struct exp_row *ours = row(&t, 0, HEAD_ROWS);
    const struct exp_step_stats *steps = ours->steps;
    assert_int_equal(t.tables[0].step_count, 4);
    for (size_t s = 1; s < 4; s++) {
        const double kept = steps[s].exemplar_bytes.mean - steps[s - 1].exemplar_bytes.mean;
        assert_true(steps[s].model_bytes.mean - steps[s - 1].model_bytes.mean < 1000);
        assert_true(kept > 0 && kept <= 15 * (3100.0 + 64 * 4) + 10 * 64 * 16 * 2);
        assert_true(steps[s].delta_bytes.mean < 2000);
#ifndef __SANITIZE_ADDRESS__ /* which keeps freed memory for a while */
        assert_true(steps[s].peak_bytes.mean < 1.3 * steps[0].peak_bytes.mean + 1e6);
#endif
    }
    assert_true(ours->metrics[EXP_ALL].mean >
                row(&t, 0, "do-nothing")->metrics[EXP_ALL].mean + MARGIN);
    exp_tables_release(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_classes),  cmocka_unit_test(increments),
        cmocka_unit_test(few_classes),  cmocka_unit_test(overhead),
        cmocka_unit_test(ablation),     cmocka_unit_test(learning_rate),
        cmocka_unit_test(freeze_ratio), cmocka_unit_test(masks),
        cmocka_unit_test(long_life),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
