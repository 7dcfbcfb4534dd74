#include "bench_child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT_MS 600000 /* a compiler may run inside */

static void become(char *const argv[], int in, int out, bool quiet)
{
    const int nowhere = quiet ? open("/dev/null", O_WRONLY | O_CLOEXEC) : -1;

    setpgid(0, 0); /* so that what it starts ends with it */
    dup2(in, 0);
    dup2(out, 1);
    if (nowhere >= 0)
        dup2(nowhere, 2);
    execvp(argv[0], argv);
    _exit(127);
}

/* One line as JSON. The child writes whole lines only, so poll() before each is enough. */
static enum delta_status answer(struct bench_child *child, json_t **out, struct delta_error *err)
{
    struct pollfd wait = {.fd = fileno(child->from), .events = POLLIN};
    char *line = NULL;
    size_t room = 0;
    enum delta_status st = DELTA_OK;

    if (poll(&wait, 1, WAIT_MS) <= 0)
        return delta_fail(err, DELTA_TIMEOUT, "a measured program does not answer");
    const ssize_t length = getline(&line, &room, child->from);
    *out = length > 0 ? json_loadb(line, (size_t)length, JSON_DECODE_ANY, NULL) : NULL;
    if (!*out)
        st = delta_fail(err, DELTA_IO, "a measured program ended without an answer");
    free(line);
    return st;
}

enum delta_status bench_child_start(struct bench_child *out, char *const argv[], bool quiet,
                                    struct delta_error *err)
{
    int to[2], from[2];

    *out = (struct bench_child){0};
    if (pipe2(to, O_CLOEXEC))
        return delta_fail(err, DELTA_IO, "cannot make a pipe");
    if (pipe2(from, O_CLOEXEC)) {
        close(to[0]);
        close(to[1]);
        return delta_fail(err, DELTA_IO, "cannot make a pipe");
    }
    out->pid = fork();
    if (out->pid == 0)
        become(argv, to[0], from[1], quiet);
    close(to[0]);
    close(from[1]);
    out->to = fdopen(to[1], "w");
    out->from = fdopen(from[0], "r");
    enum delta_status st = DELTA_OK;
    if (out->pid < 0 || !out->to || !out->from)
        st = delta_fail(err, DELTA_IO, "cannot start '%s'", argv[0]);
    if (!st)
        st = answer(out, &out->ready, err);
    if (st)
        bench_child_stop(out);
    return st;
}

void bench_child_stop(struct bench_child *child)
{
    if (child->to)
        fclose(child->to);
    if (child->from)
        fclose(child->from);
    if (child->pid > 0) {
        if (kill(-child->pid, SIGKILL)) /* nothing of it is needed, and it may be compiling */
            kill(child->pid, SIGKILL);
        waitpid(child->pid, NULL, 0);
    }
    json_decref(child->ready);
    *child = (struct bench_child){0};
}

static enum delta_status ask(struct bench_child *child, const char *question, json_t **out,
                             struct delta_error *err)
{
    if (fputs(question, child->to) < 0 || fflush(child->to))
        return delta_fail(err, DELTA_IO, "a measured program has ended");
    return answer(child, out, err);
}

enum delta_status bench_child_run(struct bench_child *child, size_t runs, double *seconds,
                                  struct delta_error *err)
{
    char question[32];
    json_t *list = NULL;

    snprintf(question, sizeof question, "%zu\n", runs);
    enum delta_status st = ask(child, question, &list, err);
    if (!st && json_array_size(list) != runs)
        st = delta_fail(err, DELTA_FORMAT, "a measured program gave %zu times for %zu runs",
                        json_array_size(list), runs);
    for (size_t i = 0; !st && i < runs; i++)
        seconds[i] = json_number_value(json_array_get(list, i));
    json_decref(list);
    return st;
}

enum delta_status bench_child_memory(struct bench_child *child, double *bytes,
                                     struct delta_error *err)
{
    json_t *kilobytes = NULL;
    const enum delta_status st = ask(child, "memory\n", &kilobytes, err);

    if (!st)
        *bytes = 1024 * json_number_value(kilobytes);
    json_decref(kilobytes);
    return st;
}
