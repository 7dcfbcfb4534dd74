/* Increments on a base that is trained here, in seconds, on six synthetic classes. */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "learner/learn.h"

#define OLD 6
#define NEW 2

static struct {
    struct learner_samples train, test, fresh; /* all classes; fresh: new ones only */
    struct delta_model base;                   /* with a freeze plan at 0.8 */
    struct learner_exemplars exemplars;
    struct learner_budget budget;
} f;

static int set_up(void **state)
{
    const struct learner_pretrain_options options = {.epochs = 10,
                                                     .batch = 16,
                                                     .lr = 0.05,
                                                     .momentum = 0.9,
                                                     .weight_decay = 5e-4,
                                                     .augment = true};
    const struct delta_arch arch = {.name = "resnet18",
                                    .stem = "cifar",
                                    .width =
                                        8, /* strong enough that thresholds decide, not rounding */
                                    .channels = 3,
                                    .height = 32,
                                    .image_width = 32,
                                    .mean = {0.5, 0.5, 0.5},
                                    .std = {0.25, 0.25, 0.25}};
    const char *source = "synthetic:classes=8,train=200,test=50";
    struct learner_samples old = LEARNER_SAMPLES_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    f.budget = (struct learner_budget){.seed = 5};
    assert_ok(learner_samples_open(&f.train, source, LEARNER_SPLIT_TRAIN, &err));
    assert_ok(learner_samples_open(&f.test, source, LEARNER_SPLIT_TEST, &err));
    assert_ok(learner_samples_select(&old, &f.train, f.train.classes, OLD, 0, &err));
    assert_ok(learner_samples_select(&f.fresh, &f.train, f.train.classes + OLD, NEW, 50, &err));
    assert_ok(learner_net_init_model(&f.base, &arch, old.classes, OLD, 2, &err));
    assert_ok(learner_pretrain(&f.base, &old, &options, &f.budget, &err));
    assert_ok(learner_freeze_plan(&f.base, &old, 0.8, &f.budget, &err));
    assert_ok(learner_exemplars_choose(&f.exemplars, &f.base, &old, 20, 20, 1, &err));
    learner_samples_release(&old);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    learner_samples_release(&f.train);
    learner_samples_release(&f.test);
    learner_samples_release(&f.fresh);
    learner_exemplars_release(&f.exemplars);
    delta_model_release(&f.base);
    return 0;
}

struct result {
    struct delta_model model;
    struct learner_report report;
    double old, fresh; /* accuracy on the test split, all outputs competing */
};

static void measure(struct result *result)
{
    struct learner_scores scores;
    struct delta_error err = DELTA_ERROR_INIT;
    size_t correct[2] = {0, 0}, images[2] = {0, 0};

    assert_ok(learner_evaluate(&scores, &result->model, &f.test, &f.budget, &err));
    for (size_t k = 0; k < scores.class_count; k++) {
        images[k >= OLD] += scores.classes[k].images;
        correct[k >= OLD] += scores.classes[k].correct;
    }
    result->old = (double)correct[0] / (double)images[0];
    result->fresh = images[1] ? (double)correct[1] / (double)images[1] : 0;
    learner_scores_release(&scores);
}

static void learn(struct result *result, const struct learner_increment_options *options)
{
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(learner_increment(&result->model, &f.base, &f.fresh, &f.exemplars, options, &f.budget,
                                &result->report, &err));
    measure(result);
    printf("%-10s old %.1f %% new %.1f %%, probes %.1f -> %.1f, held out %.1f, %.1f s\n",
           result->report.method, 100 * result->old, 100 * result->fresh,
           100 * result->report.old_before, 100 * result->report.old_after,
           100 * result->report.new_recall, result->report.seconds);
}

/* frostline: stage A; test_methods.c has the others. */
static struct learner_increment_options unguarded(const char *method)
{
    struct learner_increment_options options = learner_increment_defaults(method);

    options.stages = "A";
    options.max_old_drop = 1;
    options.min_new_recall = 0;
    return options;
}

static bool same_bits(const float *a, const float *b, size_t count)
{
    return memcmp(a, b, count * sizeof *a) == 0;
}

static void frostline_changes_new_rows_only(void **state)
{
    const struct learner_increment_options options = unguarded("frostline");
    struct delta_digest base;
    struct delta_error err = DELTA_ERROR_INIT;
    struct result result;
    (void)state;

    learn(&result, &options);
    assert_int_equal(result.report.live_changed, 0);
    assert_int_equal(result.report.new_images, 80);
    assert_int_equal(result.report.held_out_new, 20);
    assert_int_equal(result.report.replay_images, 120);
    assert_int_equal(result.report.probe_images, 120);
    assert_int_equal(result.model.class_count, OLD + NEW);
    for (size_t k = 0; k < NEW; k++)
        assert_string_equal(result.model.classes[OLD + k].text, f.fresh.classes[k].text);
    assert_ok(delta_model_digest(&f.base, &base, &err));
    assert_true(delta_digest_equal(&result.model.parent, &base));
    for (size_t i = 0; i < f.base.tensor_count; i++) {
        const struct delta_tensor *old = &f.base.tensors[i];
        const struct delta_tensor *now = delta_model_find(&result.model, old->name);
        assert_non_null(now);
        assert_true(same_bits(old->data, now->data, old->count));
        assert_int_equal(old->freeze.mode, now->freeze.mode);
        if (now->count > old->count) { /* the head: rows that do something */
            float most = 0;
            for (size_t j = old->count; j < now->count; j++)
                most = fmaxf(most, fabsf(now->data[j]));
            assert_true(most != 0);
        }
    }
    delta_model_release(&result.model);
}

static void increments_repeat_bit_for_bit(void **state)
{
    const struct learner_increment_options options = unguarded("frostline");
    struct learner_budget budget = f.budget;
    struct learner_samples some = LEARNER_SAMPLES_INIT; /* plain loops are slow */
    struct delta_model a, b;
    struct delta_digest one, two;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    budget.device = "ref";
    assert_ok(learner_samples_select(&some, &f.fresh, f.fresh.classes, NEW, 12, &err));
    assert_ok(learner_increment(&a, &f.base, &some, &f.exemplars, &options, &budget, NULL, &err));
    assert_ok(learner_increment(&b, &f.base, &some, &f.exemplars, &options, &budget, NULL, &err));
    learner_samples_release(&some);
    assert_ok(delta_model_digest(&a, &one, &err));
    assert_ok(delta_model_digest(&b, &two, &err));
    assert_true(delta_digest_equal(&one, &two));
    delta_model_release(&a);
    delta_model_release(&b);
}

/* Momentum and weight decay are on, and still not one frozen bit moves. */
static void freeze_leaves_frozen_weights_bit_identical(void **state)
{
    struct learner_increment_options options = unguarded("freeze");
    size_t frozen = 0, moved = 0, live = 0;
    struct result result;
    (void)state;

    options.weight_decay = 0.01;
    options.epochs_tune = 2;
    assert_true(options.momentum > 0);
    learn(&result, &options);
    for (size_t i = 0; i < f.base.tensor_count; i++) {
        const struct delta_tensor *old = &f.base.tensors[i];
        const struct delta_tensor *now = delta_model_find(&result.model, old->name);
        for (size_t j = 0; j < old->count; j++) {
            const bool same = same_bits(&old->data[j], &now->data[j], 1);
            if (delta_tensor_is_frozen(old, j)) {
                if (!same)
                    fail_msg("%s[%zu] is frozen and moved", old->name, j);
                frozen++;
            } else {
                live++;
                moved += !same;
            }
        }
    }
    assert_true(frozen > 30000);
    assert_true(moved > live * 9 / 10); /* the rest does learn */
    assert_int_equal(result.report.live_changed, moved);
    delta_model_release(&result.model);
}

static void freeze_by_ratio_brings_its_own_plan(void **state)
{
    struct learner_increment_options options = unguarded("freeze");
    struct result result;
    size_t frozen = 0;
    (void)state;

    options.ratio = 0.5;
    options.epochs_tune = 1;
    learn(&result, &options);
    const struct delta_tensor *conv = delta_model_find(&result.model, "layer4.1.conv2.weight");
    const struct delta_tensor *base = delta_model_find(&f.base, "layer4.1.conv2.weight");
    for (size_t i = 0; i < conv->count; i++) {
        frozen += delta_tensor_is_frozen(conv, i);
        if (delta_tensor_is_frozen(conv, i))
            assert_true(same_bits(&conv->data[i], &base->data[i], 1));
    }
    assert_int_equal(frozen, conv->count / 2);
    delta_model_release(&result.model);
}

/* The order that the whole project rests on. Chance is 12.5 %; margins are far beyond the noise of
 * 300 old and 100 new test images (standard error below 3 and 5 points). */
static void finetune_forgets_where_frostline_keeps(void **state)
{
    static const char *const names[] = {"do-nothing", "finetune", "frostline", "freeze"};
    struct result results[4];
    (void)state;

    for (int i = 0; i < 4; i++) {
        const struct learner_increment_options options = unguarded(names[i]);
        learn(&results[i], &options);
    }
    assert_true(results[0].old > 0.6); /* the base is worth keeping */
    assert_true(results[0].fresh == 0);
    assert_true(results[1].old < results[0].old - 0.3); /* finetune forgets */
    assert_true(results[2].old > results[0].old - 0.2);
    assert_true(results[2].old > results[1].old + 0.25);
    assert_true(results[2].fresh > 0.35);
    assert_true(results[3].old > results[1].old + 0.15);
    assert_true(results[3].fresh > 0.35);
    for (int i = 0; i < 4; i++)
        delta_model_release(&results[i].model);
}

static void guard_passes_a_good_increment(void **state)
{
    const struct learner_increment_options options = learner_increment_defaults(NULL);
    struct result result;
    (void)state;

    assert_string_equal(options.method, "frostline");
    learn(&result, &options);
    delta_model_release(&result.model);
}

/* Images of all old classes under a new name: nothing there to learn. */
static void guard_rejects_mislabelled_samples(void **state)
{
    struct learner_increment_options options = learner_increment_defaults("frostline");
    struct learner_samples wrong = LEARNER_SAMPLES_INIT;
    struct delta_model out = DELTA_MODEL_INIT;
    struct learner_report report = {.method = ""};
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    options.min_new_recall = 0.35; /* chance is 1 in 7, and there are 10 to tell */
    assert_ok(learner_samples_select(&wrong, &f.test, f.test.classes, OLD, 10, &err));
    for (size_t i = 0; i < wrong.count; i++)
        wrong.labels[i] = 0;
    wrong.class_count = 1;
    wrong.classes[0] = (struct delta_class_id){"wrong"};
    assert_status(
        learner_increment(&out, &f.base, &wrong, &f.exemplars, &options, &f.budget, &report, &err),
        DELTA_REJECTED);
    printf("rejected: %s\n", err.text);
    assert_null(out.tensors);
    assert_non_null(strstr(err.text, "percent"));
    assert_string_equal(report.method, "frostline");
    assert_int_equal(report.held_out_new, 10);
    learner_samples_release(&wrong);
}

/* A method that forgets is stopped by the probes, whatever its new recall. */
static void guard_rejects_forgetting(void **state)
{
    struct learner_increment_options options = learner_increment_defaults("finetune");
    struct delta_model out = DELTA_MODEL_INIT;
    struct learner_report report = {.method = ""};
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    options.max_old_drop = 0.1;
    assert_status(learner_increment(&out, &f.base, &f.fresh, &f.exemplars, &options, &f.budget,
                                    &report, &err),
                  DELTA_REJECTED);
    assert_non_null(strstr(err.text, "old classes fell"));
    assert_true(report.old_before - report.old_after > 0.1);
}

static void known_classes_are_dropped_or_refused(void **state)
{
    const struct learner_increment_options options = unguarded("frostline");
    struct learner_samples some = LEARNER_SAMPLES_INIT;
    struct delta_model out = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    assert_ok(learner_samples_select(&some, &f.train, f.train.classes, 2, 10, &err));
    assert_status(
        learner_increment(&out, &f.base, &some, &f.exemplars, &options, &f.budget, NULL, &err),
        DELTA_EXISTS);
    assert_non_null(strstr(err.text, f.train.classes[1].text));
    assert_ok(learner_samples_append(&some, &f.fresh, &err)); /* two known, two new */
    assert_ok(
        learner_increment(&out, &f.base, &some, &f.exemplars, &options, &f.budget, NULL, &err));
    assert_int_equal(out.class_count, OLD + NEW);
    delta_model_release(&out);
    learner_samples_release(&some);
}

static bool stop_at_once(void *context, const char *stage, double done, double total)
{
    (void)stage;
    (void)done;
    (void)total;
    ++*(int *)context;
    return false;
}

static void wrong_calls_are_refused(void **state)
{
    struct learner_increment_options options = unguarded("magic");
    struct learner_samples empty = LEARNER_SAMPLES_INIT, large = LEARNER_SAMPLES_INIT;
    struct delta_model out = DELTA_MODEL_INIT, live = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_budget budget = f.budget;
    int calls = 0;
    (void)state;

    assert_status(learner_increment(&out, &f.base, &f.fresh, NULL, &options, &budget, NULL, &err),
                  DELTA_UNSUPPORTED);
    assert_non_null(strstr(err.text, "'magic'"));
    options = unguarded("frostline");
    assert_ok(learner_samples_select(&empty, &f.fresh, NULL, 0, 0, &err));
    assert_status(learner_increment(&out, &f.base, &empty, NULL, &options, &budget, NULL, &err),
                  DELTA_NOT_FOUND);
    large.channels = 3;
    large.height = large.width = 48;
    assert_status(learner_increment(&out, &f.base, &large, NULL, &options, &budget, NULL, &err),
                  DELTA_MISMATCH);
    budget.progress = stop_at_once;
    budget.context = &calls;
    assert_status(
        learner_increment(&out, &f.base, &f.fresh, &f.exemplars, &options, &budget, NULL, &err),
        DELTA_INTERRUPTED);
    assert_int_equal(calls, 1);
    /* the published method needs a plan */
    options = unguarded("freeze");
    assert_ok(delta_model_copy(&live, &f.base, &err));
    for (size_t i = 0; i < live.tensor_count; i++)
        assert_ok(delta_tensor_set_freeze(&live.tensors[i], DELTA_FREEZE_LIVE, NULL, 0, &err));
    assert_status(
        learner_increment(&out, &live, &f.fresh, &f.exemplars, &options, &f.budget, NULL, &err),
        DELTA_MISMATCH);
    assert_non_null(strstr(err.text, "no freeze plan"));
    assert_null(out.tensors);
    delta_model_release(&live);
    learner_samples_release(&empty);
}

/* Without exemplars and with three samples it still works, and says that nothing was held out. */
static void few_samples_without_exemplars_are_learned(void **state)
{
    const struct learner_increment_options options = unguarded("frostline");
    struct learner_samples few = LEARNER_SAMPLES_INIT;
    struct delta_model out = DELTA_MODEL_INIT;
    struct learner_report report;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    assert_ok(learner_samples_select(&few, &f.fresh, f.fresh.classes, 1, 3, &err));
    assert_ok(learner_increment(&out, &f.base, &few, NULL, &options, &f.budget, &report, &err));
    assert_int_equal(report.held_out_new, 0);
    assert_int_equal(report.probe_images, 0);
    assert_int_equal(report.new_images, 3);
    delta_model_release(&out);
    learner_samples_release(&few);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frostline_changes_new_rows_only),
        cmocka_unit_test(increments_repeat_bit_for_bit),
        cmocka_unit_test(freeze_leaves_frozen_weights_bit_identical),
        cmocka_unit_test(freeze_by_ratio_brings_its_own_plan),
        cmocka_unit_test(finetune_forgets_where_frostline_keeps),
        cmocka_unit_test(guard_passes_a_good_increment),
        cmocka_unit_test(guard_rejects_mislabelled_samples),
        cmocka_unit_test(guard_rejects_forgetting),
        cmocka_unit_test(known_classes_are_dropped_or_refused),
        cmocka_unit_test(wrong_calls_are_refused),
        cmocka_unit_test(few_samples_without_exemplars_are_learned),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
