#include "arch.h"

#include <stdio.h>
#include <string.h>

/* ResNets of basic blocks (He et al. 2016), named as torchvision names them. Channels of stage s:
 * width << s; the first block of every stage but the first halves the plane. */
struct residual_net {
    const char *name;
    size_t stages;
    size_t blocks[4];
};

static const struct residual_net residual_nets[] = {
    {"resnet18", 4, {2, 2, 2, 2}},
};

#define WIDTH_MAX 1024
#define PLANE_MAX 4096 /* pixels a side */
#define IMAGE_CHANNELS_MAX 64

static size_t out_side(size_t side, size_t kernel, size_t stride, size_t pad)
{
    return (side + 2 * pad - kernel) / stride + 1;
}

static struct learner_shape shape_of(const struct learner_layers *net,
                                     const struct delta_arch *arch, int layer)
{
    if (layer == LEARNER_LAYER_INPUT)
        return (struct learner_shape){arch->channels, arch->height, arch->image_width};
    return net->items[layer].out;
}

/* Appends a convolution with its batch norm; returns its index. */
static int add_conv(struct learner_layers *net, const struct delta_arch *arch, int input,
                    size_t channels, size_t kernel, size_t stride)
{
    struct learner_layer *layer = &net->items[net->count];

    memset(layer, 0, sizeof *layer);
    layer->kind = LEARNER_LAYER_CONV;
    layer->input = input;
    layer->residual = LEARNER_LAYER_NONE;
    layer->kernel = kernel;
    layer->stride = stride;
    layer->pad = kernel / 2;
    layer->act = LEARNER_ACT_RELU;
    layer->in = shape_of(net, arch, input);
    layer->out.c = channels;
    layer->out.h = out_side(layer->in.h, kernel, stride, layer->pad);
    layer->out.w = out_side(layer->in.w, kernel, stride, layer->pad);
    return (int)net->count++;
}

static void set_names(struct learner_layer *layer, const char *prefix, const char *name,
                      const char *norm)
{
    snprintf(layer->name, sizeof layer->name, "%s%s", prefix, name);
    snprintf(layer->norm, sizeof layer->norm, "%s%s", prefix, norm);
}

/* The shortcut runs first, so that each convolution is followed by its own batch norm. */
static int add_basic_block(struct learner_layers *net, const struct delta_arch *arch, int input,
                           size_t stage, size_t block, size_t channels, size_t stride)
{
    const struct learner_shape in = shape_of(net, arch, input);
    int shortcut = input;
    char prefix[32];

    snprintf(prefix, sizeof prefix, "layer%zu.%zu.", stage + 1, block);
    if (stride != 1 || in.c != channels) {
        shortcut = add_conv(net, arch, input, channels, 1, stride);
        net->items[shortcut].act = LEARNER_ACT_NONE;
        set_names(&net->items[shortcut], prefix, "downsample.0", "downsample.1");
    }
    const int first = add_conv(net, arch, input, channels, 3, stride);
    set_names(&net->items[first], prefix, "conv1", "bn1");
    const int second = add_conv(net, arch, first, channels, 3, 1);
    set_names(&net->items[second], prefix, "conv2", "bn2");
    net->items[second].residual = shortcut;
    return second;
}

static void add_head(struct learner_layers *net, int input, size_t classes, const char *name)
{
    struct learner_layer *pool = &net->items[net->count++];
    struct learner_layer *head = &net->items[net->count++];

    memset(pool, 0, sizeof *pool);
    pool->kind = LEARNER_LAYER_POOL;
    pool->input = input;
    pool->residual = LEARNER_LAYER_NONE;
    pool->in = net->items[input].out;
    pool->out = (struct learner_shape){pool->in.c, 1, 1};
    snprintf(pool->name, sizeof pool->name, "avgpool");
    memset(head, 0, sizeof *head);
    head->kind = LEARNER_LAYER_HEAD;
    head->input = input + 1;
    head->residual = LEARNER_LAYER_NONE;
    head->in = pool->out;
    head->out = (struct learner_shape){classes, 1, 1};
    snprintf(head->name, sizeof head->name, "%s", name);
}

static void build_residual(struct learner_layers *net, const struct residual_net *row,
                           const struct delta_arch *arch, size_t classes)
{
    int last = add_conv(net, arch, LEARNER_LAYER_INPUT, arch->width, 3, 1);

    set_names(&net->items[last], "", "conv1", "bn1");
    for (size_t stage = 0; stage < row->stages; stage++)
        for (size_t block = 0; block < row->blocks[stage]; block++)
            last = add_basic_block(net, arch, last, stage, block, (size_t)arch->width << stage,
                                   stage && !block ? 2 : 1);
    add_head(net, last, classes, "fc");
}

enum delta_status learner_arch_layers(struct learner_layers *out, const struct delta_arch *arch,
                                      size_t class_count, struct delta_error *err)
{
    out->count = 0;
    if (!arch->width || arch->width > WIDTH_MAX || !arch->channels ||
        arch->channels > IMAGE_CHANNELS_MAX || !arch->height || arch->height > PLANE_MAX ||
        !arch->image_width || arch->image_width > PLANE_MAX || !class_count ||
        class_count > DELTA_MODEL_MAX_CLASSES)
        return delta_fail(err, DELTA_LIMIT,
                          "architecture out of range: width %u, input %u x %u x %u, %zu classes",
                          arch->width, arch->channels, arch->height, arch->image_width,
                          class_count);
    if (strcmp(arch->stem, "cifar"))
        return delta_fail(err, DELTA_UNSUPPORTED, "stem '%.15s' is not supported; known: cifar",
                          arch->stem);
    for (size_t i = 0; i < sizeof residual_nets / sizeof *residual_nets; i++)
        if (!strcmp(arch->name, residual_nets[i].name)) {
            build_residual(out, &residual_nets[i], arch, class_count);
            return DELTA_OK;
        }
    return delta_fail(err, DELTA_UNSUPPORTED,
                      "architecture '%.31s' is not supported; known: resnet18", arch->name);
}
