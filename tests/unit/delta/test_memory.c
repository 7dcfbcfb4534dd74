/* Whatever the bytes, looking at n of them takes at most 64 n + 64 MiB of address space, program
 * included, and no work out of all proportion. The limits are set on the process, so that nobody
 * can look away. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta_fixture.h"

#define PROGRAM "frostline-delta"
#define FACTOR 64
#define CONSTANT ((rlim_t)64 << 20)
#define SECONDS 10 /* of processor time; honest files of these sizes take a tenth */

static struct harness_scratch scratch;
static struct delta_error err;

static int setup(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    print_message("SKIP: a sanitizer maps terabytes; no limit can be set\n");
    exit(77);
#endif
    harness_scratch_make(&scratch);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

/* Exit status of `frostline-delta VERB PATH` under the limit. */
static int run_limited(const char *verb, const char *path, rlim_t limit)
{
    const char *program = harness_program(PROGRAM);
    int status;
    const pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit all = {limit, limit}, time = {SECONDS, SECONDS};
        if (setrlimit(RLIMIT_AS, &all) || setrlimit(RLIMIT_CPU, &time) ||
            !freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
            _exit(120);
        execl(program, PROGRAM, verb, path, (char *)NULL);
        _exit(121);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void assert_frugal(const char *path, int wanted)
{
    struct stat info;

    assert_int_equal(stat(path, &info), 0);
    const int status = run_limited("inspect", path, CONSTANT + FACTOR * (rlim_t)info.st_size);
    if (wanted >= 0 ? status != wanted : status != 0 && status != 3)
        fail_msg("%s, %lld bytes: exit status %d", path, (long long)info.st_size, status);
}

static void memory_of_golden_files_is_bounded(void **state)
{
    static const char *const folders[] = {"good", "bad"};
    char dir[700], path[1024];

    (void)state;
    for (size_t f = 0; f < 2; f++) {
        struct delta_dir_list list;
        snprintf(dir, sizeof dir, "%s/tests/golden/%s", getenv("FROSTLINE_SOURCE"), folders[f]);
        assert_ok(delta_dir_read(&list, dir, 1000, &err));
        for (size_t i = 0; i < list.count; i++) {
            snprintf(path, sizeof path, "%s/%s", dir, list.names[i]);
            assert_frugal(path, -1);
        }
        delta_dir_list_release(&list);
    }
}

/* `len` bytes: `head`, then `unit` again and again. */
static const char *made_file(const char *name, struct delta_bytes head, struct delta_bytes unit,
                             size_t len)
{
    const char *path = harness_path(&scratch, name);
    uint8_t *bytes = malloc(len);

    assert_non_null(bytes);
    for (size_t i = 0; i < len; i++)
        bytes[i] = i < head.len ? head.data[i] : unit.data[(i - head.len) % unit.len];
    assert_ok(delta_file_write(path, delta_bytes(bytes, len), 0644, &err));
    free(bytes);
    return path;
}

static void put_le(uint8_t *at, size_t len, uint64_t value)
{
    for (size_t i = 0; i < len; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

#define TEXT(text) delta_bytes(text, sizeof(text) - 1)

static void memory_of_bombs_is_bounded(void **state)
{
    const size_t mib = 1 << 20;

    (void)state;
    /* an array of half a billion: alone, and as the header of a delta of five bytes */
    assert_frugal(made_file("five", TEXT("\xdd\x20\0\0\0"), TEXT("x"), 5), 3);
    assert_frugal(made_file("array.fld",
                            TEXT("\x89"
                                 "FLD\r\n\x1a\1\5\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                                 "\xdd\x20\0\0\0"),
                            TEXT("\0"), 64),
                  3);
    /* a header of 16 MiB of one-byte values */
    assert_frugal(made_file("values.fld",
                            TEXT("\x89"
                                 "FLD\r\n\x1a\1\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0"
                                 "\xdd\0\xff\xff\xfb"),
                            TEXT("\1"), 16 * mib + 64),
                  3);
    /* 3 MiB of JSON: brackets, numbers */
    assert_frugal(made_file("brackets.safetensors", TEXT("\0\0\x30\0\0\0\0\0{\"a\":"), TEXT("["),
                            3 * mib + 8),
                  3);
    assert_frugal(made_file("numbers.safetensors", TEXT("\0\0\x30\0\0\0\0\0{\"a\":["), TEXT("0,"),
                            3 * mib + 8),
                  3);
    /* a header that states 2^63 bytes */
    assert_frugal(made_file("huge.safetensors", TEXT("\0\0\0\0\0\0\0\x80{"), TEXT(" "), 64), 3);
    /* a zip that lists 65,535 members */
    assert_frugal(made_file("members.npz", TEXT("PK\3\4"), TEXT("PK\1\2"), mib), 3);
}

/* A zip whose 8192 members all are the same 8 MiB: to sum each up would take minutes. */
static void work_on_an_overlapping_zip_is_bounded(void **state)
{
    const size_t content = 8 << 20, members = 8192, local = 31, entry = 47;
    const size_t len = local + content + members * entry + 22;
    const char *path = harness_path(&scratch, "overlap.npz");
    uint8_t *file = calloc(len, 1), *at = file + local + content;

    (void)state;
    assert_non_null(file);
    memcpy(file, "PK\3\4", 4);
    put_le(file + 18, 4, content);
    put_le(file + 22, 4, content);
    put_le(file + 26, 2, 1);
    file[30] = 'a';
    const uint32_t sum = 0x1ad2bc45; /* wrong ones would end it after the first */
    put_le(file + 14, 4, sum);
    for (size_t i = 0; i < members; i++, at += entry) {
        memcpy(at, "PK\1\2", 4);
        put_le(at + 16, 4, sum);
        put_le(at + 20, 4, content);
        put_le(at + 24, 4, content);
        put_le(at + 28, 2, 1);
        at[46] = 'a';
    }
    memcpy(at, "PK\5\6", 4);
    put_le(at + 8, 2, members);
    put_le(at + 10, 2, members);
    put_le(at + 12, 4, members * entry);
    put_le(at + 16, 4, local + content);
    assert_ok(delta_file_write(path, delta_bytes(file, len), 0644, &err));
    free(file);
    assert_frugal(path, 3);
}

/* ---- files of 2 GB: a few bytes of each tell that it is none of ours, or not whole ---- */

#define HUGE_BYTES ((off_t)2000000000)

/* A sparse file: `head`, and `tail` at its end. */
static const char *huge_file(const char *name, struct delta_bytes head, struct delta_bytes tail)
{
    char inner[64];
    const char *path;
    FILE *file;

    snprintf(inner, sizeof inner, "huge/%s", name);
    path = harness_path(&scratch, inner);
    file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(head.data, 1, head.len, file), head.len);
    assert_int_equal(ftruncate(fileno(file), HUGE_BYTES), 0);
    if (tail.len) {
        assert_int_equal(fseeko(file, -(off_t)tail.len, SEEK_END), 0);
        assert_int_equal(fwrite(tail.data, 1, tail.len, file), tail.len);
    }
    assert_int_equal(fclose(file), 0);
    return path;
}

static void assert_huge_is_refused(const char *path)
{
    static const char *const verbs[] = {"inspect", "verify", "digest"};

    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        const int status = run_limited(verbs[i], path, CONSTANT); /* reading it would give 6 */
        if (status != 3)
            fail_msg("%s %s: exit status %d", verbs[i], path, status);
    }
}

static void huge_files_are_refused_unread(void **state)
{
    uint8_t front[24] = "\x89"
                        "FLM\r\n\x1a\1\5";
    const uint64_t payload = HUGE_BYTES - 64;
    struct delta_bytes none = delta_bytes(NULL, 0);

    (void)state;
    assert_ok(delta_dir_make(harness_path(&scratch, "huge"), 0755, &err));
    assert_huge_is_refused(huge_file("zeros", TEXT("\0"), none));
    assert_huge_is_refused(huge_file("film",
                                     TEXT("\0\0\0\x18"
                                          "ftypmp42"),
                                     none));
    /* a model and a delta whose lengths do not add up to that */
    assert_huge_is_refused(huge_file("short.flm", delta_bytes(front, 24), none));
    front[3] = 'D';
    assert_huge_is_refused(huge_file("short.fld", delta_bytes(front, 24), none));
    /* ... and whose lengths do, but whose header is none */
    put_le(front + 16, 8, payload);
    assert_huge_is_refused(huge_file("header.fld", delta_bytes(front, 24), none));
    front[3] = 'M';
    assert_huge_is_refused(huge_file("header.flm", delta_bytes(front, 24), none));
    /* tensors that do not fill the file; an archive without an end, and one that lies about it */
    assert_huge_is_refused(
        huge_file("few.safetensors",
                  TEXT("\x41\0\0\0\0\0\0\0"
                       "{\"fc.weight\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"),
                  none));
    assert_huge_is_refused(huge_file("zip.npz", TEXT("PK\3\4"), none));
    assert_huge_is_refused(huge_file("lie.npz", TEXT("PK\3\4"),
                                     TEXT("PK\5\6\0\0\0\0\1\0\1\0\x40\0\0\0\x10\0\0\0\0\0")));
    /* all of them in one directory: none is worth more than a line, four are ours and faulty */
    assert_int_equal(run_limited("log", harness_path(&scratch, "huge"), CONSTANT), 1);
}

/* That the limit bites at all: a few MiB are not enough for the program itself. */
static void memory_limit_is_felt(void **state)
{
    (void)state;
    const char *path = made_file("six", TEXT("hello "), TEXT("x"), 6);

    assert_int_equal(run_limited("inspect", path, CONSTANT), 3);
    assert_int_not_equal(run_limited("inspect", path, (rlim_t)1 << 20), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_of_golden_files_is_bounded),
        cmocka_unit_test(memory_of_bombs_is_bounded),
        cmocka_unit_test(work_on_an_overlapping_zip_is_bounded),
        cmocka_unit_test(huge_files_are_refused_unread),
        cmocka_unit_test(memory_limit_is_felt),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
