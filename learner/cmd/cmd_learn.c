#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "delta/delta.h"
#include "delta/file.h"
#include "learner_verbs.h"

#ifndef FROSTLINE_VERSION
#define FROSTLINE_VERSION "unknown"
#endif

static const struct delta_verb_help help = {
    .program = LEARNER_PROGRAM,
    .verb = "learn",
    .operands = "",
    .summary =
        "Teaches a model the classes of a folder: one folder of PNG or JPEG files per class.",
    .details =
        "Methods: frostline fits the new classifier rows on cached features (stage A, seconds), "
        "then "
        "lets the last block learn (B), rounded so that its delta is small; --stages stops it "
        "earlier or refits all rows, too (C). "
        "freeze is the published method (new samples, then replay and distillation, with the "
        "model's freeze plan or --ratio). e2e and packnet are its rivals; finetune, replay, "
        "replay-kd, head-only, layer4-only, ncm and do-nothing are controls; joint is the bound, "
        "with all old training images as exemplars. learner/METHODS.md tells all of them.\n\n"
        "A guard tests the result on the probe images of the exemplar file and on samples held "
        "out; what fails is rejected with exit status 1, and nothing is "
        "written. A stage that fails falls back to the one before.\n\n" LEARNER_BUDGET_HELP
        "When the time is up, learning ends with what it has, which the guard judges as always.\n\n"
        "With --classes, --new is a data source. " LEARNER_DATA_HELP,
};

struct learn {
    struct learner_common common;
    const char *model_path, *fresh_path, *classes, *exemplar_path, *method;
    const char *out, *delta_path, *exemplars_out, *labels, *order;
    const char *stages, *live, *mask, *schedule, *start, *blocks, *balanced, *mirror;
    int64_t epochs_new, epochs_tune, epochs_balance, batch, min_images, per_class, keep, probes;
    double ratio, lr, weight_decay, temperature, kd_weight, adjust, ema, anchor, pull, pull_tune;
    double max_old_drop, min_new_recall, round, round_head;

    struct delta_model base, learned;
    struct learner_samples fresh;
    struct learner_exemplars exemplars;
    struct learner_report report;
};

static void learn_release(struct learn *l)
{
    delta_model_release(&l->base);
    delta_model_release(&l->learned);
    learner_samples_release(&l->fresh);
    learner_exemplars_release(&l->exemplars);
}

/* Class folders one by one, so that what was resized or left out can be told. */
static enum delta_status read_folders(struct learn *l, struct delta_error *err)
{
    const struct delta_arch *arch = &l->base.arch;
    struct delta_dir_list list = {0};
    struct stat info;
    char path[4200];
    enum delta_status st = delta_dir_read(&list, l->fresh_path, 10000, err);

    for (size_t i = 0; !st && i < list.count; i++) {
        struct learner_samples one = LEARNER_SAMPLES_INIT;
        struct learner_folder_report found;
        struct delta_class_id id;
        st = delta_path_join(path, sizeof path, l->fresh_path, list.names[i], err);
        if (st || stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
            continue;
        st = delta_class_id_make(&id, list.names[i], err);
        if (!st)
            st = learner_samples_folder(&one, path, &id, arch->height, arch->image_width, 0, &found,
                                        err);
        if (!st && found.skipped)
            fprintf(stderr, "%s learn: '%s': left out %zu of %zu files: %s\n", LEARNER_PROGRAM,
                    path, found.skipped, found.skipped + found.read, found.first_problem);
        if (!st && found.resized)
            fprintf(stderr, "%s learn: '%s': resized %zu images to %ux%u\n", LEARNER_PROGRAM, path,
                    found.resized, arch->image_width, arch->height);
        if (!st)
            st = learner_samples_append(&l->fresh, &one, err);
        learner_samples_release(&one);
    }
    delta_dir_list_release(&list);
    if (!st && l->fresh.count == 0)
        st = delta_fail(err, DELTA_NOT_FOUND,
                        "'%s' holds no class folder; put images into '%s/CLASS/'", l->fresh_path,
                        l->fresh_path);
    return st;
}

static enum delta_status read_source(struct learn *l, struct delta_error *err)
{
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_class_id *classes = NULL;
    size_t count = 0;
    enum delta_status st =
        learner_samples_open_sized(&data, l->fresh_path, LEARNER_SPLIT_TRAIN, l->base.arch.height,
                                   l->base.arch.image_width, err);

    if (!st)
        st = learner_classes_pick(&classes, &count, l->classes, &data, NULL, err);
    if (!st)
        st = learner_samples_keep(&data, classes, count, (size_t)l->per_class, err);
    free(classes);
    if (st)
        learner_samples_release(&data);
    else
        l->fresh = data;
    return st;
}

static double given(double value, double otherwise)
{
    return value >= 0 ? value : otherwise;
}

static const char *given_text(const char *text, const char *otherwise)
{
    return text && *text ? text : otherwise;
}

static bool given_yes(const char *text, bool otherwise)
{
    return text && *text ? strcmp(text, "yes") == 0 : otherwise;
}

static struct learner_increment_options options_of(const struct learn *l)
{
    struct learner_increment_options options = learner_increment_defaults(l->method);

    options.stages = given_text(l->stages, options.stages);
    options.live = given_text(l->live, options.live);
    options.mask = given_text(l->mask, options.mask);
    options.schedule = given_text(l->schedule, options.schedule);
    options.start = given_text(l->start, options.start);
    options.blocks = given_text(l->blocks, options.blocks);
    options.balanced = given_yes(l->balanced, options.balanced);
    options.mirror = given_yes(l->mirror, options.mirror);
    options.ratio = given(l->ratio, options.ratio);
    options.epochs_new = l->epochs_new >= 0 ? (int)l->epochs_new : options.epochs_new;
    options.epochs_tune = l->epochs_tune >= 0 ? (int)l->epochs_tune : options.epochs_tune;
    if (l->epochs_balance >= 0)
        options.epochs_balance = (int)l->epochs_balance;
    options.batch = l->batch > 0 ? (size_t)l->batch : options.batch;
    options.lr = given(l->lr, options.lr);
    options.weight_decay = given(l->weight_decay, options.weight_decay);
    options.temperature = l->temperature > 0 ? l->temperature : options.temperature;
    options.kd_weight = given(l->kd_weight, options.kd_weight);
    options.adjust = given(l->adjust, options.adjust);
    options.ema = given(l->ema, options.ema);
    options.anchor = given(l->anchor, options.anchor);
    options.pull = given(l->pull, options.pull);
    options.pull_tune = given(l->pull_tune, options.pull_tune);
    options.round = given(l->round, options.round);
    options.round_head = given(l->round_head, options.round_head);
    options.max_old_drop = given(l->max_old_drop, options.max_old_drop);
    options.min_new_recall = given(l->min_new_recall, options.min_new_recall);
    if (l->min_images >= 0)
        options.min_images = (size_t)l->min_images;
    return options;
}

static enum delta_status write_delta(struct learn *l, size_t *bytes, struct delta_error *err)
{
    struct delta_provenance told = {.software = "frostline " FROSTLINE_VERSION,
                                    .new_samples = (uint32_t)l->report.new_images,
                                    .replay_samples = (uint32_t)l->report.replay_images,
                                    .tested_old = (uint32_t)l->report.probe_images,
                                    .old_before = l->report.old_before,
                                    .old_after = l->report.old_after,
                                    .tested_new = (uint32_t)l->report.held_out_new,
                                    .new_recall = l->report.new_recall};
    const struct delta_options options = {.provenance = &told};
    struct delta_buf file = {0};
    enum delta_status st;

    memcpy(told.method, l->report.method, sizeof told.method);
    st = delta_diff(&l->base, &l->learned, &options, &file, err);
    if (!st)
        st = delta_file_write(l->delta_path, delta_buf_bytes(&file), 0644, err);
    *bytes = file.len;
    delta_buf_release(&file);
    return st;
}

static json_t *stages_json(const struct learner_report *r)
{
    json_t *list = json_array();

    for (size_t i = 0; i < r->stage_count; i++) {
        const struct learner_stage_report *s = &r->stages[i];
        json_array_append_new(
            list, json_pack("{s:s, s:f, s:f, s:f, s:f, s:b, s:s}", "name", s->name, "seconds",
                            s->seconds, "image_passes", s->image_passes, "old_after", s->old_after,
                            "new_recall", s->new_recall, "accepted", s->accepted, "why", s->why));
    }
    return list;
}

static void print_stages(const struct learner_report *r)
{
    for (size_t i = 0; i < r->stage_count; i++) {
        const struct learner_stage_report *s = &r->stages[i];
        printf("  stage %-3s %6.1f s, %7.0f image passes; old %.1f %%, new %.1f %%: %s%s\n",
               s->name, s->seconds, s->image_passes, 100 * s->old_after, 100 * s->new_recall,
               s->accepted ? "accepted" : "not taken: ", s->why);
    }
}

static void print_report(const struct learn *l, bool accepted, size_t delta_bytes)
{
    const struct learner_report *r = &l->report;
    struct delta_digest digest;
    char hex[DELTA_DIGEST_HEX] = "", human[16];

    if (accepted && delta_model_digest(&l->learned, &digest, NULL) == DELTA_OK)
        delta_digest_hex(hex, &digest);
    if (!l->common.json) {
        printf("%s: %zu new samples, %zu replayed; old %.1f -> %.1f %% on %zu probes, new %.1f %% "
               "on %zu held out; %.1f s, %zu old elements changed\n",
               r->method, r->new_images, r->replay_images, 100 * r->old_before, 100 * r->old_after,
               r->probe_images, 100 * r->new_recall, r->held_out_new, r->seconds, r->live_changed);
        print_stages(r);
        if (r->cut_short)
            printf("the time was up: this is as far as it came\n");
        if (accepted)
            printf("'%s' is %s\n", l->out, hex);
        if (accepted && l->delta_path)
            printf("'%s' has %s\n", l->delta_path, delta_human_bytes(human, (double)delta_bytes));
        return;
    }
    json_t *json = json_pack(
        "{s:s, s:b, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:I}", "method", r->method,
        "accepted", accepted, "new_images", (json_int_t)r->new_images, "held_out_new",
        (json_int_t)r->held_out_new, "replay_images", (json_int_t)r->replay_images, "probe_images",
        (json_int_t)r->probe_images, "old_before", r->old_before, "old_after", r->old_after,
        "new_recall", r->new_recall, "image_passes", r->image_passes, "seconds", r->seconds,
        "live_changed", (json_int_t)r->live_changed);
    json_object_set_new(json, "cut_short", json_boolean(r->cut_short));
    json_object_set_new(json, "stages", stages_json(r));
    learner_common_json(&l->common, json);
    if (accepted)
        json_object_set_new(json, "model", json_string(hex));
    if (accepted && l->delta_path)
        json_object_set_new(json, "delta_bytes", json_integer((json_int_t)delta_bytes));
    learner_print_json(json);
}

static enum delta_status load(struct learn *l, struct delta_error *err)
{
    enum delta_status st = learner_model_open(&l->base, NULL, l->model_path, l->labels,
                                              LEARNER_SPLIT_TEST, l->order, 0, NULL, err);

    if (!st)
        st = l->classes ? read_source(l, err) : read_folders(l, err);
    if (!st && l->exemplar_path)
        st = learner_exemplars_load(&l->exemplars, l->exemplar_path, err);
    return st;
}

static enum delta_status run(struct learn *l, struct delta_error *err)
{
    const struct learner_budget *budget = learner_common_budget(&l->common, help.verb);
    const struct learner_increment_options options = options_of(l);
    size_t delta_bytes = 0;
    enum delta_status st = load(l, err);

    if (!st)
        st = learner_increment(&l->learned, &l->base, &l->fresh,
                               l->exemplar_path ? &l->exemplars : NULL, &options, budget,
                               &l->report, err);
    learner_common_done(&l->common);
    if (st == DELTA_REJECTED)
        print_report(l, false, 0);
    if (st)
        return st;
    if (l->delta_path)
        st = write_delta(l, &delta_bytes, err);
    if (!st)
        st = delta_model_save(&l->learned, l->out, err);
    if (!st && l->exemplars_out) {
        st = learner_exemplars_add(&l->exemplars, &l->learned, &l->fresh, (size_t)l->keep,
                                   (size_t)l->probes, (uint64_t)l->common.seed, err);
        if (!st)
            st = learner_exemplars_save(&l->exemplars, l->exemplars_out, err);
    }
    if (!st)
        print_report(l, true, delta_bytes);
    return st;
}

/* The option table is long because the methods have many knobs. */
static int parse(struct learn *l, int argc, char **argv)
{
    int first;
    struct delta_opt opts[] = {
        {"model", DELTA_OPT_TEXT, &l->model_path, .arg = "FILE", .help = "base model",
         .required = true},
        {"new", DELTA_OPT_TEXT, &l->fresh_path, .arg = "DIR",
         .help = "class folders with new samples", .required = true},
        {"classes", DELTA_OPT_TEXT, &l->classes, .arg = "A,B",
         .help = "take these classes of the data source that --new names"},
        {"per-class", DELTA_OPT_INT, &l->per_class, .arg = "N",
         .help = "with --classes: samples per class, 0 = all", .low = 0, .high = 1e9},
        {"exemplars", DELTA_OPT_TEXT, &l->exemplar_path, .arg = "FILE",
         .help = "old samples to replay and to test with"},
        {"method", DELTA_OPT_CHOICE, &l->method, .choices = learner_method_names(),
         .help = "how to learn"},
        {"ratio", DELTA_OPT_REAL, &l->ratio, .arg = "R",
         .help = "freeze: share frozen per layer; -1: the model's plan", .low = -1, .high = 1},
        {"epochs-new", DELTA_OPT_INT, &l->epochs_new, .arg = "N",
         .help = "epochs on new samples only; -1: the method's", .low = -1, .high = 10000},
        {"epochs-tune", DELTA_OPT_INT, &l->epochs_tune, .arg = "N",
         .help = "epochs with replay; -1: the method's", .low = -1, .high = 10000},
        {"epochs-balance", DELTA_OPT_INT, &l->epochs_balance, .arg = "N",
         .help = "e2e: balanced epochs, packnet: after pruning; -1: the method's", .low = -1,
         .high = 10000},
        {"stages", DELTA_OPT_CHOICE, &l->stages, .choices = "A|AB|ABC|AC",
         .help = "frostline: how far to go; the guard comes always"},
        {"live", DELTA_OPT_TEXT, &l->live, .arg = "PREFIX[,...]",
         .help =
             "frostline, layer4-only: layers whose names begin so learn; 'last': the last stage, "
             "'last-block': the last block of it, frostline's choice"},
        {"mask", DELTA_OPT_CHOICE, &l->mask, .choices = "importance|magnitude|random",
         .help = "what the weights to freeze are chosen by"},
        {"schedule", DELTA_OPT_CHOICE, &l->schedule, .choices = "constant|cosine|steps",
         .help = "step size over the epochs; the method's when absent"},
        {"start", DELTA_OPT_CHOICE, &l->start, .choices = "base|scratch",
         .help = "joint: what it starts from"},
        {"blocks", DELTA_OPT_TEXT, &l->blocks, .arg = "N,N",
         .help = "e2e: how many classes each earlier step learned"},
        {"balanced", DELTA_OPT_CHOICE, &l->balanced, .choices = "yes|no",
         .help = "as many images of a new class as of an old one, in each epoch with replay"},
        {"mirror", DELTA_OPT_CHOICE, &l->mirror, .choices = "yes|no",
         .help = "also learn from mirrored images"},
        {"batch", DELTA_OPT_INT, &l->batch, .arg = "N", .help = "images per step; 0: the method's",
         .low = 0, .high = 1024},
        {"lr", DELTA_OPT_REAL, &l->lr, .arg = "X", .help = "step size; -1: the method's", .low = -1,
         .high = 10},
        {"temperature", DELTA_OPT_REAL, &l->temperature, .arg = "T",
         .help = "of distillation; 0: the method's", .low = 0, .high = 100},
        {"kd-weight", DELTA_OPT_REAL, &l->kd_weight, .arg = "X",
         .help = "weight of distillation; -1: the method's", .low = -1, .high = 1000},
        {"weight-decay", DELTA_OPT_REAL, &l->weight_decay, .arg = "X",
         .help = "weight decay; -1: the method's", .low = -1, .high = 1},
        {"adjust", DELTA_OPT_REAL, &l->adjust, .arg = "X",
         .help = "logit adjustment, in log class frequencies; -1: the method's", .low = -1,
         .high = 10},
        {"ema", DELTA_OPT_REAL, &l->ema, .arg = "DECAY",
         .help = "moving average of the weights; 0: off; -1: the method's", .low = -1,
         .high = 0.99999},
        {"anchor", DELTA_OPT_REAL, &l->anchor, .arg = "X",
         .help = "frostline C: pull of the rows towards their start; -1: the method's", .low = -1,
         .high = 1e6},
        {"pull", DELTA_OPT_REAL, &l->pull, .arg = "X",
         .help = "frostline A: how far from the middle of all exemplars, as a share, unseen images "
                 "of their classes lie; 1: as far as exemplars; -1: the method's",
         .low = -1, .high = 1},
        {"pull-tune", DELTA_OPT_REAL, &l->pull_tune, .arg = "X",
         .help = "frostline B: the same of their logits", .low = -1, .high = 1},
        {"round", DELTA_OPT_REAL, &l->round, .arg = "X",
         .help = "round what moved to a grid, in mean moves of a filter, before the guard; 0: "
                 "exact; -1: the method's",
         .low = -1, .high = 100},
        {"round-head", DELTA_OPT_REAL, &l->round_head, .arg = "X",
         .help = "the same of the classifier's rows", .low = -1, .high = 100},
        {"min-images", DELTA_OPT_INT, &l->min_images, .arg = "N",
         .help = "guard: different pictures of a class; -1: the method's", .low = -1, .high = 1e9},
        {"max-old-drop", DELTA_OPT_REAL, &l->max_old_drop, .arg = "X",
         .help = "guard: loss on old classes, 0..1; -1: the method's", .low = -1, .high = 1},
        {"min-new-recall", DELTA_OPT_REAL, &l->min_new_recall, .arg = "X",
         .help = "guard: recall of new classes, 0..1; -1: the method's", .low = -1, .high = 1},
        {"data", DELTA_OPT_TEXT, &l->labels, .arg = "SOURCE",
         .help = "names the outputs of a safetensors model"},
        {"order", DELTA_OPT_TEXT, &l->order, .arg = "FILE",
         .help = "labels of unnamed outputs, one a line"},
        {"out", DELTA_OPT_TEXT, &l->out, .arg = "FILE", .help = "model file to write",
         .required = true},
        {"delta", DELTA_OPT_TEXT, &l->delta_path, .arg = "FILE",
         .help = "also write the difference from the base"},
        {"exemplars-out", DELTA_OPT_TEXT, &l->exemplars_out, .arg = "FILE",
         .help = "also write the exemplars with the new classes"},
        {"keep", DELTA_OPT_INT, &l->keep, .arg = "N",
         .help = "new samples to keep for replay, per class", .low = 1, .high = 10000},
        {"probes", DELTA_OPT_INT, &l->probes, .arg = "N",
         .help = "new samples to keep for tests, per class", .low = 0, .high = 10000},
        LEARNER_OPT_DEVICE(l->common),
        LEARNER_OPT_BUDGET(l->common),
        LEARNER_OPT_SEED(l->common),
        LEARNER_OPT_JSON(l->common),
        {0}};

    return delta_opt_parse(&help, opts, argc, argv, &first);
}

int learner_cmd_learn(int argc, char **argv)
{
    struct learn l = {.common = LEARNER_COMMON_INIT,
                      .method = "frostline",
                      .ratio = -1,
                      .epochs_new = -1,
                      .epochs_tune = -1,
                      .epochs_balance = -1,
                      .min_images = -1,
                      .lr = -1,
                      .weight_decay = -1,
                      .adjust = -1,
                      .ema = -1,
                      .anchor = -1,
                      .pull = -1,
                      .pull_tune = -1,
                      .round = -1,
                      .round_head = -1,
                      .kd_weight = -1,
                      .max_old_drop = -1,
                      .min_new_recall = -1,
                      .keep = 20,
                      .probes = 5};
    struct delta_error err = DELTA_ERROR_INIT;
    int rc = parse(&l, argc, argv);

    if (rc < 0)
        rc = run(&l, &err) ? delta_cli_fail(&help, &err) : 0;
    learn_release(&l);
    return rc;
}
