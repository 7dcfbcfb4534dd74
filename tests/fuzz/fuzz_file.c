#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "delta/hash.h"
#include "fuzz.h"

static char dir[64];

static void write_all(int fd, const uint8_t *data, size_t size)
{
    size_t have = 0;

    while (have < size) {
        const ssize_t put = write(fd, data + have, size - have);
        if (put <= 0)
            abort();
        have += (size_t)put;
    }
}

const char *fuzz_file(const uint8_t *data, size_t size, int digest)
{
    static char path[32];
    static int fd = -1;

    if (fd < 0)
        fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, 0) || lseek(fd, 0, SEEK_SET))
        abort();
    write_all(fd, data, size);
    if (digest) {
        const struct delta_digest sha = delta_sha256(delta_bytes(data, size));
        write_all(fd, sha.bytes, sizeof sha.bytes);
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return path;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

static void remove_dir(void)
{
    (void)nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *fuzz_dir(void)
{
    if (dir[0])
        return dir;
    snprintf(dir, sizeof dir, "/dev/shm/frostline-fuzz-XXXXXX");
    if (!mkdtemp(dir)) {
        snprintf(dir, sizeof dir, "/tmp/frostline-fuzz-XXXXXX");
        if (!mkdtemp(dir))
            abort();
    }
    atexit(remove_dir);
    return dir;
}
