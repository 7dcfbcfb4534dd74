#include <string.h>

#include "channel_body.h"
#include "fuzz.h"

/* No key is trusted, so nothing may open: the outer message and the signature are what is read.
 * Then the same bytes as a body, as if a key had vouched for them. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct delta_keyring ring = {.count = 0};
    struct delta_channel channel;

    if (!delta_channel_open(&channel, delta_bytes(data, size), &ring, NULL))
        __builtin_trap();
    if (delta_channel_read_body(&channel, delta_bytes(data, size), NULL))
        return 0;
    if (delta_name_check("channel", channel.name, NULL) || channel.permille > 1000 ||
        channel.issued_ms < 0 || channel.expires_ms < channel.issued_ms ||
        channel.edge_count > DELTA_CHANNEL_MAX_EDGES)
        __builtin_trap();
    (void)delta_channel_reaches(&channel, "cam-1");
    return 0;
}
