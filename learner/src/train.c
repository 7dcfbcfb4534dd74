/* A base from scratch: SGD with Nesterov momentum over shuffled, augmented images. */
#include <stdlib.h>
#include <string.h>

#include "embed.h"
#include "learner/learn.h"
#include "learner/loss.h"
#include "learner/optim.h"
#include "rng.h"
#include "schedule.h"

#define CROP_PAD 4

enum stream { STREAM_ORDER = 11, STREAM_AUGMENT };

struct trainer {
    const struct delta_model *model;
    const struct learner_samples *samples;
    const struct learner_pretrain_options *options;
    const struct learner_budget *budget;
    struct learner_net *net;
    struct learner_sgd *sgd;
    int32_t *outputs;     /* [samples] */
    int32_t *labels;      /* [batch] */
    uint32_t *order;      /* [samples] */
    uint8_t *mirror;      /* [batch] */
    float *images;        /* [batch, h, w, c], before the crop */
    size_t steps, warmup; /* of the whole run */
    size_t per_epoch;     /* steps */
    struct learner_rng order_rng, augment_rng;
};

struct learner_pretrain_options learner_pretrain_defaults(void)
{
    return (struct learner_pretrain_options){.epochs = 13,
                                             .batch = 128,
                                             .lr = 0.1,
                                             .momentum = 0.9,
                                             .weight_decay = 5e-4,
                                             .augment = true};
}

static void trainer_release(struct trainer *trainer)
{
    learner_sgd_free(trainer->sgd);
    learner_net_free(trainer->net);
    free(trainer->outputs);
    free(trainer->labels);
    free(trainer->order);
    free(trainer->mirror);
    free(trainer->images);
}

static enum delta_status check_options(const struct learner_pretrain_options *options,
                                       const struct learner_samples *samples,
                                       struct delta_error *err)
{
    if (options->epochs < 1 || !options->batch || !(options->lr > 0) || options->momentum < 0 ||
        options->momentum >= 1 || options->weight_decay < 0)
        return delta_fail(err, DELTA_USAGE,
                          "pretraining needs epochs >= 1, batch >= 1, lr > 0, "
                          "0 <= momentum < 1, weight decay >= 0");
    if (!samples->count)
        return delta_fail(err, DELTA_NOT_FOUND, "no images to train on");
    return DELTA_OK;
}

/* A remainder below half a batch is left out: batch statistics of a few images are noise. The
 * next epoch shuffles anew, so no image is lost for good. */
static size_t steps_of_epoch(size_t count, size_t batch)
{
    const size_t steps = count / batch + (count % batch >= (batch + 1) / 2);

    return steps ? steps : 1;
}

static enum delta_status trainer_init(struct trainer *trainer, struct delta_error *err)
{
    const struct learner_pretrain_options *options = trainer->options;
    const struct learner_samples *samples = trainer->samples;
    const struct learner_net_options net_options = {.device = trainer->budget->device,
                                                    .batch = options->batch,
                                                    .threads = trainer->budget->threads,
                                                    .train = true};
    const struct learner_sgd_options sgd_options = {options->momentum, options->weight_decay, true};
    const size_t image = (size_t)samples->channels * samples->height * samples->width;
    enum delta_status st;

    for (size_t k = 0; k < samples->class_count; k++)
        if (delta_model_class_index(trainer->model, samples->classes[k].text) < 0)
            return delta_fail(err, DELTA_MISMATCH, "the model has no output for class '%s'",
                              samples->classes[k].text);
    st = learner_net_new(&trainer->net, trainer->model, &net_options, err);
    if (!st)
        st = learner_sgd_new(&trainer->sgd, trainer->net, NULL, &sgd_options, err);
    if (st)
        return st;
    trainer->outputs = learner_samples_outputs(samples, trainer->model);
    trainer->order = delta_calloc(samples->count, sizeof *trainer->order);
    trainer->labels = delta_calloc(options->batch, sizeof *trainer->labels);
    trainer->mirror = delta_calloc(options->batch, 1);
    trainer->images = delta_calloc(options->batch, image * sizeof(float));
    if (!trainer->outputs || !trainer->order || !trainer->labels || !trainer->mirror ||
        !trainer->images)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for pretraining");
    for (size_t i = 0; i < samples->count; i++)
        trainer->order[i] = (uint32_t)i;
    trainer->per_epoch = steps_of_epoch(samples->count, options->batch);
    trainer->steps = trainer->per_epoch * (size_t)options->epochs;
    trainer->warmup = trainer->steps / 10;
    learner_rng_init(&trainer->order_rng, trainer->budget->seed, STREAM_ORDER);
    learner_rng_init(&trainer->augment_rng, trainer->budget->seed, STREAM_AUGMENT);
    return DELTA_OK;
}

/* Moves an image by (dy, dx); what comes in from outside is black, i.e. pixel value 0 normalised.
 */
static void shift_image(float *out, const float *in, const struct delta_arch *arch, long dy,
                        long dx)
{
    const long h = arch->height, w = arch->image_width;
    const size_t channels = arch->channels;

    for (long y = 0; y < h; y++)
        for (long x = 0; x < w; x++, out += channels) {
            const long from_y = y + dy, from_x = x + dx;
            const bool inside = from_y >= 0 && from_y < h && from_x >= 0 && from_x < w;
            for (size_t c = 0; c < channels; c++) {
                const size_t k = c < 3 ? c : 2;
                out[c] = inside ? in[(size_t)(from_y * w + from_x) * channels + c]
                                : (float)(-arch->mean[k] / arch->std[k]);
            }
        }
}

static void load_batch(struct trainer *trainer, const uint32_t *index, size_t n)
{
    const struct delta_arch *arch = &trainer->model->arch;
    const size_t h = arch->height, w = arch->image_width;
    float *input = learner_net_input(trainer->net);

    for (size_t i = 0; i < n; i++)
        trainer->labels[i] = trainer->outputs[index[i]];
    if (!trainer->options->augment) {
        learner_samples_batch(input, trainer->samples, arch, index, n, NULL);
        return;
    }
    for (size_t i = 0; i < n; i++)
        trainer->mirror[i] = learner_rng_below(&trainer->augment_rng, 2) != 0;
    learner_samples_batch(trainer->images, trainer->samples, arch, index, n, trainer->mirror);
    for (size_t i = 0; i < n; i++) {
        const long dy = (long)learner_rng_below(&trainer->augment_rng, 2 * CROP_PAD + 1) - CROP_PAD;
        const long dx = (long)learner_rng_below(&trainer->augment_rng, 2 * CROP_PAD + 1) - CROP_PAD;
        const size_t at = i * arch->channels * h * w;
        shift_image(input + at, trainer->images + at, arch, dy, dx);
    }
}

static enum delta_status run_epoch(struct trainer *trainer, size_t epoch, struct delta_error *err)
{
    const size_t count = trainer->samples->count, batch = trainer->options->batch;
    enum delta_status st = DELTA_OK;

    learner_rng_shuffle(&trainer->order_rng, trainer->order, count);
    for (size_t i = 0; !st && i < trainer->per_epoch; i++) {
        const size_t step = epoch * trainer->per_epoch + i, left = count - i * batch;
        const size_t n = left < batch ? left : batch;
        load_batch(trainer, trainer->order + i * batch, n);
        st = learner_net_forward(trainer->net, n, LEARNER_TRAIN, err);
        if (st)
            break;
        learner_loss_ce(learner_net_logits(trainer->net), trainer->labels, NULL, n,
                        learner_net_class_count(trainer->net), 1,
                        learner_net_logits_grad(trainer->net));
        st = learner_net_backward(trainer->net, n, err);
        if (st)
            break;
        learner_sgd_step(trainer->sgd, learner_schedule_cosine(trainer->options->lr, step,
                                                               trainer->steps, trainer->warmup));
        st = learner_budget_tick(trainer->budget, "pretraining", (double)(step + 1),
                                 (double)trainer->steps, err);
    }
    return st;
}

enum delta_status learner_pretrain(struct delta_model *model, const struct learner_samples *train,
                                   const struct learner_pretrain_options *options,
                                   const struct learner_budget *budget, struct delta_error *err)
{
    const struct learner_budget none = {0};
    struct trainer trainer = {
        .model = model, .samples = train, .options = options, .budget = budget ? budget : &none};
    enum delta_status st = check_options(options, train, err);

    if (!st)
        st = learner_samples_check(train, &model->arch, err);
    if (!st)
        st = trainer_init(&trainer, err);
    for (int epoch = 0; !st && epoch < options->epochs; epoch++)
        st = run_epoch(&trainer, (size_t)epoch, err);
    /* the last step could have been the one that diverged */
    if (!st)
        st = learner_net_forward(trainer.net, 1, LEARNER_INFER, err);
    if (!st)
        st = learner_net_store(trainer.net, model, err);
    trainer_release(&trainer);
    return st;
}
