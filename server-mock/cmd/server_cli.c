/* frostline server run, publish, merge, revoke, remove. */
#include "server/server_cli.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/cli.h"
#include "delta/file.h"
#include "delta/log.h"
#include "release.h"
#include "server/server.h"
#include "server_verbs.h"

#define LOCK_WAIT_MS 60000 /* a merge may be under way */

#define DIR_OPTION(variable)                                                                       \
    {                                                                                              \
        .name = "dir", .kind = DELTA_OPT_TEXT, .value = &(variable), .arg = "DIR",                 \
        .required = true, .help = "the coordinator's directory", .env = "FROSTLINE_SERVER_DIR"     \
    }

int server_verb_publish(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        "frostline-server",
        "publish",
        "FILE.flm",
        "makes a model the version of a channel",
        "The first publish makes the channel. A running coordinator notices at once. Publishing "
        "a version of before makes it current again.",
        1,
        1};
    const char *dir = NULL, *channel = "main";
    int64_t poll_s = 0, permille = 0;
    struct delta_opt opts[] = {
        DIR_OPTION(dir),
        {.name = "channel",
         .kind = DELTA_OPT_TEXT,
         .value = &channel,
         .arg = "NAME",
         .help = "channel"},
        {.name = "poll",
         .kind = DELTA_OPT_INT,
         .value = &poll_s,
         .arg = "SECONDS",
         .low = 0,
         .high = 86400,
         .help = "how often devices ask; 0: as before, or 60"},
        {.name = "permille",
         .kind = DELTA_OPT_INT,
         .value = &permille,
         .arg = "N",
         .low = 0,
         .high = 1000,
         .help = "share of the devices that install it; 0: as before, or all"},
        {.name = NULL}};
    struct server_keeper keeper;
    struct server_version version;
    struct delta_error err = DELTA_ERROR_INIT;
    char hex[DELTA_DIGEST_HEX];
    int first;
    const int rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    const struct server_publish_options options = {(uint32_t)poll_s, (uint32_t)permille};
    enum delta_status st = server_keeper_open(&keeper, dir, NULL, &err);
    if (st)
        return delta_cli_fail(&help, &err);
    st = server_publish(&keeper, channel, argv[first], &options, LOCK_WAIT_MS, &version, &err);
    server_keeper_release(&keeper);
    if (st)
        return delta_cli_fail(&help, &err);
    delta_digest_hex(hex, &version.digest);
    printf("channel %s version %llu %s\n", channel, (unsigned long long)version.number, hex);
    return 0;
}

int server_verb_merge(int argc, char **argv)
{
    static const struct delta_verb_help help = {"frostline-server",
                                                "merge",
                                                "",
                                                "merges what is pending now",
                                                "Exit status 1 when there was nothing to merge.",
                                                0,
                                                0};
    const char *dir = NULL, *channel = "main";
    struct delta_opt opts[] = {DIR_OPTION(dir),
                               {.name = "channel",
                                .kind = DELTA_OPT_TEXT,
                                .value = &channel,
                                .arg = "NAME",
                                .help = "channel"},
                               {.name = NULL}};
    struct server_keeper keeper;
    struct server_merge_result result;
    struct delta_error err = DELTA_ERROR_INIT;
    int first;
    const int rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    enum delta_status st = server_keeper_open(&keeper, dir, NULL, &err);
    if (st)
        return delta_cli_fail(&help, &err);
    st = server_merge_channel(&keeper, channel, LOCK_WAIT_MS, &result, &err);
    server_keeper_release(&keeper);
    if (st)
        return delta_cli_fail(&help, &err);
    printf("channel %s merged %zu rejected %zu version %llu\n", channel, result.merged,
           result.rejected, (unsigned long long)result.version.number);
    return result.merged + result.rejected ? 0 : 1;
}

static int change_device(const struct delta_verb_help *help, bool revoke, int argc, char **argv)
{
    const char *dir = NULL;
    struct delta_opt opts[] = {DIR_OPTION(dir), {.name = NULL}};
    struct server_keeper keeper;
    struct delta_error err = DELTA_ERROR_INIT;
    int first;
    const int rc = delta_opt_parse(help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    enum delta_status st = server_keeper_open(&keeper, dir, NULL, &err);
    if (st)
        return delta_cli_fail(help, &err);
    st = revoke ? server_store_revoke(keeper.store, argv[first], delta_clock_wall_ms(&keeper.clock),
                                      &err)
                : server_store_remove(keeper.store, argv[first], &err);
    server_keeper_release(&keeper);
    if (st)
        return delta_cli_fail(help, &err);
    printf("device %s %s\n", argv[first], revoke ? "revoked" : "removed");
    return 0;
}

int server_verb_revoke(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        "frostline-server",
        "revoke",
        "DEVICE",
        "refuses a device from now on",
        "Its pending contributions are rejected at the next merge.",
        1,
        1};
    return change_device(&help, true, argc, argv);
}

int server_verb_remove(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        "frostline-server",
        "remove",
        "DEVICE",
        "forgets a device, so that its name may enrol with another key",
        NULL,
        1,
        1};
    return change_device(&help, false, argc, argv);
}

/* ---- run ---- */

struct run {
    const char *dir, *listen, *port_file, *faults;
    int64_t merge_min, merge_after_s, max_connections, max_pending, max_megabytes, idle_s, stall_s;
    bool merge_off, verbose;
};

static enum delta_status split_listen(const char *text, char *host, size_t size, uint16_t *port,
                                      struct delta_error *err)
{
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    const unsigned long number = colon ? strtoul(colon + 1, &end, 10) : 65536;
    size_t len = colon ? (size_t)(colon - text) : 0;

    if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
        text++;
        len -= 2;
    }
    if (!len || len >= size || !end || *end || end == colon + 1 || number > 65535)
        return delta_fail(err, DELTA_CONFIG,
                          "--listen '%s': not ADDRESS:PORT, e.g. 0.0.0.0:8443 or [::1]:8443", text);
    memcpy(host, text, len);
    host[len] = '\0';
    *port = (uint16_t)number;
    return DELTA_OK;
}

static enum delta_status serve(const struct run *run, struct delta_error *err)
{
    struct server_options options = {.dir = run->dir,
                                     .faults = run->faults,
                                     .handle_signals = true,
                                     .merge_min = (uint32_t)run->merge_min,
                                     .merge_after_s = (uint32_t)run->merge_after_s,
                                     .merge_off = run->merge_off,
                                     .max_connections = (uint32_t)run->max_connections,
                                     .max_contribution_bytes = (uint64_t)run->max_megabytes << 20,
                                     .max_pending_per_device = (uint32_t)run->max_pending,
                                     .idle_ms = (uint32_t)run->idle_s * 1000,
                                     .stall_ms = (uint32_t)run->stall_s * 1000};
    struct server *server = NULL;
    char host[64], text[16];
    enum delta_status st = split_listen(run->listen, host, sizeof host, &options.port, err);

    options.host = host;
    if (!st)
        st = server_new(&server, &options, err);
    if (st)
        return st;
    snprintf(text, sizeof text, "%u\n", server_port(server));
    if (run->port_file)
        st = delta_file_write(run->port_file, delta_bytes(text, strlen(text)), 0644, err);
    if (!st) {
        delta_log_info("server", "listening on %s:%u dir=%s", host, server_port(server), run->dir);
        st = server_run(server, err);
    }
    server_free(server);
    if (!st)
        delta_log_info("server", "stopped");
    return st;
}

int server_verb_run(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        "frostline-server",
        "run",
        "",
        "serves until SIGTERM or SIGINT",
        "Stopping drains: requests under way are finished. See PROTOCOL.md for what is served.\n\n"
        "--faults ROUTE:ACTION=VALUE[:times=N],... misbehaves on demand, for tests of clients: "
        "routes any enrol channel blob contribution report status; actions drop-after=BYTES "
        "delay=MS status=CODE truncate=BYTES flip=BYTE.",
        0,
        0};
    struct run run = {.listen = "127.0.0.1:8443",
                      .merge_min = 1,
                      .max_connections = 1024,
                      .max_pending = 16,
                      .max_megabytes = 256,
                      .idle_s = 60,
                      .stall_s = 30};
    struct delta_opt opts[] = {
        DIR_OPTION(run.dir),
        {.name = "listen",
         .kind = DELTA_OPT_TEXT,
         .value = &run.listen,
         .arg = "ADDRESS:PORT",
         .help = "where to listen; port 0: a free one"},
        {.name = "port-file",
         .kind = DELTA_OPT_TEXT,
         .value = &run.port_file,
         .arg = "FILE",
         .help = "write the port there when listening"},
        {.name = "merge-min",
         .kind = DELTA_OPT_INT,
         .value = &run.merge_min,
         .arg = "N",
         .low = 1,
         .high = 1e6,
         .help = "merge when so many contributions wait"},
        {.name = "merge-after",
         .kind = DELTA_OPT_INT,
         .value = &run.merge_after_s,
         .arg = "SECONDS",
         .low = 0,
         .high = 1e9,
         .help = "merge when the oldest waits so long; 0: no such limit"},
        {.name = "no-merge",
         .kind = DELTA_OPT_FLAG,
         .value = &run.merge_off,
         .help = "admit only; 'frostline server merge' merges"},
        {.name = "max-connections",
         .kind = DELTA_OPT_INT,
         .value = &run.max_connections,
         .arg = "N",
         .low = 1,
         .high = 1e6,
         .help = "more are answered 503"},
        {.name = "max-pending",
         .kind = DELTA_OPT_INT,
         .value = &run.max_pending,
         .arg = "N",
         .low = 1,
         .high = 1e6,
         .help = "contributions of one device that may wait"},
        {.name = "max-contribution",
         .kind = DELTA_OPT_INT,
         .value = &run.max_megabytes,
         .arg = "MB",
         .low = 1,
         .high = 2048,
         .help = "largest contribution"},
        {.name = "idle",
         .kind = DELTA_OPT_INT,
         .value = &run.idle_s,
         .arg = "SECONDS",
         .low = 1,
         .high = 86400,
         .help = "a connection without request ends"},
        {.name = "stall",
         .kind = DELTA_OPT_INT,
         .value = &run.stall_s,
         .arg = "SECONDS",
         .low = 1,
         .high = 86400,
         .help = "a request of which no byte moves ends"},
        {.name = "faults",
         .kind = DELTA_OPT_TEXT,
         .value = &run.faults,
         .arg = "SPEC",
         .help = "misbehave on demand"},
        {.name = "verbose", .kind = DELTA_OPT_FLAG, .value = &run.verbose, .help = "log more"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    int first;
    const int rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    if (run.verbose)
        delta_log_set(DELTA_LOG_DEBUG, NULL, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file-size limit is then an error like a full disk */
    return serve(&run, &err) ? delta_cli_fail(&help, &err) : 0;
}

int server_cli_main(int argc, char **argv)
{
    static const struct delta_verb verbs[] = {
        {"init", "makes a coordinator's directory", server_verb_init},
        {"publish", "makes a model the version of a channel", server_verb_publish},
        {"token", "prints a new enrolment token", server_verb_token},
        {"run", "serves", server_verb_run},
        {"merge", "merges what is pending now", server_verb_merge},
        {"status", "channels and counts", server_verb_status},
        {"devices", "lists enrolled devices", server_verb_devices},
        {"versions", "lists model versions", server_verb_versions},
        {"contributions", "lists contributions", server_verb_contributions},
        {"revoke", "refuses a device from now on", server_verb_revoke},
        {"remove", "forgets a device", server_verb_remove},
        {NULL, NULL, NULL}};

    return delta_cli_run("frostline-server",
                         "The coordinator: admits what devices learned, merges and serves it.",
                         verbs, argc, argv);
}
