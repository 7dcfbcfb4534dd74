#include "net_device.h"

#include <string.h>

#include "learner/loss.h"

static const struct learner_remote_ops *remote_of(const struct learner_net *net)
{
    return net->device->ops->remote;
}

static size_t input_count(const struct learner_net *net)
{
    return learner_shape_count(&net->layers.items[0].in);
}

static float *logits_of(const struct learner_net *net)
{
    return net->memory[net->layers.count - 1].y;
}

static float *features_of(const struct learner_net *net)
{
    return net->memory[net->layers.items[net->layers.count - 1].input].y;
}

static float *stage(struct learner_net *net, size_t count, bool *failed)
{
    const size_t bytes = net->batch * count * sizeof(float);

    if (!bytes)
        return NULL;
    net->stage.bytes += bytes;
    if (net->dry)
        return NULL;
    float *made = remote_of(net)->stage(net->device, bytes);
    *failed |= !made;
    return made;
}

enum delta_status learner_net_stage_new(struct learner_net *net, struct delta_error *err)
{
    struct learner_net_stage *made = &net->stage;
    bool failed = false;

    if (!remote_of(net))
        return DELTA_OK;
    made->input = stage(net, input_count(net), &failed);
    made->logits = stage(net, net->class_count, &failed);
    made->features = stage(net, learner_net_feature_count(net), &failed);
    made->prefix = stage(net, net->prefix_count, &failed);
    if (net->train)
        made->logits_grad = stage(net, net->class_count, &failed);
    return failed ? delta_fail(err, DELTA_NO_MEMORY,
                               "no memory for what the host and device '%s' exchange",
                               net->device->ops->name)
                  : DELTA_OK;
}

void learner_net_stage_release(struct learner_net *net)
{
    struct learner_net_stage *made = &net->stage;
    float *blocks[] = {made->input, made->logits, made->features, made->logits_grad, made->prefix};

    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (blocks[i])
            remote_of(net)->unstage(net->device, blocks[i]);
}

void learner_net_run(struct learner_net *net, const struct learner_op *ops, size_t count,
                     const struct learner_pass *pass)
{
    if (remote_of(net) && remote_of(net)->run_all) {
        remote_of(net)->run_all(net->device, ops, count, pass);
        return;
    }
    for (size_t i = 0; i < count; i++)
        net->device->ops->run(net->device, &ops[i], pass);
}

/* ---- what the host sees ---- */

float *learner_net_input(struct learner_net *net)
{
    if (!remote_of(net))
        return net->input;
    net->stage.input_there = false; /* it is about to be filled */
    return net->stage.input;
}

const float *learner_net_logits(const struct learner_net *net)
{
    if (!remote_of(net))
        return logits_of(net);
    if (!net->stage.logits_there)
        remote_of(net)->download(net->device, net->stage.logits, logits_of(net),
                                 net->stage.images * net->class_count * sizeof(float));
    ((struct learner_net *)net)->stage.logits_there = true;
    return net->stage.logits;
}

const float *learner_net_features(const struct learner_net *net)
{
    if (!remote_of(net))
        return features_of(net);
    if (!net->stage.features_there) /* training never asks for them */
        remote_of(net)->download(net->device, net->stage.features, features_of(net),
                                 net->stage.images * learner_net_feature_count(net) *
                                     sizeof(float));
    ((struct learner_net *)net)->stage.features_there = true;
    return net->stage.features;
}

float *learner_net_logits_grad(struct learner_net *net)
{
    if (!remote_of(net))
        return net->logits_grad;
    net->stage.grad_there = false;
    return net->stage.logits_grad;
}

void learner_net_get(const struct learner_net *net, float *out, const float *from, size_t count)
{
    learner_device_download(net->device, out, from, count * sizeof *out);
}

void learner_net_put(struct learner_net *net, float *to, const float *values, size_t count)
{
    learner_device_upload(net->device, to, values, count * sizeof *to);
}

float *learner_net_block(struct learner_net *net, size_t count)
{
    return net->device->ops->alloc(net->device, count * sizeof(float));
}

void learner_net_block_free(struct learner_net *net, float *block)
{
    if (block)
        net->device->ops->release(net->device, block);
}

/* ---- around a pass ---- */

void learner_net_give_input(struct learner_net *net, size_t n)
{
    if (remote_of(net) && !net->stage.input_there)
        remote_of(net)->store(net->device, net->input, net->stage.input, n * input_count(net));
}

void learner_net_load(struct learner_net *net, const struct learner_load *load)
{
    remote_of(net)->load(net->device, net->input, &net->layers.items[0].in, load);
    net->stage.input_there = true;
}

bool learner_net_input_is_finite(const struct learner_net *net, size_t n)
{
    if (net->stage.input_there) /* made of bytes */
        return true;
    return learner_all_finite(remote_of(net) ? net->stage.input : net->input, n * input_count(net));
}

void learner_net_leave_outputs(struct learner_net *net, size_t n)
{
    net->stage.images = n;
    net->stage.logits_there = net->stage.features_there = false;
}

enum delta_status learner_net_take_outputs(struct learner_net *net, size_t n,
                                           struct delta_error *err)
{
    if (!remote_of(net))
        return DELTA_OK;
    learner_net_leave_outputs(net, n);
    learner_net_logits(net);
    return remote_of(net)->sync(net->device, err);
}

bool learner_net_result_is_finite(struct learner_net *net, const struct learner_op *op, size_t n)
{
    if (remote_of(net))
        return remote_of(net)->finite_result(net->device, op, n);
    return learner_all_finite(op->y ? op->y : op->gain,
                              op->y ? n * learner_shape_count(&op->out) : op->out.c);
}

void learner_net_give_gradient(struct learner_net *net, size_t n)
{
    if (remote_of(net) && !net->stage.grad_there)
        remote_of(net)->upload(net->device, net->logits_grad, net->stage.logits_grad,
                               n * net->class_count * sizeof(float));
}

static size_t count_correct(const float *logits, const int32_t *labels, size_t n, size_t classes)
{
    size_t correct = 0;

    for (size_t i = 0; i < n; i++) {
        size_t best = 0;
        for (size_t k = 1; k < classes; k++)
            if (logits[i * classes + k] > logits[i * classes + best])
                best = k;
        correct += labels[i] >= 0 && best == (size_t)labels[i];
    }
    return correct;
}

void learner_loss_here(const struct learner_loss *loss, const float *logits, size_t n,
                       size_t classes, float *grad, struct learner_loss_sum *out)
{
    const struct learner_outputs whole = {0, loss->old};
    const struct learner_outputs *blocks = loss->blocks ? loss->blocks : &whole;
    const size_t count = loss->blocks ? loss->block_count : 1;

    *out = (struct learner_loss_sum){0};
    out->loss = loss->soft ? learner_loss_soft(logits, loss->labels, loss->others, loss->share,
                                               loss->smoothing, n, classes, loss->scale, grad)
                           : learner_loss_ce_seen(logits, loss->labels, loss->offset, loss->seen, n,
                                                  classes, loss->scale, grad);
    for (size_t b = 0; loss->teacher && b < count; b++)
        out->kd +=
            learner_loss_kd_block(logits, loss->teacher, n, classes, loss->old, blocks[b].first,
                                  blocks[b].count, loss->temperature, loss->kd_scale, grad);
    out->correct = count_correct(logits, loss->labels, n, classes);
}

void learner_net_loss(struct learner_net *net, const struct learner_loss *loss, size_t n,
                      struct learner_loss_sum *out)
{
    if (!remote_of(net)) {
        learner_loss_here(loss, logits_of(net), n, net->class_count, net->logits_grad, out);
        return;
    }
    struct learner_outcome outcome;
    remote_of(net)->loss(net->device, loss, logits_of(net), n, net->class_count, net->logits_grad);
    remote_of(net)->outcome(net->device, NULL, 0, &outcome);
    *out = outcome.sum;
    net->stage.grad_there = true;
}

enum delta_status learner_net_learn(struct learner_net *net, const struct learner_loss *loss,
                                    size_t n, struct learner_outcome *out, struct delta_error *err)
{
    const struct learner_remote_ops *remote = remote_of(net);
    const struct learner_pass pass = net->last;
    enum delta_status st;

    if (!remote) {
        *out = (struct learner_outcome){.logits_finite = true, .grads_finite = true};
        learner_net_loss(net, loss, n, &out->sum);
        return learner_net_backward(net, n, err);
    }
    remote->loss(net->device, loss, logits_of(net), n, net->class_count, net->logits_grad);
    net->stage.grad_there = true;
    st = learner_net_backward(net, n, err);
    remote->outcome(net->device, net->grads, net->grad_count, out);
    if (!st)
        st = remote->sync(net->device, err);
    if (!st && !out->logits_finite)
        st = learner_net_blame(net, &pass, err);
    return st;
}

/* ---- the frozen prefix; a record holds an image's outputs of all boundary layers ---- */

static size_t boundary_count(const struct learner_net *net, size_t b)
{
    return learner_shape_count(&net->layers.items[net->boundary[b]].out);
}

/* Features are float32 on every device. */
static bool is_float(const struct learner_net *net, size_t b)
{
    return net->layers.items[net->boundary[b]].kind == LEARNER_LAYER_POOL;
}

/* Staged: layer by layer, each [n, count]. */
static float *staged(const struct learner_net *net, size_t b, size_t n)
{
    float *at = net->stage.prefix;

    for (size_t i = 0; i < b; i++)
        at += n * boundary_count(net, i);
    return at;
}

void learner_net_prefix_read(const struct learner_net *net, float *out, size_t n)
{
    for (size_t b = 0, at = 0; b < net->boundary_count; at += boundary_count(net, b++)) {
        const size_t count = boundary_count(net, b);
        const float *from = net->memory[net->boundary[b]].y;
        if (remote_of(net) && is_float(net, b)) {
            remote_of(net)->download(net->device, staged(net, b, n), from,
                                     n * count * sizeof *from);
        } else if (remote_of(net)) {
            remote_of(net)->fetch(net->device, staged(net, b, n), from, n * count);
        }
        from = remote_of(net) ? staged(net, b, n) : from;
        for (size_t i = 0; i < n; i++)
            memcpy(out + i * net->prefix_count + at, from + i * count, count * sizeof *out);
    }
}

/* ---- the same in a table on the device ---- */

float *learner_net_table(struct learner_net *net, size_t rows, size_t most)
{
    const struct learner_remote_ops *remote = remote_of(net);

    if (!remote || !net->prefix_count)
        return NULL;
    const size_t each = is_float(net, 0) ? sizeof(float) : remote->activation_bytes(net->device);
    const size_t bytes = rows * net->prefix_count * each,
                 half = remote->free_bytes(net->device) / 2;
    if (bytes > most || bytes > half)
        return NULL;
    return learner_net_block(net, bytes / sizeof(float) + 1);
}

/* A table has features alone, or activations alone: what lies above the features is the head. */
static void move_rows(struct learner_net *net, float *table, const uint32_t *rows, size_t n,
                      bool keep)
{
    for (size_t b = 0, at = 0; b < net->boundary_count; at += boundary_count(net, b++))
        remote_of(net)->rows(net->device,
                             &(struct learner_rows){.table = (char *)table,
                                                    .index = rows,
                                                    .images = net->memory[net->boundary[b]].y,
                                                    .n = n,
                                                    .count = boundary_count(net, b),
                                                    .at = at,
                                                    .row = net->prefix_count,
                                                    .exact = is_float(net, b),
                                                    .keep = keep});
}

void learner_net_table_keep(struct learner_net *net, float *table, const uint32_t *rows, size_t n)
{
    move_rows(net, table, rows, n, true);
}

void learner_net_give_rows(struct learner_net *net, float *table, const uint32_t *rows, size_t n)
{
    move_rows(net, table, rows, n, false);
}

void learner_net_give_prefix(struct learner_net *net, const float *const *records, size_t n)
{
    for (size_t b = 0, at = 0; b < net->boundary_count; at += boundary_count(net, b++)) {
        const size_t count = boundary_count(net, b);
        float *y = net->memory[net->boundary[b]].y;
        float *to = remote_of(net) ? staged(net, b, n) : y;
        for (size_t i = 0; i < n; i++)
            memcpy(to + i * count, records[i] + at, count * sizeof *to);
        if (remote_of(net) && is_float(net, b))
            remote_of(net)->upload(net->device, y, to, n * count * sizeof *to);
        else if (remote_of(net))
            remote_of(net)->store(net->device, y, to, n * count);
    }
}
