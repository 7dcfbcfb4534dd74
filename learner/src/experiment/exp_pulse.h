/* How far a job has come, told by the process that does it to the one that waits: memory that both
 * share, one number written and read as a whole. Private to the folder. */
#ifndef EXP_PULSE_H
#define EXP_PULSE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct exp_pulse {
    _Atomic uint32_t millionths; /* of the job's time that are gone; 0: nothing is known yet */
    /* the job's alone */
    int64_t job_ms, step_ms, stage_ms; /* when each began */
    const char *stage;
    size_t step, steps;
};

/* Shared with children that are forked from now on; NULL if there is no memory for it, and every
 * call below does nothing then. */
struct exp_pulse *exp_pulse_new(void);
void exp_pulse_free(struct exp_pulse *pulse);

/* The job begins: so many steps, increments of a run, that take about as long as each other. */
void exp_pulse_start(struct exp_pulse *pulse, size_t steps, int64_t now_ms);
/* One of them has ended. */
void exp_pulse_step(struct exp_pulse *pulse, int64_t now_ms);
/* Stage, done and total as in learner_progress. The stage that runs is taken for the step's last.
 */
void exp_pulse_tick(struct exp_pulse *pulse, const char *stage, double done, double total,
                    int64_t now_ms);
/* Share of the job's time that is gone, 0 to 0.99; 0 where nothing is known. */
double exp_pulse_share(const struct exp_pulse *pulse);

#endif
