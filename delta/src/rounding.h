/* The lossy half of a diff: rounds a target before it gets its name, so that base + delta gives
 * that target bit for bit. Carries what rounding took away from one delta to the next ("error
 * feedback"), so that nothing is lost for good.
 */
#ifndef DELTA_ROUNDING_H
#define DELTA_ROUNDING_H

#include "codec.h"

struct delta_rounding {
    struct delta_buf payload; /* owned; empty: encode the rounded values as if they were exact */
    struct delta_coding coding;
};

/* Rounds what changed in `target`, in place.
 *   residual  may be NULL; the tensor of the same name and shape that carries the error: added
 *             before rounding, replaced in what was rounded
 *   choice    BF16 or INT8;  step: for INT8, 0: default
 *   fails     NO_MEMORY, LIMIT; a target that would round to infinity is left as it is */
DELTA_MUST_USE enum delta_status
delta_round_tensor(struct delta_rounding *out, const struct delta_tensor *base,
                   struct delta_tensor *target, struct delta_tensor *residual,
                   enum delta_choice choice, double step, struct delta_error *err);

/* What is carried, in the shapes of `target`: values of `from` where it has them, zeros elsewhere.
 *   fails    MISMATCH (a tensor of another shape, rows aside), NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_residual_begin(struct delta_model *out,
                                                      const struct delta_model *from,
                                                      const struct delta_model *target,
                                                      struct delta_error *err);

/* A copy of a tensor with so many rows, as delta_tensor_resize() makes it; free data and bits. */
DELTA_MUST_USE enum delta_status delta_tensor_resized(const struct delta_tensor *base,
                                                      uint64_t rows, struct delta_tensor *out,
                                                      struct delta_error *err);

#endif
