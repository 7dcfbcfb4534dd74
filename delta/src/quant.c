#include "quant.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* base + q * scale must be one rounding to float32, not one to something wider and another. */
_Static_assert(FLT_EVAL_METHOD == 0, "float arithmetic in a wider type");

#define EXPONENT_MIN (-149)
#define EXPONENT_MAX 80
#define OCTAVES 32
#define ROW_VALUES_MIN 64 /* mean values of a row from which a scale of its own pays */

void delta_quant_release(struct delta_quant *quant)
{
    free(quant->q);
    free(quant->scales);
    *quant = (struct delta_quant){.q = NULL};
}

static float float_of(uint32_t pattern)
{
    float f;

    memcpy(&f, &pattern, sizeof f);
    return f;
}

static uint32_t pattern_of(float f)
{
    uint32_t pattern;

    memcpy(&pattern, &f, sizeof pattern);
    return pattern;
}

static inline float scale_of(uint8_t code, int exponent)
{
    if (code == 0)
        return 0;
    return ldexpf((float)(8 + (code - 1) % 8), exponent + (code - 1) / 8);
}

static int8_t round_move(double x, double up_from)
{
    const double q = floor(fabs(x) + 1 - up_from);

    return (int8_t)(q > 127 ? copysign(127, x) : copysign(q, x));
}

/* What a reader makes of a move, see move_run(). */
static inline uint32_t move(uint32_t base, int q, float scale)
{
    return q ? pattern_of(float_of(base) + (float)q * scale) : base;
}

/* ---- scales ---- */

/* Code of the scale nearest to x, at least 1; 0 for no move. */
static uint8_t code_for(double x, int exponent)
{
    int e;

    if (!(x > 0))
        return 0;
    const double m = frexp(x, &e) * 16; /* 8 <= m < 16, x = m * 2^(e-4) */
    const int code = 1 + 8 * (e - 4 - exponent) + (int)(m + 0.5) - 8;
    return (uint8_t)(code < 1 ? 1 : code > 255 ? 255 : code);
}

static enum delta_status choose_scales(struct delta_quant *out, const double *squares,
                                       const size_t *counts, double step, struct delta_error *err)
{
    double largest = 0;

    out->scales = delta_calloc(out->scale_count, 1);
    if (!out->scales)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate scales");
    for (size_t i = 0; i < out->scale_count; i++)
        if (counts[i])
            largest = fmax(largest, step * sqrt(squares[i] / (double)counts[i]));
    (void)frexp(largest, &out->exponent);
    out->exponent -= 4 + OCTAVES - 1; /* the largest in the uppermost octave */
    if (out->exponent < EXPONENT_MIN)
        out->exponent = EXPONENT_MIN;
    if (out->exponent > EXPONENT_MAX)
        out->exponent = EXPONENT_MAX;
    for (size_t i = 0; i < out->scale_count; i++)
        if (counts[i])
            out->scales[i] = code_for(step * sqrt(squares[i] / (double)counts[i]), out->exponent);
    return DELTA_OK;
}

/* Sums of squared moves per scale, and how many values share it. */
static enum delta_status measure(struct delta_quant *out, const uint32_t *elements, size_t row_len,
                                 double step, const uint32_t *base, const uint32_t *wanted,
                                 struct delta_error *err)
{
    double *squares = delta_calloc(out->scale_count, sizeof *squares);
    size_t *counts = delta_calloc(out->scale_count, sizeof *counts);
    enum delta_status st = DELTA_OK;

    if (!squares || !counts) {
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate scales");
        goto done;
    }
    for (size_t i = 0; i < out->count; i++) {
        const size_t row = out->rows ? elements[i] / row_len - out->first_row : 0;
        const double u =
            (double)float_of(wanted[elements[i]]) - (double)float_of(base[elements[i]]);
        squares[row] += u * u;
        counts[row] += u != 0;
    }
    st = choose_scales(out, squares, counts, step, err);
done:
    free(squares);
    free(counts);
    return st;
}

static enum delta_status round_all(struct delta_quant *out, const uint32_t *elements,
                                   size_t row_len, double up_from, const uint32_t *base,
                                   uint32_t *wanted, struct delta_error *err)
{
    for (size_t i = 0; i < out->count; i++) {
        const uint32_t at = elements[i];
        const size_t row = out->rows ? at / row_len - out->first_row : 0;
        const float scale = scale_of(out->scales[row], out->exponent);
        const double u = (double)float_of(wanted[at]) - (double)float_of(base[at]);
        out->q[i] = scale > 0 ? round_move(u / scale, up_from) : 0;
        wanted[at] = move(base[at], out->q[i], scale);
        if (!isfinite(float_of(wanted[at])))
            return delta_fail(err, DELTA_NONFINITE, "element %u rounds to infinity", at);
    }
    return DELTA_OK;
}

/* Elements in scope and room for their moves.  fails: NO_MEMORY */
static enum delta_status begin(struct delta_quant *out, uint32_t **elements,
                               const struct delta_tensor *tensor, enum delta_scope scope,
                               size_t base_count, struct delta_error *err)
{
    const size_t row_len = tensor->count / (size_t)tensor->shape[0];
    struct delta_places places;

    *out = (struct delta_quant){.count = delta_scope_count(tensor, scope, base_count)};
    out->first_row = scope == DELTA_SCOPE_NEW ? base_count / row_len : 0;
    out->rows = out->count / ((size_t)tensor->shape[0] - out->first_row) >= ROW_VALUES_MIN;
    out->scale_count = out->rows ? (size_t)tensor->shape[0] - out->first_row : 1;
    out->q = delta_calloc(out->count, 1);
    *elements = delta_calloc(out->count, sizeof **elements);
    if (!out->q || !*elements)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu values", out->count);
    delta_places_begin(&places, tensor, scope, base_count);
    (void)delta_places_next(&places, *elements, out->count);
    return DELTA_OK;
}

enum delta_status delta_quant_round(struct delta_quant *out, const struct delta_tensor *tensor,
                                    enum delta_scope scope, size_t base_count, double step,
                                    double up_from, const uint32_t *base, uint32_t *wanted,
                                    struct delta_error *err)
{
    const size_t row_len = tensor->count / (size_t)tensor->shape[0];
    uint32_t *elements;
    enum delta_status st = begin(out, &elements, tensor, scope, base_count, err);

    if (!st)
        st = measure(out, elements, row_len, step, base, wanted, err);
    if (!st)
        st = round_all(out, elements, row_len, up_from, base, wanted, err);
    free(elements);
    if (st)
        delta_quant_release(out);
    return st;
}

/* ---- a grid that is there already ---- */

/* Values that share a scale, and what is known of it. */
struct share {
    const uint32_t *elements, *base, *target;
    size_t count;
    int8_t *q;
};

static double way(const struct share *share, size_t i)
{
    const uint32_t at = share->elements[i];

    return (double)float_of(share->target[at]) - (double)float_of(share->base[at]);
}

/* Every value is a move by a multiple of this scale; fills q then. */
static bool fits(const struct share *share, float scale)
{
    for (size_t i = 0; i < share->count; i++) {
        const uint32_t at = share->elements[i];
        const double q = rint(way(share, i) / scale);
        if (!(fabs(q) <= 127) || move(share->base[at], (int)q, scale) != share->target[at])
            return false;
        share->q[i] = (int8_t)q;
    }
    return true;
}

/* The largest scale that fits: m * 2^*exponent; m = 0: nothing moved; -1: none does. The smallest
 * move is at least the scale, but for the rounding of one addition; the largest at most 127. */
static int find_scale(const struct share *share, int *exponent)
{
    double least = INFINITY, most = 0;
    int e;

    for (size_t i = 0; i < share->count; i++) {
        const uint32_t at = share->elements[i];
        const double size = fabs(way(share, i));
        if (share->target[at] == share->base[at])
            continue;
        if (!(size > 0)) /* not finite, or from 0 to -0 */
            return -1;
        least = fmin(least, size);
        most = fmax(most, size);
    }
    if (most == 0)
        return 0;
    (void)frexp(2 * least, &e);
    for (e -= 4; e >= EXPONENT_MIN && e < EXPONENT_MAX + OCTAVES; e--)
        for (int m = 15; m >= 8; m--) {
            if (ldexp(m, e) * 128 < most)
                return -1;
            if (fits(share, ldexpf((float)m, e))) {
                *exponent = e;
                return m;
            }
        }
    return -1;
}

/* Finds a scale for each row; the codes need a common exponent, so they follow after. */
static bool find_scales(struct delta_quant *out, struct share share, size_t row_len, int *mantissas,
                        int *exponents)
{
    const size_t count = share.count;
    int highest = INT_MIN;

    for (size_t i = 0, next; i < count; i = next) {
        const size_t row = out->rows ? share.elements[i] / row_len : 0;
        const size_t slot = out->rows ? row - out->first_row : 0;
        for (next = i; next < count && (!out->rows || share.elements[next] / row_len == row);)
            next++;
        const struct share own = {share.elements + i, share.base, share.target, next - i,
                                  out->q + i};
        mantissas[slot] = find_scale(&own, &exponents[slot]);
        if (mantissas[slot] < 0)
            return false;
        if (mantissas[slot] && exponents[slot] > highest)
            highest = exponents[slot];
    }
    if (highest == INT_MIN)
        return false;
    out->exponent = highest - (OCTAVES - 1);
    if (out->exponent < EXPONENT_MIN)
        out->exponent = EXPONENT_MIN;
    for (size_t i = 0; i < out->scale_count; i++) {
        const int code = 1 + 8 * (exponents[i] - out->exponent) + mantissas[i] - 8;
        if (mantissas[i] && (code < 1 || code > 255))
            return false;
        out->scales[i] = mantissas[i] ? (uint8_t)code : 0;
    }
    return true;
}

enum delta_status delta_quant_find(struct delta_quant *out, bool *found,
                                   const struct delta_tensor *tensor, enum delta_scope scope,
                                   size_t base_count, const uint32_t *base, const uint32_t *target,
                                   struct delta_error *err)
{
    uint32_t *elements;
    int *parts = NULL;
    enum delta_status st = begin(out, &elements, tensor, scope, base_count, err);

    *found = false;
    if (!st) {
        out->scales = delta_calloc(out->scale_count, 1);
        parts = delta_calloc(2 * out->scale_count, sizeof *parts);
        if (!out->scales || !parts)
            st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate scales");
    }
    if (!st) {
        const struct share share = {elements, base, target, out->count, out->q};
        *found = find_scales(out, share, tensor->count / (size_t)tensor->shape[0], parts,
                             parts + out->scale_count);
    }
    free(elements);
    free(parts);
    if (st || !*found)
        delta_quant_release(out);
    return st;
}

/* ---- payload: kind of scales, exponent, scales, table, blocks ---- */

enum delta_status delta_quant_put(struct delta_buf *out, const struct delta_quant *quant,
                                  struct delta_error *err)
{
    const uint16_t exponent = (uint16_t)quant->exponent;
    const uint8_t head[3] = {quant->rows, (uint8_t)exponent, (uint8_t)(exponent >> 8)};
    struct delta_rans_freqs freqs;
    uint32_t counts[256] = {0};
    uint8_t *symbols = delta_calloc(quant->count, 1);
    enum delta_status st;

    if (!symbols)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu values", quant->count);
    for (size_t i = 0; i < quant->count; i++) {
        symbols[i] = (uint8_t)(quant->q[i] + 128);
        counts[symbols[i]]++;
    }
    delta_rans_normalise(counts, &freqs);
    st = delta_buf_append(out, head, sizeof head, err);
    if (!st)
        st = delta_buf_append(out, quant->scales, quant->scale_count, err);
    if (!st)
        st = delta_rans_put_table(out, &freqs, err);
    for (size_t i = 0; i < quant->count && !st; i += DELTA_RANS_BLOCK) {
        const size_t left = quant->count - i;
        st = delta_rans_put_block(out, &freqs, symbols + i,
                                  left < DELTA_RANS_BLOCK ? left : DELTA_RANS_BLOCK, err);
    }
    free(symbols);
    return st;
}

void delta_quant_in_release(struct delta_quant_in *quant)
{
    free(quant->scales);
    quant->scales = NULL;
}

enum delta_status delta_quant_get(struct delta_quant_in *quant, struct delta_pull *pull,
                                  const struct delta_tensor *tensor, size_t first_element,
                                  struct delta_error *err)
{
    const uint8_t *bytes;
    enum delta_status st = delta_pull_take(pull, 3, &bytes, err);

    if (st)
        return st;
    quant->rows = bytes[0] == 1;
    quant->exponent = (int16_t)delta_le16(bytes + 1);
    quant->row_len = tensor->count / (size_t)tensor->shape[0];
    quant->first_row = first_element / quant->row_len;
    if (bytes[0] > 1 || quant->exponent < EXPONENT_MIN || quant->exponent > EXPONENT_MAX)
        return delta_fail(err, DELTA_FORMAT, "scales of kind %u with exponent %d", bytes[0],
                          quant->exponent);
    quant->scale_count = quant->rows ? (size_t)tensor->shape[0] - quant->first_row : 1;
    if (quant->scale_count > pull->left)
        return delta_fail(err, DELTA_FORMAT, "payload ends early: %zu scales in %zu bytes",
                          quant->scale_count, pull->left);
    quant->scales = delta_calloc(quant->scale_count, 1);
    if (!quant->scales)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate scales");
    for (size_t i = 0; i < quant->scale_count && !st; i += DELTA_PULL_MAX) {
        const size_t left = quant->scale_count - i;
        const size_t n = left < DELTA_PULL_MAX ? left : DELTA_PULL_MAX;
        st = delta_pull_take(pull, n, &bytes, err);
        if (!st)
            memcpy(quant->scales + i, bytes, n);
    }
    return st ? st : delta_rans_get_table(pull, &quant->table, err);
}

/* Values that share a scale. No branch: which of them move is a coin's toss. */
static void move_run(const uint8_t *symbols, uint32_t *values, size_t count, float scale)
{
    for (size_t i = 0; i < count; i++) {
        const int q = symbols[i] - 128;
        const uint32_t to = pattern_of(float_of(values[i]) + (float)q * scale);
        values[i] = q ? to : values[i];
    }
}

/* Where the run of elements before `end` ends that starts at `first`; they ascend. */
static size_t run_end(const uint32_t *elements, size_t first, size_t count, size_t end)
{
    if (elements[count - 1] < end)
        return count;
    if (elements[count - 1] - elements[first] == count - 1 - first) /* without gaps */
        return first + (end - elements[first]);
    while (first < count && elements[first] < end)
        first++;
    return first;
}

enum delta_status delta_quant_get_block(struct delta_quant_in *quant, struct delta_pull *pull,
                                        const uint32_t *elements, uint32_t *values, size_t count,
                                        struct delta_error *err)
{
    enum delta_status st = delta_rans_get_block(pull, &quant->table, quant->symbols, count, err);
    size_t row = 0, end = SIZE_MAX;

    if (!st && memchr(quant->symbols, 0, count))
        st = delta_fail(err, DELTA_FORMAT, "a move of -128");
    for (size_t i = 0, next; i < count && !st; i = next) {
        if (quant->rows) {
            row = elements[i] / quant->row_len;
            end = (row + 1) * quant->row_len;
            row -= quant->first_row;
        }
        next = run_end(elements, i, count, end);
        move_run(quant->symbols + i, values + i, next - i,
                 scale_of(quant->scales[row], quant->exponent));
    }
    return st;
}
