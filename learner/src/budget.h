/* Memory before it is taken: how many images a learning command handles at once so that the whole
 * process stays within its budget, and what peak that makes.
 *
 * A plan is what the process holds now (libraries, samples, models; freed memory is given back
 * first) plus what the command will add at its worst moment, or the peak so far if that was more.
 * Linux only (/proc/self); elsewhere what is held now counts as nothing. Private. */
#ifndef LEARNER_BUDGET_H
#define LEARNER_BUDGET_H

#include "learner/learn.h"

#define LEARNER_AT_ONCE 64 /* images, where nothing says otherwise */

size_t learner_memory_now(void);  /* resident bytes of this process */
size_t learner_memory_peak(void); /* largest so far */

/* Bytes that a command adds at its worst moment when it handles so many images at once. */
typedef enum delta_status learner_need(void *context, size_t images, size_t *bytes,
                                       struct delta_error *err);

/* Chooses at_once and tells the plan through given->planned. A budget whose at_once is set was
 * planned by whoever called, and is copied as it is.
 *   out      the budget for all that follows
 *   given    may be NULL: defaults
 *   wanted   images at once when memory is no question; least: fewest that make sense
 *   fails    NO_MEMORY (the budget is too small; says how much the smallest is), what need fails
 *            with */
DELTA_MUST_USE enum delta_status learner_budget_plan(struct learner_budget *out,
                                                     const struct learner_budget *given,
                                                     const char *stage, size_t wanted, size_t least,
                                                     learner_need *need, void *context,
                                                     struct delta_error *err);

/* Images per pass: what the budget says, not more than there are, at least one. */
size_t learner_budget_images(const struct learner_budget *budget, size_t there);

/* What a network takes, all blocks together. */
DELTA_MUST_USE enum delta_status learner_budget_net(size_t *bytes, const struct delta_model *model,
                                                    const struct learner_budget *budget,
                                                    size_t images, bool train,
                                                    struct delta_error *err);

/* Bytes of a model's tensors; of pixels and labels. */
size_t learner_model_bytes(const struct delta_model *model);
size_t learner_samples_bytes(const struct learner_samples *samples);

/* Milliseconds until the deadline; INT64_MAX without one; never below 0. */
int64_t learner_budget_left_ms(const struct learner_budget *budget);

#endif
