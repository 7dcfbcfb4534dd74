/* What every processor of the target family runs: SSE2, NEON, or whatever the compiler makes of
 * vectors of four. */
#define LANES 4
#ifdef __aarch64__
#define REGISTERS 32
#else
#define REGISTERS 16
#endif
#define TABLE learner_kernels_base
#define NAME "base"
#include "kernels_body.h"
