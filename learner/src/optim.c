#include "learner/optim.h"

#include <stdlib.h>

/* One learning parameter: its velocity, and which elements may move. */
struct slot {
    struct learner_param *param;
    float *velocity;
    uint8_t *live; /* [count]; NULL: all */
};

struct learner_sgd {
    struct learner_net *net; /* borrowed */
    struct learner_sgd_options options;
    struct slot *slots;
    size_t count;
};

static bool any_live(const struct delta_tensor *tensor)
{
    return !tensor || tensor->freeze.mode != DELTA_FREEZE_ALL;
}

static enum delta_status fill_slot(struct slot *slot, struct learner_param *param,
                                   const struct delta_tensor *tensor, struct delta_error *err)
{
    slot->param = param;
    slot->velocity = delta_calloc_aligned(param->count, sizeof(float));
    if (!slot->velocity)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for momentum of '%s'", param->name);
    if (!tensor || tensor->freeze.mode == DELTA_FREEZE_LIVE)
        return DELTA_OK;
    if (tensor->count != param->count)
        return delta_fail(err, DELTA_MISMATCH,
                          "freeze plan of '%s' is for %zu elements, the network has %zu",
                          param->name, tensor->count, param->count);
    slot->live = delta_calloc(param->count, 1);
    if (!slot->live)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for the freeze plan of '%s'",
                          param->name);
    for (size_t i = 0; i < param->count; i++)
        slot->live[i] = !delta_tensor_is_frozen(tensor, i);
    return DELTA_OK;
}

enum delta_status learner_sgd_new(struct learner_sgd **out, struct learner_net *net,
                                  const struct delta_model *plan,
                                  const struct learner_sgd_options *options,
                                  struct delta_error *err)
{
    const size_t params = learner_net_param_count(net);
    enum delta_status st = DELTA_OK;
    struct learner_sgd *sgd = delta_calloc(1, sizeof *sgd);

    if (sgd)
        sgd->slots = delta_calloc(params, sizeof *sgd->slots);
    if (!sgd || !sgd->slots) {
        learner_sgd_free(sgd);
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for an optimiser");
    }
    sgd->net = net;
    sgd->options = *options;
    for (size_t i = 0; !st && i < params; i++) {
        struct learner_param *param = learner_net_param(net, i);
        const struct delta_tensor *tensor = plan ? delta_model_find(plan, param->name) : NULL;
        if (param->grad && any_live(tensor))
            st = fill_slot(&sgd->slots[sgd->count++], param, tensor, err);
    }
    if (st)
        learner_sgd_free(sgd);
    else
        *out = sgd;
    return st;
}

void learner_sgd_free(struct learner_sgd *sgd)
{
    if (!sgd)
        return;
    for (size_t i = 0; sgd->slots && i < sgd->count; i++) {
        free(sgd->slots[i].velocity);
        free(sgd->slots[i].live);
    }
    free(sgd->slots);
    free(sgd);
}

static void step_slot(const struct slot *slot, const struct learner_sgd_options *options, float lr)
{
    const float momentum = (float)options->momentum;
    const float decay = slot->param->decays ? (float)options->weight_decay : 0;
    float *w = slot->param->data, *v = slot->velocity;
    const float *grad = slot->param->grad;

    for (size_t i = 0; i < slot->param->count; i++) {
        if (slot->live && !slot->live[i])
            continue;
        const float g = grad[i] + decay * w[i];
        v[i] = momentum * v[i] + g;
        w[i] -= lr * (options->nesterov ? g + momentum * v[i] : v[i]);
    }
}

void learner_sgd_step(struct learner_sgd *sgd, double lr)
{
    for (size_t i = 0; i < sgd->count; i++)
        step_slot(&sgd->slots[i], &sgd->options, (float)lr);
    learner_net_changed(sgd->net);
}

size_t learner_sgd_slots(const struct learner_sgd *sgd)
{
    return sgd->count;
}

float *learner_sgd_velocity(struct learner_sgd *sgd, size_t index, size_t *count)
{
    *count = sgd->slots[index].param->count;
    return sgd->slots[index].velocity;
}
