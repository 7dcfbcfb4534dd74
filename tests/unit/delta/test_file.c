#include "delta/file.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "delta_fixture.h"

static struct harness_scratch scratch;
static char path[300];

static int setup(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    harness_scratch_make(&scratch);
    snprintf(path, sizeof path, "%s", harness_path(&scratch, "file"));
    assert_ok(delta_file_write(path, delta_bytes("old", 3), 0644, &err));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

static void assert_content(const char *want)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;

    assert_ok(delta_file_read(path, 1 << 20, &file, &err));
    assert_int_equal(file.len, strlen(want));
    assert_memory_equal(file.data, want, file.len);
    delta_buf_release(&file);
}

static size_t entries(void)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_dir_list list;

    assert_ok(delta_dir_read(&list, scratch.path, 100, &err));
    const size_t count = list.count;
    delta_dir_list_release(&list);
    return count;
}

static void file_is_replaced_whole(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct stat info;

    (void)state;
    assert_ok(delta_file_write(path, delta_bytes("new content", 11), 0600, &err));
    assert_content("new content");
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_int_equal(entries(), 1);
}

/* A process that dies at each step of writing; what is read afterwards is old or new, never half.
 */
static void file_survives_death_at_every_step(void **state)
{
    (void)state;
    for (int step = 0; step < 4; step++) {
        const pid_t pid = fork();
        if (pid == 0) {
            struct delta_newfile file;
            if (delta_newfile_open(&file, path, 0644, NULL))
                _exit(9);
            if (step == 0)
                _exit(0);
            if (delta_newfile_write(&file, delta_bytes("newer", 5), NULL))
                _exit(9);
            if (step == 1)
                raise(SIGKILL);
            if (delta_newfile_write(&file, delta_bytes(" half", 5), NULL))
                _exit(9);
            if (step == 2)
                _exit(0);
            if (delta_newfile_commit(&file, NULL))
                _exit(9);
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(!WIFEXITED(status) || WEXITSTATUS(status) == 0);
        assert_content(step < 3 ? "old" : "newer half");
    }
    assert_int_equal(entries(), 1 + 3); /* leftovers, recognisable by their names */
}

/* What lies in the way of a file that must be new stays as it is, links and all. */
static void file_new_never_replaces(void **state)
{
    static const char *const ways[] = {"file", "link", "dangling", "loop", "dir"};
    struct delta_error err = DELTA_ERROR_INIT;
    char way[600], link[300];
    struct stat before, after;

    (void)state;
    assert_int_equal(symlink(path, harness_path(&scratch, "link")), 0);
    assert_int_equal(symlink("nowhere", harness_path(&scratch, "dangling")), 0);
    assert_int_equal(symlink("loop", harness_path(&scratch, "loop")), 0);
    assert_ok(delta_dir_make(harness_path(&scratch, "dir"), 0755, &err));
    const size_t count = entries();
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        snprintf(way, sizeof way, "%s", harness_path(&scratch, ways[i]));
        assert_int_equal(lstat(way, &before), 0);
        assert_status(delta_file_write_new(way, delta_bytes("new", 3), 0600, &err), DELTA_EXISTS);
        assert_non_null(strstr(err.text, way));
        assert_int_equal(lstat(way, &after), 0);
        assert_int_equal(before.st_ino, after.st_ino);
        assert_int_equal(before.st_mode, after.st_mode);
    }
    assert_content("old");
    assert_true(readlink(harness_path(&scratch, "dangling"), link, sizeof link) == 7);
    assert_int_equal(entries(), count);
    const mode_t kept = umask(0);
    assert_ok(delta_file_remove(path, &err));
    assert_ok(delta_file_write_new(path, delta_bytes("new", 3), 0600, &err));
    umask(kept);
    assert_content("new");
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_mode & 0777, 0600);
    assert_int_equal(after.st_nlink, 1);
    assert_int_equal(entries(), count);
}

/* Whoever dies before the end leaves a temporary name and nothing else; the next one succeeds. */
static void file_new_survives_death_at_every_step(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    assert_ok(delta_file_remove(path, &err));
    for (int step = 0; step < 3; step++) {
        const pid_t pid = fork();
        if (pid == 0) {
            struct delta_newfile file;
            if (delta_newfile_open(&file, path, 0600, NULL))
                _exit(9);
            if (step > 0 && delta_newfile_write(&file, delta_bytes("half", 4), NULL))
                _exit(9);
            if (step > 1 && fsync(file.fd))
                _exit(9);
            raise(SIGKILL);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        assert_false(delta_file_exists(path));
    }
    assert_ok(delta_file_write_new(path, delta_bytes("whole", 5), 0600, &err));
    assert_content("whole");
}

/* Of many writers at once one succeeds, and its content is what lies there. */
static void file_new_has_one_writer(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    char winner = 0, text[2] = "";
    pid_t children[8];
    int gate[2];

    (void)state;
    assert_ok(delta_file_remove(path, &err));
    assert_int_equal(pipe(gate), 0);
    for (int i = 0; i < 8; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            char byte;
            close(gate[1]);
            text[0] = (char)('a' + i);
            _exit(read(gate[0], &byte, 1) /* until all are there */
                      ? 9
                      : (int)delta_file_write_new(path, delta_bytes(text, 1), 0600, NULL));
        }
    }
    close(gate[0]);
    close(gate[1]);
    for (int i = 0; i < 8; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) == 0) {
            assert_int_equal(winner, 0);
            winner = (char)('a' + i);
        } else {
            assert_int_equal(WEXITSTATUS(status), DELTA_EXISTS);
        }
    }
    text[0] = winner;
    assert_content(text);
    assert_int_equal(entries(), 1);
}

static void file_dropped_leaves_nothing(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_newfile file;

    (void)state;
    assert_ok(delta_newfile_open(&file, path, 0644, &err));
    assert_int_equal(entries(), 2);
    assert_ok(delta_newfile_write(&file, delta_bytes("x", 1), &err));
    delta_newfile_release(&file);
    delta_newfile_release(&file);
    assert_int_equal(entries(), 1);
    assert_content("old");
}

/* A file size limit stands for a disk that fills up half way. */
static void file_full_disk_keeps_the_old(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct rlimit kept, small;
    char *big = calloc(1, 100000);

    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &kept), 0);
    small = (struct rlimit){4096, kept.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    const enum delta_status st = delta_file_write(path, delta_bytes(big, 100000), 0644, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &kept), 0);
    assert_int_equal(st, DELTA_NO_SPACE);
    assert_non_null(strstr(err.text, path));
    assert_content("old");
    assert_int_equal(entries(), 1);
    free(big);
}

static void file_dev_full_is_no_space(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_newfile file = {open("/dev/full", O_WRONLY), NULL, NULL};

    (void)state;
    assert_true(file.fd >= 0);
    file.path = strdup("/dev/full");
    assert_status(delta_newfile_write(&file, delta_bytes("x", 1), &err), DELTA_NO_SPACE);
    delta_newfile_release(&file);
}

static void file_reading_is_bounded(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    struct delta_map map;

    (void)state;
    assert_status(delta_file_read(path, 2, &file, &err), DELTA_LIMIT);
    assert_status(delta_file_read(scratch.path, 100, &file, &err), DELTA_FORMAT);
    assert_status(delta_file_read("/dev/zero", 100, &file, &err), DELTA_FORMAT);
    assert_status(delta_file_read(harness_path(&scratch, "absent"), 100, &file, &err),
                  DELTA_NOT_FOUND);
    assert_ok(delta_map_open(&map, path, &err));
    assert_int_equal(map.bytes.len, 3);
    delta_map_release(&map);
    delta_map_release(&map);
    assert_ok(delta_file_write(path, delta_bytes("", 0), 0644, &err));
    assert_ok(delta_map_open(&map, path, &err));
    assert_int_equal(map.bytes.len, 0);
    delta_map_release(&map);
    assert_ok(delta_file_read(path, 0, &file, &err));
    delta_buf_release(&file);
}

static void file_directories(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_dir_list list;

    (void)state;
    assert_ok(delta_dir_make(harness_path(&scratch, "a/b/c"), 0755, &err));
    assert_ok(delta_dir_make(harness_path(&scratch, "a/b/c"), 0755, &err));
    assert_true(delta_dir_make(path, 0755, &err) != DELTA_OK);
    assert_ok(delta_file_write(harness_path(&scratch, "a/z"), delta_bytes("", 0), 0644, &err));
    assert_ok(delta_file_write(harness_path(&scratch, "a/.h"), delta_bytes("", 0), 0644, &err));
    assert_ok(delta_dir_read(&list, harness_path(&scratch, "a"), 2, &err));
    assert_int_equal(list.count, 2);
    assert_string_equal(list.names[0], "b");
    assert_string_equal(list.names[1], "z");
    delta_dir_list_release(&list);
    assert_status(delta_dir_read(&list, harness_path(&scratch, "a"), 1, &err), DELTA_LIMIT);
    assert_status(delta_dir_read(&list, harness_path(&scratch, "none"), 1, &err), DELTA_NOT_FOUND);
    assert_ok(delta_file_rename(path, harness_path(&scratch, "a/moved"), &err));
    assert_false(delta_file_exists(path));
    assert_ok(delta_file_copy(harness_path(&scratch, "a/moved"), path, 0644, &err));
    assert_content("old");
    assert_ok(delta_file_remove(path, &err));
    assert_ok(delta_file_remove(path, &err));
}

static void file_lock_excludes_another_process(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    int fd, again, status;

    (void)state;
    assert_ok(delta_file_lock(path, &fd, &err));
    const pid_t pid = fork();
    if (pid == 0)
        _exit(delta_file_lock(path, &again, NULL) == DELTA_EXISTS ? 0 : 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(fd);
    assert_ok(delta_file_lock(path, &fd, &err));
    close(fd);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(file_is_replaced_whole),
        CASE(file_survives_death_at_every_step),
        CASE(file_new_never_replaces),
        CASE(file_new_survives_death_at_every_step),
        CASE(file_new_has_one_writer),
        CASE(file_dropped_leaves_nothing),
        CASE(file_full_disk_keeps_the_old),
        CASE(file_dev_full_is_no_space),
        CASE(file_reading_is_bounded),
        CASE(file_directories),
        CASE(file_lock_excludes_another_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
