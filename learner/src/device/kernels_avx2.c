/* Compiled with -mavx2 -mfma. */
#define LANES 8
#define REGISTERS 16
#define TABLE learner_kernels_avx2
#define NAME "avx2"
#include "kernels_body.h"
