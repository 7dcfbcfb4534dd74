/* Labelled images in memory and where they come from: CIFAR-100 binaries, folders of PNG/JPEG,
 * procedural synthetic images. Pixels stay bytes until a batch is prepared. */
#ifndef LEARNER_SAMPLES_H
#define LEARNER_SAMPLES_H

#include "delta/class_id.h"
#include "delta/model.h"

struct learner_samples {
    uint32_t channels, height, width;
    size_t count;
    uint8_t *pixels;                /* owned, planar RGB, [count, channels, height, width] */
    int32_t *labels;                /* owned, [count], index into `classes` */
    struct delta_class_id *classes; /* owned */
    size_t class_count;
};

#define LEARNER_SAMPLES_INIT                                                                       \
    {                                                                                              \
        0                                                                                          \
    }

void learner_samples_release(struct learner_samples *samples);

enum learner_split { LEARNER_SPLIT_TRAIN, LEARNER_SPLIT_TEST };

/* Opens a data source named on a command line:
 *   "synthetic" or "synthetic:key=value,..."  keys classes, train, test (images per class), seed
 *   a directory with train.bin/test.bin/fine_label_names.txt or a cifar-100-binary/ below it
 *   a directory of class folders, or one with train/ and test/ of class folders
 * fails: NOT_FOUND, FORMAT, LIMIT, NO_MEMORY; the text names file and place. */
DELTA_MUST_USE enum delta_status learner_samples_open(struct learner_samples *out,
                                                      const char *source, enum learner_split split,
                                                      struct delta_error *err);

/* The same, with folders' images resized to height x width; 0 = 32, which learner_samples_open
 * uses. A directory of class folders without train/ and test/ gives all its images for either
 * split. fails    also MISMATCH: CIFAR-100 and synthetic images have one size */
DELTA_MUST_USE enum delta_status learner_samples_open_sized(struct learner_samples *out,
                                                            const char *source,
                                                            enum learner_split split,
                                                            uint32_t height, uint32_t width,
                                                            struct delta_error *err);

/* One class folder (the agent's inbox/<class>/): every PNG and JPEG in it, resized to the wanted
 * size where it differs. Unreadable files are skipped and counted in *report (may be NULL).
 *   max_images  0 = no limit but that of memory; more files than that fail with LIMIT
 *   fails       NOT_FOUND, LIMIT, FORMAT when no file at all could be read */
struct learner_folder_report {
    size_t read, resized, skipped;
    char first_problem[256]; /* "'x.png': image is empty" */
};
DELTA_MUST_USE enum delta_status
learner_samples_folder(struct learner_samples *out, const char *dir,
                       const struct delta_class_id *class_id, uint32_t height, uint32_t width,
                       size_t max_images, struct learner_folder_report *report,
                       struct delta_error *err);

/* Writes images as PNG files <dir>/<class>/<number>.png; for demonstrations and tests. */
DELTA_MUST_USE enum delta_status learner_samples_export(const struct learner_samples *samples,
                                                        const char *dir, struct delta_error *err);

/* Copies the images of these classes (in this order, labels renumbered), at most `per_class` each
 * (0 = all), in source order.  fails: NOT_FOUND names the class that the source lacks */
DELTA_MUST_USE enum delta_status learner_samples_select(struct learner_samples *out,
                                                        const struct learner_samples *from,
                                                        const struct delta_class_id *classes,
                                                        size_t class_count, size_t per_class,
                                                        struct delta_error *err);
/* The same in place: what is not wanted is dropped, no copy is made.
 *   fails    NOT_FOUND, NO_MEMORY; the set is as it was then */
DELTA_MUST_USE enum delta_status learner_samples_keep(struct learner_samples *samples,
                                                      const struct delta_class_id *classes,
                                                      size_t class_count, size_t per_class,
                                                      struct delta_error *err);
/* Appends all images of `more`; its classes are merged into the list by id. */
DELTA_MUST_USE enum delta_status learner_samples_append(struct learner_samples *samples,
                                                        const struct learner_samples *more,
                                                        struct delta_error *err);

/* Batch input for an architecture: out [n, h, w, c] = (pixel/255 - mean)/std of images
 * index[0..n-1]. mirror (may be NULL): [n], nonzero = flip left-right. */
void learner_samples_batch(float *out, const struct learner_samples *samples,
                           const struct delta_arch *arch, const uint32_t *index, size_t n,
                           const uint8_t *mirror);

#endif
