/* The methods of a plan: a grid of knobs becomes variants, each with a label of its own. */
#include "exp_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "method.h"

#define VARIANTS_MAX 4096
#define OPT(member)                                                                                \
    offsetof(struct learner_increment_options, member),                                            \
        sizeof((struct learner_increment_options *)0)->member

const struct exp_knob exp_knobs[] = {
    {"stages", EXP_TEXTS, OPT(stages), 0, 0, "frostline: A, AB, ABC or AC", "A|AB|ABC|AC"},
    {"mask", EXP_TEXTS, OPT(mask), 0, 0, "freeze: importance, magnitude or random",
     "importance|magnitude|random"},
    {"ratio", EXP_REALS, OPT(ratio), 0, 1, "share frozen in each layer; packnet: pruned", NULL},
    {"epochs_new", EXP_INTS, OPT(epochs_new), 0, 10000, "epochs on new samples only", NULL},
    {"epochs_tune", EXP_INTS, OPT(epochs_tune), 0, 10000, "epochs with replay; joint: all", NULL},
    {"epochs_balance", EXP_INTS, OPT(epochs_balance), 0, 10000,
     "e2e: of the balanced phase; packnet: after pruning", NULL},
    {"batch", EXP_INTS, OPT(batch), 1, 1024, "images a step", NULL},
    {"lr", EXP_REALS, OPT(lr), 0, 10, "step size", NULL},
    {"schedule", EXP_TEXTS, OPT(schedule), 0, 0, "constant, cosine or steps",
     "constant|cosine|steps"},
    {"momentum", EXP_REALS, OPT(momentum), 0, 1, "momentum", NULL},
    {"weight_decay", EXP_REALS, OPT(weight_decay), 0, 1, "weight decay", NULL},
    {"temperature", EXP_REALS, OPT(temperature), 0.01, 100, "of distillation", NULL},
    {"kd_weight", EXP_REALS, OPT(kd_weight), 0, 1000, "weight of distillation; 0: none", NULL},
    {"adjust", EXP_REALS, OPT(adjust), 0, 10, "logit adjustment; 0: none", NULL},
    {"ema", EXP_REALS, OPT(ema), 0, 0.999999, "decay of a moving average of the weights", NULL},
    {"anchor", EXP_REALS, OPT(anchor), 0, 1e6, "frostline C: pull of the rows to their start",
     NULL},
    {"pull", EXP_REALS, OPT(pull), 0.01, 1, "frostline A: where exemplars are taken to; 1: nowhere",
     NULL},
    {"pull_tune", EXP_REALS, OPT(pull_tune), 0.01, 1, "frostline B: the same of their logits",
     NULL},
    {"round", EXP_REALS, OPT(round), 0, 100, "grid of moves, in mean moves of a row; 0: exact",
     NULL},
    {"round_head", EXP_REALS, OPT(round_head), 0, 100, "the same of the classifier", NULL},
    {"balanced", EXP_BOOLS, OPT(balanced), 0, 1, "as many images of a new class as of an old one",
     NULL},
    {"mirror", EXP_BOOLS, OPT(mirror), 0, 1, "images also mirrored", NULL},
    {"live", EXP_TEXTS, OPT(live), 0, 0, "layers that learn, by the beginnings of their names",
     NULL},
    {"start", EXP_TEXTS, OPT(start), 0, 0, "joint: base or scratch", "base|scratch"},
    {"blocks", EXP_TEXTS, OPT(blocks), 0, 0, "e2e: old classes of each earlier step", NULL},
    {"max_old_drop", EXP_REALS, OPT(max_old_drop), 0, 1, "guard: loss on old classes, 0..1", NULL},
    {"min_new_recall", EXP_REALS, OPT(min_new_recall), 0, 1, "guard: recall of new ones, 0..1",
     NULL},
    {"min_images", EXP_INTS, OPT(min_images), 0, 1e6, "guard: different pictures of a class", NULL},
    {.name = NULL}};

/* Reads or writes the member of a knob. */
static struct exp_value get_knob(const struct learner_increment_options *options,
                                 const struct exp_knob *knob)
{
    const void *at = (const char *)options + knob->offset;
    struct exp_value value = {.set = true};

    if (knob->kind == EXP_TEXTS)
        value.text = *(const char *const *)at;
    else if (knob->kind == EXP_REALS)
        value.number = *(const double *)at;
    else if (knob->kind == EXP_BOOLS)
        value.number = *(const bool *)at;
    else
        value.number =
            knob->size == sizeof(size_t) ? (double)*(const size_t *)at : *(const int *)at;
    return value;
}

static void set_knob(struct learner_increment_options *options, const struct exp_knob *knob,
                     const struct exp_value *value)
{
    void *at = (char *)options + knob->offset;

    if (knob->kind == EXP_TEXTS)
        *(const char **)at = value->text;
    else if (knob->kind == EXP_REALS)
        *(double *)at = value->number;
    else if (knob->kind == EXP_BOOLS)
        *(bool *)at = value->number != 0;
    else if (knob->size == sizeof(size_t))
        *(size_t *)at = (size_t)value->number;
    else
        *(int *)at = (int)value->number;
}

/* One entry of "methods" as read. */
struct entry {
    const char *method, *label;
    int64_t exemplars; /* -2: not said */
    struct exp_numbers numbers[EXP_KNOBS_MAX];
    struct exp_texts texts[EXP_KNOBS_MAX];
};

void exp_method_names(char *out, size_t size)
{
    size_t used = 0;

    for (const char *at = learner_method_names(); *at && used + 3 < size; at++) {
        if (*at == '|')
            out[used++] = ',';
        out[used++] = *at == '|' ? ' ' : *at;
    }
    out[used] = '\0';
}

static size_t knob_count(void)
{
    size_t count = 0;

    while (exp_knobs[count].name)
        count++;
    return count;
}

static void knob_text(char *out, size_t size, const struct exp_knob *knob,
                      const struct exp_value *value)
{
    if (knob->kind == EXP_TEXTS)
        snprintf(out, size, "%s=%s", knob->name, value->text ? value->text : "-");
    else
        snprintf(out, size, "%s=%.6g", knob->name, value->number);
}

struct learner_increment_options exp_variant_options(const struct learner_experiment *plan,
                                                     const struct exp_variant *variant)
{
    struct learner_increment_options options = learner_increment_defaults(variant->method);

    if (!plan->guard) { /* to be measured, not to be installed */
        options.max_old_drop = 1;
        options.min_new_recall = 0;
    }
    for (size_t k = 0; exp_knobs[k].name; k++)
        if (variant->knobs[k].set)
            set_knob(&options, &exp_knobs[k], &variant->knobs[k]);
    return options;
}

void exp_options_text(char *out, size_t size, const struct learner_increment_options *options)
{
    size_t used = 0;

    out[0] = '\0';
    for (size_t k = 0; exp_knobs[k].name && used < size; k++) {
        const struct exp_value value = get_knob(options, &exp_knobs[k]);
        char one[96];
        knob_text(one, sizeof one, &exp_knobs[k], &value);
        used += (size_t)snprintf(out + used, size - used, " %s", one);
    }
}

static size_t choices(const struct entry *entry, size_t knob)
{
    return exp_knobs[knob].kind == EXP_TEXTS ? entry->texts[knob].count
                                             : entry->numbers[knob].count;
}

static void label_variant(struct exp_variant *v, const struct entry *entry)
{
    size_t used = (size_t)snprintf(v->label, sizeof v->label, "%s",
                                   entry->label ? entry->label : entry->method);
    char one[96];

    for (size_t k = 0; exp_knobs[k].name && used < sizeof v->label; k++) {
        if (!v->knobs[k].set || (entry->label && choices(entry, k) < 2))
            continue;
        knob_text(one, sizeof one, &exp_knobs[k], &v->knobs[k]);
        used += (size_t)snprintf(v->label + used, sizeof v->label - used, " %s", one);
    }
}

/* Variant number `index` of an entry: digits of a mixed-radix number, the last knob fastest. */
static void set_variant(struct exp_variant *v, const struct entry *entry, size_t index,
                        const struct learner_experiment *plan)
{
    v->method = entry->method;
    for (size_t k = knob_count(); k-- > 0;) {
        const size_t count = choices(entry, k);
        if (!count)
            continue;
        v->knobs[k].set = true;
        if (exp_knobs[k].kind == EXP_TEXTS)
            v->knobs[k].text = entry->texts[k].values[index % count];
        else
            v->knobs[k].number = entry->numbers[k].values[index % count];
        index /= count;
    }
    v->exemplars = entry->exemplars >= -1            ? entry->exemplars
                   : strcmp(v->method, "joint") == 0 ? -1
                                                     : plan->exemplars;
    label_variant(v, entry);
}

static enum delta_status add_variants(struct learner_experiment *plan, const struct entry *entry,
                                      const struct exp_source *source,
                                      const struct exp_place *place, struct delta_error *err)
{
    size_t count = 1;

    for (size_t k = 0; exp_knobs[k].name; k++)
        if (choices(entry, k))
            count *= choices(entry, k);
    if (count > VARIANTS_MAX || plan->variant_count + count > VARIANTS_MAX)
        return exp_refuse(err, source, place, "more than %d settings in all", VARIANTS_MAX);
    for (size_t i = 0; i < count; i++) {
        struct exp_variant *v = &plan->variants[plan->variant_count];
        memset(v, 0, sizeof *v);
        set_variant(v, entry, i, plan);
        for (size_t j = 0; j < plan->variant_count; j++)
            if (strcmp(plan->variants[j].label, v->label) == 0)
                return exp_refuse(err, source, place,
                                  "two rows would be called '%s'; give one a \"label\"", v->label);
        plan->variant_count++;
    }
    return DELTA_OK;
}

/* "all" or a number */
static enum delta_status read_exemplars(struct entry *entry, const json_t *object,
                                        const struct exp_source *source,
                                        const struct exp_place *place, struct delta_error *err)
{
    const struct exp_place here = {place, "exemplars", 0};
    const json_t *value = json_object_get(object, "exemplars");

    if (!value)
        return DELTA_OK;
    if (json_is_string(value) && strcmp(json_string_value(value), "all") == 0) {
        entry->exemplars = -1;
        return DELTA_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) > 10000)
        return exp_refuse(err, source, &here, "a number from 0 to 10000 or \"all\" is wanted");
    entry->exemplars = json_integer_value(value);
    return DELTA_OK;
}

static bool is_one_of(const char *text, const char *choices)
{
    const size_t len = strlen(text);

    for (const char *at = choices; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL)
        if (strncmp(at, text, len) == 0 && (at[len] == '|' || !at[len]))
            return true;
    return false;
}

static enum delta_status check_texts(const struct entry *entry, const struct exp_source *source,
                                     const struct exp_place *place, struct delta_error *err)
{
    for (size_t k = 0; exp_knobs[k].name; k++) {
        const struct exp_place here = {place, exp_knobs[k].name, 0};
        for (size_t i = 0; exp_knobs[k].choices && i < entry->texts[k].count; i++)
            if (!is_one_of(entry->texts[k].values[i], exp_knobs[k].choices))
                return exp_refuse(err, source, &here, "'%s' is not one of %s",
                                  entry->texts[k].values[i], exp_knobs[k].choices);
    }
    return DELTA_OK;
}

static enum delta_status read_entry(struct entry *entry, const json_t *object,
                                    const struct exp_source *source, const struct exp_place *place,
                                    struct delta_error *err)
{
    static const struct exp_field own[] = {
        {"method", EXP_TEXT, offsetof(struct entry, method), 0, 0, true, NULL},
        {"label", EXP_TEXT, offsetof(struct entry, label), 0, 0, false, NULL},
        {.name = NULL}};
    struct exp_field knobs[EXP_KNOBS_MAX + 1] = {{.name = NULL}};
    const struct exp_place method_place = {place, "method", 0};
    json_t *plain = json_copy((json_t *)object); /* without the key of two types */
    char known[400];
    enum delta_status st;

    if (!plain)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t k = 0; exp_knobs[k].name; k++)
        knobs[k] = (struct exp_field){
            exp_knobs[k].name,
            exp_knobs[k].kind,
            exp_knobs[k].kind == EXP_TEXTS
                ? offsetof(struct entry, texts) + k * sizeof(struct exp_texts)
                : offsetof(struct entry, numbers) + k * sizeof(struct exp_numbers),
            exp_knobs[k].low,
            exp_knobs[k].high,
            false,
            exp_knobs[k].help};
    entry->exemplars = -2;
    st = read_exemplars(entry, object, source, place, err);
    json_object_del(plain, "exemplars");
    if (!st)
        st = exp_read(entry, own, knobs, plain, source, place, err);
    if (!st)
        st = check_texts(entry, source, place, err);
    json_decref(plain);
    if (st || learner_method_find(entry->method))
        return st;
    exp_method_names(known, sizeof known);
    exp_refuse(err, source, &method_place, "method '%s' is unknown; there are %s", entry->method,
               known);
    if (err)
        err->status = DELTA_UNSUPPORTED;
    return DELTA_UNSUPPORTED;
}

enum delta_status exp_read_methods(struct learner_experiment *plan, const struct exp_source *source,
                                   const struct exp_place *place, struct delta_error *err)
{
    const json_t *list = json_object_get(plan->root, "methods");
    struct entry *entry = delta_calloc(1, sizeof *entry);
    enum delta_status st = DELTA_OK;
    bool control = false;

    plan->variants = delta_calloc(VARIANTS_MAX, sizeof *plan->variants);
    if (!entry || !plan->variants)
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t i = 0; !st && i < json_array_size(list); i++) {
        const struct exp_place here = {place, NULL, i};
        memset(entry, 0, sizeof *entry);
        st = read_entry(entry, json_array_get(list, i), source, &here, err);
        if (!st)
            st = add_variants(plan, entry, source, &here, err);
        control |= !st && strcmp(entry->method, "do-nothing") == 0;
    }
    if (!st && !control) {
        memset(entry, 0, sizeof *entry);
        entry->method = "do-nothing";
        entry->exemplars = -2;
        st = add_variants(plan, entry, source, place, err);
    }
    free(entry);
    return st;
}
