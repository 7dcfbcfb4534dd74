/* What the coordinator answers. A request runs in steps, each in a worker thread and never two at
 * once: begin (who is it, may it) before the body, piece for parts of a large body, finish after
 * it. As soon as a reply has a status the exchange is decided.
 */
#ifndef SERVER_ROUTES_H
#define SERVER_ROUTES_H

#include <pthread.h>

#include "ca.h"
#include "release.h"
#include "reply.h"
#include "tls.h"

/* Shared by all exchanges; constant while the server runs but for what has a lock. */
struct server_context {
    struct server_keeper keeper;
    struct server_ca *ca;
    pthread_mutex_t ca_lock; /* signing certificates */
    uint64_t max_contribution_bytes;
    uint32_t max_pending_per_device;
};

struct server_exchange;

enum server_access { SERVER_ANYONE, SERVER_DEVICE, SERVER_DEVICE_OR_OPERATOR, SERVER_OPERATOR };

struct server_route {
    const char *name; /* for faults and logs */
    unsigned methods; /* enum server_method, or-ed */
    const char *path; /* ending in '/': the rest is the argument */
    enum server_access access;
    bool for_people; /* JSON unless MessagePack is asked for */
    size_t body_max; /* kept in memory; 0: no body, unless `piece` takes it */
    void (*begin)(struct server_exchange *); /* may be NULL */
    void (*piece)(struct server_exchange *, struct delta_bytes);
    void (*finish)(struct server_exchange *);
    void (*release)(struct server_exchange *); /* `state`; may be NULL; any thread */
};

struct server_exchange {
    struct server_context *context;
    const struct server_request *request;
    const struct server_peer *peer;
    const struct server_route *route; /* NULL: decided already */
    const char *argument;             /* rest of the path */
    struct server_device device;      /* of access DEVICE */
    bool is_operator;
    struct delta_buf body;
    struct server_reply reply;
    void *state; /* of the route */
};

/* Finds the route and prepares the reply; event loop. */
void server_exchange_init(struct server_exchange *exchange, struct server_context *context,
                          const struct server_request *request, const struct server_peer *peer);
void server_exchange_release(struct server_exchange *exchange);
/* The steps; workers. */
void server_exchange_begin(struct server_exchange *exchange);
void server_exchange_finish(struct server_exchange *exchange);

/* Uploads, in upload.c */
void server_upload_begin(struct server_exchange *exchange);
void server_upload_piece(struct server_exchange *exchange, struct delta_bytes piece);
void server_upload_finish(struct server_exchange *exchange);
void server_upload_release(struct server_exchange *exchange);

#endif
