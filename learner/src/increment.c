/* An increment: prepares, lets a method learn, judges. The base is never touched. */
#include <stdlib.h>
#include <string.h>

#include "delta/clock.h"
#include "embed.h"
#include "guard.h"
#include "holdout.h"
#include "verdict.h"

static const struct learner_method *const methods[] = {
    &learner_method_frostline,   &learner_method_freeze,   &learner_method_e2e,
    &learner_method_packnet,     &learner_method_finetune, &learner_method_replay,
    &learner_method_replay_kd,   &learner_method_joint,    &learner_method_head_only,
    &learner_method_layer4_only, &learner_method_ncm,      &learner_method_do_nothing,
};

const char *learner_method_names(void)
{
    return "frostline|freeze|e2e|packnet|finetune|replay|replay-kd|joint|head-only|layer4-only|ncm|"
           "do-nothing";
}

const struct learner_method *learner_method_find(const char *name)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (name && strcmp(methods[i]->name, name) == 0)
            return methods[i];
    return NULL;
}

struct learner_increment_options learner_increment_defaults(const char *method)
{
    const struct learner_method *found = method ? learner_method_find(method) : NULL;
    struct learner_increment_options options = (found ? found : methods[0])->defaults;

    if (method) /* an unknown one stays, for learner_increment to refuse */
        options.method = method;
    return options;
}

/* What one increment owns while it runs. */
struct increment {
    struct learner_samples mine; /* images of classes that the base lacks */
    struct learner_samples train, held;
    struct learner_samples none;
    struct delta_model model;
    bool *flags;
    struct learner_task task;
};

static void increment_release(struct increment *work)
{
    for (size_t i = 0; i < LEARNER_STAGES_MAX; i++)
        delta_model_release(&work->task.candidates[i].model);
    learner_samples_release(&work->mine);
    learner_samples_release(&work->train);
    learner_samples_release(&work->held);
    delta_model_release(&work->model);
    free(work->flags);
}

/* The classes that the base lacks and that have samples. */
static enum delta_status take_new(struct learner_samples *out, const struct delta_model *base,
                                  const struct learner_samples *fresh, struct delta_error *err)
{
    struct delta_class_id *wanted = delta_calloc(fresh->class_count + 1, sizeof *wanted);
    bool *seen = delta_calloc(fresh->class_count + 1, sizeof *seen);
    const char *known = NULL;
    size_t count = 0;
    enum delta_status st;

    if (!wanted || !seen) {
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
        goto done;
    }
    for (size_t i = 0; i < fresh->count; i++)
        seen[fresh->labels[i]] = true;
    for (size_t k = 0; k < fresh->class_count; k++) {
        if (!seen[k])
            continue;
        if (delta_model_class_index(base, fresh->classes[k].text) < 0)
            wanted[count++] = fresh->classes[k];
        else
            known = fresh->classes[k].text;
    }
    if (count)
        st = learner_samples_select(out, fresh, wanted, count, 0, err);
    else if (known)
        st = delta_fail(err, DELTA_EXISTS,
                        "class '%s' is known to the model already; nothing to learn", known);
    else
        st = delta_fail(err, DELTA_NOT_FOUND, "there are no samples to learn from");
done:
    free(wanted);
    free(seen);
    return st;
}

static enum delta_status prepare(struct increment *work, const struct delta_model *base,
                                 const struct learner_samples *fresh,
                                 const struct learner_budget *budget, struct delta_error *err)
{
    enum delta_status st = learner_samples_check(fresh, &base->arch, err);

    if (!st)
        st = take_new(&work->mine, base, fresh, err);
    if (st)
        return st;
    work->flags = delta_calloc(work->mine.count + 1, sizeof *work->flags);
    if (!work->flags)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    st = learner_holdout(work->flags, &work->mine, budget->seed, err);
    if (!st)
        st = learner_samples_filter(&work->train, &work->mine, work->flags, false, err);
    if (!st)
        st = learner_samples_filter(&work->held, &work->mine, work->flags, true, err);
    if (!st)
        st = delta_model_copy(&work->model, base, err);
    if (!st)
        st = delta_model_grow_head(&work->model, work->mine.classes, work->mine.class_count, err);
    if (!st)
        st = delta_model_digest(base, &work->model.parent, err);
    return st;
}

struct need {
    const struct learner_method *method;
    const struct learner_task *task;
    const struct learner_samples *probe;
};

/* The method, or the guard after it. */
static enum delta_status need_memory(void *context, size_t images, size_t *bytes,
                                     struct delta_error *err)
{
    const struct need *need = context;
    size_t guard = 0;
    enum delta_status st =
        learner_budget_net(&guard, need->task->model, need->task->budget, images, false, err);

    guard += learner_samples_bytes(need->probe) + need->probe->count * sizeof(int32_t);
    *bytes = 0;
    if (!st && need->method->need)
        st = need->method->need(need->task, images, bytes, err);
    if (*bytes < guard)
        *bytes = guard;
    return st;
}

/* A stage each, the base once. */
static size_t guard_images(const struct learner_increment_options *options,
                           const struct learner_samples *probe, const struct increment *work)
{
    const size_t stages = options->stages && *options->stages ? strlen(options->stages) : 1;

    return probe->count + stages * (probe->count + work->held.count + work->train.count);
}

/* The guard's word on what was learned. */
static enum delta_status judge(struct increment *work, struct learner_report *found,
                               const struct learner_samples *probe, struct delta_error *err)
{
    struct learner_task *task = &work->task;
    struct learner_budget patient = *task->budget; /* judged whatever the clock says */
    const struct learner_trial trial = {.base = task->base,
                                        .probe = probe,
                                        .train = &work->train,
                                        .held = &work->held,
                                        .known = task->known,
                                        .options = task->options,
                                        .budget = &patient};

    patient.deadline_ms = 0;
    found->image_passes = task->image_passes;
    found->cut_short = task->cut_short;
    const enum delta_status st = learner_verdict(task, found, &trial, err);
    found->live_changed = learner_count_changed(task->base, &work->model);
    return st;
}

static enum delta_status learn(struct increment *work, const struct learner_method *method,
                               const struct learner_samples *probe, struct learner_budget *plan,
                               struct delta_error *err)
{
    const size_t batch = work->task.options->batch;
    struct need need = {method, &work->task, probe};
    enum delta_status st = learner_budget_plan(plan, plan, "learning",
                                               batch > LEARNER_AT_ONCE ? batch : LEARNER_AT_ONCE, 1,
                                               need_memory, &need, err);

    if (!st)
        st = method->run(&work->task, err);
    if (!st && work->task.candidate_count == 0)
        st = learner_task_round(&work->task, &work->model, err);
    return st ? st : delta_model_check_finite(&work->model, err);
}

enum delta_status learner_increment(struct delta_model *out, const struct delta_model *base,
                                    const struct learner_samples *fresh,
                                    const struct learner_exemplars *exemplars,
                                    const struct learner_increment_options *options,
                                    const struct learner_budget *budget,
                                    struct learner_report *report, struct delta_error *err)
{
    const struct learner_method *method = learner_method_find(options->method);
    const struct delta_clock clock = delta_clock_system();
    const int64_t started_ms = delta_clock_monotonic_ms(&clock);
    struct learner_report found = {.method = ""};
    struct learner_budget plan = budget ? *budget : (struct learner_budget){0};
    struct increment work = {0};
    enum delta_status st;

    if (!method)
        return delta_fail(err, DELTA_UNSUPPORTED, "method '%s' is unknown; there are %s",
                          options->method ? options->method : "", learner_method_names());
    const struct learner_samples *probe = exemplars ? &exemplars->probe : &work.none;
    strncat(found.method, method->name, sizeof found.method - 1);
    st = prepare(&work, base, fresh, &plan, err);
    work.task = (struct learner_task){
        .model = &work.model,
        .base = base,
        .fresh = &work.train,
        .replay = exemplars ? &exemplars->replay : &work.none,
        .known = exemplars ? learner_exemplars_features(exemplars, base) : NULL,
        .latents = exemplars ? &exemplars->latents : NULL,
        .options = options,
        .budget = &plan,
        .guard_images = guard_images(options, probe, &work),
        .stage_began_ms = delta_clock_monotonic_ms(&clock)};
    found.new_images = work.train.count;
    found.replay_images = work.task.replay->count;
    if (!st)
        st = learner_guard_samples(&work.mine, options, err);
    if (!st)
        st = learn(&work, method, probe, &plan, err);
    if (!st)
        st = judge(&work, &found, probe, err);
    found.seconds = (double)(delta_clock_monotonic_ms(&clock) - started_ms) / 1000;
    if (report && (!st || st == DELTA_REJECTED))
        *report = found;
    if (!st) {
        *out = work.model;
        work.model = (struct delta_model)DELTA_MODEL_INIT;
    }
    increment_release(&work);
    return st;
}
