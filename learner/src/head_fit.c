#include "head_fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "delta/buf.h"

struct problem {
    const struct learner_head_data *data;
    double l2;
    double *offsets; /* [new] log frequencies */
    double *rest;    /* [count] log sum exp of the adjusted old logits */
    double *own;     /* [count] adjusted old logit of the label, where that is old */
    double *scores;  /* [new] */
};

static void problem_release(struct problem *problem)
{
    free(problem->offsets);
    free(problem->rest);
    free(problem->own);
    free(problem->scores);
}

static enum delta_status problem_init(struct problem *problem, struct delta_error *err)
{
    const struct learner_head_data *data = problem->data;
    const size_t classes = data->old_classes + data->new_classes;
    double *frequency = delta_calloc(classes + 1, sizeof *frequency);

    problem->offsets = delta_calloc(data->new_classes + 1, sizeof(double));
    problem->scores = delta_calloc(data->new_classes + 1, sizeof(double));
    problem->rest = delta_calloc(data->count + 1, sizeof(double));
    problem->own = delta_calloc(data->count + 1, sizeof(double));
    if (!frequency || !problem->offsets || !problem->scores || !problem->rest || !problem->own) {
        free(frequency);
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for fitting the classifier");
    }
    for (size_t i = 0; i < data->count; i++)
        frequency[data->labels[i]] += 1;
    for (size_t c = 0; c < classes; c++)
        frequency[c] = log(fmax(frequency[c], 1) / (double)data->count);
    memcpy(problem->offsets, frequency + data->old_classes, data->new_classes * sizeof(double));
    for (size_t i = 0; i < data->count; i++) {
        const float *logits = data->old_logits + i * data->old_classes;
        double most = -INFINITY, sum = 0;
        for (size_t c = 0; c < data->old_classes; c++)
            most = fmax(most, logits[c] + frequency[c]);
        for (size_t c = 0; c < data->old_classes; c++)
            sum += exp(logits[c] + frequency[c] - most);
        problem->rest[i] = data->old_classes ? most + log(sum) : -INFINITY;
        if ((size_t)data->labels[i] < data->old_classes)
            problem->own[i] = logits[data->labels[i]] + frequency[data->labels[i]];
    }
    free(frequency);
    return DELTA_OK;
}

/* Loss of one image; scores [new] become softmax - one-hot. x: weights [new, d], biases [new]. */
static double one_image(struct problem *problem, size_t i, const double *x)
{
    const struct learner_head_data *data = problem->data;
    const float *feature = data->features + i * data->d;
    const long label = (long)data->labels[i] - (long)data->old_classes;
    double *scores = problem->scores;
    double most = problem->rest[i], sum, own = problem->own[i];

    for (size_t k = 0; k < data->new_classes; k++) {
        const double *row = x + k * data->d;
        double score = x[data->new_classes * data->d + k] + problem->offsets[k];
        for (size_t j = 0; j < data->d; j++)
            score += row[j] * feature[j];
        scores[k] = score;
        most = fmax(most, score);
    }
    if (label >= 0)
        own = scores[label];
    sum = exp(problem->rest[i] - most);
    for (size_t k = 0; k < data->new_classes; k++)
        sum += exp(scores[k] - most);
    const double total = most + log(sum);
    for (size_t k = 0; k < data->new_classes; k++)
        scores[k] = exp(scores[k] - total) - ((long)k == label);
    return total - own;
}

static double objective(void *context, const double *x, double *gradient)
{
    struct problem *problem = context;
    const struct learner_head_data *data = problem->data;
    const size_t weights = data->new_classes * data->d;
    double loss = 0;

    memset(gradient, 0, (weights + data->new_classes) * sizeof *gradient);
    for (size_t i = 0; i < data->count; i++) {
        const float *feature = data->features + i * data->d;
        loss += one_image(problem, i, x);
        for (size_t k = 0; k < data->new_classes; k++) {
            const double share = problem->scores[k];
            double *row = gradient + k * data->d;
            for (size_t j = 0; j < data->d; j++)
                row[j] += share * feature[j];
            gradient[weights + k] += share;
        }
    }
    loss /= (double)data->count;
    for (size_t i = 0; i < weights + data->new_classes; i++)
        gradient[i] /= (double)data->count;
    for (size_t i = 0; i < weights; i++) {
        loss += problem->l2 / 2 * x[i] * x[i];
        gradient[i] += problem->l2 * x[i];
    }
    return loss;
}

enum delta_status learner_head_fit(float *weight, float *bias, const struct learner_head_data *data,
                                   double l2, int max_iterations,
                                   struct learner_lbfgs_report *report, struct delta_error *err)
{
    const size_t weights = data->new_classes * data->d;
    struct problem problem = {.data = data, .l2 = l2};
    double *x = delta_calloc(weights + data->new_classes + 1, sizeof *x);
    enum delta_status st;

    if (!x)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for fitting the classifier");
    st = problem_init(&problem, err);
    if (st)
        goto done;
    for (size_t i = 0; i < weights; i++)
        x[i] = weight[i];
    for (size_t k = 0; k < data->new_classes; k++)
        x[weights + k] = bias[k];
    st = learner_lbfgs(x, weights + data->new_classes, objective, &problem, max_iterations, 1e-6,
                       data->deadline_ms, report, err);
    if (st)
        goto done;
    for (size_t i = 0; i < weights; i++)
        weight[i] = (float)x[i];
    for (size_t k = 0; k < data->new_classes; k++)
        bias[k] = (float)x[weights + k];
done:
    problem_release(&problem);
    free(x);
    return st;
}
