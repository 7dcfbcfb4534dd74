#include "delta/channel.h"

#include <string.h>

#include "channel_body.h"
#include "delta/msg.h"

#define CHANNEL_SCHEMA 1

enum delta_status delta_name_check(const char *what, const char *name, struct delta_error *err)
{
    const size_t len = strlen(name);

    if (len == 0 || len > DELTA_CHANNEL_NAME_MAX)
        return delta_fail(err, DELTA_LIMIT, "%s name has %zu bytes; 1 to %d are allowed", what, len,
                          DELTA_CHANNEL_NAME_MAX);
    for (size_t i = 0; i < len; i++) {
        const char c = name[i];
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
            (i && (c == '.' || c == '-')))
            continue;
        return delta_fail(err, DELTA_FORMAT,
                          "%s name: byte 0x%02x at %zu is not allowed there; use a-z, 0-9, '.', "
                          "'_', '-'",
                          what, (unsigned char)c, i);
    }
    return DELTA_OK;
}

bool delta_channel_reaches(const struct delta_channel *channel, const char *device)
{
    uint8_t text[DELTA_DIGEST_BYTES + DELTA_CHANNEL_NAME_MAX];
    size_t len = strlen(device);
    uint64_t place = 0;

    if (len > DELTA_CHANNEL_NAME_MAX)
        len = DELTA_CHANNEL_NAME_MAX; /* not a valid name: any answer will do */
    memcpy(text, channel->rollout.bytes, DELTA_DIGEST_BYTES);
    memcpy(text + DELTA_DIGEST_BYTES, device, len);
    const struct delta_digest digest = delta_sha256(delta_bytes(text, DELTA_DIGEST_BYTES + len));
    for (int i = 0; i < 8; i++)
        place = place << 8 | digest.bytes[i];
    return place % 1000 < channel->permille;
}

static enum delta_status check(const struct delta_channel *channel, struct delta_error *err)
{
    enum delta_status st = delta_name_check("channel", channel->name, err);

    if (st)
        return st;
    if (channel->permille > 1000)
        return delta_fail(err, DELTA_LIMIT, "permille is %u", channel->permille);
    if (channel->issued_ms < 0 || channel->expires_ms < channel->issued_ms)
        return delta_fail(err, DELTA_FORMAT, "channel document expires before it is issued");
    if (channel->edge_count > DELTA_CHANNEL_MAX_EDGES)
        return delta_fail(err, DELTA_LIMIT, "channel document has %zu edges, the limit is %d",
                          channel->edge_count, DELTA_CHANNEL_MAX_EDGES);
    return DELTA_OK;
}

/* ---- sealing ---- */

static void put_digest(struct delta_msg_out *out, const char *key, const struct delta_digest *value)
{
    delta_msg_str(out, key);
    delta_msg_bin(out, value->bytes, DELTA_DIGEST_BYTES);
}

static void put_uint(struct delta_msg_out *out, const char *key, uint64_t value)
{
    delta_msg_str(out, key);
    delta_msg_uint(out, value);
}

static void body_pack(struct delta_msg_out *out, const struct delta_channel *channel)
{
    delta_msg_map(out, 12);
    delta_msg_str(out, "edges");
    delta_msg_array(out, channel->edge_count);
    for (size_t i = 0; i < channel->edge_count; i++) {
        delta_msg_map(out, 3);
        put_digest(out, "blob", &channel->edges[i].blob);
        put_uint(out, "bytes", channel->edges[i].bytes);
        put_digest(out, "from", &channel->edges[i].from);
    }
    put_uint(out, "expires", (uint64_t)channel->expires_ms);
    put_uint(out, "issued", (uint64_t)channel->issued_ms);
    delta_msg_str(out, "model");
    delta_msg_map(out, 2);
    put_digest(out, "blob", &channel->model_blob);
    put_uint(out, "bytes", channel->model_bytes);
    delta_msg_str(out, "name");
    delta_msg_str(out, channel->name);
    delta_msg_str(out, "paused");
    delta_msg_bool(out, channel->paused);
    put_uint(out, "permille", channel->permille);
    put_uint(out, "poll", channel->poll_s);
    put_digest(out, "rollout", &channel->rollout);
    put_uint(out, "schema", CHANNEL_SCHEMA);
    put_uint(out, "serial", channel->serial);
    put_digest(out, "version", &channel->version);
}

enum delta_status delta_channel_seal(const struct delta_channel *channel,
                                     const struct delta_key *key, struct delta_buf *out,
                                     struct delta_error *err)
{
    struct delta_buf body;
    struct delta_msg_out msg = {&body, DELTA_OK};
    struct delta_public_key public_key;
    uint8_t signature[DELTA_SIGNATURE_MAX];
    size_t len;
    enum delta_status st = check(channel, err);

    delta_buf_init(&body, DELTA_CHANNEL_MAX_BYTES);
    delta_buf_init(out, DELTA_CHANNEL_MAX_BYTES);
    if (st)
        return st;
    body_pack(&msg, channel);
    st = msg.status ? delta_fail(err, msg.status, "cannot encode a channel document") : DELTA_OK;
    if (!st)
        st = delta_key_public(key, &public_key, err);
    if (!st)
        st = delta_key_sign(key, delta_buf_bytes(&body), signature, &len, err);
    if (st)
        goto done;
    msg = (struct delta_msg_out){out, DELTA_OK};
    delta_msg_map(&msg, 3);
    delta_msg_str(&msg, "body");
    delta_msg_bin(&msg, body.data, body.len);
    put_digest(&msg, "key", &public_key.id);
    delta_msg_str(&msg, "signature");
    delta_msg_bin(&msg, signature, len);
    if (msg.status)
        st = delta_fail(err, msg.status, "cannot encode a channel document");
done:
    delta_buf_release(&body);
    if (st)
        delta_buf_release(out);
    return st;
}

/* ---- opening ---- */

static enum delta_status get_digest(struct delta_msg_value map, const char *key,
                                    struct delta_digest *out, struct delta_error *err)
{
    return delta_msg_get_fixed(map, key, out->bytes, sizeof out->bytes, err);
}

static enum delta_status edges_unpack(struct delta_msg_value root, struct delta_channel *out,
                                      struct delta_error *err)
{
    struct delta_msg_value list;
    enum delta_status st = delta_msg_get_array(root, "edges", DELTA_CHANNEL_MAX_EDGES, &list, err);

    if (st)
        return st;
    out->edge_count = delta_msg_count(list);
    for (size_t i = 0; i < out->edge_count && !st; i++) {
        const struct delta_msg_value edge = delta_msg_at(list, i);
        st = get_digest(edge, "blob", &out->edges[i].blob, err);
        if (!st)
            st = delta_msg_get_uint(edge, "bytes", UINT64_MAX, &out->edges[i].bytes, err);
        if (!st)
            st = get_digest(edge, "from", &out->edges[i].from, err);
    }
    return st;
}

static enum delta_status numbers_unpack(struct delta_msg_value root, struct delta_channel *out,
                                        struct delta_error *err)
{
    uint64_t expires = 0, issued = 0, permille = 0, poll = 0;
    enum delta_status st = delta_msg_get_uint(root, "expires", INT64_MAX, &expires, err);

    if (!st)
        st = delta_msg_get_uint(root, "issued", INT64_MAX, &issued, err);
    if (!st)
        st = delta_msg_get_uint(root, "permille", 1000, &permille, err);
    if (!st)
        st = delta_msg_get_uint(root, "poll", UINT32_MAX, &poll, err);
    if (!st)
        st = delta_msg_get_uint(root, "serial", UINT64_MAX, &out->serial, err);
    if (!st)
        st = delta_msg_get_bool(root, "paused", &out->paused, err);
    out->expires_ms = (int64_t)expires;
    out->issued_ms = (int64_t)issued;
    out->permille = (uint32_t)permille;
    out->poll_s = (uint32_t)poll;
    return st;
}

static enum delta_status body_unpack(struct delta_msg_value root, struct delta_channel *out,
                                     struct delta_error *err)
{
    struct delta_msg_value model;
    uint64_t schema;
    enum delta_status st = delta_msg_get_uint(root, "schema", UINT64_MAX, &schema, err);

    if (!st && schema != CHANNEL_SCHEMA)
        st = delta_fail(err, DELTA_UNSUPPORTED, "schema %llu, this program knows %d",
                        (unsigned long long)schema, CHANNEL_SCHEMA);
    if (!st)
        st = delta_msg_get_str(root, "name", out->name, sizeof out->name, err);
    if (!st)
        st = numbers_unpack(root, out, err);
    if (!st)
        st = edges_unpack(root, out, err);
    if (!st)
        st = delta_msg_get_map(root, "model", &model, err);
    if (!st)
        st = get_digest(model, "blob", &out->model_blob, err);
    if (!st)
        st = delta_msg_get_uint(model, "bytes", UINT64_MAX, &out->model_bytes, err);
    if (!st)
        st = get_digest(root, "rollout", &out->rollout, err);
    if (!st)
        st = get_digest(root, "version", &out->version, err);
    return st ? st : check(out, err);
}

/* The body's bytes, once a trusted key vouches for them. */
static enum delta_status unseal(struct delta_msg_value root, const struct delta_keyring *ring,
                                struct delta_bytes *body, struct delta_error *err)
{
    struct delta_bytes signature;
    struct delta_digest id;
    enum delta_status st = delta_msg_get_bin(root, "body", body, err);

    if (!st)
        st = get_digest(root, "key", &id, err);
    if (!st)
        st = delta_msg_get_bin(root, "signature", &signature, err);
    if (st)
        return st;
    const struct delta_public_key *key = delta_keyring_find(ring, &id);
    if (!key)
        return delta_fail(err, DELTA_UNTRUSTED, "signed by a key that is not trusted here");
    return delta_public_key_verify(key, *body, signature, err);
}

enum delta_status delta_channel_read_body(struct delta_channel *out, struct delta_bytes body,
                                          struct delta_error *err)
{
    struct delta_msg msg = {NULL, NULL};
    struct delta_channel channel = {.serial = 0};
    enum delta_status st = delta_msg_parse(&msg, body, err);

    if (!st)
        st = body_unpack(delta_msg_root(&msg), &channel, err);
    delta_msg_release(&msg);
    if (!st)
        *out = channel;
    return st;
}

enum delta_status delta_channel_open(struct delta_channel *out, struct delta_bytes sealed,
                                     const struct delta_keyring *ring, struct delta_error *err)
{
    struct delta_msg outer = {NULL, NULL};
    struct delta_bytes body;
    enum delta_status st;

    if (sealed.len > DELTA_CHANNEL_MAX_BYTES)
        return delta_fail(err, DELTA_LIMIT, "channel document has %zu bytes, the limit is %d",
                          sealed.len, DELTA_CHANNEL_MAX_BYTES);
    st = delta_msg_parse(&outer, sealed, err);
    if (!st)
        st = unseal(delta_msg_root(&outer), ring, &body, err);
    if (!st)
        st = delta_channel_read_body(out, body, err);
    delta_msg_release(&outer);
    return st ? delta_fail_in(err, st, "channel document") : DELTA_OK;
}
