#include "state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "delta/file.h"
#include "delta/log.h"

#define STATE_FILE "state.json"
#define TRAFFIC_FILE "traffic.json"
#define MAX_FILE ((size_t)1 << 20)

/* ---- the table ---- */

static const struct {
    const char *name;
    enum agent_step next[4]; /* by outcome */
} table[] = {
#define AGENT_STEP_ROW(name, text, done, nothing, refused, failed)                                 \
    {text, {AGENT_##done, AGENT_##nothing, AGENT_##refused, AGENT_##failed}},
    AGENT_STEP_MAP(AGENT_STEP_ROW)
#undef AGENT_STEP_ROW
};

const char *agent_step_name(enum agent_step step)
{
    return (unsigned)step < AGENT_STEP_COUNT ? table[step].name : "unknown";
}

enum agent_step agent_step_next(enum agent_step step, enum agent_outcome outcome)
{
    if ((unsigned)step >= AGENT_STEP_COUNT)
        return AGENT_IDLE;
    return (unsigned)outcome < 4 ? table[step].next[outcome] : step;
}

enum agent_outcome agent_outcome_of(enum delta_status status)
{
    if (status == DELTA_OK)
        return AGENT_OUTCOME_DONE;
    if (status == DELTA_INTERRUPTED)
        return AGENT_OUTCOME_STOPPED;
    switch (delta_status_class(status)) {
    case DELTA_CLASS_NET:
    case DELTA_CLASS_ENV:
    case DELTA_CLASS_USAGE: /* a wrong CA file is mended by the operator, not by giving up */
        return AGENT_OUTCOME_FAILED;
    default:
        return AGENT_OUTCOME_REFUSED;
    }
}

static const char *const offers[] = {"none", "sealed", "pending", "merged", "rejected"};

const char *agent_offer_name(enum agent_offer offer)
{
    return (unsigned)offer < 5 ? offers[offer] : "unknown";
}

/* ---- lists ---- */

void agent_state_event(struct agent_state *state, int64_t now_ms, const char *fmt, ...)
{
    struct agent_event *event;
    va_list args;

    if (state->event_count == AGENT_EVENTS_MAX) {
        memmove(state->events, state->events + 1, (AGENT_EVENTS_MAX - 1) * sizeof *event);
        state->event_count--;
    }
    event = &state->events[state->event_count++];
    event->at_ms = now_ms;
    va_start(args, fmt);
    vsnprintf(event->text, sizeof event->text, fmt, args);
    va_end(args);
    delta_log_info("agent", "%s", event->text);
}

bool agent_state_is_rejected(const struct agent_state *state, const struct delta_digest *version)
{
    for (size_t i = 0; i < state->rejected_count; i++)
        if (delta_digest_equal(&state->rejected[i], version))
            return true;
    return false;
}

static void push(struct delta_digest *list, size_t *count, size_t max,
                 const struct delta_digest *digest)
{
    if (*count == max) {
        memmove(list, list + 1, (max - 1) * sizeof *list);
        --*count;
    }
    list[(*count)++] = *digest;
}

void agent_state_reject(struct agent_state *state, const struct delta_digest *version)
{
    if (!delta_digest_is_zero(version) && !agent_state_is_rejected(state, version))
        push(state->rejected, &state->rejected_count, AGENT_REJECTED_MAX, version);
}

bool agent_state_note(struct agent_state *state, const struct delta_digest *complaint)
{
    for (size_t i = 0; i < state->noted_count; i++)
        if (delta_digest_equal(&state->noted[i], complaint))
            return false;
    push(state->noted, &state->noted_count, AGENT_NOTED_MAX, complaint);
    return true;
}

struct agent_class *agent_state_class(struct agent_state *state, const char *id)
{
    for (size_t i = 0; i < state->class_count; i++)
        if (strcmp(state->classes[i].id.text, id) == 0)
            return &state->classes[i];
    return NULL;
}

struct agent_class *agent_state_add_class(struct agent_state *state,
                                          const struct delta_class_id *id)
{
    struct agent_class *found = agent_state_class(state, id->text);

    if (found)
        return found;
    if (state->class_count == AGENT_CLASSES_MAX)
        return NULL;
    found = &state->classes[state->class_count++];
    *found = (struct agent_class){.id = *id};
    return found;
}

void agent_state_drop_class(struct agent_state *state, const char *id)
{
    struct agent_class *found = agent_state_class(state, id);

    if (!found)
        return;
    const size_t index = (size_t)(found - state->classes);
    memmove(found, found + 1, (state->class_count - index - 1) * sizeof *found);
    state->class_count--;
}

/* ---- JSON ---- */

static json_t *hex_of(const struct delta_digest *digest)
{
    char hex[DELTA_DIGEST_HEX];

    if (delta_digest_is_zero(digest))
        return json_string("");
    delta_digest_hex(hex, digest);
    return json_string(hex);
}

static void get_digest(const json_t *object, const char *key, struct delta_digest *out)
{
    const char *hex = json_string_value(json_object_get(object, key));

    if (!hex || !delta_digest_parse(out, hex))
        *out = (struct delta_digest){{0}};
}

static void get_text(const json_t *object, const char *key, char *out, size_t size)
{
    const char *text = json_string_value(json_object_get(object, key));

    snprintf(out, size, "%s", text ? text : "");
}

static uint64_t get_count(const json_t *object, const char *key)
{
    const json_int_t value = json_integer_value(json_object_get(object, key));

    return value > 0 ? (uint64_t)value : 0;
}

static json_t *digests_json(const struct delta_digest *list, size_t count)
{
    json_t *array = json_array();

    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, hex_of(&list[i]));
    return array;
}

static size_t get_digests(const json_t *root, const char *key, struct delta_digest *list,
                          size_t max)
{
    const json_t *array = json_object_get(root, key);
    const json_t *item;
    size_t i, count = 0;

    json_array_foreach(array, i, item)
    {
        if (count < max && json_is_string(item) &&
            delta_digest_parse(&list[count], json_string_value(item)))
            count++;
    }
    return count;
}

static json_t *target_json(const struct agent_target *target)
{
    return json_pack("{s:o, s:o, s:I, s:o, s:I, s:b, s:f, s:f, s:I}", "version",
                     hex_of(&target->version), "blob", hex_of(&target->blob), "bytes",
                     (json_int_t)target->bytes, "model_blob", hex_of(&target->model_blob),
                     "model_bytes", (json_int_t)target->model_bytes, "full", target->full,
                     "old_before", target->old_before, "old_after", target->old_after, "tested",
                     (json_int_t)target->tested);
}

static void get_target(const json_t *object, struct agent_target *target)
{
    get_digest(object, "version", &target->version);
    get_digest(object, "blob", &target->blob);
    get_digest(object, "model_blob", &target->model_blob);
    target->bytes = get_count(object, "bytes");
    target->model_bytes = get_count(object, "model_bytes");
    target->full = json_is_true(json_object_get(object, "full"));
    target->old_before = json_number_value(json_object_get(object, "old_before"));
    target->old_after = json_number_value(json_object_get(object, "old_after"));
    target->tested = (uint32_t)get_count(object, "tested");
}

static json_t *classes_json(const struct agent_state *state)
{
    json_t *array = json_array();

    for (size_t i = 0; i < state->class_count; i++) {
        const struct agent_class *class = &state->classes[i];
        json_array_append_new(
            array, json_pack("{s:s, s:s, s:o, s:o, s:b, s:b, s:s, s:o}", "id", class->id.text,
                             "folder", class->folder, "content", hex_of(&class->content), "base",
                             hex_of(&class->base), "refused", class->refused, "again", class->again,
                             "offer", agent_offer_name(class->offer), "contribution",
                             hex_of(&class->contribution)));
    }
    return array;
}

static void get_classes(const json_t *array, struct agent_state *state)
{
    const json_t *item;
    size_t i;

    json_array_foreach(array, i, item)
    {
        struct delta_class_id id;
        struct delta_error ignored;
        char offer[16];
        get_text(item, "id", id.text, sizeof id.text);
        if (delta_class_id_check(id.text, &ignored))
            continue;
        struct agent_class *class = agent_state_add_class(state, &id);
        if (!class)
            return;
        get_text(item, "folder", class->folder, sizeof class->folder);
        get_digest(item, "content", &class->content);
        get_digest(item, "base", &class->base);
        get_digest(item, "contribution", &class->contribution);
        class->refused = json_is_true(json_object_get(item, "refused"));
        class->again = json_is_true(json_object_get(item, "again"));
        get_text(item, "offer", offer, sizeof offer);
        for (int k = 0; k < 5; k++)
            if (strcmp(offer, offers[k]) == 0)
                class->offer = (enum agent_offer)k;
    }
}

static json_t *events_json(const struct agent_state *state)
{
    json_t *array = json_array();

    for (size_t i = 0; i < state->event_count; i++)
        json_array_append_new(
            array, json_pack("{s:I, s:s%}", "at_ms", (json_int_t)state->events[i].at_ms, "text",
                             state->events[i].text, strlen(state->events[i].text)));
    return array;
}

static void get_events(const json_t *array, struct agent_state *state)
{
    const json_t *item;
    size_t i;

    json_array_foreach(array, i, item)
    {
        if (state->event_count == AGENT_EVENTS_MAX)
            return;
        struct agent_event *event = &state->events[state->event_count++];
        event->at_ms = (int64_t)get_count(item, "at_ms");
        get_text(item, "text", event->text, sizeof event->text);
    }
}

static json_t *report_json(const struct agent_report *report)
{
    return json_pack("{s:s, s:f, s:I, s:s, s:o}", "event", report->event, "old", report->old,
                     "tested", (json_int_t)report->tested, "reason", report->reason, "version",
                     hex_of(&report->version));
}

static void get_report(const json_t *object, struct agent_report *report)
{
    get_text(object, "event", report->event, sizeof report->event);
    get_text(object, "reason", report->reason, sizeof report->reason);
    report->old = json_number_value(json_object_get(object, "old"));
    report->tested = (uint32_t)get_count(object, "tested");
    get_digest(object, "version", &report->version);
}

/* ---- files ---- */

/* Takes `root`. */
static enum delta_status write_json(json_t *root, const char *dir, const char *name,
                                    struct delta_error *err)
{
    char path[4096];
    char *text = root ? json_dumps(root, JSON_INDENT(1) | JSON_ENSURE_ASCII) : NULL;
    enum delta_status st = delta_path_join(path, sizeof path, dir, name, err);

    json_decref(root);
    if (!text)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot write '%s'", name);
    if (!st)
        st = delta_file_write(path, delta_bytes(text, strlen(text)), 0644, err);
    free(text);
    return st;
}

/* NULL and DELTA_OK when the file is missing or broken. */
static enum delta_status read_json(json_t **root, const char *dir, const char *name,
                                   struct delta_error *err)
{
    char path[4096];
    struct delta_buf file;
    json_error_t problem;
    enum delta_status st = delta_path_join(path, sizeof path, dir, name, err);

    *root = NULL;
    if (!st)
        st = delta_file_read(path, MAX_FILE, &file, err);
    if (st == DELTA_NOT_FOUND || st == DELTA_LIMIT)
        return DELTA_OK;
    if (st)
        return st;
    *root = json_loadb((const char *)file.data, file.len, JSON_REJECT_DUPLICATES, &problem);
    if (!*root)
        delta_log_error("state", "'%s' line %d: %s; starting afresh", path, problem.line,
                        problem.text);
    delta_buf_release(&file);
    return DELTA_OK;
}

/* A peer's words or a folder's name may be no UTF-8, which jansson would refuse as a whole. */
static void plain(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || (unsigned char)*text > 0x7e)
            *text = '?';
}

enum delta_status agent_state_save(const struct agent_state *given, const char *dir,
                                   struct delta_error *err)
{
    struct agent_state *state = malloc(sizeof *state);
    enum delta_status st;

    if (!state)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot save the state");
    *state = *given;
    plain(state->last_error);
    plain(state->report.reason);
    for (size_t i = 0; i < state->event_count; i++)
        plain(state->events[i].text);
    json_t *root = json_pack(
        "{s:i, s:s, s:I, s:I, s:s, s:o, s:o, s:o, s:o, s:o, s:b, s:o, s:o, s:s, s:I}", "schema", 1,
        "step", agent_step_name(state->step), "loops", (json_int_t)state->loops, "serial",
        (json_int_t)state->serial, "etag", state->etag, "target", target_json(&state->target),
        "classes", classes_json(state), "local_base", hex_of(&state->local_base), "rejected",
        digests_json(state->rejected, state->rejected_count), "report", report_json(&state->report),
        "report_due", state->report_due, "noted", digests_json(state->noted, state->noted_count),
        "events", events_json(state), "last_error", state->last_error, "last_error_ms",
        (json_int_t)state->last_error_ms);
    st = write_json(root, dir, STATE_FILE, err);
    free(state);
    return st;
}

enum delta_status agent_state_load(struct agent_state *state, const char *dir, bool *fresh,
                                   struct delta_error *err)
{
    json_t *root;
    char step[24];
    enum delta_status st = read_json(&root, dir, STATE_FILE, err);

    memset(state, 0, sizeof *state);
    *fresh = true;
    if (st || !root)
        return st;
    *fresh = false;
    get_text(root, "step", step, sizeof step);
    for (int i = 0; i < AGENT_STEP_COUNT; i++)
        if (strcmp(step, table[i].name) == 0)
            state->step = (enum agent_step)i;
    state->loops = (unsigned)get_count(root, "loops");
    state->serial = get_count(root, "serial");
    get_text(root, "etag", state->etag, sizeof state->etag);
    get_target(json_object_get(root, "target"), &state->target);
    get_classes(json_object_get(root, "classes"), state);
    get_digest(root, "local_base", &state->local_base);
    state->rejected_count = get_digests(root, "rejected", state->rejected, AGENT_REJECTED_MAX);
    get_report(json_object_get(root, "report"), &state->report);
    state->report_due = json_is_true(json_object_get(root, "report_due"));
    state->noted_count = get_digests(root, "noted", state->noted, AGENT_NOTED_MAX);
    get_events(json_object_get(root, "events"), state);
    get_text(root, "last_error", state->last_error, sizeof state->last_error);
    state->last_error_ms = (int64_t)get_count(root, "last_error_ms");
    json_decref(root);
    return DELTA_OK;
}

void agent_traffic_load(struct agent_traffic_count counts[AGENT_TRAFFIC_COUNT], const char *dir)
{
    struct delta_error ignored;
    json_t *root = NULL;

    memset(counts, 0, AGENT_TRAFFIC_COUNT * sizeof *counts);
    if (read_json(&root, dir, TRAFFIC_FILE, &ignored) || !root)
        return;
    for (int i = 0; i < AGENT_TRAFFIC_COUNT; i++) {
        const json_t *row = json_object_get(root, agent_traffic_name((enum agent_traffic)i));
        counts[i].up = get_count(row, "body_up");
        counts[i].down = get_count(row, "body_down");
        counts[i].wire_up = get_count(row, "up");
        counts[i].wire_down = get_count(row, "down");
        counts[i].exchanges = get_count(row, "exchanges");
    }
    json_decref(root);
}

enum delta_status agent_traffic_save(const struct agent_traffic_count counts[AGENT_TRAFFIC_COUNT],
                                     const char *dir, struct delta_error *err)
{
    json_t *root = json_pack("{s:i}", "schema", 1);

    for (int i = 0; i < AGENT_TRAFFIC_COUNT; i++)
        json_object_set_new(
            root, agent_traffic_name((enum agent_traffic)i),
            json_pack("{s:I, s:I, s:I, s:I, s:I}", "up", (json_int_t)counts[i].wire_up, "down",
                      (json_int_t)counts[i].wire_down, "body_up", (json_int_t)counts[i].up,
                      "body_down", (json_int_t)counts[i].down, "exchanges",
                      (json_int_t)counts[i].exchanges));
    return write_json(root, dir, TRAFFIC_FILE, err);
}
