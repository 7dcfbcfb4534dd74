#include "device.h"

#include <stdio.h>
#include <string.h>

static enum delta_status open_one(struct learner_device **out, const struct learner_device_ops *ops,
                                  const char *precision, int threads, struct delta_error *err)
{
    const bool exact = !precision || !strcmp(precision, "fp32");
    struct learner_device *device = NULL;
    enum delta_status st;

    if (!exact && !ops->set_precision && ops->alloc)
        return delta_fail(err, DELTA_UNSUPPORTED, "device '%s' computes in fp32, not in %s",
                          ops->name, precision);
    st = ops->open(&device, threads, err);
    if (!st && ops->set_precision)
        st = ops->set_precision(device, exact ? NULL : precision, err);
    if (st && device)
        ops->close(device);
    if (!st)
        *out = device;
    return st;
}

/* The GPU if there is one; what it lacks is told by learner_device_missing. */
static enum delta_status open_fastest(struct learner_device **out, const char *precision,
                                      int threads, struct delta_error *err)
{
    struct delta_error why = DELTA_ERROR_INIT;
    const enum delta_status st = open_one(out, &learner_device_cuda, precision, threads, &why);

    if (st == DELTA_UNSUPPORTED) /* the processor is exact whatever was asked for */
        return open_one(out, &learner_device_blas, NULL, threads, err);
    return st ? delta_fail(err, st, "%s", why.text) : DELTA_OK;
}

static bool is_auto(const char *name, size_t len)
{
    return len == 0 || (len == 4 && !strncmp(name, "auto", 4));
}

enum delta_status learner_device_open(struct learner_device **out, const char *name, int threads,
                                      struct delta_error *err)
{
    static const struct {
        const char *name;
        const struct learner_device_ops *ops;
    } all[] = {
        {"ref", &learner_device_ref},
        {"blas", &learner_device_blas},
        {"cpu", &learner_device_blas},
        {"cuda", &learner_device_cuda},
    };
    const char *colon = name ? strchr(name, ':') : NULL, *precision = colon ? colon + 1 : NULL;
    const size_t len = !name ? 0 : colon ? (size_t)(colon - name) : strlen(name);

    if (precision && strcmp(precision, "fp32") && strcmp(precision, "tf32") &&
        strcmp(precision, "bf16"))
        return delta_fail(err, DELTA_UNSUPPORTED,
                          "precision '%s' is unknown; use fp32, tf32 or bf16", precision);
    if (is_auto(name, len))
        return open_fastest(out, precision, threads, err);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strlen(all[i].name) == len && !strncmp(name, all[i].name, len))
            return open_one(out, all[i].ops, precision, threads, err);
    return delta_fail(err, DELTA_UNSUPPORTED,
                      "device '%.*s' is unknown; use auto, cpu, cuda, or ref or blas", (int)len,
                      name);
}

bool learner_device_missing(char *why, size_t size, const char *name)
{
    const size_t len = name ? strcspn(name, ":") : 0;
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_device *device = NULL;

    if (!is_auto(name, len) || !learner_device_cuda.alloc) /* not asked for, or not in the build */
        return false;
    if (!open_one(&device, &learner_device_cuda, NULL, 1, &err)) {
        device->ops->close(device);
        return false;
    }
    snprintf(why, size, "%s", err.text);
    return true;
}

void learner_device_team(struct learner_device *device, learner_pool_work *work, void *context)
{
    if (device->ops->team)
        device->ops->team(device, work, context);
    else
        work(context, 0, 1);
}
