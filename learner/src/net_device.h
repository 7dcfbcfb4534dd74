/* A net's dealings with a device whose memory the host cannot touch: what is exchanged is staged in
 * host memory. On the other devices nothing is copied. Private. */
#ifndef LEARNER_NET_DEVICE_H
#define LEARNER_NET_DEVICE_H

#include "graph.h"

/* Takes the host memory that the net's device needs; counts it even when the net is dry.
 *   fails    NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_net_stage_new(struct learner_net *net,
                                                       struct delta_error *err);
void learner_net_stage_release(struct learner_net *net);

void learner_net_run(struct learner_net *net, const struct learner_op *ops, size_t count,
                     const struct learner_pass *pass);

/* Host to device before a pass over n images; records as learner_net_forward_from gets them. */
void learner_net_give_input(struct learner_net *net, size_t n);
void learner_net_give_prefix(struct learner_net *net, const float *const *records, size_t n);
void learner_net_give_gradient(struct learner_net *net, size_t n);

/* Device to host after a forward pass.  fails: what sync fails with */
DELTA_MUST_USE enum delta_status learner_net_take_outputs(struct learner_net *net, size_t n,
                                                          struct delta_error *err);
bool learner_net_result_is_finite(struct learner_net *net, const struct learner_op *op, size_t n);
bool learner_net_input_is_finite(const struct learner_net *net, size_t n);

/* The loss over the n images of the last forward pass, and its gradient into the net. */
void learner_net_loss(struct learner_net *net, const struct learner_loss *loss, size_t n,
                      struct learner_loss_sum *out);

/* The same over any logits [n, classes] in host memory, for a device whose memory is that. */
void learner_loss_here(const struct learner_loss *loss, const float *logits, size_t n,
                       size_t classes, float *grad, struct learner_loss_sum *out);

/* A batch from images that were given to the device before: instead of filling
 * learner_net_input. Only where the device is apart. */
void learner_net_load(struct learner_net *net, const struct learner_load *load);

/* A block of count floats beside the net's own, zeroed, where its device computes.
 *   returns  NULL when there is no memory; end with learner_net_block_free */
float *learner_net_block(struct learner_net *net, size_t count);
void learner_net_block_free(struct learner_net *net, float *block);

#endif
