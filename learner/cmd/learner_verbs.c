#include "learner_verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/clock.h"
#include "delta/file.h"
#include "delta/safetensors.h"

#define MAX_ORDER_BYTES ((size_t)1 << 20)
#define MAX_ORDER_LINES 65535

static bool show_progress(void *context, const char *stage, double done, double total)
{
    struct learner_common *common = context;

    if (strncmp(common->stage, stage, sizeof common->stage - 1) != 0) {
        delta_progress_end(&common->progress);
        snprintf(common->stage, sizeof common->stage, "%s", stage);
        delta_progress_start(&common->progress, common->stage, false);
    }
    delta_progress_at(&common->progress, done, total);
    return true;
}

static void show_plan(void *context, const char *stage, size_t bytes, size_t images)
{
    struct learner_common *common = context;
    const double megabytes = (double)bytes / 1048576;

    if (bytes > common->planned_bytes)
        common->planned_bytes = bytes;
    common->at_once = images;
    fprintf(stderr, "%s %s: %s plans %.1f MB of memory, %zu images at once\n", LEARNER_PROGRAM,
            common->verb, stage, megabytes, images);
}

void learner_common_json(const struct learner_common *common, json_t *json)
{
    if (!common->planned_bytes)
        return;
    json_object_set_new(json, "planned_bytes", json_integer((json_int_t)common->planned_bytes));
    json_object_set_new(json, "images_at_once", json_integer((json_int_t)common->at_once));
}

const struct learner_budget *learner_common_budget(struct learner_common *common, const char *verb)
{
    const struct delta_clock clock = delta_clock_system();
    char why[256];

    if (!common->place[0] && learner_device_missing(why, sizeof why, common->device))
        fprintf(stderr, "%s %s: %s; computing on the CPU\n", LEARNER_PROGRAM, verb, why);
    snprintf(common->place, sizeof common->place, "%s:%s", common->device, common->precision);
    common->verb = verb;
    common->budget = (struct learner_budget){.device = common->place,
                                             .threads = (int)common->threads,
                                             .seed = (uint64_t)common->seed,
                                             .memory_bytes = (size_t)common->memory_mb << 20,
                                             .planned = show_plan,
                                             .progress = show_progress,
                                             .context = common};
    if (common->time_s > 0)
        common->budget.deadline_ms =
            delta_clock_monotonic_ms(&clock) + (int64_t)(1000 * common->time_s);
    return &common->budget;
}

void learner_common_done(struct learner_common *common)
{
    delta_progress_end(&common->progress);
}

enum delta_status learner_order_read(long **labels, size_t *count, const char *path,
                                     struct delta_error *err)
{
    struct delta_buf text;
    enum delta_status st = delta_file_read(path, MAX_ORDER_BYTES, &text, err);
    long *made = NULL;
    size_t used = 0, line = 1;

    if (st)
        return st;
    st = delta_buf_append(&text, "", 1, err); /* strtol stops at the NUL */
    if (!st && !(made = delta_calloc(MAX_ORDER_LINES + 1, sizeof *made)))
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (char *at = (char *)text.data; !st && *at; line++) {
        char *end = strchr(at, '\n'), *rest;
        char *next = end ? end + 1 : at + strlen(at);
        if (end)
            *end = '\0';
        if (at[strspn(at, " \t\r")] != '\0') {
            const long label = strtol(at, &rest, 10);
            if (rest == at || rest[strspn(rest, " \t\r")] != '\0' || label < 0)
                st = delta_fail(err, DELTA_FORMAT, "'%s', line %zu: '%.20s' is not a label number",
                                path, line, at);
            else if (used == MAX_ORDER_LINES)
                st = delta_fail(err, DELTA_LIMIT, "'%s' has more than %d labels", path,
                                MAX_ORDER_LINES);
            else
                made[used++] = label;
        }
        at = next;
    }
    delta_buf_release(&text);
    if (!st && used == 0)
        st = delta_fail(err, DELTA_FORMAT, "'%s' holds no labels", path);
    if (st) {
        free(made);
        return st;
    }
    *labels = made;
    *count = used;
    return DELTA_OK;
}

/* Data-set labels become class ids through the data's label names. */
static enum delta_status name_labels(struct delta_class_id *out, const long *labels, size_t count,
                                     const struct learner_samples *data, const char *where,
                                     struct delta_error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (labels[i] < 0 || (size_t)labels[i] >= data->class_count)
            return delta_fail(err, DELTA_MISMATCH, "%s: label %ld is not one of the data's %zu",
                              where, labels[i], data->class_count);
        out[i] = data->classes[labels[i]];
        for (size_t j = 0; j < i; j++)
            if (strcmp(out[j].text, out[i].text) == 0)
                return delta_fail(err, DELTA_FORMAT, "%s: label %ld stands there twice", where,
                                  labels[i]);
    }
    return DELTA_OK;
}

enum delta_status learner_classes_ordered(struct delta_class_id **out, size_t *count,
                                          const struct learner_samples *data,
                                          const char *order_path, struct delta_error *err)
{
    struct delta_class_id *made = NULL;
    long *labels = NULL;
    size_t used = data->class_count;
    enum delta_status st = DELTA_OK;

    if (order_path)
        st = learner_order_read(&labels, &used, order_path, err);
    if (!st && !(made = delta_calloc(used + 1, sizeof *made)))
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    if (!st && labels)
        st = name_labels(made, labels, used, data, order_path, err);
    else if (!st)
        memcpy(made, data->classes, used * sizeof *made);
    free(labels);
    if (st) {
        free(made);
        return st;
    }
    *out = made;
    *count = used;
    return DELTA_OK;
}

/* "a,b,c" */
static enum delta_status split_names(struct delta_class_id **out, size_t *count, const char *text,
                                     struct delta_error *err)
{
    size_t most = 1, used = 0;
    enum delta_status st = DELTA_OK;

    for (const char *p = text; *p; p++)
        most += *p == ',';
    struct delta_class_id *made = delta_calloc(most, sizeof *made);
    if (!made)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (const char *at = text; !st && *at;) {
        const size_t len = strcspn(at, ",");
        char name[2 * DELTA_CLASS_ID_MAX];
        snprintf(name, sizeof name, "%.*s", (int)(len < sizeof name ? len : sizeof name), at);
        if (len)
            st = delta_class_id_make(&made[used++], name, err);
        at += len + (at[len] == ',');
    }
    if (st) {
        free(made);
        return st;
    }
    *out = made;
    *count = used;
    return DELTA_OK;
}

enum delta_status learner_classes_pick(struct delta_class_id **out, size_t *count, const char *text,
                                       const struct learner_samples *data, const char *order_path,
                                       struct delta_error *err)
{
    char *end;
    enum delta_status st;

    if (text && text[0] && text[strspn(text, "0123456789")] != '\0')
        return split_names(out, count, text, err);
    st = learner_classes_ordered(out, count, data, order_path, err);
    if (st || !text || !text[0])
        return st;
    const unsigned long wanted = strtoul(text, &end, 10);
    if (wanted < 1 || wanted > *count) {
        st = delta_fail(err, DELTA_NOT_FOUND, "%s classes are wanted, the data has %zu", text,
                        *count);
        free(*out);
        *out = NULL;
        return st;
    }
    *count = wanted;
    return DELTA_OK;
}

/* True when the importer had no names: "class-0", "class-1", ... */
static bool is_unnamed(const struct delta_model *model)
{
    char name[32];

    for (size_t i = 0; i < model->class_count; i++) {
        snprintf(name, sizeof name, "class-%zu", i);
        if (strcmp(model->classes[i].text, name) != 0)
            return false;
    }
    return true;
}

static enum delta_status name_outputs(struct delta_model *model,
                                      const struct delta_safetensors_info *info,
                                      const struct learner_samples *data, const char *order_path,
                                      struct delta_error *err)
{
    long *labels = NULL;
    size_t count = 0;
    enum delta_status st = DELTA_OK;

    if (!is_unnamed(model))
        return DELTA_OK;
    if (order_path) {
        st = learner_order_read(&labels, &count, order_path, err);
        if (!st && count < model->class_count)
            st = delta_fail(err, DELTA_MISMATCH, "'%s' has %zu labels, the model %zu outputs",
                            order_path, count, model->class_count);
        if (!st)
            st = name_labels(model->classes, labels, model->class_count, data, order_path, err);
        free(labels);
        return st;
    }
    if (info->label_count == model->class_count)
        return name_labels(model->classes, info->labels, info->label_count, data,
                           "the model's own class labels", err);
    return delta_fail(err, DELTA_MISMATCH,
                      "the model does not name its outputs; give --order with their labels");
}

enum delta_status learner_model_open(struct delta_model *model, struct learner_samples *data,
                                     const char *model_path, const char *source,
                                     enum learner_split split, const char *order_path,
                                     size_t outputs, struct delta_digest *digest,
                                     struct delta_error *err)
{
    struct delta_safetensors_info info = {NULL, 0};
    struct learner_samples opened = LEARNER_SAMPLES_INIT;
    struct delta_model made = DELTA_MODEL_INIT;
    enum delta_status st = delta_model_load_any(&made, model_path, NULL, &info, err);

    if (!st && outputs && outputs != made.class_count)
        st = delta_fail(err, DELTA_MISMATCH, "--classes %zu, but '%s' has %zu outputs", outputs,
                        model_path, made.class_count);
    if (!st && source) {
        st = learner_samples_open_sized(&opened, source, split, made.arch.height,
                                        made.arch.image_width, err);
        if (!st)
            st = name_outputs(&made, &info, &opened, order_path, err);
    }
    if (!st && digest)
        st = delta_model_digest(&made, digest, err);
    delta_safetensors_info_release(&info);
    if (st) {
        delta_model_release(&made);
        learner_samples_release(&opened);
        return st;
    }
    *model = made;
    if (data)
        *data = opened;
    else
        learner_samples_release(&opened);
    return DELTA_OK;
}

enum delta_status learner_samples_known(struct learner_samples *samples,
                                        const struct delta_model *model, size_t per_class,
                                        struct delta_error *err)
{
    struct delta_class_id *known = delta_calloc(samples->class_count + 1, sizeof *known);
    size_t count = 0;
    enum delta_status st;

    if (!known)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t k = 0; k < model->class_count; k++)
        for (size_t i = 0; i < samples->class_count; i++)
            if (strcmp(samples->classes[i].text, model->classes[k].text) == 0)
                known[count++] = samples->classes[i];
    st = learner_samples_keep(samples, known, count, per_class, err);
    free(known);
    if (!st && samples->count == 0)
        st = delta_fail(err, DELTA_NOT_FOUND,
                        "the data has no image of a class that the model knows ('%s', ...)",
                        model->class_count ? model->classes[0].text : "none");
    return st;
}

void learner_device_name(char *out, size_t size, const struct delta_model *model,
                         const struct learner_budget *budget)
{
    const struct learner_net_options options = {
        .device = budget->device, .batch = 1, .threads = budget->threads};
    struct learner_net *net = NULL;

    out[0] = '\0';
    if (learner_net_new(&net, model, &options, NULL) == DELTA_OK)
        snprintf(out, size, "%s", learner_net_device(net));
    learner_net_free(net);
}

void learner_print_json(json_t *json)
{
    json_object_set_new(json, "schema", json_integer(1));
    json_dumpf(json, stdout, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(10));
    printf("\n");
    json_decref(json);
}
