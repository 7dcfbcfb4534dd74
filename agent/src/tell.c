/* What a device directory tells, without disturbing the agent that runs on it. */
#include <stdlib.h>
#include <string.h>

#include "core.h"
#include "delta/file.h"

static json_t *strings(const struct delta_class_id *ids, size_t count)
{
    json_t *array = json_array();

    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_string(ids[i].text));
    return array;
}

static json_t *digest_json(const struct delta_digest *digest)
{
    char hex[DELTA_DIGEST_HEX];

    if (delta_digest_is_zero(digest))
        return json_null();
    delta_digest_hex(hex, digest);
    return json_string(hex);
}

/* In local.flm now. */
static bool is_local(const struct agent_state *state, const struct agent_class *class)
{
    return !class->refused && !delta_digest_is_zero(&state->local_base) &&
           !delta_digest_is_zero(&class->base);
}

static void tell_classes(const struct agent *agent, json_t *root)
{
    json_t *local = json_array(), *details = json_array();

    for (size_t i = 0; i < agent->state.class_count; i++) {
        const struct agent_class *class = &agent->state.classes[i];
        const bool here = is_local(&agent->state, class);
        if (here)
            json_array_append_new(local, json_string(class->id.text));
        json_array_append_new(details,
                              json_pack("{s:s, s:b, s:b, s:s, s:o}", "class", class->id.text,
                                        "learned", here, "refused", class->refused, "offer",
                                        agent_offer_name(class->offer), "contribution",
                                        digest_json(&class->contribution)));
    }
    json_object_set_new(root, "classes", strings(agent->fleet_classes, agent->fleet_class_count));
    json_object_set_new(root, "local_classes", local);
    json_object_set_new(root, "learning", details);
}

/* The model to classify with: the fleet's, or the one with what was learned here on top. */
static void tell_model(const struct agent *agent, json_t *root)
{
    char path[AGENT_PATH_MAX];
    struct delta_error ignored;
    json_t *active = json_null();

    agent_place(agent, path, AGENT_PLACE_LOCAL);
    if (!delta_digest_is_zero(&agent->state.local_base) && delta_file_exists(path))
        active = json_string(path);
    else if (agent->slots.current >= 0 &&
             !agent_slot_path(path, agent->identity.dir, agent->slots.current, &ignored))
        active = json_string(path);
    json_object_set_new(root, "active_model", active);
    json_object_set_new(root, "version", digest_json(&agent->slots.version));
}

static void tell_bytes(const struct agent *agent, json_t *root)
{
    json_t *bytes = json_object();

    for (int i = 0; i < AGENT_TRAFFIC_COUNT; i++) {
        const struct agent_traffic_count *count = &agent->counts[i];
        json_object_set_new(bytes, agent_traffic_name((enum agent_traffic)i),
                            json_pack("{s:I, s:I, s:I, s:I, s:I}", "up", (json_int_t)count->wire_up,
                                      "down", (json_int_t)count->wire_down, "body_up",
                                      (json_int_t)count->up, "body_down", (json_int_t)count->down,
                                      "exchanges", (json_int_t)count->exchanges));
    }
    json_object_set_new(root, "bytes", bytes);
}

static void tell_events(const struct agent *agent, json_t *root)
{
    json_t *events = json_array(), *rejected = json_array();

    for (size_t i = 0; i < agent->state.event_count; i++)
        json_array_append_new(events, json_pack("{s:I, s:s}", "at_ms",
                                                (json_int_t)agent->state.events[i].at_ms, "text",
                                                agent->state.events[i].text));
    for (size_t i = 0; i < agent->state.rejected_count; i++)
        json_array_append_new(rejected, digest_json(&agent->state.rejected[i]));
    json_object_set_new(root, "events", events);
    json_object_set_new(root, "rejected_versions", rejected);
    json_object_set_new(root, "last_error",
                        agent->state.last_error[0] ? json_string(agent->state.last_error)
                                                   : json_null());
    json_object_set_new(root, "last_error_ms", json_integer(agent->state.last_error_ms));
}

enum delta_status agent_status_json(const char *dir, char **text, struct delta_error *err)
{
    struct agent *agent = delta_calloc(1, sizeof *agent);
    json_t *root = NULL;
    bool fresh;
    enum delta_status st;

    *text = NULL;
    if (!agent)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    agent->slots.current = -1;
    st = agent_identity_load(&agent->identity, dir, err);
    if (!st)
        st = agent_state_load(&agent->state, dir, &fresh, err);
    if (!st)
        st = agent_slots_peek(&agent->slots, dir, err);
    if (st)
        goto done;
    agent_traffic_load(agent->counts, dir);
    if (agent->slots.current >= 0) {
        st = agent_core_classes(agent, err);
        /* A version may be committed between two looks: the next status tells. */
        if (st && agent_slots_peek(&agent->slots, dir, err) == DELTA_OK)
            st = agent_core_classes(agent, err);
        if (st)
            goto done;
    }
    root =
        json_pack("{s:i, s:s, s:s, s:s, s:s, s:I}", "schema", 1, "device", agent->identity.device,
                  "channel", agent->identity.channel, "server", agent->identity.server, "state",
                  agent_step_name(agent->state.step), "serial", (json_int_t)agent->state.serial);
    if (root) {
        tell_model(agent, root);
        tell_classes(agent, root);
        tell_bytes(agent, root);
        tell_events(agent, root);
        *text = json_dumps(root, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    }
    json_decref(root);
    st = *text ? DELTA_OK : delta_fail(err, DELTA_NO_MEMORY, "out of memory");
done:
    agent_core_release(agent);
    free(agent);
    return st;
}
