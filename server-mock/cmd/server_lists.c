/* frostline server status, devices, versions, contributions: what the coordinator knows. */
#include <stdio.h>
#include <string.h>

#include "delta/cli.h"
#include "delta/msg.h"
#include "release.h"
#include "reply.h"
#include "server_verbs.h"

/* One value as a person reads it. */
static void print_value(struct delta_msg_value value)
{
    struct delta_bytes bytes;
    char text[512], hex[17];
    uint64_t whole;

    if (!delta_msg_to_uint(value, "", UINT64_MAX, &whole, NULL)) {
        printf("%llu", (unsigned long long)whole);
    } else if (!delta_msg_to_str(value, "", text, sizeof text, NULL)) {
        printf("%s", text[0] ? text : "-");
    } else if (!delta_msg_to_bin(value, "", &bytes, NULL) && bytes.len >= 8) {
        delta_hex(hex, bytes.data, 8); /* enough to tell versions apart */
        printf("%s", hex);
    } else {
        printf("-");
    }
}

static void print_table(struct delta_msg_value rows)
{
    for (size_t r = 0; r < delta_msg_count(rows); r++) {
        const struct delta_msg_value row = delta_msg_at(rows, r);
        for (size_t i = 0; r == 0 && i < delta_msg_count(row); i++) {
            struct delta_bytes key;
            (void)delta_msg_pair(row, i, &key);
            printf("%s%.*s", i ? "\t" : "", (int)key.len, (const char *)key.data);
        }
        printf("%s", r == 0 ? "\n" : "");
        for (size_t i = 0; i < delta_msg_count(row); i++) {
            struct delta_bytes key;
            printf("%s", i ? "\t" : "");
            print_value(delta_msg_pair(row, i, &key));
        }
        printf("\n");
    }
}

static void print_status(struct delta_msg_value root)
{
    const struct delta_msg_value counts = delta_msg_find(root, "counts");

    print_table(delta_msg_find(root, "channels"));
    for (size_t i = 0; i < delta_msg_count(counts); i++) {
        struct delta_bytes key;
        const struct delta_msg_value value = delta_msg_pair(counts, i, &key);
        printf("%.*s\t", (int)key.len, (const char *)key.data);
        print_value(value);
        printf("\n");
    }
}

/* {"<name>": list, "schema": 1}: every name of ours sorts before "schema". */
static enum delta_status wrap(const char *name, struct delta_buf *list, struct delta_buf *out,
                              struct delta_error *err)
{
    struct delta_msg_out msg = {out, DELTA_OK};
    const bool after = strcmp(name, "schema") > 0;

    delta_msg_map(&msg, 2);
    for (int turn = 0; turn < 2; turn++) {
        if ((turn == 0) == after) {
            delta_msg_str(&msg, "schema");
            delta_msg_uint(&msg, 1);
        } else {
            delta_msg_str(&msg, name);
            delta_msg_raw(&msg, delta_buf_bytes(list));
        }
    }
    return msg.status ? delta_fail(err, msg.status, "list does not fit") : DELTA_OK;
}

static enum delta_status show(struct delta_buf *encoded, bool json, bool is_status,
                              struct delta_error *err)
{
    struct delta_buf text;
    struct delta_msg msg;
    enum delta_status st;

    if (json) {
        delta_buf_init(&text, SERVER_REPLY_MAX);
        st = server_json(delta_buf_bytes(encoded), true, &text, err);
        if (!st)
            fwrite(text.data, 1, text.len, stdout);
        delta_buf_release(&text);
        return st;
    }
    st = delta_msg_parse(&msg, delta_buf_bytes(encoded), err);
    if (st)
        return st;
    if (is_status)
        print_status(delta_msg_root(&msg));
    else
        print_table(delta_msg_root(&msg));
    delta_msg_release(&msg);
    return DELTA_OK;
}

/* list: -1 for the summary */
static int run_list(const struct delta_verb_help *help, int list, int argc, char **argv)
{
    const char *dir = NULL;
    bool json = false;
    struct delta_opt opts[] = {
        {.name = "dir",
         .kind = DELTA_OPT_TEXT,
         .value = &dir,
         .arg = "DIR",
         .required = true,
         .help = "the coordinator's directory",
         .env = "FROSTLINE_SERVER_DIR"},
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct server_keeper keeper;
    struct delta_buf rows, wrapped;
    struct delta_error err = DELTA_ERROR_INIT;
    int first;
    const int rc = delta_opt_parse(help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    enum delta_status st = server_keeper_open(&keeper, dir, NULL, &err);
    if (st)
        return delta_cli_fail(help, &err);
    delta_buf_init(&rows, SERVER_REPLY_MAX);
    delta_buf_init(&wrapped, SERVER_REPLY_MAX);
    st = list < 0 ? server_store_summary(keeper.store, &rows, &err)
                  : server_store_list(keeper.store, (enum server_list)list, &rows, &err);
    if (!st && list >= 0 && json)
        st = wrap(help->verb, &rows, &wrapped, &err);
    if (!st)
        st = show(wrapped.len ? &wrapped : &rows, json, list < 0, &err);
    delta_buf_release(&rows);
    delta_buf_release(&wrapped);
    server_keeper_release(&keeper);
    return st ? delta_cli_fail(help, &err) : 0;
}

int server_verb_status(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        "frostline-server",
        "status",
        "",
        "channels and counts of a coordinator",
        "Reads the directory; the coordinator may run or not.",
        0,
        0};
    return run_list(&help, -1, argc, argv);
}

int server_verb_devices(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        "frostline-server", "devices", "", "lists enrolled devices", NULL, 0, 0};
    return run_list(&help, SERVER_LIST_DEVICES, argc, argv);
}

int server_verb_versions(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        "frostline-server", "versions", "", "lists model versions, newest first", NULL, 0, 0};
    return run_list(&help, SERVER_LIST_VERSIONS, argc, argv);
}

int server_verb_contributions(int argc, char **argv)
{
    static const struct delta_verb_help help = {"frostline-server",
                                                "contributions",
                                                "",
                                                "lists contributions and what became of them",
                                                NULL,
                                                0,
                                                0};
    return run_list(&help, SERVER_LIST_CONTRIBUTIONS, argc, argv);
}
