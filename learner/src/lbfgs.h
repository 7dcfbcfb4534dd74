/* Limited-memory BFGS with a backtracking line search, for smooth convex functions of up to some
 * hundred thousand variables. Deterministic. Private. */
#ifndef LEARNER_LBFGS_H
#define LEARNER_LBFGS_H

#include <stddef.h>
#include <stdint.h>

#include "delta/buf.h"

/* Doubles of memory per variable. */
#define LEARNER_LBFGS_CELLS (4 + 2 * LEARNER_LBFGS_HISTORY)
#define LEARNER_LBFGS_HISTORY 10

/* Value at x [n]; writes the gradient. */
typedef double learner_objective(void *context, const double *x, double *gradient);

struct learner_lbfgs_report {
    int iterations;
    double value;
    double gradient_norm; /* largest absolute component */
    bool cut_short;       /* the deadline came first */
};

/* Minimises from x in place until the gradient's largest component is below `tolerance`, no step
 * helps any more, max_iterations, or the deadline (monotonic clock; 0: none) has passed; x is the
 * best point found then, as always.
 *   report   may be NULL
 *   fails    NO_MEMORY, NONFINITE */
DELTA_MUST_USE enum delta_status learner_lbfgs(double *x, size_t n, learner_objective *objective,
                                               void *context, int max_iterations, double tolerance,
                                               int64_t deadline_ms,
                                               struct learner_lbfgs_report *report,
                                               struct delta_error *err);

#endif
