/* Batch norms, pools and the head of the CUDA backend. Sums over a batch are taken in two steps,
 * blocks of rows and then the blocks, in a fixed order. */
#include "cuda.h"

#define REDUCE_BLOCKS 4 /* of a processor */

static size_t rows_of(const struct cuda_job *job)
{
    return job->pass->n * job->op->in.h * job->op->in.w;
}

struct reduction {
    unsigned row_blocks;
    size_t blocks;
    double *partial; /* [row_blocks][2][c] */
};

static struct reduction reduction_of(struct cuda *cuda, size_t rows, size_t c)
{
    const size_t per_row = c / cuda_width(c), tile = per_row < GPU_TILE ? per_row : GPU_TILE;
    const size_t tiles = (per_row + tile - 1) / tile, lanes = GPU_THREADS / tile;
    const size_t wanted = (size_t)REDUCE_BLOCKS * gpu_processors(cuda->gpu) / tiles;
    const size_t useful = (rows + 4 * lanes - 1) / (4 * lanes); /* four rows a thread at least */
    const size_t few = wanted < useful ? wanted : useful;
    struct reduction r = {.row_blocks = few ? (unsigned)few : 1};

    r.blocks = r.row_blocks * tiles;
    r.partial = cuda_scratch(cuda, r.row_blocks * 2 * c * sizeof(double));
    return r;
}

static void add_up(struct cuda *cuda, const struct reduction *r, double *sums, size_t c)
{
    const struct gpu_total total = {.partial = r->partial,
                                    .sums = sums,
                                    .row_blocks = r->row_blocks,
                                    .count = (unsigned)(2 * c)};

    cuda_launch(cuda, GPU_KERNEL_total, (2 * c + GPU_TILE - 1) / GPU_TILE, &total);
}

void cuda_moments(struct cuda *cuda, const float *x, const float *mean, double *sums, size_t rows,
                  size_t c)
{
    const struct reduction r = reduction_of(cuda, rows, c);
    const struct gpu_moments moments = {.x = x,
                                        .mean = mean,
                                        .partial = r.partial,
                                        .rows = (unsigned)rows,
                                        .c = (unsigned)c,
                                        .width = cuda_width(c),
                                        .narrow = cuda->narrow,
                                        .row_blocks = r.row_blocks};

    cuda_launch(cuda, GPU_KERNEL_moments, r.blocks, &moments);
    add_up(cuda, &r, sums, c);
}

/* Statistics of this pass, and y = act(x gain + offset + residual) where y is wanted. */
static void normalise(const struct cuda_job *job, const float *x, const double *sums, size_t rows)
{
    const struct learner_op *op = job->op;
    const size_t c = op->out.c;
    float *gain = op->gain ? op->gain : cuda_scratch(job->cuda, c * sizeof *gain);
    float *offset = op->offset ? op->offset : cuda_scratch(job->cuda, c * sizeof *offset);
    const struct gpu_norm_finish finish = {.sums = sums,
                                           .scale = op->scale,
                                           .shift = op->shift,
                                           .mean = op->mean,
                                           .var = op->var,
                                           .batch_mean = op->batch_mean,
                                           .inv_std = op->inv_std,
                                           .gain = gain,
                                           .offset = offset,
                                           .rows = (double)rows,
                                           .c = (unsigned)c};
    const struct gpu_affine affine = {.x = x,
                                      .residual = op->residual,
                                      .y = op->y,
                                      .gain = gain,
                                      .offset = offset,
                                      .rows = (unsigned)rows,
                                      .c = (unsigned)c,
                                      .width = cuda_width(c),
                                      .narrow = job->cuda->narrow,
                                      .act = (int)op->act};

    cuda_each(job->cuda, GPU_KERNEL_norm_finish, c, &finish);
    if (op->y)
        cuda_each(job->cuda, GPU_KERNEL_affine, rows * c / affine.width, &affine);
}

void cuda_norm_forward(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    double *sums = NULL;

    if (job->pass->mode == LEARNER_TRAIN) {
        sums = op->sums;
        if (!sums) {
            sums = cuda_scratch(job->cuda, 2 * op->in.c * sizeof *sums);
            cuda_moments(job->cuda, op->x, op->mean, sums, rows_of(job), op->in.c);
        }
    }
    normalise(job, op->x, sums, rows_of(job));
}

void cuda_norm_after(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;

    normalise(job, op->y, NULL, job->pass->n * op->out.h * op->out.w);
}

void cuda_norm_backward(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    struct cuda *cuda = job->cuda;
    const size_t rows = rows_of(job), c = op->in.c;
    const bool batch = job->pass->mode == LEARNER_TRAIN;
    struct gpu_norm_back back = {.x = op->x,
                                 .y = op->y,
                                 .dy = op->dy,
                                 .residual = op->residual,
                                 .dx = op->dx,
                                 .dresidual = op->dresidual,
                                 .batch_mean = op->batch_mean,
                                 .inv_std = op->inv_std,
                                 .gain = op->gain,
                                 .offset = op->offset,
                                 .scale = op->scale,
                                 .rows = (unsigned)rows,
                                 .c = (unsigned)c,
                                 .width = cuda_width(c),
                                 .narrow = cuda->narrow,
                                 .act = (int)op->act,
                                 .dx_add = op->dx_add,
                                 .dresidual_add = op->dresidual_add};

    if (batch || op->dscale || op->dshift) {
        const struct reduction r = reduction_of(cuda, rows, c);
        double *sums = cuda_scratch(cuda, 2 * c * sizeof *sums);
        const struct gpu_norm_grads grads = {
            .sums = sums, .dscale = op->dscale, .dshift = op->dshift, .c = (unsigned)c};
        back.partial = r.partial;
        back.row_blocks = r.row_blocks;
        cuda_launch(cuda, GPU_KERNEL_norm_back_sums, r.blocks, &back);
        add_up(cuda, &r, sums, c);
        if (op->dscale || op->dshift)
            cuda_each(cuda, GPU_KERNEL_norm_grads, c, &grads);
        back.sums = batch ? sums : NULL;
    }
    cuda_each(cuda, GPU_KERNEL_norm_back, rows * c / back.width, &back);
}

void cuda_pool_run(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    const unsigned n = (unsigned)job->pass->n, c = (unsigned)op->in.c;
    const unsigned plane = (unsigned)(op->in.h * op->in.w);
    const struct gpu_pool forward = {op->x, op->y, n, c, plane, job->cuda->narrow};
    const struct gpu_pool_back backward = {op->dy,    op->dx, n, c, plane, job->cuda->narrow,
                                           op->dx_add};

    if (job->pass->backward)
        cuda_each(job->cuda, GPU_KERNEL_pool_back, (size_t)n * c * plane, &backward);
    else
        cuda_each(job->cuda, GPU_KERNEL_pool, (size_t)n * c, &forward);
}

void cuda_max_pool_run(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    const struct gpu_max_pool args = {.window = {.n = (unsigned)job->pass->n,
                                                 .c = (unsigned)op->in.c,
                                                 .h = (unsigned)op->in.h,
                                                 .w = (unsigned)op->in.w,
                                                 .out_h = (unsigned)op->out.h,
                                                 .out_w = (unsigned)op->out.w,
                                                 .kernel = (unsigned)op->kernel,
                                                 .stride = (unsigned)op->stride,
                                                 .pad = (unsigned)op->pad},
                                      .x = op->x,
                                      .dy = op->dy,
                                      .y = op->y,
                                      .dx = op->dx,
                                      .narrow = job->cuda->narrow,
                                      .add = op->dx_add};

    if (job->pass->backward)
        cuda_each(job->cuda, GPU_KERNEL_max_pool_back, job->pass->n * learner_shape_count(&op->in),
                  &args);
    else
        cuda_each(job->cuda, GPU_KERNEL_max_pool, job->pass->n * learner_shape_count(&op->out),
                  &args);
}

/* Features, weights and logits are float32 whatever the precision; these products are small. */
static void linear_backward(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    const size_t n = job->pass->n, in = op->in.c, out = op->out.c;
    const struct gpu_product weight = {.transpose_a = true,
                                       .m = out,
                                       .n = in,
                                       .k = n,
                                       .lda = out,
                                       .ldb = in,
                                       .ldc = in,
                                       .a = op->dy,
                                       .b = op->x,
                                       .c = op->dweight,
                                       .exact = true};
    const struct gpu_product data = {.m = n,
                                     .n = in,
                                     .k = out,
                                     .lda = out,
                                     .ldb = in,
                                     .ldc = in,
                                     .a = op->dy,
                                     .b = op->weight,
                                     .c = op->dx,
                                     .exact = true,
                                     .beta = op->dx_add ? 1 : 0};
    const struct gpu_columns columns = {op->dy, op->dbias, (unsigned)n, (unsigned)out};

    if (op->dweight)
        cuda_multiply(job->cuda, &weight);
    if (op->dbias)
        cuda_launch(job->cuda, GPU_KERNEL_columns, (out + GPU_TILE - 1) / GPU_TILE, &columns);
    if (op->dx)
        cuda_multiply(job->cuda, &data);
}

void cuda_linear_run(const struct cuda_job *job)
{
    const struct learner_op *op = job->op;
    const size_t n = job->pass->n;
    const struct gpu_bias bias = {op->bias, op->y, (unsigned)n, (unsigned)op->out.c};
    const struct gpu_product product = {.transpose_b = true,
                                        .m = n,
                                        .n = op->out.c,
                                        .k = op->in.c,
                                        .lda = op->in.c,
                                        .ldb = op->in.c,
                                        .ldc = op->out.c,
                                        .a = op->x,
                                        .b = op->weight,
                                        .c = op->y,
                                        .exact = true,
                                        .beta = 1};

    if (job->pass->backward) {
        linear_backward(job);
        return;
    }
    cuda_each(job->cuda, GPU_KERNEL_bias, n * op->out.c, &bias);
    cuda_multiply(job->cuda, &product);
}
