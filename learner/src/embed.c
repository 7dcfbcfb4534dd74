#include "embed.h"

#include <stdlib.h>
#include <string.h>

#include "feed.h"

void learner_embedding_release(struct learner_embedding *embedding)
{
    if (!embedding)
        return;
    free(embedding->features);
    free(embedding->logits);
    *embedding = (struct learner_embedding){0, 0, 0, NULL, NULL};
}

enum delta_status learner_samples_check(const struct learner_samples *samples,
                                        const struct delta_arch *arch, struct delta_error *err)
{
    if (samples->channels != arch->channels || samples->height != arch->height ||
        samples->width != arch->image_width)
        return delta_fail(err, DELTA_MISMATCH,
                          "images of %ux%u pixels and %u channels, the model takes %ux%u and %u",
                          samples->width, samples->height, samples->channels, arch->image_width,
                          arch->height, arch->channels);
    return DELTA_OK;
}

int32_t *learner_samples_outputs(const struct learner_samples *samples,
                                 const struct delta_model *model)
{
    int32_t *outputs = delta_calloc(samples->count + 1, sizeof *outputs);
    int32_t *map = delta_calloc(samples->class_count + 1, sizeof *map);

    if (!outputs || !map) {
        free(outputs);
        free(map);
        return NULL;
    }
    for (size_t k = 0; k < samples->class_count; k++)
        map[k] = (int32_t)delta_model_class_index(model, samples->classes[k].text);
    for (size_t i = 0; i < samples->count; i++)
        outputs[i] = map[samples->labels[i]];
    free(map);
    return outputs;
}

enum delta_status learner_budget_tick(const struct learner_budget *budget, const char *stage,
                                      double done, double total, struct delta_error *err)
{
    if (budget && budget->progress && !budget->progress(budget->context, stage, done, total))
        return delta_fail(err, DELTA_INTERRUPTED, "stopped during %s", stage);
    if (learner_budget_left_ms(budget) == 0 && done < total)
        return delta_fail(err, DELTA_INTERRUPTED,
                          "time is up during %s, %.0f %% done; give more time or fewer images",
                          stage, 100 * done / total);
    return DELTA_OK;
}

enum delta_status learner_embed_views(struct learner_embedding *out,
                                      const struct delta_model *model,
                                      const struct learner_samples *samples, size_t views,
                                      const struct learner_budget *budget, const char *stage,
                                      struct delta_error *err)
{
    const size_t most = learner_budget_images(budget, views * samples->count);
    const size_t batch = most < LEARNER_VIEWS_MAX ? most : LEARNER_VIEWS_MAX;
    const struct learner_net_options options = {.device = budget ? budget->device : NULL,
                                                .batch = batch,
                                                .threads = budget ? budget->threads : 0};
    struct learner_embedding made = {.count = views * samples->count};
    struct learner_net *net = NULL;
    struct learner_feed feed = {.net = NULL};
    uint32_t *index = delta_calloc(batch, sizeof *index);
    size_t features = 0, logits = 0;
    enum delta_status st = learner_samples_check(samples, &model->arch, err);

    if (!st && !index)
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for features");
    if (!st)
        st = learner_net_new(&net, model, &options, err);
    if (st)
        goto done;
    learner_feed_init(&feed, net, samples, &model->arch, false);
    made.d = learner_net_feature_count(net);
    made.classes = learner_net_class_count(net);
    if (delta_size_mul(made.count, made.d, &features) &&
        delta_size_mul(made.count, made.classes, &logits)) {
        made.features = delta_calloc(features + 1, sizeof *made.features);
        made.logits = delta_calloc(logits + 1, sizeof *made.logits);
    }
    if (!made.features || !made.logits) {
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for features of %zu images",
                        samples->count);
        goto done;
    }
    for (size_t at = 0; at < made.count; at += batch) {
        const size_t n = made.count - at < batch ? made.count - at : batch;
        for (size_t i = 0; i < n; i++)
            index[i] = (uint32_t)(at + i);
        learner_feed_load(&feed, index, n);
        st = learner_net_forward(net, n, LEARNER_INFER, err);
        if (!st)
            st = learner_budget_tick(budget, stage, (double)(at + n), (double)made.count, err);
        if (st)
            goto done;
        memcpy(made.features + at * made.d, learner_net_features(net), n * made.d * sizeof(float));
        memcpy(made.logits + at * made.classes, learner_net_logits(net),
               n * made.classes * sizeof(float));
    }
    *out = made;
    made = (struct learner_embedding){0, 0, 0, NULL, NULL};
done:
    free(index);
    learner_embedding_release(&made);
    learner_feed_release(&feed);
    learner_net_free(net);
    return st;
}

enum delta_status learner_embed(struct learner_embedding *out, const struct delta_model *model,
                                const struct learner_samples *samples,
                                const struct learner_budget *budget, const char *stage,
                                struct delta_error *err)
{
    return learner_embed_views(out, model, samples, 1, budget, stage, err);
}
