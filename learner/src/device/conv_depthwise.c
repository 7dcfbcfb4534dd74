/* Depthwise convolutions: one filter a channel. They are bound by memory, so each tensor is read
 * once: a unit of work is a strip of channels of one image, whose rows go through a ring of padded
 * rows that stays in the cache, normalised on the way in. The backward pass makes both gradients
 * from one such walk. Weight gradients and sums are kept per member and reduced in member order,
 * so that one thread count always gives the same bytes. */
#include <string.h>

#include "blas.h"

#define KERNEL_MAX 15
#define RING_BYTES (64 * 1024)
#define LANES LEARNER_KERNEL_LANES_MAX
#define UNITS_PER_MEMBER 4 /* fewer, and one member would wait for another */

/* How one pass is cut up, and the layout of a member's scratch space. */
struct plan {
    size_t k, channels, padded; /* padded: channels up to a whole vector */
    size_t strip, strips, bands;
    size_t x_cols, dy_cols, dy_left; /* columns of the rings; dy's before its first */
    size_t floats;                   /* of a member */
};

struct buffers {
    double *totals; /* [taps][padded] of the weights, back_sums; or [2][padded] of the outputs */
    float *x, *dy;  /* rings: [k][columns][strip] */
    float *zero;    /* a row outside of the image */
    float *dweight; /* [taps][strip] */
    float *sums;    /* [2][strip] */
    size_t summed;  /* pixels since the last flush */
};

static size_t whole(size_t channels)
{
    return (channels + LANES - 1) / LANES * LANES;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void set_strip(struct plan *plan, size_t strip)
{
    plan->strip = strip > plan->padded ? plan->padded : strip < LANES ? LANES : strip;
    plan->strips = (plan->channels + plan->strip - 1) / plan->strip;
    plan->strip = whole((plan->channels + plan->strips - 1) / plan->strips);
    plan->strips = (plan->channels + plan->strip - 1) / plan->strip;
}

static struct plan plan_of(const struct learner_op *op, size_t n, size_t members, bool backward)
{
    const size_t k = op->kernel, s = op->stride;
    struct plan plan = {.k = k, .channels = op->in.c, .padded = whole(op->in.c), .bands = 1};

    plan.x_cols = larger((op->out.w - 1) * s + k, op->pad + op->in.w);
    if (backward) {
        plan.dy_left = k - 1;
        plan.dy_cols = k - 1 + larger(op->out.w, (op->in.w - 1 + op->pad) / s + 1);
    }
    const size_t column = k * (plan.x_cols + plan.dy_cols) * sizeof(float);
    set_strip(&plan, RING_BYTES / column / LANES * LANES);
    while (backward && n * plan.strips < 2 * members && plan.strip > LANES)
        set_strip(&plan, plan.strip - LANES);
    if (!backward && n * plan.strips < UNITS_PER_MEMBER * members)
        plan.bands = UNITS_PER_MEMBER * members / (n * plan.strips);
    if (plan.bands > op->out.h)
        plan.bands = op->out.h;
    plan.floats = 2 * (k * k + 2) * plan.padded +
                  plan.strip * (k * (plan.x_cols + plan.dy_cols) +
                                larger(plan.x_cols, plan.dy_cols) + k * k + 2);
    return plan;
}

static enum delta_status prepare(struct blas *blas, const struct learner_op *op, bool train,
                                 struct delta_error *err)
{
    const size_t weights = op->kernel * op->kernel * whole(op->in.c);
    /* many images: the widest strips there are */
    const size_t forward = plan_of(op, SIZE_MAX >> 16, 1, false).floats;
    const size_t backward = train ? plan_of(op, SIZE_MAX >> 16, 1, true).floats : 0;

    if (op->kernel > KERNEL_MAX)
        return delta_fail(err, DELTA_UNSUPPORTED,
                          "layer '%s': depthwise kernels of more than %d x %d are not supported",
                          op->name, KERNEL_MAX, KERNEL_MAX);
    return blas_scratch(blas, larger(forward, backward), weights, op, err);
}

static struct buffers buffers_of(const struct blas *blas, const struct plan *plan, size_t member)
{
    struct buffers b = {0};
    float *at = blas->scratch + member * blas->scratch_floats;

    b.totals = (double *)(void *)at;
    at += 2 * (plan->k * plan->k + 2) * plan->padded;
    b.x = at;
    at += plan->k * plan->x_cols * plan->strip;
    b.dy = at;
    at += plan->k * plan->dy_cols * plan->strip;
    b.zero = at;
    at += larger(plan->x_cols, plan->dy_cols) * plan->strip;
    b.dweight = at;
    b.sums = at + plan->k * plan->k * plan->strip;
    return b;
}

struct work {
    const struct blas_job *job;
    struct plan plan;
    bool sums, dweight, back_sums;
};

/* One strip of some rows of one image. */
struct unit {
    const struct work *work;
    struct buffers *buffers;
    size_t image, row, row_end; /* of the output */
    size_t c, channels;         /* first channel, and how many */
    size_t x_next;              /* first row of the input that is not loaded */
    struct learner_kernel_norm x_norm, y_norm;
    struct learner_kernel_norm_back back;
};

static const float *ring_row(const struct unit *u, const float *ring, size_t cols, size_t row,
                             size_t rows)
{
    const struct plan *plan = &u->work->plan;

    return row < rows ? ring + row % plan->k * cols * plan->strip : u->buffers->zero;
}

/* Loads rows of the input before row `end`. */
static void load_x(struct unit *u, size_t end)
{
    const struct learner_op *op = u->work->job->op;
    const struct plan *plan = &u->work->plan;

    for (end = end < op->in.h ? end : op->in.h; u->x_next < end; u->x_next++) {
        float *to = u->buffers->x + (u->x_next % plan->k * plan->x_cols + op->pad) * plan->strip;
        const size_t pixel = (u->image * op->in.h + u->x_next) * op->in.w;
        u->work->job->blas->kernels->depthwise_load(
            to, plan->strip, op->x + pixel * op->in.c + u->c, op->in.c, op->in.w, u->channels,
            op->x_gain ? &u->x_norm : NULL);
    }
}

/* What output row `row` sees of the input. */
static struct learner_depthwise_row x_row(struct unit *u, size_t row, const float **in)
{
    const struct learner_op *op = u->work->job->op;
    const struct plan *plan = &u->work->plan;

    load_x(u, row * op->stride + plan->k > op->pad ? row * op->stride + plan->k - op->pad : 0);
    for (size_t r = 0; r < plan->k; r++) /* rows above the image wrap round below zero */
        in[r] = ring_row(u, u->buffers->x, plan->x_cols, row * op->stride + r - op->pad, op->in.h);
    return (struct learner_depthwise_row){.rows = plan->k,
                                          .cols = plan->k,
                                          .pixels = op->out.w,
                                          .channels = u->channels,
                                          .in = in,
                                          .in_step = op->stride * plan->strip,
                                          .col_step = plan->strip};
}

/* at: the totals' row of the first sum; the second's comes next */
static void flush_sums(const struct unit *u, size_t at)
{
    const struct learner_kernels *kernels = u->work->job->blas->kernels;
    const struct plan *plan = &u->work->plan;

    for (size_t i = 0; i < 2; i++)
        kernels->flush(u->buffers->totals + (at + i) * plan->padded + u->c,
                       u->buffers->sums + i * plan->strip, u->channels);
    u->buffers->summed = 0;
}

static void sum_row(const struct unit *u, const float *y)
{
    const struct learner_op *op = u->work->job->op;

    for (size_t p = 0, count; p < op->out.w; p += count) {
        count =
            op->out.w - p < LEARNER_KERNEL_SUM_PIXELS ? op->out.w - p : LEARNER_KERNEL_SUM_PIXELS;
        if (u->buffers->summed + count > LEARNER_KERNEL_SUM_PIXELS)
            flush_sums(u, 0);
        u->work->job->blas->kernels->sums(y + p * op->out.c, count, u->channels, op->out.c,
                                          op->mean + u->c, u->buffers->sums,
                                          u->buffers->sums + u->work->plan.strip);
        u->buffers->summed += count;
    }
}

static void forward_unit(struct unit *u)
{
    const struct learner_op *op = u->work->job->op;
    const struct learner_kernels *kernels = u->work->job->blas->kernels;
    const struct plan *plan = &u->work->plan;
    const float *in[KERNEL_MAX];

    for (size_t row = u->row; row < u->row_end; row++) {
        struct learner_depthwise_row out = x_row(u, row, in);
        const size_t at = ((u->image * op->out.h + row) * op->out.w) * op->out.c + u->c;
        out.weight = u->work->job->blas->shared + u->c;
        out.weight_row = (ptrdiff_t)(plan->k * plan->padded);
        out.weight_col = (ptrdiff_t)plan->padded;
        out.out = op->y + at;
        out.out_step = op->out.c;
        out.finish = op->kind == LEARNER_OP_CONV_NORM && !op->residual ? &u->y_norm : NULL;
        kernels->depthwise(&out);
        if (op->kind == LEARNER_OP_CONV_NORM && op->residual)
            kernels->normalise(op->y + at, op->y + at, op->residual + at, &u->y_norm, op->out.w);
        if (u->work->sums)
            sum_row(u, op->y + at);
    }
    if (u->work->sums)
        flush_sums(u, 0);
}

static void load_dy(const struct unit *u, size_t row)
{
    const struct learner_op *op = u->work->job->op;
    const struct plan *plan = &u->work->plan;
    float *to = u->buffers->dy + (row % plan->k * plan->dy_cols + plan->dy_left) * plan->strip;
    const size_t pixel = (u->image * op->out.h + row) * op->out.w;

    u->work->job->blas->kernels->depthwise_load(to, plan->strip, op->dy + pixel * op->out.c + u->c,
                                                op->out.c, op->out.w, u->channels, NULL);
}

/* Input pixels of one row whose column is `phase` modulo the stride: they see the taps kx with
 * kx = phase + pad modulo the stride, at output column (column + pad - kx) / stride. */
static void dx_phase(const struct unit *u, size_t row, size_t phase, const float **in, size_t rows)
{
    const struct learner_op *op = u->work->job->op;
    const struct plan *plan = &u->work->plan;
    const size_t k = plan->k, s = op->stride;
    const size_t ky = (row + op->pad) % s, kx = (phase + op->pad) % s;
    const size_t cols = kx < k ? (k - kx + s - 1) / s : 0;
    const size_t last = kx + (cols ? cols - 1 : 0) * s; /* sees the leftmost column */
    /* left of the image by less than k */
    const size_t column = plan->dy_left + (phase + op->pad + k * s - last) / s - k;
    const float *from[KERNEL_MAX];

    for (size_t r = 0; r < rows; r++)
        from[r] = in[r] + column * plan->strip;
    u->work->job->blas->kernels->depthwise(&(struct learner_depthwise_row){
        .rows = rows,
        .cols = cols,
        .pixels = (op->in.w - phase + s - 1) / s,
        .channels = u->channels,
        .in = from,
        .in_step = plan->strip,
        .col_step = plan->strip,
        .weight = u->work->job->blas->shared + (ky * k + last) * plan->padded + u->c,
        .weight_row = (ptrdiff_t)(s * k * plan->padded),
        .weight_col = -(ptrdiff_t)(s * plan->padded),
        .out = op->dx + ((u->image * op->in.h + row) * op->in.w + phase) * op->in.c + u->c,
        .out_step = s * op->in.c,
        .add = op->dx_add});
}

/* What was just written and the input beside it, while both are in the cache. */
static void back_sum_row(const struct unit *u, size_t row)
{
    const size_t w = u->work->job->op->in.w;
    const size_t pixel = (u->image * u->work->job->op->in.h + row) * w;

    for (size_t p = 0, count; p < w; p += count) {
        count = w - p < LEARNER_KERNEL_SUM_PIXELS ? w - p : LEARNER_KERNEL_SUM_PIXELS;
        if (u->buffers->summed + count > LEARNER_KERNEL_SUM_PIXELS)
            flush_sums(u, u->work->plan.k * u->work->plan.k);
        u->work->job->blas->kernels->norm_reduce(&u->back, pixel + p, count);
        u->buffers->summed += count;
    }
}

static void dx_row(const struct unit *u, size_t row)
{
    const struct learner_op *op = u->work->job->op;
    const struct plan *plan = &u->work->plan;
    const size_t s = op->stride, ky = (row + op->pad) % s;
    const size_t rows = ky < plan->k ? (plan->k - ky + s - 1) / s : 0;
    const float *in[KERNEL_MAX];

    for (size_t r = 0; r < rows; r++)
        in[r] = ring_row(u, u->buffers->dy, plan->dy_cols, (row + op->pad - ky) / s - r, op->out.h);
    for (size_t phase = 0; phase < s && phase < op->in.w; phase++)
        dx_phase(u, row, phase, in, rows);
    if (u->work->back_sums)
        back_sum_row(u, row);
}

static void backward_unit(struct unit *u)
{
    const struct learner_op *op = u->work->job->op;
    const struct learner_kernels *kernels = u->work->job->blas->kernels;
    const struct plan *plan = &u->work->plan;
    const float *in[KERNEL_MAX];
    size_t next = 0; /* row of dx */

    for (size_t row = 0; row < op->out.h; row++) {
        load_dy(u, row);
        if (u->work->dweight) {
            struct learner_depthwise_row seen = x_row(u, row, in);
            seen.out_step = plan->strip;
            kernels->depthwise_dweight(
                &seen,
                u->buffers->dy + (row % plan->k * plan->dy_cols + plan->dy_left) * plan->strip,
                u->buffers->dweight);
        }
        const size_t end = (row + 1) * op->stride; /* less the padding */
        for (; op->dx && next < op->in.h && (next + op->pad < end || row + 1 == op->out.h); next++)
            dx_row(u, next);
    }
    if (u->work->back_sums)
        flush_sums(u, plan->k * plan->k);
    for (size_t t = 0; u->work->dweight && t < plan->k * plan->k; t++)
        kernels->flush(u->buffers->totals + t * plan->padded + u->c,
                       u->buffers->dweight + t * plan->strip, u->channels);
}

static void set_norms(struct unit *u)
{
    const struct blas *blas = u->work->job->blas;
    const struct learner_op *op = u->work->job->op;

    if (op->kind == LEARNER_OP_CONV_NORM) {
        u->y_norm = blas->norm;
        u->y_norm.channels = u->channels;
        u->y_norm.gain += u->c;
        u->y_norm.offset += u->c;
    }
    if (op->x_gain) {
        u->x_norm.gain = op->x_gain + u->c;
        u->x_norm.offset = op->x_offset + u->c;
        blas_norm_bounds(&u->x_norm, op->x_act);
    }
    if (u->work->back_sums) {
        u->back = blas_norm_back_of(op, u->c, u->channels);
        u->back.sum = u->buffers->sums;
        u->back.sum_x = u->buffers->sums + u->work->plan.strip;
    }
}

static void run_units(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    const struct blas_job *job = work->job;
    const struct learner_op *op = job->op;
    const struct plan *plan = &work->plan;
    struct buffers buffers = buffers_of(job->blas, plan, member);
    size_t first, end;

    memset(buffers.totals, 0, plan->floats * sizeof(float)); /* all, and the padding above all */
    learner_pool_share(job->pass->n * plan->bands * plan->strips, member, members, &first, &end);
    for (size_t i = first; i < end; i++) {
        const size_t band = i / plan->strips % plan->bands, c = i % plan->strips * plan->strip;
        struct unit u = {.work = work,
                         .buffers = &buffers,
                         .image = i / plan->strips / plan->bands,
                         .c = c,
                         .channels = op->in.c - c < plan->strip ? op->in.c - c : plan->strip};
        learner_pool_share(op->out.h, band, plan->bands, &u.row, &u.row_end);
        u.x_next = u.row * op->stride > op->pad ? u.row * op->stride - op->pad : 0;
        set_norms(&u);
        if (job->pass->backward)
            backward_unit(&u);
        else
            forward_unit(&u);
    }
}

/* [c, 1, k, k] -> [k, k, padded] */
static void pack_weights(const struct learner_op *op, const struct plan *plan, float *packed)
{
    const size_t taps = plan->k * plan->k;

    for (size_t t = 0; t < taps; t++)
        for (size_t c = 0; c < plan->padded; c++)
            *packed++ = c < plan->channels ? op->weight[c * taps + t] : 0;
}

static struct work start(const struct blas_job *job)
{
    const size_t members = learner_pool_members(job->blas->pool);
    struct work work = {.job = job,
                        .plan = plan_of(job->op, job->pass->n, members, job->pass->backward)};

    pack_weights(job->op, &work.plan, job->blas->shared);
    return work;
}

/* Of all members, in their order. */
static double total(const struct work *work, size_t at)
{
    const struct blas *blas = work->job->blas;
    double sum = 0;

    for (size_t m = 0; m < learner_pool_members(blas->pool); m++)
        sum += buffers_of(blas, &work->plan, m).totals[at];
    return sum;
}

static void forward(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    struct work work = start(job);

    work.sums = op->kind == LEARNER_OP_CONV && job->pass->mode == LEARNER_TRAIN && op->sums != NULL;
    learner_pool_run(job->blas->pool, run_units, &work);
    for (size_t i = 0; work.sums && i < 2; i++)
        for (size_t c = 0; c < op->out.c; c++)
            op->sums[i * op->out.c + c] = total(&work, i * work.plan.padded + c);
}

static void backward(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    struct work work = start(job);
    const size_t taps = work.plan.k * work.plan.k, rows = op->live ? op->live_count : op->out.c;

    work.dweight = op->dweight && rows;
    work.back_sums = blas_wants_back_sums(job);
    learner_pool_run(job->blas->pool, run_units, &work);
    for (size_t r = 0; work.dweight && r < rows; r++) {
        const size_t c = op->live ? op->live[r] : r;
        for (size_t t = 0; t < taps; t++)
            op->dweight[c * taps + t] = (float)total(&work, t * work.plan.padded + c);
    }
    for (size_t i = 0; work.back_sums && i < 2; i++)
        for (size_t c = 0; c < op->in.c; c++)
            op->back_sums[i * op->in.c + c] = total(&work, (taps + i) * work.plan.padded + c);
}

const struct blas_conv blas_conv_depthwise = {
    .name = "depthwise",
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
};
