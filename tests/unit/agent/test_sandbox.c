/* What a job can and cannot do in its child process. */
#include "harness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent.h"
#include "delta/file.h"
#include "job.h"
#include "sandbox.h"

static struct harness_scratch scratch;
static volatile sig_atomic_t stop;

static enum delta_status run(agent_job *job, void *context, const struct agent_limits *limits,
                             json_t **result, struct delta_error *err)
{
    const struct agent_env env = agent_env_system(&stop);
    const struct agent_limits none = {0};

    return agent_sandbox_run(job, context, harness_path(&scratch, "result.json"),
                             limits ? limits : &none, &env, result, err);
}

static enum delta_status job_tells(void *context, json_t *result, struct delta_error *err)
{
    json_object_set_new(result, "number", json_integer(*(int *)context));
    return delta_fail(err, DELTA_REJECTED, "too bad: %d", *(int *)context);
}

static void sandbox_brings_back_status_text_and_result(void **state)
{
    struct delta_error err;
    json_t *result;
    int number = 42;

    (void)state;
    assert_status(run(job_tells, &number, NULL, &result, &err), DELTA_REJECTED);
    assert_string_equal(err.text, "too bad: 42");
    assert_int_equal(json_integer_value(json_object_get(result, "number")), 42);
    json_decref(result);
    assert_false(delta_file_exists(harness_path(&scratch, "result.json")));
}

/* Reports the errno of each way out; 0 = it is open. */
static enum delta_status job_escapes(void *context, json_t *result, struct delta_error *err)
{
    const int *outside = context; /* a connected socket of the parent */
    char *argv[] = {"/bin/true", NULL};

    (void)err;
    json_object_set_new(result, "inet",
                        json_integer(socket(AF_INET, SOCK_STREAM, 0) < 0 ? errno : 0));
    json_object_set_new(result, "unix",
                        json_integer(socket(AF_UNIX, SOCK_STREAM, 0) < 0 ? errno : 0));
    json_object_set_new(result, "netlink",
                        json_integer(socket(AF_NETLINK, SOCK_RAW, 0) < 0 ? errno : 0));
    json_object_set_new(result, "inherited", json_integer(write(*outside, "x", 1) < 0 ? errno : 0));
    execv(argv[0], argv);
    json_object_set_new(result, "exec", json_integer(errno));
    return DELTA_OK;
}

static void sandbox_closes_the_network(void **state)
{
    static const struct {
        const char *way;
        int error;
    } ways[] = {{"inet", EPERM},
                {"unix", EPERM},
                {"netlink", EPERM},
                {"inherited", EBADF},
                {"exec", EPERM}};
    struct delta_error err;
    json_t *result;
    int ends[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    const enum delta_status st = run(job_escapes, &ends[1], NULL, &result, &err);
    if (st == DELTA_CONFIG) {
        print_message("SKIP: %s\n", err.text);
        skip();
    }
    assert_ok(st);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
        if (json_integer_value(json_object_get(result, ways[i].way)) != ways[i].error)
            fail_msg("%s: errno %lld", ways[i].way,
                     json_integer_value(json_object_get(result, ways[i].way)));
    json_decref(result);
    close(ends[0]);
    close(ends[1]);
}

static enum delta_status job_crashes(void *context, json_t *result, struct delta_error *err)
{
    (void)context;
    (void)result;
    (void)err;
    signal(SIGSEGV, SIG_DFL); /* sanitizers catch it */
    raise(SIGSEGV);
    return DELTA_OK;
}

static void sandbox_survives_a_crash(void **state)
{
    struct delta_error err;
    json_t *result;

    (void)state;
    assert_status(run(job_crashes, NULL, NULL, &result, &err), DELTA_INTERNAL);
    assert_null(result);
    assert_non_null(strstr(err.text, "signal 11"));
}

static enum delta_status job_sleeps(void *context, json_t *result, struct delta_error *err)
{
    (void)context;
    (void)result;
    (void)err;
    for (int i = 0; i < 100; i++)
        usleep(200000);
    return DELTA_OK;
}

static void sandbox_ends_what_takes_too_long(void **state)
{
    const struct agent_limits limits = {.time_ms = 300};
    struct delta_error err;
    json_t *result;

    (void)state;
    assert_status(run(job_sleeps, NULL, &limits, &result, &err), DELTA_LIMIT);
}

static void sandbox_ends_when_asked_to_stop(void **state)
{
    struct delta_error err;
    json_t *result;

    (void)state;
    stop = 1;
    assert_status(run(job_sleeps, NULL, NULL, &result, &err), DELTA_INTERRUPTED);
    stop = 0;
}

static enum delta_status job_eats(void *context, json_t *result, struct delta_error *err)
{
    char *memory = malloc((size_t)1 << 30);

    (void)context;
    (void)result;
    if (!memory)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory");
    free(memory);
    return DELTA_OK;
}

static void sandbox_limits_memory(void **state)
{
    const struct agent_limits limits = {.memory_bytes = (size_t)700 << 20};
    struct delta_error err;
    json_t *result;

    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip();
#endif
    assert_ok(run(job_eats, NULL, NULL, &result, &err));
    json_decref(result);
    assert_status(run(job_eats, NULL, &limits, &result, &err), DELTA_NO_MEMORY);
    json_decref(result);
}

static void sandbox_full_disk_is_told(void **state)
{
    const struct agent_env env = agent_env_system(&stop);
    const struct agent_limits limits = {0};
    struct delta_error err;
    json_t *result;
    int number = 1;

    (void)state;
    assert_status(agent_sandbox_run(job_tells, &number, harness_path(&scratch, "no/such/result"),
                                    &limits, &env, &result, &err),
                  DELTA_IO);
}

/* One new class on a small model; free() it. */
static struct agent_learn_order *small_order(void)
{
    struct agent_learn_order *order = calloc(1, sizeof *order);
    struct learner_samples samples = LEARNER_SAMPLES_INIT, fresh = LEARNER_SAMPLES_INIT;
    struct delta_model base;
    struct delta_error err = DELTA_ERROR_INIT;

    assert_non_null(order);
    assert_ok(
        learner_samples_open(&samples, "synthetic:classes=3,train=12", LEARNER_SPLIT_TRAIN, &err));
    const struct delta_arch arch = {"resnet18",    "cifar",      2,           3, samples.height,
                                    samples.width, {.5, .5, .5}, {.2, .2, .2}};
    assert_ok(learner_net_init_model(&base, &arch, samples.classes, 2, 1, &err));
    assert_ok(delta_model_digest(&base, &order->base, &err));
    assert_ok(learner_samples_select(&fresh, &samples, samples.classes + 2, 1, 0, &err));
    assert_ok(learner_samples_export(&fresh, scratch.path, &err));
    snprintf(order->base_path, sizeof order->base_path, "%s", harness_path(&scratch, "b.flm"));
    snprintf(order->local_path, sizeof order->local_path, "%s", harness_path(&scratch, "l.flm"));
    snprintf(order->offer_path, sizeof order->offer_path, "%s", harness_path(&scratch, "o.fld"));
    assert_ok(delta_model_save(&base, order->base_path, &err));
    order->classes[0].id = samples.classes[2];
    snprintf(order->classes[0].path, sizeof order->classes[0].path, "%s/%s", scratch.path,
             samples.classes[2].text);
    order->count = 1;
    order->options = learner_increment_defaults("frostline");
    order->options.min_new_recall = 0;
    delta_model_release(&base);
    learner_samples_release(&samples);
    learner_samples_release(&fresh);
    return order;
}

/* The device's budget reaches the learner, and the learner can look at its memory in there. */
static void learning_keeps_to_the_devices_budget(void **state)
{
    struct agent_learn_order *order = small_order();
    struct agent_options options = agent_options_defaults();
    struct delta_error err = DELTA_ERROR_INIT;
    json_t *result;

    (void)state;
    options.threads = 1;
    options.memory_mb = 4;
    agent_job_budget(&order->budget, &options);
    assert_true(order->budget.deadline_ms > 0);
    assert_status(run(agent_job_learn, order, NULL, &result, &err), DELTA_NO_MEMORY);
    assert_non_null(strstr(err.text, "smallest budget is"));
    json_decref(result);
    options.memory_mb = 4096;
    agent_job_budget(&order->budget, &options);
    assert_ok(run(agent_job_learn, order, NULL, &result, &err));
    json_decref(result);
    free(order);
}

/* A GPU's driver could not live within the limit that is right for the CPU. */
static void only_the_cpus_address_space_is_limited(void **state)
{
    static const struct {
        const char *device;
        bool limited;
    } rows[] = {{"cpu", true}, {"cpu:fp32", true}, {"cuda:bf16", false}, {"auto:fp32", false}};
    struct agent_options options = agent_options_defaults();
    struct learner_budget budget;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        options.device = rows[i].device;
        const struct agent_limits limits = agent_job_limits(&options);
        agent_job_budget(&budget, &options);
        assert_string_equal(budget.device, rows[i].device);
        assert_int_equal(budget.memory_bytes, (size_t)options.memory_mb << 20);
        assert_int_equal(limits.memory_bytes, rows[i].limited ? budget.memory_bytes : 0);
        assert_int_equal(limits.time_ms, 1000 * options.learn_s);
    }
}

/* Asked for in a build or on a machine without one, a GPU is refused, and `auto` does without. */
static void learning_goes_where_the_device_says(void **state)
{
    struct agent_options options = agent_options_defaults();
    struct delta_error err = DELTA_ERROR_INIT;
    struct agent_learn_order *order = small_order();
    json_t *result;

    (void)state;
    options.device = "cuda:fp32";
    agent_job_budget(&order->budget, &options);
    assert_status(run(agent_job_learn, order, NULL, &result, &err), DELTA_UNSUPPORTED);
    json_decref(result);
    options.device = "auto:bf16";
    options.memory_mb = 0;
    agent_job_budget(&order->budget, &options);
    assert_ok(run(agent_job_learn, order, NULL, &result, &err));
    json_decref(result);
    free(order);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(learning_keeps_to_the_devices_budget),
        cmocka_unit_test(only_the_cpus_address_space_is_limited),
        cmocka_unit_test(learning_goes_where_the_device_says),
        cmocka_unit_test(sandbox_brings_back_status_text_and_result),
        cmocka_unit_test(sandbox_closes_the_network),
        cmocka_unit_test(sandbox_survives_a_crash),
        cmocka_unit_test(sandbox_ends_what_takes_too_long),
        cmocka_unit_test(sandbox_ends_when_asked_to_stop),
        cmocka_unit_test(sandbox_limits_memory),
        cmocka_unit_test(sandbox_full_disk_is_told),
    };

    harness_scratch_make(&scratch);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    harness_scratch_remove(&scratch);
    return failed;
}
