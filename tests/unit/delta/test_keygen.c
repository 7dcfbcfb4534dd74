/* keygen: a private key is made whole or not at all, and never over what lies there. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta_fixture.h"

#define PROGRAM "frostline-delta"

static struct harness_scratch scratch;
static struct harness_result r;
static struct delta_error err;

static int setup(void **state)
{
    (void)state;
    harness_scratch_make(&scratch);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

static void in_scratch(char out[300], const char *name)
{
    snprintf(out, 300, "%s", harness_path(&scratch, name));
}

/* The two halves of the pair at <scratch>/<name>.pem belong together. */
static void assert_pair(const char *name)
{
    struct delta_public_key a, b;
    char half[300], file[100];

    snprintf(file, sizeof file, "%s.pem", name);
    in_scratch(half, file);
    assert_ok(delta_public_key_load(&a, half, &err));
    snprintf(file, sizeof file, "%s.pub.pem", name);
    in_scratch(half, file);
    assert_ok(delta_public_key_load(&b, half, &err));
    assert_memory_equal(a.id.bytes, b.id.bytes, DELTA_DIGEST_BYTES);
}

static void keygen_never_overwrites(void **state)
{
    struct delta_public_key before, after;
    char name[300], secret[300];
    struct stat info;

    (void)state;
    in_scratch(name, "k");
    in_scratch(secret, "k.pem");
    harness_run(&r, PROGRAM, "keygen", name, "--json", NULL);
    assert_int_equal(r.status, 0);
    assert_int_equal(stat(secret, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_ok(delta_public_key_load(&before, secret, &err));
    harness_run(&r, PROGRAM, "keygen", name, NULL);
    assert_int_equal(r.status, 3);
    assert_non_null(strstr(r.err, "--force"));
    assert_ok(delta_public_key_load(&after, secret, &err));
    assert_memory_equal(before.id.bytes, after.id.bytes, DELTA_DIGEST_BYTES);
    assert_pair("k");
}

/* What is in the way of either half stays; a half that was made before is taken back. */
static void keygen_minds_what_is_in_the_way(void **state)
{
    char name[300], secret[300], open[300], elsewhere[300];
    struct stat info;

    (void)state;
    in_scratch(name, "way");
    in_scratch(secret, "way.pem");
    in_scratch(open, "way.pub.pem");
    in_scratch(elsewhere, "elsewhere");
    const char *const halves[] = {secret, open};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(symlink(elsewhere, halves[i]), 0);
        harness_run(&r, PROGRAM, "keygen", name, NULL);
        assert_int_equal(r.status, 3);
        assert_non_null(strstr(r.err, "--force"));
        assert_int_equal(lstat(elsewhere, &info), -1); /* nothing was written through the link */
        assert_int_equal(lstat(halves[1 - i], &info), -1);
        assert_int_equal(unlink(halves[i]), 0);
        assert_int_equal(mkdir(halves[i], 0755), 0);
        harness_run(&r, PROGRAM, "keygen", name, NULL);
        assert_int_equal(r.status, 3);
        harness_run(&r, PROGRAM, "keygen", name, "--force", NULL);
        assert_int_equal(r.status, i ? 6 : 3);
        assert_null(strstr(r.err, "--force"));
        assert_int_equal(rmdir(halves[i]), 0);
        (void)unlink(halves[1 - i]);
    }
    assert_int_equal(symlink(elsewhere, secret), 0);
    harness_run(&r, PROGRAM, "keygen", name, "--force", NULL);
    assert_int_equal(r.status, 0);
    assert_int_equal(lstat(elsewhere, &info), -1);
    assert_int_equal(lstat(secret, &info), 0);
    assert_true(S_ISREG(info.st_mode));
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_pair("way");
    harness_run(&r, PROGRAM, "keygen", name, "--force", NULL);
    assert_int_equal(r.status, 0);
    assert_pair("way");
}

/* A process killed in the middle of writing (a limit on file size does it after 100 bytes). */
static void keygen_killed_half_way_leaves_no_key(void **state)
{
    char name[300], file[300];
    const char *program = harness_program(PROGRAM);
    int status;

    (void)state;
    in_scratch(name, "killed");
    const pid_t child = fork();
    if (child == 0) {
        const struct rlimit small = {100, 100};
        if (setrlimit(RLIMIT_FSIZE, &small))
            _exit(120);
        execl(program, PROGRAM, "keygen", name, (char *)NULL);
        _exit(121);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 6);
    in_scratch(file, "killed.pem");
    assert_false(delta_file_exists(file));
    in_scratch(file, "killed.pub.pem");
    assert_false(delta_file_exists(file));
    harness_run(&r, PROGRAM, "keygen", name, NULL);
    assert_int_equal(r.status, 0);
    assert_pair("killed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keygen_never_overwrites),
        cmocka_unit_test(keygen_minds_what_is_in_the_way),
        cmocka_unit_test(keygen_killed_half_way_leaves_no_key),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
