/* Training runs that are killed, stopped, poisoned or short of time. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint.h"
#include "delta/clock.h"
#include "delta/file.h"
#include "fixture.h"
#include "learner/learn.h"

#define CLASSES 4

static struct harness_scratch scratch;
static struct learner_samples train;

static int set_up(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    harness_scratch_make(&scratch);
    return learner_samples_open(&train, "synthetic:classes=4,train=24,seed=5", LEARNER_SPLIT_TRAIN,
                                &err)
               ? -1
               : 0;
}

static int tear_down(void **state)
{
    (void)state;
    learner_samples_release(&train);
    harness_scratch_remove(&scratch);
    return 0;
}

static void make_model(struct delta_model *out)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const struct delta_arch arch = {.name = "resnet18",
                                    .stem = "cifar",
                                    .width = 2,
                                    .channels = 3,
                                    .height = train.height,
                                    .image_width = train.width,
                                    .mean = {0.5, 0.5, 0.5},
                                    .std = {0.25, 0.25, 0.25}};

    assert_ok(learner_net_init_model(out, &arch, train.classes, train.class_count, 1, &err));
}

/* 96 images, 12 steps of 16 in two epochs. */
static struct learner_pretrain_options plain(void)
{
    struct learner_pretrain_options options = learner_pretrain_defaults();

    options.epochs = 2;
    options.batch = 16;
    options.lr = 0.02;
    return options;
}

/* 80 images to train on, 10 steps. */
static struct learner_pretrain_options rich(void)
{
    struct learner_pretrain_options options = plain();

    options.mixup = 0.5;
    options.cutout = 8;
    options.label_smoothing = 0.1;
    options.ema = 0.9;
    options.held_out = 4;
    return options;
}

static struct delta_digest run_once(const struct learner_pretrain_options *options, int threads)
{
    const struct learner_budget budget = {.threads = threads, .seed = 3};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model;
    struct delta_digest digest;

    make_model(&model);
    assert_ok(learner_pretrain(&model, &train, options, &budget, &err));
    assert_ok(delta_model_digest(&model, &digest, &err));
    delta_model_release(&model);
    return digest;
}

static void die_at(void *context, const struct learner_pretrain_status *status)
{
    if (status->step == *(const size_t *)context)
        raise(SIGKILL);
}

/* A process of its own that trains from the checkpoint and is killed after so many steps. */
static void run_killed(struct learner_pretrain_options options, size_t step)
{
    int status;
    const pid_t pid = fork();

    if (pid == 0) {
        const struct learner_budget budget = {.threads = 2, .seed = 3};
        struct delta_model model;
        make_model(&model);
        options.watch = die_at;
        options.watch_context = &step;
        _exit(learner_pretrain(&model, &train, &options, &budget, NULL));
    }
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Killed three times at awkward moments: within an epoch, right after the start, at a boundary. */
static void killed_and_resumed_is_the_same(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct learner_pretrain_options options = kind ? rich() : plain();
        const struct delta_digest whole = run_once(&options, 2);
        options.checkpoint = harness_path(&scratch, kind ? "rich.ck" : "plain.ck");
        options.every_epochs = 0.34; /* two steps */
        run_killed(options, 1);
        assert_false(delta_file_exists(options.checkpoint));
        run_killed(options, 3);
        assert_true(delta_file_exists(options.checkpoint));
        options.resume = true;
        run_killed(options, 6);
        run_killed(options, 9);
        const struct delta_digest resumed = run_once(&options, 2);
        assert_true(delta_digest_equal(&whole, &resumed));
        /* the last checkpoint is the end: once more changes nothing */
        const struct delta_digest again = run_once(&options, 2);
        assert_true(delta_digest_equal(&whole, &again));
        assert_ok(delta_file_remove(options.checkpoint, &err));
    }
}

static void one_seed_one_number_of_threads_one_result(void **state)
{
    const struct learner_pretrain_options options = rich();

    (void)state;
    for (int threads = 1; threads <= 2; threads++) {
        const struct delta_digest a = run_once(&options, threads), b = run_once(&options, threads);
        assert_true(delta_digest_equal(&a, &b));
    }
}

struct stopper {
    size_t calls, stop_at;
};

static bool stop_at(void *context, const char *stage, double done, double total)
{
    struct stopper *stopper = context;

    (void)stage;
    (void)done;
    (void)total;
    return ++stopper->calls < stopper->stop_at;
}

static void stopped_run_leaves_a_checkpoint(void **state)
{
    struct learner_pretrain_options options = plain();
    struct stopper stopper = {0, 5};
    const struct learner_budget budget = {
        .threads = 1, .seed = 3, .progress = stop_at, .context = &stopper};
    const struct delta_digest whole = run_once(&options, 1);
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model;

    (void)state;
    options.checkpoint = harness_path(&scratch, "stopped.ck");
    options.every_epochs = 0;
    make_model(&model);
    options.resume = true;
    assert_status(learner_pretrain(&model, &train, &options, &budget, &err), DELTA_NOT_FOUND);
    options.resume = false;
    assert_status(learner_pretrain(&model, &train, &options, &budget, &err), DELTA_INTERRUPTED);
    assert_non_null(strstr(err.text, "step 5 of 12"));
    assert_non_null(strstr(err.text, "stopped.ck"));
    const struct delta_digest resumed = run_once(&options, 1);
    assert_true(delta_digest_equal(&whole, &resumed));
    delta_model_release(&model);
}

/* Each row changes one thing; the checkpoint is refused and the thing named. */
static void checkpoint_of_another_run_is_refused(void **state)
{
    struct learner_pretrain_options options = plain();
    struct learner_budget budget = {.threads = 1, .seed = 3};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model;
    static const char *const names[] = {"epochs",   "batch", "lr",      "momentum", "weight-decay",
                                        "augment",  "mixup", "cutout",  "ema",      "held-out",
                                        "label-sm", "seed",  "threads", "data",     "model"};

    (void)state;
    options.checkpoint = harness_path(&scratch, "other.ck");
    run_once(&options, 1);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct learner_pretrain_options other = options;
        struct learner_budget its = budget;
        make_model(&model);
        other.epochs += i == 0 ? 1 : 0;
        other.batch += i == 1 ? 4 : 0;
        other.lr *= i == 2 ? 1.0000001 : 1;
        other.momentum = i == 3 ? 0.8 : other.momentum;
        other.weight_decay = i == 4 ? 0 : other.weight_decay;
        other.augment = i != 5;
        other.mixup = i == 6 ? 0.1 : 0;
        other.cutout = i == 7 ? 4 : 0;
        other.ema = i == 8 ? 0.5 : 0;
        other.held_out = i == 9 ? 1 : 0;
        other.label_smoothing = i == 10 ? 0.1 : 0;
        its.seed += i == 11;
        its.threads += i == 12;
        train.pixels[77] ^= i == 13;
        model.tensors[0].data[0] += i == 14 ? 1 : 0;
        if (learner_pretrain(&model, &train, &other, &its, &err) != DELTA_MISMATCH ||
            !strstr(err.text, names[i]) || !strstr(err.text, "other.ck"))
            fail_msg("'%s' is not refused: %s", names[i], err.text);
        train.pixels[77] ^= i == 13;
        delta_model_release(&model);
    }
    const struct delta_digest a = run_once(&options, 1);
    options.checkpoint = NULL;
    const struct delta_digest b = run_once(&options, 1);
    assert_true(delta_digest_equal(&a, &b)); /* it was good all the time */
}

/* The checkpoint of the last step whose weights were numbers is kept. */
static void huge_step_is_stopped_with_step_and_layer(void **state)
{
    struct learner_pretrain_options options = plain();
    const struct learner_budget budget = {.threads = 1, .seed = 3};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model;
    struct delta_digest before, after;
    struct learner_checkpoint_file file;
    char kept[64];

    (void)state;
    options.lr = 1e6;
    options.epochs = 200;
    options.every_epochs = 0.17; /* each step */
    options.checkpoint = harness_path(&scratch, "huge.ck");
    make_model(&model);
    assert_ok(delta_model_digest(&model, &before, &err));
    assert_status(learner_pretrain(&model, &train, &options, &budget, &err), DELTA_NONFINITE);
    print_message("%s\n", err.text);
    const struct delta_error first = err;
    assert_non_null(strstr(err.text, "step "));
    assert_non_null(strchr(err.text, '\'')); /* a layer, a gradient or a tensor */
    assert_non_null(strstr(err.text, "lr"));
    assert_ok(delta_model_digest(&model, &after, &err));
    assert_true(delta_digest_equal(&before, &after));
    assert_ok(learner_checkpoint_open(&file, options.checkpoint, &err));
    snprintf(kept, sizeof kept, "checkpoint of step %d is kept", (int)file.state.step);
    assert_non_null(strstr(first.text, kept));
    assert_true(file.state.step >= 1);
    float *numbers = calloc(file.floats, sizeof *numbers);
    const struct learner_checkpoint_block all = {numbers, file.floats};
    assert_ok(learner_checkpoint_read(&file, &all, 1, &err));
    for (size_t i = 0; i < all.count; i++)
        assert_true(numbers[i] - numbers[i] == 0); /* what is kept is good */
    free(numbers);
    learner_checkpoint_close(&file);
    /* from there it comes to the same end: what was kept was the run, and good */
    assert_status(learner_pretrain(&model, &train, &options, &budget, &err), DELTA_NONFINITE);
    assert_string_equal(first.text, err.text);
    delta_model_release(&model);
}

static void poison_is_found_where_it_is(void **state)
{
    const struct learner_pretrain_options options = plain();
    const struct learner_budget budget = {.threads = 1, .seed = 3};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model;

    (void)state;
    make_model(&model);
    model.arch.std[1] = 0;
    assert_status(learner_pretrain(&model, &train, &options, &budget, &err), DELTA_NONFINITE);
    assert_non_null(strstr(err.text, "step 1 of 12"));
    assert_non_null(strstr(err.text, "the input"));
    assert_null(strstr(err.text, "lr"));
    model.arch.std[1] = 0.25;
    delta_model_find(&model, "layer2.0.conv2.weight")->data[3] = 0.0f / 0.0f;
    assert_status(learner_pretrain(&model, &train, &options, &budget, &err), DELTA_NONFINITE);
    assert_non_null(strstr(err.text, "step 1 of 12"));
    assert_non_null(strstr(err.text, "'layer2.0.conv2'"));
    delta_model_release(&model);
}

static void held_out_images_are_not_trained_on(void **state)
{
    struct learner_pretrain_options options = rich();
    const struct learner_budget budget = {.threads = 1, .seed = 3};
    struct learner_pretrain_status status;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model;

    (void)state;
    make_model(&model);
    assert_ok(learner_pretrain_run(&model, &train, &options, &budget, &status, &err));
    assert_int_equal(status.steps, 10);
    assert_int_equal(status.step, 10);
    assert_true(status.held_out >= 0 && status.held_out <= 1);
    assert_true(status.loss > 0 && status.accuracy >= 0 && status.images_per_second > 0);
    options.held_out = 24;
    assert_status(learner_pretrain(&model, &train, &options, &budget, &err), DELTA_USAGE);
    delta_model_release(&model);
}

static void short_time_shortens_the_schedule(void **state)
{
    const struct delta_clock clock = delta_clock_system();
    struct learner_pretrain_options options = plain();
    struct learner_budget budget = {.threads = 1, .seed = 3};
    struct learner_pretrain_status status;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model;

    (void)state;
    options.epochs = 10000;
    make_model(&model);
    const int64_t begin_ms = delta_clock_monotonic_ms(&clock);
    budget.deadline_ms = begin_ms + 1500;
    assert_ok(learner_pretrain_run(&model, &train, &options, &budget, &status, &err));
    const int64_t spent_ms = delta_clock_monotonic_ms(&clock) - begin_ms;
    print_message("%zu steps in %lld ms\n", status.steps, (long long)spent_ms);
    assert_true(spent_ms < 2500);
    assert_true(spent_ms > 700);
    assert_true(status.steps >= 3 && status.steps < 60000);
    assert_int_equal(status.step, status.steps);
    /* no time at all: one step, and a model */
    budget.deadline_ms = begin_ms;
    assert_ok(learner_pretrain_run(&model, &train, &options, &budget, &status, &err));
    assert_int_equal(status.steps, 1);
    /* more than enough: nothing changes */
    options = plain();
    budget.deadline_ms = begin_ms + 3600 * 1000;
    delta_model_release(&model);
    make_model(&model);
    assert_ok(learner_pretrain_run(&model, &train, &options, &budget, &status, &err));
    struct delta_digest digest;
    const struct delta_digest whole = run_once(&options, 1);
    assert_ok(delta_model_digest(&model, &digest, &err));
    assert_true(delta_digest_equal(&whole, &digest));
    delta_model_release(&model);
}

static void bad_options_are_refused(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model;

    (void)state;
    make_model(&model);
    for (int i = 0; i < 6; i++) {
        struct learner_pretrain_options options = plain();
        options.mixup = i == 0 ? 1.5 : 0;
        options.label_smoothing = i == 1 ? -0.1 : 0;
        options.ema = i == 2 ? 1 : 0;
        options.resume = i == 3;
        options.batch = i == 4 ? 0 : 16;
        options.momentum = i == 5 ? 0.0 / 0.0 : 0.9;
        assert_status(learner_pretrain(&model, &train, &options, NULL, &err), DELTA_USAGE);
    }
    delta_model_release(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_and_resumed_is_the_same),
        cmocka_unit_test(one_seed_one_number_of_threads_one_result),
        cmocka_unit_test(stopped_run_leaves_a_checkpoint),
        cmocka_unit_test(checkpoint_of_another_run_is_refused),
        cmocka_unit_test(huge_step_is_stopped_with_step_and_layer),
        cmocka_unit_test(poison_is_found_where_it_is),
        cmocka_unit_test(held_out_images_are_not_trained_on),
        cmocka_unit_test(short_time_shortens_the_schedule),
        cmocka_unit_test(bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
