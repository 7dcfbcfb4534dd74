/* A whole small network: gradients against finite differences on `ref`, `blas` against `ref`, the
 * same bytes for the same seed, and no allocation in a step after the first. */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "learner/loss.h"
#include "rng.h"

/* Every allocation of the process, by whatever library, is counted by standing in for glibc's. */
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTS_MALLOC
static atomic_size_t allocations;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_realloc(block, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_memalign(alignment, size);
}
#else
static atomic_size_t allocations;
#endif

#define BATCH 5
#define CLASSES 7

static const int32_t labels[BATCH] = {0, 3, 6, 3, 1};

struct mode_row {
    enum learner_mode mode;
    const char *name;
};
static const struct mode_row modes[] = {{LEARNER_TRAIN_EVAL, "train-eval"},
                                        {LEARNER_TRAIN, "train"}};

static double forward_loss(struct learner_net *net, enum learner_mode mode)
{
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(learner_net_forward(net, BATCH, mode, &err));
    return learner_loss_ce(learner_net_logits(net), labels, NULL, BATCH, CLASSES, 1,
                           learner_net_logits_grad(net));
}

static void step(struct learner_net *net, enum learner_mode mode)
{
    struct delta_error err = DELTA_ERROR_INIT;

    forward_loss(net, mode);
    assert_ok(learner_net_backward(net, BATCH, &err));
}

static struct learner_net *small_net(const struct delta_model *model, const char *device,
                                     int threads)
{
    struct learner_net *net = fixture_net(model, device, BATCH, threads, true);

    fixture_fill(learner_net_input(net), BATCH * fixture_input_count(model), 4);
    return net;
}

/* Differences of the loss along a direction: both sides, right, left; a kink spoils one side. */
static bool differences_agree(struct learner_net *net, struct learner_param *param,
                              const float *direction, double h, double slope,
                              enum learner_mode mode, double found[3])
{
    float *keep = calloc(param->count, sizeof *keep);
    double loss[3];
    bool agrees = false;

    assert_non_null(keep);
    memcpy(keep, param->data, param->count * sizeof *keep);
    for (int at = 0; at < 3; at++) {
        for (size_t i = 0; i < param->count; i++)
            param->data[i] = (float)(keep[i] + (at - 1) * h * direction[i]);
        loss[at] = forward_loss(net, mode);
    }
    memcpy(param->data, keep, param->count * sizeof *keep);
    free(keep);
    found[0] = (loss[2] - loss[0]) / (2 * h);
    found[1] = (loss[1] - loss[0]) / h;
    found[2] = (loss[2] - loss[1]) / h;
    for (int i = 0; i < 3; i++)
        agrees = agrees || fabs(found[i] - slope) <= 0.015 * fabs(slope) + 1e-3;
    return agrees;
}

/* Along a random direction in one parameter: a step crosses few kinks. */
static void check_direction(struct learner_net *net, struct learner_param *param,
                            enum learner_mode mode, const struct fixture_row *row,
                            const char *mode_name)
{
    /* larger steps cross kinks of ReLU and max-pool, smaller ones drown in rounding */
    static const double steps[] = {2e-4, 8e-5};
    float *direction = calloc(param->count, sizeof *direction);
    double slope = 0, length = 0, found[3] = {0};
    bool agrees = false;

    assert_non_null(direction);
    fixture_fill(direction, param->count, 77);
    for (size_t i = 0; i < param->count; i++)
        length += (double)direction[i] * direction[i];
    for (size_t i = 0; i < param->count; i++) {
        direction[i] = (float)(direction[i] / sqrt(length));
        slope += (double)direction[i] * param->grad[i];
    }
    for (size_t i = 0; !agrees && i < sizeof steps / sizeof *steps; i++)
        agrees = differences_agree(net, param, direction, steps[i], slope, mode, found);
    if (!agrees)
        fail_msg("%s %s, %s, %s: gradient %.6g, finite differences %.6g %.6g %.6g", row->arch,
                 row->stem, param->name, mode_name, slope, found[0], found[1], found[2]);
    free(direction);
}

/* Norms that keep a normalised channel six deviations away from every kink: on, off, or (where
 * ReLU6 is) at the upper end. With batch statistics of a few pixels, or fifty layers deep, a
 * network is too bent for differences otherwise. */
static void calm_norms(struct delta_model *model)
{
    static const float shifts[] = {3, 3, -3, 3, 9, 3, 3};
    size_t channel = 0;

    for (size_t i = 0; i < model->tensor_count; i++) {
        struct delta_tensor *scale = &model->tensors[i];
        char name[DELTA_TENSOR_NAME_MAX + 1];
        const size_t stem = strlen(scale->name) - strlen(".weight");
        if (scale->rank != 1 || strcmp(scale->name + stem, ".weight") != 0)
            continue;
        snprintf(name, sizeof name, "%.*s.bias", (int)stem, scale->name);
        struct delta_tensor *shift = delta_model_find(model, name);
        for (size_t c = 0; c < scale->count; c++, channel++) {
            scale->data[c] *= 0.5f;
            shift->data[c] += shifts[channel % (sizeof shifts / sizeof *shifts)];
        }
    }
}

/* Parameters of a network, each or one in `every`; returns how many learn. */
static size_t check_gradients(const struct fixture_row *row, const struct mode_row *mode,
                              size_t every)
{
    struct delta_model model = DELTA_MODEL_INIT;
    size_t learning = 0;

    fixture_network(&model, row, CLASSES, 11);
    if (mode->mode == LEARNER_TRAIN && !strcmp(row->arch, "mobilenet_v2"))
        calm_norms(&model);
    struct learner_net *net = small_net(&model, "ref", 1);
    step(net, mode->mode);
    for (size_t i = 0; i < learner_net_param_count(net); i++) {
        struct learner_param *param = learner_net_param(net, i);
        if (!param->grad)
            continue;
        if (learning++ % every == 0)
            check_direction(net, param, mode->mode, row, mode->name);
    }
    learner_net_free(net);
    delta_model_release(&model);
    return learning;
}

static void gradients_agree_with_finite_differences(void **state)
{
    /* three a convolution with its norm, and the head */
    static const size_t learn[] = {3 * 20 + 2, 3 * 20 + 2, 3 * 21 + 2, 3 * 52 + 2, 3 * 52 + 2};

    (void)state;
#ifdef __SANITIZE_THREAD__
    print_message("SKIP: minutes of plain loops on one thread prove nothing about threads\n");
    skip();
#endif
    const size_t every = harness_slowdown();
    if (every > 1)
        print_message("one parameter in %zu is checked\n", every);
    assert_int_equal(fixture_row_count, sizeof learn / sizeof *learn);
    for (size_t r = 0; r < fixture_row_count; r++)
        for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
            /* stems differ in layers that do not know the mode: once is enough */
            if (modes[m].mode == LEARNER_TRAIN && !strcmp(fixture_rows[r].stem, "imagenet"))
                continue;
            assert_int_equal(check_gradients(&fixture_rows[r], &modes[m], every), learn[r]);
        }
}

/* One activation that rounds to the other side of a ReLU's kink moves the gradients of so small a
 * net by percents, hence the wide bound on them; test_ops has the narrow one, op by op. */
#define GRADIENT_TOLERANCE 0.08

/* Some gradients are zero but for rounding: a shift that the next norm takes away again. They are
 * compared against the gradients of the whole net. */
static double typical_gradient(struct learner_net *net)
{
    double sum = 0;
    size_t count = 0;

    for (size_t i = 0; i < learner_net_param_count(net); i++) {
        const struct learner_param *param = learner_net_param(net, i);
        for (size_t j = 0; param->grad && j < param->count; j++, count++)
            sum += (double)param->grad[j] * param->grad[j];
    }
    return sqrt(sum / (double)(count ? count : 1));
}

static double gradient_distance(const struct learner_param *x, const struct learner_param *y,
                                double typical)
{
    double difference = 0, size = 0;

    for (size_t i = 0; x->grad && i < x->count; i++) {
        difference += ((double)x->grad[i] - y->grad[i]) * ((double)x->grad[i] - y->grad[i]);
        size += (double)y->grad[i] * y->grad[i];
    }
    return sqrt(difference) / fmax(sqrt(size), 0.01 * typical * sqrt((double)x->count) + 1e-20);
}

static void compare_nets(struct learner_net *a, struct learner_net *b, double tolerance,
                         const char *what)
{
    const double logits =
        fixture_distance(learner_net_logits(a), learner_net_logits(b), BATCH * CLASSES);
    const double features = fixture_distance(learner_net_features(a), learner_net_features(b),
                                             BATCH * learner_net_feature_count(a));
    const double typical = typical_gradient(b);

    if (!(logits <= tolerance && features <= tolerance))
        fail_msg("%s: logits differ by %g, features by %g", what, logits, features);
    for (size_t i = 0; i < learner_net_param_count(a); i++) {
        const struct learner_param *x = learner_net_param(a, i), *y = learner_net_param(b, i);
        const double values = fixture_distance(x->data, y->data, x->count);
        const double grads = gradient_distance(x, y, typical);
        if (!(values <= tolerance && grads <= GRADIENT_TOLERANCE))
            fail_msg("%s: '%s' values differ by %g, gradients by %g", what, x->name, values, grads);
    }
}

/* Multiply-adds go with the squares of both. */
static bool too_slow(const struct fixture_row *row)
{
    return harness_slowdown() >= 20 && row->width * row->side > 128;
}

static void compare_devices(const struct fixture_row *row, const struct mode_row *mode, int threads,
                            uint64_t seed)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model = DELTA_MODEL_INIT;
    char what[96];

    fixture_network(&model, row, CLASSES, seed);
    if (mode->mode == LEARNER_TRAIN && !strcmp(row->arch, "mobilenet_v2"))
        calm_norms(&model); /* a rounding that crosses a kink shows there in every gradient */
    struct learner_net *ref = small_net(&model, "ref", 1);
    struct learner_net *blas = small_net(&model, "blas", threads);
    step(ref, mode->mode);
    step(blas, mode->mode);
    snprintf(what, sizeof what, "%s %s width %u, %s", row->arch, row->stem, row->width, mode->name);
    /* fifty layers over batch statistics of a few pixels magnify rounding */
    const double tolerance = strcmp(row->arch, "mobilenet_v2") ? 2e-4 : 1e-3;
    compare_nets(blas, ref, tolerance, what);
    assert_ok(learner_net_forward(ref, BATCH, LEARNER_INFER, &err));
    assert_ok(learner_net_forward(blas, BATCH, LEARNER_INFER, &err));
    compare_nets(blas, ref, tolerance, "infer after a step");
    learner_net_free(ref);
    learner_net_free(blas);
    delta_model_release(&model);
}

/* Odd sizes on purpose: nothing divides a vector or a tile. */
static void blas_agrees_with_ref(void **state)
{
    static const struct fixture_row more[] = {{"resnet18", "cifar", 8, 16},
                                              {"resnet18", "cifar", 5, 13},
                                              {"resnet18", "cifar", 16, 32},
                                              {"resnet18", "cifar", 2, 9},
                                              {"mobilenet_v2", "cifar", 35, 32}};
    static const int threads[] = {1, 2, 2, 3, 7};

    (void)state;
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        for (size_t r = 0; r < sizeof more / sizeof *more; r++)
            if (too_slow(&more[r]))
                print_message("SKIP: %s width %u, %u pixels a side, takes minutes here\n",
                              more[r].arch, more[r].width, more[r].side);
            else
                compare_devices(&more[r], &modes[m], threads[r], 20 + r);
        for (size_t r = 0; r < fixture_row_count; r++)
            compare_devices(&fixture_rows[r], &modes[m], 1 + (int)r % 3, 30 + r);
    }
}

/* A net for inference shares memory and fuses; it must say what the training net says. */
static void inference_net_agrees_with_training_net(void **state)
{
    static const char *const devices[] = {"ref", "blas"};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model = DELTA_MODEL_INIT;

    (void)state;
    fixture_model(&model, 6, 16, CLASSES, 31);
    for (int d = 0; d < 2; d++) {
        struct learner_net *train = small_net(&model, devices[d], 2);
        struct learner_net *infer = fixture_net(&model, devices[d], BATCH, 2, false);
        fixture_fill(learner_net_input(infer), BATCH * fixture_input_count(&model), 4);
        assert_ok(learner_net_forward(train, BATCH, LEARNER_TRAIN_EVAL, &err));
        for (int again = 0; again < 2; again++) {
            assert_ok(learner_net_forward(infer, BATCH, LEARNER_INFER, &err));
            assert_true(fixture_distance(learner_net_logits(infer), learner_net_logits(train),
                                         BATCH * CLASSES) < 1e-5);
        }
        assert_true(learner_net_memory_bytes(infer) < learner_net_memory_bytes(train));
        assert_null(learner_net_param(infer, 0)->grad);
        learner_net_free(train);
        learner_net_free(infer);
    }
    delta_model_release(&model);
}

static void same_seed_gives_same_bytes(void **state)
{
    static const char *const devices[] = {"ref", "blas"};
    struct delta_model model = DELTA_MODEL_INIT;

    (void)state;
    fixture_model(&model, 4, 16, CLASSES, 5);
    for (int d = 0; d < 2; d++) {
        struct learner_net *a = small_net(&model, devices[d], 2);
        struct learner_net *b = small_net(&model, devices[d], 2);
        for (int i = 0; i < 3; i++) {
            step(a, LEARNER_TRAIN);
            step(b, LEARNER_TRAIN);
        }
        for (size_t i = 0; i < learner_net_param_count(a); i++) {
            const struct learner_param *x = learner_net_param(a, i), *y = learner_net_param(b, i);
            assert_memory_equal(x->data, y->data, x->count * sizeof(float));
            if (x->grad)
                assert_memory_equal(x->grad, y->grad, x->count * sizeof(float));
        }
        learner_net_free(a);
        learner_net_free(b);
    }
    delta_model_release(&model);
}

static void backward_again_needs_a_forward_pass_again(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model = DELTA_MODEL_INIT;

    (void)state;
    fixture_model(&model, 4, 8, CLASSES, 5);
    struct learner_net *net = small_net(&model, "blas", 2);
    step(net, LEARNER_TRAIN_EVAL);
    const struct learner_param *param = learner_net_find(net, "conv1.weight");
    float first[4 * 27];
    memcpy(first, param->grad, sizeof first);
    assert_status(learner_net_backward(net, BATCH, &err), DELTA_INTERNAL);
    step(net, LEARNER_TRAIN_EVAL);
    assert_memory_equal(first, param->grad, sizeof first);
    learner_net_free(net);
    delta_model_release(&model);
}

static void nonfinite_weight_is_blamed_on_its_layer(void **state)
{
    static const struct {
        const char *tensor, *layer;
        float value;
    } rows[] = {{"conv1.weight", "'conv1", NAN},
                {"layer2.0.conv1.weight", "'layer2.0.conv1", NAN},
                {"layer3.1.bn2.weight", "'layer3.1.", INFINITY},
                {"layer4.0.downsample.1.running_var", "'layer4.0.downsample", NAN},
                {"fc.bias", "'fc'", INFINITY}};
    static const char *const devices[] = {"ref", "blas"};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model = DELTA_MODEL_INIT;

    (void)state;
    fixture_model(&model, 3, 32, CLASSES, 5); /* rows of whole vectors: their ReLU must pass NaN */
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        for (int d = 0; d < 4; d++) {
            struct learner_net *net = fixture_net(&model, devices[d / 2], BATCH, 2, d % 2);
            fixture_fill(learner_net_input(net), BATCH * fixture_input_count(&model), 4);
            learner_net_find(net, rows[r].tensor)->data[0] = rows[r].value;
            assert_status(learner_net_forward(net, BATCH, LEARNER_INFER, &err), DELTA_NONFINITE);
            assert_non_null(strstr(err.text, rows[r].layer));
            learner_net_free(net);
        }
    struct learner_net *net = fixture_net(&model, "blas", BATCH, 2, false);
    learner_net_input(net)[3] = NAN;
    assert_status(learner_net_forward(net, 1, LEARNER_INFER, &err), DELTA_NONFINITE);
    assert_non_null(strstr(err.text, "input"));
    learner_net_free(net);
    delta_model_release(&model);
}

static void misuse_is_refused(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model = DELTA_MODEL_INIT;
    struct learner_net *net = NULL;
    struct learner_net_options options = {.device = "blas", .threads = 1};

    (void)state;
    fixture_model(&model, 3, 8, CLASSES, 5);
    net = fixture_net(&model, "blas", BATCH, 1, true);
    assert_status(learner_net_backward(net, BATCH, &err), DELTA_INTERNAL);
    assert_status(learner_net_forward(net, BATCH + 1, LEARNER_INFER, &err), DELTA_INTERNAL);
    assert_status(learner_net_forward(net, 0, LEARNER_INFER, &err), DELTA_INTERNAL);
    learner_net_free(net);
    options.device = "cuda";
    assert_status(learner_net_new(&net, &model, &options, &err), DELTA_UNSUPPORTED);
    options.device = "abacus";
    assert_status(learner_net_new(&net, &model, &options, &err), DELTA_UNSUPPORTED);
    options.device = "auto";
    model.arch.width = 4;
    assert_status(learner_net_new(&net, &model, &options, &err), DELTA_MISMATCH);
    assert_string_equal(err.text,
                        "tensor 'conv1.weight': wanted shape [4, 3, 3, 3], found [3, 3, 3, 3]");
    model.arch.width = 3;
    delta_model_find(&model, "layer3.0.bn1.running_var")->name[0] = 'L';
    assert_status(learner_net_new(&net, &model, &options, &err), DELTA_MISMATCH);
    assert_string_equal(err.text, "tensor 'layer3.0.bn1.running_var' is missing; wanted [12]");
    model.arch.name[7] = '9';
    assert_status(learner_net_new(&net, &model, &options, &err), DELTA_UNSUPPORTED);
    delta_model_release(&model);
}

static void store_brings_back_what_new_took(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model = DELTA_MODEL_INIT, copy = DELTA_MODEL_INIT;

    (void)state;
    fixture_model(&model, 3, 8, CLASSES, 5);
    fixture_model(&copy, 3, 8, CLASSES, 6);
    struct learner_net *net = fixture_net(&model, "blas", 1, 1, false);
    assert_ok(learner_net_store(net, &copy, &err));
    for (size_t i = 0; i < model.tensor_count; i++)
        assert_memory_equal(copy.tensors[i].data, model.tensors[i].data,
                            model.tensors[i].count * sizeof(float));
    learner_net_free(net);
    delta_model_release(&model);
    delta_model_release(&copy);
}

static void step_after_the_first_allocates_nothing(void **state)
{
    struct delta_model model = DELTA_MODEL_INIT;

    (void)state;
#ifndef COUNTS_MALLOC
    print_message("SKIP: a sanitizer owns the allocator\n");
    skip();
#endif
    fixture_model(&model, 8, 16, CLASSES, 5);
    struct learner_net *net = small_net(&model, "blas", 2);
    step(net, LEARNER_TRAIN);
    size_t before = atomic_load(&allocations);
    void *volatile probe = calloc(1, 64); /* the counter works */
    free(probe);
    assert_int_equal(atomic_load(&allocations), before + 1);
    before = atomic_load(&allocations);
    for (int i = 0; i < 3; i++)
        step(net, i % 2 ? LEARNER_TRAIN : LEARNER_TRAIN_EVAL);
    assert_int_equal(atomic_load(&allocations), before);
    learner_net_free(net);
    delta_model_release(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_agree_with_finite_differences),
        cmocka_unit_test(blas_agrees_with_ref),
        cmocka_unit_test(inference_net_agrees_with_training_net),
        cmocka_unit_test(same_seed_gives_same_bytes),
        cmocka_unit_test(backward_again_needs_a_forward_pass_again),
        cmocka_unit_test(nonfinite_weight_is_blamed_on_its_layer),
        cmocka_unit_test(misuse_is_refused),
        cmocka_unit_test(store_brings_back_what_new_took),
        cmocka_unit_test(step_after_the_first_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
