#include "inbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "delta/file.h"
#include "delta/log.h"

void agent_inbox_init(struct agent_inbox *inbox, size_t min_images, int64_t settle_ms)
{
    *inbox = (struct agent_inbox){.min_images = min_images, .settle_ms = settle_ms};
}

void agent_inbox_release(struct agent_inbox *inbox)
{
    if (inbox)
        free(inbox->classes);
}

static bool is_image(const char *name)
{
    const char *dot = strrchr(name, '.');

    return dot && (strcasecmp(dot, ".png") == 0 || strcasecmp(dot, ".jpg") == 0 ||
                   strcasecmp(dot, ".jpeg") == 0);
}

/* Counts the images and takes the fingerprint. Links are not followed: the inbox is a place where
 * strangers may write. */
static enum delta_status look_into(struct agent_inbox_class *class, const char *path,
                                   struct delta_digest *content, struct delta_error *err)
{
    struct delta_dir_list list;
    struct delta_hash hash;
    char file[4096];
    enum delta_status st = delta_dir_read(&list, path, AGENT_INBOX_IMAGES, err);

    class->images = 0;
    if (st)
        return st;
    st = delta_hash_init(&hash, err);
    for (size_t i = 0; !st && i < list.count; i++) {
        struct stat info;
        if (delta_path_join(file, sizeof file, path, list.names[i], err) || lstat(file, &info) ||
            !S_ISREG(info.st_mode) || !is_image(list.names[i]))
            continue;
        const int64_t facts[3] = {info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
        delta_hash_update(&hash, delta_bytes(list.names[i], strlen(list.names[i]) + 1));
        delta_hash_update(&hash, delta_bytes(facts, sizeof facts));
        class->images++;
    }
    if (!st)
        *content = delta_hash_finish(&hash);
    delta_dir_list_release(&list);
    return st;
}

static struct agent_inbox_class *slot_for(struct agent_inbox *inbox, const char *folder)
{
    for (size_t i = 0; i < inbox->count; i++)
        if (strcmp(inbox->classes[i].folder, folder) == 0)
            return &inbox->classes[i];
    struct agent_inbox_class *more =
        realloc(inbox->classes, (inbox->count + 1) * sizeof *inbox->classes);
    if (!more)
        return NULL;
    inbox->classes = more;
    more = &more[inbox->count++];
    *more = (struct agent_inbox_class){.since_ms = -1};
    snprintf(more->folder, sizeof more->folder, "%s", folder);
    return more;
}

static void judge(struct agent_inbox *inbox, struct agent_inbox_class *class)
{
    struct delta_error why;

    class->complaint[0] = '\0';
    class->ready = false;
    if (delta_class_id_make(&class->id, class->folder, &why)) {
        class->id.text[0] = '\0';
        snprintf(class->complaint, sizeof class->complaint,
                 "inbox folder '%.60s' cannot be a class: %.90s; rename it, e.g. to 'red_fox'",
                 class->folder, why.text);
        return;
    }
    for (const struct agent_inbox_class *other = inbox->classes; other < class; other++)
        if (other->seen && strcmp(other->id.text, class->id.text) == 0) {
            snprintf(class->complaint, sizeof class->complaint,
                     "inbox folders '%.60s' and '%.60s' are the same class '%s'; put the images "
                     "into one",
                     other->folder, class->folder, class->id.text);
            return;
        }
    if (class->too_many) {
        snprintf(class->complaint, sizeof class->complaint,
                 "inbox folder '%.60s' holds more than %d files; remove some", class->folder,
                 AGENT_INBOX_IMAGES);
        return;
    }
    if (!class->settled)
        return;
    class->ready = class->images >= inbox->min_images;
    if (class->images == 0)
        snprintf(class->complaint, sizeof class->complaint,
                 "inbox folder '%.60s' holds no image; put PNG or JPEG files there", class->folder);
    else if (!class->ready)
        snprintf(class->complaint, sizeof class->complaint,
                 "class '%s' has %zu of at least %zu images; add %zu more", class->id.text,
                 class->images, inbox->min_images, inbox->min_images - class->images);
}

static enum delta_status look_at(struct agent_inbox *inbox, const char *dir, const char *name,
                                 int64_t now_ms, struct delta_error *err)
{
    char path[4096];
    struct stat info;
    struct delta_digest content;
    struct agent_inbox_class *class;
    enum delta_status st = delta_path_join(path, sizeof path, dir, name, err);

    if (st)
        return st;
    if (lstat(path, &info) || !S_ISDIR(info.st_mode))
        return DELTA_OK; /* stray files concern nobody */
    class = slot_for(inbox, name);
    if (!class)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot list the inbox");
    class->seen = true;
    st = look_into(class, path, &content, err);
    if (st == DELTA_NOT_FOUND) { /* moved away this very moment */
        class->seen = false;
        return DELTA_OK;
    }
    class->too_many = st == DELTA_LIMIT;
    if (st)
        return class->too_many ? DELTA_OK : st;
    if (class->since_ms < 0 || !delta_digest_equal(&content, &class->content)) {
        class->content = content;
        class->since_ms = now_ms;
    }
    class->settled = now_ms - class->since_ms >= inbox->settle_ms;
    if (!class->settled)
        inbox->unsettled = true;
    return DELTA_OK;
}

static int folder_order(const void *a, const void *b)
{
    return strcmp(((const struct agent_inbox_class *)a)->folder,
                  ((const struct agent_inbox_class *)b)->folder);
}

enum delta_status agent_inbox_scan(struct agent_inbox *inbox, const char *dir,
                                   const struct agent_env *env, struct delta_error *err)
{
    const int64_t now_ms = delta_clock_monotonic_ms(&env->clock);
    struct delta_dir_list list;
    size_t kept = 0;
    enum delta_status st = delta_dir_read(&list, dir, AGENT_INBOX_MAX, err);

    inbox->unsettled = false;
    if (st == DELTA_NOT_FOUND)
        return delta_dir_make(dir, 0700, err);
    if (st)
        return st;
    for (size_t i = 0; i < inbox->count; i++)
        inbox->classes[i].seen = false;
    for (size_t i = 0; !st && i < list.count; i++)
        if (strlen(list.names[i]) < sizeof inbox->classes->folder)
            st = look_at(inbox, dir, list.names[i], now_ms, err);
    delta_dir_list_release(&list);
    for (size_t i = 0; i < inbox->count; i++)
        if (inbox->classes[i].seen)
            inbox->classes[kept++] = inbox->classes[i];
    inbox->count = kept;
    if (kept)
        qsort(inbox->classes, kept, sizeof *inbox->classes, folder_order);
    for (size_t i = 0; i < kept; i++)
        judge(inbox, &inbox->classes[i]);
    return st;
}
