#include "delta/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pack.h"

/* ---- life ---- */

static void tensor_release(struct delta_tensor *tensor)
{
    free(tensor->data);
    free(tensor->freeze.bits);
    tensor->data = NULL;
    tensor->freeze = (struct delta_freeze){DELTA_FREEZE_LIVE, NULL, 0};
}

void delta_model_release(struct delta_model *model)
{
    if (!model)
        return;
    for (size_t i = 0; i < model->tensor_count; i++)
        tensor_release(&model->tensors[i]);
    free(model->tensors);
    free(model->classes);
    *model = (struct delta_model)DELTA_MODEL_INIT;
}

enum delta_status delta_model_copy(struct delta_model *out, const struct delta_model *model,
                                   struct delta_error *err)
{
    struct delta_model copy = {.arch = model->arch, .parent = model->parent};
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; i < model->tensor_count && !st; i++) {
        const struct delta_tensor *from = &model->tensors[i];
        struct delta_tensor *to;
        st = delta_model_add_tensor(&copy, from->name, from->rank, from->shape, &to, err);
        if (st)
            break;
        memcpy(to->data, from->data, from->count * sizeof *to->data);
        st = delta_tensor_set_freeze(to, from->freeze.mode, from->freeze.bits, from->freeze.count,
                                     err);
    }
    if (!st && model->class_count) {
        copy.classes = delta_calloc(model->class_count, sizeof *copy.classes);
        if (!copy.classes)
            st =
                delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu classes", model->class_count);
        else
            memcpy(copy.classes, model->classes, model->class_count * sizeof *copy.classes);
        copy.class_count = copy.classes ? model->class_count : 0;
    }
    if (st) {
        delta_model_release(&copy);
        return st;
    }
    *out = copy;
    return DELTA_OK;
}

/* ---- tensors ---- */

enum delta_status delta_tensor_name_check(const char *name, struct delta_error *err)
{
    const size_t len = strlen(name);

    if (len == 0 || len > DELTA_TENSOR_NAME_MAX)
        return delta_fail(err, DELTA_LIMIT, "a tensor name has %zu bytes; 1 to %d are allowed", len,
                          DELTA_TENSOR_NAME_MAX);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)name[i] <= 0x20 || (unsigned char)name[i] >= 0x7f)
            return delta_fail(err, DELTA_FORMAT,
                              "a tensor name holds byte 0x%02x; only visible ASCII is allowed",
                              (unsigned char)name[i]);
    return DELTA_OK;
}

enum delta_status delta_shape_count(uint32_t rank, const uint64_t *shape, size_t *count,
                                    struct delta_error *err)
{
    size_t n = 1, bytes;

    if (rank < 1 || rank > DELTA_TENSOR_RANK_MAX)
        return delta_fail(err, DELTA_LIMIT, "rank %u is not within 1 and %d", rank,
                          DELTA_TENSOR_RANK_MAX);
    for (uint32_t i = 0; i < rank; i++) {
        if (shape[i] == 0 || shape[i] > SIZE_MAX)
            return delta_fail(err, DELTA_LIMIT, "dimension %u is %llu", i,
                              (unsigned long long)shape[i]);
        if (!delta_size_mul(n, (size_t)shape[i], &n))
            return delta_fail(err, DELTA_LIMIT, "the shape's product overflows");
    }
    if (!delta_size_mul(n, sizeof(float), &bytes) || bytes > DELTA_MODEL_MAX_BYTES)
        return delta_fail(err, DELTA_LIMIT, "tensor of %zu elements exceeds the limit of %zu bytes",
                          n, DELTA_MODEL_MAX_BYTES);
    *count = n;
    return DELTA_OK;
}

size_t delta_model_bytes(const struct delta_model *model)
{
    size_t bytes = 0;

    for (size_t i = 0; i < model->tensor_count; i++)
        bytes += model->tensors[i].count * sizeof(float);
    return bytes;
}

enum delta_status delta_model_add_tensor(struct delta_model *model, const char *name, uint32_t rank,
                                         const uint64_t *shape, struct delta_tensor **out,
                                         struct delta_error *err)
{
    struct delta_tensor fresh = {.rank = rank}, *tensors;
    enum delta_status st = delta_tensor_name_check(name, err);

    if (!st)
        st = delta_shape_count(rank, shape, &fresh.count, err);
    if (st)
        return delta_fail_in(err, st, "tensor '%.127s'", name);
    if (model->tensor_count >= DELTA_MODEL_MAX_TENSORS)
        return delta_fail(err, DELTA_LIMIT, "more than %d tensors", DELTA_MODEL_MAX_TENSORS);
    if (delta_model_find(model, name))
        return delta_fail(err, DELTA_EXISTS, "tensor '%s' exists already", name);
    if (fresh.count * sizeof(float) > DELTA_MODEL_MAX_BYTES - delta_model_bytes(model))
        return delta_fail(err, DELTA_LIMIT, "tensors exceed the limit of %zu bytes",
                          DELTA_MODEL_MAX_BYTES);
    memcpy(fresh.name, name, strlen(name) + 1);
    memcpy(fresh.shape, shape, rank * sizeof *shape);
    fresh.data = delta_calloc_aligned(fresh.count, sizeof *fresh.data);
    tensors = reallocarray(model->tensors, model->tensor_count + 1, sizeof *tensors);
    if (tensors)
        model->tensors = tensors;
    if (!fresh.data || !tensors) {
        free(fresh.data);
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate tensor '%s' of %zu elements", name,
                          fresh.count);
    }
    tensors[model->tensor_count++] = fresh;
    if (out)
        *out = &tensors[model->tensor_count - 1];
    return DELTA_OK;
}

struct delta_tensor *delta_model_find(const struct delta_model *model, const char *name)
{
    for (size_t i = 0; i < model->tensor_count; i++)
        if (strcmp(model->tensors[i].name, name) == 0)
            return &model->tensors[i];
    return NULL;
}

enum delta_status delta_model_check_finite(const struct delta_model *model, struct delta_error *err)
{
    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct delta_tensor *tensor = &model->tensors[i];
        for (size_t k = 0; k < tensor->count; k++)
            if (!isfinite(tensor->data[k]))
                return delta_fail(err, DELTA_NONFINITE, "tensor '%s', element %zu is %s",
                                  tensor->name, k, isnan(tensor->data[k]) ? "NaN" : "infinite");
    }
    return DELTA_OK;
}

/* ---- classes and the head ---- */

enum delta_status delta_model_add_class(struct delta_model *model, const struct delta_class_id *id,
                                        struct delta_error *err)
{
    struct delta_class_id *classes;

    if (delta_model_class_index(model, id->text) >= 0)
        return delta_fail(err, DELTA_EXISTS, "class '%s' exists already", id->text);
    if (model->class_count >= DELTA_MODEL_MAX_CLASSES)
        return delta_fail(err, DELTA_LIMIT, "more than %d classes", DELTA_MODEL_MAX_CLASSES);
    classes = reallocarray(model->classes, model->class_count + 1, sizeof *classes);
    if (!classes)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate class '%s'", id->text);
    model->classes = classes;
    classes[model->class_count++] = *id;
    return DELTA_OK;
}

long delta_model_class_index(const struct delta_model *model, const char *id)
{
    for (size_t i = 0; i < model->class_count; i++)
        if (strcmp(model->classes[i].text, id) == 0)
            return (long)i;
    return -1;
}

enum delta_status delta_model_head(const struct delta_model *model, struct delta_tensor **weight,
                                   struct delta_tensor **bias, struct delta_error *err)
{
    static const char *const names[][2] = {{"fc.weight", "fc.bias"},
                                           {"classifier.1.weight", "classifier.1.bias"}};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct delta_tensor *w = delta_model_find(model, names[i][0]);
        struct delta_tensor *b = delta_model_find(model, names[i][1]);
        if (!w || !b)
            continue;
        if (w->rank != 2 || b->rank != 1 || w->shape[0] != model->class_count ||
            b->shape[0] != model->class_count)
            return delta_fail(err, DELTA_FORMAT,
                              "head '%s' has %llu rows, '%s' has %llu, the model has %zu classes",
                              w->name, (unsigned long long)w->shape[0], b->name,
                              (unsigned long long)b->shape[0], model->class_count);
        if (weight)
            *weight = w;
        if (bias)
            *bias = b;
        return DELTA_OK;
    }
    return delta_fail(err, DELTA_FORMAT,
                      "no head: neither 'fc.weight' and 'fc.bias' nor 'classifier.1.*'");
}

/* A tensor with `rows` more in dimension 0, and the plan that says the same about the old ones. */
enum delta_status delta_tensor_grow(struct delta_tensor *tensor, uint64_t rows,
                                    struct delta_error *err)
{
    struct delta_tensor grown = *tensor;
    uint64_t *first = &grown.shape[0];
    enum delta_status st;

    if (rows == 0)
        return DELTA_OK;
    if (__builtin_add_overflow(*first, rows, first))
        return delta_fail(err, DELTA_LIMIT, "tensor '%s' grows too large", tensor->name);
    st = delta_shape_count(grown.rank, grown.shape, &grown.count, err);
    if (st)
        return delta_fail_in(err, st, "tensor '%s'", tensor->name);
    if (tensor->freeze.mode == DELTA_FREEZE_ALL) {
        const size_t old = (size_t)tensor->shape[0];
        uint8_t *bits = delta_calloc((old + 7) / 8, 1);
        if (!bits)
            return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a freeze plan");
        for (size_t i = 0; i < old; i++)
            bits[i / 8] |= (uint8_t)(1u << (i % 8));
        grown.freeze = (struct delta_freeze){DELTA_FREEZE_ROWS, bits, old};
    }
    grown.data = delta_calloc_aligned(grown.count, sizeof *grown.data);
    if (!grown.data) {
        if (tensor->freeze.mode == DELTA_FREEZE_ALL)
            free(grown.freeze.bits);
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate tensor '%s'", tensor->name);
    }
    memcpy(grown.data, tensor->data, tensor->count * sizeof *grown.data);
    free(tensor->data);
    *tensor = grown;
    return DELTA_OK;
}

void delta_freeze_cut(struct delta_freeze *plan, size_t count)
{
    if (plan->count <= count)
        return;
    plan->count = count;
    if (count % 8)
        plan->bits[count / 8] &= (uint8_t)((1u << (count % 8)) - 1);
}

enum delta_status delta_tensor_resize(struct delta_tensor *tensor, uint64_t rows,
                                      struct delta_error *err)
{
    if (rows >= tensor->shape[0])
        return delta_tensor_grow(tensor, rows - tensor->shape[0], err);
    if (rows == 0)
        return delta_fail(err, DELTA_LIMIT, "tensor '%s' would have no rows", tensor->name);
    tensor->count = tensor->count / (size_t)tensor->shape[0] * (size_t)rows;
    tensor->shape[0] = rows;
    delta_freeze_cut(&tensor->freeze, delta_freeze_limit(tensor, tensor->freeze.mode));
    return DELTA_OK;
}

enum delta_status delta_model_grow_head(struct delta_model *model, const struct delta_class_id *ids,
                                        size_t count, struct delta_error *err)
{
    const size_t old = model->class_count;
    struct delta_tensor *weight, *bias;
    enum delta_status st = delta_model_head(model, &weight, &bias, err);

    for (size_t i = 0; i < count && !st; i++)
        st = delta_model_add_class(model, &ids[i], err);
    if (!st)
        st = delta_tensor_grow(bias, count, err);
    if (!st) {
        st = delta_tensor_grow(weight, count, err);
        if (st) { /* the bias keeps its longer block; only its shape goes back */
            bias->shape[0] -= count;
            bias->count -= count;
        }
    }
    if (st)
        model->class_count = old;
    return st;
}

/* ---- the freeze plan ---- */

size_t delta_freeze_limit(const struct delta_tensor *tensor, enum delta_freeze_mode mode)
{
    if (mode == DELTA_FREEZE_ROWS)
        return (size_t)tensor->shape[0];
    return mode == DELTA_FREEZE_WEIGHTS ? tensor->count : 0;
}

enum delta_status delta_tensor_set_freeze(struct delta_tensor *tensor, enum delta_freeze_mode mode,
                                          const uint8_t *bits, size_t count,
                                          struct delta_error *err)
{
    uint8_t *copy = NULL;

    if (mode == DELTA_FREEZE_ROWS || mode == DELTA_FREEZE_WEIGHTS) {
        const size_t bytes = count / 8 + (count % 8 != 0);
        if (!bits || count == 0 || count > delta_freeze_limit(tensor, mode))
            return delta_fail(err, DELTA_FORMAT,
                              "tensor '%s': a freeze plan of %zu bits, 1 to %zu are possible",
                              tensor->name, count, delta_freeze_limit(tensor, mode));
        copy = delta_calloc(bytes, 1);
        if (!copy)
            return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a freeze plan");
        memcpy(copy, bits, bytes);
        if (count % 8) /* what lies beyond the last bit is not part of the version */
            copy[bytes - 1] &= (uint8_t)((1u << (count % 8)) - 1);
    } else if (mode == DELTA_FREEZE_LIVE || mode == DELTA_FREEZE_ALL) {
        count = 0;
    } else {
        return delta_fail(err, DELTA_FORMAT, "tensor '%s': unknown freeze mode %d", tensor->name,
                          (int)mode);
    }
    free(tensor->freeze.bits);
    tensor->freeze = (struct delta_freeze){mode, copy, count};
    return DELTA_OK;
}

static bool bit(const struct delta_freeze *freeze, size_t i)
{
    return i < freeze->count && (freeze->bits[i / 8] >> (i % 8) & 1);
}

bool delta_tensor_is_frozen(const struct delta_tensor *tensor, size_t element)
{
    switch (tensor->freeze.mode) {
    case DELTA_FREEZE_LIVE:
        return false;
    case DELTA_FREEZE_ALL:
        return true;
    case DELTA_FREEZE_ROWS:
        return bit(&tensor->freeze, element / (tensor->count / (size_t)tensor->shape[0]));
    case DELTA_FREEZE_WEIGHTS:
        return bit(&tensor->freeze, element);
    }
    return true;
}

size_t delta_tensor_live_count(const struct delta_tensor *tensor)
{
    const struct delta_freeze *freeze = &tensor->freeze;
    size_t frozen = 0;

    if (freeze->mode == DELTA_FREEZE_ALL)
        return 0;
    for (size_t i = 0; i < freeze->count; i++)
        frozen += bit(freeze, i);
    if (freeze->mode == DELTA_FREEZE_ROWS)
        frozen *= tensor->count / (size_t)tensor->shape[0];
    return tensor->count - frozen;
}
