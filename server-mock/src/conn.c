#include "conn.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "delta/log.h"

#define PLAIN_MAX 16384
#define PIECE_MAX 65536
#define LINGER_MS 3000
#define OVERFLOW_EXTRA 64 /* connections above the maximum that still get a 503 */

enum step { STEP_HANDSHAKE, STEP_HEAD, STEP_BEGIN, STEP_BODY, STEP_REPLY, STEP_LINGER, STEP_GONE };

struct server_conn {
    struct server_conns *conns;
    struct server_conn *next, *previous;
    enum step step;
    uv_tcp_t tcp;
    bool tcp_closed;
    /* the job under way */
    uv_work_t work;
    void (*job)(struct server_conn *);
    void (*then)(struct server_conn *);
    bool working;
    /* bytes */
    struct server_tls *tls;
    uint8_t plain[PLAIN_MAX]; /* decrypted, not yet parsed */
    size_t plain_at, plain_len;
    struct delta_buf piece;   /* of a large body, or of a file that is sent */
    struct delta_buf sending; /* owned by `write` while `writing` */
    uv_write_t write;
    uv_shutdown_t shutdown;
    bool writing;
    bool wants_bytes; /* cannot go on without receiving */
    bool peer_ended;
    /* time, monotonic */
    int64_t deadline_ms, request_deadline_ms;
    /* the request */
    struct server_peer peer;
    struct server_http http;
    struct server_exchange exchange;
    bool has_exchange;
    bool overflow;
    bool head_sent;
    bool body_done;
    enum server_tls_step tls_step;
    struct delta_error err;
    struct server_fault fault;
    uint64_t moved; /* body bytes of this exchange, for faults */
    uv_timer_t delay;
    bool delay_closed, delayed;
};

static void pump(struct server_conn *c);
static void end(struct server_conn *c);

/* ---- life ---- */

static int64_t now(const struct server_conn *c)
{
    return (int64_t)uv_now(c->conns->loop);
}

static void set_deadline(struct server_conn *c, uint32_t ms)
{
    c->deadline_ms = now(c) + ms;
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
static void end(struct server_conn *c)
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
        set_deadline(c, c->conns->limits.stall_ms);
    c->then(c);
    pump(c);
}

static void start_job(struct server_conn *c, void (*job)(struct server_conn *),
                      void (*then)(struct server_conn *))
{
    c->job = job;
    c->then = then;
    c->working = true;
    c->work.data = c;
    if (uv_queue_work(c->conns->loop, &c->work, on_job, on_job_done)) {
        c->working = false;
        end(c);
    }
}

static void job_piece(struct server_conn *c)
{
    if (c->piece.len)
        c->exchange.route->piece(&c->exchange, delta_buf_bytes(&c->piece));
    delta_buf_clear(&c->piece);
}

/* The peer went away or fell silent: what it uploaded so far is kept, so that it can go on. */
static void broken(struct server_conn *c)
{
    if (c->step == STEP_BODY && !c->working && c->exchange.route->piece && c->piece.len &&
        c->exchange.reply.status == 0)
        start_job(c, job_piece, end);
    else
        end(c);
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
        end(c);
        return;
    }
    if (c->step != STEP_HANDSHAKE && c->step != STEP_LINGER)
        set_deadline(c, c->step == STEP_HEAD && !server_http_begun(&c->http)
                            ? c->conns->limits.idle_ms
                            : c->conns->limits.stall_ms);
    pump(c);
}

static void flush(struct server_conn *c)
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
        end(c);
    }
}

static bool send_plain(struct server_conn *c, struct delta_bytes bytes)
{
    struct delta_error err;

    if (server_tls_write(c->tls, bytes, &err) == DELTA_OK)
        return true;
    end(c);
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
            broken(c);
        return;
    }
    if (c->step == STEP_LINGER)
        return;
    server_tls_received(c->tls, (size_t)len);
    c->wants_bytes = false;
    if (c->step == STEP_BODY)
        set_deadline(c, c->conns->limits.stall_ms);
    pump(c);
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
        end(c);
}

/* Makes sure that there are plain bytes: false when more must be received, or it is over. */
static bool fill_plain(struct server_conn *c)
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
    broken(c);
    return false;
}

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
    set_deadline(c, c->conns->limits.idle_ms);
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
        end(c);
    } else if (c->tls_step == SERVER_TLS_WANT) {
        c->wants_bytes = true;
    } else if (c->tls_step == SERVER_TLS_DONE) {
        next_request(c);
    } else {
        delta_log_debug("conn", "%s", c->err.text);
        c->step = STEP_LINGER; /* the alert shall arrive */
        set_deadline(c, LINGER_MS);
    }
}

static bool step_handshake(struct server_conn *c)
{
    if (!c->wants_bytes)
        start_job(c, job_handshake, then_handshake);
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
        (void)send_plain(c, delta_bytes(text, sizeof text - 1));
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
        pump(c);
}

static void begin_request(struct server_conn *c)
{
    if (c->has_exchange)
        server_exchange_release(&c->exchange);
    server_exchange_init(&c->exchange, c->conns->context, &c->http.request, &c->peer);
    c->has_exchange = true;
    c->step = STEP_BEGIN;
    c->request_deadline_ms = now(c) + c->conns->limits.request_ms;
    set_deadline(c, c->conns->limits.stall_ms);
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
static bool malformed(struct server_conn *c)
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

    if (!fill_plain(c))
        return false;
    if (!server_http_begun(&c->http))
        set_deadline(c, c->conns->limits.handshake_ms);
    const struct delta_bytes in = delta_bytes(c->plain + c->plain_at, c->plain_len - c->plain_at);
    if (server_http_feed(&c->http, in, &used, &c->err))
        return malformed(c);
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
    start_job(c, job_begin, then_begin);
    return false;
}

static void job_finish(struct server_conn *c)
{
    job_piece(c);
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
        broken(c); /* what came counts, then the line goes dead */
        return false;
    }
    if (c->body_done) {
        start_job(c, job_finish, decide);
        return false;
    }
    if (c->piece.len >= PIECE_MAX - PLAIN_MAX) {
        start_job(c, job_piece, then_piece);
        return false;
    }
    /* The head's last byte is still there: a request without a body ends with it. */
    if (!fill_plain(c))
        return false;
    const struct delta_bytes in = delta_bytes(c->plain + c->plain_at, c->plain_len - c->plain_at);
    if (server_http_feed(&c->http, in, &used, &c->err)) {
        c->plain_at = c->plain_len = 0;
        return malformed(c);
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
    if (!send_plain(c, delta_bytes(data, len)))
        return false;
    if (!whole) { /* sent as far as told, then silence */
        flush(c);
        c->step = STEP_LINGER;
        set_deadline(c, 200);
    }
    return whole;
}

static void then_read_file(struct server_conn *c)
{
    if (c->tls_step == SERVER_TLS_DONE)
        (void)send_body(c, c->piece.data, c->piece.len);
    else
        end(c); /* the blob is shorter than the store says */
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
    flush(c);
    if (c->step == STEP_GONE)
        return;
    c->step = STEP_LINGER; /* a peer that still sends would lose the answer to a reset */
    c->request_deadline_ms = 0;
    set_deadline(c, LINGER_MS);
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
         send_plain(c, delta_buf_bytes(&head));
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
            end(c);
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
        start_job(c, job_read_file, then_read_file);
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

static bool step_once(struct server_conn *c)
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

static void pump(struct server_conn *c)
{
    while (!c->working && c->step != STEP_GONE && step_once(c))
        ;
    if (c->step == STEP_GONE)
        return;
    if (!c->working) /* a worker has the TLS state otherwise */
        flush(c);
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
    set_deadline(c, conns->limits.handshake_ms);
    if (uv_accept(listener, (uv_stream_t *)&c->tcp)) {
        end(c);
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
        broken(c);
        return;
    }
    if (c->step == STEP_BODY || (c->step == STEP_HEAD && server_http_begun(&c->http))) {
        delta_fail(&c->err, DELTA_TIMEOUT, "request took too long");
        c->http.refusal = 408;
        c->wants_bytes = false;
        c->request_deadline_ms = 0;
        if (!c->has_exchange || c->exchange.reply.status == 0) {
            (void)malformed(c);
            set_deadline(c, LINGER_MS);
            pump(c);
            return;
        }
    }
    end(c);
}

void server_conns_sweep(struct server_conns *conns, bool all)
{
    struct server_conn *next;

    for (struct server_conn *c = conns->first; c; c = next) {
        next = c->next;
        if (c->step == STEP_GONE)
            continue;
        if (all) {
            end(c);
        } else if (conns->draining && !c->writing && !c->working &&
                   (c->step == STEP_HANDSHAKE || c->step == STEP_LINGER ||
                    (c->step == STEP_HEAD && !server_http_begun(&c->http)))) {
            end(c);
        } else if (!c->working && now(c) > c->deadline_ms) {
            time_out(c);
        }
    }
}
