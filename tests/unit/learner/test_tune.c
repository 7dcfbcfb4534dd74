/* Training under a plan, with the frozen prefix cached, against the slow way: every gradient
 * computed, the frozen part masked by the optimiser alone. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "tune.h"

#define OLD 4

struct world {
    struct learner_samples all, fresh, replay;
    struct delta_model base;
};

static void world_init(struct world *world, const struct fixture_row *row)
{
    struct delta_error err = DELTA_ERROR_INIT;
    char source[64];

    memset(world, 0, sizeof *world);
    snprintf(source, sizeof source, "synthetic:classes=6,train=12");
    assert_ok(learner_samples_open(&world->all, source, LEARNER_SPLIT_TRAIN, &err));
    assert_ok(
        learner_samples_select(&world->replay, &world->all, world->all.classes, OLD, 0, &err));
    assert_ok(
        learner_samples_select(&world->fresh, &world->all, world->all.classes + OLD, 2, 0, &err));
    fixture_network(&world->base, row, OLD, 5);
    for (size_t k = 0; k < OLD; k++)
        world->base.classes[k] = world->all.classes[k];
    /* everything below the last third is frozen, and three filters of four above */
    for (size_t i = 0; i + 2 < world->base.tensor_count; i++) {
        struct delta_tensor *tensor = &world->base.tensors[i];
        const bool rows = tensor->rank == 4 && i > world->base.tensor_count * 2 / 3;
        const size_t filters = (size_t)tensor->shape[0];
        uint8_t *bits = calloc(filters / 8 + 1, 1);
        assert_non_null(bits);
        for (size_t f = 0; f < filters; f++)
            bits[f / 8] |= (uint8_t)((f % 4 != 0) << (f % 8));
        assert_ok(delta_tensor_set_freeze(tensor, rows ? DELTA_FREEZE_ROWS : DELTA_FREEZE_ALL,
                                          rows ? bits : NULL, rows ? filters : 0, &err));
        free(bits);
    }
}

static void world_release(struct world *world)
{
    learner_samples_release(&world->all);
    learner_samples_release(&world->fresh);
    learner_samples_release(&world->replay);
    delta_model_release(&world->base);
}

/* slow: the second phase has a plan of its own, the same in content, so that the net gets none. */
static void tune(struct delta_model *model, const struct world *world, bool slow,
                 struct learner_prefix *prefix)
{
    const struct learner_tune_extra extra = {.prefix = prefix};
    struct learner_increment_options options = learner_increment_defaults("freeze");
    const struct learner_budget budget = {.seed = 9, .threads = 2};
    struct delta_model other = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(delta_model_copy(model, &world->base, &err));
    assert_ok(delta_model_grow_head(model, world->fresh.classes, world->fresh.class_count, &err));
    assert_ok(delta_model_copy(&other, model, &err));
    options.batch = 16;
    options.lr = 0.002; /* small steps: where a ReLU flips, rounding would become a difference */
    const struct learner_tune_phase phases[] = {
        {.stage = "new", .epochs = 2, .plan = model},
        {.stage = "tune",
         .epochs = 3,
         .replay = true,
         .distil = true,
         .plan = slow ? &other : model},
    };
    struct learner_task task = {.model = model,
                                .base = &world->base,
                                .fresh = &world->fresh,
                                .replay = &world->replay,
                                .options = &options,
                                .budget = &budget};
    assert_ok(learner_start_rows(&task, &err));
    assert_ok(learner_tune_with(&task, phases, 2, &extra, &err));
    delta_model_release(&other);
}

/* How far a model moved from the base, squared, after a check that another moved there too. */
static double assert_learned_the_same(const struct delta_model *one,
                                      const struct delta_model *other,
                                      const struct delta_model *base)
{
    double moved = 0;

    for (size_t i = 0; i < one->tensor_count; i++) {
        const struct delta_tensor *a = &one->tensors[i], *b = &other->tensors[i];
        const struct delta_tensor *from = &base->tensors[i];
        double difference = 0, change = 0;
        for (size_t e = 0; e < a->count; e++) {
            difference += pow((double)a->data[e] - b->data[e], 2);
            if (e < from->count)
                change += pow((double)b->data[e] - from->data[e], 2);
            if (e < from->count && delta_tensor_is_frozen(from, e))
                assert_memory_equal(&a->data[e], &from->data[e], sizeof(float));
        }
        /* rounding grows from step to step; what was learned is far above it */
        if (!(sqrt(difference) <= 5e-4 * sqrt(change) + 1e-5 * sqrt((double)a->count)))
            fail_msg("%s: '%s' differs by %g after a change of %g", base->arch.name, a->name,
                     sqrt(difference), sqrt(change));
        moved += change;
    }
    return moved;
}

static const struct fixture_row nets[] = {{"resnet18", "cifar", 6, 32},
                                          {"mobilenet_v2", "cifar", 20, 32}};

static void cached_prefix_learns_the_same(void **state)
{
    (void)state;
    for (size_t r = 0; r < sizeof nets / sizeof *nets; r++) {
        struct delta_model fast = DELTA_MODEL_INIT, slow = DELTA_MODEL_INIT;
        struct world world;
        world_init(&world, &nets[r]);
        tune(&fast, &world, false, NULL);
        tune(&slow, &world, true, NULL);
        assert_true(assert_learned_the_same(&fast, &slow, &world.base) > 1e-4);
        delta_model_release(&fast);
        delta_model_release(&slow);
        world_release(&world);
    }
}

/* What an earlier stage kept: features as without it, and taken over where it is the same prefix,
 * not where the plan froze more. */
static void prefix_of_an_earlier_stage_learns_the_same(void **state)
{
    (void)state;
    for (size_t r = 0; r < sizeof nets / sizeof *nets; r++)
        for (int more = 0; more < 2; more++) {
            const struct learner_increment_options options = learner_increment_defaults(NULL);
            const struct learner_budget budget = {.seed = 9, .threads = 2};
            struct delta_model with = DELTA_MODEL_INIT, without = DELTA_MODEL_INIT;
            struct delta_model plan = DELTA_MODEL_INIT;
            struct learner_embedding kept, plain;
            struct learner_prefix prefix = {.cache = NULL};
            struct learner_samples pool = LEARNER_SAMPLES_INIT;
            struct delta_error err = DELTA_ERROR_INIT;
            struct world world;
            world_init(&world, &nets[r]);
            assert_ok(delta_model_copy(&plan, &world.base, &err));
            for (size_t i = 0; more && i + 2 < plan.tensor_count; i++)
                assert_ok(
                    delta_tensor_set_freeze(&plan.tensors[i], DELTA_FREEZE_ALL, NULL, 0, &err));
            const struct learner_task task = {.model = &world.base,
                                              .base = &world.base,
                                              .fresh = &world.fresh,
                                              .replay = &world.replay,
                                              .options = &options,
                                              .budget = &budget};
            assert_ok(learner_prefix_embed(&kept, &prefix, &task, &plan, 2, &err));
            assert_non_null(prefix.cache);
            assert_ok(learner_samples_append(&pool, &world.fresh, &err));
            assert_ok(learner_samples_append(&pool, &world.replay, &err));
            assert_ok(
                learner_embed_views(&plain, &world.base, &pool, 2, &budget, "features", &err));
            assert_int_equal(kept.count, plain.count);
            for (size_t i = 0; i < plain.count * plain.d; i++)
                assert_true(fabsf(kept.features[i] - plain.features[i]) <=
                            1e-4f + 1e-3f * fabsf(plain.features[i]));
            tune(&without, &world, false, NULL);
            learner_prefix_release(&prefix);
            learner_embedding_release(&kept);
            assert_ok(learner_prefix_embed(&kept, &prefix, &task, &plan, 1, &err));
            tune(&with, &world, false, &prefix);
            assert_true((prefix.cache == NULL) == !more);
            assert_true(assert_learned_the_same(&with, &without, &world.base) > 1e-4);
            learner_prefix_release(&prefix);
            learner_embedding_release(&kept);
            learner_embedding_release(&plain);
            learner_samples_release(&pool);
            delta_model_release(&plan);
            delta_model_release(&with);
            delta_model_release(&without);
            world_release(&world);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cached_prefix_learns_the_same),
        cmocka_unit_test(prefix_of_an_earlier_stage_learns_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
