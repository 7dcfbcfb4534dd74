/* Reproducible pseudo-random numbers: xoshiro256** (Blackman, Vigna 2018), seeded by splitmix64.
 * One seed gives the same numbers on every machine. Not for keys.
 * Threads: a generator belongs to one thread at a time; streams of one seed are independent. */
#ifndef LEARNER_RNG_H
#define LEARNER_RNG_H

#include <stddef.h>
#include <stdint.h>

struct learner_rng {
    uint64_t state[4];
};

/* Different streams of one seed (per class, per purpose) do not overlap in practice. */
void learner_rng_init(struct learner_rng *rng, uint64_t seed, uint64_t stream);

uint64_t learner_rng_next(struct learner_rng *rng);
double learner_rng_uniform(struct learner_rng *rng);                          /* [0, 1) */
double learner_rng_between(struct learner_rng *rng, double low, double high); /* [low, high) */
uint32_t learner_rng_below(struct learner_rng *rng, uint32_t bound); /* [0, bound); bound > 0 */
double learner_rng_normal(struct learner_rng *rng);                  /* mean 0, variance 1 */

/* Fisher-Yates over any indices. */
void learner_rng_shuffle(struct learner_rng *rng, uint32_t *items, size_t count);

#endif
