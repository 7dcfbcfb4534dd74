/* Class folders of PNG and JPEG files: an inbox, or a data set laid out as <class>/<image>.
 * Names decide what is looked at (.png .jpg .jpeg), content decides what it is. */
#include "images.h"
#include "sources.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "delta/file.h"

#define MAX_ENTRIES 200000

static bool looks_like_image(const char *name)
{
    static const char *const endings[] = {".png", ".jpg", ".jpeg"};
    const char *dot = strrchr(name, '.');

    for (size_t i = 0; dot && i < sizeof endings / sizeof endings[0]; i++)
        if (strcasecmp(dot, endings[i]) == 0)
            return true;
    return false;
}

/* One file into pixels [3, height, width]; the text names the file. */
static enum delta_status read_image(uint8_t *out, const char *dir, const char *name,
                                    uint32_t height, uint32_t width, bool *resized,
                                    struct delta_error *err)
{
    struct learner_image image = {0, 0, NULL};
    struct delta_buf file = {0};
    struct stat info;
    char path[4200];
    enum delta_status st = delta_path_join(path, sizeof path, dir, name, err);

    if (st)
        return st;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return delta_fail(err, DELTA_FORMAT, "'%.100s': not a regular file", name);
    st = delta_file_read(path, LEARNER_IMAGE_MAX_FILE, &file, err);
    if (st)
        return st;
    st = learner_image_decode(&image, delta_buf_bytes(&file), err);
    if (st)
        st = delta_fail_in(err, st, "'%.100s'", name);
    if (!st) {
        *resized = image.width != width || image.height != height;
        st = learner_image_fit(out, height, width, &image, err);
    }
    learner_image_release(&image);
    delta_buf_release(&file);
    return st;
}

static enum delta_status read_all(struct learner_samples *made, const char *dir,
                                  const struct delta_dir_list *list,
                                  struct learner_folder_report *report, struct delta_error *err)
{
    size_t count = 0;

    for (size_t i = 0; i < list->count; i++) {
        struct delta_error problem = DELTA_ERROR_INIT;
        bool resized = false;
        if (!looks_like_image(list->names[i]))
            continue;
        const enum delta_status st =
            read_image(made->pixels + count * learner_samples_image_bytes(made), dir,
                       list->names[i], made->height, made->width, &resized, &problem);
        if (st == DELTA_NO_MEMORY)
            return delta_fail(err, st, "%s", problem.text);
        if (st) {
            if (report->skipped++ == 0)
                snprintf(report->first_problem, sizeof report->first_problem, "%s", problem.text);
            continue;
        }
        report->resized += resized;
        count++;
    }
    report->read = made->count = count;
    return DELTA_OK;
}

enum delta_status learner_samples_folder(struct learner_samples *out, const char *dir,
                                         const struct delta_class_id *class_id, uint32_t height,
                                         uint32_t width, size_t max_images,
                                         struct learner_folder_report *report,
                                         struct delta_error *err)
{
    struct learner_samples made = LEARNER_SAMPLES_INIT;
    struct learner_folder_report found = {0, 0, 0, ""};
    struct delta_dir_list list = {0};
    enum delta_status st;
    size_t candidates = 0;

    if (height == 0 || width == 0 || height > LEARNER_SAMPLES_MAX_SIDE ||
        width > LEARNER_SAMPLES_MAX_SIDE)
        return delta_fail(err, DELTA_LIMIT, "images of %ux%u pixels are not supported", width,
                          height);
    st = delta_dir_read(&list, dir, MAX_ENTRIES, err);
    if (st)
        return st;
    for (size_t i = 0; i < list.count; i++)
        candidates += looks_like_image(list.names[i]);
    if (max_images && candidates > max_images) {
        st = delta_fail(err, DELTA_LIMIT,
                        "folder '%s' holds %zu images, more than the %zu allowed; remove some", dir,
                        candidates, max_images);
        goto done;
    }
    st = learner_samples_reserve(&made, 3, height, width, candidates, 1, err);
    if (st)
        goto done;
    made.classes[0] = *class_id;
    st = read_all(&made, dir, &list, &found, err);
    if (st)
        goto done;
    if (report)
        *report = found;
    if (found.read == 0) {
        st = found.skipped
                 ? delta_fail(err, DELTA_FORMAT,
                              "folder '%.200s': none of its %zu images can be read: %s", dir,
                              found.skipped, found.first_problem)
                 : delta_fail(err, DELTA_FORMAT, "folder '%.200s' holds no PNG or JPEG image", dir);
        goto done;
    }
    *out = made;
    made = (struct learner_samples)LEARNER_SAMPLES_INIT;
done:
    learner_samples_release(&made);
    delta_dir_list_release(&list);
    return st;
}

enum delta_status learner_tree_open(struct learner_samples *out, const char *dir, uint32_t height,
                                    uint32_t width, struct delta_error *err)
{
    struct learner_samples made = LEARNER_SAMPLES_INIT;
    struct delta_dir_list list = {0};
    enum delta_status st = delta_dir_read(&list, dir, LEARNER_SAMPLES_MAX_CLASSES, err);
    struct stat info;
    char path[4200];

    for (size_t i = 0; !st && i < list.count; i++) {
        struct learner_samples one = LEARNER_SAMPLES_INIT;
        struct delta_class_id id;
        st = delta_path_join(path, sizeof path, dir, list.names[i], err);
        if (st || stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
            continue;
        st = delta_class_id_make(&id, list.names[i], err);
        if (!st)
            st = learner_samples_folder(&one, path, &id, height, width, 0, NULL, err);
        if (!st)
            st = learner_samples_append(&made, &one, err);
        learner_samples_release(&one);
    }
    if (!st && made.count == 0)
        st = delta_fail(err, DELTA_NOT_FOUND,
                        "data source '%s': no class folders with images, no train.bin or test.bin",
                        dir);
    delta_dir_list_release(&list);
    if (st) {
        learner_samples_release(&made);
        return st;
    }
    *out = made;
    return DELTA_OK;
}
