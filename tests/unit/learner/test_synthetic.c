#include "harness.h"

#include <string.h>

#include "delta/hash.h"
#include "learner/samples.h"

static void open_ok(struct learner_samples *set, const char *source, enum learner_split split)
{
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(learner_samples_open(set, source, split, &err));
}

static void synthetic_is_balanced_and_named(void **state)
{
    struct learner_samples set = LEARNER_SAMPLES_INIT;
    size_t counts[64] = {0};
    (void)state;

    open_ok(&set, "synthetic:train=7", LEARNER_SPLIT_TRAIN);
    assert_true(set.class_count >= 24);
    assert_int_equal(set.count, 7 * set.class_count);
    for (size_t i = 0; i < set.count; i++)
        counts[set.labels[i]]++;
    for (size_t k = 0; k < set.class_count; k++) {
        struct delta_error err = DELTA_ERROR_INIT;
        assert_int_equal(counts[k], 7);
        assert_ok(delta_class_id_check(set.classes[k].text, &err));
        for (size_t j = 0; j < k; j++)
            assert_string_not_equal(set.classes[k].text, set.classes[j].text);
    }
    learner_samples_release(&set);
}

static void synthetic_seed_decides_every_byte(void **state)
{
    struct learner_samples a = LEARNER_SAMPLES_INIT, b = a, c = a, d = a;
    (void)state;

    open_ok(&a, "synthetic:classes=5,train=4,test=4,seed=9", LEARNER_SPLIT_TRAIN);
    open_ok(&b, "synthetic:seed=9,test=4,train=4,classes=5", LEARNER_SPLIT_TRAIN);
    open_ok(&c, "synthetic:classes=5,train=4,test=4,seed=10", LEARNER_SPLIT_TRAIN);
    open_ok(&d, "synthetic:classes=5,train=4,test=4,seed=9", LEARNER_SPLIT_TEST);
    const size_t bytes = a.count * 3 * 32 * 32;
    assert_memory_equal(a.pixels, b.pixels, bytes);
    assert_true(memcmp(a.pixels, c.pixels, bytes) != 0);
    /* no image of one split is found in the other */
    for (size_t i = 0; i < a.count; i++)
        for (size_t j = 0; j < d.count; j++)
            assert_true(memcmp(a.pixels + i * 3072, d.pixels + j * 3072, 3072) != 0);
    learner_samples_release(&a);
    learner_samples_release(&b);
    learner_samples_release(&c);
    learner_samples_release(&d);
}

/* More images per class keep the ones that fewer give: a larger set extends a smaller one. */
static void synthetic_larger_set_extends_smaller(void **state)
{
    struct learner_samples small = LEARNER_SAMPLES_INIT, large = LEARNER_SAMPLES_INIT;
    (void)state;

    open_ok(&small, "synthetic:classes=3,train=2", LEARNER_SPLIT_TRAIN);
    open_ok(&large, "synthetic:classes=3,train=5", LEARNER_SPLIT_TRAIN);
    for (size_t k = 0; k < 3; k++)
        assert_memory_equal(small.pixels + k * 2 * 3072, large.pixels + k * 5 * 3072, 2 * 3072);
    learner_samples_release(&small);
    learner_samples_release(&large);
}

static void synthetic_wrong_specs_are_refused(void **state)
{
    static const struct {
        const char *source;
        enum delta_status status;
    } rows[] = {
        {"synthetic:colour=3", DELTA_CONFIG},
        {"synthetic:classes", DELTA_CONFIG},
        {"synthetic:classes=x", DELTA_CONFIG},
        {"synthetic:classes=-3", DELTA_CONFIG},
        {"synthetic:classes=0", DELTA_LIMIT},
        {"synthetic:classes=100000", DELTA_LIMIT},
        {"synthetic:train=1000000", DELTA_LIMIT},
        {"synthetic:classes=3;train=2", DELTA_CONFIG},
        {"syntheti", DELTA_NOT_FOUND},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct learner_samples set = LEARNER_SAMPLES_INIT;
        struct delta_error err = DELTA_ERROR_INIT;
        assert_status(learner_samples_open(&set, rows[i].source, LEARNER_SPLIT_TRAIN, &err),
                      rows[i].status);
        assert_true(err.text[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(synthetic_is_balanced_and_named),
        cmocka_unit_test(synthetic_seed_decides_every_byte),
        cmocka_unit_test(synthetic_larger_set_extends_smaller),
        cmocka_unit_test(synthetic_wrong_specs_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
