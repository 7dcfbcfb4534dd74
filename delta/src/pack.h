/* What writers and readers of both containers share: checks and header pieces of a model.
 * The order of keys and the forms here are the canonical ones of FORMAT.md: change them and every
 * version in the world gets another name.
 */
#ifndef DELTA_PACK_H
#define DELTA_PACK_H

#include "container.h"

#define DELTA_SCHEMA 1

/* Tensors travel as they lie in memory. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "big-endian hosts are not supported");
_Static_assert(sizeof(float) == 4, "float is not binary32");

/* Digests of one tensor, in the order in which payloads lie. */
struct delta_tensor_digests {
    struct delta_digest data;
    struct delta_digest bits; /* only where a bitmap exists */
};

DELTA_MUST_USE enum delta_status delta_tensor_name_check(const char *name, struct delta_error *err);
/* Product of a shape.  fails: LIMIT (rank, zero dimension, DELTA_MODEL_MAX_BYTES) */
DELTA_MUST_USE enum delta_status delta_shape_count(uint32_t rank, const uint64_t *shape,
                                                   size_t *count, struct delta_error *err);
size_t delta_model_bytes(const struct delta_model *model); /* of all tensors */
/* Bits that a freeze plan of this mode may have at most. */
size_t delta_freeze_limit(const struct delta_tensor *tensor, enum delta_freeze_mode mode);
const char *delta_freeze_name(enum delta_freeze_mode mode);
DELTA_MUST_USE enum delta_status delta_freeze_parse(const char *name, enum delta_freeze_mode *mode,
                                                    struct delta_error *err);
static inline size_t delta_freeze_bytes(const struct delta_freeze *freeze)
{
    return freeze->count / 8 + (freeze->count % 8 != 0);
}

/* Makes dimension 0 as long as `rows`: more are zeroed and live, fewer are cut off, and the freeze
 * plan with them.  fails: LIMIT, NO_MEMORY; unchanged then */
DELTA_MUST_USE enum delta_status delta_tensor_resize(struct delta_tensor *tensor, uint64_t rows,
                                                     struct delta_error *err);
/* Shortens a plan to its first `count` bits, if it has more; the bits behind the end become 0. */
void delta_freeze_cut(struct delta_freeze *plan, size_t count);
/* Appends zeroed live rows to dimension 0.  fails: LIMIT, NO_MEMORY; unchanged then */
DELTA_MUST_USE enum delta_status delta_tensor_grow(struct delta_tensor *tensor, uint64_t rows,
                                                   struct delta_error *err);

DELTA_MUST_USE enum delta_status delta_arch_check(const struct delta_arch *arch,
                                                  struct delta_error *err);
bool delta_arch_equal(const struct delta_arch *a, const struct delta_arch *b);
void delta_arch_pack(struct delta_msg_out *out, const struct delta_arch *arch);
DELTA_MUST_USE enum delta_status delta_arch_unpack(struct delta_msg_value map,
                                                   struct delta_arch *out, struct delta_error *err);
void delta_shape_pack(struct delta_msg_out *out, uint32_t rank, const uint64_t *shape);
DELTA_MUST_USE enum delta_status delta_shape_unpack(struct delta_msg_value map, const char *key,
                                                    uint32_t *rank, uint64_t *shape, size_t *count,
                                                    struct delta_error *err);

/* Every id in normal form, none twice.  fails: FORMAT, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_classes_check(const struct delta_class_id *classes,
                                                     size_t count, struct delta_error *err);
/* A list of class ids in normal form, all different; *out is the caller's. */
DELTA_MUST_USE enum delta_status delta_classes_unpack(struct delta_msg_value map, const char *key,
                                                      struct delta_class_id **out, size_t *count,
                                                      struct delta_error *err);

/* schema and kind of a header; refuses a `need` list with anything in it.
 *   fails    FORMAT, UNSUPPORTED */
/* Schema, kind, and that every feature in `need` is known: "drop" of deltas.  fails: UNSUPPORTED */
DELTA_MUST_USE enum delta_status delta_header_check(struct delta_msg_value root, const char *kind,
                                                    struct delta_error *err);

/* Indices of the tensors in ascending order of their names; owned by the caller.
 *   fails    NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_model_order(const struct delta_model *model, size_t **order,
                                                   struct delta_error *err);

/* The canonical header of a model whose tensors have these digests (indexed like model->tensors).
 * out: initialised here.  fails: FORMAT (model not valid), LIMIT, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_model_header(const struct delta_model *model,
                                                    const struct delta_tensor_digests *digests,
                                                    struct delta_buf *out, struct delta_error *err);
/* Digests of all tensors; owned by the caller. */
DELTA_MUST_USE enum delta_status delta_model_hash(const struct delta_model *model,
                                                  struct delta_tensor_digests **digests,
                                                  struct delta_error *err);

#endif
