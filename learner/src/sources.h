/* The readers behind learner_samples_open, and the memory of a sample set. Private to the folder.
 *
 * Every reader writes *out on success only, validates what it reads against the limits below and
 * gives the same images in the same order each time. Threads: none shared. */
#ifndef LEARNER_SOURCES_H
#define LEARNER_SOURCES_H

#include <stdbool.h>

#include "learner/samples.h"

#define LEARNER_SAMPLES_MAX_BYTES ((size_t)4 << 30)
#define LEARNER_SAMPLES_MAX_CLASSES 10000
#define LEARNER_SAMPLES_MAX_SIDE 1024

/* Zeroed memory for `count` images and `class_count` class ids. fails: LIMIT, NO_MEMORY */
DELTA_MUST_USE enum delta_status
learner_samples_reserve(struct learner_samples *out, uint32_t channels, uint32_t height,
                        uint32_t width, size_t count, size_t class_count, struct delta_error *err);

static inline size_t learner_samples_image_bytes(const struct learner_samples *samples)
{
    return (size_t)samples->channels * samples->height * samples->width;
}

/* What the network gets for each byte of a channel. */
void learner_samples_table(float table[256], const struct delta_arch *arch, uint32_t channel);

/* Index of a class in the set's own list, or -1. */
long learner_samples_class_index(const struct learner_samples *samples, const char *id);

/* Is this a directory with CIFAR-100 binaries, or one with cifar-100-binary/ below? Writes the
 * directory that holds them. */
bool learner_cifar_find(char *dir, size_t size, const char *source);
DELTA_MUST_USE enum delta_status learner_cifar_open(struct learner_samples *out, const char *dir,
                                                    enum learner_split split,
                                                    struct delta_error *err);

/* spec: what follows "synthetic:", or "". */
DELTA_MUST_USE enum delta_status learner_synthetic_open(struct learner_samples *out,
                                                        const char *spec, enum learner_split split,
                                                        struct delta_error *err);

/* A directory of class folders. */
DELTA_MUST_USE enum delta_status learner_tree_open(struct learner_samples *out, const char *dir,
                                                   uint32_t height, uint32_t width,
                                                   struct delta_error *err);

#endif
