#include "rounding.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pack.h"
#include "quant.h"

/* Half the root mean square move: noise of 14 % of the move. Accuracy does not feel it, of a whole
 * one it does: measured in delta/SIZES.md. */
#define STEP_DEFAULT 0.5
/* A move is rounded up from this much of a step on: moves near zero are many and cost more than
 * they tell, so the result is smaller and no less accurate (delta/SIZES.md). Where a residual
 * carries on what is lost, nearest is better: less is left in the end. */
#define UP_FROM 0.7
#define UP_FROM_CARRIED 0.5

enum delta_status delta_tensor_resized(const struct delta_tensor *base, uint64_t rows,
                                       struct delta_tensor *out, struct delta_error *err)
{
    enum delta_status st;

    *out = *base;
    out->freeze = (struct delta_freeze){DELTA_FREEZE_LIVE, NULL, 0};
    out->data = delta_calloc_aligned(base->count, sizeof *out->data);
    if (!out->data)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate tensor '%s'", base->name);
    memcpy(out->data, base->data, base->count * sizeof *out->data);
    st =
        delta_tensor_set_freeze(out, base->freeze.mode, base->freeze.bits, base->freeze.count, err);
    return st ? st : delta_tensor_resize(out, rows, err);
}

enum delta_status delta_residual_begin(struct delta_model *out, const struct delta_model *from,
                                       const struct delta_model *target, struct delta_error *err)
{
    enum delta_status st = delta_model_copy(out, target, err);

    for (size_t i = 0; i < out->tensor_count && !st; i++) {
        struct delta_tensor *to = &out->tensors[i];
        const struct delta_tensor *carried = delta_model_find(from, to->name);
        memset(to->data, 0, to->count * sizeof *to->data);
        if (!carried)
            continue;
        if (carried->rank != to->rank || carried->count > to->count ||
            memcmp(carried->shape + 1, to->shape + 1, (to->rank - 1) * sizeof to->shape[0]) != 0)
            st = delta_fail(err, DELTA_MISMATCH,
                            "the residual's tensor '%s' has another shape; start without one",
                            to->name);
        else
            memcpy(to->data, carried->data, carried->count * sizeof *to->data);
    }
    if (!st)
        st = delta_model_check_finite(out, err);
    if (st)
        delta_model_release(out);
    return st;
}

/* To the nearest bfloat16, ties to even; the largest finite one instead of infinity. */
static uint32_t to_bf16(uint32_t pattern)
{
    const uint32_t up = pattern + 0x7fff + (pattern >> 16 & 1);

    return ((up & 0x7fffffff) >= 0x7f800000 ? pattern : up) & 0xffff0000;
}

static void round_bf16(const struct delta_tensor *grown, enum delta_scope scope, size_t base_count,
                       const uint32_t *base, uint32_t *target)
{
    struct delta_places places;
    uint32_t elements[256];
    size_t n;

    delta_places_begin(&places, grown, scope, base_count);
    while ((n = delta_places_next(&places, elements, 256)) > 0)
        for (size_t i = 0; i < n; i++)
            if (target[elements[i]] != base[elements[i]])
                target[elements[i]] = to_bf16(target[elements[i]]);
}

static enum delta_status round_int8(struct delta_rounding *out, const struct delta_tensor *grown,
                                    enum delta_scope scope, size_t base_count, double step,
                                    bool carried, const uint32_t *base, uint32_t *target,
                                    struct delta_error *err)
{
    struct delta_quant quant;
    enum delta_status st =
        delta_quant_round(&quant, grown, scope, base_count, step > 0 ? step : STEP_DEFAULT,
                          carried ? UP_FROM_CARRIED : UP_FROM, base, target, err);

    if (st)
        return st;
    delta_buf_init(&out->payload, DELTA_MODEL_MAX_BYTES);
    st = delta_quant_put(&out->payload, &quant, err);
    out->coding = (struct delta_coding){DELTA_ENCODING_INT8, scope, quant.count};
    delta_quant_release(&quant);
    return st;
}

/* Adds what was carried to the values in scope; false where that is not finite. */
static bool add_residual(const struct delta_tensor *grown, enum delta_scope scope,
                         size_t base_count, const float *residual, float *target)
{
    struct delta_places places;
    uint32_t elements[256];
    bool finite = true;
    size_t n;

    delta_places_begin(&places, grown, scope, base_count);
    while ((n = delta_places_next(&places, elements, 256)) > 0)
        for (size_t i = 0; i < n; i++) {
            target[elements[i]] += residual[elements[i]];
            finite &= isfinite(target[elements[i]]) != 0;
        }
    return finite;
}

static void keep_residual(const struct delta_tensor *grown, enum delta_scope scope,
                          size_t base_count, const float *wanted, const float *rounded,
                          float *residual)
{
    struct delta_places places;
    uint32_t elements[256];
    size_t n;

    delta_places_begin(&places, grown, scope, base_count);
    while ((n = delta_places_next(&places, elements, 256)) > 0)
        for (size_t i = 0; i < n; i++)
            residual[elements[i]] = wanted[elements[i]] - rounded[elements[i]];
}

static enum delta_status round_in(struct delta_rounding *out, const struct delta_tensor *grown,
                                  size_t base_count, struct delta_tensor *target,
                                  struct delta_tensor *residual, enum delta_choice choice,
                                  double step, struct delta_error *err)
{
    const uint32_t *base = (const uint32_t *)(const void *)grown->data;
    uint32_t *values = (uint32_t *)(void *)target->data;
    const enum delta_scope scope = delta_codec_scope(grown, base_count, base, values);
    float *exact = delta_calloc(target->count, sizeof *exact);
    float *wanted = delta_calloc(target->count, sizeof *wanted);
    enum delta_status st = DELTA_OK;

    if (!exact || !wanted) {
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu values", target->count);
        goto done;
    }
    memcpy(exact, target->data, target->count * sizeof *exact);
    if (residual && !add_residual(grown, scope, base_count, residual->data, target->data))
        memcpy(target->data, exact, target->count * sizeof *exact);
    memcpy(wanted, target->data, target->count * sizeof *wanted);
    if (choice == DELTA_CHOICE_BF16)
        round_bf16(grown, scope, base_count, base, values);
    else
        st = round_int8(out, grown, scope, base_count, step, residual != NULL, base, values, err);
    if (st == DELTA_NONFINITE) { /* too large to round: it travels exactly */
        memcpy(target->data, exact, target->count * sizeof *exact);
        st = DELTA_OK;
    } else if (!st && residual) {
        keep_residual(grown, scope, base_count, wanted, target->data, residual->data);
    }
done:
    free(exact);
    free(wanted);
    return st;
}

enum delta_status delta_round_tensor(struct delta_rounding *out, const struct delta_tensor *base,
                                     struct delta_tensor *target, struct delta_tensor *residual,
                                     enum delta_choice choice, double step, struct delta_error *err)
{
    struct delta_tensor grown = {.rank = 0};
    enum delta_status st;

    *out = (struct delta_rounding){.payload = {0}};
    if (base->count == target->count &&
        memcmp(base->data, target->data, base->count * sizeof *base->data) == 0)
        return DELTA_OK;
    st = delta_tensor_resized(base, target->shape[0], &grown, err);
    if (!st)
        st = round_in(out, &grown, base->count < target->count ? base->count : target->count,
                      target, residual, choice, step, err);
    free(grown.data);
    free(grown.freeze.bits);
    return st;
}

#define ROW_VALUES_MIN 64 /* smaller rows are not worth rounding: biases, batch norm */

enum delta_status delta_round(struct delta_model *target, const struct delta_model *base,
                              double step, double head, struct delta_error *err)
{
    struct delta_tensor *weight, *bias;
    enum delta_status st = delta_model_head(target, &weight, &bias, err);

    for (size_t i = 0; i < target->tensor_count && !st; i++) {
        struct delta_tensor *tensor = &target->tensors[i];
        const struct delta_tensor *from = delta_model_find(base, tensor->name);
        const double grid = tensor == weight ? head : step;
        struct delta_rounding rounding = {.payload = {0}};
        if (!from || from->rank != tensor->rank)
            st = delta_fail(err, DELTA_MISMATCH, "the base has no tensor '%s' of this kind",
                            tensor->name);
        else if (grid > 0 && tensor->count / tensor->shape[0] >= ROW_VALUES_MIN)
            st = delta_round_tensor(&rounding, from, tensor, NULL, DELTA_CHOICE_INT8, grid, err);
        delta_buf_release(&rounding.payload);
    }
    return st;
}
