/* apply_file, outline, the front of a reader: file to file gives what memory to memory gives, in
 * the memory of one tensor; looking at a header reads no payload. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta_fixture.h"
#include "outline.h"

static struct harness_scratch scratch;

static int setup(void **state)
{
    (void)state;
    harness_scratch_make(&scratch);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

/* Grown head, changed plans, changed live and frozen elements, a parent of its own. */
static void make_target(const struct delta_model *base, struct delta_model *out, int variant)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_class_id id;

    assert_ok(delta_model_copy(out, base, &err));
    assert_ok(delta_model_digest(base, &out->parent, &err));
    delta_model_find(out, "conv1.weight")->data[30] += 0.5f;
    if (variant & 1) {
        assert_ok(delta_class_id_make(&id, "dog", &err));
        assert_ok(delta_model_grow_head(out, &id, 1, &err));
        delta_model_find(out, "fc.weight")->data[13] = 3;
    }
    if (variant & 2)
        assert_ok(delta_tensor_set_freeze(delta_model_find(out, "layer.weight"), DELTA_FREEZE_ROWS,
                                          (const uint8_t[]){0x0a}, 4, &err));
    if (variant & 4)
        delta_model_find(out, "layer.weight")->data[5] += 1; /* frozen */
    if (variant & 8)
        memset(out->parent.bytes, 7, sizeof out->parent.bytes);
    if (variant & 16) {
        assert_ok(delta_tensor_set_freeze(delta_model_find(out, "conv1.weight"), DELTA_FREEZE_LIVE,
                                          NULL, 0, &err));
        delta_model_find(out, "bn1.weight")->data[0] = 2;
    }
}

static void write_pair(const struct delta_model *base, const struct delta_model *target)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;

    assert_ok(delta_model_save(base, harness_path(&scratch, "base.flm"), &err));
    assert_ok(delta_diff(base, target, NULL, &file, &err));
    assert_ok(delta_container_sign(&file, fixture_key(), &err));
    assert_ok(
        delta_file_write(harness_path(&scratch, "d.fld"), delta_buf_bytes(&file), 0644, &err));
    delta_buf_release(&file);
}

static enum delta_status apply(const struct delta_keyring *ring, struct delta_digest *version,
                               struct delta_error *err)
{
    return delta_apply_file(harness_path(&scratch, "base.flm"), harness_path(&scratch, "d.fld"),
                            harness_path(&scratch, "out.flm"), ring, version, err);
}

static void check_pair(const struct delta_model *base, const struct delta_model *target)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest version, want;
    struct delta_buf have, image;

    write_pair(base, target);
    assert_ok(apply(NULL, &version, &err));
    assert_ok(delta_model_digest(target, &want, &err));
    assert_memory_equal(version.bytes, want.bytes, 32);
    assert_ok(delta_file_read(harness_path(&scratch, "out.flm"), 1 << 20, &have, &err));
    assert_ok(delta_model_encode(target, &image, &err));
    assert_int_equal(have.len, image.len);
    assert_memory_equal(have.data, image.data, image.len);
    delta_buf_release(&have);
    delta_buf_release(&image);
}

/* There and back again: on the way back classes, rows and bits of plans go. */
static void files_give_the_same_bytes_as_memory(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_keyring ring, other;

    (void)state;
    fixture_ring(&ring, fixture_key());
    fixture_ring(&other, fixture_other_key());
    for (int head = 0; head < 3; head++)
        for (int variant = 0; variant < 32; variant++) {
            struct delta_model base, target;
            struct delta_digest version;
            struct delta_tensor *fc;
            fixture_model(&base);
            if (head == 1)
                assert_ok(delta_tensor_set_freeze(delta_model_find(&base, "fc.weight"),
                                                  DELTA_FREEZE_ALL, NULL, 0, &err));
            make_target(&base, &target, variant);
            fc = delta_model_find(&target, "fc.weight");
            if (head == 2)
                assert_ok(delta_tensor_set_freeze(
                    fc, DELTA_FREEZE_WEIGHTS, (const uint8_t[]){0x5a, 0xa5}, fc->count - 1, &err));
            check_pair(&target, &base);
            check_pair(&base, &target);
            assert_ok(apply(&ring, &version, &err));
            assert_status(apply(&other, &version, &err), DELTA_UNTRUSTED);
            delta_model_release(&base);
            delta_model_release(&target);
        }
}

/* Any damaged byte of either file: an error, and the file that was there is untouched. */
static void damage_leaves_the_old_file(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    static const char *const names[] = {"d.fld", "base.flm"};
    struct delta_model base, target;
    struct delta_keyring ring;

    (void)state;
    fixture_model(&base);
    make_target(&base, &target, 7);
    write_pair(&base, &target);
    fixture_ring(&ring, fixture_key());
    for (int f = 0; f < 2; f++) {
        struct delta_buf good, kept;
        assert_ok(delta_file_read(harness_path(&scratch, names[f]), 1 << 20, &good, &err));
        for (size_t at = 0; at < good.len; at += f ? 41 : 11) {
            assert_ok(delta_file_write(harness_path(&scratch, "out.flm"), delta_bytes("old", 3),
                                       0644, &err));
            good.data[at] ^= 0x20;
            assert_ok(delta_file_write(harness_path(&scratch, names[f]), delta_buf_bytes(&good),
                                       0644, &err));
            const enum delta_status st = apply(f ? NULL : &ring, NULL, &err);
            good.data[at] ^= 0x20;
            /* padding between payloads is not looked at here: it goes nowhere */
            if (st == DELTA_OK)
                continue;
            assert_non_null(strstr(err.text, names[f]) ? err.text : strstr(err.text, "d.fld"));
            assert_ok(delta_file_read(harness_path(&scratch, "out.flm"), 1 << 20, &kept, &err));
            assert_int_equal(kept.len, 3);
            delta_buf_release(&kept);
        }
        assert_ok(
            delta_file_write(harness_path(&scratch, names[f]), delta_buf_bytes(&good), 0644, &err));
        for (size_t len = 0; len < good.len; len += 101) {
            assert_ok(delta_file_write(harness_path(&scratch, names[f]),
                                       delta_bytes(good.data, len), 0644, &err));
            assert_status(apply(NULL, NULL, &err), DELTA_TRUNCATED);
        }
        assert_ok(
            delta_file_write(harness_path(&scratch, names[f]), delta_buf_bytes(&good), 0644, &err));
        delta_buf_release(&good);
    }
    assert_ok(apply(&ring, NULL, &err));
    delta_model_release(&base);
    delta_model_release(&target);
}

/* ---- large files ---- */

/* `tensors` tensors of a megabyte, one element in twenty live, all live ones moved. */
static void make_large(size_t tensors, struct delta_model *base, struct delta_model *target)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const uint64_t shape[2] = {512, 512};
    uint8_t *bits = malloc(512 * 512 / 8);
    struct delta_tensor *t;
    uint64_t seed = 3;

    fixture_model(base);
    for (size_t i = 0; i < 512 * 512 / 8; i++)
        bits[i] = (uint8_t)(i % 5 == 0 ? 0x7f : i % 5 == 1 ? 0xbf : 0xff);
    for (size_t i = 0; i < tensors; i++) {
        char name[32];
        snprintf(name, sizeof name, "x%03zu.weight", i);
        assert_ok(delta_model_add_tensor(base, name, 2, shape, &t, &err));
        for (size_t k = 0; k < t->count; k++)
            t->data[k] = fixture_value(&seed);
        assert_ok(delta_tensor_set_freeze(t, DELTA_FREEZE_WEIGHTS, bits, 512 * 512, &err));
    }
    assert_ok(delta_model_copy(target, base, &err));
    assert_ok(delta_model_digest(base, &target->parent, &err));
    for (size_t i = 0; i < tensors; i++) {
        char name[32];
        snprintf(name, sizeof name, "x%03zu.weight", i);
        t = delta_model_find(target, name);
        for (size_t k = 0; k < t->count; k++)
            if (!delta_tensor_is_frozen(t, k))
                t->data[k] += 0.1f * fixture_value(&seed);
    }
    free(bits);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* Peak of this process in KiB; unlike getrusage's it starts anew with exec. */
static long own_peak(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long kib = -1;

    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "VmHWM:", 6) == 0)
            kib = strtol(line + 6, NULL, 10);
    if (file)
        fclose(file);
    return kib;
}

/* That of a child that does nothing else. */
static long peak_of(const char *what)
{
    char self[512], command[2048];
    long kib = -1;
    const ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);

    assert_true(len > 0);
    self[len] = '\0';
    snprintf(command, sizeof command, "'%s' %s '%s' '%s' '%s'", self, what,
             harness_path(&scratch, "base.flm"), harness_path(&scratch, "d.fld"),
             harness_path(&scratch, "out.flm"));
    FILE *child = popen(command, "r");
    assert_non_null(child);
    assert_int_equal(fscanf(child, "%ld", &kib), 1);
    assert_int_equal(pclose(child), 0);
    return kib;
}

static void apply_takes_the_memory_of_one_tensor(void **state)
{
    struct delta_model base, target;
    struct stat info;

    (void)state;
    if (SANITIZED) {
        print_message("SKIP: sanitizers keep memory of their own\n");
        skip();
    }
    make_large(60, &base, &target);
    write_pair(&base, &target);
    delta_model_release(&base);
    delta_model_release(&target);
    const long nothing = peak_of("nothing"), whole = peak_of("apply");
    assert_int_equal(stat(harness_path(&scratch, "out.flm"), &info), 0);
    print_message("model of %ld KiB: apply took %ld KiB more than a program that does nothing\n",
                  (long)info.st_size / 1024, whole - nothing);
    assert_true(info.st_size > 60 << 20);
    assert_true(whole - nothing < 1024 + 16 * 1024);
}

/* ---- headers alone, pieces ---- */

static void headers_are_read_alone_and_pieces_are_checked(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model base, target;
    struct delta_reader whole, front_only;
    struct delta_outline outline;
    struct delta_front front;
    struct delta_buf file;

    (void)state;
    make_large(32, &base, &target);
    write_pair(&base, &target);
    assert_ok(delta_file_read(harness_path(&scratch, "d.fld"), 1 << 26, &file, &err));
    assert_ok(delta_reader_init(&whole, delta_buf_bytes(&file), &err));
    /* a file with the same front and nothing behind it: whoever reads a payload byte gets a zero */
    const int fd = open(harness_path(&scratch, "d.fld"), O_RDWR);
    assert_int_equal(ftruncate(fd, (off_t)whole.payload_at), 0);
    assert_int_equal(ftruncate(fd, (off_t)file.len), 0);
    close(fd);
    assert_ok(delta_front_read(&front, harness_path(&scratch, "d.fld"), &err));
    assert_int_equal(front.bytes.len, whole.payload_at);
    assert_ok(delta_reader_init_front(&front_only, &front, &err));
    assert_int_equal(front_only.entry_count, whole.entry_count);
    assert_memory_equal(front_only.entries, whole.entries,
                        whole.entry_count * sizeof whole.entries[0]);
    assert_null(front_only.payload.data);
    assert_status(apply(NULL, NULL, &err), DELTA_FORMAT);
    /* pieces */
    assert_int_equal(whole.chunk_bytes, 1 << 20);
    assert_true(whole.chunk_count > 1);
    for (size_t i = 0; i < whole.chunk_count; i++) {
        const size_t at = i << 20, left = whole.payload.len - at;
        struct delta_bytes piece =
            delta_bytes(whole.payload.data + at, left < 1 << 20 ? left : 1 << 20);
        assert_ok(delta_reader_check_chunk(&front_only, i, piece, &err));
        piece.data--;
        assert_status(delta_reader_check_chunk(&front_only, i, piece, &err), DELTA_DIGEST);
        piece.len--;
        assert_status(delta_reader_check_chunk(&front_only, i, piece, &err), DELTA_MISMATCH);
    }
    assert_status(
        delta_reader_check_chunk(&front_only, whole.chunk_count, delta_bytes("", 0), &err),
        DELTA_MISMATCH);
    delta_reader_release(&front_only);
    delta_front_release(&front);
    delta_reader_release(&whole);
    delta_buf_release(&file);
    /* and a model's */
    assert_ok(delta_front_read(&front, harness_path(&scratch, "base.flm"), &err));
    assert_ok(delta_outline_init(&outline, &front, &err));
    assert_memory_equal(outline.version.bytes, target.parent.bytes, 32);
    assert_int_equal(outline.model.tensor_count, base.tensor_count);
    delta_outline_release(&outline);
    delta_front_release(&front);
    delta_model_release(&base);
    delta_model_release(&target);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_give_the_same_bytes_as_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(damage_leaves_the_old_file, setup, teardown),
        cmocka_unit_test_setup_teardown(apply_takes_the_memory_of_one_tensor, setup, teardown),
        cmocka_unit_test_setup_teardown(headers_are_read_alone_and_pieces_are_checked, setup,
                                        teardown),
    };

    if (argc == 5) { /* the child of peak_of() */
        if (strcmp(argv[1], "apply") == 0 &&
            delta_apply_file(argv[2], argv[3], argv[4], NULL, NULL, NULL))
            return 1;
        printf("%ld\n", own_peak());
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
