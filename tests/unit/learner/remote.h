/* What the tests of a device apart from the host share; see test_remote.c. */
#ifndef REMOTE_H
#define REMOTE_H

#include "fixture.h"

#ifndef TOLERANCE
#define TOLERANCE 2e-4 /* 0: the same bytes */
#endif
/* A pass of a whole network, and what a few steps make of it: rounding decides on which side of a
 * kink some activations fall. */
#define GRADIENT_TOLERANCE (TOLERANCE > 0 ? 0.08 : 0)
#define TRAINED_TOLERANCE (TOLERANCE > 0 ? 0.05 : 0)

/* Fails the test unless ||a - b|| <= tolerance max(||b||, floor sqrt(count)); tolerance 0: unless
 * the bytes are the same. */
void remote_same(const float *a, const float *b, size_t count, double tolerance, double floor,
                 const char *what);
/* Freezes all tensors below the share `from` of them, and two filters of three above. */
void remote_freeze(struct delta_model *model, double from);
/* Whether device `cuda` is; says SKIP and why when it is not. */
bool remote_is_here(void);

#endif
