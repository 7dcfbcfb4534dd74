/* Bit streams: bit i is byte[i/8] >> (i%8) & 1, fields with their low bit first. The reader never
 * reads behind its bytes: it delivers zeros there and says so through delta_bits_overrun().
 */
#ifndef DELTA_BITS_H
#define DELTA_BITS_H

#include <string.h>

#include "delta/buf.h"

/* The writer's memory belongs to the caller, who has made it large enough: 8 bytes behind the last
 * bit must be writable, for whole words are stored. */
struct delta_bits_out {
    uint8_t *data;
    size_t at; /* bits */
};

/* count 0..32; `value` has no bit beyond them */
static inline void delta_bits_put(struct delta_bits_out *out, uint32_t value, unsigned count)
{
    uint8_t *const p = out->data + out->at / 8;
    uint64_t word;

    memcpy(&word, p, sizeof word);
    word &= ((uint64_t)1 << (out->at % 8)) - 1; /* what lies behind is not ours yet */
    word |= (uint64_t)value << (out->at % 8);
    memcpy(p, &word, sizeof word);
    out->at += count;
}

static inline size_t delta_bits_bytes(const struct delta_bits_out *out)
{
    return (out->at + 7) / 8;
}

struct delta_bits_in {
    const uint8_t *data;
    size_t len; /* bytes */
    size_t at;  /* bits; may run beyond 8*len */
};

/* The next 57 bits or more, zeros behind the end. */
static inline uint64_t delta_bits_peek(const struct delta_bits_in *in)
{
    const size_t byte = in->at / 8;
    uint64_t word = 0;

    if (byte + sizeof word <= in->len)
        memcpy(&word, in->data + byte, sizeof word);
    else if (byte < in->len)
        memcpy(&word, in->data + byte, in->len - byte);
    return word >> (in->at % 8);
}

/* count 0..32 */
static inline uint32_t delta_bits_get(struct delta_bits_in *in, unsigned count)
{
    const uint64_t word = delta_bits_peek(in);

    in->at += count;
    return (uint32_t)(word & (((uint64_t)1 << count) - 1));
}

/* True unless exactly these bytes were used and the bits that fill the last one are zero. */
static inline bool delta_bits_wrong_end(const struct delta_bits_in *in)
{
    if ((in->at + 7) / 8 != in->len)
        return true;
    return in->at % 8 && in->data[in->len - 1] >> (in->at % 8);
}

#endif
