#include "head_fit.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "delta/buf.h"

#define BLOCK 256 /* images whose scores are computed together */
#define FLAT 1e-6 /* gradient at which the rows are the minimum's to three digits */

struct problem {
    const struct learner_head_data *data;
    double l2;
    size_t used;      /* images that have a label */
    double *offsets;  /* [new] log frequencies */
    double *rest;     /* [count] log sum exp of the adjusted old logits */
    double *own;      /* [count] adjusted old logit of the label, where that is old */
    double *features; /* [BLOCK, d] */
    double *mean;     /* [d]; zero where biases have a penalty of their own */
    double pull;      /* of old classes' images towards the next two */
    double *middle;   /* [d] their mean feature */
    double *level;    /* [old] its logits */
    double *scores;   /* [BLOCK, new] */
    const double *start;
};

static void problem_release(struct problem *problem)
{
    free(problem->offsets);
    free(problem->rest);
    free(problem->own);
    free(problem->features);
    free(problem->mean);
    free(problem->middle);
    free(problem->level);
    free(problem->scores);
}

/* Pooled features are positive: their mean dwarfs what differs between images, and the minimum lies
 * in a narrow valley. A bias without penalty takes the mean in; the problem stays the same. */
static void find_mean(struct problem *problem)
{
    const struct learner_head_data *data = problem->data;

    for (size_t i = 0; i < data->count && !data->anchored; i++)
        for (size_t j = 0; j < data->d; j++)
            problem->mean[j] += data->features[i * data->d + j];
    for (size_t j = 0; j < data->d && data->count; j++)
        problem->mean[j] /= (double)data->count;
}

static bool is_old(const struct learner_head_data *data, size_t i)
{
    return data->labels[i] >= 0 && (size_t)data->labels[i] < data->old_classes;
}

static void find_middle(struct problem *problem)
{
    const struct learner_head_data *data = problem->data;
    size_t count = 0;

    for (size_t i = 0; i < data->count; i++) {
        if (!is_old(data, i))
            continue;
        count++;
        for (size_t j = 0; j < data->d; j++)
            problem->middle[j] += data->features[i * data->d + j];
        for (size_t c = 0; c < data->old_classes; c++)
            problem->level[c] += data->old_logits[i * data->old_classes + c];
    }
    for (size_t j = 0; j < data->d && count; j++)
        problem->middle[j] /= (double)count;
    for (size_t c = 0; c < data->old_classes && count; c++)
        problem->level[c] /= (double)count;
}

/* How much more the biases are when features are taken from their mean (way 1), or from 0 (-1). */
static void move_biases(const struct problem *problem, double *x, double way)
{
    const size_t d = problem->data->d, rows = problem->data->new_classes;

    for (size_t k = 0; k < rows; k++)
        for (size_t j = 0; j < d; j++)
            x[rows * d + k] += way * x[k * d + j] * problem->mean[j];
}

/* What remains of an image's old logits. */
static void reduce_old(struct problem *problem, size_t i, const double *frequency)
{
    const struct learner_head_data *data = problem->data;
    const float *logits = data->old_classes ? data->old_logits + i * data->old_classes : NULL;
    const double near = is_old(data, i) ? problem->pull : 1;
    double most = -INFINITY, sum = 0;

    for (size_t c = 0; c < data->old_classes; c++)
        most = fmax(most, near * logits[c] + (1 - near) * problem->level[c] + frequency[c]);
    for (size_t c = 0; c < data->old_classes; c++)
        sum += exp(near * logits[c] + (1 - near) * problem->level[c] + frequency[c] - most);
    problem->rest[i] = data->old_classes ? most + log(sum) : -INFINITY;
    if (is_old(data, i)) {
        const size_t own = (size_t)data->labels[i];
        problem->own[i] = near * logits[own] + (1 - near) * problem->level[own] + frequency[own];
    }
}

static enum delta_status problem_init(struct problem *problem, struct delta_error *err)
{
    const struct learner_head_data *data = problem->data;
    const size_t classes = data->old_classes + data->new_classes;
    double *frequency = delta_calloc(classes + 1, sizeof *frequency);

    problem->offsets = delta_calloc(data->new_classes + 1, sizeof(double));
    problem->features = delta_calloc(BLOCK * data->d + 1, sizeof(double));
    problem->mean = delta_calloc(data->d + 1, sizeof(double));
    problem->middle = delta_calloc(data->d + 1, sizeof(double));
    problem->level = delta_calloc(data->old_classes + 1, sizeof(double));
    problem->pull = data->pull > 0 ? data->pull : 1;
    problem->scores = delta_calloc(BLOCK * data->new_classes + 1, sizeof(double));
    problem->rest = delta_calloc(data->count + 1, sizeof(double));
    problem->own = delta_calloc(data->count + 1, sizeof(double));
    if (!frequency || !problem->offsets || !problem->features || !problem->mean ||
        !problem->middle || !problem->level || !problem->scores || !problem->rest ||
        !problem->own) {
        free(frequency);
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for fitting the classifier");
    }
    for (size_t i = 0; i < data->count; i++)
        if (data->labels[i] >= 0) {
            frequency[data->labels[i]] += 1;
            problem->used++;
        }
    for (size_t c = 0; c < classes; c++)
        frequency[c] = log(fmax(frequency[c], 1) / (double)(problem->used + !problem->used));
    memcpy(problem->offsets, frequency + data->old_classes, data->new_classes * sizeof(double));
    find_middle(problem);
    for (size_t i = 0; i < data->count; i++)
        if (data->labels[i] >= 0)
            reduce_old(problem, i, frequency);
    free(frequency);
    find_mean(problem);
    return DELTA_OK;
}

/* Loss of one image; scores [new] become softmax - one-hot. */
static double one_image(const struct problem *problem, size_t i, double *scores)
{
    const struct learner_head_data *data = problem->data;
    const long label = (long)data->labels[i] - (long)data->old_classes;
    double most = problem->rest[i], sum, own = problem->own[i];

    if (data->labels[i] < 0) {
        memset(scores, 0, data->new_classes * sizeof *scores);
        return 0;
    }
    for (size_t k = 0; k < data->new_classes; k++)
        most = fmax(most, scores[k]);
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

/* Images first.. n of them: adds to gradient [new, d] and [new]. x: weights, then biases. */
static double one_block(struct problem *problem, size_t first, size_t n, const double *x,
                        double *gradient)
{
    const struct learner_head_data *data = problem->data;
    const size_t rows = data->new_classes, weights = rows * data->d;
    const int k = (int)rows, d = (int)data->d;
    double loss = 0;

    for (size_t i = 0; i < n; i++) {
        const float *from = data->features + (first + i) * data->d;
        double *to = problem->features + i * data->d;
        const double near = is_old(data, first + i) ? problem->pull : 1;
        for (size_t j = 0; j < data->d; j++)
            to[j] = near * from[j] + (1 - near) * problem->middle[j] - problem->mean[j];
    }
    for (size_t i = 0; i < n; i++)
        for (size_t r = 0; r < rows; r++)
            problem->scores[i * rows + r] = x[weights + r] + problem->offsets[r];
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, k, d, 1, problem->features, d, x,
                d, 1, problem->scores, k);
    for (size_t i = 0; i < n; i++) {
        double *scores = problem->scores + i * rows;
        loss += one_image(problem, first + i, scores);
        for (size_t r = 0; r < rows; r++)
            gradient[weights + r] += scores[r];
    }
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, k, d, (int)n, 1, problem->scores, k,
                problem->features, d, 1, gradient, d);
    return loss;
}

static double objective(void *context, const double *x, double *gradient)
{
    struct problem *problem = context;
    const struct learner_head_data *data = problem->data;
    const size_t weights = data->new_classes * data->d, all = weights + data->new_classes;
    const double share = 1 / (double)(problem->used + !problem->used);
    double loss = 0;

    memset(gradient, 0, all * sizeof *gradient);
    for (size_t at = 0; at < data->count; at += BLOCK)
        loss += one_block(problem, at, data->count - at < BLOCK ? data->count - at : BLOCK, x,
                          gradient);
    loss *= share;
    for (size_t i = 0; i < all; i++)
        gradient[i] *= share;
    for (size_t i = 0; i < (data->anchored ? all : weights); i++) {
        const double way = x[i] - (data->anchored ? problem->start[i] : 0);
        loss += problem->l2 / 2 * way * way;
        gradient[i] += problem->l2 * way;
    }
    return loss;
}

enum delta_status learner_head_fit(float *weight, float *bias, const struct learner_head_data *data,
                                   double l2, int max_iterations,
                                   struct learner_lbfgs_report *report, struct delta_error *err)
{
    const size_t weights = data->new_classes * data->d, all = weights + data->new_classes;
    struct problem problem = {.data = data, .l2 = l2};
    double *x = delta_calloc(2 * all + 1, sizeof *x);
    enum delta_status st;

    if (!x)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for fitting the classifier");
    st = problem_init(&problem, err);
    if (st)
        goto done;
    for (size_t i = 0; i < all; i++)
        x[i] = x[all + i] = i < weights ? weight[i] : bias[i - weights];
    problem.start = x + all;
    move_biases(&problem, x, 1);
    st = learner_lbfgs(x, all, objective, &problem, max_iterations, FLAT, data->deadline_ms, report,
                       err);
    if (st)
        goto done;
    move_biases(&problem, x, -1);
    for (size_t i = 0; i < weights; i++)
        weight[i] = (float)x[i];
    for (size_t k = 0; k < data->new_classes; k++)
        bias[k] = (float)x[weights + k];
done:
    problem_release(&problem);
    free(x);
    return st;
}
