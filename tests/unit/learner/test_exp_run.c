/* Experiments as a user runs them: kills, crashes, signals, workers. The runs are tiny. */
#include "harness.h"

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "delta/file.h"
#include "experiment/exp_results.h"
#include "learner/learn.h"

static struct harness_scratch scratch;
static struct harness_result run;
static struct delta_error err;
static char plan[300], whole[300];

/* Untrained for one epoch: what it knows is no question here. */
static const char text[] =
    "{\"schema\": 1, \"name\": \"tiny\", \"data\": \"synthetic:classes=4,train=30,test=5\",\n"
    "\"bases\": [{\"name\": \"b\", \"pretrain\": {\"arch\": \"resnet18\", \"width\": 4, "
    "\"epochs\": "
    "1}}],\n"
    "\"protocols\": [{\"name\": \"P2\", \"base\": 2, \"classes\": 1, \"steps\": 2}],\n"
    "\"exemplars\": 4, \"seeds\": [1, 2, 3], \"pictures\": [\"steps\"],\n"
    "\"methods\": [{\"method\": \"frostline\"}, {\"method\": \"freeze\", \"ratio\": 0.9}]}\n";
#define RUNS 9

static const char *cache(void)
{
    return harness_path(&scratch, "cache");
}

static int set_up(void **state)
{
    (void)state;
    harness_scratch_make(&scratch);
    snprintf(plan, sizeof plan, "%s", harness_path(&scratch, "plan.json"));
    snprintf(whole, sizeof whole, "%s", harness_path(&scratch, "whole.jsonl"));
    assert_ok(delta_file_write(plan, delta_bytes(text, strlen(text)), 0644, &err));
    harness_run(&run, "frostline-learn", "experiment", plan, "--out", whole, "--cache", cache(),
                "--workers", "2", NULL);
    if (run.status)
        fail_msg("status %d: %s", run.status, run.err);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

/* Takes away what may differ between two runs of the same: times, memory, neighbours. */
static void strip(json_t *value)
{
    static const char *const keys[] = {"seconds", "cpu_seconds", "peak_bytes", "stages", "workers"};
    const char *key;
    json_t *inner;
    size_t i;

    for (i = 0; json_is_object(value) && i < sizeof keys / sizeof keys[0]; i++)
        json_object_del(value, keys[i]);
    json_object_foreach(value, key, inner) strip(inner);
    json_array_foreach(value, i, inner) strip(inner);
}

static void assert_same_results(const char *a, const char *b)
{
    struct exp_lines one, two;
    const char *key;
    json_t *line;

    assert_ok(exp_lines_read(&one, a, &err));
    assert_ok(exp_lines_read(&two, b, &err));
    assert_false(one.cut || two.cut);
    assert_int_equal(json_array_size(one.runs), RUNS);
    assert_int_equal(json_array_size(two.runs), RUNS);
    json_object_foreach(one.keys, key, line)
    {
        json_t *other = json_object_get(two.keys, key);
        if (!other)
            fail_msg("'%s' is missing", key);
        strip(line);
        strip(other);
        if (!json_equal(line, other))
            fail_msg("'%s' differs: %s and %s", key, json_dumps(line, JSON_SORT_KEYS),
                     json_dumps(other, JSON_SORT_KEYS));
    }
    exp_lines_release(&one);
    exp_lines_release(&two);
}

/* Starts the program and leaves it running. */
static pid_t start(const char *results)
{
    const char *program = harness_program("frostline-learn");
    const pid_t pid = fork();

    if (pid == 0) {
        const int null = open("/dev/null", O_RDWR);
        dup2(null, 1);
        dup2(null, 2);
        execl(program, program, "experiment", plan, "--out", results, "--cache", cache(),
              "--workers", "1", (char *)NULL);
        _exit(127);
    }
    return pid;
}

static void pause_ms(long ms)
{
    const struct timespec time = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&time, NULL);
}

static size_t line_count(const char *path)
{
    struct delta_buf file;
    size_t lines = 0;

    if (delta_file_read(path, (size_t)1 << 24, &file, NULL))
        return 0;
    for (size_t i = 0; i < file.len; i++)
        lines += file.data[i] == '\n';
    delta_buf_release(&file);
    return lines;
}

static void wait_for_lines(const char *path, size_t wanted)
{
    for (int i = 0; i < 6000 && line_count(path) < wanted; i++)
        pause_ms(10);
    assert_true(line_count(path) >= wanted);
}

/* The first child of a process; 0: none. */
static pid_t child_of(pid_t parent)
{
    char path[80];
    int child = 0;

    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)parent, (int)parent);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    if (fscanf(file, "%d", &child) != 1)
        child = 0;
    fclose(file);
    return (pid_t)child;
}

/* Its child, stopped in the middle of its work; 0: there was none, or it ended before. */
static pid_t stop_child(pid_t parent)
{
    const pid_t child = child_of(parent);
    char path[80], line[200] = "";

    if (!child || kill(child, SIGSTOP) != 0)
        return 0;
    pause_ms(20);
    snprintf(path, sizeof path, "/proc/%d/stat", (int)child);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    if (!fgets(line, sizeof line, file))
        line[0] = '\0';
    fclose(file);
    return strstr(line, ") T ") ? child : 0;
}

static void lines_tell_all_of_a_run(void **state)
{
    static const char *const keys[] = {
        "all",         "old",        "new",     "harmonic", "average",  "image_passes",
        "seconds",     "peak_bytes", "seed",    "protocol", "version",  "device",
        "delta_bytes", "threads",    "machine", "steps",    "settings", "base_digest"};
    struct exp_lines lines;
    (void)state;

    assert_ok(exp_lines_read(&lines, whole, &err));
    assert_int_equal(json_array_size(lines.runs), RUNS);
    for (size_t i = 0; i < RUNS; i++) {
        const json_t *line = json_array_get(lines.runs, i), *steps = json_object_get(line, "steps");
        for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++)
            if (!json_object_get(line, keys[k]))
                fail_msg("a line lacks '%s'", keys[k]);
        assert_int_equal(json_array_size(steps), 2);
        const double all = json_number_value(json_object_get(line, "all"));
        const double old = json_number_value(json_object_get(line, "old"));
        const double fresh = json_number_value(json_object_get(line, "new"));
        assert_true(all >= 0 && all <= 100);
        /* three old classes, one new, the same number of images each */
        assert_float_equal(all, (3 * old + fresh) / 4, 1e-4);
        assert_true(json_integer_value(json_object_get(line, "peak_bytes")) > 1000000);
        assert_true(json_integer_value(json_object_get(line, "delta_bytes")) > 100);
        const json_t *step = json_array_get(steps, 0);
        assert_int_equal(json_integer_value(json_object_get(step, "classes")), 3);
        assert_int_equal(json_integer_value(json_object_get(step, "frozen_moved")), 0);
    }
    exp_lines_release(&lines);
}

static void same_numbers_with_any_number_of_workers(void **state)
{
    const char *other = harness_path(&scratch, "one.jsonl");
    (void)state;

    harness_run(&run, "frostline-learn", "experiment", plan, "--out", other, "--cache", cache(),
                "--workers", "1", NULL);
    assert_int_equal(run.status, 0);
    assert_same_results(whole, other);
    /* nothing is left to do */
    harness_run(&run, "frostline-learn", "experiment", plan, "--out", other, "--cache", cache(),
                NULL);
    assert_int_equal(run.status, 0);
    assert_non_null(strstr(run.err, "9 runs: 0 done, 9 were there already, 0 failed"));
    assert_same_results(whole, other);
}

static void killed_experiment_goes_on(void **state)
{
    static const char half[] = "{\"schema\":1,\"kind\":\"run\",\"ke";
    char other[300];
    (void)state;

    snprintf(other, sizeof other, "%s", harness_path(&scratch, "killed.jsonl"));
    const pid_t pid = start(other);
    wait_for_lines(other, 4);
    const pid_t worker = child_of(pid);
    assert_int_equal(kill(pid, SIGKILL), 0);
    waitpid(pid, NULL, 0);
    for (int i = 0; worker && i < 500 && kill(worker, 0) == 0; i++)
        pause_ms(10);
    assert_true(!worker || kill(worker, 0) != 0); /* it dies with its parent */
    assert_true(line_count(other) < 1 + RUNS);
    FILE *file = fopen(other, "a");
    assert_non_null(file);
    fputs(half, file);
    fclose(file);
    harness_run(&run, "frostline-learn", "experiment", plan, "--out", other, "--cache", cache(),
                NULL);
    assert_int_equal(run.status, 0);
    assert_non_null(strstr(run.err, "ended in half a line, which is dropped"));
    assert_null(strstr(run.err, " 0 were there already"));
    assert_same_results(whole, other);
}

static void crashed_worker_costs_its_own_run(void **state)
{
    char other[300], errors[300];
    pid_t worker = 0;
    int status;
    (void)state;

    snprintf(other, sizeof other, "%s", harness_path(&scratch, "crash.jsonl"));
    snprintf(errors, sizeof errors, "%s", harness_path(&scratch, "crash.err"));
    const char *program = harness_program("frostline-learn");
    const pid_t pid = fork();
    if (pid == 0) {
        const int null = open("/dev/null", O_RDWR), file = open(errors, O_WRONLY | O_CREAT, 0644);
        dup2(null, 1);
        dup2(file, 2);
        execl(program, program, "experiment", plan, "--out", other, "--cache", cache(), "--workers",
              "1", (char *)NULL);
        _exit(127);
    }
    wait_for_lines(other, 3);
    while (!worker && waitpid(pid, &status, WNOHANG) == 0)
        worker = stop_child(pid);
    assert_true(worker > 0);
    kill(worker, SIGKILL); /* a sanitizer would catch SIGSEGV */
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    assert_int_equal(line_count(other), RUNS); /* the plan, and all runs but one */
    struct delta_buf told;
    assert_ok(delta_file_read(errors, 1 << 20, &told, &err));
    assert_ok(delta_buf_append(&told, "", 1, &err));
    assert_non_null(strstr((char *)told.data, "failed: b/P2/1/0/"));
    assert_non_null(strstr((char *)told.data, "killed by signal 9"));
    assert_non_null(strstr((char *)told.data, "8 done, 0 were there already, 1 failed"));
    delta_buf_release(&told);
    harness_run(&run, "frostline-learn", "experiment", plan, "--out", other, "--cache", cache(),
                NULL);
    assert_int_equal(run.status, 0);
    assert_same_results(whole, other);
}

static void interrupt_ends_in_good_order(void **state)
{
    char other[300];
    int status;
    (void)state;

    snprintf(other, sizeof other, "%s", harness_path(&scratch, "int.jsonl"));
    const pid_t pid = start(other);
    wait_for_lines(other, 2);
    kill(pid, SIGINT);
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 6);
    struct exp_lines lines;
    assert_ok(exp_lines_read(&lines, other, &err));
    assert_false(lines.cut);
    assert_true(json_array_size(lines.runs) < RUNS);
    exp_lines_release(&lines);
}

static void two_writers_are_one_too_many(void **state)
{
    const char *other = harness_path(&scratch, "two.jsonl");
    (void)state;

    const pid_t pid = start(other);
    wait_for_lines(other, 1);
    harness_run(&run, "frostline-learn", "experiment", plan, "--out", other, "--cache", cache(),
                NULL);
    assert_int_equal(run.status, 3);
    assert_non_null(strstr(run.err, "is being written by another experiment"));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void damage_within_the_file_is_told(void **state)
{
    static const struct {
        const char *text, *complaint;
    } rows[] = {
        {"{\"schema\":1,\"kind\":\"run\",\"key\":\"a\"}\nnonsense\n",
         "line 2 is not a JSON object"},
        {"{\"schema\":2,\"kind\":\"run\"}\n", "line 1 is not a result of schema 1"},
        {"{\"schema\":1,\"kind\":\"run\"}\n", "line 1: a run without a key"},
    };
    const char *path = harness_path(&scratch, "damaged.jsonl");
    struct exp_lines lines;
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_ok(
            delta_file_write(path, delta_bytes(rows[i].text, strlen(rows[i].text)), 0644, &err));
        assert_status(exp_lines_read(&lines, path, &err), DELTA_FORMAT);
        if (!strstr(err.text, rows[i].complaint))
            fail_msg("'%s' instead of '%s'", err.text, rows[i].complaint);
    }
}

/* A run that cannot be: told, and the others are there. */
static void failing_run_is_told(void **state)
{
    static const char bad[] =
        "{\"schema\": 1, \"name\": \"bad\", \"data\": \"synthetic:classes=4,train=30,test=5\",\n"
        "\"bases\": [{\"name\": \"b\", \"pretrain\": {\"arch\": \"resnet18\", \"width\": 4, "
        "\"epochs\": 1}}],\n"
        "\"protocols\": [{\"name\": \"P1\", \"base\": 2, \"classes\": 1, \"groups\": 1}],\n"
        "\"methods\": [{\"method\": \"freeze\", \"ratio\": 0.9, \"exemplars\": 0}]}\n";
    const char *path = harness_path(&scratch, "bad.json");
    (void)state;

    assert_ok(delta_file_write(path, delta_bytes(bad, strlen(bad)), 0644, &err));
    harness_run(&run, "frostline-learn", "experiment", path, "--out",
                harness_path(&scratch, "bad.jsonl"), "--cache", cache(), NULL);
    assert_int_equal(run.status, 1);
    assert_non_null(strstr(run.err, "exemplars"));
    assert_non_null(strstr(run.err, "1 done, 0 were there already, 1 failed"));
    assert_non_null(strstr(run.out, "do-nothing"));
}

/* Each method there is, twice in a row: the second increment finds what the first one left. */
static void every_method_runs_from_a_plan(void **state)
{
    char names[200], *rest = names, methods[1200] = "", plan_text[2400];
    const char *path = harness_path(&scratch, "all.json"),
               *out = harness_path(&scratch, "all.jsonl");
    struct exp_lines lines;
    size_t count = 0, used = 0;
    (void)state;

    snprintf(names, sizeof names, "%s", learner_method_names());
    for (char *name; (name = strtok_r(rest, "|", &rest)) != NULL; count++)
        used += (size_t)snprintf(methods + used, sizeof methods - used, "%s{\"method\": \"%s\"%s}",
                                 count ? ", " : "", name,
                                 strcmp(name, "freeze") == 0 ? ", \"ratio\": 0.5" : "");
    snprintf(plan_text, sizeof plan_text,
             "{\"schema\": 1, \"name\": \"all\", \"data\": "
             "\"synthetic:classes=4,train=12,test=5\",\n"
             "\"bases\": [{\"name\": \"b\", \"pretrain\": {\"arch\": \"resnet18\", \"width\": 4, "
             "\"epochs\": 1}}],\n\"exemplars\": 4, \"probes\": 2,\n"
             "\"protocols\": [{\"name\": \"P2\", \"base\": 2, \"classes\": 1, \"steps\": 2}],\n"
             "\"methods\": [%s]}\n",
             methods);
    assert_ok(delta_file_write(path, delta_bytes(plan_text, strlen(plan_text)), 0644, &err));
    harness_run(&run, "frostline-learn", "experiment", path, "--out", out, "--cache", cache(),
                NULL);
    if (run.status)
        fail_msg("status %d: %s", run.status, run.err);
    assert_ok(exp_lines_read(&lines, out, &err));
    assert_int_equal(json_array_size(lines.runs), count);
    exp_lines_release(&lines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_tell_all_of_a_run),
        cmocka_unit_test(same_numbers_with_any_number_of_workers),
        cmocka_unit_test(killed_experiment_goes_on),
        cmocka_unit_test(crashed_worker_costs_its_own_run),
        cmocka_unit_test(interrupt_ends_in_good_order),
        cmocka_unit_test(two_writers_are_one_too_many),
        cmocka_unit_test(damage_within_the_file_is_told),
        cmocka_unit_test(failing_run_is_told),
        cmocka_unit_test(every_method_runs_from_a_plan),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
