/* Finds data and base, makes the freeze plan and the exemplars, picks the new classes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "demo.h"

#define REFERENCE "resnet18-w16-c90.safetensors"
#define ORDER "cifar-100-order-1993.txt"
#define TRAIN_WIDTH "8"
#define TRAIN_CLASSES 16

static bool first_readable(char *out, size_t size, const char *const *dirs, const char *name)
{
    for (; *dirs; dirs++) {
        snprintf(out, size, "%s/%s", *dirs, name);
        if (access(out, R_OK) == 0)
            return true;
    }
    out[0] = '\0';
    return false;
}

/* --data, $FROSTLINE_DATA (both arrive in demo->data), ../shared/data, else synthetic. */
static void find_data(struct demo *demo)
{
    const char *source = getenv("FROSTLINE_SOURCE"); /* the clone, when setup.sh started us */
    char beside[FLEET_PATH], probe[FLEET_PATH];

    snprintf(beside, sizeof beside, "%s/../shared/data", source && *source ? source : ".");
    if (demo->data)
        snprintf(demo->data_source, sizeof demo->data_source, "%s", demo->data);
    else if (first_readable(probe, sizeof probe, (const char *const[]){beside, NULL},
                            "cifar-100-binary/test.bin"))
        snprintf(demo->data_source, sizeof demo->data_source, "%s", beside);
    else
        snprintf(demo->data_source, sizeof demo->data_source, "synthetic");
}

/* The class order and the reference network lie beside the data where they exist. */
static void find_companions(struct demo *demo, char *reference, size_t size)
{
    char up[FLEET_PATH], models[FLEET_PATH], upper[FLEET_PATH];

    snprintf(up, sizeof up, "%.*s/..", FLEET_PATH - 24, demo->data_source);
    snprintf(models, sizeof models, "%.*s/../models", FLEET_PATH - 24, demo->data_source);
    snprintf(upper, sizeof upper, "%.*s/../../models", FLEET_PATH - 24, demo->data_source);
    const char *const around[] = {demo->data_source, up, models, upper, NULL};

    reference[0] = '\0';
    if (strncmp(demo->data_source, "synthetic", 9) == 0)
        return;
    if (demo->order)
        snprintf(demo->order_file, sizeof demo->order_file, "%s", demo->order);
    else
        first_readable(demo->order_file, sizeof demo->order_file, around, ORDER);
    first_readable(reference, size, around, REFERENCE);
}

static size_t with_order(const struct demo *demo, const char **argv, size_t count)
{
    if (demo->order_file[0]) {
        argv[count++] = "--order";
        argv[count++] = demo->order_file;
    }
    argv[count] = NULL;
    return count;
}

/* Runs a program that takes a while with its progress in sight. */
static bool run_in_sight(struct demo *demo, const char *const *argv)
{
    demo->fleet.talk = true;
    const int status = fleet_run(&demo->fleet, NULL, argv);
    demo->fleet.talk = false;
    return status == 0;
}

/* A base trained on the spot, within a minute, on the first classes of the source: photographs
 * need more of it than procedural images. */
static bool train_base(struct demo *demo, char *out, size_t size)
{
    const bool synthetic = strncmp(demo->data_source, "synthetic", 9) == 0;
    char classes[16];
    const char *argv[32] = {"frostline-learn", "pretrain",
                            "--data",          demo->data_source,
                            "--width",         TRAIN_WIDTH,
                            "--classes",       classes,
                            "--per-class",     synthetic ? "250" : "500",
                            "--epochs",        synthetic ? "6" : "8",
                            "--out",           out};

    snprintf(classes, sizeof classes, "%d", TRAIN_CLASSES);
    snprintf(out, size, "%s/trained.flm", demo->fleet.root);
    snprintf(demo->base_origin, sizeof demo->base_origin,
             "ResNet-18 w%s trained just now on %d classes", TRAIN_WIDTH, TRAIN_CLASSES);
    demo_say(demo, "no base network given: training one on %d classes", TRAIN_CLASSES);
    with_order(demo, argv, 14);
    return run_in_sight(demo, argv);
}

static bool plan_base(struct demo *demo, const char *raw)
{
    const char *argv[32] = {"frostline-learn", "plan",         "--model", raw,       "--data",
                            demo->data_source, "--per-class",  "10",      "--ratio", "0.9",
                            "--out",           demo->base_file};

    snprintf(demo->base_file, sizeof demo->base_file, "%s/base.flm", demo->fleet.root);
    with_order(demo, argv, 12);
    return run_in_sight(demo, argv);
}

static bool choose_exemplars(struct demo *demo)
{
    snprintf(demo->exemplars, sizeof demo->exemplars, "%s/exemplars.flx", demo->fleet.root);
    return FLEET_RUN(&demo->fleet, NULL, "frostline-learn", "exemplars", "--model", demo->base_file,
                     "--data", demo->data_source, "--per-class", "20", "--probes", "5", "--out",
                     demo->exemplars) == 0;
}

static bool in_list(const json_t *list, const char *text)
{
    size_t i;
    json_t *item;

    json_array_foreach(list, i, item)
    {
        if (json_is_string(item) && strcmp(json_string_value(item), text) == 0)
            return true;
    }
    return false;
}

/* The first classes of the source that the base does not know. */
static bool pick_new_classes(struct demo *demo)
{
    const char *argv[16] = {"frostline-learn", "classes", "--data", demo->data_source, "--json"};
    size_t found = 0, i;
    json_t *item;
    json_t *base =
        FLEET_JSON(&demo->fleet, "frostline-delta", "inspect", demo->base_file, "--json");

    with_order(demo, argv, 5);
    json_t *source = base ? fleet_run_json(&demo->fleet, argv) : NULL;
    const json_t *known = json_object_get(base, "classes");
    demo->base_classes = json_array_size(known);
    json_array_foreach(json_object_get(source, "classes"), i, item)
    {
        const char *id = json_string_value(item);
        if (found < DEMO_NEW && id && !in_list(known, id))
            snprintf(demo->new_class[found++], sizeof demo->new_class[0], "%s", id);
    }
    json_decref(source);
    json_decref(base);
    if (found < DEMO_NEW && !demo->fleet.error[0])
        snprintf(demo->fleet.error, sizeof demo->fleet.error,
                 "'%s' holds fewer than %d classes that the base does not know", demo->data_source,
                 DEMO_NEW);
    return found == DEMO_NEW;
}

bool demo_stage(struct demo *demo)
{
    char reference[FLEET_PATH], raw[FLEET_PATH];
    struct stat info;

    find_data(demo);
    find_companions(demo, reference, sizeof reference);
    demo_say(demo, "data: %s", demo->data_source);
    if (demo->base || reference[0]) {
        snprintf(raw, sizeof raw, "%s", demo->base ? demo->base : reference);
        snprintf(demo->base_origin, sizeof demo->base_origin, "%s", raw);
    } else if (!train_base(demo, raw, sizeof raw)) {
        return false;
    }
    demo_say(demo, "base: %s; computing importance and the freeze plan, choosing exemplars",
             demo->base_origin);
    if (!plan_base(demo, raw) || !choose_exemplars(demo) || !pick_new_classes(demo))
        return false;
    demo->model_bytes = stat(demo->base_file, &info) == 0 ? (double)info.st_size : 0;
    return true;
}

bool demo_score(struct demo *demo, const char *model_file, struct demo_score *score)
{
    char limit[24];
    size_t i, images = 0, correct = 0, seen = 0;
    json_t *row;

    snprintf(limit, sizeof limit, "%lld", (long long)demo->limit_old);
    json_t *json = FLEET_JSON(&demo->fleet, "frostline-learn", "eval", "--model", model_file,
                              "--data", demo->data_source, "--limit", limit, "--json");
    *score = (struct demo_score){0};
    if (!json)
        return false;
    json_array_foreach(json_object_get(json, "classes"), i, row)
    {
        const char *id = json_string_value(json_object_get(row, "id"));
        const size_t n = (size_t)json_integer_value(json_object_get(row, "images"));
        const size_t hit = (size_t)json_integer_value(json_object_get(row, "correct"));
        bool fresh = false;
        for (size_t k = 0; k < DEMO_NEW; k++) {
            if (id && strcmp(id, demo->new_class[k]) == 0) {
                score->fresh[k] = n ? 100.0 * (double)hit / (double)n : 0;
                fresh = true;
            }
        }
        images += fresh ? 0 : n;
        correct += fresh ? 0 : hit;
        seen++;
    }
    json_decref(json);
    score->classes = seen;
    score->old = images ? 100.0 * (double)correct / (double)images : 0;
    return true;
}
