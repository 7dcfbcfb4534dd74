/* SGD with momentum (Sutskever et al. 2013, as PyTorch writes it): v = m v + (g + wd w);
 * w -= lr v, or with Nesterov w -= lr (g + wd w + m v). Frozen elements are skipped altogether:
 * neither gradient, weight decay nor momentum moves them. */
#ifndef LEARNER_OPTIM_H
#define LEARNER_OPTIM_H

#include "learner/net.h"

struct learner_sgd_options {
    double momentum;
    double weight_decay; /* on parameters with `decays` */
    bool nesterov;
};

struct learner_sgd;

/* net: borrowed, must outlive *out. plan: tensors of this model say which elements are frozen; NULL
 * = none. Borrowed until free. */
DELTA_MUST_USE enum delta_status learner_sgd_new(struct learner_sgd **out, struct learner_net *net,
                                                 const struct delta_model *plan,
                                                 const struct learner_sgd_options *options,
                                                 struct delta_error *err);
void learner_sgd_free(struct learner_sgd *sgd);
void learner_sgd_step(struct learner_sgd *sgd, double lr);

/* The optimiser's whole memory, for a checkpoint: one velocity per learning parameter.
 * learner_sgd_velocity: index < slots; *count elements, which the caller may read and set as it
 * does a parameter's data. */
size_t learner_sgd_slots(const struct learner_sgd *sgd);
float *learner_sgd_velocity(struct learner_sgd *sgd, size_t index, size_t *count);

#endif
