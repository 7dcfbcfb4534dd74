#include "release.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "candidate.h"
#include "delta/file.h"
#include "delta/log.h"

#define DOCUMENT_MS ((int64_t)SERVER_DOCUMENT_DAYS * 86400000)
#define DEFAULT_POLL_S 60
#define LOCK_STEP_MS 50
#define EDGE_ZSTD_LEVEL 9 /* 19 takes ten times as long for a few per cent */

enum delta_status server_keeper_open(struct server_keeper *keeper, const char *dir,
                                     const struct delta_clock *clock, struct delta_error *err)
{
    enum delta_status st;

    memset(keeper, 0, sizeof *keeper);
    keeper->clock = clock && clock->wall_ms ? *clock : delta_clock_system();
    st = server_places_init(&keeper->places, dir, err);
    if (!st)
        st = server_store_open(&keeper->store, keeper->places.database, false, err);
    if (!st)
        st = delta_key_load(&keeper->release_key, keeper->places.release_key, err);
    if (!st)
        st = delta_key_public(&keeper->release_key, &keeper->release_public, err);
    if (st)
        server_keeper_release(keeper);
    return st;
}

void server_keeper_release(struct server_keeper *keeper)
{
    if (!keeper)
        return;
    server_store_close(keeper->store);
    delta_key_release(&keeper->release_key);
    keeper->store = NULL;
}

static enum delta_status release_lock(const struct server_keeper *keeper, int wait_ms, int *fd,
                                      struct delta_error *err)
{
    const struct timespec step = {0, LOCK_STEP_MS * 1000000L};
    enum delta_status st;

    for (;;) {
        st = delta_file_lock(keeper->places.release_lock, fd, err);
        if (st != DELTA_EXISTS)
            return st;
        if (wait_ms <= 0)
            return delta_fail(err, DELTA_BUSY,
                              "another program is publishing or merging in '%s'; try again",
                              keeper->places.dir);
        nanosleep(&step, NULL);
        wait_ms -= LOCK_STEP_MS;
    }
}

/* ---- files of a version ---- */

static enum delta_status sign_and_store(struct server_keeper *keeper, struct delta_buf *file,
                                        struct delta_digest *blob, uint64_t *bytes,
                                        struct delta_error *err)
{
    enum delta_status st = delta_container_sign(file, &keeper->release_key, err);

    if (!st)
        st = server_blob_write(&keeper->places, delta_buf_bytes(file), blob, err);
    *bytes = file->len;
    return st;
}

/* A signed delta from an older version; MISMATCH when there is no such thing. */
static enum delta_status make_edge(struct server_keeper *keeper, const struct server_version *from,
                                   const struct delta_model *target,
                                   struct delta_channel_edge *edge, struct delta_error *err)
{
    struct delta_provenance provenance = {.device = "coordinator",
                                          .method = "merge",
                                          .software = "frostline " FROSTLINE_VERSION,
                                          .created_ms = delta_clock_wall_ms(&keeper->clock)};
    const struct delta_options options = {.provenance = &provenance, .zstd_level = EDGE_ZSTD_LEVEL};
    struct delta_model base = DELTA_MODEL_INIT;
    struct delta_buf file = {0};
    char path[SERVER_PATH_MAX];
    enum delta_status st;

    server_places_blob(&keeper->places, &from->blob, path);
    st = delta_model_load(&base, path, NULL, err);
    if (!st)
        st = delta_diff(&base, target, &options, &file, err);
    if (!st)
        st = sign_and_store(keeper, &file, &edge->blob, &edge->bytes, err);
    edge->from = from->digest;
    delta_buf_release(&file);
    delta_model_release(&base);
    return st;
}

static enum delta_status make_edges(struct server_keeper *keeper,
                                    const struct server_version *version,
                                    const struct delta_model *model, struct delta_channel *channel,
                                    struct delta_error *err)
{
    struct server_version older[SERVER_EDGES + 1];
    size_t count = sizeof older / sizeof older[0];
    enum delta_status st =
        server_store_versions(keeper->store, version->channel, older, &count, err);

    channel->edge_count = 0;
    for (size_t i = 0; i < count && !st && channel->edge_count < SERVER_EDGES; i++) {
        if (delta_digest_equal(&older[i].digest, &version->digest))
            continue;
        st = make_edge(keeper, &older[i], model, &channel->edges[channel->edge_count], err);
        if (st == DELTA_MISMATCH) /* another network: devices take the whole model */
            st = DELTA_OK;
        else
            channel->edge_count += !st;
    }
    return st;
}

/* ---- the document ---- */

static enum delta_status seal(struct server_keeper *keeper, struct delta_channel *channel,
                              struct delta_buf *document, struct delta_error *err)
{
    channel->serial++;
    channel->issued_ms = delta_clock_wall_ms(&keeper->clock);
    channel->expires_ms = channel->issued_ms + DOCUMENT_MS;
    return delta_channel_seal(channel, &keeper->release_key, document, err);
}

/* Points the channel to a version: edges, document, transaction. */
static enum delta_status point(struct server_keeper *keeper, struct delta_channel *channel,
                               const struct server_version *version,
                               const struct delta_model *model,
                               const struct server_candidate *candidate, struct delta_error *err)
{
    struct delta_buf document = {0};
    struct server_release release = {
        .version = version, .channel = channel, .serial_before = channel->serial};
    enum delta_status st;

    channel->version = version->digest;
    channel->model_blob = version->blob;
    channel->model_bytes = version->bytes;
    st = delta_random(channel->rollout.bytes, DELTA_DIGEST_BYTES, err);
    if (!st)
        st = make_edges(keeper, version, model, channel, err);
    if (!st)
        st = seal(keeper, channel, &document, err);
    if (st)
        goto done;
    release.document = delta_buf_bytes(&document);
    if (candidate) {
        release.decided = candidate->items;
        release.decided_count = candidate->count;
        release.owners = server_candidate_owners(candidate, &release.owner_count);
    }
    st = server_store_release_version(keeper->store, &release, err);
done:
    delta_buf_release(&document);
    return st;
}

enum delta_status server_channel_refresh(struct server_keeper *keeper, const char *name,
                                         struct delta_error *err)
{
    const int64_t now = delta_clock_wall_ms(&keeper->clock);
    struct delta_channel channel;
    struct delta_buf document = {0};
    int lock = -1;
    enum delta_status st = server_store_channel(keeper->store, name, &channel, NULL, err);

    if (st || channel.expires_ms - now > DOCUMENT_MS / 2)
        return st;
    st = release_lock(keeper, 0, &lock, err);
    if (st)
        return st;
    st = server_store_channel(keeper->store, name, &channel, NULL, err);
    if (st)
        goto done;
    struct server_release release = {.channel = &channel, .serial_before = channel.serial};
    st = seal(keeper, &channel, &document, err);
    release.document = delta_buf_bytes(&document);
    if (!st)
        st = server_store_release_version(keeper->store, &release, err);
done:
    delta_buf_release(&document);
    close(lock);
    return st;
}

/* ---- publish ---- */

static enum delta_status read_model(struct server_keeper *keeper, const char *path,
                                    struct delta_model *model, struct delta_buf *file,
                                    struct server_version *version, struct delta_error *err)
{
    struct delta_tensor *weight, *bias;
    enum delta_status st = delta_file_read(path, DELTA_MODEL_MAX_BYTES, file, err);

    if (st)
        return st;
    st = delta_model_decode(model, delta_buf_bytes(file), &version->digest, err);
    if (!st)
        st = delta_model_head(model, &weight, &bias, err);
    if (!st)
        st = delta_model_check_finite(model, err);
    if (st)
        return delta_fail_in(err, st, "'%s'", path);
    return sign_and_store(keeper, file, &version->blob, &version->bytes, err);
}

/* Fills a version that is about to be published; an older one keeps its number. */
static enum delta_status number_version(struct server_keeper *keeper, const char *channel,
                                        const struct delta_model *model,
                                        struct server_version *version, struct delta_error *err)
{
    struct server_version other;
    size_t count = 1;
    enum delta_status st = server_store_version(keeper->store, &version->digest, &other, NULL);

    if (st == DELTA_OK && strcmp(other.channel, channel) != 0)
        return delta_fail(err, DELTA_EXISTS, "this version belongs to channel '%s' already",
                          other.channel);
    if (st == DELTA_OK) {
        *version = other;
        return DELTA_OK;
    }
    if (st != DELTA_BASE_UNKNOWN)
        return server_store_version(keeper->store, &version->digest, &other, err);
    st = server_store_versions(keeper->store, channel, &other, &count, err);
    if (st)
        return st;
    version->number = count ? other.number + 1 : 1;
    version->parent = model->parent;
    memcpy(version->channel, channel, strlen(channel) + 1);
    memcpy(version->origin, "published", sizeof "published");
    version->created_ms = delta_clock_wall_ms(&keeper->clock);
    return DELTA_OK;
}

enum delta_status server_publish(struct server_keeper *keeper, const char *name, const char *path,
                                 const struct server_publish_options *options, int wait_ms,
                                 struct server_version *out, struct delta_error *err)
{
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_buf file = {0};
    struct delta_channel channel = {.poll_s = DEFAULT_POLL_S, .permille = 1000};
    struct server_version version = {.number = 0};
    int lock = -1;
    enum delta_status st = delta_name_check("channel", name, err);

    if (!st)
        st = release_lock(keeper, wait_ms, &lock, err);
    if (!st)
        st = read_model(keeper, path, &model, &file, &version, err);
    if (st)
        goto done;
    st = server_store_channel(keeper->store, name, &channel, NULL, err);
    if (st == DELTA_NOT_FOUND)
        st = DELTA_OK;
    else if (!st && delta_digest_equal(&channel.version, &version.digest))
        st = delta_fail(err, DELTA_EXISTS, "'%s' is the version of channel '%s' already", path,
                        name);
    if (!st)
        st = number_version(keeper, name, &model, &version, err);
    if (st)
        goto done;
    memcpy(channel.name, name, strlen(name) + 1);
    if (options && options->poll_s)
        channel.poll_s = options->poll_s;
    if (options && options->permille)
        channel.permille = options->permille;
    st = point(keeper, &channel, &version, &model, NULL, err);
    if (!st && out)
        *out = version;
done:
    delta_buf_release(&file);
    delta_model_release(&model);
    if (lock >= 0)
        close(lock);
    return st;
}

/* ---- merge ---- */

/* The candidate becomes the channel's version. */
static enum delta_status release_candidate(struct server_keeper *keeper,
                                           struct delta_channel *channel,
                                           struct server_candidate *candidate,
                                           struct server_version *version, struct delta_error *err)
{
    const struct server_version before = *version;
    struct delta_buf file = {0};
    enum delta_status st = delta_model_digest(&candidate->model, &version->digest, err);

    if (!st)
        st = delta_model_encode(&candidate->model, &file, err);
    if (!st)
        st = sign_and_store(keeper, &file, &version->blob, &version->bytes, err);
    delta_buf_release(&file);
    if (st)
        return st;
    version->parent = before.digest;
    version->created_ms = delta_clock_wall_ms(&keeper->clock);
    memcpy(version->origin, "merged", sizeof "merged");
    size_t count = 1;
    struct server_version newest;
    st = server_store_versions(keeper->store, channel->name, &newest, &count, err);
    if (st)
        return st;
    version->number = newest.number + 1;
    server_candidate_settle(candidate, &version->digest);
    return point(keeper, channel, version, &candidate->model, candidate, err);
}

static enum delta_status merge_locked(struct server_keeper *keeper, const char *name,
                                      struct server_merge_result *out, struct delta_error *err)
{
    struct server_candidate candidate = {.count = 0};
    struct delta_channel channel;
    enum delta_status st = server_store_channel(keeper->store, name, &channel, NULL, err);

    if (!st)
        st = server_store_version(keeper->store, &channel.version, &out->version, err);
    if (!st)
        st = server_candidate_make(&candidate, keeper, &out->version, err);
    if (st || candidate.count == 0)
        goto done;
    if (candidate.changed) {
        st = release_candidate(keeper, &channel, &candidate, &out->version, err);
        out->released = !st;
    } else {
        server_candidate_settle(&candidate, &out->version.digest);
        const struct server_release release = {.channel = &channel,
                                               .serial_before = channel.serial,
                                               .decided = candidate.items,
                                               .decided_count = candidate.count};
        st = server_store_release_version(keeper->store, &release, err);
    }
    out->merged = candidate.merged;
    out->rejected = candidate.count - candidate.merged;
done:
    server_candidate_release(&candidate);
    return st;
}

enum delta_status server_merge_channel(struct server_keeper *keeper, const char *channel,
                                       int wait_ms, struct server_merge_result *out,
                                       struct delta_error *err)
{
    int lock = -1;
    enum delta_status st;

    memset(out, 0, sizeof *out);
    st = release_lock(keeper, wait_ms, &lock, err);
    if (st)
        return st;
    st = merge_locked(keeper, channel, out, err);
    close(lock);
    return st;
}
