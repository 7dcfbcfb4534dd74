/* Public keys, private keys and certificates: the glue around mbedTLS. */
#include <stdlib.h>

#include "delta/key.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct delta_public_key key, again;
    struct delta_key secret;

    /* one key has one encoding, hence one id */
    if (!delta_public_key_parse(&key, delta_bytes(data, size), NULL) && key.len != size)
        abort();
    const char *path = fuzz_file(data, size, 0);
    if (!delta_public_key_load(&key, path, NULL) &&
        (delta_public_key_parse(&again, delta_bytes(key.der, key.len), NULL) ||
         !delta_digest_equal(&key.id, &again.id)))
        abort();
    if (!delta_key_load(&secret, path, NULL))
        delta_key_release(&secret);
    return 0;
}
