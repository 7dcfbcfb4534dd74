#include "arch.h"

#include <stdio.h>
#include <string.h>

#include "network_table.h"

#define WIDTH_MAX 1024
#define PLANE_MAX 4096 /* pixels a side */
#define IMAGE_CHANNELS_MAX 64
#define DIVISOR 8 /* of channels under a multiplier */

struct builder {
    struct learner_layers *net;
    const struct learner_network_row *row;
    const struct delta_arch *arch;
    enum learner_stem stem;
};

/* torchvision's _make_divisible, in the same floating-point operations: the nearest multiple of 8,
 * but never less than nine tenths. */
static size_t divisible(double channels)
{
    size_t made = (size_t)(channels + DIVISOR / 2.0) / DIVISOR * DIVISOR;

    if (made < DIVISOR)
        made = DIVISOR;
    if ((double)made < 0.9 * channels)
        made += DIVISOR;
    return made;
}

static size_t scaled(const struct builder *b, size_t channels)
{
    if (b->row->unit == LEARNER_WIDTH_CHANNELS)
        return channels * b->arch->width;
    return divisible((double)channels * (b->arch->width / 100.0));
}

static size_t scaled_up(const struct builder *b, size_t channels)
{
    if (b->row->unit == LEARNER_WIDTH_PERCENT && b->arch->width < 100)
        return divisible((double)channels);
    return scaled(b, channels);
}

static size_t out_side(size_t side, size_t kernel, size_t stride)
{
    return (side + 2 * (kernel / 2) - kernel) / stride + 1;
}

static struct learner_shape shape_of(const struct builder *b, int layer)
{
    if (layer == LEARNER_LAYER_INPUT)
        return (struct learner_shape){b->arch->channels, b->arch->height, b->arch->image_width};
    return b->net->items[layer].out;
}

static struct learner_layer *add_layer(struct builder *b, enum learner_layer_kind kind, int input,
                                       size_t channels)
{
    struct learner_layer *layer = &b->net->items[b->net->count++];

    memset(layer, 0, sizeof *layer);
    layer->kind = kind;
    layer->input = input;
    layer->residual = LEARNER_LAYER_NONE;
    layer->groups = 1;
    layer->in = shape_of(b, input);
    layer->out = (struct learner_shape){channels, 1, 1};
    return layer;
}

static int last_index(const struct builder *b)
{
    return (int)b->net->count - 1;
}

static void set_window(struct learner_layer *layer, size_t kernel, size_t stride)
{
    layer->kernel = kernel;
    layer->stride = stride;
    layer->pad = kernel / 2;
    layer->out.h = out_side(layer->in.h, kernel, stride);
    layer->out.w = out_side(layer->in.w, kernel, stride);
}

/* A convolution with its batch norm. */
static struct learner_layer *add_conv(struct builder *b, int input, size_t channels, size_t kernel,
                                      size_t stride, enum learner_act act)
{
    struct learner_layer *layer = add_layer(b, LEARNER_LAYER_CONV, input, channels);

    set_window(layer, kernel, stride);
    layer->act = act;
    return layer;
}

static void set_names(struct learner_layer *layer, const char *prefix, const char *name,
                      const char *norm)
{
    snprintf(layer->name, sizeof layer->name, "%s%s", prefix, name);
    snprintf(layer->norm, sizeof layer->norm, "%s%s", prefix, norm);
}

/* The shortcut runs first, so that each convolution is followed by its own batch norm. */
static int add_block(struct builder *b, int input, const struct learner_stage_row *stage,
                     size_t stride, const char *prefix)
{
    const struct learner_block_row *block = stage->block;
    const size_t channels = scaled(b, stage->channels), in = shape_of(b, input).c;
    const bool same = stride == 1 && in == channels;
    int residual = same ? input : LEARNER_LAYER_NONE, at = input;

    if (!same && block->shortcut) {
        set_names(add_conv(b, input, channels, 1, stride, LEARNER_ACT_NONE), prefix,
                  block->shortcut, block->shortcut_norm);
        residual = last_index(b);
    }
    for (size_t i = 0; i < block->conv_count; i++) {
        const struct learner_conv_row *conv = &block->convs[i];
        struct learner_layer *layer = add_conv(b, at, conv->wide ? stage->expand * in : channels,
                                               conv->kernel, conv->strides ? stride : 1, conv->act);
        set_names(layer, prefix, conv->name, conv->norm);
        if (conv->depthwise)
            layer->groups = layer->out.c;
        if (i + 1 == block->conv_count)
            layer->residual = residual;
        at = last_index(b);
    }
    return at;
}

static int add_stem(struct builder *b)
{
    const struct learner_network_row *row = b->row;

    set_names(add_conv(b, LEARNER_LAYER_INPUT, scaled(b, row->stem.channels),
                       row->stem.of[b->stem].kernel, row->stem.of[b->stem].stride, row->stem.act),
              "", row->stem.name, row->stem.norm);
    if (row->stem.of[b->stem].max_pool) {
        const int input = last_index(b);
        struct learner_layer *pool =
            add_layer(b, LEARNER_LAYER_MAX_POOL, input, shape_of(b, input).c);
        snprintf(pool->name, sizeof pool->name, "maxpool");
        set_window(pool, 3, 2);
    }
    return last_index(b);
}

static int add_stages(struct builder *b, int at)
{
    const struct learner_network_row *row = b->row;
    size_t number = 1;

    for (size_t s = 0; s < row->stage_count; s++)
        for (size_t i = 0; i < row->stages[s].blocks; i++, number++) {
            const size_t stride = i ? 1 : row->stages[s].stride[b->stem];
            char prefix[32];
            if (row->counts_on)
                snprintf(prefix, sizeof prefix, "%s%zu.", row->prefix, number);
            else
                snprintf(prefix, sizeof prefix, "%s%zu.%zu.", row->prefix, s + 1, i);
            at = add_block(b, at, &row->stages[s], stride, prefix);
        }
    return at;
}

static void build(struct builder *b, size_t classes)
{
    const struct learner_network_row *row = b->row;
    int at = add_stages(b, add_stem(b));

    if (row->last.name) {
        set_names(add_conv(b, at, scaled_up(b, row->last.channels), 1, 1, row->last.act), "",
                  row->last.name, row->last.norm);
        at = last_index(b);
    }
    struct learner_layer *pool = add_layer(b, LEARNER_LAYER_POOL, at, shape_of(b, at).c);
    snprintf(pool->name, sizeof pool->name, "avgpool");
    struct learner_layer *head = add_layer(b, LEARNER_LAYER_HEAD, last_index(b), classes);
    snprintf(head->name, sizeof head->name, "%s", row->head);
    head->init_std = row->head_std;
}

static enum delta_status find_row(struct builder *b, struct delta_error *err)
{
    char known[128] = "";
    size_t used = 0;

    for (size_t i = 0; i < learner_network_count && used < sizeof known; i++) {
        if (!strcmp(b->arch->name, learner_networks[i].name))
            b->row = &learner_networks[i];
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "",
                                 learner_networks[i].name);
    }
    if (b->row)
        return DELTA_OK;
    return delta_fail(err, DELTA_UNSUPPORTED, "architecture '%.31s' is not supported; known: %s",
                      b->arch->name, known);
}

static enum delta_status find_stem(struct builder *b, struct delta_error *err)
{
    char known[64] = "";
    size_t used = 0;

    b->stem = LEARNER_STEM_COUNT;
    for (size_t i = 0; i < LEARNER_STEM_COUNT && used < sizeof known; i++) {
        if (!b->row->stem.of[i].kernel)
            continue;
        if (!strcmp(b->arch->stem, learner_stem_names[i]))
            b->stem = (enum learner_stem)i;
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "",
                                 learner_stem_names[i]);
    }
    if (b->stem != LEARNER_STEM_COUNT)
        return DELTA_OK;
    return delta_fail(err, DELTA_UNSUPPORTED, "%s has no stem '%.15s'; known: %s", b->row->name,
                      b->arch->stem, known);
}

enum delta_status learner_arch_layers(struct learner_layers *out, const struct delta_arch *arch,
                                      size_t class_count, struct delta_error *err)
{
    struct builder b = {.net = out, .arch = arch};
    enum delta_status st;

    out->count = 0;
    if (!arch->width || arch->width > WIDTH_MAX || !arch->channels ||
        arch->channels > IMAGE_CHANNELS_MAX || !arch->height || arch->height > PLANE_MAX ||
        !arch->image_width || arch->image_width > PLANE_MAX || !class_count ||
        class_count > DELTA_MODEL_MAX_CLASSES)
        return delta_fail(err, DELTA_LIMIT,
                          "architecture out of range: width %u, input %u x %u x %u, %zu classes",
                          arch->width, arch->channels, arch->height, arch->image_width,
                          class_count);
    st = find_row(&b, err);
    if (!st)
        st = find_stem(&b, err);
    if (!st)
        build(&b, class_count);
    return st;
}
