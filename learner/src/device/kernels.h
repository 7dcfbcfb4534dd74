/* The inner loops of the `blas` backend, written once over vectors of a fixed number of lanes and
 * compiled once per instruction set. The best that this processor runs is chosen at run time.
 * Nothing here knows images, threads or memory plans. */
#ifndef LEARNER_KERNELS_H
#define LEARNER_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

#define LEARNER_KERNEL_LANES_MAX 16

struct learner_kernels {
    const char *name; /* "avx512" "avx2" "base" */
    size_t lanes;     /* floats of a vector */
};

/* The fastest this processor runs, or the named one; NULL when it cannot run here. */
const struct learner_kernels *learner_kernels_find(const char *name);

extern const struct learner_kernels learner_kernels_base;
#ifdef __x86_64__
extern const struct learner_kernels learner_kernels_avx2;
extern const struct learner_kernels learner_kernels_avx512;
#endif

#endif
