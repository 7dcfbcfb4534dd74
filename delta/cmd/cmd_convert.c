/* Verbs between formats: import, export. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"

#define LIST_FILE_MAX ((size_t)8 << 20)

/* Lines of a text file, without line ends; empty lines at the end do not count. */
struct lines {
    struct delta_buf text;
    char **items; /* into text */
    size_t count;
};

static void lines_release(struct lines *lines)
{
    delta_buf_release(&lines->text);
    free(lines->items);
}

static enum delta_status lines_read(struct lines *out, const char *path, struct delta_error *err)
{
    enum delta_status st;
    char *text, *end;

    *out = (struct lines){.items = NULL};
    st = delta_file_read(path, LIST_FILE_MAX, &out->text, err);
    if (st)
        return st;
    out->text.cap++;
    st = delta_buf_append(&out->text, "", 1, err);
    out->items = delta_calloc(out->text.len, sizeof *out->items);
    if (st || !out->items) {
        lines_release(out);
        return st ? st : delta_fail(err, DELTA_NO_MEMORY, "cannot read '%s'", path);
    }
    text = (char *)out->text.data;
    end = text + strlen(text);
    while (end > text && strchr("\r\n \t", end[-1]))
        *--end = '\0';
    while (*text) {
        char *next = text + strcspn(text, "\n");
        const bool last = *next == '\0';
        *next = '\0';
        if (next > text && next[-1] == '\r')
            next[-1] = '\0';
        out->items[out->count++] = text;
        text = last ? next : next + 1;
    }
    return DELTA_OK;
}

/* The data set's label of each output: from --order, else from the file's metadata. */
static enum delta_status take_labels(struct delta_safetensors_info *info, const char *path,
                                     size_t classes, struct delta_error *err)
{
    struct lines lines;
    enum delta_status st = lines_read(&lines, path, err);

    if (st)
        return st;
    delta_safetensors_info_release(info);
    if (lines.count < classes)
        st = delta_fail(err, DELTA_MISMATCH, "'%s' has %zu lines, the model %zu classes", path,
                        lines.count, classes);
    if (!st) {
        info->labels = delta_calloc(classes, sizeof *info->labels);
        if (!info->labels)
            st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu labels", classes);
    }
    for (size_t i = 0; i < classes && !st; i++) {
        char *end;
        errno = 0;
        info->labels[i] = strtol(lines.items[i], &end, 10);
        if (errno || end == lines.items[i] || *end || info->labels[i] < 0)
            st = delta_fail(err, DELTA_FORMAT, "'%s' line %zu: '%.20s' is not a label", path, i + 1,
                            lines.items[i]);
    }
    info->label_count = st ? 0 : classes;
    lines_release(&lines);
    return st;
}

/* Class i is called by line labels[i] of the names file; without labels by line i. */
static enum delta_status take_names(struct delta_model *model,
                                    const struct delta_safetensors_info *info, const char *path,
                                    struct delta_error *err)
{
    struct lines lines;
    enum delta_status st = lines_read(&lines, path, err);

    if (st)
        return st;
    for (size_t i = 0; i < model->class_count && !st; i++) {
        const size_t line = info->label_count ? (size_t)info->labels[i] : i;
        if (line >= lines.count)
            st = delta_fail(err, DELTA_MISMATCH, "'%s' has %zu lines, class %zu needs line %zu",
                            path, lines.count, i, line + 1);
        else
            st = delta_class_id_make(&model->classes[i], lines.items[line], err);
        if (st && line < lines.count)
            st = delta_fail_in(err, st, "'%s' line %zu", path, line + 1);
    }
    lines_release(&lines);
    return st;
}

static enum delta_status load_foreign(struct delta_model *model, const char *path,
                                      const struct delta_arch_hint *hint,
                                      struct delta_safetensors_info *info, struct delta_error *err)
{
    struct delta_buf file;
    enum delta_status st = cmd_file_read(path, NULL, &file, err);

    if (st)
        return st; /* names the file already */
    st = delta_npz_is(delta_buf_bytes(&file))
             ? delta_npz_decode(model, delta_buf_bytes(&file), hint, info, err)
             : delta_safetensors_decode_as(model, delta_buf_bytes(&file), hint, info, err);
    delta_buf_release(&file);
    return st ? delta_fail_in(err, st, "'%s'", path) : DELTA_OK;
}

static enum delta_status import_file(const char *path, const struct delta_arch_hint *hint,
                                     const char *order, const char *names, const char *out,
                                     struct delta_digest *version, struct delta_error *err)
{
    struct delta_safetensors_info info = {NULL, 0};
    struct delta_model model;
    enum delta_status st = cmd_refuse_onto(out, path, err);

    if (!st)
        st = cmd_refuse_onto(out, order, err);
    if (!st)
        st = cmd_refuse_onto(out, names, err);
    if (!st)
        st = load_foreign(&model, path, hint, &info, err);
    if (st)
        return st;
    if (order)
        st = take_labels(&info, order, model.class_count, err);
    if (!st && names)
        st = take_names(&model, &info, names, err);
    for (size_t i = 0; i < model.class_count && !st && order && !names; i++)
        snprintf(model.classes[i].text, sizeof model.classes[i].text, "class-%ld", info.labels[i]);
    if (!st)
        st = delta_model_check_finite(&model, err);
    if (!st)
        st = delta_model_digest(&model, version, err);
    if (!st)
        st = delta_model_save(&model, out, err);
    delta_safetensors_info_release(&info);
    delta_model_release(&model);
    return st;
}

int cmd_import(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "import",
        "FILE",
        "Turns a safetensors or npz file, as Python writes it, into a model (.flm).",
        "The network is told by metadata (arch, width, stem, mean, std, input; in an\n"
        "npz file by its member frostline.json), else by the names and shapes of the\n"
        "tensors: resnet18, resnet20 and mobilenet_v2 are known by them. --arch, --width,\n"
        "--stem and --size go before both. MobileNetV2's strides cannot be seen: without\n"
        "--stem cifar it is taken for one of 224 pixels.\n\n"
        "Classes are named by metadata (class_names), or by line L of --names,\n"
        "where L is the label that --order (or metadata 'classes') gives an output.\n\n"
        "No freeze plan exists yet afterwards: every weight is live.",
        1,
        1};
    const char *out = NULL, *order = NULL, *names = NULL;
    struct delta_arch_hint hint = {.name = NULL};
    int64_t width = 0, size = 0;
    bool json = false;
    struct delta_opt opts[] = {
        {.name = "out",
         .kind = DELTA_OPT_TEXT,
         .value = &out,
         .arg = "FILE",
         .required = true,
         .help = "write the model here (.flm)"},
        {.name = "arch",
         .kind = DELTA_OPT_CHOICE,
         .value = &hint.name,
         .choices = "resnet18|resnet20|mobilenet_v2",
         .help = "network"},
        {.name = "width",
         .kind = DELTA_OPT_INT,
         .value = &width,
         .arg = "N",
         .low = 0,
         .high = 1024,
         .help = "first stage's channels; mobilenet_v2: percent"},
        {.name = "stem",
         .kind = DELTA_OPT_CHOICE,
         .value = &hint.stem,
         .choices = "cifar|imagenet",
         .help = "how images enter"},
        {.name = "size",
         .kind = DELTA_OPT_INT,
         .value = &size,
         .arg = "PIXELS",
         .low = 0,
         .high = 4096,
         .help = "side of the images; 0: 32 or 224, by the stem"},
        {.name = "order",
         .kind = DELTA_OPT_TEXT,
         .value = &order,
         .arg = "FILE",
         .help = "data set labels in output order, one a line, from 0"},
        {.name = "names",
         .kind = DELTA_OPT_TEXT,
         .value = &names,
         .arg = "FILE",
         .help = "names of the data set's labels, one a line"},
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest version;
    char hex[DELTA_DIGEST_HEX];
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    hint.width = (uint32_t)width;
    hint.side = (uint32_t)size;
    if (import_file(argv[first], &hint, order, names, out, &version, &err))
        return delta_cli_fail(&help, &err);
    if (json)
        return cmd_print_json(json_pack("{s:o, s:o}", "version", cmd_json_digest(&version), "file",
                                        cmd_json_text(out)));
    delta_digest_hex(hex, &version);
    printf("%s  %s\n", hex, out);
    return cmd_finish(0);
}

static bool wants_npz(const char *format, const char *out)
{
    const size_t len = strlen(out);

    if (strcmp(format, "auto") == 0)
        return len > 4 && strcmp(out + len - 4, ".npz") == 0;
    return strcmp(format, "npz") == 0;
}

int cmd_export(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "export",
        "MODEL",
        "Turns a model (.flm) into a safetensors or npz file, for PyTorch or NumPy.",
        "Network and class names become metadata (npz: the member frostline.json). The\n"
        "freeze plan, the parent and signatures have no place there and are left out.\n\n"
        "With --dtype bf16 a safetensors file takes half the space: weights are rounded\n"
        "to 8 significant bits, batch norms and biases are not. What is imported from it\n"
        "is another version than MODEL.",
        1,
        1};
    const char *out = NULL, *format = "auto", *dtype = "f32";
    bool json = false;
    struct delta_opt opts[] = {
        {.name = "out",
         .kind = DELTA_OPT_TEXT,
         .value = &out,
         .arg = "FILE",
         .required = true,
         .help = "write here"},
        {.name = "format",
         .kind = DELTA_OPT_CHOICE,
         .value = &format,
         .choices = "auto|safetensors|npz",
         .help = "auto: npz where --out ends so"},
        {.name = "dtype",
         .kind = DELTA_OPT_CHOICE,
         .value = &dtype,
         .choices = "f32|bf16",
         .help = "of weights; bf16: in safetensors only"},
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct cmd_file file;
    enum delta_status st;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    const bool narrow = strcmp(dtype, "bf16") == 0, npz = wants_npz(format, out);
    if (narrow && npz) {
        (void)delta_fail(&err, DELTA_USAGE,
                         "NumPy has no bf16; leave --dtype out, or write safetensors");
        return delta_cli_fail(&help, &err);
    }
    if (cmd_refuse_onto(out, argv[first], &err) || cmd_model_open(&file, argv[first], &err))
        return delta_cli_fail(&help, &err);
    st = npz ? delta_npz_save(&file.model, out, &err)
             : delta_safetensors_save(
                   &file.model, narrow ? DELTA_SAFETENSORS_BF16 : DELTA_SAFETENSORS_F32, out, &err);
    rc = st ? delta_cli_fail(&help, &err) : 0;
    if (!st && json)
        rc = cmd_print_json(json_pack("{s:o, s:o, s:I}", "version", cmd_json_digest(&file.version),
                                      "file", cmd_json_text(out), "tensors",
                                      (json_int_t)file.model.tensor_count));
    else if (!st) {
        printf("%s: %zu tensors\n", out, file.model.tensor_count);
        rc = cmd_finish(0);
    }
    cmd_file_release(&file);
    return rc;
}
