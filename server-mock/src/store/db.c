#include "store/db.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void db_enter(struct server_store *store)
{
    pthread_mutex_lock(&store->lock);
}

void db_leave(struct server_store *store)
{
    pthread_mutex_unlock(&store->lock);
}

enum delta_status db_fail(struct server_store *store, int code, struct delta_error *err)
{
    enum delta_status status = DELTA_IO;

    switch (code & 0xff) {
    case SQLITE_FULL:
        status = DELTA_NO_SPACE;
        break;
    case SQLITE_IOERR:
        if (sqlite3_system_errno(store->db) == EFBIG || sqlite3_system_errno(store->db) == ENOSPC)
            status = DELTA_NO_SPACE;
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        status = DELTA_BUSY;
        break;
    case SQLITE_NOMEM:
        status = DELTA_NO_MEMORY;
        break;
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
        status = DELTA_FORMAT;
        break;
    default:
        break;
    }
    return delta_fail(err, status, "database: %s", sqlite3_errmsg(store->db));
}

static int prepared(struct server_store *store, const char *sql, sqlite3_stmt **out)
{
    int rc;

    for (size_t i = 0; i < store->cached; i++)
        if (store->cache[i].sql == sql) {
            *out = store->cache[i].statement;
            return SQLITE_OK;
        }
    if (store->cached == DB_STATEMENTS_MAX)
        return SQLITE_NOMEM;
    rc = sqlite3_prepare_v3(store->db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL);
    if (rc == SQLITE_OK) {
        store->cache[store->cached].sql = sql;
        store->cache[store->cached++].statement = *out;
    }
    return rc;
}

static int bind_one(sqlite3_stmt *statement, int at, char kind, va_list *args)
{
    const struct delta_digest *digest;
    const void *data;

    switch (kind) {
    case 'i':
        return sqlite3_bind_int64(statement, at, va_arg(*args, int64_t));
    case 'd':
        return sqlite3_bind_double(statement, at, va_arg(*args, double));
    case 's':
        return sqlite3_bind_text(statement, at, va_arg(*args, const char *), -1, SQLITE_TRANSIENT);
    case 'b':
        data = va_arg(*args, const void *);
        return sqlite3_bind_blob64(statement, at, data, va_arg(*args, size_t), SQLITE_TRANSIENT);
    case 'h':
        digest = va_arg(*args, const struct delta_digest *);
        if (!digest || delta_digest_is_zero(digest))
            return sqlite3_bind_null(statement, at);
        return sqlite3_bind_blob(statement, at, digest->bytes, DELTA_DIGEST_BYTES,
                                 SQLITE_TRANSIENT);
    default:
        return SQLITE_MISUSE;
    }
}

static enum delta_status bind_all(struct server_store *store, const char *sql, sqlite3_stmt **out,
                                  struct delta_error *err, const char *kinds, va_list *args)
{
    int rc = prepared(store, sql, out);

    for (int i = 0; rc == SQLITE_OK && kinds[i]; i++)
        rc = bind_one(*out, i + 1, kinds[i], args);
    return rc == SQLITE_OK ? DELTA_OK : db_fail(store, rc, err);
}

enum delta_status db_bind(struct server_store *store, const char *sql, sqlite3_stmt **out,
                          struct delta_error *err, const char *kinds, ...)
{
    enum delta_status st;
    va_list args;

    va_start(args, kinds);
    st = bind_all(store, sql, out, err, kinds, &args);
    va_end(args);
    return st;
}

enum delta_status db_step(struct server_store *store, sqlite3_stmt *statement, bool *row,
                          struct delta_error *err)
{
    const int rc = sqlite3_step(statement);
    enum delta_status st = DELTA_OK;

    *row = rc == SQLITE_ROW;
    if (*row)
        return DELTA_OK;
    if (rc != SQLITE_DONE)
        st = db_fail(store, rc, err);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return st;
}

enum delta_status db_run_(struct server_store *store, struct delta_error *err, const char *sql,
                          const char *kinds, ...)
{
    sqlite3_stmt *statement;
    enum delta_status st;
    va_list args;
    bool row;

    va_start(args, kinds);
    st = bind_all(store, sql, &statement, err, kinds, &args);
    va_end(args);
    if (!st)
        st = db_step(store, statement, &row, err);
    return st;
}

enum delta_status db_exec(struct server_store *store, const char *sql, struct delta_error *err)
{
    const int rc = sqlite3_exec(store->db, sql, NULL, NULL, NULL);

    return rc == SQLITE_OK ? DELTA_OK : db_fail(store, rc, err);
}

enum delta_status db_end(struct server_store *store, enum delta_status st, struct delta_error *err)
{
    if (!st)
        st = db_exec(store, "COMMIT", err);
    if (st)
        (void)sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    return st;
}

void db_text(sqlite3_stmt *statement, int column, char *out, size_t size)
{
    const unsigned char *text = sqlite3_column_text(statement, column);

    snprintf(out, size, "%s", text ? (const char *)text : "");
}

void db_digest(sqlite3_stmt *statement, int column, struct delta_digest *out)
{
    const void *data = sqlite3_column_blob(statement, column);

    if (data && sqlite3_column_bytes(statement, column) == DELTA_DIGEST_BYTES)
        memcpy(out->bytes, data, DELTA_DIGEST_BYTES);
    else
        memset(out->bytes, 0, DELTA_DIGEST_BYTES);
}
