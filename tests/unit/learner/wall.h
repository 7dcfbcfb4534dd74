/* Memory that stands in for a device's: no access but between wall_open and wall_close, so that a
 * host that looks there itself dies of SIGSEGV. Not thread-safe. */
#ifndef WALL_H
#define WALL_H

#include <stddef.h>

struct wall_block;

struct wall {
    struct wall_block *blocks;
    size_t depth; /* of nested wall_open */
    size_t bytes;
};

void *wall_alloc(struct wall *wall, size_t bytes); /* zeroed; NULL when there is no memory */
void wall_free(struct wall *wall, void *block);
void wall_release(struct wall *wall); /* fails the process when a block is left */
void wall_open(struct wall *wall);
void wall_close(struct wall *wall);
/* 1 when the place lies in a block of this wall */
int wall_holds(const struct wall *wall, const void *place);

#endif
