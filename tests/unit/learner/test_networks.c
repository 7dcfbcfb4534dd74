/* Every network: names, shapes and numbers against torchvision's, recognised from its tensors, and
 * through freeze plan, importance, increment, delta and back on a tiny version. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch_guess.h"
#include "delta/delta.h"
#include "delta/file.h"
#include "delta/safetensors.h"
#include "fixture.h"
#include "learner/learn.h"
#include "learner/networks.h"

static struct harness_scratch scratch;

static void init_row(struct delta_model *out, const char *name, const char *stem, uint32_t width,
                     uint32_t side, size_t classes)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_class_id *ids = calloc(classes, sizeof *ids);
    struct delta_arch arch;

    assert_non_null(ids);
    for (size_t i = 0; i < classes; i++)
        snprintf(ids[i].text, sizeof ids[i].text, "class-%zu", i);
    assert_ok(learner_network_arch(&arch, name, stem, width, 3, side, side, &err));
    assert_ok(learner_net_init_model(out, &arch, ids, classes, 3, &err));
    free(ids);
}

static int by_name(const void *a, const void *b)
{
    const struct delta_tensor *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

/* Of the lines "name d0,d1,...", sorted. */
static void shapes_digest(char hex[DELTA_DIGEST_HEX], const struct delta_model *model)
{
    const struct delta_tensor **sorted = calloc(model->tensor_count, sizeof *sorted);
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest digest;
    struct delta_hash hash;
    char line[256];

    assert_non_null(sorted);
    for (size_t i = 0; i < model->tensor_count; i++)
        sorted[i] = &model->tensors[i];
    qsort(sorted, model->tensor_count, sizeof *sorted, by_name);
    assert_ok(delta_hash_init(&hash, &err));
    for (size_t i = 0; i < model->tensor_count; i++) {
        int used = snprintf(line, sizeof line, "%s ", sorted[i]->name);
        for (uint32_t d = 0; d < sorted[i]->rank; d++)
            used += snprintf(line + used, sizeof line - (size_t)used, "%s%llu", d ? "," : "",
                             (unsigned long long)sorted[i]->shape[d]);
        used += snprintf(line + used, sizeof line - (size_t)used, "\n");
        delta_hash_update(&hash, delta_bytes(line, (size_t)used));
    }
    digest = delta_hash_finish(&hash);
    delta_digest_hex(hex, &digest);
    free(sorted);
}

/* What torchvision 0.14 says: sums over parameters(), over the outputs of its convolutions and
 * linear layers, and the SHA-256 of state_dict()'s names and shapes (without
 * num_batches_tracked). Networks for small images and ResNet-20: tests/torch/torch_networks.py. */
static const struct {
    const char *name, *stem;
    uint32_t width, side;
    size_t classes, parameters;
    double macs;
    const char *shapes;
} published[] = {
    {"resnet18", "imagenet", 64, 224, 1000, 11689512, 1814073344,
     "09ce7e9e01846250ca72a3be9e335bb7f6905b89a11905e73f4f584127a7c0fa"},
    {"resnet18", "cifar", 16, 32, 100, 713076, 35058176,
     "b1466cba59b7a0912ace6448b583e2affbbbad4bfc7afd9560d50a3a639e78e1"},
    {"resnet18", "cifar", 5, 32, 7, 69272, 3517720,
     "a0a00e6e67ed37280ae3f34230b583b6f9f9c5ae122eb60b1a5b36827bf556e7"},
    {"resnet20", "cifar", 16, 32, 10, 272474, 40813184,
     "d6f9d2eac764b664c23f4b4ee17b37ac0f02f79b90d325db46be94c379cd43cf"},
    {"mobilenet_v2", "imagenet", 100, 224, 1000, 3504872, 300774272,
     "9d75a56bf145f32f8faca753d7beb2b877229be102f50ce3ab4780f5355ba355"},
    {"mobilenet_v2", "cifar", 100, 32, 100, 2351972, 88091648,
     "50ac7c87f0b959052bcdd3ab9dee428e60e3dc1585c38dca2e61668e8c523869"},
    {"mobilenet_v2", "cifar", 35, 32, 10, 408938, 15611136,
     "c496ac76da11ce9ff4400c0971f2a9f8ea717659c23e6effb8224b91a7c8721f"},
    {"mobilenet_v2", "imagenet", 75, 224, 10, 1368234, 207802592,
     "dc1eaeca00a84a09b5bcb106e896d57631f11f4dc7da96065342c7d38cdddcf7"},
    {"mobilenet_v2", "imagenet", 140, 224, 10, 4333706, 580421744,
     "05316d637c72d34ca855aac4964c043869def00ec05de3f0c3265dca557e0636"},
    {"mobilenet_v2", "cifar", 10, 32, 10, 98890, 6039040,
     "90262cc3bc7d1ba3bdeb8450b428fb107f5e2a7faa9d6acce0d3744cc4ba8447"},
};

static void networks_are_those_of_torchvision(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        struct delta_error err = DELTA_ERROR_INIT;
        struct delta_model model = DELTA_MODEL_INIT;
        struct learner_network_cost cost;
        char hex[DELTA_DIGEST_HEX];
        size_t held = 0;
        init_row(&model, published[i].name, published[i].stem, published[i].width,
                 published[i].side, published[i].classes);
        assert_ok(learner_network_cost(&cost, &model.arch, published[i].classes, &err));
        assert_int_equal(cost.parameters, published[i].parameters);
        assert_true(cost.macs == published[i].macs);
        for (size_t t = 0; t < model.tensor_count; t++)
            held += model.tensors[t].count;
        assert_int_equal(held, cost.parameters + cost.statistics);
        shapes_digest(hex, &model);
        assert_string_equal(hex, published[i].shapes);
        delta_model_release(&model);
    }
}

/* torchvision's: normal with standard deviation 0.01 and zero bias, or uniform within 1/sqrt(in) */
static void heads_begin_as_torchvisions_do(void **state)
{
    static const char *const names[] = {"mobilenet_v2", "resnet20"};
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct delta_model model = DELTA_MODEL_INIT;
        struct delta_tensor *weight, *bias;
        double sum = 0, most = 0, shift = 0;
        init_row(&model, names[i], "cifar", 0, 32, 50);
        assert_ok(delta_model_head(&model, &weight, &bias, &err));
        for (size_t j = 0; j < weight->count; j++) {
            sum += (double)weight->data[j] * weight->data[j];
            most = fmax(most, fabs((double)weight->data[j]));
        }
        for (size_t j = 0; j < bias->count; j++)
            shift = fmax(shift, fabs((double)bias->data[j]));
        const double deviation = sqrt(sum / (double)weight->count);
        if (i == 0) {
            assert_true(fabs(deviation - 0.01) < 2e-4 && most > 0.03 && shift == 0);
        } else {
            assert_true(most <= 0.125 && most > 0.12 && shift > 0.1 && shift <= 0.125);
            assert_true(fabs(deviation - 0.125 / sqrt(3)) < 3e-3);
        }
        delta_model_release(&model);
    }
}

static void every_network_is_known_by_its_tensors(void **state)
{
    static const uint32_t channels[] = {1, 3, 16, 64},
                          percents[] = {10, 25, 35, 50, 70, 75, 85, 90, 100, 110, 130, 140};
    struct learner_network_info info;

    (void)state;
    for (size_t n = 0; learner_network_info(&info, n); n++)
        for (size_t s = 0; info.stems[s]; s++) {
            const size_t count = info.percent ? sizeof percents / sizeof *percents : 4;
            for (size_t w = 0; w < count; w++) {
                const uint32_t width = info.percent ? percents[w] : channels[w];
                struct delta_model model = DELTA_MODEL_INIT, twin = DELTA_MODEL_INIT;
                struct delta_arch found = {.width = 0};
                char want[DELTA_DIGEST_HEX], have[DELTA_DIGEST_HEX];
                init_row(&model, info.name, info.stems[s], width, 32, 3);
                delta_arch_guess(&found, &model);
                assert_string_equal(found.name, info.name);
                if (!info.percent)
                    assert_string_equal(found.stem, info.stems[s]);
                /* another percentage may stand for the same network */
                init_row(&twin, found.name, found.stem, found.width, 32, 3);
                shapes_digest(want, &model);
                shapes_digest(have, &twin);
                assert_string_equal(want, have);
                assert_true(info.percent || found.width == width);
                delta_model_release(&model);
                delta_model_release(&twin);
            }
        }
}

static void wrong_hints_name_tensor_and_shapes(void **state)
{
    static const struct {
        struct delta_arch_hint hint;
        const char *text;
    } rows[] = {
        {{.width = 32}, "[32, 3, 3, 3], found [16, 3, 3, 3]"},
        {{.stem = "imagenet"}, "[16, 3, 7, 7], found [16, 3, 3, 3]"},
        {{.name = "mobilenet_v2", .width = 100}, "features.18.0.weight"},
        {{.name = "resnet20"}, "layer3.2.conv2.weight"},
    };
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model = DELTA_MODEL_INIT, back = DELTA_MODEL_INIT;
    struct delta_buf file;
    const char *path = harness_path(&scratch, "hints.safetensors");

    (void)state;
    init_row(&model, "resnet18", "cifar", 16, 32, 4);
    assert_ok(delta_safetensors_save(&model, DELTA_SAFETENSORS_F32, path, &err));
    assert_ok(delta_file_read(path, (size_t)64 << 20, &file, &err));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_status(
            delta_safetensors_decode_as(&back, delta_buf_bytes(&file), &rows[i].hint, NULL, &err),
            DELTA_MISMATCH);
        assert_non_null(strstr(err.text, rows[i].text));
    }
    const struct delta_arch_hint right = {.name = "resnet18", .width = 16, .side = 48};
    assert_ok(delta_safetensors_decode_as(&back, delta_buf_bytes(&file), &right, NULL, &err));
    assert_int_equal(back.arch.height, 48);
    delta_buf_release(&file);
    delta_model_release(&back);
    delta_model_release(&model);
}

static void unknown_descriptions_are_refused(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_arch arch;

    (void)state;
    assert_status(learner_network_arch(&arch, "resnet19", NULL, 0, 3, 32, 32, &err),
                  DELTA_UNSUPPORTED);
    assert_non_null(strstr(err.text, "known: resnet18, resnet20, mobilenet_v2"));
    assert_status(learner_network_arch(&arch, "resnet20", "imagenet", 0, 3, 32, 32, &err),
                  DELTA_UNSUPPORTED);
    assert_string_equal(err.text, "resnet20 has no stem 'imagenet'; known: cifar");
    assert_status(learner_network_arch(&arch, "resnet18", "cifar", 5000, 3, 32, 32, &err),
                  DELTA_LIMIT);
    assert_status(learner_network_arch(&arch, "resnet18", "cifar", 16, 3, 5000, 32, &err),
                  DELTA_LIMIT);
}

/* ---- the whole way of a class, on a tiny version ---- */

#define OLD 3

static const struct fixture_row tiny[] = {{"resnet18", "imagenet", 3, 32},
                                          {"resnet20", "cifar", 3, 32},
                                          {"mobilenet_v2", "cifar", 10, 32},
                                          {"mobilenet_v2", "imagenet", 10, 32}};

static void travel(const struct delta_model *base, const struct delta_model *target)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model back = DELTA_MODEL_INIT, loaded = DELTA_MODEL_INIT;
    struct delta_digest want, have;
    struct delta_reader reader;
    struct delta_buf file;
    const char *path = harness_path(&scratch, "grown.flm");

    assert_ok(delta_diff(base, target, &(struct delta_options){0}, &file, &err));
    assert_ok(delta_reader_init(&reader, delta_buf_bytes(&file), &err));
    assert_ok(delta_apply(base, &reader, &back, &err));
    assert_ok(delta_model_digest(target, &want, &err));
    assert_ok(delta_model_digest(&back, &have, &err));
    assert_true(delta_digest_equal(&want, &have));
    assert_ok(delta_model_save(target, path, &err));
    assert_ok(delta_model_load_any(&loaded, path, &have, NULL, &err));
    assert_true(delta_digest_equal(&want, &have));
    delta_reader_release(&reader);
    delta_buf_release(&file);
    delta_model_release(&back);
    delta_model_release(&loaded);
}

static void learn(const struct delta_model *base, const struct learner_samples *fresh,
                  const struct learner_exemplars *exemplars, const char *method)
{
    struct learner_increment_options options = learner_increment_defaults(method);
    const struct learner_budget budget = {.seed = 5, .threads = 2};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model grown = DELTA_MODEL_INIT;
    struct delta_tensor *weight, *before;
    struct learner_report report;

    options.max_old_drop = 1;
    options.min_new_recall = 0;
    options.epochs_new = options.epochs_tune = 1;
    assert_ok(learner_increment(&grown, base, fresh, exemplars, &options, &budget, &report, &err));
    assert_ok(delta_model_head(&grown, &weight, NULL, &err));
    assert_ok(delta_model_head(base, &before, NULL, &err));
    assert_int_equal(weight->shape[0], OLD + 1);
    double moved = 0;
    for (size_t i = before->count; i < weight->count; i++)
        moved += fabs((double)weight->data[i]);
    assert_true(moved > 0);
    for (size_t t = 0; t < base->tensor_count; t++) {
        const struct delta_tensor *was = &base->tensors[t];
        const struct delta_tensor *is = delta_model_find(&grown, was->name);
        for (size_t i = 0; i < was->count; i++)
            if (delta_tensor_is_frozen(was, i))
                assert_memory_equal(&was->data[i], &is->data[i], sizeof(float));
    }
    assert_true(strcmp(method, "freeze") != 0 || report.live_changed > 0);
    travel(base, &grown);
    delta_model_release(&grown);
}

static void every_network_learns_and_travels(void **state)
{
    const struct learner_budget budget = {.seed = 5, .threads = 2};
    const struct learner_pretrain_options options = {
        .epochs = 1, .batch = 16, .lr = 0.02, .momentum = 0.9};
    struct learner_samples all = LEARNER_SAMPLES_INIT, old = LEARNER_SAMPLES_INIT,
                           fresh = LEARNER_SAMPLES_INIT;
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    assert_ok(learner_samples_open(&all, "synthetic:classes=4,train=24,test=4", LEARNER_SPLIT_TRAIN,
                                   &err));
    assert_ok(learner_samples_select(&old, &all, all.classes, OLD, 0, &err));
    assert_ok(learner_samples_select(&fresh, &all, all.classes + OLD, 1, 0, &err));
    for (size_t i = 0; i < sizeof tiny / sizeof *tiny; i++) {
        struct learner_exemplars exemplars = {0};
        struct delta_model base = DELTA_MODEL_INIT;
        struct delta_arch arch;
        size_t bitmaps = 0, depthwise = 0;
        assert_ok(learner_network_arch(&arch, tiny[i].arch, tiny[i].stem, tiny[i].width, 3,
                                       tiny[i].side, tiny[i].side, &err));
        assert_ok(learner_net_init_model(&base, &arch, old.classes, OLD, 2, &err));
        assert_ok(learner_pretrain(&base, &old, &options, &budget, &err));
        assert_ok(learner_freeze_plan(&base, &old, 0.8, &budget, &err));
        for (size_t t = 0; t < base.tensor_count; t++) {
            const struct delta_tensor *tensor = &base.tensors[t];
            bitmaps += tensor->freeze.mode == DELTA_FREEZE_WEIGHTS;
            if (tensor->rank == 4 && tensor->shape[1] == 1) {
                depthwise++;
                assert_int_equal(tensor->freeze.mode, DELTA_FREEZE_WEIGHTS);
            }
        }
        assert_int_equal(bitmaps, i == 0 ? 20 : i == 1 ? 21 : 52); /* convolutions */
        assert_int_equal(depthwise, i < 2 ? 0 : 17);
        assert_ok(learner_exemplars_choose(&exemplars, &base, &old, 5, 5, 1, &err));
        learn(&base, &fresh, &exemplars, "freeze");
        learn(&base, &fresh, &exemplars, "frostline");
        learner_exemplars_release(&exemplars);
        delta_model_release(&base);
    }
    learner_samples_release(&all);
    learner_samples_release(&old);
    learner_samples_release(&fresh);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(networks_are_those_of_torchvision),
        cmocka_unit_test(heads_begin_as_torchvisions_do),
        cmocka_unit_test(every_network_is_known_by_its_tensors),
        cmocka_unit_test(wrong_hints_name_tensor_and_shapes),
        cmocka_unit_test(unknown_descriptions_are_refused),
        cmocka_unit_test(every_network_learns_and_travels),
    };
    harness_scratch_make(&scratch);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    harness_scratch_remove(&scratch);
    return failed;
}
