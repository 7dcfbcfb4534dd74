#include "bench_net.h"

#include <stdio.h>
#include <stdlib.h>

#include "net_device.h"
#include "rng.h"

const struct bench_net_row bench_nets[] = {{"resnet18", 64, "ResNet-18 w64"},
                                           {"mobilenet_v2", 100, "MobileNetV2 x1.0"},
                                           {"resnet18", 16, "ResNet-18 w16"}};
const size_t bench_net_count = sizeof bench_nets / sizeof *bench_nets;

double bench_op_flops(const struct learner_op *op)
{
    const double area = (double)op->out.h * (double)op->out.w;

    if (op->kind == LEARNER_OP_LINEAR)
        return 2.0 * (double)(op->in.c * op->out.c);
    if (op->kind != LEARNER_OP_CONV && op->kind != LEARNER_OP_CONV_NORM)
        return 0;
    return 2 * area * (double)(op->out.c * (op->in.c / op->groups) * op->kernel * op->kernel);
}

double bench_net_flops(const struct bench_net *bench)
{
    const struct learner_net *net = bench->net;
    double sum = 0;

    for (size_t i = 0; i < net->forward.count; i++)
        sum += bench_op_flops(&net->forward.items[i]);
    return bench->train ? 3 * sum - bench_op_flops(&net->forward.items[0]) : sum;
}

static enum delta_status build_net(struct bench_net *out, const struct bench_net_options *options,
                                   struct delta_error *err)
{
    const struct delta_arch proto = {.stem = "cifar",
                                     .width = options->width,
                                     .channels = 3,
                                     .height = (uint32_t)options->side,
                                     .image_width = (uint32_t)options->side,
                                     .mean = {0.5, 0.5, 0.5},
                                     .std = {0.25, 0.25, 0.25}};
    const struct learner_net_options net_options = {.device = options->device,
                                                    .batch = options->batch,
                                                    .threads = options->threads,
                                                    .train = options->train};
    static struct delta_class_id ids[BENCH_CLASSES_MAX];
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_arch arch = proto;

    snprintf(arch.name, sizeof arch.name, "%s", options->name);
    for (size_t k = 0; k < options->classes; k++)
        snprintf(ids[k].text, sizeof ids[k].text, "class-%zu", k);
    enum delta_status st = learner_net_init_model(&model, &arch, ids, options->classes, 1, err);
    if (!st)
        st = learner_net_new(&out->net, &model, &net_options, err);
    delta_model_release(&model);
    return st;
}

enum delta_status bench_net_init(struct bench_net *out, const struct bench_net_options *options,
                                 struct delta_error *err)
{
    const struct learner_sgd_options sgd = {
        .momentum = 0.9, .weight_decay = 5e-4, .nesterov = true};
    struct learner_rng rng;

    *out = (struct bench_net){.train = options->train};
    enum delta_status st = build_net(out, options, err);
    if (!st && options->train)
        st = learner_sgd_new(&out->sgd, out->net, NULL, &sgd, err);
    out->labels = delta_calloc(options->batch, sizeof *out->labels);
    if (!st && !out->labels)
        st = delta_fail(err, DELTA_NO_MEMORY, "no memory for %zu labels", options->batch);
    if (st) {
        bench_net_release(out);
        return st;
    }
    learner_rng_init(&rng, 1, 0);
    const size_t count = options->batch * learner_shape_count(&out->net->layers.items[0].in);
    for (size_t i = 0; i < count; i++)
        learner_net_input(out->net)[i] = (float)learner_rng_normal(&rng);
    for (size_t i = 0; i < options->batch; i++)
        out->labels[i] = (int32_t)(i % options->classes);
    return DELTA_OK;
}

void bench_net_release(struct bench_net *bench)
{
    learner_sgd_free(bench->sgd);
    learner_net_free(bench->net);
    free(bench->labels);
    *bench = (struct bench_net){0};
}

enum delta_status bench_net_run(struct bench_net *bench, struct delta_error *err)
{
    struct learner_net *net = bench->net;
    struct learner_loss_sum sum;
    enum delta_status st =
        learner_net_forward(net, net->batch, bench->train ? LEARNER_TRAIN : LEARNER_INFER, err);

    if (st || !bench->train)
        return st;
    net->stage.input_there = true; /* on a GPU the images stay there, as PyTorch's do */
    learner_net_loss(net, &(struct learner_loss){.labels = bench->labels, .scale = 1}, net->batch,
                     &sum);
    st = learner_net_backward(net, net->batch, err);
    if (st)
        return st;
    learner_sgd_step(bench->sgd, 0.01);
    return learner_device_sync(net->device, err);
}
