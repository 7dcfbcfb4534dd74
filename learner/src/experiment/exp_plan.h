/* A plan in memory and the runs that it spreads into. Private to the folder. */
#ifndef EXP_PLAN_H
#define EXP_PLAN_H

#include "exp_json.h"
#include "learner/experiment.h"

#define EXP_BASES_MAX 16
#define EXP_PROTOCOLS_MAX 16
#define EXP_METHODS_MAX 48
#define EXP_BUDGETS_MAX 16
#define EXP_RUNS_MAX 100000
#define EXP_KNOBS_MAX 32
#define EXP_LABEL_MAX 96
#define EXP_KEY_MAX 400

/* A base network: a model file, or how it is trained once and kept. */
struct exp_base {
    const char *name, *model;
    bool pretrained; /* by the members below */
    const char *arch, *stem;
    int64_t width, epochs, batch, per_class, seed, threads;
    double lr, weight_decay, mixup, label_smoothing, ema;
    int64_t cutout;
    bool augment;
    char path[512];                     /* of the model file, ready to open; */
    char file_digest[DELTA_DIGEST_HEX]; /* both "" where it is trained */
};

/* `steps` increments of `count` classes each after `base` classes. */
struct exp_protocol {
    const char *name;
    int64_t base, steps, groups; /* groups 0: by the rule in exp_group_count() */
    struct exp_numbers count;
};

struct exp_budget {
    const char *name;
    double time_s;
    int64_t memory_mb;
};

/* One setting of a method: a name and a value each. */
struct exp_value {
    bool set;
    double number;
    const char *text;
};

/* A knob that a method may be given. */
struct exp_knob {
    const char *name;
    enum exp_kind kind; /* INTS, REALS, BOOLS or TEXTS */
    size_t offset;      /* into struct learner_increment_options, where it is */
    size_t size;        /* so large: an int or a size_t */
    double low, high;
    const char *help;
    const char *choices; /* TEXTS: "a|b|c"; NULL: any */
};
extern const struct exp_knob exp_knobs[]; /* name NULL ends it */

struct exp_variant {
    const char *method;
    char label[EXP_LABEL_MAX];
    struct exp_value knobs[EXP_KNOBS_MAX];
    int64_t exemplars; /* per class; -1: all images */
};

struct exp_run {
    size_t base, protocol, variant, order, budget;
    size_t count; /* classes at a time */
    size_t group; /* which of the held-out classes: a P1 run of few classes is repeated */
    uint64_t seed;
    char key[EXP_KEY_MAX];
};

struct learner_experiment {
    json_t *root;
    char *text;
    const char *path;
    char *path_copy;
    char dir[512]; /* of the plan file; paths in it are relative to that */
    char digest[DELTA_DIGEST_HEX];
    bool small;

    const char *name, *title, *description, *data, *reference, *device;
    int64_t size, per_class, exemplars, probes, pool, threads, workers;
    bool guard;
    struct exp_base bases[EXP_BASES_MAX];
    size_t base_count;
    struct exp_protocol protocols[EXP_PROTOCOLS_MAX];
    size_t protocol_count;
    struct exp_budget budgets[EXP_BUDGETS_MAX];
    size_t budget_count;
    struct exp_variant *variants;
    size_t variant_count;
    struct exp_texts orders, pictures;
    struct exp_numbers seeds;
    struct learner_samples test; /* all of it; its class list is the data's */
    uint32_t *order_labels;      /* [orders, classes] */
    struct exp_run *runs;
    size_t run_count;
};

/* Labels of one of the plan's orders, [test.class_count]. */
static inline const uint32_t *exp_order(const struct learner_experiment *plan, size_t order)
{
    return plan->order_labels + order * plan->test.class_count;
}

/* The keys of each kind of object; name NULL ends a table. */
#define EXP_PLAN_FIELDS 23 /* with the end */
extern const struct exp_field exp_plan_fields[EXP_PLAN_FIELDS];
extern const struct exp_field exp_base_fields[], exp_pretrain_fields[], exp_protocol_fields[];
extern const struct exp_field exp_budget_fields[];

/* A copy of one class order: data-set labels in their order.
 *   spec     "source", "pycil:SEED", "seed:N", or a file of labels relative to `dir`
 *   out      [class_count], to be filled
 *   fails    NOT_FOUND, FORMAT */
DELTA_MUST_USE enum delta_status exp_order_make(uint32_t *out, size_t class_count, const char *spec,
                                                const char *dir, struct delta_error *err);

/* Names of the methods that this build knows, divided by ", ". */
void exp_method_names(char *out, size_t size);

/* The options of one increment of this variant. */
struct learner_increment_options exp_variant_options(const struct learner_experiment *plan,
                                                     const struct exp_variant *variant);

/* Every knob's value, defaults too: what decides about an increment. */
void exp_options_text(char *out, size_t size, const struct learner_increment_options *options);

/* Opens the data, resolves orders and fills runs and their keys; the rest has been read. */
DELTA_MUST_USE enum delta_status exp_spread(struct learner_experiment *plan,
                                            struct delta_error *err);
/* A base from its model file (or `path` where it was trained), outputs named by the order where
 * the file does not name them.
 *   fails    as delta_model_load_any, MISMATCH (outputs, classes) */
DELTA_MUST_USE enum delta_status exp_base_open(struct delta_model *out,
                                               const struct learner_experiment *plan,
                                               const struct exp_run *run, const char *path,
                                               struct delta_error *err);
/* The entries of "methods", and do-nothing where it is not among them. */
DELTA_MUST_USE enum delta_status exp_read_methods(struct learner_experiment *plan,
                                                  const struct exp_source *source,
                                                  const struct exp_place *place,
                                                  struct delta_error *err);

/* What decides about a run's base, as text for digests: the same base, the same text. */
void exp_base_text(char *out, size_t size, const struct learner_experiment *plan,
                   const struct exp_run *run);

#endif
