/* Payload decoders alone: in a file the payload's digest speaks first, and random bytes never pass
 * it. The first four bytes choose encoding, scope, plan and number of values. */
#include <string.h>

#include "codec.h"
#include "fuzz.h"

#define ROWS 24
#define LEN 110
#define COUNT (ROWS * LEN)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t frozen[COUNT / 8];
    static uint32_t values[COUNT];
    struct delta_tensor tensor = {.rank = 2, .shape = {ROWS, LEN}, .count = COUNT};
    struct delta_coding coding;
    struct delta_pull pull;

    if (size < 4)
        return 0;
    coding.encoding = (enum delta_encoding)(data[0] % 6);
    coding.scope = (enum delta_scope)(data[1] % 4);
    memset(frozen, data[2], sizeof frozen);
    if (data[2] & 1)
        tensor.freeze = (struct delta_freeze){DELTA_FREEZE_WEIGHTS, frozen, COUNT - 5};
    else if (data[2] & 2)
        tensor.freeze = (struct delta_freeze){DELTA_FREEZE_ROWS, frozen, ROWS - 1};
    const size_t base_count = COUNT - LEN * (data[3] % 3u);
    coding.count = coding.scope == DELTA_SCOPE_SOME
                       ? 1 + (size_t)data[3] * 10
                       : delta_scope_count(&tensor, coding.scope, base_count);
    if (coding.count == 0 ||
        (coding.scope == DELTA_SCOPE_SOME &&
         (coding.encoding == DELTA_ENCODING_ZSTD || coding.encoding == DELTA_ENCODING_DIFF ||
          coding.encoding == DELTA_ENCODING_INT8)))
        return 0; /* the reader refuses these */
    for (size_t i = 0; i < COUNT; i++)
        values[i] = (uint32_t)i * 2654435761u; /* every exponent, NaN among them */
    delta_pull_memory(&pull, delta_bytes(data + 4, size - 4));
    return delta_codec_decode(&coding, &pull, &tensor, base_count, values, NULL) == DELTA_INTERNAL
               ? -1
               : 0;
}
