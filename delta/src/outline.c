#include "outline.h"

#include <stdlib.h>
#include <string.h>

#include "delta/file.h"

void delta_front_release(struct delta_front *front)
{
    delta_buf_release(&front->bytes);
}

/* The caller names the file. */
static enum delta_status read_front(struct delta_front *front, struct delta_peek *peek,
                                    struct delta_error *err)
{
    struct delta_bytes bytes;
    size_t len = 0;
    enum delta_status st = delta_peek_at(peek, 0, DELTA_FRAME_PREFIX, &bytes, err);

    delta_buf_init(&front->bytes, DELTA_HEADER_MAX + DELTA_SIGNATURE_BLOCK_MAX + 2048);
    front->file_len = peek->len;
    if (!st)
        st = delta_front_len(bytes, &len, err);
    if (!st && peek->len < len)
        st = delta_fail(err, DELTA_TRUNCATED, "container ends after %llu bytes",
                        (unsigned long long)peek->len);
    if (!st)
        st = delta_peek_at(peek, 0, len, &bytes, err);
    if (!st)
        st = delta_buf_append(&front->bytes, bytes.data, bytes.len, err);
    if (st)
        delta_front_release(front);
    return st;
}

enum delta_status delta_front_read(struct delta_front *front, const char *path,
                                   struct delta_error *err)
{
    struct delta_peek peek;
    enum delta_status st = delta_peek_open(&peek, path, err);

    *front = (struct delta_front){.file_len = 0};
    if (st)
        return st;
    st = read_front(front, &peek, err);
    delta_peek_close(&peek);
    return st ? delta_fail_in(err, st, "'%s'", path) : DELTA_OK;
}

/* All that can be said without the payloads, of either kind. */
static enum delta_status check_front(const struct delta_front *front, struct delta_error *err)
{
    enum delta_container_kind kind = DELTA_CONTAINER_MODEL;
    struct delta_outline outline;
    struct delta_reader reader;
    enum delta_status st = delta_container_kind(delta_buf_bytes(&front->bytes), &kind, err);

    if (!st && kind == DELTA_CONTAINER_DELTA) {
        st = delta_reader_init_front(&reader, front, err);
        if (!st)
            delta_reader_release(&reader);
    } else if (!st) {
        st = delta_outline_init(&outline, front, err);
        if (!st)
            delta_outline_release(&outline);
    }
    return st;
}

enum delta_status delta_front_judge(struct delta_peek *peek, const struct delta_keyring *ring,
                                    struct delta_error *err)
{
    struct delta_front front = {.file_len = 0};
    enum delta_status st = read_front(&front, peek, err);

    if (!st) /* a header is parsed only behind its signature */
        st = ring ? delta_front_verify(&front, ring, NULL, err) : check_front(&front, err);
    delta_front_release(&front);
    return st;
}

/* ---- the model's header ---- */

void delta_outline_release(struct delta_outline *outline)
{
    delta_model_release(&outline->model);
    free(outline->digests);
    free(outline->data_at);
    free(outline->bits_at);
    *outline = (struct delta_outline){.file_len = 0};
}

static enum delta_status take(const struct delta_frame *frame, size_t *offset, size_t len,
                              uint64_t *at, struct delta_error *err)
{
    struct delta_bytes part;
    enum delta_status st = delta_frame_take(frame->payload, offset, len, &part, err);

    if (!st)
        *at = frame->payload_at + *offset - len;
    return st;
}

static enum delta_status read_plan(struct delta_msg_value map, struct delta_tensor *tensor,
                                   struct delta_digest *digest, struct delta_error *err)
{
    uint64_t count = 0;
    char name[16];
    enum delta_status st = delta_msg_get_str(map, "freeze", name, sizeof name, err);

    if (!st)
        st = delta_freeze_parse(name, &tensor->freeze.mode, err);
    if (st)
        return st;
    const uint64_t limit = delta_freeze_limit(tensor, tensor->freeze.mode);
    if (limit == 0)
        return DELTA_OK;
    st = delta_msg_get_uint(map, "bits", limit, &count, err);
    if (!st && count == 0)
        st = delta_fail(err, DELTA_FORMAT, "a freeze plan of no bits");
    tensor->freeze.count = (size_t)count;
    return st ? st : delta_msg_get_fixed(map, "bits_sha", digest->bytes, DELTA_DIGEST_BYTES, err);
}

static enum delta_status read_tensor(struct delta_outline *out, size_t i,
                                     struct delta_msg_value map, const struct delta_frame *frame,
                                     size_t *offset, struct delta_error *err)
{
    struct delta_tensor *tensor = &out->model.tensors[i];
    char dtype[8] = "";
    enum delta_status st = delta_msg_get_str(map, "name", tensor->name, sizeof tensor->name, err);

    if (!st)
        st = delta_tensor_name_check(tensor->name, err);
    if (!st && i && strcmp(tensor[-1].name, tensor->name) >= 0)
        st = delta_fail(err, DELTA_FORMAT, "it is not in order of names");
    if (!st)
        st = delta_msg_get_str(map, "dtype", dtype, sizeof dtype, err);
    if (!st && strcmp(dtype, "f32") != 0)
        st = delta_fail(err, DELTA_UNSUPPORTED, "dtype '%s' is not known", dtype);
    if (!st)
        st = delta_shape_unpack(map, "shape", &tensor->rank, tensor->shape, &tensor->count, err);
    if (!st)
        st = delta_msg_get_fixed(map, "sha", out->digests[i].data.bytes, DELTA_DIGEST_BYTES, err);
    if (!st)
        st = take(frame, offset, tensor->count * sizeof(float), &out->data_at[i], err);
    if (!st)
        st = read_plan(map, tensor, &out->digests[i].bits, err);
    if (!st && tensor->freeze.count)
        st = take(frame, offset, delta_freeze_bytes(&tensor->freeze), &out->bits_at[i], err);
    return st ? delta_fail_in(err, st, "tensor '%s'", tensor->name) : DELTA_OK;
}

static enum delta_status read_tensors(struct delta_outline *out, struct delta_msg_value root,
                                      const struct delta_frame *frame, struct delta_error *err)
{
    struct delta_msg_value list;
    size_t offset = 0;
    enum delta_status st =
        delta_msg_get_array(root, "tensors", DELTA_MODEL_MAX_TENSORS, &list, err);

    if (st)
        return st;
    const size_t count = delta_msg_count(list);
    out->model.tensors = delta_calloc(count, sizeof *out->model.tensors);
    out->digests = delta_calloc(count, sizeof *out->digests);
    out->data_at = delta_calloc(count, sizeof *out->data_at);
    out->bits_at = delta_calloc(count, sizeof *out->bits_at);
    if (!out->model.tensors || !out->digests || !out->data_at || !out->bits_at)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu tensors", count);
    out->model.tensor_count = count;
    for (size_t i = 0; i < count && !st; i++)
        st = read_tensor(out, i, delta_msg_at(list, i), frame, &offset, err);
    if (!st && delta_model_bytes(&out->model) > DELTA_MODEL_MAX_BYTES)
        st = delta_fail(err, DELTA_LIMIT, "the model exceeds %zu bytes", DELTA_MODEL_MAX_BYTES);
    if (!st && offset != frame->payload.len)
        st = delta_fail(err, DELTA_FORMAT, "%zu bytes follow the last tensor",
                        frame->payload.len - offset);
    return st;
}

static enum delta_status read_header(struct delta_outline *out, struct delta_msg_value root,
                                     const struct delta_frame *frame, struct delta_error *err)
{
    struct delta_msg_value arch;
    struct delta_bytes parent;
    enum delta_status st = delta_header_check(root, "model", err);

    if (!st)
        st = delta_msg_get_map(root, "arch", &arch, err);
    if (!st)
        st = delta_arch_unpack(arch, &out->model.arch, err);
    if (!st)
        st = delta_classes_unpack(root, "classes", &out->model.classes, &out->model.class_count,
                                  err);
    if (!st)
        st = delta_msg_get_bin(root, "parent", &parent, err);
    if (!st && parent.len)
        st = delta_msg_get_fixed(root, "parent", out->model.parent.bytes, DELTA_DIGEST_BYTES, err);
    return st ? st : read_tensors(out, root, frame, err);
}

enum delta_status delta_outline_init(struct delta_outline *out, const struct delta_front *front,
                                     struct delta_error *err)
{
    struct delta_msg msg = {NULL, NULL};
    struct delta_buf again = {0};
    struct delta_frame frame;
    enum delta_status st =
        delta_frame_parse_front(&frame, delta_buf_bytes(&front->bytes), front->file_len, err);

    *out = (struct delta_outline){.file_len = front->file_len};
    if (!st && frame.kind != DELTA_CONTAINER_MODEL)
        st = delta_fail(err, DELTA_FORMAT, "this is a delta (.fld), not a model (.flm)");
    if (!st)
        st = delta_msg_parse(&msg, frame.header, err);
    if (st)
        return st;
    st = read_header(out, delta_msg_root(&msg), &frame, err);
    delta_msg_release(&msg);
    if (!st)
        st = delta_model_header(&out->model, out->digests, &again, err);
    if (!st && !delta_bytes_equal(frame.header, delta_buf_bytes(&again)))
        st = delta_fail(err, DELTA_FORMAT, "header is not the canonical one of this model");
    delta_buf_release(&again);
    if (!st)
        out->version = delta_sha256(frame.header);
    else
        delta_outline_release(out);
    return st;
}
