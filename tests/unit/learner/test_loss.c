/* Losses against hand-computed values and finite differences. */
#include <math.h>
#include <string.h>

#include "fixture.h"
#include "learner/loss.h"
#include "net_device.h"

#define N 3
#define CLASSES 5
#define OLD 3

static const float logits[N * CLASSES] = {0.3f, -1.2f, 2.0f, 0.1f, -0.4f, 1.5f, 0.2f, -0.7f,
                                          0.9f, 0.0f,  -2.f, 0.6f, 0.6f,  1.1f, -0.3f};
static const float teacher[N * OLD] = {0.1f, -1.0f, 1.5f, 2.0f, 0.3f, -0.2f, -1.0f, 0.5f, 0.4f};
static const float offset[CLASSES] = {-0.5f, -1.0f, -2.3f, -0.1f, -3.0f};

static void ce_of_equal_logits_is_log_classes(void **state)
{
    const float zeros[2 * 4] = {0};
    const int32_t labels[2] = {1, 3};
    float grad[2 * 4];

    (void)state;
    assert_float_equal(learner_loss_ce(zeros, labels, NULL, 2, 4, 3, grad), log(4), 1e-12);
    /* scale / n * (softmax - one hot) */
    assert_float_equal(grad[0], 3.0 / 2 * 0.25, 1e-7);
    assert_float_equal(grad[1], 3.0 / 2 * (0.25 - 1), 1e-7);
}

static void ce_survives_large_logits(void **state)
{
    const float big[3] = {1000, -1000, 999};
    const int32_t label[1] = {2};
    float grad[3];

    (void)state;
    assert_float_equal(learner_loss_ce(big, label, NULL, 1, 3, 1, grad), 1 + log1p(exp(-1)), 1e-9);
    for (int i = 0; i < 3; i++)
        assert_true(isfinite(grad[i]));
}

static void ce_leaves_unlabelled_rows_out(void **state)
{
    const int32_t some[N] = {2, -1, 0}, first[1] = {2}, last[1] = {0};
    float grad[N * CLASSES];

    (void)state;
    memset(grad, 0x7f, sizeof grad);
    const double loss = learner_loss_ce(logits, some, NULL, N, CLASSES, 1, grad);
    const double a = learner_loss_ce(logits, first, NULL, 1, CLASSES, 1, NULL);
    const double b = learner_loss_ce(logits + 2 * CLASSES, last, NULL, 1, CLASSES, 1, NULL);
    assert_float_equal(loss, (a + b) / N, 1e-12);
    for (int k = 0; k < CLASSES; k++)
        assert_true(grad[CLASSES + k] == 0);
}

static double soft_loss(const float *at)
{
    const int32_t labels[N] = {2, 4, 0}, others[N] = {1, 4, 3};
    float grad[N * CLASSES];

    return learner_loss_soft(at, labels, others, 0.7, 0.2, N, CLASSES, 1, grad);
}

static void soft_targets_are_mixtures_of_hard_ones(void **state)
{
    const int32_t labels[N] = {2, 4, 0}, others[N] = {1, 4, 3};
    float grad[N * CLASSES], wanted[N * CLASSES];
    double mixture = 0;

    (void)state;
    assert_float_equal(learner_loss_soft(logits, labels, NULL, 0.3, 0, N, CLASSES, 2, grad),
                       learner_loss_ce(logits, labels, NULL, N, CLASSES, 2, wanted), 1e-12);
    assert_true(fixture_distance(grad, wanted, N * CLASSES) < 1e-6);
    for (int32_t k = 0; k < CLASSES; k++) {
        const int32_t all[N] = {k, k, k};
        mixture += 0.2 / CLASSES * learner_loss_ce(logits, all, NULL, N, CLASSES, 1, NULL);
    }
    mixture += 0.8 * 0.7 * learner_loss_ce(logits, labels, NULL, N, CLASSES, 1, NULL);
    mixture += 0.8 * 0.3 * learner_loss_ce(logits, others, NULL, N, CLASSES, 1, NULL);
    assert_float_equal(soft_loss(logits), mixture, 1e-12);
    learner_loss_soft(logits, labels, others, 0.7, 0.2, N, CLASSES, 1, grad);
    for (int i = 0; i < N * CLASSES; i++) {
        float up[N * CLASSES], down[N * CLASSES];
        memcpy(up, logits, sizeof up);
        memcpy(down, logits, sizeof down);
        up[i] += 1e-2f;
        down[i] -= 1e-2f;
        const double slope = (soft_loss(up) - soft_loss(down)) / ((double)up[i] - down[i]);
        assert_float_equal(grad[i], slope, 1e-4);
    }
}

static void offset_adds_to_logits(void **state)
{
    const int32_t labels[N] = {2, 4, 0};
    float moved[N * CLASSES], grad[N * CLASSES], wanted[N * CLASSES];

    (void)state;
    for (int i = 0; i < N * CLASSES; i++)
        moved[i] = logits[i] + offset[i % CLASSES];
    assert_float_equal(learner_loss_ce(logits, labels, offset, N, CLASSES, 1, grad),
                       learner_loss_ce(moved, labels, NULL, N, CLASSES, 1, wanted), 1e-6);
    assert_true(fixture_distance(grad, wanted, N * CLASSES) < 1e-6);
}

static const float level[CLASSES] = {0.4f, 0.1f, -0.3f, -1.5f, 0.7f};
static const struct learner_seen seen = {3, 0.6, level};

/* Rows of labels 2 and 0 are moved towards the level, that of label 4 is not; their gradient is
 * that of the moved logits by the chain rule. */
static void seen_images_lie_nearer_to_the_level(void **state)
{
    const int32_t labels[N] = {2, 4, 0};
    float moved[N * CLASSES], grad[N * CLASSES], wanted[N * CLASSES];

    (void)state;
    for (int i = 0; i < N * CLASSES; i++) {
        const bool known = labels[i / CLASSES] < 3;
        moved[i] = known ? 0.6f * logits[i] + 0.4f * level[i % CLASSES] : logits[i];
    }
    const double loss = learner_loss_ce(moved, labels, offset, N, CLASSES, 2, wanted);
    for (int i = 0; i < N * CLASSES; i++)
        wanted[i] *= labels[i / CLASSES] < 3 ? 0.6f : 1;
    assert_float_equal(learner_loss_ce_seen(logits, labels, offset, &seen, N, CLASSES, 2, grad),
                       loss, 1e-6);
    assert_true(fixture_distance(grad, wanted, N * CLASSES) < 1e-6);
    const struct learner_seen as_they_are = {3, 1, level};
    learner_loss_ce(logits, labels, offset, N, CLASSES, 2, wanted);
    learner_loss_ce_seen(logits, labels, offset, &as_they_are, N, CLASSES, 2, grad);
    assert_memory_equal(grad, wanted, sizeof grad);
}

static double seen_loss(const float *at)
{
    const int32_t labels[N] = {2, 4, 0};

    return learner_loss_ce_seen(at, labels, offset, &seen, N, CLASSES, 1, NULL);
}

static double ce_loss(const float *at)
{
    const int32_t labels[N] = {2, 4, 0};

    return learner_loss_ce(at, labels, offset, N, CLASSES, 1, NULL);
}

static double kd_loss(const float *at)
{
    return learner_loss_kd(at, teacher, N, CLASSES, OLD, 2.5, 1, NULL);
}

static void check_slopes(double (*loss)(const float *), const float *grad, double scale)
{
    for (int i = 0; i < N * CLASSES; i++) {
        float at[N * CLASSES];
        const float h = 1e-3f;
        memcpy(at, logits, sizeof at);
        at[i] = logits[i] + h;
        const float up = at[i];
        const double above = loss(at);
        at[i] = logits[i] - h;
        const double slope = (above - loss(at)) / ((double)up - at[i]);
        assert_float_equal(grad[i], scale * slope, 1e-6);
    }
}

static void gradients_agree_with_finite_differences(void **state)
{
    const int32_t labels[N] = {2, 4, 0};
    float grad[N * CLASSES];

    (void)state;
    learner_loss_ce(logits, labels, offset, N, CLASSES, 0.7, grad);
    check_slopes(ce_loss, grad, 0.7);
    learner_loss_ce_seen(logits, labels, offset, &seen, N, CLASSES, 0.7, grad);
    check_slopes(seen_loss, grad, 0.7);
    memset(grad, 0, sizeof grad);
    learner_loss_kd(logits, teacher, N, CLASSES, OLD, 2.5, 0.7, grad);
    check_slopes(kd_loss, grad, 0.7);
}

static void kd_adds_and_touches_old_classes_only(void **state)
{
    float once[N * CLASSES] = {0}, grad[N * CLASSES];

    (void)state;
    learner_loss_kd(logits, teacher, N, CLASSES, OLD, 2, 1, once);
    for (int i = 0; i < N * CLASSES; i++)
        grad[i] = 10;
    learner_loss_kd(logits, teacher, N, CLASSES, OLD, 2, 1, grad);
    for (int i = 0; i < N * CLASSES; i++)
        assert_float_equal(grad[i], 10 + (i % CLASSES < OLD ? once[i] : 0), 1e-6);
    for (int i = 0; i < N; i++)
        assert_true(once[i * CLASSES + OLD] == 0);
}

static void kd_of_the_teacher_itself_is_entropy_without_slope(void **state)
{
    float grad[OLD] = {0};
    double entropy = 0, sum = 0;

    (void)state;
    for (int k = 0; k < OLD; k++)
        sum += exp(teacher[k] / 2.0);
    for (int k = 0; k < OLD; k++)
        entropy -= exp(teacher[k] / 2.0) / sum * log(exp(teacher[k] / 2.0) / sum);
    assert_float_equal(learner_loss_kd(teacher, teacher, 1, OLD, OLD, 2, 1, grad), entropy, 1e-9);
    for (int k = 0; k < OLD; k++)
        assert_float_equal(grad[k], 0, 1e-7);
}

/* A loss with blocks is that of each block's outputs cut out, added up; an output in no block has
 * the cross-entropy's slope alone. */
static void blocks_have_a_softmax_each(void **state)
{
    static const struct learner_outputs blocks[] = {{1, OLD - 1}, {0, 1}};
    const int32_t labels[N] = {2, 4, 0};
    const struct learner_loss loss = {.labels = labels,
                                      .offset = offset,
                                      .scale = 0.7,
                                      .teacher = teacher,
                                      .old = OLD,
                                      .temperature = 2.5,
                                      .kd_scale = 3,
                                      .blocks = blocks,
                                      .block_count = 1};
    float grad[N * CLASSES], wanted[N * CLASSES], part[N * CLASSES], cut[N * OLD];
    float slope[N * OLD] = {0};
    struct learner_loss_sum sum, both;

    (void)state;
    for (int i = 0; i < N; i++) {
        memcpy(cut + i * (OLD - 1), teacher + i * OLD + 1, (OLD - 1) * sizeof *cut);
        memcpy(part + i * (OLD - 1), logits + i * CLASSES + 1, (OLD - 1) * sizeof *part);
    }
    const double kd = learner_loss_kd(part, cut, N, OLD - 1, OLD - 1, 2.5, 3, slope);
    const double ce = learner_loss_ce(logits, labels, offset, N, CLASSES, 0.7, wanted);
    for (int i = 0; i < N; i++)
        for (int k = 1; k < OLD; k++)
            wanted[i * CLASSES + k] += slope[i * (OLD - 1) + k - 1];
    learner_loss_here(&loss, logits, N, CLASSES, grad, &sum);
    assert_float_equal(sum.loss, ce, 1e-12);
    assert_float_equal(sum.kd, kd, 1e-12);
    assert_true(fixture_distance(grad, wanted, N * CLASSES) < 1e-6);
    /* one output alone is always certain: nothing to learn */
    struct learner_loss two = loss;
    two.block_count = 2;
    learner_loss_here(&two, logits, N, CLASSES, part, &both);
    assert_float_equal(both.kd, kd, 1e-12);
    assert_true(fixture_distance(part, grad, N * CLASSES) < 1e-6);
    two.blocks = NULL; /* all in one */
    learner_loss_here(&two, logits, N, CLASSES, part, &both);
    assert_true(fabs(both.kd - kd) > 1e-3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ce_of_equal_logits_is_log_classes),
        cmocka_unit_test(ce_survives_large_logits),
        cmocka_unit_test(ce_leaves_unlabelled_rows_out),
        cmocka_unit_test(soft_targets_are_mixtures_of_hard_ones),
        cmocka_unit_test(offset_adds_to_logits),
        cmocka_unit_test(seen_images_lie_nearer_to_the_level),
        cmocka_unit_test(gradients_agree_with_finite_differences),
        cmocka_unit_test(kd_adds_and_touches_old_classes_only),
        cmocka_unit_test(kd_of_the_teacher_itself_is_entropy_without_slope),
        cmocka_unit_test(blocks_have_a_softmax_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
