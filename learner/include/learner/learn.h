/* Learning: a base from scratch, a freeze plan, an increment by new classes, and the test of it.
 * No network, no clock but a progress callback, no disk layout. */
#ifndef LEARNER_LEARN_H
#define LEARNER_LEARN_H

#include "learner/exemplars.h"
#include "learner/net.h"

/* Called between batches; returning false stops with INTERRUPTED. May be NULL. */
typedef bool learner_progress(void *context, const char *stage, double done, double total);

struct learner_budget {
    const char *device; /* NULL = auto */
    int threads;        /* 0 = all cores */
    uint64_t seed;
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

struct learner_pretrain_options {
    int epochs;
    size_t batch;
    double lr, momentum, weight_decay; /* cosine to zero after a warm-up of one tenth */
    bool augment;                      /* random crop with 4 pixels of padding, mirror */
};
struct learner_pretrain_options learner_pretrain_defaults(void);
DELTA_MUST_USE enum delta_status learner_pretrain(struct delta_model *model, /* in and out */
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

/* ---- an increment ---- */

struct learner_increment_options {
    const char
        *method;     /* "frostline" (stage A: head rows) | "freeze" | "finetune" | "do-nothing" */
    double ratio;    /* freeze: share frozen per layer; < 0: the model's own plan */
    int epochs_new;  /* freeze: first on new samples only ... */
    int epochs_tune; /* ... then with replay and KD */
    size_t batch;
    double lr, momentum, weight_decay;
    double temperature, kd_weight;
    double max_old_drop;   /* guard: reject when probe accuracy on old classes falls by more, all
                            * outputs competing, beyond the chance of a small probe set */
    double min_new_recall; /* guard: reject when a new class is recalled on fewer of its held-out
                            * samples (of all its samples where fewer than 5 are held out) */
};
struct learner_increment_options learner_increment_defaults(const char *method);

struct learner_report {
    char method[32];
    size_t new_images, held_out_new, replay_images, probe_images;
    double old_before, old_after; /* accuracy on the probe images, 0..1 */
    double new_recall;            /* on new samples held out from training, 0..1 */
    double image_passes;          /* forward+backward counts 1, forward alone 1/3 */
    double seconds;
    size_t live_changed; /* elements that differ from the base, without grown rows */
};

/* Learns the classes of `fresh` that the base lacks. One fifth of the new samples of a class (at
 * least one when it has five or more) is held out for the guard; classes with fewer than five are
 * tested on their training samples, which the report's held_out_new = 0 says.
 *   out      written on success only
 *   report   filled on success and on REJECTED
 *   fails    EXISTS (every class is already there), REJECTED (the guard, with numbers),
 *            UNSUPPORTED (method), NONFINITE, MISMATCH, INTERRUPTED, NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_increment(
    struct delta_model *out, const struct delta_model *base, const struct learner_samples *fresh,
    const struct learner_exemplars *exemplars, const struct learner_increment_options *options,
    const struct learner_budget *budget, struct learner_report *report, struct delta_error *err);

#endif
