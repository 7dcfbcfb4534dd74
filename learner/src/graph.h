/* Inside of a learner_net: its layers as device operations and the plan of its memory. */
#ifndef LEARNER_GRAPH_H
#define LEARNER_GRAPH_H

#include "arch.h"

#define LEARNER_LAYER_PARAMS 5 /* at most: weight, batch norm's weight, bias, mean, variance */

/* Which buffers of a layer; dz and z only where a batch norm follows a convolution. */
struct learner_layer_memory {
    float *y, *z, *dy, *dz;
    float *batch_mean, *inv_std;
};

struct learner_net {
    struct learner_device *device;
    struct delta_arch arch;
    size_t batch, class_count;
    bool train;
    struct learner_layers layers;
    size_t first_param[LEARNER_LAYERS_MAX]; /* of each layer */

    struct learner_param *params;
    char (*names)[DELTA_TENSOR_NAME_MAX + 1]; /* of the parameters */
    size_t param_count;
    float *values; /* one block: all parameters and statistics */
    float *grads;  /* same layout; NULL unless train */
    size_t value_count;

    float *arena; /* activations, their gradients, input and output */
    size_t arena_bytes;
    struct learner_layer_memory memory[LEARNER_LAYERS_MAX];
    float *input, *logits_grad;
    uint64_t weights_version;
    struct learner_pass last; /* the latest forward pass; mode INFER: none to go back from */

    struct learner_op *ops; /* one by one; all modes */
    size_t op_count;
    struct learner_op *fused; /* INFER where the device can; else NULL */
    size_t fused_count;
};

/* Plans and allocates the arena, then makes the operations. Parameters must be in place.
 *   fails    NO_MEMORY, LIMIT */
DELTA_MUST_USE enum delta_status learner_graph_build(struct learner_net *net,
                                                     struct delta_error *err);
void learner_graph_release(struct learner_net *net);

#endif
