/* Random views: what moved is where it should be, shares are what they claim. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "augment.h"
#include "harness.h"
#include "sources.h"

#define SIDE 32
#define PLANE (SIDE * SIDE)
#define IMAGE (3 * PLANE)
#define BATCH 16

static const struct delta_arch arch = {.name = "resnet18",
                                       .stem = "cifar",
                                       .width = 4,
                                       .channels = 3,
                                       .height = SIDE,
                                       .image_width = SIDE,
                                       .mean = {0.5, 0.4, 0.6},
                                       .std = {0.25, 0.25, 0.25}};

static struct learner_samples samples;
static uint32_t index_of[BATCH];

static int set_up(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    if (learner_samples_open(&samples, "synthetic:classes=4,train=8", LEARNER_SPLIT_TRAIN, &err))
        return -1;
    for (size_t i = 0; i < samples.count * IMAGE; i++) /* no black of its own */
        samples.pixels[i] |= 1;
    for (uint32_t i = 0; i < BATCH; i++)
        index_of[i] = 3 + i;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    learner_samples_release(&samples);
    return 0;
}

static void open_augment(struct learner_augment *out, bool moves, size_t cutout, double mixup)
{
    struct learner_pretrain_options options = learner_pretrain_defaults();
    struct delta_error err = DELTA_ERROR_INIT;

    options.augment = moves;
    options.cutout = cutout;
    options.mixup = mixup;
    assert_ok(learner_augment_init(out, &options, &samples, &arch, BATCH, &err));
}

static uint8_t pixel(const uint8_t *image, long c, long y, long x)
{
    return y < 0 || x < 0 || y >= SIDE || x >= SIDE ? 0 : image[c * PLANE + y * SIDE + x];
}

static bool is_view(const uint8_t *out, const uint8_t *in, long dy, long dx, bool mirror)
{
    for (long c = 0; c < 3; c++)
        for (long y = 0; y < SIDE; y++)
            for (long x = 0; x < SIDE; x++)
                if (pixel(out, c, y, x) !=
                    pixel(in, c, y + dy, mirror ? SIDE - 1 - (x + dx) : x + dx))
                    return false;
    return true;
}

/* Every view is the image moved by at most four pixels, mirrored or not; all kinds turn up. */
static void views_are_moved_images(void **state)
{
    struct learner_augment augment;
    struct learner_rng rng;
    static float input[BATCH * IMAGE];
    size_t mirrored = 0, still = 0, moves = 0;
    bool seen[9][9] = {{false}};

    (void)state;
    open_augment(&augment, true, 0, 0);
    learner_rng_init(&rng, 5, 0);
    for (int round = 0; round < 20; round++) {
        assert_true(learner_augment_load(&augment, input, index_of, BATCH, &rng) == 1);
        for (size_t i = 0; i < BATCH; i++) {
            const uint8_t *in = samples.pixels + index_of[i] * IMAGE;
            const uint8_t *out = augment.view.pixels + i * IMAGE;
            size_t found = 0;
            for (long v = 0; v < 162; v++) {
                const long dy = v / 2 % 9 - 4, dx = v / 18 - 4;
                if (!is_view(out, in, dy, dx, v % 2))
                    continue;
                found++;
                mirrored += v % 2;
                still += !dy && !dx;
                seen[dy + 4][dx + 4] = true;
            }
            assert_int_equal(found, 1);
        }
    }
    for (int y = 0; y < 9; y++)
        for (int x = 0; x < 9; x++)
            moves += seen[y][x];
    assert_in_range(mirrored, 120, 200); /* of 320 */
    assert_in_range(moves, 70, 81);
    assert_true(still < 20);
    learner_augment_release(&augment);
}

static void cutout_blanks_a_square(void **state)
{
    struct learner_augment augment;
    struct learner_rng rng;
    static float input[BATCH * IMAGE], plain[BATCH * IMAGE];
    size_t largest = 0;

    (void)state;
    open_augment(&augment, false, 8, 0);
    learner_rng_init(&rng, 6, 0);
    learner_augment_load(&augment, input, index_of, BATCH, &rng);
    learner_samples_batch(plain, &samples, &arch, index_of, BATCH, NULL);
    for (size_t i = 0; i < BATCH; i++) {
        size_t blank = 0;
        for (size_t k = i * IMAGE; k < (i + 1) * IMAGE; k++) {
            if (input[k] == plain[k])
                continue;
            assert_true(fabsf(input[k]) < 0.01f); /* the mean colour, to half a step of a byte */
            blank++;
        }
        assert_true(blank <= 3 * 64);
        assert_true(blank > 30); /* a corner is a quarter */
        if (blank > largest)
            largest = blank;
    }
    assert_true(largest > 150);
    learner_augment_release(&augment);
}

static void mixup_mixes_pairs(void **state)
{
    struct learner_augment augment;
    struct learner_rng rng;
    static float input[BATCH * IMAGE], plain[BATCH * IMAGE];
    const size_t n = BATCH - 1; /* the middle one has itself for partner */

    (void)state;
    open_augment(&augment, false, 0, 0.4);
    learner_rng_init(&rng, 7, 0);
    const double share = learner_augment_load(&augment, input, index_of, n, &rng);
    assert_true(share > 0 && share < 1);
    learner_samples_batch(plain, &samples, &arch, index_of, n, NULL);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < IMAGE; k++) {
            const double wanted =
                share * plain[i * IMAGE + k] + (1 - share) * plain[(n - 1 - i) * IMAGE + k];
            assert_true(fabs(input[i * IMAGE + k] - wanted) < 1e-5);
        }
    learner_augment_release(&augment);
}

/* Mean 1/2, variance 1 / (4 (2 alpha + 1)). */
static void beta_has_its_moments(void **state)
{
    const double alphas[] = {0.1, 0.5, 1};
    const int draws = 20000;

    (void)state;
    for (size_t a = 0; a < 3; a++) {
        struct learner_rng rng;
        double sum = 0, square = 0;
        learner_rng_init(&rng, 8, a);
        for (int i = 0; i < draws; i++) {
            const double x = learner_augment_beta(&rng, alphas[a]);
            assert_true(x >= 0 && x <= 1);
            sum += x;
            square += x * x;
        }
        const double mean = sum / draws, variance = square / draws - mean * mean;
        assert_float_equal(mean, 0.5, 0.015);
        assert_float_equal(variance, 1 / (4 * (2 * alphas[a] + 1)), 0.006);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views_are_moved_images),
        cmocka_unit_test(cutout_blanks_a_square),
        cmocka_unit_test(mixup_mixes_pairs),
        cmocka_unit_test(beta_has_its_moments),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
