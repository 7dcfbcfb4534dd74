#include "device.h"

#include <string.h>

enum delta_status learner_device_open(struct learner_device **out, const char *name, int threads,
                                      struct delta_error *err)
{
    static const struct learner_device_ops *const all[] = {
        &learner_device_ref,
        &learner_device_blas,
        &learner_device_cuda,
    };

    if (!name || !strcmp(name, "auto"))
        return learner_device_blas.open(out, threads, err);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(name, all[i]->name))
            return all[i]->open(out, threads, err);
    return delta_fail(err, DELTA_UNSUPPORTED, "device '%s' is unknown; use ref, blas, cuda or auto",
                      name);
}

void learner_device_team(struct learner_device *device, learner_pool_work *work, void *context)
{
    if (device->ops->team)
        device->ops->team(device, work, context);
    else
        work(context, 0, 1);
}
