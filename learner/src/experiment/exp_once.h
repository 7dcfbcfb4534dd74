/* What one worker process does: make a base, choose exemplars, or one run. Private to the folder.
 * Everything here computes; the process that shares out the work never does. */
#ifndef EXP_ONCE_H
#define EXP_ONCE_H

#include "exp_plan.h"
#include "exp_pulse.h"

/* Files that runs share, in the cache directory. */
struct exp_files {
    char base[1200];      /* model file, or the plan's own */
    char exemplars[1200]; /* "" for all images */
};
/* Names only.  fails: LIMIT */
DELTA_MUST_USE enum delta_status exp_files_name(struct exp_files *out,
                                                const struct learner_experiment *plan,
                                                const struct exp_run *run, const char *cache,
                                                struct delta_error *err);

/* Trains the base of this run into files->base; goes on from a checkpoint beside it.
 *   pulse    where it tells how far it is; NULL: nowhere. Likewise below */
DELTA_MUST_USE enum delta_status exp_make_base(const struct learner_experiment *plan,
                                               const struct learner_samples *train,
                                               const struct exp_run *run,
                                               const struct exp_files *files,
                                               struct exp_pulse *pulse, struct delta_error *err);
DELTA_MUST_USE enum delta_status
exp_make_exemplars(const struct learner_experiment *plan, const struct learner_samples *train,
                   const struct exp_run *run, const struct exp_files *files,
                   struct exp_pulse *pulse, struct delta_error *err);

/* One run, all its increments.
 *   train    taken over: given back before learning begins, so that it does not count as memory
 *   out      the line of the results; json_decref() */
DELTA_MUST_USE enum delta_status exp_run_once(json_t **out, const struct learner_experiment *plan,
                                              struct learner_samples *train,
                                              const struct exp_run *run,
                                              const struct exp_files *files, int workers,
                                              struct exp_pulse *pulse, struct delta_error *err);

#endif
