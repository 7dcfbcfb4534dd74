#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "learner/networks.h"
#include "learner_verbs.h"

static const struct delta_verb_help help = {
    .program = LEARNER_PROGRAM,
    .verb = "pretrain",
    .operands = "",
    .summary = "Trains a base model from scratch.",
    .details =
        "SGD with Nesterov momentum, the step rising for a tenth of the time and falling to zero "
        "as a cosine; random crops and mirrors. With --ema, a moving average of the weights and of "
        "batch norm's statistics is what is tested and stored.\n\n"
        "With --checkpoint, a run that was killed or stopped (SIGINT, SIGTERM) goes on when the "
        "same command is given again, and ends with the same bytes as one that was not. The file "
        "is removed when the model is written. A checkpoint of other options is refused.\n\n"
        "One seed and one number of threads give the same bytes each time. With --time, the number "
        "of steps is fitted to the speed of the first ones and adjusted on the way, so that the "
        "cosine ends in time and the test after it: then the result depends on the "
        "speed. " LEARNER_BUDGET_HELP
        "A batch that does not fit goes through in parts, each with statistics of its own in batch "
        "norm, which changes the result; a checkpoint keeps to the parts it began with."
        "\n\n" LEARNER_DATA_HELP,
};

/* A small set needs many small steps: with the defaults for large ones it is hardly trained. */
#define FEW_IMAGES 20000
#define FEW_BATCH 32
#define FEW_LR 0.05

struct pretrain {
    struct learner_common common;
    const char *source, *order, *classes, *arch, *stem, *out;
    int64_t width, size, epochs, batch, per_class;
    double lr, momentum, weight_decay, mixup, label_smoothing, ema;
    int64_t cutout, held_out;
    bool no_augment, resume;
    const char *checkpoint, *every;

    struct learner_pretrain_status status;
    char line[160]; /* label of the progress line */
};

static volatile sig_atomic_t stop_asked;

static void ask_to_stop(int number)
{
    (void)number;
    stop_asked = 1;
}

/* Only with a checkpoint: without, there is nothing to leave behind. */
static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = ask_to_stop, .sa_flags = SA_RESETHAND};

    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static bool go_on(void *context, const char *stage, double done, double total)
{
    (void)context;
    (void)stage;
    (void)done;
    (void)total;
    return !stop_asked;
}

static void show_status(void *context, const struct learner_pretrain_status *status)
{
    struct pretrain *p = context;
    size_t used;

    if (!p->common.progress.label) /* shares and time left count from where this process began */
        delta_progress_start(&p->common.progress, p->line, false);
    used = (size_t)snprintf(p->line, sizeof p->line,
                            "epoch %zu of %zu, %.0f images/s, loss %.3f, accuracy %.1f %%",
                            status->epoch, status->epochs, status->images_per_second, status->loss,
                            100 * status->accuracy);
    if (status->held_out >= 0 && used < sizeof p->line)
        snprintf(p->line + used, sizeof p->line - used, ", held out %.1f %%",
                 100 * status->held_out);
    delta_progress_at(&p->common.progress, (double)(status->step), (double)status->steps);
}

/* "2" epochs or "90s". */
static enum delta_status read_every(struct learner_pretrain_options *options, const char *text,
                                    struct delta_error *err)
{
    char *end;
    const double value = strtod(text, &end);

    if (end == text || !(value > 0 && value < 1e9) || (*end && strcmp(end, "s") != 0))
        return delta_fail(err, DELTA_USAGE,
                          "--every '%s' is neither a number of epochs (2) nor of seconds (90s)",
                          text);
    options->every_epochs = *end ? 0 : value;
    options->every_seconds = *end ? value : 0;
    return DELTA_OK;
}

static enum delta_status load_split(struct learner_samples *out, const struct pretrain *p,
                                    enum learner_split split, struct delta_error *err)
{
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_class_id *classes = NULL;
    size_t count = 0;
    enum delta_status st = learner_samples_open_sized(&data, p->source, split, (uint32_t)p->size,
                                                      (uint32_t)p->size, err);

    if (!st)
        st = learner_classes_pick(&classes, &count, p->classes, &data, p->order, err);
    if (!st)
        st = learner_samples_keep(&data, classes, count,
                                  split == LEARNER_SPLIT_TRAIN ? (size_t)p->per_class : 0, err);
    free(classes);
    if (st)
        learner_samples_release(&data);
    else
        *out = data;
    return st;
}

static enum delta_status read_options(struct learner_pretrain_options *out,
                                      const struct pretrain *p, size_t images,
                                      struct delta_error *err)
{
    struct learner_pretrain_options options = learner_pretrain_defaults();
    const bool few = images < FEW_IMAGES;

    options.epochs = (int)p->epochs;
    options.batch = p->batch ? (size_t)p->batch : few ? FEW_BATCH : options.batch;
    options.lr = p->lr > 0 ? p->lr : few ? FEW_LR : options.lr;
    options.momentum = p->momentum;
    options.weight_decay = p->weight_decay;
    options.augment = !p->no_augment;
    options.mixup = p->mixup;
    options.cutout = (size_t)p->cutout;
    options.label_smoothing = p->label_smoothing;
    options.ema = p->ema;
    options.held_out = (size_t)p->held_out;
    options.checkpoint = p->checkpoint;
    options.resume = p->resume;
    options.watch = show_status;
    *out = options;
    return p->every ? read_every(out, p->every, err) : DELTA_OK;
}

/* Trains, then gives the images back: the test needs room too. */
static enum delta_status train(struct delta_model *model, struct pretrain *p, size_t test_images,
                               struct learner_samples *data, struct delta_error *err)
{
    struct learner_pretrain_options options;
    struct learner_budget budget = p->common.budget;
    struct delta_arch arch;
    enum delta_status st = read_options(&options, p, data->count, err);

    if (!st)
        st = learner_network_arch(&arch, p->arch, p->stem, (uint32_t)p->width, data->channels,
                                  data->height, data->width, err);
    if (st)
        return st;
    options.watch_context = p;
    options.test_images = test_images;
    budget.progress = go_on;
    if (p->checkpoint)
        catch_signals();
    st = learner_net_init_model(model, &arch, data->classes, data->class_count,
                                (uint64_t)p->common.seed, err);
    if (!st)
        st = learner_pretrain_run(model, data, &options, &budget, &p->status, err);
    learner_common_done(&p->common);
    learner_samples_release(data);
    return st;
}

static void print_result(const struct pretrain *p, const struct learner_scores *scores,
                         const char *hex, size_t classes)
{
    const double top1 =
        scores->images ? 100.0 * (double)scores->correct / (double)scores->images : 0;

    if (!p->common.json && scores->images)
        printf("top-1 %.2f %% on %zu test images of %zu classes; ", top1, scores->images, classes);
    if (!p->common.json) {
        printf("'%s' is %s\n", p->out, hex);
        return;
    }
    json_t *json = json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f}", "out", p->out, "model", hex,
                             "images", (json_int_t)scores->images, "classes", (json_int_t)classes,
                             "steps", (json_int_t)p->status.steps, "images_per_second",
                             p->status.images_per_second, "loss", p->status.loss);
    learner_common_json(&p->common, json);
    if (scores->images)
        json_object_set_new(json, "top1", json_real(top1));
    if (p->status.held_out >= 0)
        json_object_set_new(json, "held_out", json_real(100 * p->status.held_out));
    learner_print_json(json);
}

/* Trains, saves, and tests on the data's test split where there is one. Planned is the training:
 * the test takes less. */
static enum delta_status run(struct pretrain *p, struct delta_error *err)
{
    struct learner_samples data = LEARNER_SAMPLES_INIT, test = LEARNER_SAMPLES_INIT;
    struct delta_model model = DELTA_MODEL_INIT;
    struct learner_scores scores = {0};
    struct learner_budget budget = *learner_common_budget(&p->common, help.verb);
    struct delta_digest digest;
    char hex[DELTA_DIGEST_HEX];
    enum delta_status st = load_split(&test, p, LEARNER_SPLIT_TEST, err);

    if (!st)
        st = load_split(&data, p, LEARNER_SPLIT_TRAIN, err);
    if (!st)
        st = train(&model, p, test.count, &data, err);
    if (!st)
        st = delta_model_save(&model, p->out, err);
    if (!st && p->checkpoint)
        st = delta_file_remove(p->checkpoint, err);
    if (!st)
        st = delta_model_digest(&model, &digest, err);
    budget.planned = NULL;
    if (!st && learner_evaluate(&scores, &model, &test, &budget, err)) {
        st = err->status == DELTA_INTERRUPTED ? DELTA_OK : err->status; /* the model is there */
        fprintf(stderr, "%s pretrain: not tested: %s\n", LEARNER_PROGRAM, err->text);
    }
    learner_common_done(&p->common);
    if (!st) {
        delta_digest_hex(hex, &digest);
        print_result(p, &scores, hex, model.class_count);
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
                         .stem = "cifar",
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
        {"arch", DELTA_OPT_CHOICE, &p.arch, .choices = LEARNER_NETWORK_NAMES,
         .help = "architecture; the verb networks lists them"},
        {"stem", DELTA_OPT_CHOICE, &p.stem, .choices = LEARNER_STEM_NAMES,
         .help = "for small images, or for those of about 224 pixels"},
        {"width", DELTA_OPT_INT, &p.width, .arg = "N",
         .help = "channels; mobilenet_v2: percent; 0: 16 or 100", .low = 0, .high = 1024},
        {"size", DELTA_OPT_INT, &p.size, .arg = "PIXELS",
         .help = "side to which folders' images are resized; 0: 32", .low = 0, .high = 1024},
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
        {"mixup", DELTA_OPT_REAL, &p.mixup, .arg = "ALPHA",
         .help = "mix images pairwise, share drawn from Beta(ALPHA, ALPHA); 0: off", .low = 0,
         .high = 1},
        {"cutout", DELTA_OPT_INT, &p.cutout, .arg = "PIXELS",
         .help = "side of a random square that is blanked out; 0: off", .low = 0, .high = 1024},
        {"label-smoothing", DELTA_OPT_REAL, &p.label_smoothing, .arg = "X",
         .help = "share of each target that is spread over all classes", .low = 0, .high = 0.5},
        {"ema", DELTA_OPT_REAL, &p.ema, .arg = "DECAY",
         .help = "store a moving average of the weights, e.g. 0.999; 0: off", .low = 0,
         .high = 0.999999},
        {"held-out", DELTA_OPT_INT, &p.held_out, .arg = "N",
         .help = "training images per class to keep out and report accuracy on", .low = 0,
         .high = 1e6},
        {"checkpoint", DELTA_OPT_TEXT, &p.checkpoint, .arg = "FILE",
         .help = "where to leave the state; a run goes on from it if it is there"},
        {"every", DELTA_OPT_TEXT, &p.every, .arg = "N|Ns",
         .help = "write the checkpoint every N epochs or N seconds; default: each epoch"},
        {"resume", DELTA_OPT_FLAG, &p.resume, .help = "fail unless the checkpoint is there"},
        {"no-augment", DELTA_OPT_FLAG, &p.no_augment, .help = "no random crops and mirrors"},
        {"out", DELTA_OPT_TEXT, &p.out, .arg = "FILE", .help = "model file to write",
         .required = true},
        LEARNER_OPT_DEVICE(p.common),
        LEARNER_OPT_BUDGET(p.common),
        LEARNER_OPT_SEED(p.common),
        LEARNER_OPT_JSON(p.common),
        {0}};
    struct delta_error err = DELTA_ERROR_INIT;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    return run(&p, &err) ? delta_cli_fail(&help, &err) : 0;
}
