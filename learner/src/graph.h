/* Inside of a learner_net: its layers as device operations and the plan of its memory. */
#ifndef LEARNER_GRAPH_H
#define LEARNER_GRAPH_H

#include "arch.h"
#include "group.h"
#include "live.h"

#define LEARNER_LAYER_PARAMS 5 /* at most: weight, batch norm's weight, bias, mean, variance */

/* The buffers of a layer; NULL where it needs none.
 *   z   a convolution's output before its batch norm
 *   y   the layer's output. A layer whose only readers are convolutions keeps z alone: they
 *       normalise what they load. Where others read it too, but nothing was added to it, y lives
 *       through the forward pass only: backward takes z in the same way
 *   d   gradient of the output, then, in place, of z */
struct learner_layer_memory {
    float *y, *z, *d;
    float *batch_mean, *inv_std, *gain, *offset;
    double *sums, *back_sums;
};

/* Host memory of a net on a device apart (see remote in device.h), all of it owned; NULL on the
 * others. */
struct learner_net_stage {
    float *input, *logits, *features, *logits_grad, *prefix;
    size_t bytes;
    size_t images;    /* of the last pass */
    bool input_there; /* on the device already */
    bool grad_there;
    bool logits_there, features_there; /* in host memory already */
};

struct learner_op_list {
    struct learner_op *items; /* owned, in the order of execution */
    size_t count;
};

/* Where the blocks of a dry net begin: never read, only told apart from NULL. */
#define LEARNER_NO_MEMORY_BEHIND ((float *)(uintptr_t)4096)

struct learner_net {
    struct learner_device *device;
    struct delta_arch arch;
    size_t batch, class_count;
    bool train;
    bool dry; /* planned only: blocks are places without memory behind them */
    struct learner_layers layers;
    size_t first_param[LEARNER_LAYERS_MAX]; /* of each layer */
    struct learner_live live[LEARNER_LAYERS_MAX];
    /* Layers below have nothing to learn: no gradients, and their results may come from a cache.
     * 0 unless the net trains under a freeze plan */
    size_t first_live;
    size_t boundary[LEARNER_LAYERS_MAX]; /* layers below whose output layers above read */
    size_t boundary_count;
    size_t prefix_count; /* floats of an image in all of them */
    bool fixed_norms;    /* some batch norm must not move: no pass in mode TRAIN */

    struct learner_param *params;
    char (*names)[DELTA_TENSOR_NAME_MAX + 1]; /* of the parameters */
    size_t param_count;
    float *values; /* one block: all parameters and statistics */
    float *grads;  /* of those that learn; NULL unless train */
    size_t value_count, grad_count;

    float *arena; /* activations, their gradients, input and output */
    size_t arena_bytes;
    struct learner_layer_memory memory[LEARNER_LAYERS_MAX];
    struct learner_group group; /* how the lower layers take a batch when the net never trains */
    float *input, *logits_grad;
    struct learner_net_stage stage; /* what a device apart exchanges with the host */
    uint64_t weights_version;
    struct learner_pass last; /* the latest forward pass; n 0: none to go back from */
    bool from_records;        /* it began above the frozen prefix */

    struct learner_op_list forward;  /* with what backward needs */
    struct learner_op_list backward; /* empty unless train */
    struct learner_op_list infer;    /* fused where the device can */
    size_t forward_live;             /* the first of `forward` that belongs to a live layer */
};

/* Why the last forward pass `pass` gave numbers that are not finite: NONFINITE, with the layer. */
enum delta_status learner_net_blame(struct learner_net *net, const struct learner_pass *pass,
                                    struct delta_error *err);

/* Whether another layer's output must be in memory as a whole (see y above). */
bool learner_graph_is_lazy(const struct learner_net *net, size_t layer);

/* Plans and allocates the arena, then makes the operations. Parameters must be in place.
 *   fails    NO_MEMORY, LIMIT */
DELTA_MUST_USE enum delta_status learner_graph_build(struct learner_net *net,
                                                     struct delta_error *err);
void learner_graph_release(struct learner_net *net);

#endif
