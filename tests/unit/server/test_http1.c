/* The request parser: what it takes, what it refuses, and that pipelined requests stay apart. */
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http1.h"

struct seen {
    char body[256];
    size_t len;
};

static enum delta_status keep(void *context, struct delta_bytes piece)
{
    struct seen *seen = context;

    if (piece.len > sizeof seen->body - seen->len)
        return DELTA_LIMIT;
    memcpy(seen->body + seen->len, piece.data, piece.len);
    seen->len += piece.len;
    return DELTA_OK;
}

/* Feeds in steps of `step` bytes until the request is complete, or refused (returns the HTTP
 * status), or the bytes end (returns -1). *used: bytes of `text` consumed. */
static int feed(struct server_http *http, struct seen *seen, const char *text, size_t len,
                size_t step, size_t *used)
{
    struct delta_error err = DELTA_ERROR_INIT;
    size_t at = 0;

    seen->len = 0;
    server_http_init(http, keep, seen);
    while (at < len) {
        size_t took, give = len - at < step ? len - at : step;
        if (server_http_feed(http, delta_bytes(text + at, give), &took, &err))
            return http->refusal;
        at += took;
        *used = at;
        if (http->event == SERVER_HTTP_DONE)
            return 0;
        assert_true(took > 0 || http->event == SERVER_HTTP_HEAD);
    }
    return -1;
}

#define H "Host: a\r\n"

static const struct {
    const char *text;
    int result; /* 0: complete; -1: wants more; else the refusal */
    const char *path;
    const char *body;
} rows[] = {
    {"GET / HTTP/1.1\r\n" H "\r\n", 0, "/", ""},
    {"GET /v1/x?a=b HTTP/1.1\r\n" H "\r\n", 0, "/v1/x", ""},
    {"POST /p HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc", 0, "/p", "abc"},
    {"PUT /p HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
     0, "/p", "abc"},
    {"PUT /p HTTP/1.1\r\n" H
     "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nRange: bytes=1-\r\n\r\n",
     0, "/p", "a"},
    {"GET / HTTP/1.1\r\n" H, -1, NULL, ""},
    {"POST /p HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nab", -1, "/p", "ab"},
    {"PUT /p HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n5\r\nab", -1, "/p", "ab"},
    /* hostile */
    {"POST /p HTTP/1.1\r\n" H "Content-Length: -1\r\n\r\n", 400, NULL, ""},
    {"POST /p HTTP/1.1\r\n" H "Content-Length: 1x\r\n\r\n", 400, NULL, ""},
    {"POST /p HTTP/1.1\r\n" H "Content-Length: 99999999999999999999999\r\n\r\n", 400, NULL, ""},
    {"POST /p HTTP/1.1\r\n" H "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, NULL, ""},
    {"POST /p HTTP/1.1\r\n" H "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     400, NULL, ""},
    {"PUT /p HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n-2\r\nab", 400, NULL, ""},
    {"PUT /p HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", 400, NULL,
     ""},
    {"PUT /p HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400, NULL, NULL},
    {"PUT /p HTTP/1.1\r\n" H "Transfer-Encoding: gzip\r\n\r\n", 400, NULL, ""},
    {"GET / HTTP/2.0\r\n" H "\r\n", 505, NULL, ""},
    {"GET / HTTP/9\r\n\r\n", 505, NULL, ""},
    {"BREW / HTTP/1.1\r\n" H "\r\n", 405, NULL, ""},
    {"DELETE / HTTP/1.1\r\n" H "\r\n", 405, NULL, ""},
    {"CONNECT a:1 HTTP/1.1\r\n" H "\r\n", 405, NULL, ""},
    {"GET http://a/b HTTP/1.1\r\n" H "\r\n", 400, NULL, ""},
    {"GET /%2e%2e HTTP/1.1\r\n" H "\r\n", 400, NULL, ""},
    {"GET /\x80 HTTP/1.1\r\n" H "\r\n", 400, NULL, ""},
    {"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n", 400, NULL, ""},
    {"GET / HTTP/1.1\r\nRange: bytes=0-\r\nRange: bytes=1-\r\n\r\n", 400, NULL, ""},
    {"PUT / HTTP/1.1\r\nExpect: miracles\r\n\r\n", 417, NULL, ""},
    {"\x16\x03\x01\x02", 405, NULL, ""},
};

static void http_rows_are_taken_or_refused(void **state)
{
    static const size_t steps[] = {1, 2, 7, 10000};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t s = 0; s < 4; s++) {
            struct server_http http;
            struct seen seen;
            size_t used = 0;
            const int result =
                feed(&http, &seen, rows[i].text, strlen(rows[i].text), steps[s], &used);
            if (result != rows[i].result)
                fail_msg("row %zu step %zu: %d instead of %d", i, steps[s], result, rows[i].result);
            if (rows[i].path)
                assert_string_equal(http.request.path, rows[i].path);
            if (rows[i].body && rows[i].result <= 0) {
                assert_int_equal(seen.len, strlen(rows[i].body));
                assert_memory_equal(seen.body, rows[i].body, seen.len);
            }
        }
}

static void http_huge_heads_are_refused(void **state)
{
    static const char *const starts[] = {"GET /", "GET / HTTP/1.1\r\nX: ", "GET / HTTP/1.1\r\n",
                                         "GET / HTTP/1.1\r\nRange: "};
    char *text = malloc(100000);

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct server_http http;
        struct seen seen;
        size_t used;
        memset(text, 'a', 100000);
        memcpy(text, starts[i], strlen(starts[i]));
        if (i == 2) /* many small headers instead of a long one */
            for (size_t at = strlen(starts[i]); at + 6 < 100000; at += 6)
                memcpy(text + at, "A: b\r\n", 6);
        assert_int_equal(feed(&http, &seen, text, 100000, 1000, &used), i == 0 ? 414 : 431);
        assert_true(used <= SERVER_HEAD_MAX + 1000);
    }
    free(text);
}

static void http_a_large_head_within_the_limit_is_taken(void **state)
{
    char *text = malloc(20000);
    struct server_http http;
    struct seen seen;
    size_t used, len = 0;

    (void)state;
    len += (size_t)snprintf(text, 20000, "GET / HTTP/1.1\r\nX: ");
    memset(text + len, 'a', 15000);
    memcpy(text + len + 15000, "\r\n\r\n", 4);
    assert_int_equal(feed(&http, &seen, text, len + 15004, 512, &used), 0);
    free(text);
}

static void http_pipelined_requests_stay_apart(void **state)
{
    static const char text[] =
        "POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"
        "GET /b HTTP/1.1\r\n\r\n"
        "PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nz\r\n0\r\n\r\n";
    static const char *const paths[] = {"/a", "/b", "/c"}, *const bodies[] = {"hi", "", "z"};
    size_t at = 0;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct server_http http;
        struct seen seen;
        size_t used;
        assert_int_equal(feed(&http, &seen, text + at, sizeof text - 1 - at, 10000, &used), 0);
        assert_string_equal(http.request.path, paths[i]);
        assert_int_equal(seen.len, strlen(bodies[i]));
        at += used;
    }
    assert_int_equal(at, sizeof text - 1);
}

static void http_headers_are_kept(void **state)
{
    static const char text[] =
        "PUT /x HTTP/1.1\r\nACCEPT: application/json\r\n"
        "content-range: bytes 0-1/9\r\nExpect: 100-continue\r\n"
        "If-None-Match: \"t\"\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab";
    struct server_http http;
    struct seen seen;
    size_t used;

    (void)state;
    assert_int_equal(feed(&http, &seen, text, sizeof text - 1, 3, &used), 0);
    assert_string_equal(http.request.accept, "application/json");
    assert_string_equal(http.request.content_range, "bytes 0-1/9");
    assert_string_equal(http.request.if_none_match, "\"t\"");
    assert_true(http.request.expect_continue);
    assert_false(http.request.keep_alive);
    assert_int_equal(http.request.body_bytes, 2);
}

static void http_ranges(void **state)
{
    static const struct {
        const char *text;
        int result;
        uint64_t from, to;
    } table[] = {{"", 0, 0, 0},
                 {"bytes=0-", 206, 0, 99},
                 {"bytes=10-19", 206, 10, 19},
                 {"bytes=90-200", 206, 90, 99},
                 {"bytes=-5", 206, 95, 99},
                 {"bytes=-500", 206, 0, 99},
                 {"bytes=100-", 416, 0, 0},
                 {"bytes=-0", 416, 0, 0},
                 {"bytes=5-4", 0, 0, 0},
                 {"bytes=1-2,4-5", 0, 0, 0},
                 {"bytes=x-", 0, 0, 0},
                 {"lines=1-2", 0, 0, 0},
                 {"bytes=99999999999999999999-", 0, 0, 0}};

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        uint64_t from = 0, to = 0;
        const int result = server_http_range(table[i].text, 100, &from, &to);
        if (result != table[i].result)
            fail_msg("'%s': %d", table[i].text, result);
        if (result == 206) {
            assert_int_equal(from, table[i].from);
            assert_int_equal(to, table[i].to);
        }
    }
}

static void http_content_ranges(void **state)
{
    static const char *const bad[] = {"",
                                      "bytes 0-1",
                                      "bytes 0-1/*",
                                      "bytes 1-0/5",
                                      "bytes 0-5/5",
                                      "bytes -1-2/5",
                                      "0-1/5",
                                      "bytes 0-1/5x",
                                      "bytes 0-18446744073709551616/18446744073709551617"};
    uint64_t from, to, size;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (server_http_content_range(bad[i], &from, &to, &size))
            fail_msg("'%s' was taken", bad[i]);
    assert_true(server_http_content_range("bytes 5-9/10", &from, &to, &size));
    assert_int_equal(from, 5);
    assert_int_equal(to, 9);
    assert_int_equal(size, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(http_rows_are_taken_or_refused),
        cmocka_unit_test(http_huge_heads_are_refused),
        cmocka_unit_test(http_a_large_head_within_the_limit_is_taken),
        cmocka_unit_test(http_pipelined_requests_stay_apart),
        cmocka_unit_test(http_headers_are_kept),
        cmocka_unit_test(http_ranges),
        cmocka_unit_test(http_content_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
