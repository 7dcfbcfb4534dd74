#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "learner_verbs.h"

static const struct delta_verb_help help = {
    .program = LEARNER_PROGRAM,
    .verb = "pretrain",
    .operands = "",
    .summary = "Trains a base model from scratch.",
    .details = "SGD with Nesterov momentum, the step rising for a tenth of the time and falling to "
               "zero as a cosine; random crops and mirrors.\n\n" LEARNER_DATA_HELP,
};

/* A small set needs many small steps: with the defaults for large ones it is hardly trained. */
#define FEW_IMAGES 20000
#define FEW_BATCH 32
#define FEW_LR 0.05

struct pretrain {
    struct learner_common common;
    const char *source, *order, *classes, *arch, *out;
    int64_t width, epochs, batch, per_class;
    double lr, momentum, weight_decay;
    bool no_augment;
};

static enum delta_status load_split(struct learner_samples *out, const struct pretrain *p,
                                    enum learner_split split, struct delta_error *err)
{
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_class_id *classes = NULL;
    size_t count = 0;
    enum delta_status st = learner_samples_open(&data, p->source, split, err);

    if (!st)
        st = learner_classes_pick(&classes, &count, p->classes, &data, p->order, err);
    if (!st)
        st = learner_samples_select(out, &data, classes, count,
                                    split == LEARNER_SPLIT_TRAIN ? (size_t)p->per_class : 0, err);
    free(classes);
    learner_samples_release(&data);
    return st;
}

static enum delta_status train(struct delta_model *model, struct pretrain *p,
                               const struct learner_samples *data, struct delta_error *err)
{
    struct learner_pretrain_options options = learner_pretrain_defaults();
    struct delta_arch arch = {.stem = "cifar",
                              .width = (uint32_t)p->width,
                              .channels = data->channels,
                              .height = data->height,
                              .image_width = data->width,
                              .mean = {0.5071, 0.4865, 0.4409},
                              .std = {0.2673, 0.2564, 0.2762}};
    enum delta_status st;

    snprintf(arch.name, sizeof arch.name, "%s", p->arch);
    options.epochs = (int)p->epochs;
    const bool few = data->count < FEW_IMAGES;
    options.batch = p->batch ? (size_t)p->batch : few ? FEW_BATCH : options.batch;
    options.lr = p->lr > 0 ? p->lr : few ? FEW_LR : options.lr;
    options.momentum = p->momentum;
    options.weight_decay = p->weight_decay;
    options.augment = !p->no_augment;
    st = learner_net_init_model(model, &arch, data->classes, data->class_count,
                                (uint64_t)p->common.seed, err);
    if (!st)
        st = learner_pretrain(model, data, &options, learner_common_budget(&p->common), err);
    learner_common_done(&p->common);
    return st;
}

/* Trains, saves, and tests on the data's test split where there is one. */
static enum delta_status run(struct pretrain *p, struct delta_error *err)
{
    struct learner_samples data = LEARNER_SAMPLES_INIT, test = LEARNER_SAMPLES_INIT;
    struct delta_model model = DELTA_MODEL_INIT;
    struct learner_scores scores = {0};
    struct delta_digest digest;
    char hex[DELTA_DIGEST_HEX];
    enum delta_status st = load_split(&data, p, LEARNER_SPLIT_TRAIN, err);

    if (!st)
        st = train(&model, p, &data, err);
    if (!st)
        st = delta_model_save(&model, p->out, err);
    if (!st)
        st = delta_model_digest(&model, &digest, err);
    if (!st)
        st = load_split(&test, p, LEARNER_SPLIT_TEST, err);
    if (!st)
        st = learner_evaluate(&scores, &model, &test, &p->common.budget, err);
    learner_common_done(&p->common);
    if (!st) {
        const double top1 =
            scores.images ? 100.0 * (double)scores.correct / (double)scores.images : 0;
        delta_digest_hex(hex, &digest);
        if (p->common.json)
            learner_print_json(json_pack("{s:s, s:s, s:f, s:I, s:I}", "out", p->out, "model", hex,
                                         "top1", top1, "images", (json_int_t)scores.images,
                                         "classes", (json_int_t)model.class_count));
        else
            printf("top-1 %.2f %% on %zu test images of %zu classes; '%s' is %s\n", top1,
                   scores.images, model.class_count, p->out, hex);
    }
    learner_scores_release(&scores);
    delta_model_release(&model);
    learner_samples_release(&data);
    learner_samples_release(&test);
    return st;
}

int learner_cmd_pretrain(int argc, char **argv)
{
    const struct learner_pretrain_options defaults = learner_pretrain_defaults();
    struct pretrain p = {.common = LEARNER_COMMON_INIT,
                         .arch = "resnet18",
                         .width = 16,
                         .epochs = defaults.epochs,
                         .momentum = defaults.momentum,
                         .weight_decay = defaults.weight_decay};
    struct delta_opt opts[] = {
        {"data", DELTA_OPT_TEXT, &p.source, .arg = "SOURCE", .help = "labelled images",
         .env = "FROSTLINE_DATA", .required = true},
        {"classes", DELTA_OPT_TEXT, &p.classes, .arg = "A,B|N",
         .help = "these classes, or the first N; all when absent"},
        {"order", DELTA_OPT_TEXT, &p.order, .arg = "FILE",
         .help = "labels in the order that 'the first N' means"},
        {"per-class", DELTA_OPT_INT, &p.per_class, .arg = "N",
         .help = "training images per class, 0 = all", .low = 0, .high = 1e9},
        {"arch", DELTA_OPT_CHOICE, &p.arch, .choices = "resnet18", .help = "architecture"},
        {"width", DELTA_OPT_INT, &p.width, .arg = "N", .help = "channels of the first stage",
         .low = 1, .high = 256},
        {"epochs", DELTA_OPT_INT, &p.epochs, .arg = "N", .help = "passes over the data", .low = 1,
         .high = 10000},
        {"batch", DELTA_OPT_INT, &p.batch, .arg = "N",
         .help = "images per step; 0: 128, or 32 below 20000 images", .low = 0, .high = 1024},
        {"lr", DELTA_OPT_REAL, &p.lr, .arg = "X",
         .help = "largest step size; 0: 0.1, or 0.05 below 20000 images", .low = 0, .high = 10},
        {"momentum", DELTA_OPT_REAL, &p.momentum, .arg = "X", .help = "momentum", .low = 0,
         .high = 1},
        {"weight-decay", DELTA_OPT_REAL, &p.weight_decay, .arg = "X", .help = "weight decay",
         .low = 0, .high = 1},
        {"no-augment", DELTA_OPT_FLAG, &p.no_augment, .help = "no random crops and mirrors"},
        {"out", DELTA_OPT_TEXT, &p.out, .arg = "FILE", .help = "model file to write",
         .required = true},
        LEARNER_OPT_DEVICE(p.common),
        LEARNER_OPT_SEED(p.common),
        LEARNER_OPT_JSON(p.common),
        {0}};
    struct delta_error err = DELTA_ERROR_INIT;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    return run(&p, &err) ? delta_cli_fail(&help, &err) : 0;
}
