/* Body of one set of kernels. The including file defines
 *   LANES      floats of a vector    REGISTERS  vector registers
 *   TABLE      name of the table     NAME       its text
 * and is compiled with the flags of its instruction set. GCC's and clang's vector types do the
 * rest. */
#ifndef LEARNER_KERNELS_BODY_H
#define LEARNER_KERNELS_BODY_H

#include "kernels.h"

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float vec_anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int mask __attribute__((vector_size(4 * LANES)));

static inline vec load(const float *from)
{
    return *(const vec_anywhere *)from;
}

static inline void store(float *to, vec value)
{
    *(vec_anywhere *)to = value;
}

#include "kernels_gemm.h"

const struct learner_kernels TABLE = {
    .name = NAME,
    .lanes = LANES,
    .gemm = gemm,
    .gemm_rows = GEMM_ROWS,
    .gemm_cols = GEMM_VECS * LANES,
    .gemm_panel_cols = gemm_panel_cols,
    .gemm_packed_floats = gemm_packed_floats,
    .gemm_pack = gemm_pack,
};

#endif
