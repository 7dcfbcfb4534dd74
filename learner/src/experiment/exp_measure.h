/* What an experiment measures on a model: accuracy by old and new classes, bytes, frozen elements.
 * Private to the folder. */
#ifndef EXP_MEASURE_H
#define EXP_MEASURE_H

#include "exp_plan.h"

/* The model of a run as far as it came, and where it began. */
struct exp_subject {
    const struct learner_experiment *plan;
    const struct exp_run *run;
    const struct delta_model *model;
    size_t base_count; /* classes of the base */
};

struct exp_accuracy {
    double all, old, fresh, harmonic, base, added; /* 0..1 */
};

/* Over all classes that a perfect learner would know by now: those that the model lacks are wrong.
 *   known    classes before the last step; seen: after it
 *   fails    as learner_evaluate */
DELTA_MUST_USE enum delta_status exp_test(struct exp_accuracy *out,
                                          const struct exp_subject *subject, size_t known,
                                          size_t seen, const struct learner_budget *budget,
                                          struct delta_error *err);
/* Adds task_old and task_new where the method is packnet: what somebody gets who knows the task of
 * each image. */
DELTA_MUST_USE enum delta_status exp_test_by_task(json_t *json, const struct exp_subject *subject,
                                                  size_t known, const struct learner_budget *budget,
                                                  struct delta_error *err);
void exp_accuracy_put(json_t *json, const struct exp_accuracy *accuracy); /* in percent */

DELTA_MUST_USE enum delta_status exp_sealed_bytes(size_t *bytes, const struct delta_model *base,
                                                  const struct delta_model *learned,
                                                  struct delta_error *err);
size_t exp_encoded_bytes(const struct delta_model *model); /* of its file; 0 when out of memory */
void exp_count_frozen(size_t *frozen, size_t *moved, const struct delta_model *base,
                      const struct delta_model *learned);

#endif
