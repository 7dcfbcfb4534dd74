#include "delta_fixture.h"

#include <stdlib.h>
#include <string.h>

float fixture_value(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*state >> 40) / (1 << 24) - 0.5) + 1e-3f;
}

struct row {
    const char *name;
    uint32_t rank;
    uint64_t shape[4];
    enum delta_freeze_mode mode;
    uint8_t bits[4];
    size_t count;
};

static const struct row rows[] = {
    {"conv1.weight", 4, {4, 3, 3, 3}, DELTA_FREEZE_ROWS, {0x05}, 4},
    {"bn1.weight", 1, {4}, DELTA_FREEZE_ALL, {0}, 0},
    {"layer.weight", 2, {4, 4}, DELTA_FREEZE_WEIGHTS, {0xf0, 0x3c}, 16},
    {"fc.weight", 2, {3, 4}, DELTA_FREEZE_LIVE, {0}, 0},
    {"fc.bias", 1, {3}, DELTA_FREEZE_LIVE, {0}, 0},
};
#define ROWS (sizeof rows / sizeof rows[0])

static void build(struct delta_model *out, const size_t *order)
{
    static const char *const classes[] = {"apple", "bee", "cat"};
    struct delta_error err = DELTA_ERROR_INIT;

    *out = (struct delta_model)DELTA_MODEL_INIT;
    out->arch = (struct delta_arch){.name = "resnet18",
                                    .stem = "cifar",
                                    .width = 16,
                                    .channels = 3,
                                    .height = 32,
                                    .image_width = 32,
                                    .mean = {0.5071, 0.4865, 0.4409},
                                    .std = {0.2673, 0.2564, 0.2762}};
    for (size_t i = 0; i < ROWS; i++) {
        const struct row *row = &rows[order[i]];
        uint64_t state = 1 + order[i];
        struct delta_tensor *tensor;
        assert_ok(delta_model_add_tensor(out, row->name, row->rank, row->shape, &tensor, &err));
        for (size_t k = 0; k < tensor->count; k++)
            tensor->data[k] = fixture_value(&state);
        assert_ok(delta_tensor_set_freeze(tensor, row->mode, row->count ? row->bits : NULL,
                                          row->count, &err));
    }
    for (size_t i = 0; i < 3; i++) {
        struct delta_class_id id;
        assert_ok(delta_class_id_make(&id, classes[i], &err));
        assert_ok(delta_model_add_class(out, &id, &err));
    }
}

void fixture_model(struct delta_model *out)
{
    build(out, (const size_t[]){0, 1, 2, 3, 4});
}

void fixture_model_shuffled(struct delta_model *out)
{
    build(out, (const size_t[]){3, 4, 0, 2, 1});
}

static const struct delta_key *made(struct delta_key *key)
{
    struct delta_error err = DELTA_ERROR_INIT;

    if (!key->context)
        assert_ok(delta_key_generate(key, &err));
    return key;
}

static struct delta_key keys[2];

static void drop_keys(void)
{
    delta_key_release(&keys[0]);
    delta_key_release(&keys[1]);
}

const struct delta_key *fixture_key(void)
{
    static int registered;

    if (!registered++)
        atexit(drop_keys);
    return made(&keys[0]);
}

const struct delta_key *fixture_other_key(void)
{
    (void)fixture_key();
    return made(&keys[1]);
}

void fixture_ring(struct delta_keyring *ring, const struct delta_key *key)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_public_key public_key;

    *ring = (struct delta_keyring){.count = 0};
    assert_ok(delta_key_public(key, &public_key, &err));
    assert_ok(delta_keyring_add(ring, &public_key, &err));
}

void fixture_assert_same(const struct delta_model *a, const struct delta_model *b)
{
    assert_memory_equal(a->parent.bytes, b->parent.bytes, 32);
    assert_string_equal(a->arch.name, b->arch.name);
    assert_int_equal(a->class_count, b->class_count);
    for (size_t i = 0; i < a->class_count; i++)
        assert_string_equal(a->classes[i].text, b->classes[i].text);
    assert_int_equal(a->tensor_count, b->tensor_count);
    for (size_t i = 0; i < a->tensor_count; i++) {
        const struct delta_tensor *x = &a->tensors[i], *y = delta_model_find(b, x->name);
        assert_non_null(y);
        assert_int_equal(x->rank, y->rank);
        assert_memory_equal(x->shape, y->shape, x->rank * sizeof x->shape[0]);
        assert_memory_equal(x->data, y->data, x->count * sizeof(float));
        assert_int_equal(x->freeze.mode, y->freeze.mode);
        assert_int_equal(x->freeze.count, y->freeze.count);
        if (x->freeze.count)
            assert_memory_equal(x->freeze.bits, y->freeze.bits, (x->freeze.count + 7) / 8);
    }
}
