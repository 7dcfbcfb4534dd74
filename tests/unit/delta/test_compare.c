#include "delta/compare.h"

#include <math.h>
#include <string.h>

#include "delta/npy.h"
#include "delta_fixture.h"

static struct delta_model base, target;
static struct delta_error err;

static int setup(void **state)
{
    (void)state;
    fixture_model(&base);
    assert_ok(delta_model_copy(&target, &base, &err));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    delta_model_release(&base);
    delta_model_release(&target);
    return 0;
}

static const struct delta_change *row(const struct delta_comparison *c, const char *name)
{
    const struct delta_change *change = delta_comparison_find(c, name);

    assert_non_null(change);
    return change;
}

static void compare_same_model_is_all_zero(void **state)
{
    struct delta_comparison c;

    (void)state;
    assert_ok(delta_compare(&base, &target, &c, &err));
    assert_int_equal(c.count, 5);
    assert_true(c.same_arch);
    assert_int_equal(c.classes_kept, 3);
    assert_int_equal(c.changed, 0);
    assert_true(c.norm == 0);
    assert_int_equal(c.elements, 143);
    assert_int_equal(c.live, 77);
    assert_null(delta_comparison_find(&c, "fc"));
    delta_comparison_release(&c);
}

static void compare_counts_norm_largest_and_place(void **state)
{
    struct delta_tensor *conv = delta_model_find(&target, "conv1.weight");
    struct delta_comparison c;

    (void)state;
    conv->data[0] += 6;   /* row 0 is frozen */
    conv->data[107] -= 3; /* row 3 is live */
    const double first = (double)conv->data[0] - (double)base.tensors[0].data[0];
    const double last = (double)conv->data[107] - (double)base.tensors[0].data[107];
    assert_ok(delta_compare(&base, &target, &c, &err));
    const struct delta_change *change = row(&c, "conv1.weight");
    assert_int_equal(change->changed, 2);
    assert_int_equal(change->frozen_changed, 1);
    assert_int_equal(change->live, 54);
    assert_true(change->largest == first);
    assert_int_equal(change->largest_at, 0);
    assert_true(fabs(change->norm - sqrt(first * first + last * last)) < 1e-12);
    assert_int_equal(change->slices, 60);
    assert_true(change->heat[0] > change->heat[59] && change->heat[59] > 0);
    assert_true(change->heat[1] == 0 && change->heat[58] == 0);
    assert_int_equal(change->bins[2 - DELTA_CHANGE_LOW] + change->bins[1 - DELTA_CHANGE_LOW], 2);
    delta_comparison_release(&c);
}

static void compare_sees_signs_of_zero_and_leaves_nan_out(void **state)
{
    struct delta_tensor *bias = delta_model_find(&target, "fc.bias");
    struct delta_comparison c;

    (void)state;
    delta_model_find(&base, "fc.bias")->data[0] = 0.0f;
    bias->data[0] = -0.0f;
    bias->data[1] = NAN;
    assert_ok(delta_compare(&base, &target, &c, &err));
    const struct delta_change *change = row(&c, "fc.bias");
    assert_int_equal(change->changed, 2);
    assert_int_equal(change->nonfinite, 1);
    assert_true(change->norm == 0);
    assert_int_equal(change->bins[0], 1);
    delta_comparison_release(&c);
}

static void compare_heads_by_class(void **state)
{
    struct delta_tensor *weight = delta_model_find(&target, "fc.weight");
    const struct delta_class_id first = target.classes[0];
    struct delta_comparison c;
    float swap[4];

    (void)state;
    /* the same classifier with two outputs exchanged */
    target.classes[0] = target.classes[2];
    target.classes[2] = first;
    memcpy(swap, weight->data, sizeof swap);
    memcpy(weight->data, weight->data + 8, sizeof swap);
    memcpy(weight->data + 8, swap, sizeof swap);
    assert_ok(delta_compare(&base, &target, &c, &err));
    assert_int_equal(c.classes_moved, 2);
    assert_int_equal(row(&c, "fc.weight")->changed, 0);
    assert_true(row(&c, "fc.bias")->changed == 2); /* not exchanged: these rows did change */
    delta_comparison_release(&c);
    memcpy(target.classes[1].text, "yak", 4);
    assert_ok(delta_compare(&base, &target, &c, &err));
    assert_int_equal(c.added_count, 1);
    assert_string_equal(c.added[0].text, "yak");
    assert_int_equal(c.removed_count, 1);
    assert_string_equal(c.removed[0].text, "bee");
    assert_int_equal(row(&c, "fc.weight")->added, 4);
    assert_int_equal(row(&c, "fc.weight")->dropped, 4);
    delta_comparison_release(&c);
}

static void compare_takes_models_of_other_shape(void **state)
{
    const uint64_t one[1] = {7}, other[2] = {4, 5};
    struct delta_comparison c;

    (void)state;
    delta_model_release(&target);
    assert_ok(delta_model_add_tensor(&target, "a", 1, one, NULL, &err));
    assert_ok(delta_model_add_tensor(&target, "layer.weight", 2, other, NULL, &err));
    assert_ok(delta_compare(&base, &target, &c, &err));
    assert_false(c.same_arch);
    assert_int_equal(c.count, 6);
    assert_int_equal(row(&c, "a")->presence, DELTA_IN_TARGET);
    assert_int_equal(row(&c, "a")->added, 7);
    assert_int_equal(row(&c, "fc.bias")->presence, DELTA_IN_BASE);
    assert_int_equal(row(&c, "fc.bias")->dropped, 3);
    assert_int_equal(row(&c, "layer.weight")->presence, DELTA_OTHER_SHAPE);
    delta_comparison_release(&c);
}

/* ---- npy ---- */

static void npy_comes_back(void **state)
{
    struct delta_buf file;
    struct delta_npy npy;

    (void)state;
    for (size_t i = 0; i < base.tensor_count; i++) {
        const struct delta_tensor *t = &base.tensors[i];
        delta_buf_init(&file, 1 << 16);
        assert_ok(delta_npy_write(&file, t, &err));
        assert_int_equal((file.len - 4 * t->count) % 64, 0);
        assert_ok(delta_npy_read(&npy, delta_buf_bytes(&file), &err));
        assert_int_equal(npy.rank, t->rank);
        assert_memory_equal(npy.shape, t->shape, t->rank * sizeof t->shape[0]);
        assert_memory_equal(npy.values.data, t->data, 4 * t->count);
        for (size_t n = 0; n < file.len; n++) /* every half file */
            assert_true(delta_npy_read(&npy, delta_bytes(file.data, n), &err) != DELTA_OK);
        delta_buf_release(&file);
    }
}

static void npy_refuses(void **state)
{
    static const struct {
        const char *dict;
        enum delta_status status;
    } rows[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", DELTA_OK},
        {"{\"shape\": (), \"fortran_order\": False, \"descr\": \"<f4\"}", DELTA_OK},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", DELTA_UNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }", DELTA_UNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1), }", DELTA_UNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", DELTA_TRUNCATED},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }", DELTA_LIMIT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,2), }",
         DELTA_LIMIT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
         DELTA_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", DELTA_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, }", DELTA_FORMAT},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", DELTA_FORMAT},
        {"{'descr': '<f4", DELTA_UNSUPPORTED},
        {"", DELTA_FORMAT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const size_t len = strlen(rows[i].dict);
        uint8_t file[256] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)len, 0};
        struct delta_npy npy;
        memcpy(file + 10, rows[i].dict, len);
        assert_status(delta_npy_read(&npy, delta_bytes(file, 10 + len + 4), &err), rows[i].status);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(compare_same_model_is_all_zero, setup, teardown),
        cmocka_unit_test_setup_teardown(compare_counts_norm_largest_and_place, setup, teardown),
        cmocka_unit_test_setup_teardown(compare_sees_signs_of_zero_and_leaves_nan_out, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(compare_heads_by_class, setup, teardown),
        cmocka_unit_test_setup_teardown(compare_takes_models_of_other_shape, setup, teardown),
        cmocka_unit_test_setup_teardown(npy_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(npy_refuses, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
