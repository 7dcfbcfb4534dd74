/* The inside of a connection, shared by conn.c (sockets, jobs, deadlines) and conn_steps.c (what a
 * connection does in each state). Nothing else includes this. */
#ifndef SERVER_CONN_STATE_H
#define SERVER_CONN_STATE_H

#include "conn.h"

#define LINGER_MS 3000
#define PLAIN_MAX 16384
#define PIECE_MAX 65536

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

/* ---- conn.c ---- */

int64_t server_conn_now(const struct server_conn *c);
/* From now on, but never beyond the request's own deadline. */
void server_conn_deadline(struct server_conn *c, uint32_t ms);
/* Ends at once; the memory goes when no job and no handle uses it any more. */
void server_conn_end(struct server_conn *c);
/* The peer went away or fell silent: what it uploaded so far is kept, so that it can go on. */
void server_conn_broken(struct server_conn *c);
/* Runs `job` in a worker, then `then` in the loop. */
void server_conn_job(struct server_conn *c, void (*job)(struct server_conn *),
                     void (*then)(struct server_conn *));
/* A job: gives the piece of the body that came to the route. */
void server_conn_job_piece(struct server_conn *c);
/* Encrypts; false when the connection had to be ended. */
bool server_conn_send(struct server_conn *c, struct delta_bytes bytes);
void server_conn_flush(struct server_conn *c);
/* Makes sure that there are plain bytes: false when more must be received, or it is over. */
bool server_conn_fill(struct server_conn *c);
/* Goes on as far as possible without waiting. */
void server_conn_pump(struct server_conn *c);

/* ---- conn_steps.c ---- */

/* One step; false when it has to wait. */
bool server_conn_step(struct server_conn *c);
/* Answers a request that cannot be understood, or that took too long, and then ends. */
bool server_conn_malformed(struct server_conn *c);

#endif
