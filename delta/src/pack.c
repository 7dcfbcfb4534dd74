#include "pack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"

static const char *const freeze_names[] = {
    [DELTA_FREEZE_LIVE] = "live",
    [DELTA_FREEZE_ALL] = "all",
    [DELTA_FREEZE_ROWS] = "rows",
    [DELTA_FREEZE_WEIGHTS] = "weights",
};

const char *delta_freeze_name(enum delta_freeze_mode mode)
{
    return freeze_names[mode];
}

enum delta_status delta_freeze_parse(const char *name, enum delta_freeze_mode *mode,
                                     struct delta_error *err)
{
    for (size_t i = 0; i < sizeof freeze_names / sizeof freeze_names[0]; i++)
        if (strcmp(freeze_names[i], name) == 0) {
            *mode = (enum delta_freeze_mode)i;
            return DELTA_OK;
        }
    return delta_fail(err, DELTA_UNSUPPORTED, "unknown freeze mode '%.20s'", name);
}

/* ---- checks: what is written must be readable ---- */

static enum delta_status check_word(const char *what, const char *text, struct delta_error *err)
{
    struct delta_error inner = DELTA_ERROR_INIT;

    if (delta_class_id_check(text, &inner))
        return delta_fail(err, DELTA_FORMAT,
                          "%s '%.31s' is not a lower-case word of letters, digits, '.', '_', '-'",
                          what, text);
    return DELTA_OK;
}

enum delta_status delta_arch_check(const struct delta_arch *arch, struct delta_error *err)
{
    enum delta_status st = check_word("architecture", arch->name, err);

    if (!st)
        st = check_word("stem", arch->stem, err);
    if (st)
        return st;
    if (arch->width < 1 || arch->width > 65535)
        return delta_fail(err, DELTA_LIMIT, "width %u is not within 1 and 65535", arch->width);
    if (arch->channels < 1 || arch->channels > 3 || arch->height < 1 || arch->height > 4096 ||
        arch->image_width < 1 || arch->image_width > 4096)
        return delta_fail(err, DELTA_LIMIT,
                          "input of %u x %u x %u is not within 1..3 x 1..4096 x 1..4096",
                          arch->channels, arch->height, arch->image_width);
    for (int i = 0; i < 3; i++)
        if (!isfinite(arch->mean[i]) || !isfinite(arch->std[i]) ||
            (i < (int)arch->channels && !(arch->std[i] > 0)))
            return delta_fail(err, DELTA_FORMAT,
                              "mean or standard deviation of channel %d is not usable", i);
    return DELTA_OK;
}

bool delta_arch_equal(const struct delta_arch *a, const struct delta_arch *b)
{
    return strcmp(a->name, b->name) == 0 && strcmp(a->stem, b->stem) == 0 && a->width == b->width &&
           a->channels == b->channels && a->height == b->height &&
           a->image_width == b->image_width && memcmp(a->mean, b->mean, sizeof a->mean) == 0 &&
           memcmp(a->std, b->std, sizeof a->std) == 0;
}

static int class_order(const void *a, const void *b)
{
    return strcmp(((const struct delta_class_id *)a)->text,
                  ((const struct delta_class_id *)b)->text);
}

/* Duplicates by sorting a copy: a quadratic search over 65535 names would be an attack. */
enum delta_status delta_classes_check(const struct delta_class_id *classes, size_t count,
                                      struct delta_error *err)
{
    struct delta_class_id *sorted = delta_calloc(count, sizeof *sorted);
    enum delta_status st = DELTA_OK;

    if (!sorted)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu classes", count);
    for (size_t i = 0; i < count && !st; i++) {
        sorted[i] = classes[i];
        st = delta_class_id_check(classes[i].text, err);
    }
    if (!st)
        qsort(sorted, count, sizeof *sorted, class_order);
    for (size_t i = 1; i < count && !st; i++)
        if (strcmp(sorted[i - 1].text, sorted[i].text) == 0)
            st = delta_fail(err, DELTA_FORMAT, "class '%s' is listed twice", sorted[i].text);
    free(sorted);
    return st;
}

/* ---- header pieces ---- */

void delta_arch_pack(struct delta_msg_out *out, const struct delta_arch *arch)
{
    delta_msg_map(out, 6);
    delta_msg_str(out, "input");
    delta_msg_array(out, 3);
    delta_msg_uint(out, arch->channels);
    delta_msg_uint(out, arch->height);
    delta_msg_uint(out, arch->image_width);
    delta_msg_str(out, "mean");
    delta_msg_array(out, 3);
    for (int i = 0; i < 3; i++)
        delta_msg_real(out, arch->mean[i]);
    delta_msg_str(out, "name");
    delta_msg_str(out, arch->name);
    delta_msg_str(out, "std");
    delta_msg_array(out, 3);
    for (int i = 0; i < 3; i++)
        delta_msg_real(out, arch->std[i]);
    delta_msg_str(out, "stem");
    delta_msg_str(out, arch->stem);
    delta_msg_str(out, "width");
    delta_msg_uint(out, arch->width);
}

void delta_shape_pack(struct delta_msg_out *out, uint32_t rank, const uint64_t *shape)
{
    delta_msg_array(out, rank);
    for (uint32_t i = 0; i < rank; i++)
        delta_msg_uint(out, shape[i]);
}

static void tensor_pack(struct delta_msg_out *out, const struct delta_tensor *tensor,
                        const struct delta_tensor_digests *digests)
{
    const bool bits = tensor->freeze.count > 0; /* an outline has no bitmaps at hand */

    delta_msg_map(out, bits ? 7 : 5);
    if (bits) {
        delta_msg_str(out, "bits");
        delta_msg_uint(out, tensor->freeze.count);
        delta_msg_str(out, "bits_sha");
        delta_msg_bin(out, digests->bits.bytes, DELTA_DIGEST_BYTES);
    }
    delta_msg_str(out, "dtype");
    delta_msg_str(out, "f32");
    delta_msg_str(out, "freeze");
    delta_msg_str(out, delta_freeze_name(tensor->freeze.mode));
    delta_msg_str(out, "name");
    delta_msg_str(out, tensor->name);
    delta_msg_str(out, "sha");
    delta_msg_bin(out, digests->data.bytes, DELTA_DIGEST_BYTES);
    delta_msg_str(out, "shape");
    delta_shape_pack(out, tensor->rank, tensor->shape);
}

static void header_pack(struct delta_msg_out *out, const struct delta_model *model,
                        const size_t *order, const struct delta_tensor_digests *digests)
{
    delta_msg_map(out, 6);
    delta_msg_str(out, "arch");
    delta_arch_pack(out, &model->arch);
    delta_msg_str(out, "classes");
    delta_msg_array(out, model->class_count);
    for (size_t i = 0; i < model->class_count; i++)
        delta_msg_str(out, model->classes[i].text);
    delta_msg_str(out, "kind");
    delta_msg_str(out, "model");
    delta_msg_str(out, "parent");
    delta_msg_bin(out, model->parent.bytes,
                  delta_digest_is_zero(&model->parent) ? 0 : DELTA_DIGEST_BYTES);
    delta_msg_str(out, "schema");
    delta_msg_uint(out, DELTA_SCHEMA);
    delta_msg_str(out, "tensors");
    delta_msg_array(out, model->tensor_count);
    for (size_t i = 0; i < model->tensor_count; i++)
        tensor_pack(out, &model->tensors[order[i]], &digests[order[i]]);
}

/* qsort has no context argument: sort name pointers beside their indices. */
struct named {
    const char *name;
    size_t index;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

enum delta_status delta_model_order(const struct delta_model *model, size_t **order,
                                    struct delta_error *err)
{
    const size_t count = model->tensor_count;
    struct named *named = delta_calloc(count, sizeof *named);

    *order = delta_calloc(count, sizeof **order);
    if (!named || !*order) {
        free(named);
        free(*order);
        *order = NULL;
        return delta_fail(err, DELTA_NO_MEMORY, "cannot sort %zu tensors", count);
    }
    for (size_t i = 0; i < count; i++)
        named[i] = (struct named){model->tensors[i].name, i};
    qsort(named, count, sizeof *named, by_name);
    for (size_t i = 0; i < count; i++)
        (*order)[i] = named[i].index;
    free(named);
    return DELTA_OK;
}

enum delta_status delta_model_header(const struct delta_model *model,
                                     const struct delta_tensor_digests *digests,
                                     struct delta_buf *out, struct delta_error *err)
{
    struct delta_msg_out msg = {out, DELTA_OK};
    size_t *order = NULL, used;
    enum delta_status st = delta_arch_check(&model->arch, err);

    delta_buf_init(out, DELTA_HEADER_MAX);
    if (!st)
        st = delta_classes_check(model->classes, model->class_count, err);
    if (!st)
        st = delta_model_order(model, &order, err);
    if (st)
        goto done;
    header_pack(&msg, model, order, digests);
    if (msg.status)
        st = delta_fail(err, msg.status, "model header exceeds %zu bytes", DELTA_HEADER_MAX);
    else /* so many values that no reader would take it? */
        st = delta_msg_scan(delta_buf_bytes(out), &used, err);
done:
    free(order);
    if (st)
        delta_buf_release(out);
    return st;
}

enum delta_status delta_model_hash(const struct delta_model *model,
                                   struct delta_tensor_digests **digests, struct delta_error *err)
{
    struct delta_tensor_digests *all = delta_calloc(model->tensor_count, sizeof *all);

    if (!all)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate digests");
    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct delta_tensor *tensor = &model->tensors[i];
        all[i].data = delta_sha256(delta_bytes(tensor->data, tensor->count * sizeof(float)));
        if (tensor->freeze.bits)
            all[i].bits =
                delta_sha256(delta_bytes(tensor->freeze.bits, delta_freeze_bytes(&tensor->freeze)));
    }
    *digests = all;
    return DELTA_OK;
}

/* ---- the version's name and its file ---- */

enum delta_status delta_model_digest(const struct delta_model *model, struct delta_digest *out,
                                     struct delta_error *err)
{
    struct delta_tensor_digests *digests = NULL;
    struct delta_buf header = {0};
    enum delta_status st = delta_model_hash(model, &digests, err);

    if (!st)
        st = delta_model_header(model, digests, &header, err);
    if (!st)
        *out = delta_sha256(delta_buf_bytes(&header));
    delta_buf_release(&header);
    free(digests);
    return st;
}

/* Payload area: per tensor in name order its elements, then its bitmap, each on 64 bytes.
 * With at == NULL only measures. */
static size_t lay_out(const struct delta_model *model, const size_t *order, uint8_t *at)
{
    size_t offset = 0, end = 0;

    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct delta_tensor *tensor = &model->tensors[order[i]];
        const size_t sizes[2] = {tensor->count * sizeof(float),
                                 delta_freeze_bytes(&tensor->freeze)};
        const void *const parts[2] = {tensor->data, tensor->freeze.bits};
        for (int k = 0; k < 2; k++) {
            if (sizes[k] == 0)
                continue;
            (void)delta_frame_align(&offset); /* bounded by DELTA_MODEL_MAX_BYTES and count */
            if (at)
                memcpy(at + offset, parts[k], sizes[k]);
            offset += sizes[k];
            end = offset;
        }
    }
    return end;
}

enum delta_status delta_model_encode(const struct delta_model *model, struct delta_buf *out,
                                     struct delta_error *err)
{
    struct delta_tensor_digests *digests = NULL;
    struct delta_buf header = {0};
    size_t *order = NULL;
    uint8_t *payload;
    enum delta_status st = delta_model_hash(model, &digests, err);

    *out = (struct delta_buf){0};
    if (!st)
        st = delta_model_header(model, digests, &header, err);
    if (!st)
        st = delta_model_order(model, &order, err);
    if (!st)
        st = delta_frame_build(DELTA_CONTAINER_MODEL, delta_buf_bytes(&header),
                               lay_out(model, order, NULL), out, &payload, err);
    if (!st)
        lay_out(model, order, payload);
    free(order);
    delta_buf_release(&header);
    free(digests);
    return st;
}

enum delta_status delta_model_save(const struct delta_model *model, const char *path,
                                   struct delta_error *err)
{
    struct delta_buf file;
    enum delta_status st = delta_model_encode(model, &file, err);

    if (!st)
        st = delta_file_write(path, delta_buf_bytes(&file), 0644, err);
    delta_buf_release(&file);
    return st;
}
