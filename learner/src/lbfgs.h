/* Limited-memory BFGS with a backtracking line search, for smooth convex functions of up to some
 * hundred thousand variables. Deterministic. Private. */
#ifndef LEARNER_LBFGS_H
#define LEARNER_LBFGS_H

#include <stddef.h>

#include "delta/status.h"

/* Value at x [n]; writes the gradient. */
typedef double learner_objective(void *context, const double *x, double *gradient);

struct learner_lbfgs_report {
    int iterations;
    double value;
    double gradient_norm; /* largest absolute component */
};

/* Minimises from x in place until the gradient's largest component is below `tolerance`, no step
 * helps any more, or max_iterations.
 *   report   may be NULL
 *   fails    NO_MEMORY, NONFINITE */
DELTA_MUST_USE enum delta_status learner_lbfgs(double *x, size_t n, learner_objective *objective,
                                               void *context, int max_iterations, double tolerance,
                                               struct learner_lbfgs_report *report,
                                               struct delta_error *err);

#endif
