#include "harness.h"

#include <math.h>
#include <string.h>

#include "learner/samples.h"

static struct learner_samples synthetic(const char *source)
{
    struct learner_samples set = LEARNER_SAMPLES_INIT;
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(learner_samples_open(&set, source, LEARNER_SPLIT_TRAIN, &err));
    return set;
}

static void samples_select_orders_and_limits(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=4,train=5");
    struct learner_samples part = LEARNER_SAMPLES_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_class_id wanted[2] = {set.classes[3], set.classes[1]};
    (void)state;

    assert_ok(learner_samples_select(&part, &set, wanted, 2, 3, &err));
    assert_int_equal(part.count, 6);
    assert_int_equal(part.class_count, 2);
    assert_string_equal(part.classes[0].text, set.classes[3].text);
    for (size_t i = 0; i < 3; i++) { /* source order: class 1 comes first */
        assert_int_equal(part.labels[i], 1);
        assert_int_equal(part.labels[3 + i], 0);
    }
    assert_memory_equal(part.pixels, set.pixels + 5 * 3072, 3 * 3072);
    struct learner_samples kept = synthetic("synthetic:classes=4,train=5");
    assert_ok(learner_samples_keep(&kept, wanted, 2, 3, &err)); /* in place: the same */
    assert_int_equal(kept.count, part.count);
    assert_int_equal(kept.class_count, 2);
    assert_memory_equal(kept.pixels, part.pixels, 6 * 3072);
    assert_memory_equal(kept.labels, part.labels, 6 * sizeof *part.labels);
    assert_memory_equal(kept.classes, part.classes, 2 * sizeof *part.classes);
    assert_ok(learner_samples_keep(&kept, kept.classes + 1, 1, 0, &err)); /* by its own list */
    assert_int_equal(kept.count, 3);
    assert_string_equal(kept.classes[0].text, set.classes[1].text);
    assert_status(learner_samples_keep(&kept, set.classes, 1, 0, &err), DELTA_NOT_FOUND);
    assert_int_equal(kept.count, 3);
    learner_samples_release(&kept);
    learner_samples_release(&part);
    wanted[1] = (struct delta_class_id){"unheard-of"};
    assert_status(learner_samples_select(&part, &set, wanted, 2, 0, &err), DELTA_NOT_FOUND);
    assert_non_null(strstr(err.text, "'unheard-of'"));
    learner_samples_release(&set);
}

static void samples_append_merges_classes_by_id(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=4,train=2");
    struct learner_samples a = LEARNER_SAMPLES_INIT, b = a, sum = a;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_class_id first[2] = {set.classes[0], set.classes[1]};
    struct delta_class_id second[2] = {set.classes[2], set.classes[1]};
    (void)state;

    assert_ok(learner_samples_select(&a, &set, first, 2, 0, &err));
    assert_ok(learner_samples_select(&b, &set, second, 2, 0, &err));
    assert_ok(learner_samples_append(&sum, &a, &err));
    assert_ok(learner_samples_append(&sum, &b, &err));
    assert_int_equal(sum.count, 8);
    assert_int_equal(sum.class_count, 3);
    for (size_t i = 0; i < 8; i++) {
        const char *id = sum.classes[sum.labels[i]].text;
        const char *want = i < 4 ? a.classes[a.labels[i]].text : b.classes[b.labels[i - 4]].text;
        assert_string_equal(id, want);
    }
    assert_memory_equal(sum.pixels + 4 * 3072, b.pixels, 4 * 3072);
    b.height = 16; /* an image of another size */
    assert_status(learner_samples_append(&sum, &b, &err), DELTA_MISMATCH);
    assert_int_equal(sum.count, 8);
    b.height = 32;
    learner_samples_release(&a);
    learner_samples_release(&b);
    learner_samples_release(&sum);
    learner_samples_release(&set);
}

static void samples_batch_normalises_and_mirrors(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=2,train=2");
    const struct delta_arch arch = {.mean = {0.5, 0.4, 0.3}, .std = {0.2, 0.25, 0.5}};
    const uint32_t index[2] = {3, 1};
    const uint8_t mirror[2] = {0, 1};
    float out[2 * 3072];
    (void)state;

    learner_samples_batch(out, &set, &arch, index, 2, mirror);
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < 32; y++)
            for (int x = 0; x < 32; x++) {
                const int at = c * 1024 + y * 32 + x, flipped = c * 1024 + y * 32 + 31 - x;
                const double want =
                    (set.pixels[3 * 3072 + at] / 255.0 - arch.mean[c]) / arch.std[c];
                const double turned =
                    (set.pixels[3072 + flipped] / 255.0 - arch.mean[c]) / arch.std[c];
                const int last = 3 * (y * 32 + x) + c; /* channels last */
                assert_true(fabs(out[last] - want) < 1e-6);
                assert_true(fabs(out[3072 + last] - turned) < 1e-6);
            }
    learner_samples_release(&set);
}

/* What export writes, the folder source reads back, byte for byte. */
static void samples_export_round_trip(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=3,train=4");
    struct learner_samples back = LEARNER_SAMPLES_INIT, sorted = LEARNER_SAMPLES_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    struct harness_scratch scratch;
    (void)state;

    harness_scratch_make(&scratch);
    assert_ok(learner_samples_export(&set, harness_path(&scratch, "images/test"), &err));
    assert_ok(
        learner_samples_open(&back, harness_path(&scratch, "images"), LEARNER_SPLIT_TEST, &err));
    assert_int_equal(back.count, set.count);
    for (size_t i = 1; i < back.class_count; i++)
        assert_true(strcmp(back.classes[i - 1].text, back.classes[i].text) < 0);
    assert_ok(learner_samples_select(&sorted, &back, set.classes, 3, 0, &err));
    for (size_t i = 0; i < set.count; i++) {
        size_t same = 0;
        for (size_t j = 0; j < sorted.count; j++)
            same += sorted.labels[j] == set.labels[i] &&
                    memcmp(sorted.pixels + j * 3072, set.pixels + i * 3072, 3072) == 0;
        assert_int_equal(same, 1);
    }
    assert_status(
        learner_samples_open(&back, harness_path(&scratch, "images"), LEARNER_SPLIT_TRAIN, &err),
        DELTA_NOT_FOUND);
    learner_samples_release(&sorted);
    learner_samples_release(&back);
    learner_samples_release(&set);
    harness_scratch_remove(&scratch);
}

static void samples_open_sized_resizes_folders_only(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=2,train=2");
    struct learner_samples back = LEARNER_SAMPLES_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    struct harness_scratch scratch;
    (void)state;

    harness_scratch_make(&scratch);
    assert_ok(learner_samples_export(&set, scratch.path, &err));
    assert_ok(learner_samples_open_sized(&back, scratch.path, LEARNER_SPLIT_TRAIN, 48, 40, &err));
    assert_int_equal(back.height, 48);
    assert_int_equal(back.width, 40);
    learner_samples_release(&back);
    assert_status(learner_samples_open_sized(&back, "synthetic", LEARNER_SPLIT_TRAIN, 48, 40, &err),
                  DELTA_MISMATCH);
    learner_samples_release(&set);
    harness_scratch_remove(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_select_orders_and_limits),
        cmocka_unit_test(samples_append_merges_classes_by_id),
        cmocka_unit_test(samples_batch_normalises_and_mirrors),
        cmocka_unit_test(samples_export_round_trip),
        cmocka_unit_test(samples_open_sized_resizes_folders_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
