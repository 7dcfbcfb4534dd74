/* Stage D of learning: is what was learned good enough to be used? Private.
 *
 * Old classes are tested on probe images that were never trained on, with all outputs competing:
 * a new class that steals from old ones shows. New classes are tested on samples held out; a class
 * with fewer than GUARD_MIN_HELD of those is judged on all its samples, since one image decides
 * nothing. */
#ifndef LEARNER_GUARD_H
#define LEARNER_GUARD_H

#include "method.h"

#define GUARD_MIN_HELD 5

struct learner_trial {
    const struct delta_model *base;
    const struct delta_model *model;
    const struct learner_samples *probe;  /* old classes; may be empty: not judged then */
    const struct learner_samples *train;  /* new classes, trained on */
    const struct learner_samples *held;   /* new classes, held out; may be empty */
    const struct learner_features *known; /* of the probe, by the base; NULL: none */
    const struct learner_increment_options *options;
    const struct learner_budget *budget;
    bool before_known; /* the report has probe_images and old_before already */
};

/* Before anything is learned: are there enough different pictures of each class? Copies of one
 * picture, or a single one, would be tested on themselves.
 *   fails    REJECTED (names the class), NO_MEMORY */
DELTA_MUST_USE enum delta_status
learner_guard_samples(const struct learner_samples *fresh,
                      const struct learner_increment_options *options, struct delta_error *err);

/* Fills the report's accuracies and counts.  fails: REJECTED with the numbers */
DELTA_MUST_USE enum delta_status learner_guard(struct learner_report *report,
                                               const struct learner_trial *trial,
                                               struct delta_error *err);

#endif
