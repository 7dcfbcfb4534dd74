/* Whole networks on device `cuda` against `ref`, pass by pass; test_remote_runs has whole runs. One
 * source, three programs: linked with `ref` behind a wall (wall_device.c), where the bytes must be
 * the same; with the CUDA backend on an emulated GPU (cuda_emulated.c); and plain, where a GPU is
 * needed. In the first two a host that touches device memory dies. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "augment.h"
#ifdef EMULATED
#include "cuda_emulated.h"
#endif
#include "device.h"
#include "embed.h"
#include "fixture.h"
#include "gather.h"
#include "graph.h"
#include "learner/learn.h"
#include "learner/optim.h"
#include "net_device.h"
#include "remote.h"
#include "tune.h"

#define BATCH 5
#define CLASSES 7

static const int32_t labels[BATCH] = {0, 3, 6, 3, 1};

static float *numbers(struct learner_net *net, const float *place, size_t count)
{
    float *out = calloc(count, sizeof *out);

    assert_non_null(out);
    learner_net_get(net, out, place, count);
    return out;
}

/* gradients, or values; `floor`: a size below which no number is looked at alone */
static void same_params(struct learner_net *a, struct learner_net *b, bool gradients,
                        double tolerance, double floor, const char *what)
{
    char name[256];

    for (size_t i = 0; i < learner_net_param_count(a); i++) {
        const struct learner_param *x = learner_net_param(a, i), *y = learner_net_param(b, i);
        assert_true(!x->grad == !y->grad);
        if (gradients && !x->grad)
            continue;
        float *p = numbers(a, gradients ? x->grad : x->data, x->count);
        float *q = numbers(b, gradients ? y->grad : y->data, y->count);
        snprintf(name, sizeof name, "%s, '%s'", what, x->name);
        remote_same(p, q, x->count, tolerance, floor, name);
        free(p);
        free(q);
    }
}

/* Root of the mean square over all gradients. */
static double typical(struct learner_net *net)
{
    double sum = 0;
    float *grads = numbers(net, net->grads, net->grad_count);

    for (size_t i = 0; i < net->grad_count; i++)
        sum += (double)grads[i] * grads[i];
    free(grads);
    return sqrt(sum / (double)net->grad_count);
}

static struct learner_net *net_on(const char *device, const struct delta_model *model,
                                  const struct delta_model *plan)
{
    const struct learner_net_options options = {
        .device = device, .batch = BATCH, .threads = 1, .train = true, .plan = plan};
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_net *net = NULL;

    assert_ok(learner_net_new(&net, model, &options, &err));
    assert_string_equal(learner_net_device(net), device);
    fixture_fill(learner_net_input(net), BATCH * fixture_input_count(model), 4);
    return net;
}

static void loss_and_backward(struct learner_net *net, struct learner_loss_sum *sum)
{
    struct delta_error err = DELTA_ERROR_INIT;

    learner_net_loss(net, &(struct learner_loss){.labels = labels, .scale = 1}, BATCH, sum);
    assert_ok(learner_net_backward(net, BATCH, &err));
}

static void compare(const struct fixture_row *row, enum learner_mode mode, bool planned)
{
    const struct learner_sgd_options options = {
        .momentum = 0.9, .weight_decay = 5e-4, .nesterov = planned};
    const char *devices[2] = {"ref", "cuda"};
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_net *nets[2];
    struct learner_sgd *sgds[2] = {NULL, NULL};
    struct learner_loss_sum sums[2];
    char what[128];

    fixture_network(&model, row, CLASSES, 11);
    snprintf(what, sizeof what, "%s %s, mode %d%s", row->arch, row->stem, (int)mode,
             planned ? ", under a plan" : "");
    if (planned)
        remote_freeze(&model, 0.6);
    for (int d = 0; d < 2; d++) {
        nets[d] = net_on(devices[d], &model, planned ? &model : NULL);
        assert_ok(learner_sgd_new(&sgds[d], nets[d], planned ? &model : NULL, &options, &err));
        assert_ok(learner_net_forward(nets[d], BATCH, mode, &err));
        loss_and_backward(nets[d], &sums[d]);
    }
    /* fifty layers over batch statistics of a few pixels magnify rounding */
    const double tolerance =
        TOLERANCE * (mode == LEARNER_TRAIN && !strcmp(row->arch, "mobilenet_v2") ? 10 : 1);
    remote_same(learner_net_logits(nets[1]), learner_net_logits(nets[0]), BATCH * CLASSES,
                tolerance, 0, what);
    remote_same(learner_net_features(nets[1]), learner_net_features(nets[0]),
                BATCH * learner_net_feature_count(nets[0]), tolerance, 0, what);
    assert_true(fabs(sums[0].loss - sums[1].loss) <= tolerance * (1 + sums[0].loss));
    if (!planned) /* else rows of frozen filters hold anything */
        same_params(nets[1], nets[0], true, GRADIENT_TOLERANCE, 0.01 * typical(nets[0]), what);
    for (int d = 0; d < 2; d++)
        learner_sgd_step(sgds[d], 0.05);
    same_params(nets[1], nets[0], false, TOLERANCE > 0 ? 5e-3 : 0, 0.05, what);
    for (int d = 0; d < 2; d++) {
        size_t moved = 0;
        assert_ok(learner_net_forward(nets[d], BATCH, LEARNER_INFER, &err));
        for (size_t i = 0; i < learner_net_param_count(nets[d]); i++) {
            const struct learner_param *param = learner_net_param(nets[d], i);
            const struct delta_tensor *tensor = delta_model_find(&model, param->name);
            float *data = numbers(nets[d], param->data, param->count);
            for (size_t e = 0; e < param->count; e++) {
                const bool kept = !memcmp(&data[e], &tensor->data[e], sizeof *data);
                assert_true(kept || !planned || !delta_tensor_is_frozen(tensor, e));
                moved += !kept;
            }
            free(data);
        }
        assert_true(moved > 0);
    }
    remote_same(learner_net_logits(nets[1]), learner_net_logits(nets[0]), BATCH * CLASSES,
                TOLERANCE > 0 ? 0.05 : 0, 0, what);
    for (int d = 0; d < 2; d++) {
        learner_sgd_free(sgds[d]);
        learner_net_free(nets[d]);
    }
    delta_model_release(&model);
}

static void a_step_is_the_oracles(void **state)
{
    (void)state;
    for (size_t r = 0; r < fixture_row_count; r++) {
        compare(&fixture_rows[r], LEARNER_TRAIN, false);
        compare(&fixture_rows[r], LEARNER_TRAIN_EVAL, false);
        compare(&fixture_rows[r], LEARNER_TRAIN_EVAL, true);
    }
}

/* Records in a table on the device, rows in any order. list: the same on the host */
static void table_gives_the_same(struct learner_net *whole, struct learner_net *from,
                                 const float *const *list)
{
    static const uint32_t rows[BATCH] = {6, 0, 3, 4, 1};
    struct delta_error err = DELTA_ERROR_INIT;
    float *table = learner_net_table(from, 7, SIZE_MAX);

    assert_non_null(table);
    assert_null(learner_net_table(from, 7, 5));
    assert_ok(learner_net_forward_from(from, list, BATCH, LEARNER_TRAIN_EVAL, &err));
    learner_net_table_keep(from, table, rows, BATCH);
    fixture_fill(learner_net_input(from), BATCH * learner_shape_count(&from->layers.items[0].in),
                 9); /* other images come between */
    assert_ok(learner_net_forward(from, BATCH, LEARNER_TRAIN_EVAL, &err));
    assert_memory_not_equal(learner_net_logits(whole), learner_net_logits(from),
                            BATCH * CLASSES * sizeof(float));
    assert_ok(learner_net_forward_table(from, table, rows, BATCH, LEARNER_TRAIN_EVAL, &err));
    assert_memory_equal(learner_net_logits(whole), learner_net_logits(from),
                        BATCH * CLASSES * sizeof(float));
    learner_net_block_free(from, table);
}

static void cached_prefix_gives_the_same(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t r = 0; r < fixture_row_count; r++)
        for (int part = 0; part < 2; part++) {
            struct delta_model model = DELTA_MODEL_INIT;
            struct learner_loss_sum sum;
            fixture_network(&model, &fixture_rows[r], CLASSES, 11);
            remote_freeze(&model, part ? 1 : 0.7); /* 1: the head alone learns, from the features */
            struct learner_net *whole = net_on("cuda", &model, &model);
            struct learner_net *from = net_on("cuda", &model, &model);
            const size_t count = learner_net_prefix_count(whole);
            float *records = calloc(BATCH * count, sizeof *records);
            const float *list[BATCH];
            assert_true(count > 0);
            assert_non_null(records);
            for (size_t i = 0; i < BATCH; i++)
                list[i] = records + i * count;
            assert_ok(learner_net_forward(whole, BATCH, LEARNER_TRAIN_EVAL, &err));
            learner_net_prefix_read(whole, records, BATCH);
            assert_ok(learner_net_forward_from(from, list, BATCH, LEARNER_TRAIN_EVAL, &err));
            assert_memory_equal(learner_net_logits(whole), learner_net_logits(from),
                                BATCH * CLASSES * sizeof(float));
            loss_and_backward(whole, &sum);
            loss_and_backward(from, &sum);
            same_params(whole, from, true, 0, 0, fixture_rows[r].arch);
            table_gives_the_same(whole, from, list);
            free(records);
            learner_net_free(whole);
            learner_net_free(from);
            delta_model_release(&model);
        }
}

/* Every kind of loss, through learner_net_loss on both devices. */
static void losses_are_the_oracles(void **state)
{
    static const int32_t others[BATCH] = {1, 3, 0, 2, 6}, some[BATCH] = {0, -1, 6, 3, -1};
    static const struct learner_outputs blocks[] = {{2, 2}, {0, 1}}; /* output 1 is in none */
    float offset[CLASSES], teacher[BATCH * 4], level[CLASSES];
    const struct learner_seen seen = {3, 0.6, level};
    const struct learner_loss rows[] = {
        {.labels = labels, .scale = 1},
        {.labels = some, .scale = 0.5, .offset = offset},
        {.labels = some, .scale = 0.5, .offset = offset, .seen = &seen},
        {.labels = labels, .soft = true, .scale = 1},
        {.labels = labels,
         .soft = true,
         .others = others,
         .share = 0.3,
         .smoothing = 0.1,
         .scale = 0.7},
        {.labels = some,
         .offset = offset,
         .scale = 1,
         .teacher = teacher,
         .old = 4,
         .temperature = 2.5,
         .kd_scale = 3},
        {.labels = labels,
         .soft = true,
         .smoothing = 0.2,
         .scale = 1,
         .teacher = teacher,
         .old = 4,
         .temperature = 1,
         .kd_scale = 0.25},
        {.labels = some,
         .offset = offset,
         .scale = 0.5,
         .teacher = teacher,
         .old = 4,
         .temperature = 2,
         .kd_scale = 2,
         .blocks = blocks,
         .block_count = 2},
    };
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    fixture_fill(offset, CLASSES, 1);
    fixture_fill(teacher, BATCH * 4, 2);
    fixture_fill(level, CLASSES, 3);
    fixture_model(&model, 3, 8, CLASSES, 3);
    struct learner_net *ref = net_on("ref", &model, NULL), *cuda = net_on("cuda", &model, NULL);
    assert_ok(learner_net_forward(ref, BATCH, LEARNER_TRAIN_EVAL, &err));
    assert_ok(learner_net_forward(cuda, BATCH, LEARNER_TRAIN_EVAL, &err));
    /* the same logits, so that the loss alone is compared */
    learner_net_put(cuda, cuda->memory[cuda->layers.count - 1].y, learner_net_logits(ref),
                    BATCH * CLASSES);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        struct learner_loss_sum a, b;
        learner_net_loss(ref, &rows[r], BATCH, &a);
        learner_net_loss(cuda, &rows[r], BATCH, &b);
        float *grad = numbers(cuda, cuda->logits_grad, BATCH * CLASSES);
        remote_same(grad, ref->logits_grad, BATCH * CLASSES, TOLERANCE > 0 ? 1e-6 : 0, 0,
                    "gradient");
        assert_true(fabs(a.loss - b.loss) <= 1e-9 * (1 + fabs(a.loss)));
        assert_true(fabs(a.kd - b.kd) <= 1e-9 * (1 + fabs(a.kd)));
        assert_int_equal(a.correct, b.correct);
        free(grad);
    }
    learner_net_free(ref);
    learner_net_free(cuda);
    delta_model_release(&model);
}

/* Images placed on the device are cut, mirrored and mixed there as they are here. */
static void views_are_made_on_the_device(void **state)
{
    static const struct learner_pretrain_options rows[] = {
        {.augment = false},
        {.augment = true},
        {.augment = true, .cutout = 9},
        {.augment = true, .cutout = 16, .mixup = 0.7},
        {.mixup = 0.2},
    };
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    const uint32_t index[BATCH] = {3, 17, 0, 17, 8};

    (void)state;
    assert_ok(
        learner_samples_open(&data, "synthetic:classes=3,train=9", LEARNER_SPLIT_TRAIN, &err));
    fixture_model(&model, 2, data.height, 3, 3);
    model.arch.mean[1] = 0.3;
    model.arch.std[2] = 0.11;
    struct learner_net *net = net_on("cuda", &model, NULL);
    const size_t count = BATCH * fixture_input_count(&model);
    float *here = calloc(count, sizeof *here), *there = calloc(count, sizeof *there);
    assert_true(here && there);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        struct learner_augment augment;
        struct learner_feed feed;
        struct learner_rng a, b;
        learner_feed_init(&feed, net, &data, &model.arch, true);
        learner_rng_init(&a, 5, r);
        learner_rng_init(&b, 5, r);
        assert_ok(learner_augment_init(&augment, &rows[r], &data, &model.arch, BATCH, &err));
        const double share = learner_augment_load(&augment, here, index, BATCH, &a);
        learner_augment_place(&augment, &feed);
        assert_non_null(augment.feed);
        assert_true(share == learner_augment_load(&augment, NULL, index, BATCH, &b));
        net->device->ops->remote->fetch(net->device, there, net->input, count);
        remote_same(there, here, count, 0, 0, "views");
        learner_augment_release(&augment);
        learner_feed_release(&feed);
    }
    free(here);
    free(there);
    learner_net_free(net);
    delta_model_release(&model);
    learner_samples_release(&data);
}

static void what_is_not_finite_is_blamed(void **state)
{
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    const float bad = NAN;

    (void)state;
    fixture_model(&model, 3, 8, CLASSES, 3);
    struct learner_net *net = net_on("cuda", &model, NULL);
    learner_net_input(net)[7] = INFINITY;
    assert_status(learner_net_forward(net, BATCH, LEARNER_INFER, &err), DELTA_NONFINITE);
    assert_non_null(strstr(err.text, "input"));
    fixture_fill(learner_net_input(net), BATCH * fixture_input_count(&model), 4);
    assert_ok(learner_net_forward(net, BATCH, LEARNER_TRAIN, &err));
    learner_net_put(net, learner_net_find(net, "layer3.0.conv2.weight")->data + 11, &bad, 1);
    learner_net_changed(net);
    assert_status(learner_net_forward(net, BATCH, LEARNER_TRAIN_EVAL, &err), DELTA_NONFINITE);
    assert_non_null(strstr(err.text, "layer3.0.conv2"));
    /* the same where nothing is looked at before the end of the pass */
    struct learner_outcome outcome;
    const struct learner_loss loss = {.labels = labels, .scale = 1};
    assert_ok(learner_net_forward_begin(net, BATCH, LEARNER_TRAIN_EVAL, &err));
    assert_status(learner_net_learn(net, &loss, BATCH, &outcome, &err), DELTA_NONFINITE);
    assert_non_null(strstr(err.text, "layer3.0.conv2"));
    assert_false(outcome.logits_finite);
    learner_net_put(net, learner_net_find(net, "layer3.0.conv2.weight")->data + 11, &(float){0}, 1);
    learner_net_changed(net);
    learner_net_input(net)[7] = INFINITY;
    assert_ok(learner_net_forward_begin(net, BATCH, LEARNER_TRAIN_EVAL, &err));
    assert_status(learner_net_learn(net, &loss, BATCH, &outcome, &err), DELTA_NONFINITE);
    assert_non_null(strstr(err.text, "input"));
    fixture_fill(learner_net_input(net), BATCH * fixture_input_count(&model), 4);
    assert_ok(learner_net_forward_begin(net, BATCH, LEARNER_TRAIN_EVAL, &err));
    assert_ok(learner_net_learn(net, &loss, BATCH, &outcome, &err));
    assert_true(outcome.logits_finite && outcome.grads_finite);
    const struct learner_loss huge = {.labels = labels, .scale = 1e300};
    assert_ok(learner_net_forward_begin(net, BATCH, LEARNER_TRAIN_EVAL, &err));
    assert_ok(learner_net_learn(net, &huge, BATCH, &outcome, &err));
    assert_true(outcome.logits_finite && !outcome.grads_finite);
    assert_ok(learner_net_forward_begin(net, BATCH, LEARNER_TRAIN_EVAL, &err));
    assert_ok(learner_net_learn(net, &loss, BATCH, &outcome, &err));
    assert_true(learner_device_finite(net->device, net->grads, net->grad_count));
    learner_net_put(net, net->grads + net->grad_count - 1, &bad, 1);
    assert_false(learner_device_finite(net->device, net->grads, net->grad_count));
    learner_net_free(net);
    delta_model_release(&model);
}

/* The same step again and again: from the second time on a device may play a recording of it. Steps
 * of another size come between. */
static void many_steps_are_the_oracles(void **state)
{
    static const size_t sizes[] = {BATCH, BATCH, BATCH, 3, BATCH, 3, 3, BATCH};
    const struct learner_sgd_options options = {.momentum = 0.9, .weight_decay = 5e-4};
    const char *devices[2] = {"ref", "cuda"};
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    float *values[2];
    size_t count = 0;

    (void)state;
    fixture_model(&model, 4, 8, CLASSES, 3);
    for (int d = 0; d < 2; d++) {
        struct learner_net *net = net_on(devices[d], &model, NULL);
        struct learner_sgd *sgd = NULL;
        assert_ok(learner_sgd_new(&sgd, net, NULL, &options, &err));
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            struct learner_loss_sum sum;
            assert_ok(learner_net_forward(net, sizes[i], LEARNER_TRAIN, &err));
            learner_net_loss(net, &(struct learner_loss){.labels = labels, .scale = 1}, sizes[i],
                             &sum);
            assert_ok(learner_net_backward(net, sizes[i], &err));
            learner_sgd_step(sgd, 0.005);
            assert_ok(learner_net_forward(net, sizes[i], LEARNER_INFER, &err));
        }
        count = net->value_count;
        values[d] = numbers(net, net->values, count);
        learner_sgd_free(sgd);
        learner_net_free(net);
    }
    remote_same(values[1], values[0], count, TOLERANCE > 0 ? 2e-2 : 0, 0, "after many steps");
    free(values[0]);
    free(values[1]);
    delta_model_release(&model);
}

#ifdef EMULATED
/* bf16 keeps 8 bits of an activation: a network goes the same way, roughly. */
static void narrow_networks_are_nearly_the_oracles(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t r = 0; r < fixture_row_count; r++) {
        struct delta_model model = DELTA_MODEL_INIT;
        struct learner_loss_sum a, b;
        const struct learner_net_options options = {
            .device = "cuda:bf16", .batch = BATCH, .train = true};
        struct learner_net *narrow = NULL;
        fixture_network(&model, &fixture_rows[r], CLASSES, 11);
        struct learner_net *ref = net_on("ref", &model, NULL);
        assert_ok(learner_net_new(&narrow, &model, &options, &err));
        assert_string_equal(learner_net_precision(narrow), "bf16");
        fixture_fill(learner_net_input(narrow), BATCH * fixture_input_count(&model), 4);
        assert_ok(learner_net_forward(ref, BATCH, LEARNER_TRAIN_EVAL, &err));
        assert_ok(learner_net_forward(narrow, BATCH, LEARNER_TRAIN_EVAL, &err));
        remote_same(learner_net_logits(narrow), learner_net_logits(ref), BATCH * CLASSES, 0.05, 0,
                    fixture_rows[r].arch);
        loss_and_backward(ref, &a);
        loss_and_backward(narrow, &b);
        /* all gradients together: which ReLU an activation near 0 passes is chance */
        float *p = numbers(narrow, narrow->grads, narrow->grad_count);
        remote_same(p, ref->grads, narrow->grad_count, 0.4, 0, fixture_rows[r].arch);
        free(p);
        learner_net_free(ref);
        learner_net_free(narrow);
        delta_model_release(&model);
    }
}

static void recordings_are_played_and_change_nothing(void **state)
{
    const size_t recorded = cuda_emulated.recorded, played = cuda_emulated.played;

    many_steps_are_the_oracles(state);
    /* two sizes, forward, backward and inference, and the packing of the weights for all training
     * passes; each run once before it is recorded */
    assert_int_equal(cuda_emulated.recorded - recorded, 7);
    assert_int_equal(cuda_emulated.played - played, 24 - 6 + 8 - 1);
    cuda_emulated.no_recording = cuda_emulated.backwards = cuda_emulated.no_library = true;
    many_steps_are_the_oracles(state);
    cuda_emulated.no_recording = cuda_emulated.backwards = cuda_emulated.no_library = false;
}

/* A training step, as train_step.c and tune.c make one, waits for its end alone. */
static void a_step_waits_once(void **state)
{
    const struct learner_sgd_options options = {.momentum = 0.9};
    const uint32_t index[BATCH] = {3, 1, 0, 10, 8};
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_outcome outcome;
    struct learner_sgd *sgd = NULL;
    struct learner_feed feed;
    float teacher[BATCH * 2] = {0};

    (void)state;
    assert_ok(
        learner_samples_open(&data, "synthetic:classes=3,train=4", LEARNER_SPLIT_TRAIN, &err));
    fixture_model(&model, 2, data.height, 3, 3);
    struct learner_net *net = net_on("cuda", &model, NULL);
    assert_ok(learner_sgd_new(&sgd, net, NULL, &options, &err));
    learner_feed_init(&feed, net, &data, &model.arch, true);
    const struct learner_loss loss = {.labels = (int32_t[BATCH]){0, 2, 1, 0, 2},
                                      .scale = 1,
                                      .teacher = teacher,
                                      .old = 2,
                                      .temperature = 2,
                                      .kd_scale = 1};
    for (int i = 0; i < 6; i++) {
        const size_t before = cuda_emulated.waits;
        learner_feed_load(&feed, index, BATCH);
        assert_ok(learner_net_forward_begin(net, BATCH, LEARNER_TRAIN, &err));
        assert_ok(learner_net_learn(net, &loss, BATCH, &outcome, &err));
        assert_true(outcome.grads_finite);
        learner_sgd_step(sgd, 0.01);
        if (i > 2) /* the packet has grown to what a step needs */
            assert_int_equal(cuda_emulated.waits - before, 1);
    }
    learner_sgd_free(sgd);
    learner_feed_release(&feed);
    learner_net_free(net);
    delta_model_release(&model);
    learner_samples_release(&data);
}

static void steps_take_no_memory(void **state)
{
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_loss_sum sum;

    (void)state;
    fixture_model(&model, 4, 8, CLASSES, 3);
    struct learner_net *net = net_on("cuda", &model, NULL);
    for (int i = 0; i < 3; i++) {
        const size_t before = cuda_emulated.allocs;
        assert_ok(learner_net_forward(net, BATCH, LEARNER_TRAIN, &err));
        loss_and_backward(net, &sum);
        assert_true(i == 0 || cuda_emulated.allocs == before);
    }
    learner_net_free(net);
    delta_model_release(&model);
}

/* auto goes on without, what names the GPU does not; a failure later is told. */
static void a_missing_or_failing_gpu_is_told(void **state)
{
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_device *device = NULL;
    char why[256] = "";

    (void)state;
    assert_false(learner_device_missing(why, sizeof why, "auto:bf16"));
    cuda_emulated.absent = "it is on holiday";
    assert_true(learner_device_missing(why, sizeof why, "auto:bf16"));
    assert_non_null(strstr(why, "on holiday"));
    assert_false(learner_device_missing(why, sizeof why, "cpu"));
    assert_status(learner_device_open(&device, "cuda:tf32", 1, &err), DELTA_UNSUPPORTED);
    assert_non_null(strstr(err.text, "on holiday"));
    assert_ok(learner_device_open(&device, "auto:bf16", 1, &err));
    assert_string_equal(device->ops->name, "blas");
    assert_null(device->precision);
    device->ops->close(device);
    cuda_emulated.absent = NULL;
    assert_ok(learner_device_open(&device, "auto:tf32", 1, &err));
    assert_string_equal(device->ops->name, "cuda");
    assert_string_equal(device->precision, "tf32");
    device->ops->close(device);
    cuda_emulated.exact_only = true;
    assert_status(learner_device_open(&device, "cuda:bf16", 1, &err), DELTA_UNSUPPORTED);
    cuda_emulated.exact_only = false;
    assert_status(learner_device_open(&device, "cuda:fp8", 1, &err), DELTA_UNSUPPORTED);
    assert_status(learner_device_open(&device, "cpu:bf16", 1, &err), DELTA_UNSUPPORTED);
    fixture_model(&model, 3, 8, CLASSES, 3);
    struct learner_net *net = net_on("cuda", &model, NULL);
    cuda_emulated.broken = "an illegal something";
    assert_status(learner_net_forward(net, BATCH, LEARNER_TRAIN, &err), DELTA_IO);
    assert_non_null(strstr(err.text, "an illegal something"));
    assert_ok(learner_net_forward(net, BATCH, LEARNER_TRAIN, &err));
    learner_net_free(net);
    delta_model_release(&model);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifdef EMULATED
        cmocka_unit_test(narrow_networks_are_nearly_the_oracles),
        cmocka_unit_test(recordings_are_played_and_change_nothing),
        cmocka_unit_test(steps_take_no_memory),
        cmocka_unit_test(a_step_waits_once),
        cmocka_unit_test(a_missing_or_failing_gpu_is_told),
#endif
        cmocka_unit_test(many_steps_are_the_oracles),
        cmocka_unit_test(losses_are_the_oracles),
        cmocka_unit_test(views_are_made_on_the_device),
        cmocka_unit_test(a_step_is_the_oracles),
        cmocka_unit_test(cached_prefix_gives_the_same),
        cmocka_unit_test(what_is_not_finite_is_blamed),
    };
    if (!remote_is_here())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
