/* The inner loops of the `blas` backend, each instruction set: products of every shape around the
 * size of a tile against sums in double, with nothing read or written outside of the matrices
 * (canaries around C; the sanitizer watches A and B). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device/kernels.h"
#include "fixture.h"

#define CANARY 1234.5f

static const char *const sets[] = {"base", "avx2", "avx512"};

struct product {
    size_t rows, cols, depth, taps;
    float *a, *b, *packed, *c;
    const float **pointers; /* NULL: one tap, constant stride */
    size_t c_stride;
};

static float *exactly(size_t count)
{
    float *data = malloc((count ? count : 1) * sizeof *data); /* the sanitizer sees its end */

    assert_non_null(data);
    return data;
}

static void product_init(struct product *p, const struct learner_kernels *kernels, bool pointers)
{
    const size_t depth = p->depth * p->taps;

    p->a = exactly(p->rows * depth);
    p->b = exactly(depth * p->cols);
    p->packed = exactly(kernels->gemm_packed_floats(depth, p->cols));
    p->c_stride = p->cols + 3;
    p->c = exactly(p->rows * p->c_stride);
    fixture_fill(p->a, p->rows * depth, 1);
    fixture_fill(p->b, depth * p->cols, 2);
    for (size_t i = 0; i < p->rows * p->c_stride; i++)
        p->c[i] = CANARY;
    p->pointers = NULL;
    if (pointers) {
        p->pointers = calloc(p->rows * p->taps, sizeof *p->pointers);
        assert_non_null(p->pointers);
        for (size_t i = 0; i < p->rows * p->taps; i++) /* any order */
            p->pointers[i] = p->a + (p->rows * p->taps - 1 - i) * p->depth;
    }
    for (size_t t = 0; t < p->taps; t++) /* by parts */
        kernels->gemm_pack(p->packed, p->b + t * p->depth * p->cols, p->cols, 1, p->depth, p->cols,
                           t * p->depth, depth);
}

static void product_release(struct product *p)
{
    free(p->a);
    free(p->b);
    free(p->packed);
    free(p->c);
    free(p->pointers);
}

static double wanted(const struct product *p, size_t row, size_t col)
{
    double sum = 0;

    for (size_t t = 0; t < p->taps; t++)
        for (size_t k = 0; k < p->depth; k++) {
            const float *a = p->pointers ? p->pointers[t * p->rows + row] : p->a + row * p->depth;
            sum += (double)a[k] * p->b[(t * p->depth + k) * p->cols + col];
        }
    return sum;
}

static void check(const struct learner_kernels *kernels, struct product p, bool pointers)
{
    product_init(&p, kernels, pointers);
    struct learner_gemm gemm = {.rows = p.rows,
                                .cols = p.cols,
                                .depth = p.depth,
                                .taps = p.taps,
                                .a_rows = p.pointers,
                                .a_rows_stride = p.rows,
                                .a = p.a,
                                .a_stride = p.depth,
                                .b = p.packed,
                                .c = p.c,
                                .c_stride = p.c_stride};
    kernels->gemm(&gemm);
    gemm.add = true; /* twice the product, panel by panel */
    const size_t panel = kernels->gemm_panel_cols(p.cols);
    for (; gemm.col_first < p.cols; gemm.col_first += panel) {
        gemm.col_end = gemm.col_first + panel < p.cols ? gemm.col_first + panel : p.cols;
        kernels->gemm(&gemm);
    }
    /* products of variance 1: the rounding of a sum grows with their number */
    const double bound = 2e-7 * (double)(p.depth * p.taps) + 1e-6;
    for (size_t r = 0; r < p.rows; r++)
        for (size_t c = 0; c < p.c_stride; c++) {
            const float found = p.c[r * p.c_stride + c];
            if (c >= p.cols && found != CANARY)
                fail_msg("%s: %zu x %zu: wrote past row %zu", kernels->name, p.rows, p.cols, r);
            if (c < p.cols && !(fabs(found - 2 * wanted(&p, r, c)) <= 2 * bound))
                fail_msg("%s: %zu rows, %zu cols, %zu x %zu deep: (%zu, %zu) is %g, wanted %g",
                         kernels->name, p.rows, p.cols, p.taps, p.depth, r, c, found,
                         2 * wanted(&p, r, c));
        }
    product_release(&p);
}

static void gemm_is_the_sum(void **state)
{
    static const size_t depths[][2] = {{1, 1},  {2, 1},  {3, 9},   {16, 9},  {5, 4},
                                       {31, 1}, {64, 3}, {257, 2}, {700, 1}, {130, 9}};
    size_t ran = 0;

    (void)state;
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) {
        const struct learner_kernels *kernels = learner_kernels_find(sets[s]);
        if (!kernels) {
            print_message("SKIP: kernels %s do not run on this processor\n", sets[s]);
            continue;
        }
        ran++;
        for (size_t rows = 1; rows <= 2 * kernels->gemm_rows + 1; rows++)
            for (size_t cols = 1; cols <= 6 * kernels->lanes + 1; cols += cols % 5 == 0 ? 4 : 3)
                check(kernels, (struct product){.rows = rows, .cols = cols, .depth = 7, .taps = 2},
                      true);
        for (size_t d = 0; d < sizeof depths / sizeof *depths; d++)
            for (size_t cols = 5; cols < 300; cols += cols + 6) {
                const struct product p = {
                    .rows = 13, .cols = cols, .depth = depths[d][0], .taps = depths[d][1]};
                check(kernels, p, true);
                if (p.taps == 1)
                    check(kernels, p, false);
            }
    }
    assert_true(ran >= 1);
}

/* A value is the same bits wherever its row stands. */
static void gemm_rows_do_not_depend_on_each_other(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) {
        const struct learner_kernels *kernels = learner_kernels_find(sets[s]);
        struct product p = {.rows = 17, .cols = 5, .depth = 70, .taps = 1};
        float single[600];
        for (; kernels && p.cols <= 170; p.cols += 33) {
            product_init(&p, kernels, false);
            struct learner_gemm gemm = {.rows = p.rows,
                                        .cols = p.cols,
                                        .depth = p.depth,
                                        .taps = 1,
                                        .a = p.a,
                                        .a_stride = p.depth,
                                        .b = p.packed,
                                        .c = p.c,
                                        .c_stride = p.c_stride};
            kernels->gemm(&gemm);
            gemm.rows = 1;
            gemm.c = single;
            for (size_t r = 0; r < p.rows; r++) {
                gemm.a = p.a + r * p.depth;
                kernels->gemm(&gemm);
                assert_memory_equal(single, p.c + r * p.c_stride, p.cols * sizeof(float));
            }
            product_release(&p);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_is_the_sum),
        cmocka_unit_test(gemm_rows_do_not_depend_on_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
