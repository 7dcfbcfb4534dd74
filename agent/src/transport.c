#include "transport.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <curl/curl.h>

#include "delta/file.h"

#define MAX_HEADERS 128

struct agent_curl {
    CURL *handle;
    char *url, *ca_path, *certificate_path, *key_path;
    int64_t connect_ms, stall_ms, total_ms;
    struct agent_traffic_count *counts;
    const struct agent_env *env;
};

/* One exchange in flight: what the callbacks see. */
struct flight {
    struct agent_curl *curl;
    const struct agent_request *request;
    struct agent_response *response;
    size_t sent;    /* of the request body */
    uint64_t taken; /* of the response body */
    int headers;
    enum delta_status status; /* why a callback stopped the transfer */
    struct delta_error *err;
    char text[CURL_ERROR_SIZE];
};

const char *agent_traffic_name(enum agent_traffic kind)
{
    static const char *const names[] = {
#define AGENT_TRAFFIC_TEXT(name, text) text,
        AGENT_TRAFFIC_MAP(AGENT_TRAFFIC_TEXT)
#undef AGENT_TRAFFIC_TEXT
    };

    return (unsigned)kind < AGENT_TRAFFIC_COUNT ? names[kind] : "unknown";
}

void agent_response_release(struct agent_response *response)
{
    if (response)
        delta_buf_release(&response->body);
}

enum delta_status agent_url_check(const char *url, struct delta_error *err)
{
    const size_t scheme = strlen("https://");
    const char *host = url + scheme;
    const size_t len = strlen(url);

    if (strncasecmp(url, "https://", scheme) != 0)
        return delta_fail(err, DELTA_USAGE,
                          "'%.100s' is not an https:// address; devices speak TLS only", url);
    if (len > 250)
        return delta_fail(err, DELTA_USAGE, "server address of %zu bytes is too long", len);
    for (const char *p = host; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr(".-_:[]", *p) && !(p[0] == '/' && !p[1]))
            return delta_fail(err, DELTA_USAGE,
                              "server address '%.100s' must be https://host:port and nothing else",
                              url);
    if (!*host || *host == '/')
        return delta_fail(err, DELTA_USAGE, "server address '%s' names no host", url);
    return DELTA_OK;
}

/* ---- callbacks ---- */

static size_t on_body(char *data, size_t size, size_t count, void *context)
{
    struct flight *flight = context;
    const struct agent_request *request = flight->request;
    const size_t len = size * count; /* libcurl: size is 1 */
    long status = 0;

    if (len > request->max_response_bytes - flight->taken) {
        flight->status =
            delta_fail(flight->err, DELTA_LIMIT, "answer to '%s' is longer than %zu bytes",
                       request->path, request->max_response_bytes);
        return 0;
    }
    flight->taken += len;
    curl_easy_getinfo(flight->curl->handle, CURLINFO_RESPONSE_CODE, &status);
    if (request->sink && (status == 200 || status == 206))
        flight->status =
            request->sink(request->sink_context, status, delta_bytes(data, len), flight->err);
    else
        flight->status = delta_buf_append(&flight->response->body, data, len, flight->err);
    return flight->status ? 0 : len;
}

/* "<name>:" at the front of a header line: the value without blanks, or NULL. */
static const char *header_value(char *line, const char *name)
{
    const size_t len = strlen(name);
    char *value, *end;

    if (strncasecmp(line, name, len) != 0 || line[len] != ':')
        return NULL;
    value = line + len + 1;
    while (*value == ' ' || *value == '\t')
        value++;
    end = value + strlen(value);
    while (end > value && isspace((unsigned char)end[-1]))
        *--end = '\0';
    return value;
}

/* Decimal digits only, -1 otherwise. */
static int64_t whole(const char *text, const char *stops)
{
    char *end;
    unsigned long long value;

    if (!isdigit((unsigned char)*text))
        return -1;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno || value > INT64_MAX || (*end && !strchr(stops, *end)))
        return -1;
    return (int64_t)value;
}

static void note_header(struct agent_response *response, char *line)
{
    const char *value;

    if ((value = header_value(line, "etag"))) {
        if (strlen(value) < sizeof response->etag)
            snprintf(response->etag, sizeof response->etag, "%s", value);
    } else if ((value = header_value(line, "retry-after"))) {
        const int64_t seconds = whole(value, "");
        if (seconds >= 0)
            response->retry_after_ms = seconds > 86400 ? 86400000 : seconds * 1000;
    } else if ((value = header_value(line, "upload-offset"))) {
        response->upload_offset = whole(value, "");
    } else if ((value = header_value(line, "content-range"))) {
        if (strncasecmp(value, "bytes ", 6) == 0)
            response->range_from = whole(value + 6, "-");
    } else if ((value = header_value(line, "cache-control"))) {
        const char *age = strstr(value, "max-age=");
        if (age)
            response->max_age_s = whole(age + 8, ", ");
    }
}

static size_t on_header(char *data, size_t size, size_t count, void *context)
{
    struct flight *flight = context;
    const size_t len = size * count;
    char line[512];

    if (++flight->headers > MAX_HEADERS) {
        flight->status = delta_fail(flight->err, DELTA_LIMIT, "answer to '%s' has too many headers",
                                    flight->request->path);
        return 0;
    }
    if (len < sizeof line) { /* longer ones are none of ours */
        memcpy(line, data, len);
        line[len] = '\0';
        note_header(flight->response, line);
    }
    return len;
}

static size_t on_upload(char *out, size_t size, size_t count, void *context)
{
    struct flight *flight = context;
    const struct delta_bytes body = flight->request->body;
    size_t len = body.len - flight->sent;

    if (len > size * count)
        len = size * count;
    if (len)
        memcpy(out, body.data + flight->sent, len);
    flight->sent += len;
    return len;
}

/* libcurl rewinds when a kept connection turns out to be dead. */
static int on_seek(void *context, curl_off_t offset, int origin)
{
    struct flight *flight = context;

    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > flight->request->body.len)
        return CURL_SEEKFUNC_CANTSEEK;
    flight->sent = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

static int on_progress(void *context, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
                       curl_off_t up)
{
    struct flight *flight = context;

    (void)down_total;
    (void)down;
    (void)up_total;
    (void)up;
    if (flight->curl->env && agent_env_stopped(flight->curl->env)) {
        flight->status = delta_fail(flight->err, DELTA_INTERRUPTED, "asked to stop");
        return 1;
    }
    return 0;
}

/* ---- failures ---- */

static enum delta_status untrusted(const struct flight *flight, CURLcode code)
{
    return delta_fail(
        flight->err, DELTA_UNTRUSTED,
        "the server at '%s' is not the coordinator of this fleet (%s); check the address, and that "
        "'%s' is the CA file of this coordinator (--ca at enrolment)",
        flight->curl->url, flight->text[0] ? flight->text : curl_easy_strerror(code),
        flight->curl->ca_path);
}

static enum delta_status failure(const struct flight *flight, CURLcode code)
{
    const char *url = flight->curl->url;
    const char *text = flight->text[0] ? flight->text : curl_easy_strerror(code);

    if (flight->status)
        return flight->status; /* a callback stopped it and said why */
    switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
        return untrusted(flight, code);
    case CURLE_OPERATION_TIMEDOUT:
        return delta_fail(flight->err, DELTA_TIMEOUT, "'%s' took too long: %s", url, text);
    case CURLE_SSL_CACERT_BADFILE:
        return delta_fail(flight->err, DELTA_CONFIG,
                          "cannot use the CA file '%s': %s; enrol again with a PEM file",
                          flight->curl->ca_path, text);
    case CURLE_SSL_CERTPROBLEM:
        return delta_fail(
            flight->err, DELTA_CONFIG, "cannot use this device's certificate '%s': %s; enrol again",
            flight->curl->certificate_path ? flight->curl->certificate_path : "", text);
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        if (strstr(text, "alert") && flight->curl->certificate_path)
            return delta_fail(flight->err, DELTA_UNTRUSTED,
                              "'%s' does not accept this device's certificate (%s); enrol again",
                              url, text);
        return delta_fail(flight->err, DELTA_CONNECT, "'%s' broke off: %s", url, text);
    case CURLE_OUT_OF_MEMORY:
        return delta_fail(flight->err, DELTA_NO_MEMORY, "no memory to speak to '%s'", url);
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return delta_fail(flight->err, DELTA_FORMAT, "'%s' does not speak HTTPS: %s", url, text);
    default:
        return delta_fail(flight->err, DELTA_CONNECT, "cannot reach '%s': %s", url, text);
    }
}

/* ---- one exchange ---- */

static bool set_headers(struct curl_slist **list, const struct agent_request *request)
{
    char line[160];
    struct curl_slist *more;
    const char *lines[5];
    size_t count = 0;
    char range[96], match[128];

    if (request->range_from) { /* not CURLOPT_RESUME_FROM: that refuses an honest 200 */
        snprintf(line, sizeof line, "Range: bytes=%llu-", (unsigned long long)request->range_from);
        *list = curl_slist_append(*list, line);
        if (!*list)
            return false;
    }
    lines[count++] = "Accept: application/msgpack";
    /* Without a body to hide, asking first costs a round trip and saves nothing. */
    lines[count++] = "Expect:";
    if (request->body.len)
        lines[count++] = "Content-Type: application/msgpack";
    if (request->upload_size) {
        lines[count - 1] = "Content-Type: application/octet-stream";
        snprintf(range, sizeof range, "Content-Range: bytes %llu-%llu/%llu",
                 (unsigned long long)request->upload_offset,
                 (unsigned long long)(request->upload_offset + request->body.len - 1),
                 (unsigned long long)request->upload_size);
        lines[count++] = range;
    }
    if (request->if_none_match) {
        snprintf(match, sizeof match, "If-None-Match: %.90s", request->if_none_match);
        lines[count++] = match;
    }
    for (size_t i = 0; i < count; i++) {
        snprintf(line, sizeof line, "%s", lines[i]);
        more = curl_slist_append(*list, line);
        if (!more)
            return false;
        *list = more;
    }
    return true;
}

static CURLcode set_method(CURL *h, struct flight *flight)
{
    const struct agent_request *request = flight->request;
    CURLcode code = CURLE_OK;

    switch (request->method) {
    case AGENT_GET:
        return curl_easy_setopt(h, CURLOPT_HTTPGET, 1L);
    case AGENT_HEAD:
        return curl_easy_setopt(h, CURLOPT_NOBODY, 1L);
    case AGENT_POST:
        code = curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body.len);
        if (!code)
            code = curl_easy_setopt(h, CURLOPT_POSTFIELDS,
                                    request->body.len ? (const char *)request->body.data : "");
        return code;
    case AGENT_PUT:
        curl_easy_setopt(h, CURLOPT_READFUNCTION, on_upload);
        curl_easy_setopt(h, CURLOPT_READDATA, flight);
        curl_easy_setopt(h, CURLOPT_SEEKFUNCTION, on_seek);
        curl_easy_setopt(h, CURLOPT_SEEKDATA, flight);
        curl_easy_setopt(h, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->body.len);
        return curl_easy_setopt(h, CURLOPT_UPLOAD, 1L);
    }
    return CURLE_BAD_FUNCTION_ARGUMENT;
}

static CURLcode set_tls(CURL *h, const struct agent_curl *curl)
{
    CURLcode code = curl_easy_setopt(h, CURLOPT_CAINFO, curl->ca_path);

    /* Only the fleet's CA counts, not the machine's store. */
    curl_easy_setopt(h, CURLOPT_CAPATH, NULL);
    if (!code)
        code = curl_easy_setopt(h, CURLOPT_SSL_VERIFYPEER, 1L);
    if (!code)
        code = curl_easy_setopt(h, CURLOPT_SSL_VERIFYHOST, 2L);
    if (!code)
        code = curl_easy_setopt(h, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (!code && curl->certificate_path) {
        code = curl_easy_setopt(h, CURLOPT_SSLCERT, curl->certificate_path);
        if (!code)
            code = curl_easy_setopt(h, CURLOPT_SSLKEY, curl->key_path);
    }
    return code;
}

static CURLcode set_up(CURL *h, struct flight *flight, const char *url, struct curl_slist *headers)
{
    const struct agent_curl *curl = flight->curl;
    CURLcode code;

    curl_easy_reset(h); /* keeps connections, sessions and the name cache */
    code = curl_easy_setopt(h, CURLOPT_URL, url);
    if (!code)
        code = set_tls(h, curl);
#if LIBCURL_VERSION_NUM >= 0x075500
    if (!code)
        code = curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "https");
#else
    if (!code)
        code = curl_easy_setopt(h, CURLOPT_PROTOCOLS, (long)CURLPROTO_HTTPS);
#endif
    if (code)
        return code;
    curl_easy_setopt(h, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(h, CURLOPT_PROXY, "");
    curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, flight->text);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)curl->connect_ms);
    curl_easy_setopt(h, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(h, CURLOPT_LOW_SPEED_TIME, (long)((curl->stall_ms + 999) / 1000));
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)curl->total_ms);
    curl_easy_setopt(h, CURLOPT_USERAGENT, "frostline-agent/" FROSTLINE_VERSION);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, flight);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, flight);
    curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(h, CURLOPT_XFERINFODATA, flight);
    curl_easy_setopt(h, CURLOPT_NOPROGRESS, 0L);
    return set_method(h, flight);
}

static void count_traffic(const struct flight *flight)
{
    CURL *h = flight->curl->handle;
    curl_off_t up = 0, down = 0;
    long headers_up = 0, headers_down = 0;
    struct agent_traffic_count *count;

    if (!flight->curl->counts)
        return;
    count = &flight->curl->counts[flight->request->kind];
    curl_easy_getinfo(h, CURLINFO_SIZE_UPLOAD_T, &up);
    curl_easy_getinfo(h, CURLINFO_SIZE_DOWNLOAD_T, &down);
    curl_easy_getinfo(h, CURLINFO_REQUEST_SIZE, &headers_up);
    curl_easy_getinfo(h, CURLINFO_HEADER_SIZE, &headers_down);
    /* REQUEST_SIZE holds the body of a small POST but never that of a PUT. */
    if (flight->request->method == AGENT_POST && headers_up >= up)
        headers_up -= up;
    count->up += (uint64_t)up;
    count->down += (uint64_t)down;
    count->wire_up += (uint64_t)(up + headers_up);
    count->wire_down += (uint64_t)(down + headers_down);
    count->exchanges++;
}

static enum delta_status exchange(void *context, const struct agent_request *request,
                                  struct agent_response *response, struct delta_error *err)
{
    struct agent_curl *curl = context;
    struct flight flight = {curl, request, response, 0, 0, 0, DELTA_OK, err, ""};
    struct curl_slist *headers = NULL;
    char url[1024];
    CURLcode code;

    *response = (struct agent_response){0, {0}, "", -1, -1, -1, -1};
    delta_buf_init(&response->body, request->max_response_bytes);
    const int need = snprintf(url, sizeof url, "%s%s", curl->url, request->path);
    if (need < 0 || (size_t)need >= sizeof url)
        return delta_fail(err, DELTA_LIMIT, "address '%s%s' is too long", curl->url, request->path);
    code = set_headers(&headers, request) ? set_up(curl->handle, &flight, url, headers)
                                          : CURLE_OUT_OF_MEMORY;
    if (!code) {
        code = curl_easy_perform(curl->handle);
        count_traffic(&flight);
        curl_easy_getinfo(curl->handle, CURLINFO_RESPONSE_CODE, &response->status);
    }
    /* Nothing of this call may be reachable from the kept handle. */
    curl_easy_setopt(curl->handle, CURLOPT_ERRORBUFFER, NULL);
    curl_easy_setopt(curl->handle, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    return code ? failure(&flight, code) : DELTA_OK;
}

/* ---- life ---- */

static pthread_once_t global_once = PTHREAD_ONCE_INIT;

static void global_init(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static enum delta_status check_files(const struct agent_curl_options *options,
                                     struct delta_error *err)
{
    const char *paths[] = {options->ca_path, options->certificate_path, options->key_path};

    for (size_t i = 0; i < 3; i++)
        if (paths[i] && !delta_file_exists(paths[i]))
            return delta_fail(err, DELTA_NOT_FOUND, "cannot open '%s': no such file; enrol first",
                              paths[i]);
    return DELTA_OK;
}

enum delta_status agent_curl_new(struct agent_curl **out, const struct agent_curl_options *options,
                                 struct delta_error *err)
{
    struct agent_curl *curl;
    enum delta_status st = agent_url_check(options->url, err);

    if (!st)
        st = check_files(options, err);
    if (st)
        return st;
    pthread_once(&global_once, global_init);
    curl = delta_calloc(1, sizeof *curl);
    if (!curl)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a transport");
    curl->handle = curl_easy_init();
    curl->url = strdup(options->url);
    curl->ca_path = strdup(options->ca_path);
    curl->certificate_path = options->certificate_path ? strdup(options->certificate_path) : NULL;
    curl->key_path = options->key_path ? strdup(options->key_path) : NULL;
    curl->connect_ms = options->connect_ms ? options->connect_ms : 10 * 1000;
    curl->stall_ms = options->stall_ms ? options->stall_ms : 30 * 1000;
    curl->total_ms = options->total_ms ? options->total_ms : 15 * 60 * 1000;
    curl->counts = options->counts;
    curl->env = options->env;
    if (!curl->handle || !curl->url || !curl->ca_path ||
        (options->certificate_path && !curl->certificate_path) ||
        (options->key_path && !curl->key_path)) {
        agent_curl_free(curl);
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a transport");
    }
    const size_t len = strlen(curl->url);
    if (curl->url[len - 1] == '/')
        curl->url[len - 1] = '\0';
    *out = curl;
    return DELTA_OK;
}

void agent_curl_free(struct agent_curl *curl)
{
    if (!curl)
        return;
    if (curl->handle)
        curl_easy_cleanup(curl->handle);
    free(curl->url);
    free(curl->ca_path);
    free(curl->certificate_path);
    free(curl->key_path);
    free(curl);
}

struct agent_transport agent_curl_transport(struct agent_curl *curl)
{
    return (struct agent_transport){curl, exchange};
}
