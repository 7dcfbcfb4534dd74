/* What comes next: the choice when idle, the table when not, the loop around both. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core.h"
#include "delta/file.h"
#include "delta/log.h"

#define MODULE "agent"
#define SCAN_MS 1000
#define STORE_RETRY_MS 5000

typedef enum agent_outcome action(struct agent *agent);

static action *const actions[AGENT_STEP_COUNT] = {
    [AGENT_POLL] = agent_step_poll,     [AGENT_DOWNLOAD] = agent_step_download,
    [AGENT_VERIFY] = agent_step_verify, [AGENT_STAGE] = agent_step_stage,
    [AGENT_CHECK] = agent_step_check,   [AGENT_COMMIT] = agent_step_commit,
    [AGENT_ADOPT] = agent_step_adopt,   [AGENT_REPORT] = agent_step_report,
    [AGENT_LEARN] = agent_step_learn,   [AGENT_SEAL] = agent_step_seal,
    [AGENT_UPLOAD] = agent_step_upload, [AGENT_AWAIT] = agent_step_await,
};

static bool any_offer(const struct agent *agent, enum agent_offer offer)
{
    for (size_t i = 0; i < agent->state.class_count; i++)
        if (agent->state.classes[i].offer == offer)
            return true;
    return false;
}

/* The next step, or IDLE with the time until one may come up. */
static enum agent_step choose(struct agent *agent, int64_t *wait_ms)
{
    const int64_t now = agent_now(agent);
    const struct {
        bool wanted;
        int64_t not_before;
        enum agent_step step;
    } wishes[] = {
        {agent->state.report_due, agent->next_report_ms, AGENT_REPORT},
        {true, agent->next_poll_ms, AGENT_POLL},
        {any_offer(agent, AGENT_OFFER_SEALED), agent->next_upload_ms, AGENT_UPLOAD},
        {any_offer(agent, AGENT_OFFER_PENDING), agent->next_await_ms, AGENT_AWAIT},
        {agent_teach_wanted(agent), agent->next_learn_ms, AGENT_LEARN},
    };

    *wait_ms = SCAN_MS;
    if (agent->inbox.unsettled && agent->inbox.settle_ms < 4 * SCAN_MS)
        *wait_ms = agent->inbox.settle_ms / 4 + 20;
    for (size_t i = 0; i < sizeof wishes / sizeof wishes[0]; i++) {
        if (!wishes[i].wanted)
            continue;
        if (now >= wishes[i].not_before)
            return wishes[i].step;
        if (wishes[i].not_before - now < *wait_ms)
            *wait_ms = wishes[i].not_before - now;
    }
    return AGENT_IDLE;
}

static enum delta_status store(struct agent *agent, struct delta_error *err)
{
    const enum delta_status st = agent_state_save(&agent->state, agent->identity.dir, err);

    if (!st)
        agent->dirty = false;
    return st;
}

/* This step was begun again and again and never came to an end. */
static enum agent_outcome give_up(struct agent *agent)
{
    const enum agent_step step = agent->state.step;
    struct delta_error err;

    delta_fail(&err, DELTA_INTERNAL, "step '%s' was interrupted %d times; given up",
               agent_step_name(step), AGENT_LOOPS_MAX);
    agent_core_fail(agent, &err);
    switch (step) {
    case AGENT_VERIFY:
    case AGENT_CHECK:
        agent_install_reject(agent, "rolled-back", err.text);
        return AGENT_OUTCOME_REFUSED;
    case AGENT_LEARN:
        agent_teach_refuse(agent, err.text);
        return AGENT_OUTCOME_REFUSED;
    default: /* these touch files and the network only: begin again from idle */
        return AGENT_OUTCOME_FAILED;
    }
}

static enum delta_status act(struct agent *agent, struct delta_error *err)
{
    const enum agent_step step = agent->state.step;
    enum agent_outcome outcome;
    enum delta_status st;

    if (!actions[step]) { /* cannot be: idle is not acted upon */
        agent->state.step = AGENT_IDLE;
        return DELTA_OK;
    }
    agent->state.loops++;
    st = store(agent, err);
    if (st) {
        agent->state.loops--;
        return st;
    }
    outcome = agent->state.loops > AGENT_LOOPS_MAX ? give_up(agent) : actions[step](agent);
    if (outcome == AGENT_OUTCOME_DONE)
        agent->failure = (struct delta_error)DELTA_ERROR_INIT;
    agent->state.step = agent_step_next(step, outcome);
    agent->state.loops = 0; /* an outcome, or an orderly stop */
    delta_log_debug(MODULE, "step=%s outcome=%d next=%s", agent_step_name(step), outcome,
                    agent_step_name(agent->state.step));
    st = store(agent, err);
    if (!st)
        st = agent_traffic_save(agent->counts, agent->identity.dir, err);
    return st;
}

enum delta_status agent_core_step(struct agent *agent, int64_t *wait_ms, struct delta_error *err)
{
    char inbox[AGENT_PATH_MAX];
    enum delta_status st;

    *wait_ms = 0;
    if (agent->state.step == AGENT_IDLE || agent->state.step == AGENT_LEARN) {
        agent_place(agent, inbox, AGENT_PLACE_INBOX);
        st = agent_inbox_scan(&agent->inbox, inbox, &agent->env, err);
        if (st)
            return st;
    }
    if (agent->state.step == AGENT_IDLE) {
        agent->state.step = choose(agent, wait_ms);
        agent->state.loops = 0;
        if (agent->state.step == AGENT_IDLE)
            return agent->dirty ? store(agent, err) : DELTA_OK;
        *wait_ms = 0;
    }
    return act(agent, err);
}

/* Nothing left but waiting for others? */
static bool finished(const struct agent *agent)
{
    return agent->options->once && agent->polled && agent->state.step == AGENT_IDLE &&
           !agent->inbox.unsettled;
}

enum delta_status agent_core_loop(struct agent *agent, struct delta_error *err)
{
    while (!agent_env_stopped(&agent->env)) {
        int64_t wait_ms;
        const enum delta_status st = agent_core_step(agent, &wait_ms, err);
        if (st && agent->options->once)
            return st;
        if (st) { /* a full disk, most likely: wait, say it, go on when it is mended */
            delta_log_error(MODULE, "%s", err->text);
            agent->failure = *err;
            wait_ms = STORE_RETRY_MS;
        } else if (wait_ms && finished(agent)) {
            break;
        }
        if (wait_ms)
            agent->env.sleep_ms(agent->env.context, wait_ms);
    }
    if (agent->options->once && agent->failure.status)
        return delta_fail(err, agent->failure.status, "%s", agent->failure.text);
    return DELTA_OK;
}

enum delta_status agent_run(const struct agent_options *options, const volatile sig_atomic_t *stop,
                            struct delta_error *err)
{
    const struct agent_env env = agent_env_system(stop);
    const struct agent_jobs jobs = agent_jobs_real();
    struct agent *agent = delta_calloc(1, sizeof *agent);
    struct agent_curl *curl = NULL;
    char lock_path[AGENT_PATH_MAX], ca[AGENT_PATH_MAX], certificate[AGENT_PATH_MAX],
        key[AGENT_PATH_MAX];
    int lock = -1;
    enum delta_status st;

    if (!agent)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    st = delta_path_join(lock_path, sizeof lock_path, options->dir, "lock", err);
    if (!st && !delta_file_exists(options->dir))
        st = delta_fail(err, DELTA_CONFIG,
                        "'%s' is not an enrolled device: run frostline-agent enrol --dir %s first",
                        options->dir, options->dir);
    if (!st)
        st = delta_file_lock(lock_path, &lock, err);
    if (!st)
        st = agent_core_init(agent, options, &env, &jobs, err);
    if (st)
        goto done;
    agent_place(agent, ca, AGENT_FILE_CA);
    agent_place(agent, certificate, AGENT_FILE_CERTIFICATE);
    agent_place(agent, key, AGENT_FILE_KEY);
    const struct agent_curl_options http = {.url = agent->identity.server,
                                            .ca_path = ca,
                                            .certificate_path = certificate,
                                            .key_path = key,
                                            .counts = agent->counts,
                                            .env = &agent->env};
    st = agent_curl_new(&curl, &http, err);
    if (st)
        goto done;
    agent_coord_init(&agent->coord, agent_curl_transport(curl), &agent->env);
    delta_log_info(MODULE, "device=%s server=%s channel=%s step=%s", agent->identity.device,
                   agent->identity.server, agent->identity.channel,
                   agent_step_name(agent->state.step));
    st = agent_core_loop(agent, err);
done:
    agent_curl_free(curl);
    agent_core_release(agent);
    free(agent);
    if (lock >= 0)
        close(lock);
    return st;
}
