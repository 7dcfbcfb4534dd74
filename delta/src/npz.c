#include "delta/npz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "delta/npy.h"
#include "json_in.h"
#include "pack.h"
#include "safetensors_meta.h"

/* Layouts after PKWARE's APPNOTE.TXT, 4.3.7 (local header), 4.3.12 (central), 4.3.16 (end). */
#define LOCAL_BYTES 30
#define CENTRAL_BYTES 46
#define END_BYTES 22
#define COMMENT_MAX 65535
#define NAME_MAX_BYTES 160
#define META_NAME "frostline.json"
#define META_MAX ((size_t)8 << 20)
#define DOS_DATE 0x0021 /* 1980-01-01: equal models make equal archives */

static uint32_t get16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t get32(const uint8_t *p)
{
    return get16(p) | get16(p + 2) << 16;
}

static void put16(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *p, uint32_t value)
{
    put16(p, value);
    put16(p + 2, value >> 16);
}

/* CRC-32 of ISO 3309, reflected polynomial 0xedb88320. */
static uint32_t crc32_more(uint32_t crc, struct delta_bytes bytes)
{
    uint32_t table[256];

    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
        table[i] = c;
    }
    crc = ~crc;
    for (size_t i = 0; i < bytes.len; i++)
        crc = table[(crc ^ bytes.data[i]) & 0xff] ^ crc >> 8;
    return ~crc;
}

bool delta_npz_is(struct delta_bytes file)
{
    return file.len >= 4 && memcmp(file.data, "PK\3\4", 4) == 0;
}

/* ---- reading ---- */

struct member {
    char name[NAME_MAX_BYTES + 1];
    uint32_t crc;
    size_t at;  /* of the local header */
    size_t end; /* behind the content */
    struct delta_bytes content;
};

/* Where the directory lies, and how many members it lists. */
struct directory {
    size_t at, behind, count;
};

/* tail: the last bytes of a file of `file_len` bytes, END_BYTES + COMMENT_MAX or all there are. */
static enum delta_status find_directory(struct delta_bytes tail, uint64_t file_len,
                                        struct directory *out, struct delta_error *err)
{
    const uint8_t *end = NULL;

    for (size_t n = END_BYTES; n <= tail.len && n <= END_BYTES + COMMENT_MAX && !end; n++) {
        const uint8_t *p = tail.data + tail.len - n;
        if (get32(p) == 0x06054b50 && get16(p + 20) == n - END_BYTES)
            end = p;
    }
    if (!end)
        return delta_fail(err, DELTA_TRUNCATED, "the archive has no end; it may be half a file");
    out->count = get16(end + 10);
    out->at = get32(end + 16);
    out->behind = (size_t)(file_len - tail.len) + (size_t)(end - tail.data);
    if (out->count > 2 * (size_t)DELTA_MODEL_MAX_TENSORS)
        return delta_fail(err, DELTA_LIMIT, "the archive lists %zu members", out->count);
    if (out->at > out->behind || get32(end + 12) != out->behind - out->at)
        return delta_fail(err, DELTA_FORMAT, "its directory does not lie before its end");
    return DELTA_OK;
}

enum delta_status delta_npz_judge(struct delta_peek *peek, struct delta_error *err)
{
    const size_t most = END_BYTES + COMMENT_MAX;
    struct directory directory;
    struct delta_bytes tail;
    enum delta_status st =
        delta_peek_at(peek, peek->len > most ? peek->len - most : 0, most, &tail, err);

    return st ? st : find_directory(tail, peek->len, &directory, err);
}

/* Content of a member whose central entry was read: the local header must say the same. */
static enum delta_status find_content(struct delta_bytes file, size_t len, struct member *member,
                                      struct delta_error *err)
{
    const uint8_t *local = file.data + member->at;
    const size_t name_len = strlen(member->name);
    size_t skip;

    if (member->at > file.len || file.len - member->at < LOCAL_BYTES)
        return delta_fail(err, DELTA_TRUNCATED, "begins behind the end");
    skip = LOCAL_BYTES + get16(local + 26) + get16(local + 28);
    if (get32(local) != 0x04034b50 || get16(local + 26) != name_len ||
        skip > file.len - member->at || memcmp(local + LOCAL_BYTES, member->name, name_len) != 0)
        return delta_fail(err, DELTA_FORMAT, "its two headers differ");
    if (len > file.len - member->at - skip)
        return delta_fail(err, DELTA_TRUNCATED, "states %zu bytes, fewer follow", len);
    member->content = delta_bytes(local + skip, len);
    member->end = member->at + skip + len;
    return DELTA_OK;
}

static enum delta_status read_member(struct delta_bytes file, size_t *at, size_t behind,
                                     struct member *member, struct delta_error *err)
{
    const uint8_t *p = file.data + *at;
    size_t name_len, len;
    enum delta_status st;

    if (behind - *at < CENTRAL_BYTES || get32(p) != 0x02014b50)
        return delta_fail(err, DELTA_FORMAT, "its directory is malformed");
    name_len = get16(p + 28);
    len = CENTRAL_BYTES + name_len + get16(p + 30) + get16(p + 32);
    if (len > behind - *at || name_len == 0 || memchr(p + CENTRAL_BYTES, '\0', name_len))
        return delta_fail(err, DELTA_FORMAT, "its directory is malformed");
    if (name_len > NAME_MAX_BYTES)
        return delta_fail(err, DELTA_LIMIT, "a member's name has %zu bytes", name_len);
    memcpy(member->name, p + CENTRAL_BYTES, name_len);
    member->name[name_len] = '\0';
    member->crc = get32(p + 16);
    member->at = get32(p + 42);
    if (get16(p + 8) & 1)
        st = delta_fail(err, DELTA_UNSUPPORTED, "is encrypted");
    else if (get16(p + 10) != 0)
        st = delta_fail(err, DELTA_UNSUPPORTED, "is compressed; write it with numpy.savez");
    else if (get32(p + 20) != get32(p + 24))
        st = delta_fail(err, DELTA_FORMAT, "is stored, but has two sizes");
    else if (get32(p + 24) == UINT32_MAX || get32(p + 42) == UINT32_MAX)
        st = delta_fail(err, DELTA_UNSUPPORTED, "is a zip64 member");
    else
        st = find_content(file, get32(p + 24), member, err);
    *at += len;
    return st ? delta_fail_in(err, st, "member '%.127s'", member->name) : DELTA_OK;
}

static int by_place(const void *a, const void *b)
{
    const struct member *x = a, *y = b;

    return x->at < y->at ? -1 : x->at > y->at;
}

static enum delta_status list_members(struct delta_bytes file, struct member **out, size_t *count,
                                      struct delta_error *err)
{
    struct directory directory;
    struct member *members;
    enum delta_status st = find_directory(file, file.len, &directory, err);

    if (st)
        return st;
    *count = directory.count;
    members = delta_calloc(*count, sizeof *members);
    if (!members)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu members", *count);
    for (size_t i = 0; i < *count && !st; i++)
        st = read_member(file, &directory.at, directory.behind, &members[i], err);
    if (!st && directory.at != directory.behind)
        st = delta_fail(err, DELTA_FORMAT, "its directory has bytes behind the last member");
    if (!st && *count)
        qsort(members, *count, sizeof *members, by_place);
    for (size_t i = 1; i < *count && !st; i++)
        if (members[i].at < members[i - 1].end)
            st = delta_fail(err, DELTA_FORMAT, "member '%.127s' overlaps the one before it",
                            members[i].name);
    /* after that: thousands of members over the same bytes would be summed again and again */
    for (size_t i = 0; i < *count && !st; i++)
        if (crc32_more(0, members[i].content) != members[i].crc)
            st = delta_fail(err, DELTA_DIGEST,
                            "member '%.127s' differs from its checksum; the file is damaged",
                            members[i].name);
    if (st) {
        free(members);
        return st;
    }
    *out = members;
    return DELTA_OK;
}

static bool ends_with(const char *text, const char *tail)
{
    const size_t len = strlen(text), n = strlen(tail);

    return len >= n && strcmp(text + len - n, tail) == 0;
}

static enum delta_status load_tensor(struct delta_model *model, const struct member *member,
                                     struct delta_error *err)
{
    char name[NAME_MAX_BYTES + 1];
    struct delta_tensor *tensor;
    struct delta_npy npy;
    enum delta_status st;

    if (!ends_with(member->name, ".npy"))
        return delta_fail(err, DELTA_FORMAT, "is neither an array nor '" META_NAME "'");
    snprintf(name, sizeof name, "%.*s", (int)strlen(member->name) - 4, member->name);
    if (ends_with(name, "num_batches_tracked")) /* training history; no inference reads it */
        return DELTA_OK;
    st = delta_npy_read(&npy, member->content, err);
    if (!st)
        st = delta_model_add_tensor(model, name, npy.rank, npy.shape, &tensor, err);
    if (!st)
        memcpy(tensor->data, npy.values.data, npy.values.len);
    return st;
}

static enum delta_status load_meta(const struct member *member, json_t **out,
                                   struct delta_error *err)
{
    if (member->content.len > META_MAX)
        return delta_fail(err, DELTA_LIMIT, "has %zu bytes", member->content.len);
    if (*out)
        return delta_fail(err, DELTA_FORMAT, "occurs twice");
    return delta_json_parse(member->content, out, err);
}

enum delta_status delta_npz_decode(struct delta_model *out, struct delta_bytes file,
                                   const struct delta_arch_hint *hint,
                                   struct delta_safetensors_info *info, struct delta_error *err)
{
    struct delta_model model = DELTA_MODEL_INIT;
    struct member *members = NULL;
    json_t *meta = NULL;
    size_t count = 0;
    enum delta_status st = list_members(file, &members, &count, err);

    if (info)
        *info = (struct delta_safetensors_info){NULL, 0};
    for (size_t i = 0; i < count && !st; i++) {
        st = strcmp(members[i].name, META_NAME) == 0 ? load_meta(&members[i], &meta, err)
                                                     : load_tensor(&model, &members[i], err);
        if (st)
            st = delta_fail_in(err, st, "member '%.127s'", members[i].name);
    }
    if (!st)
        st = delta_safetensors_meta_read(&model, meta, hint, info, err);
    if (!st) {
        *out = model;
        model = (struct delta_model)DELTA_MODEL_INIT;
    }
    delta_model_release(&model);
    json_decref(meta);
    free(members);
    return st;
}

/* ---- writing ---- */

struct archive {
    struct delta_newfile file;
    struct delta_buf directory;
    size_t at;
    uint32_t count;
};

static enum delta_status add_member(struct archive *a, const char *name, struct delta_bytes head,
                                    struct delta_bytes rest, struct delta_error *err)
{
    const size_t name_len = strlen(name), len = head.len + rest.len;
    uint8_t local[LOCAL_BYTES] = {'P', 'K', 3, 4, 20}, central[CENTRAL_BYTES] = {'P', 'K', 1, 2};
    enum delta_status st;

    if (len > UINT32_MAX - 1 || a->at > UINT32_MAX - 1 - len)
        return delta_fail(err, DELTA_LIMIT, "an archive over 4 GiB");
    put16(local + 12, DOS_DATE);
    put32(local + 14, crc32_more(crc32_more(0, head), rest));
    put32(local + 18, (uint32_t)len);
    put32(local + 22, (uint32_t)len);
    put16(local + 26, (uint32_t)name_len);
    put16(central + 4, 20);
    memcpy(central + 6, local + 4, 26); /* version needed ... extra length, the same fields */
    put32(central + 42, (uint32_t)a->at);
    st = delta_buf_append(&a->directory, central, sizeof central, err);
    if (!st)
        st = delta_buf_append(&a->directory, name, name_len, err);
    if (!st)
        st = delta_newfile_write(&a->file, delta_bytes(local, sizeof local), err);
    if (!st)
        st = delta_newfile_write(&a->file, delta_bytes(name, name_len), err);
    if (!st)
        st = delta_newfile_write(&a->file, head, err);
    if (!st)
        st = delta_newfile_write(&a->file, rest, err);
    a->at += sizeof local + name_len + len;
    a->count++;
    return st;
}

static enum delta_status add_tensor(struct archive *a, const struct delta_tensor *tensor,
                                    struct delta_error *err)
{
    struct delta_tensor head_only = *tensor;
    char name[DELTA_TENSOR_NAME_MAX + 5];
    struct delta_buf head;
    enum delta_status st;

    head_only.count = 0; /* the values are written from where they are */
    snprintf(name, sizeof name, "%s.npy", tensor->name);
    delta_buf_init(&head, 1024);
    st = delta_npy_write(&head, &head_only, err);
    if (!st)
        st = add_member(a, name, delta_buf_bytes(&head),
                        delta_bytes(tensor->data, tensor->count * sizeof(float)), err);
    delta_buf_release(&head);
    return st;
}

static enum delta_status add_meta(struct archive *a, const struct delta_model *model,
                                  struct delta_error *err)
{
    json_t *meta = delta_safetensors_meta_write(model);
    char *text = meta ? json_dumps(meta, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    enum delta_status st =
        text ? add_member(a, META_NAME, delta_bytes(text, strlen(text)), delta_bytes(NULL, 0), err)
             : delta_fail(err, DELTA_NO_MEMORY, "cannot encode " META_NAME);

    free(text);
    json_decref(meta);
    return st;
}

static enum delta_status finish(struct archive *a, struct delta_error *err)
{
    uint8_t end[END_BYTES] = {'P', 'K', 5, 6};
    enum delta_status st = delta_newfile_write(&a->file, delta_buf_bytes(&a->directory), err);

    put16(end + 8, a->count);
    put16(end + 10, a->count);
    put32(end + 12, (uint32_t)a->directory.len);
    put32(end + 16, (uint32_t)a->at);
    if (!st)
        st = delta_newfile_write(&a->file, delta_bytes(end, sizeof end), err);
    return st ? st : delta_newfile_commit(&a->file, err);
}

enum delta_status delta_npz_save(const struct delta_model *model, const char *path,
                                 struct delta_error *err)
{
    struct archive a = {.file = DELTA_NEWFILE_INIT};
    enum delta_status st;

    delta_buf_init(&a.directory, (size_t)DELTA_MODEL_MAX_TENSORS * 256);
    st = delta_newfile_open(&a.file, path, 0644, err);
    for (size_t i = 0; i < model->tensor_count && !st; i++)
        st = add_tensor(&a, &model->tensors[i], err);
    if (!st)
        st = add_meta(&a, model, err);
    if (!st)
        st = finish(&a, err);
    delta_newfile_release(&a.file);
    delta_buf_release(&a.directory);
    return st;
}
