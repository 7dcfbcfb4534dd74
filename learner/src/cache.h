/* One record of floats for each of a fixed number of samples: what a frozen prefix makes of them.
 * Records lie in memory up to a budget, the rest in a file that is mapped and has no name: it
 * belongs to this process alone and is gone with it, however that ends. Private.
 * Threads: one at a time. */
#ifndef LEARNER_CACHE_H
#define LEARNER_CACHE_H

#include <stdbool.h>
#include <stddef.h>

#include "delta/status.h"

struct learner_cache;

/*   count     records; floats: of each, at least 1
 *   memory    bytes that may be held; records beyond go to the file
 *   dir       where the file is made; NULL: $TMPDIR, or /var/tmp
 *   fails     NO_MEMORY, IO (names the directory and what it lacks), LIMIT */
DELTA_MUST_USE enum delta_status learner_cache_new(struct learner_cache **out, size_t count,
                                                   size_t floats, size_t memory, const char *dir,
                                                   struct delta_error *err);
void learner_cache_free(struct learner_cache *cache);

/* [floats] of sample i, to be filled or read; valid as long as the cache. */
float *learner_cache_record(struct learner_cache *cache, size_t i);
bool learner_cache_has(const struct learner_cache *cache, size_t i);
void learner_cache_set(struct learner_cache *cache, size_t i); /* record i is filled */

/* Lets go of the file's pages that are in memory; their content stays. To be called between
 * batches, so that a process keeps to its memory budget. */
void learner_cache_relax(struct learner_cache *cache);

size_t learner_cache_memory_bytes(const struct learner_cache *cache);
size_t learner_cache_file_bytes(const struct learner_cache *cache);

#endif
