/* Depthwise convolutions, one row of pixels at a time, out of buffers that are padded on all sides:
 * [columns][step], where channels up to the next whole vector may be read. Included by
 * kernels_body.h alone. */
#ifndef LEARNER_KERNELS_DEPTHWISE_H
#define LEARNER_KERNELS_DEPTHWISE_H

/* What leaves the registers: normalised, or added to what is there. Kept apart from the row, whose
 * fields a store might change for all the compiler knows. */
struct depthwise_end {
    vec gain, offset, low, high;
    bool add;
};

INLINE struct depthwise_end depthwise_end(const struct learner_depthwise_row *row, size_t c,
                                          const bool finish, const size_t lanes)
{
    struct depthwise_end end = {.add = row->add};

    if (finish) {
        end.gain = load_part(row->finish->gain + c, lanes);
        end.offset = load_part(row->finish->offset + c, lanes);
        end.low = splat(row->finish->low);
        end.high = splat(row->finish->high);
    }
    return end;
}

INLINE void depthwise_put(float *out, vec sum, const struct depthwise_end *end, const bool finish,
                          const size_t lanes)
{
    if (finish)
        store_part(out, clamp(sum * end->gain + end->offset, end->low, end->high), lanes);
    else
        put(out, sum, end->add, lanes);
}

/* 3x3 at stride 1: a column of three inputs is loaded once and goes into the three sums that see
 * it, so that an output costs three loads instead of nine. */
INLINE void depthwise_slide(const struct learner_depthwise_row *row, size_t c, const bool finish,
                            const size_t lanes)
{
    const struct depthwise_end end = depthwise_end(row, c, finish, lanes);
    const size_t pixels = row->pixels, step = row->col_step, out_step = row->out_step;
    const float *in[3];
    float *out = row->out + c;
    vec w[3][3], now = {0}, next = {0};

#pragma GCC unroll 3
    for (size_t r = 0; r < 3; r++) {
        in[r] = row->in[r] + c;
#pragma GCC unroll 3
        for (size_t q = 0; q < 3; q++)
            w[r][q] = load(row->weight + c + (ptrdiff_t)r * row->weight_row +
                           (ptrdiff_t)q * row->weight_col);
        now += load(in[r]) * w[r][0];
        now += load(in[r] + step) * w[r][1];
        next += load(in[r] + step) * w[r][0];
        in[r] += 2 * step;
    }
    for (size_t i = 0; i < pixels; i++) {
        vec last = {0};
#pragma GCC unroll 3
        for (size_t r = 0; r < 3; r++) {
            const vec x = load(in[r]);
            now += x * w[r][2];
            next += x * w[r][1];
            last += x * w[r][0];
            in[r] += step;
        }
        depthwise_put(out, now, &end, finish, lanes);
        out += out_step;
        now = next;
        next = last;
    }
}

/* rows, cols: constants up to 3, so that the weights are registers. */
INLINE void depthwise_small(const struct learner_depthwise_row *row, size_t c, const size_t rows,
                            const size_t cols, const bool finish, const size_t lanes)
{
    const struct depthwise_end end = depthwise_end(row, c, finish, lanes);
    const size_t pixels = row->pixels, step = row->col_step;
    const size_t in_step = row->in_step, out_step = row->out_step;
    const float *in[3] = {0};
    float *out = row->out + c;
    vec w[3][3];

#pragma GCC unroll 3
    for (size_t r = 0; r < rows; r++) {
        in[r] = row->in[r] + c;
#pragma GCC unroll 3
        for (size_t q = 0; q < cols; q++)
            w[r][q] = load(row->weight + c + (ptrdiff_t)r * row->weight_row +
                           (ptrdiff_t)q * row->weight_col);
    }
    for (size_t i = 0; i < pixels; i++) {
        vec sum = {0};
#pragma GCC unroll 3
        for (size_t r = 0; r < rows; r++) {
#pragma GCC unroll 3
            for (size_t q = 0; q < cols; q++)
                sum += load(in[r] + q * step) * w[r][q];
            in[r] += in_step;
        }
        depthwise_put(out, sum, &end, finish, lanes);
        out += out_step;
    }
}

INLINE void depthwise_any(const struct learner_depthwise_row *row, size_t c, const bool finish,
                          const size_t lanes)
{
    const struct depthwise_end end = depthwise_end(row, c, finish, lanes);

    for (size_t i = 0; i < row->pixels; i++) {
        vec sum = {0};
        for (size_t r = 0; r < row->rows; r++)
            for (size_t q = 0; q < row->cols; q++)
                sum += load(row->in[r] + c + i * row->in_step + q * row->col_step) *
                       load(row->weight + c + (ptrdiff_t)r * row->weight_row +
                            (ptrdiff_t)q * row->weight_col);
        depthwise_put(row->out + c + i * row->out_step, sum, &end, finish, lanes);
    }
}

/* finish and, but for the last channels, lanes are constants: no branch for each pixel */
INLINE void depthwise_channels(const struct learner_depthwise_row *row, size_t c, const bool finish,
                               const size_t lanes)
{
    const size_t shape = row->rows < 4 && row->cols < 4 ? row->rows * 4 + row->cols : 0;

    switch (shape) {
    case 4 * 3 + 3:
        if (row->in_step == row->col_step)
            depthwise_slide(row, c, finish, lanes);
        else
            depthwise_small(row, c, 3, 3, finish, lanes);
        break;
    case 4 * 2 + 2:
        depthwise_small(row, c, 2, 2, finish, lanes);
        break;
    case 4 * 2 + 1:
        depthwise_small(row, c, 2, 1, finish, lanes);
        break;
    case 4 * 1 + 2:
        depthwise_small(row, c, 1, 2, finish, lanes);
        break;
    case 4 * 1 + 1:
        depthwise_small(row, c, 1, 1, finish, lanes);
        break;
    default:
        depthwise_any(row, c, finish, lanes);
    }
}

INLINE void depthwise_row(const struct learner_depthwise_row *row, const bool finish)
{
    size_t c = 0;

    for (; c + LANES <= row->channels; c += LANES)
        depthwise_channels(row, c, finish, LANES);
    if (c < row->channels)
        depthwise_channels(row, c, finish, row->channels - c);
}

static void depthwise(const struct learner_depthwise_row *row)
{
    if (row->finish)
        depthwise_row(row, true);
    else
        depthwise_row(row, false);
}

/* 3x3 at stride 1: a column of inputs meets the three gradients that saw it. */
INLINE void dweight_slide(const struct learner_depthwise_row *row, const float *dy, float *dweight,
                          size_t c)
{
    const size_t pixels = row->pixels, step = row->col_step, dy_step = row->out_step;
    const float *in[3];
    vec sum[3][3], d[3] = {{0}, {0}, {0}};

#pragma GCC unroll 3
    for (size_t r = 0; r < 3; r++) {
        in[r] = row->in[r] + c;
#pragma GCC unroll 3
        for (size_t q = 0; q < 3; q++)
            sum[r][q] = (vec){0};
    }
    dy += c;
    for (size_t i = 0; i < pixels + 2; i++) {
        d[2] = d[1];
        d[1] = d[0];
        d[0] = i < pixels ? load(dy) : (vec){0};
        dy += dy_step;
#pragma GCC unroll 3
        for (size_t r = 0; r < 3; r++) {
            const vec x = load(in[r]);
#pragma GCC unroll 3
            for (size_t q = 0; q < 3; q++)
                sum[r][q] += x * d[q];
            in[r] += step;
        }
    }
#pragma GCC unroll 3
    for (size_t r = 0; r < 3; r++)
#pragma GCC unroll 3
        for (size_t q = 0; q < 3; q++)
            put(dweight + c + (r * 3 + q) * step, sum[r][q], true, LANES);
}

/* rows, cols: constants up to 3, so that the sums are registers. */
INLINE void dweight_small(const struct learner_depthwise_row *row, const float *dy, float *dweight,
                          size_t c, const size_t rows, const size_t cols)
{
    const size_t step = row->col_step;
    const float *in[3] = {0};
    vec sum[3][3];

#pragma GCC unroll 3
    for (size_t r = 0; r < rows; r++) {
        in[r] = row->in[r] + c;
#pragma GCC unroll 3
        for (size_t q = 0; q < cols; q++)
            sum[r][q] = (vec){0};
    }
    dy += c;
    for (size_t i = 0; i < row->pixels; i++) {
        const vec d = load(dy);
        dy += row->out_step;
#pragma GCC unroll 3
        for (size_t r = 0; r < rows; r++) {
#pragma GCC unroll 3
            for (size_t q = 0; q < cols; q++)
                sum[r][q] += load(in[r] + q * step) * d;
            in[r] += row->in_step;
        }
    }
#pragma GCC unroll 3
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (size_t q = 0; q < cols; q++)
            put(dweight + c + (r * cols + q) * step, sum[r][q], true, LANES);
}

static void depthwise_dweight(const struct learner_depthwise_row *row, const float *dy,
                              float *dweight)
{
    for (size_t c = 0; c < row->channels; c += LANES) {
        if (row->rows == 3 && row->cols == 3 && row->in_step == row->col_step) {
            dweight_slide(row, dy, dweight, c);
            continue;
        }
        if (row->rows == 3 && row->cols == 3) {
            dweight_small(row, dy, dweight, c, 3, 3);
            continue;
        }
        for (size_t r = 0; r < row->rows; r++)
            for (size_t q = 0; q < row->cols; q++) {
                vec sum = {0};
                for (size_t i = 0; i < row->pixels; i++)
                    sum += load(row->in[r] + c + i * row->in_step + q * row->col_step) *
                           load(dy + c + i * row->out_step);
                put(dweight + c + (r * row->cols + q) * row->col_step, sum, true, LANES);
            }
    }
}

INLINE void depthwise_load_rows(float *restrict to, size_t step, const float *restrict from,
                                size_t stride, size_t pixels, size_t channels,
                                const float *restrict gain, const float *restrict offset, vec low,
                                vec high)
{
    const size_t whole = channels / LANES * LANES;

    for (size_t p = 0; p < pixels; p++, to += step, from += stride) {
        for (size_t c = 0; c < whole; c += LANES) {
            const vec v = load(from + c);
            store(to + c, gain ? clamp(v * load(gain + c) + load(offset + c), low, high) : v);
        }
        if (whole < channels) {
            const size_t lanes = channels - whole;
            vec v = load_part(from + whole, lanes);
            if (gain)
                v = clamp(v * load_part(gain + whole, lanes) + load_part(offset + whole, lanes),
                          low, high);
            store(to + whole, v);
        }
    }
}

/* Copies pixels of `channels` into rows of `step`; what follows up to a whole vector becomes 0. */
static void depthwise_load(float *to, size_t step, const float *from, size_t stride, size_t pixels,
                           size_t channels, const struct learner_kernel_norm *norm)
{
    const vec none = {0};

    if (norm)
        depthwise_load_rows(to, step, from, stride, pixels, channels, norm->gain, norm->offset,
                            splat(norm->low), splat(norm->high));
    else
        depthwise_load_rows(to, step, from, stride, pixels, channels, NULL, NULL, none, none);
}

#endif
