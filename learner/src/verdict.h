/* Which of a method's stages becomes the result: the last that the guard accepts and that does not
 * test below the first one by more than chance; else an earlier one; else none. Private. */
#ifndef LEARNER_VERDICT_H
#define LEARNER_VERDICT_H

#include "guard.h"

/* Elements that differ from the base, without grown rows (which lie behind the base's). */
size_t learner_count_changed(const struct delta_model *base, const struct delta_model *model);

/* Judges the task's candidates, or its model where there are none. The accepted model is moved into
 * task->model.
 *   trial    all but .model
 *   report   accuracies of the accepted stage, or of the first one; stages
 *   fails    REJECTED: why the first stage, or the only model, was not accepted */
DELTA_MUST_USE enum delta_status learner_verdict(struct learner_task *task,
                                                 struct learner_report *report,
                                                 const struct learner_trial *trial,
                                                 struct delta_error *err);

#endif
