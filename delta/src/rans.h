/* Entropy coder for symbols 0..255 with one static table for many blocks: rANS (J. Duda, arXiv
 * 1311.2540) with 32-bit states in [2^16, 2^32), 16-bit words and probabilities in 1/4096.
 * Integer arithmetic only: the same bytes on every machine. delta/FORMAT.md tells the layout.
 *
 * Large blocks run four states in turn ("lanes"), because each step waits for the one before it.
 * Refuses: tables that do not add up, blocks that do not end exactly where they should.
 */
#ifndef DELTA_RANS_H
#define DELTA_RANS_H

#include "pull.h"

#define DELTA_RANS_BITS 12
#define DELTA_RANS_TOTAL (1u << DELTA_RANS_BITS)
#define DELTA_RANS_LOW (1u << 16)
#define DELTA_RANS_BLOCK 32768 /* symbols of a block at most; the last one may have fewer */
#define DELTA_RANS_LANES 4
#define DELTA_RANS_LANES_FROM 1024 /* shorter blocks have one lane: a state costs 4 bytes */
/* No symbol takes more than 12 bits: so many words a block has at most, and it fits 16 bits. */
#define DELTA_RANS_WORDS (DELTA_RANS_BLOCK * DELTA_RANS_BITS / 16 + 1)

struct delta_rans_freqs {
    uint16_t freq[256]; /* 0: does not occur; they add up to DELTA_RANS_TOTAL */
    uint16_t start[256];
};

/* What a decoder looks up by the low 12 bits of a state: symbol | freq-1 << 8 | bias << 20, where
 * bias is the slot's number within its symbol. */
struct delta_rans_table {
    uint32_t slot[DELTA_RANS_TOTAL];
};

static inline unsigned delta_rans_lanes(size_t count)
{
    return count < DELTA_RANS_LANES_FROM ? 1 : DELTA_RANS_LANES;
}

/* Frequencies for these counts, every symbol that occurs getting at least one; all zero counts
 * give symbol 0 all of it. */
void delta_rans_normalise(const uint32_t counts[256], struct delta_rans_freqs *out);
/* Bits that symbols with these counts take under `freqs`. */
double delta_rans_cost(const uint32_t counts[256], const struct delta_rans_freqs *freqs);

/* ---- writing; fails: LIMIT (cap of out), NO_MEMORY ---- */
DELTA_MUST_USE enum delta_status delta_rans_put_table(struct delta_buf *out,
                                                      const struct delta_rans_freqs *freqs,
                                                      struct delta_error *err);
/* States and words of 1..DELTA_RANS_BLOCK symbols, behind a 16-bit count of words. */
DELTA_MUST_USE enum delta_status delta_rans_put_block(struct delta_buf *out,
                                                      const struct delta_rans_freqs *freqs,
                                                      const uint8_t *symbols, size_t count,
                                                      struct delta_error *err);

/* ---- reading; fails: FORMAT, and what the source fails with ---- */
DELTA_MUST_USE enum delta_status delta_rans_get_table(struct delta_pull *pull,
                                                      struct delta_rans_table *out,
                                                      struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_rans_get_block(struct delta_pull *pull,
                                                      const struct delta_rans_table *table,
                                                      uint8_t *symbols, size_t count,
                                                      struct delta_error *err);

#endif
