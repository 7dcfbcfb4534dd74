/* Importance against what it approximates: the measured change of the loss when a weight is zero.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "embed.h"
#include "feed.h"
#include "importance.h"
#include "learner/loss.h"
#include "rng.h"

struct probe {
    double importance, change;
};

struct check {
    struct learner_net *net;
    struct learner_feed feed;
    const struct delta_model *model;
    const struct learner_samples *old;
    int32_t *outputs;
    size_t known; /* images of classes that the model has */
};

static enum delta_status loss_now(double *out, struct check *check, struct delta_error *err)
{
    const size_t batch = learner_net_batch(check->net), classes = check->model->class_count;
    uint32_t *index = delta_calloc(batch, sizeof *index);
    enum delta_status st = DELTA_OK;
    double sum = 0;

    if (!index)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t at = 0; !st && at < check->old->count; at += batch) {
        const size_t n = check->old->count - at < batch ? check->old->count - at : batch;
        for (size_t i = 0; i < n; i++)
            index[i] = (uint32_t)(at + i);
        learner_feed_load(&check->feed, index, n);
        st = learner_net_forward(check->net, n, LEARNER_INFER, err);
        if (!st)
            sum += (double)n * learner_loss_ce(learner_net_logits(check->net), check->outputs + at,
                                               NULL, n, classes, 1, NULL);
    }
    free(index);
    *out = sum / (double)(check->known + !check->known);
    return st;
}

/* A weight of the convolutions, each as likely as any other. */
static struct learner_param *draw(struct learner_net *net, const struct learner_importance *items,
                                  size_t count, struct learner_rng *rng, size_t *item,
                                  size_t *element)
{
    size_t total = 0;

    for (size_t i = 0; i < count; i++)
        total += learner_net_find(net, items[i].name)->rank == 4 ? items[i].count : 0;
    size_t at = total ? learner_rng_below(rng, (uint32_t)total) : 0;
    for (size_t i = 0; i < count; i++) {
        struct learner_param *param = learner_net_find(net, items[i].name);
        if (param->rank != 4)
            continue;
        if (at < items[i].count) {
            *item = i;
            *element = at;
            return param;
        }
        at -= items[i].count;
    }
    return NULL;
}

static int by_importance(const void *left, const void *right)
{
    const struct probe *a = left, *b = right;

    return (a->importance > b->importance) - (a->importance < b->importance);
}

static int by_change(const void *left, const void *right)
{
    const struct probe *a = left, *b = right;

    return (a->change > b->change) - (a->change < b->change);
}

/* Spearman (1904), ties as they fall. Uses the probes up. */
static double rank_correlation(struct probe *probes, size_t count)
{
    double sum = 0;

    if (count < 2)
        return 0;
    qsort(probes, count, sizeof *probes, by_importance);
    for (size_t i = 0; i < count; i++)
        probes[i].importance = (double)i;
    qsort(probes, count, sizeof *probes, by_change);
    for (size_t i = 0; i < count; i++)
        sum += pow(probes[i].importance - (double)i, 2);
    return 1 - 6 * sum / ((double)count * ((double)count * (double)count - 1));
}

static enum delta_status probe_all(struct probe *probes, size_t weights, struct check *check,
                                   const struct learner_importance *items, size_t count,
                                   const struct learner_budget *budget, struct delta_error *err)
{
    struct learner_rng rng;
    double whole = 0, without = 0;
    size_t item = 0, element = 0;
    enum delta_status st = loss_now(&whole, check, err);

    learner_rng_init(&rng, budget ? budget->seed : 0, 0x70726f62);
    for (size_t i = 0; !st && i < weights; i++) {
        struct learner_param *param = draw(check->net, items, count, &rng, &item, &element);
        if (!param)
            return delta_fail(err, DELTA_NOT_FOUND, "the network has no convolution");
        float weight;
        learner_net_get(check->net, &weight, param->data + element, 1);
        learner_net_put(check->net, param->data + element, &(float){0}, 1);
        learner_net_changed(check->net);
        st = loss_now(&without, check, err);
        learner_net_put(check->net, param->data + element, &weight, 1);
        const double product = (double)items[item].gradient[element] * weight;
        probes[i] = (struct probe){product * product, pow(without - whole, 2)};
        if (!st)
            st = learner_budget_tick(budget, "zeroing weights", (double)(i + 1), (double)weights,
                                     err);
    }
    return st;
}

enum delta_status learner_importance_measure(struct learner_importance_check *out,
                                             const struct delta_model *model,
                                             const struct learner_samples *old, size_t weights,
                                             const struct learner_budget *budget,
                                             struct delta_error *err)
{
    const struct learner_net_options options = {.device = budget ? budget->device : NULL,
                                                .batch = learner_budget_images(budget, old->count),
                                                .threads = budget ? budget->threads : 0};
    struct check check = {.model = model, .old = old};
    struct learner_importance *items = NULL;
    struct probe *probes = delta_calloc(weights + 1, sizeof *probes);
    size_t count = 0;
    enum delta_status st = DELTA_OK;

    check.outputs = learner_samples_outputs(old, model);
    if (!probes || !check.outputs)
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t i = 0; !st && i < old->count; i++)
        check.known += check.outputs[i] >= 0;
    if (!st)
        st = learner_importance_gradient(&items, &count, model, old, budget, err);
    if (!st)
        st = learner_net_new(&check.net, model, &options, err);
    if (!st) {
        learner_feed_init(&check.feed, check.net, old, &model->arch, true);
        st = probe_all(probes, weights, &check, items, count, budget, err);
    }
    if (!st)
        *out = (struct learner_importance_check){
            weights, check.known, rank_correlation(probes, weights),
            (double)check.known * (1 + (double)(weights + 1) / 3)};
    learner_feed_release(&check.feed);
    learner_net_free(check.net);
    learner_importance_free(items, count);
    free(check.outputs);
    free(probes);
    return st;
}
