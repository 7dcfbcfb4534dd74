/* The arithmetic of a merge, against numbers computed by hand. */
#include "delta_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "merge.h"

struct offer {
    const char *device;
    const char *classes[3];
    float row;      /* every element of the new rows; the bias gets 10 times it */
    float slice;    /* added to all of layer.weight, frozen elements too */
    float base_row; /* added to the row of class bee */
    uint32_t staleness, samples;
};

static enum delta_status owns(void *context, const char *class_id, const char *device, bool *yes,
                              struct delta_error *err)
{
    const char *owner = context; /* "class device" */
    char text[130];

    (void)err;
    snprintf(text, sizeof text, "%s %s", class_id, device);
    *yes = owner && strcmp(owner, text) == 0;
    return DELTA_OK;
}

static void make_target(const struct delta_model *base, const struct offer *offer,
                        struct delta_model *out)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_tensor *weight, *bias, *layer;
    struct delta_class_id ids[3];
    size_t count = 0;

    assert_ok(delta_model_copy(out, base, &err));
    for (; count < 3 && offer->classes[count]; count++)
        assert_ok(delta_class_id_make(&ids[count], offer->classes[count], &err));
    if (count)
        assert_ok(delta_model_grow_head(out, ids, count, &err));
    assert_ok(delta_model_head(out, &weight, &bias, &err));
    for (size_t i = base->class_count * 4; i < weight->count; i++)
        weight->data[i] = offer->row;
    for (size_t i = base->class_count; i < bias->count; i++)
        bias->data[i] = 10 * offer->row;
    layer = delta_model_find(out, "layer.weight");
    for (size_t i = 0; i < layer->count; i++)
        layer->data[i] += offer->slice;
    for (size_t i = 4; i < 8; i++)
        weight->data[i] += offer->base_row;
}

/* Merges offers, all from `base`, in this order with ids 1, 2, ... */
static void merge(const struct delta_model *current, const struct delta_model *base,
                  const struct offer *offers, size_t count, const char *owner,
                  struct delta_model *out, char notes[][SERVER_REASON_MAX], bool *changed)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_merge *m;

    assert_ok(server_merge_new(&m, current, owns, (void *)(uintptr_t)owner, &err));
    for (size_t i = 0; i < count; i++) {
        struct delta_model target;
        char note[SERVER_REASON_MAX];
        make_target(base, &offers[i], &target);
        struct server_merge_item item = {.device = offers[i].device,
                                         .base = base,
                                         .staleness = offers[i].staleness,
                                         .new_samples = offers[i].samples,
                                         .target = &target};
        item.id.bytes[0] = (uint8_t)(i + 1);
        assert_ok(server_merge_add(m, &item, notes ? notes[i] : note, &err));
        delta_model_release(&target);
    }
    assert_ok(server_merge_finish(m, out, changed, &err));
    server_merge_free(m);
}

static const float *row_of(const struct delta_model *model, const char *id, float *bias_out)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_tensor *weight, *bias;
    const long at = delta_model_class_index(model, id);

    assert_true(at >= 0);
    assert_ok(delta_model_head(model, &weight, &bias, &err));
    *bias_out = bias->data[at];
    return weight->data + at * 4;
}

static void rows_of_two_devices_stand_side_by_side(void **state)
{
    const struct offer offers[] = {{"b", {"wolf"}, 0.25f, 0, 0, 0, 10},
                                   {"a", {"fox", "elk"}, -0.5f, 0, 0, 0, 5}};
    struct delta_model base, out;
    struct delta_digest parent;
    struct delta_error err = DELTA_ERROR_INIT;
    bool changed;
    float bias;

    (void)state;
    fixture_model(&base);
    merge(&base, &base, offers, 2, NULL, &out, NULL, &changed);
    assert_true(changed);
    assert_int_equal(out.class_count, 6);
    assert_string_equal(out.classes[3].text, "elk"); /* by id, not by arrival */
    assert_string_equal(out.classes[4].text, "fox");
    assert_string_equal(out.classes[5].text, "wolf");
    assert_true(row_of(&out, "wolf", &bias)[3] == 0.25f && bias == 2.5f);
    assert_true(row_of(&out, "elk", &bias)[0] == -0.5f && bias == -5.0f);
    /* everything else keeps its bits */
    for (size_t i = 0; i < base.tensor_count; i++)
        assert_memory_equal(base.tensors[i].data,
                            delta_model_find(&out, base.tensors[i].name)->data,
                            base.tensors[i].count * sizeof(float));
    assert_ok(delta_model_digest(&base, &parent, &err));
    assert_true(delta_digest_equal(&out.parent, &parent));
    delta_model_release(&out);
    delta_model_release(&base);
}

/* A classifier by another name: MobileNetV2's. */
static void head_by_another_name_merges_alike(void **state)
{
    const struct offer offers[] = {{"b", {"wolf"}, 0.25f, 0, 0, 0, 10},
                                   {"a", {"fox"}, -0.5f, 0, 0, 0, 5}};
    struct delta_model base, out;
    bool changed;
    float bias;

    (void)state;
    fixture_model(&base);
    snprintf(delta_model_find(&base, "fc.weight")->name, sizeof base.tensors->name, "%s",
             "classifier.1.weight");
    snprintf(delta_model_find(&base, "fc.bias")->name, sizeof base.tensors->name, "%s",
             "classifier.1.bias");
    merge(&base, &base, offers, 2, NULL, &out, NULL, &changed);
    assert_true(changed);
    assert_int_equal(delta_model_find(&out, "classifier.1.weight")->shape[0], 5);
    assert_true(row_of(&out, "wolf", &bias)[3] == 0.25f && bias == 2.5f);
    assert_true(row_of(&out, "fox", &bias)[0] == -0.5f && bias == -5.0f);
    delta_model_release(&out);
    delta_model_release(&base);
}

static void same_new_class_is_weighted_by_samples(void **state)
{
    const struct offer offers[] = {{"a", {"fox"}, 1.0f, 0, 0, 0, 30},
                                   {"b", {"fox"}, 2.0f, 0, 0, 0, 10}};
    struct delta_model base, out;
    bool changed;
    float bias;

    (void)state;
    fixture_model(&base);
    merge(&base, &base, offers, 2, NULL, &out, NULL, &changed);
    assert_int_equal(out.class_count, 4);
    assert_true(row_of(&out, "fox", &bias)[1] == 1.25f); /* (30*1 + 10*2) / 40 */
    assert_true(bias == 12.5f);
    delta_model_release(&out);
    delta_model_release(&base);
}

static void slice_is_weighted_by_staleness_and_frozen_stays(void **state)
{
    const struct offer offers[] = {{"a", {NULL}, 0, 0.5f, 0, 0, 1},
                                   {"b", {NULL}, 0, -0.25f, 0, 3, 1},
                                   {"c", {NULL}, 0, 0, 0, 8, 1}};
    const double w[] = {1, 0.5, 1.0 / 3}; /* 1/sqrt(1+0), 1/sqrt(1+3), 1/sqrt(1+8) */
    struct delta_model base, out;
    const struct delta_tensor *from, *to;
    size_t frozen = 0;
    bool changed;

    (void)state;
    fixture_model(&base);
    merge(&base, &base, offers, 3, NULL, &out, NULL, &changed);
    from = delta_model_find(&base, "layer.weight");
    to = delta_model_find(&out, "layer.weight");
    for (size_t i = 0; i < from->count; i++) {
        const double x = from->data[i];
        const double a = (double)(float)(from->data[i] + 0.5f) - x;
        const double b = (double)(float)(from->data[i] - 0.25f) - x;
        const float want = (float)(x + (w[0] * a + w[1] * b) / (w[0] + w[1] + w[2]));
        if (delta_tensor_is_frozen(from, i)) {
            frozen++;
            assert_memory_equal(&from->data[i], &to->data[i], sizeof(float));
        } else if (fabsf(to->data[i] - want) > 1e-7f) {
            fail_msg("element %zu: %.9g instead of %.9g", i, (double)to->data[i], (double)want);
        }
    }
    assert_int_equal(frozen, 8);
    delta_model_release(&out);
    delta_model_release(&base);
}

static void base_rows_are_averaged_over_those_who_changed_them(void **state)
{
    const struct offer offers[] = {{"a", {NULL}, 0, 0, 0.5f, 0, 1}, {"b", {"fox"}, 1, 0, 0, 0, 1}};
    struct delta_model base, out;
    bool changed;
    float bias;

    (void)state;
    fixture_model(&base);
    merge(&base, &base, offers, 2, NULL, &out, NULL, &changed);
    const float *was = row_of(&base, "bee", &bias), *is = row_of(&out, "bee", &bias);
    for (size_t i = 0; i < 4; i++)
        assert_true(fabsf(is[i] - (was[i] + 0.5f)) < 1e-6f); /* not halved by b's silence */
    delta_model_release(&out);
    delta_model_release(&base);
}

static void existing_class_belongs_to_its_owner(void **state)
{
    const struct offer first[] = {{"a", {"fox"}, 1.0f, 0, 0, 0, 1}};
    const struct offer later[] = {{"b", {"fox", "elk"}, 5.0f, 0, 0, 1, 1},
                                  {"a", {"fox"}, 3.0f, 0, 0, 1, 1}};
    char notes[2][SERVER_REASON_MAX];
    struct delta_model base, one, two;
    bool changed;
    float bias;

    (void)state;
    fixture_model(&base);
    merge(&base, &base, first, 1, NULL, &one, NULL, &changed);
    merge(&one, &base, later, 2, "fox a", &two, notes, &changed);
    assert_true(row_of(&two, "fox", &bias)[0] == 3.0f);
    assert_true(row_of(&two, "elk", &bias)[0] == 5.0f);
    assert_non_null(strstr(notes[0], "'fox' exists already"));
    assert_string_equal(notes[1], "");
    delta_model_release(&two);
    merge(&one, &base, later, 1, NULL, &two, notes, &changed);
    assert_true(row_of(&two, "fox", &bias)[0] == 1.0f);
    delta_model_release(&two);
    delta_model_release(&one);
    delta_model_release(&base);
}

static void nothing_new_changes_nothing(void **state)
{
    const struct offer offer = {"a", {NULL}, 0, 0, 0, 0, 1};
    struct delta_model base, out;
    bool changed = true;

    (void)state;
    fixture_model(&base);
    merge(&base, &base, &offer, 1, NULL, &out, NULL, &changed);
    assert_false(changed);
    delta_model_release(&out);
    delta_model_release(&base);
}

static void misfits_are_refused_and_leave_no_trace(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model base, bad, out;
    struct server_merge *m;
    char note[SERVER_REASON_MAX];
    bool changed;

    (void)state;
    fixture_model(&base);
    assert_ok(server_merge_new(&m, &base, owns, NULL, &err));
    struct server_merge_item item = {.device = "a", .base = &base, .target = &bad};
    item.id.bytes[0] = 5;
    assert_ok(delta_model_copy(&bad, &base, &err));
    delta_model_find(&bad, "layer.weight")->data[3] = NAN;
    assert_status(server_merge_add(m, &item, note, &err), DELTA_NONFINITE);
    delta_model_release(&bad);
    assert_ok(delta_model_copy(&bad, &base, &err));
    bad.classes[0].text[0] = 'z';
    assert_status(server_merge_add(m, &item, note, &err), DELTA_MISMATCH);
    delta_model_release(&bad);
    assert_ok(delta_model_copy(&bad, &base, &err));
    bad.tensor_count--;
    assert_status(server_merge_add(m, &item, note, &err), DELTA_MISMATCH);
    bad.tensor_count++;
    delta_model_release(&bad);
    assert_ok(server_merge_finish(m, &out, &changed, &err));
    assert_false(changed);
    delta_model_release(&out);
    /* the order is part of the result, so a wrong one is our bug */
    item.target = &base;
    assert_ok(server_merge_add(m, &item, note, &err));
    item.id.bytes[0] = 4;
    assert_status(server_merge_add(m, &item, note, &err), DELTA_INTERNAL);
    server_merge_free(m);
    delta_model_release(&base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_two_devices_stand_side_by_side),
        cmocka_unit_test(head_by_another_name_merges_alike),
        cmocka_unit_test(same_new_class_is_weighted_by_samples),
        cmocka_unit_test(slice_is_weighted_by_staleness_and_frozen_stays),
        cmocka_unit_test(base_rows_are_averaged_over_those_who_changed_them),
        cmocka_unit_test(existing_class_belongs_to_its_owner),
        cmocka_unit_test(nothing_new_changes_nothing),
        cmocka_unit_test(misfits_are_refused_and_leave_no_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
