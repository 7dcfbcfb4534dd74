/* 32 registers of 16 floats: 24 accumulators. Compiled with -mavx512f -mfma. */
#define LANES 16
#define ROWS 8
#define TABLE learner_kernels_avx512
#define NAME "avx512"
#include "kernels_body.h"
