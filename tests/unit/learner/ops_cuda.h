/* The part of test_ops.c that tests device `cuda`; included there, behind the table and what makes
 * an operation of a row. */
#ifndef OPS_CUDA_H
#define OPS_CUDA_H

#ifdef EMULATED
#include "cuda_emulated.h"
#endif

/* The library sums in another order, in pieces: 4608 products in a few hundred roundings. */
#define CUDA_TOLERANCE 3
/* bf16 keeps 8 bits: 2^-9 each time something is written, several times in a row's results */
#define BF16_TOLERANCE 1.2e-2

struct mirrored {
    struct learner_device *device;
    struct operation *host;
    struct learner_op op; /* its places are the device's */
    float *places[24];
    double *sums;
    bool narrow[24]; /* kept in the activations' type */
};

static void *place_of(struct mirrored *m, const void *host)
{
    for (size_t i = 0; host && i < m->host->count; i++)
        if (m->host->buffers[i] == host)
            return m->places[i];
    return NULL;
}

static bool is_activation(const struct learner_op *op, const float *host)
{
    if (op->kind == LEARNER_OP_LINEAR || (op->kind == LEARNER_OP_POOL && host != op->x))
        return op->kind == LEARNER_OP_POOL && host == op->dx;
    return host == op->x || host == op->y || host == op->dx || host == op->dy ||
           host == op->residual || host == op->dresidual;
}

static void mirror(struct mirrored *m, struct learner_device *device, struct operation *host)
{
    const struct learner_remote_ops *remote = device->ops->remote;

    *m = (struct mirrored){.device = device, .host = host, .op = host->op};
    for (size_t i = 0; i < host->count; i++) {
        m->places[i] = device->ops->alloc(device, host->counts[i] * sizeof(float));
        assert_non_null(m->places[i]);
        m->narrow[i] = is_activation(&host->op, host->buffers[i]);
        if (m->narrow[i])
            remote->store(device, m->places[i], host->buffers[i], host->counts[i]);
        else
            remote->upload(device, m->places[i], host->buffers[i], host->counts[i] * sizeof(float));
    }
    m->sums = device->ops->alloc(device, sizeof host->sums);
    assert_non_null(m->sums);
    remote->upload(device, m->sums, host->sums, sizeof host->sums);
    struct learner_op *op = &m->op;
    const void **fields[] = {
        (const void **)&op->x,       (const void **)&op->residual, (const void **)&op->y,
        (const void **)&op->dy,      (const void **)&op->dx,       (const void **)&op->dresidual,
        (const void **)&op->x_gain,  (const void **)&op->x_offset, (const void **)&op->weight,
        (const void **)&op->bias,    (const void **)&op->scale,    (const void **)&op->shift,
        (const void **)&op->mean,    (const void **)&op->var,      (const void **)&op->batch_mean,
        (const void **)&op->inv_std, (const void **)&op->gain,     (const void **)&op->offset,
        (const void **)&op->dweight, (const void **)&op->dbias,    (const void **)&op->dscale,
        (const void **)&op->dshift};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        *fields[i] = place_of(m, *fields[i]);
    op->sums = op->sums ? m->sums : NULL;
}

/* The device's numbers take the place of the host's. */
static void mirror_back(struct mirrored *m)
{
    const struct learner_remote_ops *remote = m->device->ops->remote;
    struct delta_error err = DELTA_ERROR_INIT;

    for (size_t i = 0; i < m->host->count; i++) {
        if (m->narrow[i])
            remote->fetch(m->device, m->host->buffers[i], m->places[i], m->host->counts[i]);
        else
            remote->download(m->device, m->host->buffers[i], m->places[i],
                             m->host->counts[i] * sizeof(float));
        m->device->ops->release(m->device, m->places[i]);
    }
    remote->download(m->device, m->host->sums, m->sums, sizeof m->host->sums);
    m->device->ops->release(m->device, m->sums);
    assert_ok(remote->sync(m->device, &err));
}

/* What bf16 can hold, so that both sides begin with the same. */
static void round_to_bf16(struct learner_device *cuda, struct operation *o)
{
    float *place = NULL;

    for (size_t i = 0; i < o->count; i++) {
        const bool weight =
            o->buffers[i] == o->op.weight && o->op.kind != LEARNER_OP_LINEAR && o->op.groups < 2;
        if (!is_activation(&o->op, o->buffers[i]) && !weight)
            continue;
        place = cuda->ops->alloc(cuda, o->counts[i] * sizeof(float));
        assert_non_null(place);
        cuda->ops->remote->store(cuda, place, o->buffers[i], o->counts[i]);
        cuda->ops->remote->fetch(cuda, o->buffers[i], place, o->counts[i]);
        cuda->ops->release(cuda, place);
    }
}

static void compare_cuda(const struct row *row, enum learner_mode mode, const char *name)
{
    struct operation a, b;
    struct mirrored m;
    struct learner_device *ref = open_device("ref", 1, NULL), *cuda = open_device(name, 1, NULL);
    const bool narrow = cuda->precision && !strcmp(cuda->precision, "bf16");
    const double tolerance = narrow ? BF16_TOLERANCE : CUDA_TOLERANCE * row->tolerance;

    operation_init(&a, row);
    operation_init(&b, row);
    if (narrow) {
        round_to_bf16(cuda, &a);
        round_to_bf16(cuda, &b);
    }
    run_ref(ref, &a, row->n, mode);
    mirror(&m, cuda, &b);
    run(cuda, &m.op, row->n, mode, row->kind != FUSED);
    mirror_back(&m);
    for (size_t c = 0; a.op.sums && mode == LEARNER_TRAIN && c < 2 * row->channels; c++) {
        const double size = sqrt(a.sums[row->channels + c % row->channels]); /* of a channel */
        const double bound = narrow ? BF16_TOLERANCE * size * (c < row->channels ? 1 : size)
                                    : 1e-4 * (fabs(a.sums[c]) + (double)row->n);
        if (!(fabs(a.sums[c] - b.sums[c]) <= bound))
            fail_msg("%s on %s: sum %zu is %g, wanted %g", row->name, name, c, b.sums[c],
                     a.sums[c]);
    }
    for (size_t i = 0; i < a.count; i++) {
        const double distance = fixture_distance(b.buffers[i], a.buffers[i], a.counts[i]);
        if (!(distance <= tolerance))
            fail_msg("%s on %s, mode %d: buffer %zu differs by %g", row->name, name, (int)mode, i,
                     distance);
    }
    operation_release(&a);
    operation_release(&b);
    ref->ops->close(ref);
    cuda->ops->close(cuda);
}

static void compare_cuda_rows(const char *name)
{
    for (size_t r = 0; r < ROWS; r++) {
        if (rows[r].kind == FUSED) {
            compare_cuda(&rows[r], LEARNER_INFER, name);
            continue;
        }
        compare_cuda(&rows[r], LEARNER_TRAIN_EVAL, name);
        if (rows[r].kind == NORM || rows[r].lazy)
            compare_cuda(&rows[r], LEARNER_TRAIN, name);
    }
}

static void cuda_agrees_with_ref(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_device *device = NULL;

    (void)state;
    if (learner_device_open(&device, "cuda", 1, &err)) {
        print_message("SKIP: %s\n", err.text);
        skip();
    }
    device->ops->close(device);
    compare_cuda_rows("cuda");
    if (learner_device_open(&device, "cuda:bf16", 1, &err)) {
        print_message("SKIP: bf16: %s\n", err.text);
        return;
    }
    device->ops->close(device);
    compare_cuda_rows("cuda:bf16");
}

#ifdef EMULATED
/* Threads in the opposite order, convolutions by patches alone: what depends on the order of
 * threads or blocks would differ, and each way of a convolution is gone. */
static void cuda_agrees_without_the_library(void **state)
{
    cuda_emulated.no_library = cuda_emulated.backwards = true;
    const size_t convs = cuda_emulated.convs;
    cuda_agrees_with_ref(state);
    assert_int_equal(cuda_emulated.convs, convs);
    cuda_emulated.no_library = cuda_emulated.backwards = false;
}

static void order_of_threads_changes_no_bit(void **state)
{
    (void)state;
    for (size_t r = 0; r < ROWS; r++) {
        const enum learner_mode mode = rows[r].kind == FUSED ? LEARNER_INFER : LEARNER_TRAIN;
        struct operation o[2];
        for (int side = 0; side < 2; side++) {
            struct learner_device *cuda = open_device("cuda", 1, NULL);
            struct mirrored m;
            cuda_emulated.backwards = side != 0;
            operation_init(&o[side], &rows[r]);
            mirror(&m, cuda, &o[side]);
            run(cuda, &m.op, rows[r].n, mode, rows[r].kind != FUSED);
            mirror_back(&m);
            cuda->ops->close(cuda);
        }
        for (size_t i = 0; i < o[0].count; i++)
            if (memcmp(o[0].buffers[i], o[1].buffers[i], o[0].counts[i] * sizeof(float)) != 0)
                fail_msg("%s: buffer %zu depends on the order of threads", rows[r].name, i);
        operation_release(&o[0]);
        operation_release(&o[1]);
    }
    cuda_emulated.backwards = false;
}
#endif

#endif
