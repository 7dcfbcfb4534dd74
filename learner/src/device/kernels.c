#include "kernels.h"

#include <stdlib.h>
#include <string.h>

const struct learner_kernels *learner_kernels_find(const char *name)
{
    if (!name)
        name = getenv("FROSTLINE_KERNELS");
    if (name && !*name)
        name = NULL;
#ifdef __x86_64__
    __builtin_cpu_init();
    if ((!name || !strcmp(name, "avx512")) && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("fma"))
        return &learner_kernels_avx512;
    if ((!name || !strcmp(name, "avx2")) && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma"))
        return &learner_kernels_avx2;
#endif
    if (!name || !strcmp(name, "base"))
        return &learner_kernels_base;
    return NULL;
}
