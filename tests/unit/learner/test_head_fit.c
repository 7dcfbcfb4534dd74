#include "harness.h"

#include <math.h>
#include <string.h>

#include "head_fit.h"
#include "learner/loss.h"
#include "rng.h"

#define COUNT 60
#define D 4
#define OLD 3
#define NEW 2

struct pool {
    float features[COUNT * D], old_logits[COUNT * OLD];
    int32_t labels[COUNT];
    struct learner_head_data data;
};

static void fill(struct pool *pool, uint64_t seed)
{
    struct learner_rng rng;

    learner_rng_init(&rng, seed, 0);
    for (int i = 0; i < COUNT; i++) {
        pool->labels[i] = (int32_t)learner_rng_below(&rng, OLD + NEW);
        for (int j = 0; j < D; j++)
            pool->features[i * D + j] =
                (float)(learner_rng_normal(&rng) + (pool->labels[i] - OLD == j) * 2);
        for (int c = 0; c < OLD; c++)
            pool->old_logits[i * OLD + c] =
                (float)(learner_rng_normal(&rng) + 2 * (pool->labels[i] == c));
    }
    pool->data = (struct learner_head_data){
        COUNT, D, OLD, NEW, pool->features, pool->old_logits, pool->labels, 0, false, 0};
}

/* The objective from its definition, by the engine's own cross-entropy over all logits. */
static double loss_of(const struct pool *pool, const float *weight, const float *bias, double l2,
                      float *logits_grad)
{
    float logits[COUNT * (OLD + NEW)], offset[OLD + NEW];
    double counts[OLD + NEW] = {0}, loss;

    for (int i = 0; i < COUNT; i++) {
        counts[pool->labels[i]] += 1;
        memcpy(logits + i * (OLD + NEW), pool->old_logits + i * OLD, OLD * sizeof *logits);
        for (int k = 0; k < NEW; k++) {
            float score = bias[k];
            for (int j = 0; j < D; j++)
                score += weight[k * D + j] * pool->features[i * D + j];
            logits[i * (OLD + NEW) + OLD + k] = score;
        }
    }
    for (int c = 0; c < OLD + NEW; c++)
        offset[c] = (float)log(counts[c] / COUNT);
    loss = learner_loss_ce(logits, pool->labels, offset, COUNT, OLD + NEW, 1, logits_grad);
    for (int i = 0; i < NEW * D; i++)
        loss += l2 / 2 * weight[i] * weight[i];
    return loss;
}

static void head_fit_reaches_the_minimum_of_the_definition(void **state)
{
    struct pool pool;
    (void)state;

    for (uint64_t seed = 1; seed < 6; seed++) {
        float weight[NEW * D] = {0}, bias[NEW] = {0}, grad[COUNT * (OLD + NEW)];
        struct learner_lbfgs_report report;
        struct delta_error err = DELTA_ERROR_INIT;
        const double l2 = 1e-2;
        fill(&pool, seed);
        const double before = loss_of(&pool, weight, bias, l2, NULL);
        assert_ok(learner_head_fit(weight, bias, &pool.data, l2, 500, &report, &err));
        const double after = loss_of(&pool, weight, bias, l2, grad);
        assert_true(after < before);
        assert_true(fabs(after - report.value) < 1e-4);
        assert_true(report.gradient_norm < 1e-5);
        /* stationary by the independent gradient: convex, so this is the minimum */
        for (int k = 0; k < NEW; k++) {
            double bias_slope = 0;
            for (int i = 0; i < COUNT; i++)
                bias_slope += grad[i * (OLD + NEW) + OLD + k];
            assert_true(fabs(bias_slope) < 1e-4);
            for (int j = 0; j < D; j++) {
                double slope = l2 * weight[k * D + j];
                for (int i = 0; i < COUNT; i++)
                    slope += grad[i * (OLD + NEW) + OLD + k] * pool.features[i * D + j];
                assert_true(fabs(slope) < 1e-4);
            }
        }
    }
}

/* The reason for logit adjustment: ten times as many images of a class must not make it win. Rows
 * fitted on a pool and on the pool with its new images tripled are about the same, weights as
 * biases; with plain cross-entropy the biases would move by log 3. */
static void head_fit_ignores_how_many_samples_a_class_has(void **state)
{
    static struct pool pool;
    static float features[3 * COUNT * D], old_logits[3 * COUNT * OLD];
    static int32_t labels[3 * COUNT];
    float one[NEW * D] = {0}, one_bias[NEW] = {0}, many[NEW * D] = {0}, many_bias[NEW] = {0};
    struct delta_error err = DELTA_ERROR_INIT;
    size_t count = 0;
    (void)state;

    fill(&pool, 9);
    for (int i = 0; i < COUNT; i++)
        for (int copy = 0; copy < (pool.labels[i] >= OLD ? 3 : 1); copy++, count++) {
            memcpy(features + count * D, pool.features + i * D, D * sizeof *features);
            memcpy(old_logits + count * OLD, pool.old_logits + i * OLD, OLD * sizeof *old_logits);
            labels[count] = pool.labels[i];
        }
    const struct learner_head_data tripled = {count,      D,      OLD, NEW,   features,
                                              old_logits, labels, 0,   false, 0};
    assert_ok(learner_head_fit(one, one_bias, &pool.data, 1e-3, 500, NULL, &err));
    assert_ok(learner_head_fit(many, many_bias, &tripled, 1e-3, 500, NULL, &err));
    for (int k = 0; k < NEW; k++)
        assert_true(fabs(one_bias[k] - many_bias[k]) < 0.45 * log(3));
}

/* Pooled features are positive and differ little; the minimum is the same and as near. */
static void head_fit_does_not_mind_where_features_lie(void **state)
{
    static struct pool pool;
    float here[NEW * D] = {0}, here_bias[NEW] = {0}, there[NEW * D] = {0}, there_bias[NEW] = {0};
    struct learner_lbfgs_report near, far;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    fill(&pool, 4);
    assert_ok(learner_head_fit(here, here_bias, &pool.data, 1e-3, 500, &near, &err));
    for (int i = 0; i < COUNT * D; i++)
        pool.features[i] += 50;
    assert_ok(learner_head_fit(there, there_bias, &pool.data, 1e-3, 500, &far, &err));
    assert_true(far.iterations < near.iterations + 5);
    for (int k = 0; k < NEW; k++) {
        double bias = there_bias[k];
        for (int j = 0; j < D; j++) {
            assert_true(fabs(here[k * D + j] - there[k * D + j]) <
                        1e-3 * (1 + fabs(here[k * D + j])));
            bias += 50 * (double)there[k * D + j];
        }
        assert_true(fabs(bias - here_bias[k]) < 1e-3 * (1 + fabs(bias)));
    }
}

/* Pulled is the same as fitted to features and logits that were moved before. */
static void head_fit_pulls_old_classes(void **state)
{
    static struct pool pool, moved;
    float weight[2][NEW * D] = {{0}}, bias[2][NEW] = {{0}};
    double middle[D] = {0}, level[OLD] = {0}, count = 0;
    const double pull = 0.6;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    fill(&pool, 12);
    fill(&moved, 12);
    for (int i = 0; i < COUNT; i++) {
        count += pool.labels[i] < OLD;
        for (int j = 0; j < D && pool.labels[i] < OLD; j++)
            middle[j] += pool.features[i * D + j];
        for (int c = 0; c < OLD && pool.labels[i] < OLD; c++)
            level[c] += pool.old_logits[i * OLD + c];
    }
    for (int i = 0; i < COUNT; i++) {
        for (int j = 0; j < D && pool.labels[i] < OLD; j++)
            moved.features[i * D + j] =
                (float)(pull * pool.features[i * D + j] + (1 - pull) * middle[j] / count);
        for (int c = 0; c < OLD && pool.labels[i] < OLD; c++)
            moved.old_logits[i * OLD + c] =
                (float)(pull * pool.old_logits[i * OLD + c] + (1 - pull) * level[c] / count);
    }
    pool.data.pull = pull;
    assert_ok(learner_head_fit(weight[0], bias[0], &pool.data, 1e-2, 500, NULL, &err));
    assert_ok(learner_head_fit(weight[1], bias[1], &moved.data, 1e-2, 500, NULL, &err));
    for (int i = 0; i < NEW * D; i++)
        assert_true(fabs(weight[0][i] - weight[1][i]) < 1e-3);
    pool.data.pull = 1;
    assert_ok(learner_head_fit(weight[1], bias[1], &pool.data, 1e-2, 500, NULL, &err));
    assert_true(fabs(bias[0][0] - bias[1][0]) > 1e-2);
}

static double bowl(void *context, const double *x, double *gradient)
{
    double value = 0;
    (void)context;

    for (int i = 0; i < 20; i++) { /* condition number 1e4 */
        const double scale = pow(10, 4.0 * i / 19);
        value += scale * (x[i] - i) * (x[i] - i) / 2;
        gradient[i] = scale * (x[i] - i);
    }
    return value;
}

static double not_a_number(void *context, const double *x, double *gradient)
{
    (void)context;
    gradient[0] = x[0];
    return NAN;
}

static void lbfgs_solves_a_narrow_bowl(void **state)
{
    struct learner_lbfgs_report report;
    struct delta_error err = DELTA_ERROR_INIT;
    double x[20] = {0};
    (void)state;

    assert_ok(learner_lbfgs(x, 20, bowl, NULL, 1000, 1e-6, 0, &report, &err));
    for (int i = 0; i < 20; i++)
        assert_true(fabs(x[i] - i) < 1e-5);
    assert_true(report.iterations < 600); /* steepest descent takes tens of thousands */
    assert_status(learner_lbfgs(x, 1, not_a_number, NULL, 5, 1e-8, 0, NULL, &err), DELTA_NONFINITE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(head_fit_reaches_the_minimum_of_the_definition),
        cmocka_unit_test(head_fit_ignores_how_many_samples_a_class_has),
        cmocka_unit_test(head_fit_does_not_mind_where_features_lie),
        cmocka_unit_test(head_fit_pulls_old_classes),
        cmocka_unit_test(lbfgs_solves_a_narrow_bowl),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
