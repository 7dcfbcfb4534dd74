/* What a safetensors file says about its network: metadata strings, else what names and shapes
 * imply, else the values of CIFAR. Refuses to guess an architecture it does not recognise.
 */
#ifndef DELTA_SAFETENSORS_META_H
#define DELTA_SAFETENSORS_META_H

#include <jansson.h>

#include "delta/safetensors.h"

/* Fills model->arch and model->classes from the metadata object (NULL: none) and the tensors that
 * are in `model` already.
 *   hint     may be NULL
 *   info     may be NULL; written on success only
 *   fails    FORMAT, LIMIT (name the metadata key), UNSUPPORTED, MISMATCH,
 *            NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_safetensors_meta_read(struct delta_model *model,
                                                             const json_t *meta,
                                                             const struct delta_arch_hint *hint,
                                                             struct delta_safetensors_info *info,
                                                             struct delta_error *err);
/* The metadata object of a model; NULL when out of memory. The caller owns the reference. */
json_t *delta_safetensors_meta_write(const struct delta_model *model);

#endif
