#include "augment.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sources.h"

#define CROP_PAD 4

enum delta_status learner_augment_init(struct learner_augment *out,
                                       const struct learner_pretrain_options *options,
                                       const struct learner_samples *samples,
                                       const struct delta_arch *arch, size_t batch,
                                       struct delta_error *err)
{
    *out = (struct learner_augment){.from = samples,
                                    .arch = arch,
                                    .moves = options->augment,
                                    .cutout = options->cutout,
                                    .mixup = options->mixup};
    out->identity = delta_calloc(batch, sizeof *out->identity);
    out->views = delta_calloc(batch, sizeof *out->views);
    if (!out->identity || !out->views)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for augmentation");
    for (size_t i = 0; i < batch; i++)
        out->identity[i] = (uint32_t)i;
    return learner_samples_reserve(&out->view, samples->channels, samples->height, samples->width,
                                   batch, 0, err);
}

void learner_augment_release(struct learner_augment *augment)
{
    learner_samples_release(&augment->view);
    free(augment->identity);
    free(augment->views);
    augment->identity = NULL;
    augment->views = NULL;
    augment->feed = NULL;
}

void learner_augment_place(struct learner_augment *augment, struct learner_feed *feed)
{
    augment->feed = feed->whole ? feed : NULL;
}

/* A row moved by dx, perhaps mirrored first; what comes in from outside is black. */
static void move_row(uint8_t *out, const uint8_t *in, long width, long dx, bool mirror)
{
    for (long x = 0; x < width; x++) {
        const long from = mirror ? width - 1 - (x + dx) : x + dx;
        out[x] = from >= 0 && from < width ? in[from] : 0;
    }
}

static void move_image(const struct learner_augment *augment, uint8_t *out, const uint8_t *in,
                       const struct learner_view *view)
{
    const long height = (long)augment->from->height, width = (long)augment->from->width;

    for (uint32_t c = 0; c < augment->from->channels; c++, in += height * width)
        for (long y = 0; y < height; y++, out += width) {
            const long from = y + view->dy;
            if (from >= 0 && from < height)
                move_row(out, in + from * width, width, view->dx, view->mirror);
            else
                memset(out, 0, (size_t)width);
        }
}

static uint8_t fill_of(const struct learner_augment *augment, uint32_t c)
{
    const double mean = 255 * augment->arch->mean[c < 3 ? c : 2];

    return (uint8_t)(mean > 0 && mean < 255 ? (int)(mean + 0.5) : 0);
}

static void cut_out(const struct learner_augment *augment, uint8_t *image,
                    const struct learner_view *view)
{
    const long height = (long)augment->from->height, width = (long)augment->from->width;
    const long side = (long)augment->cutout, top = view->cut_top, left = view->cut_left;
    const long first = left < 0 ? 0 : left, end = left + side < width ? left + side : width;

    for (uint32_t c = 0; c < augment->from->channels; c++, image += height * width)
        for (long y = top < 0 ? 0 : top; y < top + side && y < height; y++)
            if (end > first)
                memset(image + y * width + first, fill_of(augment, c), (size_t)(end - first));
}

/* Crop, mirror and a square around a random pixel, cut at the border and in the mean colour: the
 * network sees zeros there (DeVries and Taylor 2017). */
static struct learner_view draw(const struct learner_augment *augment, uint32_t index,
                                struct learner_rng *rng)
{
    struct learner_view view = {.index = index};

    if (augment->moves) {
        view.mirror = learner_rng_below(rng, 2) != 0;
        view.dy = (int16_t)((int)learner_rng_below(rng, 2 * CROP_PAD + 1) - CROP_PAD);
        view.dx = (int16_t)((int)learner_rng_below(rng, 2 * CROP_PAD + 1) - CROP_PAD);
    }
    if (augment->cutout) {
        const long half = (long)augment->cutout / 2;
        view.cut = 1;
        view.cut_top = (int16_t)((long)learner_rng_below(rng, augment->from->height) - half);
        view.cut_left = (int16_t)((long)learner_rng_below(rng, augment->from->width) - half);
    }
    return view;
}

double learner_augment_beta(struct learner_rng *rng, double alpha)
{
    double x, y;

    do {
        x = pow(learner_rng_uniform(rng), 1 / alpha);
        y = pow(learner_rng_uniform(rng), 1 / alpha);
    } while (!(x + y <= 1) || !(x + y > 0)); /* both can underflow for a tiny alpha */
    return x / (x + y);
}

static void mix(float *a, float *b, size_t count, float share)
{
    for (size_t i = 0; i < count; i++) {
        const float x = a[i], y = b[i];
        a[i] = share * x + (1 - share) * y;
        b[i] = share * y + (1 - share) * x;
    }
}

static void load_placed(struct learner_augment *augment, size_t n, double share)
{
    struct learner_load load = {
        .views = augment->views, .n = n, .side = augment->cutout, .share = (float)share};

    for (uint32_t c = 0; c < augment->from->channels; c++)
        load.fill[c] = fill_of(augment, c);
    learner_feed_load_views(augment->feed, &load);
}

static void load_here(struct learner_augment *augment, float *input, const uint32_t *index,
                      size_t n, double share)
{
    const struct learner_samples *from = augment->from;
    const size_t image = learner_samples_image_bytes(from);

    if (!augment->moves && !augment->cutout) {
        learner_samples_batch(input, from, augment->arch, index, n, NULL);
    } else {
        for (size_t i = 0; i < n; i++) {
            uint8_t *out = augment->view.pixels + i * image;
            const uint8_t *in = from->pixels + index[i] * image;
            if (augment->moves)
                move_image(augment, out, in, &augment->views[i]);
            else
                memcpy(out, in, image);
            if (augment->cutout)
                cut_out(augment, out, &augment->views[i]);
        }
        learner_samples_batch(input, &augment->view, augment->arch, augment->identity, n, NULL);
    }
    for (size_t i = 0; share < 1 && i < n / 2; i++)
        mix(input + i * image, input + (n - 1 - i) * image, image, (float)share);
}

double learner_augment_load(struct learner_augment *augment, float *input, const uint32_t *index,
                            size_t n, struct learner_rng *rng)
{
    double share = 1;

    for (size_t i = 0; i < n; i++)
        augment->views[i] = draw(augment, index[i], rng);
    if (augment->mixup > 0 && n >= 2)
        share = learner_augment_beta(rng, augment->mixup);
    if (augment->feed)
        load_placed(augment, n, share);
    else
        load_here(augment, input, index, n, share);
    return share;
}
