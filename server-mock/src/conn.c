#include "conn_state.h"

#include <stdlib.h>
#include <string.h>

#include "delta/log.h"

#define OVERFLOW_EXTRA 64 /* connections above the maximum that still get a 503 */

/* ---- life ---- */

int64_t server_conn_now(const struct server_conn *c)
{
    return (int64_t)uv_now(c->conns->loop);
}

void server_conn_deadline(struct server_conn *c, uint32_t ms)
{
    c->deadline_ms = server_conn_now(c) + ms;
    if (c->request_deadline_ms && c->deadline_ms > c->request_deadline_ms)
        c->deadline_ms = c->request_deadline_ms;
}

static void free_if_idle(struct server_conn *c)
{
    struct server_conns *conns = c->conns;

    if (c->step != STEP_GONE || c->working || !c->tcp_closed || !c->delay_closed)
        return;
    if (c->has_exchange)
        server_exchange_release(&c->exchange);
    server_tls_free(c->tls);
    delta_buf_release(&c->piece);
    delta_buf_release(&c->sending);
    if (c->previous)
        c->previous->next = c->next;
    else
        conns->first = c->next;
    if (c->next)
        c->next->previous = c->previous;
    conns->count--;
    free(c);
    if (conns->count == 0 && conns->emptied)
        conns->emptied(conns);
}

static void on_tcp_closed(uv_handle_t *handle)
{
    struct server_conn *c = handle->data;

    c->tcp_closed = true;
    free_if_idle(c);
}

static void on_delay_closed(uv_handle_t *handle)
{
    struct server_conn *c = handle->data;

    c->delay_closed = true;
    free_if_idle(c);
}

/* Ends at once; the memory goes when no job and no handle uses it any more. */
void server_conn_end(struct server_conn *c)
{
    if (c->step == STEP_GONE)
        return;
    c->step = STEP_GONE;
    uv_close((uv_handle_t *)&c->tcp, on_tcp_closed);
    uv_close((uv_handle_t *)&c->delay, on_delay_closed);
}

/* ---- jobs ---- */

static void on_job(uv_work_t *work)
{
    struct server_conn *c = work->data;

    c->job(c);
}

static void on_job_done(uv_work_t *work, int status)
{
    struct server_conn *c = work->data;

    (void)status;
    c->working = false;
    if (c->step == STEP_GONE) {
        free_if_idle(c);
        return;
    }
    if (c->step != STEP_HANDSHAKE) /* a handshake has one deadline, however it is sliced */
        server_conn_deadline(c, c->conns->limits.stall_ms);
    c->then(c);
    server_conn_pump(c);
}

void server_conn_job(struct server_conn *c, void (*job)(struct server_conn *),
                     void (*then)(struct server_conn *))
{
    c->job = job;
    c->then = then;
    c->working = true;
    c->work.data = c;
    if (uv_queue_work(c->conns->loop, &c->work, on_job, on_job_done)) {
        c->working = false;
        server_conn_end(c);
    }
}

void server_conn_job_piece(struct server_conn *c)
{
    if (c->piece.len)
        c->exchange.route->piece(&c->exchange, delta_buf_bytes(&c->piece));
    delta_buf_clear(&c->piece);
}

/* The peer went away or fell silent: what it uploaded so far is kept, so that it can go on. */
void server_conn_broken(struct server_conn *c)
{
    if (c->step == STEP_BODY && !c->working && c->exchange.route->piece && c->piece.len &&
        c->exchange.reply.status == 0)
        server_conn_job(c, server_conn_job_piece, server_conn_end);
    else
        server_conn_end(c);
}

/* ---- sending ---- */

static void on_written(uv_write_t *write, int status)
{
    struct server_conn *c = write->data;

    c->writing = false;
    delta_buf_clear(&c->sending);
    if (c->step == STEP_GONE)
        return;
    if (status || (c->step == STEP_LINGER && c->peer_ended)) {
        server_conn_end(c);
        return;
    }
    if (c->step != STEP_HANDSHAKE && c->step != STEP_LINGER)
        server_conn_deadline(c, c->step == STEP_HEAD && !server_http_begun(&c->http)
                                    ? c->conns->limits.idle_ms
                                    : c->conns->limits.stall_ms);
    server_conn_pump(c);
}

void server_conn_flush(struct server_conn *c)
{
    struct delta_buf *out = server_tls_out(c->tls);
    struct delta_buf swap;

    if (c->writing || out->len == 0)
        return;
    swap = c->sending;
    c->sending = *out;
    *out = swap;
    const uv_buf_t buf = uv_buf_init((char *)c->sending.data, (unsigned)c->sending.len);
    c->write.data = c;
    c->writing = true;
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, &buf, 1, on_written)) {
        c->writing = false;
        server_conn_end(c);
    }
}

bool server_conn_send(struct server_conn *c, struct delta_bytes bytes)
{
    struct delta_error err;

    if (server_tls_write(c->tls, bytes, &err) == DELTA_OK)
        return true;
    server_conn_end(c);
    return false;
}

/* ---- receiving ---- */

static void on_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct server_conn *c = handle->data;
    size_t room = sizeof c->plain;
    /* While lingering nothing is parsed any more: what comes is thrown away. */
    uint8_t *at = c->step == STEP_LINGER ? c->plain : server_tls_room(c->tls, &room);

    (void)suggested;
    *buf = uv_buf_init((char *)at, (unsigned)room);
}

static void on_bytes(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf)
{
    struct server_conn *c = stream->data;

    (void)buf;
    if (len == 0 || c->step == STEP_GONE)
        return;
    if (len < 0) {
        c->peer_ended = true;
        if (c->step == STEP_LINGER || !c->writing)
            server_conn_broken(c);
        return;
    }
    if (c->step == STEP_LINGER)
        return;
    server_tls_received(c->tls, (size_t)len);
    c->wants_bytes = false;
    if (c->step == STEP_BODY)
        server_conn_deadline(c, c->conns->limits.stall_ms);
    server_conn_pump(c);
}

/* Reads from the socket only when there is room and nothing else to do. */
static void steer_reading(struct server_conn *c)
{
    const bool wanted = !c->working && !c->peer_ended && (c->wants_bytes || c->step == STEP_LINGER);
    int rc;

    if (!wanted) {
        uv_read_stop((uv_stream_t *)&c->tcp);
        return;
    }
    rc = uv_read_start((uv_stream_t *)&c->tcp, on_room, on_bytes);
    if (rc < 0 && rc != UV_EALREADY)
        server_conn_end(c);
}

/* Makes sure that there are plain bytes: false when more must be received, or it is over. */
bool server_conn_fill(struct server_conn *c)
{
    struct delta_error err;

    if (c->plain_at < c->plain_len)
        return true;
    c->plain_at = c->plain_len = 0;
    switch (server_tls_read(c->tls, c->plain, sizeof c->plain, &c->plain_len, &err)) {
    case SERVER_TLS_DONE:
        return true;
    case SERVER_TLS_WANT:
        if (c->peer_ended)
            break;
        c->wants_bytes = true;
        return false;
    case SERVER_TLS_CLOSED:
    case SERVER_TLS_FAILED:
        break;
    }
    server_conn_broken(c);
    return false;
}
void server_conn_pump(struct server_conn *c)
{
    while (!c->working && c->step != STEP_GONE && server_conn_step(c))
        ;
    if (c->step == STEP_GONE)
        return;
    if (!c->working) /* a worker has the TLS state otherwise */
        server_conn_flush(c);
    if (c->step != STEP_GONE)
        steer_reading(c);
}
/* ---- from outside ---- */

static void drop_new(uv_handle_t *handle)
{
    free(handle);
}

/* Far above the maximum: not even a handshake. */
static void accept_and_drop(struct server_conns *conns, uv_stream_t *listener)
{
    uv_tcp_t *tcp = delta_calloc(1, sizeof *tcp);

    if (!tcp)
        return;
    uv_tcp_init(conns->loop, tcp);
    (void)uv_accept(listener, (uv_stream_t *)tcp);
    uv_close((uv_handle_t *)tcp, drop_new);
}

void server_conn_accept(struct server_conns *conns, uv_stream_t *listener)
{
    struct server_conn *c = NULL;
    struct delta_error err;

    if (conns->count < (size_t)conns->limits.max_connections + OVERFLOW_EXTRA)
        c = delta_calloc(1, sizeof *c);
    if (c && server_tls_new(&c->tls, conns->tls, &err)) {
        free(c);
        c = NULL;
    }
    if (!c) {
        delta_log_warn("conn", "too many connections count=%zu", conns->count);
        accept_and_drop(conns, listener);
        return;
    }
    c->conns = conns;
    c->overflow = conns->count >= conns->limits.max_connections;
    delta_buf_init(&c->piece, PIECE_MAX + PLAIN_MAX);
    delta_buf_init(&c->sending, SERVER_TLS_OUT_MAX);
    uv_tcp_init(conns->loop, &c->tcp);
    uv_timer_init(conns->loop, &c->delay);
    c->tcp.data = c->delay.data = c;
    c->next = conns->first;
    if (c->next)
        c->next->previous = c;
    conns->first = c;
    conns->count++;
    server_conn_deadline(c, conns->limits.handshake_ms);
    if (uv_accept(listener, (uv_stream_t *)&c->tcp)) {
        server_conn_end(c);
        return;
    }
    uv_tcp_nodelay(&c->tcp, 1);
    c->wants_bytes = true;
    steer_reading(c);
}

static void time_out(struct server_conn *c)
{
    /* In the middle of a request the peer gets a word, if it still listens. */
    if (c->step == STEP_BODY && c->piece.len) {
        server_conn_broken(c);
        return;
    }
    if (c->step == STEP_BODY || (c->step == STEP_HEAD && server_http_begun(&c->http))) {
        delta_fail(&c->err, DELTA_TIMEOUT, "request took too long");
        c->http.refusal = 408;
        c->wants_bytes = false;
        c->request_deadline_ms = 0;
        if (!c->has_exchange || c->exchange.reply.status == 0) {
            (void)server_conn_malformed(c);
            server_conn_deadline(c, LINGER_MS);
            server_conn_pump(c);
            return;
        }
    }
    server_conn_end(c);
}

void server_conns_sweep(struct server_conns *conns, bool all)
{
    struct server_conn *next;

    for (struct server_conn *c = conns->first; c; c = next) {
        next = c->next;
        if (c->step == STEP_GONE)
            continue;
        if (all) {
            server_conn_end(c);
        } else if (conns->draining && !c->writing && !c->working &&
                   (c->step == STEP_HANDSHAKE || c->step == STEP_LINGER ||
                    (c->step == STEP_HEAD && !server_http_begun(&c->http)))) {
            server_conn_end(c);
        } else if (!c->working && server_conn_now(c) > c->deadline_ms) {
            time_out(c);
        }
    }
}
