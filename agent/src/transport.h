/* One HTTP exchange with the coordinator, as a table so that tests pass a fake one; and the real
 * one, the only user of libcurl: HTTPS only, no redirects, no proxy from the environment, the
 * coordinator checked against the fleet's CA alone, a cap on every size and a limit on every wait.
 * One handle is kept, so connections and TLS sessions resume. It does not retry and does not
 * interpret bodies. */
#ifndef AGENT_TRANSPORT_H
#define AGENT_TRANSPORT_H

#include "delta/buf.h"
#include "env.h"

/* Payload kinds: what a person asks when asking where the bytes went. */
#define AGENT_TRAFFIC_MAP(X)                                                                       \
    X(POLL, "poll")                                                                                \
    X(MODEL, "model")                                                                              \
    X(DELTA, "delta")                                                                              \
    X(CONTRIBUTION, "contribution")                                                                \
    X(REPORT, "report")                                                                            \
    X(ENROLMENT, "enrolment")

enum agent_traffic {
#define AGENT_TRAFFIC_ENUM(name, text) AGENT_TRAFFIC_##name,
    AGENT_TRAFFIC_MAP(AGENT_TRAFFIC_ENUM)
#undef AGENT_TRAFFIC_ENUM
        AGENT_TRAFFIC_COUNT
};
const char *agent_traffic_name(enum agent_traffic kind);

/* Bytes of bodies, and of bodies with request and status lines and headers ("wire"; TLS framing
 * and handshakes are not in it, libcurl does not tell them). */
struct agent_traffic_count {
    uint64_t up, down;
    uint64_t wire_up, wire_down;
    uint64_t exchanges;
};

enum agent_method { AGENT_GET, AGENT_HEAD, AGENT_POST, AGENT_PUT };

/* Takes a piece of a response body. `status` is the HTTP status, the same for every piece. */
typedef enum delta_status agent_sink(void *context, long status, struct delta_bytes piece,
                                     struct delta_error *err);

struct agent_request {
    enum agent_method method;
    enum agent_traffic kind;
    const char *path;          /* "/v1/..." */
    struct delta_bytes body;   /* POST and PUT; borrowed */
    const char *if_none_match; /* sent when not NULL */
    uint64_t range_from;       /* "Range: bytes=a-" when > 0 */
    uint64_t upload_offset;    /* PUT: "Content-Range: bytes a-b/size" when upload_size > 0 */
    uint64_t upload_size;
    size_t max_response_bytes; /* longer answers fail with LIMIT */
    agent_sink *sink;          /* gets the body of 200 and 206; NULL: it lands in the response */
    void *sink_context;
};

struct agent_response {
    long status;
    struct delta_buf body;  /* what the sink did not take */
    char etag[80];          /* as sent, quotes included; "" = none */
    int64_t retry_after_ms; /* -1 = none */
    int64_t upload_offset;  /* -1 = none */
    int64_t range_from;     /* first byte of a 206; -1 = none */
    int64_t max_age_s;      /* Cache-Control; -1 = none */
};
void agent_response_release(struct agent_response *response);

struct agent_transport {
    void *context;
    /* One request, one answer, whatever its HTTP status.
     *   response  initialised here in any case; end with agent_response_release()
     *   fails     CONNECT, TIMEOUT, UNTRUSTED (the certificate does not belong to the fleet; the
     *             text says what to do), LIMIT (answer too long), FORMAT (not HTTP), INTERRUPTED,
     *             NO_MEMORY, and what the sink fails with
     *   threads   one at a time */
    enum delta_status (*exchange)(void *context, const struct agent_request *request,
                                  struct agent_response *response, struct delta_error *err);
};

struct agent_curl_options {
    const char *url;              /* "https://host[:port]", no path */
    const char *ca_path;          /* PEM */
    const char *certificate_path; /* PEM; NULL = no client certificate (enrolment) */
    const char *key_path;
    int64_t connect_ms;                 /* 0: 10 s */
    int64_t stall_ms;                   /* nothing moved for so long: 0: 30 s */
    int64_t total_ms;                   /* 0: 15 min */
    struct agent_traffic_count *counts; /* [AGENT_TRAFFIC_COUNT], added to; borrowed */
    const struct agent_env *env;        /* to stop in the middle; borrowed */
};

struct agent_curl;
/* fails: USAGE (not https), NOT_FOUND (a file of the options), NO_MEMORY, INTERNAL */
DELTA_MUST_USE enum delta_status agent_curl_new(struct agent_curl **out,
                                                const struct agent_curl_options *options,
                                                struct delta_error *err);
void agent_curl_free(struct agent_curl *curl);
struct agent_transport agent_curl_transport(struct agent_curl *curl); /* valid until free */

/* USAGE with the remedy unless `url` is "https://host[:port]" (one '/' at the end is fine). */
DELTA_MUST_USE enum delta_status agent_url_check(const char *url, struct delta_error *err);

#endif
