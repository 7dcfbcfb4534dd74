/* When to try again: exponential backoff with full jitter (Brooker 2015, "Exponential Backoff And
 * Jitter"), a finite number of tries, and the server's Retry-After as a lower bound. Knows neither
 * clock nor network: it only computes waits from the random numbers that it is given. */
#ifndef AGENT_RETRY_H
#define AGENT_RETRY_H

#include <stdbool.h>
#include <stdint.h>

#include "delta/status.h"

/* A server that says "come back in a year" is not obeyed to the letter. */
#define AGENT_RETRY_AFTER_MAX_MS (3600 * 1000)

struct agent_retry_policy {
    int64_t first_ms; /* the first wait is uniform in [0, first_ms) */
    int64_t cap_ms;   /* no wait by our own choice is longer */
    unsigned tries;   /* all attempts together, the first included */
};

struct agent_retry_policy agent_retry_defaults(void);

struct agent_retry {
    struct agent_retry_policy policy;
    unsigned tried; /* attempts that failed */
};

void agent_retry_init(struct agent_retry *retry, const struct agent_retry_policy *policy);

/* Called after a failed attempt: true and the wait before the next one, or false when there is to
 * be none: the tries are used up, or the status is not one that time mends (only NET is).
 *   retry_after_ms  what the server asked for; < 0 = nothing */
bool agent_retry_next(struct agent_retry *retry, enum delta_status status, uint32_t random,
                      int64_t retry_after_ms, int64_t *wait_ms);

/* `interval_ms` plus up to a quarter, so that a fleet that started together spreads out. */
int64_t agent_retry_jitter(int64_t interval_ms, uint32_t random);

#endif
