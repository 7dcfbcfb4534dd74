#include "bench_net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

double bench_net_live_flops(const struct bench_net *bench)
{
    const struct learner_net *net = bench->net;
    double sum = 0;

    for (size_t i = bench->prefix ? net->forward_live : 0; i < net->forward.count; i++)
        sum += bench_op_flops(&net->forward.items[i]);
    for (size_t i = 0; i < net->backward.count; i++) {
        const struct learner_op *op = &net->backward.items[i];
        const double share = op->live ? (double)op->live_count / (double)op->out.c : 1;
        sum += bench_op_flops(op) * ((op->dx ? 1 : 0) + (op->dweight ? share : 0));
    }
    return sum;
}

static enum delta_status freeze(struct delta_model *plan, const char *name, const char *what,
                                double share, struct delta_error *err)
{
    char full[DELTA_TENSOR_NAME_MAX + 1];

    snprintf(full, sizeof full, "%s.%s", name, what);
    struct delta_tensor *tensor = delta_model_find(plan, full);
    if (!tensor)
        return delta_fail(err, DELTA_INTERNAL, "there is no tensor '%s'", full);
    if (share >= 1)
        return delta_tensor_set_freeze(tensor, DELTA_FREEZE_ALL, NULL, 0, err);
    const size_t filters = (size_t)tensor->shape[0];
    uint8_t *bits = delta_calloc(filters / 8 + 1, 1);
    if (!bits)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for a freeze plan");
    for (size_t f = 0; f < filters; f++)
        if ((size_t)((double)(f + 1) * share) > (size_t)((double)f * share))
            bits[f / 8] |= (uint8_t)(1u << f % 8);
    const enum delta_status st =
        delta_tensor_set_freeze(tensor, DELTA_FREEZE_ROWS, bits, filters, err);
    free(bits);
    return st;
}

static enum delta_status make_plan(struct delta_model *plan, const char *live_from, double share,
                                   struct delta_error *err)
{
    static const char *const norm[] = {"weight", "bias", "running_mean", "running_var"};
    static struct learner_layers layers;
    bool live = false;
    enum delta_status st = learner_arch_layers(&layers, &plan->arch, plan->class_count, err);

    for (size_t l = 0; !st && l < layers.count; l++) {
        const struct learner_layer *layer = &layers.items[l];
        live |= !strncmp(layer->name, live_from, strlen(live_from));
        if (layer->kind != LEARNER_LAYER_CONV)
            continue;
        if (!live || share > 0)
            st = freeze(plan, layer->name, "weight", live ? share : 1, err);
        for (size_t i = 0; !st && i < sizeof norm / sizeof *norm; i++)
            st = freeze(plan, layer->norm, norm[i], 1, err);
    }
    return st || live
               ? st
               : delta_fail(err, DELTA_NOT_FOUND, "no layer's name begins with '%s'", live_from);
}

/* What the frozen layers make of the images, once. */
static enum delta_status keep_prefix(struct bench_net *bench, struct delta_error *err)
{
    struct learner_net *net = bench->net;
    const size_t count = learner_net_prefix_count(net);

    if (!count)
        return DELTA_OK;
    bench->prefix = delta_calloc(net->batch * count, sizeof *bench->prefix);
    bench->records = delta_calloc(net->batch, sizeof *bench->records);
    if (!bench->prefix || !bench->records)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for the cached prefix");
    const enum delta_status st = learner_net_forward(net, net->batch, LEARNER_TRAIN_EVAL, err);
    if (!st)
        learner_net_prefix_read(net, bench->prefix, net->batch);
    for (size_t i = 0; i < net->batch; i++)
        bench->records[i] = bench->prefix + i * count;
    return st;
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
    struct learner_net_options net_options = {.device = options->device,
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
    if (!st && options->live_from) {
        st = make_plan(&model, options->live_from, options->frozen, err);
        net_options.plan = &model;
    }
    if (!st)
        st = learner_net_new(&out->net, &model, &net_options, err);
    if (!st && options->live_from) {
        out->plan = model;
        return DELTA_OK;
    }
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
        st =
            learner_sgd_new(&out->sgd, out->net, options->live_from ? &out->plan : NULL, &sgd, err);
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
    if (options->live_from)
        st = keep_prefix(out, err);
    if (st)
        bench_net_release(out);
    return st;
}

void bench_net_release(struct bench_net *bench)
{
    learner_sgd_free(bench->sgd);
    learner_net_free(bench->net);
    delta_model_release(&bench->plan);
    free(bench->labels);
    free(bench->prefix);
    free(bench->records);
    *bench = (struct bench_net){0};
}

enum delta_status bench_net_run(struct bench_net *bench, struct delta_error *err)
{
    struct learner_net *net = bench->net;
    struct learner_loss_sum sum;
    const enum learner_mode mode = !bench->train              ? LEARNER_INFER
                                   : bench->plan.tensor_count ? LEARNER_TRAIN_EVAL
                                                              : LEARNER_TRAIN;
    enum delta_status st =
        bench->prefix ? learner_net_forward_from(net, bench->records, net->batch, mode, err)
                      : learner_net_forward(net, net->batch, mode, err);

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
