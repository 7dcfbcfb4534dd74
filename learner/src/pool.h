/* A fixed team of threads that run one function together. The caller is member 0.
 * Work is divided by member number, never by who is free first, so that results do not depend on
 * timing. */
#ifndef LEARNER_POOL_H
#define LEARNER_POOL_H

#include "delta/status.h"

#define LEARNER_POOL_MAX 64

struct learner_pool;

/* Called once per member; member < members. */
typedef void learner_pool_work(void *context, size_t member, size_t members);

/* threads: 0 = as many as this process may use, at most LEARNER_POOL_MAX.
 *   fails    NO_MEMORY, IO (thread cannot start) */
DELTA_MUST_USE enum delta_status learner_pool_new(struct learner_pool **out, int threads,
                                                  struct delta_error *err);
/* How many members that pool has. */
size_t learner_pool_size(int threads);
void learner_pool_free(struct learner_pool *pool);
size_t learner_pool_members(const struct learner_pool *pool);

/* Runs work on every member and returns when all are done. One caller at a time. */
void learner_pool_run(struct learner_pool *pool, learner_pool_work *work, void *context);

/* The part of 0..count that belongs to a member: contiguous, in order, sizes differ by at most 1.
 */
static inline void learner_pool_share(size_t count, size_t member, size_t members, size_t *first,
                                      size_t *end)
{
    *first = count * member / members;
    *end = count * (member + 1) / members;
}

#endif
