/* What callers do with a device's memory: through the device where it is apart, else by the plain
 * loops here. */
#include <string.h>

#include "device.h"

void learner_device_upload(struct learner_device *device, void *to, const void *host, size_t bytes)
{
    if (device->ops->remote)
        device->ops->remote->upload(device, to, host, bytes);
    else
        memcpy(to, host, bytes);
}

void learner_device_download(struct learner_device *device, void *host, const void *from,
                             size_t bytes)
{
    if (device->ops->remote)
        device->ops->remote->download(device, host, from, bytes);
    else
        memcpy(host, from, bytes);
}

void learner_device_copy(struct learner_device *device, void *to, const void *from, size_t bytes)
{
    if (device->ops->remote)
        device->ops->remote->copy(device, to, from, bytes);
    else
        memcpy(to, from, bytes);
}

const float *learner_device_view(struct learner_device *device, const float *from, size_t count,
                                 float *scratch)
{
    if (!device->ops->remote)
        return from;
    device->ops->remote->download(device, scratch, from, count * sizeof *scratch);
    return scratch;
}

bool learner_all_finite(const float *data, size_t count)
{
    uint32_t bad = 0; /* exponent of all ones: infinite or NaN */

    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, data + i, sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

bool learner_device_finite(struct learner_device *device, const float *data, size_t count)
{
    if (device->ops->remote)
        return device->ops->remote->finite(device, data, count);
    return learner_all_finite(data, count);
}

void learner_device_add(struct learner_device *device, float *sum, const float *more, size_t count)
{
    if (device->ops->remote) {
        device->ops->remote->add(device, sum, more, count);
        return;
    }
    for (size_t i = 0; i < count; i++)
        sum[i] += more[i];
}

void learner_device_blend(struct learner_device *device, float *average, const float *values,
                          float keep, float take, size_t count)
{
    if (device->ops->remote) {
        device->ops->remote->blend(device, average, values, keep, take, count);
        return;
    }
    for (size_t i = 0; i < count; i++)
        average[i] = keep * average[i] + take * values[i];
}

void learner_device_swap(struct learner_device *device, float *a, float *b, size_t count)
{
    if (device->ops->remote) {
        device->ops->remote->swap(device, a, b, count);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const float kept = a[i];
        a[i] = b[i];
        b[i] = kept;
    }
}

enum delta_status learner_device_sync(struct learner_device *device, struct delta_error *err)
{
    return device->ops->remote ? device->ops->remote->sync(device, err) : DELTA_OK;
}
