/* Exemplars: the few old samples per class that a device keeps for replay, and the probe images
 * held out for its self-test. They live on the device only; the file is local, mode 0600. */
#ifndef LEARNER_EXEMPLARS_H
#define LEARNER_EXEMPLARS_H

#include "learner/samples.h"

/* What the network below the classifier makes of the exemplars: pooled features. They stay true
 * while only head rows change, so that a class is learned without looking at old images again. */
struct learner_features {
    struct delta_digest body;            /* of the network that made them (learner_body_digest) */
    size_t d, replay_count, probe_count; /* d is 0: there are none */
    float *replay, *probe;               /* owned, [count, d] */
};

/* What the layers below the last block make of the exemplars to replay (latent replay, Pellegrini
 * et al. 2020). They stay true while the last block learns, so that it learns without sending an
 * old image through the layers below again. */
struct learner_latents {
    struct delta_digest below;    /* of the layers that made them */
    size_t layers, values, count; /* layers below; of a latent; values is 0: there are none */
    uint16_t *rows;               /* owned, [count, values], bfloat16 */
};

struct learner_exemplars {
    struct learner_samples replay;    /* trained on */
    struct learner_samples probe;     /* never trained on: self-test, guard, health check */
    struct learner_features features; /* of both, or none */
    struct learner_latents latents;   /* of those to replay, or none */
};

#define LEARNER_EXEMPLARS_INIT                                                                     \
    {                                                                                              \
        .features = {.d = 0}, .latents = {.values = 0 }                                            \
    }

void learner_exemplars_release(struct learner_exemplars *exemplars);

/* Herding (Welling 2009; Rebuffi et al. 2017, iCaRL): greedily the images whose mean feature comes
 * closest to the class mean in the model's feature space; `per_class` to replay. The probe set is
 * `probe_per_class` images drawn by seed from those not chosen. The features of both are kept. */
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

#define LEARNER_LATENT_BYTES_MAX ((size_t)256 << 20) /* all of a file's */
#define LEARNER_LATENT_VALUES_MAX ((size_t)1 << 24)  /* one */

/* Makes the latents of the exemplars to replay by the model, in place of any. None are kept where
 * the network has nothing below its last block, or where they would take more memory than the
 * budget has or more than LEARNER_LATENT_BYTES_MAX.
 *   fails    MISMATCH (image size), INTERRUPTED, NONFINITE, NO_MEMORY; then there are none */
DELTA_MUST_USE enum delta_status learner_exemplars_keep_latents(struct learner_exemplars *exemplars,
                                                                const struct delta_model *model,
                                                                const struct learner_budget *budget,
                                                                struct delta_error *err);

/* Bytes of all that is kept: images, labels, features, latents. */
size_t learner_exemplars_bytes(const struct learner_exemplars *exemplars);

DELTA_MUST_USE enum delta_status learner_exemplars_save(const struct learner_exemplars *exemplars,
                                                        const char *path, struct delta_error *err);
DELTA_MUST_USE enum delta_status learner_exemplars_load(struct learner_exemplars *out,
                                                        const char *path, struct delta_error *err);
/* Splits `samples` (new classes) into replay and probe and appends both: what a device does after
 * it learned a class. At most per_class and probe_per_class of each. Features made by another
 * network than the model's are made anew, so that they are those of all exemplars; so are latents,
 * where there were any (or no exemplars before). */
DELTA_MUST_USE enum delta_status learner_exemplars_add(struct learner_exemplars *exemplars,
                                                       const struct delta_model *model,
                                                       const struct learner_samples *samples,
                                                       size_t per_class, size_t probe_per_class,
                                                       uint64_t seed, struct delta_error *err);

/* The features, if they are those of all exemplars by the model's network; else NULL. They belong
 * to the exemplars. Reads the whole model once (SHA-256). */
const struct learner_features *learner_exemplars_features(const struct learner_exemplars *exemplars,
                                                          const struct delta_model *model);
/* Name of everything that makes the features of an image: architecture and all tensors but the
 * classifier's, whatever is frozen.  fails: what delta_model_digest fails with */
DELTA_MUST_USE enum delta_status learner_body_digest(struct delta_digest *out,
                                                     const struct delta_model *model,
                                                     struct delta_error *err);

#endif
