/* Lets the fleet run: publish, enrol, drop samples, watch until every device has both classes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "demo.h"

#define WAIT_SECONDS 150
#define LOOK_MS 250

static bool fail(struct demo *demo, const char *text)
{
    snprintf(demo->fleet.error, sizeof demo->fleet.error, "%s", text);
    return false;
}

static bool start_fleet(struct demo *demo)
{
    static const char *const names[DEMO_DEVICES] = {"device-1", "device-2", "device-3"};
    struct fleet *fleet = &demo->fleet;

    demo_say(demo, "making a throw-away CA and starting the coordinator");
    if (!fleet_server_init(fleet) ||
        !fleet_server_start(fleet,
                            (const char *const[]){"--merge-min", "2", "--merge-after", "30", NULL}))
        return false;
    demo_say(demo, "coordinator at %s; publishing the base model (%.1f KB)", fleet->url,
             demo->model_bytes / 1000);
    if (!fleet_publish(fleet, demo->base_file))
        return false;
    for (size_t i = 0; i < DEMO_DEVICES; i++) {
        struct fleet_device *device = fleet_enrol(fleet, names[i], demo->exemplars);
        if (!device || !fleet_device_start(fleet, device,
                                           (const char *const[]){"--poll-s", "2", "--settle", "1",
                                                                 "--method", demo->method, NULL}))
            return false;
        demo_say(demo, "%s enrolled and running", names[i]);
    }
    return true;
}

static bool drop_samples(struct demo *demo)
{
    char dir[FLEET_PATH], count[24], class_dir[FLEET_PATH + 80];

    snprintf(dir, sizeof dir, "%s/samples", demo->fleet.root);
    snprintf(count, sizeof count, "%lld", (long long)demo->samples);
    for (size_t k = 0; k < DEMO_NEW; k++) {
        if (FLEET_RUN(&demo->fleet, NULL, "frostline-learn", "export-images", "--data",
                      demo->data_source, "--split", "train", "--classes", demo->new_class[k],
                      "--per-class", count, "--out", dir) != 0)
            return false;
        snprintf(class_dir, sizeof class_dir, "%s/%s", dir, demo->new_class[k]);
        if (!fleet_drop(&demo->fleet, &demo->fleet.devices[k], class_dir, demo->new_class[k]))
            return false;
        demo_say(demo, "dropped %s images of '%s' into the inbox of %s", count, demo->new_class[k],
                 demo->fleet.devices[k].name);
    }
    return true;
}

static bool has_class(const json_t *list, const char *id)
{
    size_t i;
    json_t *item;

    json_array_foreach(list, i, item)
    {
        if (json_is_string(item) && strcmp(json_string_value(item), id) == 0)
            return true;
    }
    return false;
}

static bool has_all_new(const struct demo *demo, const json_t *status)
{
    for (size_t k = 0; k < DEMO_NEW; k++)
        if (!has_class(json_object_get(status, "classes"), demo->new_class[k]))
            return false;
    return true;
}

struct watch {
    char state[DEMO_DEVICES][64];
    char local_model[DEMO_DEVICES][FLEET_PATH];
    bool updated[DEMO_DEVICES];
};

/* Says what changed on a device, and keeps its local model before the fleet's replaces it. */
static void look(struct demo *demo, struct watch *watch, size_t i, const json_t *status)
{
    const char *state = json_string_value(json_object_get(status, "state"));
    const char *active = json_string_value(json_object_get(status, "active_model"));
    const json_t *local = json_object_get(status, "local_classes");
    const char *name = demo->fleet.devices[i].name;

    if (state && strcmp(state, watch->state[i]) != 0) {
        snprintf(watch->state[i], sizeof watch->state[i], "%s", state);
        demo_say(demo, "%s: %s", name, state);
    }
    if (active && json_array_size(local) > 0 && !watch->local_model[i][0]) {
        char keep[FLEET_PATH];
        snprintf(keep, sizeof keep, "%s/local-%zu.flm", demo->fleet.root, i);
        if (link(active, keep) == 0) {
            snprintf(watch->local_model[i], sizeof watch->local_model[i], "%s", keep);
            demo_say(demo, "%s: has learned '%s' by itself", name,
                     json_string_value(json_array_get(local, 0)));
        }
    }
    /* Settled: the fleet's version is what the device runs, nothing is left to do. */
    if (!watch->updated[i] && has_all_new(demo, status) && json_array_size(local) == 0 && state &&
        strcmp(state, "idle") == 0) {
        watch->updated[i] = true;
        demo_say(demo, "%s: fleet version installed, %zu classes", name,
                 json_array_size(json_object_get(status, "classes")));
    }
}

/* A device whose guard refused what it learned will not share it: waiting would be in vain. */
static bool refused(struct demo *demo, const struct watch *watch, size_t i, const json_t *status)
{
    const char *problem = json_string_value(json_object_get(status, "last_error"));

    if (i >= DEMO_NEW || watch->local_model[i][0] || watch->updated[i] || !problem ||
        !strstr(problem, demo->new_class[i]))
        return false;
    snprintf(demo->fleet.error, sizeof demo->fleet.error, "%s does not learn: %s",
             demo->fleet.devices[i].name, problem);
    return true;
}

static bool base_everywhere(struct demo *demo)
{
    const double until = fleet_seconds() + WAIT_SECONDS;

    for (size_t i = 0; i < DEMO_DEVICES;) {
        json_t *status = fleet_device_status(&demo->fleet, &demo->fleet.devices[i]);
        const bool there = json_array_size(json_object_get(status, "classes")) > 0;
        json_decref(status);
        if (!fleet_alive(&demo->fleet))
            return false;
        if (demo_stopped() || fleet_seconds() > until)
            return fail(demo, "stopped before every device had the base model");
        i += there;
        if (!there)
            fleet_pause_ms(LOOK_MS);
    }
    return true;
}

static bool watch_fleet(struct demo *demo, struct watch *watch, struct demo_result *result)
{
    const double begin = fleet_seconds();
    size_t updated = 0;

    while (updated < DEMO_DEVICES) {
        size_t learned = 0;
        updated = 0;
        for (size_t i = 0; i < DEMO_DEVICES; i++) {
            json_t *status = fleet_device_status(&demo->fleet, &demo->fleet.devices[i]);
            if (!status)
                return false;
            look(demo, watch, i, status);
            if (refused(demo, watch, i, status)) {
                json_decref(status);
                return false;
            }
            updated += watch->updated[i];
            learned += watch->local_model[i][0] != '\0';
            json_decref(result->status[i]);
            result->status[i] = status;
        }
        if (learned == DEMO_NEW && result->learn_seconds <= 0)
            result->learn_seconds = fleet_seconds() - begin;
        if (!fleet_alive(&demo->fleet))
            return false;
        if (demo_stopped() || fleet_seconds() - begin > WAIT_SECONDS)
            return fail(demo, "stopped before every device had both classes");
        fleet_pause_ms(LOOK_MS);
    }
    result->update_seconds = fleet_seconds() - begin;
    return true;
}

bool demo_story(struct demo *demo, struct demo_result *result)
{
    struct watch watch = {.updated = {false}};

    if (!start_fleet(demo) || !base_everywhere(demo))
        return false;
    demo_say(demo, "every device runs the base model; testing it");
    if (!demo_score(demo, demo->base_file, &result->before) || !drop_samples(demo) ||
        !watch_fleet(demo, &watch, result))
        return false;
    demo_say(demo, "testing what each device learned and what each device runs now");
    for (size_t i = 0; i < DEMO_DEVICES; i++) {
        const char *active = json_string_value(json_object_get(result->status[i], "active_model"));
        if (!active)
            return fail(demo, "a device does not say which model it runs");
        if (watch.local_model[i][0] && !demo_score(demo, watch.local_model[i], &result->local[i]))
            return false;
        if (!demo_score(demo, active, &result->fleet[i]))
            return false;
    }
    return true;
}
