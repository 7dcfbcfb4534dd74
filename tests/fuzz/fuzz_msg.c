#include <stdlib.h>

#include "delta/msg.h"
#include "fuzz.h"

/* What parses as a whole must also scan as a whole. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct delta_msg msg;
    size_t used;

    if (delta_msg_parse(&msg, delta_bytes(data, size), NULL))
        return 0;
    if (delta_msg_scan(delta_bytes(data, size), &used, NULL) || used != size)
        abort();
    delta_msg_release(&msg);
    return 0;
}
