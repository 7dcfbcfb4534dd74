/* New classifier rows beside fixed old ones, by logit-adjusted cross-entropy on cached features:
 *
 *   -1/N sum log softmax(logits + log frequency)[label] + l2/2 |new weights|^2
 *
 * The old rows do not move, so their logits are constants and only one number per image remains of
 * them: the convex problem costs O(N k d) a step, however many old classes there are.
 * Rows so fitted on different devices can stand side by side.
 * Images of old classes are those that the network was trained on: it has learned them by heart,
 * and unseen ones lie nearer to the middle. With `pull` a, f stands for m + a (f - m), m being the
 * mean of the old classes' features here; as logits are linear in f, theirs follow without the old
 * rows.
 *
 * With old_classes 0 all rows move; `anchored` then penalises the way from the start instead of the
 * length, so that rows with few images stay near what they were. Private. */
#ifndef LEARNER_HEAD_FIT_H
#define LEARNER_HEAD_FIT_H

#include <stdbool.h>
#include <stdint.h>

#include "lbfgs.h"

struct learner_head_data {
    size_t count, d;
    size_t old_classes, new_classes;
    const float *features;   /* [count, d] */
    const float *old_logits; /* [count, old_classes]; NULL where that is 0 */
    const int32_t *labels;   /* [count], 0..old+new-1; -1: the image is left out */
    int64_t deadline_ms;     /* monotonic clock: ends with the best so far; 0: none */
    bool anchored;           /* l2/2 |weights - start|^2, biases too */
    double pull;             /* 0..1; 0: as 1, features stay where they are */
};

/* weight [new, d] and bias [new]: start on entry, solution on return.
 * Classes without an image count as having one, so that no logit is ruled out.
 *   fails    NO_MEMORY, NONFINITE */
DELTA_MUST_USE enum delta_status
learner_head_fit(float *weight, float *bias, const struct learner_head_data *data, double l2,
                 int max_iterations, struct learner_lbfgs_report *report, struct delta_error *err);

#endif
