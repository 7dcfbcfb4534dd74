/* Verbs that judge: inspect shows what a file holds, verify answers whether to trust it. */
#include <stdio.h>
#include <string.h>

#include "cmd.h"

static void print_signature(const struct cmd_signature *signature)
{
    char hex[DELTA_DIGEST_HEX];

    printf("%-11s", "trust");
    if (signature->trust == CMD_TRUST_HELD) {
        delta_digest_hex(hex, &signature->trusted_by);
        printf("TRUSTED: signed by key %.16s\n", hex);
        return;
    }
    if (signature->trust == CMD_TRUST_REFUSED)
        printf("NOT TRUSTED: %s\n", signature->why.text);
    else
        printf("NOT CHECKED: %s\n",
               signature->is_signed ? "signed, but no --key says whom to trust" : "unsigned");
    for (size_t i = 0; i < signature->count; i++) {
        delta_digest_hex(hex, &signature->signers[i]);
        printf("%-11s%s\n", i ? "" : "claims", hex);
    }
}

/* ---- inspect ---- */

/* A file, and for a delta with its base at hand what the change amounts to. */
struct subject {
    struct cmd_file file, base;
    struct delta_model target;
    struct delta_comparison comparison;
    struct cmd_signature signature;
    struct cmd_view view;
};

static void subject_release(struct subject *s)
{
    delta_comparison_release(&s->comparison);
    delta_model_release(&s->target);
    cmd_file_release(&s->base);
    cmd_file_release(&s->file);
}

static enum delta_status subject_open(struct subject *s, const char *path, const char *base_path,
                                      const struct delta_keyring *ring, struct delta_error *err)
{
    enum delta_status st = cmd_file_open(&s->file, path, err);

    if (st)
        return st;
    cmd_signature(&s->file, ring, &s->signature);
    s->view.reader = &s->file.reader;
    if (!base_path)
        return DELTA_OK;
    if (s->file.kind != CMD_DELTA)
        st = delta_fail(err, DELTA_USAGE, "--base: '%s' is not a delta; 'diff' compares models",
                        path);
    if (!st)
        st = cmd_model_open(&s->base, base_path, err);
    if (!st) {
        st = delta_apply(&s->base.model, &s->file.reader, &s->target, err);
        if (st)
            st = delta_fail_in(err, st, "'%s'", path);
    }
    if (!st)
        st = delta_compare(&s->base.model, &s->target, &s->comparison, err);
    if (!st) {
        s->view.comparison = &s->comparison;
        s->view.base = &s->base.model;
    }
    return st;
}

static int show_json(const struct subject *s)
{
    const struct cmd_file *file = &s->file;
    json_t *root =
        file->kind == CMD_DELTA ? cmd_json_delta(&s->view) : cmd_json_model(&file->model);

    json_object_set_new(root, "kind", json_string(cmd_kind_name(file->kind)));
    json_object_set_new(root, "file", cmd_json_text(file->path));
    json_object_set_new(root, "bytes", json_integer((json_int_t)file->bytes.len));
    json_object_set_new(root, "structure", json_string("sound"));
    json_object_set_new(root, "signature", cmd_json_signature(&s->signature));
    if (file->kind != CMD_DELTA)
        json_object_set_new(root, "version", cmd_json_digest(&file->version));
    return cmd_print_json(root);
}

static int show_text(const struct subject *s)
{
    const struct cmd_file *file = &s->file;
    char size[16];

    printf("%-11s%s\n", cmd_kind_name(file->kind), file->path);
    printf("%-11s%s\n", "size", delta_human_bytes(size, (double)file->bytes.len));
    printf("%-11ssound: every length and digest holds%s\n", "structure",
           s->view.comparison ? ", base and delta give the target" : "");
    print_signature(&s->signature);
    if (file->kind == CMD_DELTA) {
        cmd_print_digest("id", &file->reader.id);
        cmd_print_delta(&file->reader);
        cmd_print_classes_changed(&s->view);
        cmd_print_changes(&s->view);
    } else {
        cmd_print_digest("version", &file->version);
        cmd_print_model(&file->model);
    }
    return cmd_finish(0);
}

/* ---- inspect --header ---- */

/* Looks at a delta without reading a byte of its payload. */
static enum delta_status header_open(struct delta_front *front, struct delta_reader *reader,
                                     const char *path, const struct delta_keyring *ring,
                                     struct cmd_signature *signature, struct delta_error *err)
{
    enum delta_container_kind kind;
    enum delta_status st = delta_front_read(front, path, err);

    if (!st)
        st = delta_container_kind(delta_buf_bytes(&front->bytes), &kind, err);
    if (!st && kind != DELTA_CONTAINER_DELTA)
        st = delta_fail(err, DELTA_USAGE, "--header looks at deltas, '%s' is a model", path);
    if (!st)
        st = delta_reader_init_front(reader, front, err);
    if (st)
        return strstr(err->text, path) ? st : delta_fail_in(err, st, "'%s'", path);
    *signature = (struct cmd_signature){.trust = CMD_TRUST_NOT_CHECKED};
    signature->is_signed = reader->signatures.len > 0;
    if (ring->count == 0)
        return DELTA_OK;
    signature->status = delta_front_verify(front, ring, &signature->trusted_by, &signature->why);
    signature->trust = signature->status ? CMD_TRUST_REFUSED : CMD_TRUST_HELD;
    if (signature->status)
        (void)delta_fail_in(&signature->why, signature->status, "'%s'", path);
    return DELTA_OK;
}

static int header_show(const char *path, const struct delta_front *front,
                       const struct delta_reader *reader, const struct cmd_signature *signature,
                       bool json)
{
    const struct cmd_view view = {reader, NULL, NULL};
    char size[16];

    if (json) {
        json_t *root = cmd_json_delta(&view);
        json_object_set_new(root, "file", cmd_json_text(path));
        json_object_set_new(root, "bytes", json_integer((json_int_t)front->file_len));
        json_object_set_new(root, "structure", json_string("header sound, payload not read"));
        json_object_set_new(root, "signature", cmd_json_signature(signature));
        return cmd_print_json(root);
    }
    printf("%-11s%s\n", "delta", path);
    printf("%-11s%s\n", "size", delta_human_bytes(size, (double)front->file_len));
    printf("%-11sheader sound; payload NOT READ, its digests are unchecked\n", "structure");
    print_signature(signature);
    cmd_print_digest("id", &reader->id);
    cmd_print_delta(reader);
    cmd_print_classes_changed(&view);
    cmd_print_changes(&view);
    return cmd_finish(0);
}

static int inspect_header(const struct delta_verb_help *help, const char *path,
                          const struct delta_keyring *ring, bool json)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_front front = {.file_len = 0};
    struct delta_reader reader = {.entry_count = 0};
    struct cmd_signature signature;
    int rc;

    if (header_open(&front, &reader, path, ring, &signature, &err)) {
        rc = delta_cli_fail(help, &err);
    } else {
        rc = header_show(path, &front, &reader, &signature, json);
        if (rc == 0 && signature.trust == CMD_TRUST_REFUSED)
            rc = delta_cli_fail(help, &signature.why);
    }
    delta_reader_release(&reader);
    delta_front_release(&front);
    return rc;
}

static int inspect_whole(const struct delta_verb_help *help, const char *path, const char *base,
                         const char *html, const struct delta_opt_list *keys, bool json)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct subject subject = {.view = {NULL, NULL, NULL}};
    struct delta_keyring ring;
    enum delta_status st = cmd_refuse_onto(html, path, &err);
    int rc;

    if (!st)
        st = cmd_refuse_onto(html, base, &err);
    for (size_t i = 0; i < keys->count && !st; i++)
        st = cmd_refuse_onto(html, keys->items[i], &err);
    if (!st)
        st = cmd_keyring(&ring, keys, &err);
    if (!st)
        st = subject_open(&subject, path, base, &ring, &err);
    if (!st && html)
        st = cmd_write_html(html, &subject.file, &subject.signature, &subject.view, &err);
    rc = st ? delta_cli_fail(help, &err) : json ? show_json(&subject) : show_text(&subject);
    if (rc == 0 && subject.signature.trust == CMD_TRUST_REFUSED)
        rc = delta_cli_fail(help, &subject.signature.why);
    subject_release(&subject);
    return rc;
}

int cmd_inspect(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "inspect",
        "FILE",
        "Shows what a model (.flm), a delta (.fld) or a safetensors file holds.",
        "Network, classes, every tensor with encoding, bytes and live share, who made\n"
        "a delta, who signed. With --base, the model that a delta starts from: norm and\n"
        "largest change of every tensor, where in it the change lies, and the class\n"
        "list before and after. With --html the same as a page for a browser, with\n"
        "histograms and a map of every layer.\n\n"
        "'structure sound' says that the bytes are whole. 'TRUSTED' says more: a key\n"
        "given by --key signed them. With --key the exit status is 4 where that fails.",
        1,
        1};
    struct delta_opt_list keys = {.count = 0};
    const char *base = NULL, *html = NULL;
    bool json = false, header = false;
    struct delta_opt opts[] = {
        {.name = "html",
         .kind = DELTA_OPT_TEXT,
         .value = &html,
         .arg = "FILE",
         .help = "write a self-contained page here as well"},
        {.name = "base",
         .kind = DELTA_OPT_TEXT,
         .value = &base,
         .arg = "FILE",
         .help = "the delta's base model"},
        {.name = "header",
         .kind = DELTA_OPT_FLAG,
         .value = &header,
         .help = "read a delta's header, not its payload"},
        {.name = "key",
         .kind = DELTA_OPT_LIST,
         .value = &keys,
         .arg = "PEM",
         .help = "trust this key or certificate; may be repeated"},
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_keyring ring;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    if (header && (base || html)) {
        (void)delta_fail(&err, DELTA_USAGE, "--header excludes --base and --html");
        return delta_cli_fail(&help, &err);
    }
    if (header)
        return cmd_keyring(&ring, &keys, &err) ? delta_cli_fail(&help, &err)
                                               : inspect_header(&help, argv[first], &ring, json);
    return inspect_whole(&help, argv[first], base, html, &keys, json);
}

/* ---- verify ---- */

struct verdict {
    struct cmd_signature signature;
    bool sound, applied;
    enum cmd_kind kind;
    struct delta_digest name; /* version or target */
};

/* Structure only; trust goes into verdict->signature. */
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
    verdict->kind = file.kind;
    verdict->name = file.kind == CMD_DELTA ? file.reader.target : file.version;
    cmd_signature(&file, ring, &verdict->signature);
    if (file.kind != CMD_DELTA) {
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
    verdict->sound = !st;
    delta_model_release(&target);
    cmd_file_release(&base);
    cmd_file_release(&file);
    return st;
}

static int print_verdict(const char *path, enum delta_status st, const struct verdict *verdict,
                         const struct delta_error *err, bool json)
{
    if (json) {
        json_t *root = json_pack(
            "{s:b, s:o, s:s, s:b, s:s}", "ok", !st && verdict->signature.trust != CMD_TRUST_REFUSED,
            "file", cmd_json_text(path), "status",
            delta_status_name(st ? st : verdict->signature.status), "applied", verdict->applied,
            "structure", verdict->sound ? "sound" : "not sound");
        if (st)
            json_object_set_new(root, "error", cmd_json_text(err->text));
        if (verdict->sound) {
            json_object_set_new(root, "kind", json_string(cmd_kind_name(verdict->kind)));
            json_object_set_new(root, "signature", cmd_json_signature(&verdict->signature));
            json_object_set_new(root, verdict->kind == CMD_DELTA ? "target" : "version",
                                cmd_json_digest(&verdict->name));
        }
        return cmd_print_json(root);
    }
    if (st)
        return 0;
    printf("%-11s%s\n%-11ssound: every length and digest holds%s\n", cmd_kind_name(verdict->kind),
           path, "structure", verdict->applied ? ", base and delta give the target" : "");
    print_signature(&verdict->signature);
    return cmd_finish(0);
}

int cmd_verify(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "verify",
        "FILE",
        "Answers whether a file is sound and whether to trust it.",
        "Exit status 0: sound, and signed by a key given by --key. 1: sound, but no\n"
        "--key was given, so nobody was asked about trust. 3: not sound. 4: sound, but\n"
        "not signed by such a key. --structure asks about soundness alone: 0 or 3.\n\n"
        "With --base the delta is applied in memory and must give the target it names,\n"
        "bit for bit.",
        1,
        1};
    struct delta_opt_list keys = {.count = 0};
    const char *base = NULL;
    bool json = false, structure = false;
    struct delta_opt opts[] = {
        {.name = "key",
         .kind = DELTA_OPT_LIST,
         .value = &keys,
         .arg = "PEM",
         .help = "trust this key or certificate; may be repeated"},
        {.name = "structure",
         .kind = DELTA_OPT_FLAG,
         .value = &structure,
         .help = "ask about structure only, not about trust"},
        {.name = "base",
         .kind = DELTA_OPT_TEXT,
         .value = &base,
         .arg = "FILE",
         .help = "the delta's base model"},
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct verdict verdict = {.sound = false};
    struct delta_keyring ring;
    enum delta_status st;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    if (structure && keys.count) {
        (void)delta_fail(&err, DELTA_USAGE, "--structure and --key exclude each other");
        return delta_cli_fail(&help, &err);
    }
    if (cmd_keyring(&ring, &keys, &err))
        return delta_cli_fail(&help, &err);
    st = judge(argv[first], base, &ring, &verdict, &err);
    rc = print_verdict(argv[first], st, &verdict, &err, json);
    if (st)
        return delta_cli_fail(&help, &err);
    if (rc)
        return rc;
    if (verdict.signature.trust == CMD_TRUST_REFUSED)
        return delta_cli_fail(&help, &verdict.signature.why);
    return structure || verdict.signature.trust == CMD_TRUST_HELD ? 0 : 1;
}
