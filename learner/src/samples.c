#include "sources.h"

#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "delta/buf.h"
#include "delta/file.h"

#define DEFAULT_SIDE 32

void learner_samples_release(struct learner_samples *samples)
{
    if (!samples)
        return;
    free(samples->pixels);
    free(samples->labels);
    free(samples->classes);
    *samples = (struct learner_samples)LEARNER_SAMPLES_INIT;
}

enum delta_status learner_samples_reserve(struct learner_samples *out, uint32_t channels,
                                          uint32_t height, uint32_t width, size_t count,
                                          size_t class_count, struct delta_error *err)
{
    struct learner_samples made = {channels, height, width, count, NULL, NULL, NULL, class_count};
    size_t bytes;

    if (class_count > LEARNER_SAMPLES_MAX_CLASSES)
        return delta_fail(err, DELTA_LIMIT, "%zu classes are more than the %d allowed", class_count,
                          LEARNER_SAMPLES_MAX_CLASSES);
    if (!delta_size_mul(learner_samples_image_bytes(&made), count, &bytes) ||
        bytes > LEARNER_SAMPLES_MAX_BYTES)
        return delta_fail(err, DELTA_LIMIT,
                          "%zu images of %ux%u pixels are more than %zu MB; take fewer per class",
                          count, width, height, LEARNER_SAMPLES_MAX_BYTES >> 20);
    made.pixels = delta_calloc(bytes ? bytes : 1, 1);
    made.labels = delta_calloc(count ? count : 1, sizeof *made.labels);
    made.classes = delta_calloc(class_count ? class_count : 1, sizeof *made.classes);
    if (!made.pixels || !made.labels || !made.classes) {
        learner_samples_release(&made);
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for %zu images", count);
    }
    *out = made;
    return DELTA_OK;
}

long learner_samples_class_index(const struct learner_samples *samples, const char *id)
{
    for (size_t i = 0; i < samples->class_count; i++)
        if (strcmp(samples->classes[i].text, id) == 0)
            return (long)i;
    return -1;
}

static bool is_dir(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

enum delta_status learner_samples_open_sized(struct learner_samples *out, const char *source,
                                             enum learner_split split, uint32_t height,
                                             uint32_t width, struct delta_error *err)
{
    struct learner_samples made = LEARNER_SAMPLES_INIT;
    char path[4096], other[4096];
    enum delta_status st;

    if (strcmp(source, "synthetic") == 0 || strncmp(source, "synthetic:", 10) == 0) {
        st = learner_synthetic_open(&made, source[9] ? source + 10 : "", split, err);
    } else if (!is_dir(source)) {
        st = delta_fail(err, DELTA_NOT_FOUND,
                        "data source '%s': neither a directory nor 'synthetic[:key=value,...]'",
                        source);
    } else if (learner_cifar_find(path, sizeof path, source)) {
        st = learner_cifar_open(&made, path, split, err);
    } else {
        const char *name = split == LEARNER_SPLIT_TRAIN ? "train" : "test";
        st = delta_path_join(path, sizeof path, source, name, err);
        if (!st)
            st = delta_path_join(other, sizeof other, source,
                                 split == LEARNER_SPLIT_TRAIN ? "test" : "train", err);
        if (!st && !is_dir(path) && is_dir(other))
            st = delta_fail(err, DELTA_NOT_FOUND, "data source '%s': no folder '%s' in it", source,
                            name);
        if (!st)
            st = learner_tree_open(&made, is_dir(path) ? path : source,
                                   height ? height : DEFAULT_SIDE, width ? width : DEFAULT_SIDE,
                                   err);
    }
    if (st)
        return st;
    if ((height && made.height != height) || (width && made.width != width)) {
        st = delta_fail(err, DELTA_MISMATCH,
                        "data source '%s' has images of %ux%u pixels, %ux%u are needed; export "
                        "them to folders, which are resized",
                        source, made.width, made.height, width, height);
        learner_samples_release(&made);
        return st;
    }
    *out = made;
    return DELTA_OK;
}

enum delta_status learner_samples_open(struct learner_samples *out, const char *source,
                                       enum learner_split split, struct delta_error *err)
{
    return learner_samples_open_sized(out, source, split, 0, 0, err);
}

/* What a selection makes of each image: label in the new list, or -1. Counts what is kept. */
static enum delta_status choose_images(int32_t **out, size_t *kept,
                                       const struct learner_samples *from,
                                       const struct delta_class_id *classes, size_t class_count,
                                       size_t per_class, struct delta_error *err)
{
    int32_t *map = delta_calloc(from->class_count + 1, sizeof *map);
    int32_t *made = delta_calloc(from->count + 1, sizeof *made);
    size_t *taken = delta_calloc(class_count + 1, sizeof *taken);
    enum delta_status st = DELTA_OK;

    *kept = 0;
    if (!map || !taken || !made) {
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
        goto done;
    }
    memset(map, -1, from->class_count * sizeof *map);
    for (size_t k = 0; k < class_count; k++) {
        const long index = learner_samples_class_index(from, classes[k].text);
        if (index < 0) {
            st = delta_fail(err, DELTA_NOT_FOUND, "class '%s' is not in the data", classes[k].text);
            goto done;
        }
        map[index] = (int32_t)k;
    }
    for (size_t i = 0; i < from->count; i++) {
        const int32_t k = map[from->labels[i]];
        const bool keep = k >= 0 && (per_class == 0 || taken[k] < per_class);
        made[i] = keep ? k : -1;
        if (keep) {
            taken[k]++;
            ++*kept;
        }
    }
    *out = made;
    made = NULL;
done:
    free(map);
    free(made);
    free(taken);
    return st;
}

enum delta_status learner_samples_select(struct learner_samples *out,
                                         const struct learner_samples *from,
                                         const struct delta_class_id *classes, size_t class_count,
                                         size_t per_class, struct delta_error *err)
{
    const size_t image = learner_samples_image_bytes(from);
    struct learner_samples made = LEARNER_SAMPLES_INIT;
    int32_t *labels = NULL;
    size_t total, at = 0;
    enum delta_status st =
        choose_images(&labels, &total, from, classes, class_count, per_class, err);

    if (!st)
        st = learner_samples_reserve(&made, from->channels, from->height, from->width, total,
                                     class_count, err);
    for (size_t i = 0; !st && i < from->count; i++) {
        if (labels[i] < 0)
            continue;
        memcpy(made.pixels + at * image, from->pixels + i * image, image);
        made.labels[at++] = labels[i];
    }
    if (!st && class_count)
        memcpy(made.classes, classes, class_count * sizeof *classes);
    if (!st)
        *out = made;
    free(labels);
    return st;
}

enum delta_status learner_samples_keep(struct learner_samples *samples,
                                       const struct delta_class_id *classes, size_t class_count,
                                       size_t per_class, struct delta_error *err)
{
    const size_t image = learner_samples_image_bytes(samples);
    struct delta_class_id *ids = delta_calloc(class_count + 1, sizeof *ids);
    int32_t *labels = NULL;
    size_t total, at = 0;
    enum delta_status st = ids ? DELTA_OK : delta_fail(err, DELTA_NO_MEMORY, "out of memory");

    if (!st)
        st = choose_images(&labels, &total, samples, classes, class_count, per_class, err);
    if (st) {
        free(ids);
        return st;
    }
    if (class_count)
        memcpy(ids, classes, class_count * sizeof *ids); /* may be the set's own list */
    for (size_t i = 0; i < samples->count; i++) {
        if (labels[i] < 0)
            continue;
        if (at != i)
            memcpy(samples->pixels + at * image, samples->pixels + i * image, image);
        samples->labels[at++] = labels[i];
    }
    uint8_t *less = realloc(samples->pixels, total ? total * image : 1);
    samples->pixels = less ? less : samples->pixels;
    free(samples->classes);
    samples->classes = ids;
    samples->class_count = class_count;
    samples->count = total;
    free(labels);
    return DELTA_OK;
}

/* Grows one array of a set; the old one stays valid on failure. */
static bool grow(void *array, size_t count, size_t size)
{
    void **at = array;
    size_t bytes;

    if (!delta_size_mul(count, size, &bytes))
        return false;
    void *larger = realloc(*at, bytes ? bytes : 1);
    if (larger)
        *at = larger;
    return larger != NULL;
}

static enum delta_status grow_all(struct learner_samples *samples,
                                  const struct learner_samples *more, struct delta_error *err)
{
    const size_t count = samples->count + more->count;
    const size_t classes = samples->class_count + more->class_count;
    size_t bytes;

    if (classes > LEARNER_SAMPLES_MAX_CLASSES ||
        !delta_size_mul(learner_samples_image_bytes(more), count, &bytes) ||
        bytes > LEARNER_SAMPLES_MAX_BYTES)
        return delta_fail(err, DELTA_LIMIT,
                          "%zu images of %zu classes are more than %zu MB or %d classes", count,
                          classes, LEARNER_SAMPLES_MAX_BYTES >> 20, LEARNER_SAMPLES_MAX_CLASSES);
    if (!grow(&samples->pixels, bytes, 1) ||
        !grow(&samples->labels, count, sizeof *samples->labels) ||
        !grow(&samples->classes, classes, sizeof *samples->classes))
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for %zu images", count);
    return DELTA_OK;
}

enum delta_status learner_samples_append(struct learner_samples *samples,
                                         const struct learner_samples *more,
                                         struct delta_error *err)
{
    const bool fresh = samples->count == 0 && samples->class_count == 0;
    const size_t image = learner_samples_image_bytes(more);
    int32_t *map;
    enum delta_status st;

    if (!fresh && (samples->channels != more->channels || samples->height != more->height ||
                   samples->width != more->width))
        return delta_fail(err, DELTA_MISMATCH,
                          "images of %ux%u pixels cannot join images of %ux%u pixels", more->width,
                          more->height, samples->width, samples->height);
    map = delta_calloc(more->class_count + 1, sizeof *map);
    if (!map)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    st = grow_all(samples, more, err);
    if (st)
        goto done;
    samples->channels = more->channels;
    samples->height = more->height;
    samples->width = more->width;
    for (size_t k = 0; k < more->class_count; k++) {
        long index = learner_samples_class_index(samples, more->classes[k].text);
        if (index < 0) {
            index = (long)samples->class_count++;
            samples->classes[index] = more->classes[k];
        }
        map[k] = (int32_t)index;
    }
    if (more->count)
        memcpy(samples->pixels + samples->count * image, more->pixels, more->count * image);
    for (size_t i = 0; i < more->count; i++)
        samples->labels[samples->count + i] = map[more->labels[i]];
    samples->count += more->count;
done:
    free(map);
    return st;
}

void learner_samples_table(float table[256], const struct delta_arch *arch, uint32_t channel)
{
    const uint32_t k = channel < 3 ? channel : 2;

    for (int v = 0; v < 256; v++)
        table[v] = (float)((v / 255.0 - arch->mean[k]) / arch->std[k]);
}

void learner_samples_batch(float *out, const struct learner_samples *samples,
                           const struct delta_arch *arch, const uint32_t *index, size_t n,
                           const uint8_t *mirror)
{
    const size_t plane = (size_t)samples->height * samples->width;
    const size_t width = samples->width;
    float table[256];

    for (uint32_t c = 0; c < samples->channels; c++) {
        learner_samples_table(table, arch, c);
        for (size_t i = 0; i < n; i++) {
            const size_t step = samples->channels;
            const uint8_t *in = samples->pixels + (index[i] * step + c) * plane;
            float *to = out + i * plane * step + c;
            if (!mirror || !mirror[i]) {
                for (size_t p = 0; p < plane; p++)
                    to[p * step] = table[in[p]];
                continue;
            }
            for (size_t y = 0; y < samples->height; y++)
                for (size_t x = 0; x < width; x++)
                    to[(y * width + x) * step] = table[in[y * width + width - 1 - x]];
        }
    }
}

static enum delta_status write_png(const char *path, const struct learner_samples *samples,
                                   size_t index, uint8_t *packed, struct delta_error *err)
{
    const size_t plane = (size_t)samples->height * samples->width;
    const uint8_t *in = samples->pixels + index * 3 * plane;
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = samples->width,
                       .height = samples->height,
                       .format = PNG_FORMAT_RGB};

    for (size_t p = 0; p < plane; p++)
        for (size_t c = 0; c < 3; c++)
            packed[3 * p + c] = in[c * plane + p];
    if (!png_image_write_to_file(&image, path, 0, packed, 0, NULL))
        return delta_fail(err, DELTA_IO, "cannot write '%s': %s", path, image.message);
    return DELTA_OK;
}

enum delta_status learner_samples_export(const struct learner_samples *samples, const char *dir,
                                         struct delta_error *err)
{
    size_t *numbers = delta_calloc(samples->class_count + 1, sizeof *numbers);
    uint8_t *packed = delta_calloc(learner_samples_image_bytes(samples) + 1, 1);
    char folder[4096], path[4200];
    enum delta_status st = DELTA_OK;

    if (!numbers || !packed)
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    else if (samples->channels != 3)
        st = delta_fail(err, DELTA_UNSUPPORTED, "only colour images can be exported");
    for (size_t k = 0; !st && k < samples->class_count; k++) {
        st = delta_path_join(folder, sizeof folder, dir, samples->classes[k].text, err);
        if (!st)
            st = delta_dir_make(folder, 0755, err);
    }
    for (size_t i = 0; !st && i < samples->count; i++) {
        const int32_t k = samples->labels[i];
        st = delta_path_join(folder, sizeof folder, dir, samples->classes[k].text, err);
        if (st)
            break;
        snprintf(path, sizeof path, "%s/%05zu.png", folder, numbers[k]++);
        st = write_png(path, samples, i, packed, err);
    }
    free(numbers);
    free(packed);
    return st;
}
