/* A network as a static graph: parameters in one block, gradients in one block, activations from
 * one arena. Built once for a model and a largest batch; a step after the first allocates nothing.
 *
 * Shapes are row-major, channels last: [n, h, w, c]. n below is the number of images in this
 * call, 1..batch. Threads: a net belongs to one thread at a time; it may use several inside.
 */
#ifndef LEARNER_NET_H
#define LEARNER_NET_H

#include "delta/model.h"

enum learner_mode {
    LEARNER_INFER,      /* running statistics; nothing kept for backward */
    LEARNER_TRAIN_EVAL, /* running statistics (an increment); activations kept for backward */
    LEARNER_TRAIN       /* batch statistics, running ones updated; activations kept */
};

struct learner_net_options {
    /* "cpu" (which is "blas"), "cuda" (an NVIDIA GPU), "auto": the GPU if there is one, else the
     * CPU; "ref": the slow oracle. "cuda" and "auto" take a precision behind a colon: "cuda:tf32",
     * "cuda:bf16"; weights stay float32. NULL = auto */
    const char *device;
    size_t batch; /* largest n; 0 = 64 */
    int threads;  /* 0 = all cores */
    bool train;   /* false: no gradients, no kept activations */
    /* Trains under the freeze marks of this model's tensors: no gradient is computed for a frozen
     * filter or tensor, none goes below the lowest layer that learns, and frozen batch norms are
     * part of their convolutions. Only read by learner_net_new. NULL: everything learns */
    const struct delta_model *plan;
};

/* True when `device` lets a GPU be used and this build could use one, but there is none: why says
 * what is missing. Asks the hardware: once per program is enough. */
bool learner_device_missing(char *why, size_t size, const char *device);

/* One parameter or running statistic; views into the net's blocks. On a GPU these are places in its
 * memory: only learner_net_get and learner_net_put may look there. */
struct learner_param {
    const char *name; /* torchvision's */
    float *data;
    float *grad; /* NULL for running statistics, when !train, and when wholly frozen. Filters that
                  * are wholly frozen have unspecified numbers here */
    size_t count;
    uint32_t rank;
    uint64_t shape[DELTA_TENSOR_RANK_MAX];
    bool decays; /* weight decay applies (weights of convolutions and linear layers) */
};

struct learner_net;

/* Builds the graph that model->arch names and copies the model's tensors in.
 *   fails    UNSUPPORTED (architecture, device), MISMATCH (names tensor, wanted and found shape),
 *            NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_net_new(struct learner_net **out,
                                                 const struct delta_model *model,
                                                 const struct learner_net_options *options,
                                                 struct delta_error *err);
void learner_net_free(struct learner_net *net);

/* What learner_net_memory_bytes and learner_net_prefix_count (prefix may be NULL) would be, without
 * taking the activations' and parameters' memory.
 *   fails    as learner_net_new */
DELTA_MUST_USE enum delta_status learner_net_plan_bytes(size_t *bytes, size_t *prefix,
                                                        const struct delta_model *model,
                                                        const struct learner_net_options *options,
                                                        struct delta_error *err);

const char *learner_net_device(const struct learner_net *net);    /* "blas" */
const char *learner_net_precision(const struct learner_net *net); /* "fp32", "tf32", "bf16" */
size_t learner_net_batch(const struct learner_net *net);
size_t learner_net_class_count(const struct learner_net *net);
size_t learner_net_feature_count(const struct learner_net *net); /* d: input of the head */
size_t learner_net_param_count(const struct learner_net *net);
struct learner_param *learner_net_param(struct learner_net *net, size_t index);
struct learner_param *learner_net_find(struct learner_net *net, const char *name);
/* Numbers of a parameter or its gradient, wherever they are: count floats from and to any place
 * within param->data or param->grad. Failures of the hardware are told by the next pass. */
void learner_net_get(const struct learner_net *net, float *out, const float *from, size_t count);
void learner_net_put(struct learner_net *net, float *to, const float *values, size_t count);
/* To be called after writing to a parameter's data and before the next pass: what was derived from
 * the weights (packed, transformed, folded) is made anew. The optimiser does so itself. */
void learner_net_changed(struct learner_net *net);
size_t learner_net_memory_bytes(const struct learner_net *net); /* all blocks together */

/* Host memory, as are logits, features and the logits' gradient. */
float *learner_net_input(struct learner_net *net); /* [batch, h, w, c], to be filled */

/* fails    NONFINITE names the layer when an output is NaN or infinite; INTERNAL in mode TRAIN
 * under a plan that freezes batch norms */
DELTA_MUST_USE enum delta_status learner_net_forward(struct learner_net *net, size_t n,
                                                     enum learner_mode mode,
                                                     struct delta_error *err);
const float *learner_net_logits(const struct learner_net *net);   /* [n, classes] */
const float *learner_net_features(const struct learner_net *net); /* [n, d] */
float *learner_net_logits_grad(struct learner_net *net);          /* [n, classes], to be filled */

/* A net that trains under a freeze plan has a frozen prefix: the layers below the lowest one that
 * learns. What they make of an image never changes and may be kept by the caller.
 *   count    floats of an image; 0: there is no frozen prefix
 *   layers   in it: nets of one architecture with as many make the same records
 *   share    multiply-adds in it, of all: what a cached record saves of a pass, 0..1
 *   read     after a forward pass over n images: out [n, count]
 *   forward_from  a forward pass over images whose records [n] of [count] are given */
size_t learner_net_prefix_count(const struct learner_net *net);
size_t learner_net_prefix_layers(const struct learner_net *net);
double learner_net_prefix_share(const struct learner_net *net);
void learner_net_prefix_read(const struct learner_net *net, float *out, size_t n);
DELTA_MUST_USE enum delta_status learner_net_forward_from(struct learner_net *net,
                                                          const float *const *records, size_t n,
                                                          enum learner_mode mode,
                                                          struct delta_error *err);

/* Gradients of every parameter for the logit gradients above; overwrites, does not add up. Uses up
 * what the forward pass kept: only once for each.
 *   fails    INTERNAL without a forward pass in a training mode over n images before it */
DELTA_MUST_USE enum delta_status learner_net_backward(struct learner_net *net, size_t n,
                                                      struct delta_error *err);

/* Copies parameters and statistics back into a model of the same shapes (freeze plan untouched). */
DELTA_MUST_USE enum delta_status learner_net_store(const struct learner_net *net,
                                                   struct delta_model *model,
                                                   struct delta_error *err);

/* An untrained model: Kaiming-normal (fan out) convolutions, ones/zeros in batch norms, a head that
 * is uniform (ResNets) or normal with zero bias (MobileNetV2), as torchvision initialises; from a
 * seed. classes: ids in output order.
 *   fails    UNSUPPORTED (name, stem), LIMIT (width, input, classes), NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_net_init_model(struct delta_model *out,
                                                        const struct delta_arch *arch,
                                                        const struct delta_class_id *classes,
                                                        size_t class_count, uint64_t seed,
                                                        struct delta_error *err);

#endif
