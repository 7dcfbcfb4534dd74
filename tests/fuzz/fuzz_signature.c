/* The signature block, in front of a payload and behind a header that is never looked at. The key
 * of the golden files is trusted, so that blocks with its id reach the verification. */
#include <stdlib.h>
#include <string.h>

#include "container.h"
#include "fuzz.h"

#define HEADER_LEN 37
#define PAYLOAD_LEN 100

/* Public key of tests/golden/good/golden.pub.pem. */
static const uint8_t golden_key[] = {
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04, 0x06, 0x1f, 0x88, 0x3c, 0x11,
    0x13, 0xed, 0x36, 0x52, 0x5d, 0xc8, 0xce, 0x18, 0xc8, 0x3a, 0x7c, 0xc6, 0x87, 0x94, 0xeb, 0x25,
    0xea, 0xfc, 0x04, 0xf7, 0xe9, 0x4f, 0xb3, 0x36, 0x89, 0xa1, 0x01, 0x3c, 0x89, 0x1f, 0x4d, 0xba,
    0x7a, 0xeb, 0xb4, 0x63, 0x79, 0x4d, 0x00, 0x61, 0xbd, 0x7c, 0xb5, 0xd2, 0xac, 0x09, 0x30, 0x97,
    0x66, 0x28, 0x62, 0x38, 0x35, 0x7f, 0x06, 0x41, 0x6e, 0x62, 0x7c,
};

static void build(struct delta_buf *out, struct delta_bytes block)
{
    uint8_t prefix[DELTA_FRAME_PREFIX] = {0x89, 'F', 'L', 'D', '\r', '\n', 0x1a, 1};
    uint8_t *at;

    prefix[8] = HEADER_LEN;
    for (int i = 0; i < 4; i++)
        prefix[12 + i] = (uint8_t)(block.len >> (8 * i));
    prefix[16] = PAYLOAD_LEN;
    delta_buf_init(out, 1 << 20);
    if (delta_buf_append(out, prefix, sizeof prefix, NULL) ||
        delta_buf_extend(out, HEADER_LEN, NULL, NULL) ||
        delta_buf_append(out, block.data, block.len, NULL) ||
        delta_buf_extend(out, (64 - out->len % 64) % 64, NULL, NULL) ||
        delta_buf_extend(out, PAYLOAD_LEN, &at, NULL))
        abort();
    memset(at, 0xa5, PAYLOAD_LEN);
}

/* One more signature must leave header, payload and the other signatures as they were. libFuzzer
 * reads the key's id from the comparisons, and makes blocks that have its signature already. */
static void sign_again(struct delta_buf *file, const struct delta_digest *before, size_t count)
{
    static struct delta_key key;
    static struct delta_public_key public_key;
    struct delta_digest ids[DELTA_SIGNATURES_MAX];
    size_t now = 0, has = 0;

    if (!key.context &&
        (delta_key_generate(&key, NULL) || delta_key_public(&key, &public_key, NULL)))
        abort();
    for (size_t i = 0; i < count; i++)
        has += delta_digest_equal(&before[i], &public_key.id);
    const enum delta_status st = delta_container_sign(file, &key, NULL);
    if (st == DELTA_LIMIT && count == DELTA_SIGNATURES_MAX && !has)
        return;
    if (st || delta_container_signers(delta_buf_bytes(file), ids, &now, NULL) ||
        now != count + 1 - has || file->data[file->len - 1] != 0xa5 ||
        file->data[file->len - PAYLOAD_LEN] != 0xa5)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct delta_keyring ring;
    struct delta_digest ids[DELTA_SIGNATURES_MAX], signer;
    struct delta_public_key key;
    struct delta_buf file;
    size_t count = 0;

    if (size > DELTA_SIGNATURE_BLOCK_MAX + 64)
        return 0;
    if (ring.count == 0 &&
        (delta_public_key_parse(&key, delta_bytes(golden_key, sizeof golden_key), NULL) ||
         delta_keyring_add(&ring, &key, NULL)))
        abort();
    build(&file, delta_bytes(data, size));
    if (!delta_container_signers(delta_buf_bytes(&file), ids, &count, NULL)) {
        if (count > DELTA_SIGNATURES_MAX)
            abort();
        /* nobody has signed this header */
        if (!delta_container_verify(delta_buf_bytes(&file), &ring, &signer, NULL))
            abort();
        if (size % 16 == 0) /* signing takes as long as a thousand other inputs */
            sign_again(&file, ids, count);
    }
    delta_buf_release(&file);
    return 0;
}
