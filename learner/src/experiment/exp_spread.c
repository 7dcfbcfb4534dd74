/* From a plan to its runs: data and orders are looked at, bases that are files are checked, and
 * every run gets the key by which a results file knows it again. */
#include "exp_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "delta/safetensors.h"

#define FEW_CLASSES 2 /* at most so many at a time: averaged over all that are held out */

/* ---- bases ---- */

static bool is_unnamed(const struct delta_model *model)
{
    char name[32];

    for (size_t i = 0; i < model->class_count; i++) {
        snprintf(name, sizeof name, "class-%zu", i);
        if (strcmp(model->classes[i].text, name) != 0)
            return false;
    }
    return true;
}

/* Every class of the model must be among the first of the order: the others are held out. */
static enum delta_status check_classes(const struct delta_model *model,
                                       const struct learner_experiment *plan,
                                       const struct exp_run *run, const char *path,
                                       struct delta_error *err)
{
    const uint32_t *order = exp_order(plan, run->order);

    for (size_t i = 0; i < model->class_count; i++)
        if (delta_model_class_index(model, plan->test.classes[order[i]].text) < 0)
            return delta_fail(err, DELTA_MISMATCH,
                              "base '%s' lacks class '%s', one of the first %zu of order %s", path,
                              plan->test.classes[order[i]].text, model->class_count,
                              plan->orders.values[run->order]);
    return DELTA_OK;
}

enum delta_status exp_base_open(struct delta_model *out, const struct learner_experiment *plan,
                                const struct exp_run *run, const char *path,
                                struct delta_error *err)
{
    const struct exp_protocol *protocol = &plan->protocols[run->protocol];
    struct delta_model model = DELTA_MODEL_INIT;
    enum delta_status st = delta_model_load_any(&model, path, NULL, NULL, err);

    if (!st && model.class_count != (size_t)protocol->base)
        st = delta_fail(err, DELTA_MISMATCH,
                        "base '%s' has %zu outputs, protocol %s begins with %zu classes", path,
                        model.class_count, protocol->name, (size_t)protocol->base);
    if (!st && model.arch.height != plan->test.height)
        st = delta_fail(err, DELTA_MISMATCH,
                        "base '%s' takes images of %u pixels, the data's have %u; give \"size\"",
                        path, model.arch.height, plan->test.height);
    if (!st && is_unnamed(&model) && plan->orders.count > 1)
        st = delta_fail(err, DELTA_MISMATCH,
                        "base '%s' does not name its outputs, and the plan has several orders",
                        path);
    if (!st && is_unnamed(&model))
        for (size_t i = 0; i < model.class_count; i++)
            model.classes[i] = plan->test.classes[exp_order(plan, run->order)[i]];
    if (!st)
        st = check_classes(&model, plan, run, path, err);
    if (st)
        delta_model_release(&model);
    else
        *out = model;
    return st;
}

/* Model files: found, digested, and fitting every protocol and order of the plan. */
static enum delta_status check_base(struct learner_experiment *plan, size_t index,
                                    struct delta_error *err)
{
    struct exp_base *base = &plan->bases[index];
    struct delta_digest digest;
    enum delta_status st = delta_sha256_file(base->path, &digest, NULL, err);

    if (st)
        return st;
    delta_digest_hex(base->file_digest, &digest);
    for (size_t p = 0; !st && p < plan->protocol_count; p++)
        for (size_t o = 0; !st && o < plan->orders.count; o++) {
            const struct exp_run run = {.base = index, .protocol = p, .order = o};
            struct delta_model model = DELTA_MODEL_INIT;
            st = exp_base_open(&model, plan, &run, base->path, err);
            delta_model_release(&model);
        }
    return st;
}

/* ---- data and orders ---- */

static enum delta_status open_data(struct learner_experiment *plan, struct delta_error *err)
{
    enum delta_status st =
        learner_samples_open_sized(&plan->test, plan->data, LEARNER_SPLIT_TEST,
                                   (uint32_t)plan->size, (uint32_t)plan->size, err);

    if (st)
        return st;
    plan->order_labels =
        delta_calloc(plan->orders.count * plan->test.class_count + 1, sizeof(uint32_t));
    if (!plan->order_labels)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t o = 0; !st && o < plan->orders.count; o++)
        st = exp_order_make(plan->order_labels + o * plan->test.class_count, plan->test.class_count,
                            plan->orders.values[o], plan->dir, err);
    return st;
}

static enum delta_status check_protocols(const struct learner_experiment *plan,
                                         struct delta_error *err)
{
    for (size_t p = 0; p < plan->protocol_count; p++) {
        const struct exp_protocol *protocol = &plan->protocols[p];
        for (size_t k = 0; k < protocol->count.count; k++) {
            const size_t last = (size_t)protocol->base +
                                (size_t)protocol->steps * (size_t)protocol->count.values[k];
            if (last > plan->test.class_count)
                return delta_fail(err, DELTA_MISMATCH,
                                  "'%s', protocol %s: %zu + %zu x %zu classes are wanted, the data "
                                  "has %zu",
                                  plan->path, protocol->name, (size_t)protocol->base,
                                  (size_t)protocol->steps, (size_t)protocol->count.values[k],
                                  plan->test.class_count);
        }
    }
    return DELTA_OK;
}

static size_t group_count(const struct learner_experiment *plan,
                          const struct exp_protocol *protocol, size_t count)
{
    const size_t each = (size_t)protocol->steps * count;
    const size_t there = (plan->test.class_count - (size_t)protocol->base) / each;

    if (protocol->groups)
        return (size_t)protocol->groups < there ? (size_t)protocol->groups : there;
    return protocol->steps == 1 && count <= FEW_CLASSES ? there : 1;
}

/* ---- keys ---- */

/* Data that a name says all about; a directory may move, and is taken for the same. */
static bool is_drawn(const struct learner_experiment *plan)
{
    return strncmp(plan->data, "synthetic", 9) == 0;
}

void exp_base_text(char *out, size_t size, const struct learner_experiment *plan,
                   const struct exp_run *run)
{
    const struct exp_base *base = &plan->bases[run->base];
    const uint32_t *order = exp_order(plan, run->order);
    const size_t count = (size_t)plan->protocols[run->protocol].base;
    const struct delta_digest labels = delta_sha256(delta_bytes(order, count * sizeof *order));
    const bool drawn = is_drawn(plan);
    char hex[DELTA_DIGEST_HEX];

    delta_digest_hex(hex, &labels);
    if (!base->pretrained)
        snprintf(out, size, "file %s classes %zu of %s", base->file_digest, count, hex);
    else
        snprintf(out, size,
                 "%s %s width %lld epochs %lld batch %lld lr %.9g decay %.9g mixup %.9g cutout "
                 "%lld smoothing %.9g ema %.9g augment %d per class %lld seed %lld threads %lld "
                 "classes %zu of %s size %u data %s",
                 base->arch, base->stem, (long long)base->width, (long long)base->epochs,
                 (long long)base->batch, base->lr, base->weight_decay, base->mixup,
                 (long long)base->cutout, base->label_smoothing, base->ema, base->augment,
                 (long long)base->per_class, (long long)base->seed,
                 (long long)(base->threads ? base->threads : plan->threads), count, hex,
                 plan->test.height, drawn ? plan->data : "directory");
}

/* What a person reads, and a digest of all that decides about the numbers. */
static void make_key(struct exp_run *run, const struct learner_experiment *plan)
{
    const struct exp_protocol *protocol = &plan->protocols[run->protocol];
    const struct exp_variant *variant = &plan->variants[run->variant];
    const struct exp_budget *budget = &plan->budgets[run->budget];
    const uint32_t *order = exp_order(plan, run->order);
    const struct learner_increment_options options = exp_variant_options(plan, variant);
    char base[700], knobs[900], all[2800], hex[DELTA_DIGEST_HEX];
    struct delta_digest digest =
        delta_sha256(delta_bytes(order, plan->test.class_count * sizeof *order));

    exp_base_text(base, sizeof base, plan, run);
    exp_options_text(knobs, sizeof knobs, &options);
    delta_digest_hex(hex, &digest);
    snprintf(all, sizeof all,
             "%s|%s|%s|%lld+%lldx%zu group %zu|%s %s exemplars %lld probes %lld pool %lld|per "
             "class %lld guard %d|seed %llu|time %.9g memory %lld|device %s threads %lld",
             is_drawn(plan) ? plan->data : "directory", base, hex, (long long)protocol->base,
             (long long)protocol->steps, run->count, run->group, variant->method, knobs,
             (long long)variant->exemplars, (long long)plan->probes, (long long)plan->pool,
             (long long)plan->per_class, plan->guard, (unsigned long long)run->seed, budget->time_s,
             (long long)budget->memory_mb, plan->device, (long long)plan->threads);
    digest = delta_sha256(delta_bytes(all, strlen(all)));
    delta_digest_hex(hex, &digest);
    snprintf(run->key, sizeof run->key, "%s/%s/%zu/%zu/%s/%s/seed %llu%s%s/%.12s",
             plan->bases[run->base].name, protocol->name, run->count, run->group, variant->label,
             plan->orders.values[run->order], (unsigned long long)run->seed,
             budget->name[0] ? "/" : "", budget->name, hex);
}

/* ---- runs ---- */

static enum delta_status add_run(struct learner_experiment *plan, size_t *room,
                                 const struct exp_run *run, struct delta_error *err)
{
    if (plan->run_count == EXP_RUNS_MAX)
        return delta_fail(err, DELTA_LIMIT, "'%s' makes more than %d runs", plan->path,
                          EXP_RUNS_MAX);
    if (plan->run_count == *room) {
        const size_t more = *room ? 2 * *room : 64;
        struct exp_run *runs = realloc(plan->runs, more * sizeof *runs);
        if (!runs)
            return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
        plan->runs = runs;
        *room = more;
    }
    plan->runs[plan->run_count] = *run;
    make_key(&plan->runs[plan->run_count++], plan);
    return DELTA_OK;
}

/* All rows of one seed and group stand together: a table is complete early. */
static enum delta_status spread_protocol(struct learner_experiment *plan, struct exp_run run,
                                         size_t *room, struct delta_error *err)
{
    const struct exp_protocol *protocol = &plan->protocols[run.protocol];
    enum delta_status st = DELTA_OK;

    for (size_t s = 0; s < plan->seeds.count; s++)
        for (size_t k = 0; k < protocol->count.count; k++) {
            run.seed = (uint64_t)plan->seeds.values[s];
            run.count = (size_t)protocol->count.values[k];
            const size_t groups = group_count(plan, protocol, run.count);
            for (run.group = 0; !st && run.group < groups; run.group++)
                for (run.budget = 0; !st && run.budget < plan->budget_count; run.budget++)
                    for (run.variant = 0; !st && run.variant < plan->variant_count; run.variant++)
                        st = add_run(plan, room, &run, err);
        }
    return st;
}

enum delta_status exp_spread(struct learner_experiment *plan, struct delta_error *err)
{
    enum delta_status st = open_data(plan, err);
    struct exp_run run = {0};
    size_t room = 0;

    if (!st)
        st = check_protocols(plan, err);
    for (size_t b = 0; !st && b < plan->base_count; b++)
        if (!plan->bases[b].pretrained)
            st = check_base(plan, b, err);
    for (run.base = 0; !st && run.base < plan->base_count; run.base++)
        for (run.protocol = 0; !st && run.protocol < plan->protocol_count; run.protocol++)
            for (run.order = 0; !st && run.order < plan->orders.count; run.order++)
                st = spread_protocol(plan, run, &room, err);
    return st;
}
