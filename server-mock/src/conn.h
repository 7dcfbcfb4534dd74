/* One connection: a state machine between a TCP socket and routes.h.
 *
 *   HANDSHAKE -> HEAD -> BEGIN -> BODY -> FINISH -> REPLY -> HEAD ...        LINGER -> gone
 *
 * Everything here runs in the event loop except the jobs (handshake, begin, piece, finish, reading
 * a file), which run in libuv's pool, one at a time per connection, while the loop leaves the
 * connection alone. Memory per connection is bounded: buffers of 32 KB in, 16 KB plain, 64 KB of
 * body or file, and what TLS needs; nothing is read while an answer is being sent. Every state has
 * a deadline.
 */
#ifndef SERVER_CONN_H
#define SERVER_CONN_H

#include <uv.h>

#include "faults.h"
#include "routes.h"
#include "server/server.h"

struct server_conn;

/* What all connections share; owned by the event loop. */
struct server_conns {
    uv_loop_t *loop;
    struct server_tls_config *tls;
    struct server_context *context;
    struct server_faults faults;
    struct server_options limits; /* defaults filled in */
    bool draining;
    struct server_conn *first;
    size_t count;
    void (*emptied)(struct server_conns *); /* after the last one went */
};

/* Takes a connection from the listener. */
void server_conn_accept(struct server_conns *conns, uv_stream_t *listener);
/* Ends those past their deadline, and idle ones when draining; `all` ends every one. */
void server_conns_sweep(struct server_conns *conns, bool all);

#endif
