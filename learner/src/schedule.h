/* Learning rates over a run. */
#ifndef LEARNER_SCHEDULE_H
#define LEARNER_SCHEDULE_H

#include <stddef.h>

/* Linear from 0 to `top` over the first `warmup` steps, then half a cosine down to 0 at `steps`
 * (Loshchilov and Hutter 2017). step counts from 0; beyond the end the rate is 0. */
double learner_schedule_cosine(double top, size_t step, size_t steps, size_t warmup);

#endif
