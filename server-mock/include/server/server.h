/* The coordinator in-process: serve a directory made by `frostline server init` until told to stop.
 * One event loop in the thread that calls server_run(); disk, database, handshakes and merges run
 * in libuv's worker pool. server-mock/PROTOCOL.md is what it speaks.
 */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "delta/clock.h"
#include "delta/status.h"

#include <stdbool.h>
#include <stdint.h>

struct server_options {
    const char *dir;          /* made by init; borrowed for server_new() only */
    const char *host;         /* numeric address; NULL: 127.0.0.1 */
    uint16_t port;            /* 0: a free one */
    struct delta_clock clock; /* zeroed: the system's */
    const char *faults;       /* misbehave on demand, see faults.h; NULL: do not */
    bool handle_signals;      /* SIGTERM and SIGINT drain and stop */

    /* merge as soon as either is met; 0 = default */
    uint32_t merge_min;     /* pending contributions of a channel (1) */
    uint32_t merge_after_s; /* age of the oldest pending one; 0 = no such limit */
    bool merge_off;         /* admit only; `frostline server merge` merges */

    /* limits; 0 = default */
    uint32_t max_connections;        /* 1024; more are answered 503 */
    uint64_t max_contribution_bytes; /* 256 MB */
    uint32_t max_pending_per_device; /* 16 */
    uint32_t handshake_ms;           /* handshake, and the head of a request (10 s) */
    uint32_t idle_ms;                /* between two requests (60 s) */
    uint32_t stall_ms;               /* no byte moves within a request (30 s) */
    uint32_t request_ms;             /* a whole request (600 s) */
    uint32_t drain_ms;               /* stop waits so long for requests under way (10 s) */
};

struct server;

/* Opens the directory and listens; nothing is served before server_run().
 *   out      end with server_free()
 *   fails    NOT_FOUND (no coordinator in `dir`), CONFIG (faults), IO (address in use), FORMAT,
 *            EXISTS (another coordinator serves `dir`), NO_MEMORY
 *   threads  one thread owns the server; only server_stop() may be called from another */
DELTA_MUST_USE enum delta_status
server_new(struct server **out, const struct server_options *options, struct delta_error *err);
uint16_t server_port(const struct server *server);
/* Serves until server_stop() or a signal, then drains: requests under way are finished. Ignores
 * SIGPIPE from then on, in the whole process. */
DELTA_MUST_USE enum delta_status server_run(struct server *server, struct delta_error *err);
void server_stop(struct server *server); /* any thread, any number of times */
void server_free(struct server *server); /* accepts NULL */

#endif
