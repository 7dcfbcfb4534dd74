/* Lossy moves: target = base + q * scale with -127 <= q <= 127 and a scale per tensor or per row,
 * q entropy-coded. What is rounded away is rounded before the target gets its name, so applying is
 * exact: a scale has four significant bits, q * scale is therefore a float32 without rounding, and
 * one IEEE addition is left, which fused multiply-add cannot change. delta/FORMAT.md, "int8".
 */
#ifndef DELTA_QUANT_H
#define DELTA_QUANT_H

#include "positions.h"

/* Rounded moves of one tensor's values in scope. */
struct delta_quant {
    int8_t *q; /* owned, [count] */
    size_t count;
    bool rows;        /* a scale per row of dimension 0 */
    size_t first_row; /* that of the first scale */
    uint8_t *scales;  /* owned, [scale_count]: 0: zero; s: (8 + (s-1)%8) * 2^(exponent+(s-1)/8) */
    size_t scale_count;
    int exponent;
};
void delta_quant_release(struct delta_quant *quant);

/* Rounds: `wanted` (bit patterns of all the tensor's elements) becomes what a reader will get in
 * the elements in scope; `base` likewise, not changed.
 *   step     grid in units of the root mean square move of the row or tensor, > 0
 *   up_from  share of a step from which a move is rounded up: 0.5 is to the nearest
 *   fails    NO_MEMORY, NONFINITE (a value beyond float32's range) */
DELTA_MUST_USE enum delta_status
delta_quant_round(struct delta_quant *out, const struct delta_tensor *tensor,
                  enum delta_scope scope, size_t base_count, double step, double up_from,
                  const uint32_t *base, uint32_t *wanted, struct delta_error *err);
/* The grid that a target lies on already, having been rounded by a writer before: *found says
 * whether every value in scope is what a reader makes of some q and scale, bit for bit.
 *   fails    NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_quant_find(struct delta_quant *out, bool *found,
                                                  const struct delta_tensor *tensor,
                                                  enum delta_scope scope, size_t base_count,
                                                  const uint32_t *base, const uint32_t *target,
                                                  struct delta_error *err);
/* The payload of a rounding.  fails: LIMIT, NO_MEMORY */
DELTA_MUST_USE enum delta_status
delta_quant_put(struct delta_buf *out, const struct delta_quant *quant, struct delta_error *err);

struct delta_quant_in {
    struct delta_rans_table table;
    bool rows;
    size_t first_row, row_len;
    int exponent;
    uint8_t *scales; /* owned, [scale_count] */
    size_t scale_count;
    uint8_t symbols[DELTA_RANS_BLOCK];
};
void delta_quant_in_release(struct delta_quant_in *quant);

/* fails: FORMAT, IO, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_quant_get(struct delta_quant_in *quant,
                                                 struct delta_pull *pull,
                                                 const struct delta_tensor *tensor,
                                                 size_t first_element, struct delta_error *err);
/* Moves the patterns `values` of these elements. */
DELTA_MUST_USE enum delta_status delta_quant_get_block(struct delta_quant_in *quant,
                                                       struct delta_pull *pull,
                                                       const uint32_t *elements, uint32_t *values,
                                                       size_t count, struct delta_error *err);

#endif
