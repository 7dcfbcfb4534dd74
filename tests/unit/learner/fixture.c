#include "fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "rng.h"

static void stir_norm(struct delta_tensor *tensor, struct learner_rng *rng)
{
    const char *part = strrchr(tensor->name, '.');
    const bool is_shift = !strcmp(part, ".bias") || !strcmp(part, ".running_mean");

    for (size_t i = 0; i < tensor->count; i++)
        tensor->data[i] = (float)(is_shift ? learner_rng_between(rng, -0.3, 0.3)
                                           : learner_rng_between(rng, 0.6, 1.4));
}

const struct fixture_row fixture_rows[] = {{"resnet18", "cifar", 3, 8},
                                           {"resnet18", "imagenet", 3, 21},
                                           {"resnet20", "cifar", 5, 9},
                                           {"mobilenet_v2", "cifar", 10, 11},
                                           {"mobilenet_v2", "imagenet", 10, 21}};
const size_t fixture_row_count = sizeof fixture_rows / sizeof *fixture_rows;

void fixture_network(struct delta_model *out, const struct fixture_row *row, size_t classes,
                     uint64_t seed)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_class_id ids[64];
    struct delta_arch arch = {.width = row->width,
                              .channels = 3,
                              .height = row->side,
                              .image_width = row->side,
                              .mean = {0.5, 0.5, 0.5},
                              .std = {0.25, 0.25, 0.25}};
    struct delta_tensor *bias;
    struct learner_rng rng;

    assert_in_range(classes, 1, 64);
    snprintf(arch.name, sizeof arch.name, "%s", row->arch);
    snprintf(arch.stem, sizeof arch.stem, "%s", row->stem);
    for (size_t i = 0; i < classes; i++)
        snprintf(ids[i].text, sizeof ids[i].text, "class-%zu", i);
    assert_ok(learner_net_init_model(out, &arch, ids, classes, seed, &err));
    assert_ok(delta_model_head(out, NULL, &bias, &err));
    learner_rng_init(&rng, seed, 99);
    for (size_t i = 0; i < out->tensor_count; i++)
        if (out->tensors[i].rank == 1 && &out->tensors[i] != bias)
            stir_norm(&out->tensors[i], &rng);
}

void fixture_model(struct delta_model *out, uint32_t width, uint32_t side, size_t classes,
                   uint64_t seed)
{
    const struct fixture_row row = {"resnet18", "cifar", width, side};

    fixture_network(out, &row, classes, seed);
}

struct learner_net *fixture_net(const struct delta_model *model, const char *device, size_t batch,
                                int threads, bool train)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const struct learner_net_options options = {
        .device = device, .batch = batch, .threads = threads, .train = train};
    struct learner_net *net = NULL;

    assert_ok(learner_net_new(&net, model, &options, &err));
    return net;
}

void fixture_fill(float *data, size_t count, uint64_t seed)
{
    struct learner_rng rng;

    learner_rng_init(&rng, seed, 0);
    for (size_t i = 0; i < count; i++)
        data[i] = (float)learner_rng_normal(&rng);
}

size_t fixture_input_count(const struct delta_model *model)
{
    return (size_t)model->arch.channels * model->arch.height * model->arch.image_width;
}

double fixture_distance(const float *a, const float *b, size_t count)
{
    double difference = 0, size = 0;

    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    return sqrt(difference) / (size > 1e-20 ? sqrt(size) : 1);
}
