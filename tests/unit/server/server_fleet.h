/* A throw-away fleet: a coordinator's directory, a coordinator in this process, devices that
 * enrol and speak through libcurl over real mutual TLS on 127.0.0.1. */
#ifndef SERVER_FLEET_H
#define SERVER_FLEET_H

#include "delta_fixture.h"
#include "release.h"
#include "server/server.h"

struct fleet {
    struct harness_scratch scratch;
    char dir[300];
    struct server *server;
    void *thread;
    uint16_t port;
    struct server_keeper keeper; /* a second look into the store */
    struct delta_model base;     /* version 1 of channel main, once published */
    struct delta_digest version;
};

/* init, and fixture_model() published on channel main. */
void fleet_make(struct fleet *fleet);
void fleet_remove(struct fleet *fleet);
/* options: NULL for the defaults; dir, host and port are set here. */
void fleet_start(struct fleet *fleet, const struct server_options *options);
void fleet_stop(struct fleet *fleet);
/* A token's text is its name; valid for an hour. */
void fleet_token(struct fleet *fleet, const char *token, uint64_t uses);

struct device {
    char name[64];
    struct delta_key key;
    char key_path[300];
    char crt_path[300]; /* "" until enrolled */
};
void device_make(struct device *device, const struct fleet *fleet, const char *name);
void device_release(struct device *device);
/* A certificate of the fleet's CA and a row in the store, without the network. */
void device_enrol_quietly(struct device *device, struct fleet *fleet);

/* ---- contributions ---- */

struct learned {
    const char *classes[4]; /* new ones, NULL-terminated */
    float row;              /* value of every element of the new rows */
    float slice;            /* added to every live element of layer.weight */
    uint32_t new_samples;
    const char *provenance; /* NULL: the device's name */
    bool touch_frozen;      /* moves a frozen element too */
    bool forget;            /* takes the last class away */
};
/* A signed delta from `base`; ends with delta_buf_release(). */
void device_learn(const struct device *device, const struct delta_model *base,
                  const struct learned *learned, struct delta_buf *out);

/* ---- requests ---- */

struct answer {
    long status; /* 0: no answer; curl_code says why */
    int curl_code;
    uint8_t *body;
    size_t len;
    char headers[4096];
};
struct call {
    const char *method; /* NULL: GET */
    const char *path;
    const char *header; /* one or more lines separated by '\n'; may be NULL */
    const void *body;
    size_t body_len;
    long send_only; /* send so many bytes of the body, then break off; 0: all */
    const char *ca; /* NULL: the fleet's */
};
/* device: NULL for no certificate. end: answer_release(). */
void fleet_call(const struct fleet *fleet, const struct device *device, const struct call *call,
                struct answer *answer);
void answer_release(struct answer *answer);
/* Is the answer an error with this status name? Fails the test otherwise. */
void assert_refused(const struct answer *answer, long http, const char *name);
/* POST /v1/enrol and keeping the certificate; returns the HTTP status. */
long fleet_enrol(struct fleet *fleet, struct device *device, const char *token,
                 struct answer *answer);
/* PUT of a whole contribution; *digest is its name. */
void fleet_put(const struct fleet *fleet, const struct device *device, const struct delta_buf *file,
               struct delta_digest *digest, struct answer *answer);
/* "/v1/contribution/<hex>" in a rotating static buffer. */
const char *fleet_path(const char *what, const struct delta_digest *digest);
/* Waits at most 10 s until a contribution is not pending any more. */
void fleet_await(struct fleet *fleet, const struct delta_digest *digest,
                 struct server_contribution *out);
/* A certificate request in DER; spoiled: its signature is wrong. */
void device_request(const struct device *device, const char *name, bool spoiled, uint8_t *out,
                    size_t room, size_t *len);

#endif
