/* push, pull: models and deltas in a directory laid out as an OCI image layout. */
#include <stdio.h>

#include "cmd.h"
#include "delta/oci.h"

int cmd_push(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "push",
        "DIR FILE",
        "Puts a model or delta into a directory laid out as an OCI image layout.",
        "Registries and their mirrors copy such a directory (skopeo copy oci:DIR:NAME,\n"
        "oras cp --from-oci-layout). The file goes in as it is, signature included, as a\n"
        "model artifact of the CNCF model-spec. The directory is made where it is absent.",
        2,
        2};
    const char *name = NULL;
    bool json = false;
    struct delta_opt opts[] = {
        {.name = "name",
         .kind = DELTA_OPT_TEXT,
         .value = &name,
         .arg = "NAME",
         .required = true,
         .help = "what to call it there, e.g. cam/v7"},
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest manifest;
    struct delta_buf file;
    char hex[DELTA_DIGEST_HEX];
    enum delta_status st;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    if (cmd_file_read(argv[first + 1], NULL, &file, &err))
        return delta_cli_fail(&help, &err);
    st = delta_oci_push(argv[first], name, delta_buf_bytes(&file), &manifest, &err);
    delta_buf_release(&file);
    if (st)
        return delta_cli_fail(&help, &err);
    delta_digest_hex(hex, &manifest);
    if (json)
        return cmd_print_json(
            json_pack("{s:s, s:o}", "name", name, "manifest", json_sprintf("sha256:%s", hex)));
    printf("sha256:%s  %s\n", hex, name);
    return cmd_finish(0);
}

static int list(const struct delta_verb_help *help, const char *dir, bool json)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_oci_list items;
    json_t *rows;

    if (delta_oci_read(&items, dir, &err))
        return delta_cli_fail(help, &err);
    rows = json_array();
    for (size_t i = 0; i < items.count; i++) {
        char hex[DELTA_DIGEST_HEX];
        delta_digest_hex(hex, &items.items[i].manifest);
        if (json)
            json_array_append_new(rows, json_pack("{s:s, s:o}", "name", items.items[i].name,
                                                  "manifest", json_sprintf("sha256:%s", hex)));
        else
            printf("sha256:%s  %s\n", hex, items.items[i].name);
    }
    delta_oci_list_release(&items);
    if (json)
        return cmd_print_json(json_pack("{s:o}", "names", rows));
    json_decref(rows);
    return cmd_finish(0);
}

/* Checks what was pulled as any file from a stranger, then writes it. */
static enum delta_status keep(struct delta_buf *bytes, const char *name, const char *out,
                              const struct delta_opt_list *keys, struct delta_error *err)
{
    struct delta_keyring ring;
    struct cmd_file file = {.path = name, .bytes = *bytes};
    enum delta_status st = cmd_keyring(&ring, keys, err);

    *bytes = (struct delta_buf){0}; /* the file's from here on */
    if (!st)
        st = cmd_file_parse_trusted(&file, &ring, err);
    if (!st)
        st = delta_file_write(out, delta_buf_bytes(&file.bytes), 0644, err);
    cmd_file_release(&file);
    return st;
}

int cmd_pull(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "pull",
        "DIR [NAME]",
        "Gets a model or delta out of an OCI image layout; without NAME lists names.",
        "Size and SHA-256 of everything on the way are checked, then the file itself:\n"
        "its structure, and with --key its signature. Nothing is written that fails.",
        1,
        2};
    struct delta_opt_list keys = {.count = 0};
    const char *out = NULL;
    bool json = false;
    struct delta_opt opts[] = {
        {.name = "out",
         .kind = DELTA_OPT_TEXT,
         .value = &out,
         .arg = "FILE",
         .help = "write the file here; required with NAME"},
        {.name = "key",
         .kind = DELTA_OPT_LIST,
         .value = &keys,
         .arg = "PEM",
         .help = "trust this key or certificate; may be repeated"},
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf bytes;
    char size[16];
    size_t len;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    if (argc - first == 1)
        return list(&help, argv[first], json);
    if (!out) {
        (void)delta_fail(&err, DELTA_USAGE, "--out is required with a name; see --help");
        return delta_cli_fail(&help, &err);
    }
    if (cmd_refuse_onto(out, NULL, &err) ||
        delta_oci_pull(argv[first], argv[first + 1], &bytes, &err))
        return delta_cli_fail(&help, &err);
    len = bytes.len;
    if (keep(&bytes, argv[first + 1], out, &keys, &err))
        return delta_cli_fail(&help, &err);
    if (json)
        return cmd_print_json(json_pack("{s:o, s:o, s:I}", "name", cmd_json_text(argv[first + 1]),
                                        "file", cmd_json_text(out), "bytes", (json_int_t)len));
    printf("%s: %s\n", out, delta_human_bytes(size, (double)len));
    return cmd_finish(0);
}
