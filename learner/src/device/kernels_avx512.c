/* Compiled with -mavx512f -mfma. */
#define LANES 16
#define REGISTERS 32
#define TABLE learner_kernels_avx512
#define NAME "avx512"
#include "kernels_body.h"
