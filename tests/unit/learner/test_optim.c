/* SGD by hand formulas, frozen elements bit by bit, and the learning-rate schedule. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "learner/optim.h"
#include "schedule.h"

#define CLASSES 4

struct world {
    struct delta_model model;
    struct learner_net *net;
};

static void world_init(struct world *world)
{
    memset(world, 0, sizeof *world);
    fixture_model(&world->model, 3, 8, CLASSES, 3);
    world->net = fixture_net(&world->model, "ref", 2, 1, true);
}

static void world_release(struct world *world)
{
    learner_net_free(world->net);
    delta_model_release(&world->model);
}

static void fill_gradients(struct world *world, uint64_t seed)
{
    for (size_t i = 0; i < learner_net_param_count(world->net); i++) {
        struct learner_param *param = learner_net_param(world->net, i);
        if (param->grad)
            fixture_fill(param->grad, param->count, seed + i);
    }
}

static void check_formula(bool nesterov)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const struct learner_sgd_options options = {0.9, 0.01, nesterov};
    const double rates[3] = {0.1, 0.05, 0.2};
    struct learner_sgd *sgd = NULL;
    struct world world;

    world_init(&world);
    assert_ok(learner_sgd_new(&sgd, world.net, NULL, &options, &err));
    struct learner_param *weight = learner_net_find(world.net, "layer1.0.conv1.weight");
    struct learner_param *gamma = learner_net_find(world.net, "bn1.weight");
    struct learner_param *mean = learner_net_find(world.net, "bn1.running_mean");
    assert_true(weight->decays && !gamma->decays && !mean->grad);
    const float mean_before = mean->data[0];
    double w = weight->data[5], g = gamma->data[1], v_w = 0, v_g = 0;
    for (int step = 0; step < 3; step++) {
        fill_gradients(&world, 40 + (uint64_t)step);
        const double d_w = weight->grad[5] + 0.01 * w, d_g = gamma->grad[1];
        v_w = 0.9 * v_w + d_w;
        v_g = 0.9 * v_g + d_g;
        w -= rates[step] * (nesterov ? d_w + 0.9 * v_w : v_w);
        g -= rates[step] * (nesterov ? d_g + 0.9 * v_g : v_g);
        learner_sgd_step(sgd, rates[step]);
        assert_float_equal(weight->data[5], w, 1e-5);
        assert_float_equal(gamma->data[1], g, 1e-5);
    }
    assert_true(mean->data[0] == mean_before);
    learner_sgd_free(sgd);
    world_release(&world);
}

static void momentum_follows_the_formula(void **state)
{
    (void)state;
    check_formula(false);
}

static void nesterov_follows_the_formula(void **state)
{
    (void)state;
    check_formula(true);
}

/* Every freeze mode, momentum and weight decay on. */
static void frozen_elements_keep_their_bits(void **state)
{
    static const char *const all = "layer1.0.conv1.weight", *const by_row = "conv1.weight",
                             *const by_weight = "layer2.0.conv2.weight",
                             *const free_one = "fc.bias";
    struct delta_error err = DELTA_ERROR_INIT;
    const struct learner_sgd_options options = {0.9, 0.1, true};
    uint8_t row_bits[1] = {0x5}, weight_bits[64];
    struct learner_sgd *sgd = NULL;
    struct world world;

    (void)state;
    world_init(&world);
    memset(weight_bits, 0xa7, sizeof weight_bits);
    struct delta_tensor *tensor = delta_model_find(&world.model, by_weight);
    assert_int_equal(tensor->count, 6 * 6 * 9);
    weight_bits[tensor->count / 8] &= (uint8_t)((1u << tensor->count % 8) - 1);
    assert_ok(
        delta_tensor_set_freeze(tensor, DELTA_FREEZE_WEIGHTS, weight_bits, tensor->count, &err));
    assert_ok(delta_tensor_set_freeze(delta_model_find(&world.model, all), DELTA_FREEZE_ALL, NULL,
                                      0, &err));
    assert_ok(delta_tensor_set_freeze(delta_model_find(&world.model, by_row), DELTA_FREEZE_ROWS,
                                      row_bits, 3, &err));
    assert_ok(learner_sgd_new(&sgd, world.net, &world.model, &options, &err));
    for (int step = 0; step < 4; step++) {
        fill_gradients(&world, 70 + (uint64_t)step);
        learner_sgd_step(sgd, 0.1);
    }
    size_t frozen = 0, live = 0;
    for (size_t i = 0; i < learner_net_param_count(world.net); i++) {
        const struct learner_param *param = learner_net_param(world.net, i);
        const struct delta_tensor *before = delta_model_find(&world.model, param->name);
        for (size_t e = 0; param->grad && e < param->count; e++) {
            const bool same = !memcmp(&param->data[e], &before->data[e], sizeof(float));
            if (delta_tensor_is_frozen(before, e) != same)
                fail_msg("'%s' element %zu: frozen %d, unchanged %d", param->name, e, !same, same);
            frozen += same;
            live += !same;
        }
    }
    assert_int_equal(frozen, 3 * 3 * 9 + 2 * 27 + 40 * 5 + 3);
    assert_true(live > 1000);
    assert_false(delta_tensor_is_frozen(delta_model_find(&world.model, free_one), 0));
    learner_sgd_free(sgd);
    world_release(&world);
}

/* A device shares the elements among its threads, some of them in the middle of a parameter. */
static void threads_do_not_change_a_bit(void **state)
{
    static const int threads[] = {1, 2, 3, 7};
    struct delta_error err = DELTA_ERROR_INIT;
    const struct learner_sgd_options options = {0.9, 0.1, true};
    uint8_t row_bits[1] = {0x5};
    float *first = NULL;
    size_t total = 0;

    (void)state;
    for (int t = 0; t < 4; t++) {
        struct learner_sgd *sgd = NULL;
        struct world world;
        world_init(&world);
        assert_ok(delta_tensor_set_freeze(delta_model_find(&world.model, "conv1.weight"),
                                          DELTA_FREEZE_ROWS, row_bits, 3, &err));
        learner_net_free(world.net);
        world.net = fixture_net(&world.model, "blas", 2, threads[t], true);
        assert_ok(learner_sgd_new(&sgd, world.net, &world.model, &options, &err));
        for (int step = 0; step < 3; step++) {
            fill_gradients(&world, 20 + (uint64_t)step);
            learner_sgd_step(sgd, 0.1);
        }
        size_t at = 0;
        for (size_t i = 0; i < learner_net_param_count(world.net); i++)
            at += learner_net_param(world.net, i)->count;
        first = first ? first : calloc(at, sizeof *first);
        assert_non_null(first);
        at = 0;
        for (size_t i = 0; i < learner_net_param_count(world.net); i++) {
            const struct learner_param *param = learner_net_param(world.net, i);
            if (t)
                assert_memory_equal(first + at, param->data, param->count * sizeof(float));
            else
                memcpy(first + at, param->data, param->count * sizeof(float));
            at += param->count;
        }
        total = at;
        learner_sgd_free(sgd);
        world_release(&world);
    }
    assert_true(total > 1000);
    free(first);
}

/* A head that grew: the plan of its old rows applies, the new rows are live. */
static void rows_beyond_the_bitmap_are_live(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const struct learner_sgd_options options = {0.9, 0.1, false};
    const struct delta_class_id fresh = {"fresh"};
    const uint8_t bits[1] = {0xf};
    struct learner_sgd *sgd = NULL;
    struct world world;

    (void)state;
    world_init(&world);
    assert_ok(delta_tensor_set_freeze(delta_model_find(&world.model, "fc.weight"),
                                      DELTA_FREEZE_ROWS, bits, CLASSES, &err));
    assert_ok(delta_model_grow_head(&world.model, &fresh, 1, &err));
    learner_net_free(world.net);
    world.net = fixture_net(&world.model, "ref", 2, 1, true);
    assert_ok(learner_sgd_new(&sgd, world.net, &world.model, &options, &err));
    fill_gradients(&world, 9);
    learner_sgd_step(sgd, 0.1);
    const struct learner_param *param = learner_net_find(world.net, "fc.weight");
    const struct delta_tensor *before = delta_model_find(&world.model, "fc.weight");
    const size_t d = learner_net_feature_count(world.net);
    assert_memory_equal(param->data, before->data, CLASSES * d * sizeof(float));
    for (size_t i = CLASSES * d; i < param->count; i++)
        assert_true(param->data[i] != before->data[i]);
    learner_sgd_free(sgd);
    world_release(&world);
}

static void plan_of_another_size_is_refused(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const struct learner_sgd_options options = {0.9, 0, false};
    struct delta_model other = DELTA_MODEL_INIT;
    const uint8_t bits[2] = {1, 0};
    struct learner_sgd *sgd = NULL;
    struct world world;

    (void)state;
    world_init(&world);
    fixture_model(&other, 4, 8, CLASSES, 3);
    assert_ok(delta_tensor_set_freeze(delta_model_find(&other, "bn1.weight"), DELTA_FREEZE_ROWS,
                                      bits, 4, &err));
    assert_status(learner_sgd_new(&sgd, world.net, &other, &options, &err), DELTA_MISMATCH);
    assert_non_null(strstr(err.text, "bn1.weight"));
    delta_model_release(&other);
    world_release(&world);
}

static void schedule_warms_up_and_ends_at_zero(void **state)
{
    (void)state;
    assert_float_equal(learner_schedule_cosine(0.4, 0, 100, 10), 0.04, 1e-12);
    assert_float_equal(learner_schedule_cosine(0.4, 9, 100, 10), 0.4, 1e-12);
    assert_float_equal(learner_schedule_cosine(0.4, 10, 100, 10), 0.4, 1e-12);
    assert_float_equal(learner_schedule_cosine(0.4, 55, 100, 10), 0.2, 1e-12);
    assert_true(learner_schedule_cosine(0.4, 99, 100, 10) < 0.001);
    assert_true(learner_schedule_cosine(0.4, 99, 100, 10) > 0);
    assert_float_equal(learner_schedule_cosine(0.4, 100, 100, 10), 0, 0);
    assert_float_equal(learner_schedule_cosine(0.4, 0, 3, 0), 0.4, 1e-12);
}

static void steps_are_fitted_to_the_time(void **state)
{
    (void)state;
    assert_int_equal(learner_schedule_fit(1000, 10, 0.5, 100), 210);
    assert_int_equal(learner_schedule_fit(1000, 10, 0.5, 1e6), 1000);
    assert_int_equal(learner_schedule_fit(1000, 10, 0.5, 0.4), 10);
    assert_int_equal(learner_schedule_fit(1000, 10, 0.5, 0), 10);
    assert_int_equal(learner_schedule_fit(1000, 10, 0.5, -5), 10);
    assert_int_equal(learner_schedule_fit(1000, 10, 0, 5), 1000);
    assert_int_equal(learner_schedule_fit(1000, 1000, 0.5, 5), 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_fitted_to_the_time),
        cmocka_unit_test(momentum_follows_the_formula),
        cmocka_unit_test(nesterov_follows_the_formula),
        cmocka_unit_test(frozen_elements_keep_their_bits),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(rows_beyond_the_bitmap_are_live),
        cmocka_unit_test(plan_of_another_size_is_refused),
        cmocka_unit_test(schedule_warms_up_and_ends_at_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
