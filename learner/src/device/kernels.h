/* The inner loops of the `blas` backend, written once over vectors of a fixed number of lanes and
 * compiled once per instruction set. The best that this processor runs is chosen at run time.
 * Nothing here knows images, threads or memory plans.
 *
 * Rows are pixels: a block is [pixels][channels], its rows `stride` floats apart. Any number of
 * channels; nothing outside a block is touched. */
#ifndef LEARNER_KERNELS_H
#define LEARNER_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

#define LEARNER_KERNEL_LANES_MAX 16
/* So many pixels may be added up in float before they are flushed to double. */
#define LEARNER_KERNEL_SUM_PIXELS 128

/* A batch norm with its activation: max(low, min(high, v * gain + offset)). */
struct learner_kernel_norm {
    size_t channels, stride;
    const float *gain, *offset; /* [channels] */
    float low, high;            /* -inf and inf: no activation */
};

/* Of the backward pass; all tensors are [pixels][channels] and absent ones NULL. */
struct learner_kernel_norm_back {
    struct learner_kernel_norm norm;
    bool act;                      /* false: low and high do not count */
    const float *x, *dy;           /* x: the norm's input */
    const float *y;                /* its output; NULL: computed again from x */
    const float *residual;         /* for that */
    float *dx, *dresidual;         /* dx may be dy */
    bool dx_add, dresidual_add;    /* instead of overwriting */
    const float *mean;             /* [channels], of x */
    const float *slope, *constant; /* [channels], see norm_apply */
    float *sum, *sum_x;            /* [channels], see norm_reduce */
};

/* What is done with the values of a product before they leave the registers:
 * v = v * scale + shift, v += residual, low <= v <= high (NaN stays). Arrays have one float a
 * column and are padded with zeros to whole vectors. */
struct learner_gemm_finish {
    const float *scale, *shift; /* both or none */
    const float *residual;      /* laid out like C; or NULL */
    float low, high;            /* applied with scale only */
    /* Without scale: adds v - mean of each row to sums[column], its square to
     * sums[sums_stride + column]; floats within one call, double across them. Or NULL */
    const float *mean;
    double *sums;
    size_t sums_stride;
};

/* One row of outputs of a depthwise convolution:
 *   out[i] = sum over rows r, columns q of in[r][i * in_step + q * col_step] * weight(r, q)
 * channel by channel, where weight(r, q) is weight + r weight_row + q weight_col. Inputs and
 * weights can be read up to a multiple of LEARNER_KERNEL_LANES_MAX channels. */
struct learner_depthwise_row {
    size_t rows, cols; /* taps */
    size_t pixels, channels;
    const float *const *in; /* [rows] */
    size_t in_step, col_step;
    const float *weight;
    ptrdiff_t weight_row, weight_col;
    float *out;
    size_t out_step;
    bool add; /* to what is there */
    /* What becomes of the sums, gain and offset [channels], its channels and stride do not count;
     * excludes add. NULL: nothing */
    const struct learner_kernel_norm *finish;
};

/* C[rows][cols] (+)= sum over taps t and k < depth of A_t[row][k] * B[t * depth + k][col].
 * Nothing outside of the matrices is read or written; every value's sum has an order of its own
 * that depends on depth, taps and cols only, not on where its row stands or on how many there are.
 * Choose rows so that their part of A and C stays in the second-level cache. */
struct learner_gemm {
    size_t rows, cols, depth, taps; /* cols, taps, depth >= 1 */
    /* Row r of A_t is a_rows[t * a_rows_stride + r]; a_rows NULL: a + r * a_stride, and one tap */
    const float *const *a_rows;
    size_t a_rows_stride;
    const float *a;
    size_t a_stride;
    const float *b; /* packed */
    float *c;
    size_t c_stride;
    bool add; /* to what is there */
    /* Only these columns; whole panels, see gemm_panel_cols. Both 0: all */
    size_t col_first, col_end;
    const struct learner_gemm_finish *finish; /* or NULL */
};

/* C[row][col] += sum over k < depth of A_k[row] * B[k][col]: the sum of outer products.
 * A_k is a[k] + a_offset; row k of the panel that begins at column col is
 * b + col / panel * b_panel + k * b_stride, panel = gemm_panel_cols(cols). All columns up to the
 * next whole vector are read in B, read and written in C. */
struct learner_gemm_outer {
    size_t rows, cols, depth;
    const float *const *a;
    size_t a_offset;
    const float *b;
    size_t b_panel, b_stride;
    float *c;
    size_t c_stride;
    size_t row_first, row_end; /* only these rows */
    size_t col_first, col_end; /* only these columns: whole panels */
};

/* Winograd's F(4x4, 3x3): a tile of 6x6 inputs or 4x4 outputs becomes 36 points, [point][...] with
 * `point` floats from one to the next. All counts of channels are multiples of
 * LEARNER_KERNEL_LANES_MAX. */
#define LEARNER_WINOGRAD_POINTS 36

struct learner_winograd_tile {
    size_t h, w, stride; /* of the image; floats from one pixel to the next */
    ptrdiff_t top, left; /* of the tile; what lies outside is zero, or not written */
    size_t channels;
};

/* y (+)= the output; in order of precedence: act(output * gain + offset + residual) if norm,
 * sums of output - mean and of its square are added to if sum. */
struct learner_winograd_output {
    float *y;
    bool add;
    const struct learner_kernel_norm *norm; /* its stride does not count */
    const float *residual;                  /* like y, or NULL */
    const float *mean;                      /* [channels] */
    float *sum, *square;
};

/* rows x cols filters of 3x3; rotated: by half a turn */
struct learner_winograd_weights {
    const float *weight;
    size_t row_stride, col_stride, rows, cols;
    bool rotated;
};

/* For each point: c[rows][cols] (+)= a[rows][depth] b[depth][cols]; a_transposed:
 * a[depth][rows]. Each value's sum runs over depth in order. cols is a multiple of
 * LEARNER_KERNEL_LANES_MAX. */
struct learner_winograd_product {
    const float *a, *b;
    float *c;
    size_t rows, cols, depth;
    size_t a_stride, b_stride, c_stride; /* of rows as stored */
    size_t a_point, b_point, c_point;
    bool a_transposed, add;
};

struct learner_kernels {
    const char *name; /* "avx512" "avx2" "base" */
    size_t lanes;     /* floats of a vector */

    void (*gemm)(const struct learner_gemm *gemm);
    void (*gemm_outer)(const struct learner_gemm_outer *gemm);
    size_t gemm_rows; /* of a tile: work is best divided in multiples of it */
    size_t gemm_cols; /* of a panel at most */
    /* of each panel but the last of a matrix so wide */
    size_t (*gemm_panel_cols)(size_t cols);
    size_t (*gemm_packed_floats)(size_t depth, size_t cols); /* depth: of all taps together */
    /* Packs rows k_first.. of B, which has k_total: b[k * k_stride + col * col_stride], k <
     * depth. All of B: k_first 0, depth = k_total. */
    void (*gemm_pack)(float *packed, const float *b, size_t k_stride, size_t col_stride,
                      size_t depth, size_t cols, size_t k_first, size_t k_total);

    /* y = act(x * gain + offset + residual); y may be x, residual may be NULL; one stride for all
     */
    void (*normalise)(float *y, const float *x, const float *residual,
                      const struct learner_kernel_norm *norm, size_t pixels);
    /* sum[c] += y - mean[c], square[c] += (y - mean[c])^2 over the block; at most
     * LEARNER_KERNEL_SUM_PIXELS pixels, then flush both */
    void (*sums)(const float *y, size_t pixels, size_t channels, size_t stride, const float *mean,
                 float *sum, float *square);
    /* to[i] += from[i]; from[i] = 0 */
    void (*flush)(double *to, float *from, size_t count);

    /* With g = dy where the activation lets it pass, else 0, for pixels from `first` on:
     *   reduce       sum += g, sum_x += g (x - mean), dresidual = g
     *   apply        dx = gain g - slope (x - mean) - constant
     *   apply_fixed  dx = gain g; with sum not NULL also what reduce does, else only dresidual
     * apply must see dresidual NULL, or it is written twice. */
    void (*norm_reduce)(const struct learner_kernel_norm_back *back, size_t first, size_t pixels);
    void (*norm_apply)(const struct learner_kernel_norm_back *back, size_t first, size_t pixels);
    void (*norm_apply_fixed)(const struct learner_kernel_norm_back *back, size_t first,
                             size_t pixels);
    /* v[36][channels]; norm: of the input, not of the padding; or NULL; its stride does not count
     */
    void (*winograd_input)(const struct learner_winograd_tile *tile, const float *image,
                           const struct learner_kernel_norm *norm, float *v, size_t point);
    /* v[36][channels] of a tile of 4x4 output gradients */
    void (*winograd_gradient)(const struct learner_winograd_tile *tile, const float *image,
                              float *v, size_t point);
    void (*winograd_output)(const struct learner_winograd_tile *tile,
                            const struct learner_winograd_output *out, const float *m,
                            size_t point);
    void (*winograd_weights)(const struct learner_winograd_weights *w, float *u, size_t point);
    /* dweight[cols][9] (+)= of du[36][cols] */
    void (*winograd_dweight)(const float *du, size_t point, size_t cols, float *dweight, bool add);
    void (*winograd_product)(const struct learner_winograd_product *product);

    void (*depthwise)(const struct learner_depthwise_row *row);
    /* dweight[r * cols + q][c] += in[r][..] * dy[i], rows of dweight col_step floats apart; the
     * row's out_step is dy's. Reads and writes whole vectors. */
    void (*depthwise_dweight)(const struct learner_depthwise_row *row, const float *dy,
                              float *dweight);
    /* Fills such inputs: to[p][c] = from[p][c], normalised unless norm is NULL; 0 from channel
     * `channels` up to a whole vector */
    void (*depthwise_load)(float *to, size_t step, const float *from, size_t stride, size_t pixels,
                           size_t channels, const struct learner_kernel_norm *norm);

    /* y[c] = mean of x[pixels][c]; dx[pixels][c] (+)= dy[c] / pixels */
    void (*pool_mean)(float *y, const float *x, size_t pixels, size_t channels);
    void (*pool_spread)(float *dx, const float *dy, size_t pixels, size_t channels, bool add);
    /* y[c] = the largest of taps[count][c], NaN before all; dx[t][c] += dy[c] where tap t is the
     * first such; count >= 1 */
    void (*pool_largest)(float *y, const float *const *taps, size_t count, size_t channels);
    void (*pool_largest_back)(float *const *dx, const float *dy, const float *const *taps,
                              size_t count, size_t channels);
};

/* The named one; without a name that of the environment's FROSTLINE_KERNELS; without that, too, the
 * fastest this processor runs. NULL when it cannot run here. */
const struct learner_kernels *learner_kernels_find(const char *name);

extern const struct learner_kernels learner_kernels_base;
#ifdef __x86_64__
extern const struct learner_kernels learner_kernels_avx2;
extern const struct learner_kernels learner_kernels_avx512;
#endif

#endif
