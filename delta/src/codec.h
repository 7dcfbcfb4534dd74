/* Values of a delta: which elements of a tensor travel (scope), and how (encoding). Bit patterns
 * throughout, never arithmetic: what goes in comes out on every machine.
 */
#ifndef DELTA_CODEC_H
#define DELTA_CODEC_H

#include "delta/delta.h"

enum delta_scope {
    DELTA_SCOPE_ALL,  /* every element */
    DELTA_SCOPE_LIVE, /* live elements of the base's plan, grown rows included */
    DELTA_SCOPE_NEW   /* elements behind the base's last one: grown rows */
};

const char *delta_scope_name(enum delta_scope scope);
DELTA_MUST_USE enum delta_status delta_scope_parse(const char *name, enum delta_scope *scope,
                                                   struct delta_error *err);

/* Elements in scope. `tensor` is the base's, grown to the target's shape; `base_count` the number
 * of elements before it grew. */
size_t delta_scope_count(const struct delta_tensor *tensor, enum delta_scope scope,
                         size_t base_count);
/* Copies bit patterns of the elements in scope: from `data`, laid out like `tensor`, to `values`,
 * or back. */
void delta_scope_gather(const struct delta_tensor *tensor, enum delta_scope scope,
                        size_t base_count, const float *data, uint32_t *values);
void delta_scope_scatter(const struct delta_tensor *tensor, enum delta_scope scope,
                         size_t base_count, const uint32_t *values, float *data);

/* Appends `values` to `out` in the encoding that came out smallest.
 *   fails    LIMIT (cap of out), NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_codec_encode(const uint32_t *values, const uint32_t *base,
                                                    size_t count, int level, struct delta_buf *out,
                                                    enum delta_encoding *encoding,
                                                    struct delta_error *err);
/* Turns base values in place into target values.
 *   fails    FORMAT (not one zstd frame that states exactly 4*count bytes), NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_codec_decode(enum delta_encoding encoding,
                                                    struct delta_bytes payload, uint32_t *values,
                                                    size_t count, struct delta_error *err);

#endif
