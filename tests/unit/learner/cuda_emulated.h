/* A GPU that is not there: the CUDA backend's kernels, compiled for the processor and run block
 * after block, thread after thread, and plain loops in place of NVIDIA's libraries. Its memory is
 * behind a wall. For programs that link cuda.c and its like in place of the library's own. */
#ifndef CUDA_EMULATED_H
#define CUDA_EMULATED_H

#include <stdbool.h>
#include <stddef.h>

struct cuda_emulated {
    const char *absent; /* why there is no GPU; NULL: there is one */
    const char *broken; /* what the next sync tells; then NULL */
    bool no_library;    /* the library has no algorithm for any convolution */
    bool no_recording;
    bool backwards;  /* threads and blocks from the last to the first */
    bool exact_only; /* no bf16, no tf32 */
    size_t launches, convs, products, recorded, played, allocs;
    size_t waits;       /* for the GPU */
    size_t kernels[64]; /* launches of each */
    size_t room;        /* bytes that are free; 0: plenty */
};
extern struct cuda_emulated cuda_emulated;

#endif
