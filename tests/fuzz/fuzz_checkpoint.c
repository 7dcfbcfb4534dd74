/* The state of a training run, behind its digest. */
#include <stdlib.h>

#include "checkpoint.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct learner_checkpoint_file file;
    float values[64];
    const struct learner_checkpoint_block block = {values, sizeof values / sizeof values[0]};

    if (learner_checkpoint_open(&file, fuzz_file(data, size, 1), NULL))
        return 0;
    if (file.floats > size / sizeof(float) || file.state.step > file.state.steps)
        abort();
    (void)!learner_checkpoint_read(&file, &block, 1, NULL);
    (void)!learner_checkpoint_same_run(&file.state, &file.state, NULL);
    learner_checkpoint_close(&file);
    return 0;
}
