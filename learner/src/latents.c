#include "latents.h"

#include <stdlib.h>
#include <string.h>

#include "arch.h"
#include "feed.h"
#include "graph.h"
#include "importance.h"
#include "net_device.h"

void learner_latents_release(struct learner_latents *latents)
{
    free(latents->rows);
    *latents = (struct learner_latents){.values = 0};
}

/* ---- bfloat16: the upper half of a float32 ---- */

/* To the nearest, ties to even; the largest finite one instead of infinity. */
static uint16_t to_bf16(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    const bool over = (rounded & 0x7f800000) == 0x7f800000;
    return (uint16_t)((over ? bits : rounded) >> 16);
}

static float from_bf16(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

void learner_latents_read(float *to, const struct learner_latents *latents, size_t i)
{
    const uint16_t *row = latents->rows + i * latents->values;

    for (size_t k = 0; k < latents->values; k++)
        to[k] = from_bf16(row[k]);
}

/* ---- which layers made them ---- */

static bool belongs(const char *tensor, const char *layer)
{
    const size_t len = strlen(layer);

    return len && strncmp(tensor, layer, len) == 0 && tensor[len] == '.';
}

static bool is_below(const struct learner_layers *all, size_t layers, const char *tensor)
{
    for (size_t l = 0; l < layers && l < all->count; l++)
        if (belongs(tensor, all->items[l].name) || belongs(tensor, all->items[l].norm))
            return true;
    return false;
}

/* Name of the first layers: their tensors and the architecture. */
static enum delta_status digest_below(struct delta_digest *out, const struct delta_model *model,
                                      size_t layers, struct delta_error *err)
{
    struct learner_layers *all = delta_calloc(1, sizeof *all);
    struct delta_model below = {.arch = model->arch,
                                .tensors =
                                    delta_calloc(model->tensor_count + 1, sizeof *below.tensors)};
    enum delta_status st =
        all && below.tensors ? DELTA_OK : delta_fail(err, DELTA_NO_MEMORY, "out of memory");

    if (!st)
        st = learner_arch_layers(all, &model->arch, model->class_count, err);
    for (size_t i = 0; !st && i < model->tensor_count; i++) {
        if (!is_below(all, layers, model->tensors[i].name))
            continue;
        below.tensors[below.tensor_count] = model->tensors[i]; /* shares everything */
        below.tensors[below.tensor_count++].freeze =
            (struct delta_freeze){DELTA_FREEZE_LIVE, NULL, 0};
    }
    if (!st)
        st = delta_model_digest(&below, out, err);
    free(below.tensors);
    free(all);
    return st;
}

bool learner_latents_fit(const struct learner_latents *latents, size_t count,
                         const struct delta_model *model, size_t layers, size_t values)
{
    struct delta_digest below;

    return latents->values && latents->values == values && latents->layers == layers &&
           latents->count == count && digest_below(&below, model, layers, NULL) == DELTA_OK &&
           delta_digest_equal(&below, &latents->below);
}

/* ---- making and using them ---- */

/* What freezes all below the layers that our method lets learn. */
static enum delta_status make_plan(struct delta_model *plan, const struct delta_model *model,
                                   struct delta_error *err)
{
    const enum delta_status st = delta_model_copy(plan, model, err);

    return st ? st : learner_plan_confine(plan, LEARNER_LAST_BLOCK, err);
}

static struct learner_net_options net_options(const struct delta_model *plan,
                                              const struct learner_budget *budget, size_t images)
{
    return (struct learner_net_options){.device = budget ? budget->device : NULL,
                                        .batch = images,
                                        .threads = budget ? budget->threads : 0,
                                        .train = true,
                                        .plan = plan};
}

/* The network whose prefix ends where our method's live layers begin. */
static enum delta_status open_net(struct learner_net **out, const struct delta_model *model,
                                  const struct learner_budget *budget, size_t images,
                                  struct delta_error *err)
{
    struct delta_model plan = DELTA_MODEL_INIT;
    const size_t most = learner_budget_images(budget, images);
    const struct learner_net_options options =
        net_options(&plan, budget, most < LEARNER_VIEWS_MAX ? most : LEARNER_VIEWS_MAX);
    enum delta_status st = make_plan(&plan, model, err);

    if (!st)
        st = learner_net_new(out, model, &options, err);
    delta_model_release(&plan);
    return st;
}

struct need {
    const struct delta_model *model, *plan;
    const struct learner_budget *budget;
    size_t count;
};

static enum delta_status need_memory(void *context, size_t images, size_t *bytes,
                                     struct delta_error *err)
{
    const struct need *need = context;
    const struct learner_net_options options = net_options(need->plan, need->budget, images);
    size_t values;
    const enum delta_status st = learner_net_plan_bytes(bytes, &values, need->model, &options, err);

    *bytes += values * (need->count * sizeof(uint16_t) + images * sizeof(float));
    return st;
}

/* false: not within the budget's memory, which is no failure: none are kept then. */
static enum delta_status fits_memory(bool *fits, struct learner_budget *out,
                                     const struct delta_model *model,
                                     const struct learner_budget *budget, size_t count,
                                     struct delta_error *err)
{
    struct delta_model plan = DELTA_MODEL_INIT;
    struct need need = {model, &plan, budget, count};
    struct learner_budget again = budget ? *budget : (struct learner_budget){0};
    struct delta_error why = DELTA_ERROR_INIT;
    enum delta_status st = make_plan(&plan, model, err);

    again.at_once = 0; /* what was planned was planned for something else */
    if (!st) {
        st = learner_budget_plan(out, &again, "latents", LEARNER_AT_ONCE, 1, need_memory, &need,
                                 &why);
        *fits = !st;
        if (st == DELTA_NO_MEMORY)
            st = DELTA_OK;
        else if (st && err)
            *err = why;
    }
    delta_model_release(&plan);
    return st;
}

/* A pass over images `at` and following; their rows are filled. */
static enum delta_status make_rows(struct learner_latents *to, struct learner_net *net,
                                   struct learner_feed *feed, float *records, size_t at, size_t n,
                                   struct delta_error *err)
{
    uint32_t index[LEARNER_VIEWS_MAX] = {0};

    for (size_t i = 0; i < n; i++)
        index[i] = (uint32_t)(at + i);
    learner_feed_load(feed, index, n);
    const enum delta_status st = learner_net_forward(net, n, LEARNER_TRAIN_EVAL, err);
    if (st)
        return st;
    learner_net_prefix_read(net, records, n);
    for (size_t k = 0; k < n * to->values; k++)
        to->rows[at * to->values + k] = to_bf16(records[k]);
    return DELTA_OK;
}

enum delta_status learner_exemplars_keep_latents(struct learner_exemplars *exemplars,
                                                 const struct delta_model *model,
                                                 const struct learner_budget *budget,
                                                 struct delta_error *err)
{
    const struct learner_samples *replay = &exemplars->replay;
    struct learner_latents made = {.count = replay->count};
    struct learner_net *net = NULL;
    struct learner_feed feed = {.net = NULL};
    struct learner_budget within = {0};
    float *records = NULL;
    size_t bytes = 0;
    bool fits = false;

    learner_latents_release(&exemplars->latents);
    if (!replay->count)
        return DELTA_OK;
    enum delta_status st = learner_samples_check(replay, &model->arch, err);
    if (!st)
        st = fits_memory(&fits, &within, model, budget, replay->count, err);
    if (!st && fits)
        st = open_net(&net, model, &within, replay->count, err);
    if (st || !fits)
        goto done;
    made.values = learner_net_prefix_count(net);
    made.layers = learner_net_prefix_layers(net);
    if (!made.values || made.values > LEARNER_LATENT_VALUES_MAX ||
        !delta_size_mul(made.count, made.values * sizeof *made.rows, &bytes) ||
        bytes > LEARNER_LATENT_BYTES_MAX)
        goto done;
    st = digest_below(&made.below, model, made.layers, err);
    made.rows = delta_calloc(bytes, 1);
    records = delta_calloc(learner_net_batch(net) * made.values, sizeof *records);
    if (!st && (!made.rows || !records))
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for latents");
    learner_feed_init(&feed, net, replay, &model->arch, false);
    for (size_t at = 0; !st && at < made.count; at += learner_net_batch(net)) {
        const size_t left = made.count - at, batch = learner_net_batch(net);
        const size_t n = left < batch ? left : batch;
        st = make_rows(&made, net, &feed, records, at, n, err);
        if (!st)
            st = learner_budget_tick(budget, "latents", (double)(at + n), (double)made.count, err);
    }
    if (!st) {
        exemplars->latents = made;
        made.rows = NULL;
    }
done:
    free(made.rows);
    free(records);
    learner_feed_release(&feed);
    learner_net_free(net);
    return st;
}

static enum delta_status embed_rows(struct learner_embedding *to, struct learner_net *net,
                                    const struct learner_latents *latents, float *records,
                                    size_t at, size_t n, struct delta_error *err)
{
    const float *each[LEARNER_VIEWS_MAX];

    for (size_t i = 0; i < n; i++) {
        learner_latents_read(records + i * latents->values, latents, at + i);
        each[i] = records + i * latents->values;
    }
    const enum delta_status st = learner_net_forward_from(net, each, n, LEARNER_TRAIN_EVAL, err);
    if (st)
        return st;
    memcpy(to->features + at * to->d, learner_net_features(net), n * to->d * sizeof(float));
    memcpy(to->logits + at * to->classes, learner_net_logits(net), n * to->classes * sizeof(float));
    return DELTA_OK;
}

enum delta_status learner_latents_embed(struct learner_embedding *out,
                                        const struct learner_exemplars *exemplars,
                                        const struct delta_model *model,
                                        const struct learner_budget *budget,
                                        struct delta_error *err)
{
    const struct learner_latents *latents = &exemplars->latents;
    struct learner_embedding made = {.count = latents->count};
    struct learner_net *net = NULL;
    float *records = NULL;

    if (!latents->count)
        return DELTA_OK;
    enum delta_status st = open_net(&net, model, budget, latents->count, err);
    if (st || !learner_latents_fit(latents, exemplars->replay.count, model,
                                   learner_net_prefix_layers(net), learner_net_prefix_count(net)))
        goto done;
    made.d = learner_net_feature_count(net);
    made.classes = learner_net_class_count(net);
    made.features = delta_calloc(made.count * made.d + 1, sizeof *made.features);
    made.logits = delta_calloc(made.count * made.classes + 1, sizeof *made.logits);
    records = delta_calloc(learner_net_batch(net) * latents->values, sizeof *records);
    if (!made.features || !made.logits || !records)
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for features");
    for (size_t at = 0; !st && at < made.count; at += learner_net_batch(net)) {
        const size_t left = made.count - at, batch = learner_net_batch(net);
        const size_t n = left < batch ? left : batch;
        st = embed_rows(&made, net, latents, records, at, n, err);
        if (!st)
            st = learner_budget_tick(budget, "features", (double)(at + n), (double)made.count, err);
    }
    if (!st) {
        *out = made;
        made.features = made.logits = NULL;
    }
done:
    free(made.features);
    free(made.logits);
    free(records);
    learner_net_free(net);
    return st;
}

void learner_latents_append(struct learner_latents *latents, const struct learner_latents *more)
{
    size_t values, bytes;
    uint16_t *rows = NULL;

    if (!more->values) {
        learner_latents_release(latents);
        return;
    }
    if (!latents->values) {
        latents->values = more->values;
        latents->layers = more->layers;
        latents->below = more->below;
    }
    if (delta_size_mul(latents->count + more->count, latents->values, &values) &&
        delta_size_mul(values, sizeof *rows, &bytes) && bytes <= LEARNER_LATENT_BYTES_MAX)
        rows = realloc(latents->rows, bytes + 1);
    if (!rows) {
        learner_latents_release(latents);
        return;
    }
    memcpy(rows + latents->count * latents->values, more->rows,
           more->count * latents->values * sizeof *rows);
    latents->rows = rows;
    latents->count += more->count;
}
