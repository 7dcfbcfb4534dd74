#include "learner/optim.h"

#include <stdlib.h>
#include <string.h>

#include "graph.h"

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

/* Elements first..end of a slot. */
struct part {
    const struct slot *slot;
    size_t first, end;
    float momentum, decay, lr;
    bool nesterov;
};

#define LIVE_RUN 256 /* elements looked at together; frozen filters are longer */

/* The same operations in the same order for every element, whichever loop it meets. */
static void step_all(const struct part *part)
{
    float *restrict w = part->slot->param->data, *restrict v = part->slot->velocity;
    const float *restrict grad = part->slot->param->grad;
    const float momentum = part->momentum, decay = part->decay, lr = part->lr;

    if (part->nesterov)
        for (size_t i = part->first; i < part->end; i++) {
            const float g = grad[i] + decay * w[i];
            v[i] = momentum * v[i] + g;
            w[i] -= lr * (g + momentum * v[i]);
        }
    else
        for (size_t i = part->first; i < part->end; i++) {
            const float g = grad[i] + decay * w[i];
            v[i] = momentum * v[i] + g;
            w[i] -= lr * v[i];
        }
}

static void step_live(const struct part *part)
{
    float *restrict w = part->slot->param->data, *restrict v = part->slot->velocity;
    const float *restrict grad = part->slot->param->grad;
    const uint8_t *restrict live = part->slot->live;
    const float momentum = part->momentum, decay = part->decay, lr = part->lr;

    for (size_t i = part->first; i < part->end; i++) {
        const float g = grad[i] + decay * w[i], moved = momentum * v[i] + g;
        const float to = w[i] - lr * (part->nesterov ? g + momentum * moved : moved);
        v[i] = live[i] ? moved : v[i];
        w[i] = live[i] ? to : w[i];
    }
}

static void step_part(const struct part *part)
{
    struct part run = *part;

    if (!part->slot->live) {
        step_all(part);
        return;
    }
    for (; run.first < part->end; run.first = run.end) {
        const size_t left = part->end - run.first, count = left < LIVE_RUN ? left : LIVE_RUN;
        run.end = run.first + count;
        if (memchr(part->slot->live + run.first, 1, count))
            step_live(&run);
    }
}

struct step {
    const struct learner_sgd *sgd;
    float lr;
};

/* A member's part is one stretch of all elements, so that large parameters are shared too. */
static void step_member(void *context, size_t member, size_t members)
{
    const struct step *step = context;
    const struct learner_sgd_options *options = &step->sgd->options;
    size_t total = 0, first, end, at = 0;

    for (size_t i = 0; i < step->sgd->count; i++)
        total += step->sgd->slots[i].param->count;
    learner_pool_share(total, member, members, &first, &end);
    for (size_t i = 0; i < step->sgd->count; i++) {
        const struct slot *slot = &step->sgd->slots[i];
        const size_t from = first > at ? first - at : 0, count = slot->param->count;
        const size_t to = end > at ? end - at : 0;
        if (from < count && to)
            step_part(
                &(struct part){.slot = slot,
                               .first = from,
                               .end = to < count ? to : count,
                               .momentum = (float)options->momentum,
                               .decay = slot->param->decays ? (float)options->weight_decay : 0,
                               .lr = step->lr,
                               .nesterov = options->nesterov});
        at += count;
    }
}

void learner_sgd_step(struct learner_sgd *sgd, double lr)
{
    struct step step = {sgd, (float)lr};

    learner_device_team(sgd->net->device, step_member, &step);
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
