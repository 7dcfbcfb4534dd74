#include "exp_pulse.h"

#include <string.h>
#include <sys/mman.h>

#define LEAST_MS 2000   /* before that, and */
#define LEAST_PART 0.01 /* with less of a stage than that, a guess would be worth nothing */

struct exp_pulse *exp_pulse_new(void)
{
    void *page = mmap(NULL, sizeof(struct exp_pulse), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    return page == MAP_FAILED ? NULL : page; /* zeros */
}

void exp_pulse_free(struct exp_pulse *pulse)
{
    if (pulse)
        munmap(pulse, sizeof *pulse);
}

void exp_pulse_start(struct exp_pulse *pulse, size_t steps, int64_t now_ms)
{
    if (!pulse)
        return;
    pulse->job_ms = pulse->step_ms = pulse->stage_ms = now_ms;
    pulse->stage = NULL;
    pulse->step = 0;
    pulse->steps = steps;
    atomic_store(&pulse->millionths, 0);
}

static void tell(struct exp_pulse *pulse, double gone, double whole)
{
    const double share = whole > 0 ? gone / whole : 0;

    atomic_store(&pulse->millionths, (uint32_t)(1e6 * (share < 0.99 ? share : 0.99)));
}

void exp_pulse_step(struct exp_pulse *pulse, int64_t now_ms)
{
    if (!pulse)
        return;
    pulse->step++;
    pulse->step_ms = pulse->stage_ms = now_ms;
    pulse->stage = NULL;
    if (pulse->steps > 1)
        tell(pulse, (double)pulse->step, (double)pulse->steps);
}

void exp_pulse_tick(struct exp_pulse *pulse, const char *stage, double done, double total,
                    int64_t now_ms)
{
    if (!pulse)
        return;
    if (!pulse->stage || strcmp(pulse->stage, stage) != 0) {
        pulse->stage = stage;
        pulse->stage_ms = now_ms;
    }
    const double part = total > 0 ? done / total : 0;
    const double in_stage = (double)(now_ms - pulse->stage_ms);
    if (in_stage < LEAST_MS || part < LEAST_PART)
        return;
    const double before = (double)(pulse->step_ms - pulse->job_ms);
    const double this_step = (double)(pulse->stage_ms - pulse->step_ms) + in_stage / part;
    const double other = pulse->step ? before / (double)pulse->step : this_step;
    const size_t after = pulse->steps > pulse->step ? pulse->steps - pulse->step - 1 : 0;
    tell(pulse, (double)(now_ms - pulse->job_ms), before + this_step + (double)after * other);
}

double exp_pulse_share(const struct exp_pulse *pulse)
{
    return pulse ? 1e-6 * atomic_load(&pulse->millionths) : 0;
}
