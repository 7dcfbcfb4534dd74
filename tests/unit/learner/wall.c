#include "wall.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct wall_block {
    struct wall_block *next;
    char *at;
    size_t bytes; /* whole pages */
};

static void protect(const struct wall_block *block, int how)
{
    if (mprotect(block->at, block->bytes, how)) {
        perror("wall: mprotect");
        abort();
    }
}

void *wall_alloc(struct wall *wall, size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct wall_block *block = calloc(1, sizeof *block);

    if (!block)
        return NULL;
    block->bytes = (bytes + page - 1) / page * page;
    block->bytes = block->bytes ? block->bytes : page;
    block->at = mmap(NULL, block->bytes, wall->depth ? PROT_READ | PROT_WRITE : PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block->at == MAP_FAILED) {
        free(block);
        return NULL;
    }
    block->next = wall->blocks;
    wall->blocks = block;
    wall->bytes += block->bytes;
    return block->at;
}

void wall_free(struct wall *wall, void *at)
{
    for (struct wall_block **link = &wall->blocks; *link; link = &(*link)->next) {
        struct wall_block *block = *link;
        if (block->at != at)
            continue;
        munmap(block->at, block->bytes);
        wall->bytes -= block->bytes;
        *link = block->next;
        free(block);
        return;
    }
    fprintf(stderr, "wall: a block is freed that was never taken, or twice\n");
    abort();
}

void wall_release(struct wall *wall)
{
    if (wall->blocks) {
        fprintf(stderr, "wall: device memory is left when its device is closed\n");
        abort();
    }
}

void wall_open(struct wall *wall)
{
    if (wall->depth++ == 0)
        for (struct wall_block *block = wall->blocks; block; block = block->next)
            protect(block, PROT_READ | PROT_WRITE);
}

void wall_close(struct wall *wall)
{
    if (--wall->depth == 0)
        for (struct wall_block *block = wall->blocks; block; block = block->next)
            protect(block, PROT_NONE);
}

int wall_holds(const struct wall *wall, const void *place)
{
    for (struct wall_block *block = wall->blocks; block; block = block->next)
        if ((const char *)place >= block->at && (const char *)place < block->at + block->bytes)
            return 1;
    return 0;
}
