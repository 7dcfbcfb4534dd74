#include "reply.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void server_reply_init(struct server_reply *reply, const struct server_request *request,
                       bool json_by_default)
{
    memset(reply, 0, sizeof *reply);
    delta_buf_init(&reply->body, SERVER_REPLY_MAX);
    reply->fd = -1;
    reply->json = json_by_default ? strstr(request->accept, "msgpack") == NULL
                                  : strstr(request->accept, "application/json") != NULL;
}

void server_reply_release(struct server_reply *reply)
{
    if (reply->fd >= 0)
        close(reply->fd);
    reply->fd = -1;
    delta_buf_release(&reply->body);
}

void server_reply_header(struct server_reply *reply, const char *fmt, ...)
{
    const size_t used = strlen(reply->headers);
    va_list args;
    int len;

    va_start(args, fmt);
    len = vsnprintf(reply->headers + used, sizeof reply->headers - used, fmt, args);
    va_end(args);
    if (len < 0 || (size_t)len + 2 >= sizeof reply->headers - used)
        reply->headers[used] = '\0';
    else
        memcpy(reply->headers + used + len, "\r\n", 3);
}

/* ---- MessagePack to JSON ---- */

static json_t *to_json(struct delta_msg_value value);

static json_t *map_to_json(struct delta_msg_value value)
{
    json_t *object = json_object();

    for (size_t i = 0; object && i < delta_msg_count(value); i++) {
        struct delta_bytes key;
        char name[64];
        json_t *item = to_json(delta_msg_pair(value, i, &key));
        snprintf(name, sizeof name, "%.*s", (int)key.len, (const char *)key.data);
        if (!item || json_object_set_new(object, name, item)) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static json_t *bin_to_json(struct delta_bytes bytes)
{
    char *hex = delta_calloc(bytes.len * 2 + 1, 1);
    json_t *out;

    if (!hex)
        return NULL;
    delta_hex(hex, bytes.data, bytes.len);
    out = json_string(hex);
    free(hex);
    return out;
}

static json_t *to_json(struct delta_msg_value value)
{
    struct delta_bytes bytes;
    uint64_t whole;
    double real;
    bool yes;
    char text[4096];

    if (delta_msg_is_map(value))
        return map_to_json(value);
    if (delta_msg_is_array(value)) {
        json_t *array = json_array();
        for (size_t i = 0; array && i < delta_msg_count(value); i++)
            if (json_array_append_new(array, to_json(delta_msg_at(value, i)))) {
                json_decref(array);
                return NULL;
            }
        return array;
    }
    if (!delta_msg_to_uint(value, "", INT64_MAX, &whole, NULL))
        return json_integer((json_int_t)whole);
    if (!delta_msg_to_real(value, "", &real, NULL))
        return json_real(real);
    if (!delta_msg_to_bool(value, "", &yes, NULL))
        return json_boolean(yes);
    if (!delta_msg_to_bin(value, "", &bytes, NULL))
        return bin_to_json(bytes);
    if (!delta_msg_to_str(value, "", text, sizeof text, NULL))
        return json_string(text);
    return json_null();
}

enum delta_status server_json(struct delta_bytes encoded, bool indent, struct delta_buf *out,
                              struct delta_error *err)
{
    struct delta_msg msg;
    json_t *json = NULL;
    char *text = NULL;
    enum delta_status st = delta_msg_parse(&msg, encoded, err);

    if (st)
        return st;
    json = to_json(delta_msg_root(&msg));
    if (json)
        text = json_dumps(json, JSON_SORT_KEYS | (indent ? JSON_INDENT(2) : JSON_COMPACT));
    if (text)
        st = delta_buf_append(out, text, strlen(text), err);
    else
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot write JSON");
    if (!st && indent)
        st = delta_buf_append(out, "\n", 1, err);
    free(text);
    json_decref(json);
    delta_msg_release(&msg);
    return st;
}

/* ---- bodies ---- */

void server_reply_message(struct server_reply *reply, int status, struct delta_bytes encoded)
{
    enum delta_status st;

    delta_buf_clear(&reply->body);
    reply->status = status;
    if (reply->json) {
        snprintf(reply->type, sizeof reply->type, "application/json");
        st = server_json(encoded, true, &reply->body, NULL);
    } else {
        snprintf(reply->type, sizeof reply->type, "application/msgpack");
        st = delta_buf_append(&reply->body, encoded.data, encoded.len, NULL);
    }
    if (st)
        server_reply_text(reply, 500, "answer does not fit in memory\n");
}

void server_reply_error(struct server_reply *reply, int status, const struct delta_error *err,
                        int64_t have)
{
    struct delta_buf body;
    struct delta_msg_out msg = {&body, DELTA_OK};

    delta_buf_init(&body, 4096);
    delta_msg_map(&msg, have >= 0 ? 3 : 2);
    delta_msg_str(&msg, "error");
    delta_msg_str(&msg, err->text[0] ? err->text : delta_status_text(err->status));
    if (have >= 0) {
        delta_msg_str(&msg, "have");
        delta_msg_uint(&msg, (uint64_t)have);
    }
    delta_msg_str(&msg, "status");
    delta_msg_str(&msg, delta_status_name(err->status));
    server_reply_message(reply, status, delta_buf_bytes(&body));
    if (status == 503)
        server_reply_header(reply, "Retry-After: %d", err->status == DELTA_NO_SPACE ? 30 : 2);
    delta_buf_release(&body);
}

int server_reply_status(enum delta_status status)
{
    switch (status) {
    case DELTA_NOT_FOUND:
        return 404;
    case DELTA_UNTRUSTED:
    case DELTA_SIGNATURE:
    case DELTA_EXPIRED:
        return 403;
    case DELTA_INTERNAL:
        return 500;
    default:
        break;
    }
    switch (delta_status_class(status)) {
    case DELTA_CLASS_NET:
    case DELTA_CLASS_ENV:
        return 503;
    case DELTA_CLASS_BUG:
        return 500;
    default:
        return 400;
    }
}

void server_reply_failure(struct server_reply *reply, const struct delta_error *err)
{
    server_reply_error(reply, server_reply_status(err->status), err, -1);
}

void server_reply_text(struct server_reply *reply, int status, const char *text)
{
    reply->status = status;
    delta_buf_clear(&reply->body);
    snprintf(reply->type, sizeof reply->type, "text/plain; charset=utf-8");
    if (delta_buf_append(&reply->body, text, strlen(text), NULL))
        reply->close = true;
}

enum delta_status server_reply_head(const struct server_reply *reply, struct delta_buf *out,
                                    struct delta_error *err)
{
    char head[1536];
    uint64_t length = reply->fd >= 0 ? reply->file_bytes : reply->body.len;
    int len;

    if (reply->length_given)
        length = reply->length;
    len = snprintf(
        head, sizeof head, "HTTP/1.1 %d %s\r\n%s%s%s%sServer: frostline\r\nConnection: %s\r\n",
        reply->status, server_http_reason(reply->status), reply->type[0] ? "Content-Type: " : "",
        reply->type, reply->type[0] ? "\r\n" : "", reply->headers,
        reply->close ? "close" : "keep-alive");
    if (len > 0 && reply->status != 204 && reply->status != 304)
        len += snprintf(head + len, sizeof head - (size_t)len, "Content-Length: %llu\r\n",
                        (unsigned long long)length);
    if (len > 0)
        len += snprintf(head + len, sizeof head - (size_t)len, "\r\n");
    if (len <= 0 || (size_t)len >= sizeof head)
        return delta_fail(err, DELTA_LIMIT, "head of the answer is too long");
    return delta_buf_append(out, head, (size_t)len, err);
}
