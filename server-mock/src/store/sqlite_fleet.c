/* Tokens, devices and their reports. */
#include <string.h>

#include "store/db.h"

enum delta_status server_store_token_add(struct server_store *store,
                                         const struct delta_digest *token, const char *channel,
                                         uint64_t uses, int64_t expires_ms, struct delta_error *err)
{
    enum delta_status st;

    db_enter(store);
    st = db_run(store, err, "INSERT INTO token(digest, channel, uses, expires_ms) VALUES(?,?,?,?)",
                "hsii", token, channel, (int64_t)uses, expires_ms);
    db_leave(store);
    return st;
}

static enum delta_status device_find(struct server_store *store, const char *name,
                                     struct server_device *out, bool *found,
                                     struct delta_error *err)
{
    sqlite3_stmt *row;
    enum delta_status st =
        db_bind(store,
                "SELECT name, channel, key_id, key_der, enrolled_ms, seen_ms, revoked_ms FROM"
                " device WHERE name = ?",
                &row, err, "s", name);

    *found = false;
    if (!st)
        st = db_step(store, row, found, err);
    if (st || !*found)
        return st;
    memset(out, 0, sizeof *out);
    db_text(row, 0, out->name, sizeof out->name);
    db_text(row, 1, out->channel, sizeof out->channel);
    db_digest(row, 2, &out->key_id);
    const void *der = sqlite3_column_blob(row, 3);
    const int len = sqlite3_column_bytes(row, 3);
    if (der && len > 0 && (size_t)len <= sizeof out->key_der) {
        memcpy(out->key_der, der, (size_t)len);
        out->key_len = (size_t)len;
    }
    out->enrolled_ms = sqlite3_column_int64(row, 4);
    out->seen_ms = sqlite3_column_int64(row, 5);
    out->revoked_ms = sqlite3_column_int64(row, 6);
    sqlite3_reset(row);
    return DELTA_OK;
}

static enum delta_status not_enrolled(const char *name, struct delta_error *err)
{
    return delta_fail(err, DELTA_NOT_FOUND, "device '%s' is not enrolled here", name);
}

enum delta_status server_store_device(struct server_store *store, const char *name,
                                      struct server_device *out, struct delta_error *err)
{
    enum delta_status st;
    bool found;

    db_enter(store);
    st = device_find(store, name, out, &found, err);
    db_leave(store);
    return st || found ? st : not_enrolled(name, err);
}

struct token_row {
    bool found;
    char channel[64];
    int64_t uses, expires_ms;
};

static enum delta_status token_find(struct server_store *store, const struct delta_digest *token,
                                    struct token_row *out, struct delta_error *err)
{
    sqlite3_stmt *row;
    enum delta_status st =
        db_bind(store, "SELECT channel, uses, expires_ms FROM token WHERE digest = ?", &row, err,
                "h", token);

    if (!st)
        st = db_step(store, row, &out->found, err);
    if (st || !out->found)
        return st;
    db_text(row, 0, out->channel, sizeof out->channel);
    out->uses = sqlite3_column_int64(row, 1);
    out->expires_ms = sqlite3_column_int64(row, 2);
    sqlite3_reset(row);
    return DELTA_OK;
}

static enum delta_status enrol_known(const struct server_device *known,
                                     struct server_device *device, const struct token_row *token,
                                     bool proven, int64_t now_ms, struct delta_error *err)
{
    if (known->revoked_ms)
        return delta_fail(err, DELTA_UNTRUSTED,
                          "device '%s' is revoked; the operator must remove it first",
                          device->name);
    if (!delta_digest_equal(&known->key_id, &device->key_id))
        return delta_fail(err, DELTA_UNTRUSTED,
                          "device '%s' is enrolled with another key; choose another name or let "
                          "the operator remove it",
                          device->name);
    /* A used-up token still renews: the answer to the first request may have been lost. */
    if (!proven && (!token->found || token->expires_ms <= now_ms))
        return delta_fail(
            err, DELTA_UNTRUSTED,
            "enrolment token is wrong or has expired; ask the operator for a new one");
    memcpy(device->channel, known->channel, sizeof device->channel);
    return DELTA_OK;
}

static enum delta_status enrol_new(struct server_store *store, struct server_device *device,
                                   const struct delta_digest *digest, const struct token_row *token,
                                   int64_t now_ms, struct delta_error *err)
{
    enum delta_status st;

    if (!token->found || token->expires_ms <= now_ms || token->uses <= 0)
        return delta_fail(err, DELTA_UNTRUSTED,
                          "enrolment token is wrong, used up or has expired; ask the operator for "
                          "a new one");
    memcpy(device->channel, token->channel, sizeof device->channel);
    st = db_run(store, err, "UPDATE token SET uses = uses - 1 WHERE digest = ?", "h", digest);
    if (!st)
        st = db_run(store, err,
                    "INSERT INTO device(name, channel, key_id, key_der, enrolled_ms, seen_ms)"
                    " VALUES(?,?,?,?,?,?)",
                    "sshbii", device->name, device->channel, &device->key_id, device->key_der,
                    device->key_len, now_ms, now_ms);
    return st;
}

enum delta_status server_store_enrol(struct server_store *store, struct server_device *device,
                                     const struct delta_digest *token, bool proven, int64_t now_ms,
                                     struct delta_error *err)
{
    struct server_device known;
    struct token_row row = {.found = false};
    enum delta_status st;
    bool found = false;

    db_enter(store);
    st = db_exec(store, "BEGIN IMMEDIATE", err);
    if (st)
        goto done;
    st = token_find(store, token, &row, err);
    if (!st)
        st = device_find(store, device->name, &known, &found, err);
    if (!st && found)
        st = enrol_known(&known, device, &row, proven, now_ms, err);
    else if (!st)
        st = enrol_new(store, device, token, &row, now_ms, err);
    st = db_end(store, st, err);
done:
    db_leave(store);
    return st;
}

static enum delta_status change_device(struct server_store *store, const char *name,
                                       enum delta_status st, struct delta_error *err)
{
    const bool none = !st && sqlite3_changes(store->db) == 0;

    db_leave(store);
    return none ? not_enrolled(name, err) : st;
}

enum delta_status server_store_revoke(struct server_store *store, const char *name, int64_t now_ms,
                                      struct delta_error *err)
{
    db_enter(store);
    return change_device(
        store, name,
        db_run(store, err, "UPDATE device SET revoked_ms = ? WHERE name = ?", "is", now_ms, name),
        err);
}

enum delta_status server_store_remove(struct server_store *store, const char *name,
                                      struct delta_error *err)
{
    db_enter(store);
    return change_device(store, name,
                         db_run(store, err, "DELETE FROM device WHERE name = ?", "s", name), err);
}

enum delta_status server_store_seen(struct server_store *store, const char *name, int64_t now_ms,
                                    struct delta_error *err)
{
    db_enter(store);
    return change_device(
        store, name,
        db_run(store, err, "UPDATE device SET seen_ms = ? WHERE name = ?", "is", now_ms, name),
        err);
}

enum delta_status server_store_report(struct server_store *store, const char *device,
                                      const struct delta_digest *version, const char *event,
                                      double old_accuracy, uint64_t tested, const char *reason,
                                      int64_t now_ms, struct delta_error *err)
{
    enum delta_status st;

    db_enter(store);
    st = db_run(store, err,
                "INSERT INTO report(device, version, event, old, tested, reason, received_ms)"
                " VALUES(?,?,?,?,?,?,?)",
                "sbsdisi", device, version->bytes, sizeof version->bytes, event, old_accuracy,
                (int64_t)tested, reason, now_ms);
    db_leave(store);
    return st;
}
