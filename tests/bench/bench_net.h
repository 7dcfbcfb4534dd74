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
    /* Trains as an increment does, under a freeze plan: what lies before the first tensor whose
     * name begins so is frozen whole, of each convolution from there on the share `frozen` of its
     * filters, and batch norms. The prefix comes from a cache. NULL: everything learns */
    const char *live_from;
    double frozen;
};

struct bench_net {
    struct learner_net *net;
    struct learner_sgd *sgd; /* NULL unless train */
    bool train;
    int32_t *labels;
    struct delta_model plan; /* empty unless live_from */
    float *prefix;           /* [batch, prefix]; NULL: none is cached */
    const float **records;
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
/* Those that bench_net_run does per image, under its plan. */
double bench_net_live_flops(const struct bench_net *bench);

#endif
