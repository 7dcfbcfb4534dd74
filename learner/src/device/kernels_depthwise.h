/* Depthwise convolutions, one row of pixels at a time, out of buffers that are padded on all sides:
 * [columns][step], where channels up to the next whole vector may be read. Included by
 * kernels_body.h alone. */
#ifndef LEARNER_KERNELS_DEPTHWISE_H
#define LEARNER_KERNELS_DEPTHWISE_H

INLINE size_t lanes_from(size_t c, size_t channels)
{
    return channels - c < LANES ? channels - c : LANES;
}

/* rows, cols: constants up to 3, so that the weights are registers. */
INLINE void depthwise_small(const struct learner_depthwise_row *row, size_t c, const size_t rows,
                            const size_t cols)
{
    const size_t lanes = lanes_from(c, row->channels), step = row->col_step;
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
    for (size_t i = 0; i < row->pixels; i++) {
        vec sum = {0};
#pragma GCC unroll 3
        for (size_t r = 0; r < rows; r++) {
#pragma GCC unroll 3
            for (size_t q = 0; q < cols; q++)
                sum += load(in[r] + q * step) * w[r][q];
            in[r] += row->in_step;
        }
        put(out, sum, row->add, lanes);
        out += row->out_step;
    }
}

INLINE void depthwise_any(const struct learner_depthwise_row *row, size_t c)
{
    const size_t lanes = lanes_from(c, row->channels);

    for (size_t i = 0; i < row->pixels; i++) {
        vec sum = {0};
        for (size_t r = 0; r < row->rows; r++)
            for (size_t q = 0; q < row->cols; q++)
                sum += load(row->in[r] + c + i * row->in_step + q * row->col_step) *
                       load(row->weight + c + (ptrdiff_t)r * row->weight_row +
                            (ptrdiff_t)q * row->weight_col);
        put(row->out + c + i * row->out_step, sum, row->add, lanes);
    }
}

static void depthwise(const struct learner_depthwise_row *row)
{
    const size_t shape = row->rows < 4 && row->cols < 4 ? row->rows * 4 + row->cols : 0;

    for (size_t c = 0; c < row->channels; c += LANES)
        switch (shape) {
        case 4 * 3 + 3:
            depthwise_small(row, c, 3, 3);
            break;
        case 4 * 2 + 2:
            depthwise_small(row, c, 2, 2);
            break;
        case 4 * 2 + 1:
            depthwise_small(row, c, 2, 1);
            break;
        case 4 * 1 + 2:
            depthwise_small(row, c, 1, 2);
            break;
        case 4 * 1 + 1:
            depthwise_small(row, c, 1, 1);
            break;
        default:
            depthwise_any(row, c);
        }
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

/* Copies pixels of `channels` into rows of `step`; what follows up to a whole vector becomes 0. */
static void depthwise_load(float *to, size_t step, const float *from, size_t stride, size_t pixels,
                           size_t channels, const struct learner_kernel_norm *norm)
{
    const vec low = splat(norm ? norm->low : 0), high = splat(norm ? norm->high : 0);

    for (size_t p = 0; p < pixels; p++, to += step, from += stride)
        for (size_t c = 0; c < channels; c += LANES) {
            const size_t lanes = lanes_from(c, channels);
            vec v = load_part(from + c, lanes);
            if (norm)
                v = clamp(v * load_part(norm->gain + c, lanes) + load_part(norm->offset + c, lanes),
                          low, high);
            store(to + c, v);
        }
}

#endif
