#include "delta/clock.h"

#include <stddef.h>
#include <time.h>

static int64_t now_ms(clockid_t which)
{
    struct timespec now;

    clock_gettime(which, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t system_wall(void *context)
{
    (void)context;
    return now_ms(CLOCK_REALTIME);
}

static int64_t system_monotonic(void *context)
{
    (void)context;
    return now_ms(CLOCK_MONOTONIC);
}

struct delta_clock delta_clock_system(void)
{
    return (struct delta_clock){system_wall, system_monotonic, NULL};
}
