#include "harness.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "delta/file.h"
#include "fake_coord.h"
#include "inbox.h"

struct fixture {
    struct harness_scratch scratch;
    struct fake_coord fake; /* for its clock */
    struct agent_env env;
    struct agent_inbox inbox;
    char dir[300];
};

static int set_up(void **state)
{
    static struct fixture f;

    memset(&f, 0, sizeof f);
    harness_scratch_make(&f.scratch);
    fake_coord_init(&f.fake);
    f.env = fake_coord_env(&f.fake);
    snprintf(f.dir, sizeof f.dir, "%s/inbox", f.scratch.path);
    agent_inbox_init(&f.inbox, 5, 2000);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    agent_inbox_release(&f->inbox);
    fake_coord_release(&f->fake);
    harness_scratch_remove(&f->scratch);
    return 0;
}

static void put(struct fixture *f, const char *folder, const char *name, const char *content)
{
    struct delta_error err;
    char path[600];

    snprintf(path, sizeof path, "%s/%s", f->dir, folder);
    assert_ok(delta_dir_make(path, 0755, &err));
    if (!name)
        return;
    snprintf(path, sizeof path, "%s/%s/%s", f->dir, folder, name);
    assert_ok(delta_file_write(path, delta_bytes(content, strlen(content)), 0644, &err));
}

static void put_images(struct fixture *f, const char *folder, int from, int to)
{
    for (int i = from; i < to; i++) {
        char name[32];
        snprintf(name, sizeof name, "%d.%s", i, i % 3 == 0 ? "png" : i % 3 == 1 ? "JPG" : "jpeg");
        put(f, folder, name, "not read here");
    }
}

static void scan(struct fixture *f, int64_t later_ms)
{
    struct delta_error err;

    f->fake.now_ms += later_ms;
    assert_ok(agent_inbox_scan(&f->inbox, f->dir, &f->env, &err));
}

static void inbox_is_made_when_missing(void **state)
{
    struct fixture *f = *state;

    scan(f, 0);
    assert_true(delta_file_exists(f->dir));
    scan(f, 0);
    assert_int_equal(f->inbox.count, 0);
    assert_false(f->inbox.unsettled);
}

static void inbox_class_is_ready_when_quiet(void **state)
{
    struct fixture *f = *state;

    put_images(f, "red fox", 0, 5);
    scan(f, 0);
    assert_int_equal(f->inbox.count, 1);
    assert_true(f->inbox.unsettled);
    assert_false(f->inbox.classes[0].ready);
    scan(f, 1999);
    assert_false(f->inbox.classes[0].ready);
    scan(f, 1);
    assert_true(f->inbox.classes[0].ready);
    assert_string_equal(f->inbox.classes[0].id.text, "red_fox");
    assert_int_equal(f->inbox.classes[0].images, 5);
    assert_false(f->inbox.unsettled);
}

static void inbox_another_file_starts_the_wait_again(void **state)
{
    struct fixture *f = *state;
    struct delta_digest before;

    put_images(f, "fox", 0, 5);
    scan(f, 0);
    scan(f, 2000);
    before = f->inbox.classes[0].content;
    put_images(f, "fox", 5, 6);
    scan(f, 10);
    assert_false(f->inbox.classes[0].ready);
    assert_false(delta_digest_equal(&before, &f->inbox.classes[0].content));
    put(f, "fox", "1.JPG", "longer than before, so changed");
    scan(f, 1995);
    scan(f, 10);
    assert_false(f->inbox.classes[0].ready);
    scan(f, 2000);
    assert_true(f->inbox.classes[0].ready);
}

static void inbox_complains_with_the_remedy(void **state)
{
    static const struct {
        const char *folder;
        int images;
        const char *words;
    } rows[] = {
        {"empty", 0, "holds no image; put PNG or JPEG files there"},
        {"few", 3, "has 3 of at least 5 images; add 2 more"},
        {"t@xi", 5, "rename it"},
        {"Same Name", 5, NULL},
        {"same_name", 5, "the same class 'same_name'"},
    };
    struct fixture *f = *state;
    const size_t count = sizeof rows / sizeof rows[0];

    for (size_t i = 0; i < count; i++) {
        put(f, rows[i].folder, NULL, NULL);
        put_images(f, rows[i].folder, 0, rows[i].images);
    }
    scan(f, 0);
    scan(f, 2000);
    assert_int_equal(f->inbox.count, count);
    for (size_t i = 0; i < count; i++) {
        const struct agent_inbox_class *found = NULL;
        for (size_t j = 0; j < f->inbox.count; j++)
            if (strcmp(f->inbox.classes[j].folder, rows[i].folder) == 0)
                found = &f->inbox.classes[j];
        assert_non_null(found);
        if (rows[i].words && !strstr(found->complaint, rows[i].words))
            fail_msg("'%s': '%s'", rows[i].folder, found->complaint);
        assert_int_equal(found->ready, rows[i].words == NULL);
        if (!rows[i].words)
            assert_string_equal(found->complaint, "");
    }
}

static void inbox_ignores_what_is_no_image(void **state)
{
    struct fixture *f = *state;
    char path[600];

    put_images(f, "fox", 0, 4);
    put(f, "fox", "notes.txt", "hello");
    put(f, "fox", ".hidden.png", "hello");
    put(f, "fox/sub.png", "deep.png", "hello");
    snprintf(path, sizeof path, "%s/fox/link.png", f->dir);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    snprintf(path, sizeof path, "%s/linked", f->dir);
    assert_int_equal(symlink("fox", path), 0);
    put(f, ".", "stray.png", "hello");
    scan(f, 0);
    scan(f, 2000);
    assert_int_equal(f->inbox.count, 1);
    assert_int_equal(f->inbox.classes[0].images, 4);
    assert_false(f->inbox.classes[0].ready);
}

static void inbox_forgets_removed_folders(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    char from[600];

    put_images(f, "a", 0, 5);
    put_images(f, "b", 0, 5);
    scan(f, 0);
    assert_int_equal(f->inbox.count, 2);
    snprintf(from, sizeof from, "%s/a", f->dir);
    assert_ok(delta_file_rename(from, harness_path(&f->scratch, "gone"), &err));
    scan(f, 2000);
    assert_int_equal(f->inbox.count, 1);
    assert_string_equal(f->inbox.classes[0].folder, "b");
    assert_true(f->inbox.classes[0].ready);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(inbox_is_made_when_missing),
        CASE(inbox_class_is_ready_when_quiet),
        CASE(inbox_another_file_starts_the_wait_again),
        CASE(inbox_complains_with_the_remedy),
        CASE(inbox_ignores_what_is_no_image),
        CASE(inbox_forgets_removed_folders),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
