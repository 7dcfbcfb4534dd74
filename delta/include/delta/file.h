/* Files that matter: atomic replacement, bounded reading, read-only maps, directories, locks.
 * A file written through delta_newfile is either the old one or the whole new one, whatever
 * moment the power fails: write, fsync, rename, fsync of the directory. */
#ifndef DELTA_FILE_H
#define DELTA_FILE_H

#include "delta/buf.h"

/* Reads a whole regular file of at most `cap` bytes.
 *   out      initialised here; end with delta_buf_release()
 *   fails    NOT_FOUND, IO, LIMIT, FORMAT (a directory), NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_file_read(const char *path, size_t cap,
                                                 struct delta_buf *out, struct delta_error *err);

/* A regular file that is open and not read yet: what its beginning and its end tell before the rest
 * costs memory and time. */
struct delta_peek {
    int fd;
    uint64_t len;           /* of the file */
    struct delta_buf bytes; /* of the latest look */
};
/* fails: NOT_FOUND, IO, FORMAT (no regular file); a FIFO is not waited for */
DELTA_MUST_USE enum delta_status delta_peek_open(struct delta_peek *peek, const char *path,
                                                 struct delta_error *err);
void delta_peek_close(struct delta_peek *peek);
/* *out: up to `len` bytes from `offset` on, fewer where the file ends; valid until the next look.
 *   fails    IO, NO_MEMORY; the text does not name the file */
DELTA_MUST_USE enum delta_status delta_peek_at(struct delta_peek *peek, uint64_t offset, size_t len,
                                               struct delta_bytes *out, struct delta_error *err);

/* Refuses a file by as little of it as will do. Its word is not final: what it lets pass is read
 * and checked as a whole. Texts do not name the file. */
typedef enum delta_status delta_file_judge(struct delta_peek *peek, void *context,
                                           struct delta_error *err);
/* delta_file_read() of what `judge` does not refuse; its status else. It is asked first, so a
 * stranger's file is refused as that, whatever its length. */
DELTA_MUST_USE enum delta_status delta_file_read_judged(const char *path, size_t cap,
                                                        delta_file_judge *judge, void *context,
                                                        struct delta_buf *out,
                                                        struct delta_error *err);

/* Replaces `path` atomically by these bytes. mode e.g. 0644, 0600 for keys.
 * A symbolic link is replaced, not followed.
 *   fails    EXISTS (it is a directory, device or pipe), NOT_FOUND, IO, NO_SPACE */
DELTA_MUST_USE enum delta_status delta_file_write(const char *path, struct delta_bytes bytes,
                                                  unsigned mode, struct delta_error *err);

/* The same for a file that must be new, a symbolic link in the way included: of several writers one
 * succeeds, and nobody ever sees half of it.  fails: EXISTS */
DELTA_MUST_USE enum delta_status delta_file_write_new(const char *path, struct delta_bytes bytes,
                                                      unsigned mode, struct delta_error *err);

/* A new file beside its final place, named so that leftovers are recognised. */
struct delta_newfile {
    int fd;
    char *path; /* final */
    char *temp; /* "<path>.new-<random>" */
};

#define DELTA_NEWFILE_INIT                                                                         \
    {                                                                                              \
        -1, NULL, NULL                                                                             \
    }

DELTA_MUST_USE enum delta_status delta_newfile_open(struct delta_newfile *file, const char *path,
                                                    unsigned mode, struct delta_error *err);
DELTA_MUST_USE enum delta_status
delta_newfile_write(struct delta_newfile *file, struct delta_bytes bytes, struct delta_error *err);
/* fsync, rename, fsync of the directory. */
DELTA_MUST_USE enum delta_status delta_newfile_commit(struct delta_newfile *file,
                                                      struct delta_error *err);
/* The same, but what lies at `path` stays.  fails: EXISTS */
DELTA_MUST_USE enum delta_status delta_newfile_commit_new(struct delta_newfile *file,
                                                          struct delta_error *err);
void delta_newfile_release(struct delta_newfile *file); /* drops what was not committed */

/* Renames within one file system and makes it durable (fsync of both directories). */
DELTA_MUST_USE enum delta_status delta_file_rename(const char *from, const char *to,
                                                   struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_file_sync_dir(const char *dir, struct delta_error *err);
/* Copies content atomically to a new file. */
DELTA_MUST_USE enum delta_status delta_file_copy(const char *from, const char *to, unsigned mode,
                                                 struct delta_error *err);
/* Removing what is not there is no failure. */
DELTA_MUST_USE enum delta_status delta_file_remove(const char *path, struct delta_error *err);
bool delta_file_exists(const char *path);
/* Whether both names lead to one file; false where either leads to none. */
bool delta_file_same(const char *a, const char *b);

/* Read-only view of a whole file. bytes stay valid until release. Truncation of the file by
 * someone else while it is mapped is not defended against: map only files we own. */
struct delta_map {
    struct delta_bytes bytes;
};
DELTA_MUST_USE enum delta_status delta_map_open(struct delta_map *map, const char *path,
                                                struct delta_error *err);
void delta_map_release(struct delta_map *map);

/* mkdir -p */
DELTA_MUST_USE enum delta_status delta_dir_make(const char *path, unsigned mode,
                                                struct delta_error *err);

/* Sorted names of a directory's entries without "." and "..", hidden files left out.
 *   fails    NOT_FOUND, IO, LIMIT (more than max_entries), NO_MEMORY */
struct delta_dir_list {
    char **names;
    size_t count;
};
DELTA_MUST_USE enum delta_status delta_dir_read(struct delta_dir_list *list, const char *path,
                                                size_t max_entries, struct delta_error *err);
void delta_dir_list_release(struct delta_dir_list *list);

/* "<dir>/<name>" into a fixed buffer; LIMIT when it does not fit. */
DELTA_MUST_USE enum delta_status delta_path_join(char *out, size_t size, const char *dir,
                                                 const char *name, struct delta_error *err);

/* One process at a time: an flock on `path` (created). *fd stays open until close().
 *   fails    EXISTS when another process holds it */
DELTA_MUST_USE enum delta_status delta_file_lock(const char *path, int *fd,
                                                 struct delta_error *err);

#endif
