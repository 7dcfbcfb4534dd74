#include "fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "delta/file.h"
#include "embed.h"
#include "exemplar_features.h"
#include "holdout.h"
#include "learner/exemplars.h"
#include "learner/learn.h"
#include "sources.h"

static struct harness_scratch scratch;
static struct delta_model model;

static int set_up(void **state)
{
    (void)state;
    harness_scratch_make(&scratch);
    fixture_model(&model, 2, 32, 4, 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    delta_model_release(&model);
    harness_scratch_remove(&scratch);
    return 0;
}

static struct learner_samples synthetic(const char *source)
{
    struct learner_samples set = LEARNER_SAMPLES_INIT;
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(learner_samples_open(&set, source, LEARNER_SPLIT_TRAIN, &err));
    return set;
}

static size_t count_of(const struct learner_samples *set, int32_t label)
{
    size_t count = 0;

    for (size_t i = 0; i < set->count; i++)
        count += set->labels[i] == label;
    return count;
}

/* How many images of `a` occur in `b`. */
static size_t shared_images(const struct learner_samples *a, const struct learner_samples *b)
{
    size_t count = 0;

    for (size_t i = 0; i < a->count; i++)
        for (size_t j = 0; j < b->count; j++)
            count += memcmp(a->pixels + i * 3072, b->pixels + j * 3072, 3072) == 0;
    return count;
}

static void same_samples(const struct learner_samples *a, const struct learner_samples *b)
{
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->class_count, b->class_count);
    assert_memory_equal(a->pixels, b->pixels, a->count * 3072);
    assert_memory_equal(a->labels, b->labels, a->count * sizeof *a->labels);
    assert_memory_equal(a->classes, b->classes, a->class_count * sizeof *a->classes);
}

static void exemplars_choice_is_balanced_and_disjoint(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=3,train=12");
    struct learner_exemplars a, b, small;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    assert_ok(learner_exemplars_choose(&a, &model, &set, 5, 3, 7, &err));
    assert_ok(learner_exemplars_choose(&b, &model, &set, 5, 3, 7, &err));
    for (int32_t k = 0; k < 3; k++) {
        assert_int_equal(count_of(&a.replay, k), 5);
        assert_int_equal(count_of(&a.probe, k), 3);
    }
    assert_int_equal(shared_images(&a.replay, &a.probe), 0);
    assert_int_equal(shared_images(&a.replay, &set), 15);
    same_samples(&a.replay, &b.replay);
    same_samples(&a.probe, &b.probe);
    /* too few images for both wishes: the probe keeps its share */
    assert_ok(learner_exemplars_choose(&small, &model, &set, 20, 5, 7, &err));
    assert_int_equal(count_of(&small.probe, 0), 2);
    assert_int_equal(count_of(&small.replay, 0), 10);
    learner_exemplars_release(&a);
    learner_exemplars_release(&b);
    learner_exemplars_release(&small);
    learner_samples_release(&set);
}

static void exemplars_survive_a_file(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=3,train=6");
    const char *path = harness_path(&scratch, "e.flx");
    struct learner_exemplars a, b;
    struct delta_error err = DELTA_ERROR_INIT;
    struct stat info;
    (void)state;

    assert_ok(learner_exemplars_choose(&a, &model, &set, 2, 1, 7, &err));
    assert_ok(learner_exemplars_save(&a, path, &err));
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_ok(learner_exemplars_load(&b, path, &err));
    same_samples(&a.replay, &b.replay);
    same_samples(&a.probe, &b.probe);
    learner_exemplars_release(&b);
    learner_exemplars_release(&a);
    /* an empty set is a valid file too */
    a = (struct learner_exemplars)LEARNER_EXEMPLARS_INIT;
    assert_ok(learner_exemplars_save(&a, path, &err));
    assert_ok(learner_exemplars_load(&b, path, &err));
    assert_int_equal(b.replay.count, 0);
    learner_exemplars_release(&b);
    learner_samples_release(&set);
}

static void near_rows(const float *a, const float *b, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_true(fabsf(a[i] - b[i]) <= 1e-5f * (1 + fabsf(b[i])));
}

/* What is kept is what the network makes of each image, in the file too. */
static void exemplars_keep_their_features(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=3,train=12");
    const char *path = harness_path(&scratch, "f.flx");
    struct learner_embedding replay, probe;
    struct learner_exemplars a, b;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    assert_ok(learner_exemplars_choose(&a, &model, &set, 5, 3, 7, &err));
    assert_ok(learner_exemplars_save(&a, path, &err));
    assert_ok(learner_exemplars_load(&b, path, &err));
    const struct learner_features *known = learner_exemplars_features(&b, &model);
    assert_non_null(known);
    assert_ok(learner_embed(&replay, &model, &a.replay, NULL, "features", &err));
    assert_ok(learner_embed(&probe, &model, &a.probe, NULL, "features", &err));
    assert_int_equal(known->d, replay.d);
    assert_int_equal(known->replay_count, 15);
    assert_int_equal(known->probe_count, 9);
    near_rows(known->replay, replay.features, 15 * replay.d);
    near_rows(known->probe, probe.features, 9 * replay.d);
    learner_embedding_release(&replay);
    learner_embedding_release(&probe);
    learner_exemplars_release(&a);
    learner_exemplars_release(&b);
    learner_samples_release(&set);
}

/* Head rows may change, the network not; an image more or less makes them nobody's. */
static void features_are_those_of_one_network(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=2,train=8");
    struct delta_model other = DELTA_MODEL_INIT;
    struct delta_class_id id;
    struct delta_tensor *weight, *bias;
    struct learner_exemplars a;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    assert_ok(learner_exemplars_choose(&a, &model, &set, 3, 2, 7, &err));
    assert_ok(delta_model_copy(&other, &model, &err));
    assert_ok(delta_class_id_make(&id, "another", &err));
    assert_ok(delta_model_grow_head(&other, &id, 1, &err));
    assert_ok(delta_model_head(&other, &weight, &bias, &err));
    weight->data[0] += 1;
    assert_true(learner_same_body(&model, &other));
    assert_non_null(learner_exemplars_features(&a, &other));
    other.tensors[0].data[0] += 1e-6f;
    assert_false(learner_same_body(&model, &other));
    assert_null(learner_exemplars_features(&a, &other));
    assert_ok(learner_samples_append(&a.replay, &set, &err));
    assert_null(learner_exemplars_features(&a, &model));
    delta_model_release(&other);
    learner_exemplars_release(&a);
    learner_samples_release(&set);
}

/* A class learned by the same network adds its features; another network makes all anew. */
static void features_follow_what_is_added(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=3,train=15"), old, more;
    struct delta_model other = DELTA_MODEL_INIT;
    struct learner_exemplars all;
    struct learner_embedding made;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    assert_ok(learner_samples_select(&old, &set, set.classes, 2, 0, &err));
    assert_ok(learner_samples_select(&more, &set, set.classes + 2, 1, 0, &err));
    assert_ok(delta_model_copy(&other, &model, &err));
    other.tensors[0].data[0] += 0.25f;
    for (int changed = 0; changed < 2; changed++) {
        const struct delta_model *by = changed ? &other : &model;
        assert_ok(learner_exemplars_choose(&all, &model, &old, 4, 3, 7, &err));
        assert_ok(learner_exemplars_add(&all, by, &more, 4, 3, 7, &err));
        const struct learner_features *known = learner_exemplars_features(&all, by);
        assert_non_null(known);
        assert_int_equal(known->replay_count, 12);
        assert_int_equal(known->probe_count, 9);
        assert_ok(learner_embed(&made, by, &all.replay, NULL, "features", &err));
        near_rows(known->replay, made.features, 12 * made.d);
        learner_embedding_release(&made);
        learner_exemplars_release(&all);
    }
    delta_model_release(&other);
    learner_samples_release(&old);
    learner_samples_release(&more);
    learner_samples_release(&set);
}

/* Learning from what is known gives what looking at every old image gives, for fewer passes. */
static void known_features_save_passes_and_change_nothing(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=3,train=20"), old, more;
    struct learner_increment_options options = learner_increment_defaults("frostline");
    struct delta_model base, learned[2];
    struct learner_report report[2];
    struct learner_exemplars all;
    struct delta_tensor *weight[2], *bias[2];
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    assert_ok(learner_samples_select(&old, &set, set.classes, 2, 0, &err));
    assert_ok(learner_samples_select(&more, &set, set.classes + 2, 1, 0, &err));
    assert_ok(learner_net_init_model(&base, &model.arch, old.classes, 2, 1, &err));
    assert_ok(learner_exemplars_choose(&all, &base, &old, 8, 6, 7, &err));
    options.stages = "A";
    options.max_old_drop = 1;
    options.min_new_recall = 0;
    for (int unknown = 0; unknown < 2; unknown++) {
        if (unknown)
            learner_features_release(&all.features);
        assert_ok(learner_increment(&learned[unknown], &base, &more, &all, &options, NULL,
                                    &report[unknown], &err));
        assert_ok(delta_model_head(&learned[unknown], &weight[unknown], &bias[unknown], &err));
    }
    /* 16 exemplars, 12 probes before and 12 after, forward only */
    assert_true(fabs(report[1].image_passes - report[0].image_passes - 40.0 / 3) < 1e-9);
    assert_int_equal(report[0].probe_images, 12);
    assert_int_equal(report[1].probe_images, 12);
    assert_true(report[0].old_before == report[1].old_before);
    for (size_t i = 0; i < weight[0]->count; i++)
        assert_true(fabsf(weight[0]->data[i] - weight[1]->data[i]) <=
                    1e-3f * (1 + fabsf(weight[1]->data[i])));
    for (int i = 0; i < 2; i++)
        delta_model_release(&learned[i]);
    delta_model_release(&base);
    learner_exemplars_release(&all);
    learner_samples_release(&old);
    learner_samples_release(&more);
    learner_samples_release(&set);
}

static void exemplars_damage_is_rejected(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=1,train=2");
    const char *path = harness_path(&scratch, "e.flx"), *bad = harness_path(&scratch, "bad.flx");
    struct learner_exemplars a;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    (void)state;

    assert_ok(learner_exemplars_choose(&a, &model, &set, 1, 1, 7, &err));
    assert_ok(learner_exemplars_save(&a, path, &err));
    learner_exemplars_release(&a);
    assert_ok(delta_file_read(path, 1 << 20, &file, &err));
    /* every bit of the front, the header and the end; every 97th of the pixels */
    for (size_t bit = 0; bit < file.len * 8;
         bit += bit < 8 * 300 || bit > (file.len - 34) * 8 ? 1 : 97) {
        file.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        FILE *out = fopen(bad, "wb");
        assert_non_null(out);
        assert_int_equal(fwrite(file.data, 1, file.len, out), file.len);
        fclose(out);
        if (!learner_exemplars_load(&a, bad, &err))
            fail_msg("bit %zu flipped and not noticed", bit);
        assert_non_null(strstr(err.text, "bad.flx"));
        file.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t len = 0; len < file.len; len += len < 400 ? 1 : 61) {
        FILE *out = fopen(bad, "wb");
        assert_non_null(out);
        assert_int_equal(fwrite(file.data, 1, len, out), len);
        fclose(out);
        assert_true(learner_exemplars_load(&a, bad, &err) != DELTA_OK);
    }
    delta_buf_release(&file);
    learner_samples_release(&set);
}

/* A right checksum over a wrong content: what an attacker would write. */
static void exemplars_forged_header_is_rejected(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=1,train=2");
    const char *path = harness_path(&scratch, "e.flx");
    struct learner_exemplars a;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    (void)state;

    assert_ok(learner_exemplars_choose(&a, &model, &set, 1, 1, 7, &err));
    assert_ok(learner_exemplars_save(&a, path, &err));
    learner_exemplars_release(&a);
    assert_ok(delta_file_read(path, 1 << 20, &file, &err));
    const size_t header = 12 + (file.data[8] | (size_t)file.data[9] << 8);
    for (size_t at = 8; at < header; at++)
        for (int value = 0; value < 256; value += 5) {
            const uint8_t kept = file.data[at];
            file.data[at] = (uint8_t)value;
            const struct delta_digest digest = delta_sha256(delta_bytes(file.data, file.len - 32));
            memcpy(file.data + file.len - 32, digest.bytes, 32);
            FILE *out = fopen(path, "wb");
            assert_non_null(out);
            assert_int_equal(fwrite(file.data, 1, file.len, out), file.len);
            fclose(out);
            /* some changes are harmless (another class name); none may crash or read too far */
            if (!learner_exemplars_load(&a, path, &err)) {
                assert_true(a.replay.count <= 2 && a.probe.count <= 2);
                learner_exemplars_release(&a);
            }
            file.data[at] = kept;
        }
    delta_buf_release(&file);
    learner_samples_release(&set);
}

/* A header may state any size; no memory is set aside that the file does not fill. */
static void exemplars_that_state_too_much_are_refused(void **state)
{
    /* a map of probe (empty) and replay: 3x1024x1024 pixels for each of 2000 labels */
    static const char before[] = "\x83\xa5probe\x85\xa8"
                                 "channels\x03\xa7"
                                 "classes\x90\xa6"
                                 "height\x01\xa6labels\xc4\x00\xa5width\x01"
                                 "\xa6replay\x85\xa8"
                                 "channels\x03\xa7"
                                 "classes\x91\xa1"
                                 "a\xa6height\xcd\x04\x00\xa6labels\xc5\x0f\xa0";
    static const char after[] = "\xa5width\xcd\x04\x00\xa6schema\x01";
    static uint8_t file[8192] = "FROSTEX1";
    const char *path = harness_path(&scratch, "much.flx");
    const size_t len = sizeof before - 1 + 4000 + sizeof after - 1;
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_exemplars exemplars;

    (void)state;
    file[8] = (uint8_t)len;
    file[9] = (uint8_t)(len >> 8);
    memcpy(file + 12, before, sizeof before - 1);
    memcpy(file + 12 + len - (sizeof after - 1), after, sizeof after - 1);
    const struct delta_digest digest = delta_sha256(delta_bytes(file, 12 + len));
    memcpy(file + 12 + len, digest.bytes, 32);
    assert_ok(delta_file_write(path, delta_bytes(file, 12 + len + 32), 0600, &err));
    assert_status(learner_exemplars_load(&exemplars, path, &err), DELTA_TRUNCATED);
}

/* Probes of a new class are samples that an increment with the same seed kept from training. */
static void exemplars_added_probes_were_held_out(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=2,train=15"), held_set;
    struct learner_exemplars all = LEARNER_EXEMPLARS_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    bool held[30];
    (void)state;

    assert_ok(learner_holdout(held, &set, 3, &err));
    assert_ok(learner_samples_filter(&held_set, &set, held, true, &err));
    assert_int_equal(held_set.count, 6);
    assert_ok(learner_exemplars_add(&all, &model, &set, 8, 5, 3, &err));
    assert_int_equal(all.replay.count, 16);
    assert_int_equal(all.probe.count, 6);
    assert_int_equal(shared_images(&all.probe, &held_set), 6);
    assert_int_equal(shared_images(&all.replay, &held_set), 0);
    learner_exemplars_release(&all);
    learner_samples_release(&held_set);
    learner_samples_release(&set);
}

/* Below five samples nothing is held out. */
static void holdout_depends_on_seed_and_id_only(void **state)
{
    struct learner_samples set = synthetic("synthetic:classes=3,train=10"), part;
    struct delta_error err = DELTA_ERROR_INIT;
    bool whole[30], alone[10], other[30], few[4];
    (void)state;

    assert_ok(learner_holdout(whole, &set, 3, &err));
    assert_ok(learner_holdout(other, &set, 4, &err));
    assert_true(memcmp(whole, other, sizeof whole) != 0);
    assert_ok(learner_samples_select(&part, &set, &set.classes[1], 1, 0, &err));
    assert_ok(learner_holdout(alone, &part, 3, &err));
    assert_memory_equal(alone, whole + 10, sizeof alone);
    learner_samples_release(&part);
    assert_ok(learner_samples_select(&part, &set, &set.classes[1], 1, 4, &err));
    assert_ok(learner_holdout(few, &part, 3, &err));
    for (int i = 0; i < 4; i++)
        assert_false(few[i]);
    learner_samples_release(&part);
    learner_samples_release(&set);
}

/* The guard gets what it needs and no more; the rest teaches. */
static void holdout_takes_few_of_many(void **state)
{
    static const struct {
        size_t images, held;
    } rows[] = {{4, 0},   {5, 1},    {9, 1},    {25, 5},   {49, 9},   {50, 10},
                {60, 10}, {109, 10}, {120, 12}, {399, 39}, {1000, 40}};
    struct learner_samples set = LEARNER_SAMPLES_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    static bool held[1000];
    (void)state;

    assert_ok(learner_samples_reserve(&set, 1, 1, 1, 1000, 1, &err));
    assert_ok(delta_class_id_make(&set.classes[0], "one", &err));
    memset(set.labels, 0, 1000 * sizeof *set.labels);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        size_t count = 0;
        set.count = rows[r].images;
        assert_ok(learner_holdout(held, &set, 3, &err));
        for (size_t i = 0; i < set.count; i++)
            count += held[i];
        assert_int_equal(count, rows[r].held);
    }
    set.count = 1000;
    learner_samples_release(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exemplars_choice_is_balanced_and_disjoint),
        cmocka_unit_test(exemplars_survive_a_file),
        cmocka_unit_test(exemplars_keep_their_features),
        cmocka_unit_test(features_are_those_of_one_network),
        cmocka_unit_test(features_follow_what_is_added),
        cmocka_unit_test(known_features_save_passes_and_change_nothing),
        cmocka_unit_test(exemplars_damage_is_rejected),
        cmocka_unit_test(exemplars_forged_header_is_rejected),
        cmocka_unit_test(exemplars_that_state_too_much_are_refused),
        cmocka_unit_test(exemplars_added_probes_were_held_out),
        cmocka_unit_test(holdout_depends_on_seed_and_id_only),
        cmocka_unit_test(holdout_takes_few_of_many),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
