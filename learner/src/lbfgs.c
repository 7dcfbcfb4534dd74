#include "lbfgs.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "delta/clock.h"

#define HISTORY LEARNER_LBFGS_HISTORY
#define ARMIJO 1e-4
#define MAX_HALVINGS 30

struct state {
    size_t n;
    double *x, *gradient, *next, *next_gradient, *direction;
    double *steps, *changes; /* [HISTORY, n] */
    double rho[HISTORY];
    int kept, newest;
};

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static void axpy(double *to, double scale, const double *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] += scale * from[i];
}

static double largest(const double *a, size_t n)
{
    double most = 0;

    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs(a[i]));
    return most;
}

/* direction = -H gradient by the two loops (Nocedal, Wright: Numerical Optimization, 7.4). */
static void find_direction(struct state *s)
{
    const size_t n = s->n;
    double alpha[HISTORY];

    for (size_t i = 0; i < n; i++)
        s->direction[i] = -s->gradient[i];
    for (int k = 0; k < s->kept; k++) {
        const int at = (s->newest - k + HISTORY) % HISTORY;
        alpha[at] = s->rho[at] * dot(s->steps + (size_t)at * n, s->direction, n);
        axpy(s->direction, -alpha[at], s->changes + (size_t)at * n, n);
    }
    if (s->kept) {
        const double *change = s->changes + (size_t)s->newest * n;
        const double scale = 1 / (s->rho[s->newest] * dot(change, change, n));
        for (size_t i = 0; i < n; i++)
            s->direction[i] *= scale;
    }
    for (int k = s->kept - 1; k >= 0; k--) {
        const int at = (s->newest - k + HISTORY) % HISTORY;
        const double beta = s->rho[at] * dot(s->changes + (size_t)at * n, s->direction, n);
        axpy(s->direction, alpha[at] - beta, s->steps + (size_t)at * n, n);
    }
}

/* Keeps the pair (step, change of gradient) where the curvature is positive. */
static void remember(struct state *s)
{
    const int at = (s->newest + 1) % HISTORY;
    double *step = s->steps + (size_t)at * s->n, *change = s->changes + (size_t)at * s->n;

    for (size_t i = 0; i < s->n; i++) {
        step[i] = s->next[i] - s->x[i];
        change[i] = s->next_gradient[i] - s->gradient[i];
    }
    const double curvature = dot(step, change, s->n);
    if (curvature <= 1e-12 * dot(change, change, s->n))
        return;
    s->rho[at] = 1 / curvature;
    s->newest = at;
    if (s->kept < HISTORY)
        s->kept++;
}

/* Moves to a point that is lower by Armijo's rule; false when there is none. */
static bool search(struct state *s, double *value, learner_objective *objective, void *context)
{
    const double slope = dot(s->direction, s->gradient, s->n);
    double length = s->kept ? 1 : 1 / fmax(1, sqrt(dot(s->gradient, s->gradient, s->n)));

    if (!(slope < 0))
        return false;
    for (int tries = 0; tries < MAX_HALVINGS; tries++, length *= 0.5) {
        memcpy(s->next, s->x, s->n * sizeof *s->next);
        axpy(s->next, length, s->direction, s->n);
        const double found = objective(context, s->next, s->next_gradient);
        if (isfinite(found) && found <= *value + ARMIJO * length * slope) {
            remember(s);
            memcpy(s->x, s->next, s->n * sizeof *s->x);
            memcpy(s->gradient, s->next_gradient, s->n * sizeof *s->gradient);
            *value = found;
            return true;
        }
    }
    return false;
}

enum delta_status learner_lbfgs(double *x, size_t n, learner_objective *objective, void *context,
                                int max_iterations, double tolerance, int64_t deadline_ms,
                                struct learner_lbfgs_report *report, struct delta_error *err)
{
    struct state s = {.n = n, .x = x, .newest = HISTORY - 1};
    double *block, value;
    size_t cells = 0;
    const struct delta_clock clock = delta_clock_system();
    bool late = false;
    int done = 0;

    block = delta_size_mul(n, LEARNER_LBFGS_CELLS, &cells) ? delta_calloc(cells + 1, sizeof *block)
                                                           : NULL;
    if (!block)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for %zu variables", n);
    s.gradient = block;
    s.next = block + n;
    s.next_gradient = block + 2 * n;
    s.direction = block + 3 * n;
    s.steps = block + 4 * n;
    s.changes = s.steps + HISTORY * n;
    value = objective(context, x, s.gradient);
    while (isfinite(value) && done < max_iterations && largest(s.gradient, n) > tolerance) {
        late = deadline_ms && delta_clock_monotonic_ms(&clock) >= deadline_ms;
        if (late)
            break;
        find_direction(&s);
        if (!search(&s, &value, objective, context)) {
            if (s.kept == 0)
                break;
            s.kept = 0; /* forget curvature once, then give up */
            continue;
        }
        done++;
    }
    if (report)
        *report = (struct learner_lbfgs_report){done, value, largest(s.gradient, n), late};
    free(block);
    return isfinite(value) ? DELTA_OK
                           : delta_fail(err, DELTA_NONFINITE, "the loss is not a finite number");
}
