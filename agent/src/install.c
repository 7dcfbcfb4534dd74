/* From the fleet to this device: poll, download, verify, stage, health-check, commit, adopt,
 * report. Every step may be repeated after a kill at any point of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"
#include "delta/delta.h"
#include "delta/file.h"
#include "delta/log.h"

#define MODULE "install"

/* ---- poll ---- */

/* Signature, name, serial; then it replaces the stored one. */
static enum delta_status accept_document(struct agent *agent, struct delta_bytes sealed,
                                         struct delta_channel *channel, struct delta_error *err)
{
    char path[AGENT_PATH_MAX];
    enum delta_status st = delta_channel_open(channel, sealed, &agent->identity.release, err);

    if (st)
        return delta_fail_in(err, st, "channel document");
    if (strcmp(channel->name, agent->identity.channel) != 0)
        return delta_fail(err, DELTA_UNTRUSTED,
                          "channel document is of channel '%s', this device follows '%s'",
                          channel->name, agent->identity.channel);
    if (channel->serial < agent->state.serial)
        return delta_fail(
            err, DELTA_ROLLBACK, "channel document has serial %llu, serial %llu was seen before",
            (unsigned long long)channel->serial, (unsigned long long)agent->state.serial);
    agent_place(agent, path, AGENT_PLACE_CHANNEL);
    st = delta_file_write(path, sealed, 0644, err);
    if (!st)
        agent->state.serial = channel->serial;
    return st;
}

/* The document as the coordinator has it now, by download or from disk.  NOT_FOUND: none yet */
static enum delta_status fetch_document(struct agent *agent, struct delta_channel *channel,
                                        struct delta_error *err)
{
    char path[AGENT_PATH_MAX], etag[80];
    struct delta_buf sealed;
    bool changed;
    enum delta_status st;

    agent_place(agent, path, AGENT_PLACE_CHANNEL);
    snprintf(etag, sizeof etag, "%s", delta_file_exists(path) ? agent->state.etag : "");
    st = agent_coord_poll(&agent->coord, agent->identity.channel, etag, &sealed, &changed, err);
    if (st) {
        delta_buf_release(&sealed);
        return st;
    }
    if (changed) {
        st = accept_document(agent, delta_buf_bytes(&sealed), channel, err);
        if (!st)
            snprintf(agent->state.etag, sizeof agent->state.etag, "%s", etag);
        delta_buf_release(&sealed);
        return st;
    }
    delta_buf_release(&sealed);
    st = delta_file_read(path, DELTA_CHANNEL_MAX_BYTES, &sealed, err);
    if (st)
        return st;
    st = delta_channel_open(channel, delta_buf_bytes(&sealed), &agent->identity.release, err);
    delta_buf_release(&sealed);
    if (st) /* damaged here: next time the whole again */
        agent->state.etag[0] = '\0';
    return st;
}

static void aim(struct agent *agent, const struct delta_channel *channel)
{
    struct agent_target *target = &agent->state.target;

    *target = (struct agent_target){.version = channel->version,
                                    .blob = channel->model_blob,
                                    .bytes = channel->model_bytes,
                                    .model_blob = channel->model_blob,
                                    .model_bytes = channel->model_bytes,
                                    .full = true};
    for (size_t i = 0; agent->slots.current >= 0 && i < channel->edge_count; i++)
        if (delta_digest_equal(&channel->edges[i].from, &agent->slots.version)) {
            target->blob = channel->edges[i].blob;
            target->bytes = channel->edges[i].bytes;
            target->full = false;
        }
}

/* Does the document concern this device now? */
static enum agent_outcome consider(struct agent *agent, const struct delta_channel *channel)
{
    char name[9];

    agent->poll_s = channel->poll_s;
    if (agent_wall(agent) > channel->expires_ms) {
        struct delta_error err;
        agent->state.etag[0] = '\0';
        delta_fail(&err, DELTA_EXPIRED,
                   "channel document has expired; check this device's clock, else the coordinator");
        return agent_core_fail(agent, &err);
    }
    if (agent->slots.current >= 0 && delta_digest_equal(&channel->version, &agent->slots.version))
        return AGENT_OUTCOME_NOTHING;
    if (agent_state_is_rejected(&agent->state, &channel->version)) {
        delta_log_debug(MODULE, "version %s was rejected here",
                        agent_short(name, &channel->version));
        return AGENT_OUTCOME_NOTHING;
    }
    if (channel->paused || !delta_channel_reaches(channel, agent->identity.device)) {
        delta_log_debug(MODULE, "version %s is not for this device yet",
                        agent_short(name, &channel->version));
        return AGENT_OUTCOME_NOTHING;
    }
    aim(agent, channel);
    agent_core_event(agent, "version %s is out: %s of %llu bytes",
                     agent_short(name, &channel->version),
                     agent->state.target.full ? "model" : "delta",
                     (unsigned long long)agent->state.target.bytes);
    return AGENT_OUTCOME_DONE;
}

enum agent_outcome agent_step_poll(struct agent *agent)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_channel channel;
    const enum delta_status st = fetch_document(agent, &channel, &err);
    enum agent_outcome outcome;

    agent->polled = true;
    agent->dirty = true;
    if (!st) {
        outcome = consider(agent, &channel);
    } else if (st == DELTA_NOT_FOUND) { /* nothing was published yet */
        delta_log_debug(MODULE, "%s", err.text);
        outcome = AGENT_OUTCOME_NOTHING;
    } else {
        outcome = agent_core_fail(agent, &err);
    }
    agent->next_poll_ms = agent_now(agent) + agent_interval(agent);
    if (agent->coord.retry_after_ms > 0 && st)
        agent->next_poll_ms += agent->coord.retry_after_ms;
    return outcome;
}

/* ---- download ---- */

/* The delta does not do: true when the whole model is tried instead. */
static bool fall_back(struct agent *agent, const struct delta_error *err)
{
    struct agent_target *target = &agent->state.target;
    char path[AGENT_PATH_MAX];
    struct delta_error ignored;

    agent_work_place(agent, path, &target->blob, "");
    if (delta_file_remove(path, &ignored))
        delta_log_warn(MODULE, "%s", ignored.text);
    if (target->full)
        return false;
    agent_core_event(agent, "delta does not do, taking the whole model: %s", err->text);
    target->full = true;
    target->blob = target->model_blob;
    target->bytes = target->model_bytes;
    return true;
}

enum agent_outcome agent_step_download(struct agent *agent)
{
    const struct agent_target *target = &agent->state.target;
    char path[AGENT_PATH_MAX];
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest digest;
    uint64_t size;
    enum delta_status st;
    enum agent_outcome outcome;

    if (target->bytes == 0 || target->bytes > DELTA_MODEL_MAX_BYTES) {
        delta_fail(&err, DELTA_LIMIT, "blob of %llu bytes is beyond the limit",
                   (unsigned long long)target->bytes);
        agent_core_fail(agent, &err);
        return fall_back(agent, &err) ? AGENT_OUTCOME_NOTHING : AGENT_OUTCOME_FAILED;
    }
    agent_work_place(agent, path, &target->blob, "");
    if (!delta_sha256_file(path, &digest, &size, &err) &&
        delta_digest_equal(&digest, &target->blob))
        return AGENT_OUTCOME_DONE;
    st = agent_coord_fetch(&agent->coord, target->full ? AGENT_TRAFFIC_MODEL : AGENT_TRAFFIC_DELTA,
                           &target->blob, target->bytes, path, &err);
    if (!st)
        return AGENT_OUTCOME_DONE;
    outcome = agent_core_fail(agent, &err);
    if (outcome != AGENT_OUTCOME_REFUSED)
        return outcome;
    /* The version may be sound though the coordinator's copy is not: the next poll tries again. */
    return fall_back(agent, &err) ? AGENT_OUTCOME_NOTHING : AGENT_OUTCOME_FAILED;
}

/* ---- verify and stage ---- */

void agent_install_reject(struct agent *agent, const char *event, const char *reason)
{
    const struct agent_target *target = &agent->state.target;
    struct agent_report *report = &agent->state.report;
    char name[9], path[AGENT_PATH_MAX];
    struct delta_error ignored;

    agent_state_reject(&agent->state, &target->version);
    *report = (struct agent_report){
        .old = target->old_after, .tested = target->tested, .version = target->version};
    snprintf(report->event, sizeof report->event, "%s", event);
    snprintf(report->reason, sizeof report->reason, "%s", reason);
    agent->state.report_due = true;
    agent_core_event(agent, "version %s %s: %s", agent_short(name, &target->version), event,
                     reason);
    /* It must not be what a later fall-back finds. */
    if (!delta_digest_equal(&agent->slots.version, &target->version) &&
        !agent_slot_path(path, agent->identity.dir, agent_slot_other(&agent->slots), &ignored)) {
        struct delta_trusted_model model;
        const bool opens = !agent_slot_load(&agent->slots, agent_slot_other(&agent->slots),
                                            &agent->identity.installed, &model, &ignored);
        if (opens && delta_digest_equal(&model.version, &target->version) &&
            delta_file_remove(path, &ignored))
            delta_log_warn(MODULE, "%s", ignored.text);
        if (opens)
            delta_trusted_model_release(&model);
    }
}

static enum delta_status trust(struct agent *agent, struct delta_bytes file,
                               struct delta_trusted_model *out, struct delta_error *err)
{
    const struct agent_target *target = &agent->state.target;
    struct delta_trusted_model base;
    enum delta_status st;

    if (target->full) {
        st = delta_trust_model(out, file, &agent->identity.release, err);
    } else {
        st = agent_slot_load(&agent->slots, agent->slots.current, &agent->identity.installed, &base,
                             err);
        if (st)
            return st;
        st = delta_trust_delta(out, &base, file, &agent->identity.release, err);
        delta_trusted_model_release(&base);
    }
    if (st)
        return st;
    if (!delta_digest_equal(&out->version, &target->version)) {
        delta_trusted_model_release(out);
        return delta_fail(err, DELTA_DIGEST, "blob gives another version than the channel names");
    }
    return DELTA_OK;
}

/* A file for the slot. A whole model keeps the release key's signature; what came of a delta has
 * none as a whole, so this device vouches for it. */
static enum delta_status write_verified(struct agent *agent, struct delta_bytes file,
                                        const struct delta_model *model, struct delta_error *err)
{
    char path[AGENT_PATH_MAX];
    struct delta_buf image;
    enum delta_status st;

    agent_place(agent, path, AGENT_PLACE_VERIFIED);
    if (agent->state.target.full)
        return delta_file_write(path, file, 0644, err);
    st = delta_model_encode(model, &image, err);
    if (st)
        return st;
    st = delta_container_sign(&image, &agent->identity.key, err);
    if (!st)
        st = delta_file_write(path, delta_buf_bytes(&image), 0644, err);
    delta_buf_release(&image);
    return st;
}

enum agent_outcome agent_step_verify(struct agent *agent)
{
    char path[AGENT_PATH_MAX];
    struct delta_trusted_model model;
    struct delta_buf file;
    struct delta_error err = DELTA_ERROR_INIT;
    enum delta_status st;
    enum agent_outcome outcome;

    agent_work_place(agent, path, &agent->state.target.blob, "");
    st = delta_file_read(path, DELTA_MODEL_MAX_BYTES, &file, &err);
    if (st == DELTA_NOT_FOUND)
        return AGENT_OUTCOME_NOTHING; /* lost since: download again */
    if (st)
        return agent_core_fail(agent, &err);
    st = trust(agent, delta_buf_bytes(&file), &model, &err);
    if (!st) {
        st = write_verified(agent, delta_buf_bytes(&file), &model.model, &err);
        delta_trusted_model_release(&model);
    }
    delta_buf_release(&file);
    if (!st)
        return AGENT_OUTCOME_DONE;
    outcome = agent_core_fail(agent, &err);
    if (outcome != AGENT_OUTCOME_REFUSED)
        return outcome;
    if (fall_back(agent, &err))
        return AGENT_OUTCOME_NOTHING;
    agent_install_reject(agent, "rejected", err.text);
    return AGENT_OUTCOME_REFUSED;
}

enum agent_outcome agent_step_stage(struct agent *agent)
{
    char path[AGENT_PATH_MAX];
    struct delta_error err = DELTA_ERROR_INIT;

    agent_place(agent, path, AGENT_PLACE_VERIFIED);
    if (!agent_slot_stage(&agent->slots, path, &agent->state.target.version,
                          &agent->identity.installed, &err))
        return AGENT_OUTCOME_DONE;
    /* Verified a moment ago: what is wrong now is the disk, and the next poll begins again. */
    return agent_core_fail(agent, &err) == AGENT_OUTCOME_STOPPED ? AGENT_OUTCOME_STOPPED
                                                                 : AGENT_OUTCOME_FAILED;
}

/* ---- health check and commit ---- */

enum agent_outcome agent_step_check(struct agent *agent)
{
    struct agent_target *target = &agent->state.target;
    struct agent_check_order order = {.max_drop = agent->options->max_drop};
    const struct agent_limits limits = agent_job_limits(agent->options);
    char result_path[AGENT_PATH_MAX];
    struct delta_error err = DELTA_ERROR_INIT;
    json_t *result = NULL;
    enum delta_status st = DELTA_OK;
    enum agent_outcome outcome;

    agent_job_budget(&order.budget, agent->options);
    if (agent->slots.current >= 0)
        st = agent_slot_path(order.old_path, agent->identity.dir, agent->slots.current, &err);
    if (!st)
        st = agent_slot_path(order.new_path, agent->identity.dir, agent_slot_other(&agent->slots),
                             &err);
    if (st)
        return agent_core_fail(agent, &err);
    agent_place(agent, order.exemplars_path, AGENT_PLACE_EXEMPLARS);
    agent_place(agent, result_path, AGENT_PLACE_RESULT);
    st = agent->jobs.run(agent->jobs.check, &order, result_path, &limits, &agent->env, &result,
                         &err);
    target->tested = (uint32_t)json_integer_value(json_object_get(result, "tested"));
    target->old_before = json_number_value(json_object_get(result, "old_before"));
    target->old_after = json_number_value(json_object_get(result, "old_after"));
    json_decref(result);
    if (!st)
        return AGENT_OUTCOME_DONE;
    outcome = agent_core_fail(agent, &err);
    if (outcome == AGENT_OUTCOME_REFUSED)
        agent_install_reject(agent, "rolled-back", err.text);
    return outcome;
}

enum agent_outcome agent_step_commit(struct agent *agent)
{
    const struct agent_target *target = &agent->state.target;
    struct agent_report *report = &agent->state.report;
    struct delta_error err = DELTA_ERROR_INIT;
    char name[9], path[AGENT_PATH_MAX];
    enum delta_status st =
        agent_slot_commit(&agent->slots, &target->version, &agent->identity.installed, &err);

    if (!st)
        st = agent_core_classes(agent, &err);
    if (st)
        return agent_core_fail(agent, &err) == AGENT_OUTCOME_STOPPED ? AGENT_OUTCOME_STOPPED
                                                                     : AGENT_OUTCOME_FAILED;
    *report = (struct agent_report){.event = "installed",
                                    .old = target->old_after,
                                    .tested = target->tested,
                                    .version = target->version};
    agent->state.report_due = true;
    if (target->tested)
        agent_core_event(agent,
                         "version %s installed: %zu classes, old accuracy %.1f %% (%u images)",
                         agent_short(name, &target->version), agent->fleet_class_count,
                         100 * target->old_after, target->tested);
    else
        agent_core_event(agent, "version %s installed: %zu classes",
                         agent_short(name, &target->version), agent->fleet_class_count);
    agent_work_place(agent, path, &target->blob, "");
    if (delta_file_remove(path, &err))
        delta_log_warn(MODULE, "%s", err.text);
    return AGENT_OUTCOME_DONE;
}

/* ---- adopt: the fleet has our classes now ---- */

/* inbox/<folder> becomes learned/<folder>, or <folder>-2, ... when there is one already. */
static void put_away(struct agent *agent, const struct agent_class *class)
{
    char from[AGENT_PATH_MAX], to[AGENT_PATH_MAX], name[300];
    struct delta_error err;

    snprintf(name, sizeof name, "%s/%s", AGENT_PLACE_INBOX, class->folder);
    agent_place(agent, from, name);
    if (!delta_file_exists(from))
        return;
    for (int i = 1; i < 1000; i++) {
        if (i == 1)
            snprintf(name, sizeof name, "%s/%s", AGENT_PLACE_LEARNED, class->id.text);
        else
            snprintf(name, sizeof name, "%s/%s-%d", AGENT_PLACE_LEARNED, class->id.text, i);
        agent_place(agent, to, name);
        if (!delta_file_exists(to))
            break;
    }
    if (delta_file_rename(from, to, &err))
        agent_core_fail(agent, &err);
}

static void keep_exemplars(struct agent *agent)
{
    struct agent_adopt_order *order = delta_calloc(1, sizeof *order);
    const struct agent_limits limits = agent_job_limits(agent->options);
    char result_path[AGENT_PATH_MAX], name[300];
    struct delta_error err = DELTA_ERROR_INIT;
    json_t *result = NULL;

    if (!order)
        return;
    for (size_t i = 0; i < agent->state.class_count; i++) {
        const struct agent_class *class = &agent->state.classes[i];
        struct agent_job_class *row = &order->classes[order->count];
        if (!agent_core_knows(agent, class->id.text))
            continue;
        row->id = class->id;
        snprintf(name, sizeof name, "%s/%s", AGENT_PLACE_INBOX, class->folder);
        agent_place(agent, row->path, name);
        order->count += delta_file_exists(row->path);
    }
    agent_place(agent, order->exemplars_path, AGENT_PLACE_EXEMPLARS);
    agent_place(agent, result_path, AGENT_PLACE_RESULT);
    order->seed = (uint64_t)agent->options->seed;
    /* The samples stay in learned/ whatever happens here: a failure costs replay, not data. */
    if (order->count &&
        !agent_slot_path(order->model_path, agent->identity.dir, agent->slots.current, &err) &&
        agent->jobs.run(agent->jobs.adopt, order, result_path, &limits, &agent->env, &result, &err))
        agent_core_fail(agent, &err);
    json_decref(result);
    free(order);
}

enum agent_outcome agent_step_adopt(struct agent *agent)
{
    char path[AGENT_PATH_MAX];
    struct delta_error err;
    bool any = false;

    for (size_t i = 0; i < agent->state.class_count; i++)
        any |= agent_core_knows(agent, agent->state.classes[i].id.text);
    if (any)
        keep_exemplars(agent);
    if (agent_env_stopped(&agent->env))
        return AGENT_OUTCOME_STOPPED;
    for (size_t i = agent->state.class_count; i-- > 0;) {
        const struct agent_class class = agent->state.classes[i];
        if (!agent_core_knows(agent, class.id.text))
            continue;
        put_away(agent, &class);
        agent_core_event(agent, "class '%s' learned here is in the fleet's version now",
                         class.id.text);
        agent_work_place(agent, path, &class.contribution, ".fld");
        if (delta_file_remove(path, &err))
            delta_log_warn(MODULE, "%s", err.text);
        agent_state_drop_class(&agent->state, class.id.text);
    }
    bool local = false;
    for (size_t i = 0; i < agent->state.class_count; i++)
        local |= !delta_digest_is_zero(&agent->state.classes[i].base) &&
                 !agent->state.classes[i].refused;
    if (!local && !delta_digest_is_zero(&agent->state.local_base)) {
        agent->state.local_base = (struct delta_digest){{0}};
        agent_place(agent, path, AGENT_PLACE_LOCAL);
        if (delta_file_remove(path, &err))
            delta_log_warn(MODULE, "%s", err.text);
    }
    return AGENT_OUTCOME_DONE;
}

/* ---- report ---- */

enum agent_outcome agent_step_report(struct agent *agent)
{
    struct delta_error err = DELTA_ERROR_INIT;
    enum agent_outcome outcome;

    if (!agent->state.report_due)
        return AGENT_OUTCOME_NOTHING;
    if (!agent_coord_report(&agent->coord, &agent->state.report, &err)) {
        agent->state.report_due = false;
        return AGENT_OUTCOME_DONE;
    }
    outcome = agent_core_fail(agent, &err);
    agent->next_report_ms = agent_now(agent) + agent_interval(agent);
    if (outcome == AGENT_OUTCOME_REFUSED) /* the same words would be refused again */
        agent->state.report_due = false;
    return outcome;
}
