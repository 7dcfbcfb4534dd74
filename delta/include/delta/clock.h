/* Time as a parameter, so that tests own it. */
#ifndef DELTA_CLOCK_H
#define DELTA_CLOCK_H

#include <stdint.h>

struct delta_clock {
    int64_t (*wall_ms)(void *context);      /* since 1970-01-01 UTC */
    int64_t (*monotonic_ms)(void *context); /* never goes back */
    void *context;
};

struct delta_clock delta_clock_system(void);

static inline int64_t delta_clock_wall_ms(const struct delta_clock *clock)
{
    return clock->wall_ms(clock->context);
}

static inline int64_t delta_clock_monotonic_ms(const struct delta_clock *clock)
{
    return clock->monotonic_ms(clock->context);
}

#endif
