#include <stdlib.h>

#include "delta/delta.h"
#include "fuzz.h"

/* What is accepted must have one name: the one it was read under. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct delta_digest name, again;
    struct delta_model model;

    if (delta_model_decode(&model, delta_bytes(data, size), &name, NULL))
        return 0;
    if (delta_model_digest(&model, &again, NULL) || !delta_digest_equal(&name, &again))
        abort();
    delta_model_release(&model);
    return 0;
}
