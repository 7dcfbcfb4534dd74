#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ca.h"
#include "delta/msg.h"
#include "server_fleet.h"

static size_t keep_body(char *data, size_t size, size_t count, void *context)
{
    struct answer *answer = context;
    uint8_t *body = realloc(answer->body, answer->len + size * count + 1);

    assert_non_null(body);
    memcpy(body + answer->len, data, size * count);
    answer->body = body;
    answer->len += size * count;
    return size * count;
}

static size_t keep_header(char *data, size_t size, size_t count, void *context)
{
    struct answer *answer = context;
    const size_t used = strlen(answer->headers);

    if (count >= 5 && memcmp(data, "HTTP/", 5) == 0)
        answer->headers[0] = '\0'; /* of the last response only: not of 100 Continue */
    else
        snprintf(answer->headers + used, sizeof answer->headers - used, "%.*s", (int)(size * count),
                 data);
    return size * count;
}

struct source {
    const uint8_t *data;
    size_t left;
    long allowed; /* bytes until the connection breaks; -1: all */
};

static size_t give_body(char *out, size_t size, size_t count, void *context)
{
    struct source *source = context;
    size_t len = size * count < source->left ? size * count : source->left;

    if (source->allowed == 0)
        return CURL_READFUNC_ABORT;
    if (source->allowed > 0 && len > (size_t)source->allowed)
        len = (size_t)source->allowed;
    if (source->allowed > 0)
        source->allowed -= (long)len;
    memcpy(out, source->data, len);
    source->data += len;
    source->left -= len;
    return len;
}

static struct curl_slist *split_headers(const char *lines)
{
    struct curl_slist *list = NULL;
    char *copy = strdup(lines ? lines : ""), *save = NULL;

    for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        list = curl_slist_append(list, line);
    free(copy);
    return list;
}

static void set_method(CURL *curl, const struct call *call, struct source *source)
{
    const char *method = call->method ? call->method : "GET";

    if (strcmp(method, "HEAD") == 0) {
        curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    } else if (strcmp(method, "POST") == 0) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)call->body_len);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, call->body);
    } else if (strcmp(method, "PUT") == 0) {
        curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(curl, CURLOPT_READFUNCTION, give_body);
        curl_easy_setopt(curl, CURLOPT_READDATA, source);
        curl_easy_setopt(curl, CURLOPT_INFILESIZE, (long)call->body_len);
    } else if (strcmp(method, "GET") != 0) {
        curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    }
}

void fleet_call(const struct fleet *fleet, const struct device *device, const struct call *call,
                struct answer *answer)
{
    struct source source = {call->body, call->body_len, call->send_only ? call->send_only : -1};
    struct curl_slist *headers = split_headers(call->header);
    CURL *curl = curl_easy_init();
    char url[512];

    memset(answer, 0, sizeof *answer);
    assert_non_null(curl);
    snprintf(url, sizeof url, "https://127.0.0.1:%u%s", fleet->port, call->path);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CAINFO, call->ca ? call->ca : fleet->keeper.places.ca_pem);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 30L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, keep_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, keep_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, answer);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    if (device && device->crt_path[0]) {
        curl_easy_setopt(curl, CURLOPT_SSLCERT, device->crt_path);
        curl_easy_setopt(curl, CURLOPT_SSLKEY, device->key_path);
    }
    set_method(curl, call, &source);
    answer->curl_code = (int)curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer->status);
    if (answer->status == 100)
        answer->status = 0;
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    keep_body("", 0, 0, answer);
    answer->body[answer->len] = '\0';
}

void answer_release(struct answer *answer)
{
    free(answer->body);
    memset(answer, 0, sizeof *answer);
}

void assert_refused(const struct answer *answer, long http, const char *name)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_msg msg;
    char status[32], text[512];

    if (answer->status != http)
        fail_msg("HTTP %ld (curl %d) instead of %ld: %.*s", answer->status, answer->curl_code, http,
                 (int)answer->len, answer->body ? (const char *)answer->body : "");
    assert_ok(delta_msg_parse(&msg, delta_bytes(answer->body, answer->len), &err));
    assert_ok(delta_msg_get_str(delta_msg_root(&msg), "status", status, sizeof status, &err));
    assert_ok(delta_msg_get_str(delta_msg_root(&msg), "error", text, sizeof text, &err));
    if (strcmp(status, name) != 0)
        fail_msg("status %s instead of %s: %s", status, name, text);
    assert_true(strlen(text) > 0);
    assert_null(strchr(text, '\n'));
    delta_msg_release(&msg);
}

static void enrol_body(const struct device *device, const char *token, struct delta_buf *out)
{
    struct delta_msg_out msg = {out, DELTA_OK};
    uint8_t csr[1024];
    size_t len;

    device_request(device, device->name, false, csr, sizeof csr, &len);
    delta_buf_init(out, 8192);
    delta_msg_map(&msg, 3);
    delta_msg_str(&msg, "csr");
    delta_msg_bin(&msg, csr, len);
    delta_msg_str(&msg, "device");
    delta_msg_str(&msg, device->name);
    delta_msg_str(&msg, "token");
    delta_msg_str(&msg, token);
    assert_int_equal(msg.status, DELTA_OK);
}

long fleet_enrol(struct fleet *fleet, struct device *device, const char *token,
                 struct answer *answer)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_certificate crt;
    struct delta_bytes der;
    struct delta_buf body;
    struct delta_msg msg;

    enrol_body(device, token, &body);
    const struct call call = {
        .method = "POST", .path = "/v1/enrol", .body = body.data, .body_len = body.len};
    fleet_call(fleet, device, &call, answer);
    delta_buf_release(&body);
    if (answer->status != 200)
        return answer->status;
    assert_ok(delta_msg_parse(&msg, delta_bytes(answer->body, answer->len), &err));
    assert_ok(delta_msg_get_bin(delta_msg_root(&msg), "certificate", &der, &err));
    assert_true(der.len <= sizeof crt.der);
    memcpy(crt.der, der.data, der.len);
    crt.len = der.len;
    delta_msg_release(&msg);
    snprintf(device->crt_path, sizeof device->crt_path, "%s/%s.pem", fleet->scratch.path,
             device->name);
    assert_ok(server_certificate_save(&crt, device->crt_path, &err));
    return answer->status;
}

const char *fleet_path(const char *what, const struct delta_digest *digest)
{
    static char paths[8][128];
    static unsigned next;
    char *path = paths[next++ % 8];
    char hex[DELTA_DIGEST_HEX];

    delta_digest_hex(hex, digest);
    snprintf(path, sizeof paths[0], "/v1/%s/%s", what, hex);
    return path;
}

void fleet_put(const struct fleet *fleet, const struct device *device, const struct delta_buf *file,
               struct delta_digest *digest, struct answer *answer)
{
    *digest = delta_sha256(delta_buf_bytes(file));
    const struct call call = {.method = "PUT",
                              .path = fleet_path("contribution", digest),
                              .body = file->data,
                              .body_len = file->len};
    fleet_call(fleet, device, &call, answer);
}
