#include <stdlib.h>

#include "delta/delta.h"
#include "fuzz.h"

/* The base is any model: applying to a wrong base must fail as cleanly as a wrong delta. */
static int make_base(struct delta_model *base)
{
    static const uint64_t weight[2] = {2, 3}, bias[1] = {2};
    struct delta_class_id id = {"a"}, other = {"b"};

    *base = (struct delta_model){.arch = {.name = "resnet18",
                                          .stem = "cifar",
                                          .width = 16,
                                          .channels = 3,
                                          .height = 32,
                                          .image_width = 32,
                                          .std = {1, 1, 1}}};
    return delta_model_add_tensor(base, "fc.weight", 2, weight, NULL, NULL) ||
           delta_model_add_tensor(base, "fc.bias", 1, bias, NULL, NULL) ||
           delta_model_add_class(base, &id, NULL) || delta_model_add_class(base, &other, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct delta_model base, out;
    struct delta_reader reader;
    struct delta_digest name;

    if (delta_reader_init(&reader, delta_bytes(data, size), NULL))
        return 0;
    if (make_base(&base))
        abort();
    /* let it reach the entries: pretend that the base is the one named */
    if (delta_model_digest(&base, &name, NULL))
        abort();
    reader.base = name;
    if (!delta_apply(&base, &reader, &out, NULL)) {
        if (delta_model_check_finite(&out, NULL))
            abort();
        delta_model_release(&out);
    }
    delta_model_release(&base);
    delta_reader_release(&reader);
    return 0;
}
