#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>

#include "delta/buf.h"

struct member {
    struct learner_pool *pool;
    size_t index;
    pthread_t thread;
};

struct learner_pool { /* fields below the lock are guarded by it */
    size_t members;
    size_t started; /* threads to join; the owner's */
    struct member *team;
    pthread_mutex_t lock;
    pthread_cond_t begin, done;
    learner_pool_work *work;
    void *context;
    unsigned long round;
    size_t busy;
    bool stop;
};

static void *member_main(void *argument)
{
    struct member *self = argument;
    struct learner_pool *pool = self->pool;
    unsigned long seen = 0;

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->stop && pool->round == seen)
            pthread_cond_wait(&pool->begin, &pool->lock);
        if (pool->stop)
            break;
        seen = pool->round;
        learner_pool_work *work = pool->work;
        void *context = pool->context;
        pthread_mutex_unlock(&pool->lock);
        work(context, self->index, pool->members);
        pthread_mutex_lock(&pool->lock);
        if (--pool->busy == 0)
            pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->lock);
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
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
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

void learner_pool_run(struct learner_pool *pool, learner_pool_work *work, void *context)
{
    if (pool->members > 1) {
        pthread_mutex_lock(&pool->lock);
        pool->work = work;
        pool->context = context;
        pool->busy = pool->members - 1;
        pool->round++;
        pthread_cond_broadcast(&pool->begin);
        pthread_mutex_unlock(&pool->lock);
    }
    work(context, 0, pool->members);
    if (pool->members > 1) {
        pthread_mutex_lock(&pool->lock);
        while (pool->busy)
            pthread_cond_wait(&pool->done, &pool->lock);
        pthread_mutex_unlock(&pool->lock);
    }
}
