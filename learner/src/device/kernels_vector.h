/* Vectors for the kernels: what GCC's vector types lack. Included by kernels_body.h alone.
 *
 * *_part handle the last channels of a row: only the first `lanes` floats are touched, the others
 * read as 0. With a constant LANES they are plain loads and stores. */
#ifndef LEARNER_KERNELS_VECTOR_H
#define LEARNER_KERNELS_VECTOR_H

#include <stddef.h>

#ifdef __AVX__
#include <immintrin.h>
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float vec_anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int mask __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *from)
{
    return *(const vec_anywhere *)from;
}

/* of the vector that begins at c */
INLINE size_t lanes_from(size_t c, size_t channels)
{
    return channels - c < LANES ? channels - c : LANES;
}

INLINE void store(float *to, vec value)
{
    *(vec_anywhere *)to = value;
}

INLINE vec splat(float value)
{
    return (vec){0} + value;
}

#if LANES == 16 && defined __AVX512F__
INLINE vec load_part(const float *from, size_t lanes)
{
    return lanes == LANES ? load(from)
                          : (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << lanes) - 1), from);
}

INLINE void store_part(float *to, vec value, size_t lanes)
{
    if (lanes == LANES)
        store(to, value);
    else
        _mm512_mask_storeu_ps(to, (__mmask16)((1u << lanes) - 1), (__m512)value);
}

/* NaN passes through: the instructions give their second operand then */
INLINE vec clamp(vec v, vec low, vec high)
{
    return (vec)_mm512_min_ps((__m512)high, _mm512_max_ps((__m512)low, (__m512)v));
}

/* v where low < at < high, else 0 */
INLINE vec keep(vec v, vec at, vec low, vec high)
{
    const __mmask16 above = _mm512_cmp_ps_mask((__m512)at, (__m512)low, _CMP_GT_OQ);

    return (vec)_mm512_maskz_mov_ps(
        _mm512_mask_cmp_ps_mask(above, (__m512)at, (__m512)high, _CMP_LT_OQ), (__m512)v);
}
#else
#if LANES == 8 && defined __AVX2__
INLINE __m256i first_lanes(size_t lanes)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)lanes),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE vec load_part(const float *from, size_t lanes)
{
    return lanes == LANES ? load(from) : (vec)_mm256_maskload_ps(from, first_lanes(lanes));
}

INLINE void store_part(float *to, vec value, size_t lanes)
{
    if (lanes == LANES)
        store(to, value);
    else
        _mm256_maskstore_ps(to, first_lanes(lanes), (__m256)value);
}
#else
INLINE vec load_part(const float *from, size_t lanes)
{
    vec value = {0};

    if (lanes == LANES)
        return load(from);
    for (size_t i = 0; i < lanes; i++)
        value[i] = from[i];
    return value;
}

INLINE void store_part(float *to, vec value, size_t lanes)
{
    if (lanes == LANES)
        store(to, value);
    else
        for (size_t i = 0; i < lanes; i++)
            to[i] = value[i];
}
#endif

#if LANES == 8 && defined __AVX__
/* NaN passes through: the instructions give their second operand then */
INLINE vec clamp(vec v, vec low, vec high)
{
    return (vec)_mm256_min_ps((__m256)high, _mm256_max_ps((__m256)low, (__m256)v));
}
#else
INLINE vec choose(mask where, vec yes, vec no)
{
    return (vec)(((mask)yes & where) | ((mask)no & ~where));
}

/* written so that NaN passes through */
INLINE vec clamp(vec v, vec low, vec high)
{
    v = choose(v < low, low, v);
    return choose(v > high, high, v);
}
#endif

/* v where low < at < high, else 0 */
INLINE vec keep(vec v, vec at, vec low, vec high)
{
    return (vec)((mask)v & (at > low) & (at < high));
}
#endif

#endif
