/* Values as byte planes in one Zstandard frame, read as a stream: sign and exponent bytes repeat,
 * low mantissa bytes do not; apart, each compresses as it can.
 *   zstd   pattern XOR base's pattern; plane k of all values, then plane k+1
 *   diff   pattern - base's pattern mod 2^32, zigzag; the four planes of each block of 32768 values
 */
#ifndef DELTA_PLANES_H
#define DELTA_PLANES_H

#include "positions.h"

/* Appends the frame.
 *   diff     which of the two
 *   level    zstd's
 *   *fits    false: it would take 4*count bytes or more; nothing was appended then
 *   fails    LIMIT (cap of out), NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_planes_put(struct delta_buf *out, bool diff, int level,
                                                  const uint32_t *values, const uint32_t *base,
                                                  size_t count, bool *fits,
                                                  struct delta_error *err);

/* Turns the elements in scope of `data` (patterns of all the tensor's elements) into the target's.
 * `scratch` holds 4 * DELTA_PLACES_BLOCK bytes, `elements` DELTA_PLACES_BLOCK of them.
 *   fails    FORMAT (not one frame that states exactly 4*count bytes), IO, NO_MEMORY */
DELTA_MUST_USE enum delta_status
delta_planes_get(struct delta_pull *pull, bool diff, const struct delta_tensor *tensor,
                 enum delta_scope scope, size_t base_count, size_t count, uint32_t *elements,
                 uint8_t *scratch, uint32_t *data, struct delta_error *err);

#endif
