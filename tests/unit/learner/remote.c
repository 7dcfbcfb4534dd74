#include "remote.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

void remote_same(const float *a, const float *b, size_t count, double tolerance, double floor,
                 const char *what)
{
    double difference = 0, size = 0;

    if (tolerance == 0 && memcmp(a, b, count * sizeof *a) != 0)
        fail_msg("%s: not the same bytes", what);
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    if (!(sqrt(difference) <= tolerance * fmax(sqrt(size), floor * sqrt((double)count)) + 1e-12))
        fail_msg("%s: differ by %g of %g", what, sqrt(difference), sqrt(size));
}

void remote_freeze(struct delta_model *model, double from)
{
    struct delta_error err = DELTA_ERROR_INIT;

    for (size_t i = 0; i + 2 < model->tensor_count; i++) {
        struct delta_tensor *tensor = &model->tensors[i];
        const bool rows = tensor->rank == 4 && (double)i > from * (double)model->tensor_count;
        const size_t filters = (size_t)tensor->shape[0];
        uint8_t *bits = calloc(filters / 8 + 1, 1);
        assert_non_null(bits);
        for (size_t f = 0; f < filters; f++)
            bits[f / 8] |= (uint8_t)((f % 3 != 1) << (f % 8));
        assert_ok(delta_tensor_set_freeze(tensor, rows ? DELTA_FREEZE_ROWS : DELTA_FREEZE_ALL,
                                          rows ? bits : NULL, rows ? filters : 0, &err));
        free(bits);
    }
}

bool remote_is_here(void)
{
    struct learner_device *device = NULL;
    struct delta_error err = DELTA_ERROR_INIT;

    if (learner_device_open(&device, "cuda", 1, &err)) {
        printf("SKIP: %s\n", err.text);
        return false;
    }
    device->ops->close(device);
    return true;
}
