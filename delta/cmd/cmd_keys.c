/* Verbs around signatures: keygen, sign. */
#include <limits.h>
#include <stdio.h>

#include "cmd.h"

/* ---- keygen ---- */

/* The public half goes first and comes last: a power cut never leaves halves of two keys, and the
 * private one alone serves as both. */
static enum delta_status save_pair(const struct delta_key *key,
                                   const struct delta_public_key *public_key, bool force,
                                   const char *secret, const char *open, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    if (force)
        st = delta_file_remove(open, err);
    else if (delta_file_exists(open)) /* before a private key is written */
        st = delta_fail(err, DELTA_EXISTS, "'%s' exists already", open);
    if (!st)
        st = force ? delta_key_replace(key, secret, err) : delta_key_save(key, secret, err);
    if (st)
        return st;
    st = delta_public_key_save(public_key, open, err);
    if (st && !force && delta_file_remove(secret, NULL)) /* nobody has this key yet */
        st = delta_fail_in(err, st, "'%s' was written and stays", secret);
    return st;
}

static enum delta_status make_key(const char *name, bool force, char *secret, char *open,
                                  struct delta_public_key *public_key, struct delta_error *err)
{
    struct delta_key key = {NULL};
    enum delta_status st;

    if (snprintf(secret, PATH_MAX, "%s.pem", name) >= PATH_MAX ||
        snprintf(open, PATH_MAX, "%s.pub.pem", name) >= PATH_MAX)
        return delta_fail(err, DELTA_USAGE, "name is too long");
    st = delta_key_generate(&key, err);
    if (!st)
        st = delta_key_public(&key, public_key, err);
    if (!st)
        st = save_pair(&key, public_key, force, secret, open, err);
    delta_key_release(&key);
    if (st == DELTA_EXISTS && !force) {
        const struct delta_error why = *err;
        st = delta_fail(err, st, "%s; --force replaces the key", why.text);
    }
    return st;
}

int cmd_keygen(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "keygen",
        "NAME",
        "Makes an ECDSA P-256 key: NAME.pem (private, mode 0600) and NAME.pub.pem.",
        "The public file is what --key takes. Prints the key's id. What lies there stays,\n"
        "unless --force is given.",
        1,
        1};
    bool force = false, json = false;
    struct delta_opt opts[] = {
        {.name = "force",
         .kind = DELTA_OPT_FLAG,
         .value = &force,
         .help = "replace an existing key, which is lost then"},
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_public_key key;
    char secret[PATH_MAX], open[PATH_MAX], hex[DELTA_DIGEST_HEX];
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    if (make_key(argv[first], force, secret, open, &key, &err))
        return delta_cli_fail(&help, &err);
    if (json)
        return cmd_print_json(json_pack("{s:o, s:o, s:o}", "id", cmd_json_digest(&key.id),
                                        "private", cmd_json_text(secret), "public",
                                        cmd_json_text(open)));
    delta_digest_hex(hex, &key.id);
    printf("%s  %s\n", hex, open);
    return cmd_finish(0);
}

/* ---- sign ---- */

static enum delta_status sign_file(const char *path, const char *key_path, const char *out,
                                   struct delta_public_key *public_key, struct delta_error *err)
{
    struct delta_key key = {NULL};
    struct cmd_file file;
    enum delta_status st = cmd_refuse_onto(out, key_path, err);

    if (!st) /* nobody signs a damaged file */
        st = cmd_file_open(&file, path, err);
    if (st)
        return st;
    if (cmd_is_foreign(file.kind))
        st = delta_fail(err, DELTA_FORMAT,
                        "'%s' is %s and has no place for a signature; 'import' it", path,
                        cmd_kind_name(file.kind));
    if (!st)
        st = delta_key_load(&key, key_path, err);
    if (!st)
        st = delta_key_public(&key, public_key, err);
    if (!st)
        st = delta_container_sign(&file.bytes, &key, err);
    if (!st)
        st = delta_file_write(out, delta_buf_bytes(&file.bytes), 0644, err);
    delta_key_release(&key);
    cmd_file_release(&file);
    return st;
}

int cmd_sign(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "sign",
        "FILE",
        "Adds a signature to a model (.flm) or delta (.fld), in place or into --out.",
        "A file may bear up to eight signatures; one by the same key is replaced. The\n"
        "file is replaced atomically.",
        1,
        1};
    const char *key = NULL, *out = NULL;
    bool json = false;
    struct delta_opt opts[] = {
        {.name = "key",
         .kind = DELTA_OPT_TEXT,
         .value = &key,
         .arg = "KEY",
         .required = true,
         .help = "private key (PEM)"},
        {.name = "out",
         .kind = DELTA_OPT_TEXT,
         .value = &out,
         .arg = "FILE",
         .help = "write here instead"},
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_public_key public_key;
    char hex[DELTA_DIGEST_HEX];
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    if (!out)
        out = argv[first];
    if (sign_file(argv[first], key, out, &public_key, &err))
        return delta_cli_fail(&help, &err);
    if (json)
        return cmd_print_json(json_pack("{s:o, s:o}", "key", cmd_json_digest(&public_key.id),
                                        "file", cmd_json_text(out)));
    delta_digest_hex(hex, &public_key.id);
    printf("%s: signed by key %.16s\n", out, hex);
    return cmd_finish(0);
}
