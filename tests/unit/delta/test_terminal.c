/* What people see: colours on a terminal only, and 80 columns either way. */
#include <errno.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta_fixture.h"

#define PROGRAM "frostline-delta"

static struct harness_scratch scratch;
static char base[300], fld[300];

/* A long tensor name, and changes of very different sizes. */
static int setup(void **state)
{
    static const char name[] = "features.18.conv.3.block.of.layers.running_mean";
    const uint64_t shape[2] = {40, 30};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model from, to;
    struct delta_tensor *tensor;
    struct delta_class_id id;
    struct delta_buf file;

    (void)state;
    harness_scratch_make(&scratch);
    snprintf(base, sizeof base, "%s", harness_path(&scratch, "base.flm"));
    snprintf(fld, sizeof fld, "%s", harness_path(&scratch, "d.fld"));
    fixture_model(&from);
    assert_ok(delta_model_add_tensor(&from, name, 2, shape, &tensor, &err));
    assert_ok(delta_model_copy(&to, &from, &err));
    assert_ok(delta_model_digest(&from, &to.parent, &err));
    assert_ok(delta_class_id_make(&id, "a-class-whose-name-takes-a-good-part-of-a-line", &err));
    assert_ok(delta_model_grow_head(&to, &id, 1, &err));
    tensor = delta_model_find(&to, name);
    for (size_t i = 0; i < tensor->count; i += 7)
        tensor->data[i] = i < 600 ? 1.25e-30f * (float)i : 3.75e+30f;
    assert_ok(delta_diff(&from, &to, NULL, &file, &err));
    assert_ok(delta_file_write(fld, delta_buf_bytes(&file), 0644, &err));
    assert_ok(delta_model_save(&from, base, &err));
    delta_buf_release(&file);
    delta_model_release(&from);
    delta_model_release(&to);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

/* `inspect --base` with a terminal for its standard output. */
static void inspect_on_terminal(const char *variable, const char *value, char *out, size_t size)
{
    const char *program = harness_program(PROGRAM);
    size_t have = 0;
    int master, status;
    const pid_t child = forkpty(&master, NULL, NULL, NULL);

    assert_true(child >= 0);
    if (child == 0) {
        setenv("TERM", "xterm-256color", 1);
        unsetenv("NO_COLOR");
        if (variable)
            setenv(variable, value, 1);
        execl(program, PROGRAM, "inspect", fld, "--base", base, (char *)NULL);
        _exit(121);
    }
    while (have + 1 < size) {
        const ssize_t got = read(master, out + have, size - have - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) /* EIO: the other end has closed */
            break;
        have += (size_t)got;
    }
    out[have] = '\0';
    close(master);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Columns of the longest line; escape sequences take none. */
static size_t columns(const char *text)
{
    size_t most = 0, column = 0;

    for (const char *p = text; *p; p++) {
        if (*p == '\033') {
            p += strcspn(p, "m");
            continue;
        }
        column = *p == '\n' ? 0 : *p == '\r' ? column : column + 1;
        most = column > most ? column : most;
    }
    return most;
}

static void colours_are_for_terminals_only(void **state)
{
    static char text[65536];
    struct harness_result r;

    (void)state;
    inspect_on_terminal(NULL, NULL, text, sizeof text);
    assert_non_null(strstr(text, "\033[48;5;"));
    assert_null(strstr(text, "where: each tensor")); /* signs need a legend, colours none */
    inspect_on_terminal("NO_COLOR", "1", text, sizeof text);
    assert_null(strchr(text, '\033'));
    inspect_on_terminal("TERM", "dumb", text, sizeof text);
    assert_null(strchr(text, '\033'));
    harness_run(&r, PROGRAM, "inspect", fld, "--base", base, NULL);
    assert_int_equal(r.status, 0);
    assert_null(strchr(r.out, '\033'));
    assert_non_null(strstr(r.out, "where: each tensor"));
}

static void lines_fit_eighty_columns(void **state)
{
    static char text[65536];
    struct harness_result r;

    (void)state;
    inspect_on_terminal(NULL, NULL, text, sizeof text);
    /* the path of the file is as long as it is */
    const char *rest = strstr(text, "size ");
    assert_non_null(rest);
    assert_in_range(columns(rest), 60, 80);
    harness_run(&r, PROGRAM, "inspect", fld, "--base", base, NULL);
    rest = strstr(r.out, "size ");
    assert_non_null(rest);
    assert_in_range(columns(rest), 60, 80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(colours_are_for_terminals_only),
        cmocka_unit_test(lines_fit_eighty_columns),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
