/* Lossless values by the cell they fall into. With a grid g = 2^k near an eighth of what a weight
 * moves by, floor(target/g) - floor(base/g) is a small number with an uneven distribution, worth
 * an entropy coder; where in its cell the target lies is evenly distributed, so it travels as it
 * is, in just as many bits as the cell has float32 values. So each weight costs about the entropy
 * of its move, whether or not it changes sign or exponent on the way.
 *
 * Exact by construction: cells are cut from bit patterns with shifts. delta/FORMAT.md, "cell".
 */
#ifndef DELTA_CELL_H
#define DELTA_CELL_H

#include "rans.h"

/* Low bits of every changed target value that are zero and do not travel. */
#define DELTA_CELL_DROP_NONE 0
#define DELTA_CELL_DROP_BF16 16

struct delta_cell {
    struct delta_rans_freqs freqs;
    int k;
    unsigned drop;
};

/* Chooses grid and frequencies for these bit patterns. `drop` low bits of each value that differs
 * from its base must be zero; the values must be finite. */
void delta_cell_plan(struct delta_cell *cell, unsigned drop, const uint32_t *values,
                     const uint32_t *base, size_t count);
/* Bits that the symbols of the planned coding take at least, given the counts: the entropy of
 * the cells plus the bits within them; for reports. */
double delta_cell_floor_bits(unsigned drop, const uint32_t *values, const uint32_t *base,
                             size_t count);

/* fails: LIMIT (cap of out), NO_MEMORY */
DELTA_MUST_USE enum delta_status
delta_cell_put(struct delta_buf *out, const struct delta_cell *cell, struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_cell_put_block(struct delta_buf *out,
                                                      const struct delta_cell *cell,
                                                      const uint32_t *values, const uint32_t *base,
                                                      size_t count, struct delta_error *err);

struct delta_cell_in {
    struct delta_rans_table table;
    int k;
    unsigned drop;
    uint8_t symbols[DELTA_RANS_BLOCK];
};

/* fails: FORMAT, IO */
DELTA_MUST_USE enum delta_status delta_cell_get(struct delta_cell_in *cell, struct delta_pull *pull,
                                                unsigned drop, struct delta_error *err);
/* Turns base values into target values in place. */
DELTA_MUST_USE enum delta_status delta_cell_get_block(struct delta_cell_in *cell,
                                                      struct delta_pull *pull, uint32_t *values,
                                                      size_t count, struct delta_error *err);

#endif
