#include "verdict.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "delta/clock.h"
#include "delta/delta.h"

size_t learner_count_changed(const struct delta_model *base, const struct delta_model *model)
{
    size_t changed = 0;

    for (size_t i = 0; i < base->tensor_count; i++) {
        const struct delta_tensor *old = &base->tensors[i];
        const struct delta_tensor *now = delta_model_find(model, old->name);
        for (size_t j = 0; now && j < old->count && j < now->count; j++)
            changed += memcmp(&old->data[j], &now->data[j], sizeof(float)) != 0;
    }
    return changed;
}

enum delta_status learner_task_round(const struct learner_task *task, struct delta_model *model,
                                     struct delta_error *err)
{
    const struct learner_increment_options *options = task->options;

    if ((!(options->round > 0) && !(options->round_head > 0)) ||
        learner_count_changed(task->base, model) == 0)
        return DELTA_OK;
    return delta_round(model, task->base, options->round, options->round_head, err);
}

enum delta_status learner_task_offer(struct learner_task *task, const char *name,
                                     struct delta_error *err)
{
    const struct delta_clock clock = delta_clock_system();
    const int64_t now_ms = delta_clock_monotonic_ms(&clock);
    struct learner_candidate *made = &task->candidates[task->candidate_count];

    if (task->candidate_count == LEARNER_STAGES_MAX)
        return delta_fail(err, DELTA_INTERNAL, "more than %d stages", LEARNER_STAGES_MAX);
    snprintf(made->name, sizeof made->name, "%s", name);
    made->seconds = (double)(now_ms - task->stage_began_ms) / 1000;
    made->image_passes = task->image_passes - task->stage_began_passes;
    task->stage_began_ms = now_ms;
    task->stage_began_passes = task->image_passes;
    const enum delta_status st = delta_model_copy(&made->model, task->model, err);
    if (st)
        return st;
    task->candidate_count++;
    return learner_task_round(task, &made->model, err);
}

/* Expected accuracy over all classes, each the same share. */
static double overall(const struct learner_task *task, const struct learner_report *report)
{
    const double old = (double)task->base->class_count, all = (double)task->model->class_count;

    return (report->old_after * old + report->new_recall * (all - old)) / all;
}

/* Between two stages about one image of twenty changes sides; the fall must be beyond two standard
 * errors of that. Old classes are most of all classes, so their probes decide how sure this is. */
#define CHANGE_SIDES 0.05

static bool falls_behind(double first, double now, const struct learner_report *report)
{
    const size_t images = report->probe_images ? report->probe_images : report->held_out_new;

    return first - now > 2 * sqrt(CHANGE_SIDES / (double)(images + !images));
}

static void tell(struct learner_stage_report *stage, const struct learner_candidate *from,
                 const struct learner_report *found)
{
    memcpy(stage->name, from->name, sizeof stage->name);
    stage->seconds = from->seconds;
    stage->image_passes = from->image_passes;
    stage->old_after = found->old_after;
    stage->new_recall = found->new_recall;
    stage->judged = true;
}

/* The guard on every candidate; DELTA_OK also when it rejects, *why tells then. */
static enum delta_status judge(struct learner_task *task, struct learner_report *found,
                               struct learner_report *report, const struct learner_trial *trial,
                               struct delta_error *why, struct delta_error *err)
{
    for (size_t i = 0; i < task->candidate_count; i++) {
        struct learner_stage_report *stage = &report->stages[i];
        struct learner_trial own = *trial;
        own.model = &task->candidates[i].model;
        own.before_known = i > 0;
        found[i] = i ? found[0] : *report;
        why[i] = (struct delta_error)DELTA_ERROR_INIT;
        const enum delta_status st = learner_guard(&found[i], &own, &why[i]);
        if (st && st != DELTA_REJECTED)
            return delta_fail(err, st, "%s", why[i].text);
        tell(stage, &task->candidates[i], &found[i]);
        stage->accepted = !st;
        if (st)
            snprintf(stage->why, sizeof stage->why, "%s", why[i].text);
    }
    return DELTA_OK;
}

static size_t accept_last(struct learner_task *task, const struct learner_report *found,
                          struct learner_report *report)
{
    size_t chosen = task->candidate_count;

    for (size_t i = task->candidate_count; i-- > 0;) {
        struct learner_stage_report *stage = &report->stages[i];
        const double first = overall(task, &found[0]), now = overall(task, &found[i]);
        /* a bound that lets everything pass asks for no comparison either */
        if (stage->accepted && i && task->options->max_old_drop < 1 &&
            falls_behind(first, now, &found[i])) {
            stage->accepted = false;
            snprintf(stage->why, sizeof stage->why,
                     "tests at %.1f percent of all classes, stage %s at %.1f", 100 * now,
                     task->candidates[0].name, 100 * first);
        }
        if (chosen < task->candidate_count && stage->accepted) {
            stage->accepted = false;
            snprintf(stage->why, sizeof stage->why, "stage %s came after it and was accepted",
                     task->candidates[chosen].name);
        } else if (stage->accepted) {
            chosen = i;
        }
    }
    return chosen;
}

enum delta_status learner_verdict(struct learner_task *task, struct learner_report *report,
                                  const struct learner_trial *trial, struct delta_error *err)
{
    struct learner_report found[LEARNER_STAGES_MAX];
    struct delta_error why[LEARNER_STAGES_MAX];
    struct learner_trial own = *trial;

    if (task->candidate_count == 0) {
        own.model = task->model;
        return learner_guard(report, &own, err);
    }
    report->stage_count = task->candidate_count;
    enum delta_status st = judge(task, found, report, trial, why, err);
    if (st)
        return st;
    double passes = report->image_passes;
    for (size_t i = 0; i < task->candidate_count; i++) /* each counted its own on top */
        passes += found[i].image_passes - (i ? found[0].image_passes : report->image_passes);
    const size_t chosen = accept_last(task, found, report);
    const struct learner_report *best = &found[chosen < task->candidate_count ? chosen : 0];
    report->held_out_new = best->held_out_new;
    report->probe_images = best->probe_images;
    report->old_before = best->old_before;
    report->old_after = best->old_after;
    report->new_recall = best->new_recall;
    report->image_passes = passes;
    if (chosen == task->candidate_count)
        return delta_fail(err, DELTA_REJECTED, "%s", why[0].text);
    delta_model_release(task->model);
    *task->model = task->candidates[chosen].model;
    task->candidates[chosen].model = (struct delta_model)DELTA_MODEL_INIT;
    return DELTA_OK;
}
