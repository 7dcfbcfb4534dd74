/* Accuracy of a model on labelled images. */
#include <stdlib.h>

#include "delta/clock.h"
#include "embed.h"
#include "feed.h"
#include "learner/learn.h"

void learner_scores_release(struct learner_scores *scores)
{
    if (!scores)
        return;
    free(scores->classes);
    *scores = (struct learner_scores){0};
}

static void count_batch(struct learner_scores *scores, const struct learner_net *net,
                        const int32_t *outputs, size_t n)
{
    const float *logits = learner_net_logits(net);

    for (size_t i = 0; i < n; i++) {
        scores->images++;
        if (outputs[i] < 0) /* a class the model lacks: wrong, whatever it says */
            continue;
        const bool correct = learner_best_of(logits + i * scores->class_count,
                                             scores->class_count) == (size_t)outputs[i];
        scores->correct += correct;
        scores->classes[outputs[i]].images++;
        scores->classes[outputs[i]].correct += correct;
    }
}

static enum delta_status classify_all(struct learner_scores *scores, struct learner_net *net,
                                      const struct delta_arch *arch,
                                      const struct learner_samples *samples, const int32_t *outputs,
                                      const struct learner_budget *budget, struct delta_error *err)
{
    const size_t batch = learner_net_batch(net);
    uint32_t *index = delta_calloc(batch, sizeof *index);
    struct learner_feed feed;
    enum delta_status st = DELTA_OK;

    if (!index)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for an evaluation");
    learner_feed_init(&feed, net, samples, arch, false);
    for (size_t at = 0; !st && at < samples->count; at += batch) {
        const size_t n = samples->count - at < batch ? samples->count - at : batch;
        for (size_t i = 0; i < n; i++)
            index[i] = (uint32_t)(at + i);
        learner_feed_load(&feed, index, n);
        st = learner_net_forward(net, n, LEARNER_INFER, err);
        if (st)
            break;
        count_batch(scores, net, outputs + at, n);
        st = learner_budget_tick(budget, "evaluation", (double)(at + n), (double)samples->count,
                                 err);
    }
    learner_feed_release(&feed);
    free(index);
    return st;
}

struct need {
    const struct delta_model *model;
    const struct learner_samples *samples;
    const struct learner_budget *budget;
};

static enum delta_status need_memory(void *context, size_t images, size_t *bytes,
                                     struct delta_error *err)
{
    const struct need *need = context;

    const enum delta_status st =
        learner_budget_net(bytes, need->model, need->budget, images, false, err);
    *bytes += need->samples->count * sizeof(int32_t);
    return st;
}

enum delta_status learner_evaluate(struct learner_scores *out, const struct delta_model *model,
                                   const struct learner_samples *samples,
                                   const struct learner_budget *budget, struct delta_error *err)
{
    const struct delta_clock clock = delta_clock_system();
    const int64_t begin_ms = delta_clock_monotonic_ms(&clock);
    struct need need = {model, samples, budget};
    struct learner_budget plan = {0};
    struct learner_scores scores = {.class_count = model->class_count};
    struct learner_net *net = NULL;
    int32_t *outputs = NULL;
    enum delta_status st = learner_samples_check(samples, &model->arch, err);

    if (!st)
        st = learner_budget_plan(&plan, budget, "evaluation",
                                 learner_budget_images(budget, samples->count), 1, need_memory,
                                 &need, err);
    if (st)
        goto done;
    const struct learner_net_options options = {.device = plan.device,
                                                .batch =
                                                    learner_budget_images(&plan, samples->count),
                                                .threads = plan.threads};
    outputs = learner_samples_outputs(samples, model);
    scores.classes = delta_calloc(model->class_count + 1, sizeof *scores.classes);
    if (!outputs || !scores.classes) {
        st = delta_fail(err, DELTA_NO_MEMORY, "no memory for an evaluation");
        goto done;
    }
    st = learner_net_new(&net, model, &options, err);
    if (!st)
        st = classify_all(&scores, net, &model->arch, samples, outputs, budget, err);
    if (st)
        goto done;
    scores.seconds = (double)(delta_clock_monotonic_ms(&clock) - begin_ms) / 1000;
    *out = scores;
    scores.classes = NULL;
done:
    learner_net_free(net);
    learner_scores_release(&scores);
    free(outputs);
    return st;
}
