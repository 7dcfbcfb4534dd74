#include "harness.h"

#include <math.h>

#include "rng.h"

/* First outputs of the published xoshiro256** from state 1, 2, 3, 4. */
static void rng_matches_the_published_generator(void **state)
{
    struct learner_rng rng = {{1, 2, 3, 4}};
    (void)state;

    assert_int_equal(learner_rng_next(&rng), 11520u);
    assert_int_equal(learner_rng_next(&rng), 0u);
    assert_int_equal(learner_rng_next(&rng), 1509978240u);
    assert_int_equal(learner_rng_next(&rng), 1215971899390074240u);
}

static void rng_streams_differ_and_seeds_repeat(void **state)
{
    struct learner_rng a, b, c;
    (void)state;

    learner_rng_init(&a, 7, 0);
    learner_rng_init(&b, 7, 0);
    learner_rng_init(&c, 7, 1);
    for (int i = 0; i < 100; i++) {
        const uint64_t value = learner_rng_next(&a);
        assert_true(value == learner_rng_next(&b));
        assert_true(value != learner_rng_next(&c));
    }
}

static void rng_distributions_have_their_moments(void **state)
{
    struct learner_rng rng;
    double sum = 0, squares = 0;
    unsigned hist[7] = {0};
    (void)state;

    learner_rng_init(&rng, 1, 0);
    for (int i = 0; i < 70000; i++) {
        const double x = learner_rng_normal(&rng);
        const double u = learner_rng_between(&rng, 2, 3);
        assert_true(u >= 2 && u < 3);
        sum += x;
        squares += x * x;
        hist[learner_rng_below(&rng, 7)]++;
    }
    assert_true(fabs(sum / 70000) < 0.02);
    assert_true(fabs(squares / 70000 - 1) < 0.03);
    for (int k = 0; k < 7; k++)
        assert_in_range(hist[k], 9600, 10400);
}

static void rng_shuffle_is_a_permutation(void **state)
{
    struct learner_rng rng;
    uint32_t items[50];
    unsigned seen = 0, moved = 0;
    (void)state;

    learner_rng_init(&rng, 3, 0);
    for (uint32_t i = 0; i < 50; i++)
        items[i] = i;
    learner_rng_shuffle(&rng, items, 50);
    for (uint32_t i = 0; i < 50; i++) {
        seen += items[i];
        moved += items[i] != i;
    }
    assert_int_equal(seen, 49 * 50 / 2);
    assert_true(moved > 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rng_matches_the_published_generator),
        cmocka_unit_test(rng_streams_differ_and_seeds_repeat),
        cmocka_unit_test(rng_distributions_have_their_moments),
        cmocka_unit_test(rng_shuffle_is_a_permutation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
