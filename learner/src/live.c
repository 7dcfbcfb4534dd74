#include "live.h"

#include <stdio.h>
#include <stdlib.h>

static const struct delta_tensor *part(const struct delta_model *plan, const char *layer,
                                       const char *name)
{
    char full[2 * LEARNER_LAYER_NAME];

    snprintf(full, sizeof full, "%s.%s", layer, name);
    return delta_model_find(plan, full);
}

/* Absent tensors are live: nothing is known to freeze them. */
static bool any_live(const struct delta_tensor *tensor)
{
    return !tensor || delta_tensor_live_count(tensor) > 0;
}

static bool norm_frozen(const struct delta_model *plan, const char *norm)
{
    static const char *const parts[] = {"weight", "bias", "running_mean", "running_var"};

    for (size_t i = 0; i < 4; i++)
        if (any_live(part(plan, norm, parts[i])))
            return false;
    return true;
}

static bool filter_live(const struct delta_tensor *tensor, size_t filter, size_t size)
{
    for (size_t i = filter * size; i < (filter + 1) * size; i++)
        if (!delta_tensor_is_frozen(tensor, i))
            return true;
    return false;
}

static enum delta_status find_filters(struct learner_live *live, const struct delta_tensor *tensor,
                                      size_t filters, struct delta_error *err)
{
    if (!tensor || tensor->freeze.mode == DELTA_FREEZE_LIVE || tensor->count % filters)
        return DELTA_OK;
    live->filters = delta_calloc(filters, sizeof *live->filters);
    if (!live->filters)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for the live filters of '%s'",
                          tensor->name);
    for (size_t f = 0; f < filters; f++)
        if (filter_live(tensor, f, tensor->count / filters))
            live->filters[live->filter_count++] = (uint32_t)f;
    if (live->filter_count == filters) {
        free(live->filters);
        live->filters = NULL;
    }
    return DELTA_OK;
}

enum delta_status learner_live_find(struct learner_live *live, size_t *first_live,
                                    const struct learner_layers *layers,
                                    const struct delta_model *plan, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    *first_live = layers->count;
    for (size_t l = 0; !st && l < layers->count; l++) {
        const struct learner_layer *layer = &layers->items[l];
        bool learns = false;
        if (layer->kind == LEARNER_LAYER_CONV) {
            const struct delta_tensor *weight = plan ? part(plan, layer->name, "weight") : NULL;
            live[l].folded = plan && norm_frozen(plan, layer->norm);
            live[l].weight = any_live(weight);
            learns = live[l].weight || !live[l].folded;
            if (live[l].weight)
                st = find_filters(&live[l], weight, layer->out.c, err);
        } else if (layer->kind == LEARNER_LAYER_HEAD) {
            live[l].weight = !plan || any_live(part(plan, layer->name, "weight")) ||
                             any_live(part(plan, layer->name, "bias"));
            learns = live[l].weight;
        }
        live[l].gradient = learns || (layer->input >= 0 && live[layer->input].gradient) ||
                           (layer->residual >= 0 && live[layer->residual].gradient);
        if (learns && *first_live == layers->count)
            *first_live = l;
    }
    return st;
}

void learner_live_release(struct learner_live *live, size_t count)
{
    for (size_t l = 0; live && l < count; l++)
        free(live[l].filters);
}
