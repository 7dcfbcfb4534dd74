/* The exemplar file, behind its digest. */
#include <stdlib.h>

#include "fuzz.h"
#include "learner/exemplars.h"

static void check(const struct learner_samples *set)
{
    for (size_t i = 0; i < set->count; i++)
        if (set->labels[i] < 0 || (size_t)set->labels[i] >= set->class_count)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct learner_exemplars exemplars;

    if (learner_exemplars_load(&exemplars, fuzz_file(data, size, 1), NULL))
        return 0;
    check(&exemplars.replay);
    check(&exemplars.probe);
    learner_exemplars_release(&exemplars);
    return 0;
}
