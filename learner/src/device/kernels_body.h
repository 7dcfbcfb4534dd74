/* Body of one set of kernels. The including file defines
 *   LANES      floats of a vector    REGISTERS  vector registers
 *   TABLE      name of the table     NAME       its text
 * and is compiled with the flags of its instruction set. GCC's and clang's vector types do the
 * rest. */
#ifndef LEARNER_KERNELS_BODY_H
#define LEARNER_KERNELS_BODY_H

#include "kernels.h"
#include "kernels_vector.h"

#include "kernels_gemm.h"
#include "kernels_norm.h"
#include "kernels_winograd.h"

#include "kernels_depthwise.h"
#include "kernels_pool.h"

const struct learner_kernels TABLE = {
    .name = NAME,
    .lanes = LANES,
    .gemm = gemm,
    .gemm_outer = gemm_outer,
    .gemm_rows = GEMM_ROWS,
    .gemm_cols = GEMM_VECS * LANES,
    .gemm_panel_cols = gemm_panel_cols,
    .gemm_packed_floats = gemm_packed_floats,
    .gemm_pack = gemm_pack,
    .normalise = normalise,
    .sums = sums,
    .flush = flush,
    .norm_reduce = norm_reduce,
    .norm_apply = norm_apply,
    .norm_apply_fixed = norm_apply_fixed,
    .winograd_input = winograd_input,
    .winograd_gradient = winograd_gradient,
    .winograd_output = winograd_output,
    .winograd_weights = winograd_weights,
    .winograd_dweight = winograd_dweight,
    .winograd_product = winograd_product,
    .depthwise = depthwise,
    .depthwise_dweight = depthwise_dweight,
    .depthwise_load = depthwise_load,
    .pool_mean = pool_mean,
    .pool_spread = pool_spread,
    .pool_largest = pool_largest,
    .pool_largest_back = pool_largest_back,
};

#endif
