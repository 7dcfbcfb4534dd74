/* The agent as one object: what install.c (from the fleet to this device), teach.c (from this
 * device to the fleet) and daemon.c (what comes next) share. Owned by one thread. */
#ifndef AGENT_CORE_H
#define AGENT_CORE_H

#include "agent/agent.h"
#include "identity.h"
#include "inbox.h"
#include "job.h"
#include "slot.h"
#include "state.h"

/* What runs in the sandbox, and the sandbox: tests put their own here. */
struct agent_jobs {
    enum delta_status (*run)(agent_job *job, void *context, const char *result_path,
                             const struct agent_limits *limits, const struct agent_env *env,
                             json_t **result, struct delta_error *err);
    agent_job *learn, *check, *adopt;
};
struct agent_jobs agent_jobs_real(void);

struct agent {
    const struct agent_options *options; /* borrowed */
    struct agent_identity identity;      /* owned */
    struct agent_env env;
    struct agent_coord coord;
    struct agent_jobs jobs;
    struct agent_state state;
    struct agent_slots slots;
    struct agent_inbox inbox;
    struct agent_traffic_count counts[AGENT_TRAFFIC_COUNT];
    struct delta_class_id *fleet_classes; /* of the installed version; owned */
    size_t fleet_class_count;
    uint32_t poll_s;      /* of the newest channel document */
    int64_t next_poll_ms; /* monotonic; the moments before which nothing is tried */
    int64_t next_report_ms;
    int64_t next_upload_ms;
    int64_t next_await_ms;
    int64_t next_learn_ms;
    bool polled;                /* in this run */
    bool dirty;                 /* the state differs from its file */
    struct delta_error failure; /* the last one of this run; OK = none since a success */
};

/* Loads identity, state, slots and cleans up leftovers. The directory's lock is the caller's.
 *   end with agent_core_release(), also after a failure */
DELTA_MUST_USE enum delta_status agent_core_init(struct agent *agent,
                                                 const struct agent_options *options,
                                                 const struct agent_env *env,
                                                 const struct agent_jobs *jobs,
                                                 struct delta_error *err);
void agent_core_release(struct agent *agent);

/* "<dir>/<name>"; the directory's length was checked at init. */
void agent_place(const struct agent *agent, char out[AGENT_PATH_MAX], const char *name);
/* "<dir>/work/<hex of digest><suffix>" */
void agent_work_place(const struct agent *agent, char out[AGENT_PATH_MAX],
                      const struct delta_digest *digest, const char *suffix);
#define AGENT_PLACE_INBOX "inbox"
#define AGENT_PLACE_LEARNED "learned"
#define AGENT_PLACE_WORK "work"
#define AGENT_PLACE_EXEMPLARS "exemplars.flx"
#define AGENT_PLACE_LOCAL "local.flm"
#define AGENT_PLACE_NEW_LOCAL "work/local.flm"
#define AGENT_PLACE_OFFER "work/offer.fld"
#define AGENT_PLACE_VERIFIED "work/verified.flm"
#define AGENT_PLACE_RESULT "work/result.json"
#define AGENT_PLACE_CHANNEL "channel.bin"

/* Rereads the class list of the installed version. */
DELTA_MUST_USE enum delta_status agent_core_classes(struct agent *agent, struct delta_error *err);
bool agent_core_knows(const struct agent *agent, const char *id); /* the fleet's version does */

int64_t agent_now(const struct agent *agent); /* monotonic */
int64_t agent_wall(const struct agent *agent);
int64_t agent_interval(const struct agent *agent); /* until the next poll, with jitter */

/* Keeps a failure for `status`, logs it, and says what outcome it is. */
enum agent_outcome agent_core_fail(struct agent *agent, const struct delta_error *err);
/* The same words are said once, ever. */
void agent_core_say_once(struct agent *agent, const char *fmt, ...) DELTA_PRINTF(2, 3);
void agent_core_event(struct agent *agent, const char *fmt, ...) DELTA_PRINTF(2, 3);
/* "3fe1c04a" of a version, for people. */
const char *agent_short(char out[9], const struct delta_digest *digest);

/* install.c: what each step does */
enum agent_outcome agent_step_poll(struct agent *agent);
enum agent_outcome agent_step_download(struct agent *agent);
enum agent_outcome agent_step_verify(struct agent *agent);
enum agent_outcome agent_step_stage(struct agent *agent);
enum agent_outcome agent_step_check(struct agent *agent);
enum agent_outcome agent_step_commit(struct agent *agent);
enum agent_outcome agent_step_adopt(struct agent *agent);
enum agent_outcome agent_step_report(struct agent *agent);
/* The target version is not to be tried again: remembered, reported, dropped from its slot. */
void agent_install_reject(struct agent *agent, const char *event, const char *reason);

/* teach.c */
enum agent_outcome agent_step_learn(struct agent *agent);
enum agent_outcome agent_step_seal(struct agent *agent);
enum agent_outcome agent_step_upload(struct agent *agent);
enum agent_outcome agent_step_await(struct agent *agent);
/* Is there something in the inbox to learn on this base? Also passes on the inbox's complaints. */
bool agent_teach_wanted(struct agent *agent);
/* What is in the inbox now is not tried again on this base. */
void agent_teach_refuse(struct agent *agent, const char *reason);

/* daemon.c: one look at what is next and, unless that is waiting, one step of it.
 *   wait_ms  > 0: nothing to do for so long
 *   fails    ENV statuses when the state cannot be stored; nothing was done then */
DELTA_MUST_USE enum delta_status agent_core_step(struct agent *agent, int64_t *wait_ms,
                                                 struct delta_error *err);
/* Steps until nothing is left to do (`once`) or the agent is asked to stop. */
DELTA_MUST_USE enum delta_status agent_core_loop(struct agent *agent, struct delta_error *err);

#endif
