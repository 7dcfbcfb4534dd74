#include "importance.h"

#include <stdlib.h>
#include <string.h>

#include "embed.h"
#include "feed.h"
#include "graph.h"
#include "net_device.h"

void learner_importance_free(struct learner_importance *items, size_t count)
{
    for (size_t i = 0; items && i < count; i++)
        free(items[i].gradient);
    free(items);
}

static enum delta_status reserve(struct learner_importance **out, size_t *count,
                                 struct learner_net *net, const struct delta_model *model,
                                 struct delta_error *err)
{
    const size_t params = learner_net_param_count(net);
    struct learner_importance *items = delta_calloc(params + 1, sizeof *items);
    size_t used = 0;

    for (size_t i = 0; items && i < params; i++) {
        const struct learner_param *param = learner_net_param(net, i);
        const struct delta_tensor *tensor = delta_model_find(model, param->name);
        if (!param->grad || !tensor)
            continue;
        items[used].name = tensor->name;
        items[used].count = param->count;
        items[used].gradient = delta_calloc(param->count, sizeof(float));
        if (!items[used++].gradient) {
            learner_importance_free(items, used);
            items = NULL;
        }
    }
    if (!items)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for gradients");
    *out = items;
    *count = used;
    return DELTA_OK;
}

static enum delta_status add_up(struct learner_importance *items, size_t count,
                                struct learner_net *net, struct delta_error *err)
{
    size_t most = 0;
    float *scratch = NULL; /* only where the host cannot look at the gradients themselves */

    for (size_t k = 0; k < count; k++)
        most = items[k].count > most ? items[k].count : most;
    if (net->device->ops->remote && !(scratch = delta_calloc(most + 1, sizeof *scratch)))
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t k = 0; k < count; k++) {
        const struct learner_param *param = learner_net_find(net, items[k].name);
        const float *grad = learner_device_view(net->device, param->grad, param->count, scratch);
        for (size_t i = 0; i < items[k].count; i++)
            items[k].gradient[i] += grad[i];
    }
    free(scratch);
    return learner_device_sync(net->device, err);
}

/* Sums gradients; each batch is weighted by its share of the images. */
static enum delta_status accumulate(struct learner_importance *items, size_t count,
                                    struct learner_net *net, const struct delta_model *model,
                                    const struct learner_samples *old, const uint32_t *known,
                                    size_t total, const int32_t *outputs,
                                    const struct learner_budget *budget, struct delta_error *err)
{
    const size_t batch = learner_net_batch(net);
    struct learner_loss_sum sum;
    struct learner_feed feed;
    int32_t *labels = delta_calloc(batch, sizeof *labels);
    enum delta_status st = DELTA_OK;

    if (!labels)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    learner_feed_init(&feed, net, old, &model->arch, false);
    for (size_t at = 0; !st && at < total; at += batch) {
        const size_t n = total - at < batch ? total - at : batch;
        for (size_t i = 0; i < n; i++)
            labels[i] = outputs[known[at + i]];
        learner_feed_load(&feed, known + at, n);
        st = learner_net_forward(net, n, LEARNER_TRAIN_EVAL, err);
        if (st)
            break;
        learner_net_loss(
            net, &(struct learner_loss){.labels = labels, .scale = (double)n / (double)total}, n,
            &sum);
        st = learner_net_backward(net, n, err);
        if (!st)
            st = add_up(items, count, net, err);
        if (st)
            break;
        st = learner_budget_tick(budget, "importance", (double)(at + n), (double)total, err);
    }
    learner_feed_release(&feed);
    free(labels);
    return st;
}

enum delta_status learner_importance_gradient(struct learner_importance **out, size_t *count,
                                              const struct delta_model *model,
                                              const struct learner_samples *old,
                                              const struct learner_budget *budget,
                                              struct delta_error *err)
{
    return learner_importance_under(out, count, model, old, NULL, budget, err);
}

enum delta_status learner_importance_under(struct learner_importance **out, size_t *count,
                                           const struct delta_model *model,
                                           const struct learner_samples *old,
                                           const struct delta_model *plan,
                                           const struct learner_budget *budget,
                                           struct delta_error *err)
{
    const struct learner_net_options options = {.device = budget ? budget->device : NULL,
                                                .batch = learner_budget_images(budget, old->count),
                                                .threads = budget ? budget->threads : 0,
                                                .train = true,
                                                .plan = plan};
    int32_t *outputs = learner_samples_outputs(old, model);
    uint32_t *known = delta_calloc(old->count + 1, sizeof *known);
    struct learner_importance *items = NULL;
    struct learner_net *net = NULL;
    size_t total = 0, used = 0;
    enum delta_status st;

    if (!outputs || !known) {
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
        goto done;
    }
    for (size_t i = 0; i < old->count; i++)
        if (outputs[i] >= 0)
            known[total++] = (uint32_t)i;
    if (total == 0) {
        st = delta_fail(err, DELTA_NOT_FOUND,
                        "no image of a class that the model knows: its importance needs old data");
        goto done;
    }
    st = learner_samples_check(old, &model->arch, err);
    if (!st)
        st = learner_net_new(&net, model, &options, err);
    if (!st)
        st = reserve(&items, &used, net, model, err);
    if (!st)
        st = accumulate(items, used, net, model, old, known, total, outputs, budget, err);
    if (!st) {
        *out = items;
        *count = used;
        items = NULL;
    }
done:
    learner_importance_free(items, used);
    learner_net_free(net);
    free(outputs);
    free(known);
    return st;
}

struct ranked {
    double score;
    size_t index;
};
_Static_assert(sizeof(struct ranked) <= LEARNER_RANK_BYTES, "what a plan of memory counts");

static int by_score(const void *left, const void *right)
{
    const struct ranked *a = left, *b = right;

    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

enum delta_status learner_top_bits(uint8_t *bits, const double *score, size_t count, size_t keep,
                                   struct delta_error *err)
{
    struct ranked *ranked = delta_calloc(count + 1, sizeof *ranked);

    if (!ranked)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for ranking %zu weights", count);
    for (size_t i = 0; i < count; i++)
        ranked[i] = (struct ranked){score[i], i};
    qsort(ranked, count, sizeof *ranked, by_score);
    for (size_t i = 0; i < keep && i < count; i++)
        bits[ranked[i].index / 8] |= (uint8_t)(1u << (ranked[i].index % 8));
    free(ranked);
    return DELTA_OK;
}
