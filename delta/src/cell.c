#include "cell.h"

#include <math.h>
#include <stdlib.h>

#include "bits.h"

/* Symbols: as the base; spelled out; otherwise the number of cells moved, from -126 to 127. */
#define SAME 0
#define SPELLED 1
#define MOVED_ZERO 128
#define MOVED_MIN (2 - MOVED_ZERO)
#define MOVED_MAX (255 - MOVED_ZERO)

#define K_MIN (-126)
#define K_MAX 127
#define DEEPEST 16  /* exponents below the grid's within the two cells at zero */
#define FARTHEST 38 /* cells are numbered up to 2^39 */
#define NOWHERE INT64_MIN

/* Number of the cell in which a pattern lies, or NOWHERE. Zero and what is smaller than the grid
 * lie in cells 0 (sign clear) and -1. */
static inline int64_t cell_of(uint32_t pattern, int k)
{
    const int exponent = (int)(pattern >> 23 & 255);
    const int64_t l = exponent - 127 - k;
    const int64_t significand = (pattern & 0x7fffff) | 0x800000;
    int64_t m = 0;

    if (exponent == 255 || l > FARTHEST)
        return NOWHERE;
    if (exponent && l >= 0)
        m = l <= 23 ? significand >> (23 - l) : significand << (l - 23);
    return pattern >> 31 ? -1 - m : m;
}

/* Bits that tell the place within a cell of this magnitude; not for magnitude 0. */
static inline unsigned bits_within(int64_t m, unsigned drop)
{
    const int l = 63 - __builtin_clzll((uint64_t)m);
    const int bits = 23 - (int)drop - l;

    return bits > 0 ? (unsigned)bits : 0;
}

static inline int64_t magnitude(int64_t cell)
{
    return cell < 0 ? -1 - cell : cell;
}

/* Symbol of one value and how many bits follow it. */
static unsigned symbol_of(int k, unsigned drop, uint32_t value, uint32_t base, unsigned *bits)
{
    if (value == base) {
        *bits = 0;
        return SAME;
    }
    const int64_t to = cell_of(value, k), from = cell_of(base, k);
    const int exponent = (int)(value >> 23 & 255), below = k + 126 - exponent;
    *bits = 32;
    if (to == NOWHERE || from == NOWHERE || to - from < MOVED_MIN || to - from > MOVED_MAX)
        return SPELLED;
    if (magnitude(to) == 0) {
        if (exponent == 0 || below > DEEPEST)
            return SPELLED;
        *bits = (unsigned)below + 1 + 23 - drop;
    } else {
        *bits = bits_within(magnitude(to), drop);
    }
    return (unsigned)(to - from + MOVED_ZERO);
}

/* ---- choosing the grid ---- */

static double float_of(uint32_t pattern)
{
    float f;

    memcpy(&f, &pattern, sizeof f);
    return f;
}

/* Exponent of the mean move. */
static int typical(const uint32_t *values, const uint32_t *base, size_t count)
{
    double sum = 0, n = 0;
    int exponent;

    for (size_t i = 0; i < count; i++) {
        const double move = fabs(float_of(values[i]) - float_of(base[i]));
        if (values[i] != base[i] && isfinite(move)) {
            sum += move;
            n++;
        }
    }
    if (!(sum > 0))
        return 0;
    (void)frexp(sum / n, &exponent);
    return exponent - 1;
}

static double cost_of(int k, unsigned drop, const uint32_t *values, const uint32_t *base,
                      size_t count, uint32_t counts[256])
{
    double within = 0;
    unsigned bits;

    memset(counts, 0, 256 * sizeof *counts);
    for (size_t i = 0; i < count; i++) {
        counts[symbol_of(k, drop, values[i], base[i], &bits)]++;
        within += bits;
    }
    return within;
}

void delta_cell_plan(struct delta_cell *cell, unsigned drop, const uint32_t *values,
                     const uint32_t *base, size_t count)
{
    const int around = typical(values, base, count);
    double best = INFINITY;

    for (int k = around - 5; k <= around + 1; k++) {
        const int grid = k < K_MIN ? K_MIN : k > K_MAX ? K_MAX : k;
        uint32_t counts[256];
        struct delta_rans_freqs freqs;
        double cost = cost_of(grid, drop, values, base, count, counts);
        delta_rans_normalise(counts, &freqs);
        cost += delta_rans_cost(counts, &freqs);
        for (int i = 0; i < 256; i++)
            cost += freqs.freq[i] ? 7 : 0; /* about what an entry of the table takes */
        if (cost < best) {
            best = cost;
            cell->freqs = freqs;
            cell->k = grid;
        }
    }
    cell->drop = drop;
}

double delta_cell_floor_bits(unsigned drop, const uint32_t *values, const uint32_t *base,
                             size_t count)
{
    const int around = typical(values, base, count);
    double best = INFINITY;

    for (int k = around - 5; k <= around + 1; k++) {
        uint32_t counts[256];
        double cost = cost_of(k < K_MIN ? K_MIN : k, drop, values, base, count, counts);
        for (int i = 0; i < 256; i++)
            if (counts[i])
                cost -= counts[i] * log2((double)counts[i] / (double)count);
        best = cost < best ? cost : best;
    }
    return best;
}

/* ---- writing ---- */

enum delta_status delta_cell_put(struct delta_buf *out, const struct delta_cell *cell,
                                 struct delta_error *err)
{
    const uint8_t k = (uint8_t)cell->k;
    enum delta_status st = delta_buf_append(out, &k, 1, err);

    return st ? st : delta_rans_put_table(out, &cell->freqs, err);
}

static void put_within(struct delta_bits_out *bits, const struct delta_cell *cell, unsigned symbol,
                       uint32_t value, unsigned len)
{
    if (symbol == SPELLED) {
        delta_bits_put(bits, value, 32);
        return;
    }
    const uint32_t mantissa = value & 0x7fffff;
    if (magnitude(cell_of(value, cell->k)) == 0) {
        const unsigned below = len - 1 - (23 - cell->drop);
        delta_bits_put(bits, 1u << below, below + 1);
        delta_bits_put(bits, mantissa >> cell->drop, 23 - cell->drop);
    } else {
        delta_bits_put(bits, mantissa >> cell->drop & ((1u << len) - 1), len);
    }
}

enum delta_status delta_cell_put_block(struct delta_buf *out, const struct delta_cell *cell,
                                       const uint32_t *values, const uint32_t *base, size_t count,
                                       struct delta_error *err)
{
    uint8_t *symbols = delta_calloc(count, 1);
    struct delta_bits_out bits = {delta_calloc(count * 5 + 8, 1), 0};
    uint8_t head[4];
    enum delta_status st = DELTA_OK;

    if (!symbols || !bits.data) {
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu values", count);
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        unsigned len;
        symbols[i] = (uint8_t)symbol_of(cell->k, cell->drop, values[i], base[i], &len);
        if (symbols[i] != SAME)
            put_within(&bits, cell, symbols[i], values[i], len);
    }
    const size_t len = delta_bits_bytes(&bits);
    for (int i = 0; i < 4; i++)
        head[i] = (uint8_t)(len >> (8 * i));
    st = delta_rans_put_block(out, &cell->freqs, symbols, count, err);
    if (!st)
        st = delta_buf_append(out, head, sizeof head, err);
    if (!st)
        st = delta_buf_append(out, bits.data, len, err);
done:
    free(symbols);
    free(bits.data);
    return st;
}

/* ---- reading ---- */

enum delta_status delta_cell_get(struct delta_cell_in *cell, struct delta_pull *pull, unsigned drop,
                                 struct delta_error *err)
{
    const uint8_t *k;
    enum delta_status st = delta_pull_take(pull, 1, &k, err);

    if (st)
        return st;
    cell->k = (int8_t)*k;
    cell->drop = drop;
    if (cell->k < K_MIN)
        return delta_fail(err, DELTA_FORMAT, "a grid of 2^%d", cell->k);
    return delta_rans_get_table(pull, &cell->table, err);
}

/* A value of the two cells at zero. */
static bool near_zero(const struct delta_cell_in *cell, struct delta_bits_in *bits, uint32_t sign,
                      uint32_t *value)
{
    const uint64_t word = delta_bits_peek(bits);
    const unsigned below = word ? (unsigned)__builtin_ctzll(word) : 64;
    const int exponent = cell->k + 126 - (int)below;

    if (below > DEEPEST || exponent < 1)
        return false;
    bits->at += below + 1;
    *value = sign | (uint32_t)exponent << 23 | delta_bits_get(bits, 23 - cell->drop) << cell->drop;
    return true;
}

static bool moved(const struct delta_cell_in *cell, struct delta_bits_in *bits, unsigned symbol,
                  uint32_t *value)
{
    const int64_t from = cell_of(*value, cell->k);

    if (from == NOWHERE)
        return false;
    const int64_t to = from + (int)symbol - MOVED_ZERO;
    const uint32_t sign = to < 0 ? 0x80000000u : 0;
    const int64_t m = to < 0 ? -1 - to : to;
    if (m == 0)
        return near_zero(cell, bits, sign, value);
    const int l = 63 - __builtin_clzll((uint64_t)m), exponent = cell->k + l + 127;
    const unsigned len = bits_within(m, cell->drop);
    if (exponent < 1 || exponent > 254)
        return false;
    uint32_t mantissa = delta_bits_get(bits, len) << cell->drop;
    if (l <= 23)
        mantissa |= (uint32_t)(m << (23 - l));
    else if (m & (((int64_t)1 << (l - 23)) - 1)) /* between two floats */
        return false;
    else
        mantissa |= (uint32_t)(m >> (l - 23));
    *value = sign | (uint32_t)exponent << 23 | (mantissa & 0x7fffff);
    return true;
}

enum delta_status delta_cell_get_block(struct delta_cell_in *cell, struct delta_pull *pull,
                                       uint32_t *values, size_t count, struct delta_error *err)
{
    struct delta_bits_in bits = {NULL, 0, 0};
    const uint8_t *len;
    enum delta_status st = delta_rans_get_block(pull, &cell->table, cell->symbols, count, err);

    if (!st)
        st = delta_pull_take(pull, 4, &len, err);
    if (st)
        return st;
    bits.len = delta_le32(len);
    st = delta_pull_take(pull, bits.len, &bits.data, err);
    for (size_t i = 0; i < count && !st; i++) {
        const unsigned symbol = cell->symbols[i];
        if (symbol == SAME)
            continue;
        if (symbol == SPELLED)
            values[i] = delta_bits_get(&bits, 32);
        else if (!moved(cell, &bits, symbol, &values[i]))
            return delta_fail(err, DELTA_FORMAT, "value %zu of a block leads nowhere", i);
    }
    if (!st && delta_bits_wrong_end(&bits))
        st = delta_fail(err, DELTA_FORMAT, "a block of values is damaged");
    return st;
}
