/* Memory and time: what is planned is what is taken, what is allowed is kept to. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "budget.h"
#include "checkpoint.h"
#include "delta/clock.h"
#include "delta/file.h"
#include "fixture.h"
#include "learner/learn.h"

#define MB ((size_t)1 << 20)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEASURES_MEMORY 0
#else
#define MEASURES_MEMORY 1
#endif

static struct harness_scratch scratch;
static struct learner_samples train, both; /* three classes; five */

static int set_up(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    enum delta_status st;

    (void)state;
    harness_scratch_make(&scratch);
    st = learner_samples_open(&both, "synthetic:classes=5,train=24,seed=5", LEARNER_SPLIT_TRAIN,
                              &err);
    if (!st)
        st = learner_samples_select(&train, &both, both.classes, 3, 0, &err);
    return st ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    learner_samples_release(&train);
    learner_samples_release(&both);
    harness_scratch_remove(&scratch);
    return 0;
}

static void make_model(struct delta_model *out, const char *arch_name, uint32_t width)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_arch arch = {.stem = "cifar",
                              .width = width,
                              .channels = 3,
                              .height = train.height,
                              .image_width = train.width,
                              .mean = {0.5, 0.5, 0.5},
                              .std = {0.25, 0.25, 0.25}};

    snprintf(arch.name, sizeof arch.name, "%s", arch_name);
    assert_ok(learner_net_init_model(out, &arch, train.classes, train.class_count, 1, &err));
}

struct told {
    size_t calls, bytes, images;
};

static void listen_to_plan(void *context, const char *stage, size_t bytes, size_t images)
{
    struct told *told = context;

    assert_true(strlen(stage) > 0);
    told->calls++;
    told->bytes = bytes;
    told->images = images;
}

/* ---- what is planned is what the operating system measures ---- */

enum what {
    PRETRAIN,
    PRETRAIN_RICH,
    EVALUATE,
    FREEZE_PLAN,
    EXEMPLARS,
    STAGE_A,
    STAGES,
    FREEZE,
    E2E,
    PACKNET,
    LAYER4,
    JOINT
};

static enum delta_status run_pretrain(const struct learner_budget *budget,
                                      struct delta_model *model, bool rich, struct delta_error *err)
{
    struct learner_pretrain_options options = learner_pretrain_defaults();

    options.epochs = 1;
    options.batch = 32;
    if (rich) {
        options.ema = 0.9;
        options.mixup = 0.5;
        options.checkpoint = harness_path(&scratch, "rich.ck");
    }
    return learner_pretrain(model, &train, &options, budget, err);
}

static enum delta_status run_increment(const struct learner_budget *budget,
                                       const struct delta_model *model, const char *method,
                                       const char *stages, struct delta_error *err)
{
    struct learner_increment_options options = learner_increment_defaults(method);
    const struct learner_exemplars exemplars = {.replay = train};
    struct delta_model learned = DELTA_MODEL_INIT;
    enum delta_status st;

    options.ratio = 0.5;
    options.epochs_new = options.epochs_tune = options.epochs_balance = 1;
    options.stages = stages;
    options.max_old_drop = 1;
    options.min_new_recall = 0;
    st = learner_increment(&learned, model, &both, &exemplars, &options, budget, NULL, err);
    delta_model_release(&learned);
    return st;
}

static enum delta_status run_what(enum what what, const struct learner_budget *budget,
                                  struct delta_model *model, struct delta_error *err)
{
    struct learner_exemplars exemplars = {.probe = LEARNER_SAMPLES_INIT};
    struct learner_scores scores = {0};
    enum delta_status st = DELTA_INTERNAL;

    switch (what) {
    case PRETRAIN:
    case PRETRAIN_RICH:
        st = run_pretrain(budget, model, what == PRETRAIN_RICH, err);
        break;
    case EVALUATE:
        st = learner_evaluate(&scores, model, &train, budget, err);
        break;
    case FREEZE_PLAN:
        st = learner_freeze_plan(model, &train, 0.5, budget, err);
        break;
    case EXEMPLARS:
        st = learner_exemplars_choose_within(&exemplars, model, &train, 10, 5, budget, err);
        break;
    case STAGE_A:
        st = run_increment(budget, model, "frostline", "A", err);
        break;
    case STAGES:
        st = run_increment(budget, model, "frostline", "ABC", err);
        break;
    case FREEZE:
        st = run_increment(budget, model, "freeze", NULL, err);
        break;
    case E2E:
        st = run_increment(budget, model, "e2e", NULL, err);
        break;
    case PACKNET:
        st = run_increment(budget, model, "packnet", NULL, err);
        break;
    case LAYER4:
        st = run_increment(budget, model, "layer4-only", NULL, err);
        break;
    case JOINT:
        st = run_increment(budget, model, "joint", NULL, err);
        break;
    }
    learner_scores_release(&scores);
    learner_exemplars_release(&exemplars);
    return st;
}

struct outcome {
    enum delta_status status;
    struct told told;
    size_t peak;
    struct delta_error err;
};

/* In a process of its own: its peak is its own. */
static struct outcome run_apart(enum what what, const char *arch, uint32_t width, size_t memory)
{
    struct outcome outcome = {.status = DELTA_INTERNAL};
    int ends[2];
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    if (pid == 0) {
        struct delta_model model;
        const struct learner_budget budget = {.threads = 2,
                                              .seed = 3,
                                              .memory_bytes = memory,
                                              .planned = listen_to_plan,
                                              .context = &outcome.told};
        make_model(&model, arch, width);
        outcome.status = run_what(what, &budget, &model, &outcome.err);
        outcome.peak = learner_memory_peak();
        _exit(write(ends[1], &outcome, sizeof outcome) != sizeof outcome);
    }
    close(ends[1]);
    if (read(ends[0], &outcome, sizeof outcome) != sizeof outcome)
        outcome.status = DELTA_INTERNAL;
    close(ends[0]);
    waitpid(pid, NULL, 0);
    return outcome;
}

static void plan_is_what_is_measured(void **state)
{
    static const struct {
        const char *name, *arch;
        enum what what;
        uint32_t width;
    } rows[] = {
        {"pretrain", "resnet18", PRETRAIN, 16},
        {"pretrain, average and checkpoint", "resnet18", PRETRAIN_RICH, 24},
        {"evaluation", "resnet18", EVALUATE, 24},
        {"freeze plan", "resnet18", FREEZE_PLAN, 16},
        {"exemplars", "resnet18", EXEMPLARS, 16},
        {"stage A", "resnet18", STAGE_A, 16},
        {"stages A to C", "resnet18", STAGES, 16},
        {"freeze", "resnet18", FREEZE, 16},
        {"e2e", "resnet18", E2E, 16},
        {"packnet", "resnet18", PACKNET, 16},
        {"layer4-only", "resnet18", LAYER4, 16},
        {"joint", "resnet18", JOINT, 16},
    };

    (void)state;
    if (!MEASURES_MEMORY) {
        print_message("SKIP: sanitizers take memory of their own\n");
        skip();
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct outcome o = run_apart(rows[i].what, rows[i].arch, rows[i].width, 0);
        if (o.status)
            fail_msg("%s: %s", rows[i].name, o.err.text);
        const double ratio = (double)o.told.bytes / (double)o.peak;
        print_message("%s: planned %.1f MB, measured %.1f MB\n", rows[i].name,
                      (double)o.told.bytes / MB, (double)o.peak / MB);
        assert_int_equal(o.told.calls, 1);
        assert_true(ratio > 0.9 && ratio < 1.1);
    }
}

/* Too small a budget names one that works; with that it works, and stays within. */
static void smallest_budget_is_named_and_works(void **state)
{
    static const enum what all[] = {PRETRAIN, EVALUATE, FREEZE_PLAN, EXEMPLARS, STAGE_A, FREEZE};
    const uint32_t width = 12;

    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct outcome o = run_apart(all[i], "resnet18", width, MB);
        size_t smallest = 0, images = 0;
        assert_int_equal(o.status, DELTA_NO_MEMORY);
        assert_int_equal(o.told.calls, 0);
        const char *at = strstr(o.err.text, "smallest budget is ");
        assert_non_null(at);
        assert_int_equal(sscanf(at, "smallest budget is %zu MB, with %zu", &smallest, &images), 2);
        assert_int_equal(images, all[i] == PRETRAIN ? 8 : 1);
        const size_t room = MEASURES_MEMORY ? 1 : 16; /* a little: processes differ by pages */
        o = run_apart(all[i], "resnet18", width, (smallest + room) * MB);
        if (o.status)
            fail_msg("%zu: %zu MB: %s", i, smallest, o.err.text);
        assert_true(o.told.bytes <= (smallest + room) * MB);
        if (MEASURES_MEMORY && (double)o.peak > 1.1 * (double)o.told.bytes)
            fail_msg("%zu: planned %zu, measured %zu", i, o.told.bytes, o.peak);
        if (MEASURES_MEMORY)
            assert_true(o.told.images < 32);
    }
}

/* ---- fewer images at once ---- */

static void fewer_at_once_is_the_same_evaluation(void **state)
{
    struct learner_budget few = {.threads = 1, .at_once = 7}, many = {.threads = 1};
    struct learner_scores a = {0}, b = {0};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model;

    (void)state;
    make_model(&model, "resnet18", 4);
    assert_ok(learner_evaluate(&a, &model, &train, &few, &err));
    assert_ok(learner_evaluate(&b, &model, &train, &many, &err));
    assert_int_equal(a.images, 72);
    assert_int_equal(a.correct, b.correct);
    for (size_t k = 0; k < a.class_count; k++)
        assert_int_equal(a.classes[k].correct, b.classes[k].correct);
    learner_scores_release(&a);
    learner_scores_release(&b);
    delta_model_release(&model);
}

/* Batch norm is in evaluation mode in an increment: parts of a batch add up to the batch. */
static void batch_in_parts_is_the_same_step(void **state)
{
    const struct learner_exemplars exemplars = {.replay = train};
    struct learner_increment_options options = learner_increment_defaults("freeze");
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model base, learned[2];

    (void)state;
    make_model(&base, "resnet18", 4);
    options.ratio = 0;
    options.epochs_new = 1;
    options.epochs_tune = 1;
    options.max_old_drop = 1;
    options.min_new_recall = 0;
    for (int i = 0; i < 2; i++) {
        const struct learner_budget budget = {
            .device = "ref", .threads = 1, .seed = 3, .at_once = i ? 5 : 0};
        assert_ok(learner_increment(&learned[i], &base, &both, &exemplars, &options, &budget, NULL,
                                    &err));
    }
    for (size_t t = 0; t < base.tensor_count; t++) {
        const struct delta_tensor *a = &learned[0].tensors[t], *b = &learned[1].tensors[t];
        const double off = fixture_distance(a->data, b->data, a->count);
        if (off > 1e-3)
            fail_msg("'%s' differs by %g", a->name, off);
    }
    for (int i = 0; i < 2; i++)
        delta_model_release(&learned[i]);
    delta_model_release(&base);
}

static void checkpoint_keeps_its_parts(void **state)
{
    struct learner_pretrain_options options = learner_pretrain_defaults();
    struct learner_budget budget = {.threads = 1, .seed = 3, .at_once = 10};
    struct learner_checkpoint_file file;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest digests[3];

    (void)state;
    options.epochs = 2;
    options.batch = 24;
    for (int i = 0; i < 3; i++) { /* parts of 8, all in one, again from the first's checkpoint */
        struct delta_model model;
        make_model(&model, "resnet18", 2);
        options.checkpoint = i == 1 ? NULL : harness_path(&scratch, "parts.ck");
        budget.at_once = i == 0 ? 10 : 0;
        assert_ok(learner_pretrain(&model, &train, &options, &budget, &err));
        assert_ok(delta_model_digest(&model, &digests[i], &err));
        delta_model_release(&model);
    }
    assert_false(delta_digest_equal(&digests[0], &digests[1])); /* statistics of 8, not 24 */
    assert_true(delta_digest_equal(&digests[0], &digests[2]));
    assert_ok(learner_checkpoint_open(&file, options.checkpoint, &err));
    assert_int_equal(file.state.microbatch, 10);
    learner_checkpoint_close(&file);
    struct delta_model model;
    make_model(&model, "resnet18", 2);
    budget.at_once = 9;
    assert_status(learner_pretrain(&model, &train, &options, &budget, &err), DELTA_MISMATCH);
    assert_non_null(strstr(err.text, "10 images at once, here are 9"));
    delta_model_release(&model);
}

/* ---- time ---- */

static void late_increment_returns_what_it_has(void **state)
{
    const struct delta_clock clock = delta_clock_system();
    const struct learner_exemplars exemplars = {.replay = train, .probe = train};
    struct learner_increment_options options = learner_increment_defaults("freeze");
    struct learner_budget budget = {.threads = 1, .seed = 3};
    struct learner_report report;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model base, learned;

    (void)state;
    make_model(&base, "resnet18", 2);
    options.ratio = 0.5;
    options.epochs_new = 1;
    options.epochs_tune = 10000;
    options.lr = 1e-4;
    options.max_old_drop = 1;
    options.min_new_recall = 0;
    const int64_t begun_ms = delta_clock_monotonic_ms(&clock);
    budget.deadline_ms = begun_ms + 4000;
    assert_ok(
        learner_increment(&learned, &base, &both, &exemplars, &options, &budget, &report, &err));
    const int64_t spent_ms = delta_clock_monotonic_ms(&clock) - begun_ms;
    print_message("%lld ms, %.0f image passes\n", (long long)spent_ms, report.image_passes);
    assert_true(report.cut_short);
    assert_true(report.image_passes > 64);
    assert_true(spent_ms > 2000 && spent_ms < 8000);
    assert_int_equal(report.probe_images, 72); /* the guard looked all the same */
    assert_int_equal(learned.class_count, 5);
    delta_model_release(&learned);
    /* enough time: not cut short */
    options.epochs_tune = 0;
    budget.deadline_ms = begun_ms + 3600 * 1000;
    assert_ok(
        learner_increment(&learned, &base, &both, &exemplars, &options, &budget, &report, &err));
    assert_false(report.cut_short);
    delta_model_release(&learned);
    delta_model_release(&base);
}

static void what_is_of_no_use_half_done_fails(void **state)
{
    static const enum what all[] = {EVALUATE, FREEZE_PLAN, EXEMPLARS, STAGE_A};
    const struct delta_clock clock = delta_clock_system();

    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const struct learner_budget budget = {
            .threads = 1, .at_once = 8, .deadline_ms = delta_clock_monotonic_ms(&clock) + 1};
        struct delta_error err = DELTA_ERROR_INIT;
        struct delta_model model;
        make_model(&model, "resnet18", 4);
        assert_status(run_what(all[i], &budget, &model, &err), DELTA_INTERRUPTED);
        assert_non_null(strstr(err.text, "time is up"));
        delta_model_release(&model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_is_what_is_measured),
        cmocka_unit_test(smallest_budget_is_named_and_works),
        cmocka_unit_test(fewer_at_once_is_the_same_evaluation),
        cmocka_unit_test(batch_in_parts_is_the_same_step),
        cmocka_unit_test(checkpoint_keeps_its_parts),
        cmocka_unit_test(late_increment_returns_what_it_has),
        cmocka_unit_test(what_is_of_no_use_half_done_fails),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
