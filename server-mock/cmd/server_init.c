/* frostline server init, token: a new coordinator, and who may join it. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "ca.h"
#include "delta/cli.h"
#include "delta/file.h"
#include "release.h"
#include "server_verbs.h"

struct init {
    struct server_places places;
    struct delta_key ca_key, server_key, release_key, operator_key;
    struct server_ca *ca;
    struct server_store *store;
    int64_t now_ms;
};

static enum delta_status make_keys(struct init *init, struct delta_error *err)
{
    const struct {
        struct delta_key *key;
        const char *path;
    } table[] = {{&init->ca_key, init->places.ca_key},
                 {&init->server_key, init->places.server_key},
                 {&init->release_key, init->places.release_key},
                 {&init->operator_key, init->places.operator_key}};
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; i < sizeof table / sizeof table[0] && !st; i++) {
        st = delta_key_generate(table[i].key, err);
        if (!st)
            st = delta_key_save(table[i].key, table[i].path, err);
    }
    return st;
}

static enum delta_status make_certificates(struct init *init, const struct delta_opt_list *names,
                                           struct delta_error *err)
{
    struct server_certificate crt;
    struct delta_public_key operator_public;
    uint8_t random[4];
    char name[40], hex[9];
    enum delta_status st = delta_random(random, sizeof random, err);

    if (st)
        return st;
    delta_hex(hex, random, sizeof random);
    snprintf(name, sizeof name, "frostline-ca-%s", hex); /* two fleets are told apart */
    st = server_ca_make(&init->ca_key, name, init->now_ms, &crt, err);
    if (!st)
        st = server_certificate_save(&crt, init->places.ca_pem, err);
    if (!st)
        st = server_ca_load(&init->ca, init->places.ca_pem, init->places.ca_key, err);
    if (!st)
        st = server_ca_issue_server(init->ca, &init->server_key, names->items, names->count,
                                    init->now_ms, &crt, err);
    if (!st)
        st = server_certificate_save(&crt, init->places.server_pem, err);
    if (!st)
        st = delta_key_public(&init->operator_key, &operator_public, err);
    if (!st)
        st = server_ca_issue_client(init->ca, &operator_public, "operator", "operator",
                                    init->now_ms, 0, &crt, err);
    if (!st)
        st = server_certificate_save(&crt, init->places.operator_pem, err);
    return st;
}

static enum delta_status make_all(struct init *init, const char *dir,
                                  const struct delta_opt_list *names, struct delta_error *err)
{
    enum delta_status st = server_places_init(&init->places, dir, err);

    if (!st && delta_file_exists(init->places.ca_key))
        st = delta_fail(err, DELTA_EXISTS,
                        "'%s' holds a coordinator already; choose another directory", dir);
    if (!st)
        st = delta_dir_make(dir, 0700, err);
    if (!st)
        st = delta_dir_make(init->places.blobs, 0755, err);
    if (!st)
        st = delta_dir_make(init->places.uploads, 0755, err);
    if (!st)
        st = make_keys(init, err);
    if (!st)
        st = make_certificates(init, names, err);
    if (!st)
        st = server_store_open(&init->store, init->places.database, true, err);
    return st;
}

int server_verb_init(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        "frostline-server",
        "init",
        "",
        "makes a coordinator's directory",
        "Makes the fleet's CA, the coordinator's certificate, the release key, an operator's "
        "certificate and the database. Devices need DIR/ca.pem to enrol.",
        0,
        0};
    const char *dir = NULL;
    struct delta_opt_list names = {.count = 0};
    struct delta_opt opts[] = {
        {.name = "dir",
         .kind = DELTA_OPT_TEXT,
         .value = &dir,
         .arg = "DIR",
         .required = true,
         .help = "directory to make",
         .env = "FROSTLINE_SERVER_DIR"},
        {.name = "name",
         .kind = DELTA_OPT_LIST,
         .value = &names,
         .arg = "HOST",
         .required = true,
         .help = "name or address that devices connect to; may be given several times"},
        {.name = NULL}};
    struct init init = {.now_ms = 0};
    struct delta_clock clock = delta_clock_system();
    struct delta_error err = DELTA_ERROR_INIT;
    enum delta_status st;
    int first;
    const int rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    init.now_ms = delta_clock_wall_ms(&clock);
    st = make_all(&init, dir, &names, &err);
    server_store_close(init.store);
    server_ca_free(init.ca);
    delta_key_release(&init.ca_key);
    delta_key_release(&init.server_key);
    delta_key_release(&init.release_key);
    delta_key_release(&init.operator_key);
    if (st)
        return delta_cli_fail(&help, &err);
    printf("coordinator made in '%s'; next: frostline server publish, token, run\n", dir);
    return 0;
}

int server_verb_token(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        "frostline-server",
        "token",
        "",
        "prints a new enrolment token",
        "Whoever has the token may enrol a device; only its digest is stored.",
        0,
        0};
    const char *dir = NULL, *channel = "main";
    int64_t uses = 1, valid_s = 86400;
    struct delta_opt opts[] = {{.name = "dir",
                                .kind = DELTA_OPT_TEXT,
                                .value = &dir,
                                .arg = "DIR",
                                .required = true,
                                .help = "the coordinator's directory",
                                .env = "FROSTLINE_SERVER_DIR"},
                               {.name = "channel",
                                .kind = DELTA_OPT_TEXT,
                                .value = &channel,
                                .arg = "NAME",
                                .help = "channel that the devices follow"},
                               {.name = "uses",
                                .kind = DELTA_OPT_INT,
                                .value = &uses,
                                .arg = "N",
                                .low = 1,
                                .high = 1e9,
                                .help = "devices that may enrol with it"},
                               {.name = "valid",
                                .kind = DELTA_OPT_INT,
                                .value = &valid_s,
                                .arg = "SECONDS",
                                .low = 1,
                                .high = 1e9,
                                .help = "how long it is valid"},
                               {.name = NULL}};
    struct server_keeper keeper;
    struct delta_error err = DELTA_ERROR_INIT;
    uint8_t random[16];
    char text[33];
    int first;
    const int rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    enum delta_status st = server_keeper_open(&keeper, dir, NULL, &err);
    if (st)
        return delta_cli_fail(&help, &err);
    st = delta_name_check("channel", channel, &err);
    if (!st)
        st = delta_random(random, sizeof random, &err);
    delta_hex(text, random, sizeof random);
    const struct delta_digest digest = delta_sha256(delta_bytes(text, strlen(text)));
    if (!st)
        st = server_store_token_add(keeper.store, &digest, channel, (uint64_t)uses,
                                    delta_clock_wall_ms(&keeper.clock) + valid_s * 1000, &err);
    server_keeper_release(&keeper);
    if (st)
        return delta_cli_fail(&help, &err);
    printf("%s\n", text);
    return 0;
}
