#include "rng.h"

#include <math.h>

static uint64_t splitmix(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t rotate(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

void learner_rng_init(struct learner_rng *rng, uint64_t seed, uint64_t stream)
{
    uint64_t mixed = seed;
    uint64_t state = splitmix(&mixed) ^ (stream * 0xd1342543de82ef95u);

    for (int i = 0; i < 4; i++)
        rng->state[i] = splitmix(&state);
}

uint64_t learner_rng_next(struct learner_rng *rng)
{
    uint64_t *s = rng->state;
    const uint64_t result = rotate(s[1] * 5, 7) * 9;
    const uint64_t t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

double learner_rng_uniform(struct learner_rng *rng)
{
    return (double)(learner_rng_next(rng) >> 11) * 0x1.0p-53;
}

double learner_rng_between(struct learner_rng *rng, double low, double high)
{
    return low + (high - low) * learner_rng_uniform(rng);
}

uint32_t learner_rng_below(struct learner_rng *rng, uint32_t bound)
{
    /* Rejection keeps the result unbiased: the lowest 2^32 mod bound values are drawn again. */
    const uint32_t reject = (uint32_t)-bound % bound;
    uint32_t value;

    do {
        value = (uint32_t)(learner_rng_next(rng) >> 32);
    } while (value < reject);
    return value % bound;
}

double learner_rng_normal(struct learner_rng *rng)
{
    /* Box-Muller; the second value is dropped so that the state is the whole state. */
    const double u = 1.0 - learner_rng_uniform(rng);
    const double v = learner_rng_uniform(rng);

    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

void learner_rng_shuffle(struct learner_rng *rng, uint32_t *items, size_t count)
{
    for (size_t i = count; i > 1; i--) {
        const uint32_t j = learner_rng_below(rng, (uint32_t)i);
        const uint32_t kept = items[i - 1];
        items[i - 1] = items[j];
        items[j] = kept;
    }
}
