/* Kernels of the optimiser, the loss and the images. Part of cuda_kernels_body.h. */
#ifndef LEARNER_DEVICE_CUDA_KERNELS_TRAIN_H
#define LEARNER_DEVICE_CUDA_KERNELS_TRAIN_H

#include "cuda_kernels_body.h"

/* ---- vectors ---- */

GPU_KERNEL(add, gpu_add)
{
    GPU_EACH (i, a.count)
        gpu_put(a.sum, i, a.narrow, gpu_get(a.sum, i, a.narrow) + gpu_get(a.more, i, a.narrow));
}

GPU_KERNEL(blend, gpu_blend)
{
    GPU_EACH (i, a.count)
        a.average[i] = a.keep * a.average[i] + a.take * a.values[i];
}

GPU_KERNEL(swap, gpu_swap)
{
    GPU_EACH (i, a.count) {
        const float kept = a.a[i];
        a.a[i] = a.b[i];
        a.b[i] = kept;
    }
}

GPU_KERNEL(finite, gpu_finite)
{
    GPU_EACH (i, a.count)
        if (gpu_is_bad(gpu_get(a.data, i, a.narrow)))
            *a.bad = 1; /* whoever comes, it is the same */
}

GPU_KERNEL(convert, gpu_convert)
{
    GPU_EACH (i, a.count)
        gpu_put(a.to, i, a.narrow_to, gpu_get(a.from, i, !a.narrow_to));
}

/* SGD as optim.h says, of many parameters at once. */
GPU_KERNEL(step, gpu_step)
{
    unsigned s = 0;

    (void)blocks;
    while (s + 1 < a.count && a.slots[s + 1].first_block <= block)
        s++;
    const size_t first = (size_t)(block - a.slots[s].first_block) * GPU_STEP_PIECE;
    const size_t left = a.slots[s].count - first;
    const size_t end = first + (left < GPU_STEP_PIECE ? left : GPU_STEP_PIECE);
    float *w = a.slots[s].values, *v = a.slots[s].velocity;
    GPU_EACH_THREAD (t)
        for (size_t i = first + t; i < end; i += GPU_THREADS) {
            if (a.slots[s].live && !a.slots[s].live[i])
                continue;
            const float g = a.slots[s].grad[i] + a.slots[s].decay * w[i];
            const float moved = a.momentum * v[i] + g;
            v[i] = moved;
            w[i] -= a.lr * (a.nesterov ? g + a.momentum * moved : moved);
        }
}

/* ---- the loss ---- */

GPU_INLINE bool gpu_seen(const struct gpu_loss *a, size_t row)
{
    return a->labels[row] >= 0 && a->labels[row] < a->seen;
}

GPU_INLINE double gpu_logit(const struct gpu_loss *a, size_t row, unsigned k)
{
    double v = a->logits[row * a->classes + k];

    if (gpu_seen(a, row))
        v = a->near * v + (1 - a->near) * a->level[k];
    return v + (a->offset ? a->offset[k] : 0);
}

/* Largest logit, and the first place of it; largest with offset, then log sum exp of those. */
struct gpu_tops {
    double top, with, row;
    unsigned best;
};

GPU_INLINE struct gpu_tops gpu_loss_tops(const struct gpu_loss *a, size_t row, unsigned t)
{
    struct gpu_tops mine;

    mine.top = mine.with = -1.7e308;
    mine.row = 0;
    mine.best = a->classes;
    for (unsigned k = t; k < a->classes; k += GPU_THREADS) {
        const double v = a->logits[row * a->classes + k], w = gpu_logit(a, row, k);
        if (v > mine.top || mine.best == a->classes) {
            mine.top = v;
            mine.best = k;
        }
        mine.with = w > mine.with ? w : mine.with;
    }
    return mine;
}

/* Gradient of a row's classes; returns the share of the loss that belongs to them. norm: log sum
 * exp */
GPU_INLINE double gpu_loss_grads(const struct gpu_loss *a, size_t row, unsigned t, double norm)
{
    const int label = a->labels[row];
    const double rest = a->smoothing / (double)a->classes;
    const double scale = gpu_seen(a, row) ? a->near * a->scale : a->scale;
    double mine = 0;

    for (unsigned k = t; k < a->classes; k += GPU_THREADS) {
        const double v = gpu_logit(a, row, k);
        double target = a->soft ? rest : 0, g;
        if ((int)k == label)
            target += a->soft ? (1 - a->smoothing) * (a->others ? a->share : 1) : 1;
        if (a->soft && a->others && (int)k == a->others[row])
            target += (1 - a->smoothing) * (1 - a->share);
        if (a->soft || (int)k == label)
            mine += target * (norm - v);
        g = scale * (exp(v - norm) - target) / (double)a->n;
        if (!a->soft && label < 0)
            g = 0;
        a->grad[row * a->classes + k] = (float)g;
    }
    return mine;
}

GPU_KERNEL(loss, gpu_loss)
{
    GPU_SHARED struct gpu_tops shared[GPU_THREADS];
    GPU_SHARED struct gpu_tops top;
    GPU_SHARED double norm;

    (void)blocks;
    GPU_EACH_THREAD (t)
        shared[t] = gpu_loss_tops(&a, block, t);
    GPU_EACH_THREAD (t) {
        if (t != 0)
            continue;
        top = shared[0];
        for (unsigned i = 1; i < GPU_THREADS; i++) {
            const struct gpu_tops *o = &shared[i];
            if (o->best < a.classes &&
                (o->top > top.top || (o->top == top.top && o->best < top.best))) {
                top.top = o->top;
                top.best = o->best;
            }
            top.with = o->with > top.with ? o->with : top.with;
        }
    }
    GPU_EACH_THREAD (t) {
        shared[t].row = 0;
        for (unsigned k = t; k < a.classes; k += GPU_THREADS)
            shared[t].row += exp(gpu_logit(&a, block, k) - top.with);
    }
    GPU_EACH_THREAD (t) {
        if (t != 0)
            continue;
        norm = shared[0].row;
        for (unsigned i = 1; i < GPU_THREADS; i++)
            norm += shared[i].row;
        norm = top.with + log(norm);
    }
    GPU_EACH_THREAD (t)
        shared[t].row = gpu_loss_grads(&a, block, t, norm);
    GPU_EACH_THREAD (t) {
        double row = 0;
        if (t != 0)
            continue;
        for (unsigned i = 0; i < GPU_THREADS; i++)
            row += shared[i].row;
        a.out[2 * (size_t)block] = row;
        a.out[2 * (size_t)block + 1] =
            a.labels[block] >= 0 && top.best == (unsigned)a.labels[block];
    }
}

/* ---- distillation ---- */

/* Of the network's logits and of the teacher's, both at the temperature. */
struct gpu_pair {
    double student, teacher;
};

/* Of output k of a part of a row. */
GPU_INLINE struct gpu_pair gpu_distil_pair(const struct gpu_distil *a, unsigned block, unsigned k)
{
    const size_t row = block / a->count, at = a->parts[2 * (block % a->count)] + k;
    struct gpu_pair pair;

    pair.student = (double)a->logits[row * a->classes + at] / a->temperature;
    pair.teacher = (double)a->teacher[row * a->old + at] / a->temperature;
    return pair;
}

/* norm: log sum exps of the part. Returns the share of the loss. */
GPU_INLINE double gpu_distil_grads(const struct gpu_distil *a, unsigned block, unsigned t,
                                   unsigned outputs, const struct gpu_pair *norm)
{
    const size_t first = block / a->count * (size_t)a->classes + a->parts[2 * (block % a->count)];
    double mine = 0;

    for (unsigned k = t; k < outputs; k += GPU_THREADS) {
        const struct gpu_pair v = gpu_distil_pair(a, block, k);
        const double p = exp(v.teacher - norm->teacher), log_q = v.student - norm->student;
        mine -= p * log_q;
        a->grad[first + k] +=
            (float)(a->scale * (exp(log_q) - p) / (a->temperature * (double)a->n));
    }
    return mine;
}

GPU_KERNEL(distil, gpu_distil)
{
    GPU_SHARED struct gpu_pair shared[GPU_THREADS];
    GPU_SHARED struct gpu_pair top, norm;
    const unsigned outputs = a.parts[2 * (block % a.count) + 1];

    (void)blocks;
    GPU_EACH_THREAD (t) {
        shared[t].student = shared[t].teacher = -1.7e308;
        for (unsigned k = t; k < outputs; k += GPU_THREADS) {
            const struct gpu_pair v = gpu_distil_pair(&a, block, k);
            shared[t].student = v.student > shared[t].student ? v.student : shared[t].student;
            shared[t].teacher = v.teacher > shared[t].teacher ? v.teacher : shared[t].teacher;
        }
    }
    GPU_EACH_THREAD (t) {
        if (t != 0)
            continue;
        top = shared[0];
        for (unsigned i = 1; i < GPU_THREADS; i++) {
            top.student = shared[i].student > top.student ? shared[i].student : top.student;
            top.teacher = shared[i].teacher > top.teacher ? shared[i].teacher : top.teacher;
        }
    }
    GPU_EACH_THREAD (t) {
        shared[t].student = shared[t].teacher = 0;
        for (unsigned k = t; k < outputs; k += GPU_THREADS) {
            const struct gpu_pair v = gpu_distil_pair(&a, block, k);
            shared[t].student += exp(v.student - top.student);
            shared[t].teacher += exp(v.teacher - top.teacher);
        }
    }
    GPU_EACH_THREAD (t) {
        if (t != 0)
            continue;
        norm = shared[0];
        for (unsigned i = 1; i < GPU_THREADS; i++) {
            norm.student += shared[i].student;
            norm.teacher += shared[i].teacher;
        }
        norm.student = top.student + log(norm.student);
        norm.teacher = top.teacher + log(norm.teacher);
    }
    GPU_EACH_THREAD (t)
        shared[t].student = gpu_distil_grads(&a, block, t, outputs, &norm);
    GPU_EACH_THREAD (t) {
        double sum = 0;
        if (t != 0)
            continue;
        for (unsigned i = 0; i < GPU_THREADS; i++)
            sum += shared[i].student;
        a.out[block] = sum;
    }
}

/* ---- records of a frozen prefix ---- */

GPU_INLINE void gpu_move(char *to, const char *from, unsigned unit)
{
    if (unit == 4)
        *(uint32_t *)(void *)to = *(const uint32_t *)(const void *)from;
    else
        *(uint16_t *)(void *)to = *(const uint16_t *)(const void *)from;
}

GPU_KERNEL(rows, gpu_rows)
{
    GPU_EACH (i, (size_t)a.n * a.words) {
        char *row = a.table + a.index[i / a.words] * a.row + a.at + i % a.words * a.unit;
        char *image = a.images + i * a.unit;
        gpu_move(a.keep ? row : image, a.keep ? image : row, a.unit);
    }
}

/* ---- images ---- */

GPU_INLINE float gpu_view_value(const struct gpu_load *a, const struct gpu_view *view, unsigned c,
                                int x, int y)
{
    const int row = y + view->dy, moved = x + view->dx;
    const int column = view->mirror ? (int)a->w - 1 - moved : moved;
    const int side = (int)a->side;
    uint8_t byte = 0;

    if (row >= 0 && row < (int)a->h && column >= 0 && column < (int)a->w)
        byte = a->pixels[(((size_t)view->index * a->c + c) * a->h + (unsigned)row) * a->w +
                         (unsigned)column];
    if (view->cut && x >= view->cut_left && x < view->cut_left + side && y >= view->cut_top &&
        y < view->cut_top + side)
        byte = a->fill[c];
    return a->table[256 * c + byte];
}

GPU_KERNEL(load, gpu_load)
{
    const size_t plane = (size_t)a.h * a.w;

    GPU_EACH (i, a.n * plane * a.c) {
        const unsigned c = (unsigned)(i % a.c);
        const size_t pixel = i / a.c, image = pixel / plane, other = a.n - 1 - image;
        const int y = (int)(pixel % plane / a.w), x = (int)(pixel % plane % a.w);
        float v = gpu_view_value(&a, &a.views[image], c, x, y);
        if (a.share < 1 && other != image)
            v = GPU_TIMES(a.share, v) +
                GPU_TIMES(1 - a.share, gpu_view_value(&a, &a.views[other], c, x, y));
        gpu_put(a.input, i, a.narrow, v);
    }
}

#endif
