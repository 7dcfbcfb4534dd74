/* Small things that several methods do. Private. */
#ifndef LEARNER_COMMON_H
#define LEARNER_COMMON_H

#include "method.h"

/* Takes all freeze marks off: what moved may not be called frozen. */
DELTA_MUST_USE enum delta_status learner_unfreeze(struct delta_model *model,
                                                  struct delta_error *err);

/* Copies the marks of `from` to the tensors of the same names. */
DELTA_MUST_USE enum delta_status learner_take_plan(struct delta_model *model,
                                                   const struct delta_model *from,
                                                   struct delta_error *err);

bool learner_has_plan(const struct delta_model *model);

/* NOT_FOUND unless there are exemplars; names the method. */
DELTA_MUST_USE enum delta_status learner_need_exemplars(const struct learner_task *task,
                                                        struct delta_error *err);

#endif
