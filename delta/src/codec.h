/* Payloads of a delta: which encoding is smallest, and back. Exact throughout: what goes in comes
 * out on every machine. The encodings themselves are in cell, quant and planes.
 */
#ifndef DELTA_CODEC_H
#define DELTA_CODEC_H

#include "positions.h"

DELTA_MUST_USE enum delta_status
delta_encoding_parse(const char *name, enum delta_encoding *encoding, struct delta_error *err);

/* What is to be encoded: bit patterns of all elements of a tensor, before and after.
 * `tensor` is the base's, grown to the target's shape (its data is not looked at). */
struct delta_codec_job {
    const struct delta_tensor *tensor;
    size_t base_count; /* elements that the base has too */
    const uint32_t *base;
    const uint32_t *target;
    enum delta_choice choice; /* AUTO: the smallest; lossy ones: as AUTO */
    int level;                /* zstd's; 0: default */
};

/* How it was encoded. */
struct delta_coding {
    enum delta_encoding encoding;
    enum delta_scope scope;
    size_t count; /* values */
};

static inline enum delta_scope delta_entry_scope(const struct delta_entry *entry)
{
    return entry->live_only    ? DELTA_SCOPE_LIVE
           : entry->grown_only ? DELTA_SCOPE_NEW
           : entry->sparse     ? DELTA_SCOPE_SOME
                               : DELTA_SCOPE_ALL;
}

/* The narrowest scope that holds every change; never SOME. */
enum delta_scope delta_codec_scope(const struct delta_tensor *tensor, size_t base_count,
                                   const uint32_t *base, const uint32_t *target);

/* Appends the payload that came out smallest, and tells what it is. Something must have changed.
 *   fails    LIMIT (cap of out), NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_codec_encode(const struct delta_codec_job *job,
                                                    struct delta_buf *out,
                                                    struct delta_coding *coding,
                                                    struct delta_error *err);

/* Turns `data`, the patterns of all elements of the grown base tensor, into the target's.
 * coding.count must be what the scope has (SOME: at most the elements).
 * Memory: 1 MiB and what zstd takes for its window (new files 2 MiB, at most 4*count).
 *   fails    FORMAT, IO, NO_MEMORY; the data is worth nothing then */
DELTA_MUST_USE enum delta_status delta_codec_decode(const struct delta_coding *coding,
                                                    struct delta_pull *pull,
                                                    const struct delta_tensor *tensor,
                                                    size_t base_count, uint32_t *data,
                                                    struct delta_error *err);

/* Bytes that no coder of this kind can go below: entropy of the cells plus the bits within them,
 * and of the positions where these travel. For reports; `some` as the coding that was chosen. */
/* Does a delta allow a tensor of so many rows to become one of so many others? */
static inline bool delta_rows_fit(uint64_t before, uint64_t after,
                                  const struct delta_reader *reader)
{
    return after == before ||
           after + reader->classes_dropped == before + reader->classes_added_count;
}

double delta_codec_floor_bytes(const struct delta_codec_job *job, enum delta_scope scope);

#endif
