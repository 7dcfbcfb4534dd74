/* What the CUDA backend does beside operations: memory to and fro, the optimiser's and the loss's
 * arithmetic, images, and lists of operations that are recorded once and then played. */
#include <string.h>

#include "cuda.h"

_Static_assert(sizeof(struct gpu_view) == sizeof(struct learner_view), "copied as it is");

static struct cuda *of(struct learner_device *device)
{
    return (struct cuda *)device;
}

static void *stage(struct learner_device *device, size_t bytes)
{
    return gpu_host_alloc(of(device)->gpu, bytes);
}

static void unstage(struct learner_device *device, void *block)
{
    gpu_host_free(of(device)->gpu, block);
}

static void upload(struct learner_device *device, void *to, const void *host, size_t bytes)
{
    gpu_upload(of(device)->gpu, to, host, bytes);
}

static void download(struct learner_device *device, void *host, const void *from, size_t bytes)
{
    gpu_download(of(device)->gpu, host, from, bytes);
}

static void copy(struct learner_device *device, void *to, const void *from, size_t bytes)
{
    gpu_copy(of(device)->gpu, to, from, bytes);
}

/* Room for small things on their way, on both sides; it grows to the largest there was.
 * false: no memory, which the next sync tells. */
static bool packet(struct cuda *cuda, size_t bytes)
{
    if (bytes <= cuda->packet_bytes)
        return true;
    if (cuda->packet)
        gpu_free(cuda->gpu, cuda->packet);
    if (cuda->host_packet)
        gpu_host_free(cuda->gpu, cuda->host_packet);
    cuda->packet = gpu_alloc(cuda->gpu, bytes);
    cuda->host_packet = gpu_host_alloc(cuda->gpu, bytes);
    cuda->packet_bytes = cuda->packet && cuda->host_packet ? bytes : 0;
    cuda->failed |= !cuda->packet_bytes;
    return cuda->packet_bytes != 0;
}

static void convert(struct cuda *cuda, void *to, const void *from, size_t count, bool narrow_to)
{
    const struct gpu_convert args = {from, to, count, narrow_to};

    cuda_each(cuda, GPU_KERNEL_convert, count, &args);
}

static void store(struct learner_device *device, float *to, const float *host, size_t count)
{
    struct cuda *cuda = of(device);

    if (!cuda->narrow) {
        gpu_upload(cuda->gpu, to, host, count * sizeof *to);
    } else if (packet(cuda, count * sizeof *to)) {
        gpu_upload(cuda->gpu, cuda->packet, host, count * sizeof *to);
        convert(cuda, to, cuda->packet, count, true);
    }
}

static void fetch(struct learner_device *device, float *host, const float *from, size_t count)
{
    struct cuda *cuda = of(device);

    if (!cuda->narrow) {
        gpu_download(cuda->gpu, host, from, count * sizeof *host);
    } else if (packet(cuda, count * sizeof *host)) {
        convert(cuda, cuda->packet, from, count, false);
        gpu_download(cuda->gpu, host, cuda->packet, count * sizeof *host);
    }
}

static bool finite_of(struct cuda *cuda, const float *data, size_t count, unsigned narrow)
{
    const struct gpu_finite args = {data, count, cuda->bad, narrow};
    unsigned bad = 0;

    gpu_zero(cuda->gpu, cuda->bad, sizeof bad);
    cuda_each(cuda, GPU_KERNEL_finite, count, &args);
    gpu_download(cuda->gpu, &bad, cuda->bad, sizeof bad);
    return !bad;
}

static bool finite(struct learner_device *device, const float *data, size_t count)
{
    return finite_of(of(device), data, count, 0);
}

static bool finite_result(struct learner_device *device, const struct learner_op *op, size_t n)
{
    struct cuda *cuda = of(device);
    const bool exact = op->kind == LEARNER_OP_POOL || op->kind == LEARNER_OP_LINEAR;

    if (!op->y)
        return finite_of(cuda, op->gain, op->out.c, 0);
    return finite_of(cuda, op->y, n * learner_shape_count(&op->out), exact ? 0 : cuda->narrow);
}

static void add(struct learner_device *device, float *sum, const float *more, size_t count)
{
    const struct gpu_add args = {sum, more, count, 0};

    cuda_each(of(device), GPU_KERNEL_add, count, &args);
}

static void blend(struct learner_device *device, float *average, const float *values, float keep,
                  float take, size_t count)
{
    const struct gpu_blend args = {average, values, count, keep, take};

    cuda_each(of(device), GPU_KERNEL_blend, count, &args);
}

static void swap(struct learner_device *device, float *a, float *b, size_t count)
{
    const struct gpu_swap args = {a, b, count};

    cuda_each(of(device), GPU_KERNEL_swap, count, &args);
}

static void step(struct learner_device *device, const struct learner_slot *slots, size_t count,
                 const struct learner_sgd_rates *rates)
{
    for (size_t first = 0; first < count; first += GPU_STEP_SLOTS) {
        struct gpu_step args = {
            .lr = rates->lr, .momentum = rates->momentum, .nesterov = rates->nesterov};
        unsigned blocks = 0;
        for (; args.count < GPU_STEP_SLOTS && first + args.count < count; args.count++) {
            const struct learner_slot *slot = &slots[first + args.count];
            args.slots[args.count].values = slot->values;
            args.slots[args.count].velocity = slot->velocity;
            args.slots[args.count].grad = slot->grad;
            args.slots[args.count].live = slot->live;
            args.slots[args.count].count = slot->count;
            args.slots[args.count].decay = slot->decay;
            args.slots[args.count].first_block = blocks;
            blocks += (unsigned)((slot->count + GPU_STEP_PIECE - 1) / GPU_STEP_PIECE);
        }
        cuda_launch(of(device), GPU_KERNEL_step, blocks, &args);
    }
}

/* Puts bytes into the host's packet; returns where they will lie on the GPU. NULL: none. */
static const void *pack(struct cuda *cuda, size_t *at, const void *from, size_t bytes)
{
    const void *place = cuda->packet + *at;

    if (!from)
        return NULL;
    memcpy(cuda->host_packet + *at, from, bytes);
    *at += (bytes + 15) / 16 * 16;
    return place;
}

/* The first part of the packet: results. Two numbers a row, then one a row and block. */
static size_t result_bytes(size_t n, size_t blocks)
{
    return (2 + blocks) * n * sizeof(double);
}

/* Adds distillation to what kernel `loss` left. */
static void distil(struct cuda *cuda, const struct learner_loss *loss, const struct gpu_loss *ce,
                   const void *teacher, const void *parts, size_t blocks)
{
    const struct gpu_distil args = {.logits = ce->logits,
                                    .teacher = teacher,
                                    .parts = parts,
                                    .grad = ce->grad,
                                    .out = ce->out + 2 * (size_t)ce->n,
                                    .n = ce->n,
                                    .classes = ce->classes,
                                    .old = (unsigned)loss->old,
                                    .count = (unsigned)blocks,
                                    .temperature = loss->temperature,
                                    .scale = loss->kd_scale};

    cuda_launch(cuda, GPU_KERNEL_distil, ce->n * blocks, &args);
}

/* Puts the blocks into the packet, all outputs as one where there are none. */
static const void *pack_blocks(struct cuda *cuda, size_t *at, const struct learner_loss *loss,
                               size_t blocks)
{
    const void *place = cuda->packet + *at;

    for (size_t b = 0; b < blocks; b++) {
        const uint32_t part[2] = {(uint32_t)(loss->blocks ? loss->blocks[b].first : 0),
                                  (uint32_t)(loss->blocks ? loss->blocks[b].count : loss->old)};
        memcpy(cuda->host_packet + *at + b * sizeof part, part, sizeof part);
    }
    *at += (2 * blocks * sizeof(uint32_t) + 15) / 16 * 16;
    return place;
}

static void loss(struct learner_device *device, const struct learner_loss *loss,
                 const float *logits, size_t n, size_t classes, float *grad,
                 struct learner_loss_sum *out)
{
    struct cuda *cuda = of(device);
    const size_t blocks = !loss->teacher ? 0 : loss->blocks ? loss->block_count : 1;
    const size_t results = result_bytes(n, blocks);
    const size_t room =
        results + 64 + (2 * n + classes + n * loss->old + 2 * blocks) * sizeof(float) + 5 * 16;
    size_t at = (results + 15) / 16 * 16;

    *out = (struct learner_loss_sum){0};
    if (!packet(cuda, room))
        return;
    struct gpu_loss args = {.logits = logits,
                            .grad = grad,
                            .out = (double *)(void *)cuda->packet,
                            .n = (unsigned)n,
                            .classes = (unsigned)classes,
                            .share = loss->share,
                            .smoothing = loss->smoothing,
                            .scale = loss->scale,
                            .soft = loss->soft};
    const size_t first = at;
    args.labels = pack(cuda, &at, loss->labels, n * sizeof *loss->labels);
    args.others = pack(cuda, &at, loss->others, n * sizeof *loss->others);
    args.offset = loss->soft ? NULL : pack(cuda, &at, loss->offset, classes * sizeof(float));
    const void *teacher = pack(cuda, &at, loss->teacher, n * loss->old * sizeof(float));
    const void *parts = pack_blocks(cuda, &at, loss, blocks);
    gpu_upload(cuda->gpu, cuda->packet + first, cuda->host_packet + first, at - first);
    cuda_launch(cuda, GPU_KERNEL_loss, n, &args);
    if (blocks)
        distil(cuda, loss, &args, teacher, parts, blocks);
    gpu_download(cuda->gpu, cuda->host_packet, cuda->packet, results);
    const double *rows = (const double *)(const void *)cuda->host_packet;
    for (size_t i = 0; i < n; i++) {
        out->loss += rows[2 * i];
        out->correct += rows[2 * i + 1] > 0;
    }
    for (size_t i = 0; i < n * blocks; i++)
        out->kd += rows[2 * n + i];
    out->loss /= (double)n;
    out->kd /= (double)n;
}

static void load(struct learner_device *device, float *input, const struct learner_shape *image,
                 const struct learner_load *load)
{
    struct cuda *cuda = of(device);
    const size_t views = load->n * sizeof *load->views;
    const size_t table = 256 * image->c * sizeof *load->table;
    struct gpu_load args = {.pixels = load->pixels,
                            .input = input,
                            .n = (unsigned)load->n,
                            .c = (unsigned)image->c,
                            .h = (unsigned)image->h,
                            .w = (unsigned)image->w,
                            .side = (unsigned)load->side,
                            .narrow = cuda->narrow,
                            .share = load->share};
    size_t at = 0;

    if (!packet(cuda, views + table + 2 * 16))
        return;
    memcpy(args.fill, load->fill, sizeof args.fill);
    args.views = pack(cuda, &at, load->views, views);
    args.table = pack(cuda, &at, load->table, table);
    gpu_upload(cuda->gpu, cuda->packet, cuda->host_packet, at);
    cuda_each(cuda, GPU_KERNEL_load, load->n * learner_shape_count(image), &args);
}

/* ---- recordings ---- */

static struct cuda_recording *find_recording(struct cuda *cuda, const struct learner_op *ops,
                                             size_t count, const struct learner_pass *pass)
{
    for (size_t i = 0; i < cuda->recording_count; i++) {
        struct cuda_recording *r = &cuda->recordings[i];
        if (r->ops == ops && r->count == count && r->n == pass->n && r->mode == pass->mode &&
            r->backward == pass->backward)
            return r;
    }
    return NULL;
}

static void run_each(struct learner_device *device, const struct learner_op *ops, size_t count,
                     const struct learner_pass *pass)
{
    for (size_t i = 0; i < count; i++)
        cuda_run(device, &ops[i], pass);
}

/* The first time as it comes, for the library loads code then, the second time to record. */
static void run_all(struct learner_device *device, const struct learner_op *ops, size_t count,
                    const struct learner_pass *pass)
{
    struct cuda *cuda = of(device);
    struct cuda_recording *found = find_recording(cuda, ops, count, pass);

    /* weights are packed outside of a recording: it would pack them every time */
    for (size_t i = 0; i < count; i++)
        if (ops[i].kind == LEARNER_OP_CONV || ops[i].kind == LEARNER_OP_CONV_NORM)
            cuda_conv_refresh(&(struct cuda_job){cuda, &ops[i], pass});
    if (!found) {
        run_each(device, ops, count, pass);
        if (cuda->recording_count < CUDA_RECORDINGS)
            cuda->recordings[cuda->recording_count++] =
                (struct cuda_recording){.ops = ops,
                                        .count = count,
                                        .n = pass->n,
                                        .mode = pass->mode,
                                        .backward = pass->backward};
        return;
    }
    if (!found->recording && !found->refused) {
        found->refused = true;
        if (gpu_record(cuda->gpu)) {
            run_each(device, ops, count, pass);
            found->recording = gpu_record_end(cuda->gpu);
            found->refused = !found->recording;
        }
    }
    if (found->recording)
        gpu_play(cuda->gpu, found->recording);
    else
        run_each(device, ops, count, pass);
}

static enum delta_status sync(struct learner_device *device, struct delta_error *err)
{
    char why[256] = "";

    if (!gpu_sync(of(device)->gpu, why, sizeof why))
        return delta_fail(err, DELTA_IO, "the GPU failed: %s", why);
    if (of(device)->failed)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory on the GPU; use a smaller batch");
    return DELTA_OK;
}

const struct learner_remote_ops cuda_remote = {.stage = stage,
                                               .unstage = unstage,
                                               .upload = upload,
                                               .download = download,
                                               .copy = copy,
                                               .store = store,
                                               .fetch = fetch,
                                               .finite = finite,
                                               .finite_result = finite_result,
                                               .add = add,
                                               .blend = blend,
                                               .swap = swap,
                                               .step = step,
                                               .loss = loss,
                                               .load = load,
                                               .run_all = run_all,
                                               .sync = sync};
