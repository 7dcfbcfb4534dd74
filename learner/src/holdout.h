/* Which new samples are kept from training: one fifth of a class, at least one when it has five or
 * more, none below. Decided by seed, class id and order alone, so that an increment and the later
 * choice of probes agree without passing anything. Private. */
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
