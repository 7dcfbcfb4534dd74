/* Images of a data set on their way into a net. Where the net's device is apart they travel as
 * bytes, one for a float's four, and become numbers there; else the host makes the numbers in the
 * net's input. A view is an image, or the same mirrored: view i is image i % count, mirrored from
 * `count` on. Private. */
#ifndef LEARNER_FEED_H
#define LEARNER_FEED_H

#include "device.h"
#include "learner/samples.h"

struct learner_feed {
    struct learner_net *net; /* borrowed, as are the next two */
    const struct learner_samples *from;
    const struct delta_arch *arch;
    bool whole;                 /* all images lie on the device, not those of a batch alone */
    float *pixels;              /* the bytes there; NULL: the host makes the numbers */
    uint8_t *packed;            /* bytes of a batch on their way; NULL when whole */
    struct learner_view *views; /* owned, [batch] */
    float *table;               /* owned, [channels][256] */
};

/* Never fails: what there is no memory for is done on the host.
 *   again    the images are wanted more than once: all move to the device, where it has room
 *   feed     its net, samples and arch must live until learner_feed_release */
void learner_feed_init(struct learner_feed *feed, struct learner_net *net,
                       const struct learner_samples *samples, const struct delta_arch *arch,
                       bool again);
void learner_feed_release(struct learner_feed *feed);

/* Fills the net's input with n views. */
void learner_feed_load(struct learner_feed *feed, const uint32_t *index, size_t n);

/* The same with views of any kind, for a feed that is whole. load: all but pixels and table */
void learner_feed_load_views(struct learner_feed *feed, const struct learner_load *load);

#endif
