/* Latents: what layers that stand still make of the exemplars, kept instead of made again. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

#include "delta/file.h"
#include "delta/hash.h"
#include "embed.h"
#include "exemplar_features.h"
#include "latents.h"
#include "learner/exemplars.h"
#include "learner/net.h"
#include "learner/networks.h"

static struct harness_scratch scratch;
static struct learner_samples set, old, more;
static struct delta_model base;

static struct learner_exemplars exemplars(bool latents)
{
    struct learner_exemplars made;
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(learner_exemplars_choose(&made, &base, &old, 6, 4, 7, &err));
    if (latents)
        assert_ok(learner_exemplars_keep_latents(&made, &base, NULL, &err));
    return made;
}

static int set_up(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_arch arch;
    (void)state;

    harness_scratch_make(&scratch);
    assert_ok(
        learner_samples_open(&set, "synthetic:classes=3,train=24", LEARNER_SPLIT_TRAIN, &err));
    assert_ok(learner_samples_select(&old, &set, set.classes, 2, 0, &err));
    assert_ok(learner_samples_select(&more, &set, set.classes + 2, 1, 0, &err));
    assert_ok(learner_network_arch(&arch, "resnet18", NULL, 4, 3, 32, 32, &err));
    assert_ok(learner_net_init_model(&base, &arch, old.classes, 2, 1, &err));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    delta_model_release(&base);
    learner_samples_release(&more);
    learner_samples_release(&old);
    learner_samples_release(&set);
    harness_scratch_remove(&scratch);
    return 0;
}

/* Are the latents what the model's layers below its last block make of the exemplars now? */
static bool fit(const struct learner_exemplars *kept, const struct delta_model *model)
{
    return learner_latents_fit(&kept->latents, kept->replay.count, model, kept->latents.layers,
                               kept->latents.values);
}

static void near_features(const float *features, const struct learner_embedding *b, float share)
{
    float top = 0;

    for (size_t i = 0; i < b->count * b->d; i++)
        top = fmaxf(top, fabsf(b->features[i]));
    for (size_t i = 0; i < b->count * b->d; i++)
        assert_true(fabsf(features[i] - b->features[i]) <= share * top);
}

/* The layers above make of them what the network makes of the images: to bfloat16's eight bits. */
static void they_stand_for_the_images(void **state)
{
    struct learner_exemplars kept = exemplars(true);
    struct learner_embedding images, latents = {0, 0, 0, NULL, NULL};
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    assert_int_equal(kept.latents.count, 12);
    assert_int_equal(kept.latents.values, 32 * 4 * 4); /* of layer4.0 */
    assert_true(fit(&kept, &base));
    assert_ok(learner_embed(&images, &base, &kept.replay, NULL, "features", &err));
    assert_ok(learner_latents_embed(&latents, &kept, &base, NULL, &err));
    assert_int_equal(latents.count, images.count);
    near_features(latents.features, &images, 0.01f);
    learner_embedding_release(&latents);
    learner_embedding_release(&images);
    learner_exemplars_release(&kept);
}

static void they_survive_a_file(void **state)
{
    const char *path = harness_path(&scratch, "l.flx");
    struct learner_exemplars kept = exemplars(true), read;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    assert_ok(learner_exemplars_save(&kept, path, &err));
    assert_ok(learner_exemplars_load(&read, path, &err));
    assert_true(fit(&read, &base));
    assert_memory_equal(read.latents.rows, kept.latents.rows,
                        12 * kept.latents.values * sizeof *kept.latents.rows);
    assert_int_equal(learner_exemplars_bytes(&read), learner_exemplars_bytes(&kept));
    learner_latents_release(&read.latents);
    assert_int_equal(learner_exemplars_bytes(&read) + 12 * 512 * 2, learner_exemplars_bytes(&kept));
    learner_exemplars_release(&read);
    learner_exemplars_release(&kept);
}

static void replace_word(struct delta_buf *file, size_t at, uint16_t word)
{
    file->data[at] = (uint8_t)word;
    file->data[at + 1] = (uint8_t)(word >> 8);
    const struct delta_digest digest = delta_sha256(delta_bytes(file->data, file->len - 32));
    memcpy(file->data + file->len - 32, digest.bytes, 32);
}

/* What would poison a training that trusts its own disk. */
static void a_number_that_is_none_is_refused(void **state)
{
    static const uint16_t words[] = {0x7f80, 0xff80, 0x7fc1};
    const char *path = harness_path(&scratch, "n.flx");
    struct learner_exemplars kept = exemplars(true), read;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    (void)state;

    assert_ok(learner_exemplars_save(&kept, path, &err));
    assert_ok(delta_file_read(path, 1 << 20, &file, &err));
    for (size_t i = 0; i < 3; i++) {
        replace_word(&file, file.len - 32 - 2 * (1 + 300 * i), words[i]);
        assert_ok(delta_file_write(path, delta_buf_bytes(&file), 0600, &err));
        assert_status(learner_exemplars_load(&read, path, &err), DELTA_NONFINITE);
        assert_non_null(strstr(err.text, "n.flx"));
        replace_word(&file, file.len - 32 - 2 * (1 + 300 * i), 0);
    }
    delta_buf_release(&file);
    learner_exemplars_release(&kept);
}

static struct delta_tensor *tensor_of(struct delta_model *model, const char *name)
{
    for (size_t i = 0; i < model->tensor_count; i++)
        if (strcmp(model->tensors[i].name, name) == 0)
            return &model->tensors[i];
    fail_msg("no tensor '%s'", name);
    return NULL;
}

/* The last block and the head may learn; nothing below may, and no image may come or go. */
static void they_are_those_of_the_layers_below(void **state)
{
    static const struct {
        const char *tensor;
        bool fits;
    } rows[] = {{"conv1.weight", false},
                {"bn1.running_mean", false},
                {"layer4.0.conv2.weight", false},
                {"layer4.0.downsample.1.bias", false},
                {"layer4.1.conv1.weight", true},
                {"layer4.1.bn2.running_var", true},
                {"fc.weight", true}};
    struct learner_exemplars kept = exemplars(true);
    struct delta_model other = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        assert_ok(delta_model_copy(&other, &base, &err));
        tensor_of(&other, rows[r].tensor)->data[0] += 1e-3f;
        if (fit(&kept, &other) != rows[r].fits)
            fail_msg("%s", rows[r].tensor);
        delta_model_release(&other);
    }
    const struct learner_latents *latents = &kept.latents;
    assert_false(learner_latents_fit(latents, 12, &base, latents->layers - 1, latents->values));
    assert_false(learner_latents_fit(latents, 12, &base, latents->layers, latents->values + 1));
    assert_ok(learner_samples_append(&kept.replay, &more, &err));
    assert_false(fit(&kept, &base));
    learner_exemplars_release(&kept);
}

/* Stage A takes known features, B the latents: no exemplar goes through the network, and the result
 * is what it is without, to rounding. */
static void they_save_passes_and_change_little(void **state)
{
    struct learner_increment_options options = learner_increment_defaults("frostline");
    struct delta_model learned[2];
    struct learner_report report[2];
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_budget budget = {.seed = 3};
    double moved = 0, apart = 0;
    (void)state;

    options.max_old_drop = 1;
    options.min_new_recall = 0;
    options.round = options.round_head = 0;
    for (int with = 0; with < 2; with++) {
        struct learner_exemplars kept = exemplars(with);
        assert_ok(learner_increment(&learned[with], &base, &more, &kept, &options, &budget,
                                    &report[with], &err));
        learner_exemplars_release(&kept);
    }
    assert_true(fabs(report[0].image_passes - report[1].image_passes - 12.0 / 3) < 1e-9);
    for (size_t t = 0; t < base.tensor_count; t++) {
        const struct delta_tensor *start = &base.tensors[t];
        const struct delta_tensor *a = delta_model_find(&learned[0], start->name);
        const struct delta_tensor *b = delta_model_find(&learned[1], start->name);
        for (size_t i = 0; i < start->count; i++) {
            moved += pow((double)a->data[i] - start->data[i], 2);
            apart += pow((double)a->data[i] - b->data[i], 2);
        }
    }
    assert_true(moved > 0);
    assert_true(apart > 0); /* they were used */
    assert_true(apart < 1e-2 * moved);
    delta_model_release(&learned[0]);
    delta_model_release(&learned[1]);
}

/* Behind the others while the layers below stand still, all anew where they moved. */
static void they_follow_what_is_added(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model other = DELTA_MODEL_INIT;
    (void)state;

    for (int moved = 0; moved < 3; moved++) {
        struct learner_exemplars kept = exemplars(moved != 2), fresh;
        struct learner_embedding images, latents = {0, 0, 0, NULL, NULL};
        assert_ok(delta_model_copy(&other, &base, &err));
        if (moved < 2)
            tensor_of(&other, moved ? "conv1.weight" : "layer4.1.conv1.weight")->data[0] += 0.1f;
        assert_ok(learner_exemplars_add(&kept, &other, &more, 5, 2, 7, &err));
        if (moved == 2) { /* whoever wants none gets none */
            assert_int_equal(kept.latents.values, 0);
        } else {
            assert_int_equal(kept.latents.count, 17);
            assert_true(fit(&kept, &other));
            assert_non_null(learner_exemplars_features(&kept, &other));
            assert_ok(learner_embed(&images, &other, &kept.replay, NULL, "features", &err));
            assert_ok(learner_latents_embed(&latents, &kept, &other, NULL, &err));
            near_features(latents.features, &images, 0.01f);
            /* the exemplars' features, made anew from latents where only the last block moved */
            near_features(kept.features.replay, &images, 0.01f);
            learner_embedding_release(&latents);
            learner_embedding_release(&images);
        }
        learner_exemplars_release(&kept);
        fresh = (struct learner_exemplars)LEARNER_EXEMPLARS_INIT;
        assert_ok(learner_exemplars_add(&fresh, &other, &more, 5, 2, 7, &err));
        assert_int_equal(fresh.latents.count, 5);
        learner_exemplars_release(&fresh);
        delta_model_release(&other);
    }
}

/* A cache is no reason to fail. */
static void none_are_kept_where_there_is_no_room(void **state)
{
    struct learner_exemplars kept = exemplars(false);
    const struct learner_budget tight = {.memory_bytes = 1 << 20};
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    assert_ok(learner_exemplars_keep_latents(&kept, &base, &tight, &err));
    assert_int_equal(kept.latents.values, 0);
    assert_int_equal(err.text[0], 0); /* and no word of it */
    learner_exemplars_release(&kept);
}

static bool last_progress(void *context, const char *stage, double done, double total)
{
    double *share = context;
    (void)stage;

    *share = done / total;
    return true;
}

/* More at once than a batch may have; progress counts what is done. */
static void a_batch_has_its_bound(void **state)
{
    double share = 0;
    const struct learner_budget budget = {
        .at_once = 2000, .progress = last_progress, .context = &share};
    struct learner_exemplars kept = LEARNER_EXEMPLARS_INIT;
    struct learner_embedding images, latents = {0, 0, 0, NULL, NULL};
    struct delta_error err = DELTA_ERROR_INIT;
    (void)state;

    assert_ok(learner_samples_open(&kept.replay, "synthetic:classes=2,train=600",
                                   LEARNER_SPLIT_TRAIN, &err));
    assert_ok(learner_exemplars_keep_latents(&kept, &base, &budget, &err));
    assert_true(share == 1);
    share = 0;
    assert_ok(learner_latents_embed(&latents, &kept, &base, &budget, &err));
    assert_true(share == 1);
    assert_int_equal(latents.count, 1200);
    assert_ok(learner_embed(&images, &base, &kept.replay, NULL, "features", &err));
    near_features(latents.features, &images, 0.01f);
    learner_embedding_release(&latents);
    learner_embedding_release(&images);
    learner_exemplars_release(&kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(they_stand_for_the_images),
        cmocka_unit_test(they_survive_a_file),
        cmocka_unit_test(a_number_that_is_none_is_refused),
        cmocka_unit_test(they_are_those_of_the_layers_below),
        cmocka_unit_test(they_save_passes_and_change_little),
        cmocka_unit_test(they_follow_what_is_added),
        cmocka_unit_test(none_are_kept_where_there_is_no_room),
        cmocka_unit_test(a_batch_has_its_bound),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
