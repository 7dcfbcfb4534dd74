#include "fixture.h"

#include <math.h>
#include <string.h>

#include "importance.h"
#include "learner/loss.h"

#define CLASSES 4

static struct delta_model model;
static struct learner_samples data;

static int set_up(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    fixture_model(&model, 2, 32, CLASSES, 3);
    assert_ok(
        learner_samples_open(&data, "synthetic:classes=4,train=21", LEARNER_SPLIT_TRAIN, &err));
    for (size_t k = 0; k < CLASSES; k++)
        model.classes[k] = data.classes[k];
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    delta_model_release(&model);
    learner_samples_release(&data);
    return 0;
}

static size_t frozen_count(const struct delta_tensor *tensor)
{
    size_t count = 0;

    for (size_t i = 0; i < tensor->count; i++)
        count += delta_tensor_is_frozen(tensor, i);
    return count;
}

static void plan_freezes_the_exact_share_of_each_layer(void **state)
{
    static const double ratios[] = {0, 0.1, 0.5, 0.731, 0.9, 1};
    struct learner_budget budget = {.device = "ref", .threads = 1};
    (void)state;

    for (size_t r = 0; r < sizeof ratios / sizeof ratios[0]; r++) {
        struct delta_error err = DELTA_ERROR_INIT;
        size_t layers = 0;
        assert_ok(learner_freeze_plan(&model, &data, ratios[r], &budget, &err));
        for (size_t i = 0; i < model.tensor_count; i++) {
            const struct delta_tensor *tensor = &model.tensors[i];
            size_t want = tensor->count; /* batch norm: parameters and statistics */
            if (strncmp(tensor->name, "fc.", 3) == 0)
                want = 0;
            else if (tensor->rank > 1)
                want = (size_t)llround(ratios[r] * (double)tensor->count);
            if (frozen_count(tensor) != want)
                fail_msg("%s: %zu frozen instead of %zu", tensor->name, frozen_count(tensor), want);
            layers += tensor->rank > 1;
        }
        assert_int_equal(layers, 21); /* 20 convolutions, 1 linear */
    }
}

/* All images as one batch give the same mean gradient as the sum over batches of 64. */
static void importance_is_the_gradient_of_the_mean(void **state)
{
    struct learner_budget budget = {.device = "ref", .threads = 1};
    struct learner_importance *items = NULL;
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_net *net = fixture_net(&model, "ref", data.count, 1, true);
    uint32_t index[84];
    size_t count = 0;
    (void)state;

    assert_int_equal(data.count, 84);
    for (uint32_t i = 0; i < 84; i++)
        index[i] = i;
    learner_samples_batch(learner_net_input(net), &data, &model.arch, index, 84, NULL);
    assert_ok(learner_net_forward(net, 84, LEARNER_TRAIN_EVAL, &err));
    learner_loss_ce(learner_net_logits(net), data.labels, NULL, 84, CLASSES, 1,
                    learner_net_logits_grad(net));
    assert_ok(learner_net_backward(net, 84, &err));
    assert_ok(learner_importance_gradient(&items, &count, &model, &data, &budget, &err));
    assert_true(count > 40);
    for (size_t i = 0; i < count; i++) {
        const struct learner_param *param = learner_net_find(net, items[i].name);
        const double away = fixture_distance(items[i].gradient, param->grad, param->count);
        if (away > 1e-4)
            fail_msg("%s: relative difference %g", items[i].name, away);
    }
    learner_importance_free(items, count);
    learner_net_free(net);
}

/* The frozen elements of a layer are those of largest (g w)^2. */
static void plan_freezes_the_important(void **state)
{
    struct learner_budget budget = {.device = "ref", .threads = 1};
    struct learner_importance *items = NULL;
    struct delta_error err = DELTA_ERROR_INIT;
    size_t count = 0, looked = 0;
    (void)state;

    assert_ok(learner_freeze_plan(&model, &data, 0.6, &budget, &err));
    assert_ok(learner_importance_gradient(&items, &count, &model, &data, &budget, &err));
    for (size_t i = 0; i < count; i++) {
        const struct delta_tensor *tensor = delta_model_find(&model, items[i].name);
        double least_frozen = INFINITY, most_live = 0;
        if (tensor->rank < 2 || strncmp(tensor->name, "fc.", 3) == 0)
            continue;
        for (size_t j = 0; j < tensor->count; j++) {
            const double product = (double)items[i].gradient[j] * tensor->data[j];
            if (delta_tensor_is_frozen(tensor, j))
                least_frozen = fmin(least_frozen, product * product);
            else
                most_live = fmax(most_live, product * product);
        }
        assert_true(least_frozen >= most_live);
        looked++;
    }
    assert_int_equal(looked, 20);
    learner_importance_free(items, count);
}

static void top_bits_break_ties_by_index(void **state)
{
    const double score[10] = {1, 5, 5, 0, 5, 5, 2, 5, 0, 0};
    struct delta_error err = DELTA_ERROR_INIT;
    uint8_t bits[2] = {0, 0};
    (void)state;

    assert_ok(learner_top_bits(bits, score, 10, 3, &err));
    assert_int_equal(bits[0], 1 << 1 | 1 << 2 | 1 << 4);
    assert_int_equal(bits[1], 0);
}

static void plan_without_old_data_is_refused(void **state)
{
    struct learner_samples other = LEARNER_SAMPLES_INIT;
    struct learner_budget budget = {.device = "ref", .threads = 1};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_class_id unknown = {"unheard-of"};
    (void)state;

    assert_ok(learner_samples_select(&other, &data, data.classes, 1, 0, &err));
    other.classes[0] = unknown;
    assert_status(learner_freeze_plan(&model, &other, 0.5, &budget, &err), DELTA_NOT_FOUND);
    assert_status(learner_freeze_plan(&model, &data, 1.5, &budget, &err), DELTA_CONFIG);
    assert_status(learner_freeze_plan(&model, &data, NAN, &budget, &err), DELTA_CONFIG);
    learner_samples_release(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_freezes_the_exact_share_of_each_layer),
        cmocka_unit_test(importance_is_the_gradient_of_the_mean),
        cmocka_unit_test(plan_freezes_the_important),
        cmocka_unit_test(top_bits_break_ties_by_index),
        cmocka_unit_test(plan_without_old_data_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
