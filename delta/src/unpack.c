#include "pack.h"

#include <stdlib.h>
#include <string.h>

#include "delta/file.h"

/* ---- header pieces, shared with the delta reader ---- */

enum delta_status delta_header_check(struct delta_msg_value root, const char *kind,
                                     struct delta_error *err)
{
    struct delta_msg_value need;
    uint64_t schema;
    char have[16];
    enum delta_status st = delta_msg_get_uint(root, "schema", UINT64_MAX, &schema, err);

    if (st)
        return st;
    if (schema != DELTA_SCHEMA)
        return delta_fail(err, DELTA_UNSUPPORTED, "header has schema %llu, this program knows %d",
                          (unsigned long long)schema, DELTA_SCHEMA);
    st = delta_msg_get_str(root, "kind", have, sizeof have, err);
    if (st)
        return st;
    if (strcmp(have, kind) != 0)
        return delta_fail(err, DELTA_FORMAT, "header is of kind '%s' in a %s file", have, kind);
    if (delta_msg_has(root, "need")) {
        st = delta_msg_get_array(root, "need", 64, &need, err);
        if (st)
            return st;
        for (size_t i = 0; i < delta_msg_count(need); i++) {
            char feature[32];
            st = delta_msg_to_str(delta_msg_at(need, i), "need", feature, sizeof feature, err);
            if (st || strcmp(kind, "delta") != 0 || strcmp(feature, "drop") != 0)
                return delta_fail(err, DELTA_UNSUPPORTED,
                                  "header needs a feature that this program does not know");
        }
    }
    return DELTA_OK;
}

static enum delta_status three_reals(struct delta_msg_value map, const char *key, double out[3],
                                     struct delta_error *err)
{
    struct delta_msg_value list;
    enum delta_status st = delta_msg_get_array(map, key, 3, &list, err);

    if (!st && delta_msg_count(list) != 3)
        st = delta_fail(err, DELTA_FORMAT, "key '%s' does not have 3 elements", key);
    for (size_t i = 0; i < 3 && !st; i++)
        st = delta_msg_to_real(delta_msg_at(list, i), key, &out[i], err);
    return st;
}

static enum delta_status input_unpack(struct delta_msg_value map, struct delta_arch *arch,
                                      struct delta_error *err)
{
    struct delta_msg_value list;
    uint64_t n[3] = {0, 0, 0};
    enum delta_status st = delta_msg_get_array(map, "input", 3, &list, err);

    if (!st && delta_msg_count(list) != 3)
        st = delta_fail(err, DELTA_FORMAT, "key 'input' does not have 3 elements");
    for (size_t i = 0; i < 3 && !st; i++)
        st = delta_msg_to_uint(delta_msg_at(list, i), "input", 65535, &n[i], err);
    arch->channels = (uint32_t)n[0];
    arch->height = (uint32_t)n[1];
    arch->image_width = (uint32_t)n[2];
    return st;
}

enum delta_status delta_arch_unpack(struct delta_msg_value map, struct delta_arch *out,
                                    struct delta_error *err)
{
    struct delta_arch arch = {.width = 0};
    uint64_t width = 0;
    enum delta_status st = input_unpack(map, &arch, err);

    if (!st)
        st = three_reals(map, "mean", arch.mean, err);
    if (!st)
        st = delta_msg_get_str(map, "name", arch.name, sizeof arch.name, err);
    if (!st)
        st = three_reals(map, "std", arch.std, err);
    if (!st)
        st = delta_msg_get_str(map, "stem", arch.stem, sizeof arch.stem, err);
    if (!st)
        st = delta_msg_get_uint(map, "width", 65535, &width, err);
    arch.width = (uint32_t)width;
    if (!st)
        st = delta_arch_check(&arch, err);
    if (st)
        return delta_fail_in(err, st, "arch");
    *out = arch;
    return DELTA_OK;
}

enum delta_status delta_shape_unpack(struct delta_msg_value map, const char *key, uint32_t *rank,
                                     uint64_t *shape, size_t *count, struct delta_error *err)
{
    struct delta_msg_value list;
    enum delta_status st = delta_msg_get_array(map, key, DELTA_TENSOR_RANK_MAX, &list, err);

    if (st)
        return st;
    *rank = (uint32_t)delta_msg_count(list);
    for (size_t i = 0; i < *rank && !st; i++)
        st = delta_msg_to_uint(delta_msg_at(list, i), key, UINT64_MAX, &shape[i], err);
    if (!st)
        st = delta_shape_count(*rank, shape, count, err);
    return st;
}

static enum delta_status class_unpack(struct delta_msg_value value, struct delta_class_id *out,
                                      struct delta_error *err)
{
    return delta_msg_to_str(value, "classes", out->text, sizeof out->text, err);
}

/* ---- a model file ---- */

enum delta_status delta_classes_unpack(struct delta_msg_value map, const char *key,
                                       struct delta_class_id **out, size_t *count,
                                       struct delta_error *err)
{
    struct delta_msg_value list;
    struct delta_class_id *classes;
    enum delta_status st = delta_msg_get_array(map, key, DELTA_MODEL_MAX_CLASSES, &list, err);

    if (st)
        return st;
    const size_t have = delta_msg_count(list);
    classes = delta_calloc(have, sizeof *classes);
    if (!classes)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu classes", have);
    for (size_t i = 0; i < have && !st; i++)
        st = class_unpack(delta_msg_at(list, i), &classes[i], err);
    if (!st)
        st = delta_classes_check(classes, have, err);
    if (st) {
        free(classes);
        return st;
    }
    *out = classes;
    *count = have;
    return DELTA_OK;
}

static enum delta_status parent_unpack(struct delta_msg_value root, struct delta_digest *parent,
                                       struct delta_error *err)
{
    struct delta_bytes bytes;
    enum delta_status st = delta_msg_get_bin(root, "parent", &bytes, err);

    if (st)
        return st;
    if (bytes.len == 0)
        return DELTA_OK;
    return delta_msg_get_fixed(root, "parent", parent->bytes, sizeof parent->bytes, err);
}

static enum delta_status check_payload(struct delta_bytes part, const struct delta_digest *want,
                                       const char *what, struct delta_error *err)
{
    const struct delta_digest have = delta_sha256(part);

    if (!delta_digest_equal(&have, want))
        return delta_fail(err, DELTA_DIGEST, "%s differs from its digest; the file is damaged",
                          what);
    return DELTA_OK;
}

/* The bitmap of a tensor, when its mode has one. */
static enum delta_status bits_unpack(struct delta_msg_value map, struct delta_bytes payload,
                                     size_t *offset, struct delta_tensor *tensor,
                                     struct delta_digest *digest, struct delta_error *err)
{
    enum delta_freeze_mode mode;
    struct delta_bytes part = {NULL, 0};
    uint64_t count = 0;
    char name[16];
    enum delta_status st = delta_msg_get_str(map, "freeze", name, sizeof name, err);

    if (!st)
        st = delta_freeze_parse(name, &mode, err);
    if (st)
        return st;
    const uint64_t limit = delta_freeze_limit(tensor, mode);
    if (limit) {
        st = delta_msg_get_uint(map, "bits", limit, &count, err);
        if (!st)
            st = delta_msg_get_fixed(map, "bits_sha", digest->bytes, sizeof digest->bytes, err);
        if (!st)
            st = delta_frame_take(payload, offset, (size_t)(count / 8 + (count % 8 != 0)), &part,
                                  err);
        if (!st)
            st = check_payload(part, digest, "the freeze bitmap", err);
        if (!st && count % 8 && part.data[part.len - 1] >> (count % 8))
            st = delta_fail(err, DELTA_FORMAT, "the freeze bitmap has bits beyond its end");
    }
    if (!st)
        st = delta_tensor_set_freeze(tensor, mode, part.data, (size_t)count, err);
    return st;
}

static enum delta_status tensor_unpack(struct delta_model *model, struct delta_msg_value map,
                                       struct delta_bytes payload, size_t *offset,
                                       struct delta_tensor_digests *digests,
                                       struct delta_error *err)
{
    char name[DELTA_TENSOR_NAME_MAX + 1] = "", dtype[8] = "";
    uint64_t shape[DELTA_TENSOR_RANK_MAX];
    struct delta_tensor *tensor;
    struct delta_bytes part;
    uint32_t rank;
    size_t count;
    enum delta_status st = delta_msg_get_str(map, "name", name, sizeof name, err);

    if (!st)
        st = delta_msg_get_str(map, "dtype", dtype, sizeof dtype, err);
    if (!st && strcmp(dtype, "f32") != 0)
        st = delta_fail(err, DELTA_UNSUPPORTED, "dtype '%s' is not known", dtype);
    if (!st)
        st = delta_shape_unpack(map, "shape", &rank, shape, &count, err);
    if (!st)
        st = delta_msg_get_fixed(map, "sha", digests->data.bytes, DELTA_DIGEST_BYTES, err);
    /* Taking the bytes first: a file cannot make us allocate more than it brings. */
    if (!st)
        st = delta_frame_take(payload, offset, count * sizeof(float), &part, err);
    if (!st)
        st = check_payload(part, &digests->data, "its data", err);
    if (!st)
        st = delta_model_add_tensor(model, name, rank, shape, &tensor, err);
    if (!st) {
        memcpy(tensor->data, part.data, part.len);
        st = bits_unpack(map, payload, offset, tensor, &digests->bits, err);
    }
    return st ? delta_fail_in(err, st, "tensor '%s'", name) : DELTA_OK;
}

static enum delta_status model_unpack(struct delta_model *model, struct delta_msg_value root,
                                      struct delta_bytes payload,
                                      struct delta_tensor_digests **digests,
                                      struct delta_error *err)
{
    struct delta_msg_value arch, list;
    size_t offset = 0;
    enum delta_status st = delta_header_check(root, "model", err);

    if (!st)
        st = delta_msg_get_map(root, "arch", &arch, err);
    if (!st)
        st = delta_arch_unpack(arch, &model->arch, err);
    if (!st)
        st = delta_classes_unpack(root, "classes", &model->classes, &model->class_count, err);
    if (!st)
        st = parent_unpack(root, &model->parent, err);
    if (!st)
        st = delta_msg_get_array(root, "tensors", DELTA_MODEL_MAX_TENSORS, &list, err);
    if (st)
        return st;
    *digests = delta_calloc(delta_msg_count(list), sizeof **digests);
    if (!*digests)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate digests");
    for (size_t i = 0; i < delta_msg_count(list) && !st; i++)
        st = tensor_unpack(model, delta_msg_at(list, i), payload, &offset, &(*digests)[i], err);
    if (!st && offset != payload.len)
        st =
            delta_fail(err, DELTA_FORMAT, "%zu bytes follow the last tensor", payload.len - offset);
    return st;
}

/* One model has one header: whatever a reader would not write itself (keys it does not know,
 * another order, a redundant value) would give the same model a second name. */
static enum delta_status check_canonical(const struct delta_model *model,
                                         const struct delta_tensor_digests *digests,
                                         struct delta_bytes header, struct delta_error *err)
{
    struct delta_buf again;
    enum delta_status st = delta_model_header(model, digests, &again, err);

    if (!st && !delta_bytes_equal(header, delta_buf_bytes(&again)))
        st = delta_fail(err, DELTA_FORMAT, "header is not the canonical one of this model");
    delta_buf_release(&again);
    return st;
}

enum delta_status delta_model_decode(struct delta_model *out, struct delta_bytes file,
                                     struct delta_digest *digest, struct delta_error *err)
{
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_tensor_digests *digests = NULL;
    struct delta_msg msg = {NULL, NULL};
    struct delta_frame frame;
    enum delta_status st = delta_frame_parse(&frame, file, err);

    if (!st && frame.kind != DELTA_CONTAINER_MODEL)
        st = delta_fail(err, DELTA_FORMAT, "this is a delta (.fld), not a model (.flm)");
    if (!st)
        st = delta_msg_parse(&msg, frame.header, err);
    if (st)
        return st;
    st = model_unpack(&model, delta_msg_root(&msg), frame.payload, &digests, err);
    if (!st)
        st = check_canonical(&model, digests, frame.header, err);
    if (st)
        goto done;
    if (digest)
        *digest = delta_sha256(frame.header);
    *out = model;
    model = (struct delta_model)DELTA_MODEL_INIT;
done:
    delta_model_release(&model);
    free(digests);
    delta_msg_release(&msg);
    return st;
}

static enum delta_status judge(struct delta_peek *peek, void *context, struct delta_error *err)
{
    (void)context;
    return delta_front_judge(peek, NULL, err);
}

enum delta_status delta_model_load(struct delta_model *out, const char *path,
                                   struct delta_digest *digest, struct delta_error *err)
{
    struct delta_buf file;
    enum delta_status st =
        delta_file_read_judged(path, DELTA_CONTAINER_MAX, judge, NULL, &file, err);

    if (st)
        return st;
    st = delta_model_decode(out, delta_buf_bytes(&file), digest, err);
    delta_buf_release(&file);
    return st ? delta_fail_in(err, st, "'%s'", path) : DELTA_OK;
}
