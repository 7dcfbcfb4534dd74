/* What the engine makes of a network and a batch, for comparison with PyTorch: logits, features and
 * every gradient of the cross-entropy (labels 0, 1, 2, ... modulo the classes) go to
 * DIR/results.safetensors, the model after two steps of SGD to DIR/after.safetensors, which is our
 * export as users get it. The input is raw float32, [n, c, h, w]. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/cli.h"
#include "delta/file.h"
#include "delta/safetensors.h"
#include "learner/loss.h"
#include "learner/optim.h"

#define INPUT_MAX ((size_t)256 << 20)

struct job {
    const char *model, *input, *out, *device, *mode;
    int64_t batch, threads;
};

static const struct delta_verb_help help = {
    .program = "torch_dump",
    .operands = "",
    .summary = "writes logits, gradients and the model after two steps",
};

/* The engine has channels last, PyTorch first. */
static enum delta_status read_input(struct learner_net *net, const struct delta_model *model,
                                    const struct job *job, struct delta_error *err)
{
    const size_t c = model->arch.channels;
    const size_t plane = (size_t)model->arch.height * model->arch.image_width;
    const size_t n = (size_t)job->batch;
    struct delta_buf file;
    enum delta_status st = delta_file_read(job->input, INPUT_MAX, &file, err);

    if (st)
        return st;
    if (file.len != n * c * plane * sizeof(float))
        st = delta_fail(err, DELTA_MISMATCH, "'%s' has %zu bytes instead of %zu", job->input,
                        file.len, n * c * plane * sizeof(float));
    float *to = learner_net_input(net);
    for (size_t i = 0; !st && i < n; i++)
        for (size_t k = 0; k < c; k++)
            for (size_t p = 0; p < plane; p++)
                memcpy(&to[(i * plane + p) * c + k],
                       file.data + ((i * c + k) * plane + p) * sizeof(float), sizeof(float));
    delta_buf_release(&file);
    return st;
}

static enum delta_status keep(struct delta_model *results, const char *name, uint32_t rank,
                              const uint64_t *shape, const float *data, struct delta_error *err)
{
    struct delta_tensor *tensor = NULL;
    const enum delta_status st = delta_model_add_tensor(results, name, rank, shape, &tensor, err);

    if (!st)
        memcpy(tensor->data, data, tensor->count * sizeof *tensor->data);
    return st;
}

static enum delta_status keep_outputs(struct delta_model *results, struct learner_net *net,
                                      size_t n, struct delta_error *err)
{
    const uint64_t logits[] = {n, learner_net_class_count(net)};
    const uint64_t features[] = {n, learner_net_feature_count(net)};
    enum delta_status st = keep(results, "logits", 2, logits, learner_net_logits(net), err);

    return st ? st : keep(results, "features", 2, features, learner_net_features(net), err);
}

static enum delta_status keep_gradients(struct delta_model *results, struct learner_net *net,
                                        struct delta_error *err)
{
    enum delta_status st = DELTA_OK;
    char name[DELTA_TENSOR_NAME_MAX + 1];

    for (size_t i = 0; !st && i < learner_net_param_count(net); i++) {
        const struct learner_param *param = learner_net_param(net, i);
        if (!param->grad)
            continue;
        snprintf(name, sizeof name, "grad.%.100s", param->name);
        st = keep(results, name, param->rank, param->shape, param->grad, err);
    }
    return st;
}

/* Two steps; the first one's gradients are kept. */
static enum delta_status train(struct learner_net *net, const struct job *job,
                               struct delta_model *results, struct delta_error *err)
{
    const struct learner_sgd_options options = {
        .momentum = 0.9, .weight_decay = 1e-2, .nesterov = true};
    const enum learner_mode mode = strcmp(job->mode, "train") ? LEARNER_TRAIN_EVAL : LEARNER_TRAIN;
    const size_t n = (size_t)job->batch, classes = learner_net_class_count(net);
    struct learner_sgd *sgd = NULL;
    int32_t *labels = delta_calloc(n, sizeof *labels);
    enum delta_status st = learner_sgd_new(&sgd, net, NULL, &options, err);

    if (!st && !labels)
        st = delta_fail(err, DELTA_NO_MEMORY, "no memory for %zu labels", n);
    for (size_t i = 0; !st && i < n; i++)
        labels[i] = (int32_t)(i % classes);
    for (int step = 0; !st && step < 2; step++) {
        st = learner_net_forward(net, n, mode, err);
        if (!st && !step)
            st = keep_outputs(results, net, n, err);
        if (st)
            break;
        learner_loss_ce(learner_net_logits(net), labels, NULL, n, classes, 1,
                        learner_net_logits_grad(net));
        st = learner_net_backward(net, n, err);
        if (!st && !step)
            st = keep_gradients(results, net, err);
        learner_sgd_step(sgd, 0.05);
    }
    learner_sgd_free(sgd);
    free(labels);
    return st;
}

static enum delta_status save(const struct delta_model *model, const char *dir, const char *name,
                              struct delta_error *err)
{
    char path[1024];

    snprintf(path, sizeof path, "%.900s/%s", dir, name);
    return delta_safetensors_save(model, DELTA_SAFETENSORS_F32, path, err);
}

static enum delta_status dump(const struct job *job, struct delta_error *err)
{
    const bool infer = !strcmp(job->mode, "infer");
    const struct learner_net_options options = {.device = job->device,
                                                .batch = (size_t)job->batch,
                                                .threads = (int)job->threads,
                                                .train = !infer};
    struct delta_model model = DELTA_MODEL_INIT, results = DELTA_MODEL_INIT;
    struct learner_net *net = NULL;
    enum delta_status st = delta_model_load_any(&model, job->model, NULL, NULL, err);

    if (!st)
        st = learner_net_new(&net, &model, &options, err);
    results.arch = model.arch;
    if (!st)
        st = read_input(net, &model, job, err);
    if (!st && infer)
        st = learner_net_forward(net, options.batch, LEARNER_INFER, err);
    if (!st)
        st = infer ? keep_outputs(&results, net, options.batch, err)
                   : train(net, job, &results, err);
    if (!st)
        st = learner_net_store(net, &model, err);
    if (!st)
        st = save(&results, job->out, "results.safetensors", err);
    if (!st)
        st = save(&model, job->out, "after.safetensors", err);
    learner_net_free(net);
    delta_model_release(&model);
    delta_model_release(&results);
    return st;
}

int main(int argc, char **argv)
{
    struct job job = {.device = "cpu", .mode = "train", .batch = 1, .threads = 2};
    struct delta_opt opts[] = {
        {"model", DELTA_OPT_TEXT, &job.model, "FILE", "network", NULL, NULL, 0, 0, true},
        {"input", DELTA_OPT_TEXT, &job.input, "FILE", "images, float32", NULL, NULL, 0, 0, true},
        {"out", DELTA_OPT_TEXT, &job.out, "DIR", "where the results go", NULL, NULL, 0, 0, true},
        {"batch", DELTA_OPT_INT, &job.batch, "N", "images (1)", NULL, NULL, 1, 4096, false},
        {"threads", DELTA_OPT_INT, &job.threads, "N", "threads (2)", NULL, NULL, 0, 64, false},
        {"device", DELTA_OPT_CHOICE, &job.device, "NAME", "backend (cpu)", NULL, "cpu|ref|blas", 0,
         0, false},
        {"mode", DELTA_OPT_CHOICE, &job.mode, "NAME",
         "batch norm: batch statistics, or running ones with or without gradients", NULL,
         "train|train-eval|infer", 0, 0, false},
        {0}};
    struct delta_error err = DELTA_ERROR_INIT;
    int first;
    const int exit_status = delta_opt_parse(&help, opts, argc, argv, &first);

    if (exit_status >= 0)
        return exit_status;
    return dump(&job, &err) ? delta_cli_fail(&help, &err) : 0;
}
