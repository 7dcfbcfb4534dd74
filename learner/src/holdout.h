/* Which new samples are kept from training: of a class a fifth up to 10, from 100 samples on a
 * tenth, at most 40; none of fewer than five. A recall of 0.5 is known to 8 points by 40 images,
 * which a bound of 0.2 needs no better; what is held out teaches nothing. Decided by seed, class id
 * and order alone, so that an increment and the later choice of probes agree without passing
 * anything. Private. */
#ifndef LEARNER_HOLDOUT_H
#define LEARNER_HOLDOUT_H

#include <stdbool.h>

#include "learner/samples.h"
#include "rng.h"

/* held [count]: true = keep from training.  fails: NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_holdout(bool *held, const struct learner_samples *samples,
                                                 uint64_t seed, struct delta_error *err);

/* Copies the images whose flag equals `wanted`; the class list is kept whole. */
DELTA_MUST_USE enum delta_status learner_samples_filter(struct learner_samples *out,
                                                        const struct learner_samples *from,
                                                        const bool *flags, bool wanted,
                                                        struct delta_error *err);

/* The generator of a class: the same for the same id wherever it stands in a list. */
struct learner_rng learner_class_rng(uint64_t seed, const struct delta_class_id *id);

#endif
