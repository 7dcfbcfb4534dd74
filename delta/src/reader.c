#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "pack.h"
#include "provenance.h"

void delta_reader_release(struct delta_reader *reader)
{
    if (!reader)
        return;
    free(reader->classes_added);
    free(reader->entries);
    free(reader->plans);
    *reader = (struct delta_reader){.entry_count = 0};
}

static enum delta_status check_digest(struct delta_bytes part, const struct delta_digest *want,
                                      const char *what, struct delta_error *err)
{
    const struct delta_digest have = delta_sha256(part);

    if (!delta_digest_equal(&have, want))
        return delta_fail(err, DELTA_DIGEST, "%s differs from its digest; the file is damaged",
                          what);
    return DELTA_OK;
}

static enum delta_status get_digest(struct delta_msg_value map, const char *key,
                                    struct delta_digest *out, struct delta_error *err)
{
    return delta_msg_get_fixed(map, key, out->bytes, sizeof out->bytes, err);
}

static enum delta_status read_encoding(struct delta_msg_value map, struct delta_entry *entry,
                                       struct delta_error *err)
{
    enum delta_scope scope = DELTA_SCOPE_ALL;
    char enc[16], name[16];
    enum delta_status st = delta_msg_get_str(map, "enc", enc, sizeof enc, err);

    if (!st)
        st = delta_msg_get_str(map, "scope", name, sizeof name, err);
    if (!st)
        st = delta_scope_parse(name, &scope, err);
    if (st)
        return st;
    st = delta_encoding_parse(enc, &entry->encoding, err);
    entry->live_only = scope == DELTA_SCOPE_LIVE;
    entry->grown_only = scope == DELTA_SCOPE_NEW;
    entry->sparse = scope == DELTA_SCOPE_SOME;
    if (!st && entry->sparse &&
        (entry->encoding == DELTA_ENCODING_ZSTD || entry->encoding == DELTA_ENCODING_DIFF ||
         entry->encoding == DELTA_ENCODING_INT8))
        st = delta_fail(err, DELTA_UNSUPPORTED, "encoding '%s' with scope '%s'", enc, name);
    return st;
}

/* Sizes that cannot be true are refused here, before anyone allocates by them. */
static enum delta_status check_sizes(const struct delta_entry *entry, size_t count,
                                     struct delta_error *err)
{
    bool wrong;

    if (entry->elements == 0 || entry->elements > count)
        return delta_fail(err, DELTA_FORMAT, "%llu values for %zu elements",
                          (unsigned long long)entry->elements, count);
    if (entry->sparse) /* positions take at most 47 bits each, values 41, and blocks a little */
        wrong = entry->bytes > 11 * entry->elements + 4096;
    else if (entry->encoding == DELTA_ENCODING_RAW)
        wrong = entry->bytes != entry->elements * 4;
    else
        wrong = entry->bytes >= entry->elements * 4;
    if (wrong)
        return delta_fail(err, DELTA_FORMAT, "%llu values do not make %llu bytes",
                          (unsigned long long)entry->elements, (unsigned long long)entry->bytes);
    return DELTA_OK;
}

static enum delta_status read_entry(struct delta_msg_value map, struct delta_bytes payload,
                                    size_t *offset, struct delta_entry *entry,
                                    struct delta_error *err)
{
    struct delta_bytes part;
    size_t count = 0;
    enum delta_status st = delta_msg_get_str(map, "name", entry->name, sizeof entry->name, err);

    if (!st)
        st = delta_tensor_name_check(entry->name, err);
    if (!st)
        st = read_encoding(map, entry, err);
    if (!st)
        st = delta_shape_unpack(map, "shape", &entry->rank, entry->shape, &count, err);
    if (!st)
        st = delta_msg_get_uint(map, "n", DELTA_MODEL_MAX_BYTES, &entry->elements, err);
    if (!st)
        st = delta_msg_get_uint(map, "len", DELTA_MODEL_MAX_BYTES, &entry->bytes, err);
    if (!st)
        st = check_sizes(entry, count, err);
    if (!st)
        st = get_digest(map, "sha", &entry->sha256, err);
    if (!st)
        st = get_digest(map, "to", &entry->target_sha256, err);
    if (!st)
        st = delta_frame_take(payload, offset, (size_t)entry->bytes, &part, err);
    if (!st) {
        entry->offset = *offset - part.len;
        if (part.data)
            st = check_digest(part, &entry->sha256, "its payload", err);
    }
    return st ? delta_fail_in(err, st, "tensor '%s'", entry->name) : DELTA_OK;
}

static enum delta_status read_entries(struct delta_reader *reader, struct delta_msg_value root,
                                      size_t *offset, struct delta_error *err)
{
    struct delta_msg_value list;
    enum delta_status st =
        delta_msg_get_array(root, "tensors", DELTA_MODEL_MAX_TENSORS, &list, err);

    if (st)
        return st;
    reader->entry_count = delta_msg_count(list);
    reader->entries = delta_calloc(reader->entry_count, sizeof *reader->entries);
    if (!reader->entries)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu entries", reader->entry_count);
    for (size_t i = 0; i < reader->entry_count && !st; i++) {
        struct delta_entry *entry = &reader->entries[i];
        st = read_entry(delta_msg_at(list, i), reader->payload, offset, entry, err);
        if (!st && i && strcmp(entry[-1].name, entry->name) >= 0)
            st = delta_fail(err, DELTA_FORMAT, "tensor '%s' is not in order of names", entry->name);
    }
    return st;
}

static enum delta_status read_plan(struct delta_msg_value map, struct delta_bytes payload,
                                   size_t *offset, struct delta_plan_change *plan,
                                   struct delta_error *err)
{
    uint64_t count = 0;
    char mode[16];
    enum delta_status st = delta_msg_get_str(map, "name", plan->name, sizeof plan->name, err);

    if (!st)
        st = delta_tensor_name_check(plan->name, err);
    if (!st)
        st = delta_msg_get_str(map, "mode", mode, sizeof mode, err);
    if (!st)
        st = delta_freeze_parse(mode, &plan->mode, err);
    if (st || plan->mode == DELTA_FREEZE_LIVE || plan->mode == DELTA_FREEZE_ALL)
        return st;
    st = delta_msg_get_uint(map, "bits", DELTA_MODEL_MAX_BYTES / 4, &count, err);
    if (!st && count == 0)
        st = delta_fail(err, DELTA_FORMAT, "a freeze plan of no bits");
    if (!st)
        st = get_digest(map, "sha", &plan->sha256, err);
    plan->count = (size_t)count;
    if (!st)
        st = delta_frame_take(payload, offset, plan->count / 8 + (plan->count % 8 != 0),
                              &plan->bits, err);
    plan->offset = *offset - plan->bits.len;
    if (!st && plan->bits.data)
        st = check_digest(plan->bits, &plan->sha256, "the freeze bitmap", err);
    if (!st && plan->bits.data && count % 8 && plan->bits.data[plan->bits.len - 1] >> (count % 8))
        st = delta_fail(err, DELTA_FORMAT, "the freeze bitmap has bits beyond its end");
    return st;
}

static enum delta_status read_plans(struct delta_reader *reader, struct delta_msg_value root,
                                    size_t *offset, struct delta_error *err)
{
    struct delta_msg_value list;
    enum delta_status st;

    if (!delta_msg_has(root, "plan"))
        return DELTA_OK;
    st = delta_msg_get_array(root, "plan", DELTA_MODEL_MAX_TENSORS, &list, err);
    if (st)
        return st;
    reader->plan_count = delta_msg_count(list);
    reader->plans = delta_calloc(reader->plan_count, sizeof *reader->plans);
    if (!reader->plans)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu plans", reader->plan_count);
    for (size_t i = 0; i < reader->plan_count && !st; i++) {
        struct delta_plan_change *plan = &reader->plans[i];
        st = read_plan(delta_msg_at(list, i), reader->payload, offset, plan, err);
        if (!st && i && strcmp(plan[-1].name, plan->name) >= 0)
            st = delta_fail(err, DELTA_FORMAT, "it is not in order of names");
        if (st)
            st = delta_fail_in(err, st, "plan of tensor '%s'", plan->name);
    }
    return st;
}

/* Optional: pieces that add up to the payload area. */
static enum delta_status read_chunks(struct delta_reader *reader, struct delta_msg_value root,
                                     struct delta_error *err)
{
    struct delta_msg_value map;
    struct delta_bytes list;
    enum delta_status st;

    if (!delta_msg_has(root, "chunks"))
        return DELTA_OK;
    st = delta_msg_get_map(root, "chunks", &map, err);
    if (!st)
        st = delta_msg_get_uint(map, "bytes", DELTA_CONTAINER_MAX, &reader->chunk_bytes, err);
    if (!st)
        st = delta_msg_get_bin(map, "sha", &list, err);
    if (st)
        return st;
    reader->chunk_count = list.len / DELTA_DIGEST_BYTES;
    reader->chunk_sha256 = list.data;
    if (reader->chunk_bytes == 0 || list.len % DELTA_DIGEST_BYTES ||
        reader->chunk_count != reader->payload.len / reader->chunk_bytes +
                                   (reader->payload.len % reader->chunk_bytes != 0))
        return delta_fail(err, DELTA_FORMAT, "%zu bytes of digests for %zu of payload in pieces",
                          list.len, reader->payload.len);
    return DELTA_OK;
}

enum delta_status delta_reader_check_chunk(const struct delta_reader *reader, size_t index,
                                           struct delta_bytes piece, struct delta_error *err)
{
    if (index >= reader->chunk_count)
        return delta_fail(err, DELTA_MISMATCH, "piece %zu of %zu", index, reader->chunk_count);
    const uint64_t at = index * reader->chunk_bytes, left = reader->payload.len - at;
    const uint64_t want = left < reader->chunk_bytes ? left : reader->chunk_bytes;
    const struct delta_digest have = delta_sha256(piece);
    if (piece.len != want)
        return delta_fail(err, DELTA_MISMATCH, "piece %zu has %zu bytes instead of %llu", index,
                          piece.len, (unsigned long long)want);
    if (memcmp(have.bytes, reader->chunk_sha256 + index * DELTA_DIGEST_BYTES, DELTA_DIGEST_BYTES))
        return delta_fail(err, DELTA_DIGEST, "piece %zu is damaged; fetch it again", index);
    return DELTA_OK;
}

static enum delta_status read_parent(struct delta_reader *reader, struct delta_msg_value root,
                                     struct delta_error *err)
{
    struct delta_bytes bytes;
    enum delta_status st;

    reader->has_parent = delta_msg_has(root, "parent");
    if (!reader->has_parent)
        return DELTA_OK;
    st = delta_msg_get_bin(root, "parent", &bytes, err);
    return st || bytes.len == 0 ? st : get_digest(root, "parent", &reader->parent, err);
}

/* Classes that go. Whoever does not know the key must not apply the rest: so `need` tells it. */
static enum delta_status read_drop(struct delta_reader *reader, struct delta_msg_value root,
                                   struct delta_error *err)
{
    uint64_t count = 0;
    const bool needed = delta_msg_count(delta_msg_find(root, "need")) > 0; /* all known */
    enum delta_status st = DELTA_OK;

    if (delta_msg_has(root, "drop") != needed)
        return delta_fail(err, DELTA_FORMAT, "key 'drop' and the need for it go together");
    if (needed)
        st = delta_msg_get_uint(root, "drop", DELTA_MODEL_MAX_CLASSES, &count, err);
    if (!st && needed && count == 0)
        st = delta_fail(err, DELTA_FORMAT, "key 'drop' is 0");
    reader->classes_dropped = (size_t)count;
    return st;
}

static enum delta_status read_header(struct delta_reader *reader, struct delta_msg_value root,
                                     struct delta_error *err)
{
    struct delta_msg_value map;
    size_t offset = 0;
    enum delta_status st = delta_header_check(root, "delta", err);

    if (!st)
        st = get_digest(root, "base", &reader->base, err);
    if (!st)
        st = get_digest(root, "target", &reader->target, err);
    if (!st)
        st = delta_msg_get_map(root, "arch", &map, err);
    if (!st)
        st = delta_arch_unpack(map, &reader->arch, err);
    reader->has_provenance = delta_msg_has(root, "made");
    if (!st && reader->has_provenance)
        st = delta_msg_get_map(root, "made", &map, err);
    if (!st && reader->has_provenance)
        st = delta_provenance_unpack(map, &reader->provenance, err);
    if (!st)
        st = read_parent(reader, root, err);
    if (!st)
        st = delta_classes_unpack(root, "classes", &reader->classes_added,
                                  &reader->classes_added_count, err);
    if (!st)
        st = read_drop(reader, root, err);
    if (!st)
        st = read_chunks(reader, root, err);
    if (!st)
        st = read_entries(reader, root, &offset, err);
    if (!st)
        st = read_plans(reader, root, &offset, err);
    if (!st && offset != reader->payload.len)
        st = delta_fail(err, DELTA_FORMAT, "%zu bytes follow the last payload",
                        reader->payload.len - offset);
    return st;
}

static enum delta_status open_frame(struct delta_reader *out, const struct delta_frame *frame,
                                    struct delta_error *err)
{
    struct delta_reader reader = {.entry_count = 0};
    struct delta_msg msg = {NULL, NULL};
    enum delta_status st = DELTA_OK;

    if (frame->kind != DELTA_CONTAINER_DELTA)
        st = delta_fail(err, DELTA_FORMAT, "this is a model (.flm), not a delta (.fld)");
    if (!st)
        st = delta_msg_parse(&msg, frame->header, err);
    if (st)
        return st;
    reader.id = delta_sha256(frame->header);
    reader.header = frame->header;
    reader.signatures = frame->signatures;
    reader.payload = frame->payload;
    reader.payload_at = frame->payload_at;
    st = read_header(&reader, delta_msg_root(&msg), err);
    delta_msg_release(&msg);
    if (st) {
        delta_reader_release(&reader);
        return st;
    }
    *out = reader;
    return DELTA_OK;
}

enum delta_status delta_reader_init(struct delta_reader *out, struct delta_bytes file,
                                    struct delta_error *err)
{
    struct delta_frame frame;
    enum delta_status st = delta_frame_parse(&frame, file, err);

    return st ? st : open_frame(out, &frame, err);
}

enum delta_status delta_reader_init_front(struct delta_reader *out, const struct delta_front *front,
                                          struct delta_error *err)
{
    struct delta_frame frame;
    enum delta_status st =
        delta_frame_parse_front(&frame, delta_buf_bytes(&front->bytes), front->file_len, err);

    return st ? st : open_frame(out, &frame, err);
}
