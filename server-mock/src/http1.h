/* HTTP/1.1 requests, bounded: http_parser does the grammar, this keeps the few headers that the
 * protocol uses and refuses what it does not need. No sockets, no TLS; bytes in, events out.
 * The parser stops after the head and after the body of each request, so pipelined requests wait
 * in the caller's buffer until the answer before them is sent.
 */
#ifndef SERVER_HTTP1_H
#define SERVER_HTTP1_H

#include <http_parser.h>

#include "delta/buf.h"

#define SERVER_HEAD_MAX 16384 /* request line and headers */
#define SERVER_TARGET_MAX 512
#define SERVER_HEADER_VALUE_MAX 256

enum server_method { SERVER_GET = 1, SERVER_HEAD = 2, SERVER_PUT = 4, SERVER_POST = 8 };

struct server_request {
    enum server_method method;
    char path[SERVER_TARGET_MAX]; /* without query; printable ASCII */
    char accept[SERVER_HEADER_VALUE_MAX];
    char if_none_match[SERVER_HEADER_VALUE_MAX];
    char range[SERVER_HEADER_VALUE_MAX];
    char content_range[SERVER_HEADER_VALUE_MAX];
    bool expect_continue;
    bool keep_alive;
    bool has_body;       /* a body follows, maybe empty */
    bool length_known;   /* Content-Length rather than chunks */
    uint64_t body_bytes; /* when length_known */
};

enum server_http_event {
    SERVER_HTTP_MORE, /* all bytes used; give more */
    SERVER_HTTP_HEAD, /* http->request is complete; a body may follow */
    SERVER_HTTP_DONE  /* the request is complete */
};

typedef enum delta_status server_http_body(void *context, struct delta_bytes piece);

struct server_http {
    http_parser parser;
    struct server_request request;
    server_http_body *body;
    void *body_context;
    enum server_http_event event;
    enum delta_status failure;
    int refusal; /* HTTP status that fits the failure */
    bool in_body;
    size_t head_bytes;
    size_t target_len;
    char name[32];
    size_t name_len;
    char value[SERVER_HEADER_VALUE_MAX];
    size_t value_len;
    bool value_seen;
};

/* Ready for the next request of a connection. */
void server_http_init(struct server_http *http, server_http_body *body, void *context);

/* Feeds bytes until an event; *used tells how many were taken. After HEAD call again with the
 * rest to receive the body; after DONE call server_http_init() before the next request.
 *   fails    FORMAT, LIMIT; http->refusal is the HTTP status to answer with (400, 405, 413, 431,
 *            505); what `body` returned */
DELTA_MUST_USE enum delta_status server_http_feed(struct server_http *http, struct delta_bytes in,
                                                  size_t *used, struct delta_error *err);
/* A request has begun: at least one byte of it was fed. */
bool server_http_begun(const struct server_http *http);

/* "bytes=a-b", "bytes=a-", "bytes=-n" of `size` bytes: 0 whole (no or unknown range), 206 with
 * *from and *to (inclusive), 416. */
int server_http_range(const char *range, uint64_t size, uint64_t *from, uint64_t *to);
/* "bytes a-b/size"; false unless well-formed with a <= b < size. */
bool server_http_content_range(const char *text, uint64_t *from, uint64_t *to, uint64_t *size);
/* Does If-None-Match name this quoted tag (or *)? */
bool server_http_tag_matches(const char *if_none_match, const char *tag);
const char *server_http_reason(int status);

#endif
