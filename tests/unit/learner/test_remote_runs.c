/* Whole training runs on device `cuda` against `ref`; linked three times like test_remote. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "augment.h"
#ifdef EMULATED
#include "cuda_emulated.h"
#endif
#include "device.h"
#ifdef EMULATED
#include "device/cuda_kernels.h"
#endif
#include "embed.h"
#include "fixture.h"
#include "gather.h"
#include "graph.h"
#include "learner/learn.h"
#include "learner/optim.h"
#include "net_device.h"
#include "remote.h"
#include "tune.h"

static bool go_on_until(void *context, const char *stage, double done, double total)
{
    (void)stage;
    (void)total;
    return done < *(const double *)context;
}

static void pretrain(struct delta_model *model, const struct learner_samples *data,
                     const char *device, size_t at_once, const char *checkpoint)
{
    struct learner_pretrain_options options = learner_pretrain_defaults();
    double stop = 3;
    struct learner_budget budget = {
        .device = device, .threads = 1, .seed = 3, .at_once = at_once, .context = &stop};
    struct delta_error err = DELTA_ERROR_INIT;

    options.epochs = 2;
    options.batch = 12;
    options.lr = 0.01;
    options.mixup = 0.5;
    options.cutout = 8;
    options.label_smoothing = 0.1;
    options.ema = 0.9;
    options.held_out = 2;
    options.checkpoint = checkpoint;
    if (checkpoint) {
        budget.progress = go_on_until;
        assert_status(learner_pretrain(model, data, &options, &budget, &err), DELTA_INTERRUPTED);
        budget.progress = NULL;
    }
    assert_ok(learner_pretrain(model, data, &options, &budget, &err));
}

static void same_models(const struct delta_model *a, const struct delta_model *b,
                        const struct delta_model *begin, const char *what)
{
    double moved = 0, difference = 0;

    for (size_t i = 0; i < a->tensor_count; i++)
        for (size_t e = 0; e < a->tensors[i].count; e++) {
            const double v = b->tensors[i].data[e];
            difference += pow(a->tensors[i].data[e] - v, 2);
            if (e < begin->tensors[i].count)
                moved += pow(begin->tensors[i].data[e] - v, 2);
        }
    assert_true(moved > 1e-4);
    if (!(sqrt(difference) <= TRAINED_TOLERANCE * sqrt(moved)))
        fail_msg("%s: models differ by %g after a change of %g", what, sqrt(difference),
                 sqrt(moved));
}

/* What the models say of samples. A fit of few images hardly determines some weights: there,
 * rounding becomes large and means nothing. */
static void same_scores(const struct delta_model *a, const struct delta_model *b,
                        const struct learner_samples *samples, const char *what)
{
    const struct delta_model *models[2] = {a, b};
    const struct learner_budget budget = {.device = "ref", .threads = 1};
    struct learner_embedding made[2] = {{.count = 0}, {.count = 0}};
    struct delta_error err = DELTA_ERROR_INIT;
    double difference = 0, mean = 0, spread = 0;

    for (int m = 0; m < 2; m++)
        assert_ok(learner_embed(&made[m], models[m], samples, &budget, "test", &err));
    const size_t count = made[0].count * made[0].classes;
    for (size_t i = 0; i < count; i++)
        mean += made[1].logits[i] / (double)count;
    for (size_t i = 0; i < count; i++) {
        difference += pow(made[0].logits[i] - made[1].logits[i], 2);
        spread += pow(made[1].logits[i] - mean, 2);
    }
    assert_true(spread > 1e-4);
    if (!(sqrt(difference) <= TRAINED_TOLERANCE * sqrt(spread)))
        fail_msg("%s: scores differ by %g of %g", what, sqrt(difference), sqrt(spread));
    learner_embedding_release(&made[0]);
    learner_embedding_release(&made[1]);
}

static void training_runs_are_the_oracles(void **state)
{
    static const size_t at_once[] = {0, 7}; /* a batch in one pass, in two */
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_model begin = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    struct harness_scratch scratch;

    (void)state;
    harness_scratch_make(&scratch);
    assert_ok(
        learner_samples_open(&data, "synthetic:classes=3,train=10", LEARNER_SPLIT_TRAIN, &err));
    fixture_model(&begin, 2, data.height, 3, 3);
    for (size_t k = 0; k < 3; k++)
        begin.classes[k] = data.classes[k];
    for (size_t i = 0; i < 2; i++) {
        struct delta_model a = DELTA_MODEL_INIT, b = DELTA_MODEL_INIT, c = DELTA_MODEL_INIT;
        assert_ok(delta_model_copy(&a, &begin, &err));
        assert_ok(delta_model_copy(&b, &begin, &err));
        assert_ok(delta_model_copy(&c, &begin, &err));
        pretrain(&a, &data, "ref", at_once[i], NULL);
        pretrain(&b, &data, "cuda", at_once[i], NULL);
        pretrain(&c, &data, "cuda", at_once[i], harness_path(&scratch, i ? "b" : "a"));
        same_models(&b, &a, &begin, "pretrained");
        for (size_t t = 0; t < b.tensor_count; t++) /* stopped and resumed: the same bytes */
            assert_memory_equal(b.tensors[t].data, c.tensors[t].data,
                                b.tensors[t].count * sizeof(float));
        delta_model_release(&a);
        delta_model_release(&b);
        delta_model_release(&c);
    }
    delta_model_release(&begin);
    learner_samples_release(&data);
    harness_scratch_remove(&scratch);
}

static void tune(struct delta_model *model, const struct delta_model *base,
                 const struct learner_samples *fresh, const struct learner_samples *replay,
                 const char *device, size_t at_once)
{
    struct learner_increment_options options = learner_increment_defaults("freeze");
    const struct learner_budget budget = {
        .device = device, .seed = 9, .threads = 1, .at_once = at_once};
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(delta_model_copy(model, base, &err));
    assert_ok(delta_model_grow_head(model, fresh->classes, fresh->class_count, &err));
    options.batch = 8;
    const struct learner_tune_phase phases[] = {
        {.stage = "new", .epochs = 1, .plan = model},
        {.stage = "tune", .epochs = 2, .replay = true, .distil = true, .plan = model},
    };
    struct learner_task task = {.model = model,
                                .base = base,
                                .fresh = fresh,
                                .replay = replay,
                                .options = &options,
                                .budget = &budget};
    assert_ok(learner_start_rows(&task, &err));
    assert_ok(learner_tune(&task, phases, 2, &err));
}

static void increments_are_the_oracles(void **state)
{
    struct learner_samples all = LEARNER_SAMPLES_INIT, fresh = LEARNER_SAMPLES_INIT,
                           replay = LEARNER_SAMPLES_INIT;
    const struct fixture_row row = {"resnet18", "cifar", 3, 32};
    struct delta_model base = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    assert_ok(learner_samples_open(&all, "synthetic:classes=4,train=6", LEARNER_SPLIT_TRAIN, &err));
    assert_ok(learner_samples_select(&replay, &all, all.classes, 3, 0, &err));
    assert_ok(learner_samples_select(&fresh, &all, all.classes + 3, 1, 0, &err));
    fixture_network(&base, &row, 3, 5);
    for (size_t k = 0; k < 3; k++)
        base.classes[k] = all.classes[k];
    remote_freeze(&base, 0.66);
    for (size_t at_once = 0; at_once <= 5; at_once += 5) {
        struct delta_model a = DELTA_MODEL_INIT, b = DELTA_MODEL_INIT;
        tune(&a, &base, &fresh, &replay, "ref", at_once);
        tune(&b, &base, &fresh, &replay, "cuda", at_once);
        same_models(&b, &a, &base, "tuned");
        for (size_t i = 0; i < base.tensor_count; i++)
            for (size_t e = 0; e < base.tensors[i].count; e++)
                if (delta_tensor_is_frozen(&base.tensors[i], e))
                    assert_memory_equal(&b.tensors[i].data[e], &base.tensors[i].data[e],
                                        sizeof(float));
        delta_model_release(&a);
        delta_model_release(&b);
    }
    delta_model_release(&base);
    learner_samples_release(&all);
    learner_samples_release(&fresh);
    learner_samples_release(&replay);
}

/* What a method makes of a base on a device. */
static void learn(struct delta_model *out, const struct delta_model *base,
                  const struct learner_samples *fresh, const struct learner_exemplars *exemplars,
                  const char *method, const char *device)
{
    struct learner_increment_options options = learner_increment_defaults(method);
    const struct learner_budget budget = {.device = device, .seed = 9, .threads = 1};
    struct delta_error err = DELTA_ERROR_INIT;

    options.blocks = "2,1"; /* e2e: two softmaxes of the teacher, then three */
    options.epochs_new = options.epochs_new ? 1 : 0;
    options.epochs_tune = options.epochs_tune ? 2 : 0;
    options.epochs_balance = options.epochs_balance ? 1 : 0;
    options.ema = options.ema > 0 || strcmp(method, "replay-kd") == 0 ? 0.7 : 0;
    options.batch = 8;
    options.lr = 0.01;
    options.max_old_drop = 1;
    options.min_new_recall = 0;
    assert_ok(learner_increment(out, base, fresh, exemplars, &options, &budget, NULL, &err));
}

#ifdef EMULATED
/* In a tuning run images become numbers on the GPU, all of them bytes that went there once, and
 * records of the frozen prefix never leave it; without room for either the result is the same. */
static void increments_stay_on_the_gpu(void **state)
{
    struct learner_samples all = LEARNER_SAMPLES_INIT, fresh = LEARNER_SAMPLES_INIT,
                           replay = LEARNER_SAMPLES_INIT;
    const struct fixture_row row = {"resnet18", "cifar", 3, 32};
    struct delta_model base = DELTA_MODEL_INIT, made[2];
    struct delta_error err = DELTA_ERROR_INIT;
    size_t rows[2], stored[2];

    (void)state;
    assert_ok(learner_samples_open(&all, "synthetic:classes=4,train=6", LEARNER_SPLIT_TRAIN, &err));
    assert_ok(learner_samples_select(&replay, &all, all.classes, 3, 0, &err));
    assert_ok(learner_samples_select(&fresh, &all, all.classes + 3, 1, 0, &err));
    fixture_network(&base, &row, 3, 5);
    for (size_t k = 0; k < 3; k++)
        base.classes[k] = all.classes[k];
    remote_freeze(&base, 0.66);
    for (int d = 0; d < 2; d++) {
        cuda_emulated.room = d; /* a byte: the records go to the host */
        const size_t rows_before = cuda_emulated.kernels[GPU_KERNEL_rows];
        const size_t loads_before = cuda_emulated.kernels[GPU_KERNEL_load];
        const size_t stored_before = cuda_emulated.kernels[GPU_KERNEL_convert];
        made[d] = (struct delta_model)DELTA_MODEL_INIT;
        tune(&made[d], &base, &fresh, &replay, "cuda:bf16", 0);
        rows[d] = cuda_emulated.kernels[GPU_KERNEL_rows] - rows_before;
        stored[d] = cuda_emulated.kernels[GPU_KERNEL_convert] - stored_before;
        assert_true(cuda_emulated.kernels[GPU_KERNEL_load] > loads_before);
    }
    cuda_emulated.room = 0;
    assert_true(rows[0] > 0 &&
                stored[0] == 0); /* float32 from the host becomes bf16 by `convert` */
    assert_true(rows[1] == 0 && stored[1] > 0);
    for (size_t i = 0; i < base.tensor_count; i++)
        assert_memory_equal(made[0].tensors[i].data, made[1].tensors[i].data,
                            made[0].tensors[i].count * sizeof(float));
    delta_model_release(&made[0]);
    delta_model_release(&made[1]);
    delta_model_release(&base);
    learner_samples_release(&all);
    learner_samples_release(&fresh);
    learner_samples_release(&replay);
}
#endif

/* Every method with all its ways to learn: moving averages, distillation by blocks, frozen filters,
 * cached prefixes with mirrored views. No method of the list is left out. */
static void methods_are_the_oracles(void **state)
{
    struct learner_samples all = LEARNER_SAMPLES_INIT, fresh = LEARNER_SAMPLES_INIT;
    struct learner_exemplars exemplars = LEARNER_EXEMPLARS_INIT;
    const struct fixture_row row = {"resnet18", "cifar", 3, 32};
    struct delta_model base = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    char names[200], *rest = names;
    size_t count = 0;

    (void)state;
    assert_ok(learner_samples_open(&all, "synthetic:classes=4,train=6", LEARNER_SPLIT_TRAIN, &err));
    assert_ok(learner_samples_select(&exemplars.replay, &all, all.classes, 3, 0, &err));
    assert_ok(learner_samples_select(&fresh, &all, all.classes + 3, 1, 0, &err));
    fixture_network(&base, &row, 3, 5);
    for (size_t k = 0; k < 3; k++)
        base.classes[k] = all.classes[k];
    /* features that tell classes apart: else a fit of so few images is all rounding */
    pretrain(&base, &exemplars.replay, "ref", 0, NULL);
    remote_freeze(&base, 0.66);
    snprintf(names, sizeof names, "%s", learner_method_names());
    for (char *name; (name = strtok_r(rest, "|", &rest)) != NULL; count++) {
        struct delta_model a = DELTA_MODEL_INIT, b = DELTA_MODEL_INIT;
        learn(&a, &base, &fresh, &exemplars, name, "ref");
        learn(&b, &base, &fresh, &exemplars, name, "cuda");
        if (strcmp(name, "do-nothing") != 0 && TOLERANCE > 0)
            same_scores(&b, &a, &all, name);
        else if (strcmp(name, "do-nothing") != 0)
            same_models(&b, &a, &base, name);
        delta_model_release(&a);
        delta_model_release(&b);
    }
    assert_true(count >= 12);
    delta_model_release(&base);
    learner_samples_release(&all);
    learner_samples_release(&fresh);
    learner_samples_release(&exemplars.replay);
}

static void measured_importance_is_the_oracles(void **state)
{
    const char *devices[2] = {"ref", "cuda"};
    struct learner_importance_check checks[2];
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    assert_ok(
        learner_samples_open(&data, "synthetic:classes=3,train=5", LEARNER_SPLIT_TRAIN, &err));
    fixture_model(&model, 2, data.height, 3, 3);
    for (size_t k = 0; k < 3; k++)
        model.classes[k] = data.classes[k];
    for (int d = 0; d < 2; d++) {
        const struct learner_budget budget = {.device = devices[d], .threads = 1, .seed = 4};
        assert_ok(learner_importance_measure(&checks[d], &model, &data, 12, &budget, &err));
    }
    assert_float_equal(checks[0].rank_correlation, checks[1].rank_correlation,
                       TOLERANCE > 0 ? 0.1 : 0);
    delta_model_release(&model);
    learner_samples_release(&data);
}

static void plan_and_test_are_the_oracles(void **state)
{
    const char *devices[2] = {"ref", "cuda"};
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_model models[2] = {{.tensor_count = 0}, {.tensor_count = 0}};
    struct learner_scores scores[2] = {{.images = 0}, {.images = 0}};
    struct delta_error err = DELTA_ERROR_INIT;
    size_t frozen = 0, differ = 0;

    (void)state;
    assert_ok(
        learner_samples_open(&data, "synthetic:classes=3,train=5", LEARNER_SPLIT_TRAIN, &err));
    for (int d = 0; d < 2; d++) {
        const struct learner_budget budget = {.device = devices[d], .threads = 1, .at_once = 6};
        fixture_model(&models[d], 2, data.height, 3, 3);
        for (size_t k = 0; k < 3; k++)
            models[d].classes[k] = data.classes[k];
        assert_ok(learner_freeze_plan(&models[d], &data, 0.8, &budget, &err));
        assert_ok(learner_evaluate(&scores[d], &models[d], &data, &budget, &err));
    }
    assert_int_equal(scores[0].correct, scores[1].correct);
    for (size_t i = 0; i < models[0].tensor_count; i++)
        for (size_t e = 0; e < models[0].tensors[i].count; e++) {
            const bool a = delta_tensor_is_frozen(&models[0].tensors[i], e);
            frozen += a;
            differ += a != delta_tensor_is_frozen(&models[1].tensors[i], e);
        }
    assert_true(frozen > 1000);
    assert_true((double)differ <= TRAINED_TOLERANCE * (double)frozen);
    for (int d = 0; d < 2; d++) {
        learner_scores_release(&scores[d]);
        delta_model_release(&models[d]);
    }
    learner_samples_release(&data);
}

/* What heads are fitted on, and exemplars chosen by. */
static void embeddings_are_the_oracles(void **state)
{
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct learner_embedding made[2] = {{.count = 0}, {.count = 0}};
    const char *devices[2] = {"ref", "cuda"};
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    assert_ok(
        learner_samples_open(&data, "synthetic:classes=3,train=5", LEARNER_SPLIT_TRAIN, &err));
    fixture_model(&model, 3, data.height, 3, 3);
    for (int d = 0; d < 2; d++) {
        /* 15 images, four at once: the last pass is smaller */
        const struct learner_budget budget = {.device = devices[d], .threads = 1, .at_once = 4};
        assert_ok(learner_embed(&made[d], &model, &data, &budget, "test", &err));
    }
    assert_int_equal(made[0].count, 15);
    remote_same(made[1].features, made[0].features, 15 * made[0].d, TOLERANCE, 0, "features");
    remote_same(made[1].logits, made[0].logits, 15 * made[0].classes, TOLERANCE, 0, "logits");
    learner_embedding_release(&made[0]);
    learner_embedding_release(&made[1]);
    delta_model_release(&model);
    learner_samples_release(&data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_runs_are_the_oracles),
        cmocka_unit_test(increments_are_the_oracles),
#ifdef EMULATED
        cmocka_unit_test(increments_stay_on_the_gpu),
#endif
        cmocka_unit_test(methods_are_the_oracles),
        cmocka_unit_test(measured_importance_is_the_oracles),
        cmocka_unit_test(plan_and_test_are_the_oracles),
        cmocka_unit_test(embeddings_are_the_oracles),
    };

    if (!remote_is_here())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
