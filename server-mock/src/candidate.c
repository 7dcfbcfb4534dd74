#include "candidate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "delta/log.h"

/* The base loaded last: most contributions share one. */
struct base_cache {
    struct delta_digest digest;
    struct delta_model model;
    bool loaded;
};

static enum delta_status load_version(const struct server_keeper *keeper,
                                      const struct delta_digest *digest, struct delta_model *out,
                                      struct delta_error *err)
{
    struct server_version version;
    char path[SERVER_PATH_MAX];
    enum delta_status st = server_store_version(keeper->store, digest, &version, err);

    if (st)
        return st;
    server_places_blob(&keeper->places, &version.blob, path);
    st = delta_model_load(out, path, NULL, err);
    return st ? delta_fail(err, DELTA_IO, "version file '%s' cannot be read", path) : DELTA_OK;
}

static enum delta_status base_for(struct base_cache *cache, const struct server_keeper *keeper,
                                  const struct delta_digest *digest, struct delta_error *err)
{
    enum delta_status st;

    if (cache->loaded && delta_digest_equal(&cache->digest, digest))
        return DELTA_OK;
    if (cache->loaded)
        delta_model_release(&cache->model);
    cache->loaded = false;
    st = load_version(keeper, digest, &cache->model, err);
    cache->loaded = !st;
    cache->digest = *digest;
    return st;
}

/* A failure of this kind condemns the contribution; any other stops the merge. */
static bool condemns(enum delta_status st)
{
    return delta_status_class(st) == DELTA_CLASS_INPUT ||
           delta_status_class(st) == DELTA_CLASS_TRUST;
}

static enum delta_status add_file(struct server_candidate *candidate,
                                  const struct server_keeper *keeper,
                                  struct server_contribution *item, const struct delta_model *base,
                                  uint32_t staleness, struct delta_error *err)
{
    struct delta_map map = {{NULL, 0}};
    struct delta_reader reader;
    struct delta_model target = DELTA_MODEL_INIT;
    char path[SERVER_PATH_MAX];
    enum delta_status st;

    server_places_blob(&keeper->places, &item->digest, path);
    st = delta_map_open(&map, path, err);
    if (st)
        return delta_fail(err, DELTA_IO, "contribution file '%s' cannot be read", path);
    st = delta_reader_init(&reader, map.bytes, err);
    if (st)
        goto done;
    st = delta_apply(base, &reader, &target, err);
    if (!st) {
        const struct server_merge_item one = {.id = item->digest,
                                              .device = item->device,
                                              .staleness = staleness,
                                              .new_samples = item->new_samples,
                                              .base = base,
                                              .target = &target};
        st = server_merge_add(candidate->merge, &one, item->reason, err);
    }
    delta_model_release(&target);
    delta_reader_release(&reader);
done:
    delta_map_release(&map);
    return st;
}

static enum delta_status add_item(struct server_candidate *candidate,
                                  const struct server_keeper *keeper,
                                  const struct server_version *current, struct base_cache *cache,
                                  struct server_contribution *item, struct delta_error *err)
{
    struct server_device device;
    uint32_t staleness = 0;
    enum delta_status st = server_store_device(keeper->store, item->device, &device, err);

    if (!st && device.revoked_ms)
        st = delta_fail(err, DELTA_UNTRUSTED, "device '%s' was revoked", item->device);
    if (!st) {
        st = server_store_distance(keeper->store, &current->digest, &item->base, &staleness, err);
        if (st == DELTA_NOT_FOUND)
            delta_fail(err, st,
                       "channel '%s' moved to a version that does not descend from the base; "
                       "learn again on it",
                       item->channel);
    }
    if (!st)
        st = base_for(cache, keeper, &item->base, err);
    if (!st)
        st = add_file(candidate, keeper, item, &cache->model, staleness, err);
    if (st && !condemns(st))
        return st;
    item->state = st ? SERVER_CONTRIBUTION_REJECTED : SERVER_CONTRIBUTION_MERGED;
    if (st)
        snprintf(item->reason, sizeof item->reason, "%s: %.200s", delta_status_name(st), err->text);
    else
        candidate->merged++;
    return DELTA_OK;
}

struct owns_context {
    struct server_store *store;
    const char *channel;
};

static enum delta_status owns(void *context, const char *class_id, const char *device, bool *yes,
                              struct delta_error *err)
{
    const struct owns_context *at = context;

    return server_store_owns(at->store, at->channel, class_id, device, yes, err);
}

/* A merge whose sums overflow must not be tried for ever. */
static void reject_all(struct server_candidate *candidate, const struct delta_error *err)
{
    for (size_t i = 0; i < candidate->count; i++) {
        candidate->items[i].state = SERVER_CONTRIBUTION_REJECTED;
        snprintf(candidate->items[i].reason, sizeof candidate->items[i].reason, "%.200s",
                 err->text);
    }
    candidate->merged = 0;
}

enum delta_status server_candidate_make(struct server_candidate *out, struct server_keeper *keeper,
                                        const struct server_version *current,
                                        struct delta_error *err)
{
    struct owns_context context = {keeper->store, current->channel};
    struct base_cache cache = {.loaded = false};
    size_t count = SERVER_MERGE_BATCH;
    enum delta_status st;

    memset(out, 0, sizeof *out);
    out->items = delta_calloc(count, sizeof *out->items);
    if (!out->items)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a merge");
    st = server_store_pending_list(keeper->store, current->channel, out->items, &count, err);
    if (st || count == 0)
        goto done;
    st = load_version(keeper, &current->digest, &out->current, err);
    if (!st)
        st = server_merge_new(&out->merge, &out->current, owns, &context, err);
    for (size_t i = 0; i < count && !st; i++) {
        st = add_item(out, keeper, current, &cache, &out->items[i], err);
        out->count += !st;
    }
    if (st || out->merged == 0)
        goto done;
    st = server_merge_finish(out->merge, &out->model, &out->changed, err);
    if (st == DELTA_NONFINITE || st == DELTA_LIMIT) {
        reject_all(out, err);
        st = DELTA_OK;
    }
done:
    if (cache.loaded)
        delta_model_release(&cache.model);
    if (st)
        server_candidate_release(out);
    return st;
}

void server_candidate_settle(struct server_candidate *candidate, const struct delta_digest *version)
{
    for (size_t i = 0; i < candidate->count; i++)
        if (candidate->items[i].state == SERVER_CONTRIBUTION_MERGED)
            candidate->items[i].version = *version;
}

const struct server_owner *server_candidate_owners(const struct server_candidate *candidate,
                                                   size_t *count)
{
    return server_merge_owners(candidate->merge, count);
}

void server_candidate_release(struct server_candidate *candidate)
{
    server_merge_free(candidate->merge);
    delta_model_release(&candidate->model);
    delta_model_release(&candidate->current);
    free(candidate->items);
    memset(candidate, 0, sizeof *candidate);
}
