#include "core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "delta/log.h"

#define MODULE "agent"
#define MAX_FILES 4096

struct agent_jobs agent_jobs_real(void)
{
    return (struct agent_jobs){agent_sandbox_run, agent_job_learn, agent_job_check,
                               agent_job_adopt};
}

struct agent_options agent_options_defaults(void)
{
    return (struct agent_options){.settle_s = 2,
                                  .min_images = 5,
                                  .method = "frostline",
                                  .stages = "A",
                                  .device = "cpu",
                                  .max_drop = 0.15,
                                  .max_old_drop = -1,
                                  .min_new_recall = -1,
                                  .learn_s = 900,
                                  .memory_mb = 4096};
}

/* ---- places ---- */

void agent_place(const struct agent *agent, char out[AGENT_PATH_MAX], const char *name)
{
    snprintf(out, AGENT_PATH_MAX, "%s/%s", agent->identity.dir, name);
}

void agent_work_place(const struct agent *agent, char out[AGENT_PATH_MAX],
                      const struct delta_digest *digest, const char *suffix)
{
    char hex[DELTA_DIGEST_HEX];

    delta_digest_hex(hex, digest);
    snprintf(out, AGENT_PATH_MAX, "%s/%s/%s%s", agent->identity.dir, AGENT_PLACE_WORK, hex, suffix);
}

const char *agent_short(char out[9], const struct delta_digest *digest)
{
    delta_hex(out, digest->bytes, 4);
    return out;
}

/* ---- time ---- */

int64_t agent_now(const struct agent *agent)
{
    return delta_clock_monotonic_ms(&agent->env.clock);
}

int64_t agent_wall(const struct agent *agent)
{
    return delta_clock_wall_ms(&agent->env.clock);
}

int64_t agent_interval(const struct agent *agent)
{
    const int64_t seconds = agent->options->poll_s ? agent->options->poll_s
                            : agent->poll_s        ? (int64_t)agent->poll_s
                                                   : 60;
    return agent_retry_jitter(seconds * 1000, agent->env.random(agent->env.context));
}

/* ---- words ---- */

void agent_core_event(struct agent *agent, const char *fmt, ...)
{
    char text[200];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    agent_state_event(&agent->state, agent_wall(agent), "%s", text);
    agent->dirty = true;
}

void agent_core_say_once(struct agent *agent, const char *fmt, ...)
{
    char text[480];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    const struct delta_digest digest = delta_sha256(delta_bytes(text, strlen(text)));
    if (agent_state_note(&agent->state, &digest))
        agent_core_event(agent, "%s", text);
}

enum agent_outcome agent_core_fail(struct agent *agent, const struct delta_error *err)
{
    const enum agent_outcome outcome = agent_outcome_of(err->status);

    if (outcome == AGENT_OUTCOME_STOPPED)
        return outcome;
    delta_log_warn(MODULE, "%s: %s", agent_step_name(agent->state.step), err->text);
    snprintf(agent->state.last_error, sizeof agent->state.last_error, "%s", err->text);
    agent->state.last_error_ms = agent_wall(agent);
    agent->failure = *err;
    agent->dirty = true;
    return outcome;
}

/* ---- the installed version ---- */

enum delta_status agent_core_classes(struct agent *agent, struct delta_error *err)
{
    struct delta_trusted_model model;
    enum delta_status st;

    free(agent->fleet_classes);
    agent->fleet_classes = NULL;
    agent->fleet_class_count = 0;
    if (agent->slots.current < 0)
        return DELTA_OK;
    st = agent_slot_load(&agent->slots, agent->slots.current, &agent->identity.installed, &model,
                         err);
    if (st)
        return st;
    agent->fleet_classes = model.model.classes; /* moved */
    agent->fleet_class_count = model.model.class_count;
    model.model.classes = NULL;
    model.model.class_count = 0;
    delta_trusted_model_release(&model);
    return DELTA_OK;
}

bool agent_core_knows(const struct agent *agent, const char *id)
{
    for (size_t i = 0; i < agent->fleet_class_count; i++)
        if (strcmp(agent->fleet_classes[i].text, id) == 0)
            return true;
    return false;
}

/* ---- start and end ---- */

/* What a killed process left half-written. */
static void clean(const char *dir, bool (*stale)(const struct agent *, const char *),
                  const struct agent *agent)
{
    struct delta_dir_list list;
    struct delta_error ignored;
    char path[AGENT_PATH_MAX];

    if (delta_dir_read(&list, dir, MAX_FILES, &ignored))
        return;
    for (size_t i = 0; i < list.count; i++)
        if (stale(agent, list.names[i]) &&
            !delta_path_join(path, sizeof path, dir, list.names[i], &ignored) &&
            delta_file_remove(path, &ignored))
            delta_log_warn(MODULE, "%s", ignored.text);
    delta_dir_list_release(&list);
}

static bool half_written(const struct agent *agent, const char *name)
{
    (void)agent;
    return strstr(name, ".new-") != NULL;
}

static bool unused_work(const struct agent *agent, const char *name)
{
    char hex[DELTA_DIGEST_HEX];

    if (half_written(agent, name))
        return true;
    for (size_t i = 0; i < agent->state.class_count; i++) {
        delta_digest_hex(hex, &agent->state.classes[i].contribution);
        if (strncmp(name, hex, 64) == 0)
            return false;
    }
    delta_digest_hex(hex, &agent->state.target.blob);
    if (strncmp(name, hex, 64) == 0)
        return false;
    return agent->state.step == AGENT_IDLE || strlen(name) >= 64;
}

static enum delta_status make_places(struct agent *agent, struct delta_error *err)
{
    static const char *const places[] = {AGENT_PLACE_INBOX, AGENT_PLACE_LEARNED, AGENT_PLACE_WORK};
    char path[AGENT_PATH_MAX];
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; !st && i < 3; i++) {
        agent_place(agent, path, places[i]);
        st = delta_dir_make(path, 0700, err);
    }
    return st;
}

enum delta_status agent_core_init(struct agent *agent, const struct agent_options *options,
                                  const struct agent_env *env, const struct agent_jobs *jobs,
                                  struct delta_error *err)
{
    char path[AGENT_PATH_MAX];
    bool fresh, fell_back;
    enum delta_status st;

    memset(agent, 0, sizeof *agent);
    agent->slots.current = -1;
    agent->options = options;
    agent->env = *env;
    agent->jobs = *jobs;
    agent_inbox_init(&agent->inbox, (size_t)options->min_images,
                     (int64_t)(options->settle_s * 1000));
    st = agent_identity_load(&agent->identity, options->dir, err);
    if (!st)
        st = make_places(agent, err);
    if (!st)
        st = agent_state_load(&agent->state, options->dir, &fresh, err);
    if (st)
        return st;
    agent_traffic_load(agent->counts, options->dir);
    st = agent_slots_open(&agent->slots, options->dir, &agent->identity.installed, &fell_back, err);
    if (!st)
        st = agent_core_classes(agent, err);
    if (st)
        return st;
    if (fell_back)
        agent_core_event(agent, "the current version was damaged: back to the one before");
    clean(options->dir, half_written, agent);
    agent_place(agent, path, AGENT_PLACE_WORK);
    clean(path, unused_work, agent);
    for (int slot = 0; slot < 2; slot++) {
        agent_place(agent, path, slot ? "slot-b" : "slot-a");
        clean(path, half_written, agent);
    }
    return DELTA_OK;
}

void agent_core_release(struct agent *agent)
{
    agent_identity_release(&agent->identity);
    agent_inbox_release(&agent->inbox);
    free(agent->fleet_classes);
    agent->fleet_classes = NULL;
}
