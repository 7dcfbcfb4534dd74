#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "codec.h"
#include "delta_fixture.h"
#include "pack.h"

static void name_class(struct delta_model *m, const char *name)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_class_id id;
    struct delta_tensor *w, *b;
    uint64_t state = 99;

    assert_ok(delta_class_id_make(&id, name, &err));
    assert_ok(delta_model_grow_head(m, &id, 1, &err));
    assert_ok(delta_model_head(m, &w, &b, &err));
    for (size_t i = w->count - w->shape[1]; i < w->count; i++)
        w->data[i] = fixture_value(&state);
    b->data[b->count - 1] = fixture_value(&state);
}

/* A child of the fixture: parent set, one class more. */
static void child_of(struct delta_model *out, const struct delta_model *base)
{
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(delta_model_copy(out, base, &err));
    assert_ok(delta_model_digest(base, &out->parent, &err));
}

/* diff, open, apply; what comes out must be the target bit for bit. Keeps the file. */
static void check_exact(const struct delta_model *base, const struct delta_model *target,
                        struct delta_buf *file)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest want, have;
    struct delta_reader reader;
    struct delta_model back;

    assert_ok(delta_diff(base, target, NULL, file, &err));
    assert_ok(delta_reader_init(&reader, delta_buf_bytes(file), &err));
    assert_ok(delta_apply(base, &reader, &back, &err));
    fixture_assert_same(target, &back);
    assert_ok(delta_model_digest(target, &want, &err));
    assert_ok(delta_model_digest(&back, &have, &err));
    assert_memory_equal(want.bytes, have.bytes, 32);
    assert_memory_equal(want.bytes, reader.target.bytes, 32);
    delta_model_release(&back);
    delta_reader_release(&reader);
}

static void diff_of_a_grown_head_carries_the_new_rows_only(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model base, target;
    struct delta_reader reader;
    struct delta_buf file;

    (void)state;
    fixture_model(&base);
    child_of(&target, &base);
    name_class(&target, "dog");
    check_exact(&base, &target, &file);
    assert_ok(delta_reader_init(&reader, delta_buf_bytes(&file), &err));
    assert_int_equal(reader.entry_count, 2);
    assert_string_equal(reader.entries[0].name, "fc.bias");
    assert_string_equal(reader.entries[1].name, "fc.weight");
    for (size_t i = 0; i < 2; i++)
        assert_true(reader.entries[i].grown_only && !reader.entries[i].live_only);
    assert_int_equal(reader.entries[0].elements, 1);
    assert_int_equal(reader.entries[1].elements, 4);
    assert_int_equal(reader.classes_added_count, 1);
    assert_string_equal(reader.classes_added[0].text, "dog");
    assert_false(reader.has_parent);
    assert_int_equal(reader.plan_count, 0);
    delta_reader_release(&reader);
    delta_buf_release(&file);
    delta_model_release(&base);
    delta_model_release(&target);
}

/* The promise of the design: 4(d+1) bytes a class and about a kilobyte around them. */
static void diff_of_a_head_row_is_small(void **state)
{
    static const size_t widths[] = {64, 128, 512};
    const struct delta_provenance made = {.device = "camera-0042.plant-7",
                                          .method = "frostline",
                                          .software = "frostline 0.1.0",
                                          .created_ms = 1750000000000,
                                          .new_samples = 40,
                                          .replay_samples = 1800,
                                          .tested_old = 450,
                                          .old_before = 0.6426,
                                          .old_after = 0.6401,
                                          .tested_new = 8,
                                          .new_recall = 0.875};
    const struct delta_options options = {.provenance = &made};
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        const uint64_t w[2] = {1, widths[i]}, b[1] = {1};
        struct delta_model base = DELTA_MODEL_INIT, target;
        struct delta_class_id id;
        struct delta_reader reader;
        struct delta_buf file;
        fixture_model(&target);
        base.arch = target.arch;
        delta_model_release(&target);
        assert_ok(delta_class_id_make(&id, "old", &err));
        assert_ok(delta_model_add_class(&base, &id, &err));
        assert_ok(delta_model_add_tensor(&base, "fc.weight", 2, w, NULL, &err));
        assert_ok(delta_model_add_tensor(&base, "fc.bias", 1, b, NULL, &err));
        child_of(&target, &base);
        name_class(&target, "pickup_truck");
        assert_ok(delta_diff(&base, &target, &options, &file, &err));
        assert_ok(delta_container_sign(&file, fixture_key(), &err));
        print_message("d = %zu: %zu bytes, of these 4(d+1) = %zu\n", widths[i], file.len,
                      4 * (widths[i] + 1));
        assert_true(file.len <= 4 * (widths[i] + 1) + 1024);
        assert_ok(delta_reader_init(&reader, delta_buf_bytes(&file), &err));
        assert_true(reader.has_provenance);
        assert_string_equal(reader.provenance.device, made.device);
        assert_int_equal(reader.provenance.created_ms, made.created_ms);
        assert_int_equal(reader.provenance.tested_new, 8);
        assert_true(reader.provenance.new_recall == 0.875);
        assert_true(reader.provenance.old_after == 0.6401);
        delta_reader_release(&reader);
        delta_buf_release(&file);
        delta_model_release(&base);
        delta_model_release(&target);
    }
}

static void diff_within_the_plan_carries_live_elements_only(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model base, target;
    struct delta_reader reader;
    struct delta_buf file;
    uint64_t seed = 5;

    (void)state;
    fixture_model(&base);
    child_of(&target, &base);
    struct delta_tensor *conv = delta_model_find(&target, "conv1.weight");
    struct delta_tensor *layer = delta_model_find(&target, "layer.weight");
    for (size_t i = 0; i < conv->count; i++)
        if (!delta_tensor_is_frozen(conv, i))
            conv->data[i] = fixture_value(&seed);
    for (size_t i = 0; i < layer->count; i++)
        if (!delta_tensor_is_frozen(layer, i))
            layer->data[i] += 1;
    check_exact(&base, &target, &file);
    assert_ok(delta_reader_init(&reader, delta_buf_bytes(&file), &err));
    assert_int_equal(reader.entry_count, 2);
    assert_true(reader.entries[0].live_only);
    assert_int_equal(reader.entries[0].elements, 54);
    assert_true(reader.entries[1].live_only);
    assert_int_equal(reader.entries[1].elements, 8);
    delta_reader_release(&reader);
    delta_buf_release(&file);
    /* one frozen element more, and the whole tensor must travel */
    layer->data[4] += 1;
    check_exact(&base, &target, &file);
    assert_ok(delta_reader_init(&reader, delta_buf_bytes(&file), &err));
    assert_false(reader.entries[1].live_only);
    assert_int_equal(reader.entries[1].elements, 16);
    delta_reader_release(&reader);
    delta_buf_release(&file);
    delta_model_release(&base);
    delta_model_release(&target);
}

/* Everything at once, from a base whose tensors lie in another order. */
static void diff_keeps_bits_plans_and_parent(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model base, target;
    struct delta_reader reader;
    struct delta_buf file;

    (void)state;
    fixture_model_shuffled(&base);
    fixture_model(&target);
    delta_model_find(&base, "fc.bias")->data[1] = 0.0f;
    delta_model_find(&target, "fc.bias")->data[1] = -0.0f;
    memset(target.parent.bytes, 0xab, 32);
    name_class(&target, "dog");
    name_class(&target, "elk");
    delta_model_find(&target, "conv1.weight")->freeze.bits[0] = 0x0a;
    assert_ok(delta_tensor_set_freeze(delta_model_find(&target, "fc.weight"), DELTA_FREEZE_ROWS,
                                      (const uint8_t[]){0x1f}, 5, &err));
    assert_ok(delta_tensor_set_freeze(delta_model_find(&target, "layer.weight"), DELTA_FREEZE_ALL,
                                      NULL, 0, &err));
    check_exact(&base, &target, &file);
    assert_ok(delta_reader_init(&reader, delta_buf_bytes(&file), &err));
    assert_true(reader.has_parent);
    assert_int_equal(reader.plan_count, 3);
    assert_true(signbit(delta_model_find(&target, "fc.bias")->data[1]));
    delta_reader_release(&reader);
    delta_buf_release(&file);
    delta_model_release(&base);
    delta_model_release(&target);
}

static void diff_extends_a_frozen_head(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model base, target;
    struct delta_reader reader;
    struct delta_buf file;

    (void)state;
    fixture_model(&base);
    assert_ok(delta_tensor_set_freeze(delta_model_find(&base, "fc.weight"), DELTA_FREEZE_ALL, NULL,
                                      0, &err));
    child_of(&target, &base);
    name_class(&target, "dog");
    check_exact(&base, &target, &file);
    assert_ok(delta_reader_init(&reader, delta_buf_bytes(&file), &err));
    assert_int_equal(reader.plan_count, 0); /* the extension is the same on both sides */
    delta_reader_release(&reader);
    delta_buf_release(&file);
    delta_model_release(&base);
    delta_model_release(&target);
}

static void diff_of_equal_models_is_empty(void **state)
{
    struct delta_model base;
    struct delta_buf file;

    (void)state;
    fixture_model(&base);
    check_exact(&base, &base, &file);
    assert_true(file.len < 512);
    delta_buf_release(&file);
    delta_model_release(&base);
}

/* Gives the head these classes and other rows. */
static void set_classes(struct delta_model *model, const char *const *names, size_t count)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_tensor *weight, *bias;
    uint64_t seed = count;

    assert_ok(delta_model_head(model, &weight, &bias, &err));
    assert_ok(delta_tensor_resize(weight, count, &err));
    assert_ok(delta_tensor_resize(bias, count, &err));
    free(model->classes);
    model->classes = delta_calloc(count, sizeof *model->classes);
    assert_non_null(model->classes);
    model->class_count = count;
    for (size_t i = 0; i < count; i++)
        assert_ok(delta_class_id_make(&model->classes[i], names[i], &err));
    for (size_t i = weight->shape[1]; i < weight->count; i++)
        weight->data[i] = fixture_value(&seed);
}

/* Classes gone, renamed, in another order, every one of them: between any two versions. */
static void diff_leads_between_any_two_class_lists(void **state)
{
    static const char *const lists[][5] = {
        {"apple", "bee", "cat"}, {"apple", "bee"},        {"apple", "dog", "cat", "elk", "fox"},
        {"cat", "bee", "apple"}, {"apple", "bee", "dog"}, {"gnu"},
    };
    static const size_t counts[] = {3, 2, 5, 3, 3, 1};
    static const enum delta_choice choices[] = {DELTA_CHOICE_AUTO, DELTA_CHOICE_CELL,
                                                DELTA_CHOICE_BF16, DELTA_CHOICE_INT8};
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t a = 0; a < 6; a++)
        for (size_t b = 0; b < 6; b++)
            for (size_t c = 0; c < 4; c++) {
                struct delta_model base, target, rounded, back;
                const struct delta_options options = {.encoding = choices[c], .rounded = &rounded};
                const bool lossy = c >= 2;
                struct delta_reader reader;
                struct delta_buf file;
                size_t same = 0;
                fixture_model(&base);
                fixture_model(&target);
                set_classes(&base, lists[a], counts[a]);
                set_classes(&target, lists[b], counts[b]);
                assert_ok(delta_diff(&base, &target, &options, &file, &err));
                assert_ok(delta_reader_init(&reader, delta_buf_bytes(&file), &err));
                while (same < counts[a] && same < counts[b] &&
                       strcmp(lists[a][same], lists[b][same]) == 0)
                    same++;
                assert_int_equal(reader.classes_dropped, counts[a] - same);
                assert_int_equal(reader.classes_added_count, counts[b] - same);
                assert_ok(delta_apply(&base, &reader, &back, &err));
                fixture_assert_same(lossy ? &rounded : &target, &back);
                delta_model_release(&back);
                if (lossy)
                    delta_model_release(&rounded);
                delta_reader_release(&reader);
                delta_buf_release(&file);
                delta_model_release(&base);
                delta_model_release(&target);
            }
}

static void diff_refuses_what_is_not_one_network(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (int change = 0; change < 7; change++) {
        struct delta_model base, target;
        struct delta_buf file;
        const uint64_t one[1] = {1};
        enum delta_status want = DELTA_MISMATCH;
        fixture_model(&base);
        fixture_model(&target);
        switch (change) {
        case 0:
            target.arch.width = 32;
            break;
        case 1:
            target.tensors[0].name[0] = 'k';
            break;
        case 2:
            target.tensors[0].shape[1] = 1;
            target.tensors[0].shape[2] = 9;
            break;
        case 3:
            assert_ok(delta_model_add_tensor(&target, "x", 1, one, NULL, &err));
            break;
        case 4: /* three rows fewer */
            target.tensors[1].shape[0] = 1;
            target.tensors[1].count = 1;
            break;
        case 5: /* a row more, but no class */
            target.tensors[4].shape[0] = 2;
            target.tensors[4].count = 2;
            break;
        default:
            target.tensors[0].data[7] = NAN;
            want = DELTA_NONFINITE;
            break;
        }
        assert_status(delta_diff(&base, &target, NULL, &file, &err), want);
        assert_null(file.data);
        delta_model_release(&base);
        delta_model_release(&target);
    }
}

static void apply_refuses_another_base(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model base, target, out;
    struct delta_reader reader;
    struct delta_buf file;

    (void)state;
    fixture_model(&base);
    child_of(&target, &base);
    name_class(&target, "dog");
    check_exact(&base, &target, &file);
    assert_ok(delta_reader_init(&reader, delta_buf_bytes(&file), &err));
    assert_status(delta_apply(&target, &reader, &out, &err), DELTA_BASE_UNKNOWN);
    ((uint8_t *)base.tensors[0].data)[0] ^= 1;
    assert_status(delta_apply(&base, &reader, &out, &err), DELTA_BASE_UNKNOWN);
    delta_reader_release(&reader);
    delta_buf_release(&file);
    delta_model_release(&base);
    delta_model_release(&target);
}

/* ---- forging ---- */

static void replace(struct delta_buf *file, const void *from, const void *to, size_t len)
{
    uint8_t *at = memmem(file->data, file->len, from, len);

    assert_non_null(at);
    memcpy(at, to, len);
}

struct forged {
    struct delta_model base, target;
    struct delta_buf file;
    struct delta_reader reader;
};

static void forge_begin(struct forged *f)
{
    struct delta_error err = DELTA_ERROR_INIT;

    fixture_model(&f->base);
    child_of(&f->target, &f->base);
    name_class(&f->target, "dog");
    check_exact(&f->base, &f->target, &f->file);
    assert_ok(delta_reader_init(&f->reader, delta_buf_bytes(&f->file), &err));
}

static void forge_end(struct forged *f)
{
    delta_reader_release(&f->reader);
    delta_buf_release(&f->file);
    delta_model_release(&f->base);
    delta_model_release(&f->target);
}

/* A peer that gets every digest right and ships a NaN. */
static void apply_refuses_nan_with_right_digests(void **state)
{
    static const uint32_t patterns[] = {0x7fc00000, 0x7f800001, 0xffc12345, 0x7f800000};
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        struct forged f;
        struct delta_model out;
        struct delta_digest name, sha, to;
        forge_begin(&f);
        const struct delta_entry entry = f.reader.entries[0]; /* fc.bias, one raw value */
        assert_int_equal(entry.encoding, DELTA_ENCODING_RAW);
        struct delta_tensor *bias = delta_model_find(&f.target, "fc.bias");
        memcpy(&bias->data[3], &patterns[i], 4);
        assert_ok(delta_model_digest(&f.target, &name, &err));
        sha = delta_sha256(delta_bytes(&patterns[i], 4));
        to = delta_sha256(delta_bytes(bias->data, bias->count * 4));
        memcpy((uint8_t *)(uintptr_t)f.reader.payload.data + entry.offset, &patterns[i], 4);
        replace(&f.file, f.reader.target.bytes, name.bytes, 32);
        replace(&f.file, entry.sha256.bytes, sha.bytes, 32);
        replace(&f.file, entry.target_sha256.bytes, to.bytes, 32);
        delta_reader_release(&f.reader);
        assert_ok(delta_reader_init(&f.reader, delta_buf_bytes(&f.file), &err));
        assert_status(delta_apply(&f.base, &f.reader, &out, &err), DELTA_NONFINITE);
        assert_non_null(strstr(err.text, "fc.bias"));
        forge_end(&f);
    }
}

/* A header that lies about a digest it alone states. */
static void apply_checks_every_digest(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const uint8_t zero[32] = {0};

    (void)state;
    for (int which = 0; which < 3; which++) {
        struct forged f;
        struct delta_model out;
        forge_begin(&f);
        const struct delta_digest *lie = which == 0   ? &f.reader.target
                                         : which == 1 ? &f.reader.entries[1].target_sha256
                                                      : &f.reader.entries[1].sha256;
        replace(&f.file, lie->bytes, zero, 32);
        struct delta_reader again;
        const enum delta_status st = delta_reader_init(&again, delta_buf_bytes(&f.file), &err);
        if (which == 2) {
            assert_int_equal(st, DELTA_DIGEST);
        } else {
            assert_int_equal(st, DELTA_OK);
            assert_status(delta_apply(&f.base, &again, &out, &err), DELTA_DIGEST);
            delta_reader_release(&again);
        }
        forge_end(&f);
    }
}

static void reader_every_flipped_bit_is_detected(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_keyring ring;
    struct forged f;

    (void)state;
    forge_begin(&f);
    fixture_ring(&ring, fixture_key());
    assert_ok(delta_container_sign(&f.file, fixture_key(), &err));
    for (size_t bit = 0; bit < f.file.len * 8; bit++) {
        struct delta_reader reader;
        f.file.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        if (!delta_reader_init(&reader, delta_buf_bytes(&f.file), &err)) {
            if (!delta_container_verify(delta_buf_bytes(&f.file), &ring, NULL, &err))
                fail_msg("bit %zu of %zu went unnoticed", bit, f.file.len * 8);
            delta_reader_release(&reader);
        }
        f.file.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    forge_end(&f);
}

static void reader_every_truncation_is_detected(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct forged f;

    (void)state;
    forge_begin(&f);
    for (size_t len = 0; len < f.file.len; len++) {
        struct delta_reader reader;
        uint8_t *copy = malloc(len ? len : 1);
        memcpy(copy, f.file.data, len);
        assert_status(delta_reader_init(&reader, delta_bytes(copy, len), &err), DELTA_TRUNCATED);
        free(copy);
    }
    forge_end(&f);
}

/* ---- trust ---- */

static void trust_takes_signed_deltas_of_trusted_bases_only(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_trusted_model base, out;
    struct delta_keyring ring, other;
    struct delta_buf model;
    struct forged f;

    (void)state;
    forge_begin(&f);
    fixture_ring(&ring, fixture_key());
    fixture_ring(&other, fixture_other_key());
    assert_ok(delta_model_encode(&f.base, &model, &err));
    assert_status(delta_trust_model(&base, delta_buf_bytes(&model), &ring, &err), DELTA_UNTRUSTED);
    assert_ok(delta_container_sign(&model, fixture_key(), &err));
    assert_status(delta_trust_model(&base, delta_buf_bytes(&model), &other, &err), DELTA_UNTRUSTED);
    assert_ok(delta_trust_model(&base, delta_buf_bytes(&model), &ring, &err));
    assert_memory_equal(base.version.bytes, f.reader.base.bytes, 32);
    const struct delta_digest target = f.reader.target;
    assert_status(delta_trust_delta(&out, &base, delta_buf_bytes(&f.file), &ring, &err),
                  DELTA_UNTRUSTED);
    assert_ok(delta_container_sign(&f.file, fixture_key(), &err));
    assert_status(delta_trust_delta(&out, &base, delta_buf_bytes(&f.file), &other, &err),
                  DELTA_UNTRUSTED);
    assert_ok(delta_trust_delta(&out, &base, delta_buf_bytes(&f.file), &ring, &err));
    assert_memory_equal(out.version.bytes, target.bytes, 32);
    fixture_assert_same(&out.model, &f.target);
    delta_trusted_model_release(&out);
    delta_trusted_model_release(&base);
    delta_buf_release(&model);
    forge_end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(diff_of_a_grown_head_carries_the_new_rows_only),
        cmocka_unit_test(diff_of_a_head_row_is_small),
        cmocka_unit_test(diff_within_the_plan_carries_live_elements_only),
        cmocka_unit_test(diff_keeps_bits_plans_and_parent),
        cmocka_unit_test(diff_extends_a_frozen_head),
        cmocka_unit_test(diff_of_equal_models_is_empty),
        cmocka_unit_test(diff_leads_between_any_two_class_lists),
        cmocka_unit_test(diff_refuses_what_is_not_one_network),
        cmocka_unit_test(apply_refuses_another_base),
        cmocka_unit_test(apply_refuses_nan_with_right_digests),
        cmocka_unit_test(apply_checks_every_digest),
        cmocka_unit_test(reader_every_flipped_bit_is_detected),
        cmocka_unit_test(reader_every_truncation_is_detected),
        cmocka_unit_test(trust_takes_signed_deltas_of_trusted_bases_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
