#include "routes.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta/log.h"

#define SEEN_EVERY_MS 600000 /* a device's last sign of life is stored this often */

static int64_t now_ms(const struct server_exchange *x)
{
    return delta_clock_wall_ms(&x->context->keeper.clock);
}

/* ---- who may ---- */

static void deny(struct server_exchange *x, int status, enum delta_status code, const char *text)
{
    struct delta_error err;

    delta_fail(&err, code, "%s", text);
    server_reply_error(&x->reply, status, &err, -1);
}

static bool check_certificate(struct server_exchange *x)
{
    const struct server_peer *peer = x->peer;
    char text[256];

    if (!peer->shown) {
        deny(x, 401, DELTA_UNTRUSTED,
             "no client certificate; enrol this device first: frostline agent enrol");
        return false;
    }
    if (!peer->trusted) {
        snprintf(text, sizeof text,
                 "client certificate '%s' %s; enrol this device again with a token of this fleet",
                 peer->name, peer->problem);
        deny(x, 403, DELTA_UNTRUSTED, text);
        return false;
    }
    /* A resumed session or a long connection outlives the check of its handshake. */
    if (now_ms(x) >= peer->expires_ms) {
        deny(x, 403, DELTA_EXPIRED, "client certificate has expired; enrol this device again");
        return false;
    }
    return true;
}

static bool check_device(struct server_exchange *x)
{
    struct delta_error err;
    char text[256];
    enum delta_status st =
        server_store_device(x->context->keeper.store, x->peer->name, &x->device, &err);

    if (st && st != DELTA_NOT_FOUND) {
        server_reply_failure(&x->reply, &err);
        return false;
    }
    if (st || !delta_digest_equal(&x->device.key_id, &x->peer->key_id)) {
        snprintf(text, sizeof text, "device '%s' is not enrolled%s; enrol it with a token",
                 x->peer->name, st ? "" : " with this key");
        deny(x, 403, DELTA_UNTRUSTED, text);
        return false;
    }
    if (x->device.revoked_ms) {
        snprintf(text, sizeof text, "device '%s' was revoked by the operator", x->peer->name);
        deny(x, 403, DELTA_UNTRUSTED, text);
        return false;
    }
    if (now_ms(x) - x->device.seen_ms > SEEN_EVERY_MS &&
        server_store_seen(x->context->keeper.store, x->device.name, now_ms(x), &err))
        delta_log_warn("routes", "cannot note device=%s: %s", x->device.name, err.text);
    return true;
}

static bool check_access(struct server_exchange *x)
{
    if (x->route->access == SERVER_ANYONE)
        return true;
    if (!check_certificate(x))
        return false;
    x->is_operator = strcmp(x->peer->organisation, "operator") == 0;
    if (x->is_operator && x->route->access != SERVER_DEVICE)
        return true;
    if (x->route->access == SERVER_OPERATOR) {
        deny(x, 403, DELTA_UNTRUSTED,
             "this list needs the operator's certificate (operator.pem of the coordinator)");
        return false;
    }
    return check_device(x);
}

/* ---- enrolment ---- */

static enum delta_status read_enrol(struct server_exchange *x, struct server_csr *csr,
                                    struct delta_digest *token, struct delta_error *err)
{
    struct delta_msg msg;
    struct delta_msg_value root;
    struct delta_bytes der;
    char device[64], text[128];
    enum delta_status st = delta_msg_parse(&msg, delta_buf_bytes(&x->body), err);

    if (st)
        return st;
    root = delta_msg_root(&msg);
    st = delta_msg_get_str(root, "device", device, sizeof device, err);
    if (!st)
        st = delta_msg_get_str(root, "token", text, sizeof text, err);
    if (!st)
        st = delta_msg_get_bin(root, "csr", &der, err);
    if (!st)
        st = server_csr_read(csr, der, err);
    if (!st && strcmp(csr->name, device) != 0)
        st = delta_fail(err, DELTA_MISMATCH,
                        "certificate request is for '%s', the device calls itself '%.63s'",
                        csr->name, device);
    if (!st)
        *token = delta_sha256(delta_bytes(text, strlen(text)));
    delta_msg_release(&msg);
    return st;
}

static void put_enrolled(struct server_exchange *x, const struct server_device *device,
                         const struct server_certificate *crt)
{
    const struct delta_bytes ca = server_ca_certificate(x->context->ca);
    const struct delta_public_key *release = &x->context->keeper.release_public;
    struct delta_buf body;
    struct delta_msg_out msg = {&body, DELTA_OK};

    delta_buf_init(&body, 16384);
    delta_msg_map(&msg, 4);
    delta_msg_str(&msg, "ca");
    delta_msg_bin(&msg, ca.data, ca.len);
    delta_msg_str(&msg, "certificate");
    delta_msg_bin(&msg, crt->der, crt->len);
    delta_msg_str(&msg, "channel");
    delta_msg_str(&msg, device->channel);
    delta_msg_str(&msg, "release_key");
    delta_msg_bin(&msg, release->der, release->len);
    server_reply_message(&x->reply, 200, delta_buf_bytes(&body));
    delta_buf_release(&body);
}

static void enrol(struct server_exchange *x)
{
    struct server_context *context = x->context;
    struct server_csr csr;
    struct server_certificate crt;
    struct delta_digest token;
    struct delta_error err = DELTA_ERROR_INIT;
    enum delta_status st = read_enrol(x, &csr, &token, &err);

    if (st) {
        server_reply_error(&x->reply, delta_status_class(st) == DELTA_CLASS_ENV ? 503 : 400, &err,
                           -1);
        return;
    }
    struct server_device device = {.key_id = csr.key.id, .key_len = csr.key.len};
    memcpy(device.name, csr.name, sizeof device.name);
    memcpy(device.key_der, csr.key.der, sizeof device.key_der);
    const bool proven = x->peer->trusted && now_ms(x) < x->peer->expires_ms &&
                        strcmp(x->peer->name, device.name) == 0 &&
                        delta_digest_equal(&x->peer->key_id, &device.key_id);
    st = server_store_enrol(context->keeper.store, &device, &token, proven, now_ms(x), &err);
    if (!st) {
        pthread_mutex_lock(&context->ca_lock);
        st = server_ca_issue_client(context->ca, &csr.key, device.name, "device", now_ms(x), 0,
                                    &crt, &err);
        pthread_mutex_unlock(&context->ca_lock);
    }
    if (st) {
        server_reply_failure(&x->reply, &err);
        return;
    }
    delta_log_info("routes", "enrolled device=%s channel=%s", device.name, device.channel);
    put_enrolled(x, &device, &crt);
}

/* ---- channel and blobs ---- */

static void channel(struct server_exchange *x)
{
    struct delta_channel doc;
    struct delta_buf document = {0};
    struct delta_error err = DELTA_ERROR_INIT;
    char hex[DELTA_DIGEST_HEX], tag[DELTA_DIGEST_HEX + 2];

    if (delta_name_check("channel", x->argument, &err)) {
        server_reply_error(&x->reply, 400, &err, -1);
        return;
    }
    if (server_store_channel(x->context->keeper.store, x->argument, &doc, &document, &err)) {
        server_reply_failure(&x->reply, &err);
        goto done;
    }
    server_reply_message(&x->reply, 200, delta_buf_bytes(&document));
    const struct delta_digest digest = delta_sha256(delta_buf_bytes(&x->reply.body));
    delta_digest_hex(hex, &digest);
    snprintf(tag, sizeof tag, "\"%s\"", hex);
    server_reply_header(&x->reply, "ETag: %s", tag);
    server_reply_header(&x->reply, "Cache-Control: max-age=%u", doc.poll_s);
    if (server_http_tag_matches(x->request->if_none_match, tag)) {
        x->reply.status = 304;
        x->reply.type[0] = '\0';
        delta_buf_clear(&x->reply.body);
    }
done:
    delta_buf_release(&document);
}

static bool digest_argument(struct server_exchange *x, struct delta_digest *out)
{
    struct delta_error err;

    if (delta_digest_parse(out, x->argument))
        return true;
    delta_fail(&err, DELTA_FORMAT, "path must end in a SHA-256 of 64 hex digits");
    server_reply_error(&x->reply, 400, &err, -1);
    return false;
}

static void blob(struct server_exchange *x)
{
    struct delta_digest digest;
    struct delta_error err = DELTA_ERROR_INIT;
    char path[SERVER_PATH_MAX];
    uint64_t size, from = 0, to;
    int status;

    if (!digest_argument(x, &digest))
        return;
    if (server_store_blob(x->context->keeper.store, &digest, &size, &err)) {
        server_reply_failure(&x->reply, &err);
        return;
    }
    status = server_http_range(x->request->range, size, &from, &to);
    server_reply_header(&x->reply, "Accept-Ranges: bytes");
    if (status == 416) {
        delta_fail(&err, DELTA_LIMIT, "range lies outside the blob of %llu bytes",
                   (unsigned long long)size);
        server_reply_header(&x->reply, "Content-Range: bytes */%llu", (unsigned long long)size);
        server_reply_error(&x->reply, 416, &err, -1);
        return;
    }
    server_places_blob(&x->context->keeper.places, &digest, path);
    x->reply.fd = open(path, O_RDONLY | O_CLOEXEC);
    if (x->reply.fd < 0) {
        delta_fail_errno(&err, "cannot open blob '%s'", path);
        delta_log_error("routes", "%s", err.text);
        server_reply_error(&x->reply, 500, &err, -1);
        return;
    }
    x->reply.status = status == 206 ? 206 : 200;
    x->reply.file_at = status == 206 ? from : 0;
    x->reply.file_bytes = status == 206 ? to - from + 1 : size;
    snprintf(x->reply.type, sizeof x->reply.type, "application/octet-stream");
    server_reply_header(&x->reply, "Cache-Control: max-age=31536000, immutable");
    server_reply_header(&x->reply, "ETag: \"%s\"", x->argument);
    if (status == 206)
        server_reply_header(&x->reply, "Content-Range: bytes %llu-%llu/%llu",
                            (unsigned long long)from, (unsigned long long)to,
                            (unsigned long long)size);
}

/* ---- reports ---- */

static enum delta_status read_report(struct server_exchange *x, struct delta_error *err)
{
    static const char *const events[] = {"installed", "rolled-back", "rejected"};
    struct delta_msg msg;
    struct delta_digest version;
    char event[16], reason[256] = "";
    uint64_t tested = 0;
    double old = 0;
    bool known = false;
    enum delta_status st = delta_msg_parse(&msg, delta_buf_bytes(&x->body), err);

    if (st)
        return st;
    const struct delta_msg_value root = delta_msg_root(&msg);
    st = delta_msg_get_str(root, "event", event, sizeof event, err);
    if (!st)
        st = delta_msg_get_real(root, "old", &old, err);
    if (!st)
        st = delta_msg_get_str(root, "reason", reason, sizeof reason, err);
    if (!st)
        st = delta_msg_get_uint(root, "tested", UINT32_MAX, &tested, err);
    if (!st)
        st = delta_msg_get_fixed(root, "version", version.bytes, sizeof version.bytes, err);
    for (size_t i = 0; i < 3 && !st; i++)
        known |= strcmp(event, events[i]) == 0;
    if (!st && (!known || old < 0 || old > 1))
        st = delta_fail(err, DELTA_FORMAT, "'event' or 'old' is not one of the possible values");
    if (!st)
        st = server_store_report(x->context->keeper.store, x->device.name, &version, event, old,
                                 tested, reason, now_ms(x), err);
    delta_msg_release(&msg);
    return st;
}

static void report(struct server_exchange *x)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const enum delta_status st = read_report(x, &err);

    if (!st)
        x->reply.status = 204;
    else
        server_reply_failure(&x->reply, &err);
}

/* ---- for people ---- */

static void health(struct server_exchange *x)
{
    server_reply_text(&x->reply, 200, "ok\n");
}

static void put_list(struct server_exchange *x, enum delta_status st, struct delta_buf *body,
                     const struct delta_error *err)
{
    if (st)
        server_reply_failure(&x->reply, err);
    else
        server_reply_message(&x->reply, 200, delta_buf_bytes(body));
    delta_buf_release(body);
}

static void status(struct server_exchange *x)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf body;

    delta_buf_init(&body, SERVER_REPLY_MAX);
    put_list(x, server_store_summary(x->context->keeper.store, &body, &err), &body, &err);
}

static void list(struct server_exchange *x)
{
    const enum server_list which = strcmp(x->route->path, "/v1/devices") == 0 ? SERVER_LIST_DEVICES
                                   : strcmp(x->route->path, "/v1/versions") == 0
                                       ? SERVER_LIST_VERSIONS
                                       : SERVER_LIST_CONTRIBUTIONS;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf body;

    delta_buf_init(&body, SERVER_REPLY_MAX);
    put_list(x, server_store_list(x->context->keeper.store, which, &body, &err), &body, &err);
}

/* ---- the table ---- */

static const struct server_route routes[] = {
    {"health", SERVER_GET | SERVER_HEAD, "/healthz", SERVER_ANYONE, .finish = health},
    {"enrol", SERVER_POST, "/v1/enrol", SERVER_ANYONE, .body_max = 8192, .finish = enrol},
    {"channel", SERVER_GET | SERVER_HEAD, "/v1/channel/", SERVER_DEVICE_OR_OPERATOR,
     .finish = channel},
    {"blob", SERVER_GET | SERVER_HEAD, "/v1/blob/", SERVER_DEVICE_OR_OPERATOR, .finish = blob},
    {"contribution", SERVER_GET | SERVER_HEAD | SERVER_PUT, "/v1/contribution/",
     SERVER_DEVICE_OR_OPERATOR, .begin = server_upload_begin, .piece = server_upload_piece,
     .finish = server_upload_finish, .release = server_upload_release},
    {"report", SERVER_POST, "/v1/report", SERVER_DEVICE, .body_max = 4096, .finish = report},
    {"status", SERVER_GET | SERVER_HEAD, "/v1/status", SERVER_DEVICE_OR_OPERATOR,
     .for_people = true, .finish = status},
    {"versions", SERVER_GET | SERVER_HEAD, "/v1/versions", SERVER_OPERATOR, .for_people = true,
     .finish = list},
    {"devices", SERVER_GET | SERVER_HEAD, "/v1/devices", SERVER_OPERATOR, .for_people = true,
     .finish = list},
    {"contributions", SERVER_GET | SERVER_HEAD, "/v1/contributions", SERVER_OPERATOR,
     .for_people = true, .finish = list},
};

static const struct server_route *find_route(const char *path)
{
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        const size_t len = strlen(routes[i].path);
        if (routes[i].path[len - 1] == '/' ? strncmp(path, routes[i].path, len) == 0
                                           : strcmp(path, routes[i].path) == 0)
            return &routes[i];
    }
    return NULL;
}

void server_exchange_init(struct server_exchange *x, struct server_context *context,
                          const struct server_request *request, const struct server_peer *peer)
{
    const struct server_route *route = find_route(request->path);

    memset(x, 0, sizeof *x);
    x->context = context;
    x->request = request;
    x->peer = peer;
    x->route = route;
    delta_buf_init(&x->body, route ? route->body_max : 0);
    server_reply_init(&x->reply, request, route && route->for_people);
    if (!route) {
        deny(x, 404, DELTA_NOT_FOUND, "no such path; this is a frostline coordinator");
    } else if (!(route->methods & request->method)) {
        deny(x, 405, DELTA_UNSUPPORTED, "this path does not know that method");
    } else if (!route->piece && request->has_body &&
               (request->body_bytes > route->body_max || route->body_max == 0)) {
        deny(x, 413, DELTA_LIMIT, "body is larger than this path takes");
    } else {
        x->argument = request->path + strlen(route->path);
    }
}

void server_exchange_release(struct server_exchange *x)
{
    if (x->route && x->route->release)
        x->route->release(x);
    delta_buf_release(&x->body);
    server_reply_release(&x->reply);
    x->route = NULL;
}

void server_exchange_begin(struct server_exchange *x)
{
    if (x->reply.status)
        return;
    if (check_access(x) && x->route->begin)
        x->route->begin(x);
}

void server_exchange_finish(struct server_exchange *x)
{
    if (x->reply.status == 0)
        x->route->finish(x);
    if (x->request->method == SERVER_HEAD && x->reply.fd >= 0) {
        close(x->reply.fd);
        x->reply.fd = -1;
        x->reply.length = x->reply.file_bytes;
        x->reply.length_given = true;
    }
}
