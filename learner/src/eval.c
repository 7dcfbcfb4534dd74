/* Accuracy of a model on labelled images. */
#include <stdlib.h>

#include "delta/clock.h"
#include "embed.h"
#include "learner/learn.h"

#define BATCH 64

void learner_scores_release(struct learner_scores *scores)
{
    if (!scores)
        return;
    free(scores->classes);
    *scores = (struct learner_scores){0};
}

static size_t best_of(const float *logits, size_t classes)
{
    size_t best = 0;

    for (size_t k = 1; k < classes; k++)
        if (logits[k] > logits[best])
            best = k;
    return best;
}

static void count_batch(struct learner_scores *scores, const struct learner_net *net,
                        const int32_t *outputs, size_t n)
{
    const float *logits = learner_net_logits(net);

    for (size_t i = 0; i < n; i++) {
        scores->images++;
        if (outputs[i] < 0) /* a class the model lacks: wrong, whatever it says */
            continue;
        const bool correct =
            best_of(logits + i * scores->class_count, scores->class_count) == (size_t)outputs[i];
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
    enum delta_status st = DELTA_OK;
    uint32_t index[BATCH];

    for (size_t at = 0; !st && at < samples->count; at += BATCH) {
        const size_t n = samples->count - at < BATCH ? samples->count - at : BATCH;
        for (size_t i = 0; i < n; i++)
            index[i] = (uint32_t)(at + i);
        learner_samples_batch(learner_net_input(net), samples, arch, index, n, NULL);
        st = learner_net_forward(net, n, LEARNER_INFER, err);
        if (st)
            break;
        count_batch(scores, net, outputs + at, n);
        st = learner_budget_tick(budget, "evaluation", (double)(at + n), (double)samples->count,
                                 err);
    }
    return st;
}

enum delta_status learner_evaluate(struct learner_scores *out, const struct delta_model *model,
                                   const struct learner_samples *samples,
                                   const struct learner_budget *budget, struct delta_error *err)
{
    const struct delta_clock clock = delta_clock_system();
    const int64_t begin_ms = delta_clock_monotonic_ms(&clock);
    const struct learner_net_options options = {.device = budget ? budget->device : NULL,
                                                .batch = BATCH,
                                                .threads = budget ? budget->threads : 0};
    struct learner_scores scores = {.class_count = model->class_count};
    struct learner_net *net = NULL;
    int32_t *outputs = NULL;
    enum delta_status st = learner_samples_check(samples, &model->arch, err);

    if (st)
        goto done;
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
