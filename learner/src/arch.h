/* Architectures as data: a row of network_table.c becomes a list of layers in execution order. The
 * list is all that the net, the initialiser and the checks know; they contain no architecture's
 * name. */
#ifndef LEARNER_ARCH_H
#define LEARNER_ARCH_H

#include "device.h"

#define LEARNER_LAYERS_MAX 256
#define LEARNER_LAYER_NAME 64
#define LEARNER_LAYER_INPUT (-1) /* the image */
#define LEARNER_LAYER_NONE (-2)

enum learner_layer_kind {
    LEARNER_LAYER_CONV, /* convolution, batch norm, optional residual, activation */
    LEARNER_LAYER_MAX_POOL,
    LEARNER_LAYER_POOL, /* mean over the plane */
    LEARNER_LAYER_HEAD  /* linear with bias */
};

struct learner_layer {
    enum learner_layer_kind kind;
    char name[LEARNER_LAYER_NAME]; /* of the weight, without ".weight" */
    char norm[LEARNER_LAYER_NAME]; /* CONV: of the batch norm */
    int input, residual;           /* earlier layers, or INPUT, NONE */
    struct learner_shape in, out;
    size_t kernel, stride, pad; /* CONV, MAX_POOL */
    size_t groups;              /* CONV: 1, or in.c = out.c */
    enum learner_act act;
    double init_std; /* HEAD: an untrained one is normal with zero bias; 0: uniform */
};

struct learner_layers {
    struct learner_layer items[LEARNER_LAYERS_MAX];
    size_t count;
};

/* Limits: widths and planes small enough that no size below overflows; the net checks memory.
 *   fails    UNSUPPORTED (name, stem), LIMIT (input size, width, classes) */
DELTA_MUST_USE enum delta_status learner_arch_layers(struct learner_layers *out,
                                                     const struct delta_arch *arch,
                                                     size_t class_count, struct delta_error *err);

#endif
