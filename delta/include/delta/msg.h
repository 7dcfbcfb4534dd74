/* MessagePack for headers and protocol bodies: canonical writing, bounded reading.
 *
 * Canonical form: shortest integer and length forms, float64 reals, map keys are strings in
 * strictly ascending byte order (so no duplicates). Writers here produce it if the caller emits
 * keys in order; delta_msg_parse() refuses anything else. A bounded pre-scan runs before
 * msgpack-c sees a byte, because its unpacker reserves memory on a length's word alone.
 */
#ifndef DELTA_MSG_H
#define DELTA_MSG_H

#include "delta/buf.h"

#define DELTA_MSG_MAX_DEPTH 8
#define DELTA_MSG_MAX_OBJECTS 65536

/* ---- writing: errors are sticky in `status`, looked at once at the end ---- */
struct delta_msg_out {
    struct delta_buf *buf;
    enum delta_status status;
};

void delta_msg_map(struct delta_msg_out *out, size_t pairs);
void delta_msg_array(struct delta_msg_out *out, size_t count);
void delta_msg_str(struct delta_msg_out *out, const char *text);
void delta_msg_bin(struct delta_msg_out *out, const void *data, size_t len);
void delta_msg_uint(struct delta_msg_out *out, uint64_t value);
void delta_msg_int(struct delta_msg_out *out, int64_t value);
void delta_msg_real(struct delta_msg_out *out, double value);
void delta_msg_bool(struct delta_msg_out *out, bool value);
/* Appends an already encoded value. */
void delta_msg_raw(struct delta_msg_out *out, struct delta_bytes encoded);

/* ---- reading ---- */
struct delta_msg {
    void *zone;       /* owned */
    const void *root; /* msgpack_object */
};

/* A value inside a parsed message; borrowed; `object` NULL = absent. */
struct delta_msg_value {
    const void *object;
};

/* Parses exactly one canonical value that fills `bytes`.
 *   bytes    borrowed; must outlive *msg (strings and bins point into it)
 *   msg      end with delta_msg_release()
 *   fails    TRUNCATED, FORMAT (not canonical, bytes left over), LIMIT (depth, objects), NO_MEMORY
 * Costs at most DELTA_MSG_MAX_OBJECTS * 24 bytes of memory for any input. */
DELTA_MUST_USE enum delta_status delta_msg_parse(struct delta_msg *msg, struct delta_bytes bytes,
                                                 struct delta_error *err);
void delta_msg_release(struct delta_msg *msg);
struct delta_msg_value delta_msg_root(const struct delta_msg *msg);

/* The pre-scan alone: one canonical value at the front; *used = its length. */
DELTA_MUST_USE enum delta_status delta_msg_scan(struct delta_bytes bytes, size_t *used,
                                                struct delta_error *err);

bool delta_msg_is_map(struct delta_msg_value value);
bool delta_msg_is_array(struct delta_msg_value value);
size_t delta_msg_count(struct delta_msg_value value); /* elements or pairs; 0 if neither */
struct delta_msg_value delta_msg_at(struct delta_msg_value array, size_t index);
/* Pair `index` of a map: key (borrowed, not NUL-terminated) and value. */
struct delta_msg_value delta_msg_pair(struct delta_msg_value map, size_t index,
                                      struct delta_bytes *key);
/* Absent key or not a map: a value whose object is NULL. */
struct delta_msg_value delta_msg_find(struct delta_msg_value map, const char *key);
bool delta_msg_has(struct delta_msg_value map, const char *key);

/* Typed reading. FORMAT names the key when it is missing or of another type; LIMIT when out of
 * range. The to_* forms read the value itself (array elements) and take a name for the message. */
DELTA_MUST_USE enum delta_status delta_msg_to_uint(struct delta_msg_value value, const char *name,
                                                   uint64_t max, uint64_t *out,
                                                   struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_msg_to_real(struct delta_msg_value value, const char *name,
                                                   double *out, struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_msg_to_bool(struct delta_msg_value value, const char *name,
                                                   bool *out, struct delta_error *err);
/* Copies a string without NUL bytes into a fixed buffer, NUL-terminated. */
DELTA_MUST_USE enum delta_status delta_msg_to_str(struct delta_msg_value value, const char *name,
                                                  char *out, size_t size, struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_msg_to_bin(struct delta_msg_value value, const char *name,
                                                  struct delta_bytes *out, struct delta_error *err);

DELTA_MUST_USE enum delta_status delta_msg_get_uint(struct delta_msg_value map, const char *key,
                                                    uint64_t max, uint64_t *out,
                                                    struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_msg_get_real(struct delta_msg_value map, const char *key,
                                                    double *out, struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_msg_get_bool(struct delta_msg_value map, const char *key,
                                                    bool *out, struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_msg_get_str(struct delta_msg_value map, const char *key,
                                                   char *out, size_t size, struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_msg_get_bin(struct delta_msg_value map, const char *key,
                                                   struct delta_bytes *out,
                                                   struct delta_error *err);
/* A bin of exactly `len` bytes, copied. */
DELTA_MUST_USE enum delta_status delta_msg_get_fixed(struct delta_msg_value map, const char *key,
                                                     void *out, size_t len,
                                                     struct delta_error *err);
/* *out is an array with at most `max` elements. */
DELTA_MUST_USE enum delta_status delta_msg_get_array(struct delta_msg_value map, const char *key,
                                                     size_t max, struct delta_msg_value *out,
                                                     struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_msg_get_map(struct delta_msg_value map, const char *key,
                                                   struct delta_msg_value *out,
                                                   struct delta_error *err);

#endif
