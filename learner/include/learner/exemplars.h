/* Exemplars: the few old samples per class that a device keeps for replay, and the probe images
 * held out for its self-test. They live on the device only; the file is local, mode 0600. */
#ifndef LEARNER_EXEMPLARS_H
#define LEARNER_EXEMPLARS_H

#include "learner/samples.h"

struct learner_exemplars {
    struct learner_samples replay; /* trained on */
    struct learner_samples probe;  /* never trained on: self-test, guard, health check */
};

void learner_exemplars_release(struct learner_exemplars *exemplars);

/* Herding (Welling 2009; Rebuffi et al. 2017, iCaRL): greedily the images whose mean feature comes
 * closest to the class mean in the model's feature space; `per_class` to replay. The probe set is
 * `probe_per_class` images drawn by seed from those not chosen. */
DELTA_MUST_USE enum delta_status learner_exemplars_choose(struct learner_exemplars *out,
                                                          const struct delta_model *model,
                                                          const struct learner_samples *from,
                                                          size_t per_class, size_t probe_per_class,
                                                          uint64_t seed, struct delta_error *err);
/* The same on the budget's device, with its seed and progress (may be NULL: defaults, seed 0). */
struct learner_budget;
DELTA_MUST_USE enum delta_status
learner_exemplars_choose_within(struct learner_exemplars *out, const struct delta_model *model,
                                const struct learner_samples *from, size_t per_class,
                                size_t probe_per_class, const struct learner_budget *budget,
                                struct delta_error *err);
DELTA_MUST_USE enum delta_status learner_exemplars_save(const struct learner_exemplars *exemplars,
                                                        const char *path, struct delta_error *err);
DELTA_MUST_USE enum delta_status learner_exemplars_load(struct learner_exemplars *out,
                                                        const char *path, struct delta_error *err);
/* Splits `samples` (new classes) into replay and probe and appends both: what a device does after
 * it learned a class. At most per_class and probe_per_class of each. */
DELTA_MUST_USE enum delta_status learner_exemplars_add(struct learner_exemplars *exemplars,
                                                       const struct delta_model *model,
                                                       const struct learner_samples *samples,
                                                       size_t per_class, size_t probe_per_class,
                                                       uint64_t seed, struct delta_error *err);

#endif
