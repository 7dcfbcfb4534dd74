/* The clock by which runs are timed and their progress is told. Private to the folder. */
#ifndef EXP_CLOCK_H
#define EXP_CLOCK_H

#include "delta/clock.h"

/* Milliseconds, monotonic, from no point in particular. */
static inline int64_t exp_now_ms(void)
{
    const struct delta_clock clock = delta_clock_system();

    return delta_clock_monotonic_ms(&clock);
}

#endif
