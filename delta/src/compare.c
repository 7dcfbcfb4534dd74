#include "delta/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pack.h"

void delta_comparison_release(struct delta_comparison *comparison)
{
    if (!comparison)
        return;
    free(comparison->changes);
    free(comparison->added);
    free(comparison->removed);
    *comparison = (struct delta_comparison){.count = 0};
}

const struct delta_change *delta_comparison_find(const struct delta_comparison *comparison,
                                                 const char *name)
{
    size_t low = 0, high = comparison->count;

    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(name, comparison->changes[middle].name);
        if (order == 0)
            return &comparison->changes[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* ---- class lists ---- */

struct by_name {
    const char *text;
    size_t index;
};

static int by_name_order(const void *a, const void *b)
{
    return strcmp(((const struct by_name *)a)->text, ((const struct by_name *)b)->text);
}

/* Class lists have up to 65,535 names: sorted, each is found in a few steps. */
static struct by_name *sorted_classes(const struct delta_model *model)
{
    struct by_name *list = delta_calloc(model->class_count, sizeof *list);

    for (size_t i = 0; list && i < model->class_count; i++)
        list[i] = (struct by_name){model->classes[i].text, i};
    if (list && model->class_count)
        qsort(list, model->class_count, sizeof *list, by_name_order);
    return list;
}

/* Index of the class in the model that `list` was made from, or -1. */
static long find_class(const struct by_name *list, size_t count, const char *text)
{
    const struct by_name key = {text, 0};
    const struct by_name *found =
        count ? bsearch(&key, list, count, sizeof *list, by_name_order) : NULL;

    return found ? (long)found->index : -1;
}

/* rows[r] = the base's row of the target's class r, or -1; owned by the caller. */
static enum delta_status compare_classes(const struct delta_model *base,
                                         const struct delta_model *target,
                                         struct delta_comparison *out, long **rows,
                                         struct delta_error *err)
{
    struct by_name *a = sorted_classes(base), *b = sorted_classes(target);
    enum delta_status st = DELTA_OK;

    *rows = delta_calloc(target->class_count, sizeof **rows);
    out->added = delta_calloc(target->class_count, sizeof *out->added);
    out->removed = delta_calloc(base->class_count, sizeof *out->removed);
    if (!a || !b || !*rows || !out->added || !out->removed) {
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu classes", target->class_count);
        goto done;
    }
    for (size_t i = 0; i < target->class_count; i++) {
        const long at = find_class(a, base->class_count, target->classes[i].text);
        (*rows)[i] = at;
        if (at < 0)
            out->added[out->added_count++] = target->classes[i];
        else
            out->classes_kept++;
        out->classes_moved += at >= 0 && (size_t)at != i;
    }
    for (size_t i = 0; i < base->class_count; i++)
        if (find_class(b, target->class_count, base->classes[i].text) < 0)
            out->removed[out->removed_count++] = base->classes[i];
done:
    free(a);
    free(b);
    return st;
}

/* ---- one tensor ---- */

struct sums {
    double square, base_square;
    double slice[DELTA_CHANGE_SLICES];
    uint64_t in_slice[DELTA_CHANGE_SLICES];
};

static void count_bin(struct delta_change *change, double size)
{
    int exponent = DELTA_CHANGE_LOW;
    long bin;

    if (size > 0)
        frexp(size, &exponent); /* size = m * 2^exponent, 0.5 <= m < 1 */
    bin = (long)exponent - 1 - DELTA_CHANGE_LOW;
    if (bin < 0)
        bin = 0;
    if (bin >= DELTA_CHANGE_BINS)
        bin = DELTA_CHANGE_BINS - 1;
    change->bins[bin]++;
}

/* One element; `from` NULL: the base lacks it. */
static void count_element(struct delta_change *change, struct sums *sums, size_t at,
                          const float *from, const float *to)
{
    const size_t slice = (size_t)((uint64_t)at * change->slices / change->elements);
    const double before = from ? (double)*from : 0, after = (double)*to;
    const double step = after - before, size = fabs(step);

    sums->in_slice[slice]++;
    if (from && memcmp(from, to, sizeof *to) == 0) {
        sums->base_square += isfinite(before) ? before * before : 0;
        change->nonfinite += !isfinite(before);
        return;
    }
    change->changed++;
    if (!isfinite(before) || !isfinite(after)) {
        change->nonfinite++;
        return;
    }
    sums->base_square += before * before;
    sums->square += step * step;
    sums->slice[slice] += step * step;
    count_bin(change, size);
    if (size > change->largest) {
        change->largest = size;
        change->largest_at = at;
    }
}

static void finish(struct delta_change *change, const struct sums *sums)
{
    change->norm = sqrt(sums->square);
    change->base_norm = sqrt(sums->base_square);
    for (uint32_t i = 0; i < change->slices; i++)
        change->heat[i] =
            sums->in_slice[i] ? sqrt(sums->slice[i] / (double)sums->in_slice[i]) : 0.0;
}

static void describe(struct delta_change *change, const struct delta_tensor *tensor,
                     enum delta_presence presence)
{
    memcpy(change->name, tensor->name, sizeof change->name);
    change->presence = presence;
    change->rank = tensor->rank;
    memcpy(change->shape, tensor->shape, sizeof change->shape);
    change->elements = tensor->count;
    change->slices =
        tensor->count < DELTA_CHANGE_SLICES ? (uint32_t)tensor->count : DELTA_CHANGE_SLICES;
}

static bool same_freeze(const struct delta_freeze *a, const struct delta_freeze *b)
{
    return a->mode == b->mode && a->count == b->count &&
           (a->count == 0 || memcmp(a->bits, b->bits, delta_freeze_bytes(a)) == 0);
}

/* rows: the base's row behind each row of the target, -1 for none; NULL: the same row. */
static void compare_tensor(struct delta_change *change, const struct delta_tensor *base,
                           const struct delta_tensor *target, const long *rows)
{
    const size_t row = target->count / (size_t)target->shape[0];
    struct sums sums = {.square = 0};
    size_t shared = 0;

    change->plan_changed = !same_freeze(&base->freeze, &target->freeze);
    for (size_t r = 0; r < target->shape[0]; r++) {
        const long behind = rows ? rows[r] : (long)r;
        const bool has = behind >= 0 && (uint64_t)behind < base->shape[0];
        for (size_t k = 0; k < row; k++) {
            const size_t at = r * row + k, from = has ? (size_t)behind * row + k : 0;
            const uint64_t before = change->changed;
            const bool live = !has || !delta_tensor_is_frozen(base, from);
            count_element(change, &sums, at, has ? &base->data[from] : NULL, &target->data[at]);
            change->live += live;
            change->frozen_changed += !live && change->changed > before;
        }
        shared += has ? row : 0;
    }
    change->added = target->count - shared;
    change->dropped = base->count - shared;
    finish(change, &sums);
}

static void compare_new(struct delta_change *change, const struct delta_tensor *target)
{
    struct sums sums = {.square = 0};

    for (size_t i = 0; i < target->count; i++)
        count_element(change, &sums, i, NULL, &target->data[i]);
    change->live = change->added = target->count;
    finish(change, &sums);
}

static bool same_rows(const struct delta_tensor *a, const struct delta_tensor *b)
{
    return a->rank == b->rank &&
           memcmp(a->shape + 1, b->shape + 1, (a->rank - 1) * sizeof a->shape[0]) == 0;
}

/* Whether both sides hold one row per class there, so that rows belong to classes. */
static bool is_head(const struct delta_model *model, const struct delta_tensor *tensor)
{
    struct delta_tensor *weight, *bias;

    return !delta_model_head(model, &weight, &bias, NULL) && (tensor == weight || tensor == bias);
}

static void compare_pair(struct delta_change *change, const struct delta_model *models[2],
                         const struct delta_tensor *base, const struct delta_tensor *target,
                         const long *rows)
{
    if (!target) {
        describe(change, base, DELTA_IN_BASE);
        change->dropped = base->count;
    } else if (!base) {
        describe(change, target, DELTA_IN_TARGET);
        compare_new(change, target);
    } else if (!same_rows(base, target)) {
        describe(change, target, DELTA_OTHER_SHAPE);
    } else {
        const bool head = is_head(models[0], base) && is_head(models[1], target);
        describe(change, target, DELTA_IN_BOTH);
        compare_tensor(change, base, target, head ? rows : NULL);
    }
}

static void add_up(struct delta_comparison *out, const struct delta_change *change)
{
    if (change->presence == DELTA_IN_BASE)
        return;
    out->elements += change->elements;
    out->live += change->live;
    out->changed += change->changed;
    out->norm = hypot(out->norm, change->norm);
    out->base_norm = hypot(out->base_norm, change->base_norm);
}

static enum delta_status compare_tensors(const struct delta_model *base,
                                         const struct delta_model *target, const long *rows,
                                         struct delta_comparison *out, struct delta_error *err)
{
    const struct delta_model *models[2] = {base, target};
    size_t *a = NULL, *b = NULL, i = 0, k = 0;
    enum delta_status st = delta_model_order(base, &a, err);

    if (!st)
        st = delta_model_order(target, &b, err);
    out->changes = delta_calloc(base->tensor_count + target->tensor_count, sizeof *out->changes);
    if (!st && !out->changes)
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a comparison");
    while (!st && (i < base->tensor_count || k < target->tensor_count)) {
        const struct delta_tensor *x = i < base->tensor_count ? &base->tensors[a[i]] : NULL;
        const struct delta_tensor *y = k < target->tensor_count ? &target->tensors[b[k]] : NULL;
        const int order = !x ? 1 : !y ? -1 : strcmp(x->name, y->name);
        struct delta_change *change = &out->changes[out->count++];
        compare_pair(change, models, order <= 0 ? x : NULL, order >= 0 ? y : NULL, rows);
        add_up(out, change);
        i += order <= 0;
        k += order >= 0;
    }
    free(a);
    free(b);
    return st;
}

enum delta_status delta_compare(const struct delta_model *base, const struct delta_model *target,
                                struct delta_comparison *out, struct delta_error *err)
{
    long *rows = NULL;
    enum delta_status st;

    *out = (struct delta_comparison){.same_arch = delta_arch_equal(&base->arch, &target->arch)};
    st = compare_classes(base, target, out, &rows, err);
    if (!st)
        st = compare_tensors(base, target, rows, out, err);
    free(rows);
    if (st)
        delta_comparison_release(out);
    return st;
}
