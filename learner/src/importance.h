/* Importance of weights for what a network knows. Private. */
#ifndef LEARNER_IMPORTANCE_H
#define LEARNER_IMPORTANCE_H

#include "learner/learn.h"

struct learner_importance {
    const char *name; /* the parameter's; borrowed from the model */
    size_t count;
    float *gradient; /* owned, [count]: of the mean cross-entropy */
};

/* Freezes whole what does not belong to the layers that `live` names, as in learner_plan_choice;
 * batch norms everywhere; not the head. Other marks stay.
 *   fails    NOT_FOUND, NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_plan_confine(struct delta_model *model, const char *live,
                                                      struct delta_error *err);

/* Gradient of the mean cross-entropy over all images whose class the model knows, for each
 * parameter; batch norm in evaluation mode. The published importance squares THIS mean times the
 * weight: I = (g w)^2 with g summed over batches first. (The mean of squared per-batch gradients
 * would be another, Fisher-like measure, and would depend on the batch size.)
 *   out      [learner_net_param_count], *count of them; release with the function below
 *   fails    NOT_FOUND (no image of a known class), MISMATCH, INTERRUPTED, NO_MEMORY */
DELTA_MUST_USE enum delta_status
learner_importance_gradient(struct learner_importance **out, size_t *count,
                            const struct delta_model *model, const struct learner_samples *old,
                            const struct learner_budget *budget, struct delta_error *err);
/* The same; nothing is computed of what `plan` (may be NULL) freezes whole. */
DELTA_MUST_USE enum delta_status
learner_importance_under(struct learner_importance **out, size_t *count,
                         const struct delta_model *model, const struct learner_samples *old,
                         const struct delta_model *plan, const struct learner_budget *budget,
                         struct delta_error *err);
void learner_importance_free(struct learner_importance *items, size_t count);

/* Marks the `keep` largest of score [count] in bits (zeroed by the caller); ties go to the lower
 * index.  fails: NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_top_bits(uint8_t *bits, const double *score, size_t count,
                                                  size_t keep, struct delta_error *err);

/* What ranking takes per weight, in bytes. */
#define LEARNER_RANK_BYTES 16

/* What learner_freeze_plan takes with so many images at once.
 *   plan     what is frozen whole from the beginning; NULL: nothing */
DELTA_MUST_USE enum delta_status
learner_freeze_plan_need(const struct delta_model *model, const struct learner_samples *old,
                         const struct delta_model *plan, const struct learner_budget *budget,
                         size_t images, size_t *bytes, struct delta_error *err);

#endif
