/* End to end: real programs, real TLS, real files, ports chosen free. One small base network is
 * trained once; every case then makes a fleet of its own. */
#include "harness.h"

#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "learner/samples.h"
#include "throwaway.h"

#define DATA "synthetic:classes=8,train=150,test=20,seed=5"
#define BASE_CLASSES 6
#define WAIT_SECONDS 120

/* What all cases start from. */
static struct {
    struct fleet fleet; /* only its scratch directory and runner are used */
    char base[FLEET_PATH], exemplars[FLEET_PATH];
    char old_class[64], new_class[2][64];
} given;

static void must(const struct fleet *fleet, bool ok)
{
    if (!ok)
        fail_msg("%s", fleet->error);
}

static int make_given(void **state)
{
    struct fleet *fleet = &given.fleet;
    char raw[FLEET_PATH];
    json_t *classes;

    (void)state;
    must(fleet, fleet_init(fleet));
    snprintf(raw, sizeof raw, "%s/raw.flm", fleet->root);
    snprintf(given.base, sizeof given.base, "%s/base.flm", fleet->root);
    snprintf(given.exemplars, sizeof given.exemplars, "%s/exemplars.flx", fleet->root);
    must(fleet, FLEET_RUN(fleet, NULL, "frostline-learn", "pretrain", "--data", DATA, "--classes",
                          "6", "--width", "8", "--epochs", "12", "--out", raw) == 0);
    must(fleet, FLEET_RUN(fleet, NULL, "frostline-learn", "plan", "--model", raw, "--data", DATA,
                          "--ratio", "0.9", "--out", given.base) == 0);
    must(fleet,
         FLEET_RUN(fleet, NULL, "frostline-learn", "exemplars", "--model", given.base, "--data",
                   DATA, "--per-class", "10", "--probes", "5", "--out", given.exemplars) == 0);
    classes = FLEET_JSON(fleet, "frostline-learn", "classes", "--data", DATA, "--json");
    must(fleet, classes != NULL);
    const json_t *list = json_object_get(classes, "classes");
    snprintf(given.old_class, 64, "%s", json_string_value(json_array_get(list, 0)));
    for (size_t k = 0; k < 2; k++)
        snprintf(given.new_class[k], 64, "%s", json_string_value(json_array_get(list, 6 + k)));
    json_decref(classes);
    return 0;
}

static int drop_given(void **state)
{
    (void)state;
    fleet_release(&given.fleet);
    return 0;
}

/* A fleet with coordinator and published base; the caller enrols. */
static void begin(struct fleet *fleet, const char *const *server_arguments)
{
    must(fleet, fleet_init(fleet) && fleet_server_init(fleet) &&
                    fleet_server_start(fleet, server_arguments) &&
                    fleet_publish(fleet, given.base));
}

static const char *const fast[] = {"--poll-s", "1", "--settle", "1", NULL};

static struct fleet_device *join(struct fleet *fleet, const char *name, bool run)
{
    struct fleet_device *device = fleet_enrol(fleet, name, given.exemplars);

    must(fleet, device != NULL);
    if (run)
        must(fleet, fleet_device_start(fleet, device, fast));
    return device;
}

static void drop_class(struct fleet *fleet, const struct fleet_device *device, const char *class,
                       const char *as)
{
    char dir[FLEET_PATH], class_dir[FLEET_PATH + 80];

    snprintf(dir, sizeof dir, "%.*s/samples-%s", FLEET_PATH - 90, fleet->root, device->name);
    must(fleet,
         FLEET_RUN(fleet, NULL, "frostline-learn", "export-images", "--data", DATA, "--split",
                   "train", "--classes", class, "--per-class", "40", "--out", dir) == 0);
    snprintf(class_dir, sizeof class_dir, "%s/%s", dir, class);
    must(fleet, fleet_drop(fleet, device, class_dir, as));
}

/* Forty images of a class, each pixel doubled in both directions, as <dir>/<class>/<n>.png. */
static void export_doubled(const char *dir, const char *class)
{
    struct learner_samples all, some = LEARNER_SAMPLES_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_class_id id;

    assert_ok(delta_class_id_make(&id, class, &err));
    assert_ok(learner_samples_open(&all, DATA, LEARNER_SPLIT_TRAIN, &err));
    assert_ok(learner_samples_select(&some, &all, &id, 1, 40, &err));
    const size_t h = some.height, w = some.width, planes = some.count * some.channels;
    uint8_t *big = delta_calloc(planes * h * w, 4);
    assert_non_null(big);
    for (size_t p = 0; p < planes; p++)
        for (size_t y = 0; y < 2 * h; y++)
            for (size_t x = 0; x < 2 * w; x++)
                big[(p * 2 * h + y) * 2 * w + x] = some.pixels[(p * h + y / 2) * w + x / 2];
    free(some.pixels);
    some.pixels = big;
    some.height = (uint32_t)(2 * h);
    some.width = (uint32_t)(2 * w);
    assert_ok(learner_samples_export(&some, dir, &err));
    learner_samples_release(&some);
    learner_samples_release(&all);
}

static bool lists(const json_t *status, const char *key, const char *text)
{
    size_t i;
    json_t *item;

    json_array_foreach(json_object_get(status, key), i, item)
    {
        if (json_is_string(item) && strcmp(json_string_value(item), text) == 0)
            return true;
    }
    return false;
}

/* Waits until the device runs a fleet version with the class and has nothing left to do. */
static void wait_for_class(struct fleet *fleet, const struct fleet_device *device,
                           const char *class)
{
    const double until = fleet_seconds() + WAIT_SECONDS;

    for (;;) {
        json_t *status = fleet_device_status(fleet, device);
        must(fleet, status != NULL);
        const char *doing = json_string_value(json_object_get(status, "state"));
        const bool there = lists(status, "classes", class) && doing && strcmp(doing, "idle") == 0 &&
                           json_array_size(json_object_get(status, "local_classes")) == 0;
        json_decref(status);
        if (there)
            return;
        must(fleet, fleet_alive(fleet));
        if (fleet_seconds() > until)
            fail_msg("%s did not get class '%s' within %d s", device->name, class, WAIT_SECONDS);
        fleet_pause_ms(200);
    }
}

static double recall(struct fleet *fleet, const struct fleet_device *device, const char *class)
{
    double share = 0;
    size_t i;
    json_t *row;
    json_t *status = fleet_device_status(fleet, device);
    const char *model = json_string_value(json_object_get(status, "active_model"));

    assert_non_null(model);
    json_t *json =
        FLEET_JSON(fleet, "frostline-learn", "eval", "--model", model, "--data", DATA, "--json");
    must(fleet, json != NULL);
    json_array_foreach(json_object_get(json, "classes"), i, row)
    {
        if (strcmp(json_string_value(json_object_get(row, "id")), class) == 0)
            share = (double)json_integer_value(json_object_get(row, "correct")) /
                    (double)json_integer_value(json_object_get(row, "images"));
    }
    json_decref(json);
    json_decref(status);
    return share;
}

static long long counted(const json_t *status, const char *kind, const char *direction)
{
    return json_integer_value(
        json_object_get(json_object_get(json_object_get(status, "bytes"), kind), direction));
}

static void classes_travel_through_the_fleet(void **state)
{
    struct fleet fleet;
    struct fleet_device *device[3];

    (void)state;
    begin(&fleet, (const char *const[]){"--merge-min", "2", "--merge-after", "20", NULL});
    device[0] = join(&fleet, "one", true);
    device[1] = join(&fleet, "two", true);
    device[2] = join(&fleet, "three", true);
    drop_class(&fleet, device[0], given.new_class[0], given.new_class[0]);
    drop_class(&fleet, device[1], given.new_class[1], given.new_class[1]);
    for (size_t i = 0; i < 3; i++)
        for (size_t k = 0; k < 2; k++) {
            wait_for_class(&fleet, device[i], given.new_class[k]);
            assert_true(recall(&fleet, device[i], given.new_class[k]) >= 0.2);
        }
    /* What was learned travelled, the samples did not: 40 PNGs are tens of kilobytes. */
    json_t *status = fleet_device_status(&fleet, device[0]);
    assert_in_range(counted(status, "contribution", "up"), 100, 4096);
    json_decref(status);
    status = fleet_device_status(&fleet, device[2]);
    assert_int_equal(counted(status, "contribution", "up"), 0);
    assert_in_range(counted(status, "delta", "down"), 100, 4096);
    json_decref(status);
    fleet_release(&fleet);
}

/* Each contribution is merged at once, so that the later one starts from a version that is no
 * longer the newest. */
static void a_contribution_on_an_older_base_is_merged(void **state)
{
    struct fleet fleet;
    struct fleet_device *device[2];

    (void)state;
    begin(&fleet, (const char *const[]){"--merge-min", "1", NULL});
    device[0] = join(&fleet, "one", true);
    device[1] = join(&fleet, "two", true);
    for (size_t i = 0; i < 2; i++)
        drop_class(&fleet, device[i], given.new_class[i], given.new_class[i]);
    for (size_t i = 0; i < 2; i++)
        for (size_t k = 0; k < 2; k++)
            wait_for_class(&fleet, device[i], given.new_class[k]);
    for (size_t i = 0; i < 2; i++)
        for (size_t k = 0; k < 2; k++)
            assert_true(recall(&fleet, device[i], given.new_class[k]) >= 0.2);
    fleet_release(&fleet);
}

static void images_of_another_size_are_resized_and_said_once(void **state)
{
    struct fleet fleet;
    struct fleet_device *device;
    char dir[FLEET_PATH], path[FLEET_PATH + 200];

    (void)state;
    begin(&fleet, NULL);
    device = join(&fleet, "one", true);
    snprintf(dir, sizeof dir, "%s/big", fleet.root);
    export_doubled(dir, given.new_class[0]);
    snprintf(path, sizeof path, "%s/%s", dir, given.new_class[0]);
    must(&fleet, fleet_drop(&fleet, device, path, given.new_class[0]));
    wait_for_class(&fleet, device, given.new_class[0]);
    assert_true(recall(&fleet, device, given.new_class[0]) >= 0.2);
    snprintf(path, sizeof path,
             "test \"$(grep -c '40 images of another size were resized' %s/log/one.log)\" = 1",
             fleet.root);
    assert_int_equal(system(path), 0);
    fleet_release(&fleet);
}

static void killed_at_any_moment_nothing_is_lost(void **state)
{
    struct fleet fleet;
    struct fleet_device *learns, *follows;

    (void)state;
    begin(&fleet, (const char *const[]){"--merge-min", "1", NULL});
    learns = join(&fleet, "learns", true);
    follows = join(&fleet, "follows", true);
    drop_class(&fleet, learns, given.new_class[0], given.new_class[0]);
    /* Kill coordinator and devices hard, at moments that drift through every state. */
    for (int round = 0; round < 12; round++) {
        fleet_pause_ms(120 + 90 * round);
        fleet_device_stop(&fleet, round % 2 ? follows : learns, SIGKILL);
        if (round % 3 == 2) {
            fleet_server_stop(&fleet, SIGKILL);
            must(&fleet,
                 fleet_server_start(&fleet, (const char *const[]){"--merge-min", "1", NULL}));
        }
        must(&fleet, fleet_device_start(&fleet, round % 2 ? follows : learns, fast));
    }
    wait_for_class(&fleet, learns, given.new_class[0]);
    wait_for_class(&fleet, follows, given.new_class[0]);
    assert_true(recall(&fleet, follows, given.new_class[0]) >= 0.2);
    fleet_release(&fleet);
}

static void coordinator_of_another_ca_is_not_trusted(void **state)
{
    struct fleet fleet, other;
    char foreign[FLEET_PATH], dir[FLEET_PATH];

    (void)state;
    begin(&fleet, NULL);
    must(&other, fleet_init(&other) && fleet_server_init(&other));
    snprintf(foreign, sizeof foreign, "%s/coordinator/ca.pem", other.root);
    snprintf(dir, sizeof dir, "%s/stray", fleet.root);
    assert_int_equal(FLEET_RUN(&fleet, NULL, "frostline-agent", "enrol", "--dir", dir, "--server",
                               fleet.url, "--ca", foreign, "--token", fleet.token, "--device",
                               "stray"),
                     4);
    assert_non_null(strstr(fleet.error, "--ca"));
    fleet_release(&other);
    fleet_release(&fleet);
}

static void wrong_token_is_refused(void **state)
{
    struct fleet fleet;

    (void)state;
    begin(&fleet, NULL);
    snprintf(fleet.token, sizeof fleet.token, "0123456789abcdef0123456789abcdef");
    assert_null(fleet_enrol(&fleet, "stray", NULL));
    assert_non_null(strstr(fleet.error, "token"));
    fleet_release(&fleet);
}

static void known_class_and_bad_images_are_reported(void **state)
{
    struct fleet fleet;
    struct fleet_device *device;
    char path[FLEET_PATH + 100];

    (void)state;
    begin(&fleet, NULL);
    device = join(&fleet, "one", false);
    drop_class(&fleet, device, given.old_class, given.old_class);
    snprintf(path, sizeof path, "%s/inbox/broken", device->dir);
    assert_int_equal(mkdir(path, 0700), 0);
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "%s/inbox/broken/%d.png", device->dir, i);
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fputs(i ? "not an image" : "", file);
        fclose(file);
    }
    /* "no": something was left that it could not do, and it says what */
    assert_int_equal(FLEET_RUN(&fleet, NULL, "frostline-agent", "run", "--dir", device->dir,
                               "--settle", "1", "--once"),
                     1);
    snprintf(path, sizeof path, "grep -q \"'%s'.*already\" %s/log/frostline-agent-run.log",
             given.old_class, fleet.root);
    assert_int_equal(system(path), 0);
    snprintf(path, sizeof path, "grep -q broken %s/log/frostline-agent-run.log", fleet.root);
    assert_int_equal(system(path), 0);
    json_t *status = fleet_device_status(&fleet, device);
    assert_int_equal(counted(status, "contribution", "up"), 0);
    assert_int_equal(json_array_size(json_object_get(status, "classes")), BASE_CLASSES);
    json_decref(status);
    fleet_release(&fleet);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_travel_through_the_fleet),
        cmocka_unit_test(a_contribution_on_an_older_base_is_merged),
        cmocka_unit_test(images_of_another_size_are_resized_and_said_once),
        cmocka_unit_test(killed_at_any_moment_nothing_is_lost),
        cmocka_unit_test(coordinator_of_another_ca_is_not_trusted),
        cmocka_unit_test(wrong_token_is_refused),
        cmocka_unit_test(known_class_and_bad_images_are_reported),
    };

    return cmocka_run_group_tests(tests, make_given, drop_given);
}
