/* Inference in groups of images says bit for bit what one image at a time says, in less memory. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "graph.h"

#define BATCH 19 /* no whole number of groups */
#define CLASSES 7

/* Large enough that a few images outgrow a group. */
static const struct fixture_row rows[] = {
    {"resnet18", "cifar", 8, 64}, {"resnet20", "cifar", 16, 48}, {"mobilenet_v2", "cifar", 35, 48}};

static struct learner_net *grouped_net(const struct delta_model *model, const char *device)
{
    struct learner_net *net = fixture_net(model, device, BATCH, 2, false);

    assert_true(net->group.images > 0 && net->group.images < BATCH);
    assert_true(net->group.layers > 0 && net->group.layers < net->layers.count);
    fixture_fill(learner_net_input(net), BATCH * fixture_input_count(model), 4);
    return net;
}

/* A batch of one group's size is not divided: what it takes an image is what any batch would. */
static void check_memory(const struct learner_net *all, const struct delta_model *model,
                         const char *device)
{
    const size_t images = all->group.images;
    struct learner_net *undivided = fixture_net(model, device, images, 2, false);

    assert_int_equal(undivided->group.images, 0);
    if (!(all->arena_bytes * images < undivided->arena_bytes * BATCH))
        fail_msg("%s on %s: %zu bytes for %d images in groups, %zu for %zu at once",
                 model->arch.name, device, all->arena_bytes, BATCH, undivided->arena_bytes, images);
    learner_net_free(undivided);
}

static void compare(const struct fixture_row *row, const char *device)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model = DELTA_MODEL_INIT;

    fixture_network(&model, row, CLASSES, 3);
    struct learner_net *all = grouped_net(&model, device);
    struct learner_net *one = fixture_net(&model, device, 1, 1, false);
    const size_t input = fixture_input_count(&model), d = learner_net_feature_count(all);
    assert_int_equal(one->group.images, 0);
    assert_ok(learner_net_forward(all, BATCH, LEARNER_INFER, &err));
    for (size_t i = 0; i < BATCH; i++) {
        memcpy(learner_net_input(one), learner_net_input(all) + i * input, input * sizeof(float));
        assert_ok(learner_net_forward(one, 1, LEARNER_INFER, &err));
        assert_memory_equal(learner_net_features(all) + i * d, learner_net_features(one),
                            d * sizeof(float));
        assert_memory_equal(learner_net_logits(all) + i * CLASSES, learner_net_logits(one),
                            CLASSES * sizeof(float));
    }
    check_memory(all, &model, device);
    learner_net_free(one);
    learner_net_free(all);
    delta_model_release(&model);
}

static void groups_say_what_single_images_say(void **state)
{
    (void)state;
    compare(&rows[0], "ref"); /* once: plain loops take their time */
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        compare(&rows[r], "blas");
}

/* In the lower layers, in the upper ones, in the last group's last image. */
static void what_is_not_finite_is_named(void **state)
{
    static const struct {
        const char *param, *message;
    } poisons[] = {
        {"layer1.0.conv2.weight", "layer 'layer1.0.conv2' gives"},
        {"layer4.1.conv2.weight", "layer 'layer4.1.conv2' gives"},
        {NULL, "the input holds"},
    };
    struct delta_model model = DELTA_MODEL_INIT;

    (void)state;
    fixture_network(&model, &rows[0], CLASSES, 3);
    for (size_t i = 0; i < sizeof poisons / sizeof *poisons; i++) {
        struct delta_error err = DELTA_ERROR_INIT;
        struct learner_net *net = grouped_net(&model, "blas");
        if (poisons[i].param)
            learner_net_find(net, poisons[i].param)->data[0] = NAN;
        else
            learner_net_input(net)[BATCH * fixture_input_count(&model) - 1] = NAN;
        assert_status(learner_net_forward(net, BATCH, LEARNER_INFER, &err), DELTA_NONFINITE);
        if (!strstr(err.text, poisons[i].message))
            fail_msg("'%s' instead of '%s'", err.text, poisons[i].message);
        learner_net_free(net);
    }
    delta_model_release(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_say_what_single_images_say),
        cmocka_unit_test(what_is_not_finite_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
