#include "taps.h"

#include <string.h>

/* Packed sources of a tile: a part of a common second-level cache. */
#define TILE_FLOATS ((size_t)96 * 1024)
/* For weight gradients: every call ends by adding up its vectors, so few long calls win, and their
 * sources are read too seldom to need a near cache. */
#define TILE_FLOATS_GRADIENT ((size_t)512 * 1024)
/* Positions of a tile of several images: enough to spread the cost of reading the weights, few
 * enough that a block of results stays in the first-level cache. */
#define TILE_POSITIONS 1280

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t round_up(size_t value, size_t to)
{
    return (value + to - 1) / to * to;
}

/* Sizes of a tile, once border, pitch and phases are known. total_rows: of an image with its whole
 * border; halo: how far below its own row a result sees; room: floats
 * for the packed sources. */
static void plan_tile(struct learner_tap_plan *plan, size_t room, size_t total_rows, size_t halo)
{
    const size_t channels = plan->sources * plan->split * plan->split;
    const size_t whole = total_rows - plan->shared;

    if (channels * whole * plan->pitch <= room) {
        const size_t by_memory = room / (channels * whole * plan->pitch);
        const size_t by_length = TILE_POSITIONS / (whole * plan->pitch);
        plan->images = larger(1, by_memory < by_length ? by_memory : by_length);
        plan->tile_rows = plan->rows;
        plan->image_rows = whole;
    } else {
        const size_t fit = room / (channels * plan->pitch);
        plan->images = 1;
        plan->tile_rows = fit > halo ? fit - halo : 1;
        if (plan->tile_rows > plan->rows)
            plan->tile_rows = plan->rows;
        plan->image_rows = plan->tile_rows + halo;
    }
    plan->plane = round_up(plan->images * plan->image_rows * plan->pitch +
                               plan->shared * (plan->pitch + 1) + LEARNER_KERNEL_LANES_MAX,
                           LEARNER_KERNEL_LANES_MAX);
}

static void count_work(struct learner_tap_plan *plan, const struct learner_kernels *kernels)
{
    plan->offset_count = plan->weight_count = 0;
    for (size_t p = 0; p < plan->phase_count; p++) {
        struct learner_tap_phase *phase = &plan->phases[p];
        const size_t entries = plan->sources * phase->count;
        phase->first_offset = plan->offset_count;
        phase->first_weights = plan->weight_count;
        plan->offset_count += entries;
        plan->weight_count += entries * round_up(plan->results, kernels->rows);
    }
}

static void add_tap(struct learner_tap_phase *phase, size_t ky, size_t kx, size_t at)
{
    phase->ky[phase->count] = (unsigned char)ky;
    phase->kx[phase->count] = (unsigned char)kx;
    phase->at[phase->count++] = at;
}

static void plan_forward(struct learner_tap_plan *plan, const struct learner_op *op,
                         const struct learner_kernels *kernels, size_t room)
{
    const size_t s = op->stride, k = op->kernel;
    const size_t reach = (k - 1) / s; /* rows of a split plane below the first one seen */
    struct learner_tap_phase *phase = &plan->phases[0];

    memset(plan, 0, sizeof *plan);
    plan->sources = op->in.c;
    plan->results = op->out.c;
    plan->src_h = op->in.h;
    plan->src_w = op->in.w;
    plan->dst_h = op->out.h;
    plan->dst_w = op->out.w;
    plan->kernel = k;
    plan->step = 1;
    plan->split = s;
    plan->top = plan->left = op->pad;
    plan->rows = phase->rows = op->out.h;
    phase->cols = op->out.w;
    plan->phase_count = 1;
    plan->shared = s == 1 ? op->pad : 0;
    plan->pitch = op->out.w + reach - plan->shared;
    plan_tile(plan, room, op->out.h + reach, reach);
    for (size_t ky = 0; ky < k; ky++)
        for (size_t kx = 0; kx < k; kx++)
            add_tap(phase, ky, kx,
                    (ky % s * s + kx % s) * plan->plane + ky / s * plan->pitch + kx / s);
    count_work(plan, kernels);
}

void learner_taps_forward(struct learner_tap_plan *plan, const struct learner_op *op,
                          const struct learner_kernels *kernels)
{
    plan_forward(plan, op, kernels, TILE_FLOATS);
}

void learner_taps_gradient(struct learner_tap_plan *plan, const struct learner_op *op,
                           const struct learner_kernels *kernels)
{
    plan_forward(plan, op, kernels, TILE_FLOATS_GRADIENT);
}

/* One axis of the gradient of the input. Input pixel y = s u + f - pad receives from output
 * pixels u - j through taps f + s j. */
struct axis {
    size_t first[LEARNER_TAPS_STRIDE_MAX]; /* u of the first pixel of phase f */
    size_t count[LEARNER_TAPS_STRIDE_MAX]; /* pixels */
    size_t before, after;                  /* border of the outputs */
};

static void plan_axis(struct axis *axis, size_t in, size_t out, size_t k, size_t s, size_t pad)
{
    memset(axis, 0, sizeof *axis);
    for (size_t f = 0; f < s; f++) {
        if (in - 1 + pad < f)
            continue;
        const size_t last = (in - 1 + pad - f) / s;
        axis->first[f] = pad > f ? (pad - f + s - 1) / s : 0;
        if (last < axis->first[f])
            continue;
        axis->count[f] = last - axis->first[f] + 1;
        if (f >= k)
            continue;
        const size_t reach = (k - 1 - f) / s;
        if (reach > axis->first[f])
            axis->before = larger(axis->before, reach - axis->first[f]);
        if (last > out - 1)
            axis->after = larger(axis->after, last - (out - 1));
    }
}

static void plan_phase(struct learner_tap_plan *plan, const struct axis *rows,
                       const struct axis *cols, size_t fy, size_t fx, size_t pad)
{
    const size_t s = plan->step, k = plan->kernel;
    struct learner_tap_phase *phase = &plan->phases[plan->phase_count];

    if (!rows->count[fy] || !cols->count[fx])
        return;
    phase->rows = rows->count[fy];
    phase->cols = cols->count[fx];
    phase->row0 = s * rows->first[fy] + fy - pad;
    phase->col0 = s * cols->first[fx] + fx - pad;
    for (size_t ky = fy; ky < k; ky += s)
        for (size_t kx = fx; kx < k; kx += s)
            add_tap(phase, ky, kx,
                    (plan->top + rows->first[fy] - ky / s) * plan->pitch + plan->left +
                        cols->first[fx] - kx / s);
    if (phase->count)
        plan->phase_count++;
    else
        plan->gaps = true;
}

void learner_taps_backward(struct learner_tap_plan *plan, const struct learner_op *op,
                           const struct learner_kernels *kernels)
{
    const size_t s = op->stride, k = op->kernel;
    struct axis rows, cols;
    size_t halo = 0;

    memset(plan, 0, sizeof *plan);
    plan_axis(&rows, op->in.h, op->out.h, k, s, op->pad);
    plan_axis(&cols, op->in.w, op->out.w, k, s, op->pad);
    plan->transposed = true;
    plan->sources = op->out.c;
    plan->results = op->in.c;
    plan->src_h = op->out.h;
    plan->src_w = op->out.w;
    plan->dst_h = op->in.h;
    plan->dst_w = op->in.w;
    plan->kernel = k;
    plan->step = s;
    plan->split = 1;
    plan->top = rows.before;
    plan->left = cols.before;
    plan->shared = s == 1 ? rows.before : 0; /* = after, and the same for columns */
    plan->pitch = cols.before + op->out.w + cols.after - plan->shared;
    for (size_t f = 0; f < s; f++) {
        plan->rows = larger(plan->rows, rows.count[f]);
        halo = larger(halo, plan->top + rows.first[f]);
    }
    for (size_t f = 0; f < s * s; f++)
        plan_phase(plan, &rows, &cols, f / s, f % s, op->pad);
    plan_tile(plan, TILE_FLOATS, larger(rows.before + op->out.h + rows.after, plan->rows), halo);
    count_work(plan, kernels);
}

void learner_taps_offsets(const struct learner_tap_plan *plan, size_t *offsets)
{
    for (size_t p = 0; p < plan->phase_count; p++)
        for (size_t c = 0; c < plan->sources; c++)
            for (size_t t = 0; t < plan->phases[p].count; t++)
                *offsets++ = c * learner_taps_channel(plan) + plan->phases[p].at[t];
}

static void pack_block(const struct learner_tap_plan *plan, const struct learner_tap_phase *phase,
                       const float *weight, float *packed, size_t channel, size_t rows)
{
    const size_t k = plan->kernel;

    for (size_t c = 0; c < plan->sources; c++)
        for (size_t t = 0; t < phase->count; t++)
            for (size_t m = 0; m < rows; m++) {
                const size_t result = channel + m;
                const size_t pair =
                    plan->transposed ? c * plan->results + result : result * plan->sources + c;
                *packed++ = result < plan->results
                                ? weight[(pair * k + phase->ky[t]) * k + phase->kx[t]]
                                : 0;
            }
}

void learner_taps_weights(const struct learner_tap_plan *plan,
                          const struct learner_kernels *kernels, const float *weight, float *packed,
                          size_t first, size_t end)
{
    const size_t rows = kernels->rows;

    for (size_t p = 0; p < plan->phase_count; p++) {
        const struct learner_tap_phase *phase = &plan->phases[p];
        const size_t block = plan->sources * phase->count * rows;
        for (size_t b = first; b < end; b++)
            pack_block(plan, phase, weight, packed + phase->first_weights + b * block, b * rows,
                       rows);
    }
}

bool learner_taps_next(const struct learner_tap_plan *plan, struct learner_tap_tile *tile,
                       size_t first, size_t end)
{
    if (!tile->images)
        *tile = (struct learner_tap_tile){.image = first};
    else if (tile->row + tile->rows < plan->rows)
        tile->row += tile->rows;
    else
        *tile = (struct learner_tap_tile){.image = tile->image + tile->images};
    if (tile->image >= end)
        return false;
    tile->images = end - tile->image < plan->images ? end - tile->image : plan->images;
    tile->rows =
        plan->rows - tile->row < plan->tile_rows ? plan->rows - tile->row : plan->tile_rows;
    return true;
}

/* Row `y` of one plane, every split-th pixel from padded column `b` on, with its border. */
static void pack_row(const struct learner_tap_plan *plan, const float *row, size_t b, float *out)
{
    const size_t s = plan->split, w = plan->src_w;

    if (s == 1) {
        const size_t used = plan->left + w < plan->pitch ? plan->left + w : plan->pitch;
        for (size_t i = 0; i < plan->left; i++)
            out[i] = 0;
        memcpy(out + plan->left, row, (used - plan->left) * sizeof *out);
        for (size_t i = used; i < plan->pitch; i++)
            out[i] = 0;
        return;
    }
    const size_t first = plan->left > b ? (plan->left - b + s - 1) / s : 0;
    const size_t x = s * first + b - plan->left; /* of the first pixel */
    size_t end = x < w ? first + (w - x + s - 1) / s : first;
    if (end > plan->pitch)
        end = plan->pitch;
    for (size_t i = 0; i < first; i++)
        out[i] = 0;
    for (size_t i = first; i < end; i++)
        out[i] = row[x + s * (i - first)];
    for (size_t i = end; i < plan->pitch; i++)
        out[i] = 0;
}

void learner_taps_pack(const struct learner_tap_plan *plan, const struct learner_tap_tile *tile,
                       const float *src, float *out)
{
    const size_t s = plan->split, area = plan->src_h * plan->src_w;
    const size_t used = tile->images * plan->image_rows * plan->pitch;

    for (size_t c = 0; c < plan->sources; c++)
        for (size_t f = 0; f < s * s; f++, out += plan->plane) {
            float *to = out;
            if (f / s >= plan->kernel || f % s >= plan->kernel)
                continue; /* no tap sees this one */
            for (size_t g = 0; g < tile->images; g++) {
                const float *plane = src + ((tile->image + g) * plan->sources + c) * area;
                for (size_t i = 0; i < plan->image_rows; i++, to += plan->pitch) {
                    const size_t y = s * (tile->row + i) + f / s - plan->top;
                    if (y < plan->src_h)
                        pack_row(plan, plane + y * plan->src_w, f % s, to);
                    else
                        memset(to, 0, plan->pitch * sizeof *to);
                }
            }
            memset(to, 0, (plan->plane - used) * sizeof *to);
        }
}

void learner_taps_spread(const struct learner_tap_plan *plan, const struct learner_tap_tile *tile,
                         const float *dst, float *out, size_t padded_results)
{
    const size_t w = plan->dst_w, area = plan->dst_h * w;

    memset(out, 0, padded_results * plan->plane * sizeof *out);
    for (size_t c = 0; c < plan->results; c++, out += plan->plane)
        for (size_t g = 0; g < tile->images; g++) {
            const float *plane = dst + ((tile->image + g) * plan->results + c) * area;
            float *to = out + g * plan->image_rows * plan->pitch;
            for (size_t r = 0; r < tile->rows; r++)
                memcpy(to + r * plan->pitch, plane + (tile->row + r) * w, w * sizeof *to);
        }
}

size_t learner_taps_positions(const struct learner_tap_plan *plan,
                              const struct learner_tap_phase *phase,
                              const struct learner_tap_tile *tile, size_t lanes)
{
    if (tile->row >= phase->rows)
        return 0;
    const size_t left = phase->rows - tile->row, rows = left < tile->rows ? left : tile->rows;

    return round_up((tile->images - 1) * plan->image_rows * plan->pitch + (rows - 1) * plan->pitch +
                        phase->cols,
                    lanes);
}
