/* From this device to the fleet: learn what is in the inbox, seal the difference, upload it, ask
 * what became of it. Samples are read in the sandbox and never leave the device. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"
#include "delta/delta.h"
#include "delta/file.h"
#include "delta/log.h"

#define MODULE "teach"
#define MAX_OFFER ((size_t)256 << 20)

/* ---- what is there to learn ---- */

static bool is_refused(const struct agent *agent, const struct agent_class *known,
                       const struct agent_inbox_class *found)
{
    return known && known->refused && delta_digest_equal(&known->content, &found->content) &&
           delta_digest_equal(&known->base, &agent->slots.version);
}

/* Ready, unknown to the fleet's version and not refused as it is. */
static bool is_candidate(struct agent *agent, const struct agent_inbox_class *found)
{
    return found->ready && !agent_core_knows(agent, found->id.text) &&
           !is_refused(agent, agent_state_class(&agent->state, found->id.text), found);
}

/* Learned as it is, on this base, and on its way to the fleet or back from there. */
static bool is_current(const struct agent *agent, const struct agent_class *known,
                       const struct agent_inbox_class *found)
{
    return known && !known->refused && known->offer != AGENT_OFFER_NONE &&
           delta_digest_equal(&known->content, &found->content) &&
           delta_digest_equal(&known->base, &agent->slots.version);
}

static void pass_on_complaints(struct agent *agent)
{
    for (size_t i = 0; i < agent->inbox.count; i++) {
        const struct agent_inbox_class *found = &agent->inbox.classes[i];
        if (found->complaint[0])
            agent_core_say_once(agent, "%s", found->complaint);
        else if (found->ready && agent_core_knows(agent, found->id.text) &&
                 !agent_state_class(&agent->state, found->id.text))
            agent_core_say_once(agent,
                                "class '%s' is already in the model; remove inbox/%.60s, or give a "
                                "new class another name",
                                found->id.text, found->folder);
    }
}

bool agent_teach_wanted(struct agent *agent)
{
    bool wanted = false;

    pass_on_complaints(agent);
    if (agent->slots.current < 0)
        return false;
    for (size_t i = 0; i < agent->inbox.count; i++) {
        const struct agent_inbox_class *found = &agent->inbox.classes[i];
        const struct agent_class *known = agent_state_class(&agent->state, found->id.text);
        /* A class learned before that changes right now would be lost by learning without it. */
        if (known && !known->refused && !found->settled && !agent_core_knows(agent, found->id.text))
            return false;
        wanted |= is_candidate(agent, found) && !is_current(agent, known, found);
    }
    return wanted;
}

/* ---- learn ---- */

static void fill_order(struct agent *agent, struct agent_learn_order *order)
{
    char name[300];

    order->base = agent->slots.version;
    agent_place(agent, order->exemplars_path, AGENT_PLACE_EXEMPLARS);
    agent_place(agent, order->local_path, AGENT_PLACE_NEW_LOCAL);
    agent_place(agent, order->offer_path, AGENT_PLACE_OFFER);
    order->options = learner_increment_defaults(agent->options->method);
    order->options.stages = agent->options->stages;
    if (agent->options->max_old_drop >= 0)
        order->options.max_old_drop = agent->options->max_old_drop;
    if (agent->options->min_new_recall >= 0)
        order->options.min_new_recall = agent->options->min_new_recall;
    agent_job_budget(&order->budget, agent->options);
    snprintf(order->device, sizeof order->device, "%s", agent->identity.device);
    order->now_ms = agent_wall(agent);
    for (size_t i = 0; i < agent->inbox.count && order->count < AGENT_CLASSES_MAX; i++) {
        const struct agent_inbox_class *found = &agent->inbox.classes[i];
        const struct agent_class *known;
        struct agent_job_class *row = &order->classes[order->count];
        if (!is_candidate(agent, found))
            continue;
        known = agent_state_class(&agent->state, found->id.text);
        row->id = found->id;
        snprintf(name, sizeof name, "%s/%s", AGENT_PLACE_INBOX, found->folder);
        agent_place(agent, row->path, name);
        row->contribute =
            !known || known->offer == AGENT_OFFER_NONE ||
            (known->offer == AGENT_OFFER_REJECTED &&
             (!delta_digest_equal(&known->content, &found->content) ||
              (known->again && !delta_digest_equal(&known->base, &agent->slots.version))));
        order->count++;
    }
}

static const struct agent_inbox_class *in_inbox(const struct agent *agent, const char *id)
{
    for (size_t i = 0; i < agent->inbox.count; i++)
        if (strcmp(agent->inbox.classes[i].id.text, id) == 0)
            return &agent->inbox.classes[i];
    return NULL;
}

/* The record of a class, made to say that this content was used on this base. */
static struct agent_class *record(struct agent *agent, const struct delta_class_id *id)
{
    const struct agent_inbox_class *found = in_inbox(agent, id->text);
    struct agent_class *class = agent_state_add_class(&agent->state, id);

    if (!class || !found) {
        delta_log_error(MODULE, "class '%s' cannot be remembered: more than %d classes", id->text,
                        AGENT_CLASSES_MAX);
        return NULL;
    }
    snprintf(class->folder, sizeof class->folder, "%s", found->folder);
    class->content = found->content;
    class->base = agent->slots.version;
    return class;
}

static void refuse_class(struct agent *agent, const struct delta_class_id *id, const char *reason)
{
    struct agent_class *class = record(agent, id);

    if (!class)
        return;
    class->refused = true;
    agent_core_event(agent, "class '%s' is not learned: %.120s", id->text, reason);
}

void agent_teach_refuse(struct agent *agent, const char *reason)
{
    struct agent_learn_order *order = delta_calloc(1, sizeof *order);
    size_t fresh = 0;

    if (!order)
        return;
    fill_order(agent, order);
    /* When some were learned before, the newcomers are what is wrong. */
    for (size_t pass = 0; pass < 2 && fresh == 0; pass++)
        for (size_t i = 0; i < order->count; i++) {
            const struct agent_class *known =
                agent_state_class(&agent->state, order->classes[i].id.text);
            if (pass == 0 && known && !known->refused)
                continue;
            refuse_class(agent, &order->classes[i].id, reason);
            fresh++;
        }
    free(order);
}

static void tell_folder(struct agent *agent, const char *id, const json_t *row)
{
    const json_int_t skipped = json_integer_value(json_object_get(row, "skipped"));
    const json_int_t resized = json_integer_value(json_object_get(row, "resized"));
    const char *problem = json_string_value(json_object_get(row, "problem"));

    if (skipped)
        agent_core_say_once(agent,
                            "class '%s': %lld files were left out, first %.90s; replace or "
                            "remove them",
                            id, (long long)skipped, problem ? problem : "");
    if (resized)
        agent_core_say_once(agent, "class '%s': %lld images of another size were resized", id,
                            (long long)resized);
}

/* Takes over what the job tells per class; returns how many were learned. */
static size_t take_rows(struct agent *agent, const struct agent_learn_order *order,
                        const json_t *result, bool offered)
{
    const json_t *rows = json_object_get(result, "classes");
    size_t learned = 0;

    for (size_t i = 0; i < order->count; i++) {
        const struct agent_job_class *asked = &order->classes[i];
        const json_t *row = json_array_get(rows, i);
        const char *text = json_string_value(json_object_get(row, "text"));
        if (!row)
            continue;
        tell_folder(agent, asked->id.text, row);
        if (json_integer_value(json_object_get(row, "status")) != DELTA_OK) {
            refuse_class(agent, &asked->id, text ? text : "refused");
            continue;
        }
        struct agent_class *class = record(agent, &asked->id);
        if (!class)
            continue;
        class->refused = false;
        if (asked->contribute) {
            class->contribution = (struct delta_digest){{0}};
            class->again = false;
            /* Not offered though wanted: it passes the guard only beside others; it stays here. */
            class->offer = offered ? AGENT_OFFER_NONE : AGENT_OFFER_REJECTED;
        }
        learned++;
    }
    return learned;
}

/* Classes that the new overlay lacks since their samples are gone. */
static void forget_missing(struct agent *agent)
{
    for (size_t i = agent->state.class_count; i-- > 0;) {
        const struct agent_class class = agent->state.classes[i];
        if (class.refused || delta_digest_equal(&class.base, &agent->slots.version))
            continue;
        agent_core_event(agent,
                         "class '%s' is forgotten: its samples left the inbox before the "
                         "fleet had it",
                         class.id.text);
        agent_state_drop_class(&agent->state, class.id.text);
    }
}

static enum agent_outcome take_result(struct agent *agent, const struct agent_learn_order *order,
                                      const json_t *result)
{
    char path[AGENT_PATH_MAX], name[9];
    struct delta_error err = DELTA_ERROR_INIT;
    const bool offered = json_is_true(json_object_get(result, "offered"));

    agent_place(agent, path, AGENT_PLACE_LOCAL);
    if (delta_file_rename(order->local_path, path, &err))
        return agent_core_fail(agent, &err);
    const size_t learned = take_rows(agent, order, result, offered);
    agent->state.local_base = agent->slots.version;
    forget_missing(agent);
    agent_core_event(
        agent,
        "learned %zu class%s on version %s in %.1f s: new recall %.1f %%, old %.1f -> %.1f %%",
        learned, learned == 1 ? "" : "es", agent_short(name, &agent->slots.version),
        json_number_value(json_object_get(result, "seconds")),
        100 * json_number_value(json_object_get(result, "new_recall")),
        100 * json_number_value(json_object_get(result, "old_before")),
        100 * json_number_value(json_object_get(result, "old_after")));
    return offered ? AGENT_OUTCOME_DONE : AGENT_OUTCOME_NOTHING;
}

enum agent_outcome agent_step_learn(struct agent *agent)
{
    struct agent_learn_order *order = delta_calloc(1, sizeof *order);
    const struct agent_limits limits = agent_job_limits(agent->options);
    char result_path[AGENT_PATH_MAX];
    struct delta_error err = DELTA_ERROR_INIT;
    json_t *result = NULL;
    enum agent_outcome outcome = AGENT_OUTCOME_NOTHING;
    enum delta_status st;

    if (!order) {
        delta_fail(&err, DELTA_NO_MEMORY, "out of memory for learning");
        return agent_core_fail(agent, &err);
    }
    agent->next_learn_ms = agent_now(agent) + 60 * 1000; /* after a failure; else cleared below */
    fill_order(agent, order);
    if (order->count == 0) /* after a restart the inbox has to settle again first */
        goto done;
    st = agent_slot_path(order->base_path, agent->identity.dir, agent->slots.current, &err);
    if (!st)
        st = delta_file_remove(order->offer_path, &err);
    agent_place(agent, result_path, AGENT_PLACE_RESULT);
    if (!st)
        st = agent->jobs.run(agent->jobs.learn, order, result_path, &limits, &agent->env, &result,
                             &err);
    if (!st) {
        outcome = take_result(agent, order, result);
    } else {
        outcome = agent_core_fail(agent, &err);
        if (outcome == AGENT_OUTCOME_REFUSED && st == DELTA_REJECTED && result)
            take_rows(agent, order, result, false);
        else if (outcome == AGENT_OUTCOME_REFUSED)
            agent_teach_refuse(agent, err.text);
    }
done:
    if (outcome != AGENT_OUTCOME_FAILED)
        agent->next_learn_ms = 0;
    json_decref(result);
    free(order);
    return outcome;
}

/* ---- seal ---- */

/* The sandbox read foreign images: what it wrote is looked at before it is signed. */
static enum delta_status check_offer(struct agent *agent, struct delta_bytes file,
                                     struct delta_class_id *ids, size_t *count,
                                     struct delta_error *err)
{
    struct delta_reader reader;
    enum delta_status st = delta_reader_init(&reader, file, err);

    if (st)
        return st;
    *count = 0;
    if (!delta_digest_equal(&reader.base, &agent->slots.version))
        st = delta_fail(err, DELTA_MISMATCH, "contribution is on another base than installed");
    if (!st &&
        (!reader.has_provenance || strcmp(reader.provenance.device, agent->identity.device) != 0))
        st = delta_fail(err, DELTA_MISMATCH, "contribution does not name this device");
    if (!st && (reader.classes_added_count == 0 || reader.classes_added_count > AGENT_CLASSES_MAX))
        st = delta_fail(err, DELTA_MISMATCH, "contribution has %zu classes",
                        reader.classes_added_count);
    for (size_t i = 0; !st && i < reader.classes_added_count; i++) {
        if (!agent_state_class(&agent->state, reader.classes_added[i].text))
            st = delta_fail(err, DELTA_MISMATCH, "contribution has a class that was not learned");
        ids[(*count)++] = reader.classes_added[i];
    }
    delta_reader_release(&reader);
    return st;
}

/* Learned anew next time. */
static void unlearn(struct agent *agent)
{
    for (size_t i = 0; i < agent->state.class_count; i++)
        if (agent->state.classes[i].offer == AGENT_OFFER_NONE)
            agent->state.classes[i].base = (struct delta_digest){{0}};
}

enum agent_outcome agent_step_seal(struct agent *agent)
{
    struct delta_class_id ids[AGENT_CLASSES_MAX];
    size_t count = 0;
    char path[AGENT_PATH_MAX], sealed[AGENT_PATH_MAX], name[9];
    struct delta_buf file;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest digest;
    enum delta_status st;

    agent_place(agent, path, AGENT_PLACE_OFFER);
    st = delta_file_read(path, MAX_OFFER, &file, &err);
    if (st == DELTA_NOT_FOUND) {
        unlearn(agent);
        return AGENT_OUTCOME_NOTHING;
    }
    if (st)
        return agent_core_fail(agent, &err);
    file.cap = MAX_OFFER + 4096; /* room for the signature */
    st = check_offer(agent, delta_buf_bytes(&file), ids, &count, &err);
    if (!st)
        st = delta_container_sign(&file, &agent->identity.key, &err);
    if (!st) {
        digest = delta_sha256(delta_buf_bytes(&file));
        agent_work_place(agent, sealed, &digest, ".fld");
        st = delta_file_write(sealed, delta_buf_bytes(&file), 0600, &err);
    }
    const size_t bytes = file.len;
    delta_buf_release(&file);
    if (st) {
        const enum agent_outcome outcome = agent_core_fail(agent, &err);
        if (outcome == AGENT_OUTCOME_REFUSED) /* the fleet moved on meanwhile, or worse */
            unlearn(agent);
        return outcome;
    }
    for (size_t i = 0; i < count; i++) {
        struct agent_class *class = agent_state_class(&agent->state, ids[i].text);
        class->offer = AGENT_OFFER_SEALED;
        class->contribution = digest;
    }
    agent_core_event(agent, "sealed contribution %s: %zu class%s, %zu bytes",
                     agent_short(name, &digest), count, count == 1 ? "" : "es", bytes);
    return AGENT_OUTCOME_DONE;
}

/* ---- upload ---- */

static struct agent_class *first_with(struct agent *agent, enum agent_offer offer)
{
    for (size_t i = 0; i < agent->state.class_count; i++)
        if (agent->state.classes[i].offer == offer)
            return &agent->state.classes[i];
    return NULL;
}

static void set_offer(struct agent *agent, const struct delta_digest *contribution,
                      enum agent_offer offer, bool again)
{
    for (size_t i = 0; i < agent->state.class_count; i++) {
        struct agent_class *class = &agent->state.classes[i];
        if (!delta_digest_equal(&class->contribution, contribution))
            continue;
        class->offer = offer;
        class->again = again;
    }
    agent->dirty = true;
}

/* Pending stays what it is; the end of a contribution is told and its file dropped. */
static void take_answer(struct agent *agent, const struct delta_digest *contribution,
                        const struct agent_answer *answer)
{
    char path[AGENT_PATH_MAX], name[9], version[9];
    struct delta_error err;

    if (answer->verdict == AGENT_VERDICT_PENDING) {
        set_offer(agent, contribution, AGENT_OFFER_PENDING, false);
        return;
    }
    if (answer->verdict == AGENT_VERDICT_MERGED) {
        set_offer(agent, contribution, AGENT_OFFER_MERGED, false);
        agent_core_event(agent, "contribution %s is merged into version %s",
                         agent_short(name, contribution), agent_short(version, &answer->version));
    } else {
        set_offer(agent, contribution, AGENT_OFFER_REJECTED, false);
        agent_core_event(agent, "contribution %s is rejected, its classes stay on this device: %s",
                         agent_short(name, contribution), answer->reason);
    }
    agent_work_place(agent, path, contribution, ".fld");
    if (delta_file_remove(path, &err))
        delta_log_warn(MODULE, "%s", err.text);
}

/* Admission said no, or the coordinator cannot take this device's word now? */
static enum agent_outcome upload_refused(struct agent *agent,
                                         const struct delta_digest *contribution,
                                         const struct delta_error *err)
{
    struct agent_answer answer = {AGENT_VERDICT_REJECTED, "", {{0}}};
    const enum delta_status why = agent->coord.peer_status;

    /* A damaged transfer, or a device that is not let in: the bytes are not at fault. */
    if (why == DELTA_OK || why == DELTA_DIGEST || why == DELTA_UNTRUSTED ||
        err->status != DELTA_REFUSED)
        return AGENT_OUTCOME_FAILED;
    snprintf(answer.reason, sizeof answer.reason, "%s", err->text);
    take_answer(agent, contribution, &answer);
    if (why == DELTA_BASE_UNKNOWN)
        set_offer(agent, contribution, AGENT_OFFER_REJECTED, true);
    return AGENT_OUTCOME_REFUSED;
}

enum agent_outcome agent_step_upload(struct agent *agent)
{
    const struct agent_class *class = first_with(agent, AGENT_OFFER_SEALED);
    char path[AGENT_PATH_MAX], name[9];
    struct delta_error err = DELTA_ERROR_INIT;
    struct agent_answer answer;
    struct delta_buf file;
    enum delta_status st;
    enum agent_outcome outcome;

    if (!class)
        return AGENT_OUTCOME_NOTHING;
    const struct delta_digest contribution = class->contribution;
    agent->next_upload_ms = agent_now(agent) + agent_interval(agent);
    agent_work_place(agent, path, &contribution, ".fld");
    st = delta_file_read(path, MAX_OFFER + 4096, &file, &err);
    if (st == DELTA_NOT_FOUND) {
        set_offer(agent, &contribution, AGENT_OFFER_NONE, false);
        unlearn(agent);
        return AGENT_OUTCOME_NOTHING;
    }
    if (st)
        return agent_core_fail(agent, &err);
    st = agent_coord_offer(&agent->coord, &contribution, delta_buf_bytes(&file), &answer, &err);
    const size_t bytes = file.len;
    delta_buf_release(&file);
    if (!st) {
        agent_core_event(agent, "uploaded contribution %s: %zu bytes",
                         agent_short(name, &contribution), bytes);
        take_answer(agent, &contribution, &answer);
        agent->next_await_ms = agent_now(agent) + agent_interval(agent);
        return AGENT_OUTCOME_DONE;
    }
    if (agent->coord.retry_after_ms > 0)
        agent->next_upload_ms += agent->coord.retry_after_ms;
    outcome = agent_core_fail(agent, &err);
    return outcome == AGENT_OUTCOME_REFUSED ? upload_refused(agent, &contribution, &err) : outcome;
}

/* ---- await ---- */

enum agent_outcome agent_step_await(struct agent *agent)
{
    enum agent_outcome outcome = AGENT_OUTCOME_NOTHING;

    agent->next_await_ms = agent_now(agent) + agent_interval(agent);
    for (size_t i = 0; i < agent->state.class_count; i++) {
        const struct agent_class *class = &agent->state.classes[i];
        const struct delta_digest contribution = class->contribution;
        struct delta_error err = DELTA_ERROR_INIT;
        struct agent_answer answer;
        bool asked = class->offer != AGENT_OFFER_PENDING;
        for (size_t j = 0; j < i && !asked; j++)
            asked = delta_digest_equal(&agent->state.classes[j].contribution, &contribution);
        if (asked)
            continue;
        const enum delta_status st = agent_coord_ask(&agent->coord, &contribution, &answer, &err);
        if (st == DELTA_NOT_FOUND) { /* the coordinator forgot: once more from our file */
            set_offer(agent, &contribution, AGENT_OFFER_SEALED, false);
        } else if (st) {
            if (agent->coord.retry_after_ms > 0)
                agent->next_await_ms += agent->coord.retry_after_ms;
            return agent_core_fail(agent, &err);
        } else {
            take_answer(agent, &contribution, &answer);
            outcome = AGENT_OUTCOME_DONE;
        }
    }
    return outcome;
}
