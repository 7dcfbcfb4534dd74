#include "delta/npy.h"
#include "delta/npz.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct delta_safetensors_info info;
    struct delta_model model;
    struct delta_npy npy;

    if (delta_npy_read(&npy, delta_bytes(data, size), NULL) == DELTA_OK && npy.values.len > size)
        __builtin_trap();
    if (!delta_npz_decode(&model, delta_bytes(data, size), NULL, &info, NULL)) {
        delta_safetensors_info_release(&info);
        delta_model_release(&model);
    }
    return 0;
}
