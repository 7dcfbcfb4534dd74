/* What a connection does in each of its states. */
#include "conn_state.h"

#include <string.h>
#include <unistd.h>

#include "delta/log.h"

/* ---- steps; each returns false when it has to wait ---- */

static enum delta_status on_body_bytes(void *context, struct delta_bytes piece)
{
    struct server_conn *c = context;

    if (c->exchange.reply.status)
        return DELTA_OK; /* decided already */
    c->moved += piece.len;
    if (c->exchange.route->piece)
        return delta_buf_append(&c->piece, piece.data, piece.len, NULL);
    return delta_buf_append(&c->exchange.body, piece.data, piece.len, NULL);
}

static void next_request(struct server_conn *c)
{
    server_http_init(&c->http, on_body_bytes, c);
    c->step = STEP_HEAD;
    c->request_deadline_ms = 0;
    c->head_sent = c->body_done = c->delayed = false;
    c->fault = (struct server_fault){SERVER_FAULT_NONE, 0};
    c->moved = 0;
    delta_buf_clear(&c->piece);
    server_conn_deadline(c, c->conns->limits.idle_ms);
}

static void job_handshake(struct server_conn *c)
{
    c->tls_step = server_tls_handshake(c->tls, &c->err);
    if (c->tls_step == SERVER_TLS_DONE)
        server_tls_peer(c->tls, &c->peer);
}

static void then_handshake(struct server_conn *c)
{
    if (c->tls_step == SERVER_TLS_WANT && c->peer_ended) {
        server_conn_end(c);
    } else if (c->tls_step == SERVER_TLS_WANT) {
        c->wants_bytes = true;
    } else if (c->tls_step == SERVER_TLS_DONE) {
        next_request(c);
    } else {
        delta_log_debug("conn", "%s", c->err.text);
        c->step = STEP_LINGER; /* the alert shall arrive */
        server_conn_deadline(c, LINGER_MS);
    }
}

static bool step_handshake(struct server_conn *c)
{
    if (!c->wants_bytes)
        server_conn_job(c, job_handshake, then_handshake);
    return false;
}

static void refuse(struct server_conn *c, int status, enum delta_status code, const char *text)
{
    delta_fail(&c->err, code, "%s", text);
    server_reply_error(&c->exchange.reply, status, &c->err, -1);
}

static void decide(struct server_conn *c)
{
    c->step = STEP_REPLY;
    if (c->exchange.reply.status == 0)
        refuse(c, 500, DELTA_INTERNAL, "no answer");
    if (!c->body_done && c->http.request.has_body)
        c->exchange.reply.close = true; /* what is left of the body would be taken for a request */
    if (!c->http.request.keep_alive || c->conns->draining || c->overflow)
        c->exchange.reply.close = true;
}

static void then_begin(struct server_conn *c)
{
    if (c->exchange.reply.status) {
        decide(c);
        return;
    }
    c->step = STEP_BODY;
    if (c->http.request.has_body && c->http.request.expect_continue) {
        static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
        (void)server_conn_send(c, delta_bytes(text, sizeof text - 1));
    }
}

static void job_begin(struct server_conn *c)
{
    server_exchange_begin(&c->exchange);
}

static void on_delay(uv_timer_t *timer)
{
    struct server_conn *c = timer->data;

    if (c->step != STEP_GONE)
        server_conn_pump(c);
}

static void begin_request(struct server_conn *c)
{
    if (c->has_exchange)
        server_exchange_release(&c->exchange);
    server_exchange_init(&c->exchange, c->conns->context, &c->http.request, &c->peer);
    c->has_exchange = true;
    c->step = STEP_BEGIN;
    c->request_deadline_ms = server_conn_now(c) + c->conns->limits.request_ms;
    server_conn_deadline(c, c->conns->limits.stall_ms);
    c->fault = (struct server_fault){SERVER_FAULT_NONE, 0};
    if (c->exchange.reply.status == 0 && c->conns->faults.count)
        c->fault = server_faults_take(&c->conns->faults, c->exchange.route->name);
    if (c->fault.action == SERVER_FAULT_STATUS)
        refuse(c, (int)c->fault.value, DELTA_BUSY, "told to fail");
    if (c->overflow)
        refuse(c, 503, DELTA_BUSY, "too many connections; try again later");
    else if (c->conns->draining)
        refuse(c, 503, DELTA_BUSY, "coordinator is stopping; try again later");
}

/* A request that cannot be parsed: an answer, then the end. */
bool server_conn_malformed(struct server_conn *c)
{
    if (!c->has_exchange) {
        server_exchange_init(&c->exchange, c->conns->context, &c->http.request, &c->peer);
        c->has_exchange = true;
    }
    c->exchange.reply.status = 0;
    server_reply_error(&c->exchange.reply, c->http.refusal ? c->http.refusal : 400, &c->err, -1);
    c->exchange.reply.close = true;
    c->http.request.keep_alive = false;
    c->step = STEP_REPLY;
    return true;
}

static bool step_head(struct server_conn *c)
{
    size_t used;

    if (!server_conn_fill(c))
        return false;
    if (!server_http_begun(&c->http))
        server_conn_deadline(c, c->conns->limits.handshake_ms);
    const struct delta_bytes in = delta_bytes(c->plain + c->plain_at, c->plain_len - c->plain_at);
    if (server_http_feed(&c->http, in, &used, &c->err))
        return server_conn_malformed(c);
    c->plain_at += used;
    if (c->http.event == SERVER_HTTP_HEAD)
        begin_request(c);
    return true;
}

static bool step_begin(struct server_conn *c)
{
    if (c->fault.action == SERVER_FAULT_DELAY && !c->delayed) {
        c->delayed = true;
        c->delay.data = c;
        c->deadline_ms += (int64_t)c->fault.value;
        uv_timer_start(&c->delay, on_delay, c->fault.value, 0);
        return false;
    }
    if (uv_is_active((uv_handle_t *)&c->delay))
        return false;
    server_conn_job(c, job_begin, then_begin);
    return false;
}

static void job_finish(struct server_conn *c)
{
    server_conn_job_piece(c);
    server_exchange_finish(&c->exchange);
}

static void then_piece(struct server_conn *c)
{
    if (c->exchange.reply.status)
        decide(c);
}

static bool step_body(struct server_conn *c)
{
    size_t used;

    if (c->fault.action == SERVER_FAULT_DROP && c->http.request.has_body &&
        c->moved >= c->fault.value) {
        server_conn_broken(c); /* what came counts, then the line goes dead */
        return false;
    }
    if (c->body_done) {
        server_conn_job(c, job_finish, decide);
        return false;
    }
    if (c->piece.len >= PIECE_MAX - PLAIN_MAX) {
        server_conn_job(c, server_conn_job_piece, then_piece);
        return false;
    }
    /* The head's last byte is still there: a request without a body ends with it. */
    if (!server_conn_fill(c))
        return false;
    const struct delta_bytes in = delta_bytes(c->plain + c->plain_at, c->plain_len - c->plain_at);
    if (server_http_feed(&c->http, in, &used, &c->err)) {
        c->plain_at = c->plain_len = 0;
        return server_conn_malformed(c);
    }
    c->plain_at += used;
    c->body_done = c->http.event == SERVER_HTTP_DONE;
    return true;
}

/* ---- replies ---- */

static void job_read_file(struct server_conn *c)
{
    struct server_reply *reply = &c->exchange.reply;
    const size_t want = reply->file_bytes < PIECE_MAX ? (size_t)reply->file_bytes : PIECE_MAX;
    uint8_t *at;
    ssize_t got;

    delta_buf_clear(&c->piece);
    c->tls_step = SERVER_TLS_FAILED;
    if (delta_buf_extend(&c->piece, want, &at, &c->err))
        return;
    got = pread(reply->fd, at, want, (off_t)reply->file_at);
    if (got <= 0)
        return;
    c->piece.len = (size_t)got;
    reply->file_at += (uint64_t)got;
    reply->file_bytes -= (uint64_t)got;
    c->tls_step = SERVER_TLS_DONE;
}

/* Body bytes on their way out; faults are applied here. False when the connection is to end. */
static bool send_body(struct server_conn *c, uint8_t *data, size_t len)
{
    const uint64_t at = c->moved;
    bool whole = true;

    if (c->fault.action == SERVER_FAULT_FLIP && c->fault.value >= at && c->fault.value - at < len)
        data[c->fault.value - at] ^= 1;
    if (c->fault.action == SERVER_FAULT_DROP && at + len > c->fault.value) {
        len = c->fault.value > at ? (size_t)(c->fault.value - at) : 0;
        whole = false;
    }
    c->moved += len;
    if (!server_conn_send(c, delta_bytes(data, len)))
        return false;
    if (!whole) { /* sent as far as told, then silence */
        server_conn_flush(c);
        c->step = STEP_LINGER;
        server_conn_deadline(c, 200);
    }
    return whole;
}

static void then_read_file(struct server_conn *c)
{
    if (c->tls_step == SERVER_TLS_DONE)
        (void)send_body(c, c->piece.data, c->piece.len);
    else
        server_conn_end(c); /* the blob is shorter than the store says */
}

static void finish_reply(struct server_conn *c)
{
    if (!c->exchange.reply.close) {
        server_exchange_release(&c->exchange);
        c->has_exchange = false;
        next_request(c);
        return;
    }
    server_tls_goodbye(c->tls);
    server_conn_flush(c);
    if (c->step == STEP_GONE)
        return;
    c->step = STEP_LINGER; /* a peer that still sends would lose the answer to a reset */
    c->request_deadline_ms = 0;
    server_conn_deadline(c, LINGER_MS);
    (void)uv_shutdown(&c->shutdown, (uv_stream_t *)&c->tcp, NULL);
}

static bool send_head(struct server_conn *c)
{
    struct server_reply *reply = &c->exchange.reply;
    const bool no_body =
        c->http.request.method == SERVER_HEAD || reply->status == 204 || reply->status == 304;
    struct delta_buf head;
    bool ok;

    if (c->fault.action == SERVER_FAULT_TRUNCATE) {
        if (reply->fd >= 0 && reply->file_bytes > c->fault.value)
            reply->file_bytes = c->fault.value;
        if (reply->body.len > c->fault.value)
            reply->body.len = (size_t)c->fault.value;
    }
    delta_buf_init(&head, 4096);
    c->head_sent = true;
    c->moved = 0;
    ok = server_reply_head(reply, &head, &c->err) == DELTA_OK &&
         server_conn_send(c, delta_buf_bytes(&head));
    delta_buf_release(&head);
    if (no_body) {
        reply->body.len = 0;
        reply->file_bytes = 0;
    }
    return ok;
}

static bool step_reply(struct server_conn *c)
{
    struct server_reply *reply = &c->exchange.reply;

    if (c->writing || server_tls_out(c->tls)->len)
        return false; /* one part at a time: that is the backpressure */
    if (!c->head_sent) {
        if (!send_head(c)) {
            server_conn_end(c);
            return false;
        }
        if (reply->fd < 0 && reply->body.len <= PIECE_MAX && reply->body.len &&
            !send_body(c, reply->body.data, reply->body.len))
            return false;
        if (reply->fd < 0 && reply->body.len <= PIECE_MAX)
            reply->file_at = reply->body.len;
        return true;
    }
    if (reply->fd >= 0 && reply->file_bytes) {
        server_conn_job(c, job_read_file, then_read_file);
        return false;
    }
    if (reply->fd < 0 && reply->file_at < reply->body.len) {
        size_t len = reply->body.len - (size_t)reply->file_at;
        if (len > PIECE_MAX)
            len = PIECE_MAX;
        reply->file_at += len;
        return send_body(c, reply->body.data + reply->file_at - len, len);
    }
    finish_reply(c);
    return true;
}

bool server_conn_step(struct server_conn *c)
{
    switch (c->step) {
    case STEP_HANDSHAKE:
        return step_handshake(c);
    case STEP_HEAD:
        return step_head(c);
    case STEP_BEGIN:
        return step_begin(c);
    case STEP_BODY:
        return step_body(c);
    case STEP_REPLY:
        return step_reply(c);
    case STEP_LINGER:
    case STEP_GONE:
        break;
    }
    return false;
}
