/* Learning rates over a run. */
#ifndef LEARNER_SCHEDULE_H
#define LEARNER_SCHEDULE_H

#include <stddef.h>

/* Linear from 0 to `top` over the first `warmup` steps, then half a cosine down to 0 at `steps`
 * (Loshchilov and Hutter 2017). step counts from 0; beyond the end the rate is 0. */
double learner_schedule_cosine(double top, size_t step, size_t steps, size_t warmup);

/* How many steps the whole run gets when `left` seconds remain after `done` steps of `each`
 * seconds: no more than `planned`, no fewer than `done`. */
size_t learner_schedule_fit(size_t planned, size_t done, double each, double left);

#endif
