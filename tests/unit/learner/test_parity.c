/* The engine against PyTorch: logits, gradients and accuracy of the reference network. Everything
 * here needs the reference files beside the project and SKIPs without them. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "delta/safetensors.h"
#include "fixture.h"
#include "learner/learn.h"
#include "learner/loss.h"

#define RECORDS 64
#define RECORD_BYTES 3074
#define FINE_LABEL 1
#define PIXELS 3072

struct reference {
    struct delta_model model;
    struct delta_safetensors_info info;
    const char *data_dir;
};

static bool reference_open(struct reference *reference)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const char *path = harness_shared("models/resnet18-w16-c90.safetensors");

    memset(reference, 0, sizeof *reference);
    reference->data_dir = harness_shared("data/cifar-100-binary");
    if (!path || !reference->data_dir)
        return false;
    assert_ok(delta_safetensors_load(&reference->model, path, &reference->info, &err));
    assert_int_equal(reference->info.label_count, 90);
    return true;
}

static void reference_close(struct reference *reference)
{
    delta_model_release(&reference->model);
    delta_safetensors_info_release(&reference->info);
}

/* The first `count` records of a CIFAR-100 file (those of known classes only, where labels are
 * wanted) as network input. */
static void read_records(const struct reference *reference, const char *name, size_t count,
                         float *input, int32_t *labels)
{
    char path[600];
    uint8_t record[RECORD_BYTES];
    size_t got = 0;

    snprintf(path, sizeof path, "%s/%s", reference->data_dir, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    while (got < count && fread(record, 1, sizeof record, file) == sizeof record) {
        int32_t output = -1;
        for (size_t k = 0; k < reference->info.label_count; k++)
            if (reference->info.labels[k] == record[FINE_LABEL])
                output = (int32_t)k;
        if (labels && output < 0)
            continue;
        if (labels)
            labels[got] = output;
        for (size_t p = 0; p < PIXELS; p++)
            input[got * PIXELS + p % 1024 * 3 + p / 1024] =
                (float)((record[2 + p] / 255.0 - reference->model.arch.mean[p / 1024]) /
                        reference->model.arch.std[p / 1024]);
        got++;
    }
    fclose(file);
    assert_int_equal(got, count);
}

static void check_logits(const struct reference *reference, const char *device, size_t images,
                         enum learner_mode mode)
{
    static float wanted[RECORDS * 90];
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    const char *path = harness_shared("models/resnet18-w16-c90.logits.bin");
    double worst = 0;

    assert_non_null(path);
    assert_ok(delta_file_read(path, sizeof wanted, &file, &err));
    assert_int_equal(file.len, sizeof wanted);
    memcpy(wanted, file.data, sizeof wanted);
    delta_buf_release(&file);
    struct learner_net *net =
        fixture_net(&reference->model, device, images, 0, mode != LEARNER_INFER);
    read_records(reference, "test.bin", images, learner_net_input(net), NULL);
    assert_ok(learner_net_forward(net, images, mode, &err));
    for (size_t i = 0; i < images * 90; i++)
        worst = fmax(worst, fabs((double)learner_net_logits(net)[i] - wanted[i]));
    print_message("%s, mode %d: %zu images, largest difference of a logit %.3g\n", device,
                  (int)mode, images, worst);
    assert_true(worst <= 1e-3);
    learner_net_free(net);
}

static void logits_are_those_of_pytorch(void **state)
{
    struct reference reference;

    (void)state;
    if (!reference_open(&reference))
        skip();
    check_logits(&reference, "ref", 4, LEARNER_INFER);
    check_logits(&reference, "blas", RECORDS, LEARNER_INFER);
    check_logits(&reference, "blas", RECORDS, LEARNER_TRAIN_EVAL);
    reference_close(&reference);
}

static void check_gradient(const struct learner_param *param, const json_t *wanted)
{
    const double wanted_norm = json_number_value(json_object_get(wanted, "grad_l2"));
    const double wanted_first = json_number_value(json_object_get(wanted, "grad_first"));
    double norm = 0;

    assert_true(wanted_norm > 0);
    for (size_t i = 0; i < param->count; i++)
        norm += (double)param->grad[i] * param->grad[i];
    norm = sqrt(norm);
    if (!(fabs(norm - wanted_norm) <= 1e-3 * wanted_norm))
        fail_msg("'%s': norm %.9g, wanted %.9g", param->name, norm, wanted_norm);
    /* a first element that happens to be near zero is measured against the typical element */
    const double typical = wanted_norm / sqrt((double)param->count);
    const double scale = fmax(fabs(wanted_first), typical);
    if (!(fabs(param->grad[0] - wanted_first) <= 1e-3 * scale))
        fail_msg("'%s': first %.9g, wanted %.9g", param->name, param->grad[0], wanted_first);
}

static void check_gradients(const struct reference *reference, const char *device)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const char *path = harness_shared("models/resnet18-w16-c90.grads.json");
    json_error_t json_error;
    int32_t labels[RECORDS];
    size_t checked = 0;

    assert_non_null(path);
    json_t *wanted = json_load_file(path, 0, &json_error);
    assert_non_null(wanted);
    struct learner_net *net = fixture_net(&reference->model, device, RECORDS, 0, true);
    read_records(reference, "train.bin", RECORDS, learner_net_input(net), labels);
    assert_ok(learner_net_forward(net, RECORDS, LEARNER_TRAIN_EVAL, &err));
    learner_loss_ce(learner_net_logits(net), labels, NULL, RECORDS, 90, 1,
                    learner_net_logits_grad(net));
    assert_ok(learner_net_backward(net, RECORDS, &err));
    for (size_t i = 0; i < learner_net_param_count(net); i++) {
        const struct learner_param *param = learner_net_param(net, i);
        if (!param->grad)
            continue;
        const json_t *entry = json_object_get(wanted, param->name);
        assert_non_null(entry);
        check_gradient(param, entry);
        checked++;
    }
    assert_int_equal(checked, json_object_size(wanted));
    json_decref(wanted);
    learner_net_free(net);
}

static void gradients_are_those_of_pytorch(void **state)
{
    struct reference reference;

    (void)state;
    if (!reference_open(&reference))
        skip();
    check_gradients(&reference, "blas");
    reference_close(&reference);
}

/* 64 images of plain loops take too long for a test; a few link ref to blas, and so to PyTorch. */
static void gradients_of_ref_are_those_of_blas(void **state)
{
    enum { FEW = 3 };
    static const char *const devices[] = {"ref", "blas"};
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_net *nets[2];
    struct reference reference;
    int32_t labels[FEW];

    (void)state;
    if (!reference_open(&reference))
        skip();
    for (int d = 0; d < 2; d++) {
        nets[d] = fixture_net(&reference.model, devices[d], FEW, 0, true);
        read_records(&reference, "train.bin", FEW, learner_net_input(nets[d]), labels);
        assert_ok(learner_net_forward(nets[d], FEW, LEARNER_TRAIN_EVAL, &err));
        learner_loss_ce(learner_net_logits(nets[d]), labels, NULL, FEW, 90, 1,
                        learner_net_logits_grad(nets[d]));
        assert_ok(learner_net_backward(nets[d], FEW, &err));
    }
    for (size_t i = 0; i < learner_net_param_count(nets[0]); i++) {
        const struct learner_param *a = learner_net_param(nets[0], i);
        const struct learner_param *b = learner_net_param(nets[1], i);
        if (a->grad && !(fixture_distance(b->grad, a->grad, a->count) <= 1e-3))
            fail_msg("'%s' differs", a->name);
    }
    learner_net_free(nets[0]);
    learner_net_free(nets[1]);
    reference_close(&reference);
}

static void accuracy_is_that_of_pytorch(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_samples all = LEARNER_SAMPLES_INIT, known = LEARNER_SAMPLES_INIT;
    struct learner_scores scores = {0};
    struct learner_budget budget = {.device = "blas"};
    struct reference reference;

    (void)state;
    if (!reference_open(&reference))
        skip();
    assert_ok(learner_samples_open(&all, reference.data_dir, LEARNER_SPLIT_TEST, &err));
    assert_int_equal(all.count, 10000);
    for (size_t k = 0; k < 90; k++)
        reference.model.classes[k] = all.classes[reference.info.labels[k]];
    assert_ok(learner_samples_select(&known, &all, reference.model.classes, 90, 0, &err));
    assert_ok(learner_evaluate(&scores, &reference.model, &known, &budget, &err));
    const double top1 = 100.0 * (double)scores.correct / (double)scores.images;
    print_message("top-1 %.3f %% of %zu images in %.2f s\n", top1, scores.images, scores.seconds);
    assert_int_equal(scores.images, 9000);
    assert_true(fabs(top1 - 64.26) <= 0.05);
    for (size_t k = 0; k < 90; k++)
        assert_int_equal(scores.classes[k].images, 100);
    learner_scores_release(&scores);
    learner_samples_release(&known);
    learner_samples_release(&all);
    reference_close(&reference);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_pytorch),
        cmocka_unit_test(gradients_are_those_of_pytorch),
        cmocka_unit_test(gradients_of_ref_are_those_of_blas),
        cmocka_unit_test(accuracy_is_that_of_pytorch),
    };

    /* Nothing here runs without the reference: CTest shall say SKIP, not "passed". */
    if (!harness_shared("models/resnet18-w16-c90.safetensors") ||
        !harness_shared("data/cifar-100-binary/test.bin"))
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
