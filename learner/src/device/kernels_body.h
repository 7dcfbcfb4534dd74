/* Body of one set of kernels. The including file defines
 *   LANES  floats of a vector      ROWS  output channels computed together
 *   TABLE  name of the table       NAME  its text
 * and is compiled with the flags of its instruction set. GCC's and clang's vector types do the
 * rest; ROWS * 3 accumulators, 3 inputs and a weight must fit the vector registers. */
#ifndef LEARNER_KERNELS_BODY_H
#define LEARNER_KERNELS_BODY_H

#include "kernels.h"

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int mask __attribute__((vector_size(4 * LANES)));

static inline vec load(const float *from)
{
    return *(const vec *)from;
}

static inline void store(float *to, vec value)
{
    *(vec *)to = value;
}

static inline void put(float *to, vec value, bool add)
{
    if (add)
        value += load(to);
    store(to, value);
}

/* Halves are added until one number is left: short chains, one order. */
static inline float total(vec v)
{
    float part[LANES];

    store(part, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            part[i] += part[i + half];
    return part[0];
}

static inline vec positive_or_nan(vec v)
{
    const mask negative = v < 0;

    return (vec)((mask)v & ~negative);
}

/* WIDE vectors of positions times ROWS channels, all in registers. */
#define CORRELATE(WIDE)                                                                            \
    static inline void correlate##WIDE(const float *x, const size_t *offsets, size_t count,        \
                                       const float *w, float *out, size_t out_stride)              \
    {                                                                                              \
        vec acc[ROWS][WIDE] = {{{0}}};                                                             \
                                                                                                   \
        for (size_t j = 0; j < count; j++, w += ROWS) {                                            \
            const float *from = x + offsets[j];                                                    \
            vec in[WIDE];                                                                          \
            for (int v = 0; v < WIDE; v++)                                                         \
                in[v] = load(from + v * LANES);                                                    \
            for (int m = 0; m < ROWS; m++)                                                         \
                for (int v = 0; v < WIDE; v++)                                                     \
                    acc[m][v] += w[m] * in[v];                                                     \
        }                                                                                          \
        for (int m = 0; m < ROWS; m++)                                                             \
            for (int v = 0; v < WIDE; v++)                                                         \
                store(out + (size_t)m * out_stride + v * LANES, acc[m][v]);                        \
    }

CORRELATE(1)
CORRELATE(2)
CORRELATE(3)

static void correlate(const float *x, const size_t *offsets, size_t count, const float *w,
                      float *out, size_t out_stride, size_t positions)
{
    size_t q = 0;

    for (; q + 3 * LANES <= positions; q += 3 * LANES)
        correlate3(x + q, offsets, count, w, out + q, out_stride);
    if (q + 2 * LANES <= positions) {
        correlate2(x + q, offsets, count, w, out + q, out_stride);
        q += 2 * LANES;
    }
    if (q < positions)
        correlate1(x + q, offsets, count, w, out + q, out_stride);
}

#define GRADIENT(WIDE)                                                                             \
    static inline void gradient##WIDE(const float *x, const size_t *offsets, const float *dy,      \
                                      size_t dy_stride, size_t positions, float *dw,               \
                                      size_t dw_stride, size_t live)                               \
    {                                                                                              \
        vec acc[ROWS][WIDE] = {{{0}}};                                                             \
        const float *from[WIDE];                                                                   \
                                                                                                   \
        for (int v = 0; v < WIDE; v++)                                                             \
            from[v] = x + offsets[v];                                                              \
        for (size_t q = 0; q < positions; q += LANES) {                                            \
            vec in[WIDE];                                                                          \
            for (int v = 0; v < WIDE; v++)                                                         \
                in[v] = load(from[v] + q);                                                         \
            for (int m = 0; m < ROWS; m++) {                                                       \
                const vec g = load(dy + (size_t)m * dy_stride + q);                                \
                for (int v = 0; v < WIDE; v++)                                                     \
                    acc[m][v] += g * in[v];                                                        \
            }                                                                                      \
        }                                                                                          \
        for (size_t m = 0; m < ROWS; m++)                                                          \
            for (int v = 0; v < WIDE && m < live; v++)                                             \
                dw[m * dw_stride + (size_t)v] += total(acc[m][v]);                                 \
    }

GRADIENT(1)
GRADIENT(3)

static void gradient(const float *x, const size_t *offsets, size_t count, const float *dy,
                     size_t dy_stride, size_t positions, float *dw, size_t dw_stride, size_t live)
{
    size_t j = 0;

    for (; j + 3 <= count; j += 3)
        gradient3(x, offsets + j, dy, dy_stride, positions, dw + j, dw_stride, live);
    for (; j < count; j++)
        gradient1(x, offsets + j, dy, dy_stride, positions, dw + j, dw_stride, live);
}

static void affine(const float *x, const float *residual, float *y, size_t count, float scale,
                   float shift, bool relu)
{
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        vec v = load(x + i) * scale + shift;
        if (residual)
            v += load(residual + i);
        store(y + i, relu ? positive_or_nan(v) : v);
    }
    for (; i < count; i++) {
        const float v = x[i] * scale + shift + (residual ? residual[i] : 0);
        y[i] = relu && v < 0 ? 0 : v;
    }
}

static float sum(const float *x, size_t count)
{
    vec part = {0};
    float rest = 0;
    size_t i = 0;

    for (; i + LANES <= count; i += LANES)
        part += load(x + i);
    for (; i < count; i++)
        rest += x[i];
    return total(part) + rest;
}

static float sum_squares(const float *x, size_t count, float mean)
{
    vec part = {0};
    float rest = 0;
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        const vec d = load(x + i) - mean;
        part += d * d;
    }
    for (; i < count; i++)
        rest += (x[i] - mean) * (x[i] - mean);
    return total(part) + rest;
}

static inline vec passed(const float *y, const float *dy, bool relu)
{
    const mask open = load(y) > 0;
    const vec g = load(dy);

    return relu ? (vec)((mask)g & open) : g;
}

static void norm_gather(const float *x, const float *y, const float *dy, size_t count, float mean,
                        bool relu, float *dresidual, bool add, float *sum_out, float *hat_out)
{
    vec part = {0}, part_hat = {0};
    float rest = 0, rest_hat = 0;
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        const vec g = passed(y + i, dy + i, relu);
        part += g;
        part_hat += g * (load(x + i) - mean);
        if (dresidual)
            put(dresidual + i, g, add);
    }
    for (; i < count; i++) {
        const float g = !relu || y[i] > 0 ? dy[i] : 0;
        rest += g;
        rest_hat += g * (x[i] - mean);
        if (dresidual)
            dresidual[i] = add ? dresidual[i] + g : g;
    }
    *sum_out += total(part) + rest;
    *hat_out += total(part_hat) + rest_hat;
}

static void norm_apply(const float *x, const float *y, const float *dy, size_t count, float mean,
                       bool relu, float offset, float slope, float gain, float *dx, bool add)
{
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        const vec g = passed(y + i, dy + i, relu);
        const vec d = (g - offset - slope * (load(x + i) - mean)) * gain;
        put(dx + i, d, add);
    }
    for (; i < count; i++) {
        const float g = !relu || y[i] > 0 ? dy[i] : 0;
        const float d = (g - offset - slope * (x[i] - mean)) * gain;
        dx[i] = add ? dx[i] + d : d;
    }
}

const struct learner_kernels TABLE = {
    .name = NAME,
    .lanes = LANES,
    .rows = ROWS,
    .correlate = correlate,
    .gradient = gradient,
    .affine = affine,
    .sum = sum,
    .sum_squares = sum_squares,
    .norm_gather = norm_gather,
    .norm_apply = norm_apply,
};

#endif
