/* Batch norms, pools and the head of the CUDA backend. Sums over a batch are taken in two steps,
 * blocks of rows and then the blocks, in a fixed order. */
#include "cuda.h"

#define REDUCE_BLOCKS 8 /* of a processor */
#define WALK_BLOCKS 16  /* of a processor, where nothing is added up */

static size_t rows_of(const struct cuda_job *job)
{
    return job->pass->n * job->op->in.h * job->op->in.w;
}

unsigned cuda_tile(size_t widths, size_t *tiles)
{
    const size_t most = (widths + GPU_TILE - 1) / GPU_TILE, even = (widths + most - 1) / most;
    /* tiles of one size, whole sectors of memory where there are several */
    const size_t tile = most == 1 ? widths : (even + 3) / 4 * 4;

    *tiles = (widths + tile - 1) / tile;
    return (unsigned)tile;
}

/* blocks: of a processor; least: rows that a thread walks over, or it is not worth one */
static struct gpu_walk walk_of(const struct cuda *cuda, size_t rows, size_t c, size_t blocks,
                               size_t least, size_t *launched)
{
    struct gpu_walk walk = {.rows = (unsigned)rows, .c = (unsigned)c, .width = cuda_width(c)};
    size_t tiles;

    walk.tile = cuda_tile(c / walk.width, &tiles);
    const size_t lanes = GPU_THREADS / walk.tile;
    const size_t wanted = blocks * gpu_processors(cuda->gpu) / tiles;
    const size_t useful = (rows + least * lanes - 1) / (least * lanes);
    const size_t few = wanted < useful ? wanted : useful;
    walk.row_blocks = few ? (unsigned)few : 1;
    *launched = walk.row_blocks * tiles;
    return walk;
}

void cuda_affine(struct cuda *cuda, struct gpu_affine *affine, size_t rows, size_t c)
{
    size_t blocks;

    affine->walk = walk_of(cuda, rows, c, WALK_BLOCKS, 2, &blocks);
    affine->narrow = cuda->narrow;
    cuda_launch(cuda, GPU_KERNEL_affine, blocks, affine);
}

static struct gpu_walk reduction_of(struct cuda *cuda, size_t rows, size_t c, size_t *blocks,
                                    double **partial)
{
    const struct gpu_walk walk = walk_of(cuda, rows, c, REDUCE_BLOCKS, 4, blocks);

    *partial = cuda_scratch(cuda, walk.row_blocks * 2 * c * sizeof **partial);
    return walk;
}

static void add_up(struct cuda *cuda, const struct gpu_walk *walk, const double *partial,
                   double *sums, float *dshift, float *dscale)
{
    const struct gpu_total total = {.partial = partial,
                                    .sums = sums,
                                    .dshift = dshift,
                                    .dscale = dscale,
                                    .row_blocks = walk->row_blocks,
                                    .c = walk->c};

    cuda_launch(cuda, GPU_KERNEL_total, (2 * walk->c + GPU_TOTALS - 1) / GPU_TOTALS, &total);
}

void cuda_moments(struct cuda *cuda, const float *x, const float *mean, double *sums, size_t rows,
                  size_t c)
{
    struct gpu_moments moments = {.x = x, .mean = mean, .narrow = cuda->narrow};
    size_t blocks;

    moments.walk = reduction_of(cuda, rows, c, &blocks, &moments.partial);
    cuda_launch(cuda, GPU_KERNEL_moments, blocks, &moments);
    add_up(cuda, &moments.walk, moments.partial, sums, NULL, NULL);
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
    struct gpu_affine affine = {.x = x,
                                .residual = op->residual,
                                .y = op->y,
                                .gain = gain,
                                .offset = offset,
                                .act = (int)op->act};

    cuda_each(job->cuda, GPU_KERNEL_norm_finish, c, &finish);
    if (op->y)
        cuda_affine(job->cuda, &affine, rows, c);
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
    /* what the activation let pass is seen by x alone, and that is read anyway */
    const bool anew = op->x && op->x != op->y && !op->residual;
    struct gpu_norm_back back = {.x = op->x,
                                 .y = anew ? NULL : op->y,
                                 .dy = op->dy,
                                 .residual = op->residual,
                                 .dx = op->dx,
                                 .dresidual = op->dresidual,
                                 .batch_mean = op->batch_mean,
                                 .inv_std = op->inv_std,
                                 .scale = op->scale,
                                 .shift = op->shift,
                                 .share = 1.0 / (double)rows,
                                 .narrow = cuda->narrow,
                                 .act = (int)op->act,
                                 .dx_add = op->dx_add,
                                 .dresidual_add = op->dresidual_add};
    size_t blocks;

    if (batch || op->dscale || op->dshift) {
        double *sums = cuda_scratch(cuda, 2 * c * sizeof *sums);
        back.walk = reduction_of(cuda, rows, c, &blocks, &back.partial);
        cuda_launch(cuda, GPU_KERNEL_norm_back_sums, blocks, &back);
        add_up(cuda, &back.walk, back.partial, sums, op->dshift, op->dscale);
        back.sums = batch ? sums : NULL;
    }
    back.walk = walk_of(cuda, rows, c, WALK_BLOCKS, 2, &blocks);
    cuda_launch(cuda, GPU_KERNEL_norm_back, blocks, &back);
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
