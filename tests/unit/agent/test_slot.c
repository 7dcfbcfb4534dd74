/* Slots, and what a power cut leaves of them: every call that touches the disk is counted, and the
 * process ends before the Nth, for each N. */
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "delta/file.h"
#include "power.h"
#include "slot.h"

struct fixture {
    struct harness_scratch scratch;
    struct delta_key key;
    struct delta_keyring ring;
    char dir[300];
};

static int set_up(void **state)
{
    static struct fixture f;
    struct delta_error err;
    struct delta_public_key key;

    memset(&f, 0, sizeof f);
    harness_scratch_make(&f.scratch);
    snprintf(f.dir, sizeof f.dir, "%s/device", f.scratch.path);
    assert_ok(delta_dir_make(f.dir, 0700, &err));
    assert_ok(delta_key_generate(&f.key, &err));
    assert_ok(delta_key_public(&f.key, &key, &err));
    assert_ok(delta_keyring_add(&f.ring, &key, &err));
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    delta_key_release(&f->key);
    harness_scratch_remove(&f->scratch);
    return 0;
}

/* A signed model whose only number is `value`, written to `path`; returns its version. */
static struct delta_digest write_model(struct fixture *f, const char *path, float value)
{
    struct delta_error err;
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_tensor *tensor;
    struct delta_class_id id;
    struct delta_digest digest;
    struct delta_buf file;

    snprintf(model.arch.name, sizeof model.arch.name, "resnet18");
    snprintf(model.arch.stem, sizeof model.arch.stem, "cifar");
    model.arch.width = 16;
    model.arch.channels = 3;
    model.arch.height = model.arch.image_width = 32;
    for (int i = 0; i < 3; i++)
        model.arch.std[i] = 1;
    assert_ok(
        delta_model_add_tensor(&model, "fc.weight", 2, (const uint64_t[]){1, 2}, &tensor, &err));
    tensor->data[0] = value;
    assert_ok(delta_model_add_tensor(&model, "fc.bias", 1, (const uint64_t[]){1}, NULL, &err));
    assert_ok(delta_class_id_make(&id, "fox", &err));
    assert_ok(delta_model_add_class(&model, &id, &err));
    assert_ok(delta_model_digest(&model, &digest, &err));
    assert_ok(delta_model_encode(&model, &file, &err));
    assert_ok(delta_container_sign(&file, &f->key, &err));
    assert_ok(delta_file_write(path, delta_buf_bytes(&file), 0644, &err));
    delta_buf_release(&file);
    delta_model_release(&model);
    return digest;
}

static void install(struct fixture *f, struct agent_slots *slots, float value)
{
    struct delta_error err;
    char work[400];

    snprintf(work, sizeof work, "%s/new.flm", f->dir);
    const struct delta_digest version = write_model(f, work, value);
    assert_ok(agent_slot_stage(slots, work, &version, &f->ring, &err));
    assert_ok(agent_slot_commit(slots, &version, &f->ring, &err));
}

static float opened_value(struct fixture *f)
{
    struct delta_error err;
    struct agent_slots slots;
    struct delta_trusted_model model;
    bool fell_back;
    float value;

    assert_ok(agent_slots_open(&slots, f->dir, &f->ring, &fell_back, &err));
    if (slots.current < 0)
        return -1;
    assert_ok(agent_slot_load(&slots, slots.current, &f->ring, &model, &err));
    assert_true(delta_digest_equal(&model.version, &slots.version));
    value = delta_model_find(&model.model, "fc.weight")->data[0];
    delta_trusted_model_release(&model);
    return value;
}

static void slot_starts_empty_and_alternates(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_slots slots;
    bool fell_back;

    assert_ok(agent_slots_open(&slots, f->dir, &f->ring, &fell_back, &err));
    assert_int_equal(slots.current, -1);
    install(f, &slots, 1);
    assert_int_equal(slots.current, 0);
    install(f, &slots, 2);
    assert_int_equal(slots.current, 1);
    assert_true(opened_value(f) == 2);
    assert_ok(agent_slot_rollback(&slots, &f->ring, &err));
    assert_true(opened_value(f) == 1);
}

static void slot_stage_is_not_commit(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_slots slots;
    bool fell_back;
    char work[400];

    assert_ok(agent_slots_open(&slots, f->dir, &f->ring, &fell_back, &err));
    install(f, &slots, 1);
    snprintf(work, sizeof work, "%s/new.flm", f->dir);
    const struct delta_digest version = write_model(f, work, 2);
    assert_ok(agent_slot_stage(&slots, work, &version, &f->ring, &err));
    assert_true(opened_value(f) == 1);
    /* Staging again finds the slot as it left it. */
    assert_ok(agent_slot_stage(&slots, work, &version, &f->ring, &err));
    assert_ok(agent_slot_commit(&slots, &version, &f->ring, &err));
    assert_ok(agent_slot_commit(&slots, &version, &f->ring, &err));
    assert_true(opened_value(f) == 2);
}

static void slot_refuses_another_version(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_slots slots;
    struct delta_digest other = {{1}};
    bool fell_back;
    char work[400];

    assert_ok(agent_slots_open(&slots, f->dir, &f->ring, &fell_back, &err));
    snprintf(work, sizeof work, "%s/new.flm", f->dir);
    write_model(f, work, 2);
    assert_status(agent_slot_stage(&slots, work, &other, &f->ring, &err), DELTA_DIGEST);
    assert_status(agent_slot_commit(&slots, &other, &f->ring, &err), DELTA_DIGEST);
    assert_true(opened_value(f) == -1);
}

/* A flipped bit in the current slot: the other one takes over. */
static void slot_falls_back_when_the_current_is_damaged(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_slots slots;
    struct delta_buf file;
    char path[AGENT_PATH_MAX];
    bool fell_back;

    assert_ok(agent_slots_open(&slots, f->dir, &f->ring, &fell_back, &err));
    install(f, &slots, 1);
    install(f, &slots, 2);
    assert_ok(agent_slot_path(path, f->dir, slots.current, &err));
    assert_ok(delta_file_read(path, 100000, &file, &err));
    file.data[file.len / 2] ^= 4;
    assert_ok(delta_file_write(path, delta_buf_bytes(&file), 0644, &err));
    delta_buf_release(&file);
    assert_ok(agent_slots_open(&slots, f->dir, &f->ring, &fell_back, &err));
    assert_true(fell_back);
    assert_true(opened_value(f) == 1);
}

static void slot_refuses_a_model_signed_by_a_stranger(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_slots slots;
    struct delta_key own = f->key;
    bool fell_back;
    char work[400];

    assert_ok(agent_slots_open(&slots, f->dir, &f->ring, &fell_back, &err));
    snprintf(work, sizeof work, "%s/new.flm", f->dir);
    assert_ok(delta_key_generate(&f->key, &err));
    const struct delta_digest version = write_model(f, work, 2);
    delta_key_release(&f->key);
    f->key = own;
    assert_status(agent_slot_stage(&slots, work, &version, &f->ring, &err), DELTA_DIGEST);
}

static void slot_broken_pointer_finds_a_version(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_slots slots;
    char path[400];
    bool fell_back;

    assert_ok(agent_slots_open(&slots, f->dir, &f->ring, &fell_back, &err));
    install(f, &slots, 1);
    snprintf(path, sizeof path, "%s/current", f->dir);
    assert_ok(delta_file_write(path, delta_bytes("c 12\n", 5), 0644, &err));
    assert_true(opened_value(f) == 1);
}

/* From version 1 to 2 with a power cut before every single operation. */
static void slot_update_survives_a_cut_anywhere(void **state)
{
    struct fixture *f = *state;
    struct delta_error err;
    struct agent_slots slots;
    bool fell_back, finished = false;
    long cuts = 0, old_seen = 0, new_seen = 0;

    assert_ok(agent_slots_open(&slots, f->dir, &f->ring, &fell_back, &err));
    install(f, &slots, 1);
    while (!finished) {
        int status;
        const pid_t child = fork();
        if (child == 0) {
            power_cut_before(cuts);
            install(f, &slots, 2);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status) &&
                    (WEXITSTATUS(status) == POWER_CUT || WEXITSTATUS(status) == 0));
        finished = WEXITSTATUS(status) == 0;
        const float value = opened_value(f);
        assert_true(value == 1 || value == 2);
        old_seen += value == 1;
        new_seen += value == 2;
        if (value == 2 && !finished) { /* back to the start for the next cut */
            assert_ok(agent_slots_open(&slots, f->dir, &f->ring, &fell_back, &err));
            assert_ok(agent_slot_rollback(&slots, &f->ring, &err));
        }
        assert_true(++cuts < 200);
    }
    print_message("%ld cuts: old %ld times, new %ld times\n", cuts, old_seen, new_seen);
    assert_true(old_seen >= 8 && new_seen >= 2);
    assert_true(opened_value(f) == 2);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(slot_starts_empty_and_alternates),
        CASE(slot_stage_is_not_commit),
        CASE(slot_refuses_another_version),
        CASE(slot_falls_back_when_the_current_is_damaged),
        CASE(slot_refuses_a_model_signed_by_a_stranger),
        CASE(slot_broken_pointer_finds_a_version),
        CASE(slot_update_survives_a_cut_anywhere),
    };

    power_fast_disk();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
