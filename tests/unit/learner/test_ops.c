/* Every operation, one row of a table each: `ref` against finite differences, `blas` with each of
 * its kernel sets and thread counts against `ref` within the row's tolerance. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device/blas.h"
#include "fixture.h"

struct row {
    const char *name;
    enum learner_op_kind kind;
    size_t n;
    struct learner_shape in;
    size_t channels; /* out */
    size_t kernel, stride, pad;
    enum learner_act act;
    bool residual, add; /* add: gradients add to what is there */
    double tolerance;   /* ||blas - ref|| / ||ref|| of each result */
};

#define CONV LEARNER_OP_CONV
#define NORM LEARNER_OP_NORM
#define FUSED LEARNER_OP_CONV_NORM
#define RELU LEARNER_ACT_RELU

/* Sums run over up to 4608 products in float: 1e-5 is some hundred roundings. */
static const struct row rows[] = {
    {"conv 3x3", CONV, 3, {5, 9, 7}, 6, 3, 1, 1, 0, false, false, 1e-5},
    {"conv 3x3, gradients add", CONV, 3, {5, 9, 7}, 6, 3, 1, 1, 0, false, true, 1e-5},
    {"conv 3x3, 1x1 plane", CONV, 2, {9, 1, 1}, 17, 3, 1, 1, 0, false, false, 1e-5},
    {"conv 3x3, tiles of images", CONV, 70, {3, 4, 4}, 9, 3, 1, 1, 0, false, false, 1e-5},
    {"conv 3x3, many channels", CONV, 3, {512, 2, 2}, 20, 3, 1, 1, 0, false, false, 1e-5},
    {"conv 3x3, bands of rows", CONV, 1, {2, 240, 231}, 3, 3, 1, 1, 0, false, false, 1e-5},
    {"conv 3x3, no padding", CONV, 2, {3, 8, 6}, 4, 3, 1, 0, 0, false, false, 1e-5},
    {"conv 3x3, padding 2", CONV, 2, {3, 5, 6}, 4, 3, 1, 2, 0, false, false, 1e-5},
    {"conv 3x3 stride 2, even", CONV, 3, {4, 8, 10}, 7, 3, 2, 1, 0, false, false, 1e-5},
    {"conv 3x3 stride 2, odd", CONV, 3, {4, 13, 9}, 7, 3, 2, 1, 0, false, true, 1e-5},
    {"conv 3x3 stride 2, bands", CONV, 1, {2, 241, 260}, 3, 3, 2, 1, 0, false, false, 1e-5},
    {"conv 1x1", CONV, 3, {5, 6, 7}, 9, 1, 1, 0, 0, false, false, 1e-5},
    {"conv 1x1 stride 2, even", CONV, 3, {5, 6, 8}, 9, 1, 2, 0, 0, false, false, 1e-5},
    {"conv 1x1 stride 2, odd, add", CONV, 3, {5, 7, 5}, 9, 1, 2, 0, 0, false, true, 1e-5},
    {"conv 7x7 stride 2", CONV, 2, {3, 20, 17}, 5, 7, 2, 3, 0, false, false, 1e-5},
    {"conv 5x5", CONV, 2, {3, 9, 8}, 5, 5, 1, 2, 0, false, false, 1e-5},
    {"norm", NORM, 4, {6, 5, 7}, 6, 0, 0, 0, 0, false, false, 2e-6},
    {"norm, relu", NORM, 4, {6, 5, 7}, 6, 0, 0, 0, RELU, false, true, 2e-6},
    {"norm, residual", NORM, 4, {6, 8, 8}, 6, 0, 0, 0, 0, true, false, 2e-6},
    {"norm, residual, relu, add", NORM, 4, {6, 8, 8}, 6, 0, 0, 0, RELU, true, true, 2e-6},
    {"conv and norm", FUSED, 3, {5, 9, 7}, 6, 3, 1, 1, RELU, false, false, 1e-5},
    {"conv and norm, residual", FUSED, 3, {5, 8, 8}, 5, 3, 1, 1, RELU, true, false, 1e-5},
    {"conv and norm, bands", FUSED, 1, {2, 230, 231}, 3, 3, 1, 1, RELU, true, false, 1e-5},
    {"conv and norm, stride 2", FUSED, 3, {5, 9, 8}, 6, 1, 2, 0, 0, false, false, 1e-5},
    {"pool", LEARNER_OP_POOL, 3, {5, 4, 6}, 5, 0, 0, 0, 0, false, true, 1e-6},
    {"linear", LEARNER_OP_LINEAR, 5, {33, 1, 1}, 10, 0, 0, 0, 0, false, false, 1e-5},
    {"linear, gradients add", LEARNER_OP_LINEAR, 5, {33, 1, 1}, 10, 0, 0, 0, 0, false, true, 1e-5},
};
#define ROWS (sizeof rows / sizeof *rows)

/* One operation with buffers of its own; every result that a device writes is listed. */
struct operation {
    struct learner_op op;
    float *buffers[24];
    size_t counts[24];
    size_t count;
    int first_result;
};

static float *buffer(struct operation *o, size_t count, uint64_t seed)
{
    float *data = delta_calloc_aligned(count, sizeof *data);

    assert_non_null(data);
    assert_true(o->count < 24);
    if (seed)
        fixture_fill(data, count, seed);
    o->counts[o->count] = count;
    o->buffers[o->count++] = data;
    return data;
}

static void operation_init(struct operation *o, const struct row *row)
{
    struct learner_op *op = &o->op;
    const bool conv = row->kind == CONV || row->kind == FUSED;

    memset(o, 0, sizeof *o);
    op->kind = row->kind;
    op->name = row->name;
    op->in = row->in;
    op->out = row->in;
    op->kernel = row->kernel;
    op->stride = row->stride;
    op->pad = row->pad;
    op->act = row->act;
    op->out.c = row->channels;
    if (conv) {
        op->out.h = (row->in.h + 2 * row->pad - row->kernel) / row->stride + 1;
        op->out.w = (row->in.w + 2 * row->pad - row->kernel) / row->stride + 1;
    } else if (row->kind != NORM) {
        op->out.h = op->out.w = 1;
    }
    const size_t c = op->out.c, weights = c * row->in.c * (conv ? row->kernel * row->kernel : 1);
    const size_t in = row->n * learner_shape_count(&op->in);
    const size_t out = row->n * learner_shape_count(&op->out);
    op->x = buffer(o, in, 1);
    op->dy = buffer(o, out, 2);
    op->residual = row->residual ? buffer(o, out, 3) : NULL;
    op->weight = buffer(o, weights, 4);
    op->bias = buffer(o, c, 5);
    op->scale = buffer(o, c, 6);
    op->shift = buffer(o, c, 7);
    op->mean = buffer(o, c, 8);
    float *var = buffer(o, c, 9);
    for (size_t i = 0; i < c; i++)
        var[i] = 0.5f + fabsf(var[i]);
    op->var = var;
    o->first_result = (int)o->count;
    op->y = buffer(o, out, 0);
    op->batch_mean = buffer(o, c, 0);
    op->inv_std = buffer(o, c, 0);
    op->dx = buffer(o, in, row->add ? 10 : 0);
    op->dresidual = row->residual ? buffer(o, out, row->add ? 11 : 0) : NULL;
    op->dx_add = op->dresidual_add = row->add;
    op->dweight = buffer(o, weights, 0);
    op->dbias = buffer(o, c, 0);
    op->dscale = buffer(o, c, 0);
    op->dshift = buffer(o, c, 0);
}

static void operation_release(struct operation *o)
{
    for (size_t i = 0; i < o->count; i++)
        free(o->buffers[i]);
}

static struct learner_device *open_device(const char *name, int threads, const char *kernels)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_device *device = NULL;

    assert_ok(learner_device_open(&device, name, threads, &err));
    if (kernels)
        ((struct blas *)device)->kernels = learner_kernels_find(kernels);
    return device;
}

static void run(struct learner_device *device, const struct learner_op *op, size_t n,
                enum learner_mode mode, bool backward)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct learner_pass pass = {.n = n, .mode = mode};

    if (device->ops->prepare)
        assert_ok(device->ops->prepare(device, op, n, true, &err));
    device->ops->run(device, op, &pass);
    pass.backward = true;
    if (backward)
        device->ops->run(device, op, &pass);
}

/* What a fused operation means: its two parts on the oracle. */
static void run_ref(struct learner_device *ref, const struct operation *o, size_t n,
                    enum learner_mode mode)
{
    if (o->op.kind != FUSED) {
        run(ref, &o->op, n, mode, true);
        return;
    }
    struct learner_op conv = o->op, norm = o->op;
    float *z = calloc(n * learner_shape_count(&o->op.out), sizeof *z);
    assert_non_null(z);
    conv.kind = CONV;
    conv.y = z;
    norm.kind = NORM;
    norm.in = norm.out;
    norm.x = z;
    run(ref, &conv, n, mode, false);
    run(ref, &norm, n, mode, false);
    free(z);
}

static void compare_row(const struct row *row, enum learner_mode mode, int threads,
                        const char *kernels)
{
    struct operation a, b;
    struct learner_device *ref = open_device("ref", 1, NULL);
    struct learner_device *blas = open_device("blas", threads, kernels);

    operation_init(&a, row);
    operation_init(&b, row);
    run_ref(ref, &a, row->n, mode);
    run(blas, &b.op, row->n, mode, row->kind != FUSED);
    for (size_t i = 0; i < a.count; i++) {
        const double distance = fixture_distance(b.buffers[i], a.buffers[i], a.counts[i]);
        if (!(distance <= row->tolerance))
            fail_msg("%s, mode %d, %d threads, kernels %s: buffer %zu differs by %g", row->name,
                     (int)mode, threads, kernels, i, distance);
    }
    operation_release(&a);
    operation_release(&b);
    ref->ops->close(ref);
    blas->ops->close(blas);
}

static void blas_agrees_with_ref(void **state)
{
    static const char *const kernels[] = {"base", "avx2", "avx512"};
    static const int threads[] = {1, 3};
    size_t sets = 0;

    (void)state;
    for (size_t k = 0; k < 3; k++) {
        if (!learner_kernels_find(kernels[k])) {
            print_message("SKIP: kernels %s do not run on this processor\n", kernels[k]);
            continue;
        }
        sets++;
        for (size_t r = 0; r < ROWS; r++)
            for (int t = 0; t < 2; t++) {
                if (rows[r].kind == FUSED) {
                    compare_row(&rows[r], LEARNER_INFER, threads[t], kernels[k]);
                    continue;
                }
                compare_row(&rows[r], LEARNER_TRAIN_EVAL, threads[t], kernels[k]);
                if (rows[r].kind == NORM)
                    compare_row(&rows[r], LEARNER_TRAIN, threads[t], kernels[k]);
            }
    }
    assert_true(sets >= 1);
}

/* The scalar that is differentiated: sum dy * y. */
static double scalar(struct learner_device *ref, struct operation *o, const struct row *row,
                     enum learner_mode mode)
{
    float mean[16], var[16];
    double sum = 0;

    /* a training pass moves the running statistics */
    const bool norm = row->kind == NORM;
    if (norm) {
        memcpy(mean, o->op.mean, row->channels * sizeof *mean);
        memcpy(var, o->op.var, row->channels * sizeof *var);
    }
    run(ref, &o->op, row->n, mode, false);
    if (norm) {
        memcpy(o->op.mean, mean, row->channels * sizeof *mean);
        memcpy(o->op.var, var, row->channels * sizeof *var);
    }
    for (size_t i = 0; i < row->n * learner_shape_count(&o->op.out); i++)
        sum += (double)o->op.dy[i] * o->op.y[i];
    return sum;
}

static void check_input(struct learner_device *ref, struct operation *o, const struct row *row,
                        enum learner_mode mode, float *input, const float *gradient, size_t count,
                        const char *what)
{
    float *keep = calloc(count, sizeof *keep), *direction = calloc(count, sizeof *direction);
    double slope = 0, size = 0, at[3];
    const double h = row->act == RELU ? 1e-4 : 1e-3; /* few kinks within a step */

    assert_true(keep && direction);
    memcpy(keep, input, count * sizeof *keep);
    fixture_fill(direction, count, 55);
    for (size_t i = 0; i < count; i++) {
        slope += (double)direction[i] * gradient[i];
        size += (double)gradient[i] * gradient[i];
    }
    for (int side = 0; side < 3; side++) {
        for (size_t i = 0; i < count; i++)
            input[i] = (float)(keep[i] + (side - 1) * h * direction[i]);
        at[side] = scalar(ref, o, row, mode);
    }
    memcpy(input, keep, count * sizeof *keep);
    const double found = (at[2] - at[0]) / (2 * h);
    if (!(fabs(found - slope) <= 5e-3 * sqrt(size) + 2e-3 * fabs(slope)))
        fail_msg("%s, mode %d, %s: gradient %.7g, finite difference %.7g", row->name, (int)mode,
                 what, slope, found);
    free(keep);
    free(direction);
}

static void check_row(struct learner_device *ref, const struct row *table_row,
                      enum learner_mode mode)
{
    struct row row = *table_row;
    struct operation o;

    row.add = false; /* the oracle's adding is checked by a test of its own */
    operation_init(&o, &row);
    const struct learner_op *op = &o.op;
    const size_t in = row.n * learner_shape_count(&op->in);
    const size_t out = row.n * learner_shape_count(&op->out);
    scalar(ref, &o, &row, mode);
    ref->ops->run(ref, op, &(struct learner_pass){row.n, mode, true});
    check_input(ref, &o, &row, mode, (float *)op->x, op->dx, in, "input");
    if (row.residual)
        check_input(ref, &o, &row, mode, (float *)op->residual, op->dresidual, out, "residual");
    if (row.kind == CONV || row.kind == LEARNER_OP_LINEAR)
        check_input(ref, &o, &row, mode, (float *)op->weight, op->dweight,
                    op->out.c * op->in.c * (row.kind == CONV ? row.kernel * row.kernel : 1),
                    "weight");
    if (row.kind == LEARNER_OP_LINEAR)
        check_input(ref, &o, &row, mode, (float *)op->bias, op->dbias, op->out.c, "bias");
    if (row.kind == NORM) {
        check_input(ref, &o, &row, mode, (float *)op->scale, op->dscale, op->out.c, "scale");
        check_input(ref, &o, &row, mode, (float *)op->shift, op->dshift, op->out.c, "shift");
    }
    operation_release(&o);
}

static void ref_agrees_with_finite_differences(void **state)
{
    struct learner_device *ref = open_device("ref", 1, NULL);

    (void)state;
    for (size_t r = 0; r < ROWS; r++) {
        if (rows[r].kind == FUSED || rows[r].in.h > 100)
            continue; /* no backward; too slow for plain loops */
        check_row(ref, &rows[r], LEARNER_TRAIN_EVAL);
        if (rows[r].kind == NORM)
            check_row(ref, &rows[r], LEARNER_TRAIN);
    }
    ref->ops->close(ref);
}

static void ref_adds_where_asked(void **state)
{
    struct learner_device *ref = open_device("ref", 1, NULL);
    size_t checked = 0;

    (void)state;
    for (size_t r = 0; r < ROWS; r++) {
        struct row row = rows[r];
        struct operation added, fresh, before;
        if (!row.add)
            continue;
        operation_init(&added, &row);
        operation_init(&before, &row);
        row.add = false;
        operation_init(&fresh, &row);
        run(ref, &added.op, row.n, LEARNER_TRAIN, true);
        run(ref, &fresh.op, row.n, LEARNER_TRAIN, true);
        const size_t in = row.n * learner_shape_count(&fresh.op.in);
        for (size_t i = 0; i < in; i++)
            before.op.dx[i] += fresh.op.dx[i];
        assert_true(fixture_distance(added.op.dx, before.op.dx, in) < 1e-6);
        for (size_t i = 0; row.residual && i < in; i++)
            before.op.dresidual[i] += fresh.op.dresidual[i];
        if (row.residual)
            assert_true(fixture_distance(added.op.dresidual, before.op.dresidual, in) < 1e-6);
        operation_release(&added);
        operation_release(&before);
        operation_release(&fresh);
        checked++;
    }
    assert_true(checked >= 5);
    ref->ops->close(ref);
}

/* Rounding may depend on the number of threads in weight gradients only. */
static void forward_does_not_depend_on_threads_or_batch(void **state)
{
    const struct row *row = &rows[3];
    struct learner_device *one = open_device("blas", 1, NULL), *many = open_device("blas", 5, NULL);
    struct operation a, b;

    (void)state;
    operation_init(&a, row);
    operation_init(&b, row);
    run(one, &a.op, row->n, LEARNER_TRAIN_EVAL, true);
    run(many, &b.op, row->n, LEARNER_TRAIN_EVAL, true);
    const size_t out = learner_shape_count(&a.op.out), in = learner_shape_count(&a.op.in);
    assert_memory_equal(a.op.y, b.op.y, row->n * out * sizeof(float));
    assert_memory_equal(a.op.dx, b.op.dx, row->n * in * sizeof(float));
    memset(b.op.y, 0, row->n * out * sizeof(float));
    run(many, &b.op, 1, LEARNER_TRAIN_EVAL, false);
    assert_memory_equal(a.op.y, b.op.y, out * sizeof(float));
    operation_release(&a);
    operation_release(&b);
    one->ops->close(one);
    many->ops->close(many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_agrees_with_finite_differences),
        cmocka_unit_test(ref_adds_where_asked),
        cmocka_unit_test(blas_agrees_with_ref),
        cmocka_unit_test(forward_does_not_depend_on_threads_or_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
