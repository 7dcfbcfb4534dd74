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
/* The same from a table, see below. */
void learner_net_give_rows(struct learner_net *net, float *table, const uint32_t *rows, size_t n);

/* After a forward pass whose outputs are fetched when they are asked for. */
void learner_net_leave_outputs(struct learner_net *net, size_t n);
/* Device to host after a forward pass.  fails: what sync fails with */
DELTA_MUST_USE enum delta_status learner_net_take_outputs(struct learner_net *net, size_t n,
                                                          struct delta_error *err);
bool learner_net_result_is_finite(struct learner_net *net, const struct learner_op *op, size_t n);
bool learner_net_input_is_finite(const struct learner_net *net, size_t n);

/* Forward passes that look for nothing: on a device apart they do not wait for it, and
 * learner_net_learn tells what was not finite. Elsewhere as learner_net_forward and
 * learner_net_forward_from. */
DELTA_MUST_USE enum delta_status learner_net_forward_begin(struct learner_net *net, size_t n,
                                                           enum learner_mode mode,
                                                           struct delta_error *err);
DELTA_MUST_USE enum delta_status learner_net_forward_from_begin(struct learner_net *net,
                                                                const float *const *records,
                                                                size_t n, enum learner_mode mode,
                                                                struct delta_error *err);

/* The rest of a training pass after one of those: the loss over its n images, and backward. A
 * device apart is waited for once. Gradients are looked at there alone; elsewhere grads_finite is
 * true whatever they are.
 *   fails    NONFINITE names the layer; what sync fails with */
DELTA_MUST_USE enum delta_status learner_net_learn(struct learner_net *net,
                                                   const struct learner_loss *loss, size_t n,
                                                   struct learner_outcome *out,
                                                   struct delta_error *err);

/* Records of a frozen prefix that never leave a device apart: a table of rows, one an image.
 * Everywhere else, and where there is no room for it, learner_net_table is NULL; at most half of
 * what is free is taken, and `most` bytes. End with learner_net_block_free. */
float *learner_net_table(struct learner_net *net, size_t rows, size_t most);
/* After a forward pass over n images, whose rows they are. */
void learner_net_table_keep(struct learner_net *net, float *table, const uint32_t *rows, size_t n);
DELTA_MUST_USE enum delta_status learner_net_forward_table(struct learner_net *net, float *table,
                                                           const uint32_t *rows, size_t n,
                                                           enum learner_mode mode,
                                                           struct delta_error *err);

/* The loss over the n images of the last forward pass, and its gradient into the net; waits. */
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
