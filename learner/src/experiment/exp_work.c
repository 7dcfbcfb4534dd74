#include "exp_work.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exp_clock.h"

#define MAX_ANSWER_BYTES ((size_t)16 << 20)
#define READ_BYTES 65536

/* ---- in the child ---- */

static json_t *do_job(const struct learner_experiment *plan, struct learner_samples *train,
                      const struct exp_job *job, int workers, struct exp_pulse *pulse)
{
    struct delta_error err = DELTA_ERROR_INIT;
    json_t *answer = NULL;
    enum delta_status st;

    if (job->kind == EXP_JOB_BASE)
        st = exp_make_base(plan, train, job->run, &job->files, pulse, &err);
    else if (job->kind == EXP_JOB_EXEMPLARS)
        st = exp_make_exemplars(plan, train, job->run, &job->files, pulse, &err);
    else
        st = exp_run_once(&answer, plan, train, job->run, &job->files, workers, pulse, &err);
    if (st)
        return json_pack("{s:s, s:i}", "error", err.text, "status", (int)st);
    return answer ? answer : json_pack("{s:s}", "kind", "done");
}

static void write_answer(int fd, const json_t *answer)
{
    char *text = json_dumps(answer, JSON_COMPACT | JSON_REAL_PRECISION(10));
    const size_t len = text ? strlen(text) : 0;
    size_t done = 0;

    while (done < len) {
        const ssize_t wrote = write(fd, text + done, len - done);
        if (wrote < 0 && errno != EINTR)
            break;
        done += wrote > 0 ? (size_t)wrote : 0;
    }
    free(text);
}

/* Never returns. The terminal's SIGINT is the parent's to handle; when that dies, so does this. */
static _Noreturn void child(const struct learner_experiment *plan, struct learner_samples *train,
                            const struct exp_job *job, int workers, struct exp_pulse *pulse, int fd,
                            int parent)
{
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent) {
        json_t *answer = do_job(plan, train, job, workers, pulse);
        write_answer(fd, answer);
        json_decref(answer);
    }
    close(fd);
    _exit(0);
}

/* ---- in the parent ---- */

enum delta_status exp_worker_start(struct exp_worker *worker, const struct learner_experiment *plan,
                                   struct learner_samples *train, const struct exp_job *job,
                                   int workers, int keep_out, struct delta_error *err)
{
    const int parent = (int)getpid();
    int ends[2];

    if (pipe(ends) != 0)
        return delta_fail_errno(err, "cannot make a pipe");
    struct exp_pulse *pulse = exp_pulse_new();
    const pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        close(keep_out);
        child(plan, train, job, workers, pulse, ends[1], parent);
    }
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        exp_pulse_free(pulse);
        return delta_fail_errno(err, "cannot start a worker process");
    }
    *worker = (struct exp_worker){
        .pid = (int)pid, .fd = ends[0], .job = job, .started_ms = exp_now_ms(), .pulse = pulse};
    delta_buf_init(&worker->answer, MAX_ANSWER_BYTES);
    return DELTA_OK;
}

/* True at the end of what it writes. */
static bool read_some(struct exp_worker *worker)
{
    char piece[READ_BYTES];
    const ssize_t got = read(worker->fd, piece, sizeof piece);

    if (got < 0)
        return errno != EINTR && errno != EAGAIN;
    return got == 0 || delta_buf_append(&worker->answer, piece, (size_t)got, NULL) != DELTA_OK;
}

enum delta_status exp_workers_wait(struct exp_worker *workers, size_t count, int wait_ms,
                                   long *done, struct delta_error *err)
{
    struct pollfd *fds = delta_calloc(count + 1, sizeof *fds);

    *done = -1;
    if (!fds)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < count; i++)
        fds[i] = (struct pollfd){.fd = workers[i].pid ? workers[i].fd : -1, .events = POLLIN};
    const int ready = poll(fds, (nfds_t)count, wait_ms);
    for (size_t i = 0; ready > 0 && *done < 0 && i < count; i++)
        if (fds[i].fd >= 0 && fds[i].revents && read_some(&workers[i]))
            *done = (long)i;
    free(fds);
    return DELTA_OK; /* a signal is no failure: the caller looks at its stop flag */
}

static enum delta_status judge(const struct exp_worker *worker, int status, json_t **line,
                               struct delta_error *err)
{
    json_t *answer;
    enum delta_status st;

    if (WIFSIGNALED(status))
        return delta_fail(err, DELTA_INTERNAL, "worker was killed by signal %d (%s)",
                          WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return delta_fail(err, DELTA_INTERNAL, "worker ended with status %d",
                          WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    answer = json_loadb((const char *)worker->answer.data, worker->answer.len, 0, NULL);
    if (!json_is_object(answer)) {
        json_decref(answer);
        return delta_fail(err, DELTA_INTERNAL, "worker ended without an answer");
    }
    if (json_object_get(answer, "error")) {
        st = delta_status_from((int)json_integer_value(json_object_get(answer, "status")));
        st = delta_fail(err, st ? st : DELTA_INTERNAL, "%s",
                        json_string_value(json_object_get(answer, "error")));
        json_decref(answer);
        return st;
    }
    if (worker->job->kind == EXP_JOB_RUN)
        *line = answer;
    else
        json_decref(answer);
    return DELTA_OK;
}

enum delta_status exp_worker_take(struct exp_worker *worker, json_t **line, struct delta_error *err)
{
    int status = -1;
    enum delta_status st;

    *line = NULL;
    close(worker->fd);
    while (waitpid(worker->pid, &status, 0) < 0 && errno == EINTR)
        ;
    worker->pid = 0;
    exp_pulse_free(worker->pulse);
    worker->pulse = NULL;
    st = judge(worker, status, line, err);
    delta_buf_release(&worker->answer);
    return st;
}

void exp_workers_stop(struct exp_worker *workers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (workers[i].pid)
            kill(workers[i].pid, SIGTERM);
    for (size_t i = 0; i < count; i++) {
        if (!workers[i].pid)
            continue;
        close(workers[i].fd);
        while (waitpid(workers[i].pid, NULL, 0) < 0 && errno == EINTR)
            ;
        delta_buf_release(&workers[i].answer);
        exp_pulse_free(workers[i].pulse);
        workers[i].pulse = NULL;
        workers[i].pid = 0;
    }
}
