/* Contributions, who owns which class, and the lists for people. */
#include <stdio.h>
#include <string.h>

#include "delta/msg.h"
#include "store/db.h"

const char *server_contribution_state_name(enum server_contribution_state state)
{
    static const char *const names[] = {"pending", "merged", "rejected"};

    return names[state];
}

#define CONTRIBUTION_COLUMNS                                                                       \
    "SELECT digest, device, channel, base, bytes, new_samples, state, reason, version,"            \
    " received_ms FROM contribution"

static void contribution_read(sqlite3_stmt *row, struct server_contribution *out)
{
    const int64_t state = sqlite3_column_int64(row, 6);

    db_digest(row, 0, &out->digest);
    db_text(row, 1, out->device, sizeof out->device);
    db_text(row, 2, out->channel, sizeof out->channel);
    db_digest(row, 3, &out->base);
    out->bytes = (uint64_t)sqlite3_column_int64(row, 4);
    out->new_samples = (uint32_t)sqlite3_column_int64(row, 5);
    out->state = state == 0   ? SERVER_CONTRIBUTION_PENDING
                 : state == 1 ? SERVER_CONTRIBUTION_MERGED
                              : SERVER_CONTRIBUTION_REJECTED;
    db_text(row, 7, out->reason, sizeof out->reason);
    db_digest(row, 8, &out->version);
    out->received_ms = sqlite3_column_int64(row, 9);
}

enum delta_status server_store_contribution_add(struct server_store *store,
                                                const struct server_contribution *c,
                                                struct delta_error *err)
{
    enum delta_status st;
    bool added;

    db_enter(store);
    st = db_run(store, err,
                "INSERT OR IGNORE INTO contribution(digest, device, channel, base, bytes,"
                " new_samples, state, reason, received_ms) VALUES(?,?,?,?,?,?,?,?,?)",
                "hsshiiisi", &c->digest, c->device, c->channel, &c->base, (int64_t)c->bytes,
                (int64_t)c->new_samples, (int64_t)c->state, c->reason, c->received_ms);
    added = !st && sqlite3_changes(store->db) == 1;
    db_leave(store);
    if (!st && !added)
        st = delta_fail(err, DELTA_EXISTS, "contribution exists already");
    return st;
}

enum delta_status server_store_contribution(struct server_store *store,
                                            const struct delta_digest *digest,
                                            struct server_contribution *out,
                                            struct delta_error *err)
{
    sqlite3_stmt *row;
    bool found = false;
    enum delta_status st;

    db_enter(store);
    st = db_bind(store, CONTRIBUTION_COLUMNS " WHERE digest = ?", &row, err, "h", digest);
    if (!st)
        st = db_step(store, row, &found, err);
    if (!st && found) {
        contribution_read(row, out);
        sqlite3_reset(row);
    }
    db_leave(store);
    if (!st && !found)
        st = delta_fail(err, DELTA_NOT_FOUND, "no such contribution");
    return st;
}

enum delta_status server_store_pending_of(struct server_store *store, const char *device,
                                          uint64_t *count, struct delta_error *err)
{
    sqlite3_stmt *row;
    bool found = false;
    enum delta_status st;

    *count = 0;
    db_enter(store);
    st = db_bind(store, "SELECT count(*) FROM contribution WHERE device = ? AND state = 0", &row,
                 err, "s", device);
    if (!st)
        st = db_step(store, row, &found, err);
    if (!st && found) {
        *count = (uint64_t)sqlite3_column_int64(row, 0);
        sqlite3_reset(row);
    }
    db_leave(store);
    return st;
}

enum delta_status server_store_pending(struct server_store *store, const char *channel,
                                       struct server_pending *out, struct delta_error *err)
{
    sqlite3_stmt *row;
    bool found = false;
    enum delta_status st;

    *out = (struct server_pending){0, 0};
    db_enter(store);
    st = db_bind(store,
                 "SELECT count(*), min(received_ms) FROM contribution WHERE channel = ? AND"
                 " state = 0",
                 &row, err, "s", channel);
    if (!st)
        st = db_step(store, row, &found, err);
    if (!st && found) {
        out->count = (uint64_t)sqlite3_column_int64(row, 0);
        out->oldest_ms = sqlite3_column_int64(row, 1);
        sqlite3_reset(row);
    }
    db_leave(store);
    return st;
}

enum delta_status server_store_pending_list(struct server_store *store, const char *channel,
                                            struct server_contribution *out, size_t *count,
                                            struct delta_error *err)
{
    const size_t room = *count;
    sqlite3_stmt *row;
    bool more = true;
    enum delta_status st;

    *count = 0;
    db_enter(store);
    st = db_bind(store,
                 CONTRIBUTION_COLUMNS " WHERE channel = ? AND state = 0 ORDER BY digest LIMIT ?",
                 &row, err, "si", channel, (int64_t)room);
    while (!st && more) {
        st = db_step(store, row, &more, err);
        if (!st && more && *count < room)
            contribution_read(row, &out[(*count)++]);
    }
    db_leave(store);
    return st;
}

enum delta_status server_store_owns(struct server_store *store, const char *channel,
                                    const char *class_id, const char *device, bool *owns,
                                    struct delta_error *err)
{
    sqlite3_stmt *row;
    enum delta_status st;

    *owns = false;
    db_enter(store);
    st = db_bind(store, "SELECT 1 FROM owner WHERE channel = ? AND class = ? AND device = ?", &row,
                 err, "sss", channel, class_id, device);
    if (!st)
        st = db_step(store, row, owns, err);
    if (!st && *owns)
        sqlite3_reset(row);
    db_leave(store);
    return st;
}

/* ---- lists ---- */

/* Columns are named in ascending order in the SQL: they become the keys of a canonical map. */
static void put_row(struct delta_msg_out *out, sqlite3_stmt *row)
{
    const int columns = sqlite3_column_count(row);

    delta_msg_map(out, (size_t)columns);
    for (int i = 0; i < columns; i++) {
        delta_msg_str(out, sqlite3_column_name(row, i));
        switch (sqlite3_column_type(row, i)) {
        case SQLITE_INTEGER:
            delta_msg_uint(out, (uint64_t)sqlite3_column_int64(row, i));
            break;
        case SQLITE_FLOAT:
            delta_msg_real(out, sqlite3_column_double(row, i));
            break;
        case SQLITE_TEXT:
            delta_msg_str(out, (const char *)sqlite3_column_text(row, i));
            break;
        default: { /* BLOB, NULL = empty */
            const void *data = sqlite3_column_blob(row, i);
            delta_msg_bin(out, data, (size_t)sqlite3_column_bytes(row, i));
        }
        }
    }
}

static enum delta_status put_rows(struct server_store *store, const char *sql,
                                  struct delta_buf *out, struct delta_error *err)
{
    struct delta_buf rows;
    struct delta_msg_out msg = {&rows, DELTA_OK};
    struct delta_msg_out head = {out, DELTA_OK};
    sqlite3_stmt *row;
    size_t count = 0;
    bool more = true;
    enum delta_status st;

    delta_buf_init(&rows, (size_t)16 << 20);
    st = db_bind(store, sql, &row, err, "i", (int64_t)SERVER_LIST_ROWS);
    while (!st && more) {
        st = db_step(store, row, &more, err);
        if (!st && more) {
            put_row(&msg, row);
            count++;
        }
    }
    delta_msg_array(&head, count);
    if (!st)
        delta_msg_raw(&head, delta_buf_bytes(&rows));
    delta_buf_release(&rows);
    if (!st && (msg.status || head.status))
        st = delta_fail(err, DELTA_NO_MEMORY, "list does not fit");
    return st;
}

enum delta_status server_store_list(struct server_store *store, enum server_list list,
                                    struct delta_buf *out, struct delta_error *err)
{
    static const char *const sql[] = {
        [SERVER_LIST_DEVICES] =
            "SELECT d.channel AS channel, d.enrolled_ms AS enrolled_ms, d.name AS name,"
            " coalesce((SELECT event FROM report r WHERE r.device = d.name ORDER BY id DESC LIMIT"
            " 1), '') AS report, coalesce((SELECT version FROM report r WHERE r.device = d.name"
            " ORDER BY id DESC LIMIT 1), x'') AS report_version, d.revoked_ms AS revoked_ms,"
            " d.seen_ms AS seen_ms FROM device d ORDER BY d.name LIMIT ?",
        [SERVER_LIST_VERSIONS] =
            "SELECT b.bytes AS bytes, v.channel AS channel, v.created_ms AS created_ms,"
            " (SELECT count(*) FROM contribution c WHERE c.version = v.digest) AS merged,"
            " v.number AS number, v.origin AS origin, v.parent AS parent, v.digest AS version"
            " FROM version v JOIN blob b ON b.digest = v.blob ORDER BY v.created_ms DESC,"
            " v.number DESC LIMIT ?",
        [SERVER_LIST_CONTRIBUTIONS] =
            "SELECT base, bytes, channel, device, digest AS id, new_samples, reason, received_ms,"
            " CASE state WHEN 0 THEN 'pending' WHEN 1 THEN 'merged' ELSE 'rejected' END AS state,"
            " version FROM contribution ORDER BY received_ms DESC LIMIT ?"};
    enum delta_status st;

    db_enter(store);
    st = put_rows(store, sql[list], out, err);
    db_leave(store);
    return st;
}

enum delta_status server_store_summary(struct server_store *store, struct delta_buf *out,
                                       struct delta_error *err)
{
    static const char counts[] =
        "SELECT (SELECT count(*) FROM contribution) AS contributions,"
        " (SELECT count(*) FROM device WHERE revoked_ms = 0) AS devices,"
        " (SELECT count(*) FROM contribution WHERE state = 1) AS merged,"
        " (SELECT count(*) FROM contribution WHERE state = 0) AS pending,"
        " (SELECT count(*) FROM contribution WHERE state = 2) AS rejected,"
        " (SELECT count(*) FROM report) AS reports, (SELECT count(*) FROM version) AS versions";
    struct delta_msg_out msg = {out, DELTA_OK};
    sqlite3_stmt *row;
    bool found;
    enum delta_status st;

    delta_msg_map(&msg, 3);
    delta_msg_str(&msg, "channels");
    db_enter(store);
    st = put_rows(store,
                  "SELECT c.name AS name, v.number AS number, c.paused AS paused, c.permille AS"
                  " permille, c.serial AS serial, c.version AS version FROM channel c JOIN version"
                  " v ON v.digest = c.version ORDER BY c.name LIMIT ?",
                  out, err);
    if (!st)
        st = db_bind(store, counts, &row, err, "");
    if (!st)
        st = db_step(store, row, &found, err);
    if (!st) {
        delta_msg_str(&msg, "counts");
        put_row(&msg, row);
        sqlite3_reset(row);
        delta_msg_str(&msg, "schema");
        delta_msg_uint(&msg, 1);
        if (msg.status)
            st = delta_fail(err, msg.status, "status does not fit");
    }
    db_leave(store);
    return st;
}
