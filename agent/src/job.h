/* What runs in the sandbox: learning from the inbox, the health check of a new version, and taking
 * samples of an adopted class over into the exemplars. Reads images and models, writes files of
 * the device directory; knows no network and no state. Each is an agent_job; the comments tell
 * what it puts into its result object. */
#ifndef AGENT_JOB_H
#define AGENT_JOB_H

#include "identity.h"
#include "learner/learn.h"
#include "sandbox.h"
#include "state.h"

/* What the device's options leave to learning: where to compute, threads, seed, memory (the
 * process's resident peak; the sandbox limits its address space to the same number, as a backstop)
 * and nine tenths of the time from now on, so that learning ends in good order before the sandbox
 * ends it. options: borrowed as long as *out */
struct agent_options;
void agent_job_budget(struct learner_budget *out, const struct agent_options *options);
/* The sandbox's limits. Where a GPU may be used the address space has none: its driver reserves
 * more than the machine has memory. */
struct agent_limits agent_job_limits(const struct agent_options *options);

struct agent_job_class {
    struct delta_class_id id;
    char path[AGENT_PATH_MAX]; /* folder with its images */
    bool contribute;           /* not offered to the fleet yet */
};

struct agent_learn_order {
    char base_path[AGENT_PATH_MAX];
    struct delta_digest base;
    char exemplars_path[AGENT_PATH_MAX]; /* may be missing: then nothing is replayed or probed */
    char local_path[AGENT_PATH_MAX];     /* out: model with all classes */
    char offer_path[AGENT_PATH_MAX];     /* out: unsigned delta with those to contribute */
    struct agent_job_class classes[AGENT_CLASSES_MAX];
    size_t count;
    struct learner_increment_options options;
    struct learner_budget budget;
    char device[DELTA_CHANNEL_NAME_MAX + 1];
    int64_t now_ms;
};
/* {"classes": [{"id", "status", "text", "read", "resized", "skipped", "problem"}...], "old_before",
 *  "old_after", "new_recall", "probe_images", "held_out_new", "new_images", "seconds",
 *  "offered": bool}; status 0 = learned.
 * Several classes that the guard refuses together are tried one after the other.
 *   fails   REJECTED when no class was learned */
enum delta_status agent_job_learn(void *order, json_t *result, struct delta_error *err);

struct agent_check_order {
    char old_path[AGENT_PATH_MAX]; /* "" = nothing installed yet */
    char new_path[AGENT_PATH_MAX];
    char exemplars_path[AGENT_PATH_MAX];
    double max_drop;
    struct learner_budget budget;
};
/* {"tested", "old_before", "old_after"}: over the probe images of classes that the old version
 * knows.  fails: REJECTED (accuracy fell by more than max_drop), NONFINITE, ... */
enum delta_status agent_job_check(void *order, json_t *result, struct delta_error *err);

struct agent_adopt_order {
    char model_path[AGENT_PATH_MAX];
    char exemplars_path[AGENT_PATH_MAX];
    struct agent_job_class classes[AGENT_CLASSES_MAX];
    size_t count;
    uint64_t seed;
};
/* {"added": classes}; classes that the exemplars have already are left. */
enum delta_status agent_job_adopt(void *order, json_t *result, struct delta_error *err);

#endif
