/* Verbs that make files from models and deltas: make, apply, invert, squash. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "delta/chain.h"
#include "delta/clock.h"
#include "delta/file.h"

/* What the four share. */
struct args {
    const struct delta_verb_help *help;
    const char *base, *out, *sign, *device, *method, *encoding, *residual;
    char **files; /* target, or deltas */
    int count;
    int64_t level;
    double step;
    struct delta_opt_list keys;
    bool json, quiet;
};

#define OPT_OUT(args, what)                                                                        \
    {                                                                                              \
        .name = "out", .kind = DELTA_OPT_TEXT, .value = &(args).out, .arg = "FILE",                \
        .required = true, .help = what                                                             \
    }
#define OPT_SIGN(args)                                                                             \
    {                                                                                              \
        .name = "sign", .kind = DELTA_OPT_TEXT, .value = &(args).sign, .arg = "KEY",               \
        .help = "sign the result with this private key (PEM)"                                      \
    }
#define OPT_KEY(args)                                                                              \
    {                                                                                              \
        .name = "key", .kind = DELTA_OPT_LIST, .value = &(args).keys, .arg = "PEM",                \
        .help = "deltas must be signed by this key; may be repeated"                               \
    }
#define OPT_LEVEL(args)                                                                            \
    {                                                                                              \
        .name = "level", .kind = DELTA_OPT_INT, .value = &(args).level, .arg = "N", .low = 0,      \
        .high = 22, .help = "zstd level, 1 fast to 22 small; 0: 9"                                 \
    }
#define OPT_JSON(args)                                                                             \
    {                                                                                              \
        .name = "json", .kind = DELTA_OPT_FLAG, .value = &(args).json,                             \
        .help = "print one JSON object"                                                            \
    }

static void show_progress(void *context, double done, double total)
{
    delta_progress_at(context, done, total);
}

/* Nothing that is read may be written over: neither by the result nor by the residual. */
static enum delta_status check_places(const struct args *args, struct delta_error *err)
{
    const char *const outs[] = {args->out, args->residual};
    enum delta_status st = DELTA_OK;

    if (args->residual && strcmp(args->residual, args->out) == 0) /* neither may exist yet */
        st = delta_fail(err, DELTA_USAGE, "--out and --residual name the same file");
    if (!st)
        st = cmd_refuse_onto(args->residual, args->out, err);
    for (size_t i = 0; i < sizeof outs / sizeof outs[0] && !st; i++) {
        st = cmd_refuse_onto(outs[i], args->base, err);
        if (!st)
            st = cmd_refuse_onto(outs[i], args->sign, err);
        for (int k = 0; k < args->count && !st; k++)
            st = cmd_refuse_onto(outs[i], args->files[k], err);
        for (size_t k = 0; k < args->keys.count && !st; k++)
            st = cmd_refuse_onto(outs[i], args->keys.items[k], err);
    }
    return st;
}

/* ---- the deltas of a command line ---- */

struct deltas {
    struct cmd_file *files;
    struct delta_reader *readers; /* borrowed from files */
    size_t count;
};

static void deltas_release(struct deltas *deltas)
{
    for (size_t i = 0; i < deltas->count; i++)
        cmd_file_release(&deltas->files[i]);
    free(deltas->files);
    free(deltas->readers);
}

static enum delta_status deltas_open(struct deltas *out, const struct args *args,
                                     struct delta_error *err)
{
    struct delta_keyring ring;
    enum delta_status st = cmd_keyring(&ring, &args->keys, err);

    *out = (struct deltas){.count = 0};
    out->files = delta_calloc((size_t)args->count, sizeof *out->files);
    out->readers = delta_calloc((size_t)args->count, sizeof *out->readers);
    if (!st && (!out->files || !out->readers))
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %d deltas", args->count);
    for (int i = 0; i < args->count && !st; i++) {
        st = cmd_delta_open(&out->files[i], args->files[i], &ring, err);
        if (st)
            break;
        out->readers[out->count++] = out->files[i].reader;
    }
    return st;
}

/* ---- results ---- */

static enum delta_status sign_and_write(const struct args *args, struct delta_buf *file,
                                        struct delta_error *err)
{
    struct delta_key key = {NULL};
    enum delta_status st = DELTA_OK;

    if (args->sign)
        st = delta_key_load(&key, args->sign, err);
    if (!st && args->sign)
        st = delta_container_sign(file, &key, err);
    if (!st)
        st = delta_file_write(args->out, delta_buf_bytes(file), 0644, err);
    delta_key_release(&key);
    return st;
}

/* Says what was made; the delta is read back for it. */
static int report_delta(const struct args *args, const struct delta_buf *file)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_reader reader;
    char size[16], hex[DELTA_DIGEST_HEX];
    int rc;

    if (delta_reader_init(&reader, delta_buf_bytes(file), &err))
        return delta_cli_fail(args->help, &err);
    delta_digest_hex(hex, &reader.target);
    if (args->json) {
        const struct cmd_view view = {&reader, NULL, NULL};
        json_t *root = cmd_json_delta(&view);
        json_object_set_new(root, "bytes", json_integer((json_int_t)file->len));
        json_object_set_new(root, "file", cmd_json_text(args->out));
        rc = cmd_print_json(root);
    } else {
        printf("%s: %s, %zu tensors, to version %.16s\n", args->out,
               delta_human_bytes(size, (double)file->len), reader.entry_count, hex);
        rc = cmd_finish(0);
    }
    delta_reader_release(&reader);
    return rc;
}

/* residual: NULL, or what rounding took away. It is kept when the delta is, not before: what never
 * got out must not be missing from the next one. */
static int finish_delta(const struct args *args, enum delta_status st, struct delta_buf *file,
                        const struct delta_model *residual, struct delta_error *err)
{
    int rc;

    if (!st)
        st = sign_and_write(args, file, err);
    if (!st && residual)
        st = delta_model_save(residual, args->residual, err);
    rc = st ? delta_cli_fail(args->help, err) : report_delta(args, file);
    delta_buf_release(file);
    return rc;
}

/* ---- make ---- */

/* What the caller carries from delta to delta: absent before the first one. */
static enum delta_status lossy_options(const struct args *args, struct delta_options *options,
                                       struct delta_model *residual, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    options->step = args->step;
    if (args->encoding)
        st = delta_choice_parse(args->encoding, &options->encoding, err);
    if (st || !args->residual)
        return st;
    if (options->encoding != DELTA_CHOICE_BF16 && options->encoding != DELTA_CHOICE_INT8)
        return delta_fail(err, DELTA_USAGE, "--residual goes with --encoding bf16 or int8");
    options->residual = residual;
    if (delta_file_exists(args->residual))
        st = delta_model_load(residual, args->residual, NULL, err);
    return st;
}

/* residual: zeroed; the caller releases it either way */
static enum delta_status make(const struct args *args, struct delta_buf *out,
                              struct delta_model *residual, struct delta_error *err)
{
    const struct delta_clock clock = delta_clock_system();
    struct delta_provenance made = {.software = "frostline " FROSTLINE_VERSION};
    struct delta_options options = {.zstd_level = (int)args->level};
    struct delta_progress progress;
    struct cmd_file base, target = {.path = NULL};
    enum delta_status st = check_places(args, err);

    *out = (struct delta_buf){0};
    if (!st)
        st = lossy_options(args, &options, residual, err);
    if (!st)
        st = cmd_model_open(&base, args->base, err);
    if (st)
        return st;
    st = cmd_model_open(&target, args->files[0], err);
    delta_buf_release(&base.bytes); /* the models hold copies */
    delta_buf_release(&target.bytes);
    if (args->device || args->method) {
        snprintf(made.device, sizeof made.device, "%s", args->device ? args->device : "");
        snprintf(made.method, sizeof made.method, "%s", args->method ? args->method : "");
        made.created_ms = delta_clock_wall_ms(&clock);
        options.provenance = &made;
    }
    delta_progress_start(&progress, "make", args->quiet);
    if (!st)
        st = delta_diff_watched(&base.model, &target.model, &options, show_progress, &progress, out,
                                err);
    delta_progress_end(&progress);
    cmd_file_release(&target);
    cmd_file_release(&base);
    return st;
}

int cmd_make(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "make",
        "BASE TARGET",
        "Makes the delta (.fld) that leads from BASE to TARGET.",
        "Both are models of the same network (.flm or safetensors); their classes may\n"
        "differ in any way. With --device or --method the delta tells who made it, and\n"
        "when. Encodings bf16 and int8 round; the rounded TARGET is where the delta\n"
        "leads. What rounding took away is kept in the --residual file and added the\n"
        "next time.",
        2,
        2};
    struct args args = {.help = &help};
    struct delta_opt opts[] = {
        OPT_OUT(args, "write the delta here (.fld)"),
        OPT_SIGN(args),
        OPT_LEVEL(args),
        {.name = "encoding",
         .kind = DELTA_OPT_CHOICE,
         .value = &args.encoding,
         .choices = "auto|raw|zstd|diff|cell|bf16|int8",
         .help = "how values travel; auto: smallest lossless"},
        {.name = "step",
         .kind = DELTA_OPT_REAL,
         .value = &args.step,
         .arg = "X",
         .low = 0,
         .high = 100,
         .help = "int8: grid, in mean moves; 0: 0.5"},
        {.name = "residual",
         .kind = DELTA_OPT_TEXT,
         .value = &args.residual,
         .arg = "FILE",
         .help = "error carried to the next; need not exist"},
        {.name = "device",
         .kind = DELTA_OPT_TEXT,
         .value = &args.device,
         .arg = "NAME",
         .help = "provenance: who made it"},
        {.name = "method",
         .kind = DELTA_OPT_TEXT,
         .value = &args.method,
         .arg = "WORD",
         .help = "provenance: how the target was made"},
        {.name = "quiet", .kind = DELTA_OPT_FLAG, .value = &args.quiet, .help = "no progress"},
        OPT_JSON(args),
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model residual = DELTA_MODEL_INIT;
    struct delta_buf file;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    args.base = argv[first];
    args.files = argv + first + 1;
    args.count = 1;
    const enum delta_status st = make(&args, &file, &residual, &err);
    rc = finish_delta(&args, st, &file, args.residual ? &residual : NULL, &err);
    delta_model_release(&residual);
    return rc;
}

/* ---- apply ---- */

/* True for a model file and one delta: these need not be held in memory. */
static bool can_stream(const struct args *args)
{
    struct delta_front base = {.file_len = 0}, delta = {.file_len = 0};
    enum delta_container_kind a, b;
    const bool yes = args->count == 1 && !delta_front_read(&base, args->base, NULL) &&
                     !delta_front_read(&delta, args->files[0], NULL) &&
                     !delta_container_kind(delta_buf_bytes(&base.bytes), &a, NULL) &&
                     !delta_container_kind(delta_buf_bytes(&delta.bytes), &b, NULL) &&
                     a == DELTA_CONTAINER_MODEL && b == DELTA_CONTAINER_DELTA;

    delta_front_release(&base);
    delta_front_release(&delta);
    return yes;
}

static enum delta_status apply(const struct args *args, struct delta_digest *version,
                               struct delta_error *err)
{
    struct delta_model target = DELTA_MODEL_INIT;
    struct delta_keyring ring;
    struct cmd_file base;
    struct deltas deltas = {.count = 0};
    enum delta_status st = check_places(args, err);

    if (!st)
        st = cmd_keyring(&ring, &args->keys, err);
    if (!st && can_stream(args))
        return delta_apply_file(args->base, args->files[0], args->out,
                                args->keys.count ? &ring : NULL, version, err);
    if (!st)
        st = cmd_model_open(&base, args->base, err);
    if (st)
        return st;
    delta_buf_release(&base.bytes); /* the model holds a copy */
    st = deltas_open(&deltas, args, err);
    if (!st) {
        st = delta_chain_apply(&base.model, deltas.readers, deltas.count, &target, err);
        if (st && deltas.count == 1)
            st = delta_fail_in(err, st, "'%s'", args->files[0]);
    }
    if (!st) {
        *version = deltas.readers[deltas.count - 1].target;
        st = delta_model_save(&target, args->out, err);
    }
    delta_model_release(&target);
    deltas_release(&deltas);
    cmd_file_release(&base);
    return st;
}

int cmd_apply(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "apply",
        "BASE DELTA...",
        "Makes the target model from BASE and one DELTA after another, bit for bit.",
        "The result is unsigned; 'sign' signs it. With --key every delta must be signed\n"
        "by one of these keys. A file that is read is not written over: choose another\n"
        "name for the result.",
        2,
        -1};
    struct args args = {.help = &help};
    struct delta_opt opts[] = {OPT_OUT(args, "write the model here (.flm)"),
                               OPT_KEY(args),
                               OPT_JSON(args),
                               {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest version;
    char hex[DELTA_DIGEST_HEX];
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    args.base = argv[first];
    args.files = argv + first + 1;
    args.count = argc - first - 1;
    if (apply(&args, &version, &err))
        return delta_cli_fail(&help, &err);
    if (args.json)
        return cmd_print_json(json_pack("{s:o, s:o}", "version", cmd_json_digest(&version), "file",
                                        cmd_json_text(args.out)));
    delta_digest_hex(hex, &version);
    printf("%s  %s\n", hex, args.out);
    return cmd_finish(0);
}

/* ---- invert, squash ---- */

/* Provenance of a derived delta: made here and now, by this method, from no samples. */
static struct delta_provenance derived(const char *method)
{
    const struct delta_clock clock = delta_clock_system();
    struct delta_provenance made = {.software = "frostline " FROSTLINE_VERSION};

    snprintf(made.method, sizeof made.method, "%s", method);
    made.created_ms = delta_clock_wall_ms(&clock);
    return made;
}

static enum delta_status derive(const struct args *args, bool back, struct delta_buf *out,
                                struct delta_error *err)
{
    const struct delta_provenance made = derived(back ? "invert" : "squash");
    const struct delta_options options = {.provenance = &made, .zstd_level = (int)args->level};
    struct deltas deltas = {.count = 0};
    struct cmd_file base;
    enum delta_status st = check_places(args, err);

    *out = (struct delta_buf){0};
    if (!st)
        st = cmd_model_open(&base, args->base, err);
    if (st)
        return st;
    delta_buf_release(&base.bytes); /* the model holds a copy */
    st = deltas_open(&deltas, args, err);
    if (!st)
        st = back ? delta_invert(&base.model, deltas.readers, &options, out, err)
                  : delta_squash(&base.model, deltas.readers, deltas.count, &options, out, err);
    deltas_release(&deltas);
    cmd_file_release(&base);
    return st;
}

static int run_derive(const struct delta_verb_help *help, bool back, int argc, char **argv)
{
    struct args args = {.help = help};
    struct delta_opt opts[] = {OPT_OUT(args, "write the delta here (.fld)"),
                               OPT_SIGN(args),
                               OPT_KEY(args),
                               OPT_LEVEL(args),
                               OPT_JSON(args),
                               {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    int first, rc = delta_opt_parse(help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    args.base = argv[first];
    args.files = argv + first + 1;
    args.count = argc - first - 1;
    return finish_delta(&args, derive(&args, back, &file, &err), &file, NULL, &err);
}

int cmd_invert(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "invert",
        "BASE DELTA",
        "Makes the delta that leads from DELTA's target back to BASE.",
        "A delta does not say what was there before, so its base is needed.",
        2,
        2};

    return run_derive(&help, true, argc, argv);
}

int cmd_squash(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "squash",
        "BASE DELTA...",
        "Makes one delta of a chain: it leads from BASE to where the last one leads.",
        "The deltas are given in the order in which they are applied to BASE.",
        2,
        -1};

    return run_derive(&help, false, argc, argv);
}
