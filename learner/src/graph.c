/* Time, for the memory plan: layer l runs its convolution at 2l and its batch norm at 2l + 1; the
 * backward pass is the same in reverse after the forward pass. A buffer is needed from its first
 * writer to its last reader; buffers whose times do not meet share memory. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

#include "arena.h"

static size_t time_conv(size_t layer)
{
    return 2 * layer;
}

static size_t time_norm(size_t layer)
{
    return 2 * layer + 1;
}

static size_t time_end(const struct learner_net *net)
{
    return 4 * net->layers.count;
}

static size_t time_back(const struct learner_net *net, size_t forward)
{
    return time_end(net) - 1 - forward;
}

static size_t later(size_t a, size_t b)
{
    return a > b ? a : b;
}

bool learner_graph_is_lazy(const struct learner_net *net, size_t l)
{
    const struct learner_layer *layer = &net->layers.items[l];

    if (net->device->ops->whole_outputs || layer->kind != LEARNER_LAYER_CONV ||
        layer->residual >= 0 || net->live[l].folded)
        return false;
    for (size_t user = l + 1; user < net->layers.count; user++) {
        const struct learner_layer *other = &net->layers.items[user];
        if (other->residual == (int)l ||
            (other->input == (int)l && other->kind != LEARNER_LAYER_CONV))
            return false;
    }
    return true;
}

/* Below the lowest layer that learns. */
static bool is_prefix(const struct learner_net *net, size_t l)
{
    return net->train && l < net->first_live;
}

static bool has_gradient(const struct learner_net *net, size_t l)
{
    return net->live[l].gradient;
}

/* The prefix's outputs that layers above it read: what a cache must hold. */
static bool is_boundary(const struct learner_net *net, size_t l)
{
    if (!is_prefix(net, l))
        return false;
    for (size_t user = net->first_live; user < net->layers.count; user++)
        if (net->layers.items[user].input == (int)l || net->layers.items[user].residual == (int)l)
            return true;
    return false;
}

/* One operation does convolution and norm, and z is never written. */
static bool is_fused(const struct learner_net *net, size_t l, bool fuses)
{
    return fuses && (!net->train || net->live[l].folded || is_prefix(net, l));
}

/* Whether y is for the forward pass alone: backward finds it by normalising z, which it needs
 * anyway, as if the layer were lazy. Not where a convolution of single pixels reads it, which would
 * have to copy what else it takes from its place. */
static bool is_passing(const struct learner_net *net, size_t l)
{
    const struct learner_layer *layer = &net->layers.items[l];

    if (net->device->ops->whole_outputs || layer->kind != LEARNER_LAYER_CONV ||
        layer->residual >= 0 || !has_gradient(net, l) || net->live[l].folded)
        return false;
    for (size_t user = l + 1; user < net->layers.count; user++) {
        const struct learner_layer *other = &net->layers.items[user];
        if (other->input == (int)l && (other->kind == LEARNER_LAYER_MAX_POOL ||
                                       (other->kind == LEARNER_LAYER_CONV && other->kernel == 1)))
            return false;
    }
    return true;
}

/* Last steps of both passes that read layer l's output (y, or z normalised), 0 where backward does
 * not, and the first that writes its gradient. */
static void output_times(const struct learner_net *net, size_t l, size_t *last_read,
                         size_t *last_read_back, size_t *first_gradient)
{
    *last_read = time_norm(l);
    *last_read_back = 0;
    *first_gradient = time_back(net, time_norm(l));
    for (size_t user = l + 1; user < net->layers.count; user++) {
        const struct learner_layer *layer = &net->layers.items[user];
        size_t read = 0;
        if (layer->input == (int)l)
            read = time_conv(user);
        if (layer->residual == (int)l)
            read = time_norm(user);
        if (!read)
            continue;
        *last_read = later(*last_read, read);
        /* weight gradients and the maximum's place are found from the input */
        if (has_gradient(net, user) && layer->input == (int)l)
            *last_read_back = later(*last_read_back, time_back(net, time_conv(user)));
        if (time_back(net, read) < *first_gradient)
            *first_gradient = time_back(net, read);
    }
    /* the activation's mask */
    if (has_gradient(net, l) && net->layers.items[l].kind == LEARNER_LAYER_CONV)
        *last_read_back = later(*last_read_back, time_back(net, time_norm(l)));
}

/* Whether the convolution that reads layer l, which is lazy, can add up what l's norm wants of the
 * gradient: no other adds to it afterwards. */
static bool has_back_sums(const struct learner_net *net, size_t l)
{
    size_t readers = 0;

    for (size_t user = l + 1; user < net->layers.count; user++)
        readers += net->layers.items[user].input == (int)l;
    return net->train && has_gradient(net, l) && readers == 1 && learner_graph_is_lazy(net, l);
}

static void plan_layer(struct learner_net *net, struct learner_arena *arena, size_t l, bool fuses)
{
    const struct learner_layer *layer = &net->layers.items[l];
    struct learner_layer_memory *memory = &net->memory[l];
    const size_t count = learner_shape_count(&layer->out), end = time_end(net);
    const size_t channels = layer->out.c;
    const bool is_conv = layer->kind == LEARNER_LAYER_CONV;
    const bool fused = is_fused(net, l, fuses), lazy = !fused && learner_graph_is_lazy(net, l);
    const bool passing = is_passing(net, l);
    size_t last_read, last_read_back, first_gradient;

    output_times(net, l, &last_read, &last_read_back, &first_gradient);
    const size_t z_read = later(lazy ? last_read : 0, lazy || passing ? last_read_back : 0);
    if (!passing)
        last_read = later(last_read, last_read_back);
    if (layer->kind == LEARNER_LAYER_POOL || layer->kind == LEARNER_LAYER_HEAD)
        last_read = end;       /* what a caller looks at */
    if (is_boundary(net, l)) { /* and what it may take for a cache after a forward pass */
        last_read = later(last_read, end / 2);
        net->boundary[net->boundary_count++] = l;
        net->prefix_count += count;
    }
    const bool grouped = l < net->group.layers;
    const bool whole = !grouped || learner_group_is_whole(&net->group, &net->layers, l);
    const size_t images = whole ? net->batch : net->group.images;
    /* written group by group, while all of the lower layers run */
    const size_t begins = grouped && whole ? 0 : time_conv(l);
    if (!lazy)
        learner_arena_add(arena, &memory->y, images, count, begins, last_read);
    if (is_conv) {
        size_t z_last = later(z_read, time_norm(l));
        if (has_gradient(net, l) && !net->live[l].folded)
            z_last = later(z_last, time_back(net, time_norm(l)));
        if (!fused)
            learner_arena_add(arena, &memory->z, images, count, begins, z_last);
        learner_arena_add(arena, &memory->batch_mean, 1, channels, 0, end);
        learner_arena_add(arena, &memory->inv_std, 1, channels, 0, end);
        learner_arena_add(arena, &memory->gain, 1, channels, 0, end);
        learner_arena_add(arena, &memory->offset, 1, channels, 0, end);
        if (net->train)
            learner_arena_add(arena, &memory->sums, 2 * sizeof(double) / sizeof(float), channels,
                              time_conv(l), time_norm(l));
        if (has_back_sums(net, l))
            learner_arena_add(arena, &memory->back_sums, 2 * sizeof(double) / sizeof(float),
                              channels, first_gradient, time_back(net, time_norm(l)));
    }
    if (!has_gradient(net, l))
        return;
    if (layer->kind == LEARNER_LAYER_HEAD)
        learner_arena_add(arena, &net->logits_grad, net->batch, count, 0, end);
    else
        learner_arena_add(arena, &memory->d, net->batch, count, first_gradient,
                          time_back(net, time_conv(l)));
}

static enum delta_status plan_arena(struct learner_net *net, bool fuses, struct delta_error *err)
{
    struct learner_arena arena = LEARNER_ARENA_INIT;
    enum delta_status st = DELTA_OK;

    learner_arena_add(&arena, &net->input, net->batch,
                      learner_shape_count(&net->layers.items[0].in), 0, time_end(net));
    for (size_t l = 0; l < net->layers.count; l++)
        plan_layer(net, &arena, l, fuses);
    if (net->train && !has_gradient(net, net->layers.count - 1)) /* nothing learns */
        learner_arena_add(&arena, &net->logits_grad, net->batch, net->class_count, 0,
                          time_end(net));
    if (!learner_arena_pack(&arena)) {
        st = delta_fail(err, DELTA_LIMIT,
                        "a batch of %zu images of %u x %u needs more than %zu MiB; "
                        "use a smaller batch",
                        net->batch, net->arch.height, net->arch.image_width,
                        LEARNER_ARENA_MAX_BYTES >> 20);
        goto done;
    }
    net->arena_bytes = arena.total * sizeof(float);
    net->arena = net->dry ? LEARNER_NO_MEMORY_BEHIND
                          : net->device->ops->alloc(net->device, net->arena_bytes);
    if (!net->arena) {
        st = delta_fail(err, DELTA_NO_MEMORY,
                        "no memory for activations: %zu MiB for a batch of %zu; "
                        "use a smaller batch",
                        net->arena_bytes >> 20, net->batch);
        goto done;
    }
    learner_arena_bind(&arena, net->arena);
done:
    learner_arena_release(&arena);
    return st;
}

/* Where the output of a layer lies for a reader: whole, or to be normalised. */
static const float *output_of(const struct learner_net *net, int layer)
{
    if (layer < 0)
        return net->input;
    return net->memory[layer].y ? net->memory[layer].y : net->memory[layer].z;
}

static float *gradient_of(const struct learner_net *net, int layer)
{
    return layer < 0 ? NULL : net->memory[layer].d;
}

static struct learner_op conv_op(const struct learner_net *net, size_t l, bool back)
{
    const struct learner_layer *layer = &net->layers.items[l];
    const struct learner_layer_memory *memory = &net->memory[l];
    const struct learner_param *param = &net->params[net->first_param[l]];
    struct learner_op op = {.kind = LEARNER_OP_CONV,
                            .name = layer->name,
                            .in = layer->in,
                            .out = layer->out,
                            .kernel = layer->kernel,
                            .stride = layer->stride,
                            .pad = layer->pad,
                            .groups = layer->groups,
                            .x = output_of(net, layer->input),
                            .dx = gradient_of(net, layer->input),
                            .y = memory->z,
                            .dy = memory->d,
                            .weight = param[0].data,
                            .dweight = net->live[l].weight ? param[0].grad : NULL,
                            .live = net->live[l].filters,
                            .live_count = net->live[l].filter_count,
                            .mean = param[3].data,
                            .sums = memory->sums};

    if (layer->input >= 0 &&
        (!net->memory[layer->input].y || (back && is_passing(net, (size_t)layer->input)))) {
        op.x = net->memory[layer->input].z;
        op.x_gain = net->memory[layer->input].gain;
        op.x_offset = net->memory[layer->input].offset;
        op.x_act = net->layers.items[layer->input].act;
        op.x_mean = net->memory[layer->input].batch_mean;
        op.back_sums = back ? net->memory[layer->input].back_sums : NULL;
    }
    return op;
}

static struct learner_op norm_op(const struct learner_net *net, size_t l)
{
    const struct learner_layer *layer = &net->layers.items[l];
    const struct learner_layer_memory *memory = &net->memory[l];
    const struct learner_param *param = &net->params[net->first_param[l]];
    const bool learns = !net->live[l].folded;
    struct learner_op op = {.kind = LEARNER_OP_NORM,
                            .name = layer->norm,
                            .in = layer->out,
                            .out = layer->out,
                            .act = layer->act,
                            .x = memory->z,
                            .dx = memory->d,
                            .y = memory->y,
                            .dy = memory->d,
                            .scale = param[1].data,
                            .dscale = learns ? param[1].grad : NULL,
                            .shift = param[2].data,
                            .dshift = learns ? param[2].grad : NULL,
                            .mean = param[3].data,
                            .var = param[4].data,
                            .batch_mean = memory->batch_mean,
                            .inv_std = memory->inv_std,
                            .gain = memory->gain,
                            .offset = memory->offset,
                            .sums = memory->sums,
                            .back_sums = memory->back_sums};

    if (layer->residual >= 0) {
        op.residual = net->memory[layer->residual].y;
        op.dresidual = net->memory[layer->residual].d;
    }
    return op;
}

/* Convolution and norm in one. In a net that trains, z is where a lazy layer's output goes: the
 * readers then find it normalised. */
static struct learner_op fused_op(const struct learner_net *net, size_t l)
{
    const struct learner_op conv = conv_op(net, l, false);
    struct learner_op op = norm_op(net, l);

    op.kind = LEARNER_OP_CONV_NORM;
    op.name = conv.name;
    op.in = conv.in;
    op.kernel = conv.kernel;
    op.stride = conv.stride;
    op.pad = conv.pad;
    op.groups = conv.groups;
    op.x = conv.x;
    op.y = net->memory[l].y ? net->memory[l].y : net->memory[l].z;
    op.weight = conv.weight;
    op.dx = op.dresidual = NULL;
    op.sums = NULL;
    return op;
}

/* A fused operation inside a training pass still gets a lazy input. */
static struct learner_op fused_train_op(const struct learner_net *net, size_t l)
{
    const struct learner_op conv = conv_op(net, l, false);
    struct learner_op op = fused_op(net, l);

    op.x_gain = conv.x_gain;
    op.x_offset = conv.x_offset;
    op.x_act = conv.x_act;
    return op;
}

static struct learner_op tail_op(const struct learner_net *net, size_t l)
{
    static const enum learner_op_kind kinds[] = {
        [LEARNER_LAYER_POOL] = LEARNER_OP_POOL,
        [LEARNER_LAYER_MAX_POOL] = LEARNER_OP_MAX_POOL,
        [LEARNER_LAYER_HEAD] = LEARNER_OP_LINEAR,
    };
    const struct learner_layer *layer = &net->layers.items[l];
    const bool head = layer->kind == LEARNER_LAYER_HEAD;
    const struct learner_param *param = &net->params[net->first_param[l]];
    struct learner_op op = {.kind = kinds[layer->kind],
                            .name = layer->name,
                            .in = layer->in,
                            .out = layer->out,
                            .kernel = layer->kernel,
                            .stride = layer->stride,
                            .pad = layer->pad,
                            .x = output_of(net, layer->input),
                            .dx = gradient_of(net, layer->input),
                            .y = net->memory[l].y,
                            .dy = head ? net->logits_grad : net->memory[l].d};

    if (head) {
        op.weight = param[0].data;
        op.dweight = net->live[l].weight ? param[0].grad : NULL;
        op.bias = param[1].data;
        op.dbias = net->live[l].weight ? param[1].grad : NULL;
    }
    return op;
}

static void make_forward(struct learner_net *net, bool fuses)
{
    struct learner_op_list *list = &net->forward;

    for (size_t l = 0; l < net->layers.count; l++) {
        if (l == net->first_live)
            net->forward_live = list->count;
        if (l == net->group.layers)
            net->group.ops = list->count;
        if (net->layers.items[l].kind != LEARNER_LAYER_CONV) {
            list->items[list->count++] = tail_op(net, l);
        } else if (is_fused(net, l, fuses)) {
            list->items[list->count++] = fused_train_op(net, l);
        } else {
            list->items[list->count++] = conv_op(net, l, false);
            list->items[list->count++] = norm_op(net, l);
        }
    }
    if (net->first_live >= net->layers.count)
        net->forward_live = list->count;
}

/* The first writer of a gradient overwrites; later ones add. */
static void make_backward(struct learner_net *net)
{
    bool written[LEARNER_LAYERS_MAX] = {false};
    struct learner_op_list *list = &net->backward;

    for (size_t l = net->layers.count; l-- > net->first_live;) {
        const struct learner_layer *layer = &net->layers.items[l];
        struct learner_op op;
        if (!has_gradient(net, l))
            continue;
        if (layer->kind == LEARNER_LAYER_CONV) {
            op = norm_op(net, l);
            if (net->live[l].folded)
                op.x = NULL; /* its memory is another's by now */
            if (is_passing(net, l))
                op.y = NULL; /* likewise */
            if (op.dresidual) {
                op.dresidual_add = written[layer->residual];
                written[layer->residual] = true;
            }
            list->items[list->count++] = op;
            op = conv_op(net, l, true);
        } else {
            op = tail_op(net, l);
        }
        if (op.dx) {
            op.dx_add = written[layer->input];
            written[layer->input] = true;
        }
        if (op.dx || op.dweight)
            list->items[list->count++] = op;
    }
}

static enum delta_status prepare(struct learner_net *net, const struct learner_op_list *list,
                                 struct delta_error *err)
{
    const struct learner_device_ops *device = net->device->ops;
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; !st && device->prepare && i < list->count; i++)
        st = device->prepare(net->device, &list->items[i], net->batch, net->train, err);
    return st;
}

enum delta_status learner_graph_build(struct learner_net *net, struct delta_error *err)
{
    const struct learner_device_ops *device = net->device->ops;
    const struct learner_op probe = {.kind = LEARNER_OP_CONV_NORM};
    const bool fuses = device->supports && device->supports(net->device, &probe);
    enum delta_status st;

    if (!net->train && !device->remote)
        learner_group_plan(&net->group, &net->layers, net->batch);
    st = plan_arena(net, fuses, err);
    if (st)
        return st;
    learner_group_bind(net);
    net->forward.items = delta_calloc(2 * net->layers.count, sizeof *net->forward.items);
    net->backward.items = delta_calloc(2 * net->layers.count, sizeof *net->backward.items);
    net->infer.items = delta_calloc(2 * net->layers.count, sizeof *net->infer.items);
    if (!net->forward.items || !net->backward.items || !net->infer.items)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for the operations of a network");
    make_forward(net, fuses);
    if (net->train)
        make_backward(net);
    /* Without training every pass is fused already; with it, inference fuses all layers. */
    for (size_t l = 0; net->train && fuses && l < net->layers.count; l++)
        net->infer.items[net->infer.count++] =
            net->layers.items[l].kind == LEARNER_LAYER_CONV ? fused_op(net, l) : tail_op(net, l);
    st = prepare(net, &net->forward, err);
    if (!st)
        st = prepare(net, &net->backward, err);
    if (!st)
        st = prepare(net, &net->infer, err);
    return st;
}

void learner_graph_release(struct learner_net *net)
{
    free(net->forward.items);
    free(net->backward.items);
    free(net->infer.items);
    if (net->arena && !net->dry)
        net->device->ops->release(net->device, net->arena);
}
