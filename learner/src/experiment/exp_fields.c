/* The keys of a plan, as tables: they parse, refuse and make the manual. */
#include "exp_plan.h"

#include <stdio.h>

#include "learner/networks.h"

#define MAX_SCHEMA_BYTES ((size_t)1 << 20)
#define PLAN(member) offsetof(struct learner_experiment, member)
#define BASE(member) offsetof(struct exp_base, member)
#define PROTOCOL(member) offsetof(struct exp_protocol, member)
#define BUDGET(member) offsetof(struct exp_budget, member)

const struct exp_field exp_plan_fields[EXP_PLAN_FIELDS] = {
    {"schema", EXP_INT, PLAN(size), 1, 1, true,
     "version of this schema: 1"}, /* read once more below */
    {"name", EXP_TEXT, PLAN(name), 0, 0, true,
     "short name; files of pictures begin with it: letters, digits, - and _"},
    {"title", EXP_TEXT, PLAN(title), 0, 0, false, "title of tables and pictures"},
    {"description", EXP_TEXT, PLAN(description), 0, 0, false, "a sentence below the title"},
    {"data", EXP_TEXT, PLAN(data), 0, 0, false,
     "data source; --data goes before it, and without either FROSTLINE_DATA"},
    {"size", EXP_INT, PLAN(size), 0, 1024, false, "pixels a side of folders' images; default 32"},
    {"per_class", EXP_INT, PLAN(per_class), 0, 1e9, false,
     "samples of each new class; 0, the default: all"},
    {"exemplars", EXP_INT, PLAN(exemplars), 0, 10000, false,
     "samples of each old class to replay, herded; default 20"},
    {"probes", EXP_INT, PLAN(probes), 0, 10000, false,
     "samples of each old class for the guard; default 5"},
    {"pool", EXP_INT, PLAN(pool), 0, 1e9, false,
     "samples of each old class to choose them from; 0, the default: all"},
    {"guard", EXP_BOOL, PLAN(guard), 0, 0, false,
     "whether a method's guard may reject; false: every result is measured"},
    {"threads", EXP_INT, PLAN(threads), 1, 1024, false,
     "threads of each run; 1, so that every core has a run"},
    {"workers", EXP_INT, PLAN(workers), 0, 1024, false,
     "runs at once, at most; 0: as many as there are cores; 1 where seconds are compared"},
    {"orders", EXP_TEXTS, PLAN(orders), 0, 0, false,
     "class orders: source (default), pycil:SEED (NumPy's permutation, as PyCIL's), seed:N, or a "
     "file of labels"},
    {"seeds", EXP_INTS, PLAN(seeds), 0, 9e15, false, "default 1"},
    {"reference", EXP_TEXT, PLAN(reference), 0, 0, false,
     "label of the row that gaps are measured to; the first row of method joint"},
    {"pictures", EXP_TEXTS, PLAN(pictures), 0, 0, false,
     "steps (accuracy by classes learned), seconds (accuracy by time), growth (memory and files by "
     "classes learned), overhead (bars of time), bars (old and new of each row), sweep:KNOB "
     "(accuracy by a knob)"},
    {"bases", EXP_OBJECTS, 0, 0, 0, true, "base networks: a list of objects"},
    {"protocols", EXP_OBJECTS, 0, 0, 0, true, "what is learned after it: a list of objects"},
    {"methods", EXP_OBJECTS, 0, 0, 0, true,
     "rows: a list of objects; do-nothing is added where it is missing"},
    {"budgets", EXP_OBJECTS, 0, 0, 0, false, "limits of each increment: a list of objects"},
    {"small", EXP_OBJECT, 0, 0, 0, false,
     "keys of the plan that --small replaces by these, for minutes instead of days"},
    {.name = NULL}};

const struct exp_field exp_base_fields[] = {
    {"name", EXP_TEXT, BASE(name), 0, 0, true, "its name in tables; --base NAME=FILE replaces it"},
    {"model", EXP_TEXT, BASE(model), 0, 0, false, ".flm or .safetensors, relative to the plan"},
    {"pretrain", EXP_OBJECT, 0, 0, 0, false,
     "instead of model: trained once on the classes that a protocol begins with, and kept"},
    {.name = NULL}};

const struct exp_field exp_pretrain_fields[] = {
    {"arch", EXP_TEXT, BASE(arch), 0, 0, true, LEARNER_NETWORK_NAMES},
    {"stem", EXP_TEXT, BASE(stem), 0, 0, false, "cifar, the default, or imagenet"},
    {"width", EXP_INT, BASE(width), 0, 1024, false, "channels; mobilenet_v2: percent"},
    {"epochs", EXP_INT, BASE(epochs), 1, 10000, false, "passes over the data; default 30"},
    {"batch", EXP_INT, BASE(batch), 1, 1024, false, "images a step; default 128"},
    {"lr", EXP_REAL, BASE(lr), 0, 10, false, "largest step size; default 0.1"},
    {"weight_decay", EXP_REAL, BASE(weight_decay), 0, 1, false, "default 5e-4"},
    {"mixup", EXP_REAL, BASE(mixup), 0, 1, false, "off by default"},
    {"cutout", EXP_INT, BASE(cutout), 0, 1024, false, "off by default"},
    {"label_smoothing", EXP_REAL, BASE(label_smoothing), 0, 0.5, false, "off by default"},
    {"ema", EXP_REAL, BASE(ema), 0, 0.999999, false, "off by default"},
    {"augment", EXP_BOOL, BASE(augment), 0, 0, false, "random crops and mirrors; default true"},
    {"per_class", EXP_INT, BASE(per_class), 0, 1e9, false, "training images a class; 0: all"},
    {"seed", EXP_INT, BASE(seed), 0, 9e15, false, "of the training; default 1"},
    {"threads", EXP_INT, BASE(threads), 1, 1024, false, "the plan's"},
    {.name = NULL}};

const struct exp_field exp_protocol_fields[] = {
    {"name", EXP_TEXT, PROTOCOL(name), 0, 0, true, "P1, P2, ..."},
    {"base", EXP_INT, PROTOCOL(base), 1, 65535, true, "classes that the base knows"},
    {"classes", EXP_INTS, PROTOCOL(count), 1, 1000, true, "classes learned at a time, or a list"},
    {"steps", EXP_INT, PROTOCOL(steps), 1, 1000, false, "increments one after the other; 1"},
    {"groups", EXP_INT, PROTOCOL(groups), 1, 1000, false,
     "repetitions with other held-out classes; as many as there are for one step of at most two "
     "classes, otherwise 1"},
    {.name = NULL}};

const struct exp_field exp_budget_fields[] = {
    {"name", EXP_TEXT, BUDGET(name), 0, 0, true, "its name in tables"},
    {"time_s", EXP_REAL, BUDGET(time_s), 0, 1e8, false, "seconds of an increment; 0: no limit"},
    {"memory_mb", EXP_INT, BUDGET(memory_mb), 0, 1e7, false, "peak of the process; 0: no limit"},
    {.name = NULL}};

/* ---- the manual ---- */

static enum delta_status describe(struct delta_buf *out, const char *head,
                                  const struct exp_field *fields, struct delta_error *err)
{
    char line[512];
    size_t len = (size_t)snprintf(line, sizeof line, "%s:\n", head);
    enum delta_status st = delta_buf_append(out, line, len, err);

    for (; !st && fields->name; fields++) {
        len = (size_t)snprintf(line, sizeof line, "  %-16s %s%s\n", fields->name,
                               fields->required ? "required; " : "", fields->help);
        st = delta_buf_append(out, line, len, err);
    }
    return st ? st : delta_buf_append(out, "\n", 1, err);
}

enum delta_status learner_experiment_schema(struct delta_buf *out, struct delta_error *err)
{
    struct exp_field knobs[EXP_KNOBS_MAX + 4] = {
        {"method", EXP_TEXT, 0, 0, 0, true, "its name"},
        {"label", EXP_TEXT, 0, 0, 0, false, "the row's name in tables"},
        {"exemplars", EXP_INT, 0, 0, 0, false, "instead of the plan's; \"all\": every old sample"}};
    enum delta_status st;

    for (size_t k = 0; exp_knobs[k].name; k++)
        knobs[3 + k] = (struct exp_field){exp_knobs[k].name, exp_knobs[k].kind, 0, 0, 0, false,
                                          exp_knobs[k].help};
    delta_buf_init(out, MAX_SCHEMA_BYTES);
    st = describe(out, "Keys of a plan", exp_plan_fields, err);
    if (!st)
        st = describe(out, "Each of bases", exp_base_fields, err);
    if (!st)
        st = describe(out, "pretrain of a base", exp_pretrain_fields, err);
    if (!st)
        st = describe(out, "Each of protocols", exp_protocol_fields, err);
    if (!st)
        st = describe(out, "Each of methods, values or lists of values, every combination a row",
                      knobs, err);
    if (!st)
        st = describe(out, "Each of budgets", exp_budget_fields, err);
    if (st)
        delta_buf_release(out);
    return st;
}
