#include "codec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cell.h"
#include "planes.h"
#include "quant.h"

/* Measured on 11.8 million changed weights: level 9 takes a tenth of level 19's time for 2.5 % more
 * bytes, and devices with small processors make deltas too. */
#define LEVEL_DEFAULT 9

static const char *const encoding_names[] = {
    [DELTA_ENCODING_RAW] = "raw",   [DELTA_ENCODING_ZSTD] = "zstd", [DELTA_ENCODING_DIFF] = "diff",
    [DELTA_ENCODING_CELL] = "cell", [DELTA_ENCODING_BF16] = "bf16", [DELTA_ENCODING_INT8] = "int8",
};

const char *delta_encoding_name(enum delta_encoding encoding)
{
    return encoding_names[encoding];
}

enum delta_status delta_encoding_parse(const char *name, enum delta_encoding *encoding,
                                       struct delta_error *err)
{
    for (size_t i = 0; i < sizeof encoding_names / sizeof encoding_names[0]; i++)
        if (strcmp(encoding_names[i], name) == 0) {
            *encoding = (enum delta_encoding)i;
            return DELTA_OK;
        }
    return delta_fail(err, DELTA_UNSUPPORTED, "unknown encoding '%.15s'", name);
}

static const char *const choice_names[] = {
    [DELTA_CHOICE_AUTO] = "auto", [DELTA_CHOICE_RAW] = "raw",   [DELTA_CHOICE_ZSTD] = "zstd",
    [DELTA_CHOICE_DIFF] = "diff", [DELTA_CHOICE_CELL] = "cell", [DELTA_CHOICE_BF16] = "bf16",
    [DELTA_CHOICE_INT8] = "int8",
};

enum delta_status delta_choice_parse(const char *name, enum delta_choice *choice,
                                     struct delta_error *err)
{
    for (size_t i = 0; i < sizeof choice_names / sizeof choice_names[0]; i++)
        if (strcmp(choice_names[i], name) == 0) {
            *choice = (enum delta_choice)i;
            return DELTA_OK;
        }
    return delta_fail(err, DELTA_USAGE,
                      "unknown encoding '%.15s'; auto, raw, zstd, diff and cell keep every bit, "
                      "bf16 and int8 round",
                      name);
}

enum delta_scope delta_codec_scope(const struct delta_tensor *tensor, size_t base_count,
                                   const uint32_t *base, const uint32_t *target)
{
    if (tensor->count > base_count && memcmp(base, target, base_count * sizeof *base) == 0)
        return DELTA_SCOPE_NEW;
    for (size_t i = 0; i < base_count; i++)
        if (base[i] != target[i] && delta_tensor_is_frozen(tensor, i))
            return DELTA_SCOPE_ALL;
    /* a tensor that was cut: nothing changed, but its entry must bring values */
    return delta_tensor_live_count(tensor) ? DELTA_SCOPE_LIVE : DELTA_SCOPE_ALL;
}

/* ---- encoding ---- */

/* Values of a scope side by side. */
struct gathered {
    uint32_t *elements, *base, *target;
    size_t count;
};

static void gathered_release(struct gathered *g)
{
    free(g->elements);
    free(g->base);
    free(g->target);
}

static enum delta_status gather(struct gathered *g, const struct delta_codec_job *job,
                                enum delta_scope scope, struct delta_error *err)
{
    const struct delta_tensor *tensor = job->tensor;
    struct delta_places places;

    *g = (struct gathered){.count = 0};
    if (scope == DELTA_SCOPE_SOME)
        for (size_t i = 0; i < tensor->count; i++)
            g->count += job->base[i] != job->target[i];
    else
        g->count = delta_scope_count(tensor, scope, job->base_count);
    g->elements = delta_calloc(g->count, sizeof *g->elements);
    g->base = delta_calloc(g->count, sizeof *g->base);
    g->target = delta_calloc(g->count, sizeof *g->target);
    if (!g->elements || !g->base || !g->target)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu values", g->count);
    if (scope == DELTA_SCOPE_SOME) {
        for (size_t i = 0, n = 0; i < tensor->count; i++)
            if (job->base[i] != job->target[i])
                g->elements[n++] = (uint32_t)i;
    } else {
        delta_places_begin(&places, tensor, scope, job->base_count);
        (void)delta_places_next(&places, g->elements, g->count);
    }
    for (size_t i = 0; i < g->count; i++) {
        g->base[i] = job->base[g->elements[i]];
        g->target[i] = job->target[g->elements[i]];
    }
    return DELTA_OK;
}

static size_t block_at(size_t first, size_t count)
{
    return count - first < DELTA_PLACES_BLOCK ? count - first : DELTA_PLACES_BLOCK;
}

/* Raw or cell, behind positions where they travel. */
static enum delta_status put_blocks(struct delta_buf *out, const struct gathered *g, bool positions,
                                    enum delta_encoding encoding, struct delta_error *err)
{
    struct delta_cell cell;
    struct delta_gaps gaps;
    enum delta_status st = DELTA_OK;

    if (positions) {
        delta_gaps_plan(&gaps, g->elements, g->count);
        st = delta_gaps_put(out, &gaps, err);
    }
    if (!st && encoding != DELTA_ENCODING_RAW) {
        delta_cell_plan(
            &cell, encoding == DELTA_ENCODING_BF16 ? DELTA_CELL_DROP_BF16 : DELTA_CELL_DROP_NONE,
            g->target, g->base, g->count);
        st = delta_cell_put(out, &cell, err);
    }
    for (size_t i = 0; i < g->count && !st; i += DELTA_PLACES_BLOCK) {
        const size_t n = block_at(i, g->count);
        if (positions)
            st = delta_gaps_put_block(out, &gaps, i ? g->elements[i - 1] + 1 : 0, g->elements + i,
                                      n, err);
        if (st)
            break;
        st = encoding == DELTA_ENCODING_RAW
                 ? delta_buf_append(out, g->target + i, n * sizeof *g->target, err)
                 : delta_cell_put_block(out, &cell, g->target + i, g->base + i, n, err);
    }
    return st;
}

/* The candidate so far. */
struct best {
    struct delta_buf bytes;
    struct delta_coding coding;
};

static enum delta_status try_one(struct best *best, const struct gathered *g,
                                 struct delta_coding coding, int level, struct delta_error *err)
{
    struct delta_buf trial;
    bool fits = true;
    enum delta_status st;

    delta_buf_init(&trial, DELTA_MODEL_MAX_BYTES);
    if (coding.encoding == DELTA_ENCODING_ZSTD || coding.encoding == DELTA_ENCODING_DIFF)
        st = delta_planes_put(&trial, coding.encoding == DELTA_ENCODING_DIFF, level, g->target,
                              g->base, g->count, &fits, err);
    else
        st = put_blocks(&trial, g, coding.scope == DELTA_SCOPE_SOME, coding.encoding, err);
    /* no compressed form may be as long as the plain one: readers count on it */
    if (!st && coding.encoding != DELTA_ENCODING_RAW && coding.scope != DELTA_SCOPE_SOME)
        fits = fits && trial.len < g->count * sizeof(uint32_t);
    if (!st && fits && (!best->bytes.data || trial.len < best->bytes.len)) {
        delta_buf_release(&best->bytes);
        best->bytes = trial;
        best->coding = coding;
        best->coding.count = g->count;
        return DELTA_OK;
    }
    delta_buf_release(&trial);
    return st;
}

/* True where every value that changed is a bfloat16. */
static bool is_bf16(const struct gathered *g)
{
    for (size_t i = 0; i < g->count; i++)
        if (g->base[i] != g->target[i] && g->target[i] & 0xffff)
            return false;
    return true;
}

static bool wanted(enum delta_choice choice, enum delta_encoding encoding)
{
    static const enum delta_choice names[] = {
        [DELTA_ENCODING_RAW] = DELTA_CHOICE_RAW,   [DELTA_ENCODING_ZSTD] = DELTA_CHOICE_ZSTD,
        [DELTA_ENCODING_DIFF] = DELTA_CHOICE_DIFF, [DELTA_ENCODING_CELL] = DELTA_CHOICE_CELL,
        [DELTA_ENCODING_BF16] = DELTA_CHOICE_CELL,
    };

    if (choice == DELTA_CHOICE_AUTO || choice == DELTA_CHOICE_BF16 || choice == DELTA_CHOICE_INT8)
        return true;
    return names[encoding] == choice;
}

/* Moves on a grid, where the target was rounded to one. */
static enum delta_status try_grid(struct best *best, const struct delta_codec_job *job,
                                  enum delta_scope scope, struct delta_error *err)
{
    struct delta_quant quant;
    struct delta_buf trial;
    bool found;
    enum delta_status st = delta_quant_find(&quant, &found, job->tensor, scope, job->base_count,
                                            job->base, job->target, err);

    if (st || !found)
        return st;
    delta_buf_init(&trial, DELTA_MODEL_MAX_BYTES);
    st = delta_quant_put(&trial, &quant, err);
    if (!st && trial.len < best->bytes.len && trial.len < quant.count * sizeof(uint32_t)) {
        delta_buf_release(&best->bytes);
        *best = (struct best){trial, {DELTA_ENCODING_INT8, scope, quant.count}};
    } else {
        delta_buf_release(&trial);
    }
    delta_quant_release(&quant);
    return st;
}

static enum delta_status try_scope(struct best *best, const struct delta_codec_job *job,
                                   enum delta_scope scope, struct delta_error *err)
{
    static const enum delta_encoding all[] = {DELTA_ENCODING_RAW, DELTA_ENCODING_CELL,
                                              DELTA_ENCODING_DIFF, DELTA_ENCODING_ZSTD};
    const int level = job->level ? job->level : LEVEL_DEFAULT;
    struct gathered g;
    enum delta_status st = gather(&g, job, scope, err);

    for (size_t i = 0; i < sizeof all / sizeof all[0] && !st; i++) {
        struct delta_coding coding = {all[i], scope, 0};
        const bool planes = all[i] == DELTA_ENCODING_DIFF || all[i] == DELTA_ENCODING_ZSTD;
        if (planes && scope == DELTA_SCOPE_SOME)
            continue;
        if (all[i] == DELTA_ENCODING_CELL && is_bf16(&g))
            coding.encoding = DELTA_ENCODING_BF16;
        /* raw is always at hand: another encoding may not be smaller */
        if (wanted(job->choice, all[i]) || (all[i] == DELTA_ENCODING_RAW && !best->bytes.data))
            st = try_one(best, &g, coding, level, err);
    }
    gathered_release(&g);
    return st;
}

enum delta_status delta_codec_encode(const struct delta_codec_job *job, struct delta_buf *out,
                                     struct delta_coding *coding, struct delta_error *err)
{
    const enum delta_scope scope =
        delta_codec_scope(job->tensor, job->base_count, job->base, job->target);
    const bool planes = job->choice == DELTA_CHOICE_ZSTD || job->choice == DELTA_CHOICE_DIFF;
    struct best best = {.bytes = {0}};
    size_t changed = 0;
    enum delta_status st = try_scope(&best, job, scope, err);

    if (!st && (job->choice == DELTA_CHOICE_AUTO || job->choice == DELTA_CHOICE_INT8))
        st = try_grid(&best, job, scope, err);
    /* Positions pay where few values of a scope changed; not where a plan says which may. */
    if (scope == DELTA_SCOPE_ALL ||
        (scope == DELTA_SCOPE_LIVE && job->tensor->freeze.mode == DELTA_FREEZE_LIVE))
        for (size_t i = 0; i < job->tensor->count; i++)
            changed += job->base[i] != job->target[i];
    if (!st && !planes && changed && changed < job->tensor->count / 2)
        st = try_scope(&best, job, DELTA_SCOPE_SOME, err);
    if (!st)
        st = delta_buf_append(out, best.bytes.data, best.bytes.len, err);
    *coding = best.coding;
    delta_buf_release(&best.bytes);
    return st;
}

double delta_codec_floor_bytes(const struct delta_codec_job *job, enum delta_scope scope)
{
    struct gathered g;
    double bits = INFINITY;

    if (!gather(&g, job, scope, NULL)) {
        bits = delta_cell_floor_bits(DELTA_CELL_DROP_NONE, g.target, g.base, g.count);
        if (scope == DELTA_SCOPE_SOME) {
            const double all = (double)job->tensor->count, p = (double)g.count / all;
            if (p < 1)
                bits -= all * (p * log2(p) + (1 - p) * log2(1 - p));
        }
    }
    gathered_release(&g);
    return bits / 8;
}

/* ---- decoding ---- */

/* Everything that a block needs, whichever the encoding: one allocation of bounded size. */
struct decoder {
    uint32_t elements[DELTA_PLACES_BLOCK];
    uint32_t values[DELTA_PLACES_BLOCK];
    struct delta_gaps_in gaps;
    union {
        struct delta_cell_in cell;
        struct delta_quant_in quant;
    } u;
};

static enum delta_status begin_values(struct decoder *d, const struct delta_coding *coding,
                                      struct delta_pull *pull, const struct delta_tensor *tensor,
                                      size_t first_element, struct delta_error *err)
{
    if (coding->encoding == DELTA_ENCODING_CELL)
        return delta_cell_get(&d->u.cell, pull, DELTA_CELL_DROP_NONE, err);
    if (coding->encoding == DELTA_ENCODING_BF16)
        return delta_cell_get(&d->u.cell, pull, DELTA_CELL_DROP_BF16, err);
    if (coding->encoding == DELTA_ENCODING_INT8)
        return delta_quant_get(&d->u.quant, pull, tensor, first_element, err);
    return DELTA_OK;
}

static enum delta_status next_values(struct decoder *d, enum delta_encoding encoding,
                                     struct delta_pull *pull, uint32_t *values, size_t n,
                                     struct delta_error *err)
{
    const uint8_t *bytes;
    enum delta_status st;

    if (encoding == DELTA_ENCODING_CELL || encoding == DELTA_ENCODING_BF16)
        return delta_cell_get_block(&d->u.cell, pull, values, n, err);
    if (encoding == DELTA_ENCODING_INT8)
        return delta_quant_get_block(&d->u.quant, pull, d->elements, values, n, err);
    st = delta_pull_take(pull, n * sizeof *values, &bytes, err);
    if (!st)
        memcpy(values, bytes, n * sizeof *values);
    return st;
}

/* One block at the elements in d->elements; where they follow each other, without a copy. */
static enum delta_status decode_block(struct decoder *d, enum delta_encoding encoding,
                                      struct delta_pull *pull, size_t n, uint32_t *data,
                                      struct delta_error *err)
{
    enum delta_status st;

    if (d->elements[n - 1] - d->elements[0] == n - 1)
        return next_values(d, encoding, pull, data + d->elements[0], n, err);
    for (size_t k = 0; k < n; k++)
        d->values[k] = data[d->elements[k]];
    st = next_values(d, encoding, pull, d->values, n, err);
    for (size_t k = 0; k < n && !st; k++)
        data[d->elements[k]] = d->values[k];
    return st;
}

static enum delta_status decode_blocks(struct decoder *d, const struct delta_coding *coding,
                                       struct delta_pull *pull, const struct delta_tensor *tensor,
                                       size_t base_count, uint32_t *data, struct delta_error *err)
{
    const bool some = coding->scope == DELTA_SCOPE_SOME;
    struct delta_places places;
    enum delta_status st = DELTA_OK;

    delta_places_begin(&places, tensor, coding->scope, base_count);
    if (some)
        st = delta_gaps_get(&d->gaps, pull, tensor->count, err);
    if (!st)
        st = begin_values(d, coding, pull, tensor, places.next, err);
    for (size_t i = 0; i < coding->count && !st; i += DELTA_PLACES_BLOCK) {
        const size_t n = block_at(i, coding->count);
        if (some)
            st = delta_gaps_get_block(&d->gaps, pull, d->elements, n, err);
        else if (delta_places_next(&places, d->elements, n) != n)
            st = delta_fail(err, DELTA_FORMAT, "more values than places");
        if (!st)
            st = decode_block(d, coding->encoding, pull, n, data, err);
    }
    return st ? st : delta_pull_end(pull, err);
}

enum delta_status delta_codec_decode(const struct delta_coding *coding, struct delta_pull *pull,
                                     const struct delta_tensor *tensor, size_t base_count,
                                     uint32_t *data, struct delta_error *err)
{
    struct decoder *d = malloc(sizeof *d); /* not zeroed: two thirds are never looked at */
    enum delta_status st;

    if (!d)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu bytes", sizeof *d);
    if (coding->encoding == DELTA_ENCODING_INT8)
        d->u.quant.scales = NULL;
    if (coding->encoding == DELTA_ENCODING_ZSTD || coding->encoding == DELTA_ENCODING_DIFF)
        st = delta_planes_get(pull, coding->encoding == DELTA_ENCODING_DIFF, tensor, coding->scope,
                              base_count, coding->count, d->elements, (uint8_t *)d->values, data,
                              err);
    else
        st = decode_blocks(d, coding, pull, tensor, base_count, data, err);
    if (coding->encoding == DELTA_ENCODING_INT8)
        delta_quant_in_release(&d->u.quant);
    free(d);
    return st;
}
