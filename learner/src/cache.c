#include "cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "delta/buf.h"

struct learner_cache {
    size_t count, floats, held; /* records: all, of these in memory */
    float *memory;              /* [held, floats] */
    float *file;                /* mapped, [count - held, floats]; NULL: none */
    size_t file_bytes;
    unsigned char *filled; /* [count] */
};

static enum delta_status map_file(struct learner_cache *cache, const char *dir,
                                  struct delta_error *err)
{
    char path[4096];
    enum delta_status st = DELTA_IO;

    if (!dir)
        dir = getenv("TMPDIR");
    if (!dir || !*dir)
        dir = "/var/tmp";
    if ((size_t)snprintf(path, sizeof path, "%s/frostline-cache-XXXXXX", dir) >= sizeof path)
        return delta_fail(err, DELTA_LIMIT, "the name of directory '%.64s...' is too long", dir);
    const int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return delta_fail(err, DELTA_IO, "cannot make a cache file in '%s': %s; set TMPDIR", dir,
                          strerror(errno));
    unlink(path);
    /* blocks are taken now: later a full disk would be a signal in the middle of a step */
    const int code = posix_fallocate(fd, 0, (off_t)cache->file_bytes);
    if (code) {
        delta_fail(err, st,
                   "no room for %zu MiB of cache in '%s': %s; give more memory, set TMPDIR",
                   (cache->file_bytes >> 20) + 1, dir, strerror(code));
        goto done;
    }
    void *at = mmap(NULL, cache->file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        delta_fail(err, st, "cannot map %zu MiB of cache: %s", (cache->file_bytes >> 20) + 1,
                   strerror(errno));
        goto done;
    }
    cache->file = at;
    st = DELTA_OK;
done:
    close(fd); /* the mapping keeps it */
    return st;
}

enum delta_status learner_cache_new(struct learner_cache **out, size_t count, size_t floats,
                                    size_t memory, const char *dir, struct delta_error *err)
{
    struct learner_cache *cache = delta_calloc(1, sizeof *cache);
    size_t record, all;
    enum delta_status st = DELTA_OK;

    if (!cache)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for a cache");
    if (!floats || !delta_size_mul(floats, sizeof(float), &record) ||
        !delta_size_mul(record, count, &all) || all > SIZE_MAX / 4) {
        st = delta_fail(err, DELTA_LIMIT, "a cache of %zu records of %zu numbers is too large",
                        count, floats);
        goto done;
    }
    cache->count = count;
    cache->floats = floats;
    cache->held = memory / record < count ? memory / record : count;
    cache->filled = delta_calloc(count + 1, 1);
    cache->memory = cache->held ? delta_calloc_aligned(cache->held * floats, sizeof(float)) : NULL;
    if (!cache->filled || (cache->held && !cache->memory)) {
        st = delta_fail(err, DELTA_NO_MEMORY, "no memory for a cache of %zu MiB",
                        cache->held * record >> 20);
        goto done;
    }
    cache->file_bytes = (count - cache->held) * record;
    if (cache->file_bytes)
        st = map_file(cache, dir, err);
done:
    if (st)
        learner_cache_free(cache);
    else
        *out = cache;
    return st;
}

void learner_cache_free(struct learner_cache *cache)
{
    if (!cache)
        return;
    if (cache->file)
        munmap(cache->file, cache->file_bytes);
    free(cache->memory);
    free(cache->filled);
    free(cache);
}

float *learner_cache_record(struct learner_cache *cache, size_t i)
{
    return i < cache->held ? cache->memory + i * cache->floats
                           : cache->file + (i - cache->held) * cache->floats;
}

bool learner_cache_has(const struct learner_cache *cache, size_t i)
{
    return cache->filled[i];
}

void learner_cache_set(struct learner_cache *cache, size_t i)
{
    cache->filled[i] = 1;
}

void learner_cache_relax(struct learner_cache *cache)
{
    if (cache->file)
        madvise(cache->file, cache->file_bytes, MADV_DONTNEED);
}

size_t learner_cache_memory_bytes(const struct learner_cache *cache)
{
    return cache->held * cache->floats * sizeof(float) + cache->count;
}

size_t learner_cache_file_bytes(const struct learner_cache *cache)
{
    return cache->file_bytes;
}
