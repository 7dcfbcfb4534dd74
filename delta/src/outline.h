/* A model file by its header alone: everything that names the version, where each tensor and
 * bitmap lies, no values. What a program needs that handles models larger than its memory.
 */
#ifndef DELTA_OUTLINE_H
#define DELTA_OUTLINE_H

#include "pack.h"

struct delta_outline {
    /* Tensors in file order; data and freeze.bits are NULL, shapes and freeze.count hold. */
    struct delta_model model;
    struct delta_tensor_digests *digests; /* owned, [tensor_count] */
    uint64_t *data_at;                    /* owned; offsets in the file */
    uint64_t *bits_at;                    /* owned; 0: no bitmap */
    struct delta_digest version;
    uint64_t file_len;
};

void delta_outline_release(struct delta_outline *outline);

/* Checks all that the header can tell: canonical form, limits, and that the parts fill the file.
 *   front    only needed during the call
 *   fails    as delta_model_decode() but DIGEST: no payload is looked at */
DELTA_MUST_USE enum delta_status delta_outline_init(struct delta_outline *out,
                                                    const struct delta_front *front,
                                                    struct delta_error *err);

#endif
