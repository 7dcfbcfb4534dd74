#include "delta/oci.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta_fixture.h"

static struct harness_scratch scratch;
static struct delta_error err;
static struct delta_buf model_file, delta_file;
static char layout[300];

static const char *in_layout(const char *name)
{
    static char paths[4][700];
    static unsigned next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof paths[0], "%s/%s", layout, name);
    return path;
}

/* A fresh layout with "v1" and "v1-v2" for each test. */
static int setup(void **state)
{
    struct delta_model from, to;

    (void)state;
    harness_scratch_make(&scratch);
    snprintf(layout, sizeof layout, "%s", harness_path(&scratch, "oci"));
    fixture_model(&from);
    assert_ok(delta_model_copy(&to, &from, &err));
    to.tensors[0].data[30] += 1;
    assert_ok(delta_model_encode(&from, &model_file, &err));
    assert_ok(delta_diff(&from, &to, NULL, &delta_file, &err));
    delta_file.cap += 2048;
    assert_ok(delta_container_sign(&delta_file, fixture_key(), &err));
    delta_model_release(&from);
    delta_model_release(&to);
    assert_ok(delta_oci_push(layout, "v1", delta_buf_bytes(&model_file), NULL, &err));
    assert_ok(delta_oci_push(layout, "v1-v2", delta_buf_bytes(&delta_file), NULL, &err));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    delta_buf_release(&model_file);
    delta_buf_release(&delta_file);
    harness_scratch_remove(&scratch);
    return 0;
}

static json_t *load(const char *path)
{
    json_t *root = json_load_file(path, 0, NULL);

    assert_non_null(root);
    return root;
}

static void blob_of(char out[300], const json_t *descriptor)
{
    const char *digest = json_string_value(json_object_get(descriptor, "digest"));

    assert_non_null(digest);
    snprintf(out, 300, "blobs/sha256/%s", digest + 7);
}

/* Path, below the layout, of the manifest of the index's first entry, and of its layer. */
static void first_blobs(char manifest[300], char layer[300])
{
    json_t *index = load(in_layout("index.json")), *root;

    blob_of(manifest, json_array_get(json_object_get(index, "manifests"), 0));
    root = load(in_layout(manifest));
    blob_of(layer, json_array_get(json_object_get(root, "layers"), 0));
    json_decref(root);
    json_decref(index);
}

static enum delta_status pull(const char *name)
{
    struct delta_buf out;
    const enum delta_status st = delta_oci_pull(layout, name, &out, &err);

    assert_true(st || out.len > 0);
    delta_buf_release(&out);
    return st;
}

static void oci_gives_back_what_was_pushed(void **state)
{
    struct delta_oci_list list;
    struct delta_buf out;

    (void)state;
    assert_ok(delta_oci_pull(layout, "v1", &out, &err));
    assert_int_equal(out.len, model_file.len);
    assert_memory_equal(out.data, model_file.data, out.len);
    delta_buf_release(&out);
    assert_ok(delta_oci_pull(layout, "v1-v2", &out, &err));
    assert_memory_equal(out.data, delta_file.data, delta_file.len); /* with its signature */
    delta_buf_release(&out);
    assert_ok(delta_oci_read(&list, layout, &err));
    assert_int_equal(list.count, 2);
    assert_string_equal(list.items[1].name, "v1-v2");
    delta_oci_list_release(&list);
    /* a name moves on; what it named before stays as a blob */
    assert_ok(delta_oci_push(layout, "v1", delta_buf_bytes(&delta_file), NULL, &err));
    assert_ok(delta_oci_read(&list, layout, &err));
    assert_int_equal(list.count, 2);
    delta_oci_list_release(&list);
    assert_status(pull("v9"), DELTA_NOT_FOUND);
}

/* The names that the specifications give, letter by letter. */
static void oci_is_laid_out_as_specified(void **state)
{
    char manifest[300], layer[300], config[300];
    json_t *root = load(in_layout("oci-layout"));

    (void)state;
    assert_string_equal(json_string_value(json_object_get(root, "imageLayoutVersion")), "1.0.0");
    json_decref(root);
    first_blobs(manifest, layer);
    root = load(in_layout(manifest));
    assert_int_equal(json_integer_value(json_object_get(root, "schemaVersion")), 2);
    assert_string_equal(json_string_value(json_object_get(root, "mediaType")),
                        "application/vnd.oci.image.manifest.v1+json");
    assert_string_equal(json_string_value(json_object_get(root, "artifactType")),
                        "application/vnd.cncf.model.manifest.v1+json");
    const json_t *row = json_object_get(root, "config");
    assert_string_equal(json_string_value(json_object_get(row, "mediaType")),
                        "application/vnd.cncf.model.config.v1+json");
    blob_of(config, row);
    row = json_array_get(json_object_get(root, "layers"), 0);
    assert_string_equal(json_string_value(json_object_get(row, "mediaType")),
                        "application/vnd.cncf.model.weight.v1.raw");
    assert_int_equal(json_integer_value(json_object_get(row, "size")), model_file.len);
    json_decref(root);
    root = load(in_layout(config));
    row = json_object_get(root, "modelfs");
    assert_string_equal(json_string_value(json_object_get(row, "type")), "layers");
    assert_int_equal(json_array_size(json_object_get(row, "diffIds")), 1);
    assert_int_equal(json_object_size(root), 3); /* the schema allows no other keys */
    json_decref(root);
}

static void oci_refuses_names_and_places(void **state)
{
    static const char *const names[] = {"", "../x", ".hidden", "a b", "a\nb", "-x", "a\\b"};
    char path[400];

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_status(delta_oci_push(layout, names[i], delta_buf_bytes(&model_file), NULL, &err),
                      DELTA_FORMAT);
    assert_status(delta_oci_push(layout, "x", delta_bytes("hello, world", 12), NULL, &err),
                  DELTA_FORMAT);
    assert_status(delta_oci_push(layout, "x", delta_bytes(model_file.data, 100), NULL, &err),
                  DELTA_TRUNCATED);
    /* a directory with something else in it is left alone */
    snprintf(path, sizeof path, "%s", harness_path(&scratch, "home"));
    assert_ok(delta_dir_make(path, 0755, &err));
    assert_ok(delta_file_write(harness_path(&scratch, "home/letter.txt"), delta_bytes("x", 1), 0644,
                               &err));
    assert_status(delta_oci_push(path, "x", delta_buf_bytes(&model_file), NULL, &err),
                  DELTA_FORMAT);
    assert_status(pull("v1") ? DELTA_INTERNAL : DELTA_OK, DELTA_OK);
    snprintf(layout, sizeof layout, "%s", path);
    assert_status(pull("v1"), DELTA_NOT_FOUND);
}

/* Two first pushes at once: had the second made the layout anew, what the first pushed would be
 * gone. So nothing is made by whoever does not hold the lock. */
static void oci_layout_is_made_under_the_lock(void **state)
{
    struct stat info;
    int lock;

    (void)state;
    snprintf(layout, sizeof layout, "%s", harness_path(&scratch, "race"));
    assert_ok(delta_dir_make(layout, 0755, &err));
    assert_ok(delta_file_lock(in_layout(".push-lock"), &lock, &err));
    assert_status(delta_oci_push(layout, "v1", delta_buf_bytes(&model_file), NULL, &err),
                  DELTA_EXISTS);
    assert_int_not_equal(stat(in_layout("oci-layout"), &info), 0);
    assert_int_not_equal(stat(in_layout("index.json"), &info), 0);
    assert_int_equal(close(lock), 0);
    assert_ok(delta_oci_push(layout, "v1", delta_buf_bytes(&model_file), NULL, &err));
    assert_ok(pull("v1"));
    /* a lock that points elsewhere is not followed: it would make a file there */
    assert_int_equal(unlink(in_layout(".push-lock")), 0);
    assert_int_equal(symlink("../elsewhere", in_layout(".push-lock")), 0);
    assert_int_not_equal(delta_oci_push(layout, "v2", delta_buf_bytes(&model_file), NULL, &err),
                         DELTA_OK);
    assert_int_not_equal(stat(harness_path(&scratch, "elsewhere"), &info), 0);
}

static void oci_refuses_damaged_blobs(void **state)
{
    char manifest[300], layer[300];
    struct delta_buf blob;

    (void)state;
    first_blobs(manifest, layer);
    assert_ok(delta_file_read(in_layout(layer), 1 << 20, &blob, &err));
    blob.data[blob.len - 1] ^= 1;
    assert_ok(delta_file_write(in_layout(layer), delta_buf_bytes(&blob), 0644, &err));
    assert_status(pull("v1"), DELTA_DIGEST);
    assert_ok(delta_file_write(in_layout(layer), delta_bytes(blob.data, blob.len / 2), 0644, &err));
    assert_status(pull("v1"), DELTA_DIGEST);
    assert_ok(delta_file_write(in_layout(layer), delta_buf_bytes(&blob), 0644, &err));
    assert_int_equal(truncate(in_layout(layer), (off_t)1 << 40), 0);
    assert_status(pull("v1"), DELTA_DIGEST); /* without reading a terabyte */
    assert_int_equal(unlink(in_layout(layer)), 0);
    assert_status(pull("v1"), DELTA_NOT_FOUND);
    assert_int_equal(symlink("/dev/zero", in_layout(layer)), 0);
    assert_status(pull("v1"), DELTA_FORMAT);
    /* pushing again mends it */
    assert_ok(delta_oci_push(layout, "v1", delta_buf_bytes(&model_file), NULL, &err));
    assert_ok(pull("v1"));
    delta_buf_release(&blob);
}

/* `text` with the first `from` replaced; the caller frees it. */
static char *replaced(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    char *out = NULL;

    if (!at)
        fail_msg("'%s' is not in %s", from, text);
    assert_true(asprintf(&out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) > 0);
    return out;
}

static void write_text(const char *name, const char *text)
{
    assert_ok(delta_file_write(in_layout(name), delta_bytes(text, strlen(text)), 0644, &err));
}

/* The manifest of "v1" with `from` replaced, under a right digest. */
static void forge(const char *from, const char *to)
{
    char manifest[300], layer[300], hex[DELTA_DIGEST_HEX], name[300], entry[600];
    struct delta_digest digest;
    struct delta_buf blob;
    char *text;

    first_blobs(manifest, layer);
    assert_ok(delta_file_read(in_layout(manifest), 1 << 20, &blob, &err));
    blob.cap++;
    assert_ok(delta_buf_append(&blob, "", 1, &err));
    text = replaced((const char *)blob.data, from, to);
    digest = delta_sha256(delta_bytes(text, strlen(text)));
    delta_digest_hex(hex, &digest);
    snprintf(name, sizeof name, "blobs/sha256/%s", hex);
    write_text(name, text);
    snprintf(entry, sizeof entry,
             "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":"
             "\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:%s\","
             "\"size\":%zu,\"annotations\":{\"org.opencontainers.image.ref.name\":\"f\"}}]}",
             hex, strlen(text));
    write_text("index.json", entry);
    free(text);
    delta_buf_release(&blob);
}

static void oci_refuses_hostile_manifests(void **state)
{
    static const struct {
        const char *from, *to;
        enum delta_status status;
    } rows[] = {
        {"\"schemaVersion\":2", "\"schemaVersion\":2 ", DELTA_OK}, /* forging works */
        {"weight.v1.raw", "weight.v1.tar+gzip", DELTA_UNSUPPORTED},
        {"vnd.cncf.model.weight.v1.raw", "vnd.cncf.model.doc.v1.raw", DELTA_UNSUPPORTED},
        {"vnd.cncf.model.manifest", "vnd.example.manifest", DELTA_UNSUPPORTED},
        {"vnd.cncf.model.config", "vnd.example.config", DELTA_UNSUPPORTED},
        {"\"layers\":[{",
         "\"layers\":[{\"mediaType\":\"application/vnd.cncf.model.weight.v1.raw\"},{",
         DELTA_UNSUPPORTED},
        {"\"layers\":[{", "\"layers\":[{\"mediaType\":\"application/vnd.cncf.model.doc.v1.raw\"},{",
         DELTA_OK},
        {"\"layers\":", "\"straw\":", DELTA_UNSUPPORTED},
        {"}],\"mediaType\"", "}],\"layers\":[],\"mediaType\"", DELTA_FORMAT}, /* twice */
        {"\"config\":{\"digest\":\"sha256:", "\"config\":{\"digest\":\"sha512:", DELTA_FORMAT},
        {"\"config\":{\"digest\":\"sha256:", "\"config\":{\"digest\":\"sha256:../../../../etc/",
         DELTA_FORMAT},
        {"\"config\":{\"digest\":\"sha256:", "\"config\":{\"digest\":\"sha256:A", DELTA_FORMAT},
        {"\"size\":", "\"size\":-", DELTA_FORMAT},
        {"\"size\":", "\"size\":9223372036854775807,\"was\":", DELTA_LIMIT},
        {"\"size\":", "\"size\":9223372036854775808,\"was\":", DELTA_FORMAT},
        {"\"size\":", "\"size\":\"1\",\"was\":", DELTA_FORMAT},
        {"\"size\":", "\"size\":1,\"was\":", DELTA_DIGEST},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_ok(delta_oci_push(layout, "v1", delta_buf_bytes(&model_file), NULL, &err));
        struct delta_buf index;
        assert_ok(delta_file_read(in_layout("index.json"), 1 << 20, &index, &err));
        forge(rows[i].from, rows[i].to);
        const enum delta_status st = pull("f");
        if (st != rows[i].status)
            fail_msg("%s -> %s: %s: %s", rows[i].from, rows[i].to, delta_status_name(st), err.text);
        assert_ok(delta_file_write(in_layout("index.json"), delta_buf_bytes(&index), 0644, &err));
        delta_buf_release(&index);
    }
}

static void oci_refuses_hostile_indexes(void **state)
{
    static const struct {
        const char *text;
        enum delta_status status;
    } rows[] = {
        {"", DELTA_FORMAT},
        {"[]", DELTA_FORMAT},
        {"{\"schemaVersion\":2}", DELTA_FORMAT},
        {"{\"schemaVersion\":3,\"manifests\":[]}", DELTA_FORMAT},
        {"{\"schemaVersion\":2,\"manifests\":[]}", DELTA_NOT_FOUND},
        {"{\"schemaVersion\":2,\"manifests\":[1,\"\",null,[],{}]}", DELTA_NOT_FOUND},
        {"{\"schemaVersion\":2,\"manifests\":[{\"annotations\":{"
         "\"org.opencontainers.image.ref.name\":\"v1\"}}]}",
         DELTA_UNSUPPORTED},
    };
    const size_t many = 1 << 20;
    char *deep = malloc(many + 2);

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        write_text("index.json", rows[i].text);
        const enum delta_status st = pull("v1");
        if (st != rows[i].status)
            fail_msg("%s: %s: %s", rows[i].text, delta_status_name(st), err.text);
    }
    assert_non_null(deep);
    memset(deep, '[', many + 1);
    deep[many] = '\0';
    write_text("index.json", deep);
    assert_status(pull("v1"), DELTA_LIMIT);
    deep[many] = '[';
    deep[many + 1] = '\0';
    write_text("index.json", deep);
    assert_status(pull("v1"), DELTA_LIMIT);
    free(deep);
    write_text("oci-layout", "{\"imageLayoutVersion\":\"2.0.0\"}");
    assert_status(pull("v1"), DELTA_UNSUPPORTED);
}

/* skopeo, for one, writes indexes without artifact types. */
static void oci_lists_what_other_tools_copied(void **state)
{
    struct delta_oci_list list;

    (void)state;
    forge("\"schemaVersion\":2", "\"schemaVersion\":2 ");
    assert_ok(delta_oci_read(&list, layout, &err));
    assert_int_equal(list.count, 1);
    assert_string_equal(list.items[0].name, "f");
    delta_oci_list_release(&list);
    assert_ok(delta_oci_push(layout, "v1", delta_buf_bytes(&model_file), NULL, &err));
    forge("vnd.cncf.model.manifest", "vnd.example.manifest");
    assert_ok(delta_oci_read(&list, layout, &err));
    assert_int_equal(list.count, 0);
    assert_int_equal(list.ignored, 1);
    delta_oci_list_release(&list);
}

/* Debian's skopeo moves a signed delta to another layout, as it would to a registry. */
static void oci_is_copied_by_skopeo(void **state)
{
    char command[1400];
    struct delta_oci_list list;
    struct delta_buf out;

    (void)state;
    if (system("command -v skopeo > /dev/null") != 0) {
        print_message("SKIP: skopeo is not installed; no other tool copies the layout\n");
        skip();
    }
    snprintf(command, sizeof command,
             "skopeo copy --quiet --insecure-policy oci:%s:v1-v2 oci:%s-copy:v1-v2 >/dev/null",
             layout, layout);
    assert_int_equal(system(command), 0);
    strncat(layout, "-copy", sizeof layout - strlen(layout) - 1);
    assert_ok(delta_oci_read(&list, layout, &err));
    assert_int_equal(list.count, 1);
    assert_string_equal(list.items[0].name, "v1-v2");
    delta_oci_list_release(&list);
    assert_ok(delta_oci_pull(layout, "v1-v2", &out, &err));
    assert_int_equal(out.len, delta_file.len);
    assert_memory_equal(out.data, delta_file.data, out.len);
    delta_buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(oci_gives_back_what_was_pushed, setup, teardown),
        cmocka_unit_test_setup_teardown(oci_is_laid_out_as_specified, setup, teardown),
        cmocka_unit_test_setup_teardown(oci_refuses_names_and_places, setup, teardown),
        cmocka_unit_test_setup_teardown(oci_layout_is_made_under_the_lock, setup, teardown),
        cmocka_unit_test_setup_teardown(oci_refuses_damaged_blobs, setup, teardown),
        cmocka_unit_test_setup_teardown(oci_refuses_hostile_manifests, setup, teardown),
        cmocka_unit_test_setup_teardown(oci_refuses_hostile_indexes, setup, teardown),
        cmocka_unit_test_setup_teardown(oci_lists_what_other_tools_copied, setup, teardown),
        cmocka_unit_test_setup_teardown(oci_is_copied_by_skopeo, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
