#include "rans.h"

#include <math.h>
#include <stdlib.h>

#include "bits.h"

void delta_rans_normalise(const uint32_t counts[256], struct delta_rans_freqs *out)
{
    uint64_t sum = 0;
    uint32_t left = DELTA_RANS_TOTAL, start = 0;
    int largest = 0;

    for (int i = 0; i < 256; i++) {
        sum += counts[i];
        largest = counts[i] > counts[largest] ? i : largest;
    }
    for (int i = 0; i < 256; i++) {
        uint32_t f = 0;
        if (counts[i]) {
            f = (uint32_t)((counts[i] * (uint64_t)DELTA_RANS_TOTAL + sum / 2) / sum);
            f = f ? f : 1;
        }
        out->freq[i] = (uint16_t)f;
        left -= f; /* may pass zero: it comes back below, modulo 2^32 */
    }
    if (sum == 0)
        largest = 0;
    /* Rounding is put right where it costs least, a unit at a time from the largest. */
    while (left) {
        const bool more = left < 1u << 31;
        int at = largest;
        if (!more)
            for (int i = 0; i < 256; i++)
                at = out->freq[i] > out->freq[at] ? i : at;
        if (more) {
            out->freq[at] = (uint16_t)(out->freq[at] + left);
            left = 0;
        } else {
            out->freq[at]--;
            left++;
        }
    }
    for (int i = 0; i < 256; i++) {
        out->start[i] = (uint16_t)start;
        start += out->freq[i];
    }
}

double delta_rans_cost(const uint32_t counts[256], const struct delta_rans_freqs *freqs)
{
    double bits = 0;

    for (int i = 0; i < 256; i++)
        if (counts[i])
            bits += counts[i] * (DELTA_RANS_BITS - log2(freqs->freq[i]));
    return bits;
}

/* ---- the table: first symbol, number of symbols - 1, p, then each frequency as the difference
 * from the one before, zigzag, exp-Golomb of order p ---- */

static uint32_t zigzag(int32_t v)
{
    return (uint32_t)v << 1 ^ (uint32_t)(v >> 31);
}

static void put_golomb(struct delta_bits_out *out, uint32_t value, unsigned p)
{
    const uint32_t q = (value >> p) + 1;
    const unsigned z = 31 - (unsigned)__builtin_clz(q);

    delta_bits_put(out, 1u << z, z + 1); /* z zeros and a one */
    delta_bits_put(out, q - (1u << z), z);
    delta_bits_put(out, value & ((1u << p) - 1), p);
}

static size_t table_bits(const struct delta_rans_freqs *freqs, int first, int last, unsigned p,
                         struct delta_bits_out *out)
{
    int32_t before = 0;

    for (int i = first; i <= last; i++) {
        put_golomb(out, zigzag(freqs->freq[i] - before), p);
        before = freqs->freq[i];
    }
    return out->at;
}

enum delta_status delta_rans_put_table(struct delta_buf *out, const struct delta_rans_freqs *freqs,
                                       struct delta_error *err)
{
    /* a difference is below 2^13: at most 13 + 14 + 11 bits */
    uint8_t bits[256 * 5 + 8] = {0}, head[5];
    size_t best = SIZE_MAX;
    unsigned best_p = 0;
    int first = 0, last = 255;
    enum delta_status st;

    while (freqs->freq[first] == 0)
        first++;
    while (freqs->freq[last] == 0)
        last--;
    for (unsigned p = 0; p < 12; p++) {
        struct delta_bits_out trial = {bits, 0};
        const size_t len = table_bits(freqs, first, last, p, &trial);
        if (len < best) {
            best = len;
            best_p = p;
        }
    }
    struct delta_bits_out final = {bits, 0};
    (void)table_bits(freqs, first, last, best_p, &final);
    best = delta_bits_bytes(&final);
    head[0] = (uint8_t)first;
    head[1] = (uint8_t)(last - first);
    head[2] = (uint8_t)best_p;
    head[3] = (uint8_t)best;
    head[4] = (uint8_t)(best >> 8);
    st = delta_buf_append(out, head, sizeof head, err);
    return st ? st : delta_buf_append(out, bits, best, err);
}

static bool get_golomb(struct delta_bits_in *in, unsigned p, uint32_t *value)
{
    const uint64_t word = delta_bits_peek(in);
    const unsigned z = word ? (unsigned)__builtin_ctzll(word) : 64;

    if (z > 13) /* no difference is that large */
        return false;
    in->at += z + 1;
    *value = ((1u << z) - 1 + delta_bits_get(in, z)) << p;
    *value += delta_bits_get(in, p);
    return true;
}

static void fill_slots(struct delta_rans_table *out, uint32_t *slot, uint32_t symbol, uint32_t freq)
{
    for (uint32_t k = 0; k < freq; k++)
        out->slot[(*slot)++] = symbol | (freq - 1) << 8 | k << 20;
}

enum delta_status delta_rans_get_table(struct delta_pull *pull, struct delta_rans_table *out,
                                       struct delta_error *err)
{
    struct delta_bits_in in = {NULL, 0, 0};
    const uint8_t *head;
    uint32_t slot = 0, before = 0, v = 0;
    enum delta_status st = delta_pull_take(pull, 5, &head, err);

    if (st)
        return st;
    const uint32_t first = head[0], count = head[1] + 1u, p = head[2];
    in.len = delta_le16(head + 3);
    if (p > 11 || first + count > 256)
        return delta_fail(err, DELTA_FORMAT, "frequency table from symbol %u on with %u symbols",
                          first, count);
    st = delta_pull_take(pull, in.len, &in.data, err);
    if (st)
        return st;
    for (uint32_t i = 0; i < count; i++) {
        if (!get_golomb(&in, p, &v))
            return delta_fail(err, DELTA_FORMAT, "frequency table is damaged");
        const uint32_t freq = before + (v >> 1 ^ (0u - (v & 1)));
        if (freq > DELTA_RANS_TOTAL - slot) /* below zero is above any limit */
            return delta_fail(err, DELTA_FORMAT, "frequencies exceed %u", DELTA_RANS_TOTAL);
        fill_slots(out, &slot, first + i, freq);
        before = freq;
    }
    if (slot != DELTA_RANS_TOTAL || delta_bits_wrong_end(&in))
        return delta_fail(err, DELTA_FORMAT, "frequencies add up to %u instead of %u", slot,
                          DELTA_RANS_TOTAL);
    return DELTA_OK;
}

/* ---- blocks ---- */

enum delta_status delta_rans_put_block(struct delta_buf *out, const struct delta_rans_freqs *freqs,
                                       const uint8_t *symbols, size_t count,
                                       struct delta_error *err)
{
    const unsigned lanes = delta_rans_lanes(count);
    uint32_t state[DELTA_RANS_LANES];
    uint16_t *words = delta_calloc(DELTA_RANS_WORDS, sizeof *words);
    size_t first = DELTA_RANS_WORDS; /* filled from the back: the decoder runs the other way */
    uint8_t head[2 + 4 * DELTA_RANS_LANES];
    enum delta_status st;

    if (!words)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a block");
    for (unsigned i = 0; i < lanes; i++)
        state[i] = DELTA_RANS_LOW;
    for (size_t i = count; i-- > 0;) {
        const uint32_t freq = freqs->freq[symbols[i]], start = freqs->start[symbols[i]];
        uint32_t x = state[i % lanes];
        if (x >= (uint64_t)freq << (32 - DELTA_RANS_BITS)) {
            words[--first] = (uint16_t)x;
            x >>= 16;
        }
        state[i % lanes] = (x / freq << DELTA_RANS_BITS) + x % freq + start;
    }
    const size_t used = DELTA_RANS_WORDS - first;
    head[0] = (uint8_t)used;
    head[1] = (uint8_t)(used >> 8);
    memcpy(head + 2, state, 4 * lanes); /* little-endian hosts only, see pack.h */
    st = delta_buf_append(out, head, 2 + 4 * lanes, err);
    if (!st)
        st = delta_buf_append(out, words + first, used * sizeof *words, err);
    free(words);
    return st;
}

/* One step; a word that is not there counts as zero, and is missed at the end. */
static inline uint8_t step(uint32_t *state, const struct delta_rans_table *table,
                           const uint8_t *words, size_t count, size_t *at)
{
    const uint32_t slot = table->slot[*state & (DELTA_RANS_TOTAL - 1)];
    uint32_t x =
        ((slot >> 8 & (DELTA_RANS_TOTAL - 1)) + 1) * (*state >> DELTA_RANS_BITS) + (slot >> 20);

    if (x < DELTA_RANS_LOW) {
        uint16_t word = 0;
        if (*at < count)
            memcpy(&word, words + 2 * *at, sizeof word);
        x = x << 16 | word;
        ++*at;
    }
    *state = x;
    return (uint8_t)slot;
}

enum delta_status delta_rans_get_block(struct delta_pull *pull,
                                       const struct delta_rans_table *table, uint8_t *symbols,
                                       size_t count, struct delta_error *err)
{
    const unsigned lanes = delta_rans_lanes(count);
    uint32_t state[DELTA_RANS_LANES] = {DELTA_RANS_LOW, DELTA_RANS_LOW, DELTA_RANS_LOW,
                                        DELTA_RANS_LOW};
    const uint8_t *head, *words;
    size_t at = 0, i = 0;
    bool wrong = false;
    enum delta_status st = delta_pull_take(pull, 2 + 4 * lanes, &head, err);

    if (st)
        return st;
    const size_t used = delta_le16(head);
    for (unsigned k = 0; k < lanes; k++) {
        state[k] = delta_le32(head + 2 + 4 * k);
        wrong |= state[k] < DELTA_RANS_LOW;
    }
    st = delta_pull_take(pull, 2 * used, &words, err);
    if (st)
        return st;
    if (lanes == DELTA_RANS_LANES)
        for (uint32_t a = state[0], b = state[1], c = state[2], d = state[3]; i + 4 <= count;
             i += 4) {
            symbols[i] = step(&a, table, words, used, &at);
            symbols[i + 1] = step(&b, table, words, used, &at);
            symbols[i + 2] = step(&c, table, words, used, &at);
            symbols[i + 3] = step(&d, table, words, used, &at);
            state[0] = a, state[1] = b, state[2] = c, state[3] = d;
        }
    for (; i < count; i++)
        symbols[i] = step(&state[i % lanes], table, words, used, &at);
    for (unsigned k = 0; k < DELTA_RANS_LANES; k++)
        wrong |= state[k] != DELTA_RANS_LOW;
    if (wrong || at != used)
        return delta_fail(err, DELTA_FORMAT, "a block of symbols is damaged");
    return DELTA_OK;
}
