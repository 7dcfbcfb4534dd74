#include "exp_once.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "budget.h"
#include "exp_clock.h"
#include "exp_measure.h"
#include "exp_results.h"
#include "sources.h"

#ifndef FROSTLINE_VERSION
#define FROSTLINE_VERSION "unknown"
#endif

#define STAGES_MAX 16

/* Seconds of each stage that a method tells about. */
struct stages {
    const char *names[STAGES_MAX];
    double seconds[STAGES_MAX];
    size_t count;
    int64_t last_ms;
    struct exp_pulse *pulse;
};

struct once {
    const struct learner_experiment *plan;
    const struct exp_run *run;
    struct learner_samples future; /* every new class of this run */
    struct learner_exemplars exemplars;
    bool replays;             /* exemplars are there */
    struct delta_model model; /* as far as it came */
    size_t base_count;        /* classes of the base */
    char blocks[4096];        /* classes of the base and of each step taken over: "50,10" */
    struct stages stages;
    size_t peak_bytes, delta_bytes, grown_bytes; /* largest, all, of the last step */
    double passes, seconds, cpu_seconds, sum;
};

static void once_release(struct once *once)
{
    learner_samples_release(&once->future);
    learner_exemplars_release(&once->exemplars);
    delta_model_release(&once->model);
}

static double cpu_now(void)
{
    struct rusage used;

    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

/* Time since the last call belongs to the stage that calls. */
static bool watch_stage(void *context, const char *stage, double done, double total)
{
    struct stages *stages = context;
    const int64_t now = exp_now_ms();
    size_t at = 0;

    exp_pulse_tick(stages->pulse, stage, done, total, now);
    while (at < stages->count && strcmp(stages->names[at], stage) != 0)
        at++;
    if (at == stages->count && at < STAGES_MAX)
        stages->names[stages->count++] = stage;
    if (at < STAGES_MAX)
        stages->seconds[at] += (double)(now - stages->last_ms) / 1000;
    stages->last_ms = now;
    return true;
}

/* Forgets the largest size so far, so that it is that of what follows. */
static void reset_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");

    if (file) {
        fputs("5", file);
        fclose(file);
    }
}

/* What only the experiment holds in memory: a device would not. */
static size_t bystander_bytes(const struct once *once)
{
    return learner_samples_bytes(&once->plan->test) + learner_samples_bytes(&once->future);
}

/* The device keeps some samples of what it learned, as of the old classes. */
static enum delta_status keep_samples(struct once *once, const struct learner_samples *fresh,
                                      struct delta_error *err)
{
    const int64_t wanted = once->plan->variants[once->run->variant].exemplars;

    if (!once->replays)
        return DELTA_OK;
    if (wanted < 0)
        return learner_samples_append(&once->exemplars.replay, fresh, err);
    return learner_exemplars_add(&once->exemplars, &once->model, fresh, (size_t)wanted,
                                 (size_t)once->plan->probes, once->run->seed, err);
}

static json_t *stages_json(const struct stages *stages)
{
    json_t *list = json_array();

    for (size_t i = 0; i < stages->count; i++)
        json_array_append_new(
            list, json_pack("{s:s, s:f}", "name", stages->names[i], "seconds", stages->seconds[i]));
    return list;
}

/* What each stage of a staged method cost by itself, and what the guard thought of it. */
static json_t *method_stages_json(const struct learner_report *report)
{
    json_t *list = json_array();

    for (size_t i = 0; i < report->stage_count; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:f, s:f, s:b, s:s}", "name", report->stages[i].name,
                                        "seconds", report->stages[i].seconds, "image_passes",
                                        report->stages[i].image_passes, "accepted",
                                        report->stages[i].accepted, "why", report->stages[i].why));
    return list;
}

/* What came of learning: taken over or not, and its cost. */
struct outcome {
    struct learner_report report;
    bool rejected;
    size_t peak_bytes, delta_bytes, frozen, moved;
    double cpu_seconds;
};

static enum delta_status learn(struct outcome *out, struct once *once,
                               const struct learner_samples *fresh,
                               const struct learner_budget *budget, struct delta_error *err)
{
    struct learner_increment_options options =
        exp_variant_options(once->plan, &once->plan->variants[once->run->variant]);
    struct delta_model learned = DELTA_MODEL_INIT;
    const size_t aside = bystander_bytes(once);
    enum delta_status st;

    learner_memory_now(); /* gives freed memory back */
    reset_peak();
    const double cpu = cpu_now();
    once->stages = (struct stages){.last_ms = exp_now_ms(), .pulse = once->stages.pulse};
    if (!options.blocks)
        options.blocks = once->blocks;
    st = learner_increment(&learned, &once->model, fresh, once->replays ? &once->exemplars : NULL,
                           &options, budget, &out->report, err);
    out->cpu_seconds = cpu_now() - cpu;
    out->peak_bytes = learner_memory_peak();
    out->peak_bytes -= out->peak_bytes > aside ? aside : 0;
    out->rejected = st == DELTA_REJECTED;
    if (out->rejected)
        return DELTA_OK;
    if (!st)
        st = exp_sealed_bytes(&out->delta_bytes, &once->model, &learned, err);
    if (!st) {
        exp_count_frozen(&out->frozen, &out->moved, &once->model, &learned);
        const size_t used = strlen(once->blocks);
        snprintf(once->blocks + used, sizeof once->blocks - used, ",%zu",
                 learned.class_count - once->model.class_count);
        delta_model_release(&once->model);
        once->model = learned;
    }
    return st;
}

static json_t *step_json(const struct once *once, const struct outcome *outcome,
                         const struct exp_accuracy *accuracy, size_t seen)
{
    json_t *json =
        json_pack("{s:I, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:o}", "classes",
                  (json_int_t)seen, "image_passes", outcome->report.image_passes, "seconds",
                  outcome->report.seconds, "cpu_seconds", outcome->cpu_seconds, "peak_bytes",
                  (json_int_t)outcome->peak_bytes, "delta_bytes", (json_int_t)outcome->delta_bytes,
                  "model_bytes", (json_int_t)exp_encoded_bytes(&once->model), "exemplar_bytes",
                  (json_int_t)learner_exemplars_bytes(&once->exemplars), "frozen",
                  (json_int_t)outcome->frozen, "frozen_moved", (json_int_t)outcome->moved,
                  "rejected", outcome->rejected, "cut_short", outcome->report.cut_short, "stages",
                  stages_json(&once->stages));

    if (json)
        exp_accuracy_put(json, accuracy);
    if (json && outcome->report.stage_count)
        json_object_set_new(json, "method_stages", method_stages_json(&outcome->report));
    return json;
}

static enum delta_status take_step(json_t *steps, struct exp_accuracy *accuracy, struct once *once,
                                   size_t step, struct delta_error *err)
{
    const struct learner_experiment *plan = once->plan;
    const struct exp_budget *limit = &plan->budgets[once->run->budget];
    const size_t known = once->base_count + step * once->run->count;
    const size_t seen = known + once->run->count;
    const struct learner_budget tests = {
        .device = plan->device, .threads = (int)plan->threads, .seed = once->run->seed};
    struct learner_budget budget = tests;
    struct learner_samples fresh = LEARNER_SAMPLES_INIT;
    const struct exp_subject subject = {plan, once->run, &once->model, once->base_count};
    struct outcome outcome = {.rejected = false};
    json_t *json = NULL;
    enum delta_status st = learner_samples_select(&fresh, &once->future,
                                                  once->future.classes + step * once->run->count,
                                                  once->run->count, (size_t)plan->per_class, err);

    budget.memory_bytes =
        limit->memory_mb ? ((size_t)limit->memory_mb << 20) + bystander_bytes(once) : 0;
    budget.deadline_ms = limit->time_s > 0 ? exp_now_ms() + (int64_t)(1000 * limit->time_s) : 0;
    budget.progress = watch_stage;
    budget.context = &once->stages;
    if (!st)
        st = learn(&outcome, once, &fresh, &budget, err);
    if (!st)
        st = exp_test(accuracy, &subject, known, seen, &tests, err);
    if (!st && !outcome.rejected && plan->protocols[once->run->protocol].steps > 1)
        st = keep_samples(once, &fresh, err);
    if (!st && !(json = step_json(once, &outcome, accuracy, seen)))
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    if (!st)
        st = exp_test_by_task(json, &subject, known, &tests, err);
    if (!st && json_array_append(steps, json))
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    json_decref(json);
    once->passes += outcome.report.image_passes;
    once->seconds += outcome.report.seconds;
    once->cpu_seconds += outcome.cpu_seconds;
    once->delta_bytes += outcome.delta_bytes;
    once->sum += accuracy->all;
    if (once->peak_bytes < outcome.peak_bytes)
        once->peak_bytes = outcome.peak_bytes;
    learner_samples_release(&fresh);
    return st;
}

/* ---- the line ---- */

static void machine_name(char *out, size_t size)
{
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[256];

    snprintf(out, size, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(out, size, "%s", colon + 1 + strspn(colon + 1, " "));
        break;
    }
    if (file)
        fclose(file);
}

static void device_name(char *out, size_t size, const struct once *once)
{
    const struct learner_net_options options = {
        .device = once->plan->device, .batch = 1, .threads = (int)once->plan->threads};
    struct learner_net *net = NULL;

    out[0] = '\0';
    if (learner_net_new(&net, &once->model, &options, NULL) == DELTA_OK) {
        const char *precision = learner_net_precision(net);
        const bool usual = strcmp(precision, "fp32") == 0;
        snprintf(out, size, "%s%s%s", learner_net_device(net), usual ? "" : ":",
                 usual ? "" : precision);
    }
    learner_net_free(net);
}

static void put_settings(json_t *line, const struct exp_variant *variant)
{
    json_t *knobs = json_object();

    for (size_t k = 0; exp_knobs[k].name; k++) {
        const struct exp_value *value = &variant->knobs[k];
        if (value->set)
            json_object_set_new(knobs, exp_knobs[k].name,
                                value->text ? json_string(value->text) : json_real(value->number));
    }
    json_object_set_new(line, "settings", knobs);
}

static void put_run(json_t *line, const struct once *once, int workers)
{
    const struct learner_experiment *plan = once->plan;
    const struct exp_run *run = once->run;
    const struct exp_variant *variant = &plan->variants[run->variant];
    const struct exp_protocol *protocol = &plan->protocols[run->protocol];
    char device[16], machine[200], network[64];

    device_name(device, sizeof device, once);
    machine_name(machine, sizeof machine);
    snprintf(network, sizeof network, "%s %u", once->model.arch.name, once->model.arch.width);
    json_object_update_new(
        line, json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:s, s:I, s:s}",
                        "schema", EXP_SCHEMA, "kind", "run", "plan", plan->name, "key", run->key,
                        "base", plan->bases[run->base].name, "network", network, "protocol",
                        protocol->name, "base_count", (json_int_t)protocol->base, "count",
                        (json_int_t)run->count, "step_count", (json_int_t)protocol->steps, "group",
                        (json_int_t)run->group, "order", plan->orders.values[run->order], "seed",
                        (json_int_t)run->seed, "budget", plan->budgets[run->budget].name));
    json_object_update_new(
        line,
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:s, s:I, s:i}", "method", variant->method,
                  "label", variant->label, "exemplars", (json_int_t)variant->exemplars, "probes",
                  (json_int_t)plan->probes, "per_class", (json_int_t)plan->per_class, "version",
                  FROSTLINE_VERSION, "device", device, "machine", machine, "threads",
                  (json_int_t)plan->threads, "workers", workers));
    put_settings(line, variant);
}

static void put_totals(json_t *line, const struct once *once, const struct exp_accuracy *last)
{
    const double steps = (double)once->plan->protocols[once->run->protocol].steps;

    exp_accuracy_put(line, last);
    json_object_set_new(line, "average", json_real(100 * once->sum / steps));
    json_object_set_new(line, "image_passes", json_real(once->passes));
    json_object_set_new(line, "seconds", json_real(once->seconds));
    json_object_set_new(line, "cpu_seconds", json_real(once->cpu_seconds));
    json_object_set_new(line, "peak_bytes", json_integer((json_int_t)once->peak_bytes));
    json_object_set_new(line, "delta_bytes", json_integer((json_int_t)once->delta_bytes));
    json_object_set_new(line, "model_bytes",
                        json_integer((json_int_t)exp_encoded_bytes(&once->model)));
}

/* Base, exemplars, and the images of the new classes; the rest of the training data is given back.
 */
static enum delta_status prepare(struct once *once, struct learner_samples *train,
                                 const struct exp_files *files, struct delta_error *err)
{
    const struct learner_experiment *plan = once->plan;
    const struct exp_run *run = once->run;
    const size_t total = run->count * (size_t)plan->protocols[run->protocol].steps;
    const size_t first = (size_t)plan->protocols[run->protocol].base + run->group * total;
    struct delta_class_id *ids = delta_calloc(total + 1, sizeof *ids);
    enum delta_status st = ids ? DELTA_OK : delta_fail(err, DELTA_NO_MEMORY, "out of memory");

    if (!st)
        st = exp_base_open(&once->model, plan, run, files->base, err);
    once->base_count = once->model.class_count;
    snprintf(once->blocks, sizeof once->blocks, "%zu", once->base_count);
    for (size_t i = 0; !st && i < total; i++)
        ids[i] = plan->test.classes[exp_order(plan, run->order)[first + i]];
    if (!st)
        st = learner_samples_select(&once->future, train, ids, total, 0, err);
    if (!st && plan->variants[run->variant].exemplars < 0)
        st = learner_samples_select(&once->exemplars.replay, train, once->model.classes,
                                    once->model.class_count, 0, err);
    else if (!st && files->exemplars[0])
        st = learner_exemplars_load(&once->exemplars, files->exemplars, err);
    once->replays = plan->variants[run->variant].exemplars != 0;
    learner_samples_release(train);
    free(ids);
    return st;
}

enum delta_status exp_run_once(json_t **out, const struct learner_experiment *plan,
                               struct learner_samples *train, const struct exp_run *run,
                               const struct exp_files *files, int workers, struct exp_pulse *pulse,
                               struct delta_error *err)
{
    const size_t count = (size_t)plan->protocols[run->protocol].steps;
    struct once once = {.plan = plan, .run = run, .stages = {.pulse = pulse}};
    struct exp_accuracy last = {0};
    struct delta_digest digest;
    char hex[DELTA_DIGEST_HEX];
    json_t *line = json_object(), *steps = json_array();
    enum delta_status st =
        line && steps ? DELTA_OK : delta_fail(err, DELTA_NO_MEMORY, "out of memory");

    exp_pulse_start(pulse, count, exp_now_ms());
    if (!st)
        st = prepare(&once, train, files, err);
    if (!st)
        st = delta_model_digest(&once.model, &digest, err);
    if (!st) {
        delta_digest_hex(hex, &digest);
        json_object_set_new(line, "base_digest", json_string(hex));
        json_object_set_new(line, "base_bytes",
                            json_integer((json_int_t)exp_encoded_bytes(&once.model)));
    }
    for (size_t i = 0; !st && i < count; i++) {
        st = take_step(steps, &last, &once, i, err);
        exp_pulse_step(pulse, exp_now_ms());
    }
    if (!st) {
        put_run(line, &once, workers);
        put_totals(line, &once, &last);
        json_object_set(line, "steps", steps);
        *out = json_incref(line);
    }
    json_decref(steps);
    json_decref(line);
    once_release(&once);
    return st;
}
