/* The freeze plan as published: per layer the top share of the weights by (g w)^2. */
#include "budget.h"
#include "importance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum delta_status freeze_layer(struct delta_tensor *tensor, const float *gradient,
                                      double ratio, struct delta_error *err)
{
    const size_t keep = (size_t)llround(ratio * (double)tensor->count);
    double *score = delta_calloc(tensor->count, sizeof *score);
    uint8_t *bits = delta_calloc(tensor->count / 8 + 1, 1);
    enum delta_status st;

    if (!score || !bits) {
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for a freeze plan");
        goto done;
    }
    for (size_t i = 0; i < tensor->count; i++) {
        const double product = (double)gradient[i] * tensor->data[i];
        score[i] = product * product;
    }
    st = learner_top_bits(bits, score, tensor->count, keep, err);
    if (!st)
        st = delta_tensor_set_freeze(tensor, DELTA_FREEZE_WEIGHTS, bits, tensor->count, err);
done:
    free(score);
    free(bits);
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
                                           const struct learner_budget *budget, size_t images,
                                           size_t *bytes, struct delta_error *err)
{
    const size_t gradients = learner_model_bytes(model);
    size_t net = 0, ranking = 0;
    const enum delta_status st = learner_budget_net(&net, model, budget, images, true, err);

    for (size_t i = 0; i < model->tensor_count; i++) {
        const size_t count = model->tensors[i].count;
        const size_t cells = count * (sizeof(double) + LEARNER_RANK_BYTES) + count / 8;
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
    const struct learner_budget *budget;
};

static enum delta_status need_memory(void *context, size_t images, size_t *bytes,
                                     struct delta_error *err)
{
    const struct need *need = context;

    return learner_freeze_plan_need(need->model, need->old, need->budget, images, bytes, err);
}

enum delta_status learner_freeze_plan(struct delta_model *model, const struct learner_samples *old,
                                      double ratio, const struct learner_budget *budget,
                                      struct delta_error *err)
{
    struct learner_importance *items = NULL;
    struct delta_tensor *weight, *bias;
    struct need need = {model, old, budget};
    struct learner_budget plan = {0};
    size_t count = 0;
    enum delta_status st = delta_model_head(model, &weight, &bias, err);

    if (st)
        return st;
    if (!(ratio >= 0 && ratio <= 1))
        return delta_fail(err, DELTA_CONFIG, "freeze ratio %g is not within 0 and 1", ratio);
    st = learner_budget_plan(&plan, budget, "a freeze plan",
                             learner_budget_images(budget, old->count), 1, need_memory, &need, err);
    if (!st)
        st = learner_importance_gradient(&items, &count, model, old, &plan, err);
    for (size_t i = 0; !st && i < model->tensor_count; i++) {
        struct delta_tensor *tensor = &model->tensors[i];
        const float *gradient = gradient_of(items, count, tensor->name);
        if (tensor == weight || tensor == bias)
            st = delta_tensor_set_freeze(tensor, DELTA_FREEZE_LIVE, NULL, 0, err);
        else if (tensor->rank < 2 || !gradient) /* batch norm: parameters and statistics */
            st = delta_tensor_set_freeze(tensor, DELTA_FREEZE_ALL, NULL, 0, err);
        else
            st = freeze_layer(tensor, gradient, ratio, err);
    }
    learner_importance_free(items, count);
    return st;
}
