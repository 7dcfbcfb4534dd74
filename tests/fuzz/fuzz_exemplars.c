/* The exemplar file, behind its digest. */
#include <math.h>
#include <stdlib.h>

#include "fuzz.h"
#include "learner/exemplars.h"

static void check(const struct learner_samples *set)
{
    for (size_t i = 0; i < set->count; i++)
        if (set->labels[i] < 0 || (size_t)set->labels[i] >= set->class_count)
            abort();
}

static void check_features(const struct learner_exemplars *exemplars)
{
    const struct learner_features *features = &exemplars->features;

    if (features->replay_count != exemplars->replay.count ||
        features->probe_count != exemplars->probe.count)
        abort();
    for (size_t i = 0; i < features->d * features->replay_count; i++)
        if (!isfinite(features->replay[i]))
            abort();
    for (size_t i = 0; i < features->d * features->probe_count; i++)
        if (!isfinite(features->probe[i]))
            abort();
}

static void check_latents(const struct learner_exemplars *exemplars)
{
    const struct learner_latents *latents = &exemplars->latents;

    if (latents->count != exemplars->replay.count)
        abort();
    for (size_t i = 0; i < latents->count * latents->values; i++)
        if ((latents->rows[i] & 0x7f80) == 0x7f80)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct learner_exemplars exemplars;

    if (learner_exemplars_load(&exemplars, fuzz_file(data, size, 1), NULL))
        return 0;
    check(&exemplars.replay);
    check(&exemplars.probe);
    if (exemplars.features.d)
        check_features(&exemplars);
    if (exemplars.latents.values)
        check_latents(&exemplars);
    learner_exemplars_release(&exemplars);
    return 0;
}
