/* Shares out the runs of a plan: first bases, then exemplars, then whatever the results lack. This
 * process computes nothing and starts no thread, so that its children may. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "delta/file.h"
#include "exp_clock.h"
#include "exp_results.h"
#include "exp_work.h"

#define TICK_MS 500
#define WORKERS_MAX 1024
#define TEXT_MAX (EXP_KEY_MAX + 600)

/* How long runs of one row took, for the time that is left. */
struct cost {
    double seconds;
    size_t count;
};

struct runner {
    const struct learner_experiment *plan;
    const struct learner_experiment_options *options;
    struct learner_experiment_summary *summary;
    struct exp_lines lines;
    struct learner_samples train;
    char cache[1100];
    int fd; /* the results, locked */
    struct exp_job *jobs;
    size_t job_count;
    struct exp_worker *workers;
    size_t worker_count, running;
    struct cost *costs; /* [variants] */
    double done_cost;
};

static size_t core_count(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return (size_t)CPU_COUNT(&set);
    return 1;
}

static size_t choose_workers(const struct runner *r)
{
    size_t count = (size_t)r->options->workers;

    if (!count)
        count = (size_t)r->plan->workers;
    if (!count)
        count = core_count() / (size_t)r->plan->threads;
    return count < 1 ? 1 : count > WORKERS_MAX ? WORKERS_MAX : count;
}

/* ---- progress ---- */

static double guess_seconds(const struct runner *r, const struct exp_job *job)
{
    const struct cost *own = &r->costs[job->run->variant];
    struct cost all = {0, 0};

    if (own->count)
        return own->seconds / (double)own->count;
    for (size_t i = 0; i < r->plan->variant_count; i++) {
        all.seconds += r->costs[i].seconds;
        all.count += r->costs[i].count;
    }
    return all.count ? all.seconds / (double)all.count : 1;
}

/* Of this phase; what was done before this process began does not count. */
static double share_done(const struct runner *r, size_t next)
{
    double left = 0, gone = r->done_cost;

    for (size_t i = next; i < r->job_count; i++)
        left += guess_seconds(r, &r->jobs[i]);
    for (size_t i = 0; i < r->worker_count; i++) {
        if (!r->workers[i].pid)
            continue;
        const double told = exp_pulse_share(r->workers[i].pulse);
        double whole = guess_seconds(r, r->workers[i].job);
        double part = (double)(exp_now_ms() - r->workers[i].started_ms) / 1000;
        if (told > 0)
            whole = part / told;
        else if (!r->costs[r->workers[i].job->run->variant].count)
            part = whole / 2; /* nothing is known about such a run yet */
        part = part < 0.99 * whole ? part : 0.99 * whole;
        gone += part;
        left += whole - part;
    }
    return gone + left > 0 ? gone / (gone + left) : 0;
}

static void tell(const struct runner *r, enum learner_experiment_event event, const char *text,
                 size_t next)
{
    if (r->options->watch)
        r->options->watch(r->options->context, event, text, share_done(r, next));
}

static void job_name(char *out, size_t size, const struct exp_job *job)
{
    if (job->kind == EXP_JOB_BASE)
        snprintf(out, size, "base '%s'", job->files.base);
    else if (job->kind == EXP_JOB_EXEMPLARS)
        snprintf(out, size, "exemplars '%s'", job->files.exemplars);
    else
        snprintf(out, size, "%s", job->run->key);
}

static bool stopped(const struct runner *r)
{
    return r->options->stop && *r->options->stop;
}

/* ---- jobs ---- */

static enum delta_status start_one(struct runner *r, size_t index, struct delta_error *err)
{
    char name[TEXT_MAX];
    size_t w = 0;

    while (r->workers[w].pid)
        w++;
    job_name(name, sizeof name, &r->jobs[index]);
    tell(r, LEARNER_EXPERIMENT_STARTED, name, index);
    r->running++;
    return exp_worker_start(&r->workers[w], r->plan, &r->train, &r->jobs[index],
                            (int)r->worker_count, r->fd, err);
}

static enum delta_status end_one(struct runner *r, struct exp_worker *worker, size_t next,
                                 struct delta_error *err)
{
    const struct exp_job *job = worker->job;
    const double seconds = (double)(exp_now_ms() - worker->started_ms) / 1000;
    struct delta_error why = DELTA_ERROR_INIT;
    char name[TEXT_MAX], text[TEXT_MAX + sizeof why.text];
    json_t *line;
    enum delta_status st = exp_worker_take(worker, &line, &why), written = DELTA_OK;

    r->running--;
    job_name(name, sizeof name, job);
    if (!st && line)
        written = exp_lines_append(r->fd, line, r->options->results, err);
    json_decref(line);
    r->done_cost += seconds;
    if (!st && job->kind == EXP_JOB_RUN) {
        r->costs[job->run->variant].seconds += seconds;
        r->costs[job->run->variant].count++;
        r->summary->done++;
    } else if (st && job->kind == EXP_JOB_RUN) {
        r->summary->failed++;
    }
    snprintf(text, sizeof text, "%s: %s", name, why.text);
    tell(r, st ? LEARNER_EXPERIMENT_FAILED : LEARNER_EXPERIMENT_ENDED, st ? text : name, next);
    return written;
}

/* Runs all jobs of the list. */
static enum delta_status work_off(struct runner *r, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;
    size_t next = 0;
    long done;

    r->done_cost = 0;
    while (!st && !stopped(r) && (next < r->job_count || r->running)) {
        while (!st && next < r->job_count && r->running < r->worker_count) {
            st = start_one(r, next, err);
            next++;
        }
        if (!st)
            st = exp_workers_wait(r->workers, r->worker_count, TICK_MS, &done, err);
        if (!st && done >= 0)
            st = end_one(r, &r->workers[done], next, err);
        else if (!st)
            tell(r, LEARNER_EXPERIMENT_TICK, "", next);
    }
    exp_workers_stop(r->workers, r->worker_count);
    r->running = 0;
    if (!st && stopped(r)) {
        r->summary->stopped = true;
        st = delta_fail(err, DELTA_INTERRUPTED,
                        "stopped: %zu of %zu runs are done; the same command goes on from there",
                        r->summary->skipped + r->summary->done, r->summary->runs);
    }
    return st;
}

static bool listed(const struct runner *r, const struct exp_job *job)
{
    for (size_t i = 0; i < r->job_count; i++)
        if (strcmp(job->kind == EXP_JOB_BASE ? r->jobs[i].files.base : r->jobs[i].files.exemplars,
                   job->kind == EXP_JOB_BASE ? job->files.base : job->files.exemplars) == 0)
            return true;
    return false;
}

/* What has to be made for the runs that are missing, each file once. */
static enum delta_status collect(struct runner *r, enum exp_job_kind kind, struct delta_error *err)
{
    const struct learner_experiment *plan = r->plan;
    enum delta_status st = DELTA_OK;

    r->job_count = 0;
    for (size_t i = 0; !st && i < plan->run_count; i++) {
        struct exp_job *job = &r->jobs[r->job_count];
        *job = (struct exp_job){.kind = kind, .run = &plan->runs[i]};
        if (json_object_get(r->lines.keys, plan->runs[i].key))
            continue;
        st = exp_files_name(&job->files, plan, job->run, r->cache, err);
        if (st || (kind == EXP_JOB_BASE &&
                   (!plan->bases[job->run->base].pretrained || delta_file_exists(job->files.base))))
            continue;
        if (kind == EXP_JOB_EXEMPLARS &&
            (!job->files.exemplars[0] || delta_file_exists(job->files.exemplars)))
            continue;
        if (kind == EXP_JOB_RUN || !listed(r, job))
            r->job_count++;
    }
    return st;
}

/* ---- the results file ---- */

static enum delta_status open_results(struct runner *r, struct delta_error *err)
{
    const char *path = r->options->results;
    enum delta_status st;

    r->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (r->fd < 0)
        return delta_fail_errno(err, "cannot open '%s'", path);
    if (flock(r->fd, LOCK_EX | LOCK_NB) != 0)
        return errno == EWOULDBLOCK
                   ? delta_fail(err, DELTA_EXISTS,
                                "'%s' is being written by another experiment; wait for it, or "
                                "name another file",
                                path)
                   : delta_fail_errno(err, "cannot lock '%s'", path);
    st = exp_lines_read(&r->lines, path, err);
    if (st || !r->lines.cut)
        return st;
    if (ftruncate(r->fd, (off_t)r->lines.whole) != 0 || fsync(r->fd) != 0)
        return delta_fail_errno(err, "cannot shorten '%s'", path);
    tell(r, LEARNER_EXPERIMENT_DROPPED, path, 0);
    return DELTA_OK;
}

static json_t *texts_json(const struct exp_texts *texts)
{
    json_t *list = json_array();

    for (size_t i = 0; i < texts->count; i++)
        json_array_append_new(list, json_string(texts->values[i]));
    return list;
}

static json_t *rows_json(const struct learner_experiment *plan)
{
    json_t *list = json_array();

    for (size_t i = 0; i < plan->variant_count; i++)
        json_array_append_new(list, json_string(plan->variants[i].label));
    return list;
}

/* The plan as it is run, unless it is the last one that stands there. */
static enum delta_status note_plan(struct runner *r, struct delta_error *err)
{
    const struct learner_experiment *plan = r->plan;
    const char *reference = plan->reference;
    char *text = json_dumps(plan->root, JSON_COMPACT | JSON_SORT_KEYS);
    char hex[DELTA_DIGEST_HEX];
    json_t *line = NULL;
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; !reference && i < plan->variant_count; i++)
        if (strcmp(plan->variants[i].method, "joint") == 0)
            reference = plan->variants[i].label;
    if (text) {
        const struct delta_digest digest = delta_sha256(delta_bytes(text, strlen(text)));
        delta_digest_hex(hex, &digest);
        line = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:o, s:o, s:O}", "schema",
                         EXP_SCHEMA, "kind", "plan", "digest", hex, "name", plan->name, "title",
                         plan->title ? plan->title : plan->name, "description",
                         plan->description ? plan->description : "", "reference",
                         reference ? reference : "", "small", plan->small, "pictures",
                         texts_json(&plan->pictures), "rows", rows_json(plan), "plan", plan->root);
    }
    free(text);
    if (!line)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    const char *before = json_string_value(json_object_get(r->lines.plan, "digest"));
    if (!before || strcmp(before, hex) != 0)
        st = exp_lines_append(r->fd, line, r->options->results, err);
    json_decref(line);
    return st;
}

/* ---- all of it ---- */

static enum delta_status prepare(struct runner *r, struct delta_error *err)
{
    const struct learner_experiment *plan = r->plan;
    enum delta_status st;

    if (r->options->cache)
        snprintf(r->cache, sizeof r->cache, "%s", r->options->cache);
    else
        snprintf(r->cache, sizeof r->cache, "%s.cache", r->options->results);
    r->worker_count = choose_workers(r);
    r->jobs = delta_calloc(plan->run_count + 1, sizeof *r->jobs);
    r->costs = delta_calloc(plan->variant_count + 1, sizeof *r->costs);
    r->workers = delta_calloc(r->worker_count, sizeof *r->workers);
    if (!r->jobs || !r->costs || !r->workers)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    st = open_results(r, err);
    if (!st)
        st = note_plan(r, err);
    for (size_t i = 0; !st && i < plan->run_count; i++)
        r->summary->skipped += json_object_get(r->lines.keys, plan->runs[i].key) != NULL;
    if (!st && r->summary->skipped < plan->run_count) {
        st = delta_dir_make(r->cache, 0755, err);
        if (!st)
            st = learner_samples_open_sized(&r->train, plan->data, LEARNER_SPLIT_TRAIN,
                                            (uint32_t)plan->size, (uint32_t)plan->size, err);
    }
    return st;
}

enum delta_status learner_experiment_run(const struct learner_experiment *plan,
                                         const struct learner_experiment_options *options,
                                         struct learner_experiment_summary *summary,
                                         struct delta_error *err)
{
    struct learner_experiment_summary unused;
    struct runner r = {
        .plan = plan, .options = options, .summary = summary ? summary : &unused, .fd = -1};
    enum delta_status st;

    *r.summary = (struct learner_experiment_summary){.runs = plan->run_count};
    st = prepare(&r, err);
    for (int kind = EXP_JOB_BASE; !st && kind <= EXP_JOB_RUN; kind++) {
        st = collect(&r, (enum exp_job_kind)kind, err);
        if (!st)
            st = work_off(&r, err);
    }
    if (r.fd >= 0)
        close(r.fd);
    exp_lines_release(&r.lines);
    learner_samples_release(&r.train);
    free(r.jobs);
    free(r.costs);
    free(r.workers);
    return st;
}
