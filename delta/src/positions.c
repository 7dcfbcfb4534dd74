#include "positions.h"

#include <math.h>
#include <stdlib.h>

#include "bits.h"

static const char *const scope_names[] = {
    [DELTA_SCOPE_ALL] = "all",
    [DELTA_SCOPE_LIVE] = "live",
    [DELTA_SCOPE_NEW] = "new",
    [DELTA_SCOPE_SOME] = "some",
};

const char *delta_scope_name(enum delta_scope scope)
{
    return scope_names[scope];
}

enum delta_status delta_scope_parse(const char *name, enum delta_scope *scope,
                                    struct delta_error *err)
{
    for (size_t i = 0; i < sizeof scope_names / sizeof scope_names[0]; i++)
        if (strcmp(scope_names[i], name) == 0) {
            *scope = (enum delta_scope)i;
            return DELTA_OK;
        }
    return delta_fail(err, DELTA_UNSUPPORTED, "unknown scope '%.15s'", name);
}

size_t delta_scope_count(const struct delta_tensor *tensor, enum delta_scope scope,
                         size_t base_count)
{
    switch (scope) {
    case DELTA_SCOPE_LIVE:
        return delta_tensor_live_count(tensor);
    case DELTA_SCOPE_NEW:
        return tensor->count - base_count;
    case DELTA_SCOPE_ALL:
    case DELTA_SCOPE_SOME:
        break;
    }
    return tensor->count;
}

/* ---- the walk ---- */

void delta_places_begin(struct delta_places *places, const struct delta_tensor *tensor,
                        enum delta_scope scope, size_t base_count)
{
    *places = (struct delta_places){tensor, scope, scope == DELTA_SCOPE_NEW ? base_count : 0};
    if (scope == DELTA_SCOPE_LIVE && tensor->freeze.mode == DELTA_FREEZE_ALL)
        places->next = tensor->count;
}

static size_t next_run(struct delta_places *places, size_t end, uint32_t *elements, size_t max)
{
    const size_t left = end - places->next, n = left < max ? left : max;

    for (size_t i = 0; i < n; i++)
        elements[i] = (uint32_t)(places->next + i);
    places->next += n;
    return n;
}

/* Clear bits of the bitmap, 64 at a time: nine of ten are usually set. */
static size_t next_clear(struct delta_places *places, uint32_t *elements, size_t max)
{
    const struct delta_freeze *plan = &places->tensor->freeze;
    const size_t bytes = plan->count / 8 + (plan->count % 8 != 0);
    size_t n = 0;

    while (places->next < plan->count && n < max) {
        const size_t word = places->next / 64;
        uint64_t frozen = ~(uint64_t)0;
        memcpy(&frozen, plan->bits + 8 * word, bytes - 8 * word < 8 ? bytes - 8 * word : 8);
        uint64_t live = ~frozen & ~(uint64_t)0 << (places->next % 64);
        while (live && n < max) {
            const size_t element = 64 * word + (size_t)__builtin_ctzll(live);
            live &= live - 1;
            if (element >= plan->count)
                break;
            elements[n++] = (uint32_t)element;
            places->next = element + 1;
        }
        if (n < max)
            places->next = 64 * (word + 1) < plan->count ? 64 * (word + 1) : plan->count;
    }
    return n;
}

static size_t next_row(struct delta_places *places, uint32_t *elements, size_t max)
{
    const struct delta_tensor *tensor = places->tensor;
    const struct delta_freeze *plan = &tensor->freeze;
    const size_t row_len = tensor->count / (size_t)tensor->shape[0];
    size_t n = 0;

    while (places->next < tensor->count && n < max) {
        const size_t row = places->next / row_len;
        if (row < plan->count && plan->bits[row / 8] >> (row % 8) & 1)
            places->next = (row + 1) * row_len;
        else
            n += next_run(places, (row + 1) * row_len, elements + n, max - n);
    }
    return n;
}

size_t delta_places_next(struct delta_places *places, uint32_t *elements, size_t max)
{
    const struct delta_tensor *tensor = places->tensor;
    size_t n = 0;

    if (places->scope == DELTA_SCOPE_LIVE && tensor->freeze.mode == DELTA_FREEZE_ROWS)
        return next_row(places, elements, max);
    if (places->scope == DELTA_SCOPE_LIVE && tensor->freeze.mode == DELTA_FREEZE_WEIGHTS)
        n = next_clear(places, elements, max);
    return n + next_run(places, n < max ? tensor->count : places->next, elements + n, max - n);
}

/* ---- gaps: symbol s < DIRECT is the gap itself (its high bits); DIRECT + b stands for
 * DIRECT + 2^b - 1 + (b further bits) ---- */

#define DIRECT 192
#define FAR_MAX 30 /* b of the largest gap, of fewer than 2^29 elements */

static uint8_t gap_symbol(uint32_t gap, uint32_t *rest, unsigned *bits)
{
    if (gap < DIRECT) {
        *rest = 0;
        *bits = 0;
        return (uint8_t)gap;
    }
    const uint32_t v = gap - DIRECT + 1;
    *bits = 31 - (unsigned)__builtin_clz(v);
    *rest = v - (1u << *bits);
    return (uint8_t)(DIRECT + *bits);
}

static double gap_cost(const uint32_t *elements, size_t count, unsigned shift,
                       struct delta_rans_freqs *freqs)
{
    uint32_t counts[256] = {0}, from = 0, rest;
    double cost = 0;
    unsigned bits;

    for (size_t i = 0; i < count; i++) {
        counts[gap_symbol((elements[i] - from) >> shift, &rest, &bits)]++;
        cost += shift + bits;
        from = elements[i] + 1;
    }
    delta_rans_normalise(counts, freqs);
    for (int i = 0; i < 256; i++)
        cost += freqs->freq[i] ? 6 : 0; /* about what an entry of the table takes */
    return cost + delta_rans_cost(counts, freqs);
}

void delta_gaps_plan(struct delta_gaps *gaps, const uint32_t *elements, size_t count)
{
    double best = INFINITY;

    for (unsigned shift = 0; shift < 16; shift++) {
        struct delta_rans_freqs freqs;
        const double cost = gap_cost(elements, count, shift, &freqs);
        if (cost >= best)
            break; /* it only rises from here */
        best = cost;
        gaps->freqs = freqs;
        gaps->shift = shift;
    }
}

enum delta_status delta_gaps_put(struct delta_buf *out, const struct delta_gaps *gaps,
                                 struct delta_error *err)
{
    const uint8_t shift = (uint8_t)gaps->shift;
    enum delta_status st = delta_buf_append(out, &shift, 1, err);

    return st ? st : delta_rans_put_table(out, &gaps->freqs, err);
}

/* A bit stream behind its length in bytes. */
static enum delta_status put_bits(struct delta_buf *out, const struct delta_bits_out *bits,
                                  struct delta_error *err)
{
    const size_t len = delta_bits_bytes(bits);
    const uint8_t head[4] = {(uint8_t)len, (uint8_t)(len >> 8), (uint8_t)(len >> 16),
                             (uint8_t)(len >> 24)};
    enum delta_status st = delta_buf_append(out, head, sizeof head, err);

    return st ? st : delta_buf_append(out, bits->data, len, err);
}

enum delta_status delta_gaps_put_block(struct delta_buf *out, const struct delta_gaps *gaps,
                                       uint32_t from, const uint32_t *elements, size_t count,
                                       struct delta_error *err)
{
    uint8_t *symbols = delta_calloc(count, 1);
    struct delta_bits_out bits = {delta_calloc(count * 6 + 8, 1), 0};
    enum delta_status st = DELTA_OK;

    if (!symbols || !bits.data) {
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu positions", count);
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        const uint32_t gap = elements[i] - from;
        uint32_t rest;
        unsigned len;
        symbols[i] = gap_symbol(gap >> gaps->shift, &rest, &len);
        delta_bits_put(&bits, gap & ((1u << gaps->shift) - 1), gaps->shift);
        delta_bits_put(&bits, rest, len);
        from = elements[i] + 1;
    }
    st = delta_rans_put_block(out, &gaps->freqs, symbols, count, err);
    if (!st)
        st = put_bits(out, &bits, err);
done:
    free(symbols);
    free(bits.data);
    return st;
}

enum delta_status delta_gaps_get(struct delta_gaps_in *gaps, struct delta_pull *pull, size_t limit,
                                 struct delta_error *err)
{
    const uint8_t *shift;
    enum delta_status st = delta_pull_take(pull, 1, &shift, err);

    if (st)
        return st;
    gaps->shift = *shift;
    gaps->next = 0;
    gaps->limit = limit;
    if (gaps->shift > 15)
        return delta_fail(err, DELTA_FORMAT, "positions: a shift of %u bits", gaps->shift);
    return delta_rans_get_table(pull, &gaps->table, err);
}

enum delta_status delta_gaps_get_block(struct delta_gaps_in *gaps, struct delta_pull *pull,
                                       uint32_t *elements, size_t count, struct delta_error *err)
{
    struct delta_bits_in bits = {NULL, 0, 0};
    const uint8_t *len;
    enum delta_status st = delta_rans_get_block(pull, &gaps->table, gaps->symbols, count, err);

    if (!st)
        st = delta_pull_take(pull, 4, &len, err);
    if (st)
        return st;
    bits.len = delta_le32(len);
    st = delta_pull_take(pull, bits.len, &bits.data, err);
    for (size_t i = 0; i < count && !st; i++) {
        const unsigned symbol = gaps->symbols[i];
        const uint32_t low = delta_bits_get(&bits, gaps->shift);
        uint64_t gap = symbol;
        if (symbol > DIRECT + FAR_MAX)
            return delta_fail(err, DELTA_FORMAT, "positions: unknown symbol %u", symbol);
        if (symbol >= DIRECT)
            gap = DIRECT - 1 + ((uint64_t)1 << (symbol - DIRECT)) +
                  delta_bits_get(&bits, symbol - DIRECT);
        gaps->next += gap << gaps->shift | low;
        if (gaps->next >= gaps->limit)
            return delta_fail(err, DELTA_FORMAT, "positions: element %llu of %llu",
                              (unsigned long long)gaps->next, (unsigned long long)gaps->limit);
        elements[i] = (uint32_t)gaps->next++;
    }
    if (!st && delta_bits_wrong_end(&bits))
        st = delta_fail(err, DELTA_FORMAT, "positions: a block is damaged");
    return st;
}
