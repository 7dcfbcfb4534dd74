/* Answers: a status, a few headers, and a body in memory or a piece of a file. Bodies are built
 * as MessagePack once; where the client wants JSON the same value is converted, binaries as hex.
 */
#ifndef SERVER_REPLY_H
#define SERVER_REPLY_H

#include "delta/msg.h"
#include "http1.h"

#define SERVER_REPLY_MAX ((size_t)32 << 20)

struct server_reply {
    int status;        /* 0: not decided yet */
    bool close;        /* the connection ends after it */
    bool json;         /* how a body of ours is written */
    char type[64];     /* Content-Type; "": no body */
    char headers[768]; /* more lines, each ending in \r\n */
    struct delta_buf body;
    int fd; /* file to send from, owned; -1: `body` */
    uint64_t file_at, file_bytes;
    uint64_t length; /* Content-Length of a HEAD answer whose body is not there */
    bool length_given;
};

void server_reply_init(struct server_reply *reply, const struct server_request *request,
                       bool json_by_default);
void server_reply_release(struct server_reply *reply);

/* One more header line. Too many are dropped. */
void server_reply_header(struct server_reply *reply, const char *fmt, ...) DELTA_PRINTF(2, 3);

/* A body from encoded MessagePack, converted if need be. */
void server_reply_message(struct server_reply *reply, int status, struct delta_bytes encoded);
/* {"error": text, "status": NAME}, and "have" unless negative. */
void server_reply_error(struct server_reply *reply, int status, const struct delta_error *err,
                        int64_t have);
/* The HTTP status for a failure that has none of its own. */
int server_reply_status(enum delta_status status);
void server_reply_failure(struct server_reply *reply, const struct delta_error *err);
void server_reply_text(struct server_reply *reply, int status, const char *text);

/* The head as bytes, ready to send.  fails: LIMIT, NO_MEMORY */
DELTA_MUST_USE enum delta_status server_reply_head(const struct server_reply *reply,
                                                   struct delta_buf *out, struct delta_error *err);
/* MessagePack to JSON: binaries become hex.  fails: FORMAT, NO_MEMORY */
DELTA_MUST_USE enum delta_status server_json(struct delta_bytes encoded, bool indent,
                                             struct delta_buf *out, struct delta_error *err);

#endif
