#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "delta/buf.h"

/* Some hundred ops a step follow each other within microseconds: at first a waiting thread only
 * looks. Then, as waking a virtual core costs hundreds of them (after 50 us an inference of
 * MobileNetV2 now and then took five times as long), it looks between giving its core to whoever
 * else wants it. Then it sleeps. */
#define SPIN_NS 50000
#define YIELD_NS 2000000

struct member {
    struct learner_pool *pool;
    size_t index;
    pthread_t thread;
};

/* A round is started by raising `round` and ended by the last member's `busy` going to 0. Whoever
 * waits for either looks at it for a while, since the next piece of work is mostly microseconds
 * away, and then sleeps. Nobody is missed: a sleeper says so before it looks for the last time, the
 * other side changes the value before it looks for sleepers, both in one total order. */
struct learner_pool {
    size_t members;
    size_t started; /* threads to join; the owner's */
    bool spins;
    struct member *team;
    learner_pool_work *work; /* both written before a round, read within it */
    void *context;
    atomic_ulong round;
    atomic_size_t busy, sleepers;
    atomic_bool stop, owner_sleeps;
    pthread_mutex_t lock; /* for the condition variables alone */
    pthread_cond_t begin, done;
};

static void relax(void)
{
#if defined __x86_64__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("yield");
#endif
}

static long long now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000000000 + now.tv_nsec;
}

static bool begun(struct learner_pool *pool, unsigned long seen)
{
    return atomic_load(&pool->round) != seen || atomic_load(&pool->stop);
}

/* Between two looks of somebody who has waited since begin_ns; false: it is time to sleep. */
static bool keep_looking(const struct learner_pool *pool, long long begin_ns)
{
    const long long waited = now_ns() - begin_ns;

    if (!pool->spins || waited > YIELD_NS)
        return false;
    if (waited > SPIN_NS)
        sched_yield();
    else
        relax();
    return true;
}

/* Waits for the round after `seen`; false: the pool ends. */
static bool await_round(struct learner_pool *pool, unsigned long seen)
{
    const long long begin = now_ns();

    do {
        if (begun(pool, seen))
            return !atomic_load(&pool->stop);
    } while (keep_looking(pool, begin));
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!begun(pool, seen))
        pthread_cond_wait(&pool->begin, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
    return !atomic_load(&pool->stop);
}

static void *member_main(void *argument)
{
    struct member *self = argument;
    struct learner_pool *pool = self->pool;

    for (unsigned long seen = 0; await_round(pool, seen); seen++) {
        pool->work(pool->context, self->index, pool->members);
        if (atomic_fetch_sub(&pool->busy, 1) == 1 && atomic_load(&pool->owner_sleeps)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->lock);
        }
    }
    return NULL;
}

static size_t usable_cores(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set))
        return 1;
    const int count = CPU_COUNT(&set);
    return count < 1 ? 1 : (size_t)count;
}

size_t learner_pool_size(int threads)
{
    const size_t wanted = threads > 0 ? (size_t)threads : usable_cores();

    return wanted > LEARNER_POOL_MAX ? LEARNER_POOL_MAX : wanted;
}

enum delta_status learner_pool_new(struct learner_pool **out, int threads, struct delta_error *err)
{
    struct learner_pool *pool = delta_calloc(1, sizeof *pool);

    if (!pool)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for a thread pool");
    pool->members = learner_pool_size(threads);
    /* else it would only keep others from working */
    pool->spins = pool->members <= usable_cores();
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->begin, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->team = delta_calloc(pool->members, sizeof *pool->team);
    if (!pool->team) {
        learner_pool_free(pool);
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for a thread pool");
    }
    for (size_t i = 1; i < pool->members; i++) {
        pool->team[i] = (struct member){.pool = pool, .index = i};
        if (pthread_create(&pool->team[i].thread, NULL, member_main, &pool->team[i])) {
            learner_pool_free(pool);
            return delta_fail(err, DELTA_IO, "cannot start %d threads", threads);
        }
        pool->started++;
    }
    *out = pool;
    return DELTA_OK;
}

void learner_pool_free(struct learner_pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stop, true);
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->lock);
    for (size_t i = 1; i <= pool->started; i++)
        pthread_join(pool->team[i].thread, NULL);
    pthread_cond_destroy(&pool->begin);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->lock);
    free(pool->team);
    free(pool);
}

size_t learner_pool_members(const struct learner_pool *pool)
{
    return pool->members;
}

static void await_members(struct learner_pool *pool)
{
    const long long begin = now_ns();

    do {
        if (!atomic_load(&pool->busy))
            return;
    } while (keep_looking(pool, begin));
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->owner_sleeps, true);
    while (atomic_load(&pool->busy))
        pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->owner_sleeps, false);
    pthread_mutex_unlock(&pool->lock);
}

void learner_pool_run(struct learner_pool *pool, learner_pool_work *work, void *context)
{
    if (pool->members == 1) {
        work(context, 0, 1);
        return;
    }
    pool->work = work;
    pool->context = context;
    atomic_store(&pool->busy, pool->members - 1);
    atomic_fetch_add(&pool->round, 1);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->begin);
        pthread_mutex_unlock(&pool->lock);
    }
    work(context, 0, pool->members);
    await_members(pool);
}
