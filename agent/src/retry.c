#include "retry.h"

struct agent_retry_policy agent_retry_defaults(void)
{
    return (struct agent_retry_policy){500, 30 * 1000, 5};
}

void agent_retry_init(struct agent_retry *retry, const struct agent_retry_policy *policy)
{
    retry->policy = *policy;
    retry->tried = 0;
}

static int64_t scale(int64_t range, uint32_t random)
{
    return (int64_t)((double)range * ((double)random / 4294967296.0));
}

bool agent_retry_next(struct agent_retry *retry, enum delta_status status, uint32_t random,
                      int64_t retry_after_ms, int64_t *wait_ms)
{
    int64_t range = retry->policy.first_ms;

    retry->tried++;
    if (delta_status_class(status) != DELTA_CLASS_NET || retry->tried >= retry->policy.tries)
        return false;
    for (unsigned i = 1; i < retry->tried && range < retry->policy.cap_ms; i++)
        range *= 2;
    if (range > retry->policy.cap_ms)
        range = retry->policy.cap_ms;
    *wait_ms = scale(range, random);
    if (retry_after_ms > AGENT_RETRY_AFTER_MAX_MS)
        retry_after_ms = AGENT_RETRY_AFTER_MAX_MS;
    /* The jitter comes on top: everybody was told the same number. */
    if (retry_after_ms > 0)
        *wait_ms += retry_after_ms;
    return true;
}

int64_t agent_retry_jitter(int64_t interval_ms, uint32_t random)
{
    return interval_ms + scale(interval_ms / 4 + 1, random);
}
