#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "pack.h"

static enum delta_status wrong_base(const struct delta_digest *have,
                                    const struct delta_digest *want, struct delta_error *err)
{
    char a[DELTA_DIGEST_HEX], b[DELTA_DIGEST_HEX];

    delta_digest_hex(a, have);
    delta_digest_hex(b, want);
    return delta_fail(
        err, DELTA_BASE_UNKNOWN,
        "delta is for base %.16s, but this model is %.16s; fetch that base or another "
        "delta",
        b, a);
}

static enum delta_status add_classes(struct delta_model *model, const struct delta_reader *reader,
                                     struct delta_error *err)
{
    struct delta_class_id *classes;

    if (reader->classes_dropped > model->class_count)
        return delta_fail(err, DELTA_MISMATCH, "drops %zu classes of %zu", reader->classes_dropped,
                          model->class_count);
    model->class_count -= reader->classes_dropped;
    const size_t count = model->class_count + reader->classes_added_count;
    if (reader->classes_added_count == 0)
        return DELTA_OK;
    if (count > DELTA_MODEL_MAX_CLASSES)
        return delta_fail(err, DELTA_LIMIT, "%zu classes, the limit is %d", count,
                          DELTA_MODEL_MAX_CLASSES);
    classes = reallocarray(model->classes, count, sizeof *classes);
    if (!classes)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu classes", count);
    memcpy(classes + model->class_count, reader->classes_added,
           reader->classes_added_count * sizeof *classes);
    model->classes = classes;
    model->class_count = count;
    return DELTA_OK; /* a class listed twice is found when the header is made */
}

/* Resizes the tensor to the entry's shape, when base and changed classes allow exactly that. */
static enum delta_status take_shape(struct delta_model *model, struct delta_tensor *tensor,
                                    const struct delta_entry *entry,
                                    const struct delta_reader *reader, struct delta_error *err)
{
    const size_t row_bytes = tensor->count / (size_t)tensor->shape[0] * sizeof(float);
    size_t more;

    if (tensor->rank != entry->rank || memcmp(tensor->shape + 1, entry->shape + 1,
                                              (tensor->rank - 1) * sizeof tensor->shape[0]) != 0)
        return delta_fail(err, DELTA_MISMATCH, "the base has another shape");
    if (entry->shape[0] == tensor->shape[0])
        return DELTA_OK;
    if (!delta_rows_fit(tensor->shape[0], entry->shape[0], reader))
        return delta_fail(err, DELTA_MISMATCH,
                          "goes from %llu to %llu rows, but %zu classes are new and %zu go",
                          (unsigned long long)tensor->shape[0], (unsigned long long)entry->shape[0],
                          reader->classes_added_count, reader->classes_dropped);
    if (entry->shape[0] > tensor->shape[0] &&
        (!delta_size_mul(row_bytes, (size_t)(entry->shape[0] - tensor->shape[0]), &more) ||
         more > DELTA_MODEL_MAX_BYTES - delta_model_bytes(model)))
        return delta_fail(err, DELTA_LIMIT, "the model would exceed %zu bytes",
                          DELTA_MODEL_MAX_BYTES);
    return delta_tensor_resize(tensor, entry->shape[0], err);
}

static enum delta_status apply_entry(struct delta_model *model, struct delta_tensor *tensor,
                                     const struct delta_reader *reader,
                                     const struct delta_entry *entry, struct delta_digest *digest,
                                     struct delta_error *err)
{
    const enum delta_scope scope = delta_entry_scope(entry);
    const size_t before = tensor->count;
    struct delta_coding coding = {entry->encoding, scope, (size_t)entry->elements};
    struct delta_pull pull;
    enum delta_status st = take_shape(model, tensor, entry, reader, err);

    if (st)
        return st;
    const size_t base_count = before < tensor->count ? before : tensor->count;
    const size_t count = delta_scope_count(tensor, scope, base_count);
    if (scope != DELTA_SCOPE_SOME && count != coding.count)
        return delta_fail(err, DELTA_MISMATCH, "brings %zu values, the base's plan has %zu places",
                          coding.count, count);
    delta_pull_memory(&pull,
                      delta_bytes(reader->payload.data + entry->offset, (size_t)entry->bytes));
    st = delta_codec_decode(&coding, &pull, tensor, base_count, (uint32_t *)(void *)tensor->data,
                            err);
    if (st)
        return st;
    *digest = delta_sha256(delta_bytes(tensor->data, tensor->count * sizeof(float)));
    if (!delta_digest_equal(digest, &entry->target_sha256))
        return delta_fail(err, DELTA_DIGEST, "its values do not give the stated digest");
    return DELTA_OK;
}

static enum delta_status apply_entries(struct delta_model *model, const struct delta_reader *reader,
                                       struct delta_tensor_digests *digests,
                                       struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; i < reader->entry_count && !st; i++) {
        const struct delta_entry *entry = &reader->entries[i];
        struct delta_tensor *tensor = delta_model_find(model, entry->name);
        if (!tensor)
            return delta_fail(err, DELTA_MISMATCH, "the base has no tensor '%s'", entry->name);
        struct delta_tensor_digests *digest = &digests[tensor - model->tensors];
        st = apply_entry(model, tensor, reader, entry, &digest->data, err);
        if (st)
            st = delta_fail_in(err, st, "tensor '%s'", entry->name);
    }
    return st;
}

static enum delta_status apply_plans(struct delta_model *model, const struct delta_reader *reader,
                                     struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; i < reader->plan_count && !st; i++) {
        const struct delta_plan_change *plan = &reader->plans[i];
        struct delta_tensor *tensor = delta_model_find(model, plan->name);
        if (!tensor)
            return delta_fail(err, DELTA_MISMATCH, "the base has no tensor '%s'", plan->name);
        st = delta_tensor_set_freeze(tensor, plan->mode, plan->bits.data, plan->count, err);
    }
    return st;
}

/* The name of a model whose values have these digests; bitmaps are hashed here. */
static enum delta_status name_of(const struct delta_model *model,
                                 struct delta_tensor_digests *digests, struct delta_digest *out,
                                 struct delta_error *err)
{
    struct delta_buf header;
    enum delta_status st;

    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct delta_freeze *plan = &model->tensors[i].freeze;
        if (plan->count)
            digests[i].bits = delta_sha256(delta_bytes(plan->bits, delta_freeze_bytes(plan)));
    }
    st = delta_model_header(model, digests, &header, err);
    if (!st)
        *out = delta_sha256(delta_buf_bytes(&header));
    delta_buf_release(&header);
    return st;
}

enum delta_status delta_apply(const struct delta_model *base, const struct delta_reader *reader,
                              struct delta_model *out, struct delta_error *err)
{
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_tensor_digests *digests = NULL;
    struct delta_digest name;
    enum delta_status st = delta_model_hash(base, &digests, err);

    if (!st)
        st = name_of(base, digests, &name, err);
    if (!st && !delta_digest_equal(&name, &reader->base))
        st = wrong_base(&name, &reader->base, err);
    if (!st && !delta_arch_equal(&base->arch, &reader->arch))
        st = delta_fail(err, DELTA_MISMATCH, "base and delta differ in architecture or input");
    if (!st)
        st = delta_model_copy(&model, base, err);
    if (!st)
        st = add_classes(&model, reader, err);
    if (!st)
        st = apply_entries(&model, reader, digests, err);
    if (!st)
        st = apply_plans(&model, reader, err);
    if (st)
        goto done;
    model.parent = reader->has_parent ? reader->parent : reader->base;
    st = name_of(&model, digests, &name, err);
    if (!st && !delta_digest_equal(&name, &reader->target))
        st = delta_fail(err, DELTA_DIGEST, "base and delta do not give the stated target");
    if (!st)
        st = delta_model_check_finite(&model, err);
    if (st)
        goto done;
    *out = model;
    model = (struct delta_model)DELTA_MODEL_INIT;
done:
    delta_model_release(&model);
    free(digests);
    return st;
}
