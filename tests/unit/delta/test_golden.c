/* tests/golden: what was written once must read for ever, what is bad must say why. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "delta/npz.h"
#include "delta/safetensors.h"
#include "delta_fixture.h"

static struct delta_keyring ring;
static struct delta_trusted_model base, wide;

static const char *golden(const char *name)
{
    static char paths[4][1024];
    static unsigned next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof paths[0], "%s/tests/golden/%s", getenv("FROSTLINE_SOURCE"), name);
    return path;
}

static struct delta_buf read_golden(const char *name)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;

    assert_ok(delta_file_read(golden(name), 1 << 20, &file, &err));
    return file;
}

static int setup(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_public_key key;
    struct delta_buf file;

    (void)state;
    assert_ok(delta_public_key_load(&key, golden("good/golden.pub.pem"), &err));
    assert_ok(delta_keyring_add(&ring, &key, &err));
    file = read_golden("good/schema-1.flm");
    assert_ok(delta_trust_model(&base, delta_buf_bytes(&file), &ring, &err));
    delta_buf_release(&file);
    file = read_golden("good/schema-1-wide.flm");
    assert_ok(delta_trust_model(&wide, delta_buf_bytes(&file), &ring, &err));
    delta_buf_release(&file);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    delta_trusted_model_release(&base);
    delta_trusted_model_release(&wide);
    return 0;
}

#define BASE_NAME "23f54e8c65c8a78ca1402934b05b7ab72e80854c4296adf036972c5c6eedd3f0"
#define TARGET_NAME "ccd163428c5a489607822cd1775df0f812a99dfff6db50686dd2ce545db28867"

static void golden_model_keeps_its_name(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    char hex[DELTA_DIGEST_HEX];
    struct delta_digest again;

    (void)state;
    delta_digest_hex(hex, &base.version);
    assert_string_equal(hex, BASE_NAME);
    assert_ok(delta_model_digest(&base.model, &again, &err));
    assert_memory_equal(again.bytes, base.version.bytes, 32);
    assert_int_equal(base.model.class_count, 4);
    assert_string_equal(base.model.classes[3].text, "dog");
}

static void golden_delta_gives_its_target(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file = read_golden("good/schema-1.fld");
    struct delta_trusted_model target;
    char hex[DELTA_DIGEST_HEX];
    uint32_t bits;

    (void)state;
    assert_ok(delta_trust_delta(&target, &base, delta_buf_bytes(&file), &ring, &err));
    delta_digest_hex(hex, &target.version);
    assert_string_equal(hex, TARGET_NAME);
    memcpy(&bits, &delta_model_find(&target.model, "fc.bias")->data[4], 4);
    assert_int_equal(bits, 0x80000000);
    delta_trusted_model_release(&target);
    delta_buf_release(&file);
}

/* Whether good/DIGESTS, which was recorded without our code, has this line. */
static bool is_recorded(const char *file, const char *tensor, const struct delta_digest *digest)
{
    struct delta_buf lines = read_golden("good/DIGESTS");
    char line[400], hex[DELTA_DIGEST_HEX];

    delta_digest_hex(hex, digest);
    snprintf(line, sizeof line, "%s %s %s\n", file, tensor, hex);
    const bool found = memmem(lines.data, lines.len, line, strlen(line)) != NULL;
    delta_buf_release(&lines);
    return found;
}

static void assert_recorded(const char *file, const struct delta_trusted_model *model)
{
    if (!is_recorded(file, "-", &model->version))
        fail_msg("%s: another version than recorded", file);
    for (size_t i = 0; i < model->model.tensor_count; i++) {
        const struct delta_tensor *t = &model->model.tensors[i];
        const struct delta_digest digest =
            delta_sha256(delta_bytes(t->data, t->count * sizeof(float)));
        if (!is_recorded(file, t->name, &digest))
            fail_msg("%s: tensor '%s' differs from what was recorded", file, t->name);
    }
}

/* Every encoding that was ever released. */
static void golden_good_files_give_the_recorded_digests(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_trusted_model target;
    struct delta_dir_list list;
    struct delta_buf file;
    size_t deltas = 0;

    (void)state;
    assert_recorded("schema-1.flm", &base);
    assert_recorded("schema-1-wide.flm", &wide);
    assert_ok(delta_dir_read(&list, golden("good"), 1000, &err));
    for (size_t i = 0; i < list.count; i++) {
        char name[300];
        if (!strstr(list.names[i], ".fld"))
            continue;
        snprintf(name, sizeof name, "good/%s", list.names[i]);
        file = read_golden(name);
        if (delta_trust_delta(&target, &base, delta_buf_bytes(&file), &ring, &err) ==
            DELTA_BASE_UNKNOWN)
            assert_ok(delta_trust_delta(&target, &wide, delta_buf_bytes(&file), &ring, &err));
        assert_recorded(list.names[i], &target);
        delta_trusted_model_release(&target);
        delta_buf_release(&file);
        deltas++;
    }
    assert_true(deltas >= 8);
    delta_dir_list_release(&list);
}

/* Against the base that the delta names, or against `base` where it names none of ours. */
static enum delta_status judge_delta(struct delta_bytes file, struct delta_error *err)
{
    struct delta_trusted_model out;
    struct delta_error other;
    enum delta_status st = delta_trust_delta(&out, &wide, file, &ring, &other);

    if (st == DELTA_BASE_UNKNOWN)
        st = delta_trust_delta(&out, &base, file, &ring, err);
    else if (st)
        *err = other;
    if (!st)
        delta_trusted_model_release(&out);
    return st;
}

static enum delta_status judge_model(struct delta_bytes file, struct delta_error *err)
{
    struct delta_trusted_model out;
    const enum delta_status st = delta_trust_model(&out, file, &ring, err);

    if (!st)
        delta_trusted_model_release(&out);
    return st;
}

static enum delta_status judge(const char *name, struct delta_error *err)
{
    struct delta_buf file = read_golden(name);
    const struct delta_bytes bytes = delta_buf_bytes(&file);
    struct delta_model foreign = DELTA_MODEL_INIT;
    enum delta_status st;

    if (strstr(name, ".fld"))
        st = judge_delta(bytes, err);
    else if (strstr(name, ".safetensors"))
        st = delta_safetensors_decode(&foreign, bytes, NULL, err);
    else if (strstr(name, ".npz"))
        st = delta_npz_decode(&foreign, bytes, NULL, NULL, err);
    else
        st = judge_model(bytes, err);
    delta_model_release(&foreign);
    delta_buf_release(&file);
    return st;
}

/* Signature first is right for a device, but then a damaged file never reaches the parsers: ask
 * them too, whatever the signature says. */
static enum delta_status parse_only(const char *name, struct delta_error *err)
{
    struct delta_buf file = read_golden(name);
    struct delta_reader reader;
    struct delta_model model;
    enum delta_status st;

    if (strstr(name, ".fld")) {
        st = delta_reader_init(&reader, delta_buf_bytes(&file), err);
        if (!st)
            delta_reader_release(&reader);
    } else {
        st = delta_model_decode(&model, delta_buf_bytes(&file), NULL, err);
        if (!st)
            delta_model_release(&model);
    }
    delta_buf_release(&file);
    return st;
}

static void golden_bad_files_give_the_status_in_their_name(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_dir_list list;

    (void)state;
    assert_ok(delta_dir_read(&list, golden("bad"), 1000, &err));
    assert_true(list.count > 80);
    for (size_t i = 0; i < list.count; i++) {
        char name[300], wanted[64];
        snprintf(name, sizeof name, "bad/%s", list.names[i]);
        snprintf(wanted, sizeof wanted, "%.*s", (int)strcspn(list.names[i], "-"), list.names[i]);
        err.text[0] = '\0';
        const enum delta_status st = judge(name, &err);
        if (strcmp(delta_status_name(st), wanted) != 0)
            fail_msg("%s: %s: %s", name, delta_status_name(st), err.text);
        assert_true(err.text[0] != '\0');
        assert_null(strchr(err.text, '\n'));
        (void)parse_only(name, &err); /* must not crash */
    }
    delta_dir_list_release(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_model_keeps_its_name),
        cmocka_unit_test(golden_delta_gives_its_target),
        cmocka_unit_test(golden_good_files_give_the_recorded_digests),
        cmocka_unit_test(golden_bad_files_give_the_status_in_their_name),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
