#include "power.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static long operations;
static long end_before = -1; /* the process ends before this one */
static long full_from = -1;  /* writes fail from this operation on */

static void count(void)
{
    if (end_before >= 0 && operations == end_before)
        _exit(POWER_CUT);
    operations++;
}

int __real_open(const char *path, int flags, mode_t mode);
ssize_t __real_write(int fd, const void *data, size_t len);
int __real_fsync(int fd);
int __real_rename(const char *from, const char *to);
int __real_renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags);
int __real_unlink(const char *path);
int __wrap_open(const char *path, int flags, mode_t mode);
ssize_t __wrap_write(int fd, const void *data, size_t len);
int __wrap_fsync(int fd);
int __wrap_rename(const char *from, const char *to);
int __wrap_renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags);
int __wrap_unlink(const char *path);

int __wrap_open(const char *path, int flags, mode_t mode)
{
    if (flags & O_CREAT)
        count();
    return __real_open(path, flags, mode);
}

/* Half of it reaches the disk. */
ssize_t __wrap_write(int fd, const void *data, size_t len)
{
    if (end_before >= 0 && operations == end_before) {
        const ssize_t put = __real_write(fd, data, len / 2);
        (void)put;
    }
    if (full_from >= 0 && operations >= full_from) {
        operations++;
        errno = ENOSPC;
        return -1;
    }
    count();
    return __real_write(fd, data, len);
}

int __wrap_fsync(int fd)
{
    count();
    return __real_fsync(fd);
}

int __wrap_rename(const char *from, const char *to)
{
    count();
    return __real_rename(from, to);
}

int __wrap_renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    count();
    return __real_renameat2(from_dir, from, to_dir, to, flags);
}

int __wrap_unlink(const char *path)
{
    count();
    return __real_unlink(path);
}

void power_cut_before(long operation)
{
    operations = 0;
    end_before = operation;
}

void power_disk_full_from(long operation)
{
    operations = 0;
    full_from = operation;
}

void power_fast_disk(void)
{
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0);
}
