#include "arena.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN_FLOATS 16
#define MAX_FLOATS (LEARNER_ARENA_MAX_BYTES / sizeof(float))

void learner_arena_release(struct learner_arena *arena)
{
    free(arena->blocks);
    *arena = (struct learner_arena)LEARNER_ARENA_INIT;
}

static bool make_room(struct learner_arena *arena)
{
    if (arena->count < arena->room)
        return true;
    const size_t room = arena->room ? 2 * arena->room : 64;
    struct learner_arena_block *grown = delta_calloc(room, sizeof *grown);
    if (!grown)
        return false;
    if (arena->count)
        memcpy(grown, arena->blocks, arena->count * sizeof *grown);
    free(arena->blocks);
    arena->blocks = grown;
    arena->room = room;
    return true;
}

void learner_arena_add(struct learner_arena *arena, void *target, size_t a, size_t b, size_t first,
                       size_t last)
{
    size_t count;

    if (!delta_size_mul(a, b, &count) || !delta_size_add(count, ALIGN_FLOATS - 1, &count) ||
        count > MAX_FLOATS || !make_room(arena)) {
        arena->failed = true;
        return;
    }
    count -= count % ALIGN_FLOATS;
    arena->blocks[arena->count++] = (struct learner_arena_block){
        .target = target, .count = count, .first = first, .last = last};
}

static int by_size(const void *a, const void *b)
{
    const struct learner_arena_block *x = a, *y = b;

    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return x->last < y->last ? -1 : x->last > y->last; /* for a total, stable order */
}

static bool meet(const struct learner_arena_block *a, const struct learner_arena_block *b)
{
    return a->first <= b->last && b->first <= a->last;
}

static bool overlap(const struct learner_arena_block *a, const struct learner_arena_block *b)
{
    return a->offset < b->offset + b->count && b->offset < a->offset + a->count;
}

bool learner_arena_pack(struct learner_arena *arena)
{
    if (arena->failed)
        return false;
    arena->total = 0;
    if (arena->count)
        qsort(arena->blocks, arena->count, sizeof *arena->blocks, by_size);
    for (size_t i = 0; i < arena->count; i++) {
        struct learner_arena_block *block = &arena->blocks[i];
        block->offset = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (size_t j = 0; j < i; j++) {
                const struct learner_arena_block *other = &arena->blocks[j];
                if (meet(block, other) && overlap(block, other)) {
                    block->offset = other->offset + other->count;
                    moved = true;
                }
            }
        }
        if (arena->total < block->offset + block->count)
            arena->total = block->offset + block->count;
    }
    return arena->total <= MAX_FLOATS;
}

void learner_arena_bind(const struct learner_arena *arena, float *base)
{
    for (size_t i = 0; i < arena->count; i++) {
        const void *at = base + arena->blocks[i].offset;
        memcpy(arena->blocks[i].target, &at, sizeof at); /* of whatever pointer type */
    }
}
