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
    if (!out->identity)
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
    augment->identity = NULL;
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
                       struct learner_rng *rng)
{
    const long height = (long)augment->from->height, width = (long)augment->from->width;
    const bool mirror = learner_rng_below(rng, 2) != 0;
    const long dy = (long)learner_rng_below(rng, 2 * CROP_PAD + 1) - CROP_PAD;
    const long dx = (long)learner_rng_below(rng, 2 * CROP_PAD + 1) - CROP_PAD;

    for (uint32_t c = 0; c < augment->from->channels; c++, in += height * width)
        for (long y = 0; y < height; y++, out += width) {
            const long from = y + dy;
            if (from >= 0 && from < height)
                move_row(out, in + from * width, width, dx, mirror);
            else
                memset(out, 0, (size_t)width);
        }
}

/* A square around a random pixel, cut at the border (DeVries and Taylor 2017), in the mean colour:
 * the network sees zeros. */
static void cut_out(const struct learner_augment *augment, uint8_t *image, struct learner_rng *rng)
{
    const long height = (long)augment->from->height, width = (long)augment->from->width;
    const long side = (long)augment->cutout;
    const long top = (long)learner_rng_below(rng, augment->from->height) - side / 2;
    const long left = (long)learner_rng_below(rng, augment->from->width) - side / 2;
    const long first = left < 0 ? 0 : left, end = left + side < width ? left + side : width;

    for (uint32_t c = 0; c < augment->from->channels; c++, image += height * width) {
        const double mean = 255 * augment->arch->mean[c < 3 ? c : 2];
        const int fill = mean > 0 && mean < 255 ? (int)(mean + 0.5) : 0;
        for (long y = top < 0 ? 0 : top; y < top + side && y < height; y++)
            if (end > first)
                memset(image + y * width + first, fill, (size_t)(end - first));
    }
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

double learner_augment_load(struct learner_augment *augment, float *input, const uint32_t *index,
                            size_t n, struct learner_rng *rng)
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
                move_image(augment, out, in, rng);
            else
                memcpy(out, in, image);
            if (augment->cutout)
                cut_out(augment, out, rng);
        }
        learner_samples_batch(input, &augment->view, augment->arch, augment->identity, n, NULL);
    }
    if (!(augment->mixup > 0) || n < 2)
        return 1;
    const double share = learner_augment_beta(rng, augment->mixup);
    for (size_t i = 0; i < n / 2; i++)
        mix(input + i * image, input + (n - 1 - i) * image, image, (float)share);
    return share;
}
