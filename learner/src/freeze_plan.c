/* The freeze plan as published: per layer the top share of the weights by (g w)^2. */
#include "arch.h"
#include "budget.h"
#include "importance.h"
#include "rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum mask { IMPORTANCE, MAGNITUDE, RANDOM };

static enum delta_status parse_mask(enum mask *out, const char *text, struct delta_error *err)
{
    static const char *const names[] = {"importance", "magnitude", "random"};

    *out = IMPORTANCE;
    for (int i = 0; text && i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (enum mask)i;
            return DELTA_OK;
        }
    return text ? delta_fail(err, DELTA_CONFIG,
                             "mask '%s' is unknown; there are importance, magnitude, random", text)
                : DELTA_OK;
}

/* Of one weight; the random one is a fair order, whatever the weight is. */
static double score_of(enum mask mask, float weight, float gradient, struct learner_rng *rng)
{
    if (mask == RANDOM)
        return learner_rng_uniform(rng);
    const double product = mask == IMPORTANCE ? (double)gradient * weight : weight;
    return product * product;
}

static enum delta_status freeze_layer(struct delta_tensor *tensor, const float *gradient,
                                      enum mask mask, const struct learner_plan_choice *choice,
                                      struct learner_rng *rng, struct delta_error *err)
{
    const size_t units = choice->filters ? (size_t)tensor->shape[0] : tensor->count;
    const size_t each = tensor->count / units,
                 keep = (size_t)llround(choice->ratio * (double)units);
    double *score = delta_calloc(units, sizeof *score);
    uint8_t *bits = delta_calloc(units / 8 + 1, 1);
    enum delta_status st;

    if (!score || !bits) {
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for a freeze plan");
        goto done;
    }
    for (size_t i = 0; i < tensor->count; i++)
        score[i / each] += score_of(mask, tensor->data[i], gradient ? gradient[i] : 0, rng);
    st = learner_top_bits(bits, score, units, keep, err);
    if (!st)
        st = delta_tensor_set_freeze(
            tensor, choice->filters ? DELTA_FREEZE_ROWS : DELTA_FREEZE_WEIGHTS, bits, units, err);
done:
    free(score);
    free(bits);
    return st;
}

/* Does name begin like one of the parts of a list with commas? An empty list is the beginning of
 * every name. */
static bool begins_like(const char *name, const char *list)
{
    for (;;) {
        const size_t len = strcspn(list, ",");
        if (strncmp(name, list, len) == 0)
            return true;
        if (!list[len])
            return false;
        list += len + 1;
    }
}

/* Length of "layer4.1." in "layer4.1.conv2", of "features.17." in "features.17.conv.0.0". */
static size_t block_length(const char *name)
{
    const char *dot = strchr(name, '.');

    dot = dot ? strchr(dot + 1, '.') : NULL;
    return dot ? (size_t)(dot + 1 - name) : 0;
}

/* Does the last block begin at this layer or before? A block looks at neighbours: the 1x1
 * convolution after MobileNetV2's last block is none by itself. */
static bool within_last_block(const struct learner_layers *layers, const struct learner_layer *own)
{
    const struct learner_layer *spatial = NULL;
    size_t first = layers->count;

    for (size_t l = layers->count; !spatial && l-- > 0;)
        if (layers->items[l].kind == LEARNER_LAYER_CONV && layers->items[l].kernel > 1)
            spatial = &layers->items[l];
    for (size_t l = 0; spatial && l < first; l++)
        if (layers->items[l].kind == LEARNER_LAYER_CONV &&
            strncmp(layers->items[l].name, spatial->name, block_length(spatial->name)) == 0)
            first = l;
    return own >= layers->items + first;
}

/* Is this tensor the weight of a convolution that `live` names? The last stage: all layers whose
 * plane is as small as the smallest. */
static bool is_named(const struct learner_layers *layers, const char *live, const char *tensor)
{
    const struct learner_layer *own = NULL;
    size_t smallest = SIZE_MAX;

    for (size_t l = 0; l < layers->count; l++) {
        const struct learner_layer *layer = &layers->items[l];
        const size_t len = strlen(layer->name);
        if (layer->kind != LEARNER_LAYER_CONV)
            continue;
        if (layer->out.h * layer->out.w < smallest)
            smallest = layer->out.h * layer->out.w;
        if (strncmp(tensor, layer->name, len) == 0 && strcmp(tensor + len, ".weight") == 0)
            own = layer;
    }
    if (!own)
        return false;
    if (!live || strcmp(live, LEARNER_LAST_STAGE) == 0)
        return own->out.h * own->out.w == smallest;
    if (strcmp(live, LEARNER_LAST_BLOCK) == 0)
        return within_last_block(layers, own);
    return begins_like(own->name, live);
}

static bool begins_a_layer(const struct learner_layers *layers, const char *name, size_t len)
{
    for (size_t l = 0; len && l < layers->count; l++)
        if (layers->items[l].kind == LEARNER_LAYER_CONV &&
            strncmp(layers->items[l].name, name, len) == 0)
            return true;
    return false;
}

/* A name of the list that is no layer's beginning is a mistake, though others are right. */
static enum delta_status check_names(const struct learner_layers *layers, const char *live,
                                     struct delta_error *err)
{
    if (!live || !*live || strcmp(live, LEARNER_LAST_STAGE) == 0 ||
        strcmp(live, LEARNER_LAST_BLOCK) == 0)
        return DELTA_OK;
    for (;;) {
        const size_t len = strcspn(live, ",");
        if (!begins_a_layer(layers, live, len))
            return delta_fail(err, DELTA_NOT_FOUND, "no layer's name begins with '%.*s'", (int)len,
                              live);
        if (!live[len])
            return DELTA_OK;
        live += len + 1;
    }
}

enum delta_status learner_plan_confine(struct delta_model *model, const char *live,
                                       struct delta_error *err)
{
    struct learner_layers *layers = delta_calloc(1, sizeof *layers);
    struct delta_tensor *weight = NULL, *bias = NULL;
    enum delta_status st = delta_model_head(model, &weight, &bias, err);

    if (!st && !layers)
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for a freeze plan");
    if (!st)
        st = learner_arch_layers(layers, &model->arch, model->class_count, err);
    if (!st)
        st = check_names(layers, live, err);
    for (size_t i = 0; !st && i < model->tensor_count; i++) {
        struct delta_tensor *tensor = &model->tensors[i];
        if (tensor == weight || tensor == bias)
            continue;
        if (tensor->rank < 2 || !is_named(layers, live, tensor->name))
            st = delta_tensor_set_freeze(tensor, DELTA_FREEZE_ALL, NULL, 0, err);
    }
    free(layers);
    return st;
}

static const float *gradient_of(const struct learner_importance *items, size_t count,
                                const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(items[i].name, name) == 0)
            return items[i].gradient;
    return NULL;
}

/* First the gradients, then, without the network, one layer's ranking at a time. */
enum delta_status learner_freeze_plan_need(const struct delta_model *model,
                                           const struct learner_samples *old,
                                           const struct delta_model *plan,
                                           const struct learner_budget *budget, size_t images,
                                           size_t *bytes, struct delta_error *err)
{
    const struct learner_net_options options = {.device = budget ? budget->device : NULL,
                                                .batch = images,
                                                .threads = budget ? budget->threads : 0,
                                                .train = true,
                                                .plan = plan};
    size_t net = 0, ranking = 0, gradients = 0;
    const enum delta_status st = learner_net_plan_bytes(&net, NULL, model, &options, err);

    for (size_t i = 0; i < model->tensor_count; i++) {
        const size_t count = model->tensors[i].count;
        const size_t cells = count * (sizeof(double) + LEARNER_RANK_BYTES) + count / 8;
        if (plan && plan->tensors[i].freeze.mode == DELTA_FREEZE_ALL)
            continue;
        gradients += count * sizeof(float);
        if (ranking < cells)
            ranking = cells;
    }
    net += old->count * (sizeof(int32_t) + sizeof(uint32_t));
    *bytes = gradients + (net > ranking ? net : ranking);
    return st;
}

struct need {
    const struct delta_model *model;
    const struct learner_samples *old;
    const struct delta_model *plan;
    const struct learner_budget *budget;
};

static enum delta_status need_memory(void *context, size_t images, size_t *bytes,
                                     struct delta_error *err)
{
    const struct need *need = context;

    return learner_freeze_plan_need(need->model, need->old, need->plan, need->budget, images, bytes,
                                    err);
}

enum delta_status learner_freeze_plan(struct delta_model *model, const struct learner_samples *old,
                                      double ratio, const struct learner_budget *budget,
                                      struct delta_error *err)
{
    const struct learner_plan_choice choice = {.ratio = ratio};

    return learner_freeze_plan_by(model, old, &choice, budget, err);
}

/* Marks layer by layer in *plan, whose layers that may not learn are frozen already. */
static enum delta_status mark(struct delta_model *plan, const struct learner_importance *items,
                              size_t count, enum mask mask,
                              const struct learner_plan_choice *choice, uint64_t seed,
                              struct delta_error *err)
{
    struct delta_tensor *weight, *bias;
    enum delta_status st = delta_model_head(plan, &weight, &bias, err);

    for (size_t i = 0; !st && i < plan->tensor_count; i++) {
        struct delta_tensor *tensor = &plan->tensors[i];
        const float *gradient = gradient_of(items, count, tensor->name);
        struct learner_rng rng;
        learner_rng_init(&rng, seed, 0x706c616eu + i);
        if (tensor == weight || tensor == bias || tensor->freeze.mode == DELTA_FREEZE_ALL)
            continue;
        if (mask == IMPORTANCE && !gradient)
            st = delta_tensor_set_freeze(tensor, DELTA_FREEZE_ALL, NULL, 0, err);
        else
            st = freeze_layer(tensor, gradient, mask, choice, &rng, err);
    }
    return st;
}

/* What may learn is live, the rest frozen whole. */
static enum delta_status open_up(struct delta_model *plan, const char *live,
                                 struct delta_error *err)
{
    struct delta_tensor *weight, *bias;
    enum delta_status st = delta_model_head(plan, &weight, &bias, err);

    for (size_t i = 0; !st && i < plan->tensor_count; i++) {
        struct delta_tensor *tensor = &plan->tensors[i];
        /* batch norm: parameters and statistics */
        const bool norm = tensor->rank < 2 && tensor != bias;
        st = delta_tensor_set_freeze(tensor, norm ? DELTA_FREEZE_ALL : DELTA_FREEZE_LIVE, NULL, 0,
                                     err);
    }
    return !st && live ? learner_plan_confine(plan, live, err) : st;
}

enum delta_status learner_freeze_plan_by(struct delta_model *model,
                                         const struct learner_samples *old,
                                         const struct learner_plan_choice *choice,
                                         const struct learner_budget *budget,
                                         struct delta_error *err)
{
    struct learner_importance *items = NULL;
    struct delta_model made = DELTA_MODEL_INIT;
    struct need need = {model, old, choice->live ? &made : NULL, budget};
    struct learner_budget plan = {0};
    enum mask mask;
    size_t count = 0;
    enum delta_status st = parse_mask(&mask, choice->mask, err);

    if (st)
        return st;
    if (!(choice->ratio >= 0 && choice->ratio <= 1))
        return delta_fail(err, DELTA_CONFIG, "freeze ratio %g is not within 0 and 1",
                          choice->ratio);
    st = delta_model_copy(&made, model, err);
    if (!st)
        st = open_up(&made, choice->live, err);
    const bool rank = choice->ratio > 0; /* else all that may learn is live */
    if (!st && rank && mask == IMPORTANCE)
        st = learner_budget_plan(&plan, budget, "a freeze plan",
                                 learner_budget_images(budget, old->count), 1, need_memory, &need,
                                 err);
    if (!st && rank && mask == IMPORTANCE)
        st = learner_importance_under(&items, &count, model, old, choice->live ? &made : NULL,
                                      &plan, err);
    if (!st && rank)
        st = mark(&made, items, count, mask, choice, budget ? budget->seed : 0, err);
    for (size_t i = 0; !st && i < model->tensor_count; i++) {
        const struct delta_freeze *freeze = &made.tensors[i].freeze;
        st = delta_tensor_set_freeze(&model->tensors[i], freeze->mode, freeze->bits, freeze->count,
                                     err);
    }
    learner_importance_free(items, count);
    delta_model_release(&made);
    return st;
}
