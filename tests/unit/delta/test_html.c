/* inspect --html, written by the program and read by a real browser. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta_fixture.h"

#define PROGRAM "frostline-delta"
#define EVIL_TENSOR "<img/src=x/onerror=alert(1)>"
#define EVIL_DEVICE "\"><script>alert(1)</script>&amp;"

static struct harness_scratch scratch;
static struct harness_result r;
static struct delta_error err;
static char base[300], fld[300], page[300];

static void in_scratch(char out[300], const char *name)
{
    snprintf(out, 300, "%s", harness_path(&scratch, name));
}

/* A delta whose names are hostile: a tensor and a device, as far as the formats let them. */
static int setup(void **state)
{
    const struct delta_provenance made = {.device = EVIL_DEVICE, .method = "'quoted'"};
    const struct delta_options options = {.provenance = &made};
    const uint64_t shape[1] = {3};
    struct delta_model from, to;
    struct delta_tensor *tensor;
    struct delta_class_id id;
    struct delta_buf file;

    (void)state;
    harness_scratch_make(&scratch);
    in_scratch(base, "base.flm");
    in_scratch(fld, "a&b<c>.fld");
    in_scratch(page, "page.html");
    fixture_model(&from);
    assert_ok(delta_model_add_tensor(&from, EVIL_TENSOR, 1, shape, &tensor, &err));
    assert_ok(delta_model_copy(&to, &from, &err));
    assert_ok(delta_model_digest(&from, &to.parent, &err));
    assert_ok(delta_class_id_make(&id, "dog", &err));
    assert_ok(delta_model_grow_head(&to, &id, 1, &err));
    delta_model_find(&to, EVIL_TENSOR)->data[1] = 0.75f;
    assert_ok(delta_diff(&from, &to, &options, &file, &err));
    assert_ok(delta_file_write(fld, delta_buf_bytes(&file), 0644, &err));
    assert_ok(delta_model_save(&from, base, &err));
    delta_buf_release(&file);
    delta_model_release(&from);
    delta_model_release(&to);
    harness_run(&r, PROGRAM, "inspect", fld, "--base", base, "--html", page, NULL);
    assert_int_equal(r.status, 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

static char *read_text(const char *path)
{
    struct delta_buf file;

    assert_ok(delta_file_read(path, 1 << 24, &file, &err));
    file.cap++;
    assert_ok(delta_buf_append(&file, "", 1, &err));
    return (char *)file.data;
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("the page lacks: %s", part);
}

static void assert_lacks(const char *text, const char *part)
{
    if (strstr(text, part))
        fail_msg("the page has: %.200s", strstr(text, part));
}

static void html_is_self_contained_and_escaped(void **state)
{
    char *text = read_text(page);

    (void)state;
    assert_has(text, "default-src 'none'");
    assert_has(text, "&lt;img/src=x/onerror=alert(1)&gt;");
    assert_has(text, "&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;");
    assert_has(text, "a&amp;b&lt;c&gt;.fld");
    assert_has(text, "Structure: sound.");
    assert_has(text, "Trust: not checked.");
    assert_has(text, "0.75"); /* norm and largest of the hostile tensor */
    assert_lacks(text, "<script");
    assert_lacks(text, "<img");
    assert_lacks(text, "http:");
    assert_lacks(text, "https:");
    assert_lacks(text, " src=");
    assert_lacks(text, " href=");
    assert_lacks(text, "url(");
    free(text);
}

static void html_of_a_model_and_without_a_base(void **state)
{
    char *text;

    (void)state;
    harness_run(&r, PROGRAM, "inspect", base, "--html", page, NULL);
    assert_int_equal(r.status, 0);
    text = read_text(page);
    assert_has(text, "Tensors of the model");
    assert_has(text, "50.0 % live");
    free(text);
    harness_run(&r, PROGRAM, "inspect", fld, "--html", page, NULL);
    assert_int_equal(r.status, 0);
    text = read_text(page);
    assert_has(text, "tells no norms");
    free(text);
    harness_run(&r, PROGRAM, "inspect", fld, "--base", base, "--html", page, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "inspect", fld, "--html", "/nonexistent/p.html", NULL);
    assert_int_equal(r.status, 3);
}

/* Runs Chromium on the page; its standard output goes to `out`. */
static int browse(const char *option, const char *out)
{
    char command[2400];

    snprintf(command, sizeof command,
             "timeout 120 chromium --no-sandbox --headless --disable-gpu --disable-dev-shm-usage "
             "--user-data-dir='%s/profile' %s 'file://%s' > '%s' 2>'%s/chromium.log' </dev/null",
             scratch.path, option, page, out, scratch.path);
    const int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void skip_without_chromium(void)
{
    if (system("command -v chromium > /dev/null") == 0)
        return;
    print_message("SKIP: chromium is not installed; the page is not shown to a browser\n");
    skip();
}

static size_t count_of(const char *text, const char *part)
{
    size_t count = 0;

    for (const char *p = strstr(text, part); p; p = strstr(p + 1, part))
        count++;
    return count;
}

/* What the browser made of it: hostile names stayed text, drawings became drawings. */
static void html_in_a_browser(void **state)
{
    char out[300];
    char *dom;

    (void)state;
    skip_without_chromium();
    in_scratch(out, "dom.txt");
    assert_int_equal(browse("--dump-dom", out), 0);
    dom = read_text(out);
    assert_has(dom, "<h1>Delta <code>");
    assert_has(dom, "&lt;img/src=x/onerror=alert(1)&gt;");
    assert_lacks(dom, "<img");
    assert_lacks(dom, "<script");
    assert_int_equal(count_of(dom, "<th scope=\"row\">"), 3); /* the tensor, fc.bias, fc.weight */
    assert_int_equal(count_of(dom, "<svg role=\"img\""), 7);  /* two each and the legend */
    assert_int_equal(count_of(dom, "<title>"), 8);            /* each drawing says what it shows */
    free(dom);
}

static void html_prints(void **state)
{
    char pdf[300], option[400], out[300];
    struct delta_buf file;

    (void)state;
    skip_without_chromium();
    in_scratch(pdf, "page.pdf");
    in_scratch(out, "print.txt");
    snprintf(option, sizeof option, "--print-to-pdf='%s'", pdf);
    assert_int_equal(browse(option, out), 0);
    assert_ok(delta_file_read(pdf, 1 << 24, &file, &err));
    assert_true(file.len > 5000);
    assert_memory_equal(file.data, "%PDF-", 5);
    delta_buf_release(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(html_is_self_contained_and_escaped),
        cmocka_unit_test(html_of_a_model_and_without_a_base),
        cmocka_unit_test(html_in_a_browser),
        cmocka_unit_test(html_prints),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
