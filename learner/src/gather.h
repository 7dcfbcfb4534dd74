/* A batch in several passes: sums the gradients of the passes before the last. Private. */
#ifndef LEARNER_GATHER_H
#define LEARNER_GATHER_H

#include <stdbool.h>

#include "learner/net.h"

/* Passes of nearly equal size, none above `most`: pass i of them takes images
 * n * i / passes .. n * (i + 1) / passes - 1. */
static inline size_t learner_gather_passes(size_t n, size_t most)
{
    return (n + most - 1) / most;
}

/* Room for the sum, on the net's device; NULL when there is no memory. */
float *learner_gather_new(struct learner_net *net);
void learner_gather_free(struct learner_net *net, float *sum);

/* After the last pass the net's gradients are the whole batch's, if each pass's loss was scaled by
 * its share of the images. */
void learner_gather(struct learner_net *net, float *sum, bool first, bool last);

#endif
