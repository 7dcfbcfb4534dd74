/* Requests to a coordinator, TLS apart. The first byte tells who asks: nobody, a device, the
 * operator, a stranger; the rest is what came over the connection. The coordinator is a real one in
 * a directory in memory: one model, one device, one token. What inputs upload stays, as it would.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ca.h"
#include "delta/log.h"
#include "fuzz.h"
#include "http1.h"
#include "release.h"
#include "routes.h"
#include "server/server_cli.h"

static struct server_context context;
static struct delta_public_key device_key;

static void discard(void *unused, enum delta_log_level level, const char *line)
{
    (void)unused;
    (void)level;
    (void)line;
}

static void must(enum delta_status st)
{
    if (!st)
        return;
    fprintf(stderr, "fuzz_routes: %s\n", delta_status_name(st));
    abort();
}

static void add_device(void)
{
    const struct delta_digest token = delta_sha256(delta_bytes("t", 1));
    const int64_t now = delta_clock_wall_ms(&context.keeper.clock);
    struct server_device row = {.name = "cam-1"};
    struct delta_key key;

    must(delta_key_generate(&key, NULL));
    must(delta_key_public(&key, &device_key, NULL));
    delta_key_release(&key);
    row.key_id = device_key.id;
    row.key_len = device_key.len;
    memcpy(row.key_der, device_key.der, device_key.len);
    must(server_store_token_add(context.keeper.store, &token, "main", INT32_MAX, now + INT32_MAX,
                                NULL));
    must(server_store_enrol(context.keeper.store, &row, &token, false, now, NULL));
}

static void publish(void)
{
    static const uint64_t weight[2] = {2, 3}, bias[1] = {2};
    struct delta_class_id id = {"a"}, other = {"b"};
    struct delta_model model = {.arch = {.name = "resnet18",
                                         .stem = "cifar",
                                         .width = 16,
                                         .channels = 3,
                                         .height = 32,
                                         .image_width = 32,
                                         .std = {1, 1, 1}}};
    struct server_version version;
    char path[200];

    snprintf(path, sizeof path, "%s/v1.flm", fuzz_dir());
    must(delta_model_add_tensor(&model, "fc.weight", 2, weight, NULL, NULL));
    must(delta_model_add_tensor(&model, "fc.bias", 1, bias, NULL, NULL));
    must(delta_model_add_class(&model, &id, NULL));
    must(delta_model_add_class(&model, &other, NULL));
    must(delta_model_save(&model, path, NULL));
    must(server_publish(&context.keeper, "main", path, NULL, 1000, &version, NULL));
    delta_model_release(&model);
}

static void begin(void)
{
    char dir[200];

    snprintf(dir, sizeof dir, "%s/coordinator", fuzz_dir());
    char *argv[] = {"frostline-server", "init", "--dir", dir, "--name", "127.0.0.1", NULL};
    if (server_cli_main(6, argv))
        abort();
    delta_log_set(DELTA_LOG_ERROR, discard, NULL);
    must(server_keeper_open(&context.keeper, dir, NULL, NULL));
    must(server_ca_load(&context.ca, context.keeper.places.ca_pem, context.keeper.places.ca_key,
                        NULL));
    pthread_mutex_init(&context.ca_lock, NULL);
    context.max_contribution_bytes = 1 << 20;
    context.max_pending_per_device = 4;
    publish();
    add_device();
}

static void make_peer(struct server_peer *peer, uint8_t who)
{
    *peer = (struct server_peer){.expires_ms = INT64_MAX};
    if (who % 4 == 0)
        return;
    peer->shown = true;
    peer->trusted = who % 4 != 3;
    snprintf(peer->name, sizeof peer->name, "%s", who % 4 == 1 ? "cam-1" : "operator");
    snprintf(peer->organisation, sizeof peer->organisation, "%s",
             who % 4 == 1 ? "device" : "operator");
    memcpy(peer->key_der, device_key.der, device_key.len);
    peer->key_len = device_key.len;
    peer->key_id = device_key.id;
}

/* As conn_steps.c does: small bodies are kept for the route, uploads are handed on. */
static enum delta_status take_body(void *exchange, struct delta_bytes piece)
{
    struct server_exchange *x = exchange;

    if (x->reply.status)
        return DELTA_OK;
    if (x->route->piece) {
        x->route->piece(x, piece);
        return DELTA_OK;
    }
    return delta_buf_append(&x->body, piece.data, piece.len, NULL);
}

static void check_reply(struct server_exchange *x)
{
    struct delta_buf head;

    if (x->reply.status < 200 || x->reply.status > 599)
        abort();
    delta_buf_init(&head, 1 << 16);
    must(server_reply_head(&x->reply, &head, NULL));
    delta_buf_release(&head);
}

/* One request; false when the connection ends with it. */
static bool one(struct delta_bytes *in, const struct server_peer *peer)
{
    struct server_exchange x = {.route = NULL};
    struct server_http http;
    bool has = false, more = false;
    size_t used;

    server_http_init(&http, take_body, &x);
    while (in->len) {
        if (server_http_feed(&http, *in, &used, NULL))
            break;
        *in = delta_bytes(in->data + used, in->len - used);
        if (http.event == SERVER_HTTP_HEAD) {
            server_exchange_init(&x, &context, &http.request, peer);
            has = true;
            server_exchange_begin(&x);
            if (x.reply.status)
                break;
        } else if (http.event == SERVER_HTTP_DONE) {
            if (has)
                server_exchange_finish(&x);
            more = http.request.keep_alive;
            break;
        }
    }
    if (has && x.reply.status)
        check_reply(&x);
    else
        more = false;
    if (has)
        server_exchange_release(&x);
    return more;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct server_peer peer;

    if (size < 2)
        return 0;
    if (!context.ca)
        begin();
    make_peer(&peer, data[0]);
    struct delta_bytes in = delta_bytes(data + 1, size - 1);
    for (int i = 0; i < 4 && one(&in, &peer); i++)
        ;
    return 0;
}
