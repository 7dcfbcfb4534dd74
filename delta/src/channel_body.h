/* What a channel document says, apart from who vouches for it: tests read bodies that nobody
 * signed. Private to the folder. */
#ifndef DELTA_CHANNEL_BODY_H
#define DELTA_CHANNEL_BODY_H

#include "delta/channel.h"

/* fails: TRUNCATED, FORMAT, LIMIT, UNSUPPORTED (schema), NO_MEMORY; out is written on success */
DELTA_MUST_USE enum delta_status delta_channel_read_body(struct delta_channel *out,
                                                         struct delta_bytes body,
                                                         struct delta_error *err);

#endif
