/* delta/cli.h: option tables, help, man pages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "delta/cli.h"
#include "delta_fixture.h"

static const struct delta_verb_help help = {
    "prog", "verb", "FILE", "Does it.", "First line.\n.second begins with a dot.\n\nNew part.",
    1,      2};

struct values {
    bool flag;
    const char *text, *choice;
    int64_t number;
    double real;
    struct delta_opt_list list;
};

static int parse(struct values *v, int argc, const char **argv, int *first)
{
    struct delta_opt opts[] = {
        {.name = "flag", .kind = DELTA_OPT_FLAG, .value = &v->flag, .help = "a flag"},
        {.name = "text",
         .kind = DELTA_OPT_TEXT,
         .value = &v->text,
         .arg = "T",
         .help = "a text",
         .env = "FROSTLINE_TEST_TEXT"},
        {.name = "pick",
         .kind = DELTA_OPT_CHOICE,
         .value = &v->choice,
         .choices = "ref|blas",
         .help = "one of two"},
        {.name = "number",
         .kind = DELTA_OPT_INT,
         .value = &v->number,
         .arg = "N",
         .low = 1,
         .high = 10,
         .help = "a number"},
        {.name = "real",
         .kind = DELTA_OPT_REAL,
         .value = &v->real,
         .arg = "R",
         .low = 0,
         .high = 1,
         .help = "a share"},
        {.name = "list", .kind = DELTA_OPT_LIST, .value = &v->list, .arg = "L", .help = "many"},
        {.name = NULL}};

    return delta_opt_parse(&help, opts, argc, (char **)(uintptr_t)argv, first);
}

#define PARSE(v, ...)                                                                              \
    parse(v, (int)(sizeof((const char *[]){"verb", __VA_ARGS__}) / sizeof(char *)),                \
          (const char *[]){"verb", __VA_ARGS__, NULL}, &first)

/* stdout and stderr of the calls in between, into `text` */
static int kept[2];
static FILE *spool;

static void catch_begin(void)
{
    fflush(NULL);
    spool = tmpfile();
    kept[0] = dup(1);
    kept[1] = dup(2);
    dup2(fileno(spool), 1);
    dup2(fileno(spool), 2);
}

static void catch_end(char *text, size_t size)
{
    fflush(NULL);
    dup2(kept[0], 1);
    dup2(kept[1], 2);
    close(kept[0]);
    close(kept[1]);
    rewind(spool);
    text[fread(text, 1, size - 1, spool)] = '\0';
    fclose(spool);
}

static void opt_values_are_taken(void **state)
{
    struct values v = {.number = 5};
    int first;

    (void)state;
    assert_int_equal(PARSE(&v, "--flag", "a", "--text=x", "--pick", "blas", "--number", "10", "b",
                           "--real", "0.5", "--list", "1", "--list", "2"),
                     -1);
    assert_true(v.flag);
    assert_string_equal(v.text, "x");
    assert_string_equal(v.choice, "blas");
    assert_int_equal(v.number, 10);
    assert_true(v.real == 0.5);
    assert_int_equal(v.list.count, 2);
    assert_string_equal(v.list.items[1], "2");
}

static void opt_environment_comes_second(void **state)
{
    struct values v = {.number = 5};
    int first;

    (void)state;
    setenv("FROSTLINE_TEST_TEXT", "from-env", 1);
    assert_int_equal(PARSE(&v, "a"), -1);
    assert_string_equal(v.text, "from-env");
    assert_int_equal(PARSE(&v, "a", "--text", "from-argv"), -1);
    assert_string_equal(v.text, "from-argv");
    unsetenv("FROSTLINE_TEST_TEXT");
}

static void opt_wrong_usage_is_2_and_says_what(void **state)
{
    static const struct {
        const char *args[4];
        const char *word;
    } rows[] = {
        {{"a", "--nope"}, "--nope"},        {{"a", "--number", "11"}, "11"},
        {{"a", "--number", "0"}, "within"}, {{"a", "--number", "1x"}, "1x"},
        {{"a", "--real", "nan"}, "nan"},    {{"a", "--pick", "cuda"}, "ref|blas"},
        {{"a", "--text"}, "--text"},        {{"--flag"}, "FILE expected"},
        {{"a", "b", "c"}, "'c'"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct values v = {.number = 5};
        const char *argv[6] = {"verb"};
        char text[2000];
        int argc = 1, first;
        for (; argc < 5 && rows[i].args[argc - 1]; argc++)
            argv[argc] = rows[i].args[argc - 1];
        catch_begin();
        const int rc = parse(&v, argc, argv, &first);
        catch_end(text, sizeof text);
        assert_int_equal(rc, 2);
        assert_int_equal(strncmp(text, "prog verb: ", 11), 0);
        if (!strstr(text, rows[i].word))
            fail_msg("row %zu: %s", i, text);
    }
}

static void opt_help_and_man(void **state)
{
    struct values v = {.number = 5};
    char text[8000];
    int first;

    (void)state;
    catch_begin();
    const int rc = PARSE(&v, "--help");
    catch_end(text, sizeof text);
    assert_int_equal(rc, 0);
    assert_non_null(strstr(text, "usage: prog verb"));
    assert_non_null(strstr(text, "FROSTLINE_TEST_TEXT"));
    assert_non_null(strstr(text, "--pick ref|blas"));
    catch_begin();
    const int man = PARSE(&v, "--help=man");
    catch_end(text, sizeof text);
    assert_int_equal(man, 0);
    assert_int_equal(strncmp(text, ".TH prog-verb 1", 15), 0);
    assert_non_null(strstr(text, "\n.SH OPTIONS\n"));
    assert_non_null(strstr(text, "\n\\&.second")); /* no accidental troff request */
    assert_non_null(strstr(text, "\n.PP\nNew part."));
    assert_non_null(strstr(text, "\\-\\-flag"));
}

static void human_bytes(void **state)
{
    char out[16];

    (void)state;
    assert_string_equal(delta_human_bytes(out, 0), "0 B");
    assert_string_equal(delta_human_bytes(out, 999), "999 B");
    assert_string_equal(delta_human_bytes(out, 1305), "1.3 KB");
    assert_string_equal(delta_human_bytes(out, 2856744), "2.9 MB");
    assert_string_equal(delta_human_bytes(out, 1e15), "1000.0 TB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opt_values_are_taken),
        cmocka_unit_test(opt_environment_comes_second),
        cmocka_unit_test(opt_wrong_usage_is_2_and_says_what),
        cmocka_unit_test(opt_help_and_man),
        cmocka_unit_test(human_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
