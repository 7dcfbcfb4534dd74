/* Where the arithmetic happens: one const table per backend, one `struct learner_op` per node of
 * the graph. The net plans memory and order; a device computes one op at a time. `ref` is the
 * oracle; every other backend agrees with it within the tolerances of test_ops.
 *
 * Activations are [n, h, w, c], channels last: a 1x1 convolution is a plain matrix product over
 * all pixels, and every other loop has its vectors along the channels. Weights stay in the model
 * file's order, [co, ci, k, k]. */
#ifndef LEARNER_DEVICE_H
#define LEARNER_DEVICE_H

#include "learner/net.h"
#include "pool.h"

enum learner_op_kind {
    LEARNER_OP_CONV,      /* y = weight * x, no bias */
    LEARNER_OP_NORM,      /* y = act(batch_norm(x) + residual) */
    LEARNER_OP_CONV_NORM, /* both in one pass; INFER only, optional (see `supports`) */
    LEARNER_OP_POOL,      /* mean over the plane: [n, h, w, c] -> [n, c] */
    LEARNER_OP_MAX_POOL,  /* largest of each window */
    LEARNER_OP_LINEAR     /* y = x weight^T + bias */
};

enum learner_act { LEARNER_ACT_NONE, LEARNER_ACT_RELU, LEARNER_ACT_RELU6 };

struct learner_shape {
    size_t c, h, w;
};

static inline size_t learner_shape_count(const struct learner_shape *shape)
{
    return shape->c * shape->h * shape->w;
}

/* Borrows everything. Which fields count depends on the kind; absent ones are NULL.
 *
 * A batch norm need not write its result: with y NULL it leaves gain and offset, and the
 * convolution that reads it gets x = the norm's input together with x_gain, x_offset, x_act and
 * normalises what it loads. So a training step keeps one activation a layer instead of two. */
struct learner_op {
    enum learner_op_kind kind;
    const char *name;             /* for messages: "layer1.0.conv1" */
    struct learner_shape in, out; /* per image */
    size_t kernel, stride, pad;   /* CONV, MAX_POOL (padding never wins) */
    size_t groups;                /* CONV: 1, or in.c = out.c (depthwise) */
    enum learner_act act;         /* NORM */

    const float *x, *residual;  /* [n, in]; residual like y */
    float *y;                   /* [n, out]; NORM: NULL when only gain and offset are wanted */
    const float *dy;            /* gradients; dx NULL: not wanted */
    float *dx, *dresidual;      /* NORM: dx may be dy */
    bool dx_add, dresidual_add; /* add to what is there instead of overwriting */

    /* CONV: its input is x_act(x * x_gain + x_offset), channel by channel, padding stays zero; dx
     * is the gradient of that. x_gain NULL: x itself */
    const float *x_gain, *x_offset;
    enum learner_act x_act;

    const float *weight, *bias;  /* CONV [co, ci / groups, k, k]; LINEAR [out, in], [out] */
    const float *scale, *shift;  /* NORM [c]: gamma, beta */
    float *mean, *var;           /* NORM [c]: running statistics, updated in TRAIN */
    float *batch_mean, *inv_std; /* NORM [c]: what forward used, for backward */
    float *gain, *offset;        /* NORM [c], may be NULL: y = act(x * gain + offset + residual) */
    /* CONV, in TRAIN: [2][co], sums over all pixels of y - mean and of its square, where mean is
     * the running one that the next NORM has (given as op->mean). NORM, in TRAIN: those sums, which
     * spare it a pass over x. NULL: not wanted, not there */
    double *sums;
    float *dweight, *dbias, *dscale, *dshift; /* NULL: not wanted */
    /* CONV: the output channels whose dweight is wanted, ascending; the rows of the others are
     * left alone. NULL: all */
    const uint32_t *live;
    size_t live_count;
};

#define LEARNER_NORM_EPSILON 1e-5
#define LEARNER_NORM_MOMENTUM 0.1

struct learner_pass {
    size_t n; /* images */
    enum learner_mode mode;
    bool backward; /* mode = that of the forward pass before */
    /* Changes whenever a weight may have changed, never 0; what a device derived from weights
     * (packed, transformed) may be kept while it stays. 0: may have changed */
    uint64_t weights_version;
};

struct learner_device;

struct learner_device_ops {
    const char *name; /* "ref" "blas" "cuda" */
    enum delta_status (*open)(struct learner_device **out, int threads, struct delta_error *err);
    void (*close)(struct learner_device *device);
    /* Zeroed, 64-byte aligned; NULL when there is no memory. */
    void *(*alloc)(struct learner_device *device, size_t bytes);
    void (*release)(struct learner_device *device, void *block);
    /* NULL: everything but the optional kinds */
    bool (*supports)(const struct learner_device *device, const struct learner_op *op);
    /* Called once per op before the first run, so that run never allocates. Looks at shapes and at
     * which pointers are NULL, never at what they point to: a plan has no memory behind them. NULL:
     * nothing to do */
    enum delta_status (*prepare)(struct learner_device *device, const struct learner_op *op,
                                 size_t batch, bool train, struct delta_error *err);
    void (*run)(struct learner_device *device, const struct learner_op *op,
                const struct learner_pass *pass);
    /* Runs work on all its threads, see pool.h; for host memory. NULL: it has one */
    void (*team)(struct learner_device *device, learner_pool_work *work, void *context);
    size_t (*memory_bytes)(const struct learner_device *device); /* what prepare took */
};

struct learner_device { /* first member of every backend's own struct */
    const struct learner_device_ops *ops;
};

extern const struct learner_device_ops learner_device_ref;
extern const struct learner_device_ops learner_device_blas;
extern const struct learner_device_ops learner_device_cuda;

/* name: NULL and "auto" choose the fastest that is there.
 *   fails    UNSUPPORTED (unknown name, or not in this build), NO_MEMORY, IO */
DELTA_MUST_USE enum delta_status learner_device_open(struct learner_device **out, const char *name,
                                                     int threads, struct delta_error *err);

/* device->ops->team, or the one thread there is */
void learner_device_team(struct learner_device *device, learner_pool_work *work, void *context);

#endif
