#include "learner/optim.h"

#include <stdlib.h>
#include <string.h>

#include "graph.h"

struct learner_sgd {
    struct learner_net *net; /* borrowed */
    struct learner_sgd_options options;
    struct learner_slot *slots; /* velocity and live are owned, on the net's device */
    size_t count;
};

static bool any_live(const struct delta_tensor *tensor)
{
    return !tensor || tensor->freeze.mode != DELTA_FREEZE_ALL;
}

static enum delta_status fill_live(struct learner_slot *slot, struct learner_device *device,
                                   const struct learner_param *param,
                                   const struct delta_tensor *tensor, struct delta_error *err)
{
    if (tensor->count != param->count)
        return delta_fail(err, DELTA_MISMATCH,
                          "freeze plan of '%s' is for %zu elements, the network has %zu",
                          param->name, tensor->count, param->count);
    uint8_t *live = delta_calloc(param->count, 1);
    uint8_t *placed = live ? device->ops->alloc(device, param->count) : NULL;
    for (size_t i = 0; placed && i < param->count; i++)
        live[i] = !delta_tensor_is_frozen(tensor, i);
    if (placed)
        learner_device_upload(device, placed, live, param->count);
    free(live);
    slot->live = placed;
    return placed ? DELTA_OK
                  : delta_fail(err, DELTA_NO_MEMORY, "no memory for the freeze plan of '%s'",
                               param->name);
}

static enum delta_status fill_slot(struct learner_slot *slot, struct learner_device *device,
                                   const struct learner_param *param, double weight_decay,
                                   const struct delta_tensor *tensor, struct delta_error *err)
{
    *slot = (struct learner_slot){.values = param->data,
                                  .grad = param->grad,
                                  .count = param->count,
                                  .decay = param->decays ? (float)weight_decay : 0};
    slot->velocity = device->ops->alloc(device, param->count * sizeof(float));
    if (!slot->velocity)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for momentum of '%s'", param->name);
    if (!tensor || tensor->freeze.mode == DELTA_FREEZE_LIVE)
        return DELTA_OK;
    return fill_live(slot, device, param, tensor, err);
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
            st = fill_slot(&sgd->slots[sgd->count++], net->device, param, options->weight_decay,
                           tensor, err);
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
        struct learner_device *device = sgd->net->device;
        if (sgd->slots[i].velocity)
            device->ops->release(device, sgd->slots[i].velocity);
        if (sgd->slots[i].live)
            device->ops->release(device, (uint8_t *)sgd->slots[i].live);
    }
    free(sgd->slots);
    free(sgd);
}

/* Elements first..end of a slot. */
struct part {
    const struct learner_slot *slot;
    size_t first, end;
    float momentum, lr;
    bool nesterov;
};

#define LIVE_RUN 256 /* elements looked at together; frozen filters are longer */

/* The same operations in the same order for every element, whichever loop it meets. */
static void step_all(const struct part *part)
{
    float *restrict w = part->slot->values, *restrict v = part->slot->velocity;
    const float *restrict grad = part->slot->grad;
    const float momentum = part->momentum, decay = part->slot->decay, lr = part->lr;

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
    float *restrict w = part->slot->values, *restrict v = part->slot->velocity;
    const float *restrict grad = part->slot->grad;
    const uint8_t *restrict live = part->slot->live;
    const float momentum = part->momentum, decay = part->slot->decay, lr = part->lr;

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
    struct learner_sgd_rates rates;
};

/* A member's part is one stretch of all elements, so that large parameters are shared too. */
static void step_member(void *context, size_t member, size_t members)
{
    const struct step *step = context;
    size_t total = 0, first, end, at = 0;

    for (size_t i = 0; i < step->sgd->count; i++)
        total += step->sgd->slots[i].count;
    learner_pool_share(total, member, members, &first, &end);
    for (size_t i = 0; i < step->sgd->count; i++) {
        const struct learner_slot *slot = &step->sgd->slots[i];
        const size_t from = first > at ? first - at : 0, count = slot->count;
        const size_t to = end > at ? end - at : 0;
        if (from < count && to)
            step_part(&(struct part){.slot = slot,
                                     .first = from,
                                     .end = to < count ? to : count,
                                     .momentum = step->rates.momentum,
                                     .lr = step->rates.lr,
                                     .nesterov = step->rates.nesterov});
        at += count;
    }
}

void learner_sgd_step(struct learner_sgd *sgd, double lr)
{
    struct learner_device *device = sgd->net->device;
    struct step step = {sgd, {(float)lr, (float)sgd->options.momentum, sgd->options.nesterov}};

    if (device->ops->remote)
        device->ops->remote->step(device, sgd->slots, sgd->count, &step.rates);
    else
        learner_device_team(device, step_member, &step);
    learner_net_changed(sgd->net);
}

size_t learner_sgd_slots(const struct learner_sgd *sgd)
{
    return sgd->count;
}

float *learner_sgd_velocity(struct learner_sgd *sgd, size_t index, size_t *count)
{
    *count = sgd->slots[index].count;
    return sgd->slots[index].velocity;
}
