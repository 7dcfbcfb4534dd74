/* Inference in groups of images: the lower layers, whose activations outgrow the caches, take a few
 * images at a time from the input up to where activations are small; the layers above take the
 * batch as a whole. What passes between two of the lower layers then stays in the cache, and needs
 * memory for one group only. Private. */
#ifndef LEARNER_GROUP_H
#define LEARNER_GROUP_H

#include "arch.h"
#include "device.h"

struct learner_net;

struct learner_group {
    size_t images;                          /* of a group; 0: the whole batch goes together */
    size_t layers;                          /* so many layers from the input on */
    size_t ops;                             /* the same, in the net's list of operations */
    const float *whole[LEARNER_LAYERS_MAX]; /* what has room for the whole batch: the input, and */
    size_t whole_count;                     /* outputs that the layers above read */
};

/* Fills images and layers, for a net that never trains. */
void learner_group_plan(struct learner_group *group, const struct learner_layers *layers,
                        size_t batch);
/* Whether a layer above the groups reads this one of theirs. */
bool learner_group_is_whole(const struct learner_group *group, const struct learner_layers *layers,
                            size_t layer);
/* Once the layers above have their memory and `ops` is set. */
void learner_group_bind(struct learner_net *net);

/* Runs all operations of such a net. Stops at the first whose result is not finite and returns it,
 * where that is asked for; NULL: none. */
const struct learner_op *learner_group_run(struct learner_net *net, const struct learner_pass *pass,
                                           bool look);

#endif
