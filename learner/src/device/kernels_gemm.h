/* Matrix products: part of kernels_body.h.
 *
 * A tile of GEMM_ROWS x (up to GEMM_VECS vectors) sums up in registers: 6 x 4 of 32, 6 x 2 of 16,
 * which leaves room for one row of B and one broadcast value of A. Each of its values is one chain
 * of multiply-adds in the order of k (two chains, of even and odd k, in panels of one vector, whose
 * six chains could not hide the latency), so a result does not depend on which tile it fell into.
 */
#ifndef LEARNER_KERNELS_GEMM_H
#define LEARNER_KERNELS_GEMM_H

#define GEMM_ROWS 6
#if REGISTERS >= 32
#define GEMM_VECS 4
#else
#define GEMM_VECS 2
#endif
/* Bytes of a panel's part that stays in the first-level cache while rows go by. */
#define GEMM_BLOCK_BYTES (32 * 1024)

/* Part of the sum: all of taps [tap, tap_end), or a part of one tap. */
struct gemm_block {
    size_t tap, tap_end, k, k_count;
    bool add;
    const struct learner_gemm_finish *finish; /* of the last part; or NULL */
    float *partial;                           /* [2][GEMM_VECS * LANES] */
};

static const float *gemm_row(const struct learner_gemm *g, size_t tap, size_t row)
{
    return g->a_rows ? g->a_rows[tap * g->a_rows_stride + row] : g->a + row * g->a_stride;
}

/* Vectors that may end within a row. Without masks they are no place to be inlined: indexing a
 * vector would drive all of acc out of its registers. */
#if LANES > 4
#define GEMM_PART INLINE
#else
#define GEMM_PART static __attribute__((noinline))
#endif

GEMM_PART void gemm_store_part(float *c, vec value, size_t left)
{
    store_part(c, value, left < LANES ? left : LANES);
}

GEMM_PART vec gemm_load_part(const float *c, size_t left)
{
    return load_part(c, left < LANES ? left : LANES);
}

/* One row of a tile; left: of the columns from the last vector on. */
INLINE void gemm_finish(const struct learner_gemm_finish *finish, float *c, const float *residual,
                        vec *acc, size_t col, size_t left, const size_t vecs)
{
    const vec low = splat(finish->low), high = splat(finish->high);

#pragma GCC unroll 8
    for (size_t v = 0; v < vecs; v++) {
        const size_t at = v * LANES;
        vec value = acc[v] * load(finish->scale + col + at) + load(finish->shift + col + at);
        if (residual)
            value += v + 1 < vecs ? load(residual + at) : gemm_load_part(residual + at, left);
        value = clamp(value, low, high);
        if (v + 1 < vecs)
            store(c + at, value);
        else
            gemm_store_part(c + at, value, left);
    }
}

/* Adds a tile to the sums of its columns: partial [2][GEMM_VECS * LANES]. */
INLINE void gemm_sums(float *partial, const float *mean, vec acc[][GEMM_VECS], const size_t rows,
                      const size_t vecs)
{
#pragma GCC unroll 8
    for (size_t v = 0; v < vecs; v++) {
        float *sums = partial + v * LANES, *squares = sums + GEMM_VECS * LANES;
        const vec middle = load(mean + v * LANES);
        vec sum = load(sums), square = load(squares);
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++) {
            const vec d = acc[r][v] - middle;
            sum += d;
            square += d * d;
        }
        store(sums, sum);
        store(squares, square);
    }
}

/* rows, vecs: constants, so that all of acc is registers. */
INLINE void gemm_tile(const struct learner_gemm *g, const struct gemm_block *block, const float *b,
                      size_t row, size_t col, const size_t rows, const size_t vecs)
{
    vec acc[GEMM_ROWS][GEMM_VECS], odd[GEMM_ROWS];
    const float *a[GEMM_ROWS];

#pragma GCC unroll 8
    for (size_t r = 0; r < rows; r++) {
        odd[r] = (vec){0};
#pragma GCC unroll 8
        for (size_t v = 0; v < vecs; v++)
            acc[r][v] = (vec){0};
    }
    for (size_t tap = block->tap; tap < block->tap_end; tap++) {
        size_t k = 0;
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++)
            a[r] = gemm_row(g, tap, row + r) + block->k;
        for (; vecs == 1 && k + 2 <= block->k_count; k += 2, b += 2 * LANES) {
            const vec b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 8
            for (size_t r = 0; r < rows; r++) {
                acc[r][0] += a[r][k] * b0;
                odd[r] += a[r][k + 1] * b1;
            }
        }
        for (; k < block->k_count; k++, b += vecs * LANES) {
            vec bv[GEMM_VECS];
#pragma GCC unroll 8
            for (size_t v = 0; v < vecs; v++)
                bv[v] = load(b + v * LANES);
#pragma GCC unroll 8
            for (size_t r = 0; r < rows; r++) {
                const vec value = a[r][k] - (vec){0};
#pragma GCC unroll 8
                for (size_t v = 0; v < vecs; v++)
                    acc[r][v] += value * bv[v];
            }
        }
    }
    const size_t last = (vecs - 1) * LANES, left = g->cols - col - last; /* of the last vector */
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; r++) {
        const float *c = g->c + (row + r) * g->c_stride + col;
        if (vecs == 1)
            acc[r][0] += odd[r];
        if (!block->add)
            continue;
#pragma GCC unroll 8
        for (size_t v = 0; v + 1 < vecs; v++)
            acc[r][v] += load(c + v * LANES);
        acc[r][vecs - 1] += gemm_load_part(c + last, left);
    }
    if (block->finish && block->finish->sums)
        gemm_sums(block->partial, block->finish->mean + col, acc, rows, vecs);
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; r++) {
        const size_t at = (row + r) * g->c_stride + col;
        if (block->finish && block->finish->scale) {
            gemm_finish(block->finish, g->c + at,
                        block->finish->residual ? block->finish->residual + at : NULL, acc[r], col,
                        left, vecs);
            continue;
        }
#pragma GCC unroll 8
        for (size_t v = 0; v + 1 < vecs; v++)
            store(g->c + at + v * LANES, acc[r][v]);
        gemm_store_part(g->c + at + last, acc[r][vecs - 1], left);
    }
}

/* All rows of one panel. */
INLINE void gemm_panel(const struct learner_gemm *g, const struct gemm_block *block, const float *b,
                       size_t col, const size_t vecs)
{
    size_t row = 0;

    for (; row + GEMM_ROWS <= g->rows; row += GEMM_ROWS)
        gemm_tile(g, block, b, row, col, GEMM_ROWS, vecs);
    switch (g->rows - row) {
    case 5:
        gemm_tile(g, block, b, row, col, 5, vecs);
        break;
    case 4:
        gemm_tile(g, block, b, row, col, 4, vecs);
        break;
    case 3:
        gemm_tile(g, block, b, row, col, 3, vecs);
        break;
    case 2:
        gemm_tile(g, block, b, row, col, 2, vecs);
        break;
    case 1:
        gemm_tile(g, block, b, row, col, 1, vecs);
        break;
    }
}

#define GEMM_PANEL(vecs)                                                                           \
    static __attribute__((noinline)) void gemm_panel_##vecs(                                       \
        const struct learner_gemm *g, const struct gemm_block *block, const float *b, size_t col)  \
    {                                                                                              \
        gemm_panel(g, block, b, col, vecs);                                                        \
    }
GEMM_PANEL(1)
GEMM_PANEL(2)
#if GEMM_VECS > 2
GEMM_PANEL(3)
GEMM_PANEL(4)
#endif

static void (*const gemm_panels[GEMM_VECS])(const struct learner_gemm *, const struct gemm_block *,
                                            const float *, size_t) = {
    gemm_panel_1,
    gemm_panel_2,
#if GEMM_VECS > 2
    gemm_panel_3,
    gemm_panel_4,
#endif
};

/* Columns of a full panel: as even as whole vectors allow. */
static size_t gemm_panel_cols(size_t cols)
{
    const size_t vecs = (cols + LANES - 1) / LANES, panels = (vecs + GEMM_VECS - 1) / GEMM_VECS;

    return panels ? (vecs + panels - 1) / panels * LANES : LANES;
}

static size_t gemm_packed_floats(size_t depth, size_t cols)
{
    return depth * ((cols + LANES - 1) / LANES * LANES);
}

static void gemm_pack(float *packed, const float *b, size_t k_stride, size_t col_stride,
                      size_t depth, size_t cols, size_t k_first, size_t k_total)
{
    const size_t full = gemm_panel_cols(cols);

    for (size_t col = 0; col < cols; col += full) {
        const size_t left = cols - col, used = left < full ? left : full;
        const size_t width = (used + LANES - 1) / LANES * LANES;
        float *to = packed + col * k_total + k_first * width;
        for (size_t k = 0; k < depth; k++, to += width)
            for (size_t c = 0; c < width; c++)
                to[c] = c < used ? b[k * k_stride + (col + c) * col_stride] : 0;
    }
}

static void gemm_add_sums(const struct learner_gemm_finish *finish, const float *partial,
                          size_t col, size_t count)
{
    for (size_t c = 0; c < count; c++) {
        finish->sums[col + c] += (double)partial[c];
        finish->sums[finish->sums_stride + col + c] += (double)partial[GEMM_VECS * LANES + c];
    }
}

/* Columns col.., `used` of them, part by part of the sum. */
static void gemm_columns(const struct learner_gemm *g, size_t col, size_t used, size_t width)
{
    const size_t vecs = (used + LANES - 1) / LANES;
    const size_t most = GEMM_BLOCK_BYTES / sizeof(float) / width;
    const size_t taps_most = most / g->depth ? most / g->depth : 1;
    /* parts of a tap, equal but for rounding */
    const size_t parts = (g->depth + most - 1) / most, part = (g->depth + parts - 1) / parts;
    const size_t k_total = g->taps * g->depth;
    float partial[2 * GEMM_VECS * LANES] = {0};
    struct gemm_block block = {.add = g->add, .partial = partial};

    for (size_t done = 0; done < k_total; done += (block.tap_end - block.tap) * block.k_count) {
        block.tap = done / g->depth;
        block.k = done % g->depth;
        block.k_count = g->depth - block.k < part ? g->depth - block.k : part;
        block.tap_end = block.tap + (parts > 1 ? 1 : taps_most);
        block.tap_end = block.tap_end < g->taps ? block.tap_end : g->taps;
        const bool last = done + (block.tap_end - block.tap) * block.k_count == k_total;
        block.finish = last ? g->finish : NULL;
        gemm_panels[vecs - 1](g, &block, g->b + col * k_total + done * vecs * LANES, col);
        block.add = true;
    }
    if (g->finish && g->finish->sums)
        gemm_add_sums(g->finish, partial, col, used);
}

static void gemm(const struct learner_gemm *g)
{
    const size_t width = gemm_panel_cols(g->cols), end = g->col_end ? g->col_end : g->cols;

    for (size_t col = g->col_first; col < end; col += width)
        gemm_columns(g, col, end - col < width ? end - col : width, width);
}

/* rows, vecs: constants. The columns' values of B are loaded once for all rows. */
INLINE void outer_tile(const struct learner_gemm_outer *g, const float *b, size_t row, size_t col,
                       const size_t rows, const size_t vecs)
{
    vec acc[GEMM_ROWS][GEMM_VECS], odd[GEMM_ROWS];
    const size_t at = g->a_offset + row;
    size_t k = 0;

#pragma GCC unroll 8
    for (size_t r = 0; r < rows; r++) {
        odd[r] = (vec){0};
#pragma GCC unroll 8
        for (size_t v = 0; v < vecs; v++)
            acc[r][v] = (vec){0};
    }
    for (; vecs == 1 && k + 2 <= g->depth; k += 2, b += 2 * g->b_stride) {
        const float *a = g->a[k] + at, *next = g->a[k + 1] + at;
        const vec b0 = load(b), b1 = load(b + g->b_stride);
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++) {
            acc[r][0] += a[r] * b0;
            odd[r] += next[r] * b1;
        }
    }
    for (; k < g->depth; k++, b += g->b_stride) {
        const float *a = g->a[k] + at;
        vec bv[GEMM_VECS];
#pragma GCC unroll 8
        for (size_t v = 0; v < vecs; v++)
            bv[v] = load(b + v * LANES);
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; r++) {
            const vec value = a[r] - (vec){0};
#pragma GCC unroll 8
            for (size_t v = 0; v < vecs; v++)
                acc[r][v] += value * bv[v];
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; r++) {
        float *c = g->c + (row + r) * g->c_stride + col;
        if (vecs == 1)
            acc[r][0] += odd[r];
#pragma GCC unroll 8
        for (size_t v = 0; v < vecs; v++)
            store(c + v * LANES, load(c + v * LANES) + acc[r][v]);
    }
}

INLINE void outer_panel(const struct learner_gemm_outer *g, const float *b, size_t col,
                        const size_t vecs)
{
    size_t row = g->row_first;

    for (; row + GEMM_ROWS <= g->row_end; row += GEMM_ROWS)
        outer_tile(g, b, row, col, GEMM_ROWS, vecs);
    switch (g->row_end - row) {
    case 5:
        outer_tile(g, b, row, col, 5, vecs);
        break;
    case 4:
        outer_tile(g, b, row, col, 4, vecs);
        break;
    case 3:
        outer_tile(g, b, row, col, 3, vecs);
        break;
    case 2:
        outer_tile(g, b, row, col, 2, vecs);
        break;
    case 1:
        outer_tile(g, b, row, col, 1, vecs);
        break;
    }
}

static void gemm_outer(const struct learner_gemm_outer *g)
{
    const size_t width = gemm_panel_cols(g->cols);

    for (size_t col = g->col_first; col < g->col_end; col += width) {
        const size_t left = g->col_end - col, used = left < width ? left : width;
        const float *b = g->b + col / width * g->b_panel;
        switch ((used + LANES - 1) / LANES) {
        case 1:
            outer_panel(g, b, col, 1);
            break;
        case 2:
            outer_panel(g, b, col, 2);
            break;
#if GEMM_VECS > 2
        case 3:
            outer_panel(g, b, col, 3);
            break;
        case 4:
            outer_panel(g, b, col, 4);
            break;
#endif
        }
    }
}

#endif
