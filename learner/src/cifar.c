/* CIFAR-100 in its official binary layout: each record is 1 byte coarse label, 1 byte fine label,
 * 1024 R, 1024 G, 1024 B. Refuses files that are not whole records and labels out of range. */
#include "sources.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "delta/file.h"

#define SIDE 32
#define RECORD (2 + 3 * SIDE * SIDE)
#define FINE 100
#define COARSE 20
#define MAX_RECORDS 1000000
#define MAX_NAMES_BYTES 65536

static bool has_binaries(const char *dir)
{
    static const char *const names[] = {"train.bin", "test.bin"};
    char path[4200];

    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        if (delta_file_exists(path))
            return true;
    }
    return false;
}

bool learner_cifar_find(char *dir, size_t size, const char *source)
{
    for (int below = 0; below < 2; below++) {
        const int len = snprintf(dir, size, "%s%s", source, below ? "/cifar-100-binary" : "");
        if (len > 0 && (size_t)len < size && has_binaries(dir))
            return true;
    }
    return false;
}

/* One name a line, exactly FINE of them. */
static enum delta_status read_names(struct delta_class_id *out, const char *path,
                                    struct delta_error *err)
{
    struct delta_buf text;
    enum delta_status st = delta_file_read(path, MAX_NAMES_BYTES, &text, err);
    size_t count = 0, at = 0;

    if (st)
        return st;
    while (!st && at < text.len) {
        const uint8_t *start = text.data + at;
        const uint8_t *end = memchr(start, '\n', text.len - at);
        size_t len = end ? (size_t)(end - start) : text.len - at;
        char name[DELTA_CLASS_ID_MAX + 2];
        at += len + 1;
        if (len && start[len - 1] == '\r')
            len--;
        if (len == 0)
            continue;
        if (count == FINE || len > DELTA_CLASS_ID_MAX) {
            st = delta_fail(err, DELTA_FORMAT, "'%s': not a list of %d label names", path, FINE);
            break;
        }
        memcpy(name, start, len);
        name[len] = '\0';
        st = delta_class_id_make(&out[count++], name, err);
        if (st)
            st = delta_fail_in(err, st, "'%s', label %zu", path, count - 1);
    }
    if (!st && count != FINE)
        st = delta_fail(err, DELTA_FORMAT, "'%s' has %zu label names instead of %d", path, count,
                        FINE);
    delta_buf_release(&text);
    return st;
}

static enum delta_status read_records(struct learner_samples *out, FILE *file, const char *path,
                                      struct delta_error *err)
{
    uint8_t labels[2];

    for (size_t i = 0; i < out->count; i++) {
        if (fread(labels, 1, 2, file) != 2 ||
            fread(out->pixels + i * (RECORD - 2), 1, RECORD - 2, file) != RECORD - 2)
            return delta_fail(err, DELTA_TRUNCATED, "'%s' ends within record %zu", path, i);
        if (labels[0] >= COARSE || labels[1] >= FINE)
            return delta_fail(err, DELTA_FORMAT,
                              "'%s', record %zu: label %u/%u is out of range; is it CIFAR-100?",
                              path, i, labels[0], labels[1]);
        out->labels[i] = labels[1];
    }
    return DELTA_OK;
}

enum delta_status learner_cifar_open(struct learner_samples *out, const char *dir,
                                     enum learner_split split, struct delta_error *err)
{
    struct learner_samples made = LEARNER_SAMPLES_INIT;
    char path[4200], names[4200];
    FILE *file = NULL;
    struct stat info;
    enum delta_status st;

    st = delta_path_join(path, sizeof path, dir,
                         split == LEARNER_SPLIT_TRAIN ? "train.bin" : "test.bin", err);
    if (!st)
        st = delta_path_join(names, sizeof names, dir, "fine_label_names.txt", err);
    if (st)
        return st;
    file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &info)) {
        st = delta_fail_errno(err, "cannot open '%s'", path);
        goto done;
    }
    if (!S_ISREG(info.st_mode) || info.st_size <= 0 || info.st_size % RECORD ||
        info.st_size / RECORD > MAX_RECORDS) {
        st = delta_fail(err, DELTA_FORMAT,
                        "'%s' has %lld bytes, not a whole number of records of %d bytes; fetch "
                        "CIFAR-100's binary version again",
                        path, (long long)info.st_size, RECORD);
        goto done;
    }
    st = learner_samples_reserve(&made, 3, SIDE, SIDE, (size_t)(info.st_size / RECORD), FINE, err);
    if (st)
        goto done;
    st = read_names(made.classes, names, err);
    if (st)
        goto done;
    st = read_records(&made, file, path, err);
    if (st)
        goto done;
    *out = made;
    made = (struct learner_samples)LEARNER_SAMPLES_INIT;
done:
    if (file)
        fclose(file);
    learner_samples_release(&made);
    return st;
}
