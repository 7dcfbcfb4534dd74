/* Deltas in sequence: back to the base (invert), many as one (squash), applied one after another.
 *
 * All three need the base model: a delta tells what becomes of bits that are there, not what they
 * were. Results are exact: the digests of both ends are checked on the way, and what comes out
 * is an ordinary delta between the two versions.
 */
#ifndef DELTA_CHAIN_H
#define DELTA_CHAIN_H

#include "delta/delta.h"

/* base + deltas[0] + deltas[1] + ...; count 0 gives a copy of the base.
 *   out      written on success only
 *   fails    as delta_apply; the text names the delta by its position, from 1 */
DELTA_MUST_USE enum delta_status delta_chain_apply(const struct delta_model *base,
                                                   const struct delta_reader *deltas, size_t count,
                                                   struct delta_model *out,
                                                   struct delta_error *err);

/* One delta from `base` to where the chain ends: applying it gives the same version.
 *   options  may be NULL; a lossy encoding would lead elsewhere: leave it lossless
 *   out      initialised here; an unsigned file image
 *   fails    as delta_chain_apply and delta_diff */
DELTA_MUST_USE enum delta_status delta_squash(const struct delta_model *base,
                                              const struct delta_reader *deltas, size_t count,
                                              const struct delta_options *options,
                                              struct delta_buf *out, struct delta_error *err);

/* The delta that leads from the target of `delta` back to `base`.
 *   options, out   as delta_squash
 *   fails          as delta_apply and delta_diff */
DELTA_MUST_USE enum delta_status delta_invert(const struct delta_model *base,
                                              const struct delta_reader *delta,
                                              const struct delta_options *options,
                                              struct delta_buf *out, struct delta_error *err);

#endif
