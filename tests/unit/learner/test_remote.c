/* Whole networks and whole training runs on device `cuda` against `ref`. One source, three
 * programs: linked with `ref` behind a wall (wall_device.c), where the bytes must be the same; with
 * the CUDA backend on an emulated GPU (cuda_emulated.c); and plain, where a GPU is needed.
 * In the first two a host that touches device memory dies. */
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
#include "tune.h"

#ifndef TOLERANCE
#define TOLERANCE 2e-4 /* 0: the same bytes */
#endif
/* A pass of a whole network, and what a few steps make of it: rounding decides on which side of a
 * kink some activations fall. */
#define GRADIENT_TOLERANCE (TOLERANCE > 0 ? 0.08 : 0)
#define TRAINED_TOLERANCE (TOLERANCE > 0 ? 0.05 : 0)

#define BATCH 5
#define CLASSES 7

static const int32_t labels[BATCH] = {0, 3, 6, 3, 1};

static void same(const float *a, const float *b, size_t count, double tolerance, double floor,
                 const char *what)
{
    double difference = 0, size = 0;

    if (tolerance == 0 && memcmp(a, b, count * sizeof *a) != 0)
        fail_msg("%s: not the same bytes", what);
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    if (!(sqrt(difference) <= tolerance * fmax(sqrt(size), floor * sqrt((double)count)) + 1e-12))
        fail_msg("%s: differ by %g of %g", what, sqrt(difference), sqrt(size));
}

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
        same(p, q, x->count, tolerance, floor, name);
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

static void freeze(struct delta_model *model, double from)
{
    struct delta_error err = DELTA_ERROR_INIT;

    for (size_t i = 0; i + 2 < model->tensor_count; i++) {
        struct delta_tensor *tensor = &model->tensors[i];
        const bool rows = tensor->rank == 4 && (double)i > from * (double)model->tensor_count;
        const size_t filters = (size_t)tensor->shape[0];
        uint8_t *bits = calloc(filters / 8 + 1, 1);
        assert_non_null(bits);
        for (size_t f = 0; f < filters; f++)
            bits[f / 8] |= (uint8_t)((f % 3 != 1) << (f % 8));
        assert_ok(delta_tensor_set_freeze(tensor, rows ? DELTA_FREEZE_ROWS : DELTA_FREEZE_ALL,
                                          rows ? bits : NULL, rows ? filters : 0, &err));
        free(bits);
    }
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
        freeze(&model, 0.6);
    for (int d = 0; d < 2; d++) {
        nets[d] = net_on(devices[d], &model, planned ? &model : NULL);
        assert_ok(learner_sgd_new(&sgds[d], nets[d], planned ? &model : NULL, &options, &err));
        assert_ok(learner_net_forward(nets[d], BATCH, mode, &err));
        loss_and_backward(nets[d], &sums[d]);
    }
    /* fifty layers over batch statistics of a few pixels magnify rounding */
    const double tolerance =
        TOLERANCE * (mode == LEARNER_TRAIN && !strcmp(row->arch, "mobilenet_v2") ? 10 : 1);
    same(learner_net_logits(nets[1]), learner_net_logits(nets[0]), BATCH * CLASSES, tolerance, 0,
         what);
    same(learner_net_features(nets[1]), learner_net_features(nets[0]),
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
    same(learner_net_logits(nets[1]), learner_net_logits(nets[0]), BATCH * CLASSES,
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

static void cached_prefix_gives_the_same(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t r = 0; r < fixture_row_count; r++)
        for (int part = 0; part < 2; part++) {
            struct delta_model model = DELTA_MODEL_INIT;
            struct learner_loss_sum sum;
            fixture_network(&model, &fixture_rows[r], CLASSES, 11);
            freeze(&model, part ? 1 : 0.7); /* 1: the head alone learns, from the features */
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
    float offset[CLASSES], teacher[BATCH * 4];
    const struct learner_loss rows[] = {
        {.labels = labels, .scale = 1},
        {.labels = some, .scale = 0.5, .offset = offset},
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
        same(grad, ref->logits_grad, BATCH * CLASSES, TOLERANCE > 0 ? 1e-6 : 0, 0, "gradient");
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
        struct learner_rng a, b;
        learner_rng_init(&a, 5, r);
        learner_rng_init(&b, 5, r);
        assert_ok(learner_augment_init(&augment, &rows[r], &data, &model.arch, BATCH, &err));
        const double share = learner_augment_load(&augment, here, index, BATCH, &a);
        learner_augment_place(&augment, net);
        assert_non_null(augment.placed);
        assert_true(share == learner_augment_load(&augment, NULL, index, BATCH, &b));
        net->device->ops->remote->fetch(net->device, there, net->input, count);
        same(there, here, count, 0, 0, "views");
        learner_augment_release(&augment);
    }
    free(here);
    free(there);
    learner_net_free(net);
    delta_model_release(&model);
    learner_samples_release(&data);
}

/* ---- whole runs ---- */

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
    freeze(&base, 0.66);
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

/* Every method with all its ways to learn: moving averages, distillation by blocks, frozen filters,
 * cached prefixes with mirrored views. No method of the list is left out. */
static void methods_are_the_oracles(void **state)
{
    struct learner_samples all = LEARNER_SAMPLES_INIT, fresh = LEARNER_SAMPLES_INIT;
    struct learner_exemplars exemplars = {LEARNER_SAMPLES_INIT, LEARNER_SAMPLES_INIT};
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
    freeze(&base, 0.66);
    snprintf(names, sizeof names, "%s", learner_method_names());
    for (char *name; (name = strtok_r(rest, "|", &rest)) != NULL; count++) {
        struct delta_model a = DELTA_MODEL_INIT, b = DELTA_MODEL_INIT;
        learn(&a, &base, &fresh, &exemplars, name, "ref");
        learn(&b, &base, &fresh, &exemplars, name, "cuda");
        if (strcmp(name, "do-nothing") != 0)
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
    same(made[1].features, made[0].features, 15 * made[0].d, TOLERANCE, 0, "features");
    same(made[1].logits, made[0].logits, 15 * made[0].classes, TOLERANCE, 0, "logits");
    learner_embedding_release(&made[0]);
    learner_embedding_release(&made[1]);
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
    same(values[1], values[0], count, TOLERANCE > 0 ? 2e-2 : 0, 0, "after many steps");
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
        same(learner_net_logits(narrow), learner_net_logits(ref), BATCH * CLASSES, 0.05, 0,
             fixture_rows[r].arch);
        loss_and_backward(ref, &a);
        loss_and_backward(narrow, &b);
        /* all gradients together: which ReLU an activation near 0 passes is chance */
        float *p = numbers(narrow, narrow->grads, narrow->grad_count);
        same(p, ref->grads, narrow->grad_count, 0.4, 0, fixture_rows[r].arch);
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
    /* two sizes, forward, backward and inference; each run once before it is recorded */
    assert_int_equal(cuda_emulated.recorded - recorded, 6);
    assert_int_equal(cuda_emulated.played - played, 24 - 6);
    cuda_emulated.no_recording = cuda_emulated.backwards = cuda_emulated.no_library = true;
    many_steps_are_the_oracles(state);
    cuda_emulated.no_recording = cuda_emulated.backwards = cuda_emulated.no_library = false;
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
        cmocka_unit_test(a_missing_or_failing_gpu_is_told),
#endif
        cmocka_unit_test(many_steps_are_the_oracles),
        cmocka_unit_test(losses_are_the_oracles),
        cmocka_unit_test(views_are_made_on_the_device),
        cmocka_unit_test(a_step_is_the_oracles),
        cmocka_unit_test(cached_prefix_gives_the_same),
        cmocka_unit_test(training_runs_are_the_oracles),
        cmocka_unit_test(increments_are_the_oracles),
        cmocka_unit_test(methods_are_the_oracles),
        cmocka_unit_test(measured_importance_is_the_oracles),
        cmocka_unit_test(plan_and_test_are_the_oracles),
        cmocka_unit_test(embeddings_are_the_oracles),
        cmocka_unit_test(what_is_not_finite_is_blamed),
    };
    struct learner_device *device = NULL;
    struct delta_error err = DELTA_ERROR_INIT;

    if (learner_device_open(&device, "cuda", 1, &err)) {
        printf("SKIP: %s\n", err.text);
        return 77;
    }
    device->ops->close(device);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
