/* SQLite in few words, shared by the files of the store: a statement is prepared once, bound by
 * a format string, stepped, and reset. Nothing outside store/ includes this. */
#ifndef SERVER_STORE_DB_H
#define SERVER_STORE_DB_H

#include <pthread.h>
#include <sqlite3.h>

#include "store/store.h"

#define DB_STATEMENTS_MAX 64

struct server_store {
    sqlite3 *db;
    pthread_mutex_t lock;
    struct {
        const char *sql; /* compared by address: statements are literals */
        sqlite3_stmt *statement;
    } cache[DB_STATEMENTS_MAX];
    size_t cached;
};

void db_enter(struct server_store *store);
void db_leave(struct server_store *store);

/* A SQLite failure as a status: NO_SPACE, BUSY, FORMAT, IO. */
enum delta_status db_fail(struct server_store *store, int code, struct delta_error *err);

/* Binds by kind: i int64_t, s text, d double, b const void* + size_t (NULL data: SQL NULL),
 * h const struct delta_digest * (NULL or zero: SQL NULL). */
DELTA_MUST_USE enum delta_status db_bind(struct server_store *store, const char *sql,
                                         sqlite3_stmt **out, struct delta_error *err,
                                         const char *kinds, ...);
/* One row or the end: *row tells. Resets at the end and on failure. */
DELTA_MUST_USE enum delta_status db_step(struct server_store *store, sqlite3_stmt *statement,
                                         bool *row, struct delta_error *err);
/* A statement without result. */
#define db_run(store, err, sql, ...) db_run_((store), (err), (sql), __VA_ARGS__)
DELTA_MUST_USE enum delta_status db_run_(struct server_store *store, struct delta_error *err,
                                         const char *sql, const char *kinds, ...);
DELTA_MUST_USE enum delta_status db_exec(struct server_store *store, const char *sql,
                                         struct delta_error *err);
/* COMMIT, or ROLLBACK when `st` is a failure; returns what came of it. */
DELTA_MUST_USE enum delta_status db_end(struct server_store *store, enum delta_status st,
                                        struct delta_error *err);

void db_text(sqlite3_stmt *statement, int column, char *out, size_t size);
/* NULL or of another length gives zero. */
void db_digest(sqlite3_stmt *statement, int column, struct delta_digest *out);

#endif
