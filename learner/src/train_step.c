/* One step of a training run. */
#include <stdint.h>
#include <string.h>

#include "gather.h"
#include "learner/loss.h"
#include "trainer.h"

enum stream { STREAM_AUGMENT = 12 };

/* Exponent of all ones: infinite or NaN. */
static bool all_finite(const float *data, size_t count)
{
    uint32_t bad = 0;

    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, data + i, sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

/* Gradients come from the back: the last layer that is wrong is where it began. */
static enum delta_status check_gradients(struct learner_net *net, struct delta_error *err)
{
    for (size_t i = learner_net_param_count(net); i-- > 0;) {
        const struct learner_param *param = learner_net_param(net, i);
        if (param->grad && !all_finite(param->grad, param->count))
            return delta_fail(err, DELTA_NONFINITE,
                              "the gradient of '%s' holds a number that is not finite",
                              param->name);
    }
    return DELTA_OK;
}

static size_t best_of(const float *logits, size_t classes)
{
    size_t best = 0;

    for (size_t k = 1; k < classes; k++)
        if (logits[k] > logits[best])
            best = k;
    return best;
}

static size_t count_correct(const struct learner_net *net, const int32_t *labels, size_t n)
{
    const size_t classes = learner_net_class_count(net);
    const float *logits = learner_net_logits(net);
    size_t correct = 0;

    for (size_t i = 0; i < n; i++)
        correct += best_of(logits + i * classes, classes) == (size_t)labels[i];
    return correct;
}

/* One pass over n of the step's `whole` images. */
static enum delta_status run_pass(struct trainer *trainer, const uint32_t *index, size_t n,
                                  size_t whole, struct learner_rng *rng, struct delta_error *err)
{
    const double smoothing = trainer->options->label_smoothing;
    const size_t classes = learner_net_class_count(trainer->net);
    const double share =
        learner_augment_load(&trainer->augment, learner_net_input(trainer->net), index, n, rng);
    enum delta_status st;

    for (size_t i = 0; i < n; i++) {
        trainer->labels[i] = trainer->outputs[index[i]];
        trainer->others[i] = trainer->outputs[index[n - 1 - i]];
    }
    st = learner_net_forward(trainer->net, n, LEARNER_TRAIN, err);
    if (st)
        return st;
    const double loss =
        learner_loss_soft(learner_net_logits(trainer->net), trainer->labels,
                          share < 1 ? trainer->others : NULL, share, smoothing, n, classes,
                          (double)n / (double)whole, learner_net_logits_grad(trainer->net));
    if (!(loss - loss == 0))
        return delta_fail(err, DELTA_NONFINITE, "the loss is not a finite number");
    trainer->loss_sum += loss * (double)n;
    trainer->correct += (double)count_correct(trainer->net, trainer->labels, n);
    trainer->seen += n;
    return learner_net_backward(trainer->net, n, err);
}

enum delta_status learner_train_step(struct trainer *trainer, const uint32_t *index, size_t n,
                                     double lr, struct delta_error *err)
{
    const size_t passes = learner_gather_passes(n, trainer->micro);
    struct learner_rng rng;
    enum delta_status st = DELTA_OK;

    learner_rng_init(&rng, trainer->budget->seed,
                     STREAM_AUGMENT + ((uint64_t)trainer->status.step << 8));
    for (size_t i = 0; !st && i < passes; i++) {
        /* of nearly equal size: batch statistics of a few images left over are noise */
        const size_t first = n * i / passes, end = n * (i + 1) / passes;
        st = run_pass(trainer, index + first, end - first, n, &rng, err);
        if (!st && passes > 1)
            learner_gather(trainer->net, trainer->sum, i == 0, i + 1 == passes);
    }
    if (!st)
        st = check_gradients(trainer->net, err);
    if (st)
        return st;
    learner_sgd_step(trainer->sgd, lr);
    trainer->status.step++;
    learner_train_average(trainer);
    return DELTA_OK;
}

enum delta_status learner_train_test(struct trainer *trainer, struct delta_error *err)
{
    size_t correct = 0;
    enum delta_status st = DELTA_OK;

    if (!trainer->held_count)
        return DELTA_OK;
    learner_train_swap(trainer);
    for (size_t at = 0; !st && at < trainer->held_count; at += trainer->micro) {
        const size_t left = trainer->held_count - at;
        const size_t n = left < trainer->micro ? left : trainer->micro;
        learner_samples_batch(learner_net_input(trainer->net), trainer->samples,
                              &trainer->model->arch, trainer->held + at, n, NULL);
        for (size_t i = 0; i < n; i++)
            trainer->labels[i] = trainer->outputs[trainer->held[at + i]];
        st = learner_net_forward(trainer->net, n, LEARNER_INFER, err);
        if (!st)
            correct += count_correct(trainer->net, trainer->labels, n);
    }
    learner_train_swap(trainer);
    trainer->status.held_out = (double)correct / (double)trainer->held_count;
    return st;
}
