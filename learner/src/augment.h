/* Random views of training images: crop, mirror, cutout on bytes, mixup on what the network gets.
 * Everything random comes from the generator that is passed in, image by image in batch order.
 * Knows nothing of how a batch lies in memory but that images follow each other. Private. */
#ifndef LEARNER_AUGMENT_H
#define LEARNER_AUGMENT_H

#include "feed.h"
#include "learner/learn.h"
#include "rng.h"

struct learner_augment {
    const struct learner_samples *from; /* borrowed */
    const struct delta_arch *arch;      /* borrowed */
    bool moves;                         /* crop and mirror */
    size_t cutout;
    double mixup;
    struct learner_samples view; /* owned: [batch] images after crop, mirror, cutout */
    uint32_t *identity;          /* owned, [batch] 0, 1, 2... */
    struct learner_view *views;  /* owned, [batch] */

    struct learner_feed *feed; /* borrowed; NULL: views are made here */
};

/*   samples, arch  must outlive *out
 *   out            end with learner_augment_release, also after a failure
 *   fails          NO_MEMORY, LIMIT */
DELTA_MUST_USE enum delta_status
learner_augment_init(struct learner_augment *out, const struct learner_pretrain_options *options,
                     const struct learner_samples *samples, const struct delta_arch *arch,
                     size_t batch, struct delta_error *err);
void learner_augment_release(struct learner_augment *augment);

/* From now on views are made where the feed has the images, if it has all of them on a device; it
 * must be of the same images and live until the release. */
void learner_augment_place(struct learner_augment *augment, struct learner_feed *feed);

/* Writes n views into a net's input; where the images were placed, into that of the feed's net, and
 * `input` is not looked at. With mixup, image i is mixed with image n-1-i and keeps the returned
 * share of itself; without, 1 is returned. */
double learner_augment_load(struct learner_augment *augment, float *input, const uint32_t *index,
                            size_t n, struct learner_rng *rng);

/* Beta(alpha, alpha) for 0 < alpha <= 1 (Joehnk 1964). */
double learner_augment_beta(struct learner_rng *rng, double alpha);

#endif
