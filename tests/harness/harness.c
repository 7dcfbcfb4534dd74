#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

void harness_scratch_make(struct harness_scratch *scratch)
{
    const char *base = getenv("TMPDIR");

    snprintf(scratch->path, sizeof scratch->path, "%s/frostline-test-XXXXXX",
             base && *base ? base : "/tmp");
    if (!mkdtemp(scratch->path)) {
        perror(scratch->path);
        abort();
    }
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

void harness_scratch_remove(struct harness_scratch *scratch)
{
    if (scratch->path[0])
        nftw(scratch->path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    scratch->path[0] = '\0';
}

const char *harness_path(const struct harness_scratch *scratch, const char *name)
{
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];

    snprintf(path, sizeof paths[0], "%s/%s", scratch->path, name);
    return path;
}

const char *harness_shared(const char *name)
{
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];
    const char *root = getenv("FROSTLINE_SHARED");

    if (root && *root)
        snprintf(path, sizeof paths[0], "%s/%s", root, name);
    else
        snprintf(path, sizeof paths[0], "%s/../shared/%s", getenv("FROSTLINE_SOURCE"), name);
    if (access(path, R_OK) == 0)
        return path;
    printf("SKIP: '%s' is not there\n", path);
    return NULL;
}

size_t harness_slowdown(void)
{
    const char *text = getenv("FROSTLINE_TEST_SLOWDOWN");
    const long times = text ? strtol(text, NULL, 10) : 1;

    return times > 1 ? (size_t)times : 1;
}

const char *harness_program(const char *name)
{
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];

    snprintf(path, sizeof paths[0], "%s/%s", getenv("FROSTLINE_BIN"), name);
    return path;
}

static void drain(int out, int error, struct harness_result *result)
{
    struct pollfd fds[2] = {{out, POLLIN, 0}, {error, POLLIN, 0}};
    char *texts[2] = {result->out, result->err};
    const size_t rooms[2] = {sizeof result->out, sizeof result->err};
    size_t used[2] = {0, 0};

    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            break;
        for (int i = 0; i < 2; i++) {
            char piece[4096];
            if (fds[i].fd < 0 || !fds[i].revents)
                continue;
            const ssize_t got = read(fds[i].fd, piece, sizeof piece);
            if (got <= 0) {
                fds[i].fd = -1;
                continue;
            }
            size_t keep = rooms[i] - 1 - used[i];
            if (keep > (size_t)got)
                keep = (size_t)got;
            memcpy(texts[i] + used[i], piece, keep);
            used[i] += keep;
        }
    }
    texts[0][used[0]] = '\0';
    texts[1][used[1]] = '\0';
}

void harness_run(struct harness_result *result, const char *program, ...)
{
    char *argv[64] = {(char *)(uintptr_t)harness_program(program)};
    int argc = 1, out[2], error[2], status;
    va_list args;
    pid_t pid;

    va_start(args, program);
    while (argc < 63 && (argv[argc] = va_arg(args, char *)))
        argc++;
    va_end(args);
    if (pipe(out) || pipe(error))
        abort();
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        const int null = open("/dev/null", O_RDONLY);
        dup2(null, 0);
        dup2(out[1], 1);
        dup2(error[1], 2);
        close(out[0]);
        close(error[0]);
        execv(argv[0], argv);
        fprintf(stderr, "cannot run '%s': %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    close(out[1]);
    close(error[1]);
    drain(out[0], error[0], result);
    close(out[0]);
    close(error[0]);
    waitpid(pid, &status, 0);
    result->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
