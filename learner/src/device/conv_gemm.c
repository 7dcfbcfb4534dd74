/* Convolutions as matrix products, forward and input gradient: a row is what an output pixel sees
 * of the input (conv_window.h, no im2col), a column is a filter. The input gradient is such a
 * product too: of the output's gradient with the filters turned by half a turn; with a stride, one
 * product for each phase of the input's pixels, with those taps that meet it.
 *
 * Members share output rows, or, where there are few or the weights outgrow the cache, columns.
 * Each value's sum has one order, whatever the division. */
#include "conv_gemm.h"

#include <string.h>

#define BLOCK_PIXELS 192
#define CACHED_WEIGHTS ((size_t)256 << 10) /* floats that stay in the second-level cache */
#define FEW_PIXELS 96                      /* of a member */
#define FLOATS_OF_DOUBLE (sizeof(double) / sizeof(float))

/* One product. Pixel (i, y, x) of the output is c + i * image_step + y * row_step + x * pixel_step.
 */
struct product {
    struct blas_window window;
    size_t cols;
    const float *packed;
    float *c;
    size_t image_step, row_step, pixel_step;
    bool add;
    struct learner_gemm_finish finish; /* sums: of each member, filled in by it */
    bool finished;
    double *sums;
    const struct learner_op *back; /* whose back_sums are wanted; dense products only */
};

struct work {
    const struct blas_job *job;
    struct product product;
};

static bool is_dense(const struct product *p)
{
    return p->pixel_step == p->cols && p->row_step == p->window.w * p->cols &&
           p->image_step == p->window.h * p->row_step;
}

static size_t padded(const struct blas *blas, size_t cols)
{
    return conv_round_up(cols, blas->kernels->lanes) + 16 - blas->kernels->lanes;
}

/* Scratch of a member: sums, values that are not dense, then the window's. */
static size_t sums_floats(const struct product *p)
{
    return conv_round_up(2 * p->cols * FLOATS_OF_DOUBLE, 16);
}

/* of a block, in float; only then */
static size_t back_floats(const struct product *p)
{
    return p->back ? conv_round_up(2 * p->cols, 16) : 0;
}

static size_t spare_floats(const struct product *p, size_t rows)
{
    return is_dense(p) ? 0 : conv_round_up(rows * p->window.w * p->cols, 16);
}

static size_t member_floats(const struct product *p)
{
    const size_t rows = conv_block_rows(&p->window, BLOCK_PIXELS);

    return sums_floats(p) + back_floats(p) + spare_floats(p, rows) +
           blas_window_floats(&p->window, rows);
}

static struct product forward_product(const struct learner_op *op, size_t n)
{
    struct product p = {
        .window = blas_window_of(op, n),
        .cols = op->out.c,
        .c = op->y,
        .pixel_step = op->out.c,
    };

    p.row_step = p.window.w * p.cols;
    p.image_step = p.window.h * p.row_step;
    return p;
}

/* Along one axis: input pixels of a phase are j * stride + phase. Their taps are first_tap,
 * first_tap + stride, ...; the last of them comes first in the window, which sees the gradient's
 * pixel j - before and those after it. */
struct phase {
    size_t count, taps, first_tap;
    ptrdiff_t before;
};

static struct phase phase_of(const struct learner_op *op, size_t phase, size_t in)
{
    struct phase p = {.first_tap = (phase + op->pad) % op->stride};

    p.count = phase < in ? (in - phase - 1) / op->stride + 1 : 0;
    p.taps = p.first_tap < op->kernel ? (op->kernel - 1 - p.first_tap) / op->stride + 1 : 0;
    p.before = (ptrdiff_t)p.taps - 1 -
               ((ptrdiff_t)(phase + op->pad) - (ptrdiff_t)p.first_tap) / (ptrdiff_t)op->stride;
    return p;
}

static struct product dx_product(const struct learner_op *op, size_t n, const struct phase *py,
                                 const struct phase *px, size_t y, size_t x)
{
    const size_t c = op->in.c, s = op->stride;
    struct product p = {
        .window = {.x = op->dy,
                   .n = n,
                   .in = op->out,
                   .kernel_h = py->taps,
                   .kernel_w = px->taps,
                   .stride = 1,
                   .top = py->before,
                   .left = px->before,
                   .h = py->count,
                   .w = px->count},
        .cols = c,
        .c = op->dx + (y * op->in.w + x) * c,
        .pixel_step = s * c,
        .row_step = s * op->in.w * c,
        .image_step = op->in.h * op->in.w * c,
        .add = op->dx_add,
        .back = s == 1 && op->back_sums ? op : NULL,
    };

    if (s == 1) { /* else flat pixels would lose the steps between rows */
        blas_window_flatten(&p.window);
        p.row_step = p.window.w * c;
        p.image_step = p.window.h * p.row_step;
    }
    return p;
}

/* Which members divide columns: member m has part m % parts of them and part m / parts of rows. */
static size_t column_parts(const struct blas *blas, const struct product *p, size_t members)
{
    const size_t panel = blas->kernels->gemm_panel_cols(p->cols);
    const size_t panels = (p->cols + panel - 1) / panel;
    const size_t depth = p->window.kernel_h * p->window.kernel_w * p->window.in.c;
    const size_t pixels = p->window.n * p->window.h * p->window.w;
    size_t parts = 1;

    if (pixels >= FEW_PIXELS * members && depth * p->cols <= CACHED_WEIGHTS)
        return 1;
    for (size_t d = 2; d <= members && d <= panels; d++)
        if (members % d == 0 && (panels % d == 0 || pixels < FEW_PIXELS * members))
            parts = d;
    return parts;
}

/* Copies (or adds) values to pixels that are not neighbours. */
static void spread(const struct product *p, size_t row, size_t rows, size_t col, size_t col_end,
                   const float *values)
{
    for (size_t r = row; r < row + rows; r++) {
        float *to = p->c + r / p->window.h * p->image_step + r % p->window.h * p->row_step;
        for (size_t x = 0; x < p->window.w; x++, to += p->pixel_step, values += p->cols)
            for (size_t c = col; c < col_end; c++)
                to[c] = p->add ? to[c] + values[c] : values[c];
    }
}

static void clear(const struct product *p, size_t row, size_t row_end)
{
    for (size_t r = row; r < row_end && !p->add; r++) {
        float *to = p->c + r / p->window.h * p->image_step + r % p->window.h * p->row_step;
        for (size_t x = 0; x < p->window.w; x++, to += p->pixel_step)
            memset(to, 0, p->cols * sizeof *to);
    }
}

/* Of some of the pixels and channels, while they are in the cache. */
static void add_back_sums(const struct blas *blas, const struct product *p, size_t pixel,
                          size_t pixels, size_t col, size_t col_end, double *sums, float *block)
{
    struct learner_kernel_norm_back back = blas_norm_back_of(p->back, col, col_end - col);

    back.sum = block;
    back.sum_x = block + p->cols;
    for (size_t at = 0, count; at < pixels; at += count) {
        count = pixels - at < LEARNER_KERNEL_SUM_PIXELS ? pixels - at : LEARNER_KERNEL_SUM_PIXELS;
        blas->kernels->norm_reduce(&back, pixel + at, count);
        blas->kernels->flush(sums + col, back.sum, col_end - col);
        blas->kernels->flush(sums + p->cols + col, back.sum_x, col_end - col);
    }
}

static void run_rows(const struct blas *blas, const struct product *p, size_t row, size_t row_end,
                     size_t col, size_t col_end, float *scratch)
{
    const size_t block_rows = conv_block_rows(&p->window, BLOCK_PIXELS);
    const bool dense = is_dense(p);
    struct learner_gemm_finish finish = p->finish;

    double *sums = (double *)(void *)scratch;
    float *block_sums = scratch + sums_floats(p), *spare = block_sums + back_floats(p);
    float *band = spare + spare_floats(p, block_rows);
    for (; row < row_end; row += block_rows) {
        const size_t rows = row_end - row < block_rows ? row_end - row : block_rows;
        const struct blas_window_block block =
            blas_window_load(blas->kernels, &p->window, row, rows, false, band);
        const size_t at = row * p->window.w * p->cols;
        if (p->finish.residual)
            finish.residual = p->finish.residual + at;
        const struct learner_gemm gemm = {.rows = block.pixels,
                                          .cols = p->cols,
                                          .depth = p->window.kernel_w * p->window.in.c,
                                          .taps = p->window.kernel_h,
                                          .a_rows = block.a ? NULL : block.rows,
                                          .a_rows_stride = block.rows_stride,
                                          .a = block.a,
                                          .a_stride = p->window.in.c,
                                          .b = p->packed,
                                          .c = dense ? p->c + at : spare,
                                          .c_stride = p->cols,
                                          .add = p->add && dense,
                                          .col_first = col,
                                          .col_end = col_end,
                                          .finish = p->finished ? &finish : NULL};
        blas->kernels->gemm(&gemm);
        if (!dense)
            spread(p, row, rows, col, col_end, spare);
        if (p->back)
            add_back_sums(blas, p, row * p->window.w, block.pixels, col, col_end, sums, block_sums);
    }
}

static void run_member(struct product *p, const struct blas *blas, size_t member, size_t members)
{
    const size_t panel = blas->kernels->gemm_panel_cols(p->cols);
    const size_t parts = column_parts(blas, p, members);
    float *scratch = blas->scratch + member * blas->scratch_floats;
    size_t row, row_end, col, col_end;

    learner_pool_share(p->window.n * p->window.h, member / parts, members / parts, &row, &row_end);
    learner_pool_share((p->cols + panel - 1) / panel, member % parts, parts, &col, &col_end);
    col *= panel;
    col_end = col_end * panel < p->cols ? col_end * panel : p->cols;
    if (p->sums) {
        p->finish.sums = (double *)(void *)scratch;
        p->finish.sums_stride = p->cols;
    }
    if (p->sums || p->back)
        memset(scratch, 0, (sums_floats(p) + back_floats(p)) * sizeof *scratch);
    if (!p->window.kernel_h || !p->window.kernel_w) {
        if (member % parts == 0)
            clear(p, row, row_end);
    } else if (col < col_end) {
        run_rows(blas, p, row, row_end, col, col_end, scratch);
    }
}

static void forward_member(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    struct product product = work->product;

    run_member(&product, work->job->blas, member, members);
}

/* Packs tap (y, x) of the filters as rows k_first.. of a matrix of k_total. */
static void pack_tap(const struct blas *blas, const struct learner_op *op, bool dx, size_t tap,
                     size_t first, size_t count, size_t k_first, size_t k_total, float *packed)
{
    const size_t taps = op->kernel * op->kernel, filter = op->in.c * taps;

    if (dx)
        blas->kernels->gemm_pack(packed, op->weight + first * filter + tap, filter, taps, count,
                                 op->in.c, k_first + first, k_total);
    else
        blas->kernels->gemm_pack(packed, op->weight + first * taps + tap, taps, filter, count,
                                 op->out.c, k_first + first, k_total);
}

#define PACK_ROWS 16 /* so that the taps of a row find its cache lines again */

struct packing {
    const struct blas_job *job;
    float *packed;
};

static void pack_forward(void *context, size_t member, size_t members)
{
    const struct packing *work = context;
    const struct learner_op *op = work->job->op;
    const size_t taps = op->kernel * op->kernel, c = op->in.c;
    size_t first, end;

    learner_pool_share((c + PACK_ROWS - 1) / PACK_ROWS, member, members, &first, &end);
    for (size_t i = first * PACK_ROWS; i < c && i < end * PACK_ROWS; i += PACK_ROWS)
        for (size_t t = 0; t < taps; t++)
            pack_tap(work->job->blas, op, false, t, i, c - i < PACK_ROWS ? c - i : PACK_ROWS, t * c,
                     taps * c, work->packed);
}

/* The matrices of all phases, one after another. */
static void pack_dx(void *context, size_t member, size_t members)
{
    const struct packing *work = context;
    const struct learner_op *op = work->job->op;
    const struct blas *blas = work->job->blas;
    const size_t c = op->out.c;
    float *packed = work->packed;
    size_t first, end;

    learner_pool_share(c, member, members, &first, &end);
    for (size_t y = 0; y < op->stride; y++)
        for (size_t x = 0; x < op->stride; x++) {
            const struct phase py = phase_of(op, y, op->in.h), px = phase_of(op, x, op->in.w);
            for (size_t i = 0; i < py.taps * px.taps && first < end; i++) {
                const size_t ty = py.first_tap + op->stride * (py.taps - 1 - i / px.taps);
                const size_t tx = px.first_tap + op->stride * (px.taps - 1 - i % px.taps);
                pack_tap(blas, op, true, ty * op->kernel + tx, first, end - first, i * c,
                         py.taps * px.taps * c, packed);
            }
            packed += blas->kernels->gemm_packed_floats(py.taps * px.taps * c, op->in.c);
        }
}

/* Shared scratch: two arrays of a float a filter, then packed weights. */
static size_t arrays_floats(const struct blas *blas, const struct learner_op *op)
{
    return 2 * padded(blas, op->out.c);
}

static enum delta_status prepare(struct blas *blas, const struct learner_op *op, bool train,
                                 struct delta_error *err)
{
    const size_t depth = op->kernel * op->kernel * op->in.c;
    const size_t packed = blas->kernels->gemm_packed_floats(depth, op->out.c);
    const size_t turned =
        blas->kernels->gemm_packed_floats(op->kernel * op->kernel * op->out.c, op->in.c);
    const struct product forward = forward_product(op, 1);
    size_t member = member_floats(&forward);

    for (size_t y = 0; train && y < op->stride; y++)
        for (size_t x = 0; x < op->stride; x++) {
            const struct phase py = phase_of(op, y, op->in.h), px = phase_of(op, x, op->in.w);
            const struct product dx = dx_product(op, 1, &py, &px, y, x);
            if (py.count && px.count && member_floats(&dx) > member)
                member = member_floats(&dx);
        }
    enum delta_status st = blas_scratch(
        blas, member, arrays_floats(blas, op) + (train ? turned > packed ? turned : packed : 0), op,
        err);
    if (!st && !train)
        st = blas_packed_reserve(blas, op, BLAS_PACKED_FORWARD, packed, err);
    if (!st && train)
        st = conv_gemm_dweight_prepare(blas, op, err);
    return st;
}

static const float *forward_weights(const struct blas_job *job)
{
    bool stale;
    struct packing packing = {job, blas_packed_weights(job->blas, job->op, BLAS_PACKED_FORWARD,
                                                       job->pass->weights_version, &stale)};

    if (!packing.packed)
        packing.packed = job->blas->shared + arrays_floats(job->blas, job->op);
    if (stale)
        learner_pool_run(job->blas->pool, pack_forward, &packing);
    return packing.packed;
}

static const float *pad_array(const struct blas *blas, float *to, const float *from, size_t count)
{
    memcpy(to, from, count * sizeof *to);
    memset(to + count, 0, (padded(blas, count) - count) * sizeof *to);
    return to;
}

/* What remains of a batch norm for the product to do. */
static void finish_norm(const struct blas_job *job, struct product *p)
{
    const struct blas *blas = job->blas;
    const struct learner_op *op = job->op;

    p->finished = true;
    p->finish.scale = pad_array(blas, blas->shared, blas->norm.gain, op->out.c);
    p->finish.shift =
        pad_array(blas, blas->shared + padded(blas, op->out.c), blas->norm.offset, op->out.c);
    p->finish.residual = op->residual;
    p->finish.low = blas->norm.low;
    p->finish.high = blas->norm.high;
}

/* to[count]: the sums of all members */
static void add_sums(const struct blas *blas, double *to, size_t count)
{
    memset(to, 0, count * sizeof *to);
    for (size_t m = 0; m < learner_pool_members(blas->pool); m++) {
        const double *sums =
            (const double *)(const void *)(blas->scratch + m * blas->scratch_floats);
        for (size_t c = 0; c < count; c++)
            to[c] += sums[c];
    }
}

static void forward(const struct blas_job *job)
{
    const struct learner_op *op = job->op;
    struct work work = {.job = job, .product = forward_product(op, job->pass->n)};
    struct product *p = &work.product;

    p->packed = forward_weights(job);
    if (op->kind == LEARNER_OP_CONV_NORM) {
        finish_norm(job, p);
    } else if (job->pass->mode == LEARNER_TRAIN && op->sums) {
        p->finish.mean = pad_array(job->blas, job->blas->shared, op->mean, op->out.c);
        p->finished = true;
        p->sums = op->sums;
    }
    learner_pool_run(job->blas->pool, forward_member, &work);
    if (p->sums)
        add_sums(job->blas, op->sums, 2 * op->out.c);
}

static void dx_member(void *context, size_t member, size_t members)
{
    const struct packing *work = context;
    const struct learner_op *op = work->job->op;
    const struct blas *blas = work->job->blas;
    const float *packed = work->packed;

    for (size_t y = 0; y < op->stride; y++)
        for (size_t x = 0; x < op->stride; x++) {
            const struct phase py = phase_of(op, y, op->in.h), px = phase_of(op, x, op->in.w);
            struct product p = dx_product(op, work->job->pass->n, &py, &px, y, x);
            p.packed = packed;
            p.back = blas_wants_back_sums(work->job) ? p.back : NULL;
            packed += blas->kernels->gemm_packed_floats(py.taps * px.taps * op->out.c, op->in.c);
            if (py.count && px.count)
                run_member(&p, blas, member, members);
        }
}

static void backward_data(const struct blas_job *job)
{
    struct packing packing = {job, job->blas->shared + arrays_floats(job->blas, job->op)};

    learner_pool_run(job->blas->pool, pack_dx, &packing);
    learner_pool_run(job->blas->pool, dx_member, &packing);
    if (job->op->stride > 1)
        blas_conv_back_sums(job);
    else if (blas_wants_back_sums(job))
        add_sums(job->blas, job->op->back_sums, 2 * job->op->in.c);
}

const struct blas_conv blas_conv_gemm = {
    .name = "gemm",
    .prepare = prepare,
    .forward = forward,
    .dx = backward_data,
    .dweight = conv_gemm_dweight,
};
