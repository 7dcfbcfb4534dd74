/* The shapes of the synthetic image source, as inside-tests in a unit square. Private. */
#ifndef LEARNER_SHAPES_H
#define LEARNER_SHAPES_H

#include <stdbool.h>
#include <stddef.h>

struct learner_shape {
    const char *name;
    double hue;                         /* preferred colour, 0..1; neighbours overlap */
    bool (*inside)(double x, double y); /* x right, y down, |x|,|y| <= 1 */
};

extern const struct learner_shape learner_shapes[];
extern const size_t learner_shape_count;

#endif
