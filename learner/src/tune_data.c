#include "tune_data.h"

#include <stdlib.h>
#include <string.h>

/* For what a frozen prefix makes of the images, in memory; what does not fit goes to a file. Under
 * a memory budget a part of that. */
#define CACHE_BYTES ((size_t)256 << 20)
#define CACHE_SHARE 8

enum delta_status learner_tune_data_init(struct learner_tune_data *data,
                                         const struct learner_task *task, bool replay, size_t views,
                                         struct delta_error *err)
{
    enum delta_status st = learner_samples_append(&data->pool, task->fresh, err);

    data->views = views;
    if (!st && replay && task->replay->count)
        st = learner_samples_append(&data->pool, task->replay, err);
    if (st)
        return st;
    data->labels = learner_samples_outputs(&data->pool, task->model);
    if (!data->labels)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for training");
    return DELTA_OK;
}

void learner_tune_data_release(struct learner_tune_data *data)
{
    learner_samples_release(&data->pool);
    learner_embedding_release(&data->own);
    learner_cache_free(data->cache);
    free(data->records);
    free(data->labels);
}

static size_t cache_room(const struct learner_budget *budget)
{
    const size_t part = budget->memory_bytes / CACHE_SHARE;

    return budget->memory_bytes && part < CACHE_BYTES ? part : CACHE_BYTES;
}

size_t learner_tune_data_cache_bytes(const struct learner_budget *budget, size_t views,
                                     size_t floats)
{
    const size_t room = cache_room(budget), all = views * floats * sizeof(float);

    return all < room ? all : room;
}

enum delta_status learner_tune_data_cache(struct learner_tune_data *data,
                                          const struct learner_net *net, size_t micro,
                                          const struct learner_budget *budget,
                                          struct delta_error *err)
{
    const size_t floats = learner_net_prefix_count(net);
    struct delta_error no_cache = DELTA_ERROR_INIT;

    if (!floats || learner_cache_new(&data->cache, data->views * data->pool.count, floats,
                                     cache_room(budget), NULL, &no_cache))
        return DELTA_OK;
    data->records = delta_calloc(micro * floats, sizeof *data->records);
    if (!data->records)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for training");
    return DELTA_OK;
}

void learner_prefix_release(struct learner_prefix *prefix)
{
    learner_cache_free(prefix->cache);
    *prefix = (struct learner_prefix){.cache = NULL};
}

enum delta_status learner_prefix_embed(struct learner_embedding *out, struct learner_prefix *prefix,
                                       const struct learner_task *task,
                                       const struct delta_model *plan, size_t views,
                                       struct delta_error *err)
{
    const size_t micro = learner_budget_images(task->budget, task->options->batch);
    const struct learner_net_options options = {.device = task->budget->device,
                                                .batch = micro,
                                                .threads = task->budget->threads,
                                                .train = true,
                                                .plan = plan};
    struct learner_tune_data data = {.views = 0};
    struct learner_net *net = NULL;
    enum delta_status st = learner_tune_data_init(&data, task, true, views, err);

    if (!st)
        st = learner_net_new(&net, task->base, &options, err);
    if (!st)
        st = learner_tune_data_cache(&data, net, micro, task->budget, err);
    if (!st)
        st = learner_tune_data_embed(out, &data, net, &task->base->arch, task->budget, err);
    if (!st) {
        *prefix = (struct learner_prefix){data.cache, learner_net_prefix_layers(net),
                                          learner_net_prefix_count(net)};
        data.cache = NULL;
    }
    learner_net_free(net);
    learner_tune_data_release(&data);
    return st;
}

enum delta_status learner_tune_data_take(struct learner_tune_data *data,
                                         struct learner_prefix *prefix,
                                         const struct learner_net *net, size_t micro,
                                         const struct learner_budget *budget,
                                         struct delta_error *err)
{
    if (!prefix->cache || prefix->floats != learner_net_prefix_count(net) ||
        prefix->layers != learner_net_prefix_layers(net))
        return learner_tune_data_cache(data, net, micro, budget, err);
    data->cache = prefix->cache; /* filled, so no records are on their way into it */
    prefix->cache = NULL;
    return DELTA_OK;
}

enum delta_status learner_tune_data_teach(struct learner_tune_data *data,
                                          const struct delta_model *teacher,
                                          const struct learner_budget *budget,
                                          struct delta_error *err)
{
    const enum delta_status st =
        learner_embed_views(&data->own, teacher, &data->pool, data->views, budget, "teacher", err);

    if (!st)
        data->teacher = &data->own;
    return st;
}

enum delta_status learner_tune_data_forward(struct learner_tune_data *data, struct learner_net *net,
                                            const struct delta_arch *arch, const uint32_t *index,
                                            size_t n, struct delta_error *err)
{
    const float *records[LEARNER_VIEWS_MAX];
    const size_t floats = learner_net_prefix_count(net);
    bool kept = data->cache != NULL;
    enum delta_status st;

    for (size_t i = 0; kept && i < n; i++) {
        kept = learner_cache_has(data->cache, index[i]);
        records[i] = learner_cache_record(data->cache, index[i]);
    }
    if (kept) {
        st = learner_net_forward_from(net, records, n, LEARNER_TRAIN_EVAL, err);
        learner_cache_relax(data->cache);
        return st;
    }
    learner_views_batch(learner_net_input(net), &data->pool, arch, index, n);
    st = learner_net_forward(net, n, LEARNER_TRAIN_EVAL, err);
    if (st || !data->cache)
        return st;
    learner_net_prefix_read(net, data->records, n);
    for (size_t i = 0; i < n; i++) {
        memcpy(learner_cache_record(data->cache, index[i]), data->records + i * floats,
               floats * sizeof *data->records);
        learner_cache_set(data->cache, index[i]);
    }
    learner_cache_relax(data->cache);
    return DELTA_OK;
}

enum delta_status learner_tune_data_embed(struct learner_embedding *out,
                                          struct learner_tune_data *data, struct learner_net *net,
                                          const struct delta_arch *arch,
                                          const struct learner_budget *budget,
                                          struct delta_error *err)
{
    const size_t batch = learner_net_batch(net);
    struct learner_embedding made = {data->views * data->pool.count, learner_net_feature_count(net),
                                     learner_net_class_count(net), NULL, NULL};
    uint32_t index[LEARNER_VIEWS_MAX];
    enum delta_status st = DELTA_OK;

    made.features = delta_calloc(made.count * made.d + 1, sizeof *made.features);
    made.logits = delta_calloc(made.count * made.classes + 1, sizeof *made.logits);
    if (!made.features || !made.logits)
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for features");
    for (size_t at = 0; !st && at < made.count; at += batch) {
        const size_t n = made.count - at < batch ? made.count - at : batch;
        for (size_t i = 0; i < n; i++)
            index[i] = (uint32_t)(at + i);
        st = learner_tune_data_forward(data, net, arch, index, n, err);
        if (st)
            break;
        memcpy(made.features + at * made.d, learner_net_features(net), n * made.d * sizeof(float));
        memcpy(made.logits + at * made.classes, learner_net_logits(net),
               n * made.classes * sizeof(float));
        st = learner_budget_tick(budget, "features", (double)(at + n), (double)made.count, err);
    }
    if (st)
        learner_embedding_release(&made);
    else
        *out = made;
    return st;
}
