/* Batch norm over [pixels][channels]. Rows are walked in groups: within a group each vector of
 * channels keeps its sums in registers, and memory is still read almost in order. Included by
 * kernels_body.h alone. */
#ifndef LEARNER_KERNELS_NORM_H
#define LEARNER_KERNELS_NORM_H

INLINE size_t group_rows(size_t channels)
{
    return channels <= 64 ? 16 : 4;
}

INLINE void normalise_row(float *y, const float *x, const float *residual,
                          const struct learner_kernel_norm *norm, size_t c, size_t lanes)
{
    vec v = load_part(x + c, lanes) * load_part(norm->gain + c, lanes) +
            load_part(norm->offset + c, lanes);

    if (residual)
        v += load_part(residual + c, lanes);
    store_part(y + c, clamp(v, splat(norm->low), splat(norm->high)), lanes);
}

INLINE void normalise_rows(float *y, const float *x, const float *residual,
                           const struct learner_kernel_norm *norm, size_t pixels)
{
    for (size_t p = 0; p < pixels; p++) {
        size_t c = 0;
        for (; c + LANES <= norm->channels; c += LANES)
            normalise_row(y, x, residual, norm, c, LANES);
        if (c < norm->channels)
            normalise_row(y, x, residual, norm, c, norm->channels - c);
        y += norm->stride;
        x += norm->stride;
        residual = residual ? residual + norm->stride : NULL;
    }
}

static void normalise(float *y, const float *x, const float *residual,
                      const struct learner_kernel_norm *norm, size_t pixels)
{
    if (residual)
        normalise_rows(y, x, residual, norm, pixels);
    else
        normalise_rows(y, x, NULL, norm, pixels);
}

INLINE void put(float *to, vec value, bool add, size_t lanes)
{
    if (add)
        value += load_part(to, lanes);
    store_part(to, value, lanes);
}

INLINE void sums_group(const float *y, size_t rows, size_t stride, const float *mean, float *sum,
                       float *square, size_t lanes)
{
    const vec m = load_part(mean, lanes);
    vec s = {0}, q = {0}; /* short sums first: less rounding */

    for (size_t r = 0; r < rows; r++) {
        const vec d = load_part(y + r * stride, lanes) - m;
        s += d;
        q += d * d;
    }
    put(sum, s, true, lanes);
    put(square, q, true, lanes);
}

static void sums(const float *y, size_t pixels, size_t channels, size_t stride, const float *mean,
                 float *sum, float *square)
{
    const size_t group = group_rows(channels);

    for (size_t p = 0, rows; p < pixels; p += rows) {
        const float *from = y + p * stride;
        size_t c = 0;
        rows = pixels - p < group ? pixels - p : group;
        for (; c + LANES <= channels; c += LANES)
            sums_group(from + c, rows, stride, mean + c, sum + c, square + c, LANES);
        if (c < channels)
            sums_group(from + c, rows, stride, mean + c, sum + c, square + c, channels - c);
    }
}

static void flush(double *to, float *from, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        to[i] += from[i];
        from[i] = 0;
    }
}

enum seen_in { NO_ACT, IN_Y, IN_X }; /* where the activation's slope is read from */
enum { REDUCE = 1, APPLY = 2, CENTRE = 4 };

/* Some rows of the channels from c on. */
INLINE void back_group(const struct learner_kernel_norm_back *b, size_t first, size_t rows,
                       size_t c, size_t lanes, enum seen_in seen, int parts)
{
    const struct learner_kernel_norm *norm = &b->norm;
    const vec low = splat(norm->low), high = splat(norm->high);
    const vec gain = load_part(norm->gain + c, lanes), offset = load_part(norm->offset + c, lanes);
    const vec mean = load_part(b->mean + c, lanes);
    vec sum = {0}, sum_x = {0}, slope = {0}, constant = {0};

    if (parts & CENTRE) {
        slope = load_part(b->slope + c, lanes);
        constant = load_part(b->constant + c, lanes);
    }
    for (size_t r = first; r < first + rows; r++) {
        const size_t at = r * norm->stride + c;
        vec g = load_part(b->dy + at, lanes), x = {0};
        if (seen == IN_X || parts & (REDUCE | CENTRE))
            x = load_part(b->x + at, lanes);
        if (seen == IN_Y)
            g = keep(g, load_part(b->y + at, lanes), low, high);
        if (seen == IN_X) {
            vec v = x * gain + offset;
            if (b->residual)
                v += load_part(b->residual + at, lanes);
            g = keep(g, v, low, high);
        }
        if (parts & REDUCE) {
            sum += g;
            sum_x += g * (x - mean);
        }
        if (b->dresidual)
            put(b->dresidual + at, g, b->dresidual_add, lanes);
        if (parts & APPLY) {
            vec d = gain * g;
            if (parts & CENTRE)
                d -= slope * (x - mean) + constant;
            put(b->dx + at, d, b->dx_add, lanes);
        }
    }
    if (parts & REDUCE) {
        put(b->sum + c, sum, true, lanes);
        put(b->sum_x + c, sum_x, true, lanes);
    }
}

INLINE void back_rows(const struct learner_kernel_norm_back *b, size_t first, size_t pixels,
                      enum seen_in seen, int parts)
{
    const size_t channels = b->norm.channels, group = group_rows(channels);

    for (size_t p = 0, rows; p < pixels; p += rows) {
        size_t c = 0;
        rows = pixels - p < group ? pixels - p : group;
        for (; c + LANES <= channels; c += LANES)
            back_group(b, first + p, rows, c, LANES, seen, parts);
        if (c < channels)
            back_group(b, first + p, rows, c, channels - c, seen, parts);
    }
}

INLINE void back_seen(const struct learner_kernel_norm_back *b, size_t first, size_t pixels,
                      int parts)
{
    if (!b->act)
        back_rows(b, first, pixels, NO_ACT, parts);
    else if (b->y)
        back_rows(b, first, pixels, IN_Y, parts);
    else
        back_rows(b, first, pixels, IN_X, parts);
}

static void norm_reduce(const struct learner_kernel_norm_back *b, size_t first, size_t pixels)
{
    back_seen(b, first, pixels, REDUCE);
}

static void norm_apply(const struct learner_kernel_norm_back *b, size_t first, size_t pixels)
{
    back_seen(b, first, pixels, APPLY | CENTRE);
}

static void norm_apply_fixed(const struct learner_kernel_norm_back *b, size_t first, size_t pixels)
{
    if (b->sum)
        back_seen(b, first, pixels, REDUCE | APPLY);
    else
        back_seen(b, first, pixels, APPLY);
}

#endif
