/* Our method. A model is usable after the first stage; the guard (stage D) judges each.
 *
 * A   One forward pass; the new rows of the classifier are fitted on cached pooled features of new
 *     samples and exemplars by logit-adjusted cross-entropy (Menon et al. 2021) over the fixed old
 *     rows and the new ones, from imprinted rows (Qi et al. 2018). Convex. Rows so fitted on
 *     different devices can stand side by side.
 * B   The last block and the head learn, but for what the model's own plan freezes. What lies below
 *     does not move: A's forward pass keeps what it makes of each image. Logit-adjusted
 *     cross-entropy + distillation on the base's logits (Hinton et al. 2015); the weights' moving
 *     average counts, rounded to a grid that makes its delta small.
 *     The network has learned its exemplars by heart and unseen images lie nearer to the middle:
 *     A takes exemplars' features there, B their logits, else neither would resist new classes.
 * C   Off by default: all rows are refitted in the moved feature space, logit-adjusted, pulled
 *     towards where they are.
 *
 * Without exemplars there is nothing that keeps old classes in place: only A runs then. */
#include "budget.h"
#include "common.h"
#include "delta/clock.h"
#include "head_fit.h"
#include "head_rows.h"
#include "importance.h"
#include "tune.h"

#include <stdlib.h>
#include <string.h>

static bool has_stage(const struct learner_task *task, char stage)
{
    const char *stages = task->options->stages;

    return stage == 'A' || (stages && strchr(stages, stage));
}

/* Of the filters, where the model has no plan or the caller knows better. */
static double ratio_of(const struct learner_task *task)
{
    return task->options->ratio > 0 ? task->options->ratio : 0;
}

static const char *live_of(const struct learner_task *task)
{
    return task->options->live ? task->options->live : LEARNER_LAST_BLOCK;
}

static size_t views_of(const struct learner_task *task)
{
    return task->options->mirror ? 2 : 1;
}

/* When a fit must end so that the guard has its time: it classifies as fast as features came. */
static int64_t fit_until(const struct learner_task *task, size_t images, int64_t begun_ms)
{
    const struct delta_clock clock = delta_clock_system();
    const double each_ms =
        (double)(delta_clock_monotonic_ms(&clock) - begun_ms) / (double)(images + 1);
    const int64_t until_ms =
        task->budget->deadline_ms - (int64_t)(1.2 * each_ms * (double)task->guard_images);

    return task->budget->deadline_ms ? until_ms > 1 ? until_ms : 1 : 0;
}

static enum delta_status stage_a(struct learner_task *task, const struct learner_pool *pool,
                                 int64_t until_ms, struct delta_error *err)
{
    enum delta_status st = learner_rows_imprint(task, &pool->embedding, pool->labels, err);

    if (!st)
        st = learner_rows_fit(task, &pool->embedding, pool->labels, false, 0, until_ms, err);
    return st;
}

/* *plan: what is frozen while training. The model keeps its own plan, or gets the one made here. */
static enum delta_status make_plan(struct learner_task *task, struct delta_model *plan,
                                   struct delta_error *err)
{
    const struct learner_increment_options *options = task->options;
    const bool own = options->ratio < 0 && learner_has_plan(task->base);
    const char *live = live_of(task);
    const struct learner_plan_choice choice = {
        .ratio = ratio_of(task), .filters = true, .mask = options->mask, .live = live};
    struct delta_model base = DELTA_MODEL_INIT;
    enum delta_status st = delta_model_copy(&base, task->base, err);

    if (!st && !own) {
        st = learner_freeze_plan_by(&base, task->replay, &choice, task->budget, err);
        if (choice.ratio > 0 && (!options->mask || strcmp(options->mask, "importance") == 0))
            task->image_passes += (double)task->replay->count;
    }
    if (!st)
        st = learner_take_plan(task->model, &base, err);
    delta_model_release(&base);
    if (!st)
        st = delta_model_copy(plan, task->model, err);
    return st ? st : learner_plan_confine(plan, live, err);
}

static enum delta_status stage_b(struct learner_task *task, const struct learner_pool *pool,
                                 struct learner_prefix *prefix, struct learner_embedding *after,
                                 struct delta_error *err)
{
    const struct learner_increment_options *options = task->options;
    struct delta_model plan = DELTA_MODEL_INIT;
    float *level = delta_calloc(task->model->class_count + 1, sizeof *level);
    const struct learner_seen seen = {task->base->class_count, options->pull_tune, level};
    const struct learner_tune_phase phase = {.stage = "last block",
                                             .epochs = options->epochs_tune,
                                             .replay = true,
                                             .distil = options->kd_weight > 0,
                                             .plan = &plan,
                                             .balanced = options->balanced,
                                             .adjust = options->adjust,
                                             .seen = &seen,
                                             .ema = options->ema};
    const struct learner_tune_extra extra = {.known = &pool->embedding,
                                             .views = views_of(task),
                                             .after = has_stage(task, 'C') ? after : NULL,
                                             .prefix = prefix};
    enum delta_status st =
        level ? make_plan(task, &plan, err) : delta_fail(err, DELTA_NO_MEMORY, "out of memory");

    if (!st)
        st = learner_rows_level(level, task, &pool->embedding, pool->labels, err);
    if (!st)
        st = learner_tune_with(task, &phase, 1, &extra, err);
    delta_model_release(&plan);
    free(level);
    return st;
}

static enum delta_status check_pull(const char *name, double pull, struct delta_error *err)
{
    if (pull > 0 && pull <= 1)
        return DELTA_OK;
    return delta_fail(err, DELTA_CONFIG, "%s of %g is not above 0 and at most 1", name, pull);
}

static enum delta_status run(struct learner_task *task, struct delta_error *err)
{
    const struct delta_clock clock = delta_clock_system();
    const int64_t begun_ms = delta_clock_monotonic_ms(&clock);
    const bool more = task->replay->count && (has_stage(task, 'B') || has_stage(task, 'C'));
    struct learner_embedding after = {0, 0, 0, NULL, NULL};
    struct learner_pool pool = {.labels = NULL};
    const bool b = more && has_stage(task, 'B');
    struct learner_prefix prefix = {.cache = NULL};
    struct delta_model fixed = DELTA_MODEL_INIT; /* below the live layers: B's plan fits in */
    enum delta_status st = check_pull("pull", task->options->pull, err);

    if (!st)
        st = check_pull("pull-tune", task->options->pull_tune, err);
    if (!st && b)
        st = delta_model_copy(&fixed, task->base, err);
    if (!st && b)
        st = learner_plan_confine(&fixed, live_of(task), err);
    if (!st)
        st = learner_pool_embed(&pool, task, views_of(task), b ? &fixed : NULL, b ? &prefix : NULL,
                                err);
    delta_model_release(&fixed);
    if (st)
        return st;
    const int64_t until_ms = fit_until(task, pool.forwards, begun_ms);
    task->image_passes += (double)pool.forwards / 3;
    st = stage_a(task, &pool, until_ms, err);
    if (!st && more)
        st = learner_task_offer(task, "A", err);
    if (!st && b && !task->cut_short) {
        st = stage_b(task, &pool, &prefix, &after, err);
        if (!st)
            st = learner_task_offer(task, "AB", err);
    }
    if (!st && more && has_stage(task, 'C') && !task->cut_short) {
        st = learner_rows_fit(task, after.count ? &after : &pool.embedding, pool.labels, true,
                              task->options->anchor, until_ms, err);
        if (!st)
            st = learner_task_offer(task, has_stage(task, 'B') ? "ABC" : "AC", err);
    }
    learner_prefix_release(&prefix);
    learner_embedding_release(&after);
    learner_pool_release(&pool);
    return st;
}

/* What stage B asks for. */
struct b_need {
    size_t bytes; /* its own: the plan's gradients, or the training */
    size_t kept;  /* what A keeps for it of every image */
    size_t embed; /* A's network and images when it does */
};

static enum delta_status need_b(struct b_need *out, const struct learner_task *task, size_t images,
                                struct delta_error *err)
{
    const size_t batch = task->options->batch, micro = images < batch ? images : batch;
    const size_t views = views_of(task) * (task->fresh->count + task->replay->count);
    struct delta_model plan = DELTA_MODEL_INIT;
    const struct learner_net_options options = {.device = task->budget->device,
                                                .batch = micro,
                                                .threads = task->budget->threads,
                                                .train = true,
                                                .plan = &plan};
    size_t rank = 0, prefix = 0;
    enum delta_status st = delta_model_copy(&plan, task->base, err);

    if (!st)
        st = learner_plan_confine(&plan, live_of(task), err);
    if (!st && ratio_of(task) > 0)
        st = learner_freeze_plan_need(task->base, task->replay, &plan, task->budget, images, &rank,
                                      err);
    if (!st)
        st = learner_net_plan_bytes(&out->embed, &prefix, task->base, &options, err);
    delta_model_release(&plan);
    out->kept = learner_tune_data_cache_bytes(task->budget, views, prefix);
    out->embed += out->kept + micro * prefix * sizeof(float) + learner_samples_bytes(task->fresh) +
                  learner_samples_bytes(task->replay);
    if (!st)
        st = delta_model_copy(&plan, task->model, err);
    if (!st)
        st = learner_plan_confine(&plan, live_of(task), err);
    if (!st)
        st = learner_tune_need(task, &plan, true, false, images, &out->bytes, err);
    out->bytes += learner_model_bytes(task->model); /* the plan */
    rank += rank ? 2 * learner_model_bytes(task->base) + out->kept : 0;
    if (out->bytes < rank)
        out->bytes = rank;
    delta_model_release(&plan);
    return st;
}

/* Features of the pool, and beside them: the network that makes them, a fit, or stage B with what
 * the earlier stage left. */
static enum delta_status need(const struct learner_task *task, size_t images, size_t *bytes,
                              struct delta_error *err)
{
    const size_t views = views_of(task) * (task->fresh->count + task->replay->count);
    const bool more = task->replay->count > 0, all = has_stage(task, 'C') && more;
    const bool b = more && has_stage(task, 'B');
    const size_t classes = task->model->class_count, old = task->base->class_count;
    struct delta_tensor *weight, *bias;
    struct b_need tune = {0, 0, 0};
    size_t net = 0;
    enum delta_status st = delta_model_head(task->base, &weight, &bias, err);

    if (!st)
        st = learner_budget_net(&net, task->base, task->budget, images, false, err);
    if (!st && b)
        st = need_b(&tune, task, images, err);
    if (st)
        return st;
    const size_t d = weight->count / bias->count, rows = all ? classes : classes - old;
    const size_t record = (d + classes) * sizeof(float);
    size_t fit = (rows * (d + 1) * (LEARNER_LBFGS_CELLS + 2) + 2 * views) * sizeof(double);
    const size_t left = b ? learner_model_bytes(task->model) : 0;
    net = net > tune.embed ? net : tune.embed;
    net += learner_samples_bytes(task->fresh) + learner_samples_bytes(task->replay);
    tune.bytes += tune.bytes ? left + (all ? views * record : 0) : 0;
    fit += tune.kept + 2 * left + (left && all ? views * record : 0);
    net = net > fit ? net : fit;
    *bytes = views * (d + old + 1) * sizeof(float) + (net > tune.bytes ? net : tune.bytes);
    return DELTA_OK;
}

const struct learner_method learner_method_frostline = {
    "frostline",
    {.method = "frostline",
     .stages = "AB",
     .ratio = -1,
     .epochs_tune = 5,
     .batch = 64,
     .lr = 0.01,
     .momentum = 0.9,
     .weight_decay = 5e-4,
     .temperature = 2,
     .kd_weight = 4,
     .adjust = 1,
     .ema = 0.99,
     .anchor = 0.1,
     .pull = 0.85,
     .pull_tune = 0.6,
     .round = 1.5,
     .round_head = 0.125,
     .schedule = "cosine",
     .max_old_drop = 0.10,
     .min_new_recall = 0.20,
     .min_images = 2},
    run,
    need,
};
