#include "delta/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "delta_fixture.h"

static struct harness_scratch scratch;

static int setup(void **state)
{
    (void)state;
    harness_scratch_make(&scratch);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

/* A file with this JSON and `data` bytes behind it. */
static uint8_t *make_file(const char *json, size_t data, size_t *len)
{
    const size_t n = strlen(json);
    uint8_t *file = calloc(8 + n + data, 1);

    for (size_t i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(file + 8, json, n);
    *len = 8 + n + data;
    return file;
}

#define META "\"__metadata__\":{\"arch\":\"resnet18\",\"width\":\"4\"}"
#define FCW "\"fc.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}"
#define FCB "\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[24,32]}"

static void safetensors_lies_are_refused(void **state)
{
    static const struct {
        const char *json;
        size_t data;
        enum delta_status want;
        const char *word; /* the message holds it */
    } rows[] = {
        {"{" META "," FCW "," FCB "}", 32, DELTA_OK, ""},
        {"{" META "," FCW "," FCB "}", 31, DELTA_TRUNCATED, "fc.bias"},
        {"{" META ",\"fc.weight\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]}"
         ",\"fc.bias\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[12,16]}}",
         16, DELTA_OK, ""},
        {"{" META ",\"fc.weight\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,24]}"
         "," FCB "}",
         32, DELTA_FORMAT, "needs 12 bytes"},
        {"{" META "," FCW "," FCB "}", 33, DELTA_FORMAT, "1 bytes follow"},
        {"{" FCW "," FCB "}", 32, DELTA_UNSUPPORTED, "architecture"},
        {"{" META "," FCW
         ",\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[20,28]}}",
         28, DELTA_FORMAT, "overlaps"},
        {"{" META "," FCW
         ",\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[28,36]}}",
         36, DELTA_FORMAT, "gap"},
        {"{" META "," FCW
         ",\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[32,24]}}",
         32, DELTA_FORMAT, "ends before it begins"},
        {"{" META "," FCW
         ",\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[24,32]}}",
         32, DELTA_FORMAT, "shape needs 12 bytes"},
        {"{" META "," FCW
         ",\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[24,32]}}",
         32, DELTA_FORMAT, "dimension 0"},
        {"{" META "," FCW ",\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],"
         "\"data_offsets\":[24,32]}"
         "}",
         32, DELTA_LIMIT, "fc.bias"},
        {"{" META "," FCW ",\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_"
         "offsets\":[24,32]}}",
         32, DELTA_LIMIT, "fc.bias"},
        {"{" META "," FCW
         ",\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[24,24]}}",
         24, DELTA_LIMIT, "fc.bias"},
        {"{" META "," FCW ",\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[24,28]}}",
         28, DELTA_UNSUPPORTED, "rank 0"},
        {"{" META "," FCW
         ",\"fc.bias\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[24,32]}}",
         32, DELTA_UNSUPPORTED, "F16"},
        {"{" META "," FCW ",\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[2]}}", 32, DELTA_FORMAT,
         "data_offsets"},
        {"{" META "," FCW
         ",\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[24,1e2]}}",
         32, DELTA_FORMAT, "data_offsets"},
        {"{" META "," FCW ",\"fc.bias\":7}", 32, DELTA_FORMAT, "fc.bias"},
        {"{" META "," FCW "," FCB "," FCB "}", 32, DELTA_FORMAT, "duplicate"},
        {"{" META "," FCW ",\"x y\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[24,32]}}",
         32, DELTA_FORMAT, "x y"},
        {"{" META "," FCW "}", 24, DELTA_FORMAT, "no head"},
        {"{" META ",\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
         DELTA_FORMAT, "head"},
        {"{\"__metadata__\":{\"arch\":\"resnet18\",\"width\":\"0\"}," FCW "," FCB "}", 32,
         DELTA_LIMIT, "width"},
        {"{\"__metadata__\":{\"arch\":\"resnet18\",\"width\":\"4x\"}," FCW "," FCB "}", 32,
         DELTA_FORMAT, "width"},
        {"{\"__metadata__\":{\"arch\":7,\"width\":\"4\"}," FCW "," FCB "}", 32, DELTA_FORMAT,
         "'arch'"},
        {"{\"__metadata__\":[]," FCW "," FCB "}", 32, DELTA_FORMAT, "__metadata__"},
        {"{\"__metadata__\":{\"arch\":\"../x\",\"width\":\"4\"}," FCW "," FCB "}", 32, DELTA_FORMAT,
         "architecture"},
        {"{\"__metadata__\":{\"arch\":\"resnet18\",\"width\":\"4\",\"std\":\"0 0 0\"}," FCW "," FCB
         "}",
         32, DELTA_FORMAT, "deviation"},
        {"{\"__metadata__\":{\"arch\":\"resnet18\",\"width\":\"4\",\"mean\":\"nan 0 0\"}," FCW
         "," FCB "}",
         32, DELTA_FORMAT, "mean"},
        {"{\"__metadata__\":{\"arch\":\"resnet18\",\"width\":\"4\",\"class_names\":\"a\"}," FCW
         "," FCB "}",
         32, DELTA_FORMAT, "1 names for 2 rows"},
        {"{\"__metadata__\":{\"arch\":\"resnet18\",\"width\":\"4\",\"class_names\":\"a A\"}," FCW
         "," FCB "}",
         32, DELTA_FORMAT, "twice"},
        {"{\"__metadata__\":{\"arch\":\"resnet18\",\"width\":\"4\",\"classes\":\"1 2 3\"}," FCW
         "," FCB "}",
         32, DELTA_FORMAT, "3 labels for 2 rows"},
        {"{\"__metadata__\":{\"arch\":\"resnet18\",\"width\":\"4\",\"classes\":\"1 x\"}," FCW
         "," FCB "}",
         32, DELTA_FORMAT, "not a label"},
        {"[1]", 0, DELTA_FORMAT, "neither"},
        {"{", 0, DELTA_FORMAT, "JSON"},
        {"{}", 0, DELTA_UNSUPPORTED, "architecture"},
    };
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct delta_model model = DELTA_MODEL_INIT;
        size_t len;
        uint8_t *file = make_file(rows[i].json, rows[i].data, &len);
        const enum delta_status st =
            delta_safetensors_decode(&model, delta_bytes(file, len), NULL, &err);
        if (st != rows[i].want || (st && !strstr(err.text, rows[i].word)))
            fail_msg("row %zu: %s: %s", i, delta_status_name(st), err.text);
        if (!st)
            delta_model_release(&model);
        free(file);
    }
}

static void safetensors_header_lengths_are_bounded(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model;
    uint8_t huge[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}'};
    uint8_t beyond[16] = {200, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    size_t len;
    char *deep = calloc(200000, 1);

    (void)state;
    assert_status(delta_safetensors_decode(&model, delta_bytes(huge, 16), NULL, &err), DELTA_LIMIT);
    assert_status(delta_safetensors_decode(&model, delta_bytes(beyond, 16), NULL, &err),
                  DELTA_TRUNCATED);
    for (size_t i = 0; i < 8; i++)
        assert_status(delta_safetensors_decode(&model, delta_bytes(beyond, i), NULL, &err),
                      DELTA_TRUNCATED);
    memcpy(deep, "{\"a\":", 5);
    memset(deep + 5, '[', 100000);
    uint8_t *file = make_file(deep, 0, &len);
    assert_status(delta_safetensors_decode(&model, delta_bytes(file, len), NULL, &err),
                  DELTA_LIMIT);
    free(file);
    memset(deep + 5 + 5000, 0, 100000);
    file = make_file(deep, 0, &len);
    assert_status(delta_safetensors_decode(&model, delta_bytes(file, len), NULL, &err),
                  DELTA_FORMAT);
    free(file);
    free(deep);
}

static void safetensors_counters_are_left_out(void **state)
{
    static const char json[] =
        "{" META "," FCW "," FCB ",\"bn1.num_batches_tracked\":{\"dtype\":\"I64\",\"shape\":[],"
        "\"data_offsets\":[32,40]}}   ";
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model;
    size_t len;
    uint8_t *file = make_file(json, 40, &len);

    (void)state;
    assert_ok(delta_safetensors_decode(&model, delta_bytes(file, len), NULL, &err));
    assert_int_equal(model.tensor_count, 2);
    assert_int_equal(model.class_count, 2);
    assert_string_equal(model.classes[1].text, "class-1");
    assert_true(model.arch.mean[0] == 0.5071);
    assert_int_equal(model.arch.height, 32);
    delta_model_release(&model);
    free(file);
}

static void safetensors_export_round_trip(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const char *path = harness_path(&scratch, "m.safetensors");
    struct delta_model model, back;
    struct delta_digest a, b;

    (void)state;
    fixture_model(&model);
    model.arch.mean[0] = 1.0 / 3;
    for (size_t i = 0; i < model.tensor_count; i++) /* a plan has no place in safetensors */
        assert_ok(delta_tensor_set_freeze(&model.tensors[i], DELTA_FREEZE_LIVE, NULL, 0, &err));
    assert_ok(delta_safetensors_save(&model, DELTA_SAFETENSORS_F32, path, &err));
    assert_ok(delta_model_load_any(&back, path, &b, NULL, &err));
    fixture_assert_same(&model, &back);
    assert_ok(delta_model_digest(&model, &a, &err));
    assert_memory_equal(a.bytes, b.bytes, 32);
    delta_model_release(&model);
    delta_model_release(&back);
}

/* Weights keep their upper half, rounded to the nearest even; vectors keep all; what comes back
 * once comes back again. */
static void safetensors_bf16_rounds_weights_once(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const char *path = harness_path(&scratch, "narrow.safetensors");
    static const uint32_t from[] = {0x3f808000, 0x3f818000, 0x3f808001, 0x80000000,
                                    0x7f7fffff, 0x7fc00001, 0x00008001, 0xff800000};
    static const uint32_t to[] = {0x3f800000, 0x3f820000, 0x3f810000, 0x80000000,
                                  0x7f800000, 0x7fc00000, 0x00010000, 0xff800000};
    struct delta_model model, back, again;
    size_t wide = 0, narrow = 0;

    (void)state;
    fixture_model(&model);
    for (size_t i = 0; i < model.tensor_count; i++) {
        struct delta_tensor *tensor = &model.tensors[i];
        assert_ok(delta_tensor_set_freeze(tensor, DELTA_FREEZE_LIVE, NULL, 0, &err));
        if (tensor->rank > 1 && tensor->count >= 8)
            memcpy(tensor->data, from, sizeof from);
    }
    assert_ok(delta_safetensors_save(&model, DELTA_SAFETENSORS_BF16, path, &err));
    assert_ok(delta_safetensors_load(&back, path, NULL, &err));
    for (size_t i = 0; i < model.tensor_count; i++) {
        const struct delta_tensor *a = &model.tensors[i];
        const struct delta_tensor *b = delta_model_find(&back, a->name);
        if (a->rank == 1) {
            assert_memory_equal(a->data, b->data, a->count * sizeof(float));
            wide++;
        } else if (a->count >= 8) {
            assert_memory_equal(b->data, to, sizeof to);
            narrow++;
        }
    }
    assert_true(wide > 0 && narrow > 0);
    assert_ok(delta_safetensors_save(&back, DELTA_SAFETENSORS_BF16, path, &err));
    assert_ok(delta_safetensors_load(&again, path, NULL, &err));
    fixture_assert_same(&back, &again);
    delta_model_release(&model);
    delta_model_release(&back);
    delta_model_release(&again);
}

static void safetensors_load_any_knows_both(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const char *path = harness_path(&scratch, "m.flm");
    struct delta_model model, back;
    struct delta_digest a, b;

    (void)state;
    fixture_model(&model);
    assert_ok(delta_model_save(&model, path, &err));
    assert_ok(delta_model_digest(&model, &a, &err));
    assert_ok(delta_model_load_any(&back, path, &b, NULL, &err));
    assert_memory_equal(a.bytes, b.bytes, 32);
    delta_model_release(&back);
    delta_model_release(&model);
    assert_ok(delta_file_write(path, delta_bytes("", 0), 0644, &err));
    assert_status(delta_model_load_any(&back, path, &b, NULL, &err), DELTA_TRUNCATED);
    assert_ok(delta_file_write(path, delta_bytes("hello, world", 12), 0644, &err));
    assert_status(delta_model_load_any(&back, path, &b, NULL, &err), DELTA_FORMAT);
    assert_non_null(strstr(err.text, "m.flm"));
    assert_status(delta_model_load_any(&back, scratch.path, &b, NULL, &err), DELTA_FORMAT);
}

static void safetensors_reference_network_loads(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const char *path = harness_shared("models/resnet18-w16-c90.safetensors");
    struct delta_safetensors_info info;
    struct delta_model model;
    struct delta_tensor *weight;

    (void)state;
    if (!path)
        skip();
    assert_ok(delta_model_load_any(&model, path, NULL, &info, &err));
    assert_string_equal(model.arch.name, "resnet18");
    assert_string_equal(model.arch.stem, "cifar");
    assert_int_equal(model.arch.width, 16);
    assert_int_equal(model.class_count, 90);
    assert_int_equal(info.label_count, 90);
    assert_int_equal(info.labels[0], 68);
    assert_int_equal(info.labels[89], 4);
    assert_ok(delta_model_head(&model, &weight, NULL, &err));
    assert_int_equal(weight->shape[1], 128);
    assert_ok(delta_model_check_finite(&model, &err));
    delta_safetensors_info_release(&info);
    delta_model_release(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(safetensors_lies_are_refused),
        cmocka_unit_test(safetensors_header_lengths_are_bounded),
        cmocka_unit_test(safetensors_counters_are_left_out),
        cmocka_unit_test(safetensors_export_round_trip),
        cmocka_unit_test(safetensors_bf16_rounds_weights_once),
        cmocka_unit_test(safetensors_load_any_knows_both),
        cmocka_unit_test(safetensors_reference_network_loads),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
