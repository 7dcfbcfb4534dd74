/* cat: one tensor's values as text or in NumPy's format. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"
#include "delta/npy.h"

#define NPY_HEADER_ROOM 512

/* %.9g brings back the very float32. One line per index of all but the last dimension. */
static void print_values(const struct delta_tensor *t)
{
    const size_t row = t->rank > 1 ? (size_t)t->shape[t->rank - 1] : 1;

    printf("# %s", t->name);
    for (uint32_t i = 0; i < t->rank; i++)
        printf("%s%" PRIu64, i ? "x" : " ", t->shape[i]);
    printf("\n");
    for (size_t i = 0; i < t->count; i++)
        printf("%.9g%c", (double)t->data[i], (i + 1) % row ? ' ' : '\n');
}

static enum delta_status to_stdout(struct delta_bytes bytes, struct delta_error *err)
{
    if (isatty(STDOUT_FILENO))
        return delta_fail(err, DELTA_USAGE, "npy is binary; redirect it or give --out FILE");
    if (fwrite(bytes.data, 1, bytes.len, stdout) != bytes.len)
        return delta_fail(err, DELTA_IO, "cannot write to standard output");
    return DELTA_OK;
}

static json_t *json_values(const struct delta_tensor *t)
{
    json_t *shape = json_array(), *values = json_array();

    for (uint32_t i = 0; i < t->rank; i++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
    for (size_t i = 0; i < t->count; i++) {
        json_t *value = json_real((double)t->data[i]); /* NULL for NaN and infinities */
        json_array_append_new(values, value ? value : json_null());
    }
    return json_pack("{s:s, s:o, s:o}", "name", t->name, "shape", shape, "values", values);
}

struct cat_args {
    const char *path, *tensor, *base, *format, *out;
    bool json;
};

static enum delta_status emit(const struct cat_args *args, const struct delta_tensor *tensor,
                              struct delta_error *err)
{
    struct delta_buf npy;
    enum delta_status st;

    if (strcmp(args->format, "text") == 0) {
        print_values(tensor);
        return DELTA_OK;
    }
    delta_buf_init(&npy, tensor->count * sizeof(float) + NPY_HEADER_ROOM);
    st = delta_npy_write(&npy, tensor, err);
    if (!st)
        st = args->out ? delta_file_write(args->out, delta_buf_bytes(&npy), 0644, err)
                       : to_stdout(delta_buf_bytes(&npy), err);
    delta_buf_release(&npy);
    return st;
}

/* The model that the file holds or, with its base, leads to. */
static enum delta_status open_version(const struct cat_args *args, struct cmd_file *file,
                                      struct delta_error *err)
{
    struct cmd_file base = {.path = NULL};
    enum delta_status st = cmd_file_open(file, args->path, err);

    if (st || file->kind != CMD_DELTA)
        return st;
    if (!args->base)
        st = delta_fail(err, DELTA_USAGE, "'%s' is a delta; --base FILE tells what it starts from",
                        args->path);
    if (!st)
        st = cmd_model_open(&base, args->base, err);
    if (!st)
        st = delta_apply(&base.model, &file->reader, &file->model, err);
    cmd_file_release(&base);
    if (st)
        cmd_file_release(file);
    return st;
}

static int run(const struct delta_verb_help *help, const struct cat_args *args)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const struct delta_tensor *tensor = NULL;
    struct cmd_file file = {.path = NULL};
    enum delta_status st = cmd_refuse_onto(args->out, args->path, &err);
    int rc = 0;

    if (!st)
        st = cmd_refuse_onto(args->out, args->base, &err);
    if (!st)
        st = open_version(args, &file, &err);
    if (!st) {
        tensor = delta_model_find(&file.model, args->tensor);
        if (!tensor)
            st = delta_fail(&err, DELTA_NOT_FOUND,
                            "'%s' has no tensor '%.100s'; 'inspect' names them", args->path,
                            args->tensor);
    }
    if (!st && args->json)
        rc = cmd_print_json(json_values(tensor));
    else if (!st)
        st = emit(args, tensor, &err);
    rc = st ? delta_cli_fail(help, &err) : rc ? rc : cmd_finish(0);
    cmd_file_release(&file);
    return rc;
}

int cmd_cat(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "cat",
        "FILE TENSOR",
        "Writes one tensor's values, as text or in NumPy's .npy format.",
        "FILE is a model (.flm), a safetensors file, or with --base a delta, whose\n"
        "target is meant then. Text has nine digits, which bring back the very float32.",
        2,
        2};
    struct cat_args args = {.format = "text"};
    struct delta_opt opts[] = {{.name = "format",
                                .kind = DELTA_OPT_CHOICE,
                                .value = &args.format,
                                .choices = "text|npy",
                                .help = "form of standard output"},
                               {.name = "out",
                                .kind = DELTA_OPT_TEXT,
                                .value = &args.out,
                                .arg = "FILE",
                                .help = "write .npy here instead of standard output"},
                               {.name = "base",
                                .kind = DELTA_OPT_TEXT,
                                .value = &args.base,
                                .arg = "FILE",
                                .help = "the delta's base model"},
                               {.name = "json",
                                .kind = DELTA_OPT_FLAG,
                                .value = &args.json,
                                .help = "print one JSON object"},
                               {.name = NULL}};
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    args.path = argv[first];
    args.tensor = argv[first + 1];
    if (args.out)
        args.format = "npy";
    return run(&help, &args);
}
