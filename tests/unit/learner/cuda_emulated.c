#include "cuda_emulated.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda_gpu.h"
#include "wall.h"

struct cuda_emulated cuda_emulated;

#define PROCESSORS 3
#define SCRATCH 1000

/* ---- kernels ---- */

static unsigned thread_after(unsigned t)
{
    return cuda_emulated.backwards ? t - 1 : t + 1; /* 0 - 1 is beyond the last, too */
}

#define GPU_ALIGN(bytes) __attribute__((aligned(bytes)))
#define GPU_INLINE static inline
#define GPU_SHARED static
#define GPU_UNROLL
#define GPU_UNROLL_4
#define GPU_UNROLL_8
#define GPU_TIMES(a, b) ((a) * (b))
#define GPU_KERNEL(name, args)                                                                     \
    static void kernel_##name(const struct args a, unsigned block, unsigned blocks)
#define GPU_EACH_THREAD(t)                                                                         \
    for (unsigned t = cuda_emulated.backwards ? GPU_THREADS - 1 : 0; t < GPU_THREADS;              \
         t = thread_after(t))
#include "device/cuda_kernels_conv.h"
#include "device/cuda_kernels_norm.h"
#include "device/cuda_kernels_train.h"

static size_t args_bytes(enum gpu_kernel kernel)
{
    static const size_t bytes[] = {
#define BYTES(name, args) sizeof(struct args),
        GPU_KERNELS(BYTES)
#undef BYTES
    };

    return bytes[kernel];
}

static void run_block(enum gpu_kernel kernel, const void *args, unsigned block, unsigned blocks)
{
    switch (kernel) {
#define RUN(name, type)                                                                            \
    case GPU_KERNEL_##name:                                                                        \
        kernel_##name(*(const struct type *)args, block, blocks);                                  \
        break;
        GPU_KERNELS(RUN)
#undef RUN
    case GPU_KERNEL_COUNT:
        abort();
    }
}

/* ---- what is queued, and can be recorded ---- */

struct gpu_conv {
    struct gpu_conv_shape shape;
};

struct work {
    enum { LAUNCH, PRODUCT, CONV, COPY, ZERO } kind;
    enum gpu_kernel kernel;
    unsigned blocks;
    _Alignas(16) unsigned char args[sizeof(struct gpu_step)];
    struct gpu_product product;
    struct gpu_conv conv;
    void *to, *more, *scratch;
    const void *from;
    size_t bytes;
    bool add;
};

struct gpu_recording {
    struct work *work;
    size_t count;
};

/* Something on its way from host memory, which must stay as it is until the GPU is waited for. */
struct sent {
    struct sent *next;
    const void *host;
    size_t bytes;
    unsigned char copy[];
};

struct gpu {
    struct wall wall;
    struct sent *sent;
    struct gpu_recording *recording; /* that is being made */
    size_t host_blocks;
};

static void die(const char *what)
{
    fprintf(stderr, "emulated GPU: %s\n", what);
    abort();
}

static void need(const struct gpu *gpu, const void *from, size_t bytes, const char *what)
{
    if (bytes &&
        (!wall_holds(&gpu->wall, from) || !wall_holds(&gpu->wall, (const char *)from + bytes - 1)))
        die(what);
}

static float number(const void *p, size_t i, bool narrow)
{
    return gpu_get(p, i, narrow);
}

static void multiply(const struct gpu *gpu, const struct gpu_product *p)
{
    const size_t in = p->narrow ? 2 : 4, out = p->narrow_c ? 2 : 4;

    need(gpu, p->a, (((p->transpose_a ? p->k : p->m) - 1) * p->lda + 1) * in, "a of a product");
    need(gpu, p->b, (((p->transpose_b ? p->n : p->k) - 1) * p->ldb + 1) * in, "b of a product");
    need(gpu, p->c, ((p->m - 1) * p->ldc + p->n) * out, "c of a product");
    if (p->lda < (p->transpose_a ? p->m : p->k) || p->ldb < (p->transpose_b ? p->k : p->n) ||
        p->ldc < p->n)
        die("rows of a product overlap");
    for (size_t i = 0; i < p->m; i++)
        for (size_t j = 0; j < p->n; j++) {
            double sum = p->beta != 0 ? number(p->c, i * p->ldc + j, p->narrow_c) : 0;
            for (size_t k = 0; k < p->k; k++)
                sum += (double)number(p->a, p->transpose_a ? k * p->lda + i : i * p->lda + k,
                                      p->narrow) *
                       number(p->b, p->transpose_b ? j * p->ldb + k : k * p->ldb + j, p->narrow);
            gpu_put(p->c, i * p->ldc + j, p->narrow_c, (float)sum);
        }
}

/* Every product of a convolution; `sums` has the result's numbers. */
static void convolve(const struct gpu_conv_shape *s, const void *x, const void *w, const void *y,
                     double *sums)
{
    const size_t outs = (size_t)s->n * s->out_h * s->out_w;

    for (size_t o = 0; o < outs; o++)
        for (size_t t = 0; t < (size_t)s->kernel * s->kernel; t++) {
            const long oy = (long)(o / s->out_w % s->out_h), ox = (long)(o % s->out_w);
            const long iy = oy * s->stride + (long)(t / s->kernel) - (long)s->pad;
            const long ix = ox * s->stride + (long)(t % s->kernel) - (long)s->pad;
            if (iy < 0 || ix < 0 || iy >= (long)s->h || ix >= (long)s->w)
                continue;
            const size_t image = o / s->out_w / s->out_h;
            const size_t pixel = (image * s->h + (size_t)iy) * s->w + (size_t)ix;
            for (size_t co = 0; co < s->co; co++)
                for (size_t ci = 0; ci < s->ci; ci++) {
                    const size_t x_at = pixel * s->ci + ci, y_at = o * s->co + co;
                    const size_t w_at = (co * s->kernel * s->kernel + t) * s->ci + ci;
                    if (s->part == GPU_CONV_FORWARD)
                        sums[y_at] +=
                            (double)number(x, x_at, s->narrow) * number(w, w_at, s->narrow);
                    else if (s->part == GPU_CONV_DATA)
                        sums[x_at] +=
                            (double)number(y, y_at, s->narrow) * number(w, w_at, s->narrow);
                    else
                        sums[w_at] +=
                            (double)number(y, y_at, s->narrow) * number(x, x_at, s->narrow);
                }
        }
}

static void conv_run(const struct gpu *gpu, const struct work *work)
{
    const struct gpu_conv_shape *s = &work->conv.shape;
    const size_t xs = (size_t)s->n * s->h * s->w * s->ci;
    const size_t ys = (size_t)s->n * s->out_h * s->out_w * s->co;
    const size_t ws = (size_t)s->co * s->kernel * s->kernel * s->ci, each = s->narrow ? 2 : 4;
    const size_t count = s->part == GPU_CONV_FORWARD ? ys : s->part == GPU_CONV_DATA ? xs : ws;
    void *result = s->part == GPU_CONV_FORWARD ? work->more
                   : s->part == GPU_CONV_DATA  ? work->to
                                               : (void *)work->from;
    double *sums = calloc(count, sizeof *sums);

    if (!sums)
        die("no memory");
    need(gpu, work->to, xs * each, "x of a convolution");
    need(gpu, work->from, ws * each, "w of a convolution");
    need(gpu, work->more, ys * each, "y of a convolution");
    need(gpu, work->scratch, SCRATCH, "scratch of a convolution");
    convolve(s, work->to, work->from, work->more, sums);
    memset(work->scratch, 0xff, SCRATCH);
    for (size_t i = 0; i < count; i++)
        gpu_put(result, i, s->narrow,
                (float)(sums[i] + (work->add ? gpu_get(result, i, s->narrow) : 0)));
    free(sums);
}

static void perform(struct gpu *gpu, const struct work *work)
{
    wall_open(&gpu->wall);
    switch (work->kind) {
    case LAUNCH:
        for (unsigned i = 0; i < work->blocks; i++)
            run_block(work->kernel, work->args, cuda_emulated.backwards ? work->blocks - 1 - i : i,
                      work->blocks);
        break;
    case PRODUCT:
        multiply(gpu, &work->product);
        break;
    case CONV:
        conv_run(gpu, work);
        break;
    case COPY:
        need(gpu, work->to, work->bytes, "target of a copy");
        need(gpu, work->from, work->bytes, "source of a copy");
        memcpy(work->to, work->from, work->bytes);
        break;
    case ZERO:
        need(gpu, work->to, work->bytes, "target of a fill");
        memset(work->to, 0, work->bytes);
        break;
    }
    wall_close(&gpu->wall);
}

static void queue(struct gpu *gpu, const struct work *work)
{
    struct gpu_recording *recording = gpu->recording;

    if (!recording) {
        perform(gpu, work);
        return;
    }
    recording->work = realloc(recording->work, (recording->count + 1) * sizeof *work);
    if (!recording->work)
        die("no memory");
    recording->work[recording->count++] = *work;
}

/* ---- the contract ---- */

static void arrive(struct gpu *gpu)
{
    cuda_emulated.waits++;
    while (gpu->sent) {
        struct sent *sent = gpu->sent;
        gpu->sent = sent->next;
        if (memcmp(sent->copy, sent->host, sent->bytes) != 0)
            die("what was on its way was overwritten");
        free(sent);
    }
}

struct gpu *gpu_open(char *why, size_t size)
{
    if (cuda_emulated.absent) {
        snprintf(why, size, "%s", cuda_emulated.absent);
        return NULL;
    }
    return calloc(1, sizeof(struct gpu));
}

void gpu_close(struct gpu *gpu)
{
    arrive(gpu);
    if (gpu->host_blocks || gpu->recording)
        die("something is left when it is closed");
    wall_release(&gpu->wall);
    free(gpu);
}

void gpu_set_math(struct gpu *gpu, enum gpu_math math)
{
    (void)gpu;
    (void)math;
}

bool gpu_has_bf16(const struct gpu *gpu)
{
    (void)gpu;
    return !cuda_emulated.exact_only;
}

unsigned gpu_processors(const struct gpu *gpu)
{
    (void)gpu;
    return PROCESSORS;
}

void *gpu_alloc(struct gpu *gpu, size_t bytes)
{
    if (gpu->recording)
        die("memory is taken while something is recorded");
    cuda_emulated.allocs++;
    return wall_alloc(&gpu->wall, bytes);
}

void gpu_free(struct gpu *gpu, void *block)
{
    wall_free(&gpu->wall, block);
}

void *gpu_host_alloc(struct gpu *gpu, size_t bytes)
{
    gpu->host_blocks++;
    return calloc(bytes, 1);
}

void gpu_host_free(struct gpu *gpu, void *block)
{
    if (gpu->sent)
        die("host memory is given back while something is on its way");
    gpu->host_blocks--;
    free(block);
}

static void cross(struct gpu *gpu, void *to, const void *from, size_t bytes)
{
    if (gpu->recording)
        die("the host is waited for while something is recorded");
    arrive(gpu);
    wall_open(&gpu->wall);
    memcpy(to, from, bytes);
    wall_close(&gpu->wall);
}

void gpu_upload(struct gpu *gpu, void *to, const void *host, size_t bytes)
{
    need(gpu, to, bytes, "target of an upload");
    cross(gpu, to, host, bytes);
}

void gpu_download(struct gpu *gpu, void *host, const void *from, size_t bytes)
{
    need(gpu, from, bytes, "source of a download");
    cross(gpu, host, from, bytes);
}

void gpu_copy(struct gpu *gpu, void *to, const void *from, size_t bytes)
{
    queue(gpu, &(struct work){.kind = COPY, .to = to, .from = from, .bytes = bytes});
}

void gpu_zero(struct gpu *gpu, void *to, size_t bytes)
{
    queue(gpu, &(struct work){.kind = ZERO, .to = to, .bytes = bytes});
}

void gpu_send(struct gpu *gpu, void *to, const void *host, size_t bytes)
{
    struct sent *sent = malloc(sizeof *sent + bytes);

    if (!sent)
        die("no memory");
    if (gpu->recording)
        die("an upload is recorded");
    need(gpu, to, bytes, "target of an upload");
    *sent = (struct sent){.next = gpu->sent, .host = host, .bytes = bytes};
    memcpy(sent->copy, host, bytes);
    gpu->sent = sent;
    wall_open(&gpu->wall);
    memcpy(to, host, bytes);
    wall_close(&gpu->wall);
}

void gpu_wait(struct gpu *gpu)
{
    if (gpu->recording)
        die("the host waits while something is recorded");
    arrive(gpu);
}

size_t gpu_free_bytes(struct gpu *gpu)
{
    (void)gpu;
    return cuda_emulated.room ? cuda_emulated.room : (size_t)1 << 30;
}

void gpu_launch(struct gpu *gpu, enum gpu_kernel kernel, unsigned blocks, const void *args)
{
    struct work work = {.kind = LAUNCH, .kernel = kernel, .blocks = blocks};

    _Static_assert(sizeof(struct gpu_step) <= 4000, "arguments of a kernel are 4 KB at most");
    if (args_bytes(kernel) > sizeof work.args)
        die("arguments are too large");
    memcpy(work.args, args, args_bytes(kernel));
    cuda_emulated.launches++;
    cuda_emulated.kernels[kernel]++;
    queue(gpu, &work);
}

void gpu_multiply(struct gpu *gpu, const struct gpu_product *product)
{
    cuda_emulated.products++;
    queue(gpu, &(struct work){.kind = PRODUCT, .product = *product});
}

struct gpu_conv *gpu_conv_new(struct gpu *gpu, const struct gpu_conv_shape *shape, size_t most)
{
    struct gpu_conv *conv;

    (void)gpu;
    if (cuda_emulated.no_library || most < SCRATCH)
        return NULL;
    conv = calloc(1, sizeof *conv);
    if (conv)
        conv->shape = *shape;
    return conv;
}

size_t gpu_conv_scratch(const struct gpu_conv *conv)
{
    (void)conv;
    return SCRATCH;
}

void gpu_conv_free(struct gpu *gpu, struct gpu_conv *conv)
{
    (void)gpu;
    free(conv);
}

void gpu_conv_run(struct gpu *gpu, const struct gpu_conv *conv, void *x, void *w, void *y,
                  void *scratch, bool add)
{
    cuda_emulated.convs++;
    queue(gpu, &(struct work){.kind = CONV,
                              .conv = *conv,
                              .to = x,
                              .from = w,
                              .more = y,
                              .scratch = scratch,
                              .add = add});
}

bool gpu_record(struct gpu *gpu)
{
    if (cuda_emulated.no_recording)
        return false;
    gpu->recording = calloc(1, sizeof *gpu->recording);
    return gpu->recording != NULL;
}

struct gpu_recording *gpu_record_end(struct gpu *gpu)
{
    struct gpu_recording *made = gpu->recording;

    gpu->recording = NULL;
    cuda_emulated.recorded++;
    return made;
}

void gpu_play(struct gpu *gpu, struct gpu_recording *recording)
{
    cuda_emulated.played++;
    for (size_t i = 0; i < recording->count; i++)
        perform(gpu, &recording->work[i]);
}

void gpu_recording_free(struct gpu *gpu, struct gpu_recording *recording)
{
    (void)gpu;
    free(recording->work);
    free(recording);
}

bool gpu_sync(struct gpu *gpu, char *why, size_t size)
{
    if (!gpu->sent) /* a real one would have nothing to wait for, or next to nothing */
        cuda_emulated.waits--;
    arrive(gpu);
    if (!cuda_emulated.broken)
        return true;
    snprintf(why, size, "%s", cuda_emulated.broken);
    cuda_emulated.broken = NULL;
    return false;
}
