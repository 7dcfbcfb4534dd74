/* safetensors files (huggingface format): 8-byte length, JSON header, tensors.
 * Import takes float32 tensors as they are and widens bf16 ones; int64 "num_batches_tracked"
 * entries are left out. Metadata that this project understands: arch, width, stem, mean, std,
 * classes, class_names. */
#ifndef DELTA_SAFETENSORS_H
#define DELTA_SAFETENSORS_H

#include "delta/model.h"

/* Free-form metadata strings of the file that became neither tensors nor architecture. */
#define DELTA_SAFETENSORS_LABELS_MAX 65535
struct delta_safetensors_info {
    long *labels; /* owned; "classes": data-set label of each output, when given */
    size_t label_count;
};
void delta_safetensors_info_release(struct delta_safetensors_info *info);

/* What a caller knows better than a file: goes before its metadata and before what its tensors
 * look like. NULL and 0: nothing. A MobileNetV2 of torchvision, for one, says nowhere that it was
 * trained with the strides for small images. */
struct delta_arch_hint {
    const char *name, *stem;
    uint32_t width; /* as in struct delta_arch */
    uint32_t side;  /* pixels of a square image */
};

/* Loads tensors and architecture. Class ids come from "class_names" (blank-separated) when
 * present, otherwise "class-0", "class-1", ... for each row of the head; a caller that knows the
 * labels' names renames them (model.classes).
 *   info     may be NULL
 *   fails    TRUNCATED, FORMAT (names the tensor: offsets that overlap, leave gaps or lie),
 *            UNSUPPORTED (dtype, rank), LIMIT, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_safetensors_decode(struct delta_model *out,
                                                          struct delta_bytes file,
                                                          struct delta_safetensors_info *info,
                                                          struct delta_error *err);
/* The same.
 *   hint     may be NULL
 *   fails    also MISMATCH: the first tensors cannot be those of the network that the hint names */
DELTA_MUST_USE enum delta_status delta_safetensors_decode_as(struct delta_model *out,
                                                             struct delta_bytes file,
                                                             const struct delta_arch_hint *hint,
                                                             struct delta_safetensors_info *info,
                                                             struct delta_error *err);
struct delta_peek; /* file.h */
/* Refuses, by its header alone, what is no safetensors file or does not hold what it lists.
 *   fails    TRUNCATED, FORMAT, LIMIT, IO, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_safetensors_judge(struct delta_peek *peek,
                                                         struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_safetensors_load(struct delta_model *out, const char *path,
                                                        struct delta_safetensors_info *info,
                                                        struct delta_error *err);
/* What values are written as. BF16: the tensors of two dimensions and more, rounded to the nearest;
 * vectors stay float32. */
enum delta_safetensors_dtype { DELTA_SAFETENSORS_F32, DELTA_SAFETENSORS_BF16 };
DELTA_MUST_USE enum delta_status delta_safetensors_save(const struct delta_model *model,
                                                        enum delta_safetensors_dtype dtype,
                                                        const char *path, struct delta_error *err);

/* A model file of either kind, told apart by content (.flm magic, else safetensors). */
DELTA_MUST_USE enum delta_status delta_model_load_any(struct delta_model *out, const char *path,
                                                      struct delta_digest *digest,
                                                      struct delta_safetensors_info *info,
                                                      struct delta_error *err);

#endif
