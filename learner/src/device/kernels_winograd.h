/* Part of kernels_body.h: Winograd's F(4x4, 3x3), Lavin and Gray, "Fast Algorithms for
 * Convolutional Neural Networks" (2016): Y = A^T [(G w G^T) . (B^T d B)] A for tiles of 6x6 inputs
 * and 4x4 outputs. The interpolation points are 0, +-5/8, +-3/2 and infinity instead of the
 * paper's 0, +-1, +-2: their powers lie closer together, which halves the rounding error. All
 * vectors lie along the channels. */
#ifndef LEARNER_KERNELS_WINOGRAD_H
#define LEARNER_KERNELS_WINOGRAD_H

#include "kernels.h"
#include "kernels_vector.h"

#define PA 0.625f /* points +-PA and +-PB */
#define PB 1.5f
#define PA2 (PA * PA)
#define PB2 (PB * PB)
#define N0 (PA2 * PB2) /* what G divides by: for point p, product of p - q over the others */
#define NA (2 * PA2 * (PA2 - PB2))
#define NB (2 * PB2 * (PB2 - PA2))

/* Row i of the 6x6 points. The compiler must not see where it comes from: it would carry 36
 * addresses through the loop over the channels, which do not fit the registers. */
#define WINOGRAD_ROW(points, i, stride)                                                            \
    ({                                                                                             \
        __typeof__(points) row_ = (points) + (i)*6 * (stride);                                     \
        __asm__("" : "+r"(row_));                                                                  \
        row_;                                                                                      \
    })

/* r = B^T d */
INLINE void winograd_bt(const vec d[6], vec r[6])
{
    const vec ea = d[4] - PB2 * d[2], oa = d[3] - PB2 * d[1];
    const vec eb = d[4] - PA2 * d[2], ob = d[3] - PA2 * d[1];

    r[0] = d[4] - (PA2 + PB2) * d[2] + PA2 * PB2 * d[0];
    r[1] = ea + PA * oa;
    r[2] = ea - PA * oa;
    r[3] = eb + PB * ob;
    r[4] = eb - PB * ob;
    r[5] = d[5] - (PA2 + PB2) * d[3] + PA2 * PB2 * d[1];
}

/* r = A^T m */
INLINE void winograd_at(const vec m[6], vec r[4])
{
    const vec sa = m[1] + m[2], da = m[1] - m[2], sb = m[3] + m[4], db = m[3] - m[4];

    r[0] = m[0] + sa + sb;
    r[1] = PA * da + PB * db;
    r[2] = PA2 * sa + PB2 * sb;
    r[3] = m[5] + PA2 * PA * da + PB2 * PB * db;
}

/* r = A d */
INLINE void winograd_a(const vec d[4], vec r[6])
{
    const vec ea = d[0] + PA2 * d[2], oa = PA * d[1] + PA2 * PA * d[3];
    const vec eb = d[0] + PB2 * d[2], ob = PB * d[1] + PB2 * PB * d[3];

    r[0] = d[0];
    r[1] = ea + oa;
    r[2] = ea - oa;
    r[3] = eb + ob;
    r[4] = eb - ob;
    r[5] = d[3];
}

/* r = G w */
INLINE void winograd_g(const vec w[3], vec r[6])
{
    const vec ea = (1 / NA) * w[0] + (PA2 / NA) * w[2], eb = (1 / NB) * w[0] + (PB2 / NB) * w[2];

    r[0] = (1 / N0) * w[0];
    r[1] = ea + (PA / NA) * w[1];
    r[2] = ea - (PA / NA) * w[1];
    r[3] = eb + (PB / NB) * w[1];
    r[4] = eb - (PB / NB) * w[1];
    r[5] = w[2];
}

/* r = G^T u */
INLINE void winograd_gt(const vec u[6], vec r[3])
{
    const vec sa = u[1] + u[2], da = u[1] - u[2], sb = u[3] + u[4], db = u[3] - u[4];

    r[0] = (1 / N0) * u[0] + (1 / NA) * sa + (1 / NB) * sb;
    r[1] = (PA / NA) * da + (PB / NB) * db;
    r[2] = (PA2 / NA) * sa + (PB2 / NB) * sb + u[5];
}

INLINE vec winograd_norm(vec v, const struct learner_kernel_norm *norm, size_t c)
{
    return clamp(v * load(norm->gain + c) + load(norm->offset + c), splat(norm->low),
                 splat(norm->high));
}

/* From 6x6 pixels of the vector of channels that begins at c; norm NULL: as they are. */
INLINE void winograd_input_vec(const float *from, size_t row, size_t pixel,
                               const struct learner_kernel_norm *norm, size_t c, float *to,
                               size_t point)
{
    vec half[6][6];

    for (size_t j = 0; j < 6; j++) {
        vec d[6], r[6];
        for (size_t i = 0; i < 6; i++) {
            d[i] = load(from + i * row + j * pixel);
            if (norm)
                d[i] = winograd_norm(d[i], norm, c);
        }
        winograd_bt(d, r);
        for (size_t i = 0; i < 6; i++)
            half[i][j] = r[i];
    }
    for (size_t i = 0; i < 6; i++) {
        float *row_to = WINOGRAD_ROW(to, i, point);
        vec r[6];
        winograd_bt(half[i], r);
        for (size_t j = 0; j < 6; j++)
            store(row_to + j * point, r[j]);
    }
}

/* The part of a window of `size` from `first` on that lies inside of 0..end: [*from, *to) */
INLINE void winograd_inside(ptrdiff_t first, size_t size, size_t end, size_t *from, size_t *to)
{
    const ptrdiff_t left = (ptrdiff_t)end - first;

    *from = first < 0 ? (size_t)-first : 0;
    *to = left < 0 ? 0 : (size_t)left < size ? (size_t)left : size;
}

/* Pixels of a window of size x size into buffer, zero where there are none. */
INLINE void winograd_border(const struct learner_winograd_tile *tile, const float *image,
                            size_t size, const struct learner_kernel_norm *norm, size_t c,
                            float *buffer)
{
    size_t top, bottom, left, right;

    winograd_inside(tile->top, size, tile->h, &top, &bottom);
    winograd_inside(tile->left, size, tile->w, &left, &right);
    for (size_t i = 0; i < size * size; i++)
        store(buffer + i * LANES, (vec){0});
    for (size_t i = top; i < bottom; i++)
        for (size_t j = left; j < right; j++) {
            const size_t y = (size_t)(tile->top + (ptrdiff_t)i);
            const size_t x = (size_t)(tile->left + (ptrdiff_t)j);
            vec v = load(image + (y * tile->w + x) * tile->stride + c);
            if (norm)
                v = winograd_norm(v, norm, c);
            store(buffer + (i * size + j) * LANES, v);
        }
}

INLINE bool winograd_is_inside(const struct learner_winograd_tile *tile, size_t size)
{
    return tile->top >= 0 && tile->left >= 0 && (size_t)tile->top + size <= tile->h &&
           (size_t)tile->left + size <= tile->w;
}

INLINE void winograd_input_part(const struct learner_winograd_tile *tile, const float *image,
                                const struct learner_kernel_norm *norm, float *v, size_t point)
{
    const bool inside = winograd_is_inside(tile, 6);

    for (size_t c = 0; c < tile->channels; c += LANES) {
        if (inside) {
            winograd_input_vec(
                image + ((size_t)tile->top * tile->w + (size_t)tile->left) * tile->stride + c,
                tile->w * tile->stride, tile->stride, norm, c, v + c, point);
        } else {
            float buffer[36 * LANES] __attribute__((aligned(64)));
            winograd_border(tile, image, 6, norm, c, buffer);
            winograd_input_vec(buffer, 6 * LANES, LANES, NULL, 0, v + c, point);
        }
    }
}

static void winograd_input(const struct learner_winograd_tile *tile, const float *image,
                           const struct learner_kernel_norm *norm, float *v, size_t point)
{
    if (norm)
        winograd_input_part(tile, image, norm, v, point);
    else
        winograd_input_part(tile, image, NULL, v, point);
}

INLINE void winograd_gradient_vec(const float *from, size_t row, size_t pixel, float *to,
                                  size_t point)
{
    vec half[6][4];

    for (size_t j = 0; j < 4; j++) {
        vec d[4], r[6];
        for (size_t i = 0; i < 4; i++)
            d[i] = load(from + i * row + j * pixel);
        winograd_a(d, r);
        for (size_t i = 0; i < 6; i++)
            half[i][j] = r[i];
    }
    for (size_t i = 0; i < 6; i++) {
        float *row_to = WINOGRAD_ROW(to, i, point);
        vec r[6];
        winograd_a(half[i], r);
        for (size_t j = 0; j < 6; j++)
            store(row_to + j * point, r[j]);
    }
}

static void winograd_gradient(const struct learner_winograd_tile *tile, const float *image,
                              float *v, size_t point)
{
    const bool inside = winograd_is_inside(tile, 4);

    for (size_t c = 0; c < tile->channels; c += LANES) {
        if (inside) {
            winograd_gradient_vec(
                image + ((size_t)tile->top * tile->w + (size_t)tile->left) * tile->stride + c,
                tile->w * tile->stride, tile->stride, v + c, point);
        } else {
            float buffer[16 * LANES] __attribute__((aligned(64)));
            winograd_border(tile, image, 4, NULL, c, buffer);
            winograd_gradient_vec(buffer, 4 * LANES, LANES, v + c, point);
        }
    }
}

enum winograd_finish { WINOGRAD_STORE, WINOGRAD_ADD, WINOGRAD_SUMS, WINOGRAD_NORM, WINOGRAD_REST };

/* The vector of channels that begins at c; first: of the tile's top left output. */
INLINE void winograd_output_vec(const struct learner_winograd_output *out,
                                const struct learner_kernel_norm *norm, const float *m,
                                size_t point, size_t c, size_t first, size_t row, size_t pixel,
                                enum winograd_finish finish, size_t bottom, size_t right)
{
    const vec mean = finish == WINOGRAD_SUMS ? load(out->mean + c) : (vec){0};
    float *const y = out->y + first + c;
    vec half[4][6], sum = {0}, square = {0};

    for (size_t i = 0; i < 6; i++) {
        const float *from = WINOGRAD_ROW(m + c, i, point);
        vec d[6], r[4];
        for (size_t j = 0; j < 6; j++)
            d[j] = load(from + j * point);
        winograd_at(d, r);
        for (size_t j = 0; j < 4; j++)
            half[j][i] = r[j];
    }
    for (size_t j = 0; j < right; j++) {
        vec r[4];
        winograd_at(half[j], r);
        for (size_t i = 0; i < bottom; i++) {
            float *to = y + i * row + j * pixel;
            vec v = r[i];
            if (finish == WINOGRAD_ADD)
                v += load(to);
            if (finish == WINOGRAD_SUMS) {
                const vec d = v - mean;
                sum += d;
                square += d * d;
            }
            if (finish == WINOGRAD_NORM || finish == WINOGRAD_REST)
                v = v * load(norm->gain + c) + load(norm->offset + c);
            if (finish == WINOGRAD_REST)
                v += load(out->residual + first + c + i * row + j * pixel);
            if (finish == WINOGRAD_NORM || finish == WINOGRAD_REST)
                v = clamp(v, splat(norm->low), splat(norm->high));
            store(to, v);
        }
    }
    if (finish == WINOGRAD_SUMS) {
        store(out->sum + c, load(out->sum + c) + sum);
        store(out->square + c, load(out->square + c) + square);
    }
}

INLINE void winograd_output_part(const struct learner_winograd_tile *tile,
                                 const struct learner_winograd_output *output, const float *m,
                                 size_t point, enum winograd_finish finish, size_t bottom,
                                 size_t right)
{
    /* copies, which no store can alias */
    const struct learner_winograd_output out = *output;
    const struct learner_kernel_norm norm = out.norm ? *out.norm : (struct learner_kernel_norm){0};
    const size_t row = tile->w * tile->stride, pixel = tile->stride, channels = tile->channels;
    const size_t first = ((size_t)tile->top * tile->w + (size_t)tile->left) * pixel;

    if (bottom == 4 && right == 4)
        for (size_t c = 0; c < channels; c += LANES)
            winograd_output_vec(&out, &norm, m, point, c, first, row, pixel, finish, 4, 4);
    else
        for (size_t c = 0; c < channels; c += LANES)
            winograd_output_vec(&out, &norm, m, point, c, first, row, pixel, finish, bottom, right);
}

static void winograd_output(const struct learner_winograd_tile *tile,
                            const struct learner_winograd_output *out, const float *m, size_t point)
{
    size_t top, bottom, left, right;

    winograd_inside(tile->top, 4, tile->h, &top, &bottom);
    winograd_inside(tile->left, 4, tile->w, &left, &right);
    if (out->norm && out->residual)
        winograd_output_part(tile, out, m, point, WINOGRAD_REST, bottom, right);
    else if (out->norm)
        winograd_output_part(tile, out, m, point, WINOGRAD_NORM, bottom, right);
    else if (out->sum)
        winograd_output_part(tile, out, m, point, WINOGRAD_SUMS, bottom, right);
    else if (out->add)
        winograd_output_part(tile, out, m, point, WINOGRAD_ADD, bottom, right);
    else
        winograd_output_part(tile, out, m, point, WINOGRAD_STORE, bottom, right);
}

/* The lanes that F names for a step of a transposition */
#if LANES == 16
#define WINOGRAD_LANES(F, s)                                                                       \
    F(0, s), F(1, s), F(2, s), F(3, s), F(4, s), F(5, s), F(6, s), F(7, s), F(8, s), F(9, s),      \
        F(10, s), F(11, s), F(12, s), F(13, s), F(14, s), F(15, s)
#elif LANES == 8
#define WINOGRAD_LANES(F, s) F(0, s), F(1, s), F(2, s), F(3, s), F(4, s), F(5, s), F(6, s), F(7, s)
#else
#define WINOGRAD_LANES(F, s) F(0, s), F(1, s), F(2, s), F(3, s)
#endif
#define WINOGRAD_LOW(l, s) ((l) & (s) ? LANES + (l) - (s) : (l))
#define WINOGRAD_HIGH(l, s) ((l) & (s) ? LANES + (l) : (l) + (s))
#define WINOGRAD_SWAP(a, s)                                                                        \
    for (size_t i = 0; i < LANES; i++)                                                             \
        if (!(i & (s))) {                                                                          \
            const vec top = a[i], bottom = a[i + (s)];                                             \
            a[i] = __builtin_shufflevector(top, bottom, WINOGRAD_LANES(WINOGRAD_LOW, s));          \
            a[i + (s)] = __builtin_shufflevector(top, bottom, WINOGRAD_LANES(WINOGRAD_HIGH, s));   \
        }

/* Rows become columns: in steps of 1, 2, 4.. lanes, rows i and i + step swap their halves. */
INLINE void winograd_transpose(vec a[LANES])
{
#pragma GCC unroll 16
    WINOGRAD_SWAP(a, 1)
#pragma GCC unroll 16
    WINOGRAD_SWAP(a, 2)
#if LANES > 4
#pragma GCC unroll 16
    WINOGRAD_SWAP(a, 4)
#endif
#if LANES > 8
#pragma GCC unroll 16
    WINOGRAD_SWAP(a, 8)
#endif
}

/* to[i][lane] = from[lane * stride + i] */
INLINE void winograd_across(const float *from, size_t stride, size_t count, float (*to)[LANES])
{
    for (size_t first = 0; first < count; first += LANES) {
        const size_t part = count - first < LANES ? count - first : LANES;
        vec rows[LANES];
#pragma GCC unroll 16
        for (size_t l = 0; l < LANES; l++)
            rows[l] = load_part(from + l * stride + first, part);
        winograd_transpose(rows);
#pragma GCC unroll 16
        for (size_t i = 0; i < LANES; i++)
            if (i < part)
                store(to[first + i], rows[i]);
    }
}

/* taps[9][LANES]: a vector of filters */
INLINE void winograd_weights_vec(const float (*taps)[LANES], bool rotated, float *u, size_t point)
{
    vec half[6][3];

    for (size_t j = 0; j < 3; j++) {
        const vec d[3] = {load(taps[rotated ? 8 - j : j]), load(taps[rotated ? 5 - j : 3 + j]),
                          load(taps[rotated ? 2 - j : 6 + j])};
        vec r[6];
        winograd_g(d, r);
        for (size_t i = 0; i < 6; i++)
            half[i][j] = r[i];
    }
    for (size_t i = 0; i < 6; i++) {
        float *to = WINOGRAD_ROW(u, i, point);
        vec r[6];
        winograd_g(half[i], r);
        for (size_t j = 0; j < 6; j++)
            store(to + j * point, r[j]);
    }
}

static void winograd_weights(const struct learner_winograd_weights *weights, float *u, size_t point)
{
    const struct learner_winograd_weights w = *weights; /* stores do not alias it */
    float taps[9 * LANES][LANES] __attribute__((aligned(64)));

    for (size_t n = 0; n < w.cols; n += LANES)
        for (size_t k = 0; k < w.rows; k++) {
            const float *from = w.weight + k * w.row_stride + n * w.col_stride;
            float *to = u + k * w.cols + n;
            if (w.rotated) {
                winograd_across(from, w.col_stride, 9, taps);
                winograd_weights_vec((const float(*)[LANES])taps, true, to, point);
                continue;
            }
            if (k % LANES == 0) /* row_stride is 9: the next filters follow */
                winograd_across(from, w.col_stride, 9 * LANES, taps);
            winograd_weights_vec((const float(*)[LANES])taps + k % LANES * 9, false, to, point);
        }
}

static void winograd_dweight(const float *du, size_t point, size_t cols, float *dweight, bool add)
{
    for (size_t n = 0; n < cols; n += LANES) {
        vec half[3][6], taps[(9 + LANES - 1) / LANES * LANES] = {{0}};
        for (size_t i = 0; i < 6; i++) {
            const float *from = WINOGRAD_ROW(du + n, i, point);
            vec d[6], r[3];
            for (size_t j = 0; j < 6; j++)
                d[j] = load(from + j * point);
            winograd_gt(d, r);
            for (size_t j = 0; j < 3; j++)
                half[j][i] = r[j];
        }
        for (size_t j = 0; j < 3; j++) {
            vec r[3];
            winograd_gt(half[j], r);
            for (size_t i = 0; i < 3; i++)
                taps[3 * i + j] = r[i];
        }
#pragma GCC unroll 3
        for (size_t t = 0; t < 9; t += LANES) {
            const size_t part = 9 - t < LANES ? 9 - t : LANES;
            winograd_transpose(taps + t);
#pragma GCC unroll 16
            for (size_t l = 0; l < LANES; l++) {
                float *to = dweight + (n + l) * 9 + t;
                store_part(to, add ? taps[t + l] + load_part(to, part) : taps[t + l], part);
            }
        }
    }
}

/* c[rows][width vectors] (+)= a b */
INLINE void winograd_micro(size_t rows, size_t width, const float *a, size_t a_row, size_t a_depth,
                           const float *b, size_t b_stride, float *c, size_t c_stride, size_t depth,
                           bool add)
{
    vec acc[12][4];

#pragma GCC unroll 12
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (size_t w = 0; w < width; w++)
            acc[r][w] = add ? load(c + r * c_stride + w * LANES) : (vec){0};
    for (size_t k = 0; k < depth; k++) {
        vec right[4];
#pragma GCC unroll 4
        for (size_t w = 0; w < width; w++)
            right[w] = load(b + k * b_stride + w * LANES);
#pragma GCC unroll 12
        for (size_t r = 0; r < rows; r++) {
            const float left = a[r * a_row + k * a_depth];
#pragma GCC unroll 4
            for (size_t w = 0; w < width; w++)
                acc[r][w] += left * right[w];
        }
    }
#pragma GCC unroll 12
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (size_t w = 0; w < width; w++)
            store(c + r * c_stride + w * LANES, acc[r][w]);
}

/* `width` vectors of columns; transposed is a constant of the caller */
INLINE void winograd_panel(const struct learner_winograd_product *p, const float *a, const float *b,
                           float *c, size_t width, size_t tall, bool transposed)
{
    const size_t a_row = transposed ? 1 : p->a_stride, a_depth = transposed ? p->a_stride : 1;
    size_t r = 0;

    for (; r + tall <= p->rows; r += tall)
        winograd_micro(tall, width, a + r * a_row, a_row, a_depth, b, p->b_stride,
                       c + r * p->c_stride, p->c_stride, p->depth, p->add);
    for (; r + 4 <= p->rows; r += 4)
        winograd_micro(4, width, a + r * a_row, a_row, a_depth, b, p->b_stride, c + r * p->c_stride,
                       p->c_stride, p->depth, p->add);
    for (; r < p->rows; r++)
        winograd_micro(1, width, a + r * a_row, a_row, a_depth, b, p->b_stride, c + r * p->c_stride,
                       p->c_stride, p->depth, p->add);
}

INLINE void winograd_point(const struct learner_winograd_product *p, size_t point, bool transposed)
{
    const float *a = p->a + point * p->a_point, *b = p->b + point * p->b_point;
    float *c = p->c + point * p->c_point;
    size_t n = 0;

#if REGISTERS >= 32
    for (; n + 4 * LANES <= p->cols; n += 4 * LANES)
        winograd_panel(p, a, b + n, c + n, 4, 6, transposed);
    for (; n + 2 * LANES <= p->cols; n += 2 * LANES)
        winograd_panel(p, a, b + n, c + n, 2, 12, transposed);
#else
    for (; n + 2 * LANES <= p->cols; n += 2 * LANES)
        winograd_panel(p, a, b + n, c + n, 2, 6, transposed);
#endif
    for (; n < p->cols; n += LANES)
        winograd_panel(p, a, b + n, c + n, 1, 12, transposed);
}

static void winograd_product(const struct learner_winograd_product *p)
{
    for (size_t point = 0; point < LEARNER_WINOGRAD_POINTS; point++) {
        if (p->a_transposed)
            winograd_point(p, point, true);
        else
            winograd_point(p, point, false);
    }
}

#endif
