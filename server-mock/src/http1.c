#include "http1.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- headers ---- */

static int refuse(struct server_http *http, enum delta_status failure, int status)
{
    http->failure = failure;
    http->refusal = status;
    return -1;
}

static bool has_token(const char *list, const char *token)
{
    return strcasestr(list, token) != NULL;
}

/* The headers that the protocol uses; each at most once. */
static int keep_header(struct server_http *http)
{
    struct server_request *request = &http->request;
    const struct {
        const char *name;
        char *to;
    } table[] = {{"accept", request->accept},
                 {"if-none-match", request->if_none_match},
                 {"range", request->range},
                 {"content-range", request->content_range}};

    http->name[http->name_len < sizeof http->name ? http->name_len : 0] = '\0';
    http->value[http->value_len < sizeof http->value ? http->value_len : 0] = '\0';
    if (strcasecmp(http->name, "expect") == 0) {
        if (!has_token(http->value, "100-continue"))
            return refuse(http, DELTA_FORMAT, 417);
        request->expect_continue = true;
    }
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcasecmp(http->name, table[i].name) != 0)
            continue;
        if (table[i].to == request->accept && http->value_len >= sizeof http->value)
            return 0; /* a browser's long list; the default will do */
        if (table[i].to[0] || http->value_len >= sizeof http->value)
            return refuse(http, DELTA_FORMAT, 400);
        memcpy(table[i].to, http->value, http->value_len + 1);
    }
    return 0;
}

static int end_header(struct server_http *http)
{
    int rc = 0;

    if (http->name_len && !http->in_body)
        rc = keep_header(http);
    http->name_len = http->value_len = 0;
    http->value_seen = false;
    return rc;
}

static int on_field(http_parser *parser, const char *at, size_t len)
{
    struct server_http *http = parser->data;

    if (http->value_seen && end_header(http))
        return -1;
    /* http_parser may be built to tolerate this; with a proxy in front it smuggles requests. */
    if (memchr(at, ' ', len))
        return refuse(http, DELTA_FORMAT, 400);
    if (len < sizeof http->name - http->name_len) {
        memcpy(http->name + http->name_len, at, len);
        http->name_len += len;
    } else {
        http->name_len = sizeof http->name; /* no header of ours is so long */
    }
    return 0;
}

static int on_value(http_parser *parser, const char *at, size_t len)
{
    struct server_http *http = parser->data;

    http->value_seen = true;
    if (len < sizeof http->value - http->value_len) {
        memcpy(http->value + http->value_len, at, len);
        http->value_len += len;
    } else {
        http->value_len = sizeof http->value;
    }
    return 0;
}

static int on_url(http_parser *parser, const char *at, size_t len)
{
    struct server_http *http = parser->data;

    if (len >= sizeof http->request.path - http->target_len)
        return refuse(http, DELTA_LIMIT, 414);
    memcpy(http->request.path + http->target_len, at, len);
    http->target_len += len;
    http->request.path[http->target_len] = '\0';
    return 0;
}

/* ---- head and body ---- */

static int check_target(struct server_http *http)
{
    char *path = http->request.path;
    char *query = strchr(path, '?');

    if (query)
        *query = '\0';
    if (path[0] != '/')
        return refuse(http, DELTA_FORMAT, 400);
    for (const char *p = path; *p; p++)
        if (*p < 0x21 || *p > 0x7e || *p == '%' || *p == '#')
            return refuse(http, DELTA_FORMAT, 400);
    return 0;
}

static int on_head(http_parser *parser)
{
    struct server_http *http = parser->data;
    struct server_request *request = &http->request;

    if (end_header(http))
        return -1;
    if (parser->http_major != 1)
        return refuse(http, DELTA_FORMAT, 505);
    switch (parser->method) {
    case HTTP_GET:
        request->method = SERVER_GET;
        break;
    case HTTP_HEAD:
        request->method = SERVER_HEAD;
        break;
    case HTTP_PUT:
        request->method = SERVER_PUT;
        break;
    case HTTP_POST:
        request->method = SERVER_POST;
        break;
    default:
        return refuse(http, DELTA_FORMAT, 405);
    }
    if (check_target(http))
        return -1;
    parser->upgrade = 0; /* an upgrade is an offer, and we decline it */
    const bool chunked = (parser->flags & F_CHUNKED) != 0;
    if (!chunked && parser->uses_transfer_encoding)
        return refuse(http, DELTA_FORMAT, 400);
    request->length_known = !chunked && (parser->flags & F_CONTENTLENGTH);
    request->body_bytes = request->length_known ? parser->content_length : 0;
    request->has_body = chunked || request->body_bytes > 0;
    request->keep_alive = http_should_keep_alive(parser) != 0;
    http->in_body = true;
    http->event = SERVER_HTTP_HEAD;
    http_parser_pause(parser, 1);
    return 0;
}

static int on_body(http_parser *parser, const char *at, size_t len)
{
    struct server_http *http = parser->data;
    const enum delta_status st = http->body(http->body_context, delta_bytes(at, len));

    return st ? refuse(http, st, 413) : 0;
}

static int on_done(http_parser *parser)
{
    struct server_http *http = parser->data;

    http->event = SERVER_HTTP_DONE;
    http_parser_pause(parser, 1);
    return 0;
}

static const http_parser_settings settings = {.on_url = on_url,
                                              .on_header_field = on_field,
                                              .on_header_value = on_value,
                                              .on_headers_complete = on_head,
                                              .on_body = on_body,
                                              .on_message_complete = on_done};

void server_http_init(struct server_http *http, server_http_body *body, void *context)
{
    memset(http, 0, sizeof *http);
    http_parser_init(&http->parser, HTTP_REQUEST);
    http->parser.data = http;
    http->body = body;
    http->body_context = context;
}

bool server_http_begun(const struct server_http *http)
{
    return http->head_bytes > 0;
}

static enum delta_status parse_failure(struct server_http *http, struct delta_error *err)
{
    const enum http_errno code = HTTP_PARSER_ERRNO(&http->parser);

    if (!http->failure) {
        http->failure = code == HPE_HEADER_OVERFLOW ? DELTA_LIMIT : DELTA_FORMAT;
        http->refusal = code == HPE_HEADER_OVERFLOW   ? 431
                        : code == HPE_INVALID_METHOD  ? 405
                        : code == HPE_INVALID_VERSION ? 505
                                                      : 400;
        return delta_fail(err, http->failure, "malformed request: %s",
                          http_errno_description(code));
    }
    return delta_fail(err, http->failure, "request refused: %s", server_http_reason(http->refusal));
}

enum delta_status server_http_feed(struct server_http *http, struct delta_bytes in, size_t *used,
                                   struct delta_error *err)
{
    struct delta_bytes part = in;

    http->event = SERVER_HTTP_MORE;
    *used = 0;
    if (in.len == 0)
        return DELTA_OK; /* http_parser would take it for the end of the connection */
    if (HTTP_PARSER_ERRNO(&http->parser) == HPE_PAUSED)
        http_parser_pause(&http->parser, 0);
    /* The limit on the head must hold before the parser walks over it. */
    if (!http->in_body && part.len > SERVER_HEAD_MAX + 1 - http->head_bytes)
        part.len = SERVER_HEAD_MAX + 1 - http->head_bytes;
    *used = http_parser_execute(&http->parser, &settings, (const char *)part.data, part.len);
    if (HTTP_PARSER_ERRNO(&http->parser) != HPE_OK &&
        HTTP_PARSER_ERRNO(&http->parser) != HPE_PAUSED)
        return parse_failure(http, err);
    if (!http->in_body || http->event == SERVER_HTTP_HEAD)
        http->head_bytes += *used;
    if (http->head_bytes > SERVER_HEAD_MAX) {
        http->failure = DELTA_LIMIT;
        http->refusal = 431;
        return delta_fail(err, DELTA_LIMIT, "request head exceeds %d bytes", SERVER_HEAD_MAX);
    }
    return DELTA_OK;
}

/* ---- small grammars ---- */

/* Decimal digits only; moves *p behind them. */
static bool number(const char **p, uint64_t *out)
{
    uint64_t value = 0;
    const char *start = *p;

    for (; **p >= '0' && **p <= '9'; (*p)++) {
        if (value > (UINT64_MAX >> 1) / 10 - 9)
            return false;
        value = value * 10 + (uint64_t)(**p - '0');
    }
    *out = value;
    return *p != start;
}

int server_http_range(const char *range, uint64_t size, uint64_t *from, uint64_t *to)
{
    const char *p = range;
    uint64_t value;

    if (strncasecmp(p, "bytes=", 6) != 0)
        return 0;
    p += 6;
    if (*p == '-') {
        p++;
        if (!number(&p, &value) || *p)
            return 0;
        if (value == 0 || size == 0)
            return 416;
        *from = value < size ? size - value : 0;
        *to = size - 1;
        return 206;
    }
    if (!number(&p, from) || *p++ != '-')
        return 0;
    *to = UINT64_MAX;
    if (*p && (!number(&p, to) || *to < *from))
        return 0;
    if (*p)
        return 0; /* several ranges: the whole is a correct answer */
    if (*from >= size)
        return 416;
    if (*to >= size)
        *to = size - 1;
    return 206;
}

bool server_http_content_range(const char *text, uint64_t *from, uint64_t *to, uint64_t *size)
{
    const char *p = text;

    if (strncasecmp(p, "bytes ", 6) != 0)
        return false;
    p += 6;
    if (!number(&p, from) || *p++ != '-')
        return false;
    if (!number(&p, to) || *p++ != '/')
        return false;
    return number(&p, size) && *p == '\0' && *from <= *to && *to < *size;
}

bool server_http_tag_matches(const char *if_none_match, const char *tag)
{
    return strcmp(if_none_match, "*") == 0 || strstr(if_none_match, tag) != NULL;
}

const char *server_http_reason(int status)
{
    switch (status) {
#define REASON(num, name, string)                                                                  \
    case num:                                                                                      \
        return #string;
        HTTP_STATUS_MAP(REASON)
#undef REASON
    default:
        return "Unknown";
    }
}
