/* Every learning method on a base that is trained here, in seconds, on synthetic classes: what it
 * may move, that it repeats, which orders hold beyond noise, and what the guard makes of a poisoned
 * inbox. */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/clock.h"
#include "delta/delta.h"
#include "embed.h"
#include "importance.h"
#include "learner/learn.h"
#include "rng.h"

#define OLD 6
#define NEW 2

static struct {
    struct learner_samples test, fresh, all_old; /* fresh: new classes only */
    struct delta_model base;                     /* no freeze plan */
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
                                    .width = 8,
                                    .channels = 3,
                                    .height = 32,
                                    .image_width = 32,
                                    .mean = {0.5, 0.5, 0.5},
                                    .std = {0.25, 0.25, 0.25}};
    const char *source = "synthetic:classes=8,train=200,test=50";
    struct learner_samples train = LEARNER_SAMPLES_INIT, old = LEARNER_SAMPLES_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    f.budget = (struct learner_budget){.seed = 5, .threads = 1};
    assert_ok(learner_samples_open(&train, source, LEARNER_SPLIT_TRAIN, &err));
    assert_ok(learner_samples_open(&f.test, source, LEARNER_SPLIT_TEST, &err));
    assert_ok(learner_samples_select(&old, &train, train.classes, OLD, 0, &err));
    assert_ok(learner_samples_select(&f.all_old, &old, train.classes, OLD, 50, &err));
    assert_ok(learner_samples_select(&f.fresh, &train, train.classes + OLD, NEW, 50, &err));
    assert_ok(learner_net_init_model(&f.base, &arch, old.classes, OLD, 2, &err));
    assert_ok(learner_pretrain(&f.base, &old, &options, &f.budget, &err));
    assert_ok(learner_exemplars_choose(&f.exemplars, &f.base, &old, 20, 20, 1, &err));
    learner_samples_release(&train);
    learner_samples_release(&old);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    learner_samples_release(&f.test);
    learner_samples_release(&f.fresh);
    learner_samples_release(&f.all_old);
    learner_exemplars_release(&f.exemplars);
    delta_model_release(&f.base);
    return 0;
}

struct result {
    struct delta_model model;
    struct learner_report report;
    double old, fresh, all; /* accuracy on the test split, all outputs competing */
};

static void measure(struct result *result, const struct delta_model *model)
{
    struct learner_scores scores;
    struct delta_error err = DELTA_ERROR_INIT;
    size_t correct[2] = {0, 0}, images[2] = {0, 0};

    assert_ok(learner_evaluate(&scores, model, &f.test, &f.budget, &err));
    for (size_t k = 0; k < scores.class_count; k++) {
        images[k >= OLD] += scores.classes[k].images;
        correct[k >= OLD] += scores.classes[k].correct;
    }
    result->old = (double)correct[0] / (double)images[0];
    result->fresh = images[1] ? (double)correct[1] / (double)images[1] : 0;
    result->all = (double)(correct[0] + correct[1]) / (double)(images[0] + images[1]);
    learner_scores_release(&scores);
}

static struct learner_increment_options unguarded(const char *method)
{
    struct learner_increment_options options = learner_increment_defaults(method);

    options.max_old_drop = 1;
    options.min_new_recall = 0;
    if (strcmp(method, "freeze") == 0)
        options.ratio = 0.5;
    if (strcmp(method, "joint") == 0) {
        options.lr = 0.02;
        options.epochs_tune = 8;
        options.batch = 16;
    }
    if (strcmp(method, "e2e") == 0) /* few images: more steps */
        options.batch = 16;
    return options;
}

static void learn(struct result *result, const struct learner_increment_options *options)
{
    const struct learner_exemplars all = {.replay = f.all_old, .probe = f.exemplars.probe};
    const bool joint = strcmp(options->method, "joint") == 0;
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(learner_increment(&result->model, &f.base, &f.fresh, joint ? &all : &f.exemplars,
                                options, &f.budget, &result->report, &err));
    measure(result, &result->model);
    printf("%-12s all %.1f old %.1f new %.1f, %.0f passes, %.1f s\n", options->method,
           100 * result->all, 100 * result->old, 100 * result->fresh, result->report.image_passes,
           result->report.seconds);
}

static bool same_tensor(const struct delta_model *a, const struct delta_model *b, const char *name)
{
    const struct delta_tensor *x = delta_model_find(a, name), *y = delta_model_find(b, name);
    const size_t count = x->count < y->count ? x->count : y->count;

    return memcmp(x->data, y->data, count * sizeof *x->data) == 0;
}

/* The same but for rounding: features may come from a file, or with what stage B needs. */
static void assert_near_tensor(const struct delta_model *a, const struct delta_model *b,
                               const char *name)
{
    const struct delta_tensor *x = delta_model_find(a, name), *y = delta_model_find(b, name);

    assert_int_equal(x->count, y->count);
    for (size_t i = 0; i < x->count; i++)
        if (!(fabsf(x->data[i] - y->data[i]) <= 1e-3f + 1e-2f * fabsf(y->data[i])))
            fail_msg("%s[%zu]: %g and %g", name, i, (double)x->data[i], (double)y->data[i]);
}

static struct delta_digest digest_of(const struct delta_model *model)
{
    struct delta_digest digest;
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(delta_model_digest(model, &digest, &err));
    return digest;
}

/* ---- all of them ---- */

static const char *const names[] = {"do-nothing", "finetune",    "frostline", "freeze",
                                    "e2e",        "packnet",     "replay",    "replay-kd",
                                    "head-only",  "layer4-only", "ncm",       "joint"};
enum {
    DO_NOTHING,
    FINETUNE,
    FROSTLINE,
    FREEZE,
    E2E,
    PACKNET,
    REPLAY,
    REPLAY_KD,
    HEAD_ONLY,
    LAYER4_ONLY,
    NCM,
    JOINT,
    METHODS
};

static void the_list_of_names_is_complete(void **state)
{
    (void)state;
    size_t length = METHODS - 1;
    for (int i = 0; i < METHODS; i++) {
        assert_non_null(strstr(learner_method_names(), names[i]));
        assert_string_equal(learner_increment_defaults(names[i]).method, names[i]);
        length += strlen(names[i]);
    }
    assert_int_equal(strlen(learner_method_names()), length);
}

/* Chance is 12.5 %; margins are beyond the noise of 300 old and 100 new test images (standard error
 * below 3 and 5 points). */
static void orders_that_hold_beyond_noise(void **state)
{
    struct result r[METHODS];
    (void)state;

    for (int i = 0; i < METHODS; i++) {
        const struct learner_increment_options options = unguarded(names[i]);
        learn(&r[i], &options);
    }
    assert_true(r[DO_NOTHING].old > 0.6 && r[DO_NOTHING].fresh == 0);
    assert_true(r[FINETUNE].old < r[DO_NOTHING].old - 0.3); /* it forgets */
    for (int i = FROSTLINE; i < METHODS; i++) {             /* the others do less, and learn */
        if (!(r[i].old > r[FINETUNE].old + 0.15 && r[i].fresh > 0.35))
            fail_msg("%s: old %.3f (finetune %.3f), new %.3f", names[i], r[i].old, r[FINETUNE].old,
                     r[i].fresh);
    }
    assert_true(r[FROSTLINE].all > r[DO_NOTHING].all + 0.05);
    assert_true(r[FROSTLINE].old > r[REPLAY].old - 0.05);
    assert_true(r[JOINT].all > r[FROSTLINE].all - 0.05);
    for (int i = 0; i < METHODS; i++)
        delta_model_release(&r[i].model);
}

static void methods_repeat_bit_for_bit_by_seed(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    for (int i = 0; i < METHODS; i++) {
        struct learner_increment_options options = unguarded(names[i]);
        struct delta_digest digest[3];
        options.epochs_new = options.epochs_new ? 1 : 0;
        options.epochs_tune = options.epochs_tune ? 1 : 0;
        options.epochs_balance = options.epochs_balance ? 1 : 0;
        for (int run = 0; run < 3; run++) {
            struct learner_budget budget = f.budget;
            struct delta_model model;
            budget.seed += run == 2;
            assert_ok(learner_increment(&model, &f.base, &f.fresh, &f.exemplars, &options, &budget,
                                        NULL, &err));
            digest[run] = digest_of(&model);
            delta_model_release(&model);
        }
        if (!delta_digest_equal(&digest[0], &digest[1]))
            fail_msg("%s does not repeat", names[i]);
        if (i != DO_NOTHING && delta_digest_equal(&digest[0], &digest[2]))
            fail_msg("%s does not depend on the seed", names[i]);
    }
}

/* ---- what may move ---- */

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static void what_is_frozen_keeps_its_bits(void **state)
{
    static const struct {
        const char *method, *live; /* tensors that may move, beside the head */
    } rows[] = {
        {"head-only", NULL}, {"ncm", NULL}, {"layer4-only", "layer4."}, {"frostline", "layer4."}};
    (void)state;

    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        struct learner_increment_options options = unguarded(rows[r].method);
        struct result result;
        size_t moved = 0;
        options.weight_decay = 0.01;
        options.epochs_tune = 2;
        learn(&result, &options);
        for (size_t i = 0; i < f.base.tensor_count; i++) {
            const struct delta_tensor *old = &f.base.tensors[i];
            const struct delta_tensor *now = delta_model_find(&result.model, old->name);
            const bool same = same_tensor(&f.base, &result.model, old->name);
            if (begins(old->name, "fc."))
                continue;
            moved += !same;
            if (!same && (!rows[r].live || !begins(old->name, rows[r].live)))
                fail_msg("%s moved '%s'", rows[r].method, old->name);
            for (size_t k = 0; k < old->count; k++)
                if (delta_tensor_is_frozen(now, k) && old->data[k] != now->data[k])
                    fail_msg("%s moved %s[%zu], which it calls frozen", rows[r].method, old->name,
                             k);
        }
        assert_true((moved > 0) == (rows[r].live != NULL));
        delta_model_release(&result.model);
    }
}

/* Of every layer of the last stage the share of the filters that was asked for stays. */
static void frostline_freezes_whole_filters(void **state)
{
    struct learner_increment_options options = unguarded("frostline");
    struct result result;
    (void)state;

    options.stages = "AB";
    options.ratio = 0.75;
    learn(&result, &options);
    assert_int_equal(result.report.stage_count, 2);
    assert_string_equal(result.report.stages[1].name, "AB");
    const struct delta_tensor *old = delta_model_find(&f.base, "layer4.1.conv2.weight");
    const struct delta_tensor *now = delta_model_find(&result.model, old->name);
    const size_t filters = (size_t)old->shape[0], each = old->count / filters;
    size_t kept = 0;
    assert_int_equal(now->freeze.mode, DELTA_FREEZE_ROWS);
    for (size_t i = 0; i < filters; i++) {
        const bool same = !memcmp(old->data + i * each, now->data + i * each, each * sizeof(float));
        assert_int_equal(same, delta_tensor_is_frozen(now, i * each));
        kept += same;
    }
    assert_int_equal(kept, filters * 3 / 4);
    delta_model_release(&result.model);
}

/* Without a plan the last block is live as a whole, whatever the network calls it. */
static void the_last_block_is_live(void **state)
{
    static const struct {
        const char *arch, *live, *more;
        uint32_t width;
    } rows[] = {{"resnet18", "layer4.1.", NULL, 4},
                {"resnet20", "layer3.2.", NULL, 4},
                {"mobilenet_v2", "features.17.", "features.18.", 20}};
    const struct learner_plan_choice choice = {.live = LEARNER_LAST_BLOCK, .filters = true};
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        struct delta_arch arch = f.base.arch;
        struct delta_model model = DELTA_MODEL_INIT;
        size_t live = 0;
        snprintf(arch.name, sizeof arch.name, "%s", rows[r].arch);
        arch.width = rows[r].width;
        assert_ok(learner_net_init_model(&model, &arch, f.base.classes, OLD, 2, &err));
        assert_ok(learner_freeze_plan_by(&model, &f.exemplars.replay, &choice, &f.budget, &err));
        for (size_t i = 0; i < model.tensor_count; i++) {
            const struct delta_tensor *tensor = &model.tensors[i];
            const bool is = tensor->freeze.mode == DELTA_FREEZE_LIVE;
            if (tensor->count == (size_t)OLD || tensor->shape[0] == OLD)
                continue; /* the head */
            live += is;
            const bool named = begins(tensor->name, rows[r].live) ||
                               (rows[r].more && begins(tensor->name, rows[r].more));
            if (is != (tensor->rank == 4 && named))
                fail_msg("%s: '%s'", rows[r].arch, tensor->name);
        }
        assert_true(live > 0);
        delta_model_release(&model);
    }
}

/* Several blocks by their names; a name that is no layer's is told, though others are right. */
static void live_layers_may_be_a_list(void **state)
{
    static const char *const wrong[] = {"layer9.", "layer4.1.,layer9.", "layer4.1.,", ",layer4.1."};
    struct learner_plan_choice choice = {.live = "layer3.1.,layer4.1.", .filters = true};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model = DELTA_MODEL_INIT;
    size_t live = 0;
    (void)state;

    assert_ok(learner_net_init_model(&model, &f.base.arch, f.base.classes, OLD, 2, &err));
    assert_ok(learner_freeze_plan_by(&model, &f.exemplars.replay, &choice, &f.budget, &err));
    for (size_t i = 0; i < model.tensor_count; i++) {
        const struct delta_tensor *tensor = &model.tensors[i];
        const bool named = begins(tensor->name, "layer3.1.") || begins(tensor->name, "layer4.1.");
        if (tensor->count == (size_t)OLD || tensor->shape[0] == OLD)
            continue; /* the head */
        live += tensor->freeze.mode == DELTA_FREEZE_LIVE;
        assert_int_equal(tensor->freeze.mode == DELTA_FREEZE_LIVE, tensor->rank == 4 && named);
    }
    assert_int_equal(live, 4);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        choice.live = wrong[i];
        assert_int_equal(
            learner_freeze_plan_by(&model, &f.exemplars.replay, &choice, &f.budget, &err),
            DELTA_NOT_FOUND);
    }
    assert_non_null(strstr(err.text, "begins with ''"));
    delta_model_release(&model);
}

/* A plan that the version brings is kept to, and stays as it is: a coordinator demands that. */
static void frostline_keeps_to_the_models_own_plan(void **state)
{
    const struct learner_increment_options options = unguarded("frostline");
    struct delta_model base = DELTA_MODEL_INIT, out = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    size_t moved = 0;
    (void)state;

    assert_ok(delta_model_copy(&base, &f.base, &err));
    assert_ok(learner_freeze_plan(&base, &f.exemplars.replay, 0.9, &f.budget, &err));
    assert_ok(
        learner_increment(&out, &base, &f.fresh, &f.exemplars, &options, &f.budget, NULL, &err));
    for (size_t i = 0; i < base.tensor_count; i++) {
        const struct delta_tensor *old = &base.tensors[i];
        const struct delta_tensor *now = delta_model_find(&out, old->name);
        assert_int_equal(old->freeze.mode, now->freeze.mode);
        assert_int_equal(old->freeze.count, now->freeze.count);
        if (old->freeze.count)
            assert_memory_equal(old->freeze.bits, now->freeze.bits, old->freeze.count / 8);
        for (size_t k = 0; k < old->count; k++) {
            if (delta_tensor_is_frozen(old, k) && old->data[k] != now->data[k])
                fail_msg("%s[%zu] is frozen and moved", old->name, k);
            moved += begins(old->name, "layer4.") && old->data[k] != now->data[k];
        }
    }
    assert_true(moved > 100);
    delta_model_release(&base);
    delta_model_release(&out);
}

static const struct delta_entry *entry_of(const struct delta_reader *reader, const char *name)
{
    for (size_t i = 0; i < reader->entry_count; i++)
        if (strcmp(reader->entries[i].name, name) == 0)
            return &reader->entries[i];
    return NULL;
}

/* The guard judges what the delta will lead to: the rounded model, whose grid the delta finds. */
static void the_guard_judges_what_a_small_delta_carries(void **state)
{
    static const char *const stages[] = {"A", "AB"};
    struct delta_error err = DELTA_ERROR_INIT;
    size_t bytes[2][2];
    (void)state;

    for (int s = 0; s < 2; s++)
        for (int rounded = 0; rounded < 2; rounded++) {
            struct learner_increment_options options = unguarded("frostline");
            struct learner_scores scores;
            struct delta_reader reader;
            struct delta_buf file;
            struct result result;
            options.stages = stages[s];
            if (!rounded)
                options.round = options.round_head = 0;
            learn(&result, &options);
            assert_ok(
                learner_evaluate(&scores, &result.model, &f.exemplars.probe, &f.budget, &err));
            assert_true(result.report.old_after == (double)scores.correct / (double)scores.images);
            learner_scores_release(&scores);
            assert_ok(delta_diff(&f.base, &result.model, NULL, &file, &err));
            assert_ok(delta_reader_init(&reader, delta_buf_bytes(&file), &err));
            bytes[s][rounded] = file.len;
            const struct delta_entry *conv = entry_of(&reader, "layer4.1.conv2.weight");
            assert_true((conv != NULL) == (s == 1)); /* A moves nothing that is there */
            const bool grid = conv && conv->encoding == DELTA_ENCODING_INT8;
            const bool head = entry_of(&reader, "fc.weight")->encoding == DELTA_ENCODING_INT8;
            assert_true(grid == (s == 1 && rounded) && head == grid);
            delta_reader_release(&reader);
            delta_buf_release(&file);
            delta_model_release(&result.model);
        }
    assert_int_equal(bytes[0][0], bytes[0][1]); /* and stays exact */
    assert_true(bytes[1][1] * 4 < bytes[1][0]);
}

/* ---- masks ---- */

static size_t differing_bits(const struct delta_tensor *a, const struct delta_tensor *b)
{
    size_t count = 0;

    for (size_t i = 0; i < a->count; i++)
        count += delta_tensor_is_frozen(a, i) != delta_tensor_is_frozen(b, i);
    return count;
}

/* By how much the best new output is above the best old one, over the test images. */
static double lean_to_new(const struct delta_model *model)
{
    struct learner_embedding seen;
    struct delta_error err = DELTA_ERROR_INIT;
    double sum = 0;

    assert_ok(learner_embed(&seen, model, &f.test, &f.budget, "test", &err));
    for (size_t i = 0; i < seen.count; i++) {
        const float *row = seen.logits + i * seen.classes;
        sum += row[OLD + learner_best_of(row + OLD, NEW)] - row[learner_best_of(row, OLD)];
    }
    const double mean = sum / (double)seen.count;
    learner_embedding_release(&seen);
    return mean;
}

/* The nearer to the middle exemplars are taken, the more of the room between old and new classes is
 * left to the old ones: by `pull` in A, by `pull_tune` in B, which A does not read. */
static void pulled_exemplars_resist_new_classes(void **state)
{
    static const struct {
        const char *stages;
        double pull, pull_tune;
    } rows[] = {{"A", 1, 1}, {"A", 0.5, 1}, {"A", 1, 0.5}, {"AB", 1, 1}, {"AB", 1, 0.5}};
    double lean[sizeof rows / sizeof *rows];
    (void)state;

    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        struct learner_increment_options options = unguarded("frostline");
        struct result result;
        options.stages = rows[r].stages;
        options.pull = rows[r].pull;
        options.pull_tune = rows[r].pull_tune;
        options.round = options.round_head = 0;
        learn(&result, &options);
        lean[r] = lean_to_new(&result.model);
        delta_model_release(&result.model);
    }
    assert_true(lean[1] < lean[0] - 0.3);
    assert_true(lean[2] == lean[0]);
    assert_true(lean[4] < lean[3] - 0.3);
}

static void masks_freeze_the_same_share_of_other_weights(void **state)
{
    static const char *const masks[] = {"importance", "magnitude", "random", "random"};
    struct delta_model model[4];
    struct delta_error err = DELTA_ERROR_INIT;
    const struct delta_tensor *tensor[4];
    (void)state;

    memset(model, 0, sizeof model);
    for (int i = 0; i < 4; i++) {
        const struct learner_plan_choice choice = {.ratio = 0.5, .mask = masks[i]};
        struct learner_budget budget = f.budget;
        size_t frozen = 0;
        budget.seed += i == 3;
        assert_ok(delta_model_copy(&model[i], &f.base, &err));
        assert_ok(learner_freeze_plan_by(&model[i], &f.exemplars.replay, &choice, &budget, &err));
        tensor[i] = delta_model_find(&model[i], "layer3.0.conv2.weight");
        for (size_t k = 0; k < tensor[i]->count; k++)
            frozen += delta_tensor_is_frozen(tensor[i], k);
        assert_int_equal(frozen, tensor[i]->count / 2);
    }
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < a; b++)
            assert_true(differing_bits(tensor[a], tensor[b]) > tensor[a]->count / 10);
    /* the magnitude mask against its definition */
    float least_kept = INFINITY, most_live = 0;
    for (size_t k = 0; k < tensor[1]->count; k++) {
        const float size = fabsf(tensor[1]->data[k]);
        if (delta_tensor_is_frozen(tensor[1], k))
            least_kept = fminf(least_kept, size);
        else
            most_live = fmaxf(most_live, size);
    }
    assert_true(least_kept >= most_live);
    for (int i = 0; i < 4; i++)
        delta_model_release(&model[i]);
}

/* On this network (g w)^2 ranks weights much as the measured change of the loss does; noise alone
 * would give 0 +- 0.1. */
static void importance_predicts_the_measured_change(void **state)
{
    struct learner_importance_check check, again;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    assert_ok(
        learner_importance_measure(&check, &f.base, &f.exemplars.replay, 100, &f.budget, &err));
    assert_ok(
        learner_importance_measure(&again, &f.base, &f.exemplars.replay, 100, &f.budget, &err));
    printf("rank correlation %.3f on %zu weights\n", check.rank_correlation, check.weights);
    assert_int_equal(check.images, 120);
    assert_true(check.rank_correlation > 0.35 && check.rank_correlation <= 1);
    assert_true(check.rank_correlation == again.rank_correlation);
}

/* ---- packnet ---- */

static void packnet_keeps_the_old_task_for_who_knows_the_task(void **state)
{
    struct learner_increment_options options = unguarded("packnet");
    struct delta_model old_view, new_view;
    struct delta_error err = DELTA_ERROR_INIT;
    struct result aware, single, of_old, of_new;
    size_t zeros = 0;
    (void)state;

    learn(&single, &options);
    options.epochs_tune = 0;
    learn(&aware, &options);
    const struct delta_tensor *a = delta_model_find(&aware.model, "layer2.0.conv2.weight");
    const struct delta_tensor *b = delta_model_find(&single.model, "layer2.0.conv2.weight");
    for (size_t k = 0; k < a->count; k++) /* kept weights: as the retraining left them */
        if (delta_tensor_is_frozen(a, k))
            assert_memory_equal(&a->data[k], &b->data[k], sizeof(float));
    assert_ok(learner_packnet_view(&old_view, &aware.model, OLD, false, &err));
    assert_ok(learner_packnet_view(&new_view, &aware.model, OLD, true, &err));
    const struct delta_tensor *v = delta_model_find(&old_view, "layer2.0.conv2.weight");
    for (size_t k = 0; k < v->count; k++)
        zeros += v->data[k] == 0;
    assert_in_range(zeros, v->count / 2, v->count / 2 + v->count / 50);
    measure(&of_old, &old_view);
    measure(&of_new, &new_view);
    printf("task known: old %.1f, new %.1f\n", 100 * of_old.old, 100 * of_new.fresh);
    assert_true(of_old.old > 0.6);   /* the old task as after pruning, whatever came later */
    assert_true(of_new.fresh > 0.7); /* two classes to tell */
    assert_true(of_old.fresh == 0 && of_new.old == 0);
    delta_model_release(&old_view);
    delta_model_release(&new_view);
    delta_model_release(&aware.model);
    delta_model_release(&single.model);
}

/* ---- the guard ---- */

/* A stage B that does harm is not taken; the first stage is, bit for bit. */
static void a_harmful_stage_falls_back_to_the_one_before(void **state)
{
    struct learner_increment_options options = learner_increment_defaults("frostline");
    struct result all, first;
    (void)state;

    options.max_old_drop = 0.15;
    options.lr = 0.4;
    options.ema = 0;
    options.schedule = "constant";
    options.ratio = 0;
    options.stages = "AB";
    learn(&all, &options);
    printf("stage AB: %s\n", all.report.stages[1].why);
    assert_int_equal(all.report.stage_count, 2);
    assert_true(all.report.stages[0].accepted);
    assert_false(all.report.stages[1].accepted);
    assert_true(strlen(all.report.stages[1].why) > 10);
    options.stages = "A";
    learn(&first, &options);
    assert_int_equal(all.report.live_changed, 0);
    assert_near_tensor(&all.model, &first.model, "fc.weight");
    assert_near_tensor(&all.model, &first.model, "fc.bias");
    delta_model_release(&all.model);
    delta_model_release(&first.model);
}

static void without_time_the_first_stage_is_what_comes(void **state)
{
    const struct learner_increment_options options = unguarded("frostline");
    const struct delta_clock clock = delta_clock_system();
    struct learner_budget budget = f.budget;
    struct delta_model model;
    struct learner_report report;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    budget.deadline_ms = delta_clock_monotonic_ms(&clock) + 1200;
    struct learner_increment_options slow = options;
    slow.epochs_tune = 10000;
    assert_ok(
        learner_increment(&model, &f.base, &f.fresh, &f.exemplars, &slow, &budget, &report, &err));
    assert_true(report.cut_short);
    assert_true(report.stage_count >= 1);
    assert_true(report.seconds < 8);
    delta_model_release(&model);
}

enum poison { MISLABELLED, NOISE, SINGLE, ONE_PICTURE, CROWD };

static void poison(struct learner_samples *out, enum poison what)
{
    const size_t bytes = (size_t)3 * 32 * 32;
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_rng rng;

    memset(out, 0, sizeof *out);
    learner_rng_init(&rng, 3, 0);
    switch (what) {
    case MISLABELLED: /* an old class under a new name */
        assert_ok(learner_samples_select(out, &f.test, f.test.classes + 2, 1, 50, &err));
        break;
    case SINGLE:
        assert_ok(learner_samples_select(out, &f.fresh, f.fresh.classes, 1, 1, &err));
        break;
    default:
        assert_ok(learner_samples_select(out, &f.fresh, f.fresh.classes, 1, 50, &err));
    }
    while (what == CROWD && out->count < 10000) {
        struct learner_samples more = LEARNER_SAMPLES_INIT;
        assert_ok(learner_samples_select(&more, out, out->classes, 1, 10000 - out->count, &err));
        assert_ok(learner_samples_append(out, &more, &err));
        learner_samples_release(&more);
    }
    for (size_t i = 0; i < out->count * bytes; i++) {
        if (what == NOISE)
            out->pixels[i] = (uint8_t)learner_rng_below(&rng, 256);
        else if (what == ONE_PICTURE)
            out->pixels[i] = out->pixels[i % bytes];
    }
    snprintf(out->classes[0].text, sizeof out->classes[0].text, "poison");
}

static void a_poisoned_inbox_is_rejected_or_does_no_harm(void **state)
{
    static const char *const title[] = {"mislabelled", "noise", "a single image", "one picture",
                                        "10,000 images"};
    const struct learner_increment_options options = learner_increment_defaults("frostline");
    struct result before;
    (void)state;

    measure(&before, &f.base);
    for (enum poison what = MISLABELLED; what <= CROWD; what++) {
        struct learner_samples fresh;
        struct learner_report report = {.method = ""};
        struct delta_error err = DELTA_ERROR_INIT;
        struct result result;
        poison(&fresh, what);
        const enum delta_status st = learner_increment(&result.model, &f.base, &fresh, &f.exemplars,
                                                       &options, &f.budget, &report, &err);
        if (st == DELTA_OK) {
            measure(&result, &result.model);
            printf("%-15s accepted: old %.1f -> %.1f %%\n", title[what], 100 * before.old,
                   100 * result.old);
            /* the bound, the chance of 120 probes and of 300 test images */
            assert_true(result.old > before.old - options.max_old_drop - 0.06);
            delta_model_release(&result.model);
        } else {
            assert_status(st, DELTA_REJECTED);
            printf("%-15s rejected: %s\n", title[what], err.text);
            assert_true(strlen(err.text) > 20);
            assert_string_equal(report.method, "frostline");
        }
        if (what == SINGLE || what == ONE_PICTURE) {
            assert_status(st, DELTA_REJECTED);
            assert_non_null(strstr(err.text, "1 different picture in"));
        }
        learner_samples_release(&fresh);
    }
}

static void wrong_options_are_refused(void **state)
{
    static const struct {
        const char *method;
        enum delta_status status;
        const char *text;
    } rows[] = {{"e2e", DELTA_CONFIG, "blocks '4,1'"},
                {"freeze", DELTA_CONFIG, "mask 'best'"},
                {"frostline", DELTA_NOT_FOUND, "begins with 'layer9'"},
                {"joint", DELTA_CONFIG, "start 'there'"}};
    static const char *const hungry[] = {"e2e", "packnet", "replay", "ncm", "joint", "head-only"};
    struct delta_model out = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct learner_increment_options options = unguarded(rows[i].method);
        options.blocks = "4,1";
        options.mask = i == 1 ? "best" : NULL;
        options.live = "layer9";
        options.start = "there";
        assert_status(learner_increment(&out, &f.base, &f.fresh, &f.exemplars, &options, &f.budget,
                                        NULL, &err),
                      rows[i].status);
        assert_non_null(strstr(err.text, rows[i].text));
    }
    for (size_t i = 0; i < sizeof hungry / sizeof *hungry; i++) {
        const struct learner_increment_options options = unguarded(hungry[i]);
        assert_status(
            learner_increment(&out, &f.base, &f.fresh, NULL, &options, &f.budget, NULL, &err),
            DELTA_NOT_FOUND);
        assert_non_null(strstr(err.text, "needs exemplars"));
    }
    for (int i = 0; i < 2; i++) {
        struct learner_increment_options options = unguarded("frostline");
        *(i ? &options.pull_tune : &options.pull) = i ? 1.5 : 0;
        assert_status(learner_increment(&out, &f.base, &f.fresh, &f.exemplars, &options, &f.budget,
                                        NULL, &err),
                      DELTA_CONFIG);
        assert_non_null(strstr(err.text, i ? "pull-tune of 1.5" : "pull of 0"));
    }
    assert_null(out.tensors);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_list_of_names_is_complete),
        cmocka_unit_test(orders_that_hold_beyond_noise),
        cmocka_unit_test(methods_repeat_bit_for_bit_by_seed),
        cmocka_unit_test(what_is_frozen_keeps_its_bits),
        cmocka_unit_test(frostline_freezes_whole_filters),
        cmocka_unit_test(the_last_block_is_live),
        cmocka_unit_test(live_layers_may_be_a_list),
        cmocka_unit_test(frostline_keeps_to_the_models_own_plan),
        cmocka_unit_test(the_guard_judges_what_a_small_delta_carries),
        cmocka_unit_test(pulled_exemplars_resist_new_classes),
        cmocka_unit_test(masks_freeze_the_same_share_of_other_weights),
        cmocka_unit_test(importance_predicts_the_measured_change),
        cmocka_unit_test(packnet_keeps_the_old_task_for_who_knows_the_task),
        cmocka_unit_test(a_harmful_stage_falls_back_to_the_one_before),
        cmocka_unit_test(without_time_the_first_stage_is_what_comes),
        cmocka_unit_test(a_poisoned_inbox_is_rejected_or_does_no_harm),
        cmocka_unit_test(wrong_options_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
