#include "learner/loss.h"

#include <float.h>
#include <math.h>

/* log sum exp of (row + offset) / t, shifted by the maximum so that nothing overflows. */
static double log_sum_exp(const float *row, const float *offset, size_t count, double t)
{
    double top = -DBL_MAX, sum = 0;

    for (size_t k = 0; k < count; k++) {
        const double v = ((double)row[k] + (offset ? offset[k] : 0)) / t;
        if (v > top)
            top = v;
    }
    for (size_t k = 0; k < count; k++)
        sum += exp(((double)row[k] + (offset ? offset[k] : 0)) / t - top);
    return top + log(sum);
}

double learner_loss_ce(const float *logits, const int32_t *labels, const float *offset, size_t n,
                       size_t classes, double scale, float *grad)
{
    double loss = 0;

    for (size_t i = 0; i < n; i++) {
        const float *row = logits + i * classes;
        float *g = grad ? grad + i * classes : NULL;
        if (labels[i] < 0) {
            for (size_t k = 0; g && k < classes; k++)
                g[k] = 0;
            continue;
        }
        const size_t label = (size_t)labels[i];
        const double norm = log_sum_exp(row, offset, classes, 1);
        loss += norm - row[label] - (offset ? offset[label] : 0);
        for (size_t k = 0; g && k < classes; k++) {
            const double q = exp((double)row[k] + (offset ? offset[k] : 0) - norm);
            g[k] = (float)(scale * (q - (k == label)) / (double)n);
        }
    }
    return n ? loss / (double)n : 0;
}

double learner_loss_soft(const float *logits, const int32_t *labels, const int32_t *others,
                         double share, double smoothing, size_t n, size_t classes, double scale,
                         float *grad)
{
    const double rest = smoothing / (double)classes;
    double loss = 0;

    for (size_t i = 0; i < n; i++) {
        const float *row = logits + i * classes;
        const double norm = log_sum_exp(row, NULL, classes, 1);
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
        const double norm = log_sum_exp(row, NULL, count, t);
        const double norm_target = log_sum_exp(target, NULL, count, t);
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
