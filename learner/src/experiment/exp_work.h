/* Worker processes: one job each, its answer through a pipe. A job that crashes, fails or is
 * killed is told as such and takes nothing with it. Linux and POSIX. Private to the folder. */
#ifndef EXP_WORK_H
#define EXP_WORK_H

#include "exp_once.h"

enum exp_job_kind { EXP_JOB_BASE, EXP_JOB_EXEMPLARS, EXP_JOB_RUN };

struct exp_job {
    enum exp_job_kind kind;
    const struct exp_run *run;
    struct exp_files files;
};

struct exp_worker {
    int pid; /* 0: idle */
    int fd;  /* to read its answer from */
    const struct exp_job *job;
    int64_t started_ms;
    struct exp_pulse *pulse; /* NULL: it cannot tell how far it is */
    struct delta_buf answer;
};

/* Forks a worker for this job. In the child `train` is used up.
 *   keep_out  a file descriptor that the child closes: the locked results
 *   fails     IO (pipe, fork) */
DELTA_MUST_USE enum delta_status exp_worker_start(struct exp_worker *worker,
                                                  const struct learner_experiment *plan,
                                                  struct learner_samples *train,
                                                  const struct exp_job *job, int workers,
                                                  int keep_out, struct delta_error *err);

/* Waits until some worker wrote or ended, at most wait_ms.
 *   done     index of a worker that ended, or -1 */
DELTA_MUST_USE enum delta_status exp_workers_wait(struct exp_worker *workers, size_t count,
                                                  int wait_ms, long *done, struct delta_error *err);

/* After it ended: its answer. Idle again.
 *   line     the object that it sent, for a run; NULL for other jobs
 *   fails    what the job failed with; INTERNAL where it crashed ("killed by signal 11 ...") */
DELTA_MUST_USE enum delta_status exp_worker_take(struct exp_worker *worker, json_t **line,
                                                 struct delta_error *err);

/* Ends all that run. */
void exp_workers_stop(struct exp_worker *workers, size_t count);

#endif
