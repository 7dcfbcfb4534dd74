/* Time, for the memory plan: layer l runs its convolution at 2l and its batch norm at 2l + 1; the
 * backward pass is the same in reverse after the forward pass. A buffer is needed from its first
 * writer to its last reader; buffers whose times do not meet share memory. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

#define ARENA_MAX_BYTES ((size_t)16 << 30)
#define ALIGN_FLOATS 16

struct item {
    float **target;
    size_t count; /* floats, a multiple of ALIGN_FLOATS */
    size_t first, last;
    size_t offset;
};

struct plan {
    struct item *items;
    size_t count, room;
    size_t total;
    bool overflow;
};

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

static void add_item(struct plan *plan, float **target, size_t a, size_t b, size_t first,
                     size_t last)
{
    size_t count;

    if (!delta_size_mul(a, b, &count) || !delta_size_add(count, ALIGN_FLOATS - 1, &count) ||
        count > ARENA_MAX_BYTES / sizeof(float) || plan->count == plan->room) {
        plan->overflow = true;
        return;
    }
    count -= count % ALIGN_FLOATS;
    plan->items[plan->count++] =
        (struct item){.target = target, .count = count, .first = first, .last = last};
}

static int by_size(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    return x->first < y->first ? -1 : x->first > y->first; /* for a total, stable order */
}

static bool meets(const struct item *a, const struct item *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* First fit, largest first. */
static void place_items(struct plan *plan)
{
    qsort(plan->items, plan->count, sizeof *plan->items, by_size);
    for (size_t i = 0; i < plan->count; i++) {
        struct item *item = &plan->items[i];
        for (bool moved = true; moved;) {
            moved = false;
            for (size_t j = 0; j < i; j++) {
                const struct item *other = &plan->items[j];
                if (meets(item, other) && item->offset < other->offset + other->count &&
                    other->offset < item->offset + item->count) {
                    item->offset = other->offset + other->count;
                    moved = true;
                }
            }
        }
        if (plan->total < item->offset + item->count)
            plan->total = item->offset + item->count;
    }
}

/* Last forward step that reads layer l's output, and the first backward step that writes its
 * gradient. */
static void output_times(const struct learner_net *net, size_t l, size_t *last_read,
                         size_t *first_gradient)
{
    *last_read = time_norm(l);
    *first_gradient = time_back(net, time_norm(l));
    for (size_t user = l + 1; user < net->layers.count; user++) {
        const struct learner_layer *layer = &net->layers.items[user];
        size_t read = 0;
        if (layer->input == (int)l)
            read = time_conv(user);
        if (layer->residual == (int)l)
            read = time_norm(user);
        if (read > *last_read)
            *last_read = read;
        if (read && time_back(net, read) < *first_gradient)
            *first_gradient = time_back(net, read);
    }
}

static void plan_layer(struct learner_net *net, struct plan *plan, size_t l, bool fuses)
{
    const struct learner_layer *layer = &net->layers.items[l];
    struct learner_layer_memory *memory = &net->memory[l];
    const size_t count = learner_shape_count(&layer->out), end = time_end(net);
    const bool is_conv = layer->kind == LEARNER_LAYER_CONV;
    size_t last_read, first_gradient;

    output_times(net, l, &last_read, &first_gradient);
    /* what a caller looks at, and all activations of a net that trains, stay */
    if (net->train || layer->kind == LEARNER_LAYER_POOL || layer->kind == LEARNER_LAYER_HEAD)
        last_read = end;
    add_item(plan, &memory->y, net->batch, count, time_conv(l), last_read);
    if (is_conv) {
        if (net->train || !fuses)
            add_item(plan, &memory->z, net->batch, count, time_conv(l),
                     net->train ? end : time_norm(l));
        add_item(plan, &memory->batch_mean, 1, layer->out.c, 0, end);
        add_item(plan, &memory->inv_std, 1, layer->out.c, 0, end);
    }
    if (!net->train)
        return;
    if (layer->kind == LEARNER_LAYER_HEAD) {
        add_item(plan, &net->logits_grad, net->batch, count, 0, end);
        return;
    }
    add_item(plan, &memory->dy, net->batch, count, first_gradient,
             time_back(net, is_conv ? time_norm(l) : time_conv(l)));
    if (is_conv)
        add_item(plan, &memory->dz, net->batch, count, time_back(net, time_norm(l)),
                 time_back(net, time_conv(l)));
}

static enum delta_status plan_arena(struct learner_net *net, bool fuses, struct delta_error *err)
{
    struct plan plan = {.room = 6 * net->layers.count + 2};
    enum delta_status st = DELTA_INTERNAL;

    plan.items = delta_calloc(plan.room, sizeof *plan.items);
    if (!plan.items)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory to plan a network");
    add_item(&plan, &net->input, net->batch, learner_shape_count(&net->layers.items[0].in), 0,
             time_end(net));
    for (size_t l = 0; l < net->layers.count; l++)
        plan_layer(net, &plan, l, fuses);
    if (!plan.overflow)
        place_items(&plan);
    if (plan.overflow || plan.total > ARENA_MAX_BYTES / sizeof(float)) {
        st = delta_fail(err, DELTA_LIMIT,
                        "a batch of %zu images of %u x %u needs more than %zu MiB; "
                        "use a smaller batch",
                        net->batch, net->arch.height, net->arch.image_width, ARENA_MAX_BYTES >> 20);
        goto done;
    }
    net->arena_bytes = plan.total * sizeof(float);
    net->arena = net->device->ops->alloc(net->device, net->arena_bytes);
    if (!net->arena) {
        st = delta_fail(err, DELTA_NO_MEMORY,
                        "no memory for activations: %zu MiB for a batch of %zu; "
                        "use a smaller batch",
                        net->arena_bytes >> 20, net->batch);
        goto done;
    }
    for (size_t i = 0; i < plan.count; i++)
        *plan.items[i].target = net->arena + plan.items[i].offset;
    st = DELTA_OK;
done:
    free(plan.items);
    return st;
}

static void conv_fields(const struct learner_net *net, size_t l, struct learner_op *op)
{
    const struct learner_layer *layer = &net->layers.items[l];
    const struct learner_param *param = &net->params[net->first_param[l]];

    op->kind = LEARNER_OP_CONV;
    op->name = layer->name;
    op->in = layer->in;
    op->out = layer->out;
    op->kernel = layer->kernel;
    op->stride = layer->stride;
    op->pad = layer->pad;
    op->groups = layer->groups;
    op->x = layer->input < 0 ? net->input : net->memory[layer->input].y;
    op->dx = layer->input < 0 ? NULL : net->memory[layer->input].dy;
    op->y = net->memory[l].z;
    op->dy = net->memory[l].dz;
    op->weight = param[0].data;
    op->dweight = param[0].grad;
}

static void norm_fields(const struct learner_net *net, size_t l, struct learner_op *op)
{
    const struct learner_layer *layer = &net->layers.items[l];
    const struct learner_layer_memory *memory = &net->memory[l];
    const struct learner_param *param = &net->params[net->first_param[l]];

    op->kind = LEARNER_OP_NORM;
    op->name = layer->norm;
    op->in = op->out = layer->out;
    op->act = layer->act;
    op->x = memory->z;
    op->dx = memory->dz;
    op->y = memory->y;
    op->dy = memory->dy;
    if (layer->residual >= 0) {
        op->residual = net->memory[layer->residual].y;
        op->dresidual = net->memory[layer->residual].dy;
    }
    op->scale = param[1].data;
    op->dscale = param[1].grad;
    op->shift = param[2].data;
    op->dshift = param[2].grad;
    op->mean = param[3].data;
    op->var = param[4].data;
    op->batch_mean = memory->batch_mean;
    op->inv_std = memory->inv_std;
}

static void plain_fields(const struct learner_net *net, size_t l, struct learner_op *op)
{
    static const enum learner_op_kind kinds[] = {[LEARNER_LAYER_MAX_POOL] = LEARNER_OP_MAX_POOL,
                                                 [LEARNER_LAYER_POOL] = LEARNER_OP_POOL,
                                                 [LEARNER_LAYER_HEAD] = LEARNER_OP_LINEAR};
    const struct learner_layer *layer = &net->layers.items[l];
    const struct learner_param *param = &net->params[net->first_param[l]];

    op->kind = kinds[layer->kind];
    op->name = layer->name;
    op->in = layer->in;
    op->out = layer->out;
    op->kernel = layer->kernel;
    op->stride = layer->stride;
    op->pad = layer->pad;
    op->x = net->memory[layer->input].y;
    op->dx = net->memory[layer->input].dy;
    op->y = net->memory[l].y;
    op->dy = layer->kind == LEARNER_LAYER_HEAD ? net->logits_grad : net->memory[l].dy;
    if (layer->kind == LEARNER_LAYER_HEAD) {
        op->weight = param[0].data;
        op->dweight = param[0].grad;
        op->bias = param[1].data;
        op->dbias = param[1].grad;
    }
}

static struct learner_op fused_op(const struct learner_net *net, size_t l)
{
    struct learner_op op = {0}, conv = {0};

    norm_fields(net, l, &op);
    conv_fields(net, l, &conv);
    op.kind = LEARNER_OP_CONV_NORM;
    op.name = conv.name;
    op.in = conv.in;
    op.kernel = conv.kernel;
    op.stride = conv.stride;
    op.pad = conv.pad;
    op.groups = conv.groups;
    op.x = conv.x;
    op.weight = conv.weight;
    op.dx = op.dresidual = NULL;
    return op;
}

/* The first writer of a gradient, in backward order, overwrites; later ones add. */
static void set_adds(struct learner_net *net)
{
    bool written[LEARNER_LAYERS_MAX] = {false};
    size_t at = net->op_count;

    for (size_t l = net->layers.count; l-- > 0;) {
        const struct learner_layer *layer = &net->layers.items[l];
        struct learner_op *op = &net->ops[--at];
        if (layer->residual >= 0) {
            op->dresidual_add = written[layer->residual];
            written[layer->residual] = true;
        }
        if (layer->kind == LEARNER_LAYER_CONV)
            op = &net->ops[--at];
        if (layer->input >= 0) {
            op->dx_add = written[layer->input];
            written[layer->input] = true;
        }
    }
}

static enum delta_status prepare(struct learner_net *net, const struct learner_op *ops,
                                 size_t count, struct delta_error *err)
{
    const struct learner_device_ops *device = net->device->ops;
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; !st && device->prepare && i < count; i++)
        st = device->prepare(net->device, &ops[i], net->batch, net->train, err);
    return st;
}

enum delta_status learner_graph_build(struct learner_net *net, struct delta_error *err)
{
    const struct learner_device_ops *device = net->device->ops;
    const struct learner_op probe = {.kind = LEARNER_OP_CONV_NORM};
    const bool fuses = device->supports && device->supports(net->device, &probe);
    enum delta_status st = plan_arena(net, fuses, err);

    if (st)
        return st;
    net->ops = delta_calloc(2 * net->layers.count, sizeof *net->ops);
    net->fused = fuses ? delta_calloc(net->layers.count, sizeof *net->fused) : NULL;
    if (!net->ops || (fuses && !net->fused))
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for the operations of a network");
    for (size_t l = 0; l < net->layers.count; l++) {
        const bool is_conv = net->layers.items[l].kind == LEARNER_LAYER_CONV;
        struct learner_op *op = &net->ops[net->op_count++];
        if (is_conv) {
            conv_fields(net, l, op);
            norm_fields(net, l, &net->ops[net->op_count++]);
        } else {
            plain_fields(net, l, op);
        }
        if (fuses)
            net->fused[net->fused_count++] = is_conv ? fused_op(net, l) : *op;
    }
    if (net->train)
        set_adds(net);
    /* without training, a net that fuses has no memory for the single steps */
    if (net->train || !fuses)
        st = prepare(net, net->ops, net->op_count, err);
    if (!st && fuses)
        st = prepare(net, net->fused, net->fused_count, err);
    return st;
}

void learner_graph_release(struct learner_net *net)
{
    free(net->ops);
    free(net->fused);
    if (net->arena)
        net->device->ops->release(net->device, net->arena);
}
