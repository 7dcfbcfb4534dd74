#include "schedule.h"

#include <math.h>

double learner_schedule_cosine(double top, size_t step, size_t steps, size_t warmup)
{
    if (step >= steps)
        return 0;
    if (step < warmup)
        return top * (double)(step + 1) / (double)warmup;
    const double done = (double)(step - warmup) / (double)(steps - warmup);
    return top * 0.5 * (1 + cos(3.141592653589793 * done));
}

size_t learner_schedule_fit(size_t planned, size_t done, double each, double left)
{
    if (left <= 0 || planned <= done)
        return planned < done ? planned : done;
    if (each <= 0 || left / each >= (double)(planned - done))
        return planned;
    return done + (size_t)(left / each);
}
