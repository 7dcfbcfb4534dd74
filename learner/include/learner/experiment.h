/* Experiments: a declared plan of runs (base x protocol x method x order x seed x budget), run by
 * worker processes into a file of JSON lines, and rendered as tables and pictures.
 *
 * Plans are JSON; learner_experiment_schema() describes every key. A run is one chain of
 * increments in a process of its own: one that crashes costs its own line and no other. The same
 * run gives the same numbers (times apart) whatever the number of workers.
 * Linux and POSIX: fork, pipes, /proc for memory; elsewhere memory is told as 0. */
#ifndef LEARNER_EXPERIMENT_H
#define LEARNER_EXPERIMENT_H

#include <signal.h>

#include "learner/learn.h"

struct learner_experiment; /* a plan that was read, checked and spread into runs */

/* What a command line says instead of the plan. Zero: the plan's own. */
struct learner_experiment_choice {
    bool small;               /* apply the plan's "small" object */
    const char *data;         /* source of images */
    const char *const *bases; /* "NAME=FILE": that base is this model file */
    size_t base_count;
    const char *const *only; /* patterns of the shell: runs whose key matches one; none: all */
    size_t only_count;
    const char *device;
    int threads; /* of each run */
};

/* Reads and checks a plan. Nothing is run or written.
 *   choice   may be NULL
 *   fails    NOT_FOUND (also when no run's key matches), FORMAT (file, line, place in the plan,
 * what is known there), UNSUPPORTED (a method; names those that are known), MISMATCH, LIMIT,
 *            NO_MEMORY */
DELTA_MUST_USE enum delta_status
learner_experiment_load(struct learner_experiment **out, const char *path,
                        const struct learner_experiment_choice *choice, struct delta_error *err);
void learner_experiment_free(struct learner_experiment *plan);

size_t learner_experiment_run_count(const struct learner_experiment *plan);
const char *learner_experiment_run_key(const struct learner_experiment *plan, size_t index);
const char *learner_experiment_name(const struct learner_experiment *plan);

/* Every key of a plan with its meaning, for help and manual: paragraphs divided by blank lines.
 *   out      initialised here */
DELTA_MUST_USE enum delta_status learner_experiment_schema(struct delta_buf *out,
                                                           struct delta_error *err);

enum learner_experiment_event {
    LEARNER_EXPERIMENT_STARTED, /* a job began: text is its key */
    LEARNER_EXPERIMENT_ENDED,   /* its line is in the file */
    LEARNER_EXPERIMENT_FAILED,  /* text: key and why; the others go on */
    LEARNER_EXPERIMENT_DROPPED, /* half a last line was cut off the results */
    LEARNER_EXPERIMENT_TICK     /* nothing new; called twice a second */
};
/* `share` is 0..1 of the work by the time that like runs took so far. */
typedef void learner_experiment_watch(void *context, enum learner_experiment_event event,
                                      const char *text, double share);

struct learner_experiment_options {
    const char *results; /* appended to; runs that are in it already are skipped */
    const char *cache;   /* directory of bases and exemplars; NULL: "<results>.cache" */
    int workers;         /* processes at once; 0: the plan's, or one per core over its threads */
    const volatile sig_atomic_t *stop; /* nonzero: end in good order; may be NULL */
    learner_experiment_watch *watch;   /* may be NULL */
    void *context;
};

struct learner_experiment_summary {
    size_t runs, skipped, done, failed; /* runs = skipped + done + failed, unless it was stopped */
    bool stopped;
};

/* Runs what is missing. The results file is locked while this goes on; each line is written in
 * one piece and fsynced before the next.
 *   summary  filled whatever happens
 *   fails    EXISTS (another process holds the file), FORMAT (a damaged line that is not the
 *            last), IO, NO_SPACE, INTERRUPTED (stop); a failed run is no failure of this
 *   threads  forks: to be called from a process without other threads */
DELTA_MUST_USE enum delta_status
learner_experiment_run(const struct learner_experiment *plan,
                       const struct learner_experiment_options *options,
                       struct learner_experiment_summary *summary, struct delta_error *err);

enum learner_report_format { LEARNER_REPORT_TEXT, LEARNER_REPORT_MARKDOWN, LEARNER_REPORT_JSON };

/* Tables of a results file: mean and standard deviation over seeds and orders, after the mean over
 * the groups of held-out classes.
 *   out      initialised here
 *   fails    NOT_FOUND, FORMAT (line), LIMIT, NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_experiment_report(struct delta_buf *out,
                                                           const char *results,
                                                           enum learner_report_format format,
                                                           struct delta_error *err);

/* Writes the pictures that the plan asked for as <dir>/<plan>-<picture>.svg and .png.
 *   count    may be NULL; pictures written, each in both forms
 *   fails    as the report; IO */
DELTA_MUST_USE enum delta_status learner_experiment_pictures(const char *results, const char *dir,
                                                             size_t *count,
                                                             struct delta_error *err);

#endif
