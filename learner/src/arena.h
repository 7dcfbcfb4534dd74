/* A memory plan: blocks with lifetimes are packed into one arena; blocks whose lifetimes do not
 * meet share memory. Only sums: nothing is allocated here but the list itself. Private. */
#ifndef LEARNER_ARENA_H
#define LEARNER_ARENA_H

#include "delta/buf.h"
#include "delta/status.h"

#define LEARNER_ARENA_MAX_BYTES ((size_t)16 << 30)

struct learner_arena_block {
    void *target;       /* of a pointer that learner_arena_bind sets */
    size_t count;       /* floats, rounded up to whole cache lines */
    size_t first, last; /* needed during these steps, both included */
    size_t offset;      /* floats from the start, once packed */
};

struct learner_arena {
    struct learner_arena_block *blocks; /* owned */
    size_t count, room;
    size_t total; /* floats, once packed */
    bool failed;  /* a size overflowed or passed the limit, or no memory for the list */
};

#define LEARNER_ARENA_INIT                                                                         \
    {                                                                                              \
        .blocks = NULL                                                                             \
    }

void learner_arena_release(struct learner_arena *arena);
/* a * b floats; target: the address of a pointer to float or double. Failure is kept in the arena.
 */
void learner_arena_add(struct learner_arena *arena, void *target, size_t a, size_t b, size_t first,
                       size_t last);
/* First fit, largest first; deterministic. false: too large, or an addition failed. */
bool learner_arena_pack(struct learner_arena *arena);
/* Sets every target. base: [total] floats, aligned to cache lines. */
void learner_arena_bind(const struct learner_arena *arena, float *base);

#endif
