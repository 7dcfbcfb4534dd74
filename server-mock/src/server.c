/* The coordinator: listener, timers, merges, start and stop. */
#include "server/server.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conn.h"
#include "delta/file.h"
#include "delta/log.h"

#define SWEEP_MS 100
#define MERGE_MS 250
#define REFRESH_MS 60000
#define BACKLOG 512

struct server {
    struct server_options options;
    struct server_context context;
    struct server_tls_config *tls;
    struct server_conns conns;
    int run_lock;
    bool keeper_open, lock_ready;
    uv_loop_t loop;
    bool loop_ready;
    uv_tcp_t listener;
    uv_async_t stop;
    uv_timer_t sweep, merge;
    uv_signal_t signals[2];
    uint16_t port;
    int64_t drain_until_ms;
    uv_work_t merge_work;
    bool merging, merge_failed;
    int64_t refreshed_ms;
};

static void fill_defaults(struct server_options *o)
{
#define DEFAULT(field, value) o->field = o->field ? o->field : (value)
    DEFAULT(host, "127.0.0.1");
    DEFAULT(merge_min, 1);
    DEFAULT(max_connections, 1024);
    DEFAULT(max_contribution_bytes, (uint64_t)256 << 20);
    DEFAULT(max_pending_per_device, 16);
    DEFAULT(handshake_ms, 10000);
    DEFAULT(idle_ms, 60000);
    DEFAULT(stall_ms, 30000);
    DEFAULT(request_ms, 600000);
    DEFAULT(drain_ms, 10000);
#undef DEFAULT
    if (!o->clock.wall_ms)
        o->clock = delta_clock_system();
}

/* ---- merges: in a worker, one at a time ---- */

static bool merge_due(const struct server_options *o, const struct server_pending *pending,
                      int64_t now)
{
    if (pending->count == 0)
        return false;
    return pending->count >= o->merge_min ||
           (o->merge_after_s && now - pending->oldest_ms >= (int64_t)o->merge_after_s * 1000);
}

static enum delta_status merge_one(struct server *server, const char *channel,
                                   struct delta_error *err)
{
    struct server_keeper *keeper = &server->context.keeper;
    struct server_merge_result result;
    struct server_pending pending;
    enum delta_status st = server_store_pending(keeper->store, channel, &pending, err);

    if (st || !merge_due(&server->options, &pending, delta_clock_wall_ms(&keeper->clock)))
        return st;
    st = server_merge_channel(keeper, channel, 0, &result, err);
    if (!st)
        delta_log_info("merge", "channel=%s merged=%zu rejected=%zu version=%llu", channel,
                       result.merged, result.rejected, (unsigned long long)result.version.number);
    return st == DELTA_BUSY ? DELTA_OK : st;
}

static void on_merge_job(uv_work_t *work)
{
    struct server *server = work->data;
    struct server_keeper *keeper = &server->context.keeper;
    const int64_t now = delta_clock_monotonic_ms(&keeper->clock);
    struct server_channel_names *names = delta_calloc(1, sizeof *names);
    struct delta_error err = DELTA_ERROR_INIT;
    enum delta_status st = DELTA_NO_MEMORY;
    const bool refresh = now - server->refreshed_ms >= REFRESH_MS || server->refreshed_ms == 0;

    if (names)
        st = server_store_channels(keeper->store, names, &err);
    for (size_t i = 0; !st && i < names->count; i++) {
        if (refresh)
            st = server_channel_refresh(keeper, names->names[i], &err);
        if (st == DELTA_BUSY)
            st = DELTA_OK;
        if (!st && !server->options.merge_off)
            st = merge_one(server, names->names[i], &err);
    }
    if (refresh)
        server->refreshed_ms = now ? now : 1;
    if (st && !server->merge_failed) /* once, not four times a second */
        delta_log_error("merge", "%s", err.text);
    server->merge_failed = st != DELTA_OK;
    free(names);
}

static void maybe_done(struct server *server);

static void on_merge_done(uv_work_t *work, int status)
{
    struct server *server = work->data;

    (void)status;
    server->merging = false;
    maybe_done(server);
}

static void on_merge_timer(uv_timer_t *timer)
{
    struct server *server = timer->data;

    if (server->merging || server->conns.draining)
        return;
    server->merge_work.data = server;
    server->merging =
        uv_queue_work(&server->loop, &server->merge_work, on_merge_job, on_merge_done) == 0;
}

/* ---- stopping ---- */

static void close_handle(uv_handle_t *handle, void *context)
{
    (void)context;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* Draining, nothing under way: let the loop run out. */
static void maybe_done(struct server *server)
{
    if (!server->conns.draining || server->conns.count || server->merging)
        return;
    uv_walk(&server->loop, close_handle, NULL);
}

static void on_emptied(struct server_conns *conns)
{
    struct server *server =
        (struct server *)(void *)((char *)conns - offsetof(struct server, conns));

    maybe_done(server);
}

static void begin_drain(struct server *server)
{
    if (server->conns.draining)
        return;
    delta_log_info("server", "draining connections=%zu", server->conns.count);
    server->conns.draining = true;
    server->drain_until_ms = (int64_t)uv_now(&server->loop) + server->options.drain_ms;
    uv_close((uv_handle_t *)&server->listener, NULL);
    server_conns_sweep(&server->conns, false);
    maybe_done(server);
}

static void on_stop(uv_async_t *async)
{
    begin_drain(async->data);
}

static void on_signal(uv_signal_t *signal, int number)
{
    (void)number;
    begin_drain(signal->data);
}

static void on_sweep(uv_timer_t *timer)
{
    struct server *server = timer->data;
    const bool late =
        server->conns.draining && (int64_t)uv_now(&server->loop) > server->drain_until_ms;

    server_conns_sweep(&server->conns, late);
}

/* ---- starting ---- */

static void on_connection(uv_stream_t *listener, int status)
{
    struct server *server = listener->data;

    if (status == 0)
        server_conn_accept(&server->conns, listener);
}

static enum delta_status uv_fail(struct delta_error *err, int code, const char *host, uint16_t port)
{
    return delta_fail(err, DELTA_IO, "cannot listen on %s:%u: %s", host, port, uv_strerror(code));
}

static enum delta_status start_listening(struct server *server, struct delta_error *err)
{
    const char *host = server->options.host;
    struct sockaddr_storage address;
    int len = sizeof address, rc;

    if (uv_ip4_addr(host, server->options.port, (struct sockaddr_in *)&address) &&
        uv_ip6_addr(host, server->options.port, (struct sockaddr_in6 *)&address))
        return delta_fail(err, DELTA_CONFIG, "'%s' is not a numeric address, e.g. 0.0.0.0", host);
    rc = uv_tcp_bind(&server->listener, (struct sockaddr *)&address, 0);
    if (!rc)
        rc = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
    if (!rc)
        rc = uv_tcp_getsockname(&server->listener, (struct sockaddr *)&address, &len);
    if (rc)
        return uv_fail(err, rc, host, server->options.port);
    server->port =
        ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                            : ((struct sockaddr_in *)&address)->sin_port);
    return DELTA_OK;
}

static enum delta_status start_loop(struct server *server, struct delta_error *err)
{
    static const int numbers[] = {SIGTERM, SIGINT};
    int rc = uv_loop_init(&server->loop);

    if (rc)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot make an event loop: %s", uv_strerror(rc));
    server->loop_ready = true;
    uv_tcp_init(&server->loop, &server->listener);
    uv_timer_init(&server->loop, &server->sweep);
    uv_timer_init(&server->loop, &server->merge);
    server->listener.data = server->stop.data = server->sweep.data = server->merge.data = server;
    rc = uv_async_init(&server->loop, &server->stop, on_stop);
    for (size_t i = 0; i < 2 && server->options.handle_signals && !rc; i++) {
        rc = uv_signal_init(&server->loop, &server->signals[i]);
        server->signals[i].data = server;
        if (!rc)
            rc = uv_signal_start(&server->signals[i], on_signal, numbers[i]);
    }
    if (!rc)
        rc = uv_timer_start(&server->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    if (!rc)
        rc = uv_timer_start(&server->merge, on_merge_timer, 0, MERGE_MS);
    if (rc)
        return delta_fail(err, DELTA_IO, "cannot start the event loop: %s", uv_strerror(rc));
    return start_listening(server, err);
}

static enum delta_status open_dir(struct server *server, struct delta_error *err)
{
    struct server_context *context = &server->context;
    const struct server_places *places = &context->keeper.places;
    enum delta_status st =
        server_keeper_open(&context->keeper, server->options.dir, &server->options.clock, err);

    if (st)
        return st;
    server->keeper_open = true;
    st = delta_file_lock(places->run_lock, &server->run_lock, err);
    if (st == DELTA_EXISTS)
        st = delta_fail(err, st, "another coordinator serves '%s'", places->dir);
    if (!st)
        st = server_ca_load(&context->ca, places->ca_pem, places->ca_key, err);
    if (!st)
        st = server_tls_config_new(&server->tls, places->server_pem, places->server_key,
                                   places->ca_pem, err);
    return st;
}

enum delta_status server_new(struct server **out, const struct server_options *options,
                             struct delta_error *err)
{
    struct server *server = delta_calloc(1, sizeof *server);
    enum delta_status st;

    if (!server)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate the coordinator");
    server->options = *options;
    fill_defaults(&server->options);
    server->run_lock = -1;
    pthread_mutex_init(&server->context.ca_lock, NULL);
    server->context.max_contribution_bytes = server->options.max_contribution_bytes;
    server->context.max_pending_per_device = server->options.max_pending_per_device;
    st = server_faults_parse(&server->conns.faults, options->faults, err);
    if (!st)
        st = open_dir(server, err);
    if (st)
        goto done;
    server->conns.loop = &server->loop;
    server->conns.tls = server->tls;
    server->conns.context = &server->context;
    server->conns.limits = server->options;
    server->conns.emptied = on_emptied;
    st = start_loop(server, err);
    server->options.dir = server->options.host = server->options.faults = NULL; /* borrowed */
    if (st)
        goto done;
    *out = server;
    server = NULL;
done:
    server_free(server);
    return st;
}

uint16_t server_port(const struct server *server)
{
    return server->port;
}

enum delta_status server_run(struct server *server, struct delta_error *err)
{
    signal(SIGPIPE, SIG_IGN); /* libuv writes without MSG_NOSIGNAL */
    const int rc = uv_run(&server->loop, UV_RUN_DEFAULT);

    return rc < 0 ? delta_fail(err, DELTA_INTERNAL, "event loop: %s", uv_strerror(rc)) : DELTA_OK;
}

void server_stop(struct server *server)
{
    uv_async_send(&server->stop);
}

void server_free(struct server *server)
{
    if (!server)
        return;
    if (server->loop_ready) {
        /* Normally everything is closed already; after a failed start it is not. */
        server->conns.draining = true;
        server_conns_sweep(&server->conns, true);
        uv_walk(&server->loop, close_handle, NULL);
        while (uv_run(&server->loop, UV_RUN_DEFAULT))
            ;
        uv_loop_close(&server->loop);
    }
    server_tls_config_free(server->tls);
    server_ca_free(server->context.ca);
    if (server->keeper_open)
        server_keeper_release(&server->context.keeper);
    if (server->run_lock >= 0)
        close(server->run_lock);
    pthread_mutex_destroy(&server->context.ca_lock);
    free(server);
}
