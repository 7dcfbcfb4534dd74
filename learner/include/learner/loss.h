/* Losses over logits [n, classes], each with its gradient. Sums in double. */
#ifndef LEARNER_LOSS_H
#define LEARNER_LOSS_H

#include <stddef.h>
#include <stdint.h>

/* Mean cross-entropy -1/n sum log softmax(logits + offset)[label]. offset (may be NULL): [classes],
 * the log class frequencies of logit adjustment (Menon et al. 2021). Writes grad [n, classes] when
 * not NULL, scaled by `scale`; returns the unscaled loss. label -1: row left out (still in n). */
double learner_loss_ce(const float *logits, const int32_t *labels, const float *offset, size_t n,
                       size_t classes, double scale, float *grad);

/* A network is surer of images that it was trained on than of others like them: it has learned them
 * by heart. The images whose label is below `classes` count as if their logits l were
 * near l + (1 - near) level, level [all classes] being those of the middle of such images. */
struct learner_seen {
    size_t classes;
    double near; /* 0..1; 1: as they are */
    const float *level;
};

/* learner_loss_ce with such images among the rows; seen NULL: none. */
double learner_loss_ce_seen(const float *logits, const int32_t *labels, const float *offset,
                            const struct learner_seen *seen, size_t n, size_t classes, double scale,
                            float *grad);

/* Mean cross-entropy against soft targets (label smoothing, Szegedy et al. 2016; mixup, Zhang et
 * al. 2018): (1 - smoothing) (share [label] + (1 - share) [other]) + smoothing / classes. Writes
 * grad [n, classes], scaled; returns the unscaled loss. others NULL: share is 1. No label -1. */
double learner_loss_soft(const float *logits, const int32_t *labels, const int32_t *others,
                         double share, double smoothing, size_t n, size_t classes, double scale,
                         float *grad);

/* Distillation -1/n sum_k p_k log q_k over the first `old` classes at temperature t, p = softmax of
 * teacher [n, old] / t, q likewise of the student's first `old` logits. ADDS scale * gradient into
 * grad [n, classes]; the gradient is that of the loss as written (no extra factor t*t). */
double learner_loss_kd(const float *logits, const float *teacher, size_t n, size_t classes,
                       size_t old, double t, double scale, float *grad);

/* Outputs that are distilled together. */
struct learner_outputs {
    size_t first, count;
};

/* The same over the `count` outputs from `first` on: a block of classes that were learned together
 * has a softmax of its own (Castro et al. 2018). teacher [n, stride], stride >= first + count. */
double learner_loss_kd_block(const float *logits, const float *teacher, size_t n, size_t classes,
                             size_t stride, size_t first, size_t count, double t, double scale,
                             float *grad);

#endif
