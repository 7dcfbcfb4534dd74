#include "tune_data.h"

#include <stdlib.h>
#include <string.h>

#include "graph.h"
#include "latents.h"
#include "net_device.h"

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
    if (data->net)
        learner_net_block_free(data->net, data->table);
    learner_feed_release(&data->feed);
    learner_cache_free(data->cache);
    free(data->in_table);
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

void learner_tune_data_feed(struct learner_tune_data *data, struct learner_net *net,
                            const struct delta_arch *arch, bool again)
{
    data->net = net;
    learner_feed_init(&data->feed, net, &data->pool, arch, again);
}

bool learner_tune_data_caches(const struct learner_tune_data *data)
{
    return data->table || data->cache;
}

enum delta_status learner_tune_data_cache(struct learner_tune_data *data, size_t micro,
                                          const struct learner_budget *budget,
                                          struct delta_error *err)
{
    const size_t floats = learner_net_prefix_count(data->net);
    const size_t records = data->views * data->pool.count;
    struct delta_error no_cache = DELTA_ERROR_INIT;

    if (!floats || !records)
        return DELTA_OK;
    data->in_table = delta_calloc(records, sizeof *data->in_table);
    if (!data->in_table)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for training");
    data->table =
        learner_net_table(data->net, records, budget->memory_bytes ? cache_room(budget) : SIZE_MAX);
    if (data->table ||
        learner_cache_new(&data->cache, records, floats, cache_room(budget), NULL, &no_cache))
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

/* What is kept of the exemplars; false: nothing of use is. */
static bool take_latents(struct learner_tune_data *data, const struct learner_task *task)
{
    const size_t fresh = task->fresh->count;

    if (!data->cache || data->views > 1 || !task->known || !task->latents ||
        !learner_latents_fit(task->latents, task->replay->count, task->base,
                             learner_net_prefix_layers(data->net),
                             learner_net_prefix_count(data->net)))
        return false;
    for (size_t i = 0; i < task->replay->count; i++) {
        learner_latents_read(learner_cache_record(data->cache, fresh + i), task->latents, i);
        learner_cache_set(data->cache, fresh + i);
        if (i % LEARNER_AT_ONCE == 0)
            learner_cache_relax(data->cache);
    }
    return true;
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
    size_t count = views * (task->fresh->count + task->replay->count);
    enum delta_status st = learner_tune_data_init(&data, task, true, views, err);

    if (!st)
        st = learner_net_new(&net, task->base, &options, err);
    if (!st) {
        learner_tune_data_feed(&data, net, &task->base->arch, false);
        st = learner_tune_data_cache(&data, micro, task->budget, err);
    }
    if (!st && take_latents(&data, task))
        count = task->fresh->count;
    if (!st)
        st = learner_tune_data_embed(out, &data, count, task->budget, err);
    if (!st && data.cache) { /* a table on a device apart goes with its net */
        *prefix = (struct learner_prefix){data.cache, learner_net_prefix_layers(net),
                                          learner_net_prefix_count(net)};
        data.cache = NULL;
    }
    learner_tune_data_release(&data);
    learner_net_free(net);
    return st;
}

enum delta_status learner_tune_data_take(struct learner_tune_data *data,
                                         struct learner_prefix *prefix, size_t micro,
                                         const struct learner_budget *budget,
                                         struct delta_error *err)
{
    if (!prefix->cache || prefix->floats != learner_net_prefix_count(data->net) ||
        prefix->layers != learner_net_prefix_layers(data->net))
        return learner_tune_data_cache(data, micro, budget, err);
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

static enum delta_status forward_images(struct learner_tune_data *data, const uint32_t *index,
                                        size_t n, struct delta_error *err)
{
    learner_feed_load(&data->feed, index, n);
    return learner_net_forward_begin(data->net, n, LEARNER_TRAIN_EVAL, err);
}

static enum delta_status forward_table(struct learner_tune_data *data, const uint32_t *index,
                                       size_t n, struct delta_error *err)
{
    bool kept = true;
    enum delta_status st;

    for (size_t i = 0; i < n; i++)
        kept &= data->in_table[index[i]];
    if (kept)
        return learner_net_forward_table(data->net, data->table, index, n, LEARNER_TRAIN_EVAL, err);
    st = forward_images(data, index, n, err);
    if (st)
        return st;
    learner_net_table_keep(data->net, data->table, index, n);
    for (size_t i = 0; i < n; i++)
        data->in_table[index[i]] = true;
    return DELTA_OK;
}

static enum delta_status forward_cache(struct learner_tune_data *data, const uint32_t *index,
                                       size_t n, struct delta_error *err)
{
    const float *records[LEARNER_VIEWS_MAX];
    const size_t floats = learner_net_prefix_count(data->net);
    bool kept = true;
    enum delta_status st;

    for (size_t i = 0; kept && i < n; i++) {
        kept = learner_cache_has(data->cache, index[i]);
        records[i] = learner_cache_record(data->cache, index[i]);
    }
    if (kept) {
        st = learner_net_forward_from_begin(data->net, records, n, LEARNER_TRAIN_EVAL, err);
        learner_cache_relax(data->cache);
        return st;
    }
    st = forward_images(data, index, n, err);
    if (st)
        return st;
    learner_net_prefix_read(data->net, data->records, n);
    for (size_t i = 0; i < n; i++) {
        memcpy(learner_cache_record(data->cache, index[i]), data->records + i * floats,
               floats * sizeof *data->records);
        learner_cache_set(data->cache, index[i]);
    }
    learner_cache_relax(data->cache);
    return DELTA_OK;
}

enum delta_status learner_tune_data_forward(struct learner_tune_data *data, const uint32_t *index,
                                            size_t n, struct delta_error *err)
{
    if (data->table)
        return forward_table(data, index, n, err);
    if (data->cache)
        return forward_cache(data, index, n, err);
    return forward_images(data, index, n, err);
}

enum delta_status learner_tune_data_embed(struct learner_embedding *out,
                                          struct learner_tune_data *data, size_t count,
                                          const struct learner_budget *budget,
                                          struct delta_error *err)
{
    struct learner_net *net = data->net;
    const size_t batch = learner_net_batch(net);
    struct learner_embedding made = {count, learner_net_feature_count(net),
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
        st = learner_tune_data_forward(data, index, n, err);
        if (!st && !learner_all_finite(learner_net_logits(net), n * made.classes))
            st = delta_fail(err, DELTA_NONFINITE, "the network gives a number that is not finite");
        if (!st)
            st = learner_device_sync(net->device, err);
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
