/* Which network a file without metadata holds, from names and shapes of its tensors; one row per
 * network that the learner knows (learner/src/network_table.c; its tests compare the two).
 * Refuses to decide what no tensor shows: MobileNetV2's strides (224 pixels, as torchvision's). */
#ifndef DELTA_ARCH_GUESS_H
#define DELTA_ARCH_GUESS_H

#include "delta/model.h"

/* Sets name, stem, width and channels; the name is empty and the width 0 when nothing fits. */
void delta_arch_guess(struct delta_arch *out, const struct delta_model *model);

/* Whether the tensors can be those of `arch`, as far as the first convolution tells; networks that
 * have no row here pass.
 *   fails    MISMATCH (names tensor, wanted and found shape) */
DELTA_MUST_USE enum delta_status delta_arch_fits(const struct delta_arch *arch,
                                                 const struct delta_model *model,
                                                 struct delta_error *err);

#endif
