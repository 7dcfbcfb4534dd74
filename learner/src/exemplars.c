#include "learner/exemplars.h"

#include <stdlib.h>
#include <string.h>

#include "budget.h"
#include "embed.h"
#include "exemplar_features.h"
#include "herding.h"
#include "holdout.h"
#include "latents.h"
#include "sources.h"

void learner_exemplars_release(struct learner_exemplars *exemplars)
{
    if (!exemplars)
        return;
    learner_samples_release(&exemplars->replay);
    learner_samples_release(&exemplars->probe);
    learner_features_release(&exemplars->features);
    learner_latents_release(&exemplars->latents);
}

size_t learner_exemplars_bytes(const struct learner_exemplars *exemplars)
{
    const struct learner_features *features = &exemplars->features;
    const struct learner_latents *latents = &exemplars->latents;

    return learner_samples_bytes(&exemplars->replay) + learner_samples_bytes(&exemplars->probe) +
           (features->replay_count + features->probe_count) * features->d * sizeof(float) +
           latents->count * latents->values * sizeof *latents->rows;
}

enum use { UNUSED, REPLAY, PROBE };

/* How many of a class's images to replay when there are too few for both wishes: the probe keeps
 * its share, at least one of two. */
static size_t replay_share(size_t count, size_t replay, size_t probe)
{
    if (count >= replay + probe)
        return replay;
    size_t keep = replay + probe ? count * probe / (replay + probe) : 0;

    if (keep == 0 && probe && count > 1)
        keep = 1;
    return count - keep < replay ? count - keep : replay;
}

/* Chooses within one class: index[0..count-1] are candidates for replay; returns them herded
 * first. */
static enum delta_status herd_class(uint32_t *order, size_t *rank, uint8_t *use,
                                    const uint32_t *index, size_t count, size_t wanted,
                                    const struct learner_embedding *embedding,
                                    struct delta_error *err)
{
    const size_t d = embedding->d;
    float *rows = delta_calloc(count * d + 1, sizeof *rows);
    uint32_t *chosen = delta_calloc(wanted + 1, sizeof *chosen);
    enum delta_status st;

    if (!rows || !chosen) {
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for choosing exemplars");
        goto done;
    }
    for (size_t i = 0; i < count; i++)
        memcpy(rows + i * d, embedding->features + index[i] * d, d * sizeof *rows);
    st = learner_herd(chosen, wanted, rows, count, d, err);
    for (size_t i = 0; !st && i < wanted; i++) {
        use[index[chosen[i]]] = REPLAY;
        order[(*rank)++] = index[chosen[i]];
    }
done:
    free(rows);
    free(chosen);
    return st;
}

/* Copies the images order[0..count-1]. */
static enum delta_status gather(struct learner_samples *out, const struct learner_samples *from,
                                const uint32_t *order, size_t count, struct delta_error *err)
{
    const size_t image = learner_samples_image_bytes(from);
    const enum delta_status st = learner_samples_reserve(
        out, from->channels, from->height, from->width, count, from->class_count, err);

    if (st)
        return st;
    memcpy(out->classes, from->classes, from->class_count * sizeof *out->classes);
    for (size_t i = 0; i < count; i++) {
        memcpy(out->pixels + i * image, from->pixels + order[i] * image, image);
        out->labels[i] = from->labels[order[i]];
    }
    return DELTA_OK;
}

/* Copies the features of the images order[0..count-1]. */
static enum delta_status gather_features(float **out, const struct learner_embedding *embedding,
                                         const uint32_t *order, size_t count,
                                         struct delta_error *err)
{
    const size_t d = embedding->d;

    *out = delta_calloc(count * d + 1, sizeof **out); /* the embedding has more */
    if (!*out)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for features");
    for (size_t i = 0; i < count; i++)
        memcpy(*out + i * d, embedding->features + order[i] * d, d * sizeof **out);
    return DELTA_OK;
}

struct wishes {
    size_t replay, probe;
    uint64_t seed;
    const bool *held; /* NULL, or: probes come from these and replay from the others */
    const struct learner_budget *budget; /* NULL: defaults */
};

static enum delta_status choose_class(uint32_t *replay, size_t *replays, uint32_t *probe,
                                      size_t *probes, uint8_t *use, uint32_t *index, size_t k,
                                      const struct learner_samples *from,
                                      const struct learner_embedding *embedding,
                                      const struct wishes *wishes, struct delta_error *err)
{
    struct learner_rng rng = learner_class_rng(wishes->seed, &from->classes[k]);
    size_t count = 0, rest = 0;

    for (size_t i = 0; i < from->count; i++)
        if (from->labels[i] == (int32_t)k && !(wishes->held && wishes->held[i]))
            index[count++] = (uint32_t)i;
    const size_t wanted = wishes->held ? (count < wishes->replay ? count : wishes->replay)
                                       : replay_share(count, wishes->replay, wishes->probe);
    const enum delta_status st =
        herd_class(replay, replays, use, index, count, wanted, embedding, err);
    if (st)
        return st;
    for (size_t i = 0; i < from->count; i++)
        if (from->labels[i] == (int32_t)k && use[i] == UNUSED && (!wishes->held || wishes->held[i]))
            index[rest++] = (uint32_t)i;
    learner_rng_shuffle(&rng, index, rest);
    for (size_t i = 0; i < rest && i < wishes->probe; i++)
        probe[(*probes)++] = index[i];
    return DELTA_OK;
}

struct need {
    const struct delta_model *model;
    const struct learner_samples *from;
    const struct wishes *wishes;
};

/* Features of all, then the network, or the copies that are made after it. */
static enum delta_status need_memory(void *context, size_t images, size_t *bytes,
                                     struct delta_error *err)
{
    const struct need *need = context;
    const struct learner_samples *from = need->from;
    const size_t each = from->count ? learner_samples_bytes(from) / from->count : 0;
    size_t chosen, net = 0;
    struct delta_tensor *weight, *bias;
    enum delta_status st = delta_model_head(need->model, &weight, &bias, err);

    if (!st)
        st = learner_budget_net(&net, need->model, need->wishes->budget, images, false, err);
    if (st)
        return st;
    if (!delta_size_mul(from->class_count, need->wishes->replay + need->wishes->probe, &chosen) ||
        chosen > from->count)
        chosen = from->count;
    *bytes = from->count *
             ((weight->count + bias->count) / bias->count * sizeof(float) + sizeof(uint32_t));
    *bytes += net > chosen * each ? net : chosen * each;
    return DELTA_OK;
}

static enum delta_status choose(struct learner_exemplars *out, const struct delta_model *model,
                                const struct learner_samples *from, const struct wishes *wishes,
                                struct delta_error *err)
{
    uint32_t *replay = delta_calloc(from->count + 1, sizeof *replay);
    uint32_t *probe = delta_calloc(from->count + 1, sizeof *probe);
    uint32_t *index = delta_calloc(from->count + 1, sizeof *index);
    uint8_t *use = delta_calloc(from->count + 1, 1);
    struct learner_embedding embedding = {0, 0, 0, NULL, NULL};
    struct need need = {model, from, wishes};
    struct learner_budget plan = {0};
    struct learner_exemplars made = LEARNER_EXEMPLARS_INIT;
    size_t replays = 0, probes = 0;
    enum delta_status st;

    if (!replay || !probe || !index || !use) {
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for choosing exemplars");
        goto done;
    }
    st = learner_budget_plan(&plan, wishes->budget, "choosing exemplars",
                             learner_budget_images(wishes->budget, from->count), 1, need_memory,
                             &need, err);
    if (!st)
        st = learner_embed(&embedding, model, from, &plan, "features", err);
    for (size_t k = 0; !st && k < from->class_count; k++)
        st = choose_class(replay, &replays, probe, &probes, use, index, k, from, &embedding, wishes,
                          err);
    if (!st)
        st = gather(&made.replay, from, replay, replays, err);
    if (!st)
        st = gather(&made.probe, from, probe, probes, err);
    if (!st)
        st = learner_body_digest(&made.features.body, model, err);
    made.features.d = embedding.d;
    made.features.replay_count = replays;
    made.features.probe_count = probes;
    if (!st)
        st = gather_features(&made.features.replay, &embedding, replay, replays, err);
    if (!st)
        st = gather_features(&made.features.probe, &embedding, probe, probes, err);
    if (!st) {
        *out = made;
        made = (struct learner_exemplars)LEARNER_EXEMPLARS_INIT;
    }
done:
    learner_exemplars_release(&made);
    learner_embedding_release(&embedding);
    free(replay);
    free(probe);
    free(index);
    free(use);
    return st;
}

enum delta_status learner_exemplars_choose(struct learner_exemplars *out,
                                           const struct delta_model *model,
                                           const struct learner_samples *from, size_t per_class,
                                           size_t probe_per_class, uint64_t seed,
                                           struct delta_error *err)
{
    const struct wishes wishes = {per_class, probe_per_class, seed, NULL, NULL};

    return choose(out, model, from, &wishes, err);
}

enum delta_status learner_exemplars_choose_within(struct learner_exemplars *out,
                                                  const struct delta_model *model,
                                                  const struct learner_samples *from,
                                                  size_t per_class, size_t probe_per_class,
                                                  const struct learner_budget *budget,
                                                  struct delta_error *err)
{
    const struct wishes wishes = {per_class, probe_per_class, budget ? budget->seed : 0, NULL,
                                  budget};

    return choose(out, model, from, &wishes, err);
}

/* Latents of what was appended: its own behind the others, or all anew where the layers below
 * moved. */
static enum delta_status add_latents(struct learner_exemplars *exemplars,
                                     struct learner_exemplars *fresh,
                                     const struct delta_model *model, struct delta_error *err)
{
    struct learner_latents *latents = &exemplars->latents;
    enum delta_status st = learner_exemplars_keep_latents(fresh, model, NULL, err);

    if (st)
        return st;
    if (!latents->values ||
        (latents->layers == fresh->latents.layers && latents->values == fresh->latents.values &&
         delta_digest_equal(&latents->below, &fresh->latents.below))) {
        learner_latents_append(latents, &fresh->latents);
        return DELTA_OK;
    }
    return learner_exemplars_keep_latents(exemplars, model, NULL, err);
}

enum delta_status learner_exemplars_add(struct learner_exemplars *exemplars,
                                        const struct delta_model *model,
                                        const struct learner_samples *samples, size_t per_class,
                                        size_t probe_per_class, uint64_t seed,
                                        struct delta_error *err)
{
    const bool none = exemplars->replay.count == 0 && exemplars->probe.count == 0;
    const bool known = none || learner_exemplars_features(exemplars, model);
    const bool latent = none || exemplars->latents.values;
    struct learner_exemplars fresh = LEARNER_EXEMPLARS_INIT;
    bool *held = delta_calloc(samples->count + 1, sizeof *held);
    enum delta_status st;

    if (!held)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    st = learner_holdout(held, samples, seed, err);
    if (!st) {
        const struct wishes wishes = {per_class, probe_per_class, seed, held, NULL};
        st = choose(&fresh, model, samples, &wishes, err);
    }
    if (!st)
        st = learner_samples_append(&exemplars->replay, &fresh.replay, err);
    if (!st)
        st = learner_samples_append(&exemplars->probe, &fresh.probe, err);
    if (!st && latent)
        st = add_latents(exemplars, &fresh, model, err);
    if (!st)
        st = known ? learner_features_append(&exemplars->features, &fresh.features, err)
                   : learner_features_make(exemplars, model, NULL, err);
    learner_exemplars_release(&fresh);
    free(held);
    return st;
}
