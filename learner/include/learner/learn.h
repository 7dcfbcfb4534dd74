/* Learning: a base from scratch, a freeze plan, an increment by new classes, and the test of it.
 * No network, no clock but a progress callback, no disk layout. */
#ifndef LEARNER_LEARN_H
#define LEARNER_LEARN_H

#include "learner/exemplars.h"
#include "learner/net.h"

/* Called between batches; returning false stops with INTERRUPTED. May be NULL. */
typedef bool learner_progress(void *context, const char *stage, double done, double total);

/* Told once per command before it takes memory: the peak of the whole process that is planned, and
 * how many images go through the network at once. May be NULL. */
typedef void learner_planned(void *context, const char *stage, size_t bytes, size_t images);

/* A command that cannot keep to memory_bytes fails with NO_MEMORY before it begins and says what
 * the smallest budget is. At the deadline, pretraining and increments end in good order with what
 * they have; what is of no use half done (evaluation, a freeze plan, a choice of exemplars) fails
 * with INTERRUPTED. */
struct learner_budget {
    const char *device; /* NULL = auto */
    int threads;        /* 0 = all cores */
    uint64_t seed;
    size_t memory_bytes; /* peak of the process, everything in it counted; 0 = no limit */
    int64_t deadline_ms; /* on the monotonic clock; 0 = none */
    /* Images through the network at once, at most. 0 = planned by the command from memory_bytes;
     * other than 0: nothing is planned. */
    size_t at_once;
    learner_planned *planned;
    learner_progress *progress;
    void *context;
};

/* ---- evaluation ---- */

struct learner_class_score {
    size_t images, correct;
};

struct learner_scores {
    size_t images, correct;
    struct learner_class_score *classes; /* owned, [model classes], output order */
    size_t class_count;
    double seconds;
};
void learner_scores_release(struct learner_scores *scores);

/* Classifies every image by the largest logit; labels are matched to outputs by class id, images
 * of classes that the model lacks count as wrong and are kept out of `classes`. */
DELTA_MUST_USE enum delta_status learner_evaluate(struct learner_scores *out,
                                                  const struct delta_model *model,
                                                  const struct learner_samples *samples,
                                                  const struct learner_budget *budget,
                                                  struct delta_error *err);

/* ---- a base from scratch ---- */

/* After each step. Rates over this process's own steps; a resumed run starts measuring anew. */
struct learner_pretrain_status {
    size_t step, steps;   /* done, in the whole run; steps shrinks when the time is short */
    size_t epoch, epochs; /* the one that runs, from 1 */
    double images_per_second, seconds_left;
    double loss, accuracy; /* means over the epoch so far, on augmented training images, 0..1 */
    double held_out;       /* accuracy on the held-out images, latest epoch; -1: none yet */
    bool saved;            /* a checkpoint was just written */
};
typedef void learner_pretrain_watch(void *context, const struct learner_pretrain_status *status);

struct learner_pretrain_options {
    int epochs;
    size_t batch;
    double lr, momentum, weight_decay; /* cosine to zero after a warm-up of one tenth */
    bool augment;                      /* random crop with 4 pixels of padding, mirror */
    double mixup;                      /* alpha of Beta(alpha, alpha), 0..1; 0: off */
    size_t cutout;                     /* side of a square of mean colour in pixels; 0: off */
    double label_smoothing;            /* share of the target spread over all classes, 0..0.5 */
    /* Decay of a moving average of all weights AND of batch norm's running statistics, 0: off.
     * With it the average is what held-out images are tested on and what the model gets. */
    double ema;
    size_t held_out; /* images per class kept from training, for the status alone; 0: none */

    /* A run that was killed goes on from here and ends with the same bytes. Written atomically,
     * removed by nobody. Format: src/checkpoint.h. */
    const char *checkpoint; /* NULL: none */
    double every_epochs;    /* write it so often, 0: not by epochs; always at the end and when */
    double every_seconds;   /* the progress callback stops the run */
    bool resume;            /* the checkpoint must be there; otherwise it is used if it is */

    size_t test_images; /* to be evaluated afterwards: their time is kept before the deadline */

    learner_pretrain_watch *watch; /* may be NULL */
    void *watch_context;
};
struct learner_pretrain_options learner_pretrain_defaults(void);

/* Trains `model` (in and out; unchanged on failure). One seed, one number of threads: the same
 * bytes each time, unless the budget has a deadline: then the number of steps is fitted to the
 * measured speed and the result depends on it.
 *   status   filled on success with what the last call of watch told; may be NULL
 *   fails    NONFINITE (names the step and the layer; the last good checkpoint is kept),
 *            INTERRUPTED (the callback said so; the checkpoint is written), MISMATCH (a checkpoint
 *            of other options: names the first that differs), DIGEST, FORMAT, TRUNCATED (checkpoint
 *            damaged), NOT_FOUND, LIMIT (memory), NO_MEMORY, USAGE */
DELTA_MUST_USE enum delta_status
learner_pretrain_run(struct delta_model *model, const struct learner_samples *train,
                     const struct learner_pretrain_options *options,
                     const struct learner_budget *budget, struct learner_pretrain_status *status,
                     struct delta_error *err);
/* The same without a status. */
DELTA_MUST_USE enum delta_status learner_pretrain(struct delta_model *model,
                                                  const struct learner_samples *train,
                                                  const struct learner_pretrain_options *options,
                                                  const struct learner_budget *budget,
                                                  struct delta_error *err);

/* ---- the freeze plan ---- */

/* Importance I_m = (g_m w_m)^2 of each weight, g from the mean cross-entropy over the old data
 * (the published method); per layer the top share `ratio` is frozen. The plan is written into the
 * model. Batch-norm parameters and statistics are frozen whole; the head stays live. */
DELTA_MUST_USE enum delta_status
learner_freeze_plan(struct delta_model *model, const struct learner_samples *old, double ratio,
                    const struct learner_budget *budget, struct delta_error *err);

/* Which weights a plan freezes. */
struct learner_plan_choice {
    double ratio;     /* share frozen of each layer that may learn, rounded */
    bool filters;     /* whole filters, by the sum over their weights; else weight by weight */
    const char *mask; /* "importance" (NULL too), "magnitude" (w squared), "random" (by seed) */
    const char *live; /* layers that may learn, by the beginnings of their names with commas
                       * between ("features.17.,features.18."), all others are frozen whole;
                       * NULL: all may; LEARNER_LAST_... */
};
#define LEARNER_LAST_STAGE "last" /* the layers with the smallest plane, the head aside */
/* The last block with a convolution wider than 1x1, and what follows it. */
#define LEARNER_LAST_BLOCK "last-block"

/* The same with a choice.
 *   old      not read by the masks magnitude and random
 *   fails    also CONFIG (mask, ratio), NOT_FOUND (no layer begins like a name of live) */
DELTA_MUST_USE enum delta_status learner_freeze_plan_by(struct delta_model *model,
                                                        const struct learner_samples *old,
                                                        const struct learner_plan_choice *choice,
                                                        const struct learner_budget *budget,
                                                        struct delta_error *err);

/* How well (g w)^2 predicts what it stands for: on `weights` seeded weights, spread over all layers
 * in proportion to their size, each is set to zero and the rise of the mean cross-entropy over
 * `old` measured (the published method's first formula, whose square (g w)^2 approximates). */
struct learner_importance_check {
    size_t weights, images;
    double rank_correlation; /* Spearman's, of (g w)^2 and the square of the rise; -1..1 */
    double image_passes;
};
DELTA_MUST_USE enum delta_status
learner_importance_measure(struct learner_importance_check *out, const struct delta_model *model,
                           const struct learner_samples *old, size_t weights,
                           const struct learner_budget *budget, struct delta_error *err);

/* ---- an increment ---- */

/* What a method does not read it ignores; learner/METHODS.md tells what each one does. */
struct learner_increment_options {
    const char *method;   /* one of learner_method_names() */
    const char *stages;   /* frostline: "A", "AB", "ABC" or "AC"; D, the guard, is always last */
    const char *live;     /* the layers that learn, as in learner_plan_choice, or a
                           * LEARNER_LAST_...; NULL: frostline the last block, layer4-only the last
                           * stage */
    const char *mask;     /* freeze: what ranks weights: "importance", "magnitude", "random" */
    const char *schedule; /* the step over the epochs: "constant", "cosine", "steps" (a tenth at
                           * each quarter; e2e's balanced phase: at each third) */
    const char *start;    /* joint: "base" or "scratch" */
    const char *blocks;   /* e2e: "50,10": how many old classes each earlier step learned; NULL:
                           * all in one */
    double ratio;         /* freeze: share frozen per layer; frostline: of the filters of each live
                           * layer; packnet: share pruned; < 0: the model's own plan, or, where it
                           * has none or the method takes none, the method's ratio */
    int epochs_new;       /* first on new samples only ... */
    int epochs_tune;      /* ... then with replay; joint: all */
    int epochs_balance;   /* e2e: the balanced phase; packnet: after pruning */
    size_t batch;
    double lr, momentum, weight_decay;
    double temperature, kd_weight; /* kd_weight 0: no distillation */
    double adjust;                 /* logit adjustment (Menon et al. 2021) times this; 0: none */
    double ema;                    /* decay of a moving average that replaces the weights; 0: off */
    double anchor;                 /* frostline C: pull of the rows towards where they start */
    /* frostline: exemplars were seen in training; how far from the middle of all of them,
     * above 0, unseen images of their classes are taken to lie (1: as exemplars do): their features
     * in A, their logits in B's cross-entropy */
    double pull, pull_tune;
    /* What moves of the base's elements is rounded before the guard judges it, to grids in root
     * mean square moves of a row (delta_round() in delta/delta.h): of a filter, and of a row of the
     * classifier. Both 0: exact. A stage that only brings new rows stays exact. */
    double round, round_head;
    bool balanced;         /* epochs with replay: as many images of a new class as of an old
                            * one, drawn anew each time */
    bool mirror;           /* images also mirrored */
    double max_old_drop;   /* guard: reject when probe accuracy on old classes falls by more, all
                            * outputs competing, beyond the chance of a small probe set */
    double min_new_recall; /* guard: reject when a new class is recalled on fewer of its held-out
                            * samples (of all its samples where fewer than 5 are held out) */
    size_t min_images;     /* guard: reject a class with fewer different pictures */
};
struct learner_increment_options learner_increment_defaults(const char *method);

/* "frostline|freeze|...", for option tables and messages; constant. */
const char *learner_method_names(void);

/* What one stage of a method came to. */
struct learner_stage_report {
    char name[8];                 /* "A", "AB", "ABC" */
    double seconds, image_passes; /* of this stage alone */
    double old_after, new_recall; /* as the guard measured them, 0..1 */
    bool judged, accepted;
    char why[160]; /* not accepted: the reason; "" otherwise */
};
#define LEARNER_STAGES_MAX 3

struct learner_report {
    char method[32];
    size_t new_images, held_out_new, replay_images, probe_images;
    double old_before, old_after; /* accuracy on the probe images, 0..1 */
    double new_recall;            /* on new samples held out from training, 0..1 */
    double image_passes;          /* forward+backward counts 1, forward alone 1/3; what goes only
                                   * through layers above a cached prefix: their share of it */
    double seconds;
    size_t live_changed; /* elements that differ from the base, without grown rows */
    bool cut_short;      /* the time was up: this is as far as it came */
    struct learner_stage_report stages[LEARNER_STAGES_MAX];
    size_t stage_count; /* 0: the method has no stages */
};

/* Learns the classes of `fresh` that the base lacks. Some of the new samples of a class are held
 * out for the guard: a fifth up to 10, from 100 samples on a tenth, at most 40. Classes with fewer
 * than five samples are tested on those trained on, which the report's held_out_new = 0 says.
 *   out      written on success only
 *   report   filled on success and on REJECTED
 *   fails    EXISTS (every class is already there), REJECTED (the guard, with numbers),
 *            UNSUPPORTED (method), NONFINITE, MISMATCH, INTERRUPTED, NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_increment(
    struct delta_model *out, const struct delta_model *base, const struct learner_samples *fresh,
    const struct learner_exemplars *exemplars, const struct learner_increment_options *options,
    const struct learner_budget *budget, struct learner_report *report, struct delta_error *err);

/* What method packnet made, seen by somebody who knows an image's task: a copy that answers with
 * the first old_classes only and without the freed weights (fresh false), or with the others only
 * and all weights. The freeze plan tells which weights were freed.
 *   out      owned by the caller; written on success only
 *   fails    NO_MEMORY, FORMAT */
DELTA_MUST_USE enum delta_status learner_packnet_view(struct delta_model *out,
                                                      const struct delta_model *model,
                                                      size_t old_classes, bool fresh,
                                                      struct delta_error *err);

#endif
