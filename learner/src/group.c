#include "group.h"

#include "net_device.h"

/* Input and output of a layer are worth a group while they fill more than this for one image ... */
#define GROUP_WORTH_BYTES ((size_t)192 << 10)
/* ... and a group has as many images as keep them within this: a core's share of a small
 * third-level cache. */
#define GROUP_BYTES ((size_t)2 << 20)

static size_t traffic(const struct learner_layer *layer)
{
    return (learner_shape_count(&layer->in) + learner_shape_count(&layer->out)) * sizeof(float);
}

void learner_group_plan(struct learner_group *group, const struct learner_layers *layers,
                        size_t batch)
{
    size_t most = 0;

    *group = (struct learner_group){.images = 0};
    for (size_t l = 0; l < layers->count && layers->items[l].kind == LEARNER_LAYER_CONV; l++) {
        if (traffic(&layers->items[l]) < GROUP_WORTH_BYTES)
            continue;
        most = most > traffic(&layers->items[l]) ? most : traffic(&layers->items[l]);
        group->layers = l + 1;
    }
    group->images = most && most < GROUP_BYTES ? GROUP_BYTES / most : 1;
    /* one and a bit would only need more memory, for what has room for the whole batch */
    if (!group->layers || 2 * group->images > batch)
        *group = (struct learner_group){.images = 0};
}

bool learner_group_is_whole(const struct learner_group *group, const struct learner_layers *layers,
                            size_t layer)
{
    for (size_t user = group->layers; user < layers->count; user++)
        if (layers->items[user].input == (int)layer || layers->items[user].residual == (int)layer)
            return true;
    return false;
}

void learner_group_bind(struct learner_net *net)
{
    struct learner_group *group = &net->group;

    group->whole[group->whole_count++] = net->input;
    for (size_t l = 0; l < group->layers; l++)
        if (learner_group_is_whole(group, &net->layers, l))
            group->whole[group->whole_count++] =
                net->memory[l].y ? net->memory[l].y : net->memory[l].z;
}

/* Where image `first` lies: others than the whole ones hold one group. */
static const float *at(const struct learner_group *group, const float *block, size_t first,
                       size_t count)
{
    for (size_t i = 0; i < group->whole_count; i++)
        if (group->whole[i] == block)
            return block + first * count;
    return block;
}

static struct learner_op op_at(const struct learner_group *group, const struct learner_op *whole,
                               size_t first)
{
    const size_t in = learner_shape_count(&whole->in), out = learner_shape_count(&whole->out);
    struct learner_op op = *whole;

    op.x = at(group, whole->x, first, in);
    op.y = (float *)at(group, whole->y, first, out);
    op.residual = at(group, whole->residual, first, out);
    return op;
}

const struct learner_op *learner_group_run(struct learner_net *net, const struct learner_pass *pass,
                                           bool look)
{
    const struct learner_op_list *list = &net->forward;
    const struct learner_group *group = &net->group;
    struct learner_pass part = *pass;

    for (size_t first = 0; first < pass->n; first += part.n) {
        part.n = pass->n - first < group->images ? pass->n - first : group->images;
        for (size_t i = 0; i < group->ops; i++) {
            const struct learner_op op = op_at(group, &list->items[i], first);
            net->device->ops->run(net->device, &op, &part);
            if (look && !learner_net_result_is_finite(net, &op, part.n))
                return &list->items[i];
        }
    }
    for (size_t i = group->ops; i < list->count; i++) {
        net->device->ops->run(net->device, &list->items[i], pass);
        if (look && !learner_net_result_is_finite(net, &list->items[i], pass->n))
            return &list->items[i];
    }
    return NULL;
}
