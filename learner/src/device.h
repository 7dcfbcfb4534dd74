/* Where the arithmetic happens: one const table per backend, one `struct learner_op` per node of
 * the graph. The net plans memory and order; a device computes one op at a time. `ref` is the
 * oracle; every other backend agrees with it within the tolerances of test_ops.
 *
 * Activations are [n, h, w, c], channels last: a 1x1 convolution is a plain matrix product over
 * all pixels, and every other loop has its vectors along the channels. Weights stay in the model
 * file's order, [co, ci, k, k]. */
#ifndef LEARNER_DEVICE_H
#define LEARNER_DEVICE_H

#include "learner/loss.h"
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
    /* Backward, in TRAIN. CONV with x_gain that writes dx last: [2][ci], sums over all pixels of g
     * and of g (x - x_mean), where g is dx as far as x_act lets it pass. NORM: those sums, which
     * spare it a pass over x and dy. NULL: not wanted, not there */
    const float *x_mean;
    double *back_sums;

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
     * left alone. Host memory on every device, and the same numbers from prepare on. NULL: all */
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

/* One learning parameter under SGD. */
struct learner_slot {
    float *values, *velocity; /* [count] */
    const float *grad;        /* [count] */
    const uint8_t *live;      /* [count], which elements may move; NULL: all */
    size_t count;
    float decay; /* weight decay, 0 where none applies */
};

struct learner_sgd_rates {
    float lr, momentum;
    bool nesterov;
};

/* A loss over n rows of logits as loss.h defines them: soft targets, or cross-entropy, plus
 * distillation. Everything is host memory. */
struct learner_loss {
    const int32_t *labels; /* [n] */
    bool soft;             /* learner_loss_soft, else learner_loss_ce */
    const int32_t *others; /* soft: [n] or NULL */
    double share, smoothing;
    const float *offset;             /* ce: [classes] or NULL */
    const struct learner_seen *seen; /* ce: or NULL */
    double scale;                    /* of the gradient */
    const float *teacher;            /* [n, old]; NULL: no distillation */
    size_t old;
    double temperature, kd_scale;
    /* Parts of the teacher's outputs that do not overlap, each with a softmax of its own. NULL: all
     * in one */
    const struct learner_outputs *blocks;
    size_t block_count;
};

struct learner_loss_sum {
    double loss, kd; /* unscaled means; kd 0 without a teacher, else the sum over the blocks */
    size_t correct;  /* rows whose largest logit, the first of equals, is the label */
};

/* What a training pass came to. */
struct learner_outcome {
    struct learner_loss_sum sum;
    bool logits_finite, grads_finite;
};

/* Rows of a table and numbers of n images, to or fro: the rows' numbers from `at` on are those of
 * the image, in the device's own format of activations, features float32. */
struct learner_rows {
    char *table;           /* device memory */
    const uint32_t *index; /* host memory, [n]: the image's row */
    float *images;         /* device memory, [n, count] */
    size_t n, count, at;
    size_t row; /* numbers of a row */
    bool exact; /* features */
    bool keep;  /* into the table, else out of it */
};

/* One image of a batch, as a view of an image of the data set. */
struct learner_view {
    uint32_t index;
    int16_t dx, dy; /* it shows pixel (x + dx, y + dy), black outside */
    int16_t cut_left, cut_top;
    uint8_t mirror; /* in x, before the move */
    uint8_t cut;    /* a square from cut_left, cut_top is blanked out */
};

/* Images that live on the device, and how a batch is made of them. */
struct learner_load {
    const uint8_t *pixels;            /* device memory, [images, c, h, w] */
    const struct learner_view *views; /* host memory, [n] */
    size_t n, side;                   /* side of the blanked square */
    uint8_t fill[4];                  /* its value, by channel */
    const float *table;               /* host memory, [c][256]: what a byte becomes */
    float share;                      /* 1, or image i keeps so much of itself and takes the rest
                                       * from image n - 1 - i */
};

/* What a device does whose memory the host cannot touch. Blocks from alloc are then places that
 * only the functions below and `run` may look into. Work is done in the order of the calls;
 * failures are kept and told by sync. */
struct learner_remote_ops {
    /* Host memory that moves to and fro fastest, zeroed; NULL when there is none. */
    void *(*stage)(struct learner_device *device, size_t bytes);
    void (*unstage)(struct learner_device *device, void *block);
    /* Both wait: they return when the host's side may be used again. */
    void (*upload)(struct learner_device *device, void *to, const void *host, size_t bytes);
    void (*download)(struct learner_device *device, void *host, const void *from, size_t bytes);
    void (*copy)(struct learner_device *device, void *to, const void *from, size_t bytes);
    /* The same for activations and the input, which a device may keep in a narrower format. Not for
     * what comes after POOL: features, logits and their gradients are float32 everywhere. */
    void (*store)(struct learner_device *device, float *to, const float *host, size_t count);
    void (*fetch)(struct learner_device *device, float *host, const float *from, size_t count);

    bool (*finite)(struct learner_device *device, const float *data, size_t count);
    /* Of an operation's result after a forward pass: y, or gain where y is NULL. */
    bool (*finite_result)(struct learner_device *device, const struct learner_op *op, size_t n);
    void (*add)(struct learner_device *device, float *sum, const float *more, size_t count);
    void (*blend)(struct learner_device *device, float *average, const float *values, float keep,
                  float take, size_t count);
    void (*swap)(struct learner_device *device, float *a, float *b, size_t count);
    void (*step)(struct learner_device *device, const struct learner_slot *slots, size_t count,
                 const struct learner_sgd_rates *rates);
    /* Writes grad [n, classes]. Does not wait; `outcome` tells the sum. Allocates only when a batch
     * is larger than any before. */
    void (*loss)(struct learner_device *device, const struct learner_loss *loss,
                 const float *logits, size_t n, size_t classes, float *grad);
    /* Waits. The latest loss, and whether its logits and count gradients are finite: one question
     * at the end of a pass. */
    void (*outcome)(struct learner_device *device, const float *grads, size_t count,
                    struct learner_outcome *out);
    void (*rows)(struct learner_device *device, const struct learner_rows *rows);
    size_t (*activation_bytes)(const struct learner_device *device); /* of one number */
    size_t (*free_bytes)(struct learner_device *device);             /* of its memory, now */
    void (*load)(struct learner_device *device, float *input, const struct learner_shape *image,
                 const struct learner_load *load);
    /* Several operations at once, which a device may record and play again: the pointers in `ops`
     * stay what they are. NULL: run is called for each */
    void (*run_all)(struct learner_device *device, const struct learner_op *ops, size_t count,
                    const struct learner_pass *pass);
    /* Waits for everything.  fails: IO (what the device said), NO_MEMORY */
    enum delta_status (*sync)(struct learner_device *device, struct delta_error *err);
};

struct learner_device_ops {
    const char *name; /* "ref" "blas" "cuda" */
    /* NULL: blocks are host memory, and so is every pointer in an operation */
    const struct learner_remote_ops *remote;
    /* Norms write their output, convolutions normalise nothing that they load: faster where memory
     * is plenty and kernels are fixed */
    bool whole_outputs;
    enum delta_status (*open)(struct learner_device **out, int threads, struct delta_error *err);
    void (*close)(struct learner_device *device);
    /* precision: after the colon of the device's name, "tf32"; NULL: the most exact. NULL: has
     * only float32 */
    enum delta_status (*set_precision)(struct learner_device *device, const char *precision,
                                       struct delta_error *err);
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
    const char *precision; /* "tf32", "bf16"; NULL: fp32 */
};

extern const struct learner_device_ops learner_device_ref;
extern const struct learner_device_ops learner_device_blas;
extern const struct learner_device_ops learner_device_cuda;

/* name: as learner_net_options says.
 *   fails    UNSUPPORTED (unknown name, not in this build, no such hardware), NO_MEMORY, IO */
DELTA_MUST_USE enum delta_status learner_device_open(struct learner_device **out, const char *name,
                                                     int threads, struct delta_error *err);

/* ---- device memory: plain loops where it is the host's ---- */

void learner_device_upload(struct learner_device *device, void *to, const void *host, size_t bytes);
void learner_device_download(struct learner_device *device, void *host, const void *from,
                             size_t bytes);
void learner_device_copy(struct learner_device *device, void *to, const void *from, size_t bytes);
/* Where the host can read count floats of device memory: there, or in `scratch`. */
const float *learner_device_view(struct learner_device *device, const float *from, size_t count,
                                 float *scratch);
bool learner_device_finite(struct learner_device *device, const float *data, size_t count);
/* sum += more;  average = keep * average + take * values;  a <-> b */
void learner_device_add(struct learner_device *device, float *sum, const float *more, size_t count);
void learner_device_blend(struct learner_device *device, float *average, const float *values,
                          float keep, float take, size_t count);
void learner_device_swap(struct learner_device *device, float *a, float *b, size_t count);
DELTA_MUST_USE enum delta_status learner_device_sync(struct learner_device *device,
                                                     struct delta_error *err);

/* Host memory alone: no number is infinite or NaN. */
bool learner_all_finite(const float *data, size_t count);

/* device->ops->team, or the one thread there is */
void learner_device_team(struct learner_device *device, learner_pool_work *work, void *context);

#endif
