/* Weight gradients: the sum over pixels of what the pixel sees of the input times the gradients of
 * its filters, those that are live. Where the result is small beside the activations, each member
 * sums up its own images' pixels and the sums are added in the order of members; else members
 * share the result's columns or rows, which needs no second copy of it. */
#include <string.h>

#include "conv_gemm.h"

#define BLOCK_PIXELS 128 /* a panel of so many gradients stays in the first-level cache */

struct shape {
    size_t depth, cols;   /* of the result: taps * ci, live filters */
    size_t panel, stride; /* columns of a panel; floats of a row, padded to whole vectors */
    bool by_pixels;       /* how members share the work */
};

static struct shape shape_of(const struct blas *blas, const struct learner_op *op)
{
    struct shape s = {.depth = op->kernel * op->kernel * op->in.c,
                      .cols = op->live ? op->live_count : op->out.c};

    s.panel = blas->kernels->gemm_panel_cols(s.cols);
    s.stride = conv_round_up(s.cols, blas->kernels->lanes);
    /* not by the number of images, so that scratch does not depend on it */
    s.by_pixels =
        s.depth * op->out.c <= 16 * (learner_shape_count(&op->in) + learner_shape_count(&op->out));
    return s;
}

static size_t sum_floats(const struct shape *s)
{
    return conv_round_up(s->depth * s->stride, 16);
}

enum delta_status conv_gemm_dweight_prepare(struct blas *blas, const struct learner_op *op,
                                            struct delta_error *err)
{
    struct learner_op all = *op; /* the plan of what is live may change after this */

    all.live = NULL;
    const struct shape s = shape_of(blas, &all);
    const struct blas_window window = blas_window_of(op, 1);
    const size_t rows = conv_block_rows(&window, BLOCK_PIXELS);
    /* the gradients of a block, whole panels: fewer filters may have wider ones */
    const size_t gradients = rows * window.w * (s.stride + blas->kernels->gemm_cols);

    return blas_scratch(blas,
                        (s.by_pixels ? sum_floats(&s) : 0) + conv_round_up(gradients, 16) +
                            blas_window_floats(&window, rows),
                        s.by_pixels ? 0 : sum_floats(&s), op, err);
}

/* dy's columns [col, col_end) panel by panel, padded with zeros. */
static void gather(const struct learner_op *op, const struct shape *s, size_t pixel, size_t pixels,
                   size_t col, size_t col_end, float *to)
{
    for (; col < col_end; col += s->panel) {
        const size_t left = col_end - col, used = left < s->panel ? left : s->panel;
        const float *from = op->dy + pixel * op->out.c + (op->live ? 0 : col);
        for (size_t p = 0; p < pixels; p++, from += op->out.c, to += s->panel) {
            for (size_t c = 0; op->live && c < used; c++)
                to[c] = from[op->live[col + c]];
            if (!op->live)
                memcpy(to, from, used * sizeof *to);
            memset(to + used, 0, (s->panel - used) * sizeof *to);
        }
    }
}

struct part {                /* of the work */
    size_t row, row_end;     /* of output pixels */
    size_t depth, depth_end; /* of the result */
    size_t col, col_end;
};

static void run_part(const struct blas_job *job, const struct shape *s, const struct part *part,
                     float *sum, float *scratch)
{
    const struct learner_op *op = job->op;
    const struct learner_kernels *kernels = job->blas->kernels;
    const struct blas_window window = blas_window_of(op, job->pass->n);
    const size_t block_rows = conv_block_rows(&window, BLOCK_PIXELS);
    const size_t tap_depth = window.kernel_w * window.in.c;
    const bool ready = !op->live && s->cols == s->stride && s->cols == s->panel;
    float *gradients = scratch;

    scratch += conv_round_up(block_rows * window.w * (s->stride + s->panel), 16);
    for (size_t row = part->row; row < part->row_end; row += block_rows) {
        const size_t left = part->row_end - row, rows = left < block_rows ? left : block_rows;
        const size_t pixel = row * window.w;
        const struct blas_window_block block =
            blas_window_load(kernels, &window, row, rows, true, scratch);
        struct learner_gemm_outer gemm = {.cols = s->cols,
                                          .depth = block.pixels,
                                          .b = op->dy + pixel * op->out.c,
                                          .b_panel = s->panel,
                                          .b_stride = op->out.c,
                                          .c_stride = s->stride,
                                          .col_first = part->col,
                                          .col_end = part->col_end};
        if (!ready) {
            gemm.b_stride = s->panel;
            gemm.b_panel = block.pixels * s->panel;
            gather(op, s, pixel, block.pixels, part->col, part->col_end,
                   gradients + part->col / s->panel * gemm.b_panel);
            gemm.b = gradients;
        }
        for (size_t t = 0; t < window.kernel_h; t++) {
            const size_t from = t * tap_depth, to = from + tap_depth;
            gemm.a = block.rows + t * block.rows_stride;
            gemm.c = sum + from * s->stride;
            gemm.row_first = part->depth > from ? part->depth - from : 0;
            gemm.row_end = (part->depth_end < to ? part->depth_end : to) - from;
            if (part->depth < to && part->depth_end > from)
                kernels->gemm_outer(&gemm);
        }
    }
}

struct work {
    const struct blas_job *job;
    struct shape shape;
};

static void sum_member(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    const struct blas_job *job = work->job;
    const struct shape *s = &work->shape;
    const struct blas_window window = blas_window_of(job->op, job->pass->n);
    const size_t panels = (s->cols + s->panel - 1) / s->panel;
    struct part part = {0, window.n * window.h, 0, s->depth, 0, s->cols};
    float *scratch = job->blas->scratch + member * job->blas->scratch_floats;
    float *sum = s->by_pixels ? scratch : job->blas->shared;

    if (s->by_pixels) {
        learner_pool_share(part.row_end, member, members, &part.row, &part.row_end);
        memset(sum, 0, sum_floats(s) * sizeof *sum);
        run_part(job, s, &part, sum, scratch + sum_floats(s));
        return;
    }
    if (panels % members == 0) {
        learner_pool_share(panels, member, members, &part.col, &part.col_end);
        part.col *= s->panel;
        part.col_end = part.col_end * s->panel < s->cols ? part.col_end * s->panel : s->cols;
    } else {
        const size_t tile = job->blas->kernels->gemm_rows;
        learner_pool_share((s->depth + tile - 1) / tile, member, members, &part.depth,
                           &part.depth_end);
        part.depth *= tile;
        part.depth_end = part.depth_end * tile < s->depth ? part.depth_end * tile : s->depth;
    }
    const size_t width = conv_round_up(part.col_end, job->blas->kernels->lanes) - part.col;
    for (size_t d = part.depth; d < part.depth_end; d++)
        memset(sum + d * s->stride + part.col, 0, width * sizeof *sum);
    run_part(job, s, &part, sum, scratch);
}

#define TILE 16

/* Adds the members' sums and turns [depth][cols] into [co][ci][taps]. */
static void write_tile(const struct work *work, size_t ci, size_t col, size_t members)
{
    const struct learner_op *op = work->job->op;
    const struct shape *s = &work->shape;
    const struct blas *blas = work->job->blas;
    const float *first = s->by_pixels ? blas->scratch : blas->shared;
    const size_t taps = op->kernel * op->kernel, c = op->in.c;
    const size_t ci_end = ci + TILE < c ? ci + TILE : c;
    const size_t count = s->cols - col < TILE ? s->cols - col : TILE;

    for (; ci < ci_end; ci++)
        for (size_t t = 0; t < taps; t++) {
            const float *from = first + (t * c + ci) * s->stride + col;
            float sum[TILE] = {0};
            for (size_t m = 0; m < (s->by_pixels ? members : 1); m++)
                for (size_t i = 0; i < count; i++)
                    sum[i] += from[m * blas->scratch_floats + i];
            for (size_t i = 0; i < count; i++) {
                const size_t co = op->live ? op->live[col + i] : col + i;
                op->dweight[(co * c + ci) * taps + t] = sum[i];
            }
        }
}

static void write_member(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    const struct shape *s = &work->shape;
    const size_t c = work->job->op->in.c;
    size_t first, end;

    learner_pool_share((s->cols + TILE - 1) / TILE, member, members, &first, &end);
    for (size_t col = first * TILE; col < s->cols && col < end * TILE; col += TILE)
        for (size_t ci = 0; ci < c; ci += TILE)
            write_tile(work, ci, col, members);
}

void conv_gemm_dweight(const struct blas_job *job)
{
    struct work work = {job, shape_of(job->blas, job->op)};

    learner_pool_run(job->blas->pool, sum_member, &work);
    learner_pool_run(job->blas->pool, write_member, &work);
}
