#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "delta_fixture.h"

static void model_round_trip_keeps_every_bit(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model, back;
    struct delta_digest name, read;
    struct delta_buf file;

    (void)state;
    fixture_model(&model);
    model.tensors[0].data[5] = -0.0f;
    memset(model.parent.bytes, 7, 32);
    assert_ok(delta_model_digest(&model, &name, &err));
    assert_ok(delta_model_encode(&model, &file, &err));
    assert_ok(delta_model_decode(&back, delta_buf_bytes(&file), &read, &err));
    assert_memory_equal(name.bytes, read.bytes, 32);
    fixture_assert_same(&model, &back);
    assert_true(signbit(delta_model_find(&back, "conv1.weight")->data[5]));
    assert_int_equal((uintptr_t)back.tensors[0].data % 64, 0);
    delta_buf_release(&file);
    delta_model_release(&model);
    delta_model_release(&back);
}

static void model_digest_ignores_tensor_order(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model a, b;
    struct delta_buf x, y;

    (void)state;
    fixture_model(&a);
    fixture_model_shuffled(&b);
    assert_ok(delta_model_encode(&a, &x, &err));
    assert_ok(delta_model_encode(&b, &y, &err));
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.data, y.data, x.len);
    delta_buf_release(&x);
    delta_buf_release(&y);
    delta_model_release(&a);
    delta_model_release(&b);
}

/* Each change makes another version. */
static void model_digest_binds_everything(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest names[12];
    size_t count = 0;

    (void)state;
    for (int change = 0; change < 11; change++) {
        struct delta_model m;
        fixture_model(&m);
        struct delta_tensor *conv = delta_model_find(&m, "conv1.weight");
        switch (change) {
        case 1:
            m.parent.bytes[0] = 1;
            break;
        case 2:
            m.arch.width = 32;
            break;
        case 3:
            m.arch.mean[1] = 0.5;
            break;
        case 4:
            ((uint8_t *)conv->data)[0] ^= 1;
            break;
        case 5:
            conv->freeze.bits[0] ^= 2;
            break;
        case 6:
            assert_ok(delta_tensor_set_freeze(conv, DELTA_FREEZE_LIVE, NULL, 0, &err));
            break;
        case 7:
            memcpy(m.classes[1].text, "fly", 4);
            break;
        case 8:
            m.class_count = 2;
            break;
        case 9:
            conv->name[4] = '2';
            break;
        case 10:
            conv->shape[2] = 9;
            conv->shape[3] = 1;
            break;
        default:
            break;
        }
        assert_ok(delta_model_digest(&m, &names[count], &err));
        for (size_t i = 0; i < count; i++)
            assert_false(delta_digest_equal(&names[i], &names[count]));
        count++;
        delta_model_release(&m);
    }
}

static void model_copy_is_deep(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model a, b;

    (void)state;
    fixture_model(&a);
    assert_ok(delta_model_copy(&b, &a, &err));
    fixture_assert_same(&a, &b);
    b.tensors[0].data[0] += 1;
    b.tensors[0].freeze.bits[0] ^= 1;
    assert_true(a.tensors[0].data[0] != b.tensors[0].data[0]);
    delta_model_release(&a);
    delta_model_release(&b);
}

static void model_head_grows_and_old_rows_stay(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_class_id ids[2];
    struct delta_tensor *w, *b;
    struct delta_model m;
    float old[12];

    (void)state;
    fixture_model(&m);
    assert_ok(delta_model_head(&m, &w, &b, &err));
    memcpy(old, w->data, sizeof old);
    assert_ok(delta_tensor_set_freeze(w, DELTA_FREEZE_ALL, NULL, 0, &err));
    assert_ok(delta_class_id_make(&ids[0], "dog", &err));
    assert_ok(delta_class_id_make(&ids[1], "Elk", &err));
    assert_ok(delta_model_grow_head(&m, ids, 2, &err));
    assert_ok(delta_model_head(&m, &w, &b, &err));
    assert_int_equal(w->shape[0], 5);
    assert_int_equal(b->shape[0], 5);
    assert_memory_equal(old, w->data, sizeof old);
    for (size_t i = 12; i < 20; i++) {
        assert_true(w->data[i] == 0);
        assert_false(delta_tensor_is_frozen(w, i)); /* grown rows are live */
    }
    assert_true(delta_tensor_is_frozen(w, 11));
    assert_int_equal(delta_tensor_live_count(w), 8);
    assert_int_equal(delta_model_class_index(&m, "elk"), 4);
    assert_int_equal(delta_model_class_index(&m, "elf"), -1);
    assert_status(delta_model_grow_head(&m, ids, 1, &err), DELTA_EXISTS);
    assert_int_equal(m.class_count, 5);
    assert_ok(delta_model_head(&m, &w, &b, &err)); /* a refused growth changes nothing */
    delta_model_release(&m);
}

static void model_live_counts(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model m;

    (void)state;
    fixture_model(&m);
    assert_int_equal(delta_tensor_live_count(delta_model_find(&m, "conv1.weight")), 54);
    assert_int_equal(delta_tensor_live_count(delta_model_find(&m, "bn1.weight")), 0);
    assert_int_equal(delta_tensor_live_count(delta_model_find(&m, "layer.weight")), 8);
    assert_int_equal(delta_tensor_live_count(delta_model_find(&m, "fc.bias")), 3);
    const struct delta_tensor *layer = delta_model_find(&m, "layer.weight");
    for (size_t i = 0; i < 16; i++)
        assert_int_equal(delta_tensor_is_frozen(layer, i), (0x3cf0 >> i) & 1);
    assert_status(
        delta_tensor_set_freeze(&m.tensors[0], DELTA_FREEZE_ROWS, (uint8_t[]){1}, 5, &err),
        DELTA_FORMAT);
    delta_model_release(&m);
}

static void model_refuses_bad_tensors(void **state)
{
    static const struct {
        const char *name;
        uint32_t rank;
        uint64_t shape[4];
        enum delta_status want;
    } rows[] = {
        {"", 1, {1}, DELTA_LIMIT},
        {"a b", 1, {1}, DELTA_FORMAT},
        {"caf\xc3\xa9", 1, {1}, DELTA_FORMAT},
        {"x", 0, {1}, DELTA_LIMIT},
        {"x", 5, {1}, DELTA_LIMIT},
        {"x", 2, {4, 0}, DELTA_LIMIT},
        {"x", 2, {UINT64_MAX, 2}, DELTA_LIMIT},
        {"x", 4, {1 << 20, 1 << 20, 1 << 20, 1 << 20}, DELTA_LIMIT},
        {"x", 1, {(uint64_t)1 << 40}, DELTA_LIMIT},
        {"fc.bias", 1, {3}, DELTA_EXISTS},
    };
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model m;

    (void)state;
    fixture_model(&m);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_status(
            delta_model_add_tensor(&m, rows[i].name, rows[i].rank, rows[i].shape, NULL, &err),
            rows[i].want);
    assert_int_equal(m.tensor_count, 5);
    delta_model_release(&m);
}

static void model_finds_what_is_not_finite(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model m;

    (void)state;
    fixture_model(&m);
    assert_ok(delta_model_check_finite(&m, &err));
    m.tensors[2].data[3] = NAN;
    assert_status(delta_model_check_finite(&m, &err), DELTA_NONFINITE);
    assert_non_null(strstr(err.text, "layer.weight"));
    assert_non_null(strstr(err.text, "element 3"));
    m.tensors[2].data[3] = -INFINITY;
    assert_status(delta_model_check_finite(&m, &err), DELTA_NONFINITE);
    delta_model_release(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(model_round_trip_keeps_every_bit),
        cmocka_unit_test(model_digest_ignores_tensor_order),
        cmocka_unit_test(model_digest_binds_everything),
        cmocka_unit_test(model_copy_is_deep),
        cmocka_unit_test(model_head_grows_and_old_rows_stay),
        cmocka_unit_test(model_live_counts),
        cmocka_unit_test(model_refuses_bad_tensors),
        cmocka_unit_test(model_finds_what_is_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
