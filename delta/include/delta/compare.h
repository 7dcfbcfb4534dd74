/* How two versions differ, tensor by tensor, in numbers that people read: norms, largest change,
 * where in a tensor it happened. Any two models will do; nothing here judges or changes them.
 *
 * The change of an element is target - base in float64; an element that the base lacks changed
 * from 0. Where both have a head and their class lists differ, head rows are compared by class.
 */
#ifndef DELTA_COMPARE_H
#define DELTA_COMPARE_H

#include "delta/model.h"

#define DELTA_CHANGE_BINS 32   /* bin k counts changes with 2^(k-29) <= |change| < 2^(k-28) */
#define DELTA_CHANGE_LOW (-29) /* the lowest bin takes all smaller ones, the highest all larger */
#define DELTA_CHANGE_SLICES 60 /* equal parts of a tensor, in element order */

enum delta_presence {
    DELTA_IN_BOTH,
    DELTA_IN_TARGET,  /* the base has no such tensor: every element is new */
    DELTA_IN_BASE,    /* the target has none: only shape and elements are told */
    DELTA_OTHER_SHAPE /* beyond dimension 0: not compared, only shape and elements are told */
};

struct delta_change {
    char name[DELTA_TENSOR_NAME_MAX + 1];
    enum delta_presence presence;
    uint32_t rank;
    uint64_t shape[DELTA_TENSOR_RANK_MAX]; /* the target's; the base's where only that has it */
    uint64_t elements;
    uint64_t live;           /* of the target's elements, by the base's plan; new rows are live */
    uint64_t changed;        /* bit patterns that differ, new elements included */
    uint64_t added;          /* elements that the base lacks */
    uint64_t dropped;        /* elements of the base that the target lacks */
    uint64_t frozen_changed; /* of `changed`: frozen in the base's plan */
    uint64_t nonfinite;      /* NaN or infinite on either side; left out of all below */
    bool plan_changed;
    double norm;                      /* Euclidean, of the change */
    double base_norm;                 /* Euclidean, of the base's elements that were compared */
    double largest;                   /* |change| */
    uint64_t largest_at;              /* element of the target, row-major */
    uint64_t bins[DELTA_CHANGE_BINS]; /* changed elements by |change| */
    uint32_t slices;                  /* of `heat` in use: min(DELTA_CHANGE_SLICES, elements) */
    double heat[DELTA_CHANGE_SLICES]; /* root mean square of the change in each slice */
};

struct delta_comparison {
    struct delta_change *changes; /* ascending by name */
    size_t count;
    bool same_arch;
    size_t classes_kept; /* in both, at whatever index */
    size_t classes_moved;
    struct delta_class_id *added; /* in target only, in its order */
    size_t added_count;
    struct delta_class_id *removed; /* in base only, in its order */
    size_t removed_count;
    uint64_t elements, live, changed; /* sums */
    double norm, base_norm;           /* of everything */
};

/* out is initialised here; end with delta_comparison_release().
 *   fails    NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_compare(const struct delta_model *base,
                                               const struct delta_model *target,
                                               struct delta_comparison *out,
                                               struct delta_error *err);
void delta_comparison_release(struct delta_comparison *comparison);
/* By name, or NULL. */
const struct delta_change *delta_comparison_find(const struct delta_comparison *comparison,
                                                 const char *name);

#endif
