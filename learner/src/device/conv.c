/* Convolutions of the `blas` backend: direct, by taps (taps.h). Images are shared among the
 * members; weight gradients are summed per member and reduced in member order, so that one thread
 * count always gives the same bytes. A forward result does not depend on thread count or batch. */
#include <stdlib.h>
#include <string.h>

#include "blas.h"
#include "taps.h"

/* What all members share in one pass over the images. */
struct work {
    const struct blas_job *job;
    const struct learner_tap_plan *plan;
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t blocks(size_t channels, const struct learner_kernels *kernels)
{
    return (channels + kernels->rows - 1) / kernels->rows;
}

static void *grow(void *block, size_t *have, size_t want, size_t members, size_t size)
{
    size_t count;

    if (block && want <= *have)
        return block;
    free(block);
    *have = want;
    return delta_size_mul(want, members, &count) ? delta_calloc_aligned(count, size) : NULL;
}

enum delta_status blas_conv_prepare(struct blas *blas, const struct learner_op *op, bool train,
                                    struct delta_error *err)
{
    const size_t members = learner_pool_members(blas->pool), rows = blas->kernels->rows;
    const size_t padded = blocks(op->out.c, blas->kernels) * rows;
    struct learner_tap_plan plan;

    if (!learner_taps_fit(op))
        return delta_fail(err, DELTA_UNSUPPORTED,
                          "layer '%s': kernel %zu, stride %zu, padding %zu is not supported",
                          op->name, op->kernel, op->stride, op->pad);
    learner_taps_forward(&plan, op, blas->kernels);
    size_t tile = plan.sources * learner_taps_channel(&plan) + rows * plan.plane;
    size_t offsets = plan.offset_count, weights = plan.weight_count;
    if (train) {
        learner_taps_gradient(&plan, op, blas->kernels);
        tile = larger(tile, plan.sources * learner_taps_channel(&plan) + padded * plan.plane);
        learner_taps_backward(&plan, op, blas->kernels);
        tile = larger(tile, (plan.sources + rows) * plan.plane);
        offsets = larger(offsets, plan.offset_count);
        weights = larger(weights, plan.weight_count);
        blas->partial =
            grow(blas->partial, &blas->partial_floats,
                 op->out.c * op->in.c * op->kernel * op->kernel, members, sizeof(float));
    }
    blas->tiles = grow(blas->tiles, &blas->tile_floats, tile, members, sizeof(float));
    blas->weights = grow(blas->weights, &blas->weight_floats, weights, 1, sizeof(float));
    blas->offsets = grow(blas->offsets, &blas->offset_count, offsets, 1, sizeof(size_t));
    if (!blas->tiles || !blas->weights || !blas->offsets || (train && !blas->partial))
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for the scratch space of layer '%s'",
                          op->name);
    return DELTA_OK;
}

static void pack_weights(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    const struct blas *blas = work->job->blas;
    size_t first, end;

    learner_pool_share(blocks(work->plan->results, blas->kernels), member, members, &first, &end);
    learner_taps_weights(work->plan, blas->kernels, work->job->op->weight, blas->weights, first,
                         end);
}

/* Results of one channel of a tile go from flat positions to their place in the output. */
static void place_output(const struct work *work, const struct learner_tap_tile *tile,
                         size_t channel, const float *flat)
{
    const struct learner_op *op = work->job->op;
    const struct learner_tap_plan *plan = work->plan;
    const bool norm = op->kind == LEARNER_OP_CONV_NORM;
    const float scale = norm ? op->scale[channel] * op->inv_std[channel] : 1;
    const float shift = norm ? op->shift[channel] - op->mean[channel] * scale : 0;
    const size_t w = plan->dst_w;

    for (size_t g = 0; g < tile->images; g++) {
        const size_t at =
            (((tile->image + g) * plan->results + channel) * plan->dst_h + tile->row) * w;
        const float *from = flat + g * plan->image_rows * plan->pitch;
        for (size_t r = 0; r < tile->rows; r++) {
            const float *row = from + r * plan->pitch;
            if (norm)
                work->job->blas->kernels->affine(
                    row, op->residual ? op->residual + at + r * w : NULL, op->y + at + r * w, w,
                    scale, shift, op->act == LEARNER_ACT_RELU);
            else
                memcpy(op->y + at + r * w, row, w * sizeof *row);
        }
    }
}

static void place_gradient(const struct work *work, const struct learner_tap_phase *phase,
                           const struct learner_tap_tile *tile, size_t channel, const float *flat)
{
    const struct learner_op *op = work->job->op;
    const struct learner_tap_plan *plan = work->plan;
    const size_t left = phase->rows - tile->row, rows = left < tile->rows ? left : tile->rows;
    const bool add = op->dx_add;

    for (size_t g = 0; g < tile->images; g++) {
        float *plane =
            op->dx + ((tile->image + g) * plan->results + channel) * plan->dst_h * plan->dst_w;
        const float *from = flat + g * plan->image_rows * plan->pitch;
        for (size_t r = 0; r < rows; r++) {
            const float *row = from + r * plan->pitch;
            float *to =
                plane + (phase->row0 + (tile->row + r) * plan->step) * plan->dst_w + phase->col0;
            if (plan->step == 1 && !add)
                memcpy(to, row, phase->cols * sizeof *row);
            else if (plan->step == 1)
                work->job->blas->kernels->affine(row, to, to, phase->cols, 1, 0, false);
            else
                for (size_t x = 0; x < phase->cols; x++)
                    to[x * plan->step] = add ? to[x * plan->step] + row[x] : row[x];
        }
    }
}

static void run_tile(const struct work *work, const struct learner_tap_tile *tile, float *packed,
                     float *results)
{
    const struct blas *blas = work->job->blas;
    const struct learner_tap_plan *plan = work->plan;
    const size_t rows = blas->kernels->rows;

    for (size_t p = 0; p < plan->phase_count; p++) {
        const struct learner_tap_phase *phase = &plan->phases[p];
        const size_t entries = plan->sources * phase->count;
        const size_t positions = learner_taps_positions(plan, phase, tile, blas->kernels->lanes);
        if (!positions)
            continue;
        for (size_t b = 0; b < blocks(plan->results, blas->kernels); b++) {
            blas->kernels->correlate(packed, blas->offsets + phase->first_offset, entries,
                                     blas->weights + phase->first_weights + b * entries * rows,
                                     results, plan->plane, positions);
            for (size_t m = 0; m < rows && b * rows + m < plan->results; m++) {
                if (plan->transposed)
                    place_gradient(work, phase, tile, b * rows + m, results + m * plan->plane);
                else
                    place_output(work, tile, b * rows + m, results + m * plan->plane);
            }
        }
    }
}

static void run_images(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    const struct blas *blas = work->job->blas;
    const struct learner_tap_plan *plan = work->plan;
    const struct learner_op *op = work->job->op;
    float *packed = blas->tiles + member * blas->tile_floats;
    float *results = packed + plan->sources * learner_taps_channel(plan);
    struct learner_tap_tile tile = {0};
    size_t first, end;

    learner_pool_share(work->job->pass->n, member, members, &first, &end);
    if (plan->transposed && plan->gaps && !op->dx_add)
        memset(op->dx + first * learner_shape_count(&op->in), 0,
               (end - first) * learner_shape_count(&op->in) * sizeof(float));
    while (learner_taps_next(plan, &tile, first, end)) {
        learner_taps_pack(plan, &tile, plan->transposed ? op->dy : op->x, packed);
        run_tile(work, &tile, packed, results);
    }
}

static void run_plan(const struct blas_job *job, const struct learner_tap_plan *plan)
{
    struct work work = {job, plan};

    learner_taps_offsets(plan, job->blas->offsets);
    learner_pool_run(job->blas->pool, pack_weights, &work);
    learner_pool_run(job->blas->pool, run_images, &work);
}

void blas_conv_forward(const struct blas_job *job)
{
    struct learner_tap_plan plan;

    if (job->op->kind == LEARNER_OP_CONV_NORM)
        blas_norm_fix(job->op);
    learner_taps_forward(&plan, job->op, job->blas->kernels);
    run_plan(job, &plan);
}

static void gather_gradient(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    const struct blas *blas = work->job->blas;
    const struct learner_tap_plan *plan = work->plan;
    const struct learner_op *op = work->job->op;
    const struct learner_kernels *kernels = blas->kernels;
    const size_t count = plan->offset_count, rows = kernels->rows;
    const size_t padded = blocks(plan->results, kernels) * rows;
    float *packed = blas->tiles + member * blas->tile_floats;
    float *spread = packed + plan->sources * learner_taps_channel(plan);
    float *dweight = blas->partial + member * blas->partial_floats;
    struct learner_tap_tile tile = {0};
    size_t first, end;

    memset(dweight, 0, plan->results * count * sizeof *dweight);
    learner_pool_share(work->job->pass->n, member, members, &first, &end);
    while (learner_taps_next(plan, &tile, first, end)) {
        const size_t positions =
            learner_taps_positions(plan, &plan->phases[0], &tile, kernels->lanes);
        learner_taps_pack(plan, &tile, op->x, packed);
        learner_taps_spread(plan, &tile, op->dy, spread, padded);
        for (size_t c = 0; c < plan->results; c += rows)
            kernels->gradient(packed, blas->offsets, count, spread + c * plan->plane, plan->plane,
                              positions, dweight + c * count, count,
                              plan->results - c < rows ? plan->results - c : rows);
    }
}

static void reduce_gradient(void *context, size_t member, size_t members)
{
    const struct work *work = context;
    const struct blas *blas = work->job->blas;
    float *dweight = work->job->op->dweight;
    size_t first, end;

    learner_pool_share(work->plan->results * work->plan->offset_count, member, members, &first,
                       &end);
    memcpy(dweight + first, blas->partial + first, (end - first) * sizeof *dweight);
    for (size_t m = 1; m < members; m++)
        for (size_t e = first; e < end; e++)
            dweight[e] += blas->partial[m * blas->partial_floats + e];
}

void blas_conv_backward(const struct blas_job *job)
{
    struct learner_tap_plan plan;
    struct work work = {job, &plan};

    /* offsets run over (source, ky, kx), which is the order of the weights of one output channel */
    learner_taps_gradient(&plan, job->op, job->blas->kernels);
    learner_taps_offsets(&plan, job->blas->offsets);
    learner_pool_run(job->blas->pool, gather_gradient, &work);
    learner_pool_run(job->blas->pool, reduce_gradient, &work);
    if (!job->op->dx)
        return;
    learner_taps_backward(&plan, job->op, job->blas->kernels);
    run_plan(job, &plan);
}
