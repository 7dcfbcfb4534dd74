/* rounding, quant: a lossy delta leads to the rounded model, bit for bit, and error feedback loses
 * nothing for good. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "delta_fixture.h"
#include "quant.h"

/* fc.weight of [rows, cols] with moved values, and small live tensors beside it. */
static void make_pair(struct delta_model *base, struct delta_model *target, size_t cols)
{
    static const char *const names[] = {"a", "b", "c", "d"};
    struct delta_error err = DELTA_ERROR_INIT;
    const uint64_t weight[2] = {4, cols}, bias[1] = {4}, conv[4] = {8, 16, 3, 3};
    struct delta_tensor *t;
    uint64_t state = 7;

    *base = (struct delta_model)DELTA_MODEL_INIT;
    base->arch = (struct delta_arch){.name = "resnet18",
                                     .stem = "cifar",
                                     .width = 16,
                                     .channels = 3,
                                     .height = 32,
                                     .image_width = 32,
                                     .std = {1, 1, 1}};
    assert_ok(delta_model_add_tensor(base, "conv.weight", 4, conv, &t, &err));
    assert_ok(delta_tensor_set_freeze(t, DELTA_FREEZE_ROWS, (const uint8_t[]){0x5a}, 8, &err));
    assert_ok(delta_model_add_tensor(base, "fc.weight", 2, weight, NULL, &err));
    assert_ok(delta_model_add_tensor(base, "fc.bias", 1, bias, NULL, &err));
    for (size_t i = 0; i < 4; i++) {
        struct delta_class_id id;
        assert_ok(delta_class_id_make(&id, names[i], &err));
        assert_ok(delta_model_add_class(base, &id, &err));
    }
    for (size_t i = 0; i < base->tensor_count; i++)
        for (size_t k = 0; k < base->tensors[i].count; k++)
            base->tensors[i].data[k] = fixture_value(&state);
    assert_ok(delta_model_copy(target, base, &err));
    assert_ok(delta_model_digest(base, &target->parent, &err));
    for (size_t i = 0; i < target->tensor_count; i++) {
        struct delta_tensor *tensor = &target->tensors[i];
        for (size_t k = 0; k < tensor->count; k++)
            if (!delta_tensor_is_frozen(tensor, k))
                tensor->data[k] += 0.01f * (float)(i + 1) * fixture_value(&state);
    }
}

static void apply_to(const struct delta_model *base, const struct delta_buf *file,
                     struct delta_model *out, struct delta_reader *reader)
{
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(delta_reader_init(reader, delta_buf_bytes(file), &err));
    assert_ok(delta_apply(base, reader, out, &err));
}

static void lossy_deltas_lead_to_the_rounded_model(void **state)
{
    static const struct {
        enum delta_choice choice;
        double step, worst; /* largest share of the largest move that rounding may take */
        double size;        /* of raw */
    } rows[] = {{DELTA_CHOICE_BF16, 0, 0.8, 0.5},
                {DELTA_CHOICE_INT8, 0, 0.28, 0.2},
                {DELTA_CHOICE_INT8, 1, 0.7, 0.15},
                {DELTA_CHOICE_INT8, 0.02, 0.014, 0.35}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model base, target;

    (void)state;
    make_pair(&base, &target, 700);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct delta_model rounded, back;
        const struct delta_options options = {
            .encoding = rows[i].choice, .step = rows[i].step, .rounded = &rounded};
        struct delta_reader reader;
        struct delta_buf file;
        size_t bytes = 0, values = 0;
        assert_ok(delta_diff(&base, &target, &options, &file, &err));
        apply_to(&base, &file, &back, &reader);
        fixture_assert_same(&back, &rounded);
        for (size_t t = 0; t < target.tensor_count; t++) {
            const struct delta_tensor *want = &target.tensors[t], *got = &back.tensors[t];
            double largest = 0, error = 0;
            for (size_t k = 0; k < want->count; k++) {
                largest = fmax(largest, fabs((double)want->data[k] - base.tensors[t].data[k]));
                error = fmax(error, fabs((double)want->data[k] - got->data[k]));
                if (delta_tensor_is_frozen(want, k))
                    assert_memory_equal(&got->data[k], &base.tensors[t].data[k], 4);
            }
            assert_true(error <= rows[i].worst * largest);
            assert_true(error > 0 || want->count < 10);
        }
        for (size_t e = 0; e < reader.entry_count; e++) {
            bytes += reader.entries[e].bytes;
            values += reader.entries[e].elements;
        }
        assert_true((double)bytes < rows[i].size * 4 * (double)values);
        delta_reader_release(&reader);
        delta_model_release(&back);
        delta_model_release(&rounded);
        delta_buf_release(&file);
    }
    delta_model_release(&base);
    delta_model_release(&target);
}

/* A drift below the rounding's grid gets nowhere without feedback, and everywhere with it. */
static void error_feedback_carries_what_rounding_took(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model start, target;
    double left[2] = {0, 0};

    (void)state;
    make_pair(&start, &target, 64);
    for (int feedback = 0; feedback < 2; feedback++) {
        struct delta_model at, residual = DELTA_MODEL_INIT;
        assert_ok(delta_model_copy(&at, &start, &err));
        for (int round = 0; round < 20; round++) {
            struct delta_model want, rounded;
            struct delta_buf file;
            const struct delta_options options = {.encoding = DELTA_CHOICE_INT8,
                                                  .step = 2.5,
                                                  .residual = feedback ? &residual : NULL,
                                                  .rounded = &rounded};
            assert_ok(delta_model_copy(&want, &at, &err));
            for (size_t t = 0; t < want.tensor_count; t++)
                for (size_t k = 0; k < want.tensors[t].count; k++)
                    want.tensors[t].data[k] +=
                        (target.tensors[t].data[k] - start.tensors[t].data[k]) / 20;
            assert_ok(delta_diff(&at, &want, &options, &file, &err));
            delta_model_release(&at);
            at = rounded;
            delta_model_release(&want);
            delta_buf_release(&file);
        }
        for (size_t t = 0; t < at.tensor_count; t++)
            for (size_t k = 0; k < at.tensors[t].count; k++)
                left[feedback] += fabs((double)at.tensors[t].data[k] - target.tensors[t].data[k]);
        delta_model_release(&residual);
        delta_model_release(&at);
    }
    assert_true(left[1] < 0.3 * left[0]);
    delta_model_release(&start);
    delta_model_release(&target);
}

/* Values and moves at the edges of float32: exact or left exact, never infinite. */
static void lossy_edges(void **state)
{
    static const float edges[] = {0,      -0.0f, 1e-45f, -1e-45f, 1.17e-38f, 3.4e38f, -3.4e38f,
                                  1e-40f, 1e30f, 1,      -1,      65504,     1e-20f};
    enum { E = sizeof edges / sizeof edges[0] };
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model base, target;

    (void)state;
    make_pair(&base, &target, E * E);
    for (size_t k = 0; k < E * E * 4; k++) {
        delta_model_find(&base, "fc.weight")->data[k] = edges[k % E];
        delta_model_find(&target, "fc.weight")->data[k] = edges[k / E % E];
    }
    assert_ok(delta_model_digest(&base, &target.parent, &err));
    for (int choice = DELTA_CHOICE_BF16; choice <= DELTA_CHOICE_INT8; choice++) {
        struct delta_model rounded, back;
        const struct delta_options options = {.encoding = (enum delta_choice)choice,
                                              .rounded = &rounded};
        struct delta_reader reader;
        struct delta_buf file;
        assert_ok(delta_diff(&base, &target, &options, &file, &err));
        assert_ok(delta_model_check_finite(&rounded, &err));
        apply_to(&base, &file, &back, &reader);
        fixture_assert_same(&back, &rounded);
        delta_reader_release(&reader);
        delta_model_release(&back);
        delta_model_release(&rounded);
        delta_buf_release(&file);
    }
    delta_model_release(&base);
    delta_model_release(&target);
}

/* q * scale is a float32 without rounding for every scale there is: one addition is left, so a
 * compiler that fuses it changes nothing. */
static void a_fused_multiply_add_gives_the_same(void **state)
{
    uint64_t seed = 5;

    (void)state;
    for (int exponent = -149; exponent <= 80; exponent++)
        for (int code = 1; code < 256; code += 3)
            for (int q = -127; q <= 127; q += 2) {
                const float scale = ldexpf((float)(8 + (code - 1) % 8), exponent + (code - 1) / 8);
                const float product = (float)q * scale;
                const float base = fixture_value(&seed);
                volatile float sum;
                assert_true((double)product == (double)q * (double)scale);
                sum = base + product;
                assert_true(fmaf((float)q, scale, base) == sum);
            }
}

static enum delta_encoding encoding_of(const struct delta_reader *reader, const char *name)
{
    for (size_t i = 0; i < reader->entry_count; i++)
        if (strcmp(reader->entries[i].name, name) == 0)
            return reader->entries[i].encoding;
    fail_msg("no entry for '%s'", name);
    return DELTA_ENCODING_RAW;
}

/* Root mean square of what rounding took, in root mean square moves. */
static double noise(const struct delta_model *base, const struct delta_model *exact,
                    const struct delta_model *rounded, const char *name)
{
    const struct delta_tensor *from = delta_model_find(base, name);
    const struct delta_tensor *want = delta_model_find(exact, name);
    const struct delta_tensor *got = delta_model_find(rounded, name);
    double error = 0, way = 0;

    for (size_t k = 0; k < want->count; k++) {
        const double start = k < from->count ? (double)from->data[k] : 0;
        error += pow((double)want->data[k] - (double)got->data[k], 2);
        way += pow((double)want->data[k] - start, 2);
    }
    return sqrt(error / way);
}

/* A model that was rounded once needs no word about it: the grid is found again, also after its
 * classifier grew, and one bit beside it is not taken for it. */
static void the_grid_of_a_rounded_target_is_found(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model base, exact, rounded, back;
    struct delta_class_id id;
    struct delta_reader reader;
    struct delta_buf file;
    uint64_t seed = 3;

    (void)state;
    make_pair(&base, &exact, 700);
    assert_ok(delta_class_id_make(&id, "e", &err));
    assert_ok(delta_model_grow_head(&exact, &id, 1, &err));
    for (size_t k = 0; k < 700; k++)
        delta_model_find(&exact, "fc.weight")->data[4 * 700 + k] = fixture_value(&seed);
    assert_ok(delta_model_copy(&rounded, &exact, &err));
    assert_ok(delta_round(&rounded, &base, 0, 0, &err));
    fixture_assert_same(&rounded, &exact);
    assert_ok(delta_round(&rounded, &base, 1, 0.125, &err));
    /* an error uniform from -0.3 to 0.7 of a grid of g is 0.35 g */
    assert_true(fabs(noise(&base, &exact, &rounded, "conv.weight") - 0.35) < 0.06);
    assert_true(fabs(noise(&base, &exact, &rounded, "fc.weight") - 0.044) < 0.01);
    assert_true(noise(&base, &exact, &rounded, "fc.bias") == 0);
    for (int spoiled = 0; spoiled < 2; spoiled++) {
        assert_ok(delta_diff(&base, &rounded, NULL, &file, &err));
        apply_to(&base, &file, &back, &reader);
        fixture_assert_same(&back, &rounded);
        assert_int_equal(encoding_of(&reader, "conv.weight"), DELTA_ENCODING_INT8);
        assert_true((encoding_of(&reader, "fc.weight") == DELTA_ENCODING_INT8) == !spoiled);
        assert_true(encoding_of(&reader, "fc.bias") != DELTA_ENCODING_INT8);
        delta_reader_release(&reader);
        delta_model_release(&back);
        delta_buf_release(&file);
        ((uint32_t *)(void *)delta_model_find(&rounded, "fc.weight")->data)[1500] ^= 1;
    }
    delta_model_release(&base);
    delta_model_release(&exact);
    delta_model_release(&rounded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lossy_deltas_lead_to_the_rounded_model),
        cmocka_unit_test(error_feedback_carries_what_rounding_took),
        cmocka_unit_test(the_grid_of_a_rounded_target_is_found),
        cmocka_unit_test(lossy_edges),
        cmocka_unit_test(a_fused_multiply_add_gives_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
