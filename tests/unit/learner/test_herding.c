#include "harness.h"

#include <math.h>
#include <stdbool.h>

#include "herding.h"
#include "rng.h"

#define COUNT 12
#define D 3

/* The greedy choice written down as its definition: for each step try every row left and compute
 * the mean of all unit rows chosen so far from scratch. */
static void brute_force(uint32_t *chosen, size_t wanted, const float features[COUNT][D])
{
    double unit[COUNT][D], mean[D] = {0};
    bool taken[COUNT] = {false};

    for (int i = 0; i < COUNT; i++) {
        const double length =
            sqrt((double)features[i][0] * features[i][0] + (double)features[i][1] * features[i][1] +
                 (double)features[i][2] * features[i][2]);
        for (int j = 0; j < D; j++) {
            unit[i][j] = features[i][j] / length;
            mean[j] += unit[i][j] / COUNT;
        }
    }
    for (size_t n = 0; n < wanted; n++) {
        double best = 1e9;
        for (uint32_t i = 0; i < COUNT; i++) {
            double away = 0;
            if (taken[i])
                continue;
            for (int j = 0; j < D; j++) {
                double sum = unit[i][j];
                for (size_t k = 0; k < n; k++)
                    sum += unit[chosen[k]][j];
                away += (mean[j] - sum / (double)(n + 1)) * (mean[j] - sum / (double)(n + 1));
            }
            if (away < best - 1e-15) {
                best = away;
                chosen[n] = i;
            }
        }
        taken[chosen[n]] = true;
    }
}

static void herding_equals_its_definition(void **state)
{
    struct learner_rng rng;
    (void)state;

    learner_rng_init(&rng, 5, 0);
    for (int round = 0; round < 50; round++) {
        struct delta_error err = DELTA_ERROR_INIT;
        float features[COUNT][D];
        uint32_t chosen[COUNT], want[COUNT];
        for (int i = 0; i < COUNT; i++)
            for (int j = 0; j < D; j++)
                features[i][j] = (float)learner_rng_normal(&rng) + 1;
        assert_ok(learner_herd(chosen, 7, features[0], COUNT, D, &err));
        brute_force(want, 7, (const float(*)[D])features);
        assert_memory_equal(chosen, want, 7 * sizeof *want);
    }
}

static void herding_prefixes_agree_and_rows_are_distinct(void **state)
{
    struct learner_rng rng;
    struct delta_error err = DELTA_ERROR_INIT;
    float features[COUNT * D];
    uint32_t all[COUNT], some[4];
    bool seen[COUNT] = {false};
    (void)state;

    learner_rng_init(&rng, 6, 0);
    for (int i = 0; i < COUNT * D; i++)
        features[i] = (float)learner_rng_uniform(&rng);
    assert_ok(learner_herd(all, COUNT, features, COUNT, D, &err));
    assert_ok(learner_herd(some, 4, features, COUNT, D, &err));
    assert_memory_equal(all, some, sizeof some);
    for (int i = 0; i < COUNT; i++) {
        assert_false(seen[all[i]]);
        seen[all[i]] = true;
    }
}

/* Dead features (all zero) and ties must not loop or choose twice. */
static void herding_takes_degenerate_rows(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const float features[4 * 2] = {0};
    const float same[3 * 2] = {1, 1, 1, 1, 1, 1};
    uint32_t chosen[4];
    (void)state;

    assert_ok(learner_herd(chosen, 4, features, 4, 2, &err));
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(chosen[i], i);
    assert_ok(learner_herd(chosen, 2, same, 3, 2, &err));
    assert_int_equal(chosen[0], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(herding_equals_its_definition),
        cmocka_unit_test(herding_prefixes_agree_and_rows_are_distinct),
        cmocka_unit_test(herding_takes_degenerate_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
