#include "job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "delta/clock.h"
#include "delta/delta.h"
#include "delta/file.h"
#include "delta/log.h"

#define MAX_IMAGES 5000 /* of one class */

void agent_job_budget(struct learner_budget *out, const struct agent_options *options)
{
    const struct delta_clock clock = delta_clock_system(); /* as the sandbox counts */

    *out = (struct learner_budget){.device = options->device,
                                   .threads = (int)options->threads,
                                   .seed = (uint64_t)options->seed,
                                   .memory_bytes = (size_t)options->memory_mb << 20};
    if (options->learn_s > 0)
        out->deadline_ms = delta_clock_monotonic_ms(&clock) + options->learn_s * 900;
}

struct agent_limits agent_job_limits(const struct agent_options *options)
{
    const bool cpu = strncmp(options->device, "cpu", 3) == 0;

    return (struct agent_limits){options->learn_s * 1000,
                                 cpu ? (size_t)options->memory_mb << 20 : 0, options->open_network};
}

static enum delta_status load_exemplars(struct learner_exemplars *out, const char *path,
                                        struct delta_error *err)
{
    *out = (struct learner_exemplars){.probe = LEARNER_SAMPLES_INIT};
    if (!path[0] || !delta_file_exists(path))
        return DELTA_OK;
    return learner_exemplars_load(out, path, err);
}

/* ---- learning ---- */

struct learning {
    const struct agent_learn_order *order;
    struct delta_model base;
    struct learner_exemplars exemplars;
    struct learner_samples samples[AGENT_CLASSES_MAX];
    bool readable[AGENT_CLASSES_MAX];
    bool learned[AGENT_CLASSES_MAX];
    enum delta_status why[AGENT_CLASSES_MAX];
    char text[AGENT_CLASSES_MAX][240];
    struct learner_folder_report folder[AGENT_CLASSES_MAX];
};

static void learning_release(struct learning *work)
{
    delta_model_release(&work->base);
    learner_exemplars_release(&work->exemplars);
    for (size_t i = 0; i < work->order->count; i++)
        learner_samples_release(&work->samples[i]);
}

static void refuse(struct learning *work, size_t i, const struct delta_error *err)
{
    work->why[i] = err->status;
    snprintf(work->text[i], sizeof work->text[i], "%s", err->text);
}

static enum delta_status read_inbox(struct learning *work, struct delta_error *err)
{
    const struct delta_arch *arch = &work->base.arch;

    for (size_t i = 0; i < work->order->count; i++) {
        const struct agent_job_class *class = &work->order->classes[i];
        struct delta_error why;
        const enum delta_status st =
            learner_samples_folder(&work->samples[i], class->path, &class->id, arch->height,
                                   arch->image_width, MAX_IMAGES, &work->folder[i], &why);
        work->readable[i] = st == DELTA_OK;
        if (st && delta_status_class(st) == DELTA_CLASS_ENV)
            return delta_fail(err, st, "%s", why.text);
        if (st)
            refuse(work, i, &why);
    }
    return DELTA_OK;
}

/* One increment with the chosen classes. */
static enum delta_status increment(struct learning *work, const bool *chosen,
                                   struct delta_model *out, struct learner_report *report,
                                   struct delta_error *err)
{
    struct learner_samples fresh = LEARNER_SAMPLES_INIT;
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; !st && i < work->order->count; i++)
        if (chosen[i])
            st = learner_samples_append(&fresh, &work->samples[i], err);
    if (!st)
        st = learner_increment(out, &work->base, &fresh, &work->exemplars, &work->order->options,
                               &work->order->budget, report, err);
    learner_samples_release(&fresh);
    return st;
}

/* The classes that pass together; when all at once do not, each that passes with those before. */
static enum delta_status choose(struct learning *work, struct delta_model *out,
                                struct learner_report *report, struct delta_error *err)
{
    const size_t count = work->order->count;
    bool chosen[AGENT_CLASSES_MAX] = {false};
    size_t candidates = 0;
    bool any = false;
    enum delta_status st;

    for (size_t i = 0; i < count; i++) {
        chosen[i] = work->readable[i];
        candidates += chosen[i];
    }
    if (candidates == 0)
        return delta_fail(err, DELTA_REJECTED, "%s", work->text[0]);
    st = increment(work, chosen, out, report, err);
    if (!st)
        memcpy(work->learned, chosen, sizeof chosen);
    if (st != DELTA_REJECTED)
        return st;
    if (candidates == 1) {
        for (size_t i = 0; i < count; i++)
            if (chosen[i])
                refuse(work, i, err);
        return st;
    }
    memset(chosen, 0, sizeof chosen);
    for (size_t i = 0; i < count; i++) {
        struct delta_model model;
        struct learner_report trial;
        struct delta_error why;
        if (!work->readable[i])
            continue;
        chosen[i] = true;
        st = increment(work, chosen, &model, &trial, &why);
        if (st && st != DELTA_REJECTED)
            return delta_fail(err, st, "%s", why.text);
        if (st) {
            chosen[i] = false;
            refuse(work, i, &why);
            continue;
        }
        if (any)
            delta_model_release(out);
        *out = model;
        *report = trial;
        any = true;
    }
    memcpy(work->learned, chosen, sizeof chosen);
    return any ? DELTA_OK : delta_fail(err, DELTA_REJECTED, "no class passed the guard");
}

static enum delta_status write_offer(const struct learning *work, const struct delta_model *target,
                                     const struct learner_report *report, struct delta_error *err)
{
    const struct agent_learn_order *order = work->order;
    struct delta_provenance from = {.created_ms = order->now_ms,
                                    .new_samples = (uint32_t)report->new_images,
                                    .replay_samples = (uint32_t)report->replay_images,
                                    .tested_old = (uint32_t)report->probe_images,
                                    .old_before = report->old_before,
                                    .old_after = report->old_after,
                                    .tested_new = (uint32_t)report->held_out_new,
                                    .new_recall = report->new_recall};
    const struct delta_options options = {.provenance = &from};
    struct delta_buf file;
    enum delta_status st;

    snprintf(from.device, sizeof from.device, "%s", order->device);
    snprintf(from.method, sizeof from.method, "%s", report->method);
    snprintf(from.software, sizeof from.software, "frostline " FROSTLINE_VERSION);
    st = delta_diff(&work->base, target, &options, &file, err);
    if (st)
        return st;
    st = delta_file_write(order->offer_path, delta_buf_bytes(&file), 0600, err);
    delta_buf_release(&file);
    return st;
}

/* The fleet gets only what it was not offered before. */
static enum delta_status make_offer(struct learning *work, const struct delta_model *all,
                                    const struct learner_report *report, bool *offered,
                                    struct delta_error *err)
{
    bool chosen[AGENT_CLASSES_MAX] = {false};
    bool same = true;
    struct delta_model model;
    struct learner_report own;
    struct delta_error why;
    enum delta_status st;

    *offered = false;
    for (size_t i = 0; i < work->order->count; i++) {
        chosen[i] = work->learned[i] && work->order->classes[i].contribute;
        *offered |= chosen[i];
        same &= chosen[i] == work->learned[i];
    }
    if (!*offered)
        return DELTA_OK;
    if (same)
        return write_offer(work, all, report, err);
    st = increment(work, chosen, &model, &own, &why);
    if (st == DELTA_REJECTED) { /* passes with the others only: keep it here */
        delta_log_warn("job", "the new classes pass the guard only with older ones: %s", why.text);
        *offered = false;
        return DELTA_OK;
    }
    if (st)
        return delta_fail(err, st, "%s", why.text);
    st = write_offer(work, &model, &own, err);
    delta_model_release(&model);
    return st;
}

static void tell_classes(const struct learning *work, json_t *result)
{
    json_t *array = json_array();

    for (size_t i = 0; i < work->order->count; i++) {
        json_t *row = json_object();
        json_object_set_new(row, "id", json_string(work->order->classes[i].id.text));
        json_object_set_new(row, "status",
                            json_integer(work->learned[i] ? DELTA_OK
                                         : work->why[i]   ? work->why[i]
                                                          : DELTA_REJECTED));
        json_object_set_new(row, "text", json_string(work->text[i]));
        json_object_set_new(row, "read", json_integer((json_int_t)work->folder[i].read));
        json_object_set_new(row, "resized", json_integer((json_int_t)work->folder[i].resized));
        json_object_set_new(row, "skipped", json_integer((json_int_t)work->folder[i].skipped));
        json_object_set_new(row, "problem", json_string(work->folder[i].first_problem));
        json_array_append_new(array, row);
    }
    json_object_set_new(result, "classes", array);
}

static void tell_report(const struct learner_report *report, json_t *result)
{
    json_object_set_new(result, "old_before", json_real(report->old_before));
    json_object_set_new(result, "old_after", json_real(report->old_after));
    json_object_set_new(result, "new_recall", json_real(report->new_recall));
    json_object_set_new(result, "probe_images", json_integer((json_int_t)report->probe_images));
    json_object_set_new(result, "held_out_new", json_integer((json_int_t)report->held_out_new));
    json_object_set_new(result, "new_images", json_integer((json_int_t)report->new_images));
    json_object_set_new(result, "seconds", json_real(report->seconds));
}

enum delta_status agent_job_learn(void *context, json_t *result, struct delta_error *err)
{
    const struct agent_learn_order *order = context;
    struct learning *work = delta_calloc(1, sizeof *work);
    struct delta_model local = DELTA_MODEL_INIT;
    struct learner_report report = {.method = ""};
    struct delta_digest digest;
    char missing[256];
    bool offered = false;
    enum delta_status st;

    if (!work)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for learning");
    work->order = order;
    if (learner_device_missing(missing, sizeof missing, order->budget.device))
        delta_log_info("job", "%s; learning on the CPU", missing);
    st = delta_model_load(&work->base, order->base_path, &digest, err);
    if (!st && !delta_digest_equal(&digest, &order->base))
        st = delta_fail(err, DELTA_INTERNAL, "'%s' is not the version to learn on",
                        order->base_path);
    if (!st)
        st = load_exemplars(&work->exemplars, order->exemplars_path, err);
    if (!st)
        st = read_inbox(work, err);
    if (!st)
        st = choose(work, &local, &report, err);
    tell_classes(work, result);
    tell_report(&report, result);
    if (!st)
        st = delta_model_save(&local, order->local_path, err);
    if (!st)
        st = make_offer(work, &local, &report, &offered, err);
    json_object_set_new(result, "offered", json_boolean(offered));
    delta_model_release(&local);
    learning_release(work);
    free(work);
    return st;
}

/* ---- the health check ---- */

/* Probe images of classes that `known` has; NULL: all. */
static enum delta_status take_probe(struct learner_samples *out, const struct learner_samples *from,
                                    const struct delta_model *known, struct delta_error *err)
{
    struct delta_class_id *wanted = delta_calloc(from->class_count + 1, sizeof *wanted);
    size_t count = 0;
    enum delta_status st = DELTA_OK;

    if (!wanted)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for the health check");
    for (size_t i = 0; i < from->class_count; i++)
        if (delta_model_class_index(known, from->classes[i].text) >= 0)
            wanted[count++] = from->classes[i];
    if (count)
        st = learner_samples_select(out, from, wanted, count, 0, err);
    free(wanted);
    return st;
}

static enum delta_status accuracy(double *out, const struct delta_model *model,
                                  const struct learner_samples *probe,
                                  const struct learner_budget *budget, struct delta_error *err)
{
    struct learner_scores scores;
    const enum delta_status st = learner_evaluate(&scores, model, probe, budget, err);

    if (st)
        return st;
    *out = scores.images ? (double)scores.correct / (double)scores.images : 0;
    learner_scores_release(&scores);
    return DELTA_OK;
}

static enum delta_status compare(const struct agent_check_order *order,
                                 const struct delta_model *old, const struct delta_model *new,
                                 const struct learner_samples *probe, json_t *result,
                                 struct delta_error *err)
{
    double before = 0, after = 0;
    enum delta_status st = accuracy(&after, new, probe, &order->budget, err);

    if (!st && order->old_path[0])
        st = accuracy(&before, old, probe, &order->budget, err);
    else
        before = after;
    if (st)
        return st;
    json_object_set_new(result, "tested", json_integer((json_int_t)probe->count));
    json_object_set_new(result, "old_before", json_real(before));
    json_object_set_new(result, "old_after", json_real(after));
    if (before - after > order->max_drop)
        return delta_fail(err, DELTA_REJECTED,
                          "accuracy on old classes falls from %.1f %% to %.1f %% (%zu images), "
                          "more than %.1f points",
                          100 * before, 100 * after, probe->count, 100 * order->max_drop);
    return DELTA_OK;
}

enum delta_status agent_job_check(void *context, json_t *result, struct delta_error *err)
{
    const struct agent_check_order *order = context;
    struct delta_model old = DELTA_MODEL_INIT, new = DELTA_MODEL_INIT;
    struct learner_exemplars exemplars;
    struct learner_samples probe = LEARNER_SAMPLES_INIT;
    enum delta_status st = load_exemplars(&exemplars, order->exemplars_path, err);

    if (st)
        return st;
    st = delta_model_load(&new, order->new_path, NULL, err);
    if (!st)
        st = delta_model_check_finite(&new, err);
    if (!st && order->old_path[0])
        st = delta_model_load(&old, order->old_path, NULL, err);
    if (!st)
        st = take_probe(&probe, &exemplars.probe, order->old_path[0] ? &old : &new, err);
    if (!st && probe.count)
        st = compare(order, &old, &new, &probe, result, err);
    delta_model_release(&old);
    delta_model_release(&new);
    learner_exemplars_release(&exemplars);
    learner_samples_release(&probe);
    return st;
}

/* ---- taking a class over ---- */

static bool has_class(const struct learner_samples *samples, const char *id)
{
    for (size_t i = 0; i < samples->class_count; i++)
        if (strcmp(samples->classes[i].text, id) == 0)
            return true;
    return false;
}

/* As many of a class as the device keeps of the others. */
static size_t share(const struct learner_samples *samples, size_t otherwise)
{
    if (samples->class_count == 0 || samples->count == 0)
        return otherwise;
    return (samples->count + samples->class_count - 1) / samples->class_count;
}

enum delta_status agent_job_adopt(void *context, json_t *result, struct delta_error *err)
{
    const struct agent_adopt_order *order = context;
    struct learner_exemplars exemplars;
    struct delta_model model = DELTA_MODEL_INIT;
    size_t added = 0;
    enum delta_status st = load_exemplars(&exemplars, order->exemplars_path, err);

    if (st)
        return st;
    const size_t replay = share(&exemplars.replay, 20), probe = share(&exemplars.probe, 5);
    st = delta_model_load(&model, order->model_path, NULL, err);
    for (size_t i = 0; !st && i < order->count; i++) {
        const struct agent_job_class *class = &order->classes[i];
        struct learner_samples samples = LEARNER_SAMPLES_INIT;
        struct delta_error why;
        if (has_class(&exemplars.replay, class->id.text))
            continue;
        if (learner_samples_folder(&samples, class->path, &class->id, model.arch.height,
                                   model.arch.image_width, MAX_IMAGES, NULL, &why)) {
            delta_log_warn("job", "no exemplars of '%s': %s", class->id.text, why.text);
            continue;
        }
        st = learner_exemplars_add(&exemplars, &model, &samples, replay, probe, order->seed, err);
        learner_samples_release(&samples);
        added += !st;
    }
    if (!st && added)
        st = learner_exemplars_save(&exemplars, order->exemplars_path, err);
    json_object_set_new(result, "added", json_integer((json_int_t)added));
    learner_exemplars_release(&exemplars);
    delta_model_release(&model);
    return st;
}
