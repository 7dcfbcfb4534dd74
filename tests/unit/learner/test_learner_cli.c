/* The program frostline-learn as a user meets it: exit status, text, JSON, files. */
#include "harness.h"

#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "delta/file.h"

#define DATA "synthetic:classes=5,train=24,test=10"

static struct harness_scratch scratch;
static struct harness_result run;
static char base[300], plan[300], exemplars[300], images[300];

/* A base of three classes; hardly trained: what it knows is another test's question. */
static int set_up(void **state)
{
    (void)state;
    harness_scratch_make(&scratch);
    snprintf(base, sizeof base, "%s", harness_path(&scratch, "base.flm"));
    snprintf(plan, sizeof plan, "%s", harness_path(&scratch, "plan.flm"));
    snprintf(exemplars, sizeof exemplars, "%s", harness_path(&scratch, "e.flx"));
    snprintf(images, sizeof images, "%s", harness_path(&scratch, "images"));
    harness_run(&run, "frostline-learn", "pretrain", "--data", DATA, "--classes", "3", "--width",
                "4", "--epochs", "3", "--out", base, NULL);
    if (run.status)
        fail_msg("pretrain: %s", run.err);
    harness_run(&run, "frostline-learn", "plan", "--model", base, "--data", DATA, "--ratio", "0.75",
                "--out", plan, NULL);
    if (run.status)
        fail_msg("plan: %s", run.err);
    harness_run(&run, "frostline-learn", "exemplars", "--model", plan, "--data", DATA,
                "--per-class", "6", "--probes", "4", "--out", exemplars, NULL);
    if (run.status)
        fail_msg("exemplars: %s", run.err);
    harness_run(&run, "frostline-learn", "export-images", "--data", DATA, "--classes",
                "cross,stripes", "--per-class", "10", "--out", images, NULL);
    if (run.status)
        fail_msg("export-images: %s", run.err);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

static json_t *parse_output(void)
{
    json_error_t error;
    json_t *json = json_loads(run.out, 0, &error);

    if (!json)
        fail_msg("status %d, not JSON: '%.200s' %s", run.status, run.out, run.err);
    assert_int_equal(json_integer_value(json_object_get(json, "schema")), 1);
    return json;
}

static void cli_eval_prints_one_object(void **state)
{
    (void)state;

    harness_run(&run, "frostline-learn", "eval", "--model", base, "--data", DATA, "--json", NULL);
    assert_int_equal(run.status, 0);
    json_t *json = parse_output();
    const json_t *classes = json_object_get(json, "classes");
    json_int_t correct = 0;
    assert_int_equal(json_integer_value(json_object_get(json, "images")), 30);
    assert_int_equal(json_array_size(classes), 3);
    for (size_t k = 0; k < 3; k++) {
        const json_t *row = json_array_get(classes, k);
        assert_int_equal(json_integer_value(json_object_get(row, "images")), 10);
        correct += json_integer_value(json_object_get(row, "correct"));
    }
    assert_string_equal(json_string_value(json_object_get(json_array_get(classes, 1), "id")),
                        "square");
    const double top1 = json_real_value(json_object_get(json, "top1"));
    assert_true(fabs(top1 - 100.0 * (double)correct / 30) < 1e-6);
    assert_true(strlen(json_string_value(json_object_get(json, "device"))) > 0);
    json_decref(json);
    /* all classes: 20 more images, all wrong */
    harness_run(&run, "frostline-learn", "eval", "--model", base, "--data", DATA, "--all-classes",
                "--json", NULL);
    json = parse_output();
    assert_int_equal(json_integer_value(json_object_get(json, "images")), 50);
    assert_int_equal(json_integer_value(json_object_get(json, "correct")), correct);
    json_decref(json);
    harness_run(&run, "frostline-learn", "eval", "--model", base, "--data", DATA, "--limit", "4",
                "--json", NULL);
    json = parse_output();
    assert_int_equal(json_integer_value(json_object_get(json, "images")), 12);
    json_decref(json);
}

/* With a GPU and without: what was asked for is what computes, or the reason is told. */
static void cli_device_and_precision_are_kept_to(void **state)
{
    (void)state;
    harness_run(&run, "frostline-learn", "eval", "--model", base, "--data", DATA, "--device", "cpu",
                "--json", NULL);
    json_t *json = parse_output();
    assert_string_equal(json_string_value(json_object_get(json, "device")), "blas");
    json_decref(json);
    assert_null(strstr(run.err, "GPU"));
    harness_run(&run, "frostline-learn", "eval", "--model", base, "--data", DATA, "--device", "cpu",
                "--precision", "bf16", NULL);
    assert_true(run.status > 1);
    assert_non_null(strstr(run.err, "fp32"));
    harness_run(&run, "frostline-learn", "eval", "--model", base, "--data", DATA, "--device",
                "cuda", NULL);
    const bool there = run.status == 0;
    assert_true(there || strstr(run.err, "no GPU to use: ") ||
                strstr(run.err, "not in this build"));
    const bool built = there || strstr(run.err, "no GPU to use: ");
    harness_run(&run, "frostline-learn", "eval", "--model", base, "--data", DATA, "--precision",
                "bf16", NULL);
    assert_true(run.status == 0 || there); /* an old GPU has no bf16 */
    const char *told = strstr(run.err, "computing on the CPU");
    assert_true(!told == (there || !built));
    assert_true(!told || !strstr(told + 1, "computing on the CPU"));
}

static void cli_plan_and_exemplars_leave_right_files(void **state)
{
    struct stat info;
    (void)state;

    assert_int_equal(stat(exemplars, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    /* 30 images, and what the network makes of them */
    const off_t least = 30 * (3072 + 32 * (off_t)sizeof(float)), latents = 18 * 32 * 4 * 4 * 2;
    assert_true(info.st_size > least + latents && info.st_size < least + latents + 2000);
    harness_run(&run, "frostline-learn", "exemplars", "--model", base, "--data", DATA,
                "--per-class", "6", "--probes", "4", "--latents", "no", "--out",
                harness_path(&scratch, "bare.flx"), "--json", NULL);
    json_t *bare = parse_output();
    assert_int_equal(json_integer_value(json_object_get(bare, "latents")), 0);
    json_decref(bare);
    assert_int_equal(stat(harness_path(&scratch, "bare.flx"), &info), 0);
    assert_true(info.st_size > least && info.st_size < least + 2000);
    harness_run(&run, "frostline-learn", "plan", "--model", base, "--data", DATA, "--ratio", "0.75",
                "--out", plan, "--json", NULL);
    json_t *json = parse_output();
    const double live = (double)json_integer_value(json_object_get(json, "live"));
    const double all = (double)json_integer_value(json_object_get(json, "elements"));
    assert_true(live > 0.23 * all && live < 0.26 * all);
    json_decref(json);
}

static void cli_learns_from_class_folders(void **state)
{
    const char *out = harness_path(&scratch, "learned.flm");
    const char *fld = harness_path(&scratch, "learned.fld");
    const char *more = harness_path(&scratch, "more.flx");
    struct stat info;
    (void)state;

    /* one unreadable file is named and left out */
    FILE *bad = fopen(harness_path(&scratch, "images/cross/zz.png"), "wb");
    assert_non_null(bad);
    fclose(bad);
    harness_run(&run, "frostline-learn", "learn", "--model", plan, "--new", images, "--exemplars",
                exemplars, "--stages", "A", "--max-old-drop", "1", "--min-new-recall", "0", "--out",
                out, "--delta", fld, "--exemplars-out", more, "--json", NULL);
    if (run.status)
        fail_msg("learn: %s", run.err);
    assert_non_null(strstr(run.err, "'zz.png': image is empty"));
    json_t *json = parse_output();
    assert_true(json_is_true(json_object_get(json, "accepted")));
    assert_int_equal(json_integer_value(json_object_get(json, "new_images")), 16);
    assert_int_equal(json_integer_value(json_object_get(json, "held_out_new")), 4);
    assert_int_equal(json_integer_value(json_object_get(json, "replay_images")), 18);
    assert_int_equal(json_integer_value(json_object_get(json, "probe_images")), 12);
    assert_int_equal(json_integer_value(json_object_get(json, "live_changed")), 0);
    assert_int_equal(stat(fld, &info), 0);
    assert_int_equal(json_integer_value(json_object_get(json, "delta_bytes")), info.st_size);
    assert_true(info.st_size < 4000); /* two rows of 33 numbers and a header */
    json_decref(json);
    harness_run(&run, "frostline-learn", "eval", "--model", out, "--data", DATA, "--json", NULL);
    json = parse_output();
    assert_int_equal(json_array_size(json_object_get(json, "classes")), 5);
    json_decref(json);
    assert_true(access(more, R_OK) == 0);
    /* the same again: known already */
    harness_run(&run, "frostline-learn", "learn", "--model", out, "--new", images, "--exemplars",
                more, "--out", harness_path(&scratch, "twice.flm"), NULL);
    assert_int_equal(run.status, 3);
    assert_non_null(strstr(run.err, "known to the model already"));
    assert_true(access(harness_path(&scratch, "twice.flm"), F_OK) != 0);
}

/* All stages, told one by one; a lossy delta leads to the very model that is written. */
static void cli_goes_through_all_stages_and_rounds(void **state)
{
    (void)state;

    harness_run(&run, "frostline-learn", "learn", "--model", plan, "--new", images, "--exemplars",
                exemplars, "--epochs-tune", "1", "--max-old-drop", "1", "--min-new-recall", "0",
                "--stages", "ABC", "--round", "0", "--round-head", "0", "--out",
                harness_path(&scratch, "stages.flm"), "--delta",
                harness_path(&scratch, "stages.fld"), "--json", NULL);
    json_t *json = parse_output();
    const double exact = json_number_value(json_object_get(json, "delta_bytes"));
    json_t *stages = json_object_get(json, "stages");
    assert_int_equal(json_array_size(stages), 3);
    for (size_t i = 0; i < 3; i++) /* a guard that lets everything pass takes the last */
        assert_true(json_is_true(json_object_get(json_array_get(stages, i), "accepted")) ==
                    (i == 2));
    assert_true(json_integer_value(json_object_get(json, "live_changed")) > 0);
    json_decref(json);
    harness_run(&run, "frostline-learn", "learn", "--model", plan, "--new", images, "--exemplars",
                exemplars, "--epochs-tune", "1", "--max-old-drop", "1", "--min-new-recall", "0",
                "--out", harness_path(&scratch, "rounded.flm"), "--delta",
                harness_path(&scratch, "rounded.fld"), "--json", NULL);
    json = parse_output();
    assert_true(json_number_value(json_object_get(json, "delta_bytes")) < 0.4 * exact);
    json_decref(json);
    harness_run(&run, "frostline-delta", "apply", plan, harness_path(&scratch, "rounded.fld"),
                "--out", harness_path(&scratch, "applied.flm"), NULL);
    assert_int_equal(run.status, 0);
    char applied[80] = "", rounded[80] = "x";
    harness_run(&run, "frostline-delta", "digest", harness_path(&scratch, "applied.flm"), NULL);
    snprintf(applied, sizeof applied, "%.64s", run.out);
    harness_run(&run, "frostline-delta", "digest", harness_path(&scratch, "rounded.flm"), NULL);
    snprintf(rounded, sizeof rounded, "%.64s", run.out);
    assert_string_equal(applied, rounded);
}

static void cli_rejection_is_status_1_and_writes_nothing(void **state)
{
    const char *out = harness_path(&scratch, "rejected.flm");
    (void)state;

    harness_run(&run, "frostline-learn", "learn", "--model", plan, "--new", DATA, "--classes",
                "cross", "--method", "do-nothing", "--min-new-recall", "0.5", "--out", out,
                "--json", NULL);
    assert_int_equal(run.status, 1);
    assert_non_null(strstr(run.err, "class 'cross' is recalled on 0.0 percent"));
    json_t *json = parse_output();
    assert_true(json_is_false(json_object_get(json, "accepted")));
    json_decref(json);
    assert_true(access(out, F_OK) != 0);
}

static void cli_classes_follow_an_order_file(void **state)
{
    const char *order = harness_path(&scratch, "order.txt");
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    assert_ok(delta_file_write(order, delta_bytes("4\n\n 0\r\n2\n", 9), 0644, &err));
    harness_run(&run, "frostline-learn", "classes", "--data", DATA, "--order", order, NULL);
    assert_string_equal(run.out, "stripes\ndisc\ntriangle\n");
    assert_ok(delta_file_write(order, delta_bytes("4\nx\n", 4), 0644, &err));
    harness_run(&run, "frostline-learn", "classes", "--data", DATA, "--order", order, NULL);
    assert_int_equal(run.status, 3);
    assert_non_null(strstr(run.err, "line 2: 'x' is not a label number"));
    assert_ok(delta_file_write(order, delta_bytes("99\n", 3), 0644, &err));
    harness_run(&run, "frostline-learn", "classes", "--data", DATA, "--order", order, NULL);
    assert_int_equal(run.status, 3);
    assert_ok(delta_file_write(order, delta_bytes("1\n1\n", 4), 0644, &err));
    harness_run(&run, "frostline-learn", "classes", "--data", DATA, "--order", order, NULL);
    assert_int_equal(run.status, 3);
    assert_non_null(strstr(run.err, "twice"));
}

static void cli_errors_name_the_thing(void **state)
{
    const char *cut = harness_path(&scratch, "cut.flm");
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    (void)state;

    harness_run(&run, "frostline-learn", "eval", "--model", "/no/such.flm", "--data", DATA, NULL);
    assert_int_equal(run.status, 3);
    assert_non_null(strstr(run.err, "/no/such.flm"));
    harness_run(&run, "frostline-learn", "eval", "--model", base, "--data", "/no/data", NULL);
    assert_int_equal(run.status, 3);
    assert_non_null(strstr(run.err, "/no/data"));
    harness_run(&run, "frostline-learn", "eval", "--data", DATA, NULL);
    assert_int_equal(run.status, 2);
    assert_ok(delta_file_read(base, 1 << 24, &file, &err));
    assert_ok(delta_file_write(cut, delta_bytes(file.data, file.len / 2), 0644, &err));
    delta_buf_release(&file);
    harness_run(&run, "frostline-learn", "eval", "--model", cut, "--data", DATA, NULL);
    assert_int_equal(run.status, 3);
    assert_non_null(strstr(run.err, "cut.flm"));
    harness_run(&run, "frostline-learn", "learn", "--model", base, "--new", scratch.path,
                "--classes", "nothing", "--out", cut, NULL);
    assert_int_equal(run.status, 3);
    harness_run(&run, "frostline-learn", "learn", "--model", base, "--new", DATA, "--classes",
                "cross", "--exemplars", base, "--out", cut, NULL);
    assert_int_equal(run.status, 3);
    assert_non_null(strstr(run.err, "exemplars '"));
    harness_run(&run, "frostline-learn", "dance", NULL);
    assert_int_equal(run.status, 2);
}

static void cli_every_verb_has_help(void **state)
{
    static const char *const verbs[] = {"eval",      "learn",   "pretrain",     "plan",
                                        "exemplars", "classes", "export-images"};
    (void)state;

    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        harness_run(&run, "frostline-learn", verbs[i], "--help", NULL);
        assert_int_equal(run.status, 0);
        assert_non_null(strstr(run.out, "usage: frostline-learn"));
        assert_non_null(strstr(run.out, "options:"));
    }
}

/* The numbers that the reference network is known by. */
static void cli_reference_network_scores_as_published(void **state)
{
    const char *model = harness_shared("models/resnet18-w16-c90.safetensors");
    const char *data = harness_shared("data/cifar-100-binary");
    const char *order = harness_shared("data/cifar-100-order-1993.txt");
    (void)state;

    if (!model || !data || !order)
        skip();
    harness_run(&run, "frostline-learn", "eval", "--model", model, "--data", data, "--order", order,
                "--classes", "90", "--json", NULL);
    assert_int_equal(run.status, 0);
    json_t *json = parse_output();
    const double top1 = json_real_value(json_object_get(json, "top1"));
    assert_int_equal(json_integer_value(json_object_get(json, "images")), 9000);
    assert_true(top1 > 64.21 && top1 < 64.31);
    json_decref(json);
    harness_run(&run, "frostline-learn", "eval", "--model", model, "--data", data, "--order", order,
                "--classes", "80", NULL);
    assert_int_equal(run.status, 3);
    assert_non_null(strstr(run.err, "has 90 outputs"));
}

static void cli_plans_memory_and_refuses_too_little(void **state)
{
    (void)state;

    harness_run(&run, "frostline-learn", "eval", "--model", base, "--data", DATA, "--json", NULL);
    assert_int_equal(run.status, 0);
    assert_non_null(strstr(run.err, "plans"));
    json_t *json = parse_output();
    const json_int_t planned = json_integer_value(json_object_get(json, "planned_bytes"));
    assert_true(planned > 5000000 && planned < 1000000000);
    assert_int_equal(json_integer_value(json_object_get(json, "images_at_once")), 30);
    json_decref(json);
    static const char *const verbs[] = {"eval", "plan", "exemplars", "learn", "pretrain"};
    for (size_t i = 0; i < 5; i++) {
        const char *verb = verbs[i], *out = harness_path(&scratch, "none.flm");
        if (i == 0)
            harness_run(&run, "frostline-learn", verb, "--model", base, "--data", DATA, "--memory",
                        "1", NULL);
        else if (i == 3)
            harness_run(&run, "frostline-learn", verb, "--model", plan, "--new", images, "--out",
                        out, "--memory", "1", NULL);
        else if (i == 4)
            harness_run(&run, "frostline-learn", verb, "--data", DATA, "--out", out, "--memory",
                        "1", NULL);
        else
            harness_run(&run, "frostline-learn", verb, "--model", base, "--data", DATA, "--out",
                        out, "--memory", "1", NULL);
        if (run.status != 6 || !strstr(run.err, "the smallest budget is "))
            fail_msg("%s: status %d: %s", verb, run.status, run.err);
        assert_int_not_equal(access(out, F_OK), 0);
    }
    harness_run(&run, "frostline-learn", "plan", "--model", base, "--data", DATA, "--time", "0.001",
                "--out", harness_path(&scratch, "none.flm"), NULL);
    assert_int_equal(run.status, 6);
    assert_non_null(strstr(run.err, "time is up"));
}

static ino_t inode_of(const char *path)
{
    struct stat info;

    return stat(path, &info) ? 0 : info.st_ino;
}

/* Starts a pretraining that leaves a checkpoint every step, sends a signal when there is a new one.
 */
static int pretrain_and_signal(const char *checkpoint, const char *out, int number)
{
    const ino_t before = inode_of(checkpoint);
    char program[600];
    int status = 0;
    pid_t pid;

    snprintf(program, sizeof program, "%s", harness_program("frostline-learn"));
    pid = fork();
    if (pid == 0) {
        freopen("/dev/null", "w", stderr);
        execl(program, program, "pretrain", "--data", DATA, "--width", "2", "--epochs", "3",
              "--checkpoint", checkpoint, "--every", "0.01s", "--out", out, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 6000 && inode_of(checkpoint) == before; i++)
        usleep(10000);
    kill(pid, number);
    waitpid(pid, &status, 0);
    return status;
}

static void cli_pretraining_goes_on_after_signals(void **state)
{
    char checkpoint[300], whole[300], parts[300];
    struct delta_buf a, b;
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    snprintf(checkpoint, sizeof checkpoint, "%s", harness_path(&scratch, "run.ck"));
    snprintf(whole, sizeof whole, "%s", harness_path(&scratch, "whole.flm"));
    snprintf(parts, sizeof parts, "%s", harness_path(&scratch, "parts.flm"));
    harness_run(&run, "frostline-learn", "pretrain", "--data", DATA, "--width", "2", "--epochs",
                "3", "--out", whole, NULL);
    assert_int_equal(run.status, 0);
    harness_run(&run, "frostline-learn", "pretrain", "--data", DATA, "--width", "2", "--epochs",
                "3", "--checkpoint", checkpoint, "--resume", "--out", parts, NULL);
    assert_int_equal(run.status, 3); /* there is nothing to resume */
    const int killed = pretrain_and_signal(checkpoint, parts, SIGKILL);
    assert_true(WIFSIGNALED(killed));
    const int stopped = pretrain_and_signal(checkpoint, parts, SIGTERM);
    assert_true(WIFEXITED(stopped) && WEXITSTATUS(stopped) == 6);
    assert_int_equal(access(checkpoint, F_OK), 0);
    assert_int_not_equal(access(parts, F_OK), 0);
    harness_run(&run, "frostline-learn", "pretrain", "--data", DATA, "--width", "2", "--epochs",
                "4", "--checkpoint", checkpoint, "--out", parts, NULL);
    assert_int_equal(run.status, 3);
    assert_non_null(strstr(run.err, "epochs is 3 there, 4 here"));
    harness_run(&run, "frostline-learn", "pretrain", "--data", DATA, "--width", "2", "--epochs",
                "3", "--checkpoint", checkpoint, "--resume", "--out", parts, NULL);
    if (run.status)
        fail_msg("resume: %s", run.err);
    assert_int_not_equal(access(checkpoint, F_OK), 0); /* done: removed */
    assert_ok(delta_file_read(whole, 1 << 24, &a, &err));
    assert_ok(delta_file_read(parts, 1 << 24, &b, &err));
    assert_true(delta_bytes_equal(delta_buf_bytes(&a), delta_buf_bytes(&b)));
    delta_buf_release(&a);
    delta_buf_release(&b);
    harness_run(&run, "frostline-learn", "pretrain", "--data", DATA, "--every", "soon", "--out",
                parts, NULL);
    assert_int_equal(run.status, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cli_plans_memory_and_refuses_too_little),
        cmocka_unit_test(cli_pretraining_goes_on_after_signals),
        cmocka_unit_test(cli_eval_prints_one_object),
        cmocka_unit_test(cli_device_and_precision_are_kept_to),
        cmocka_unit_test(cli_plan_and_exemplars_leave_right_files),
        cmocka_unit_test(cli_learns_from_class_folders),
        cmocka_unit_test(cli_goes_through_all_stages_and_rounds),
        cmocka_unit_test(cli_rejection_is_status_1_and_writes_nothing),
        cmocka_unit_test(cli_classes_follow_an_order_file),
        cmocka_unit_test(cli_errors_name_the_thing),
        cmocka_unit_test(cli_every_verb_has_help),
        cmocka_unit_test(cli_reference_network_scores_as_published),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
