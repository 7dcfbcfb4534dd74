/* Reading plans, by the tables of exp_fields.c, and what a command line says instead. */
#include "exp_plan.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "learner/networks.h"

#define MAX_PLAN_BYTES ((size_t)4 << 20)

static bool plain_name(const char *name)
{
    return name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")] ==
               '\0' &&
           strlen(name) < 64;
}

static enum delta_status read_base(struct exp_base *base, const json_t *object,
                                   const struct exp_source *source, const struct exp_place *place,
                                   struct delta_error *err)
{
    const struct exp_place deeper = {place, "pretrain", 0};
    const struct exp_place arch_place = {&deeper, "arch", 0};
    const json_t *pretrain = json_object_get(object, "pretrain");
    struct delta_arch arch;
    struct delta_error why = DELTA_ERROR_INIT;
    enum delta_status st;

    *base = (struct exp_base){.stem = "cifar",
                              .epochs = 30,
                              .batch = 128,
                              .seed = 1,
                              .lr = 0.1,
                              .weight_decay = 5e-4,
                              .augment = true};
    st = exp_read(base, exp_base_fields, NULL, object, source, place, err);
    if (!st && !base->model == !pretrain)
        st = exp_refuse(err, source, place, "either 'model' or 'pretrain' is wanted");
    if (!st && !plain_name(base->name))
        st =
            exp_refuse(err, source, place, "name '%s' is not letters, digits, - and _", base->name);
    if (st || !pretrain)
        return st;
    base->pretrained = true;
    st = exp_read(base, exp_pretrain_fields, NULL, pretrain, source, &deeper, err);
    if (!st &&
        learner_network_arch(&arch, base->arch, base->stem, (uint32_t)base->width, 3, 32, 32, &why))
        st = exp_refuse(err, source, &arch_place, "%s", why.text);
    return st;
}

static enum delta_status read_bases(struct learner_experiment *plan,
                                    const struct exp_source *source, const struct exp_place *place,
                                    struct delta_error *err)
{
    const json_t *list = json_object_get(plan->root, "bases");
    enum delta_status st = DELTA_OK;

    if (json_array_size(list) > EXP_BASES_MAX)
        return exp_refuse(err, source, place, "more than %d bases", EXP_BASES_MAX);
    for (size_t i = 0; !st && i < json_array_size(list); i++) {
        const struct exp_place here = {place, NULL, i};
        st = read_base(&plan->bases[i], json_array_get(list, i), source, &here, err);
        for (size_t j = 0; !st && j < i; j++)
            if (strcmp(plan->bases[j].name, plan->bases[i].name) == 0)
                st = exp_refuse(err, source, &here, "name '%s' stands there twice",
                                plan->bases[i].name);
        plan->base_count = i + 1;
    }
    return st;
}

static enum delta_status read_protocols(struct learner_experiment *plan,
                                        const struct exp_source *source,
                                        const struct exp_place *place, struct delta_error *err)
{
    const json_t *list = json_object_get(plan->root, "protocols");
    enum delta_status st = DELTA_OK;

    if (json_array_size(list) > EXP_PROTOCOLS_MAX)
        return exp_refuse(err, source, place, "more than %d protocols", EXP_PROTOCOLS_MAX);
    for (size_t i = 0; !st && i < json_array_size(list); i++) {
        const struct exp_place here = {place, NULL, i};
        plan->protocols[i] = (struct exp_protocol){.steps = 1};
        st = exp_read(&plan->protocols[i], exp_protocol_fields, NULL, json_array_get(list, i),
                      source, &here, err);
        for (size_t j = 0; !st && j < i; j++)
            if (strcmp(plan->protocols[j].name, plan->protocols[i].name) == 0)
                st = exp_refuse(err, source, &here, "name '%s' stands there twice",
                                plan->protocols[i].name);
        plan->protocol_count = i + 1;
    }
    return st;
}

static enum delta_status read_budgets(struct learner_experiment *plan,
                                      const struct exp_source *source,
                                      const struct exp_place *place, struct delta_error *err)
{
    const json_t *list = json_object_get(plan->root, "budgets");
    enum delta_status st = DELTA_OK;

    if (json_array_size(list) > EXP_BUDGETS_MAX)
        return exp_refuse(err, source, place, "more than %d budgets", EXP_BUDGETS_MAX);
    plan->budget_count = json_array_size(list);
    for (size_t i = 0; !st && i < plan->budget_count; i++) {
        const struct exp_place here = {place, NULL, i};
        st = exp_read(&plan->budgets[i], exp_budget_fields, NULL, json_array_get(list, i), source,
                      &here, err);
    }
    if (plan->budget_count == 0) {
        plan->budgets[0] = (struct exp_budget){"", 0, 0};
        plan->budget_count = 1;
    }
    return st;
}

/* The plan's keys once "small" has been applied, or as they are. */
static enum delta_status apply_small(struct learner_experiment *plan,
                                     const struct exp_source *source, bool small,
                                     struct delta_error *err)
{
    const struct exp_place root = {NULL, NULL, 0}, place = {&root, "small", 0};
    json_t *part = json_object_get(plan->root, "small");
    const char *key;
    json_t *value;
    struct learner_experiment *scratch = delta_calloc(1, sizeof *scratch);
    struct exp_field fields[EXP_PLAN_FIELDS];
    enum delta_status st;

    if (!scratch)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    memcpy(fields, exp_plan_fields, sizeof fields);
    for (size_t i = 0; fields[i].name; i++)
        fields[i].required = false;
    st = part ? exp_read(scratch, fields, NULL, part, source, &place, err) : DELTA_OK;
    free(scratch);
    if (st)
        return st;
    json_object_foreach(part, key, value)
    {
        const struct exp_place here = {&place, key, 0};
        if (strcmp(key, "small") == 0 || strcmp(key, "schema") == 0)
            return exp_refuse(err, source, &here, "this key cannot be made small");
    }
    if (!small)
        return DELTA_OK;
    if (!part)
        return exp_refuse(err, source, &root, "--small, but there is no key 'small'");
    return json_object_update(plan->root, part) ? delta_fail(err, DELTA_NO_MEMORY, "out of memory")
                                                : DELTA_OK;
}

/* "NAME=FILE" makes that base a model file. */
static enum delta_status replace_base(struct learner_experiment *plan, const char *text,
                                      struct delta_error *err)
{
    const char *equals = strchr(text, '=');
    const size_t len = equals ? (size_t)(equals - text) : 0;

    for (size_t i = 0; equals && equals[1] && i < plan->base_count; i++) {
        struct exp_base *base = &plan->bases[i];
        if (strncmp(base->name, text, len) != 0 || base->name[len])
            continue;
        base->model = equals + 1;
        base->pretrained = false;
        snprintf(base->path, sizeof base->path, "%s", equals + 1);
        return DELTA_OK;
    }
    return delta_fail(err, DELTA_USAGE,
                      "base '%s' is not NAME=FILE with the name of one of the plan's bases", text);
}

static enum delta_status apply_choice(struct learner_experiment *plan,
                                      const struct learner_experiment_choice *choice,
                                      struct delta_error *err)
{
    const char *from_environment = getenv("FROSTLINE_DATA");
    enum delta_status st = DELTA_OK;

    plan->data = choice->data ? choice->data : plan->data ? plan->data : from_environment;
    plan->device = choice->device ? choice->device : "auto";
    if (choice->threads)
        plan->threads = choice->threads;
    for (size_t i = 0; !st && i < plan->base_count; i++) {
        struct exp_base *base = &plan->bases[i];
        if (base->model && base->model[0] == '/')
            snprintf(base->path, sizeof base->path, "%s", base->model);
        else if (base->model)
            st = delta_path_join(base->path, sizeof base->path, plan->dir, base->model, err);
    }
    for (size_t i = 0; !st && i < choice->base_count; i++)
        st = replace_base(plan, choice->bases[i], err);
    if (!st && !plan->data)
        st = delta_fail(err, DELTA_USAGE,
                        "'%s' names no data; give --data SOURCE or set FROSTLINE_DATA", plan->path);
    return st;
}

static bool known_picture(const char *name)
{
    static const char *const names[] = {"steps", "seconds", "growth", "overhead", "bars"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    for (size_t k = 0; exp_knobs[k].name; k++)
        if (strncmp(name, "sweep:", 6) == 0 && strcmp(name + 6, exp_knobs[k].name) == 0)
            return true;
    return false;
}

static enum delta_status check_names(const struct learner_experiment *plan,
                                     const struct exp_source *source, struct delta_error *err)
{
    const struct exp_place root = {NULL, NULL, 0}, name = {&root, "name", 0};
    const struct exp_place list = {&root, "pictures", 0}, reference = {&root, "reference", 0};
    bool found = !plan->reference;

    if (!plain_name(plan->name))
        return exp_refuse(err, source, &name, "'%s' is not letters, digits, - and _", plan->name);
    for (size_t i = 0; i < plan->pictures.count; i++) {
        const struct exp_place here = {&list, NULL, i};
        if (!known_picture(plan->pictures.values[i]))
            return exp_refuse(err, source, &here,
                              "picture '%s' is unknown; there are steps, seconds, growth, "
                              "overhead, bars, sweep:KNOB",
                              plan->pictures.values[i]);
    }
    for (size_t i = 0; i < plan->variant_count; i++)
        found |= plan->reference && strcmp(plan->variants[i].label, plan->reference) == 0;
    return found ? DELTA_OK
                 : exp_refuse(err, source, &reference, "there is no row '%s'", plan->reference);
}

static enum delta_status read_plan(struct learner_experiment *plan, const struct exp_source *source,
                                   struct delta_error *err)
{
    const struct exp_place root = {NULL, NULL, 0};
    const struct exp_place bases = {&root, "bases", 0}, protocols = {&root, "protocols", 0};
    const struct exp_place methods = {&root, "methods", 0}, budgets = {&root, "budgets", 0};
    enum delta_status st;

    plan->exemplars = 20;
    plan->probes = 5;
    plan->threads = 1;
    plan->orders = (struct exp_texts){{"source"}, 1};
    plan->seeds = (struct exp_numbers){{1}, 1};
    st = exp_read(plan, exp_plan_fields, NULL, plan->root, source, &root, err);
    plan->size = json_integer_value(json_object_get(plan->root, "size")); /* not "schema" */
    if (!st)
        st = read_bases(plan, source, &bases, err);
    if (!st)
        st = read_protocols(plan, source, &protocols, err);
    if (!st)
        st = read_budgets(plan, source, &budgets, err);
    if (!st)
        st = exp_read_methods(plan, source, &methods, err);
    return st ? st : check_names(plan, source, err);
}

static enum delta_status read_file(struct learner_experiment *plan, const char *path,
                                   struct delta_error *err)
{
    struct delta_buf file = {0};
    json_error_t error;
    const char *slash = strrchr(path, '/');
    enum delta_status st = delta_file_read(path, MAX_PLAN_BYTES, &file, err);

    if (!st)
        st = delta_buf_append(&file, "", 1, err);
    if (st)
        return st;
    plan->text = (char *)file.data;
    plan->path_copy = strdup(path);
    if (!plan->path_copy)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    plan->path = plan->path_copy;
    snprintf(plan->dir, sizeof plan->dir, "%.*s", slash ? (int)(slash - path + 1) : 1,
             slash ? path : ".");
    plan->root = json_loads(plan->text, JSON_REJECT_DUPLICATES, &error);
    if (!plan->root)
        return delta_fail(err, DELTA_FORMAT, "'%s', line %d: %s", path, error.line, error.text);
    return DELTA_OK;
}

static bool wanted(const struct learner_experiment_choice *choice, const char *key)
{
    bool found = choice->only_count == 0;

    for (size_t i = 0; i < choice->only_count && !found; i++)
        found = fnmatch(choice->only[i], key, 0) == 0;
    return found;
}

static enum delta_status keep_wanted(struct learner_experiment *plan,
                                     const struct learner_experiment_choice *choice,
                                     struct delta_error *err)
{
    const size_t all = plan->run_count;

    plan->run_count = 0;
    for (size_t i = 0; i < all; i++)
        if (wanted(choice, plan->runs[i].key))
            plan->runs[plan->run_count++] = plan->runs[i];
    if (plan->run_count)
        return DELTA_OK;
    return delta_fail(err, DELTA_NOT_FOUND,
                      "'%s': none of the %zu runs has a key like '%s'; --list shows them",
                      plan->path, all, choice->only[0]);
}

enum delta_status learner_experiment_load(struct learner_experiment **out, const char *path,
                                          const struct learner_experiment_choice *choice,
                                          struct delta_error *err)
{
    const struct learner_experiment_choice none = {.small = false};
    struct learner_experiment *plan = delta_calloc(1, sizeof *plan);
    enum delta_status st;

    if (!plan)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    choice = choice ? choice : &none;
    st = read_file(plan, path, err);
    const struct exp_source written = {path, plan->text};
    const struct exp_source changed = {path, NULL}; /* lines of a merged plan would lie */
    if (!st)
        st = apply_small(plan, &written, choice->small, err);
    plan->small = choice->small;
    if (!st)
        st = read_plan(plan, choice->small ? &changed : &written, err);
    if (!st)
        st = apply_choice(plan, choice, err);
    if (!st)
        st = exp_spread(plan, err);
    if (!st && choice->only_count)
        st = keep_wanted(plan, choice, err);
    if (st) {
        learner_experiment_free(plan);
        return st;
    }
    *out = plan;
    return DELTA_OK;
}

void learner_experiment_free(struct learner_experiment *plan)
{
    if (!plan)
        return;
    json_decref(plan->root);
    free(plan->text);
    free(plan->path_copy);
    free(plan->variants);
    free(plan->runs);
    free(plan->order_labels);
    learner_samples_release(&plan->test);
    free(plan);
}

size_t learner_experiment_run_count(const struct learner_experiment *plan)
{
    return plan->run_count;
}

const char *learner_experiment_run_key(const struct learner_experiment *plan, size_t index)
{
    return index < plan->run_count ? plan->runs[index].key : NULL;
}

const char *learner_experiment_name(const struct learner_experiment *plan)
{
    return plan->name;
}
