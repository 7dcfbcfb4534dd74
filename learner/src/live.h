/* What a freeze plan leaves to do, layer by layer. Private. */
#ifndef LEARNER_LIVE_H
#define LEARNER_LIVE_H

#include "arch.h"

struct learner_live {
    /* CONV: no channel of the batch norm can change, so it is part of the convolution */
    bool folded;
    bool weight;   /* some filter of the convolution, or row of the head, can change */
    bool gradient; /* it or a layer before it, on some path, learns: its output needs a gradient */
    /* CONV: the filters of which some weight is live, ascending; NULL: all. Owned */
    uint32_t *filters;
    size_t filter_count;
};

/* live [layers->count], zeroed by the caller; learner_live_release frees what is inside.
 *   plan        whose tensors' freeze marks count; NULL: everything is live
 *   first_live  the lowest layer with something to learn; layers->count: none
 *   fails       NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_live_find(struct learner_live *live, size_t *first_live,
                                                   const struct learner_layers *layers,
                                                   const struct delta_model *plan,
                                                   struct delta_error *err);
void learner_live_release(struct learner_live *live, size_t count);

#endif
