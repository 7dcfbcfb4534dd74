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

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Part of the sum: all of taps [tap, tap_end), or a part of one tap. */
struct gemm_block {
    size_t tap, tap_end, k, k_count;
};

static const float *gemm_row(const struct learner_gemm *g, size_t tap, size_t row)
{
    return g->a_rows ? g->a_rows[tap * g->a_rows_stride + row] : g->a + row * g->a_stride;
}

ALWAYS_INLINE void gemm_store(float *c, vec value, bool add)
{
    store(c, add ? value + load(c) : value);
}

/* Not inlined: indexing a vector would drive all of acc out of its registers. */
static __attribute__((noinline)) void gemm_store_part(float *c, vec value, bool add, size_t count)
{
    float values[LANES];

    store(values, value);
    for (size_t i = 0; i < count; i++)
        c[i] = add ? values[i] + c[i] : values[i];
}

/* rows, vecs: constants, so that all of acc is registers. */
ALWAYS_INLINE void gemm_tile(const struct learner_gemm *g, const struct gemm_block *block,
                             const float *b, size_t row, size_t col, bool add, const size_t rows,
                             const size_t vecs)
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
        float *c = g->c + (row + r) * g->c_stride + col;
        if (vecs == 1)
            acc[r][0] += odd[r];
#pragma GCC unroll 8
        for (size_t v = 0; v + 1 < vecs; v++)
            gemm_store(c + v * LANES, acc[r][v], add);
        if (left >= LANES)
            gemm_store(c + last, acc[r][vecs - 1], add);
        else
            gemm_store_part(c + last, acc[r][vecs - 1], add, left);
    }
}

/* All rows of one panel. */
ALWAYS_INLINE void gemm_panel(const struct learner_gemm *g, const struct gemm_block *block,
                              const float *b, size_t col, bool add, const size_t vecs)
{
    size_t row = 0;

    for (; row + GEMM_ROWS <= g->rows; row += GEMM_ROWS)
        gemm_tile(g, block, b, row, col, add, GEMM_ROWS, vecs);
    switch (g->rows - row) {
    case 5:
        gemm_tile(g, block, b, row, col, add, 5, vecs);
        break;
    case 4:
        gemm_tile(g, block, b, row, col, add, 4, vecs);
        break;
    case 3:
        gemm_tile(g, block, b, row, col, add, 3, vecs);
        break;
    case 2:
        gemm_tile(g, block, b, row, col, add, 2, vecs);
        break;
    case 1:
        gemm_tile(g, block, b, row, col, add, 1, vecs);
        break;
    }
}

#define GEMM_PANEL(vecs)                                                                           \
    static __attribute__((noinline)) void gemm_panel_##vecs(const struct learner_gemm *g,          \
                                                            const struct gemm_block *block,        \
                                                            const float *b, size_t col, bool add)  \
    {                                                                                              \
        gemm_panel(g, block, b, col, add, vecs);                                                   \
    }
GEMM_PANEL(1)
GEMM_PANEL(2)
#if GEMM_VECS > 2
GEMM_PANEL(3)
GEMM_PANEL(4)
#endif

static void (*const gemm_panels[GEMM_VECS])(const struct learner_gemm *, const struct gemm_block *,
                                            const float *, size_t, bool) = {
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

static void gemm(const struct learner_gemm *g)
{
    const size_t full = gemm_panel_cols(g->cols);
    const size_t most = GEMM_BLOCK_BYTES / sizeof(float) / full;
    const size_t taps_most = g->depth && most / g->depth ? most / g->depth : 1;
    /* parts of a tap, equal but for rounding */
    const size_t parts = (g->depth + most - 1) / most;
    const size_t part = parts ? (g->depth + parts - 1) / parts : 0;
    const size_t k_total = g->taps * g->depth;
    const size_t end = g->col_end ? g->col_end : g->cols;
    struct gemm_block block = {0};

    for (size_t done = 0; done < k_total || !done;
         done += (block.tap_end - block.tap) * block.k_count) {
        block.tap = g->depth ? done / g->depth : 0;
        block.k = g->depth ? done % g->depth : 0;
        block.k_count = g->depth - block.k < part ? g->depth - block.k : part;
        block.tap_end = block.tap + (parts > 1 ? 1 : taps_most);
        block.tap_end = block.tap_end < g->taps ? block.tap_end : g->taps;
        for (size_t col = g->col_first; col < end; col += full) {
            const size_t left = g->cols - col;
            const size_t vecs = ((left < full ? left : full) + LANES - 1) / LANES;
            gemm_panels[vecs - 1](g, &block, g->b + col * k_total + done * vecs * LANES, col,
                                  g->add || done);
        }
        if (!k_total)
            break;
    }
}

#endif
