/* Mean and largest value over pixels. Included by kernels_body.h alone. */
#ifndef LEARNER_KERNELS_POOL_H
#define LEARNER_KERNELS_POOL_H

/* Two chains a vector, or each addition would wait for the one before. */
static void pool_mean(float *y, const float *x, size_t pixels, size_t channels)
{
    const vec share = splat(1.0f / (float)pixels);

    for (size_t c = 0; c < channels; c += LANES) {
        const size_t lanes = lanes_from(c, channels);
        vec even = {0}, odd = {0};
        size_t p = 0;
        for (; p + 2 <= pixels; p += 2) {
            even += load_part(x + p * channels + c, lanes);
            odd += load_part(x + (p + 1) * channels + c, lanes);
        }
        if (p < pixels)
            even += load_part(x + p * channels + c, lanes);
        store_part(y + c, (even + odd) * share, lanes);
    }
}

static void pool_spread(float *dx, const float *dy, size_t pixels, size_t channels, bool add)
{
    const vec share = splat(1.0f / (float)pixels);

    for (size_t p = 0; p < pixels; p++, dx += channels)
        for (size_t c = 0; c < channels; c += LANES) {
            const size_t lanes = lanes_from(c, channels);
            put(dx + c, load_part(dy + c, lanes) * share, add, lanes);
        }
}

/* The largest so far and its tap; the first of equal ones stays, NaN goes before all. */
INLINE vec window_largest(const float *const *taps, size_t count, size_t c, size_t lanes,
                          mask *where)
{
    vec best = load_part(taps[0] + c, lanes);

    *where = (mask){0};
    for (size_t t = 1; t < count; t++) {
        const vec v = load_part(taps[t] + c, lanes);
        const mask better = (v > best) | (v != v);
        best = (vec)(((mask)v & better) | ((mask)best & ~better));
        *where = (better & (int)t) | (*where & ~better);
    }
    return best;
}

static void pool_largest(float *y, const float *const *taps, size_t count, size_t channels)
{
    mask where;

    for (size_t c = 0; c < channels; c += LANES) {
        const size_t lanes = lanes_from(c, channels);
        store_part(y + c, window_largest(taps, count, c, lanes, &where), lanes);
    }
}

static void pool_largest_back(float *const *dx, const float *dy, const float *const *taps,
                              size_t count, size_t channels)
{
    mask where;

    for (size_t c = 0; c < channels; c += LANES) {
        const size_t lanes = lanes_from(c, channels);
        const vec d = load_part(dy + c, lanes);
        window_largest(taps, count, c, lanes, &where);
        for (size_t t = 0; t < count; t++)
            put(dx[t] + c, (vec)((mask)d & (where == (int)t)), true, lanes);
    }
}

#endif
