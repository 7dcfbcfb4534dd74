/* What every processor of the target family runs: SSE2, NEON, or whatever the compiler makes of
 * vectors of four. */
#define LANES 4
#ifdef __aarch64__ /* 32 registers */
#define ROWS 8
#else
#define ROWS 4
#endif
#define TABLE learner_kernels_base
#define NAME "base"
#include "kernels_body.h"
