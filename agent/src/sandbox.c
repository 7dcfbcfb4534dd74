#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <seccomp.h>

#include "delta/file.h"
#include "delta/log.h"

#define MAX_RESULT ((size_t)1 << 20)
#define EXIT_TOLD 0
#define EXIT_SILENT 9

/* Sanitizers reserve terabytes of address space. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LIMIT_MEMORY 0
#else
#define LIMIT_MEMORY 1
#endif

/* ---- the child ---- */

/* Everything by which bytes could leave this process but through files. */
static enum delta_status close_network(struct delta_error *err)
{
    static const int closed[] = {
        SCMP_SYS(socket),      SCMP_SYS(socketpair),       SCMP_SYS(connect),
        SCMP_SYS(bind),        SCMP_SYS(listen),           SCMP_SYS(accept),
        SCMP_SYS(accept4),     SCMP_SYS(sendto),           SCMP_SYS(sendmsg),
        SCMP_SYS(sendmmsg),    SCMP_SYS(recvfrom),         SCMP_SYS(recvmsg),
        SCMP_SYS(recvmmsg),    SCMP_SYS(io_uring_setup),   SCMP_SYS(io_uring_enter),
        SCMP_SYS(ptrace),      SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev),
        SCMP_SYS(execve),      SCMP_SYS(execveat),         SCMP_SYS(open_by_handle_at),
        SCMP_SYS(pidfd_getfd),
    };
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int code = filter ? 0 : -ENOMEM;

    for (size_t i = 0; !code && i < sizeof closed / sizeof closed[0]; i++)
        code = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), closed[i], 0);
    if (!code)
        code = seccomp_load(filter);
    if (filter)
        seccomp_release(filter);
    if (code)
        return delta_fail(err, DELTA_CONFIG,
                          "cannot close the network for learning (seccomp: %s); use a kernel with "
                          "seccomp, or run with --open-network to learn without",
                          strerror(-code));
    return DELTA_OK;
}

static void set_limit(int what, rlim_t value)
{
    const struct rlimit limit = {value, value};

    if (setrlimit(what, &limit) < 0)
        delta_log_warn("sandbox", "cannot set a limit: %s", strerror(errno));
}

/* Keeps stdin, stdout, stderr and `keep`. */
static void close_others(int keep)
{
    const long most = sysconf(_SC_OPEN_MAX);

    if (keep > 3)
        close_range(3, (unsigned)keep - 1, 0);
    if (close_range((unsigned)keep + 1, ~0U, 0) == 0)
        return;
    for (int fd = 3; fd < (most > 0 && most < 65536 ? (int)most : 65536); fd++)
        if (fd != keep)
            close(fd);
}

static enum delta_status prepare(const struct agent_limits *limits, int keep,
                                 struct delta_error *err)
{
    const int null = open("/dev/null", O_RDONLY);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_IGN); /* a terminal sends it to all; the parent decides */
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    close_others(keep);
    if (setpriority(PRIO_PROCESS, 0, 10) < 0)
        delta_log_warn("sandbox", "cannot lower the priority: %s", strerror(errno));
    set_limit(RLIMIT_CORE, 0);
    if (LIMIT_MEMORY && limits->memory_bytes)
        set_limit(RLIMIT_AS, limits->memory_bytes);
    return limits->open_network ? DELTA_OK : close_network(err);
}

static int child(agent_job *job, void *context, const char *result_path,
                 const struct agent_limits *limits, int keep)
{
    struct delta_error err = DELTA_ERROR_INIT;
    json_t *result = json_object();
    enum delta_status st = prepare(limits, keep, &err);
    char *text;

    if (!st)
        st = job(context, result, &err);
    json_object_set_new(result, "status", json_integer(st));
    json_object_set_new(result, "text", json_string(st ? err.text : ""));
    if (st && !json_object_get(result, "text")) /* not UTF-8: a file's name, perhaps */
        json_object_set_new(result, "text", json_string(delta_status_text(st)));
    text = json_dumps(result, JSON_ENSURE_ASCII);
    if (!text || delta_file_write(result_path, delta_bytes(text, strlen(text)), 0600, &err))
        return EXIT_SILENT;
    return EXIT_TOLD;
}

/* ---- the parent ---- */

static enum delta_status wait_for(pid_t pid, int ended, const struct agent_limits *limits,
                                  const struct agent_env *env, int *status, struct delta_error *err)
{
    const int64_t time_ms = limits->time_ms ? limits->time_ms : 15 * 60 * 1000;
    const struct delta_clock clock = delta_clock_system(); /* a real process takes real time */
    const int64_t until_ms = delta_clock_monotonic_ms(&clock) + time_ms;
    enum delta_status st = DELTA_OK;

    for (;;) {
        struct pollfd wait = {ended, POLLIN, 0};
        if (poll(&wait, 1, 100) > 0)
            break; /* the child's end of the pipe is closed */
        if (agent_env_stopped(env))
            st = delta_fail(err, DELTA_INTERRUPTED, "asked to stop");
        else if (delta_clock_monotonic_ms(&clock) > until_ms)
            st = delta_fail(err, DELTA_LIMIT, "it took more than %lld s",
                            (long long)(time_ms / 1000));
        if (st) {
            kill(pid, SIGKILL);
            break;
        }
    }
    while (waitpid(pid, status, 0) < 0 && errno == EINTR)
        ;
    return st;
}

static enum delta_status read_result(const char *path, json_t **result, struct delta_error *err)
{
    struct delta_buf file;
    enum delta_status st = delta_file_read(path, MAX_RESULT, &file, err);
    const char *text;

    if (st)
        return st;
    *result = json_loadb((const char *)file.data, file.len, 0, NULL);
    delta_buf_release(&file);
    if (!*result)
        return delta_fail(err, DELTA_INTERNAL, "'%s' is broken", path);
    st = delta_status_from((int)json_integer_value(json_object_get(*result, "status")));
    text = json_string_value(json_object_get(*result, "text"));
    return st ? delta_fail(err, st, "%s", text ? text : "") : DELTA_OK;
}

enum delta_status agent_sandbox_run(agent_job *job, void *context, const char *result_path,
                                    const struct agent_limits *limits, const struct agent_env *env,
                                    json_t **result, struct delta_error *err)
{
    int ends[2], status = 0;
    pid_t pid;
    enum delta_status st = delta_file_remove(result_path, err);

    *result = NULL;
    if (st)
        return st;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return delta_fail_errno(err, "cannot start a child process");
    pid = fork();
    if (pid == 0)
        _exit(child(job, context, result_path, limits, ends[1]));
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return delta_fail_errno(err, "cannot start a child process");
    }
    st = wait_for(pid, ends[0], limits, env, &status, err);
    close(ends[0]);
    if (!st && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_TOLD)
        st = read_result(result_path, result, err);
    else if (!st && WIFEXITED(status))
        st = delta_fail(err, DELTA_IO, "the child process could not write its result to '%s'",
                        result_path);
    else if (!st && WTERMSIG(status) == SIGKILL)
        st = delta_fail(err, DELTA_NO_MEMORY, "the child process was killed, perhaps for memory");
    else if (!st)
        st = delta_fail(err, DELTA_INTERNAL, "the child process crashed with signal %d",
                        WTERMSIG(status));
    unlink(result_path);
    return st;
}
