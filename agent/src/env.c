#include "env.h"

#include <errno.h>
#include <time.h>

#include "delta/hash.h"

/* A signal that arrives between the look at the flag and nanosleep() costs at most one slice. */
#define SLICE_MS 100

static uint32_t system_random(void *context)
{
    uint32_t value = 0;
    struct delta_error err;

    (void)context;
    /* Jitter only, never a secret: the clock is good enough where the kernel refuses. */
    if (delta_random(&value, sizeof value, &err)) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        value = (uint32_t)now.tv_nsec * 2654435761u;
    }
    return value;
}

static bool system_stopped(void *context)
{
    const volatile sig_atomic_t *stop = context;

    return stop && *stop;
}

static bool system_sleep(void *context, int64_t ms)
{
    while (ms > 0 && !system_stopped(context)) {
        const int64_t slice = ms < SLICE_MS ? ms : SLICE_MS;
        const struct timespec wait = {0, (long)slice * 1000000};
        nanosleep(&wait, NULL);
        ms -= slice;
    }
    return !system_stopped(context);
}

struct agent_env agent_env_system(const volatile sig_atomic_t *stop)
{
    return (struct agent_env){delta_clock_system(), system_random, system_sleep, system_stopped,
                              (void *)(uintptr_t)stop};
}
