#include "delta/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "delta/hash.h"

/* In words, what a path leads to that is no regular file. */
static const char *what_else(mode_t mode)
{
    return S_ISDIR(mode)    ? "a directory"
           : S_ISFIFO(mode) ? "a pipe"
           : S_ISSOCK(mode) ? "a socket"
                            : "a device";
}

static enum delta_status open_regular(const char *path, int *fd, uint64_t *size,
                                      struct delta_error *err)
{
    struct stat info;

    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return delta_fail_errno(err, "cannot open '%s'", path);
    if (fstat(*fd, &info) < 0) {
        const enum delta_status st = delta_fail_errno(err, "cannot stat '%s'", path);
        close(*fd);
        *fd = -1;
        return st;
    }
    if (!S_ISREG(info.st_mode)) {
        close(*fd);
        *fd = -1;
        return delta_fail(err, DELTA_FORMAT, "cannot read '%s': it is %s, not a file", path,
                          what_else(info.st_mode));
    }
    *size = (uint64_t)info.st_size;
    return DELTA_OK;
}

static enum delta_status read_at(int fd, uint64_t offset, uint8_t *out, size_t len,
                                 struct delta_error *err)
{
    while (len) {
        const ssize_t got = pread(fd, out, len, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return delta_fail_errno(err, "cannot read");
        if (got == 0)
            return delta_fail(err, DELTA_TRUNCATED, "file shrank while being read");
        out += got;
        offset += (uint64_t)got;
        len -= (size_t)got;
    }
    return DELTA_OK;
}

enum delta_status delta_peek_open(struct delta_peek *peek, const char *path,
                                  struct delta_error *err)
{
    *peek = (struct delta_peek){.fd = -1};
    delta_buf_init(&peek->bytes, SIZE_MAX);
    return open_regular(path, &peek->fd, &peek->len, err);
}

void delta_peek_close(struct delta_peek *peek)
{
    if (peek->fd >= 0)
        close(peek->fd);
    peek->fd = -1;
    delta_buf_release(&peek->bytes);
}

enum delta_status delta_peek_at(struct delta_peek *peek, uint64_t offset, size_t len,
                                struct delta_bytes *out, struct delta_error *err)
{
    const uint64_t left = offset < peek->len ? peek->len - offset : 0;
    uint8_t *at;
    enum delta_status st;

    if (len > left)
        len = (size_t)left;
    delta_buf_clear(&peek->bytes);
    st = delta_buf_extend(&peek->bytes, len, &at, err);
    if (!st)
        st = read_at(peek->fd, offset, at, len, err);
    if (!st)
        *out = delta_buf_bytes(&peek->bytes);
    return st;
}

enum delta_status delta_file_read_judged(const char *path, size_t cap, delta_file_judge *judge,
                                         void *context, struct delta_buf *out,
                                         struct delta_error *err)
{
    struct delta_peek peek;
    uint8_t *at;
    enum delta_status st = delta_peek_open(&peek, path, err);

    delta_buf_init(out, cap);
    if (st)
        return st;
    if (judge)
        st = judge(&peek, context, err);
    delta_buf_release(&peek.bytes);
    if (!st && peek.len > cap)
        st = delta_fail(err, DELTA_LIMIT, "file has %llu bytes, the limit is %zu",
                        (unsigned long long)peek.len, cap);
    if (!st)
        st = delta_buf_extend(out, (size_t)peek.len, &at, err);
    if (!st)
        st = read_at(peek.fd, 0, at, (size_t)peek.len, err);
    delta_peek_close(&peek);
    if (st) {
        delta_buf_release(out);
        return delta_fail_in(err, st, "'%s'", path);
    }
    return DELTA_OK;
}

enum delta_status delta_file_read(const char *path, size_t cap, struct delta_buf *out,
                                  struct delta_error *err)
{
    return delta_file_read_judged(path, cap, NULL, NULL, out, err);
}

enum delta_status delta_newfile_open(struct delta_newfile *file, const char *path, unsigned mode,
                                     struct delta_error *err)
{
    uint8_t random[6];
    char hex[13];
    struct stat info;
    enum delta_status st;
    const size_t room = strlen(path) + 24;

    *file = (struct delta_newfile)DELTA_NEWFILE_INIT;
    /* a rename would replace even /dev/null */
    if (lstat(path, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISLNK(info.st_mode))
        return delta_fail(err, DELTA_EXISTS, "cannot write '%s': it is %s, not a file", path,
                          what_else(info.st_mode));
    st = delta_random(random, sizeof random, err);
    if (st)
        return st;
    delta_hex(hex, random, sizeof random);
    file->path = strdup(path);
    file->temp = delta_calloc(room, 1);
    if (!file->path || !file->temp) {
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a path");
        goto fail;
    }
    snprintf(file->temp, room, "%s.new-%s", path, hex);
    file->fd = open(file->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, (mode_t)mode);
    if (file->fd < 0) {
        st = delta_fail_errno(err, "cannot create '%s'", path);
        free(file->temp);
        file->temp = NULL;
        goto fail;
    }
    return DELTA_OK;
fail:
    delta_newfile_release(file);
    return st;
}

enum delta_status delta_newfile_write(struct delta_newfile *file, struct delta_bytes bytes,
                                      struct delta_error *err)
{
    while (bytes.len) {
        const ssize_t put = write(file->fd, bytes.data, bytes.len);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return delta_fail_errno(err, "cannot write '%s'", file->path);
        bytes.data += put;
        bytes.len -= (size_t)put;
    }
    return DELTA_OK;
}

static void parent_dir(char *out, size_t size, const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        snprintf(out, size, ".");
    else if (slash == path)
        snprintf(out, size, "/");
    else
        snprintf(out, size, "%.*s", (int)(slash - path), path);
}

enum delta_status delta_file_sync_dir(const char *dir, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return delta_fail_errno(err, "cannot open directory '%s'", dir);
    if (fsync(fd) < 0 &&
        errno != EINVAL) /* some file systems cannot; nothing better exists there */
        st = delta_fail_errno(err, "cannot sync directory '%s'", dir);
    close(fd);
    return st;
}

static enum delta_status sync_parent(const char *path, struct delta_error *err)
{
    char dir[PATH_MAX];

    parent_dir(dir, sizeof dir, path);
    return delta_file_sync_dir(dir, err);
}

static enum delta_status settle(struct delta_newfile *file, struct delta_error *err)
{
    const int fd = file->fd;

    if (fsync(fd) < 0)
        return delta_fail_errno(err, "cannot sync '%s'", file->path);
    file->fd = -1;
    if (close(fd) < 0)
        return delta_fail_errno(err, "cannot close '%s'", file->path);
    return DELTA_OK;
}

enum delta_status delta_newfile_commit(struct delta_newfile *file, struct delta_error *err)
{
    const enum delta_status st = settle(file, err);

    if (st)
        return st;
    if (rename(file->temp, file->path) < 0)
        return delta_fail_errno(err, "cannot rename to '%s'", file->path);
    free(file->temp);
    file->temp = NULL;
    return sync_parent(file->path, err);
}

enum delta_status delta_newfile_commit_new(struct delta_newfile *file, struct delta_error *err)
{
    enum delta_status st = settle(file, err);

    if (st)
        return st;
    if (renameat2(AT_FDCWD, file->temp, AT_FDCWD, file->path, RENAME_NOREPLACE) == 0) {
        free(file->temp);
        file->temp = NULL;
        return sync_parent(file->path, err);
    }
    /* file systems that lack the flag have links; the temporary name goes with the release */
    if (errno == EEXIST || link(file->temp, file->path) < 0)
        return errno == EEXIST ? delta_fail(err, DELTA_EXISTS, "'%s' exists already", file->path)
                               : delta_fail_errno(err, "cannot make '%s'", file->path);
    return sync_parent(file->path, err);
}

void delta_newfile_release(struct delta_newfile *file)
{
    if (!file)
        return;
    if (file->fd >= 0)
        close(file->fd);
    if (file->temp)
        unlink(file->temp);
    free(file->temp);
    free(file->path);
    *file = (struct delta_newfile)DELTA_NEWFILE_INIT;
}

static enum delta_status write_whole(const char *path, struct delta_bytes bytes, unsigned mode,
                                     bool replace, struct delta_error *err)
{
    struct delta_newfile file = DELTA_NEWFILE_INIT;
    enum delta_status st = delta_newfile_open(&file, path, mode, err);

    if (!st)
        st = delta_newfile_write(&file, bytes, err);
    if (!st)
        st = replace ? delta_newfile_commit(&file, err) : delta_newfile_commit_new(&file, err);
    delta_newfile_release(&file);
    return st;
}

enum delta_status delta_file_write(const char *path, struct delta_bytes bytes, unsigned mode,
                                   struct delta_error *err)
{
    return write_whole(path, bytes, mode, true, err);
}

enum delta_status delta_file_write_new(const char *path, struct delta_bytes bytes, unsigned mode,
                                       struct delta_error *err)
{
    return write_whole(path, bytes, mode, false, err);
}

enum delta_status delta_file_rename(const char *from, const char *to, struct delta_error *err)
{
    enum delta_status st;

    if (rename(from, to) < 0)
        return delta_fail_errno(err, "cannot rename '%s' to '%s'", from, to);
    st = sync_parent(to, err);
    if (!st)
        st = sync_parent(from, err);
    return st;
}

enum delta_status delta_file_copy(const char *from, const char *to, unsigned mode,
                                  struct delta_error *err)
{
    struct delta_newfile file = DELTA_NEWFILE_INIT;
    enum delta_status st;
    uint8_t piece[65536];
    uint64_t size = 0;
    int fd;

    st = open_regular(from, &fd, &size, err);
    if (st)
        return st;
    st = delta_newfile_open(&file, to, mode, err);
    while (!st) {
        const ssize_t got = read(fd, piece, sizeof piece);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            st = delta_fail_errno(err, "cannot read '%s'", from);
        if (got <= 0)
            break;
        st = delta_newfile_write(&file, delta_bytes(piece, (size_t)got), err);
    }
    if (!st)
        st = delta_newfile_commit(&file, err);
    delta_newfile_release(&file);
    close(fd);
    return st;
}

enum delta_status delta_file_remove(const char *path, struct delta_error *err)
{
    if (unlink(path) < 0 && errno != ENOENT)
        return delta_fail_errno(err, "cannot remove '%s'", path);
    return DELTA_OK;
}

bool delta_file_same(const char *a, const char *b)
{
    struct stat x, y;

    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool delta_file_exists(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0;
}

enum delta_status delta_map_open(struct delta_map *map, const char *path, struct delta_error *err)
{
    uint64_t size = 0;
    int fd;
    void *at;
    enum delta_status st = open_regular(path, &fd, &size, err);

    map->bytes = delta_bytes(NULL, 0);
    if (st)
        return st;
    if (size == 0) {
        close(fd);
        return DELTA_OK;
    }
    at = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (at == MAP_FAILED)
        st = delta_fail_errno(err, "cannot map '%s'", path);
    else
        map->bytes = delta_bytes(at, (size_t)size);
    close(fd);
    return st;
}

void delta_map_release(struct delta_map *map)
{
    if (map && map->bytes.data)
        munmap((void *)(uintptr_t)map->bytes.data, map->bytes.len);
    if (map)
        map->bytes = delta_bytes(NULL, 0);
}

enum delta_status delta_dir_make(const char *path, unsigned mode, struct delta_error *err)
{
    char part[PATH_MAX];
    const size_t len = strlen(path);

    if (len == 0 || len >= sizeof part)
        return delta_fail(err, DELTA_LIMIT, "path of %zu bytes is empty or too long", len);
    memcpy(part, path, len + 1);
    for (char *p = part + 1;; p++) {
        const char kept = *p;
        if (kept != '/' && kept != '\0')
            continue;
        *p = '\0';
        const bool made = mkdir(part, (mode_t)mode) == 0;
        if (!made && errno != EEXIST)
            return delta_fail_errno(err, "cannot make directory '%s'", part);
        /* what is written below it is durable only when its own name is */
        const enum delta_status st = made ? sync_parent(part, err) : DELTA_OK;
        if (st)
            return st;
        if (kept == '\0')
            break;
        *p = kept;
    }
    struct stat info;
    if (stat(path, &info) < 0 || !S_ISDIR(info.st_mode))
        return delta_fail(err, DELTA_IO, "'%s' exists and is not a directory", path);
    return DELTA_OK;
}

static int name_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

enum delta_status delta_dir_read(struct delta_dir_list *list, const char *path, size_t max_entries,
                                 struct delta_error *err)
{
    enum delta_status st = DELTA_OK;
    DIR *dir = opendir(path);
    size_t room = 0;

    *list = (struct delta_dir_list){NULL, 0};
    if (!dir)
        return delta_fail_errno(err, "cannot open directory '%s'", path);
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry) {
            if (errno)
                st = delta_fail_errno(err, "cannot read directory '%s'", path);
            break;
        }
        if (entry->d_name[0] == '.')
            continue;
        if (list->count == max_entries) {
            st =
                delta_fail(err, DELTA_LIMIT, "'%s' holds more than %zu entries", path, max_entries);
            break;
        }
        if (list->count == room) {
            const size_t more = room ? room * 2 : 64;
            char **names = realloc(list->names, more * sizeof *names);
            if (!names) {
                st = delta_fail(err, DELTA_NO_MEMORY, "cannot list '%s'", path);
                break;
            }
            list->names = names;
            room = more;
        }
        list->names[list->count] = strdup(entry->d_name);
        if (!list->names[list->count]) {
            st = delta_fail(err, DELTA_NO_MEMORY, "cannot list '%s'", path);
            break;
        }
        list->count++;
    }
    closedir(dir);
    if (st)
        delta_dir_list_release(list);
    else if (list->count)
        qsort(list->names, list->count, sizeof *list->names, name_order);
    return st;
}

void delta_dir_list_release(struct delta_dir_list *list)
{
    if (!list)
        return;
    for (size_t i = 0; i < list->count; i++)
        free(list->names[i]);
    free(list->names);
    *list = (struct delta_dir_list){NULL, 0};
}

enum delta_status delta_path_join(char *out, size_t size, const char *dir, const char *name,
                                  struct delta_error *err)
{
    const int need = snprintf(out, size, "%s/%s", dir, name);

    if (need < 0 || (size_t)need >= size)
        return delta_fail(err, DELTA_LIMIT, "path '%s/%s' is too long", dir, name);
    return DELTA_OK;
}

enum delta_status delta_file_lock(const char *path, int *fd, struct delta_error *err)
{
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (*fd < 0)
        return delta_fail_errno(err, "cannot open lock '%s'", path);
    if (flock(*fd, LOCK_EX | LOCK_NB) < 0) {
        const int code = errno;
        close(*fd);
        *fd = -1;
        errno = code;
        if (code == EWOULDBLOCK)
            return delta_fail(err, DELTA_EXISTS, "another process holds '%s'", path);
        return delta_fail_errno(err, "cannot lock '%s'", path);
    }
    return DELTA_OK;
}
