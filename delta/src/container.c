#include "container.h"

#include <string.h>

/* First byte: not text; CR LF, SUB and LF: what a transfer in text mode would break. The last byte
 * is the frame's version. */
static const uint8_t magics[2][8] = {
    [DELTA_CONTAINER_MODEL] = {0x89, 'F', 'L', 'M', '\r', '\n', 0x1a, 1},
    [DELTA_CONTAINER_DELTA] = {0x89, 'F', 'L', 'D', '\r', '\n', 0x1a, 1},
};

static uint64_t get_le(const uint8_t *p, size_t len)
{
    uint64_t v = 0;

    for (size_t i = 0; i < len; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static void put_le(uint8_t *p, size_t len, uint64_t v)
{
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static bool all_zero(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (p[i])
            return false;
    return true;
}

enum delta_status delta_container_kind(struct delta_bytes file, enum delta_container_kind *kind,
                                       struct delta_error *err)
{
    const size_t have = file.len < 8 ? file.len : 8;

    for (int i = 0; i < 2; i++) {
        if (have && memcmp(file.data, magics[i], have < 7 ? have : 7) != 0)
            continue;
        if (have < 8)
            return delta_fail(err, DELTA_TRUNCATED, "container ends after %zu bytes", file.len);
        if (file.data[7] != magics[i][7])
            return delta_fail(err, DELTA_UNSUPPORTED,
                              "container has frame version %u, this program knows %u", file.data[7],
                              magics[i][7]);
        *kind = (enum delta_container_kind)i;
        return DELTA_OK;
    }
    return delta_fail(err, DELTA_FORMAT, "not a frostline model (.flm) or delta (.fld)");
}

static enum delta_status check_signature_block(const struct delta_frame *frame,
                                               struct delta_error *err)
{
    struct delta_signature signatures[DELTA_SIGNATURES_MAX];
    size_t count;

    return delta_frame_signatures(frame, signatures, &count, err);
}

/* Lengths from the prefix, against limits.  *meta: end of the signature block */
static enum delta_status read_prefix(struct delta_bytes file, struct delta_frame *frame,
                                     size_t *meta, struct delta_error *err)
{
    enum delta_status st = delta_container_kind(file, &frame->kind, err);

    if (st)
        return st;
    if (file.len < DELTA_FRAME_PREFIX)
        return delta_fail(err, DELTA_TRUNCATED, "container ends after %zu bytes", file.len);
    const uint64_t header_len = get_le(file.data + 8, 4);
    const uint64_t signatures_len = get_le(file.data + 12, 4);
    const uint64_t payload_len = get_le(file.data + 16, 8);
    size_t offset;
    if (header_len > DELTA_HEADER_MAX || signatures_len > DELTA_SIGNATURE_BLOCK_MAX ||
        payload_len > DELTA_CONTAINER_MAX)
        return delta_fail(err, DELTA_LIMIT,
                          "container states a header of %llu, signatures of %llu and payloads of "
                          "%llu bytes",
                          (unsigned long long)header_len, (unsigned long long)signatures_len,
                          (unsigned long long)payload_len);
    *meta = DELTA_FRAME_PREFIX + (size_t)header_len + (size_t)signatures_len;
    offset = *meta;
    (void)delta_frame_align(&offset); /* far from overflow: the lengths are bounded */
    frame->header = delta_bytes(NULL, (size_t)header_len);
    frame->signatures = delta_bytes(NULL, (size_t)signatures_len);
    frame->payload = delta_bytes(NULL, (size_t)payload_len);
    frame->payload_at = offset;
    return DELTA_OK;
}

enum delta_status delta_frame_parse_front(struct delta_frame *out, struct delta_bytes front,
                                          uint64_t file_len, struct delta_error *err)
{
    struct delta_frame frame;
    size_t meta;
    enum delta_status st = read_prefix(front, &frame, &meta, err);

    if (st)
        return st;
    const uint64_t end = frame.payload_at + frame.payload.len;
    if (front.len < frame.payload_at || file_len < end)
        return delta_fail(err, DELTA_TRUNCATED, "container ends early: %llu bytes of %llu",
                          (unsigned long long)file_len, (unsigned long long)end);
    if (file_len > end)
        return delta_fail(err, DELTA_FORMAT, "%llu bytes follow the container",
                          (unsigned long long)(file_len - end));
    if (!all_zero(front.data + meta, (size_t)frame.payload_at - meta))
        return delta_fail(err, DELTA_FORMAT, "padding before the payloads is not zero");
    frame.header.data = front.data + DELTA_FRAME_PREFIX;
    frame.signatures.data = frame.header.data + frame.header.len;
    st = check_signature_block(&frame, err);
    if (!st)
        *out = frame;
    return st;
}

enum delta_status delta_frame_parse(struct delta_frame *out, struct delta_bytes file,
                                    struct delta_error *err)
{
    struct delta_frame frame;
    enum delta_status st = delta_frame_parse_front(&frame, file, file.len, err);

    if (st)
        return st;
    frame.payload.data = file.data + frame.payload_at;
    *out = frame;
    return DELTA_OK;
}

enum delta_status delta_front_len(struct delta_bytes prefix, size_t *len, struct delta_error *err)
{
    struct delta_frame frame;
    size_t meta;
    enum delta_status st = read_prefix(prefix, &frame, &meta, err);

    if (!st)
        *len = (size_t)frame.payload_at;
    return st;
}

enum delta_status delta_frame_front(enum delta_container_kind kind, struct delta_bytes header,
                                    size_t payload_len, struct delta_buf *out,
                                    struct delta_error *err)
{
    uint8_t prefix[DELTA_FRAME_PREFIX];
    size_t offset = sizeof prefix + header.len;
    enum delta_status st;

    delta_buf_init(out, DELTA_CONTAINER_MAX + DELTA_HEADER_MAX + DELTA_SIGNATURE_BLOCK_MAX);
    if (header.len > DELTA_HEADER_MAX)
        return delta_fail(err, DELTA_LIMIT, "header has %zu bytes, the limit is %zu", header.len,
                          DELTA_HEADER_MAX);
    if (payload_len > DELTA_CONTAINER_MAX)
        return delta_fail(err, DELTA_LIMIT, "payloads have %zu bytes, the limit is %zu",
                          payload_len, (size_t)DELTA_CONTAINER_MAX);
    memcpy(prefix, magics[kind], 8);
    put_le(prefix + 8, 4, header.len);
    put_le(prefix + 12, 4, 0);
    put_le(prefix + 16, 8, payload_len);
    (void)delta_frame_align(&offset); /* far from overflow: header.len is bounded */
    st = delta_buf_append(out, prefix, sizeof prefix, err);
    if (!st)
        st = delta_buf_append(out, header.data, header.len, err);
    if (!st)
        st = delta_buf_extend(out, offset - out->len, NULL, err);
    if (st)
        delta_buf_release(out);
    return st;
}

enum delta_status delta_frame_build(enum delta_container_kind kind, struct delta_bytes header,
                                    size_t payload_len, struct delta_buf *out, uint8_t **payload,
                                    struct delta_error *err)
{
    enum delta_status st = delta_frame_front(kind, header, payload_len, out, err);

    if (st)
        return st;
    st = delta_buf_extend(out, payload_len, payload, err);
    if (st)
        delta_buf_release(out);
    return st;
}

enum delta_status delta_frame_take(struct delta_bytes payload, size_t *offset, size_t len,
                                   struct delta_bytes *out, struct delta_error *err)
{
    size_t at = *offset;

    if (!delta_frame_align(&at) || at > payload.len || payload.len - at < len)
        return delta_fail(err, DELTA_TRUNCATED, "payloads end early: %zu bytes at %zu of %zu", len,
                          *offset, payload.len);
    if (payload.data && !all_zero(payload.data + *offset, at - *offset))
        return delta_fail(err, DELTA_FORMAT, "padding between payloads is not zero");
    *out = delta_bytes(payload.data ? payload.data + at : NULL, len);
    *offset = at + len;
    return DELTA_OK;
}

/* ---- the signature block: [[key id, signature]...], key ids strictly ascending ---- */

static enum delta_status one_signature(struct delta_msg_value pair, struct delta_signature *out,
                                       struct delta_error *err)
{
    struct delta_bytes id;
    enum delta_status st;

    if (!delta_msg_is_array(pair) || delta_msg_count(pair) != 2)
        return delta_fail(err, DELTA_FORMAT, "a signature is not a pair");
    st = delta_msg_to_bin(delta_msg_at(pair, 0), "signature key", &id, err);
    if (!st)
        st = delta_msg_to_bin(delta_msg_at(pair, 1), "signature", &out->der, err);
    if (st)
        return st;
    if (id.len != DELTA_DIGEST_BYTES || out->der.len == 0 || out->der.len > DELTA_SIGNATURE_MAX)
        return delta_fail(err, DELTA_FORMAT, "a signature or its key id has a wrong length");
    memcpy(out->key.bytes, id.data, DELTA_DIGEST_BYTES);
    return DELTA_OK;
}

enum delta_status delta_frame_signatures(const struct delta_frame *frame,
                                         struct delta_signature out[DELTA_SIGNATURES_MAX],
                                         size_t *count, struct delta_error *err)
{
    struct delta_msg msg = {NULL, NULL};
    enum delta_status st;

    *count = 0;
    if (frame->signatures.len == 0)
        return DELTA_OK;
    st = delta_msg_parse(&msg, frame->signatures, err);
    if (st)
        return delta_fail_in(err, st, "signature block");
    const struct delta_msg_value root = delta_msg_root(&msg);
    const size_t have = delta_msg_count(root);
    if (!delta_msg_is_array(root) || have == 0 || have > DELTA_SIGNATURES_MAX) {
        st = delta_fail(err, DELTA_FORMAT, "signature block is not a list of 1 to %d signatures",
                        DELTA_SIGNATURES_MAX);
        goto done;
    }
    for (size_t i = 0; i < have && !st; i++) {
        st = one_signature(delta_msg_at(root, i), &out[i], err);
        if (!st && i && memcmp(out[i - 1].key.bytes, out[i].key.bytes, DELTA_DIGEST_BYTES) >= 0)
            st = delta_fail(err, DELTA_FORMAT, "signatures are not ordered by key id");
    }
    if (!st)
        *count = have;
done:
    delta_msg_release(&msg);
    return st;
}

static enum delta_status encode_signatures(const struct delta_signature *signatures, size_t count,
                                           struct delta_buf *out, struct delta_error *err)
{
    struct delta_msg_out msg = {out, DELTA_OK};

    delta_msg_array(&msg, count);
    for (size_t i = 0; i < count; i++) {
        delta_msg_array(&msg, 2);
        delta_msg_bin(&msg, signatures[i].key.bytes, DELTA_DIGEST_BYTES);
        delta_msg_bin(&msg, signatures[i].der.data, signatures[i].der.len);
    }
    return msg.status ? delta_fail(err, msg.status, "cannot encode signatures") : DELTA_OK;
}

/* Replaces the signature block in place: the payloads move by the change of the padded length. */
static enum delta_status replace_block(struct delta_buf *file, const struct delta_frame *frame,
                                       struct delta_bytes block, struct delta_error *err)
{
    const size_t meta = DELTA_FRAME_PREFIX + frame->header.len;
    const size_t payload_len = frame->payload.len;
    const size_t from = (size_t)(frame->payload.data - file->data);
    size_t to = meta + block.len;
    enum delta_status st = DELTA_OK;

    (void)delta_frame_align(&to);
    if (to > from) /* invalidates what `frame` points to */
        st = delta_buf_extend(file, to - from, NULL, err);
    if (st)
        return st;
    memmove(file->data + to, file->data + from, payload_len);
    memset(file->data + meta, 0, to - meta);
    memcpy(file->data + meta, block.data, block.len);
    put_le(file->data + 12, 4, block.len);
    file->len = to + payload_len;
    return DELTA_OK;
}

enum delta_status delta_container_sign(struct delta_buf *file, const struct delta_key *key,
                                       struct delta_error *err)
{
    struct delta_signature list[DELTA_SIGNATURES_MAX + 1], fresh;
    struct delta_public_key public_key;
    uint8_t der[DELTA_SIGNATURE_MAX];
    struct delta_frame frame;
    struct delta_buf block;
    size_t count = 0, at = 0;
    enum delta_status st = delta_frame_parse(&frame, delta_buf_bytes(file), err);

    delta_buf_init(&block, DELTA_SIGNATURE_BLOCK_MAX);
    if (!st)
        st = delta_frame_signatures(&frame, list, &count, err);
    if (!st)
        st = delta_key_public(key, &public_key, err);
    if (!st)
        st = delta_key_sign(key, frame.header, der, &fresh.der.len, err);
    if (st)
        goto done;
    fresh.der.data = der;
    fresh.key = public_key.id;
    while (at < count && memcmp(list[at].key.bytes, fresh.key.bytes, DELTA_DIGEST_BYTES) < 0)
        at++;
    if (at == count || !delta_digest_equal(&list[at].key, &fresh.key)) {
        if (count == DELTA_SIGNATURES_MAX) {
            st = delta_fail(err, DELTA_LIMIT, "container bears %d signatures already",
                            DELTA_SIGNATURES_MAX);
            goto done;
        }
        memmove(&list[at + 1], &list[at], (count - at) * sizeof list[0]);
        count++;
    }
    list[at] = fresh;
    st = encode_signatures(list, count, &block, err);
    if (!st)
        st = replace_block(file, &frame, delta_buf_bytes(&block), err);
done:
    delta_buf_release(&block);
    return st;
}

static enum delta_status verify_frame(const struct delta_frame *frame,
                                      const struct delta_keyring *ring, struct delta_digest *signer,
                                      struct delta_error *err)
{
    struct delta_signature list[DELTA_SIGNATURES_MAX];
    size_t count = 0;
    bool held = false;
    enum delta_status st = delta_frame_signatures(frame, list, &count, err);

    if (st)
        return st;
    if (count == 0)
        return delta_fail(err, DELTA_UNTRUSTED, "container is not signed");
    for (size_t i = 0; i < count; i++) {
        const struct delta_public_key *key = delta_keyring_find(ring, &list[i].key);
        char hex[DELTA_DIGEST_HEX];
        if (!key)
            continue;
        st = delta_public_key_verify(key, frame->header, list[i].der, err);
        delta_digest_hex(hex, &list[i].key);
        if (st)
            return delta_fail_in(err, st, "key %.16s", hex);
        if (!held && signer)
            *signer = list[i].key;
        held = true;
    }
    if (!held) {
        char hex[DELTA_DIGEST_HEX];
        delta_digest_hex(hex, &list[0].key);
        return delta_fail(err, DELTA_UNTRUSTED,
                          "signed by key %.16s, which is not among the %zu trusted keys", hex,
                          ring->count);
    }
    return DELTA_OK;
}

enum delta_status delta_container_verify(struct delta_bytes file, const struct delta_keyring *ring,
                                         struct delta_digest *signer, struct delta_error *err)
{
    struct delta_frame frame;
    enum delta_status st = delta_frame_parse(&frame, file, err);

    return st ? st : verify_frame(&frame, ring, signer, err);
}

enum delta_status delta_front_verify(const struct delta_front *front,
                                     const struct delta_keyring *ring, struct delta_digest *signer,
                                     struct delta_error *err)
{
    struct delta_frame frame;
    enum delta_status st =
        delta_frame_parse_front(&frame, delta_buf_bytes(&front->bytes), front->file_len, err);

    return st ? st : verify_frame(&frame, ring, signer, err);
}

enum delta_status delta_container_signers(struct delta_bytes file, struct delta_digest ids[8],
                                          size_t *count, struct delta_error *err)
{
    struct delta_signature list[DELTA_SIGNATURES_MAX];
    struct delta_frame frame;
    enum delta_status st = delta_frame_parse(&frame, file, err);

    *count = 0;
    if (!st)
        st = delta_frame_signatures(&frame, list, count, err);
    for (size_t i = 0; i < *count && !st; i++)
        ids[i] = list[i].key;
    return st;
}
