/* Models, deltas and comparisons as JSON. */
#include "cmd.h"

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

json_t *cmd_json_signature(const struct cmd_signature *signature)
{
    static const char *const words[] = {"not checked", "trusted", "not trusted"};
    json_t *keys = json_array();
    json_t *root;

    for (size_t i = 0; i < signature->count; i++)
        json_array_append_new(keys, cmd_json_digest(&signature->signers[i]));
    root = json_pack("{s:s, s:b, s:o, s:o}", "trust", words[signature->trust], "signed",
                     signature->is_signed, "keys", keys, "trusted_by",
                     cmd_json_digest(&signature->trusted_by));
    if (signature->trust == CMD_TRUST_REFUSED) {
        json_object_set_new(root, "status", json_string(delta_status_name(signature->status)));
        json_object_set_new(root, "error", cmd_json_text(signature->why.text));
    }
    return root;
}

/* ---- changes ---- */

static json_t *json_heat(const struct delta_change *change)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < change->slices; i++)
        json_array_append_new(list, json_real(change->heat[i]));
    return list;
}

static json_t *json_bins(const struct delta_change *change)
{
    json_t *list = json_array();

    for (size_t i = 0; i < DELTA_CHANGE_BINS; i++)
        json_array_append_new(list, json_integer((json_int_t)change->bins[i]));
    return list;
}

/* Adds what the comparison tells to a tensor's object. */
static void set_change(json_t *object, const struct delta_change *change)
{
    static const char *const presence[] = {"both", "target only", "base only", "other shape"};
    json_t *more = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:f, s:f, s:f, s:I, s:o, s:o}", "in",
        presence[change->presence], "elements", (json_int_t)change->elements, "live",
        (json_int_t)change->live, "changed", (json_int_t)change->changed, "added",
        (json_int_t)change->added, "dropped", (json_int_t)change->dropped, "frozen_changed",
        (json_int_t)change->frozen_changed, "nonfinite", (json_int_t)change->nonfinite,
        "plan_changed", change->plan_changed, "norm", change->norm, "base_norm", change->base_norm,
        "largest", change->largest, "largest_at", (json_int_t)change->largest_at, "heat",
        json_heat(change), "histogram", json_bins(change));

    json_object_update(object, more);
    json_decref(more);
}

static void set_totals(json_t *root, const struct delta_comparison *comparison)
{
    json_t *totals =
        json_pack("{s:I, s:I, s:I, s:f, s:f}", "elements", (json_int_t)comparison->elements, "live",
                  (json_int_t)comparison->live, "changed", (json_int_t)comparison->changed, "norm",
                  comparison->norm, "base_norm", comparison->base_norm);

    json_object_set_new(root, "totals", totals);
}

json_t *cmd_json_comparison(const struct delta_comparison *comparison)
{
    json_t *tensors = json_array(), *root;

    for (size_t i = 0; i < comparison->count; i++) {
        const struct delta_change *c = &comparison->changes[i];
        json_t *row =
            json_pack("{s:s, s:o}", "name", c->name, "shape", json_shape(c->rank, c->shape));
        set_change(row, c);
        json_array_append_new(tensors, row);
    }
    root = json_pack("{s:b, s:I, s:I, s:o, s:o, s:i, s:o}", "same_arch", comparison->same_arch,
                     "classes_kept", (json_int_t)comparison->classes_kept, "classes_moved",
                     (json_int_t)comparison->classes_moved, "classes_added",
                     json_classes(comparison->added, comparison->added_count), "classes_removed",
                     json_classes(comparison->removed, comparison->removed_count),
                     "histogram_low_exponent", DELTA_CHANGE_LOW, "tensors", tensors);
    set_totals(root, comparison);
    return root;
}

static json_t *json_entries(const struct cmd_view *view)
{
    json_t *tensors = json_array();

    for (size_t i = 0; i < view->reader->entry_count; i++) {
        const struct delta_entry *e = &view->reader->entries[i];
        const struct delta_change *change =
            view->comparison ? delta_comparison_find(view->comparison, e->name) : NULL;
        json_t *row = json_pack("{s:s, s:o, s:s, s:s, s:I, s:f, s:I, s:I, s:o}", "name", e->name,
                                "shape", json_shape(e->rank, e->shape), "scope", cmd_scope_name(e),
                                "encoding", cmd_encoding_name(e), "values", (json_int_t)e->elements,
                                "share", (double)e->elements / (double)cmd_entry_total(e), "bytes",
                                (json_int_t)e->bytes, "offset", (json_int_t)e->offset, "sha256",
                                cmd_json_digest(&e->sha256));
        if (change)
            set_change(row, change);
        json_array_append_new(tensors, row);
    }
    return tensors;
}

json_t *cmd_json_delta(const struct cmd_view *view)
{
    const struct delta_reader *reader = view->reader;
    json_t *plans = json_array(), *root;

    for (size_t i = 0; i < reader->plan_count; i++)
        json_array_append_new(plans, json_pack("{s:s, s:s, s:I}", "name", reader->plans[i].name,
                                               "mode", cmd_freeze_name(reader->plans[i].mode),
                                               "bits", (json_int_t)reader->plans[i].count));
    root = json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "kind", "delta", "id",
                     cmd_json_digest(&reader->id), "base", cmd_json_digest(&reader->base), "target",
                     cmd_json_digest(&reader->target), "parent",
                     cmd_json_digest(reader->has_parent ? &reader->parent : &reader->base), "arch",
                     json_arch(&reader->arch), "classes_added",
                     json_classes(reader->classes_added, reader->classes_added_count), "provenance",
                     reader->has_provenance ? json_provenance(&reader->provenance) : json_null(),
                     "tensors", json_entries(view), "plans", plans);
    json_object_set_new(root, "classes_dropped", json_integer((json_int_t)reader->classes_dropped));
    if (view->base)
        json_object_set_new(root, "classes_before",
                            json_classes(view->base->classes, view->base->class_count));
    if (view->comparison) {
        json_object_set_new(root, "histogram_low_exponent", json_integer(DELTA_CHANGE_LOW));
        set_totals(root, view->comparison);
    }
    return root;
}

json_t *cmd_json_model(const struct delta_model *model)
{
    json_t *tensors = json_array();

    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct delta_tensor *t = &model->tensors[i];
        json_array_append_new(tensors, json_pack("{s:s, s:o, s:s, s:I, s:I, s:I}", "name", t->name,
                                                 "shape", json_shape(t->rank, t->shape), "freeze",
                                                 cmd_freeze_name(t->freeze.mode), "elements",
                                                 (json_int_t)t->count, "live",
                                                 (json_int_t)delta_tensor_live_count(t), "bytes",
                                                 (json_int_t)(t->count * sizeof(float))));
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "parent", cmd_json_digest(&model->parent), "arch",
                     json_arch(&model->arch), "classes",
                     json_classes(model->classes, model->class_count), "tensors", tensors);
}
