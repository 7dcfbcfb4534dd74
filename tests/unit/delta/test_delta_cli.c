#include "delta/delta_cli.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta_fixture.h"

#define PROGRAM "frostline-delta"

static struct harness_scratch scratch;
static struct harness_result r;
static char base[300], target[300], fld[300], key[300], pub[300], other[300];

static void in_scratch(char out[300], const char *name)
{
    snprintf(out, 300, "%s", harness_path(&scratch, name));
}

/* base.flm, target.flm (one class more, one live weight changed), d.fld signed by k.pem */
static int setup(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_class_id id;
    struct delta_model m;
    char name[300];

    (void)state;
    harness_scratch_make(&scratch);
    in_scratch(base, "base.flm");
    in_scratch(target, "target.flm");
    in_scratch(fld, "d.fld");
    in_scratch(key, "k.pem");
    in_scratch(pub, "k.pub.pem");
    in_scratch(other, "o.pub.pem");
    fixture_model(&m);
    assert_ok(delta_model_save(&m, base, &err));
    assert_ok(delta_model_digest(&m, &m.parent, &err));
    assert_ok(delta_class_id_make(&id, "dog", &err));
    assert_ok(delta_model_grow_head(&m, &id, 1, &err));
    delta_model_find(&m, "fc.bias")->data[3] = 0.5f;
    delta_model_find(&m, "fc.weight")->data[13] = 0.25f;
    assert_ok(delta_model_save(&m, target, &err));
    delta_model_release(&m);
    in_scratch(name, "k");
    harness_run(&r, PROGRAM, "keygen", name, NULL);
    assert_int_equal(r.status, 0);
    in_scratch(name, "o");
    harness_run(&r, PROGRAM, "keygen", name, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "make", base, target, "--out", fld, "--sign", key, NULL);
    assert_int_equal(r.status, 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

static json_t *parsed(void)
{
    json_error_t error;
    json_t *root = json_loads(r.out, JSON_REJECT_DUPLICATES, &error);

    if (!root)
        fail_msg("not JSON: %s: %s", error.text, r.out);
    assert_int_equal(json_integer_value(json_object_get(root, "schema")), 1);
    return root;
}

static const char *text(const json_t *root, const char *name)
{
    const char *value = json_string_value(json_object_get(root, name));

    return value ? value : "";
}

static void assert_narrow(void)
{
    for (const char *p = r.out; *p;) {
        const size_t len = strcspn(p, "\n");
        if (len > 80)
            fail_msg("a line of %zu columns: %.*s", len, (int)len, p);
        p += len + (p[len] != '\0');
    }
}

static void cli_applies_what_it_diffed(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest a, b;
    char out[300];

    (void)state;
    in_scratch(out, "again.flm");
    harness_run(&r, PROGRAM, "apply", base, fld, "--out", out, "--key", pub, NULL);
    assert_int_equal(r.status, 0);
    assert_ok(delta_sha256_file(target, &a, NULL, &err));
    assert_ok(delta_sha256_file(out, &b, NULL, &err));
    assert_memory_equal(a.bytes, b.bytes, 32);
    harness_run(&r, PROGRAM, "apply", base, fld, "--out", out, "--json", NULL);
    assert_int_equal(r.status, 0);
    json_t *root = parsed();
    assert_int_equal(strlen(text(root, "version")), 64);
    json_decref(root);
}

static void cli_inspect_shows_each_kind(void **state)
{
    char tensors[300];

    (void)state;
    in_scratch(tensors, "t.safetensors");
    harness_run(&r, PROGRAM, "inspect", fld, NULL);
    assert_int_equal(r.status, 0);
    assert_narrow();
    assert_non_null(strstr(r.out, "NOT CHECKED: signed"));
    assert_non_null(strstr(r.out, "dog"));
    assert_non_null(strstr(r.out, "fc.weight"));
    harness_run(&r, PROGRAM, "inspect", fld, "--key", pub, NULL);
    assert_non_null(strstr(r.out, "TRUSTED: signed by key"));
    harness_run(&r, PROGRAM, "inspect", base, NULL);
    assert_int_equal(r.status, 0);
    assert_narrow();
    assert_non_null(strstr(r.out, "NOT CHECKED: unsigned"));
    assert_non_null(strstr(r.out, "5 tensors, 77 of 143 values live"));
    harness_run(&r, PROGRAM, "export", target, "--out", tensors, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "inspect", tensors, "--json", NULL);
    assert_int_equal(r.status, 0);
    json_t *root = parsed();
    assert_string_equal(text(root, "kind"), "safetensors");
    assert_int_equal(json_array_size(json_object_get(root, "classes")), 4);
    json_decref(root);
}

static void cli_inspect_json_of_a_delta(void **state)
{
    (void)state;
    harness_run(&r, PROGRAM, "inspect", fld, "--json", "--key", pub, NULL);
    assert_int_equal(r.status, 0);
    json_t *root = parsed();
    assert_string_equal(text(root, "kind"), "delta");
    assert_string_equal(text(json_object_get(root, "signature"), "trust"), "trusted");
    assert_string_equal(text(root, "structure"), "sound");
    assert_string_equal(
        json_string_value(json_array_get(json_object_get(root, "classes_added"), 0)), "dog");
    const json_t *row = json_array_get(json_object_get(root, "tensors"), 1);
    assert_string_equal(text(row, "name"), "fc.weight");
    assert_string_equal(text(row, "scope"), "new");
    assert_int_equal(json_integer_value(json_object_get(row, "values")), 4);
    json_decref(root);
}

static void cli_verify_exit_statuses(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    char bad[300], plain[300];

    (void)state;
    in_scratch(bad, "bad.fld");
    in_scratch(plain, "plain.fld");
    harness_run(&r, PROGRAM, "verify", fld, "--key", pub, "--base", base, NULL);
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "give the target"));
    harness_run(&r, PROGRAM, "verify", fld, "--key", other, NULL);
    assert_int_equal(r.status, 4);
    harness_run(&r, PROGRAM, "verify", fld, "--key", other, "--key", pub, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "make", base, target, "--out", plain, NULL);
    /* sound, but nobody was asked about trust: neither yes nor damaged */
    harness_run(&r, PROGRAM, "verify", plain, NULL);
    assert_int_equal(r.status, 1);
    assert_non_null(strstr(r.out, "sound"));
    assert_non_null(strstr(r.out, "NOT CHECKED"));
    harness_run(&r, PROGRAM, "verify", fld, NULL);
    assert_int_equal(r.status, 1);
    harness_run(&r, PROGRAM, "verify", plain, "--structure", NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "verify", plain, "--structure", "--key", pub, NULL);
    assert_int_equal(r.status, 2);
    harness_run(&r, PROGRAM, "inspect", plain, "--key", pub, NULL);
    assert_int_equal(r.status, 4);
    assert_non_null(strstr(r.out, "sound"));
    assert_non_null(strstr(r.out, "NOT TRUSTED"));
    harness_run(&r, PROGRAM, "verify", plain, "--key", pub, NULL);
    assert_int_equal(r.status, 4);
    harness_run(&r, PROGRAM, "verify", fld, "--base", target, NULL);
    assert_int_equal(r.status, 3);
    harness_run(&r, PROGRAM, "verify", fld, "--base", target, "--json", NULL);
    assert_int_equal(r.status, 3);
    json_t *root = parsed();
    assert_string_equal(text(root, "status"), "BASE_UNKNOWN");
    assert_true(json_is_false(json_object_get(root, "ok")));
    json_decref(root);
    assert_ok(delta_file_read(fld, 1 << 20, &file, &err));
    file.data[file.len - 1] ^= 4;
    assert_ok(delta_file_write(bad, delta_buf_bytes(&file), 0644, &err));
    harness_run(&r, PROGRAM, "verify", bad, NULL);
    assert_int_equal(r.status, 3);
    assert_non_null(strstr(r.err, "frostline-delta verify: '"));
    assert_non_null(strstr(r.err, "bad.fld"));
    assert_ok(delta_file_write(bad, delta_bytes(file.data, file.len / 2), 0644, &err));
    harness_run(&r, PROGRAM, "verify", bad, NULL);
    assert_int_equal(r.status, 3);
    assert_ok(delta_file_write(bad, delta_bytes("", 0), 0644, &err));
    harness_run(&r, PROGRAM, "verify", bad, NULL);
    assert_int_equal(r.status, 3);
    delta_buf_release(&file);
}

static const json_t *row_of(const json_t *root, const char *name)
{
    const json_t *rows = json_object_get(root, "tensors");

    for (size_t i = 0; i < json_array_size(rows); i++)
        if (strcmp(text(json_array_get(rows, i), "name"), name) == 0)
            return json_array_get(rows, i);
    fail_msg("no row '%s'", name);
    return NULL;
}

static long whole(const json_t *row, const char *name)
{
    assert_true(json_is_integer(json_object_get(row, name)));
    return (long)json_integer_value(json_object_get(row, name));
}

static void cli_diff_shows_any_two_versions(void **state)
{
    (void)state;
    harness_run(&r, PROGRAM, "diff", base, target, NULL);
    assert_int_equal(r.status, 0);
    assert_narrow();
    assert_non_null(strstr(r.out, "added    dog"));
    assert_non_null(strstr(r.out, "2 tensors differ, 3 are the same"));
    assert_null(strchr(r.out, '\033')); /* no colours but on a terminal */
    harness_run(&r, PROGRAM, "diff", base, target, "--json", NULL);
    assert_int_equal(r.status, 0);
    json_t *root = parsed();
    const json_t *weight = row_of(root, "fc.weight");
    assert_int_equal(whole(weight, "added"), 4);
    assert_int_equal(whole(weight, "changed"), 4);
    assert_int_equal(whole(weight, "largest_at"), 13);
    assert_true(json_real_value(json_object_get(weight, "largest")) == 0.25);
    assert_true(json_real_value(json_object_get(weight, "norm")) == 0.25);
    assert_int_equal(whole(row_of(root, "conv1.weight"), "changed"), 0);
    assert_int_equal(whole(row_of(root, "conv1.weight"), "live"), 54);
    json_decref(root);
    /* backwards too: a class goes */
    harness_run(&r, PROGRAM, "diff", target, base, NULL);
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "removed  dog"));
    harness_run(&r, PROGRAM, "diff", fld, base, NULL);
    assert_int_equal(r.status, 3);
    assert_non_null(strstr(r.err, "is a delta"));
}

static void cli_inspect_with_base_tells_norms(void **state)
{
    (void)state;
    harness_run(&r, PROGRAM, "inspect", fld, "--base", base, NULL);
    assert_int_equal(r.status, 0);
    assert_narrow();
    assert_non_null(strstr(r.out, "base and delta give the target"));
    assert_non_null(strstr(r.out, "had 3"));
    assert_non_null(strstr(r.out, "added    dog"));
    assert_non_null(strstr(r.out, "norm 0.559")); /* of 0.25 and 0.5 */
    harness_run(&r, PROGRAM, "inspect", fld, "--base", base, "--json", NULL);
    assert_int_equal(r.status, 0);
    json_t *root = parsed();
    assert_true(json_real_value(json_object_get(row_of(root, "fc.bias"), "largest")) == 0.5);
    assert_int_equal(json_array_size(json_object_get(root, "classes_before")), 3);
    json_decref(root);
    harness_run(&r, PROGRAM, "inspect", fld, "--base", target, NULL);
    assert_int_equal(r.status, 3);
    harness_run(&r, PROGRAM, "inspect", base, "--base", target, NULL);
    assert_int_equal(r.status, 2);
}

/* t2.flm: one live weight changed beyond target.flm; d2.fld leads there. */
static void cli_squashes_and_inverts(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest version, a, b;
    struct delta_model m;
    char second[300], step[300], both[300], back[300], out[300];

    (void)state;
    in_scratch(second, "t2.flm");
    in_scratch(step, "d2.fld");
    in_scratch(both, "d12.fld");
    in_scratch(back, "d2-back.fld");
    in_scratch(out, "o.flm");
    assert_ok(delta_model_load(&m, target, &version, &err));
    m.parent = version;
    delta_model_find(&m, "conv1.weight")->data[30] += 0.5f;
    assert_ok(delta_model_save(&m, second, &err));
    delta_model_release(&m);
    assert_ok(delta_sha256_file(second, &a, NULL, &err));
    harness_run(&r, PROGRAM, "make", target, second, "--out", step, "--device", "cam-1", NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "squash", base, fld, step, "--out", both, "--sign", key, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "apply", base, both, "--out", out, "--key", pub, NULL);
    assert_int_equal(r.status, 0);
    assert_ok(delta_sha256_file(out, &b, NULL, &err));
    assert_memory_equal(a.bytes, b.bytes, 32);
    harness_run(&r, PROGRAM, "apply", base, fld, step, "--out", out, NULL);
    assert_int_equal(r.status, 0);
    assert_ok(delta_sha256_file(out, &b, NULL, &err));
    assert_memory_equal(a.bytes, b.bytes, 32);
    /* the wrong order is refused and says which */
    harness_run(&r, PROGRAM, "squash", base, step, fld, "--out", both, NULL);
    assert_int_equal(r.status, 3);
    assert_non_null(strstr(r.err, "delta 1 of 2"));
    harness_run(&r, PROGRAM, "squash", base, fld, step, "--out", both, "--key", pub, NULL);
    assert_int_equal(r.status, 4); /* the second is unsigned */
    harness_run(&r, PROGRAM, "invert", target, step, "--out", back, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "apply", second, back, "--out", out, NULL);
    assert_int_equal(r.status, 0);
    assert_ok(delta_sha256_file(target, &a, NULL, &err));
    assert_ok(delta_sha256_file(out, &b, NULL, &err));
    assert_memory_equal(a.bytes, b.bytes, 32);
    /* a class that came goes again */
    harness_run(&r, PROGRAM, "invert", base, fld, "--out", back, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "inspect", back, NULL);
    assert_non_null(strstr(r.out, "drops      the last 1 of the base"));
    harness_run(&r, PROGRAM, "apply", target, back, "--out", out, NULL);
    assert_int_equal(r.status, 0);
    assert_ok(delta_sha256_file(base, &a, NULL, &err));
    assert_ok(delta_sha256_file(out, &b, NULL, &err));
    assert_memory_equal(a.bytes, b.bytes, 32);
}

static void cli_cats_a_tensor(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    char out[300];

    (void)state;
    in_scratch(out, "bias.npy");
    harness_run(&r, PROGRAM, "cat", target, "fc.bias", NULL);
    assert_int_equal(r.status, 0);
    assert_memory_equal(r.out, "# fc.bias 4\n", 12);
    assert_non_null(strstr(r.out, "\n0.5\n"));
    harness_run(&r, PROGRAM, "cat", fld, "fc.bias", "--base", base, "--json", NULL);
    assert_int_equal(r.status, 0);
    json_t *root = parsed();
    assert_true(json_real_value(json_array_get(json_object_get(root, "values"), 3)) == 0.5);
    json_decref(root);
    harness_run(&r, PROGRAM, "cat", target, "fc.weight", "--out", out, NULL);
    assert_int_equal(r.status, 0);
    assert_ok(delta_file_read(out, 1 << 20, &file, &err));
    assert_int_equal(file.len, 128 + 16 * 4);
    assert_memory_equal(file.data, "\x93NUMPY\x01\0", 8);
    assert_non_null(strstr((const char *)file.data + 10, "'shape': (4, 4), }"));
    delta_buf_release(&file);
    harness_run(&r, PROGRAM, "cat", target, "fc.bia", NULL);
    assert_int_equal(r.status, 3);
    assert_non_null(strstr(r.err, "fc.bia"));
    harness_run(&r, PROGRAM, "cat", fld, "fc.bias", NULL);
    assert_int_equal(r.status, 2);
}

static void cli_sign_is_atomic_and_in_place(void **state)
{
    char copy[300];
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    in_scratch(copy, "copy.flm");
    assert_ok(delta_file_copy(base, copy, 0644, &err));
    harness_run(&r, PROGRAM, "sign", copy, "--key", key, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "verify", copy, "--key", pub, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "digest", base, copy, fld, "--json", NULL);
    json_t *root = parsed();
    const json_t *list = json_object_get(root, "digests");
    /* a signature does not change the name */
    assert_string_equal(text(json_array_get(list, 0), "digest"),
                        text(json_array_get(list, 1), "digest"));
    json_decref(root);
    harness_run(&r, PROGRAM, "sign", copy, NULL);
    assert_int_equal(r.status, 2);
    harness_run(&r, PROGRAM, "sign", copy, "--key", pub, NULL);
    assert_int_equal(r.status, 3);
}

static void cli_import_names_classes(void **state)
{
    static const char order[] = "2\n0\n3\n1\n4\n";
    static const char names[] = "ant\nbee\nCat Fish\r\ndog\n";
    struct delta_error err = DELTA_ERROR_INIT;
    char tensors[300], out[300], list[300], label[300];
    struct delta_model m;

    (void)state;
    in_scratch(tensors, "i.safetensors");
    in_scratch(out, "i.flm");
    in_scratch(list, "names.txt");
    in_scratch(label, "order.txt");
    assert_ok(delta_file_write(list, delta_bytes(names, sizeof names - 1), 0644, &err));
    assert_ok(delta_file_write(label, delta_bytes(order, sizeof order - 1), 0644, &err));
    harness_run(&r, PROGRAM, "export", target, "--out", tensors, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "import", tensors, "--out", out, "--order", label, "--names", list,
                NULL);
    assert_int_equal(r.status, 0);
    assert_ok(delta_model_load(&m, out, NULL, &err));
    assert_string_equal(m.classes[0].text, "cat_fish");
    assert_string_equal(m.classes[1].text, "ant");
    assert_string_equal(m.classes[3].text, "bee");
    delta_model_release(&m);
    harness_run(&r, PROGRAM, "import", tensors, "--out", out, "--order", list, NULL);
    assert_int_equal(r.status, 3);
    assert_non_null(strstr(r.err, "names.txt' line 1"));
    assert_ok(delta_file_write(label, delta_bytes("0\n1\n2\n9\n", 8), 0644, &err));
    harness_run(&r, PROGRAM, "import", tensors, "--out", out, "--order", label, "--names", list,
                NULL);
    assert_int_equal(r.status, 3);
    assert_ok(delta_file_write(label, delta_bytes("0\n1\n", 4), 0644, &err));
    harness_run(&r, PROGRAM, "import", tensors, "--out", out, "--order", label, NULL);
    assert_int_equal(r.status, 3);
    assert_non_null(strstr(r.err, "2 lines"));
}

static void cli_log_tells_the_chain(void **state)
{
    (void)state;
    harness_run(&r, PROGRAM, "log", scratch.path, "--verify", "--json", NULL);
    json_t *root = parsed();
    assert_int_equal(r.status, json_is_true(json_object_get(root, "continuous")) ? 0 : 1);
    assert_int_equal(json_integer_value(json_object_get(root, "gaps")), 0);
    json_decref(root);
    harness_run(&r, PROGRAM, "log", scratch.path, NULL);
    assert_narrow();
    assert_non_null(strstr(r.out, "d.fld"));
    harness_run(&r, PROGRAM, "log", base, NULL);
    assert_int_equal(r.status, 3);
    harness_run(&r, PROGRAM, "log", "/nonexistent", NULL);
    assert_int_equal(r.status, 3);
}

static void cli_exports_and_imports_npz(void **state)
{
    char out[300], back[300];

    (void)state;
    in_scratch(out, "t.npz");
    in_scratch(back, "from-npz.flm");
    harness_run(&r, PROGRAM, "export", target, "--out", out, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "import", out, "--out", back, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "diff", target, back, NULL);
    assert_non_null(strstr(r.out, "0 tensors differ"));
    harness_run(&r, PROGRAM, "verify", out, "--key", pub, NULL);
    assert_int_equal(r.status, 4);
    harness_run(&r, PROGRAM, "inspect", out, "--json", NULL);
    json_t *root = parsed();
    assert_string_equal(text(root, "kind"), "npz");
    json_decref(root);
}

static void cli_pushes_and_pulls(void **state)
{
    char dir[300], out[300];

    (void)state;
    in_scratch(dir, "layout");
    in_scratch(out, "pulled.fld");
    harness_run(&r, PROGRAM, "push", dir, fld, "--name", "cam/1", NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "pull", dir, "--json", NULL);
    assert_int_equal(r.status, 0);
    json_t *root = parsed();
    assert_string_equal(text(json_array_get(json_object_get(root, "names"), 0), "name"), "cam/1");
    json_decref(root);
    harness_run(&r, PROGRAM, "pull", dir, "cam/1", "--out", out, "--key", other, NULL);
    assert_int_equal(r.status, 4);
    assert_int_not_equal(access(out, F_OK), 0); /* nothing is written that fails */
    harness_run(&r, PROGRAM, "pull", dir, "cam/1", "--out", out, "--key", pub, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "verify", out, "--key", pub, NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "pull", dir, "cam/2", "--out", out, NULL);
    assert_int_equal(r.status, 3);
    harness_run(&r, PROGRAM, "pull", dir, "cam/1", NULL);
    assert_int_equal(r.status, 2);
    harness_run(&r, PROGRAM, "push", scratch.path, fld, "--name", "x", NULL);
    assert_int_equal(r.status, 3);
}

static void cli_inspects_a_header_without_its_payload(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    char bad[300];

    (void)state;
    in_scratch(bad, "hole.fld");
    assert_ok(delta_file_read(fld, 1 << 20, &file, &err));
    file.data[file.len - 1] ^= 4; /* whoever reads the payload finds this */
    assert_ok(delta_file_write(bad, delta_buf_bytes(&file), 0644, &err));
    delta_buf_release(&file);
    harness_run(&r, PROGRAM, "inspect", bad, NULL);
    assert_int_equal(r.status, 3);
    harness_run(&r, PROGRAM, "inspect", bad, "--header", NULL);
    assert_int_equal(r.status, 0);
    assert_narrow();
    assert_non_null(strstr(r.out, "payload NOT READ"));
    assert_non_null(strstr(r.out, "NOT CHECKED: signed"));
    assert_non_null(strstr(r.out, "fc.weight"));
    harness_run(&r, PROGRAM, "inspect", bad, "--header", "--key", pub, "--json", NULL);
    assert_int_equal(r.status, 0);
    json_t *root = parsed();
    assert_string_equal(text(root, "structure"), "header sound, payload not read");
    assert_string_equal(text(json_object_get(root, "signature"), "trust"), "trusted");
    json_decref(root);
    harness_run(&r, PROGRAM, "inspect", bad, "--header", "--key", other, NULL);
    assert_int_equal(r.status, 4);
    harness_run(&r, PROGRAM, "inspect", base, "--header", NULL);
    assert_int_equal(r.status, 2);
    harness_run(&r, PROGRAM, "inspect", bad, "--header", "--base", base, NULL);
    assert_int_equal(r.status, 2);
    assert_int_equal(unlink(bad), 0);
}

/* What rounding took away belongs to a delta that exists. */
static void cli_keeps_a_residual_with_its_delta_only(void **state)
{
    char residual[300], out[300];

    (void)state;
    in_scratch(residual, "residual.flm");
    in_scratch(out, "lossy.fld");
    harness_run(&r, PROGRAM, "make", base, target, "--encoding", "int8", "--residual", residual,
                "--out", "/nonexistent/lossy.fld", NULL);
    assert_int_not_equal(r.status, 0);
    assert_false(delta_file_exists(residual));
    for (int i = 0; i < 2; i++) { /* the second time it is read */
        harness_run(&r, PROGRAM, "make", base, target, "--encoding", "int8", "--residual", residual,
                    "--out", out, NULL);
        assert_int_equal(r.status, 0);
        assert_true(delta_file_exists(residual));
    }
    harness_run(&r, PROGRAM, "verify", out, "--base", base, "--structure", NULL);
    assert_int_equal(r.status, 0);
    harness_run(&r, PROGRAM, "make", base, target, "--residual", residual, "--out", out, NULL);
    assert_int_equal(r.status, 2);
}

static void assert_refused_in_a_line(const char *verb, const char *path)
{
    if (r.status != 3)
        fail_msg("%s %s: exit status %d: %s", verb, path, r.status, r.err);
    assert_int_equal(r.out[0], '\0');
    assert_ptr_equal(strchr(r.err, '\n'), r.err + strlen(r.err) - 1);
    if (!strstr(r.err, path))
        fail_msg("%s %s: the file is not named: %s", verb, path, r.err);
}

/* Not the file's fault: the environment's, and its class. */
static void cli_tells_what_it_may_not_read(void **state)
{
    static const char *const verbs[] = {"inspect", "verify", "digest"};
    struct delta_error err = DELTA_ERROR_INIT;
    const bool root = geteuid() == 0;
    char locked[300];

    (void)state;
    in_scratch(locked, "locked.fld");
    assert_ok(delta_file_copy(fld, locked, 0600, &err));
    assert_int_equal(chmod(locked, 0), 0);
    for (size_t v = 0; v < sizeof verbs / sizeof verbs[0]; v++) {
        char *argv[] = {"frostline-delta", (char *)(uintptr_t)verbs[v], locked, NULL};
        assert_false(root && seteuid(65534)); /* root may read anything */
        const int rc = delta_cli_main(3, argv);
        assert_false(root && seteuid(0));
        assert_int_equal(rc, 6);
    }
    assert_int_equal(unlink(locked), 0);
}

/* Words of a file reach a terminal through error messages: not its commands. */
static void cli_messages_cannot_command_a_terminal(void **state)
{
    static const char header[] = "{\"a\":{\"dtype\":\"\\u001b[2J\\n\",\"shape\":[1],"
                                 "\"data_offsets\":[0,4]}}";
    struct delta_error err = DELTA_ERROR_INIT;
    uint8_t file[8 + sizeof header - 1 + 4] = {sizeof header - 1};
    char evil[300];

    (void)state;
    in_scratch(evil, "evil.safetensors");
    memcpy(file + 8, header, sizeof header - 1);
    assert_ok(delta_file_write(evil, delta_bytes(file, sizeof file), 0644, &err));
    harness_run(&r, PROGRAM, "inspect", evil, NULL);
    assert_refused_in_a_line("inspect", evil);
    assert_null(strchr(r.err, '\033'));
    assert_non_null(strstr(r.err, "dtype '?[2J?'"));
}

/* Whatever is no file of ours: one line and the exit status of its class. */
static void cli_refuses_what_is_none_of_ours(void **state)
{
    static const char *const verbs[] = {"inspect", "verify", "digest"};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    char words[300], half[300], sparse[300], empty[300], fifo[300], none[300];

    (void)state;
    in_scratch(empty, "empty.flm");
    in_scratch(fifo, "fifo");
    in_scratch(none, "none.flm");
    assert_ok(delta_file_write(empty, delta_bytes("", 0), 0644, &err));
    assert_int_equal(mkfifo(fifo, 0600), 0); /* nobody will ever write into it */
    in_scratch(words, "words.txt");
    in_scratch(half, "half.fld");
    in_scratch(sparse, "sparse.fld");
    assert_ok(delta_file_write(words, delta_bytes("once upon a time", 16), 0644, &err));
    assert_ok(delta_file_read(fld, 1 << 20, &file, &err));
    assert_ok(delta_file_write(half, delta_bytes(file.data, file.len / 2), 0644, &err));
    assert_ok(delta_file_write(sparse, delta_bytes(file.data, file.len), 0644, &err));
    delta_buf_release(&file);
    assert_int_equal(truncate(sparse, (off_t)1 << 40), 0); /* a terabyte of nothing */
    const char *const bad[] = {words, half,           sparse,      empty,
                               fifo,  "/nonexistent", "/dev/null", scratch.path};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        for (size_t v = 0; v < sizeof verbs / sizeof verbs[0]; v++) {
            harness_run(&r, PROGRAM, verbs[v], bad[i], NULL);
            assert_refused_in_a_line(verbs[v], bad[i]);
        }
        harness_run(&r, PROGRAM, "inspect", "--header", bad[i], NULL);
        assert_refused_in_a_line("inspect --header", bad[i]);
        harness_run(&r, PROGRAM, "apply", base, bad[i], "--out", none, NULL);
        assert_refused_in_a_line("apply BASE", bad[i]);
        harness_run(&r, PROGRAM, "apply", bad[i], fld, "--out", none, NULL);
        assert_refused_in_a_line("apply", bad[i]);
        harness_run(&r, PROGRAM, "import", bad[i], "--out", none, NULL);
        assert_refused_in_a_line("import", bad[i]);
    }
    assert_false(delta_file_exists(none));
    assert_int_equal(unlink(sparse), 0);
    assert_int_equal(unlink(half), 0);
    assert_int_equal(unlink(empty), 0);
    assert_int_equal(unlink(fifo), 0);
}

static void cli_usage(void **state)
{
    static const char *const verbs[] = {"inspect", "verify", "log",    "diff",   "cat",    "make",
                                        "apply",   "invert", "squash", "digest", "keygen", "sign",
                                        "import",  "export", "push",   "pull"};

    (void)state;
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        harness_run(&r, PROGRAM, verbs[i], "--help", NULL);
        assert_int_equal(r.status, 0);
        assert_non_null(strstr(r.out, "usage: frostline-delta"));
        assert_narrow();
        harness_run(&r, PROGRAM, verbs[i], NULL);
        assert_int_equal(r.status, 2);
    }
    harness_run(&r, PROGRAM, "nonsense", NULL);
    assert_int_equal(r.status, 2);
    harness_run(&r, PROGRAM, "inspect", harness_path(&scratch, "absent"), NULL);
    assert_int_equal(r.status, 3);
    assert_non_null(strstr(r.err, "absent"));
    harness_run(&r, PROGRAM, "inspect", scratch.path, NULL);
    assert_int_equal(r.status, 3);
    harness_run(&r, "frostline", "delta", "digest", base, NULL);
    assert_int_equal(r.status, 0);
}

/* In this process too, so that the sanitizers see the verbs' own leaks. */
static void cli_runs_in_process(void **state)
{
    char *argv[] = {"frostline-delta", "verify", fld, "--key", pub, "--base", base, NULL};

    (void)state;
    assert_int_equal(delta_cli_main(7, argv), 0);
}

static void cli_full_disk_keeps_the_old_file(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest a, b;
    char copy[300], command[1600];

    (void)state;
    in_scratch(copy, "kept.flm");
    assert_ok(delta_file_copy(base, copy, 0644, &err));
    assert_ok(delta_sha256_file(copy, &a, NULL, &err));
    /* a file size limit of one 512-byte block stands for a disk that fills half way */
    snprintf(command, sizeof command,
             "trap '' XFSZ; ulimit -f 1; exec '%s' apply '%s' '%s' --out '%s' 2>/dev/null",
             harness_program(PROGRAM), base, fld, copy);
    assert_int_equal(WEXITSTATUS(system(command)), 6);
    assert_ok(delta_sha256_file(copy, &b, NULL, &err));
    assert_memory_equal(a.bytes, b.bytes, 32);
    snprintf(command, sizeof command, "'%s' inspect '%s' > /dev/full 2>/dev/null",
             harness_program(PROGRAM), base);
    assert_int_equal(WEXITSTATUS(system(command)), 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cli_applies_what_it_diffed),
        cmocka_unit_test(cli_inspect_shows_each_kind),
        cmocka_unit_test(cli_inspect_json_of_a_delta),
        cmocka_unit_test(cli_verify_exit_statuses),
        cmocka_unit_test(cli_diff_shows_any_two_versions),
        cmocka_unit_test(cli_inspect_with_base_tells_norms),
        cmocka_unit_test(cli_squashes_and_inverts),
        cmocka_unit_test(cli_cats_a_tensor),
        cmocka_unit_test(cli_sign_is_atomic_and_in_place),
        cmocka_unit_test(cli_import_names_classes),
        cmocka_unit_test(cli_keeps_a_residual_with_its_delta_only),
        cmocka_unit_test(cli_refuses_what_is_none_of_ours),
        cmocka_unit_test(cli_tells_what_it_may_not_read),
        cmocka_unit_test(cli_messages_cannot_command_a_terminal),
        cmocka_unit_test(cli_log_tells_the_chain),
        cmocka_unit_test(cli_exports_and_imports_npz),
        cmocka_unit_test(cli_pushes_and_pulls),
        cmocka_unit_test(cli_inspects_a_header_without_its_payload),
        cmocka_unit_test(cli_usage),
        cmocka_unit_test(cli_runs_in_process),
        cmocka_unit_test(cli_full_disk_keeps_the_old_file),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
