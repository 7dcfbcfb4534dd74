#include "exemplar_features.h"

#include <stdlib.h>
#include <string.h>

#include "embed.h"
#include "latents.h"

void learner_features_release(struct learner_features *features)
{
    free(features->replay);
    free(features->probe);
    *features = (struct learner_features){.d = 0};
}

/* The model without its classifier, classes and plan; shares everything with it. free() tensors. */
static enum delta_status strip(struct delta_model *body, const struct delta_model *model,
                               struct delta_error *err)
{
    struct delta_tensor *weight, *bias;
    const enum delta_status st = delta_model_head(model, &weight, &bias, err);

    if (st)
        return st;
    *body = (struct delta_model){
        .arch = model->arch, .tensors = delta_calloc(model->tensor_count, sizeof *body->tensors)};
    if (!body->tensors)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct delta_tensor *tensor = &model->tensors[i];
        if (tensor == weight || tensor == bias)
            continue;
        body->tensors[body->tensor_count] = *tensor;
        body->tensors[body->tensor_count++].freeze =
            (struct delta_freeze){DELTA_FREEZE_LIVE, NULL, 0};
    }
    return DELTA_OK;
}

enum delta_status learner_body_digest(struct delta_digest *out, const struct delta_model *model,
                                      struct delta_error *err)
{
    struct delta_model body;
    enum delta_status st = strip(&body, model, err);

    if (st)
        return st;
    st = delta_model_digest(&body, out, err);
    free(body.tensors);
    return st;
}

bool learner_same_body(const struct delta_model *a, const struct delta_model *b)
{
    struct delta_tensor *weight, *bias;

    if (memcmp(&a->arch, &b->arch, sizeof a->arch) != 0 || a->tensor_count != b->tensor_count ||
        delta_model_head(a, &weight, &bias, NULL))
        return false;
    for (size_t i = 0; i < a->tensor_count; i++) {
        const struct delta_tensor *one = &a->tensors[i], *other = delta_model_find(b, one->name);
        if (one == weight || one == bias)
            continue;
        if (!other || other->count != one->count ||
            memcmp(one->data, other->data, one->count * sizeof *one->data) != 0)
            return false;
    }
    return true;
}

enum delta_status learner_features_make(struct learner_exemplars *exemplars,
                                        const struct delta_model *model,
                                        const struct learner_budget *budget,
                                        struct delta_error *err)
{
    struct learner_embedding replay = {0, 0, 0, NULL, NULL}, probe = {0, 0, 0, NULL, NULL};
    struct learner_features *features = &exemplars->features;
    struct delta_digest body;
    enum delta_status st = learner_body_digest(&body, model, err);

    learner_features_release(features);
    if (!st)
        st = learner_latents_embed(&replay, exemplars, model, budget, err);
    if (!st && exemplars->replay.count && !replay.count)
        st = learner_embed(&replay, model, &exemplars->replay, budget, "features", err);
    if (!st && exemplars->probe.count)
        st = learner_embed(&probe, model, &exemplars->probe, budget, "features", err);
    if (!st) {
        *features = (struct learner_features){.body = body,
                                              .d = replay.count ? replay.d : probe.d,
                                              .replay_count = replay.count,
                                              .probe_count = probe.count,
                                              .replay = replay.features,
                                              .probe = probe.features};
        replay.features = probe.features = NULL;
    }
    learner_embedding_release(&replay);
    learner_embedding_release(&probe);
    return st;
}

static enum delta_status append(float **to, size_t *count, const float *more, size_t more_count,
                                size_t d, struct delta_error *err)
{
    size_t values, bytes;
    float *rows = NULL;

    if (delta_size_mul(*count + more_count, d, &values) &&
        delta_size_mul(values, sizeof *rows, &bytes))
        rows = realloc(*to, bytes + 1);
    if (!rows)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for features");
    if (more_count)
        memcpy(rows + *count * d, more, more_count * d * sizeof *rows);
    *to = rows;
    *count += more_count;
    return DELTA_OK;
}

enum delta_status learner_features_append(struct learner_features *features,
                                          const struct learner_features *more,
                                          struct delta_error *err)
{
    enum delta_status st;

    if (features->d == 0) {
        features->d = more->d;
        features->body = more->body;
    }
    st = append(&features->replay, &features->replay_count, more->replay, more->replay_count,
                features->d, err);
    if (!st)
        st = append(&features->probe, &features->probe_count, more->probe, more->probe_count,
                    features->d, err);
    if (st)
        learner_features_release(features);
    return st;
}

enum delta_status learner_features_logits(float *logits, const float *features, size_t count,
                                          size_t d, const struct delta_model *model,
                                          struct delta_error *err)
{
    struct delta_tensor *weight, *bias;
    const enum delta_status st = delta_model_head(model, &weight, &bias, err);

    if (st)
        return st;
    const size_t classes = bias->count;
    if (weight->count != classes * d)
        return delta_fail(err, DELTA_MISMATCH, "features of %zu values, the classifier takes %zu",
                          d, weight->count / classes);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < classes; k++) {
            double sum = bias->data[k];
            for (size_t j = 0; j < d; j++)
                sum += (double)features[i * d + j] * weight->data[k * d + j];
            logits[i * classes + k] = (float)sum;
        }
    return DELTA_OK;
}

const struct learner_features *learner_exemplars_features(const struct learner_exemplars *exemplars,
                                                          const struct delta_model *model)
{
    const struct learner_features *features = &exemplars->features;
    struct delta_tensor *weight, *bias;
    struct delta_digest body;

    if (features->d == 0 || delta_model_head(model, &weight, &bias, NULL) ||
        weight->count != bias->count * features->d ||
        features->replay_count != exemplars->replay.count ||
        features->probe_count != exemplars->probe.count || learner_body_digest(&body, model, NULL))
        return NULL;
    return delta_digest_equal(&body, &features->body) ? features : NULL;
}
