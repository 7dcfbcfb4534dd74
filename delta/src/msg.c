#include "delta/msg.h"

#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

/* ---- writing ---- */

static int out_write(void *data, const char *bytes, size_t len)
{
    struct delta_msg_out *out = data;

    if (!out->status)
        out->status = delta_buf_append(out->buf, bytes, len, NULL);
    return out->status ? -1 : 0;
}

static msgpack_packer packer(struct delta_msg_out *out)
{
    return (msgpack_packer){.data = out, .callback = out_write};
}

void delta_msg_map(struct delta_msg_out *out, size_t pairs)
{
    msgpack_packer pk = packer(out);
    msgpack_pack_map(&pk, pairs);
}

void delta_msg_array(struct delta_msg_out *out, size_t count)
{
    msgpack_packer pk = packer(out);
    msgpack_pack_array(&pk, count);
}

void delta_msg_str(struct delta_msg_out *out, const char *text)
{
    msgpack_packer pk = packer(out);
    const size_t len = strlen(text);

    msgpack_pack_str(&pk, len);
    msgpack_pack_str_body(&pk, text, len);
}

void delta_msg_bin(struct delta_msg_out *out, const void *data, size_t len)
{
    msgpack_packer pk = packer(out);

    msgpack_pack_bin(&pk, len);
    if (len)
        msgpack_pack_bin_body(&pk, data, len);
}

void delta_msg_uint(struct delta_msg_out *out, uint64_t value)
{
    msgpack_packer pk = packer(out);
    msgpack_pack_uint64(&pk, value);
}

void delta_msg_int(struct delta_msg_out *out, int64_t value)
{
    msgpack_packer pk = packer(out);
    msgpack_pack_int64(&pk, value);
}

void delta_msg_real(struct delta_msg_out *out, double value)
{
    msgpack_packer pk = packer(out);
    msgpack_pack_double(&pk, value);
}

void delta_msg_bool(struct delta_msg_out *out, bool value)
{
    msgpack_packer pk = packer(out);

    if (value)
        msgpack_pack_true(&pk);
    else
        msgpack_pack_false(&pk);
}

void delta_msg_raw(struct delta_msg_out *out, struct delta_bytes encoded)
{
    out_write(out, (const char *)encoded.data, encoded.len);
}

/* ---- the bounded pre-scan ---- */

struct scan {
    const uint8_t *at;
    size_t left;
    size_t objects;
    struct delta_error *err;
};

enum kind { KIND_SCALAR, KIND_STR, KIND_BIN, KIND_ARRAY, KIND_MAP };

struct head {
    enum kind kind;
    size_t body;  /* bytes that follow: payload of a scalar, str or bin */
    size_t count; /* elements or pairs */
};

static uint64_t big_endian(const uint8_t *p, size_t len)
{
    uint64_t v = 0;

    for (size_t i = 0; i < len; i++)
        v = v << 8 | p[i];
    return v;
}

static enum delta_status not_canonical(struct scan *scan, const char *what)
{
    return delta_fail(scan->err, DELTA_FORMAT, "message is not canonical: %s", what);
}

static enum delta_status truncated(struct scan *scan)
{
    return delta_fail(scan->err, DELTA_TRUNCATED, "message ends early");
}

/* An unsigned number of 1 << log bytes that must not fit a shorter form. */
static enum delta_status sized(struct scan *scan, unsigned log, uint64_t shorter_max,
                               uint64_t *value)
{
    const size_t len = (size_t)1 << log;

    if (scan->left < len)
        return truncated(scan);
    *value = big_endian(scan->at, len);
    scan->at += len;
    scan->left -= len;
    if (*value <= shorter_max)
        return not_canonical(scan, "a number or length is not in its shortest form");
    return DELTA_OK;
}

static enum delta_status scan_signed(struct scan *scan, unsigned log)
{
    static const int64_t longest_short[] = {-32, INT8_MIN, INT16_MIN, INT32_MIN};
    const size_t len = (size_t)1 << log;

    if (scan->left < len)
        return truncated(scan);
    const uint64_t raw = big_endian(scan->at, len);
    const unsigned shift = 64 - 8 * (unsigned)len;
    const int64_t value = (int64_t)(raw << shift) >> shift;
    scan->at += len;
    scan->left -= len;
    if (value >= longest_short[log])
        return not_canonical(scan, "a negative number is not in its shortest form");
    return DELTA_OK;
}

static enum delta_status scan_head(struct scan *scan, struct head *head)
{
    static const uint64_t uint_short[] = {0x7f, 0xff, 0xffff, 0xffffffff};
    uint64_t n = 0;
    enum delta_status st = DELTA_OK;

    *head = (struct head){KIND_SCALAR, 0, 0};
    if (scan->left == 0)
        return truncated(scan);
    const uint8_t tag = *scan->at++;
    scan->left--;
    if (tag <= 0x7f || tag >= 0xe0)
        return DELTA_OK;
    if (tag <= 0x8f) {
        *head = (struct head){KIND_MAP, 0, tag & 0x0f};
        return DELTA_OK;
    }
    if (tag <= 0x9f) {
        *head = (struct head){KIND_ARRAY, 0, tag & 0x0f};
        return DELTA_OK;
    }
    if (tag <= 0xbf) {
        *head = (struct head){KIND_STR, tag & 0x1f, 0};
        return DELTA_OK;
    }
    switch (tag) {
    case 0xc2:
    case 0xc3:
        return DELTA_OK;
    case 0xc4: /* bin8 has no shorter form */
        if (scan->left < 1)
            return truncated(scan);
        *head = (struct head){KIND_BIN, *scan->at, 0};
        scan->at++;
        scan->left--;
        return DELTA_OK;
    case 0xc5:
    case 0xc6:
        st = sized(scan, tag - 0xc4u, tag == 0xc5 ? 0xff : 0xffff, &n);
        *head = (struct head){KIND_BIN, (size_t)n, 0};
        return st;
    case 0xcb:
        *head = (struct head){KIND_SCALAR, 8, 0};
        return DELTA_OK;
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        return sized(scan, tag - 0xccu, uint_short[tag - 0xcc], &n);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return scan_signed(scan, tag - 0xd0u);
    case 0xd9:
    case 0xda:
    case 0xdb:
        st = sized(scan, tag - 0xd9u, tag == 0xd9 ? 31 : tag == 0xda ? 0xff : 0xffff, &n);
        *head = (struct head){KIND_STR, (size_t)n, 0};
        return st;
    case 0xdc:
    case 0xdd:
        st = sized(scan, tag - 0xdcu + 1, tag == 0xdc ? 15 : 0xffff, &n);
        *head = (struct head){KIND_ARRAY, 0, (size_t)n};
        return st;
    case 0xde:
    case 0xdf:
        st = sized(scan, tag - 0xdeu + 1, tag == 0xde ? 15 : 0xffff, &n);
        *head = (struct head){KIND_MAP, 0, (size_t)n};
        return st;
    default: /* nil, float32, ext: not used by any schema */
        return delta_fail(scan->err, DELTA_FORMAT,
                          "message holds a value of type 0x%02x, "
                          "which no schema uses",
                          tag);
    }
}

static int key_order(struct delta_bytes a, struct delta_bytes b)
{
    const size_t common = a.len < b.len ? a.len : b.len;
    const int order = common ? memcmp(a.data, b.data, common) : 0;

    if (order)
        return order;
    return a.len < b.len ? -1 : a.len > b.len;
}

static enum delta_status scan_value(struct scan *scan, unsigned depth);

static enum delta_status scan_pairs(struct scan *scan, size_t count, unsigned depth)
{
    struct delta_bytes last = {NULL, 0};

    for (size_t i = 0; i < count; i++) {
        struct head head;
        enum delta_status st = scan_head(scan, &head);
        if (st)
            return st;
        if (head.kind != KIND_STR)
            return delta_fail(scan->err, DELTA_FORMAT, "a map key is not a string");
        if (head.body > scan->left)
            return truncated(scan);
        const struct delta_bytes key = {scan->at, head.body};
        if (i && key_order(last, key) >= 0)
            return not_canonical(scan, "map keys are not in strictly ascending order");
        last = key;
        scan->at += head.body;
        scan->left -= head.body;
        st = scan_value(scan, depth);
        if (st)
            return st;
    }
    return DELTA_OK;
}

/* Recursion is bounded by DELTA_MSG_MAX_DEPTH. */
static enum delta_status scan_value(struct scan *scan, unsigned depth)
{
    struct head head;
    enum delta_status st;

    if (++scan->objects > DELTA_MSG_MAX_OBJECTS)
        return delta_fail(scan->err, DELTA_LIMIT, "message holds more than %d values",
                          DELTA_MSG_MAX_OBJECTS);
    st = scan_head(scan, &head);
    if (st)
        return st;
    if (head.kind == KIND_ARRAY || head.kind == KIND_MAP) {
        const size_t least = head.kind == KIND_MAP ? 2 : 1; /* bytes per element */
        if (depth + 1 >= DELTA_MSG_MAX_DEPTH)
            return delta_fail(scan->err, DELTA_LIMIT, "message is nested deeper than %d",
                              DELTA_MSG_MAX_DEPTH);
        if (head.count > scan->left / least)
            return truncated(scan);
        if (head.kind == KIND_MAP)
            return scan_pairs(scan, head.count, depth + 1);
        for (size_t i = 0; i < head.count; i++) {
            st = scan_value(scan, depth + 1);
            if (st)
                return st;
        }
        return DELTA_OK;
    }
    if (head.body > scan->left)
        return truncated(scan);
    scan->at += head.body;
    scan->left -= head.body;
    return DELTA_OK;
}

enum delta_status delta_msg_scan(struct delta_bytes bytes, size_t *used, struct delta_error *err)
{
    struct scan scan = {bytes.data, bytes.len, 0, err};
    const enum delta_status st = scan_value(&scan, 0);

    if (!st)
        *used = bytes.len - scan.left;
    return st;
}

/* ---- reading ---- */

enum delta_status delta_msg_parse(struct delta_msg *msg, struct delta_bytes bytes,
                                  struct delta_error *err)
{
    size_t used = 0;
    size_t offset = 0;
    msgpack_zone *zone;
    msgpack_object *root;
    enum delta_status st;

    *msg = (struct delta_msg){NULL, NULL};
    st = delta_msg_scan(bytes, &used, err);
    if (st)
        return st;
    if (used != bytes.len)
        return delta_fail(err, DELTA_FORMAT, "%zu bytes follow the message", bytes.len - used);
    zone = msgpack_zone_new(MSGPACK_ZONE_CHUNK_SIZE);
    if (!zone)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a message");
    root = msgpack_zone_malloc(zone, sizeof *root);
    if (!root || msgpack_unpack((const char *)bytes.data, bytes.len, &offset, zone, root) !=
                     MSGPACK_UNPACK_SUCCESS) {
        msgpack_zone_free(zone);
        return delta_fail(err, DELTA_FORMAT, "message cannot be unpacked");
    }
    *msg = (struct delta_msg){zone, root};
    return DELTA_OK;
}

void delta_msg_release(struct delta_msg *msg)
{
    if (msg && msg->zone)
        msgpack_zone_free(msg->zone);
    if (msg)
        *msg = (struct delta_msg){NULL, NULL};
}

struct delta_msg_value delta_msg_root(const struct delta_msg *msg)
{
    return (struct delta_msg_value){msg->root};
}

static const msgpack_object *object_of(struct delta_msg_value value, msgpack_object_type type)
{
    const msgpack_object *object = value.object;

    return object && object->type == type ? object : NULL;
}

bool delta_msg_is_map(struct delta_msg_value value)
{
    return object_of(value, MSGPACK_OBJECT_MAP) != NULL;
}

bool delta_msg_is_array(struct delta_msg_value value)
{
    return object_of(value, MSGPACK_OBJECT_ARRAY) != NULL;
}

size_t delta_msg_count(struct delta_msg_value value)
{
    const msgpack_object *object = value.object;

    if (object && object->type == MSGPACK_OBJECT_ARRAY)
        return object->via.array.size;
    if (object && object->type == MSGPACK_OBJECT_MAP)
        return object->via.map.size;
    return 0;
}

struct delta_msg_value delta_msg_at(struct delta_msg_value array, size_t index)
{
    const msgpack_object *object = object_of(array, MSGPACK_OBJECT_ARRAY);

    if (!object || index >= object->via.array.size)
        return (struct delta_msg_value){NULL};
    return (struct delta_msg_value){&object->via.array.ptr[index]};
}

struct delta_msg_value delta_msg_pair(struct delta_msg_value map, size_t index,
                                      struct delta_bytes *key)
{
    const msgpack_object *object = object_of(map, MSGPACK_OBJECT_MAP);

    *key = delta_bytes(NULL, 0);
    if (!object || index >= object->via.map.size)
        return (struct delta_msg_value){NULL};
    const msgpack_object_kv *pair = &object->via.map.ptr[index];
    *key = delta_bytes(pair->key.via.str.ptr, pair->key.via.str.size);
    return (struct delta_msg_value){&pair->val};
}

struct delta_msg_value delta_msg_find(struct delta_msg_value map, const char *key)
{
    const struct delta_bytes wanted = delta_bytes(key, strlen(key));

    for (size_t i = 0; i < delta_msg_count(map) && delta_msg_is_map(map); i++) {
        struct delta_bytes have;
        const struct delta_msg_value value = delta_msg_pair(map, i, &have);
        if (delta_bytes_equal(have, wanted))
            return value;
    }
    return (struct delta_msg_value){NULL};
}

bool delta_msg_has(struct delta_msg_value map, const char *key)
{
    return delta_msg_find(map, key).object != NULL;
}

static enum delta_status wrong_type(struct delta_msg_value value, const char *name,
                                    const char *type, struct delta_error *err)
{
    if (!value.object)
        return delta_fail(err, DELTA_FORMAT, "key '%s' is missing", name);
    return delta_fail(err, DELTA_FORMAT, "key '%s' is not %s", name, type);
}

enum delta_status delta_msg_to_uint(struct delta_msg_value value, const char *name, uint64_t max,
                                    uint64_t *out, struct delta_error *err)
{
    const msgpack_object *object = object_of(value, MSGPACK_OBJECT_POSITIVE_INTEGER);

    if (!object)
        return wrong_type(value, name, "an unsigned number", err);
    if (object->via.u64 > max)
        return delta_fail(err, DELTA_LIMIT, "key '%s' is %llu, the limit is %llu", name,
                          (unsigned long long)object->via.u64, (unsigned long long)max);
    *out = object->via.u64;
    return DELTA_OK;
}

enum delta_status delta_msg_to_real(struct delta_msg_value value, const char *name, double *out,
                                    struct delta_error *err)
{
    const msgpack_object *object = object_of(value, MSGPACK_OBJECT_FLOAT64);

    if (!object)
        return wrong_type(value, name, "a real number", err);
    if (object->via.f64 - object->via.f64 != 0)
        return delta_fail(err, DELTA_NONFINITE, "key '%s' is not finite", name);
    *out = object->via.f64;
    return DELTA_OK;
}

enum delta_status delta_msg_to_bool(struct delta_msg_value value, const char *name, bool *out,
                                    struct delta_error *err)
{
    const msgpack_object *object = object_of(value, MSGPACK_OBJECT_BOOLEAN);

    if (!object)
        return wrong_type(value, name, "true or false", err);
    *out = object->via.boolean;
    return DELTA_OK;
}

enum delta_status delta_msg_to_str(struct delta_msg_value value, const char *name, char *out,
                                   size_t size, struct delta_error *err)
{
    const msgpack_object *object = object_of(value, MSGPACK_OBJECT_STR);

    if (!object)
        return wrong_type(value, name, "a string", err);
    if (object->via.str.size >= size)
        return delta_fail(err, DELTA_LIMIT, "key '%s' has %u bytes, the limit is %zu", name,
                          object->via.str.size, size - 1);
    if (object->via.str.size && memchr(object->via.str.ptr, 0, object->via.str.size))
        return delta_fail(err, DELTA_FORMAT, "key '%s' holds a NUL byte", name);
    if (object->via.str.size)
        memcpy(out, object->via.str.ptr, object->via.str.size);
    out[object->via.str.size] = '\0';
    return DELTA_OK;
}

enum delta_status delta_msg_to_bin(struct delta_msg_value value, const char *name,
                                   struct delta_bytes *out, struct delta_error *err)
{
    const msgpack_object *object = object_of(value, MSGPACK_OBJECT_BIN);

    if (!object)
        return wrong_type(value, name, "binary", err);
    *out = delta_bytes(object->via.bin.ptr, object->via.bin.size);
    return DELTA_OK;
}

enum delta_status delta_msg_get_uint(struct delta_msg_value map, const char *key, uint64_t max,
                                     uint64_t *out, struct delta_error *err)
{
    return delta_msg_to_uint(delta_msg_find(map, key), key, max, out, err);
}

enum delta_status delta_msg_get_real(struct delta_msg_value map, const char *key, double *out,
                                     struct delta_error *err)
{
    return delta_msg_to_real(delta_msg_find(map, key), key, out, err);
}

enum delta_status delta_msg_get_bool(struct delta_msg_value map, const char *key, bool *out,
                                     struct delta_error *err)
{
    return delta_msg_to_bool(delta_msg_find(map, key), key, out, err);
}

enum delta_status delta_msg_get_str(struct delta_msg_value map, const char *key, char *out,
                                    size_t size, struct delta_error *err)
{
    return delta_msg_to_str(delta_msg_find(map, key), key, out, size, err);
}

enum delta_status delta_msg_get_bin(struct delta_msg_value map, const char *key,
                                    struct delta_bytes *out, struct delta_error *err)
{
    return delta_msg_to_bin(delta_msg_find(map, key), key, out, err);
}

enum delta_status delta_msg_get_fixed(struct delta_msg_value map, const char *key, void *out,
                                      size_t len, struct delta_error *err)
{
    struct delta_bytes bytes = {NULL, 0};
    const enum delta_status st = delta_msg_get_bin(map, key, &bytes, err);

    if (st)
        return st;
    if (bytes.len != len)
        return delta_fail(err, DELTA_FORMAT, "key '%s' has %zu bytes, not %zu", key, bytes.len,
                          len);
    memcpy(out, bytes.data, len);
    return DELTA_OK;
}

enum delta_status delta_msg_get_array(struct delta_msg_value map, const char *key, size_t max,
                                      struct delta_msg_value *out, struct delta_error *err)
{
    const struct delta_msg_value value = delta_msg_find(map, key);

    if (!delta_msg_is_array(value))
        return wrong_type(value, key, "an array", err);
    if (delta_msg_count(value) > max)
        return delta_fail(err, DELTA_LIMIT, "key '%s' has %zu elements, the limit is %zu", key,
                          delta_msg_count(value), max);
    *out = value;
    return DELTA_OK;
}

enum delta_status delta_msg_get_map(struct delta_msg_value map, const char *key,
                                    struct delta_msg_value *out, struct delta_error *err)
{
    const struct delta_msg_value value = delta_msg_find(map, key);

    if (!delta_msg_is_map(value))
        return wrong_type(value, key, "a map", err);
    *out = value;
    return DELTA_OK;
}
