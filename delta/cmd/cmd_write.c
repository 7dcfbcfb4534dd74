/* Verbs that make files from models: diff, apply. */
#include <stdio.h>

#include "cmd.h"

static void show_progress(void *context, double done, double total)
{
    delta_progress_at(context, done, total);
}

/* ---- diff ---- */

struct diff_args {
    const char *base, *target, *out, *sign;
    int64_t level;
    bool json, quiet;
};

static int print_diff(const struct diff_args *args, const struct delta_buf *file,
                      const struct delta_reader *reader)
{
    char size[16], full[16];
    uint64_t model = 0;

    for (size_t i = 0; i < reader->entry_count; i++)
        model += reader->entries[i].bytes;
    if (args->json) {
        json_t *root = cmd_json_delta(reader);
        json_object_set_new(root, "bytes", json_integer((json_int_t)file->len));
        json_object_set_new(root, "file", args->out ? cmd_json_text(args->out) : json_null());
        return cmd_print_json(root);
    }
    cmd_print_delta(reader);
    printf("the delta has %s, of these %s payload", delta_human_bytes(size, (double)file->len),
           delta_human_bytes(full, (double)model));
    printf(args->out ? ": %s\n" : "; --out FILE writes it%s\n", args->out ? args->out : "");
    return cmd_finish(0);
}

static enum delta_status make_diff(const struct diff_args *args, struct delta_buf *out,
                                   struct delta_error *err)
{
    struct delta_progress progress;
    const struct delta_options options = {.zstd_level = (int)args->level};
    struct cmd_file base, target = {.path = NULL};
    struct delta_key key = {NULL};
    enum delta_status st = cmd_model_open(&base, args->base, err);

    *out = (struct delta_buf){0};
    if (st)
        return st;
    st = cmd_model_open(&target, args->target, err);
    delta_buf_release(&base.bytes); /* the models hold copies */
    delta_buf_release(&target.bytes);
    if (!st && args->sign)
        st = delta_key_load(&key, args->sign, err);
    delta_progress_start(&progress, "diff", args->quiet);
    if (!st)
        st = delta_diff_watched(&base.model, &target.model, &options, show_progress, &progress, out,
                                err);
    delta_progress_end(&progress);
    if (!st && args->sign)
        st = delta_container_sign(out, &key, err);
    delta_key_release(&key);
    cmd_file_release(&target);
    cmd_file_release(&base);
    return st;
}

int cmd_diff(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "diff",
        "BASE TARGET",
        "Makes the delta from BASE to TARGET; without --out shows what differs.",
        "Both are models of the same network (.flm or safetensors); TARGET may have\n"
        "more classes.",
        2,
        2};
    struct diff_args args = {.level = 0};
    struct delta_opt opts[] = {
        {.name = "out",
         .kind = DELTA_OPT_TEXT,
         .value = &args.out,
         .arg = "FILE",
         .help = "write the delta here (.fld)"},
        {.name = "sign",
         .kind = DELTA_OPT_TEXT,
         .value = &args.sign,
         .arg = "KEY",
         .help = "sign it with this private key (PEM)"},
        {.name = "level",
         .kind = DELTA_OPT_INT,
         .value = &args.level,
         .arg = "N",
         .low = 0,
         .high = 22,
         .help = "zstd level, 1 fast to 22 small; 0: 9"},
        {.name = "quiet", .kind = DELTA_OPT_FLAG, .value = &args.quiet, .help = "no progress"},
        {.name = "json",
         .kind = DELTA_OPT_FLAG,
         .value = &args.json,
         .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_reader reader = {.entry_count = 0};
    struct delta_buf file;
    enum delta_status st;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    args.base = argv[first];
    args.target = argv[first + 1];
    st = make_diff(&args, &file, &err);
    if (!st)
        st = delta_reader_init(&reader, delta_buf_bytes(&file), &err);
    if (!st && args.out)
        st = delta_file_write(args.out, delta_buf_bytes(&file), 0644, &err);
    rc = st ? delta_cli_fail(&help, &err) : print_diff(&args, &file, &reader);
    delta_reader_release(&reader);
    delta_buf_release(&file);
    return rc;
}

/* ---- apply ---- */

static enum delta_status make_target(const char *base_path, const char *delta_path,
                                     const struct delta_keyring *ring, const char *out,
                                     struct delta_digest *version, struct delta_error *err)
{
    struct delta_model target = DELTA_MODEL_INIT;
    struct cmd_signature signature;
    struct cmd_file base, file = {.path = NULL};
    enum delta_status st = cmd_model_open(&base, base_path, err);

    if (st)
        return st;
    delta_buf_release(&base.bytes); /* the model holds a copy */
    st = cmd_file_open(&file, delta_path, err);
    if (!st && file.kind != CMD_DELTA)
        st = delta_fail(err, DELTA_FORMAT, "'%s' is a %s, not a delta", delta_path,
                        cmd_kind_name(file.kind));
    if (!st)
        st = cmd_signature(&file, ring, &signature, err);
    if (!st) {
        st = delta_apply(&base.model, &file.reader, &target, err);
        if (st)
            st = delta_fail_in(err, st, "'%s'", delta_path);
    }
    if (!st) {
        *version = file.reader.target;
        st = delta_model_save(&target, out, err);
    }
    delta_model_release(&target);
    cmd_file_release(&file);
    cmd_file_release(&base);
    return st;
}

int cmd_apply(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "apply",
        "BASE DELTA",
        "Makes the target model from BASE and DELTA, bit for bit, or fails.",
        "The result is unsigned; 'sign' signs it. With --key the delta must be signed\n"
        "by one of these keys.",
        2,
        2};
    struct delta_opt_list keys = {.count = 0};
    const char *out = NULL;
    bool json = false;
    struct delta_opt opts[] = {
        {.name = "out",
         .kind = DELTA_OPT_TEXT,
         .value = &out,
         .arg = "FILE",
         .required = true,
         .help = "write the model here (.flm)"},
        {.name = "key",
         .kind = DELTA_OPT_LIST,
         .value = &keys,
         .arg = "PEM",
         .help = "trust this key or certificate; may be repeated"},
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest version;
    struct delta_keyring ring;
    char hex[DELTA_DIGEST_HEX];
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    if (cmd_keyring(&ring, &keys, &err) ||
        make_target(argv[first], argv[first + 1], &ring, out, &version, &err))
        return delta_cli_fail(&help, &err);
    if (json)
        return cmd_print_json(json_pack("{s:o, s:o}", "version", cmd_json_digest(&version), "file",
                                        cmd_json_text(out)));
    delta_digest_hex(hex, &version);
    printf("%s  %s\n", hex, out);
    return cmd_finish(0);
}
