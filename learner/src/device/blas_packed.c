/* Weights in the order that a kernel wants, kept while they do not change. */
#include <stdlib.h>

#include "blas.h"

static struct blas_packed *find(struct blas *blas, const float *weight, enum blas_packed_kind kind)
{
    for (size_t i = 0; i < blas->packed_count; i++)
        if (blas->packed[i].weight == weight && blas->packed[i].kind == kind)
            return &blas->packed[i];
    return NULL;
}

enum delta_status blas_packed_reserve(struct blas *blas, const struct learner_op *op,
                                      enum blas_packed_kind kind, size_t floats,
                                      struct delta_error *err)
{
    struct blas_packed *packed = find(blas, op->weight, kind);

    if (packed && packed->floats >= floats)
        return DELTA_OK;
    if (!packed && blas->packed_count == BLAS_PACKED_MAX)
        return delta_fail(err, DELTA_LIMIT, "layer '%s': more than %d layers with packed weights",
                          op->name, BLAS_PACKED_MAX);
    float *data = delta_calloc_aligned(floats, sizeof *data);
    if (!data)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for the packed weights of layer '%s'",
                          op->name);
    if (!packed)
        packed = &blas->packed[blas->packed_count++];
    free(packed->data);
    *packed =
        (struct blas_packed){.weight = op->weight, .kind = kind, .data = data, .floats = floats};
    return DELTA_OK;
}

float *blas_packed_weights(struct blas *blas, const struct learner_op *op,
                           enum blas_packed_kind kind, uint64_t version, bool *stale)
{
    struct blas_packed *packed = find(blas, op->weight, kind);

    *stale = !packed || !version || packed->version != version;
    if (!packed)
        return NULL;
    packed->version = version;
    return packed->data;
}

size_t blas_packed_floats(const struct blas *blas)
{
    size_t floats = 0;

    for (size_t i = 0; i < blas->packed_count; i++)
        floats += blas->packed[i].floats;
    return floats;
}

void blas_packed_release(struct blas *blas)
{
    for (size_t i = 0; i < blas->packed_count; i++)
        free(blas->packed[i].data);
    blas->packed_count = 0;
}
