#include "delta/safetensors.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct delta_safetensors_info info;
    struct delta_model model;

    if (!delta_safetensors_decode(&model, delta_bytes(data, size), &info, NULL)) {
        delta_safetensors_info_release(&info);
        delta_model_release(&model);
    }
    return 0;
}
