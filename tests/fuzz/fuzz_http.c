/* Requests as they come off the wire, in two pieces of any size, with pipelined ones behind them;
 * then the small grammars of header values, and bodies of MessagePack turned to JSON. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "http1.h"
#include "reply.h"

struct body {
    uint64_t bytes;
};

static enum delta_status keep(void *context, struct delta_bytes piece)
{
    struct body *body = context;

    body->bytes += piece.len;
    return body->bytes > 65536 ? DELTA_LIMIT : DELTA_OK;
}

static void check_head(const struct server_request *request)
{
    uint64_t from, to, size;

    if (request->path[0] != '/' || strlen(request->path) >= sizeof request->path)
        abort();
    for (const char *p = request->path; *p; p++)
        if (*p < 0x21 || *p > 0x7e)
            abort();
    if (server_http_range(request->range, 1000, &from, &to) == 206 && (from > to || to > 999))
        abort();
    if (server_http_content_range(request->content_range, &from, &to, &size) &&
        (from > to || to >= size))
        abort();
    (void)server_http_tag_matches(request->if_none_match, "\"a\"");
}

/* A few requests of one connection. */
static void talk(struct delta_bytes in, size_t first)
{
    struct server_http http;
    struct body body = {0};
    size_t requests = 0;

    server_http_init(&http, keep, &body);
    while (in.len && requests < 8) {
        struct delta_bytes part = in;
        size_t used = 0;
        if (first && first < part.len)
            part.len = first;
        first = 0;
        if (server_http_feed(&http, part, &used, NULL)) {
            if (http.refusal < 400)
                abort();
            return;
        }
        if (used > part.len || (used == 0 && http.event == SERVER_HTTP_MORE))
            abort();
        in = delta_bytes(in.data + used, in.len - used);
        if (http.event == SERVER_HTTP_HEAD)
            check_head(&http.request);
        if (http.event == SERVER_HTTP_DONE) {
            server_http_init(&http, keep, &body);
            requests++;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct delta_buf json;

    if (size == 0)
        return 0;
    talk(delta_bytes(data + 1, size - 1), data[0]);
    delta_buf_init(&json, 1 << 20);
    (void)!server_json(delta_bytes(data + 1, size - 1), data[0] & 1, &json, NULL);
    delta_buf_release(&json);
    return 0;
}
