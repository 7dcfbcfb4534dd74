/* Our own kernels, in what C and C++ share: compiled by nvcc for a GPU, and by the tests for the
 * processor, block after block and thread after thread. Whoever includes this defines before:
 *
 * - GPU_KERNEL(name, args), the head of a kernel: `a` is its arguments, `block` of `blocks` the
 *   place.
 * - GPU_EACH_THREAD(t), a section that every thread of the block goes through once: nothing but
 * what is GPU_SHARED lives longer, and all wait at its end. `continue` ends it early; break and
 * return are not allowed.
 * - GPU_SHARED, memory of the block; GPU_INLINE, a function for kernels; GPU_UNROLL in front of a
 *   short loop; GPU_UNROLL_4 and GPU_UNROLL_8 in front of a long one that stores nothing: so many
 *   reads on their way.
 * - GPU_TIMES(a, b), a product that is rounded before anything is added to it.
 * - GPU_ROUND(f), float32 to bf16, if the hardware can.
 *
 * Within a section no thread reads what another one writes. Sums have a fixed order: the same bytes
 * every time. */

#ifndef LEARNER_DEVICE_CUDA_KERNELS_BODY_H
#define LEARNER_DEVICE_CUDA_KERNELS_BODY_H

/* All elements 0..count-1, divided among the threads of all blocks. Where an element's place is
 * taken apart, 32 bits hold it (an arena has less than 2^32 numbers): division of 64 would be
 * dearer than the memory that is waited for. */
#define GPU_EACH(i, count)                                                                         \
    GPU_EACH_THREAD (gpu_thread)                                                                   \
        for (size_t i = (size_t)block * GPU_THREADS + gpu_thread; i < (count);                     \
             i += (size_t)blocks * GPU_THREADS)

/* ---- numbers ---- */

GPU_INLINE float gpu_bits_to_float(uint32_t bits)
{
    union {
        uint32_t u;
        float f;
    } both;

    both.u = bits;
    return both.f;
}

GPU_INLINE uint32_t gpu_float_to_bits(float f)
{
    union {
        uint32_t u;
        float f;
    } both;

    both.f = f;
    return both.u;
}

GPU_INLINE float gpu_from_bf16(uint16_t v)
{
    return gpu_bits_to_float((uint32_t)v << 16);
}

/* To the nearest, ties to even; NaN stays NaN. */
GPU_INLINE uint16_t gpu_to_bf16(float f)
{
#ifdef GPU_ROUND
    return GPU_ROUND(f);
#else
    const uint32_t bits = gpu_float_to_bits(f);

    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
#endif
}

GPU_INLINE float gpu_get(const void *p, size_t i, unsigned narrow)
{
    return narrow ? gpu_from_bf16(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

GPU_INLINE void gpu_put(void *p, size_t i, unsigned narrow, float v)
{
    if (narrow)
        ((uint16_t *)p)[i] = gpu_to_bf16(v);
    else
        ((float *)p)[i] = v;
}

/* `width` numbers, in one access where there are four. */
struct gpu_wide {
    float v[4];
};
struct GPU_ALIGN(16) gpu_four_floats {
    float v[4];
};
struct GPU_ALIGN(8) gpu_four_narrow {
    uint16_t v[4];
};

GPU_INLINE struct gpu_wide gpu_get_wide(const void *p, size_t i, unsigned narrow, unsigned width)
{
    struct gpu_wide out;

    if (width == 1) {
        out.v[0] = gpu_get(p, i, narrow);
        out.v[1] = out.v[2] = out.v[3] = 0;
    } else if (narrow) {
        const struct gpu_four_narrow four =
            *(const struct gpu_four_narrow *)((const uint16_t *)p + i);
        GPU_UNROLL
        for (int j = 0; j < 4; j++)
            out.v[j] = gpu_from_bf16(four.v[j]);
    } else {
        const struct gpu_four_floats four = *(const struct gpu_four_floats *)((const float *)p + i);
        GPU_UNROLL
        for (int j = 0; j < 4; j++)
            out.v[j] = four.v[j];
    }
    return out;
}

GPU_INLINE void gpu_put_wide(void *p, size_t i, unsigned narrow, unsigned width,
                             struct gpu_wide wide)
{
    if (width == 1) {
        gpu_put(p, i, narrow, wide.v[0]);
    } else if (narrow) {
        struct gpu_four_narrow four;
        GPU_UNROLL
        for (int j = 0; j < 4; j++)
            four.v[j] = gpu_to_bf16(wide.v[j]);
        *(struct gpu_four_narrow *)((uint16_t *)p + i) = four;
    } else {
        struct gpu_four_floats four;
        GPU_UNROLL
        for (int j = 0; j < 4; j++)
            four.v[j] = wide.v[j];
        *(struct gpu_four_floats *)((float *)p + i) = four;
    }
}

/* act: enum learner_act, 0 none, 1 ReLU, 2 ReLU6; NaN passes through */
GPU_INLINE float gpu_activate(int act, float v)
{
    if (act != 0 && v < 0)
        return 0;
    return act == 2 && v > 6 ? 6 : v;
}

GPU_INLINE bool gpu_passes(int act, float y)
{
    return act == 0 || (y > 0 && !(act == 2 && y >= 6));
}

GPU_INLINE bool gpu_is_bad(float v)
{
    return (gpu_float_to_bits(v) & 0x7f800000u) == 0x7f800000u;
}

/* ---- windows ---- */

/* The input pixel that output (oy, ox) sees through (ky, kx), or -1. */
GPU_INLINE long gpu_tap(const struct gpu_window *w, unsigned oy, unsigned ox, unsigned ky,
                        unsigned kx)
{
    const int y = (int)(oy * w->stride + ky) - (int)w->pad;
    const int x = (int)(ox * w->stride + kx) - (int)w->pad;

    return y < 0 || x < 0 || y >= (int)w->h || x >= (int)w->w ? -1 : (long)y * (long)w->w + x;
}

/* Outputs whose window holds input row (or column) y: first, and one beyond the last. */
GPU_INLINE void gpu_seen_by(unsigned *first, unsigned *end, unsigned y, unsigned out,
                            const struct gpu_window *w)
{
    const unsigned at = y + w->pad;
    const unsigned last = at / w->stride;

    *first = at < w->kernel ? 0 : (at - w->kernel) / w->stride + 1;
    *end = last < out ? last + 1 : out;
}

#endif
