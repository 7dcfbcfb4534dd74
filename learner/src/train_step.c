/* One step of a training run. */
#include "embed.h"
#include "gather.h"
#include "graph.h"
#include "net_device.h"
#include "trainer.h"

enum stream { STREAM_AUGMENT = 12 };

/* Gradients come from the back: the last layer that is wrong is where it began. */
static enum delta_status blame_gradient(struct learner_net *net, struct delta_error *err)
{
    for (size_t i = learner_net_param_count(net); i-- > 0;) {
        const struct learner_param *param = learner_net_param(net, i);
        if (param->grad && !learner_device_finite(net->device, param->grad, param->count))
            return delta_fail(err, DELTA_NONFINITE,
                              "the gradient of '%s' holds a number that is not finite",
                              param->name);
    }
    return DELTA_OK;
}

/* told: a device apart has looked at the gradients of the only pass there was */
static enum delta_status check_gradients(struct learner_net *net, const bool *told,
                                         struct delta_error *err)
{
    const bool apart = net->device->ops->remote != NULL;

    if (apart && (told ? *told : learner_device_finite(net->device, net->grads, net->grad_count)))
        return told ? DELTA_OK : learner_device_sync(net->device, err);
    return blame_gradient(net, err);
}

static size_t count_correct(const struct learner_net *net, const int32_t *labels, size_t n)
{
    const size_t classes = learner_net_class_count(net);
    const float *logits = learner_net_logits(net);
    size_t correct = 0;

    for (size_t i = 0; i < n; i++)
        correct += learner_best_of(logits + i * classes, classes) == (size_t)labels[i];
    return correct;
}

/* One pass over n of the step's `whole` images. */
static enum delta_status run_pass(struct trainer *trainer, const uint32_t *index, size_t n,
                                  size_t whole, struct learner_rng *rng, bool *grads_finite,
                                  struct delta_error *err)
{
    struct learner_augment *augment = &trainer->augment;
    float *input = augment->feed ? NULL : learner_net_input(trainer->net);
    const double share = learner_augment_load(augment, input, index, n, rng);
    struct learner_outcome outcome;
    enum delta_status st;

    for (size_t i = 0; i < n; i++) {
        trainer->labels[i] = trainer->outputs[index[i]];
        trainer->others[i] = trainer->outputs[index[n - 1 - i]];
    }
    const struct learner_loss loss = {.labels = trainer->labels,
                                      .soft = true,
                                      .others = share < 1 ? trainer->others : NULL,
                                      .share = share,
                                      .smoothing = trainer->options->label_smoothing,
                                      .scale = (double)n / (double)whole};
    st = learner_net_forward_begin(trainer->net, n, LEARNER_TRAIN, err);
    if (!st)
        st = learner_net_learn(trainer->net, &loss, n, &outcome, err);
    if (st)
        return st;
    const struct learner_loss_sum *sum = &outcome.sum;
    if (!(sum->loss - sum->loss == 0))
        return delta_fail(err, DELTA_NONFINITE, "the loss is not a finite number");
    trainer->loss_sum += sum->loss * (double)n;
    trainer->correct += (double)sum->correct;
    trainer->seen += n;
    *grads_finite = outcome.grads_finite;
    return DELTA_OK;
}

enum delta_status learner_train_step(struct trainer *trainer, const uint32_t *index, size_t n,
                                     double lr, struct delta_error *err)
{
    const size_t passes = learner_gather_passes(n, trainer->micro);
    struct learner_rng rng;
    bool grads_finite = true;
    enum delta_status st = DELTA_OK;

    learner_rng_init(&rng, trainer->budget->seed,
                     STREAM_AUGMENT + ((uint64_t)trainer->status.step << 8));
    for (size_t i = 0; !st && i < passes; i++) {
        /* of nearly equal size: batch statistics of a few images left over are noise */
        const size_t first = n * i / passes, end = n * (i + 1) / passes;
        st = run_pass(trainer, index + first, end - first, n, &rng, &grads_finite, err);
        if (!st && passes > 1)
            learner_gather(trainer->net, trainer->sum, i == 0, i + 1 == passes);
    }
    if (!st)
        st = check_gradients(trainer->net, passes > 1 ? NULL : &grads_finite, err);
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
        learner_feed_load(&trainer->feed, trainer->held + at, n);
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
