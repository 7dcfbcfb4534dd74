/* What the agent needs of the machine besides files: time, randomness, sleeping, and whether it
 * was asked to stop. Passed in, so that tests own all four. Nothing here knows the network. */
#ifndef AGENT_ENV_H
#define AGENT_ENV_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "delta/clock.h"

struct agent_env {
    struct delta_clock clock;
    uint32_t (*random)(void *context);           /* uniform over 32 bits */
    bool (*sleep_ms)(void *context, int64_t ms); /* false: asked to stop meanwhile */
    bool (*stopped)(void *context);              /* asked to stop */
    void *context;
};

/* The real machine. `stop` is set by a signal handler; borrowed, must outlive the result. */
struct agent_env agent_env_system(const volatile sig_atomic_t *stop);

static inline bool agent_env_stopped(const struct agent_env *env)
{
    return env->stopped(env->context);
}

#endif
