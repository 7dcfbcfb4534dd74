/* NumPy's array files, format version 1.0 of numpy.lib.format: float32, C order, little-endian.
 */
#ifndef DELTA_NPY_H
#define DELTA_NPY_H

#include "delta/model.h"

/* Appends header and values of a tensor to `out` (initialised by the caller).
 *   fails    LIMIT (cap of out), NO_MEMORY */
DELTA_MUST_USE enum delta_status
delta_npy_write(struct delta_buf *out, const struct delta_tensor *tensor, struct delta_error *err);

/* What an array file holds. */
struct delta_npy {
    uint32_t rank; /* 1..DELTA_TENSOR_RANK_MAX; a scalar becomes shape {1} */
    uint64_t shape[DELTA_TENSOR_RANK_MAX];
    size_t count;
    struct delta_bytes values; /* borrowed: 4 * count bytes, float32, not aligned */
};

/* Versions 1.0 to 3.0.
 *   fails    TRUNCATED, FORMAT, UNSUPPORTED (another dtype, Fortran order, rank over 4), LIMIT */
DELTA_MUST_USE enum delta_status delta_npy_read(struct delta_npy *out, struct delta_bytes file,
                                                struct delta_error *err);

#endif
