#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "delta/file.h"
#include "store/db.h"

#define SCHEMA_VERSION 1

static const char schema[] =
    "CREATE TABLE setting(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE token(digest BLOB PRIMARY KEY, channel TEXT NOT NULL, uses INTEGER NOT NULL,"
    " expires_ms INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE device(name TEXT PRIMARY KEY, channel TEXT NOT NULL, key_id BLOB NOT NULL,"
    " key_der BLOB NOT NULL, enrolled_ms INTEGER NOT NULL, seen_ms INTEGER NOT NULL,"
    " revoked_ms INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;"
    "CREATE TABLE blob(digest BLOB PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE version(digest BLOB PRIMARY KEY, parent BLOB, blob BLOB NOT NULL"
    " REFERENCES blob(digest), channel TEXT NOT NULL, number INTEGER NOT NULL,"
    " origin TEXT NOT NULL, created_ms INTEGER NOT NULL, UNIQUE(channel, number));"
    "CREATE TABLE edge(base BLOB NOT NULL REFERENCES version(digest), target BLOB NOT NULL"
    " REFERENCES version(digest), blob BLOB NOT NULL REFERENCES blob(digest),"
    " PRIMARY KEY(target, base)) WITHOUT ROWID;"
    "CREATE TABLE channel(name TEXT PRIMARY KEY, serial INTEGER NOT NULL, issued_ms INTEGER,"
    " expires_ms INTEGER, poll_s INTEGER, paused INTEGER, permille INTEGER, rollout BLOB,"
    " version BLOB NOT NULL REFERENCES version(digest), document BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE contribution(digest BLOB PRIMARY KEY, device TEXT NOT NULL, channel TEXT NOT"
    " NULL, base BLOB NOT NULL REFERENCES version(digest), bytes INTEGER NOT NULL, new_samples"
    " INTEGER NOT NULL, state INTEGER NOT NULL, reason TEXT NOT NULL DEFAULT '',"
    " version BLOB REFERENCES version(digest), received_ms INTEGER NOT NULL);"
    "CREATE INDEX contribution_pending ON contribution(channel, digest) WHERE state = 0;"
    "CREATE INDEX contribution_device ON contribution(device, state);"
    "CREATE TABLE owner(channel TEXT NOT NULL, class TEXT NOT NULL, device TEXT NOT NULL,"
    " PRIMARY KEY(channel, class, device)) WITHOUT ROWID;"
    "CREATE TABLE report(id INTEGER PRIMARY KEY, device TEXT NOT NULL, version BLOB NOT NULL,"
    " event TEXT NOT NULL, old REAL NOT NULL, tested INTEGER NOT NULL, reason TEXT NOT NULL,"
    " received_ms INTEGER NOT NULL);"
    "PRAGMA user_version = 1;";

static enum delta_status schema_version(struct server_store *store, int64_t *version,
                                        struct delta_error *err)
{
    sqlite3_stmt *statement;
    bool row = false;
    enum delta_status st = db_bind(store, "PRAGMA user_version", &statement, err, "");

    if (!st)
        st = db_step(store, statement, &row, err);
    if (!st && row) {
        *version = sqlite3_column_int64(statement, 0);
        sqlite3_reset(statement);
    }
    return st;
}

static enum delta_status open_schema(struct server_store *store, const char *path, bool create,
                                     struct delta_error *err)
{
    int64_t version = -1;
    enum delta_status st = db_exec(store,
                                   "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                                   "PRAGMA foreign_keys = ON;",
                                   err);

    if (!st && create) {
        st = db_exec(store, "BEGIN IMMEDIATE", err);
        if (!st)
            st = db_end(store, db_exec(store, schema, err), err);
    }
    if (!st)
        st = schema_version(store, &version, err);
    if (!st && version != SCHEMA_VERSION)
        st =
            delta_fail(err, DELTA_UNSUPPORTED,
                       "'%s' has schema %lld, this program knows %d; use the program that wrote it",
                       path, (long long)version, SCHEMA_VERSION);
    return st;
}

enum delta_status server_store_open(struct server_store **out, const char *path, bool create,
                                    struct delta_error *err)
{
    struct server_store *store;
    enum delta_status st;
    int rc;

    if (create && delta_file_exists(path))
        return delta_fail(err, DELTA_EXISTS, "'%s' exists already", path);
    if (!create && !delta_file_exists(path))
        return delta_fail(err, DELTA_NOT_FOUND,
                          "'%s' is not there; make a coordinator with 'frostline server init'",
                          path);
    store = delta_calloc(1, sizeof *store);
    if (!store)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate the store");
    pthread_mutex_init(&store->lock, NULL);
    rc = sqlite3_open_v2(
        path, &store->db,
        SQLITE_OPEN_READWRITE | (create ? SQLITE_OPEN_CREATE : 0) | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK) {
        st = delta_fail(err, DELTA_IO, "cannot open '%s': %s", path, sqlite3_errstr(rc));
        goto done;
    }
    sqlite3_extended_result_codes(store->db, 1);
    sqlite3_busy_timeout(store->db, 10000);
    st = open_schema(store, path, create, err);
    if (st) {
        delta_fail_in(err, st, "'%s'", path);
        goto done;
    }
    *out = store;
    store = NULL;
done:
    server_store_close(store);
    return st;
}

void server_store_close(struct server_store *store)
{
    if (!store)
        return;
    for (size_t i = 0; i < store->cached; i++)
        sqlite3_finalize(store->cache[i].statement);
    sqlite3_close(store->db);
    pthread_mutex_destroy(&store->lock);
    free(store);
}

enum delta_status server_store_set(struct server_store *store, const char *key, const char *value,
                                   struct delta_error *err)
{
    enum delta_status st;

    db_enter(store);
    st = db_run(store, err, "INSERT OR REPLACE INTO setting(key, value) VALUES(?, ?)", "ss", key,
                value);
    db_leave(store);
    return st;
}

enum delta_status server_store_get(struct server_store *store, const char *key, char *out,
                                   size_t size, struct delta_error *err)
{
    sqlite3_stmt *statement;
    bool row = false;
    enum delta_status st;

    db_enter(store);
    st = db_bind(store, "SELECT value FROM setting WHERE key = ?", &statement, err, "s", key);
    if (!st)
        st = db_step(store, statement, &row, err);
    if (!st && row) {
        db_text(statement, 0, out, size);
        sqlite3_reset(statement);
    } else if (!st) {
        st = delta_fail(err, DELTA_NOT_FOUND, "setting '%s' is not there", key);
    }
    db_leave(store);
    return st;
}
