/* The `made` map of a delta's header: who made it, from how many samples, how well it tests.
 * Text is printable ASCII, shares lie within 0 and 1: it is shown and logged as it is.
 */
#ifndef DELTA_PROVENANCE_H
#define DELTA_PROVENANCE_H

#include "delta/delta.h"
#include "delta/msg.h"

DELTA_MUST_USE enum delta_status delta_provenance_check(const struct delta_provenance *provenance,
                                                        struct delta_error *err);
void delta_provenance_pack(struct delta_msg_out *out, const struct delta_provenance *provenance);
/* fails: FORMAT, LIMIT, NONFINITE; out is written on success only */
DELTA_MUST_USE enum delta_status delta_provenance_unpack(struct delta_msg_value map,
                                                         struct delta_provenance *out,
                                                         struct delta_error *err);

#endif
