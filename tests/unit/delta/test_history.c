#include "delta/history.h"

#include <string.h>

#include "delta/chain.h"
#include "delta/file.h"
#include "delta/npz.h"
#include "delta_fixture.h"

static struct harness_scratch scratch;
static struct delta_error err;
static struct delta_model versions[4]; /* 0 -> 1 -> 2, and 1 -> 3 */
static struct delta_buf steps[4];      /* [n]: the delta that leads to version n */

static void make_version(size_t n, size_t from)
{
    assert_ok(delta_model_copy(&versions[n], &versions[from], &err));
    assert_ok(delta_model_digest(&versions[from], &versions[n].parent, &err));
    versions[n].tensors[0].data[30] += (float)n;
    assert_ok(delta_diff(&versions[from], &versions[n], NULL, &steps[n], &err));
}

static int setup(void **state)
{
    (void)state;
    harness_scratch_make(&scratch);
    fixture_model(&versions[0]);
    make_version(1, 0);
    make_version(2, 1);
    make_version(3, 1);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        delta_model_release(&versions[i]);
        delta_buf_release(&steps[i]);
    }
    harness_scratch_remove(&scratch);
    return 0;
}

static void write_step(const char *name, size_t n)
{
    assert_ok(
        delta_file_write(harness_path(&scratch, name), delta_buf_bytes(&steps[n]), 0644, &err));
}

static void assert_order(const struct delta_history *h, const char *const *names)
{
    for (size_t i = 0; i < h->count; i++)
        assert_string_equal(h->items[i].name, names[i]);
}

/* Names say the opposite of descent, so descent it is. */
static void history_is_ordered_by_descent(void **state)
{
    struct delta_history h;

    (void)state;
    assert_ok(delta_model_save(&versions[0], harness_path(&scratch, "z.flm"), &err));
    write_step("c.fld", 1);
    write_step("b.fld", 2);
    write_step("a.fld", 3);
    assert_ok(
        delta_file_write(harness_path(&scratch, "notes.txt"), delta_bytes("hello", 5), 0644, &err));
    assert_ok(delta_dir_make(harness_path(&scratch, "sub"), 0755, &err));
    assert_ok(delta_history_read(&h, scratch.path, &err));
    assert_int_equal(h.count, 4);
    assert_int_equal(h.ignored, 2);
    assert_int_equal(h.heads, 2);
    assert_int_equal(h.gaps + h.faults, 0);
    assert_order(&h, (const char *const[]){"z.flm", "c.fld", "a.fld", "b.fld"});
    assert_ok(delta_history_verify(&h, scratch.path, NULL, NULL, &err));
    assert_int_equal(h.faults, 0);
    for (size_t i = 0; i < h.count; i++)
        assert_true(h.items[i].verified);
    delta_history_release(&h);
}

static void history_finds_gaps_and_faults(void **state)
{
    struct delta_history h;

    (void)state;
    /* the link in the middle is gone */
    assert_ok(delta_file_remove(harness_path(&scratch, "c.fld"), &err));
    assert_ok(delta_history_read(&h, scratch.path, &err));
    assert_int_equal(h.gaps, 2);
    assert_true(h.items[0].reached);
    assert_false(h.items[1].reached || h.items[2].reached);
    assert_ok(delta_history_verify(&h, scratch.path, NULL, NULL, &err));
    assert_false(h.items[1].verified);
    delta_history_release(&h);
    /* a model of its own fills it */
    assert_ok(delta_model_save(&versions[1], harness_path(&scratch, "y.flm"), &err));
    assert_ok(delta_history_read(&h, scratch.path, &err));
    assert_int_equal(h.gaps, 0);
    assert_order(&h, (const char *const[]){"z.flm", "y.flm", "a.fld", "b.fld"});
    delta_history_release(&h);
    /* half a file */
    assert_ok(delta_file_write(harness_path(&scratch, "c.fld"),
                               delta_bytes(steps[1].data, steps[1].len / 2), 0644, &err));
    assert_ok(delta_history_read(&h, scratch.path, &err));
    assert_int_equal(h.faults, 1);
    assert_int_equal(h.items[h.count - 1].status, DELTA_TRUNCATED);
    assert_true(h.items[h.count - 1].problem[0] != '\0');
    delta_history_release(&h);
    assert_status(delta_history_read(&h, harness_path(&scratch, "none"), &err), DELTA_NOT_FOUND);
}

/* ---- chain ---- */

static void chain_squash_equals_applying(void **state)
{
    struct delta_reader readers[2], one;
    struct delta_model out, again;
    struct delta_buf file;

    (void)state;
    assert_ok(delta_reader_init(&readers[0], delta_buf_bytes(&steps[1]), &err));
    assert_ok(delta_reader_init(&readers[1], delta_buf_bytes(&steps[2]), &err));
    assert_ok(delta_chain_apply(&versions[0], readers, 2, &out, &err));
    fixture_assert_same(&out, &versions[2]);
    assert_ok(delta_squash(&versions[0], readers, 2, NULL, &file, &err));
    assert_ok(delta_reader_init(&one, delta_buf_bytes(&file), &err));
    assert_ok(delta_apply(&versions[0], &one, &again, &err));
    fixture_assert_same(&again, &versions[2]);
    delta_reader_release(&one);
    delta_buf_release(&file);
    delta_model_release(&again);
    delta_model_release(&out);
    assert_status(delta_chain_apply(&versions[0], readers + 1, 1, &out, &err), DELTA_BASE_UNKNOWN);
    assert_ok(delta_chain_apply(&versions[0], readers, 0, &out, &err));
    fixture_assert_same(&out, &versions[0]);
    delta_model_release(&out);
    /* and back */
    assert_ok(delta_invert(&versions[1], &readers[1], NULL, &file, &err));
    assert_ok(delta_reader_init(&one, delta_buf_bytes(&file), &err));
    assert_ok(delta_apply(&versions[2], &one, &out, &err));
    fixture_assert_same(&out, &versions[1]);
    delta_reader_release(&one);
    delta_buf_release(&file);
    delta_model_release(&out);
    delta_reader_release(&readers[0]);
    delta_reader_release(&readers[1]);
}

/* ---- npz ---- */

static void npz_comes_back(void **state)
{
    const char *path = harness_path(&scratch, "m.npz");
    struct delta_model back;
    struct delta_buf file;
    size_t refused = 0;

    (void)state;
    assert_ok(delta_npz_save(&versions[0], path, &err));
    assert_ok(delta_file_read(path, 1 << 20, &file, &err));
    assert_true(delta_npz_is(delta_buf_bytes(&file)));
    assert_ok(delta_npz_decode(&back, delta_buf_bytes(&file), NULL, NULL, &err));
    assert_int_equal(back.class_count, 3);
    assert_string_equal(back.classes[2].text, "cat");
    assert_int_equal(back.tensor_count, versions[0].tensor_count);
    for (size_t i = 0; i < back.tensor_count; i++) {
        const struct delta_tensor *x = &back.tensors[i];
        const struct delta_tensor *y = delta_model_find(&versions[0], x->name);
        assert_non_null(y);
        assert_int_equal(x->count, y->count);
        assert_memory_equal(x->data, y->data, 4 * x->count);
    }
    delta_model_release(&back);
    for (size_t n = 0; n < file.len; n++) /* every half file */
        assert_true(delta_npz_decode(&back, delta_bytes(file.data, n), NULL, NULL, &err) !=
                    DELTA_OK);
    /* every byte changed: contents are under a checksum, and nothing crashes */
    for (size_t n = 0; n < file.len; n++) {
        file.data[n] ^= 0x41;
        if (delta_npz_decode(&back, delta_buf_bytes(&file), NULL, NULL, &err))
            refused++;
        else
            delta_model_release(&back);
        file.data[n] ^= 0x41;
    }
    assert_true(refused > file.len / 2);
    delta_buf_release(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(history_is_ordered_by_descent),
        cmocka_unit_test(history_finds_gaps_and_faults),
        cmocka_unit_test(chain_squash_equals_applying),
        cmocka_unit_test(npz_comes_back),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
