/* What the CUDA backend does beside operations: memory to and fro, the optimiser's and the loss's
 * arithmetic, images, and lists of operations that are recorded once and then played. */
#include <string.h>

#include "cuda.h"

#define PACKET_MOST ((size_t)16 << 20) /* bytes that it grows to so as not to wait */

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

/* Both wait, so that the packet is free again. */
static void upload(struct learner_device *device, void *to, const void *host, size_t bytes)
{
    gpu_upload(of(device)->gpu, to, host, bytes);
    of(device)->packet_used = 0;
}

static void download(struct learner_device *device, void *host, const void *from, size_t bytes)
{
    gpu_download(of(device)->gpu, host, from, bytes);
    of(device)->packet_used = 0;
}

static void copy(struct learner_device *device, void *to, const void *from, size_t bytes)
{
    gpu_copy(of(device)->gpu, to, from, bytes);
}

/* Two blocks of a size, on the GPU and on the host, instead of those that there are.
 * false: no memory, which the next sync tells. */
static bool twin(struct cuda *cuda, char **there, char **here, size_t *size, size_t bytes)
{
    if (*there)
        gpu_free(cuda->gpu, *there);
    if (*here)
        gpu_host_free(cuda->gpu, *here);
    *there = gpu_alloc(cuda->gpu, bytes);
    *here = gpu_host_alloc(cuda->gpu, bytes);
    *size = *there && *here ? bytes : 0;
    cuda->failed |= !*size;
    return *size != 0;
}

static size_t padded(size_t bytes)
{
    return (bytes + 15) / 16 * 16;
}

#define NO_ROOM SIZE_MAX

/* Room in the packet, which is taken in turn until the GPU is waited for. It grows, so that a step
 * waits for nothing but its end.  returns where; NO_ROOM: no memory */
static size_t packet(struct cuda *cuda, size_t bytes)
{
    const size_t at = cuda->packet_used, need = at + padded(bytes);

    if (need <= cuda->packet_bytes) {
        cuda->packet_used = need;
        return at;
    }
    gpu_wait(cuda->gpu); /* what is under way uses it */
    cuda->packet_used = 0;
    if ((padded(bytes) > cuda->packet_bytes || need <= PACKET_MOST) &&
        !twin(cuda, &cuda->packet, &cuda->host_packet, &cuda->packet_bytes, need))
        return NO_ROOM;
    cuda->packet_used = padded(bytes);
    return 0;
}

/* Puts bytes into the packet at *at, and moves that on; returns where they will lie on the GPU.
 * NULL: none. */
static const void *pack(struct cuda *cuda, size_t *at, const void *from, size_t bytes)
{
    const void *place = cuda->packet + *at;

    if (!from)
        return NULL;
    memcpy(cuda->host_packet + *at, from, bytes);
    *at += padded(bytes);
    return place;
}

/* What was packed from `first` to `end` goes its way. */
static void send(struct cuda *cuda, size_t first, size_t end)
{
    gpu_send(cuda->gpu, cuda->packet + first, cuda->host_packet + first, end - first);
}

static void convert(struct cuda *cuda, void *to, const void *from, size_t count, bool narrow_to)
{
    const struct gpu_convert args = {from, to, count, narrow_to};

    cuda_each(cuda, GPU_KERNEL_convert, count, &args);
}

static void store(struct learner_device *device, float *to, const float *host, size_t count)
{
    struct cuda *cuda = of(device);
    const size_t bytes = count * sizeof *to;
    const size_t at = cuda->narrow ? packet(cuda, bytes) : 0;

    if (!cuda->narrow) {
        upload(device, to, host, bytes);
    } else if (at != NO_ROOM) {
        gpu_upload(cuda->gpu, cuda->packet + at, host, bytes);
        convert(cuda, to, cuda->packet + at, count, true);
    }
}

static void fetch(struct learner_device *device, float *host, const float *from, size_t count)
{
    struct cuda *cuda = of(device);
    const size_t bytes = count * sizeof *host;
    const size_t at = cuda->narrow ? packet(cuda, bytes) : 0;

    if (!cuda->narrow) {
        download(device, host, from, bytes);
    } else if (at != NO_ROOM) {
        convert(cuda, cuda->packet + at, from, count, false);
        download(device, host, cuda->packet + at, bytes);
    }
}

static bool finite_of(struct cuda *cuda, const float *data, size_t count, unsigned narrow)
{
    const struct gpu_finite args = {data, count, cuda->bad, narrow};
    unsigned bad = 0;

    gpu_zero(cuda->gpu, cuda->bad, sizeof bad);
    cuda_each(cuda, GPU_KERNEL_finite, count, &args);
    download(&cuda->device, &bad, cuda->bad, sizeof bad);
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

/* The results: what was not finite, logits and gradients; two numbers a row; one a row and block.
 */
struct findings {
    unsigned bad[4];
};

static double *result_numbers(char *results)
{
    return (double *)(void *)(results + sizeof(struct findings));
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
    *at += padded(2 * blocks * sizeof(uint32_t));
    return place;
}

static void look(struct cuda *cuda, const float *data, size_t count, size_t finding)
{
    const struct gpu_finite args = {data, count,
                                    ((struct findings *)(void *)cuda->results)->bad + finding, 0};

    cuda_each(cuda, GPU_KERNEL_finite, count, &args);
}

static void loss(struct learner_device *device, const struct learner_loss *loss,
                 const float *logits, size_t n, size_t classes, float *grad)
{
    struct cuda *cuda = of(device);
    const size_t blocks = !loss->teacher ? 0 : loss->blocks ? loss->block_count : 1;
    const size_t results = sizeof(struct findings) + (2 + blocks) * n * sizeof(double);
    const size_t room =
        (2 * n + 2 * classes + n * loss->old + 2 * blocks) * sizeof(float) + (size_t)6 * 16;

    cuda->result_rows = 0;
    if (results > cuda->results_bytes) {
        gpu_wait(cuda->gpu);
        cuda->packet_used = 0;
        if (!twin(cuda, &cuda->results, &cuda->host_results, &cuda->results_bytes, results))
            return;
    }
    size_t at = packet(cuda, room);
    if (at == NO_ROOM)
        return;
    const size_t first = at;
    struct gpu_loss args = {.logits = logits,
                            .grad = grad,
                            .out = result_numbers(cuda->results),
                            .n = (unsigned)n,
                            .classes = (unsigned)classes,
                            .share = loss->share,
                            .smoothing = loss->smoothing,
                            .scale = loss->scale,
                            .soft = loss->soft};
    args.labels = pack(cuda, &at, loss->labels, n * sizeof *loss->labels);
    args.others = pack(cuda, &at, loss->others, n * sizeof *loss->others);
    args.offset = loss->soft ? NULL : pack(cuda, &at, loss->offset, classes * sizeof(float));
    if (loss->seen && !loss->soft) {
        args.seen = (int)loss->seen->classes;
        args.near = loss->seen->near;
        args.level = pack(cuda, &at, loss->seen->level, classes * sizeof(float));
    }
    const void *teacher = pack(cuda, &at, loss->teacher, n * loss->old * sizeof(float));
    const void *parts = pack_blocks(cuda, &at, loss, blocks);
    send(cuda, first, at);
    gpu_zero(cuda->gpu, cuda->results, sizeof(struct findings));
    look(cuda, logits, n * classes, 0);
    cuda_launch(cuda, GPU_KERNEL_loss, n, &args);
    if (blocks)
        distil(cuda, loss, &args, teacher, parts, blocks);
    cuda->result_rows = n;
    cuda->result_blocks = blocks;
}

static void outcome(struct learner_device *device, const float *grads, size_t count,
                    struct learner_outcome *out)
{
    struct cuda *cuda = of(device);
    const size_t n = cuda->result_rows, blocks = cuda->result_blocks;

    *out = (struct learner_outcome){.logits_finite = true, .grads_finite = true};
    if (!n) /* memory was short, which sync tells */
        return;
    look(cuda, grads, count, 1);
    download(device, cuda->host_results, cuda->results,
             sizeof(struct findings) + (2 + blocks) * n * sizeof(double));
    const struct findings *found = (const struct findings *)(void *)cuda->host_results;
    const double *rows = result_numbers(cuda->host_results);
    struct learner_loss_sum *sum = &out->sum;
    for (size_t i = 0; i < n; i++) {
        sum->loss += rows[2 * i];
        sum->correct += rows[2 * i + 1] > 0;
    }
    for (size_t i = 0; i < n * blocks; i++)
        sum->kd += rows[2 * n + i];
    sum->loss /= (double)n;
    sum->kd /= (double)n;
    out->logits_finite = !found->bad[0];
    out->grads_finite = !found->bad[1];
}

/* ---- records of a frozen prefix ---- */

static size_t activation_bytes(const struct learner_device *device)
{
    return cuda_activation_bytes((const struct cuda *)device, 1);
}

static size_t free_bytes(struct learner_device *device)
{
    return gpu_free_bytes(of(device)->gpu);
}

static void rows(struct learner_device *device, const struct learner_rows *rows)
{
    struct cuda *cuda = of(device);
    const size_t each = rows->exact ? sizeof(float) : cuda_activation_bytes(cuda, 1);
    const bool even = rows->count * each % 4 == 0 && rows->at * each % 4 == 0 &&
                      rows->row * each % 4 == 0; /* else some places are no multiples of 4 */
    const unsigned unit = even ? 4 : 2;
    struct gpu_rows args = {.table = rows->table,
                            .images = (char *)rows->images,
                            .row = rows->row * each,
                            .at = rows->at * each,
                            .n = (unsigned)rows->n,
                            .words = (unsigned)(rows->count * each / unit),
                            .unit = unit,
                            .keep = rows->keep};
    size_t at = packet(cuda, rows->n * sizeof *rows->index);

    if (at == NO_ROOM)
        return;
    const size_t first = at;
    args.index = pack(cuda, &at, rows->index, rows->n * sizeof *rows->index);
    send(cuda, first, at);
    cuda_each(cuda, GPU_KERNEL_rows, (size_t)args.n * args.words, &args);
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
    size_t at = packet(cuda, views + table + (size_t)2 * 16);

    if (at == NO_ROOM)
        return;
    const size_t first = at;
    memcpy(args.fill, load->fill, sizeof args.fill);
    args.views = pack(cuda, &at, load->views, views);
    args.table = pack(cuda, &at, load->table, table);
    send(cuda, first, at);
    cuda_each(cuda, GPU_KERNEL_load, load->n * learner_shape_count(image), &args);
}

/* ---- recordings ---- */

static struct cuda_recording *find_recording(struct cuda *cuda, const struct cuda_recording *like)
{
    for (size_t i = 0; i < cuda->recording_count; i++) {
        struct cuda_recording *r = &cuda->recordings[i];
        if (r->ops == like->ops && r->count == like->count && r->n == like->n &&
            r->mode == like->mode && r->backward == like->backward)
            return r;
    }
    return NULL;
}

static bool is_conv(const struct learner_op *op)
{
    return op->kind == LEARNER_OP_CONV || op->kind == LEARNER_OP_CONV_NORM;
}

/* What a recording like this holds, one after the other. */
static void run_each(struct cuda *cuda, const struct cuda_recording *like,
                     const struct learner_pass *pass)
{
    for (size_t i = 0; i < like->count; i++)
        if (like->n)
            cuda_run(&cuda->device, &like->ops[i], pass);
        else if (is_conv(&like->ops[i]))
            cuda_conv_pack(&(struct cuda_job){cuda, &like->ops[i], pass});
}

/* The first time as it comes, for the library loads code then, the second time to record. */
static void run_recorded(struct cuda *cuda, const struct cuda_recording *like,
                         const struct learner_pass *pass)
{
    struct cuda_recording *found = find_recording(cuda, like);

    if (!found) {
        run_each(cuda, like, pass);
        if (cuda->recording_count < CUDA_RECORDINGS)
            cuda->recordings[cuda->recording_count++] = *like;
        return;
    }
    if (!found->recording && !found->refused) {
        found->refused = true;
        if (gpu_record(cuda->gpu)) {
            run_each(cuda, like, pass);
            found->recording = gpu_record_end(cuda->gpu);
            found->refused = !found->recording;
        }
    }
    if (found->recording)
        gpu_play(cuda->gpu, found->recording);
    else
        run_each(cuda, like, pass);
}

/* Weights are packed outside of the passes' recordings, which would pack them every time. */
static void refresh(struct cuda *cuda, const struct learner_op *ops, size_t count,
                    const struct learner_pass *pass)
{
    bool stale = false;

    for (size_t i = 0; i < count; i++)
        stale |= is_conv(&ops[i]) && cuda_conv_is_stale(&(struct cuda_job){cuda, &ops[i], pass});
    if (!stale || !pass->weights_version)
        return;
    run_recorded(cuda, &(struct cuda_recording){.ops = ops, .count = count}, pass);
    for (size_t i = 0; i < count; i++)
        if (is_conv(&ops[i]))
            cuda_conv_packed(&(struct cuda_job){cuda, &ops[i], pass});
}

static void run_all(struct learner_device *device, const struct learner_op *ops, size_t count,
                    const struct learner_pass *pass)
{
    const struct cuda_recording like = {
        .ops = ops, .count = count, .n = pass->n, .mode = pass->mode, .backward = pass->backward};

    refresh(of(device), ops, count, pass);
    run_recorded(of(device), &like, pass);
}

static enum delta_status sync(struct learner_device *device, struct delta_error *err)
{
    char why[256] = "";

    const bool fine = gpu_sync(of(device)->gpu, why, sizeof why);

    of(device)->packet_used = 0;
    if (!fine)
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
                                               .outcome = outcome,
                                               .rows = rows,
                                               .activation_bytes = activation_bytes,
                                               .free_bytes = free_bytes,
                                               .load = load,
                                               .run_all = run_all,
                                               .sync = sync};
