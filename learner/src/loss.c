#include "learner/loss.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>

/* log sum exp of row / t, shifted by the maximum so that nothing overflows. */
static double log_sum_exp(const float *row, size_t count, double t)
{
    double top = -DBL_MAX, sum = 0;

    for (size_t k = 0; k < count; k++)
        if (row[k] / t > top)
            top = row[k] / t;
    for (size_t k = 0; k < count; k++)
        sum += exp(row[k] / t - top);
    return top + log(sum);
}

/* A row of logits as the cross-entropy takes them. */
struct adjusted {
    const float *row, *offset, *level; /* the last two may be NULL */
    double near;
};

static double adjusted_logit(const struct adjusted *a, size_t k)
{
    double v = a->row[k];

    if (a->level)
        v = a->near * v + (1 - a->near) * a->level[k];
    return v + (a->offset ? a->offset[k] : 0);
}

static double adjusted_norm(const struct adjusted *a, size_t count)
{
    double top = -DBL_MAX, sum = 0;

    for (size_t k = 0; k < count; k++) {
        const double v = adjusted_logit(a, k);
        if (v > top)
            top = v;
    }
    for (size_t k = 0; k < count; k++)
        sum += exp(adjusted_logit(a, k) - top);
    return top + log(sum);
}

double learner_loss_ce_seen(const float *logits, const int32_t *labels, const float *offset,
                            const struct learner_seen *seen, size_t n, size_t classes, double scale,
                            float *grad)
{
    double loss = 0;

    for (size_t i = 0; i < n; i++) {
        float *g = grad ? grad + i * classes : NULL;
        if (labels[i] < 0) {
            for (size_t k = 0; g && k < classes; k++)
                g[k] = 0;
            continue;
        }
        const size_t label = (size_t)labels[i];
        const bool known = seen && label < seen->classes;
        const struct adjusted a = {logits + i * classes, offset, known ? seen->level : NULL,
                                   known ? seen->near : 1};
        const double norm = adjusted_norm(&a, classes);
        loss += norm - adjusted_logit(&a, label);
        for (size_t k = 0; g && k < classes; k++) {
            const double q = exp(adjusted_logit(&a, k) - norm);
            g[k] = (float)(scale * a.near * (q - (k == label)) / (double)n);
        }
    }
    return n ? loss / (double)n : 0;
}

double learner_loss_ce(const float *logits, const int32_t *labels, const float *offset, size_t n,
                       size_t classes, double scale, float *grad)
{
    return learner_loss_ce_seen(logits, labels, offset, NULL, n, classes, scale, grad);
}

double learner_loss_soft(const float *logits, const int32_t *labels, const int32_t *others,
                         double share, double smoothing, size_t n, size_t classes, double scale,
                         float *grad)
{
    const double rest = smoothing / (double)classes;
    double loss = 0;

    for (size_t i = 0; i < n; i++) {
        const float *row = logits + i * classes;
        const double norm = log_sum_exp(row, classes, 1);
        for (size_t k = 0; k < classes; k++) {
            double target = rest;
            if ((int32_t)k == labels[i])
                target += (1 - smoothing) * (others ? share : 1);
            if (others && (int32_t)k == others[i])
                target += (1 - smoothing) * (1 - share);
            loss += target * (norm - row[k]);
            grad[i * classes + k] = (float)(scale * (exp(row[k] - norm) - target) / (double)n);
        }
    }
    return n ? loss / (double)n : 0;
}

double learner_loss_kd_block(const float *logits, const float *teacher, size_t n, size_t classes,
                             size_t stride, size_t first, size_t count, double t, double scale,
                             float *grad)
{
    double loss = 0;

    for (size_t i = 0; i < n; i++) {
        const float *row = logits + i * classes + first, *target = teacher + i * stride + first;
        float *g = grad ? grad + i * classes + first : NULL;
        const double norm = log_sum_exp(row, count, t);
        const double norm_target = log_sum_exp(target, count, t);
        for (size_t k = 0; k < count; k++) {
            const double p = exp(target[k] / t - norm_target);
            const double log_q = row[k] / t - norm;
            loss -= p * log_q;
            if (g)
                g[k] += (float)(scale * (exp(log_q) - p) / (t * (double)n));
        }
    }
    return n ? loss / (double)n : 0;
}

double learner_loss_kd(const float *logits, const float *teacher, size_t n, size_t classes,
                       size_t old, double t, double scale, float *grad)
{
    return learner_loss_kd_block(logits, teacher, n, classes, old, 0, old, t, scale, grad);
}
