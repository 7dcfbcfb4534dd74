/* 16 registers of 8 floats: 12 accumulators. Compiled with -mavx2 -mfma. */
#define LANES 8
#define ROWS 4
#define TABLE learner_kernels_avx2
#define NAME "avx2"
#include "kernels_body.h"
