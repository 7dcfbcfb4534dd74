/* What a stranger tries: every verb with files that cannot be read and places that cannot be
 * written. Each ends at once, with the status of its kind and the name of what is wrong, changes
 * nothing that was there and leaves nothing behind. */
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta/safetensors.h"
#include "delta_fixture.h"

#define PROGRAM "frostline-delta"
#define NOBODY 65534
#define SECONDS 20

static struct harness_scratch scratch;
static struct delta_error err;
static bool as_nobody;  /* root may read and write anything, so it runs the program as nobody */
static char said[4096]; /* on stderr, by the latest run */

/* Runs "VERB WORDS..." in the scratch directory, as nobody where we are root. file_max: bytes a
 * file may have, which stands for a disk that fills up; 0: any. 128 + signal where one ended it. */
static int run_line(const char *line, rlim_t file_max)
{
    char words[600], *argv[16] = {PROGRAM}, *save = NULL;
    const char *program = harness_program(PROGRAM);
    int ends[2], argc = 1, status;
    size_t have = 0;
    ssize_t got;

    snprintf(words, sizeof words, "%s", line);
    for (char *w = strtok_r(words, " ", &save); w && argc < 15; w = strtok_r(NULL, " ", &save))
        argv[argc++] = w;
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit size = {file_max, file_max};
        signal(SIGXFSZ, SIG_IGN);
        alarm(SECONDS);
        if (dup2(ends[1], STDERR_FILENO) < 0 || !freopen("/dev/null", "w", stdout) ||
            chdir(scratch.path) || (file_max && setrlimit(RLIMIT_FSIZE, &size)) ||
            (as_nobody && (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY))))
            _exit(120);
        close(ends[0]);
        close(ends[1]);
        execv(program, argv);
        _exit(121);
    }
    close(ends[1]);
    while (have + 1 < sizeof said && (got = read(ends[0], said + have, sizeof said - 1 - have)) > 0)
        have += (size_t)got;
    said[have] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* m.flm and t.flm, d.fld between them, m.st, k.pem; and what is no model */
static int setup(void **state)
{
    struct delta_model m;
    struct delta_buf d, whole;

    (void)state;
    harness_scratch_make(&scratch);
    assert_int_equal(chmod(scratch.path, 0777), 0);
    fixture_model(&m);
    assert_ok(delta_model_save(&m, harness_path(&scratch, "m.flm"), &err));
    assert_ok(
        delta_safetensors_save(&m, DELTA_SAFETENSORS_F32, harness_path(&scratch, "m.st"), &err));
    struct delta_model t;
    assert_ok(delta_model_copy(&t, &m, &err));
    assert_ok(delta_model_digest(&m, &t.parent, &err));
    delta_model_find(&t, "fc.bias")->data[1] = 0.5f;
    assert_ok(delta_model_save(&t, harness_path(&scratch, "t.flm"), &err));
    assert_ok(delta_diff(&m, &t, NULL, &d, &err));
    assert_ok(delta_file_write(harness_path(&scratch, "d.fld"), delta_buf_bytes(&d), 0644, &err));
    assert_ok(delta_key_save(fixture_key(), harness_path(&scratch, "k.pem"), &err));
    assert_ok(delta_file_read(harness_path(&scratch, "d.fld"), 1 << 20, &whole, &err));
    assert_ok(delta_file_write(harness_path(&scratch, "half"),
                               delta_bytes(whole.data, whole.len / 2), 0644, &err));
    assert_ok(delta_file_write(harness_path(&scratch, "empty"), delta_bytes("", 0), 0644, &err));
    assert_ok(delta_file_write(harness_path(&scratch, "closed"), delta_buf_bytes(&whole), 0, &err));
    assert_ok(delta_dir_make(harness_path(&scratch, "dir"), 0755, &err));
    assert_ok(delta_dir_make(harness_path(&scratch, "shut"), 0555, &err));
    assert_int_equal(mkfifo(harness_path(&scratch, "pipe"), 0666), 0);
    as_nobody = geteuid() == 0;
    if (as_nobody && run_line("--version", 0)) {
        print_message("SKIP: '%s' is not for others; what root may not do is not tried\n",
                      harness_program(PROGRAM));
        as_nobody = false;
    }
    if (as_nobody) /* nobody else reads our keys */
        assert_int_equal(chown(harness_path(&scratch, "k.pem"), NOBODY, NOBODY), 0);
    delta_buf_release(&whole);
    delta_buf_release(&d);
    delta_model_release(&t);
    delta_model_release(&m);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

/* Everything in the scratch directory, by name, kind and content. */
static struct delta_digest fingerprint(void)
{
    struct delta_dir_list list;
    struct delta_hash hash;
    struct delta_digest one;
    struct stat info;

    assert_ok(delta_hash_init(&hash, &err));
    assert_ok(delta_dir_read(&list, scratch.path, 100, &err));
    for (size_t i = 0; i < list.count; i++) {
        const char *path = harness_path(&scratch, list.names[i]);
        assert_int_equal(lstat(path, &info), 0);
        delta_hash_update(&hash, delta_bytes(list.names[i], strlen(list.names[i]) + 1));
        delta_hash_update(&hash, delta_bytes(&info.st_mode, sizeof info.st_mode));
        if (S_ISREG(info.st_mode)) {
            assert_ok(delta_sha256_file(path, &one, NULL, NULL));
            delta_hash_update(&hash, delta_bytes(one.bytes, sizeof one.bytes));
        }
    }
    delta_dir_list_release(&list);
    return delta_hash_finish(&hash);
}

static void assert_line(const char *line, rlim_t file_max, int wanted, const char *names)
{
    const struct delta_digest before = fingerprint();
    const int status = run_line(line, file_max);
    const struct delta_digest after = fingerprint();

    if (status != wanted || !strstr(said, names))
        fail_msg("%s: exit status %d instead of %d, said: %s", line, status, wanted, said);
    if (!delta_digest_equal(&before, &after))
        fail_msg("%s: something in the directory has changed", line);
}

static bool may_do_all(void)
{
    return geteuid() == 0 && !as_nobody;
}

/* "?" in a line becomes `name`. */
static void fill_in(char out[600], const char *line, const char *name)
{
    const char *at = strchr(line, '?');

    snprintf(out, 600, "%.*s%s%s", (int)(at - line), line, name, at + 1);
}

static void misuse_unreadable_inputs(void **state)
{
    static const char *const lines[] = {"inspect ?",
                                        "inspect d.fld --base ?",
                                        "inspect m.flm --key ?",
                                        "inspect ? --header",
                                        "verify ?",
                                        "verify m.flm --key ?",
                                        "digest ?",
                                        "diff ? m.flm",
                                        "diff m.flm ?",
                                        "cat ? fc.bias",
                                        "make ? t.flm --out o",
                                        "make m.flm ? --out o",
                                        "make m.flm t.flm --sign ? --out o",
                                        "apply ? d.fld --out o",
                                        "apply m.flm ? --out o",
                                        "apply m.flm d.fld ? --out o",
                                        "invert ? d.fld --out o",
                                        "invert m.flm ? --out o",
                                        "squash ? d.fld --out o",
                                        "squash m.flm ? --out o",
                                        "sign ? --key k.pem",
                                        "sign m.flm --key ? --out o",
                                        "import ? --out o",
                                        "import m.st --order ? --out o",
                                        "export ? --out o",
                                        "push o ? --name a",
                                        "pull ?",
                                        "pull ? a --out o"};
    static const struct {
        const char *name;
        int status;
    } files[] = {{"missing", 3}, {"dir", 3},    {"empty", 3},    {"half", 3},
                 {"pipe", 3},    {"closed", 6}, {"/dev/zero", 3}};
    char line[600];

    (void)state;
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++)
        for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
            int wanted = files[f].status;
            if (wanted == 6 && may_do_all())
                continue;
            if (strncmp(lines[i], "pull", 4) == 0)
                wanted = 3; /* no directory, or one without a layout, whoever may read it */
            fill_in(line, lines[i], files[f].name);
            assert_line(line, 0, wanted, files[f].name);
        }
}

static void misuse_log_of_no_directory(void **state)
{
    (void)state;
    assert_line("log m.flm", 0, 3, "m.flm");
    assert_line("log missing", 0, 3, "missing");
    assert_line("log /dev/zero", 0, 3, "/dev/zero");
    assert_line("log dir", 0, 0, "");
}

static const char *const writers[] = {
    "make m.flm t.flm --out ?",   "apply m.flm d.fld --out ?",         "invert m.flm d.fld --out ?",
    "squash m.flm d.fld --out ?", "sign m.flm --key k.pem --out ?",    "import m.st --out ?",
    "export m.flm --out ?",       "export m.flm --format npz --out ?", "cat m.flm fc.bias --out ?",
    "inspect m.flm --html ?",
};
#define WRITERS (sizeof writers / sizeof writers[0])

static void misuse_places_that_cannot_be_written(void **state)
{
    static const struct {
        const char *name;
        int status;
    } places[] = {{"missing/o", 3}, {"m.flm/o", 3},     {"dir", 3},    {"pipe", 3},
                  {"/dev/null", 3}, {"/dev/stdout", 3}, {"shut/o", 6}, {"/dev/full", 3}};
    char line[600];

    (void)state;
    for (size_t i = 0; i < WRITERS; i++) {
        for (size_t p = 0; p < sizeof places / sizeof places[0]; p++) {
            if (places[p].status == 6 && may_do_all())
                continue;
            fill_in(line, writers[i], places[p].name);
            assert_line(line, 0, places[p].status, places[p].name);
            assert_null(strstr(said, ".new-")); /* nor is our own name for it of any help */
        }
        fill_in(line, writers[i], "o"); /* a disk that fills up */
        assert_line(line, 8, 6, "'o'");
    }
    assert_line("keygen missing/k", 0, 3, "missing/k.pem");
    assert_line("keygen o", 100, 6, "o.pem");
    assert_line("pull lay a --out dir", 0, 3, "dir");
    assert_line("push m.flm m.flm --name a", 0, 6, "m.flm");
    if (may_do_all())
        return;
    assert_line("keygen shut/k", 0, 6, "shut/k.pem");
    assert_line("push shut m.flm --name a", 0, 6, "shut");
    assert_line("push shut/o m.flm --name a", 0, 6, "shut/o");
}

/* By whatever name: a link to the input is the input. */
static void misuse_output_onto_input(void **state)
{
    static const char *const lines[] = {
        "make m.flm t.flm --out ?m.flm",
        "make m.flm t.flm --out ?t.flm",
        "make m.flm t.flm --sign k.pem --out ?k.pem",
        "apply m.flm d.fld --out ?m.flm",
        "apply m.flm d.fld --out ?d.fld",
        "apply m.flm d.fld --key k.pem --out ?k.pem",
        "invert m.flm d.fld --out ?d.fld",
        "squash m.flm d.fld --out ?m.flm",
        "sign m.flm --key k.pem --out ?k.pem",
        "sign k.pem --key ?k.pem",
        "import m.st --out ?m.st",
        "import m.st --names m.flm --out ?m.flm",
        "export m.flm --out ?m.flm",
        "cat m.flm fc.bias --out ?m.flm",
        "cat d.fld fc.bias --base m.flm --out ?m.flm",
        "inspect m.flm --html ?m.flm",
        "inspect d.fld --base m.flm --html ?m.flm",
        "inspect m.flm --key k.pem --html ?k.pem",
        "make m.flm t.flm --encoding int8 --residual m.flm --out ?o",
        "make m.flm t.flm --encoding int8 --residual o --out ?o"};
    char line[600];

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        fill_in(line, lines[i], "");
        assert_line(line, 0, 2, "");
    }
    for (size_t i = 0; i + 2 < sizeof lines / sizeof lines[0]; i++) {
        fill_in(line, lines[i], "dir/../");
        assert_line(line, 0, 2, "");
    }
}

static void misuse_of_words(void **state)
{
    static const char *const verbs[] = {"inspect", "verify", "diff",   "log",  "cat",    "make",
                                        "apply",   "invert", "squash", "sign", "digest", "keygen",
                                        "import",  "export", "push",   "pull"};
    char line[600];

    (void)state;
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        snprintf(line, sizeof line, "%s", verbs[i]);
        assert_line(line, 0, 2, "expected"); /* the operands, before any option */
        snprintf(line, sizeof line, "%s --nonsense", verbs[i]);
        assert_line(line, 0, 2, "'--nonsense': unknown");
        snprintf(line, sizeof line, "%s a b c d --json=1", verbs[i]);
        assert_line(line, 0, 2, "");
        snprintf(line, sizeof line, "%s --help", verbs[i]);
        assert_line(line, 0, 0, "");
    }
    assert_line("inspect m.flm --key", 0, 2, "'--key': its value is missing");
    assert_line("nonsense", 0, 2, "'nonsense' is not a verb");
}

/* Help that nobody could read is no success. */
static void misuse_full_standard_output(void **state)
{
    static const char *const lines[] = {
        "--help",       "--version", "inspect --help", "inspect m.flm", "verify m.flm --structure",
        "digest m.flm", "log ."};
    char command[900];

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        snprintf(command, sizeof command, "cd '%s' && '%s' %s >/dev/full 2>/dev/null", scratch.path,
                 harness_program(PROGRAM), lines[i]);
        const int status = system(command);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 6)
            fail_msg("%s: exit status %d", lines[i], WEXITSTATUS(status));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(misuse_unreadable_inputs),
        cmocka_unit_test(misuse_log_of_no_directory),
        cmocka_unit_test(misuse_places_that_cannot_be_written),
        cmocka_unit_test(misuse_output_onto_input),
        cmocka_unit_test(misuse_of_words),
        cmocka_unit_test(misuse_full_standard_output),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
