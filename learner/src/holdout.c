#include "holdout.h"

#include <stdlib.h>
#include <string.h>

#include "sources.h"

struct learner_rng learner_class_rng(uint64_t seed, const struct delta_class_id *id)
{
    uint64_t stream = 0xcbf29ce484222325u; /* FNV-1a */
    struct learner_rng rng;

    for (const char *p = id->text; *p; p++)
        stream = (stream ^ (uint8_t)*p) * 0x100000001b3u;
    learner_rng_init(&rng, seed, stream);
    return rng;
}

#define ENOUGH 10 /* from here on a tenth will do */
#define PLENTY 40

static size_t held_of(size_t count)
{
    const size_t fifth = count / 5, tenth = count / 10;
    const size_t held = fifth < ENOUGH ? fifth : tenth > ENOUGH ? tenth : ENOUGH;

    return held < PLENTY ? held : PLENTY;
}

enum delta_status learner_holdout(bool *held, const struct learner_samples *samples, uint64_t seed,
                                  struct delta_error *err)
{
    uint32_t *index = delta_calloc(samples->count + 1, sizeof *index);

    if (!index)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    memset(held, 0, samples->count * sizeof *held);
    for (size_t k = 0; k < samples->class_count; k++) {
        struct learner_rng rng = learner_class_rng(seed, &samples->classes[k]);
        size_t count = 0;
        for (size_t i = 0; i < samples->count; i++)
            if (samples->labels[i] == (int32_t)k)
                index[count++] = (uint32_t)i;
        learner_rng_shuffle(&rng, index, count);
        for (size_t i = 0; i < held_of(count); i++)
            held[index[i]] = true;
    }
    free(index);
    return DELTA_OK;
}

enum delta_status learner_samples_filter(struct learner_samples *out,
                                         const struct learner_samples *from, const bool *flags,
                                         bool wanted, struct delta_error *err)
{
    const size_t image = learner_samples_image_bytes(from);
    size_t count = 0, at = 0;

    for (size_t i = 0; i < from->count; i++)
        count += flags[i] == wanted;
    const enum delta_status st = learner_samples_reserve(
        out, from->channels, from->height, from->width, count, from->class_count, err);
    if (st)
        return st;
    if (from->class_count)
        memcpy(out->classes, from->classes, from->class_count * sizeof *out->classes);
    for (size_t i = 0; i < from->count; i++) {
        if (flags[i] != wanted)
            continue;
        memcpy(out->pixels + at * image, from->pixels + i * image, image);
        out->labels[at++] = from->labels[i];
    }
    return DELTA_OK;
}
