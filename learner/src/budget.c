#include "budget.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "delta/clock.h"
#include "sources.h"

#define MEGABYTE ((size_t)1 << 20)
/* Pages of programs and libraries, thread stacks and small blocks that work touches only once it
 * has begun: 1 to 2.5 MB measured on x86-64. */
#define TOUCHED_LATER (2 * MEGABYTE)

/* "VmRSS:     1234 kB" in bytes; 0 where there is no such file or line. */
static size_t status_bytes(const char *key)
{
    FILE *file = fopen("/proc/self/status", "r");
    const size_t len = strlen(key);
    unsigned long long kilobytes = 0;
    char line[256];

    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, key, len) == 0 && line[len] == ':') {
            kilobytes = strtoull(line + len + 1, NULL, 10);
            break;
        }
    if (file)
        fclose(file);
    return (size_t)kilobytes * 1024;
}

size_t learner_memory_now(void)
{
#ifdef __GLIBC__
    malloc_trim(0); /* what was freed and kept for later would count twice */
#endif
    return status_bytes("VmRSS");
}

size_t learner_memory_peak(void)
{
    return status_bytes("VmHWM");
}

/* 1, 2, 3, 4, 6, 9, 13 ... parts of a batch */
static size_t next_parts(size_t parts)
{
    return parts + (parts < 4 ? 1 : parts / 2);
}

struct search {
    learner_need *need;
    void *context;
    size_t now, peak;
};

static enum delta_status total_of(const struct search *search, size_t images, size_t *total,
                                  struct delta_error *err)
{
    size_t bytes = 0;
    const enum delta_status st = search->need(search->context, images, &bytes, err);

    if (!st && !delta_size_add(bytes, search->now + TOUCHED_LATER, total))
        return delta_fail(err, DELTA_LIMIT, "more memory than can be counted");
    if (!st && *total < search->peak)
        *total = search->peak;
    return st;
}

static enum delta_status too_small(const struct learner_budget *budget, const char *stage,
                                   size_t smallest, size_t images, struct delta_error *err)
{
    return delta_fail(err, DELTA_NO_MEMORY,
                      "%zu MB of memory are too few for %s: the smallest budget is %zu MB, with "
                      "%zu images at once",
                      budget->memory_bytes / MEGABYTE, stage, smallest / MEGABYTE + 1, images);
}

enum delta_status learner_budget_plan(struct learner_budget *out,
                                      const struct learner_budget *given, const char *stage,
                                      size_t wanted, size_t least, learner_need *need,
                                      void *context, struct delta_error *err)
{
    const struct learner_budget none = {0};
    struct learner_budget made = given ? *given : none;
    struct search search = {need, context, 0, 0};
    size_t images = wanted ? wanted : 1, total = 0;
    enum delta_status st;

    if (least > images || least < 1)
        least = least < 1 ? 1 : images;
    if (made.at_once || (!made.memory_bytes && !made.planned)) {
        made.at_once = made.at_once ? made.at_once : images;
        *out = made;
        return DELTA_OK;
    }
    search.now = learner_memory_now();
    search.peak = learner_memory_peak();
    st = total_of(&search, images, &total, err);
    for (size_t parts = 2; !st && made.memory_bytes && total > made.memory_bytes && images > least;
         parts = next_parts(parts)) {
        const size_t fewer = (wanted + parts - 1) / parts;
        images = fewer < least ? least : fewer;
        st = total_of(&search, images, &total, err);
    }
    if (!st && made.memory_bytes && total > made.memory_bytes)
        st = too_small(&made, stage, total, images, err);
    if (st)
        return st;
    made.at_once = images;
    if (made.planned)
        made.planned(made.context, stage, total, images);
    *out = made;
    return DELTA_OK;
}

size_t learner_budget_images(const struct learner_budget *budget, size_t there)
{
    const size_t most = budget && budget->at_once ? budget->at_once : LEARNER_AT_ONCE;

    return there < 1 ? 1 : there < most ? there : most;
}

enum delta_status learner_budget_net(size_t *bytes, const struct delta_model *model,
                                     const struct learner_budget *budget, size_t images, bool train,
                                     struct delta_error *err)
{
    const struct learner_net_options options = {.device = budget ? budget->device : NULL,
                                                .batch = images,
                                                .threads = budget ? budget->threads : 0,
                                                .train = train};

    return learner_net_plan_bytes(bytes, NULL, model, &options, err);
}

size_t learner_model_bytes(const struct delta_model *model)
{
    size_t bytes = 0;

    for (size_t i = 0; i < model->tensor_count; i++)
        bytes += model->tensors[i].count * sizeof(float) + model->tensors[i].freeze.count / 8;
    return bytes;
}

size_t learner_samples_bytes(const struct learner_samples *samples)
{
    return samples->count * (learner_samples_image_bytes(samples) + sizeof *samples->labels);
}

int64_t learner_budget_left_ms(const struct learner_budget *budget)
{
    const struct delta_clock clock = delta_clock_system();

    if (!budget || !budget->deadline_ms)
        return INT64_MAX;
    const int64_t left = budget->deadline_ms - delta_clock_monotonic_ms(&clock);
    return left > 0 ? left : 0;
}
