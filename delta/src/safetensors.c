#include "delta/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "delta/delta.h"
#include "delta/file.h"
#include "json_in.h"
#include "pack.h"
#include "safetensors_meta.h"

#define HEADER_MAX ((size_t)8 << 20) /* real ones have some hundred bytes per tensor */

struct entry {
    const char *name;
    const json_t *object;
    uint64_t begin, end;
};

void delta_safetensors_info_release(struct delta_safetensors_info *info)
{
    if (!info)
        return;
    free(info->labels);
    *info = (struct delta_safetensors_info){NULL, 0};
}

/* ---- the JSON header ---- */

/* By the file's first nine bytes: where its header ends. */
static enum delta_status header_end(struct delta_bytes head, uint64_t file_len, size_t *end,
                                    struct delta_error *err)
{
    uint64_t len = 0;

    if (head.len < 8)
        return delta_fail(err, DELTA_TRUNCATED, "file of %zu bytes has no safetensors header",
                          head.len);
    for (size_t i = 0; i < 8; i++)
        len |= (uint64_t)head.data[i] << (8 * i);
    if (head.len > 8 && head.data[8] != '{')
        return delta_fail(err, DELTA_FORMAT, "neither a safetensors file nor a frostline model");
    if (len > HEADER_MAX)
        return delta_fail(err, DELTA_LIMIT, "the header states %llu bytes, the limit is %zu",
                          (unsigned long long)len, HEADER_MAX);
    if (len > file_len - 8)
        return delta_fail(err, DELTA_TRUNCATED, "the header states %llu bytes, the file has %llu",
                          (unsigned long long)len, (unsigned long long)file_len - 8);
    *end = 8 + (size_t)len;
    return DELTA_OK;
}

static bool whole(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static enum delta_status read_offsets(struct entry *entry, size_t data_len, struct delta_error *err)
{
    const json_t *pair = json_object_get(entry->object, "data_offsets");

    if (!json_is_array(pair) || json_array_size(pair) != 2 ||
        !whole(json_array_get(pair, 0), &entry->begin) ||
        !whole(json_array_get(pair, 1), &entry->end))
        return delta_fail(err, DELTA_FORMAT, "tensor '%.127s': 'data_offsets' is not two numbers",
                          entry->name);
    if (entry->begin > entry->end)
        return delta_fail(err, DELTA_FORMAT, "tensor '%.127s' ends before it begins", entry->name);
    if (entry->end > data_len)
        return delta_fail(err, DELTA_TRUNCATED, "tensor '%.127s' ends at %llu, the data at %zu",
                          entry->name, (unsigned long long)entry->end, data_len);
    return DELTA_OK;
}

static int by_begin(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* Tensors in file order; together they must be the data, without gap or overlap. */
static enum delta_status list_entries(json_t *header, size_t data_len, struct entry **out,
                                      size_t *count, struct delta_error *err)
{
    const size_t room = json_object_size(header);
    struct entry *entries;
    enum delta_status st = DELTA_OK;
    uint64_t end = 0;
    const char *name;
    json_t *value;

    if (room > 2 * (size_t)DELTA_MODEL_MAX_TENSORS)
        return delta_fail(err, DELTA_LIMIT, "the header lists %zu tensors", room);
    entries = delta_calloc(room, sizeof *entries);
    if (!entries)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu tensors", room);
    *count = 0;
    json_object_foreach(header, name, value)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        entries[*count] = (struct entry){name, value, 0, 0};
        st = read_offsets(&entries[(*count)++], data_len, err);
        if (st)
            goto done;
    }
    qsort(entries, *count, sizeof *entries, by_begin);
    for (size_t i = 0; i < *count && !st; i++) {
        if (entries[i].begin != end)
            st = delta_fail(err, DELTA_FORMAT, "tensor '%.127s' begins at %llu, which %s",
                            entries[i].name, (unsigned long long)entries[i].begin,
                            entries[i].begin < end ? "overlaps the one before it"
                                                   : "leaves a gap before it");
        end = entries[i].end;
    }
    if (!st && end != data_len)
        st = delta_fail(err, DELTA_FORMAT, "%zu bytes follow the last tensor",
                        data_len - (size_t)end);
done:
    if (st) {
        free(entries);
        return st;
    }
    *out = entries;
    return DELTA_OK;
}

/* Header and entries of a file of which `head` holds at least the header. */
static enum delta_status read_header(struct delta_bytes head, uint64_t file_len, size_t end,
                                     json_t **json, struct entry **entries, size_t *count,
                                     struct delta_error *err)
{
    enum delta_status st = delta_json_parse(delta_bytes(head.data + 8, end - 8), json, err);

    return st ? delta_fail_in(err, st, "the header")
              : list_entries(*json, (size_t)(file_len - end), entries, count, err);
}

enum delta_status delta_safetensors_judge(struct delta_peek *peek, struct delta_error *err)
{
    struct entry *entries = NULL;
    struct delta_bytes head;
    json_t *json = NULL;
    size_t end = 0, count;
    enum delta_status st = delta_peek_at(peek, 0, 9, &head, err);

    if (!st)
        st = header_end(head, peek->len, &end, err);
    if (!st)
        st = delta_peek_at(peek, 0, end, &head, err);
    if (!st)
        st = read_header(head, peek->len, end, &json, &entries, &count, err);
    free(entries);
    json_decref(json);
    return st;
}

/* ---- bf16: the upper half of a float32 ---- */

static void widen(float *out, const uint8_t *narrow, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const uint32_t bits = (uint32_t)narrow[2 * i] << 16 | (uint32_t)narrow[2 * i + 1] << 24;
        memcpy(&out[i], &bits, sizeof bits);
    }
}

/* To the nearest, ties to even; NaN stays NaN. */
static void narrow_to(uint8_t *out, const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        if ((bits & 0x7fffffffu) > 0x7f800000u)
            bits |= 0x400000u;
        else
            bits += 0x7fffu + (bits >> 16 & 1);
        out[2 * i] = (uint8_t)(bits >> 16);
        out[2 * i + 1] = (uint8_t)(bits >> 24);
    }
}

/* ---- one tensor ---- */

static bool is_batch_counter(const char *name, const char *dtype)
{
    static const char tail[] = "num_batches_tracked";
    const size_t len = strlen(name);

    return strcmp(dtype, "I64") == 0 && len >= sizeof tail - 1 &&
           strcmp(name + len - (sizeof tail - 1), tail) == 0;
}

static enum delta_status load_tensor(struct delta_model *model, const struct entry *entry,
                                     struct delta_bytes data, struct delta_error *err)
{
    const char *dtype = json_string_value(json_object_get(entry->object, "dtype"));
    const json_t *list = json_object_get(entry->object, "shape");
    const size_t rank = json_array_size(list);
    uint64_t shape[DELTA_TENSOR_RANK_MAX];
    struct delta_tensor *tensor;
    size_t count, each;
    enum delta_status st;

    if (!dtype || !json_is_array(list))
        return delta_fail(err, DELTA_FORMAT, "no 'dtype' or no 'shape'");
    if (is_batch_counter(entry->name, dtype)) /* training history; no inference reads it */
        return entry->end - entry->begin == 8
                   ? DELTA_OK
                   : delta_fail(err, DELTA_FORMAT, "its offsets do not hold one number");
    each = strcmp(dtype, "F32") == 0 ? 4 : strcmp(dtype, "BF16") == 0 ? 2 : 0;
    if (!each)
        return delta_fail(err, DELTA_UNSUPPORTED, "dtype '%.20s'; only F32 and BF16 are read",
                          dtype);
    if (rank < 1 || rank > DELTA_TENSOR_RANK_MAX)
        return delta_fail(err, DELTA_UNSUPPORTED, "rank %zu is not within 1 and %d", rank,
                          DELTA_TENSOR_RANK_MAX);
    for (size_t i = 0; i < rank; i++)
        if (!whole(json_array_get(list, i), &shape[i]))
            return delta_fail(err, DELTA_FORMAT, "dimension %zu is not a number", i);
    st = delta_shape_count((uint32_t)rank, shape, &count, err);
    if (st)
        return st;
    if (entry->end - entry->begin != (uint64_t)count * each)
        return delta_fail(err, DELTA_FORMAT, "its shape needs %zu bytes, its offsets hold %llu",
                          count * each, (unsigned long long)(entry->end - entry->begin));
    st = delta_model_add_tensor(model, entry->name, (uint32_t)rank, shape, &tensor, err);
    if (!st && each == 2)
        widen(tensor->data, data.data + entry->begin, count);
    else if (!st)
        memcpy(tensor->data, data.data + entry->begin, count * sizeof(float));
    return st;
}

enum delta_status delta_safetensors_decode_as(struct delta_model *out, struct delta_bytes file,
                                              const struct delta_arch_hint *hint,
                                              struct delta_safetensors_info *info,
                                              struct delta_error *err)
{
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_bytes data = {NULL, 0};
    struct entry *entries = NULL;
    json_t *json = NULL;
    size_t count = 0, end = 0;
    enum delta_status st = header_end(file, file.len, &end, err);

    if (info)
        *info = (struct delta_safetensors_info){NULL, 0};
    if (!st)
        st = read_header(file, file.len, end, &json, &entries, &count, err);
    if (!st)
        data = delta_bytes(file.data + end, file.len - end);
    for (size_t i = 0; i < count && !st; i++) {
        st = load_tensor(&model, &entries[i], data, err);
        if (st)
            st = delta_fail_in(err, st, "tensor '%.127s'", entries[i].name);
    }
    if (!st)
        st = delta_safetensors_meta_read(&model, json_object_get(json, "__metadata__"), hint, info,
                                         err);
    if (!st) {
        *out = model;
        model = (struct delta_model)DELTA_MODEL_INIT;
    }
    delta_model_release(&model);
    free(entries);
    json_decref(json);
    return st;
}

enum delta_status delta_safetensors_decode(struct delta_model *out, struct delta_bytes file,
                                           struct delta_safetensors_info *info,
                                           struct delta_error *err)
{
    return delta_safetensors_decode_as(out, file, NULL, info, err);
}

static enum delta_status judge(struct delta_peek *peek, void *context, struct delta_error *err)
{
    (void)context;
    return delta_safetensors_judge(peek, err);
}

enum delta_status delta_safetensors_load(struct delta_model *out, const char *path,
                                         struct delta_safetensors_info *info,
                                         struct delta_error *err)
{
    struct delta_buf file;
    enum delta_status st =
        delta_file_read_judged(path, DELTA_CONTAINER_MAX, judge, NULL, &file, err);

    if (st)
        return st;
    st = delta_safetensors_decode(out, delta_buf_bytes(&file), info, err);
    delta_buf_release(&file);
    return st ? delta_fail_in(err, st, "'%s'", path) : DELTA_OK;
}

/* ---- writing ---- */

/* Vectors (batch norms, biases) are few, and their roundings would reach whole channels. */
static bool goes_narrow(const struct delta_tensor *tensor, enum delta_safetensors_dtype dtype)
{
    return dtype == DELTA_SAFETENSORS_BF16 && tensor->rank > 1;
}

static uint64_t bytes_of(const struct delta_tensor *tensor, enum delta_safetensors_dtype dtype)
{
    return (uint64_t)tensor->count * (goes_narrow(tensor, dtype) ? 2 : sizeof(float));
}

static json_t *describe(const struct delta_tensor *tensor, enum delta_safetensors_dtype dtype,
                        uint64_t begin)
{
    json_t *shape = json_array();

    for (uint32_t i = 0; i < tensor->rank; i++)
        json_array_append_new(shape, json_integer((json_int_t)tensor->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", goes_narrow(tensor, dtype) ? "BF16" : "F32",
                     "shape", shape, "data_offsets", (json_int_t)begin,
                     (json_int_t)(begin + bytes_of(tensor, dtype)));
}

/* JSON, padded with blanks so that the tensors begin on 8 bytes. */
static enum delta_status header_text(const struct delta_model *model,
                                     enum delta_safetensors_dtype dtype, struct delta_buf *out,
                                     struct delta_error *err)
{
    json_t *header = json_object();
    json_t *meta = delta_safetensors_meta_write(model);
    int bad = meta ? json_object_set_new(header, "__metadata__", meta) : -1;
    uint64_t offset = 0;
    char *text = NULL;
    enum delta_status st = DELTA_OK;

    delta_buf_init(out, HEADER_MAX + 16);
    for (size_t i = 0; i < model->tensor_count && !bad; i++) {
        bad |= json_object_set_new(header, model->tensors[i].name,
                                   describe(&model->tensors[i], dtype, offset));
        offset += bytes_of(&model->tensors[i], dtype);
    }
    if (!bad)
        text = json_dumps(header, JSON_COMPACT);
    if (!text) {
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot encode a safetensors header");
        goto done;
    }
    const uint64_t len = (strlen(text) + 7) / 8 * 8;
    uint8_t prefix[8];
    for (size_t i = 0; i < 8; i++)
        prefix[i] = (uint8_t)(len >> (8 * i));
    st = delta_buf_append(out, prefix, sizeof prefix, err);
    if (!st)
        st = delta_buf_append(out, text, strlen(text), err);
    if (!st)
        st = delta_buf_append(out, "       ", (size_t)len - strlen(text), err);
done:
    free(text);
    json_decref(header);
    return st;
}

static enum delta_status write_tensor(struct delta_newfile *file, const struct delta_tensor *tensor,
                                      enum delta_safetensors_dtype dtype, struct delta_error *err)
{
    uint8_t piece[8192];
    enum delta_status st = DELTA_OK;

    if (!goes_narrow(tensor, dtype))
        return delta_newfile_write(file, delta_bytes(tensor->data, tensor->count * sizeof(float)),
                                   err);
    for (size_t at = 0, n; at < tensor->count && !st; at += n) {
        n = tensor->count - at < sizeof piece / 2 ? tensor->count - at : sizeof piece / 2;
        narrow_to(piece, tensor->data + at, n);
        st = delta_newfile_write(file, delta_bytes(piece, 2 * n), err);
    }
    return st;
}

enum delta_status delta_safetensors_save(const struct delta_model *model,
                                         enum delta_safetensors_dtype dtype, const char *path,
                                         struct delta_error *err)
{
    struct delta_newfile file = DELTA_NEWFILE_INIT;
    struct delta_buf header;
    enum delta_status st = header_text(model, dtype, &header, err);

    if (!st)
        st = delta_newfile_open(&file, path, 0644, err);
    if (!st)
        st = delta_newfile_write(&file, delta_buf_bytes(&header), err);
    for (size_t i = 0; i < model->tensor_count && !st; i++)
        st = write_tensor(&file, &model->tensors[i], dtype, err);
    if (!st)
        st = delta_newfile_commit(&file, err);
    delta_newfile_release(&file);
    delta_buf_release(&header);
    return st;
}

static enum delta_status judge_any(struct delta_peek *peek, void *context, struct delta_error *err)
{
    enum delta_container_kind kind;
    struct delta_bytes head;
    enum delta_status st = delta_peek_at(peek, 0, 8, &head, err);

    (void)context;
    if (st)
        return st;
    if (head.len == 0)
        return delta_fail(err, DELTA_TRUNCATED, "the file is empty");
    return delta_container_kind(head, &kind, NULL) == DELTA_FORMAT
               ? delta_safetensors_judge(peek, err)
               : delta_front_judge(peek, NULL, err);
}

enum delta_status delta_model_load_any(struct delta_model *out, const char *path,
                                       struct delta_digest *digest,
                                       struct delta_safetensors_info *info, struct delta_error *err)
{
    struct delta_model model = DELTA_MODEL_INIT;
    enum delta_container_kind kind;
    struct delta_buf file;
    enum delta_status st =
        delta_file_read_judged(path, DELTA_CONTAINER_MAX, judge_any, NULL, &file, err);

    if (info)
        *info = (struct delta_safetensors_info){NULL, 0};
    if (st)
        return st;
    if (delta_container_kind(delta_buf_bytes(&file), &kind, NULL) != DELTA_FORMAT) {
        st = delta_model_decode(&model, delta_buf_bytes(&file), digest, err);
    } else {
        st = delta_safetensors_decode(&model, delta_buf_bytes(&file), info, err);
        if (!st && digest)
            st = delta_model_digest(&model, digest, err);
    }
    delta_buf_release(&file);
    if (st) {
        delta_model_release(&model);
        if (info)
            delta_safetensors_info_release(info);
        return delta_fail_in(err, st, "'%s'", path);
    }
    *out = model;
    return DELTA_OK;
}
