/* Models and deltas for people (80 columns) and as JSON. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cmd.h"

#define LABEL "%-11s"

void cmd_print_digest(const char *label, const struct delta_digest *digest)
{
    char hex[DELTA_DIGEST_HEX];

    delta_digest_hex(hex, digest);
    printf(LABEL "%s\n", label, delta_digest_is_zero(digest) ? "none" : hex);
}

static void print_arch(const struct delta_arch *arch)
{
    printf(LABEL "%s, stem %s, width %u, input %ux%ux%u\n", "network", arch->name, arch->stem,
           arch->width, arch->channels, arch->height, arch->image_width);
}

/* Names behind a label, wrapped. */
static void print_classes(const char *label, const struct delta_class_id *ids, size_t count)
{
    size_t column = 0;

    printf(LABEL, label);
    if (count == 0)
        printf("none");
    for (size_t i = 0; i < count; i++) {
        const size_t len = strlen(ids[i].text) + 1;
        if (column && column + len + 1 > 68) {
            printf("\n" LABEL, "");
            column = 0;
        }
        column +=
            (size_t)printf("%s%s%s", column ? " " : "", ids[i].text, i + 1 < count ? "," : "");
    }
    printf("\n");
}

static const char *shape_text(char out[32], uint32_t rank, const uint64_t *shape)
{
    size_t used = 0;

    out[0] = '\0';
    for (uint32_t i = 0; i < rank && used < 31; i++)
        used += (size_t)snprintf(out + used, 32 - used, "%s%" PRIu64, i ? "x" : "", shape[i]);
    return out;
}

/* The end of a name says more than its beginning. */
static const char *short_name(char out[32], const char *name)
{
    const size_t len = strlen(name);

    if (len <= 28)
        snprintf(out, 32, "%s", name);
    else
        snprintf(out, 32, "..%s", name + len - 26);
    return out;
}

static const char *freeze_text(enum delta_freeze_mode mode)
{
    static const char *const names[] = {"live", "frozen", "rows", "weights"};

    return names[mode];
}

static const char *scope_text(const struct delta_entry *entry)
{
    return entry->live_only ? "live" : entry->grown_only ? "new" : "all";
}

static const char *encoding_text(const struct delta_entry *entry)
{
    return entry->encoding == DELTA_ENCODING_RAW ? "raw" : "zstd";
}

static uint64_t entry_total(const struct delta_entry *entry)
{
    uint64_t total = 1;

    for (uint32_t i = 0; i < entry->rank; i++)
        total *= entry->shape[i]; /* bounded when the delta was opened */
    return total;
}

static const char *time_text(char out[32], int64_t ms)
{
    const time_t seconds = (time_t)(ms / 1000);
    struct tm utc;

    if (!gmtime_r(&seconds, &utc) || strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &utc) == 0)
        snprintf(out, 32, "%" PRId64 " ms", ms);
    return out;
}

static void print_provenance(const struct delta_provenance *p)
{
    char when[32];

    printf(LABEL "by %s, method %s\n", "made", p->device[0] ? p->device : "?",
           p->method[0] ? p->method : "?");
    printf(LABEL "%s, %s\n", "", time_text(when, p->created_ms),
           p->software[0] ? p->software : "?");
    printf(LABEL "from %u new and %u replayed images\n", "", p->new_samples, p->replay_samples);
    if (p->tested_old)
        printf(LABEL "old classes %.2f %% -> %.2f %% on %u images\n", "", 100 * p->old_before,
               100 * p->old_after, p->tested_old);
    if (p->tested_new)
        printf(LABEL "new classes %.2f %% on %u images\n", "", 100 * p->new_recall, p->tested_new);
}

void cmd_print_delta(const struct delta_reader *reader)
{
    char name[32], shape[32], size[16];
    uint64_t bytes = 0, values = 0;

    cmd_print_digest("base", &reader->base);
    cmd_print_digest("target", &reader->target);
    if (reader->has_parent)
        cmd_print_digest("parent", &reader->parent);
    print_arch(&reader->arch);
    print_classes("new class", reader->classes_added, reader->classes_added_count);
    if (reader->has_provenance)
        print_provenance(&reader->provenance);
    printf("\n%-28s %-15s %-5s %-4s %8s %7s %7s\n", "tensor", "shape", "scope", "enc", "values",
           "share", "bytes");
    for (size_t i = 0; i < reader->entry_count; i++) {
        const struct delta_entry *e = &reader->entries[i];
        printf("%-28s %-15.15s %-5s %-4s %8" PRIu64 " %5.1f %% %7" PRIu64 "\n",
               short_name(name, e->name), shape_text(shape, e->rank, e->shape), scope_text(e),
               encoding_text(e), e->elements, 100.0 * (double)e->elements / (double)entry_total(e),
               e->bytes);
        bytes += e->bytes;
        values += e->elements;
    }
    for (size_t i = 0; i < reader->plan_count; i++)
        printf("%-28s freeze plan becomes '%s', %zu bits\n",
               short_name(name, reader->plans[i].name), freeze_text(reader->plans[i].mode),
               reader->plans[i].count);
    printf("%zu tensors changed, %" PRIu64 " values in %s\n", reader->entry_count, values,
           delta_human_bytes(size, (double)bytes));
}

void cmd_print_model(const struct delta_model *model)
{
    char name[32], shape[32], size[16];
    size_t live = 0, all = 0;

    cmd_print_digest("parent", &model->parent);
    print_arch(&model->arch);
    printf(LABEL "%zu\n", "classes", model->class_count);
    print_classes("", model->classes, model->class_count);
    printf("\n%-28s %-15s %-8s %9s %7s %8s\n", "tensor", "shape", "plan", "live", "share", "bytes");
    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct delta_tensor *t = &model->tensors[i];
        const size_t n = delta_tensor_live_count(t);
        printf("%-28s %-15.15s %-8s %9zu %5.1f %% %8zu\n", short_name(name, t->name),
               shape_text(shape, t->rank, t->shape), freeze_text(t->freeze.mode), n,
               100.0 * (double)n / (double)t->count, t->count * sizeof(float));
        live += n;
        all += t->count;
    }
    printf("%zu tensors, %zu of %zu values live, %s\n", model->tensor_count, live, all,
           delta_human_bytes(size, (double)all * sizeof(float)));
}

/* ---- JSON ---- */

static json_t *json_arch(const struct delta_arch *arch)
{
    return json_pack("{s:s, s:s, s:i, s:[i,i,i], s:[f,f,f], s:[f,f,f]}", "name", arch->name, "stem",
                     arch->stem, "width", (int)arch->width, "input", (int)arch->channels,
                     (int)arch->height, (int)arch->image_width, "mean", arch->mean[0],
                     arch->mean[1], arch->mean[2], "std", arch->std[0], arch->std[1], arch->std[2]);
}

static json_t *json_classes(const struct delta_class_id *ids, size_t count)
{
    json_t *list = json_array();

    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_string(ids[i].text));
    return list;
}

static json_t *json_shape(uint32_t rank, const uint64_t *shape)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < rank; i++)
        json_array_append_new(list, json_integer((json_int_t)shape[i]));
    return list;
}

static json_t *json_provenance(const struct delta_provenance *p)
{
    return json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:f}", "device", p->device, "method",
        p->method, "software", p->software, "created_ms", (json_int_t)p->created_ms, "new_samples",
        (json_int_t)p->new_samples, "replay_samples", (json_int_t)p->replay_samples, "tested_old",
        (json_int_t)p->tested_old, "old_before", p->old_before, "old_after", p->old_after,
        "tested_new", (json_int_t)p->tested_new, "new_recall", p->new_recall);
}

json_t *cmd_json_delta(const struct delta_reader *reader)
{
    json_t *tensors = json_array(), *plans = json_array();

    for (size_t i = 0; i < reader->entry_count; i++) {
        const struct delta_entry *e = &reader->entries[i];
        json_array_append_new(
            tensors,
            json_pack("{s:s, s:o, s:s, s:s, s:I, s:f, s:I, s:I, s:o}", "name", e->name, "shape",
                      json_shape(e->rank, e->shape), "scope", scope_text(e), "encoding",
                      encoding_text(e), "values", (json_int_t)e->elements, "share",
                      (double)e->elements / (double)entry_total(e), "bytes", (json_int_t)e->bytes,
                      "offset", (json_int_t)e->offset, "sha256", cmd_json_digest(&e->sha256)));
    }
    for (size_t i = 0; i < reader->plan_count; i++)
        json_array_append_new(plans, json_pack("{s:s, s:s, s:I}", "name", reader->plans[i].name,
                                               "mode", freeze_text(reader->plans[i].mode), "bits",
                                               (json_int_t)reader->plans[i].count));
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "kind", "delta", "id",
                     cmd_json_digest(&reader->id), "base", cmd_json_digest(&reader->base), "target",
                     cmd_json_digest(&reader->target), "parent",
                     cmd_json_digest(reader->has_parent ? &reader->parent : &reader->base), "arch",
                     json_arch(&reader->arch), "classes_added",
                     json_classes(reader->classes_added, reader->classes_added_count), "provenance",
                     reader->has_provenance ? json_provenance(&reader->provenance) : json_null(),
                     "tensors", tensors, "plans", plans);
}

json_t *cmd_json_model(const struct delta_model *model)
{
    json_t *tensors = json_array();

    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct delta_tensor *t = &model->tensors[i];
        json_array_append_new(tensors, json_pack("{s:s, s:o, s:s, s:I, s:I, s:I}", "name", t->name,
                                                 "shape", json_shape(t->rank, t->shape), "freeze",
                                                 freeze_text(t->freeze.mode), "elements",
                                                 (json_int_t)t->count, "live",
                                                 (json_int_t)delta_tensor_live_count(t), "bytes",
                                                 (json_int_t)(t->count * sizeof(float))));
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "parent", cmd_json_digest(&model->parent), "arch",
                     json_arch(&model->arch), "classes",
                     json_classes(model->classes, model->class_count), "tensors", tensors);
}
