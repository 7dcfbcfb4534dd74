/* Takes the place of device `cuda` in a test program: `ref` behind a wall. What it computes is
 * plain, so that a difference is the fault of whoever moves data to and fro. */
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "net_device.h"
#include "wall.h"

struct walled {
    struct learner_device device;
    struct learner_device *ref;
    struct wall wall;
    struct learner_outcome outcome;
};

static struct walled *of(struct learner_device *device)
{
    return (struct walled *)device;
}

static enum delta_status open_wall(struct learner_device **out, int threads,
                                   struct delta_error *err)
{
    struct walled *walled = delta_calloc(1, sizeof *walled);
    enum delta_status st;

    if (!walled)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory");
    st = learner_device_ref.open(&walled->ref, threads, err);
    walled->device.ops = &learner_device_cuda;
    *out = &walled->device;
    return st;
}

static void close_wall(struct learner_device *device)
{
    wall_release(&of(device)->wall);
    learner_device_ref.close(of(device)->ref);
    free(device);
}

static void *alloc_block(struct learner_device *device, size_t bytes)
{
    return wall_alloc(&of(device)->wall, bytes);
}

static void release_block(struct learner_device *device, void *block)
{
    wall_free(&of(device)->wall, block);
}

static void run(struct learner_device *device, const struct learner_op *op,
                const struct learner_pass *pass)
{
    wall_open(&of(device)->wall);
    learner_device_ref.run(of(device)->ref, op, pass);
    wall_close(&of(device)->wall);
}

static size_t memory_bytes(const struct learner_device *device)
{
    (void)device;
    return 0;
}

static void *stage(struct learner_device *device, size_t bytes)
{
    (void)device;
    return delta_calloc(bytes, 1);
}

static void unstage(struct learner_device *device, void *block)
{
    (void)device;
    free(block);
}

static void copy(struct learner_device *device, void *to, const void *from, size_t bytes)
{
    wall_open(&of(device)->wall);
    memcpy(to, from, bytes);
    wall_close(&of(device)->wall);
}

static void copy_floats(struct learner_device *device, float *to, const float *from, size_t count)
{
    copy(device, to, from, count * sizeof *to);
}

static bool finite(struct learner_device *device, const float *data, size_t count)
{
    wall_open(&of(device)->wall);
    const bool answer = learner_all_finite(data, count);
    wall_close(&of(device)->wall);
    return answer;
}

static bool finite_result(struct learner_device *device, const struct learner_op *op, size_t n)
{
    return finite(device, op->y ? op->y : op->gain,
                  op->y ? n * learner_shape_count(&op->out) : op->out.c);
}

static void add(struct learner_device *device, float *sum, const float *more, size_t count)
{
    wall_open(&of(device)->wall);
    learner_device_add(of(device)->ref, sum, more, count);
    wall_close(&of(device)->wall);
}

static void blend(struct learner_device *device, float *average, const float *values, float keep,
                  float take, size_t count)
{
    wall_open(&of(device)->wall);
    learner_device_blend(of(device)->ref, average, values, keep, take, count);
    wall_close(&of(device)->wall);
}

static void swap(struct learner_device *device, float *a, float *b, size_t count)
{
    wall_open(&of(device)->wall);
    learner_device_swap(of(device)->ref, a, b, count);
    wall_close(&of(device)->wall);
}

static void step_slot(const struct learner_slot *slot, const struct learner_sgd_rates *rates)
{
    for (size_t i = 0; i < slot->count; i++) {
        if (slot->live && !slot->live[i])
            continue;
        const float g = slot->grad[i] + slot->decay * slot->values[i];
        slot->velocity[i] = rates->momentum * slot->velocity[i] + g;
        slot->values[i] -= rates->lr * (rates->nesterov ? g + rates->momentum * slot->velocity[i]
                                                        : slot->velocity[i]);
    }
}

static void step(struct learner_device *device, const struct learner_slot *slots, size_t count,
                 const struct learner_sgd_rates *rates)
{
    wall_open(&of(device)->wall);
    for (size_t i = 0; i < count; i++)
        step_slot(&slots[i], rates);
    wall_close(&of(device)->wall);
}

static void loss(struct learner_device *device, const struct learner_loss *loss,
                 const float *logits, size_t n, size_t classes, float *grad)
{
    struct walled *walled = of(device);

    wall_open(&walled->wall);
    learner_loss_here(loss, logits, n, classes, grad, &walled->outcome.sum);
    walled->outcome.logits_finite = learner_all_finite(logits, n * classes);
    wall_close(&walled->wall);
}

static void outcome(struct learner_device *device, const float *grads, size_t count,
                    struct learner_outcome *out)
{
    struct walled *walled = of(device);

    *out = walled->outcome;
    wall_open(&walled->wall);
    out->grads_finite = learner_all_finite(grads, count);
    wall_close(&walled->wall);
    memset(&walled->outcome, 0xff, sizeof walled->outcome); /* told once */
}

static void rows(struct learner_device *device, const struct learner_rows *rows)
{
    float *table = (float *)(void *)rows->table;

    wall_open(&of(device)->wall);
    for (size_t i = 0; i < rows->n; i++) {
        float *row = table + rows->index[i] * rows->row + rows->at;
        float *image = rows->images + i * rows->count;
        memcpy(rows->keep ? row : image, rows->keep ? image : row, rows->count * sizeof *row);
    }
    wall_close(&of(device)->wall);
}

static size_t activation_bytes(const struct learner_device *device)
{
    (void)device;
    return sizeof(float);
}

static size_t free_bytes(struct learner_device *device)
{
    (void)device;
    return (size_t)1 << 30;
}

/* Channel c at (x, y) of a view of an image. */
static float view_value(const struct learner_load *load, const struct learner_shape *image,
                        const struct learner_view *view, size_t c, long x, long y)
{
    const long width = (long)image->w, height = (long)image->h, side = (long)load->side;
    const long row = y + view->dy, moved = x + view->dx;
    const long column = view->mirror ? width - 1 - moved : moved;
    uint8_t byte = 0;

    if (row >= 0 && row < height && column >= 0 && column < width)
        byte = load->pixels[((view->index * image->c + c) * image->h + (size_t)row) * image->w +
                            (size_t)column];
    if (view->cut && x >= view->cut_left && x < view->cut_left + side && y >= view->cut_top &&
        y < view->cut_top + side)
        byte = load->fill[c];
    return load->table[256 * c + byte];
}

static void load(struct learner_device *device, float *input, const struct learner_shape *image,
                 const struct learner_load *load)
{
    const float share = load->share;

    wall_open(&of(device)->wall);
    for (size_t i = 0; i < load->n; i++)
        for (size_t p = 0; p < image->h * image->w; p++)
            for (size_t c = 0; c < image->c; c++) {
                const long x = (long)(p % image->w), y = (long)(p / image->w);
                float v = view_value(load, image, &load->views[i], c, x, y);
                if (share < 1 && i != load->n - 1 - i)
                    v = share * v + (1 - share) * view_value(load, image,
                                                             &load->views[load->n - 1 - i], c, x,
                                                             y);
                *input++ = v;
            }
    wall_close(&of(device)->wall);
}

static enum delta_status sync(struct learner_device *device, struct delta_error *err)
{
    (void)device;
    (void)err;
    return DELTA_OK;
}

static const struct learner_remote_ops remote = {.stage = stage,
                                                 .unstage = unstage,
                                                 .upload = copy,
                                                 .download = copy,
                                                 .copy = copy,
                                                 .store = copy_floats,
                                                 .fetch = copy_floats,
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
                                                 .sync = sync};

const struct learner_device_ops learner_device_cuda = {.name = "cuda",
                                                       .remote = &remote,
                                                       .open = open_wall,
                                                       .close = close_wall,
                                                       .alloc = alloc_block,
                                                       .release = release_block,
                                                       .run = run,
                                                       .memory_bytes = memory_bytes};
