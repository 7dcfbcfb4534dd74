/* The networks that are measured, and one of them with random images, ready to run. */
#ifndef BENCH_NET_H
#define BENCH_NET_H

#include "graph.h"
#include "learner/optim.h"

#define BENCH_CLASSES_MAX 1000

struct bench_net_row {
    const char *name; /* "resnet18" */
    uint32_t width;   /* as in struct delta_arch */
    const char *text; /* "ResNet-18 w64" */
};

extern const struct bench_net_row bench_nets[];
extern const size_t bench_net_count;

struct bench_net_options {
    const char *name;
    uint32_t width;
    size_t side, batch, classes;
    int threads;        /* 0: all cores */
    const char *device; /* NULL: the fastest */
    bool train;
};

struct bench_net {
    struct learner_net *net;
    struct learner_sgd *sgd; /* NULL unless train */
    bool train;
    int32_t *labels;
};

/* fails: as learner_net_init_model, learner_net_new and learner_sgd_new */
DELTA_MUST_USE enum delta_status bench_net_init(struct bench_net *out,
                                                const struct bench_net_options *options,
                                                struct delta_error *err);
void bench_net_release(struct bench_net *bench);

/* A training step (forward, cross-entropy, backward, SGD with Nesterov momentum and weight decay)
 * or a forward pass for inference. */
DELTA_MUST_USE enum delta_status bench_net_run(struct bench_net *bench, struct delta_error *err);

/* Multiply-adds of convolutions and the head, counted twice, per image; a training step has three
 * times as many but for the gradient of the image, which nobody computes. */
double bench_op_flops(const struct learner_op *op);
double bench_net_flops(const struct bench_net *bench);

#endif
