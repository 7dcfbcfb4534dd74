/* Herding: greedily the rows whose mean comes closest to the mean of all (Welling 2009; as iCaRL
 * uses it, Rebuffi et al. 2017, over features of length one). Private. */
#ifndef LEARNER_HERDING_H
#define LEARNER_HERDING_H

#include "delta/status.h"

#include <stddef.h>
#include <stdint.h>

/* Chooses `wanted` (<= count) distinct rows of features [count, d]; the order is the order of
 * choice, so every prefix is the choice for a smaller number. Ties go to the lower row.
 *   chosen   [wanted]
 *   fails    NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_herd(uint32_t *chosen, size_t wanted,
                                              const float *features, size_t count, size_t d,
                                              struct delta_error *err);

#endif
