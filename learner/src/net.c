/* The net's public face: parameters and their names, forward, backward, import and export.
 * Order of layers and memory: graph.c. Arithmetic: device/. Architectures: arch.c. */
#include "learner/net.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph.h"
#include "net_device.h"
#include "rng.h"

#define BATCH_DEFAULT 64
#define BATCH_MAX 65536
#define ALIGN_FLOATS 16

/* A parameter before it has memory. */
struct param_spec {
    char name[DELTA_TENSOR_NAME_MAX + 1];
    uint32_t rank;
    uint64_t shape[DELTA_TENSOR_RANK_MAX];
    bool learns, decays;
    enum { FILL_NORMAL, FILL_UNIFORM, FILL_ONE, FILL_ZERO } fill;
    double fill_scale; /* standard deviation, or bound */
};

static size_t norm_specs(const struct learner_layer *layer, struct param_spec *out)
{
    static const char *const parts[] = {"weight", "bias", "running_mean", "running_var"};

    for (size_t i = 0; i < 4; i++) {
        snprintf(out[i].name, sizeof out[i].name, "%s.%s", layer->norm, parts[i]);
        out[i].rank = 1;
        out[i].shape[0] = layer->out.c;
        out[i].learns = i < 2;
        out[i].fill = i == 0 || i == 3 ? FILL_ONE : FILL_ZERO;
    }
    return 4;
}

static size_t layer_specs(const struct learner_layer *layer,
                          struct param_spec out[LEARNER_LAYER_PARAMS])
{
    memset(out, 0, LEARNER_LAYER_PARAMS * sizeof *out);
    if (layer->kind == LEARNER_LAYER_POOL || layer->kind == LEARNER_LAYER_MAX_POOL)
        return 0;
    snprintf(out[0].name, sizeof out[0].name, "%s.weight", layer->name);
    out[0].learns = out[0].decays = true;
    out[0].shape[0] = layer->out.c;
    out[0].shape[1] = layer->in.c / layer->groups;
    if (layer->kind == LEARNER_LAYER_CONV) {
        out[0].rank = 4;
        out[0].shape[2] = out[0].shape[3] = layer->kernel;
        out[0].fill = FILL_NORMAL;
        out[0].fill_scale =
            sqrt(2.0 / (double)(layer->out.c * layer->kernel * layer->kernel)); /* fan out */
        return 1 + norm_specs(layer, out + 1);
    }
    out[0].rank = 2;
    out[0].fill = layer->init_std > 0 ? FILL_NORMAL : FILL_UNIFORM;
    out[1].fill = layer->init_std > 0 ? FILL_ZERO : FILL_UNIFORM;
    out[0].fill_scale = out[1].fill_scale =
        layer->init_std > 0 ? layer->init_std : 1.0 / sqrt((double)layer->in.c);
    snprintf(out[1].name, sizeof out[1].name, "%s.bias", layer->name);
    out[1].rank = 1;
    out[1].shape[0] = layer->out.c;
    out[1].learns = true;
    return 2;
}

static void shape_text(char *out, size_t size, uint32_t rank, const uint64_t *shape)
{
    size_t used = (size_t)snprintf(out, size, "[");

    for (uint32_t i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%llu", i ? ", " : "",
                                 (unsigned long long)shape[i]);
    if (used < size)
        snprintf(out + used, size - used, "]");
}

static enum delta_status check_tensor(const struct delta_tensor *tensor, const char *name,
                                      uint32_t rank, const uint64_t *shape, struct delta_error *err)
{
    char wanted[96], found[96];

    shape_text(wanted, sizeof wanted, rank, shape);
    if (!tensor)
        return delta_fail(err, DELTA_MISMATCH, "tensor '%s' is missing; wanted %s", name, wanted);
    if (tensor->rank == rank && !memcmp(tensor->shape, shape, rank * sizeof *shape))
        return DELTA_OK;
    shape_text(found, sizeof found, tensor->rank, tensor->shape);
    return delta_fail(err, DELTA_MISMATCH, "tensor '%s': wanted shape %s, found %s", name, wanted,
                      found);
}

static size_t aligned(size_t count)
{
    return (count + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
}

/* Lists every parameter with its place in the block; checks the model before memory is taken. */
static enum delta_status list_params(struct learner_net *net, const struct delta_model *model,
                                     struct delta_error *err)
{
    struct param_spec specs[LEARNER_LAYER_PARAMS];
    const size_t room = net->layers.count * LEARNER_LAYER_PARAMS;

    net->params = delta_calloc(room, sizeof *net->params);
    net->names = delta_calloc(room, sizeof *net->names);
    if (!net->params || !net->names)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for the parameters of a network");
    for (size_t l = 0; l < net->layers.count; l++) {
        const size_t count = layer_specs(&net->layers.items[l], specs);
        net->first_param[l] = net->param_count;
        for (size_t i = 0; i < count; i++) {
            const struct delta_tensor *tensor = delta_model_find(model, specs[i].name);
            const enum delta_status st =
                check_tensor(tensor, specs[i].name, specs[i].rank, specs[i].shape, err);
            if (st)
                return st;
            struct learner_param *param = &net->params[net->param_count];
            memcpy(net->names[net->param_count], specs[i].name, sizeof specs[i].name);
            param->name = net->names[net->param_count++];
            param->count = tensor->count;
            param->rank = specs[i].rank;
            memcpy(param->shape, specs[i].shape, sizeof param->shape);
            param->decays = specs[i].decays;
            net->value_count += aligned(tensor->count);
        }
    }
    return DELTA_OK;
}

static bool is_statistic(const char *name)
{
    const char *last = strrchr(name, '.');

    return last && !strncmp(last, ".running_", 9);
}

/* Whether a gradient is computed for this parameter of layer l. */
static bool learns(const struct learner_net *net, const struct learner_param *param, size_t l)
{
    if (!net->train || is_statistic(param->name))
        return false;
    /* of a convolution the first parameter is its weight, the others are its norm's */
    if (net->layers.items[l].kind == LEARNER_LAYER_CONV &&
        param != &net->params[net->first_param[l]])
        return !net->live[l].folded;
    return net->live[l].weight;
}

static size_t layer_of(const struct learner_net *net, size_t param)
{
    size_t l = 0;

    while (l + 1 < net->layers.count && net->first_param[l + 1] <= param)
        l++;
    return l;
}

static enum delta_status place_params(struct learner_net *net, const struct delta_model *model,
                                      struct delta_error *err)
{
    const struct learner_device_ops *device = net->device->ops;
    size_t at = 0, grad_at = 0;

    for (size_t i = 0; i < net->param_count; i++)
        if (learns(net, &net->params[i], layer_of(net, i)))
            net->grad_count += aligned(net->params[i].count);
    if (net->dry) {
        net->values = LEARNER_NO_MEMORY_BEHIND;
        net->grads = net->grad_count ? LEARNER_NO_MEMORY_BEHIND : NULL;
    } else {
        net->values = device->alloc(net->device, net->value_count * sizeof(float));
        net->grads =
            net->grad_count ? device->alloc(net->device, net->grad_count * sizeof(float)) : NULL;
    }
    if (!net->values || (net->grad_count && !net->grads))
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for %zu parameters", net->value_count);
    for (size_t i = 0; i < net->param_count; i++) {
        struct learner_param *param = &net->params[i];
        param->data = net->values + at;
        if (!net->dry)
            learner_device_upload(net->device, param->data,
                                  delta_model_find(model, param->name)->data,
                                  param->count * sizeof(float));
        at += aligned(param->count);
        if (!learns(net, param, layer_of(net, i)))
            continue;
        param->grad = net->grads + grad_at;
        grad_at += aligned(param->count);
    }
    return DELTA_OK;
}

static enum delta_status build(struct learner_net **out, const struct delta_model *model,
                               const struct learner_net_options *options, bool dry,
                               struct delta_error *err)
{
    enum delta_status st = DELTA_INTERNAL;
    struct learner_net *net = delta_calloc(1, sizeof *net);

    if (!net)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for a network");
    net->arch = model->arch;
    net->batch = options->batch ? options->batch : BATCH_DEFAULT;
    net->train = options->train;
    net->dry = dry;
    net->weights_version = 1;
    net->class_count = model->class_count;
    if (net->batch > BATCH_MAX) {
        st = delta_fail(err, DELTA_LIMIT, "batch of %zu images; at most %d", net->batch, BATCH_MAX);
        goto done;
    }
    st = learner_arch_layers(&net->layers, &model->arch, model->class_count, err);
    if (!st && net->train)
        st = learner_live_find(net->live, &net->first_live, &net->layers, options->plan, err);
    for (size_t l = 0; l < net->layers.count; l++)
        net->fixed_norms |= net->live[l].folded;
    if (!st)
        st = list_params(net, model, err);
    if (!st)
        st = learner_device_open(&net->device, options->device, options->threads, err);
    if (!st)
        st = place_params(net, model, err);
    if (!st)
        st = learner_graph_build(net, err);
    if (!st)
        st = learner_net_stage_new(net, err);
done:
    if (st)
        learner_net_free(net);
    else
        *out = net;
    return st;
}

enum delta_status learner_net_new(struct learner_net **out, const struct delta_model *model,
                                  const struct learner_net_options *options,
                                  struct delta_error *err)
{
    return build(out, model, options, false, err);
}

enum delta_status learner_net_plan_bytes(size_t *bytes, size_t *prefix,
                                         const struct delta_model *model,
                                         const struct learner_net_options *options,
                                         struct delta_error *err)
{
    struct learner_net *net = NULL;
    const enum delta_status st = build(&net, model, options, true, err);

    if (!st)
        *bytes = learner_net_memory_bytes(net);
    if (!st && prefix)
        *prefix = learner_net_prefix_count(net);
    learner_net_free(net);
    return st;
}

void learner_net_free(struct learner_net *net)
{
    if (!net)
        return;
    if (net->device) {
        const struct learner_device_ops *device = net->device->ops;
        learner_graph_release(net);
        learner_net_stage_release(net);
        if (net->values && !net->dry)
            device->release(net->device, net->values);
        if (net->grads && !net->dry)
            device->release(net->device, net->grads);
        device->close(net->device);
    }
    learner_live_release(net->live, net->layers.count);
    free(net->params);
    free(net->names);
    free(net);
}

const char *learner_net_device(const struct learner_net *net)
{
    return net->device->ops->name;
}

const char *learner_net_precision(const struct learner_net *net)
{
    return net->device->precision ? net->device->precision : "fp32";
}

size_t learner_net_batch(const struct learner_net *net)
{
    return net->batch;
}

size_t learner_net_class_count(const struct learner_net *net)
{
    return net->class_count;
}

size_t learner_net_feature_count(const struct learner_net *net)
{
    return net->layers.items[net->layers.count - 1].in.c;
}

size_t learner_net_param_count(const struct learner_net *net)
{
    return net->param_count;
}

struct learner_param *learner_net_param(struct learner_net *net, size_t index)
{
    return index < net->param_count ? &net->params[index] : NULL;
}

struct learner_param *learner_net_find(struct learner_net *net, const char *name)
{
    for (size_t i = 0; i < net->param_count; i++)
        if (!strcmp(net->params[i].name, name))
            return &net->params[i];
    return NULL;
}

void learner_net_changed(struct learner_net *net)
{
    net->weights_version++;
}

size_t learner_net_memory_bytes(const struct learner_net *net)
{
    return (net->value_count + net->grad_count) * sizeof(float) + net->arena_bytes +
           net->stage.bytes + net->device->ops->memory_bytes(net->device);
}

static const struct learner_op_list *list_of(const struct learner_net *net, enum learner_mode mode)
{
    return mode == LEARNER_INFER && net->infer.count ? &net->infer : &net->forward;
}

/* The slow way, after something went wrong: most outputs are overwritten by now, so computes once
 * more and looks at each. */
enum delta_status learner_net_blame(struct learner_net *net, const struct learner_pass *pass,
                                    struct delta_error *err)
{
    const struct learner_op_list *list = list_of(net, pass->mode);
    const struct learner_op *blamed = NULL;

    if (!net->from_records && !learner_net_input_is_finite(net, pass->n))
        return delta_fail(err, DELTA_NONFINITE, "the input holds a number that is not finite");
    if (net->group.images)
        blamed = learner_group_run(net, pass, true);
    for (size_t i = net->from_records ? net->forward_live : 0;
         !net->group.images && !blamed && i < list->count; i++) {
        net->device->ops->run(net->device, &list->items[i], pass);
        if (!learner_net_result_is_finite(net, &list->items[i], pass->n))
            blamed = &list->items[i];
    }
    if (blamed)
        return delta_fail(err, DELTA_NONFINITE, "layer '%s' gives a number that is not finite",
                          blamed->name);
    return delta_fail(err, DELTA_NONFINITE, "the network gives a number that is not finite");
}

static enum delta_status check_pass(const struct learner_net *net, size_t n, enum learner_mode mode,
                                    struct delta_error *err)
{
    if (!n || n > net->batch)
        return delta_fail(err, DELTA_INTERNAL, "forward: %zu images in a net for 1 to %zu", n,
                          net->batch);
    if (mode != LEARNER_INFER && !net->train)
        return delta_fail(err, DELTA_INTERNAL, "forward: this net was built without training");
    if (mode == LEARNER_TRAIN && net->fixed_norms)
        return delta_fail(err, DELTA_INTERNAL,
                          "forward: the plan freezes batch norms, mode TRAIN would move them");
    return DELTA_OK;
}

/* later: nothing is looked at yet where the device is apart */
static enum delta_status run_forward(struct learner_net *net, const struct learner_op *ops,
                                     size_t count, size_t n, enum learner_mode mode, bool later,
                                     struct delta_error *err)
{
    const struct learner_pass pass = {
        .n = n, .mode = mode, .weights_version = net->weights_version};

    if (net->group.images)
        learner_group_run(net, &pass, false);
    else
        learner_net_run(net, ops, count, &pass);
    net->last = mode == LEARNER_INFER ? (struct learner_pass){0} : pass;
    if (later && net->device->ops->remote) {
        learner_net_leave_outputs(net, n);
        return DELTA_OK;
    }
    const enum delta_status st = learner_net_take_outputs(net, n, err);
    if (st)
        return st;
    if (!learner_all_finite(learner_net_logits(net), n * net->class_count))
        return learner_net_blame(net, &pass, err);
    return DELTA_OK;
}

static enum delta_status forward_whole(struct learner_net *net, size_t n, enum learner_mode mode,
                                       bool later, struct delta_error *err)
{
    const struct learner_op_list *list = list_of(net, mode);
    const enum delta_status st = check_pass(net, n, mode, err);

    if (st)
        return st;
    net->from_records = false;
    learner_net_give_input(net, n);
    return run_forward(net, list->items, list->count, n, mode, later, err);
}

enum delta_status learner_net_forward(struct learner_net *net, size_t n, enum learner_mode mode,
                                      struct delta_error *err)
{
    return forward_whole(net, n, mode, false, err);
}

enum delta_status learner_net_forward_begin(struct learner_net *net, size_t n,
                                            enum learner_mode mode, struct delta_error *err)
{
    return forward_whole(net, n, mode, true, err);
}

size_t learner_net_prefix_count(const struct learner_net *net)
{
    return net->prefix_count;
}

size_t learner_net_prefix_layers(const struct learner_net *net)
{
    return net->prefix_count ? net->first_live : 0;
}

double learner_net_prefix_share(const struct learner_net *net)
{
    double all = 0, below = 0;

    for (size_t l = 0; l < net->layers.count; l++) {
        const struct learner_layer *layer = &net->layers.items[l];
        const size_t taps = layer->kernel ? layer->kernel * layer->kernel : 1;
        double macs = (double)(layer->out.c * (layer->in.c / (layer->groups + !layer->groups)));
        if (layer->kind == LEARNER_LAYER_POOL || layer->kind == LEARNER_LAYER_MAX_POOL)
            continue;
        macs *= (double)(taps * layer->out.h * layer->out.w);
        all += macs;
        below += l < net->first_live ? macs : 0;
    }
    return net->prefix_count && all > 0 ? below / all : 0;
}

static enum delta_status check_from(const struct learner_net *net, size_t n, enum learner_mode mode,
                                    struct delta_error *err)
{
    if (!net->prefix_count)
        return delta_fail(err, DELTA_INTERNAL, "forward: this net has no frozen prefix");
    return check_pass(net, n, mode, err);
}

/* What the layers below have to say is in place. */
static enum delta_status run_live(struct learner_net *net, size_t n, enum learner_mode mode,
                                  bool later, struct delta_error *err)
{
    net->from_records = true;
    return run_forward(net, net->forward.items + net->forward_live,
                       net->forward.count - net->forward_live, n, mode, later, err);
}

enum delta_status learner_net_forward_from(struct learner_net *net, const float *const *records,
                                           size_t n, enum learner_mode mode,
                                           struct delta_error *err)
{
    const enum delta_status st = check_from(net, n, mode, err);

    if (st)
        return st;
    learner_net_give_prefix(net, records, n);
    return run_live(net, n, mode, false, err);
}

enum delta_status learner_net_forward_from_begin(struct learner_net *net,
                                                 const float *const *records, size_t n,
                                                 enum learner_mode mode, struct delta_error *err)
{
    const enum delta_status st = check_from(net, n, mode, err);

    if (st)
        return st;
    learner_net_give_prefix(net, records, n);
    return run_live(net, n, mode, true, err);
}

enum delta_status learner_net_forward_table(struct learner_net *net, float *table,
                                            const uint32_t *rows, size_t n, enum learner_mode mode,
                                            struct delta_error *err)
{
    const enum delta_status st = check_from(net, n, mode, err);

    if (st)
        return st;
    learner_net_give_rows(net, table, rows, n);
    return run_live(net, n, mode, true, err);
}

enum delta_status learner_net_backward(struct learner_net *net, size_t n, struct delta_error *err)
{
    struct learner_pass pass = net->last;

    if (!pass.n || pass.n != n)
        return delta_fail(err, DELTA_INTERNAL,
                          "backward: needs a training forward pass over the same %zu images", n);
    pass.backward = true;
    learner_net_give_gradient(net, n);
    learner_net_run(net, net->backward.items, net->backward.count, &pass);
    net->last = (struct learner_pass){0};
    return DELTA_OK;
}

enum delta_status learner_net_store(const struct learner_net *net, struct delta_model *model,
                                    struct delta_error *err)
{
    for (size_t i = 0; i < net->param_count; i++) {
        const struct learner_param *param = &net->params[i];
        const enum delta_status st = check_tensor(delta_model_find(model, param->name), param->name,
                                                  param->rank, param->shape, err);
        if (st)
            return st;
    }
    for (size_t i = 0; i < net->param_count; i++)
        learner_net_get(net, delta_model_find(model, net->params[i].name)->data,
                        net->params[i].data, net->params[i].count);
    return learner_device_sync(net->device, err);
}

static void fill_tensor(struct delta_tensor *tensor, const struct param_spec *spec,
                        struct learner_rng *rng)
{
    for (size_t i = 0; i < tensor->count; i++) {
        double value = spec->fill == FILL_ONE;
        if (spec->fill == FILL_NORMAL)
            value = spec->fill_scale * learner_rng_normal(rng);
        else if (spec->fill == FILL_UNIFORM)
            value = learner_rng_between(rng, -spec->fill_scale, spec->fill_scale);
        tensor->data[i] = (float)value;
    }
}

enum delta_status learner_net_init_model(struct delta_model *out, const struct delta_arch *arch,
                                         const struct delta_class_id *classes, size_t class_count,
                                         uint64_t seed, struct delta_error *err)
{
    enum delta_status st = DELTA_NO_MEMORY;
    struct delta_model model = DELTA_MODEL_INIT;
    struct learner_layers *layers = delta_calloc(1, sizeof *layers);
    struct param_spec specs[LEARNER_LAYER_PARAMS];
    uint64_t stream = 0;

    if (!layers) {
        delta_fail(err, st, "no memory for a network");
        goto done;
    }
    st = learner_arch_layers(layers, arch, class_count, err);
    model.arch = *arch;
    for (size_t i = 0; !st && i < class_count; i++)
        st = delta_model_add_class(&model, &classes[i], err);
    for (size_t l = 0; !st && l < layers->count; l++) {
        const size_t count = layer_specs(&layers->items[l], specs);
        for (size_t i = 0; !st && i < count; i++) {
            struct delta_tensor *tensor = NULL;
            struct learner_rng rng;
            learner_rng_init(&rng, seed, stream++);
            st = delta_model_add_tensor(&model, specs[i].name, specs[i].rank, specs[i].shape,
                                        &tensor, err);
            if (!st)
                fill_tensor(tensor, &specs[i], &rng);
        }
    }
    if (st)
        goto done;
    *out = model;
    model = (struct delta_model)DELTA_MODEL_INIT;
done:
    delta_model_release(&model);
    free(layers);
    return st;
}
