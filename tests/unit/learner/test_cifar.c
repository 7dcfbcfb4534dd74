#include "harness.h"

#include <stdio.h>
#include <string.h>

#include "delta/file.h"
#include "learner/samples.h"

#define RECORD 3074

static struct harness_scratch scratch;

static int make_scratch(void **state)
{
    (void)state;
    harness_scratch_make(&scratch);
    return 0;
}

static int remove_scratch(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

static void write_bytes(const char *name, const void *data, size_t len)
{
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(delta_file_write(harness_path(&scratch, name), delta_bytes(data, len), 0644, &err));
}

static void write_names(unsigned count)
{
    char text[2000] = "";
    size_t len = 0;

    for (unsigned i = 0; i < count; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "name %u\n", i);
    write_bytes("fine_label_names.txt", text, len);
}

/* Two records with known bytes; `fine` is the second one's label. */
static void write_records(uint8_t coarse, uint8_t fine, size_t bytes)
{
    static uint8_t records[3 * RECORD];

    memset(records, 0, sizeof records);
    records[0] = 3;
    records[1] = 42;
    records[2] = 200;        /* red of the first pixel */
    records[2 + 1024] = 100; /* green */
    records[2 + 3071] = 7;   /* blue of the last */
    records[RECORD] = coarse;
    records[RECORD + 1] = fine;
    write_bytes("test.bin", records, bytes);
}

static void cifar_records_are_read_as_laid_out(void **state)
{
    struct learner_samples set = LEARNER_SAMPLES_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    write_names(100);
    write_records(19, 99, 2 * RECORD);
    assert_ok(learner_samples_open(&set, scratch.path, LEARNER_SPLIT_TEST, &err));
    assert_int_equal(set.count, 2);
    assert_int_equal(set.class_count, 100);
    assert_string_equal(set.classes[42].text, "name_42");
    assert_int_equal(set.labels[0], 42);
    assert_int_equal(set.labels[1], 99);
    assert_int_equal(set.pixels[0], 200);
    assert_int_equal(set.pixels[1024], 100);
    assert_int_equal(set.pixels[3071], 7);
    learner_samples_release(&set);
}

static void cifar_damaged_files_are_rejected(void **state)
{
    static const struct {
        size_t bytes;
        unsigned coarse, fine, names;
        const char *text;
    } rows[] = {
        {2 * RECORD - 1, 0, 0, 100, "whole number of records"},
        {2 * RECORD + 1, 0, 0, 100, "whole number of records"},
        {0, 0, 0, 100, "whole number of records"},
        {2 * RECORD, 0, 100, 100, "label 0/100"},
        {2 * RECORD, 20, 0, 100, "label 20/0"},
        {2 * RECORD, 0, 255, 100, "label 0/255"},
        {2 * RECORD, 0, 0, 99, "99 label names"},
        {2 * RECORD, 0, 0, 101, "not a list of 100"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct learner_samples set = LEARNER_SAMPLES_INIT;
        struct delta_error err = DELTA_ERROR_INIT;
        write_names(rows[i].names);
        write_records((uint8_t)rows[i].coarse, (uint8_t)rows[i].fine, rows[i].bytes);
        assert_status(learner_samples_open(&set, scratch.path, LEARNER_SPLIT_TEST, &err),
                      DELTA_FORMAT);
        if (!strstr(err.text, rows[i].text))
            fail_msg("row %zu: '%s' lacks '%s'", i, err.text, rows[i].text);
        assert_null(set.pixels);
    }
}

static void cifar_missing_parts_are_named(void **state)
{
    struct learner_samples set = LEARNER_SAMPLES_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    write_records(0, 0, 2 * RECORD);
    assert_ok(delta_file_remove(harness_path(&scratch, "fine_label_names.txt"), &err));
    assert_status(learner_samples_open(&set, scratch.path, LEARNER_SPLIT_TEST, &err),
                  DELTA_NOT_FOUND);
    assert_non_null(strstr(err.text, "fine_label_names.txt"));
    write_names(100);
    assert_status(learner_samples_open(&set, scratch.path, LEARNER_SPLIT_TRAIN, &err),
                  DELTA_NOT_FOUND);
    assert_non_null(strstr(err.text, "train.bin"));
}

static void cifar_real_set_is_balanced(void **state)
{
    const char *dir = harness_shared("data/cifar-100-binary");
    struct learner_samples set = LEARNER_SAMPLES_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    unsigned counts[100] = {0};
    (void)state;

    if (!dir)
        skip();
    assert_ok(learner_samples_open(&set, dir, LEARNER_SPLIT_TEST, &err));
    assert_int_equal(set.count, 10000);
    for (size_t i = 0; i < set.count; i++)
        counts[set.labels[i]]++;
    for (int k = 0; k < 100; k++)
        assert_int_equal(counts[k], 100);
    assert_string_equal(set.classes[0].text, "apple");
    learner_samples_release(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(cifar_records_are_read_as_laid_out, make_scratch,
                                        remove_scratch),
        cmocka_unit_test_setup_teardown(cifar_damaged_files_are_rejected, make_scratch,
                                        remove_scratch),
        cmocka_unit_test_setup_teardown(cifar_missing_parts_are_named, make_scratch,
                                        remove_scratch),
        cmocka_unit_test(cifar_real_set_is_balanced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
