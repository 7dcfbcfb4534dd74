/* Versions, blobs, channels, and the transaction that releases a new version. */
#include <stdio.h>
#include <string.h>

#include "store/db.h"

#define VERSION_COLUMNS                                                                            \
    "SELECT v.digest, v.parent, v.blob, b.bytes, v.channel, v.number, v.origin, v.created_ms"      \
    " FROM version v JOIN blob b ON b.digest = v.blob"

static void version_read(sqlite3_stmt *row, struct server_version *out)
{
    db_digest(row, 0, &out->digest);
    db_digest(row, 1, &out->parent);
    db_digest(row, 2, &out->blob);
    out->bytes = (uint64_t)sqlite3_column_int64(row, 3);
    db_text(row, 4, out->channel, sizeof out->channel);
    out->number = (uint64_t)sqlite3_column_int64(row, 5);
    db_text(row, 6, out->origin, sizeof out->origin);
    out->created_ms = sqlite3_column_int64(row, 7);
}

enum delta_status server_store_version(struct server_store *store,
                                       const struct delta_digest *digest,
                                       struct server_version *out, struct delta_error *err)
{
    sqlite3_stmt *row;
    bool found = false;
    enum delta_status st;

    db_enter(store);
    st = db_bind(store, VERSION_COLUMNS " WHERE v.digest = ?", &row, err, "h", digest);
    if (!st)
        st = db_step(store, row, &found, err);
    if (!st && found) {
        version_read(row, out);
        sqlite3_reset(row);
    }
    db_leave(store);
    if (!st && !found) {
        char hex[DELTA_DIGEST_HEX];
        delta_digest_hex(hex, digest);
        st = delta_fail(err, DELTA_BASE_UNKNOWN,
                        "version %.16s... is not known here; download the channel's version and "
                        "learn on that",
                        hex);
    }
    return st;
}

enum delta_status server_store_versions(struct server_store *store, const char *channel,
                                        struct server_version *out, size_t *count,
                                        struct delta_error *err)
{
    const size_t room = *count;
    sqlite3_stmt *row;
    bool more = true;
    enum delta_status st;

    *count = 0;
    db_enter(store);
    st = db_bind(store, VERSION_COLUMNS " WHERE v.channel = ? ORDER BY v.number DESC LIMIT ?", &row,
                 err, "si", channel, (int64_t)room);
    while (!st && more) {
        st = db_step(store, row, &more, err);
        if (!st && more && *count < room)
            version_read(row, &out[(*count)++]);
    }
    db_leave(store);
    return st;
}

enum delta_status server_store_distance(struct server_store *store, const struct delta_digest *from,
                                        const struct delta_digest *to, uint32_t *steps,
                                        struct delta_error *err)
{
    sqlite3_stmt *row;
    bool found = false;
    enum delta_status st;

    db_enter(store);
    st = db_bind(store,
                 "WITH RECURSIVE up(digest, steps) AS (SELECT ?1, 0 UNION ALL SELECT v.parent,"
                 " up.steps + 1 FROM up JOIN version v ON v.digest = up.digest WHERE v.parent IS"
                 " NOT NULL AND up.steps < 100000 AND up.digest <> ?2)"
                 " SELECT steps FROM up WHERE digest = ?2 LIMIT 1",
                 &row, err, "hh", from, to);
    if (!st)
        st = db_step(store, row, &found, err);
    if (!st && found) {
        *steps = (uint32_t)sqlite3_column_int64(row, 0);
        sqlite3_reset(row);
    }
    db_leave(store);
    if (!st && !found)
        st = delta_fail(err, DELTA_NOT_FOUND, "the one version does not descend from the other");
    return st;
}

enum delta_status server_store_blob(struct server_store *store, const struct delta_digest *digest,
                                    uint64_t *bytes, struct delta_error *err)
{
    sqlite3_stmt *row;
    bool found = false;
    enum delta_status st;

    db_enter(store);
    st = db_bind(store, "SELECT bytes FROM blob WHERE digest = ?", &row, err, "h", digest);
    if (!st)
        st = db_step(store, row, &found, err);
    if (!st && found) {
        *bytes = (uint64_t)sqlite3_column_int64(row, 0);
        sqlite3_reset(row);
    }
    db_leave(store);
    if (!st && !found)
        st = delta_fail(err, DELTA_NOT_FOUND, "no such blob");
    return st;
}

/* ---- channels ---- */

static enum delta_status edges_read(struct server_store *store, struct delta_channel *channel,
                                    struct delta_error *err)
{
    sqlite3_stmt *row;
    bool more = true;
    enum delta_status st =
        db_bind(store,
                "SELECT e.base, e.blob, b.bytes FROM edge e JOIN blob b ON b.digest = e.blob"
                " WHERE e.target = ? ORDER BY e.base",
                &row, err, "h", &channel->version);

    while (!st && more) {
        st = db_step(store, row, &more, err);
        if (st || !more || channel->edge_count == DELTA_CHANNEL_MAX_EDGES)
            continue;
        struct delta_channel_edge *edge = &channel->edges[channel->edge_count++];
        db_digest(row, 0, &edge->from);
        db_digest(row, 1, &edge->blob);
        edge->bytes = (uint64_t)sqlite3_column_int64(row, 2);
    }
    return st;
}

static enum delta_status channel_read(struct server_store *store, sqlite3_stmt *row,
                                      struct delta_channel *out, struct delta_buf *document,
                                      struct delta_error *err)
{
    const int len = sqlite3_column_bytes(row, 11);
    enum delta_status st = DELTA_OK;

    memset(out, 0, sizeof *out);
    db_text(row, 0, out->name, sizeof out->name);
    out->serial = (uint64_t)sqlite3_column_int64(row, 1);
    out->issued_ms = sqlite3_column_int64(row, 2);
    out->expires_ms = sqlite3_column_int64(row, 3);
    out->poll_s = (uint32_t)sqlite3_column_int64(row, 4);
    out->paused = sqlite3_column_int64(row, 5) != 0;
    out->permille = (uint32_t)sqlite3_column_int64(row, 6);
    db_digest(row, 7, &out->rollout);
    db_digest(row, 8, &out->version);
    db_digest(row, 9, &out->model_blob);
    out->model_bytes = (uint64_t)sqlite3_column_int64(row, 10);
    if (document && len > 0)
        st = delta_buf_append(document, sqlite3_column_blob(row, 11), (size_t)len, err);
    sqlite3_reset(row);
    return st ? st : edges_read(store, out, err);
}

enum delta_status server_store_channel(struct server_store *store, const char *name,
                                       struct delta_channel *channel, struct delta_buf *document,
                                       struct delta_error *err)
{
    struct delta_channel unused;
    sqlite3_stmt *row;
    bool found = false;
    enum delta_status st;

    if (document)
        delta_buf_init(document, DELTA_CHANNEL_MAX_BYTES);
    db_enter(store);
    st = db_bind(store,
                 "SELECT c.name, c.serial, c.issued_ms, c.expires_ms, c.poll_s, c.paused,"
                 " c.permille, c.rollout, c.version, v.blob, b.bytes, c.document FROM channel c"
                 " JOIN version v ON v.digest = c.version JOIN blob b ON b.digest = v.blob"
                 " WHERE c.name = ?",
                 &row, err, "s", name);
    if (!st)
        st = db_step(store, row, &found, err);
    if (!st && found)
        st = channel_read(store, row, channel ? channel : &unused, document, err);
    db_leave(store);
    if (!st && !found)
        st = delta_fail(err, DELTA_NOT_FOUND, "no channel '%s'", name);
    return st;
}

enum delta_status server_store_channels(struct server_store *store,
                                        struct server_channel_names *out, struct delta_error *err)
{
    sqlite3_stmt *row;
    bool more = true;
    enum delta_status st;

    out->count = 0;
    db_enter(store);
    st = db_bind(store, "SELECT name FROM channel ORDER BY name", &row, err, "");
    while (!st && more) {
        st = db_step(store, row, &more, err);
        if (!st && more && out->count < sizeof out->names / sizeof out->names[0])
            db_text(row, 0, out->names[out->count++], sizeof out->names[0]);
    }
    db_leave(store);
    return st;
}

/* ---- a release ---- */

static enum delta_status blob_add(struct server_store *store, const struct delta_digest *digest,
                                  uint64_t bytes, struct delta_error *err)
{
    return db_run(store, err, "INSERT OR IGNORE INTO blob(digest, bytes) VALUES(?, ?)", "hi",
                  digest, (int64_t)bytes);
}

static enum delta_status version_add(struct server_store *store,
                                     const struct server_version *version, struct delta_error *err)
{
    enum delta_status st = blob_add(store, &version->blob, version->bytes, err);

    if (!st)
        st = db_run(store, err,
                    "INSERT OR IGNORE INTO version(digest, parent, blob, channel, number, origin,"
                    " created_ms) VALUES(?,?,?,?,?,?,?)",
                    "hhhsisi", &version->digest, &version->parent, &version->blob, version->channel,
                    (int64_t)version->number, version->origin, version->created_ms);
    return st;
}

static enum delta_status channel_write(struct server_store *store,
                                       const struct server_release *release,
                                       struct delta_error *err)
{
    const struct delta_channel *c = release->channel;
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; i < c->edge_count && !st; i++) {
        st = blob_add(store, &c->edges[i].blob, c->edges[i].bytes, err);
        if (!st)
            st = db_run(store, err, "INSERT OR REPLACE INTO edge(base, target, blob) VALUES(?,?,?)",
                        "hhh", &c->edges[i].from, &c->version, &c->edges[i].blob);
    }
    if (st)
        return st;
    if (release->serial_before == 0)
        return db_run(store, err,
                      "INSERT INTO channel(serial, issued_ms, expires_ms, poll_s, paused, permille,"
                      " rollout, version, document, name) VALUES(?,?,?,?,?,?,?,?,?,?)",
                      "iiiiiihhbs", (int64_t)c->serial, c->issued_ms, c->expires_ms,
                      (int64_t)c->poll_s, (int64_t)c->paused, (int64_t)c->permille, &c->rollout,
                      &c->version, release->document.data, release->document.len, c->name);
    st = db_run(store, err,
                "UPDATE channel SET serial = ?, issued_ms = ?, expires_ms = ?, poll_s = ?,"
                " paused = ?, permille = ?, rollout = ?, version = ?, document = ?"
                " WHERE name = ? AND serial = ?",
                "iiiiiihhbsi", (int64_t)c->serial, c->issued_ms, c->expires_ms, (int64_t)c->poll_s,
                (int64_t)c->paused, (int64_t)c->permille, &c->rollout, &c->version,
                release->document.data, release->document.len, c->name,
                (int64_t)release->serial_before);
    if (!st && sqlite3_changes(store->db) != 1)
        st = delta_fail(err, DELTA_BUSY, "channel '%s' was changed meanwhile", c->name);
    return st;
}

static enum delta_status decisions_write(struct server_store *store,
                                         const struct server_release *release,
                                         struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; i < release->decided_count && !st; i++) {
        const struct server_contribution *c = &release->decided[i];
        st = db_run(store, err,
                    "UPDATE contribution SET state = ?, reason = ?, version = ? WHERE digest = ?",
                    "ishh", (int64_t)c->state, c->reason, &c->version, &c->digest);
    }
    for (size_t i = 0; i < release->owner_count && !st; i++)
        st = db_run(store, err, "INSERT OR IGNORE INTO owner(channel, class, device) VALUES(?,?,?)",
                    "sss", release->channel->name, release->owners[i].class_id,
                    release->owners[i].device);
    return st;
}

enum delta_status server_store_release_version(struct server_store *store,
                                               const struct server_release *release,
                                               struct delta_error *err)
{
    enum delta_status st;

    db_enter(store);
    st = db_exec(store, "BEGIN IMMEDIATE", err);
    if (st)
        goto done;
    if (release->version)
        st = version_add(store, release->version, err);
    if (!st && release->document.len)
        st = channel_write(store, release, err);
    if (!st)
        st = decisions_write(store, release, err);
    st = db_end(store, st, err);
done:
    db_leave(store);
    return st;
}
