/* A net under a freeze plan against the slow way: one that computes every gradient, of which the
 * frozen part is then ignored. Also the cache of what a frozen prefix makes of each image. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "fixture.h"
#include "graph.h"
#include "learner/loss.h"
#include "learner/optim.h"
#include "rng.h"

#define BATCH 5
#define CLASSES 7

static const int32_t labels[BATCH] = {0, 3, 6, 3, 1};

/* What is frozen. Tensors in front of `from` (a share of the list) are frozen whole. */
struct plan_row {
    const char *name;
    double from;
    enum delta_freeze_mode weights; /* of the convolutions behind */
    double share;                   /* of their filters or weights frozen */
    bool norms_live;
};

static const struct plan_row plans[] = {
    {"all weights, 0.9", 0, DELTA_FREEZE_WEIGHTS, 0.9, false},
    {"all filters, 0.5", 0, DELTA_FREEZE_ROWS, 0.5, false},
    {"last part, filters 0.75", 0.7, DELTA_FREEZE_ROWS, 0.75, false},
    {"last part, whole", 0.8, DELTA_FREEZE_LIVE, 0, false},
    {"last part, norms too", 0.6, DELTA_FREEZE_ROWS, 0.5, true},
    {"only norms", 0.5, DELTA_FREEZE_ALL, 1, true},
    {"only the head", 1, DELTA_FREEZE_ALL, 1, false},
};

static bool is_head(const struct delta_model *model, size_t tensor)
{
    return tensor + 2 >= model->tensor_count;
}

static void freeze_some(struct delta_tensor *tensor, const struct plan_row *plan,
                        struct learner_rng *rng)
{
    const size_t filters = (size_t)tensor->shape[0];
    const size_t count = plan->weights == DELTA_FREEZE_ROWS ? filters : tensor->count;
    uint8_t *bits = calloc(count / 8 + 1, 1);
    struct delta_error err = DELTA_ERROR_INIT;

    assert_non_null(bits);
    for (size_t i = 0; i < count; i++) {
        bool frozen = learner_rng_between(rng, 0, 1) < plan->share;
        /* every third filter wholly, so that there is something to leave out */
        if (plan->weights == DELTA_FREEZE_WEIGHTS && i / (count / filters) % 3 == 1)
            frozen = true;
        bits[i / 8] |= (uint8_t)(frozen << (i % 8));
    }
    assert_ok(delta_tensor_set_freeze(tensor, plan->weights, bits, count, &err));
    free(bits);
}

static void make_plan(struct delta_model *model, const struct plan_row *plan)
{
    const size_t first = (size_t)(plan->from * (double)model->tensor_count);
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_rng rng;

    learner_rng_init(&rng, 17, 3);
    for (size_t i = 0; i < model->tensor_count; i++) {
        struct delta_tensor *tensor = &model->tensors[i];
        const bool is_conv = tensor->rank == 4;
        enum delta_freeze_mode mode = DELTA_FREEZE_ALL;
        if (is_head(model, i))
            mode = DELTA_FREEZE_LIVE;
        else if (i >= first)
            mode = is_conv ? plan->weights : plan->norms_live ? DELTA_FREEZE_LIVE : mode;
        if (mode == DELTA_FREEZE_ROWS || mode == DELTA_FREEZE_WEIGHTS)
            freeze_some(tensor, plan, &rng);
        else
            assert_ok(delta_tensor_set_freeze(tensor, mode, NULL, 0, &err));
    }
}

static struct learner_net *net_of(const struct delta_model *model, const struct delta_model *plan,
                                  const char *device)
{
    const struct learner_net_options options = {
        .device = device, .batch = BATCH, .threads = 2, .train = true, .plan = plan};
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_net *net = NULL;

    assert_ok(learner_net_new(&net, model, &options, &err));
    fixture_fill(learner_net_input(net), BATCH * fixture_input_count(model), 4);
    return net;
}

static void loss_and_backward(struct learner_net *net)
{
    struct delta_error err = DELTA_ERROR_INIT;

    learner_loss_ce(learner_net_logits(net), labels, NULL, BATCH, CLASSES, 1,
                    learner_net_logits_grad(net));
    assert_ok(learner_net_backward(net, BATCH, &err));
}

static void step(struct learner_net *net)
{
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(learner_net_forward(net, BATCH, LEARNER_TRAIN_EVAL, &err));
    loss_and_backward(net);
}

/* Root of the mean square over all gradients of the slow net. */
static double typical(struct learner_net *net)
{
    double sum = 0, count = 0;

    for (size_t i = 0; i < learner_net_param_count(net); i++) {
        const struct learner_param *param = learner_net_param(net, i);
        for (size_t e = 0; param->grad && e < param->count; e++)
            sum += (double)param->grad[e] * param->grad[e];
        count += param->grad ? (double)param->count : 0;
    }
    return sqrt(sum / count);
}

static size_t compare_live(struct learner_net *fast, struct learner_net *slow,
                           const struct delta_model *plan, const char *what)
{
    const double scale = typical(slow);
    size_t live = 0;

    for (size_t i = 0; i < learner_net_param_count(fast); i++) {
        const struct learner_param *a = learner_net_param(fast, i), *b = learner_net_param(slow, i);
        const struct delta_tensor *tensor = delta_model_find(plan, a->name);
        double difference = 0, size = 0;
        size_t count = 0;
        if (!b->grad)
            continue;
        for (size_t e = 0; e < a->count; e++) {
            if (delta_tensor_is_frozen(tensor, e))
                continue;
            assert_non_null(a->grad);
            difference += pow((double)a->grad[e] - b->grad[e], 2);
            size += pow((double)b->grad[e], 2);
            count++;
        }
        if (!(sqrt(difference) <= 2e-4 * (sqrt(size) + scale * sqrt((double)count))))
            fail_msg("%s: '%s', live gradients differ by %g of %g", what, a->name, sqrt(difference),
                     sqrt(size));
        live += count;
    }
    return live;
}

static void compare_row(const struct fixture_row *row, const struct plan_row *plan,
                        const char *device)
{
    struct delta_model model = DELTA_MODEL_INIT;
    char what[128];

    fixture_network(&model, row, CLASSES, 11);
    make_plan(&model, plan);
    snprintf(what, sizeof what, "%s %s on %s, %s", row->arch, row->stem, device, plan->name);
    struct learner_net *slow = net_of(&model, NULL, "ref");
    struct learner_net *fast = net_of(&model, &model, device);
    step(slow);
    step(fast);
    const double logits =
        fixture_distance(learner_net_logits(fast), learner_net_logits(slow), BATCH * CLASSES);
    if (!(logits <= 1e-4))
        fail_msg("%s: logits differ by %g", what, logits);
    assert_true(compare_live(fast, slow, &model, what) > 0);
    assert_true(fast->grad_count <= slow->grad_count);
    learner_net_free(slow);
    learner_net_free(fast);
    delta_model_release(&model);
}

static void plan_gives_the_masked_gradients(void **state)
{
    (void)state;
    for (size_t r = 0; r < fixture_row_count; r++)
        for (size_t p = 0; p < sizeof plans / sizeof *plans; p++) {
            compare_row(&fixture_rows[r], &plans[p], "ref");
            compare_row(&fixture_rows[r], &plans[p], "blas");
        }
}

/* Records of the prefix give the same logits and gradients, bit for bit. */
static void cached_prefix_gives_the_same(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    size_t with_prefix = 0;

    (void)state;
    for (size_t r = 0; r < fixture_row_count; r++)
        for (size_t p = 2; p < sizeof plans / sizeof *plans; p++) {
            struct delta_model model = DELTA_MODEL_INIT;
            fixture_network(&model, &fixture_rows[r], CLASSES, 11);
            make_plan(&model, &plans[p]);
            struct learner_net *whole = net_of(&model, &model, "blas");
            struct learner_net *from = net_of(&model, &model, "blas");
            const size_t count = learner_net_prefix_count(whole);
            assert_true(count > 0);
            float *records = calloc(BATCH * count, sizeof *records);
            const float *list[BATCH];
            assert_non_null(records);
            for (size_t i = 0; i < BATCH; i++)
                list[i] = records + (BATCH - 1 - i) * count;
            assert_ok(learner_net_forward(whole, BATCH, LEARNER_TRAIN_EVAL, &err));
            float *in_order = calloc(BATCH * count, sizeof *in_order);
            assert_non_null(in_order);
            learner_net_prefix_read(whole, in_order, BATCH);
            for (size_t i = 0; i < BATCH; i++)
                memcpy(records + (BATCH - 1 - i) * count, in_order + i * count,
                       count * sizeof *records);
            memset(learner_net_input(from), 0, BATCH * fixture_input_count(&model));
            assert_ok(learner_net_forward_from(from, list, BATCH, LEARNER_TRAIN_EVAL, &err));
            assert_memory_equal(learner_net_logits(whole), learner_net_logits(from),
                                BATCH * CLASSES * sizeof(float));
            loss_and_backward(whole);
            loss_and_backward(from);
            for (size_t i = 0; i < learner_net_param_count(whole); i++) {
                const struct learner_param *a = learner_net_param(whole, i);
                const struct learner_param *b = learner_net_param(from, i);
                if (a->grad)
                    assert_memory_equal(a->grad, b->grad, a->count * sizeof(float));
            }
            with_prefix++;
            free(records);
            free(in_order);
            learner_net_free(whole);
            learner_net_free(from);
            delta_model_release(&model);
        }
    assert_true(with_prefix > 5);
}

static void frozen_bits_stay(void **state)
{
    const struct learner_sgd_options options = {
        .momentum = 0.9, .weight_decay = 5e-4, .nesterov = true};
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t p = 0; p < sizeof plans / sizeof *plans; p++) {
        struct delta_model model = DELTA_MODEL_INIT;
        struct learner_sgd *sgd = NULL;
        size_t moved = 0;
        fixture_model(&model, 5, 16, CLASSES, 3);
        make_plan(&model, &plans[p]);
        struct learner_net *net = net_of(&model, &model, "blas");
        assert_ok(learner_sgd_new(&sgd, net, &model, &options, &err));
        for (int i = 0; i < 3; i++) {
            step(net);
            learner_sgd_step(sgd, 0.05);
        }
        for (size_t i = 0; i < learner_net_param_count(net); i++) {
            const struct learner_param *param = learner_net_param(net, i);
            const struct delta_tensor *tensor = delta_model_find(&model, param->name);
            for (size_t e = 0; e < param->count; e++) {
                const bool same = !memcmp(&param->data[e], &tensor->data[e], sizeof(float));
                assert_true(same || !delta_tensor_is_frozen(tensor, e));
                moved += !same;
            }
        }
        assert_true(moved > 0);
        learner_sgd_free(sgd);
        learner_net_free(net);
        delta_model_release(&model);
    }
}

static void less_to_learn_needs_less_memory(void **state)
{
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    size_t before = SIZE_MAX;

    (void)state;
    fixture_model(&model, 16, 32, CLASSES, 3);
    for (int part = 0; part < 4; part++) {
        const struct plan_row plan = {"", part * 0.25, DELTA_FREEZE_LIVE, 0, false};
        make_plan(&model, &plan);
        struct learner_net *net = net_of(&model, part ? &model : NULL, "blas");
        assert_true(learner_net_memory_bytes(net) < before);
        before = learner_net_memory_bytes(net);
        if (part)
            assert_status(learner_net_forward(net, BATCH, LEARNER_TRAIN, &err), DELTA_INTERNAL);
        learner_net_free(net);
    }
    delta_model_release(&model);
}

static void cache_keeps_records_in_memory_and_file(void **state)
{
    enum { COUNT = 50, FLOATS = 33 };
    static const size_t memory[] = {0, 20 * FLOATS * sizeof(float) + 7, SIZE_MAX / 2};
    struct delta_error err = DELTA_ERROR_INIT;
    struct harness_scratch scratch;

    (void)state;
    harness_scratch_make(&scratch);
    for (int m = 0; m < 3; m++) {
        struct learner_cache *cache = NULL;
        assert_ok(
            learner_cache_new(&cache, COUNT, FLOATS, memory[m], harness_path(&scratch, ""), &err));
        const size_t held = m == 0 ? 0 : m == 1 ? 20 : COUNT;
        assert_int_equal(learner_cache_file_bytes(cache), (COUNT - held) * FLOATS * sizeof(float));
        for (size_t i = 0; i < COUNT; i++) {
            assert_false(learner_cache_has(cache, i));
            fixture_fill(learner_cache_record(cache, i), FLOATS, 100 + i);
            learner_cache_set(cache, i);
        }
        for (size_t i = 0; i < COUNT; i++) {
            float wanted[FLOATS];
            fixture_fill(wanted, FLOATS, 100 + i);
            assert_true(learner_cache_has(cache, i));
            assert_memory_equal(learner_cache_record(cache, i), wanted, sizeof wanted);
        }
        learner_cache_free(cache);
    }
    struct learner_cache *cache = NULL;
    assert_status(learner_cache_new(&cache, 4, 4, 0, harness_path(&scratch, "nowhere"), &err),
                  DELTA_IO);
    assert_non_null(strstr(err.text, "nowhere"));
    assert_status(learner_cache_new(&cache, SIZE_MAX / 2, 4, 0, NULL, &err), DELTA_LIMIT);
    assert_null(cache);
    harness_scratch_remove(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_gives_the_masked_gradients),
        cmocka_unit_test(cached_prefix_gives_the_same),
        cmocka_unit_test(frozen_bits_stay),
        cmocka_unit_test(less_to_learn_needs_less_memory),
        cmocka_unit_test(cache_keeps_records_in_memory_and_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
