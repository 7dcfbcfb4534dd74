/* log: the chain of versions in a directory. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "delta/history.h"

static void show_progress(void *context, double done, double total)
{
    delta_progress_at(context, done, total);
}

/* Names come from a directory: what could move a terminal's cursor is shown as '?'. */
static const char *safe_name(char out[DELTA_HISTORY_NAME_MAX + 1], const char *name)
{
    size_t i = 0;

    for (; name[i] && i < DELTA_HISTORY_NAME_MAX; i++)
        out[i] = (unsigned char)name[i] < 0x20 || name[i] == 0x7f ? '?' : name[i];
    out[i] = '\0';
    return out;
}

static const char *state_word(const struct delta_history_item *item)
{
    return item->status ? "FAULT" : !item->reached ? "GAP" : item->verified ? "verified" : "";
}

static void print_item(const struct delta_history_item *item)
{
    char name[DELTA_HISTORY_NAME_MAX + 1], from[DELTA_DIGEST_HEX], to[DELTA_DIGEST_HEX], size[16];
    const bool delta = item->kind == DELTA_CONTAINER_DELTA;

    safe_name(name, item->name);
    if (item->status) {
        printf("%-6s %.72s\n       %s: %.58s\n", "?", name, state_word(item), item->problem);
        return;
    }
    delta_digest_hex(from, &item->from);
    delta_digest_hex(to, &item->version);
    printf("%-6s %.12s%s%.12s %9s %s%zu %s%s%s %s\n", delta ? "delta" : "model", delta ? from : to,
           delta ? " -> " : "    ", delta ? to : "            ",
           delta_human_bytes(size, (double)item->bytes), delta ? "+" : "", item->classes,
           item->classes == 1 ? "class" : "classes", item->signatures ? ", signed" : "",
           *state_word(item) ? "," : "", state_word(item));
    printf("       %.72s\n", name);
    if (item->has_provenance && (item->provenance.device[0] || item->provenance.method[0]))
        printf("       by %.40s, method %.20s\n",
               item->provenance.device[0] ? item->provenance.device : "?",
               item->provenance.method[0] ? item->provenance.method : "?");
}

static json_t *json_item(const struct delta_history_item *item)
{
    const bool delta = item->kind == DELTA_CONTAINER_DELTA;
    json_t *row = json_pack("{s:o, s:s, s:I, s:b}", "file", cmd_json_text(item->name), "status",
                            delta_status_name(item->status), "bytes", (json_int_t)item->bytes,
                            "reached", item->reached);

    if (item->status) {
        json_object_set_new(row, "error", cmd_json_text(item->problem));
        return row;
    }
    json_object_set_new(row, "kind", json_string(delta ? "delta" : "model"));
    json_object_set_new(row, delta ? "base" : "parent", cmd_json_digest(&item->from));
    json_object_set_new(row, "version", cmd_json_digest(&item->version));
    json_object_set_new(row, delta ? "classes_added" : "classes",
                        json_integer((json_int_t)item->classes));
    json_object_set_new(row, "signatures", json_integer((json_int_t)item->signatures));
    json_object_set_new(row, "verified", json_boolean(item->verified));
    if (item->has_provenance) {
        json_object_set_new(row, "device", cmd_json_text(item->provenance.device));
        json_object_set_new(row, "method", cmd_json_text(item->provenance.method));
        json_object_set_new(row, "created_ms",
                            json_integer((json_int_t)item->provenance.created_ms));
    }
    return row;
}

static int show(const struct delta_history *h, bool json)
{
    if (json) {
        json_t *items = json_array();
        for (size_t i = 0; i < h->count; i++)
            json_array_append_new(items, json_item(&h->items[i]));
        return cmd_print_json(json_pack("{s:o, s:b, s:I, s:I, s:I, s:I}", "items", items,
                                        "continuous", h->gaps == 0 && h->faults == 0, "gaps",
                                        (json_int_t)h->gaps, "faults", (json_int_t)h->faults,
                                        "heads", (json_int_t)h->heads, "ignored",
                                        (json_int_t)h->ignored));
    }
    for (size_t i = 0; i < h->count; i++)
        print_item(&h->items[i]);
    printf("%zu files, %zu %s, %zu gaps, %zu faults; %zu other files left out\n", h->count,
           h->heads, h->heads == 1 ? "head" : "heads", h->gaps, h->faults, h->ignored);
    return cmd_finish(0);
}

int cmd_log(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "log",
        "DIR",
        "Shows the chain of versions that the models and deltas of a directory form.",
        "What a file builds on stands before it. GAP: no model here leads to a delta's\n"
        "base. FAULT: a file is damaged. With --verify every delta is applied and must\n"
        "give the version that it names. Exit status 1 where anything is missing.",
        1,
        1};
    bool json = false, verify = false, quiet = false;
    struct delta_opt opts[] = {
        {.name = "verify",
         .kind = DELTA_OPT_FLAG,
         .value = &verify,
         .help = "apply every delta and compare digests"},
        {.name = "quiet", .kind = DELTA_OPT_FLAG, .value = &quiet, .help = "no progress"},
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_history history = {.count = 0};
    struct delta_progress progress;
    enum delta_status st;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    st = delta_history_read(&history, argv[first], &err);
    delta_progress_start(&progress, "log", quiet);
    if (!st && verify)
        st = delta_history_verify(&history, argv[first], show_progress, &progress, &err);
    delta_progress_end(&progress);
    if (st)
        rc = delta_cli_fail(&help, &err);
    else
        rc = show(&history, json);
    if (rc == 0 && history.gaps + history.faults)
        rc = 1;
    delta_history_release(&history);
    return rc;
}
