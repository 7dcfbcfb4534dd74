/* Stands in for the CUDA backend in builds without it. */
#include "device.h"

static enum delta_status open_none(struct learner_device **out, int threads,
                                   struct delta_error *err)
{
    (void)out;
    (void)threads;
    return delta_fail(err, DELTA_UNSUPPORTED,
                      "device 'cuda' is not in this build; use blas or auto");
}

const struct learner_device_ops learner_device_cuda = {.name = "cuda", .open = open_none};
