/* The state of a training run in a file, so that a killed run ends with the same bytes as one that
 * was not. Everything random in a run is a function of its seed and the step, so that the step, the
 * weights and the optimiser's memory are the whole state.
 *
 *   8 bytes   "FROSTCK1"
 *   4 bytes   length of the header, little-endian, at most 64 KiB
 *   header    canonical MessagePack map: floats (number of them in the payload), microbatch,
 *             options (map: name -> text, what the run was started with), schema = 1, step (done),
 *             steps (of the whole run)
 *   payload   little-endian float32: every parameter and running statistic in the network's order,
 *             then every velocity, then, with a moving average, the average in the first order
 *   32 bytes  SHA-256 of everything before
 *
 * The file is written atomically and read as hostile. Private to the folder. */
#ifndef LEARNER_CHECKPOINT_H
#define LEARNER_CHECKPOINT_H

#include <stdio.h>

#include "delta/buf.h"

#define LEARNER_CHECKPOINT_OPTIONS_MAX 32

struct learner_checkpoint_option {
    char name[24];
    char text[80];
};

struct learner_checkpoint {
    /* strictly ascending by name */
    struct learner_checkpoint_option options[LEARNER_CHECKPOINT_OPTIONS_MAX];
    size_t option_count;
    uint64_t step, steps, microbatch;
};

/* A piece of the payload. */
struct learner_checkpoint_block {
    float *data;
    size_t count;
};

/* Adds an option in any order; the caller keeps to the limits above. */
void learner_checkpoint_option(struct learner_checkpoint *state, const char *name, const char *fmt,
                               ...) DELTA_PRINTF(3, 4);

/*   fails    IO, NO_SPACE; the old file is whole then */
DELTA_MUST_USE enum delta_status
learner_checkpoint_save(const struct learner_checkpoint *state,
                        const struct learner_checkpoint_block *blocks, size_t count,
                        const char *path, struct delta_error *err);

struct learner_checkpoint_file {
    FILE *file; /* at the payload; NULL: closed */
    struct learner_checkpoint state;
    uint64_t floats;
};

/* Checks the whole file, its digest too, and reads the header.
 *   out      end with learner_checkpoint_close(); closed on failure
 *   fails    NOT_FOUND, IO, TRUNCATED, FORMAT, LIMIT, DIGEST, UNSUPPORTED (schema) */
DELTA_MUST_USE enum delta_status learner_checkpoint_open(struct learner_checkpoint_file *out,
                                                         const char *path, struct delta_error *err);
void learner_checkpoint_close(struct learner_checkpoint_file *file);

/* Is it of this run?  fails: MISMATCH names the first option that differs, and both texts */
DELTA_MUST_USE enum delta_status learner_checkpoint_same_run(const struct learner_checkpoint *found,
                                                             const struct learner_checkpoint *mine,
                                                             struct delta_error *err);

/* Fills the blocks.  fails: FORMAT when they have another size altogether, IO, TRUNCATED */
DELTA_MUST_USE enum delta_status
learner_checkpoint_read(struct learner_checkpoint_file *file,
                        const struct learner_checkpoint_block *blocks, size_t count,
                        struct delta_error *err);

#endif
