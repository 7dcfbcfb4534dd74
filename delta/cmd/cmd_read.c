/* Verbs that only look: inspect, verify, digest. */
#include <stdio.h>
#include <string.h>

#include "cmd.h"

/* ---- inspect ---- */

static void print_signature(const struct cmd_signature *signature, enum cmd_kind kind)
{
    static const char *const words[] = {
        "unsigned", "signed, not checked (give --key):", "trusted, signed by key"};
    char hex[DELTA_DIGEST_HEX];

    if (kind == CMD_SAFETENSORS)
        return;
    printf("%-11s%s", "signature", words[signature->trust]);
    if (signature->trust == CMD_TRUSTED) {
        delta_digest_hex(hex, &signature->trusted_by);
        printf(" %.16s", hex);
    }
    printf("\n");
    for (size_t i = 0; i < signature->count && signature->trust == CMD_SIGNED; i++) {
        delta_digest_hex(hex, &signature->signers[i]);
        printf("%-11s%s\n", "", hex);
    }
}

static json_t *json_signature(const struct cmd_signature *signature)
{
    static const char *const words[] = {"unsigned", "signed", "trusted"};
    json_t *keys = json_array();

    for (size_t i = 0; i < signature->count; i++)
        json_array_append_new(keys, cmd_json_digest(&signature->signers[i]));
    return json_pack("{s:s, s:o, s:o}", "state", words[signature->trust], "keys", keys,
                     "trusted_by", cmd_json_digest(&signature->trusted_by));
}

static int show(const struct cmd_file *file, const struct cmd_signature *signature, bool json)
{
    char size[16];

    if (json) {
        json_t *root =
            file->kind == CMD_DELTA ? cmd_json_delta(&file->reader) : cmd_json_model(&file->model);
        json_object_set_new(root, "kind", json_string(cmd_kind_name(file->kind)));
        json_object_set_new(root, "file", cmd_json_text(file->path));
        json_object_set_new(root, "bytes", json_integer((json_int_t)file->bytes.len));
        json_object_set_new(root, "signature", json_signature(signature));
        if (file->kind != CMD_DELTA)
            json_object_set_new(root, "version", cmd_json_digest(&file->version));
        return cmd_print_json(root);
    }
    printf("%-11s%s\n", cmd_kind_name(file->kind), file->path);
    printf("%-11s%s\n", "size", delta_human_bytes(size, (double)file->bytes.len));
    print_signature(signature, file->kind);
    if (file->kind == CMD_DELTA) {
        cmd_print_digest("id", &file->reader.id);
        cmd_print_delta(&file->reader);
    } else {
        cmd_print_digest("version", &file->version);
        cmd_print_model(&file->model);
    }
    return cmd_finish(0);
}

int cmd_inspect(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "inspect",
        "FILE",
        "Shows what a model (.flm), a delta (.fld) or a safetensors file holds.",
        "Digests, network, classes, every tensor with encoding, bytes and live share,\n"
        "who made a delta, and who signed. With --key the signature must be by one of\n"
        "these keys.",
        1,
        1};
    struct delta_opt_list keys = {.count = 0};
    bool json = false;
    struct delta_opt opts[] = {
        {.name = "key",
         .kind = DELTA_OPT_LIST,
         .value = &keys,
         .arg = "PEM",
         .help = "trust this key or certificate; may be repeated"},
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct cmd_signature signature;
    struct delta_keyring ring;
    struct cmd_file file;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    if (cmd_keyring(&ring, &keys, &err) || cmd_file_open(&file, argv[first], &err))
        return delta_cli_fail(&help, &err);
    rc = cmd_signature(&file, &ring, &signature, &err) ? delta_cli_fail(&help, &err)
                                                       : show(&file, &signature, json);
    cmd_file_release(&file);
    return rc;
}

/* ---- verify ---- */

struct verdict {
    struct cmd_signature signature;
    bool opened, applied;
    enum cmd_kind kind;
    struct delta_digest name; /* version or target */
};

static enum delta_status judge(const char *path, const char *base_path,
                               const struct delta_keyring *ring, struct verdict *verdict,
                               struct delta_error *err)
{
    struct delta_model target = DELTA_MODEL_INIT;
    struct cmd_file base = {.path = base_path};
    struct cmd_file file;
    enum delta_status st = cmd_file_open(&file, path, err);

    if (st)
        return st;
    verdict->opened = true;
    verdict->kind = file.kind;
    verdict->name = file.kind == CMD_DELTA ? file.reader.target : file.version;
    st = cmd_signature(&file, ring, &verdict->signature, err);
    if (!st && file.kind != CMD_DELTA) {
        st = delta_model_check_finite(&file.model, err);
        if (st)
            st = delta_fail_in(err, st, "'%s'", path);
    }
    if (!st && base_path && file.kind != CMD_DELTA)
        st = delta_fail(err, DELTA_USAGE, "--base: '%s' is not a delta", path);
    if (!st && base_path)
        st = cmd_model_open(&base, base_path, err);
    if (!st && base_path) {
        st = delta_apply(&base.model, &file.reader, &target, err);
        verdict->applied = !st;
        if (st)
            st = delta_fail_in(err, st, "'%s'", path);
    }
    delta_model_release(&target);
    cmd_file_release(&base);
    cmd_file_release(&file);
    return st;
}

static int print_verdict(const char *path, enum delta_status st, const struct verdict *verdict,
                         const struct delta_error *err, bool json)
{
    static const char *const trust[] = {"unsigned", "signed", "trusted"};
    char hex[DELTA_DIGEST_HEX];

    if (json) {
        json_t *root =
            json_pack("{s:b, s:o, s:s, s:b, s:o}", "ok", st == DELTA_OK, "file",
                      cmd_json_text(path), "status", delta_status_name(st), "applied",
                      verdict->applied, "signer", cmd_json_digest(&verdict->signature.trusted_by));
        if (st)
            json_object_set_new(root, "error", cmd_json_text(err->text));
        if (verdict->opened) {
            json_object_set_new(root, "kind", json_string(cmd_kind_name(verdict->kind)));
            json_object_set_new(root, "signature", json_string(trust[verdict->signature.trust]));
            json_object_set_new(root, verdict->kind == CMD_DELTA ? "target" : "version",
                                cmd_json_digest(&verdict->name));
        }
        return cmd_print_json(root);
    }
    if (st)
        return 0;
    printf("%s: structure and digests hold; ", path);
    if (verdict->signature.trust == CMD_TRUSTED) {
        delta_digest_hex(hex, &verdict->signature.trusted_by);
        printf("signed by trusted key %.16s", hex);
    } else {
        printf("%s%s", trust[verdict->signature.trust],
               verdict->signature.trust == CMD_SIGNED ? ", by whom was not checked (give --key)"
                                                      : "");
    }
    printf("%s\n", verdict->applied ? "; base and delta give the target" : "");
    return cmd_finish(0);
}

int cmd_verify(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "verify",
        "FILE",
        "Checks structure, digests and signature of a file, and a delta against its base.",
        "Without --key nobody is trusted and a signature is only reported. With --key\n"
        "the file must be signed by one of these keys. With --base the delta is\n"
        "applied in memory and must give the target it names, bit for bit.",
        1,
        1};
    struct delta_opt_list keys = {.count = 0};
    const char *base = NULL;
    bool json = false;
    struct delta_opt opts[] = {
        {.name = "key",
         .kind = DELTA_OPT_LIST,
         .value = &keys,
         .arg = "PEM",
         .help = "trust this key or certificate; may be repeated"},
        {.name = "base",
         .kind = DELTA_OPT_TEXT,
         .value = &base,
         .arg = "FILE",
         .help = "the delta's base model"},
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct verdict verdict = {.opened = false};
    struct delta_keyring ring;
    enum delta_status st;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    if (cmd_keyring(&ring, &keys, &err))
        return delta_cli_fail(&help, &err);
    st = judge(argv[first], base, &ring, &verdict, &err);
    rc = print_verdict(argv[first], st, &verdict, &err, json);
    return st ? delta_cli_fail(&help, &err) : rc;
}

/* ---- digest ---- */

int cmd_digest(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "digest",
        "FILE...",
        "Prints the name of a model version, or of the version a delta leads to.",
        "One line per file: digest, two blanks, file name.",
        1,
        -1};
    bool json = false;
    struct delta_opt opts[] = {
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    json_t *list;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    list = json_array();
    for (int i = first; i < argc; i++) {
        struct cmd_file file;
        char hex[DELTA_DIGEST_HEX];
        if (cmd_file_open(&file, argv[i], &err)) {
            json_decref(list);
            return delta_cli_fail(&help, &err);
        }
        delta_digest_hex(hex, file.kind == CMD_DELTA ? &file.reader.target : &file.version);
        if (json)
            json_array_append_new(list, json_pack("{s:o, s:s, s:s}", "file", cmd_json_text(argv[i]),
                                                  "kind", cmd_kind_name(file.kind), "digest", hex));
        else
            printf("%s  %s\n", hex, argv[i]);
        cmd_file_release(&file);
    }
    if (json)
        return cmd_print_json(json_pack("{s:o}", "digests", list));
    json_decref(list);
    return cmd_finish(0);
}
