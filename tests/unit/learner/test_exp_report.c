/* Reports and pictures of a results file made by hand (tests/golden/experiment): tables letter by
 * letter, PNG through libpng, SVG as a tree of tags. */
#include "harness.h"

#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "experiment/draw.h"
#include "experiment/exp_table.h"
#include "learner/experiment.h"

static struct harness_scratch scratch;
static struct delta_error err;

static int set_up(void **state)
{
    (void)state;
    harness_scratch_make(&scratch);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

static const char *golden(const char *name)
{
    static char paths[4][600];
    static unsigned next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof paths[0], "%s/tests/golden/experiment/%s", getenv("FROSTLINE_SOURCE"),
             name);
    return path;
}

static void reports_are_as_they_were(void **state)
{
    static const char *const names[] = {"report.txt", "report.md", "report.json"};
    (void)state;

    for (int format = LEARNER_REPORT_TEXT; format <= LEARNER_REPORT_JSON; format++) {
        struct delta_buf made, wanted;
        assert_ok(learner_experiment_report(&made, golden("results.jsonl"),
                                            (enum learner_report_format)format, &err));
        assert_ok(delta_file_read(golden(names[format]), (size_t)1 << 24, &wanted, &err));
        if (!delta_bytes_equal(delta_buf_bytes(&made), delta_buf_bytes(&wanted))) {
            const char *path = harness_path(&scratch, names[format]);
            assert_ok(delta_file_write(path, delta_buf_bytes(&made), 0644, &err));
            fail_msg("%s is not as it was:\n%.*s", names[format], (int)made.len, made.data);
        }
        delta_buf_release(&made);
        delta_buf_release(&wanted);
    }
}

/* Worked out by hand: seeds 1 and 2, groups +0 and +0.5, around 60 - 0.5 and 60 + 0.5. */
static void statistics_go_over_groups_then_draws(void **state)
{
    struct exp_tables tables;
    (void)state;

    assert_ok(exp_tables_read(&tables, golden("results.jsonl"), &err));
    assert_int_equal(tables.count, 2);
    const struct exp_row *row = &tables.tables[0].rows[0];
    assert_string_equal(row->label, "frostline");
    assert_int_equal(row->runs, 4);
    assert_int_equal(row->metrics[EXP_ALL].count, 2);
    assert_float_equal(row->metrics[EXP_ALL].mean, 60.25, 1e-9);
    assert_float_equal(row->metrics[EXP_ALL].deviation, 0.70710678, 1e-6);
    assert_float_equal(row->metrics[EXP_GAP].mean, 2, 1e-9);
    assert_float_equal(row->metrics[EXP_GAP].deviation, 0, 1e-9);
    assert_int_equal(tables.tables[1].step_count, 3);
    assert_int_equal(tables.tables[1].rows[0].steps[2].classes, 96);
    assert_int_equal(tables.tables[1].rows[0].metrics[EXP_GAP].count, 0); /* no joint there */
    exp_tables_release(&tables);
}

/* Tags open and close in order, texts hold no bare < or &, one root. */
static void check_svg(const char *path)
{
    struct delta_buf file;
    char names[16][24];
    size_t depth = 0, roots = 0;

    assert_ok(delta_file_read(path, (size_t)1 << 24, &file, &err));
    assert_ok(delta_buf_append(&file, "", 1, &err));
    for (const char *at = (const char *)file.data; *at; at++) {
        if (*at == '&')
            assert_true(strncmp(at, "&amp;", 5) == 0 || strncmp(at, "&lt;", 4) == 0 ||
                        strncmp(at, "&gt;", 4) == 0 || strncmp(at, "&quot;", 6) == 0);
        if (*at != '<')
            continue;
        const char *end = strchr(at, '>');
        assert_non_null(end);
        if (at[1] == '/') {
            assert_true(depth > 0);
            depth--;
            assert_int_equal(strncmp(at + 2, names[depth], strlen(names[depth])), 0);
        } else if (end[-1] != '/') {
            assert_true(depth < 16);
            roots += depth == 0;
            snprintf(names[depth++], sizeof names[0], "%.*s", (int)strcspn(at + 1, " >"), at + 1);
        }
        at = end;
    }
    assert_int_equal(depth, 0);
    assert_int_equal(roots, 1);
    delta_buf_release(&file);
}

/* Every picture has white paper, ink, and the first colour of the palette where it has bars or
 * lines. */
static void check_png(const char *path, bool coloured)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    size_t white = 0, blue = 0, dark = 0;

    assert_true(png_image_begin_read_from_file(&image, path));
    assert_int_equal(image.width, 860 * DRAW_SCALE);
    assert_true(image.height > 250 && image.height < 4000);
    image.format = PNG_FORMAT_RGB;
    uint8_t *pixels = malloc(PNG_IMAGE_SIZE(image));
    assert_non_null(pixels);
    assert_true(png_image_finish_read(&image, NULL, pixels, 0, NULL));
    const size_t count = (size_t)image.width * image.height;
    for (size_t i = 0; i < count; i++) {
        const unsigned colour =
            (unsigned)pixels[3 * i] << 16 | (unsigned)pixels[3 * i + 1] << 8 | pixels[3 * i + 2];
        white += colour == 0xffffff;
        blue += colour == 0x0072b2;
        dark += colour == 0x222222;
    }
    free(pixels);
    assert_true(white > count / 2);
    assert_true(dark > 500);
    assert_true(!coloured || blue > 50);
}

static void pictures_can_be_read(void **state)
{
    static const char *const names[] = {
        "golden-r18-P1-1-bars",     "golden-r18-P1-1-ratio-sweep", "golden-r18-P1-1-overhead",
        "golden-r18-P1-1-seconds",  "golden-r18-P2-2-steps",       "golden-r18-P2-2-growth",
        "golden-r18-P2-2-overhead", "golden-r18-P2-2-seconds",     "golden-r18-P2-2-bars"};
    char dir[300], path[600];
    size_t count;
    (void)state;

    snprintf(dir, sizeof dir, "%s", harness_path(&scratch, "pictures"));
    assert_ok(learner_experiment_pictures(golden("results.jsonl"), dir, &count, &err));
    assert_int_equal(count, sizeof names / sizeof names[0]);
    for (size_t i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s.svg", dir, names[i]);
        check_svg(path);
        snprintf(path, sizeof path, "%s/%s.png", dir, names[i]);
        check_png(path, true);
    }
}

static bool contains(const char *path, const char *wanted)
{
    struct delta_buf file;
    bool found;

    assert_ok(delta_file_read(path, (size_t)1 << 24, &file, &err));
    assert_ok(delta_buf_append(&file, "", 1, &err));
    found = strstr((const char *)file.data, wanted) != NULL;
    delta_buf_release(&file);
    return found;
}

static void pictures_say_what_they_show(void **state)
{
    char dir[300], path[600];
    (void)state;

    snprintf(dir, sizeof dir, "%s", harness_path(&scratch, "said"));
    assert_ok(learner_experiment_pictures(golden("results.jsonl"), dir, NULL, &err));
    snprintf(path, sizeof path, "%s/golden-r18-P2-2-steps.svg", dir);
    assert_true(contains(path, ">A golden plan &amp; its &lt;table&gt;</text>"));
    assert_true(contains(path, ">do-nothing</text>"));
    assert_true(contains(path, ">classes known</text>"));
    assert_true(contains(path, ">92</text>"));
    snprintf(path, sizeof path, "%s/golden-r18-P1-1-overhead.svg", dir);
    assert_true(contains(path, ">paper, Jetson Nano</text>"));
    assert_true(contains(path, ">249860</text>")); /* 83700 + 166160 */
}

static void every_character_has_a_glyph(void **state)
{
    (void)state;

    for (unsigned c = 33; c < 127; c++) {
        const struct draw_glyph *glyph = draw_glyph((unsigned char)c);
        assert_true(strlen(glyph->strokes) >= 5);
        for (const char *at = glyph->strokes; *at; at++)
            if (!strchr("LSO 0123456789abcdef", *at))
                fail_msg("'%c': '%s'", c, glyph->strokes);
        for (const char *at = glyph->strokes; *at;) {
            const size_t len = strcspn(at, " ");
            assert_true(strchr("LSO", *at) && len % 2 == 1 && len >= 5 && len <= 33);
            at += len + (at[len] == ' ');
        }
    }
    assert_ptr_equal(draw_glyph(200), draw_glyph('?'));
    assert_true(draw_text_width("wide", 12) > draw_text_width("ill", 12));
}

static void reports_of_nothing_are_refused(void **state)
{
    static const char plan[] = "{\"schema\":1,\"kind\":\"plan\",\"name\":\"x\",\"rows\":[\"a\"]}\n";
    const char *path = harness_path(&scratch, "empty.jsonl");
    struct delta_buf out;
    (void)state;

    assert_status(learner_experiment_report(&out, path, LEARNER_REPORT_TEXT, &err),
                  DELTA_NOT_FOUND);
    assert_ok(delta_file_write(path, delta_bytes(plan, strlen(plan)), 0644, &err));
    assert_status(learner_experiment_report(&out, path, LEARNER_REPORT_TEXT, &err),
                  DELTA_NOT_FOUND);
    assert_non_null(strstr(err.text, "holds no run of plan 'x' yet"));
    assert_ok(delta_file_write(path, delta_bytes("", 0), 0644, &err));
    assert_status(learner_experiment_report(&out, path, LEARNER_REPORT_TEXT, &err), DELTA_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reports_are_as_they_were),
        cmocka_unit_test(statistics_go_over_groups_then_draws),
        cmocka_unit_test(pictures_can_be_read),
        cmocka_unit_test(pictures_say_what_they_show),
        cmocka_unit_test(every_character_has_a_glyph),
        cmocka_unit_test(reports_of_nothing_are_refused),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
