#include "safetensors_meta.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch_guess.h"
#include "pack.h"

static const double cifar_mean[3] = {0.5071, 0.4865, 0.4409};
static const double cifar_std[3] = {0.2673, 0.2564, 0.2762};
static const double imagenet_mean[3] = {0.485, 0.456, 0.406};
static const double imagenet_std[3] = {0.229, 0.224, 0.225};

/* NULL when the key is absent. */
static enum delta_status text_of(const json_t *meta, const char *key, const char **out,
                                 struct delta_error *err)
{
    const json_t *value = meta ? json_object_get(meta, key) : NULL;

    *out = NULL;
    if (!value)
        return DELTA_OK;
    if (!json_is_string(value))
        return delta_fail(err, DELTA_FORMAT, "metadata '%s' is not a string", key);
    *out = json_string_value(value);
    return DELTA_OK;
}

static enum delta_status word_of(const json_t *meta, const char *key, char *out, size_t size,
                                 struct delta_error *err)
{
    const char *text;
    enum delta_status st = text_of(meta, key, &text, err);

    if (st || !text)
        return st;
    if (strlen(text) >= size)
        return delta_fail(err, DELTA_LIMIT, "metadata '%s' has %zu bytes, the limit is %zu", key,
                          strlen(text), size - 1);
    memcpy(out, text, strlen(text) + 1);
    return DELTA_OK;
}

/* Up to `max` blank-separated numbers; *count = 0 when the key is absent. */
static enum delta_status numbers_of(const json_t *meta, const char *key, double *out, size_t max,
                                    size_t *count, struct delta_error *err)
{
    const char *p;
    enum delta_status st = text_of(meta, key, &p, err);

    *count = 0;
    while (!st && p) {
        char *end;
        p += strspn(p, " \t,");
        if (!*p)
            break;
        errno = 0;
        const double value = strtod(p, &end);
        if (end == p || errno || value - value != 0)
            return delta_fail(err, DELTA_FORMAT, "metadata '%s': '%.20s' is not a number", key, p);
        if (*count == max)
            return delta_fail(err, DELTA_LIMIT, "metadata '%s' has more than %zu numbers", key,
                              max);
        out[(*count)++] = value;
        p = end;
    }
    return st;
}

/* ---- what names and shapes tell ---- */

static uint64_t dim(const struct delta_model *model, const char *name, uint32_t index)
{
    const struct delta_tensor *tensor = delta_model_find(model, name);

    return tensor && index < tensor->rank ? tensor->shape[index] : 0;
}

static enum delta_status triple(const json_t *meta, const char *key, const double fallback[3],
                                uint32_t channels, double out[3], struct delta_error *err)
{
    size_t count;
    enum delta_status st = numbers_of(meta, key, out, 3, &count, err);

    if (st)
        return st;
    if (count == 0)
        memcpy(out, fallback, 3 * sizeof *out);
    else if (count < channels)
        return delta_fail(err, DELTA_FORMAT, "metadata '%s' has %zu numbers for %u channels", key,
                          count, channels);
    for (size_t i = count; i < 3 && count; i++) /* unused, but part of the version's name */
        out[i] = out[count - 1];
    return DELTA_OK;
}

static enum delta_status sizes(const json_t *meta, const struct delta_arch_hint *hint,
                               struct delta_arch *arch, struct delta_error *err)
{
    double input[3], width;
    size_t count;
    const uint32_t side = strcmp(arch->stem, "imagenet") == 0 ? 224 : 32;
    enum delta_status st = numbers_of(meta, "input", input, 3, &count, err);

    arch->height = side;
    arch->image_width = side;
    for (size_t i = 0; i < count && !st; i++)
        if (!(input[i] >= 1 && input[i] <= 4096))
            st = delta_fail(err, DELTA_LIMIT, "metadata 'input' is out of range");
    if (!st && count == 3) {
        arch->channels = (uint32_t)input[0];
        arch->height = (uint32_t)input[1];
        arch->image_width = (uint32_t)input[2];
    } else if (!st && count) {
        st = delta_fail(err, DELTA_FORMAT, "metadata 'input' is not 'channels height width'");
    }
    if (!st && hint && hint->side)
        arch->height = arch->image_width = hint->side;
    if (!st)
        st = numbers_of(meta, "width", &width, 1, &count, err);
    if (!st && count) {
        if (!(width >= 1 && width <= 65535) || width != (uint32_t)width)
            return delta_fail(err, DELTA_LIMIT, "metadata 'width' is %g", width);
        arch->width = (uint32_t)width;
    }
    if (hint && hint->width)
        arch->width = hint->width;
    return st;
}

/* The file's own word over what its tensors look like, the caller's over both. */
static enum delta_status read_names(struct delta_model *model, const json_t *meta,
                                    const struct delta_arch_hint *hint, struct delta_error *err)
{
    struct delta_arch *arch = &model->arch;
    enum delta_status st;

    delta_arch_guess(arch, model);
    st = word_of(meta, "arch", arch->name, sizeof arch->name, err);
    if (!st)
        st = word_of(meta, "stem", arch->stem, sizeof arch->stem, err);
    if (!st && hint && hint->name)
        snprintf(arch->name, sizeof arch->name, "%s", hint->name);
    if (!st && hint && hint->stem)
        snprintf(arch->stem, sizeof arch->stem, "%s", hint->stem);
    if (!st && !arch->name[0])
        st = delta_fail(err, DELTA_UNSUPPORTED,
                        "cannot tell the architecture from the tensor names; give it as --arch of "
                        "'frostline-delta import', or as metadata 'arch'");
    return st;
}

static enum delta_status read_arch(struct delta_model *model, const json_t *meta,
                                   const struct delta_arch_hint *hint, struct delta_error *err)
{
    struct delta_arch *arch = &model->arch;
    enum delta_status st = read_names(model, meta, hint, err);

    if (!st)
        st = sizes(meta, hint, arch, err);
    if (!st && !arch->width)
        return delta_fail(err, DELTA_UNSUPPORTED,
                          "cannot tell the width of %s from the shapes; give it as --width of "
                          "'frostline-delta import', or as metadata 'width'",
                          arch->name);
    const bool imagenet = strcmp(arch->stem, "imagenet") == 0;
    if (!st)
        st = triple(meta, "mean", imagenet ? imagenet_mean : cifar_mean, arch->channels, arch->mean,
                    err);
    if (!st)
        st = triple(meta, "std", imagenet ? imagenet_std : cifar_std, arch->channels, arch->std,
                    err);
    if (!st)
        st = delta_arch_check(arch, err);
    if (!st && hint && (hint->name || hint->stem || hint->width))
        st = delta_arch_fits(arch, model, err);
    return st;
}

/* ---- classes ---- */

static enum delta_status read_labels(const json_t *meta, size_t rows,
                                     struct delta_safetensors_info *info, struct delta_error *err)
{
    const char *p;
    enum delta_status st = text_of(meta, "classes", &p, err);
    size_t count = 0;

    if (st || !p)
        return st;
    info->labels = delta_calloc(rows, sizeof *info->labels);
    if (!info->labels)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu labels", rows);
    for (;; count++) {
        char *end;
        p += strspn(p, " \t,");
        if (!*p)
            break;
        errno = 0;
        const long label = strtol(p, &end, 10);
        if (end == p || errno || label < 0 || !(*end == '\0' || strchr(" \t,", *end)))
            return delta_fail(err, DELTA_FORMAT, "metadata 'classes': '%.20s' is not a label", p);
        if (count < rows)
            info->labels[count] = label;
        p = end;
    }
    if (count != rows)
        return delta_fail(err, DELTA_FORMAT, "metadata 'classes' lists %zu labels for %zu rows",
                          count, rows);
    info->label_count = rows;
    return DELTA_OK;
}

static enum delta_status name_classes(struct delta_model *model, const char *names,
                                      struct delta_error *err)
{
    size_t count = 0;

    for (const char *p = names;; count++) {
        char name[DELTA_CLASS_ID_MAX + 2];
        p += strspn(p, " \t\n");
        const size_t len = strcspn(p, " \t\n");
        if (len == 0)
            break;
        if (count < model->class_count) {
            snprintf(name, sizeof name, "%.*s", (int)(len < sizeof name ? len : sizeof name), p);
            const enum delta_status st = delta_class_id_make(&model->classes[count], name, err);
            if (st)
                return delta_fail_in(err, st, "metadata 'class_names'");
        }
        p += len;
    }
    if (count != model->class_count)
        return delta_fail(err, DELTA_FORMAT, "metadata 'class_names' lists %zu names for %zu rows",
                          count, model->class_count);
    return delta_classes_check(model->classes, model->class_count, err);
}

static enum delta_status read_classes(struct delta_model *model, const json_t *meta,
                                      struct delta_error *err)
{
    const char *names;
    uint64_t rows = dim(model, "fc.weight", 0);
    enum delta_status st = text_of(meta, "class_names", &names, err);

    if (st)
        return st;
    if (!rows)
        rows = dim(model, "classifier.1.weight", 0);
    if (rows == 0 || rows > DELTA_MODEL_MAX_CLASSES)
        return delta_fail(err, rows ? DELTA_LIMIT : DELTA_FORMAT,
                          "the head ('fc.weight' or 'classifier.1.weight') has %llu rows",
                          (unsigned long long)rows);
    model->classes = delta_calloc((size_t)rows, sizeof *model->classes);
    if (!model->classes)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate classes");
    model->class_count = (size_t)rows;
    if (names)
        st = name_classes(model, names, err);
    for (size_t i = 0; i < model->class_count && !names; i++)
        snprintf(model->classes[i].text, sizeof model->classes[i].text, "class-%zu", i);
    return st ? st : delta_model_head(model, NULL, NULL, err);
}

enum delta_status delta_safetensors_meta_read(struct delta_model *model, const json_t *meta,
                                              const struct delta_arch_hint *hint,
                                              struct delta_safetensors_info *info,
                                              struct delta_error *err)
{
    struct delta_safetensors_info labels = {NULL, 0};
    enum delta_status st = DELTA_OK;

    if (meta && !json_is_object(meta))
        return delta_fail(err, DELTA_FORMAT, "'__metadata__' is not an object");
    st = read_arch(model, meta, hint, err);
    if (!st)
        st = read_classes(model, meta, err);
    if (!st)
        st = read_labels(meta, model->class_count, &labels, err);
    if (!st && info)
        *info = labels;
    else
        delta_safetensors_info_release(&labels);
    return st;
}

/* ---- writing ---- */

/* The shortest decimal that reads back as the same number. */
static void shortest(char out[32], double value)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, value);
        if (strtod(out, NULL) == value)
            return;
    }
}

static int set_triple(json_t *meta, const char *key, const double values[3])
{
    char a[32], b[32], c[32];

    shortest(a, values[0]);
    shortest(b, values[1]);
    shortest(c, values[2]);
    return json_object_set_new(meta, key, json_sprintf("%s %s %s", a, b, c));
}

json_t *delta_safetensors_meta_write(const struct delta_model *model)
{
    const struct delta_arch *arch = &model->arch;
    json_t *meta = json_object();
    size_t room = 1, used = 0;
    char *names;
    int bad = 0;

    for (size_t i = 0; i < model->class_count; i++)
        room += strlen(model->classes[i].text) + 1;
    names = delta_calloc(room, 1);
    for (size_t i = 0; names && i < model->class_count; i++)
        used += (size_t)snprintf(names + used, room - used, "%s%s", i ? " " : "",
                                 model->classes[i].text);
    if (names) {
        bad |= json_object_set_new(meta, "arch", json_string(arch->name));
        bad |= json_object_set_new(meta, "class_names", json_string(names));
        bad |= json_object_set_new(
            meta, "input",
            json_sprintf("%u %u %u", arch->channels, arch->height, arch->image_width));
        bad |= set_triple(meta, "mean", arch->mean);
        bad |= set_triple(meta, "std", arch->std);
        bad |= json_object_set_new(meta, "stem", json_string(arch->stem));
        bad |= json_object_set_new(meta, "width", json_sprintf("%u", arch->width));
        bad |= json_object_set_new(meta, "format", json_string("pt")); /* transformers asks */
    }
    if (!names || bad) {
        json_decref(meta);
        meta = NULL;
    }
    free(names);
    return meta;
}
