#include <stdio.h>
#include <string.h>

#include "learner_verbs.h"

static const struct delta_verb_help help = {
    .program = LEARNER_PROGRAM,
    .verb = "eval",
    .operands = "",
    .summary = "Tests a model on labelled images: largest logit, all outputs competing.",
    .details = "The model is a .flm or a safetensors file; outputs and images are matched by class "
               "id. A safetensors file without class names needs --order, or labels of its own.\n\n"
               "Images whose class the model lacks are left out, unless --all-classes counts them "
               "as wrong.\n\n" LEARNER_BUDGET_HELP
               "When the time is up, it fails: half a test is none.\n\n" LEARNER_DATA_HELP,
};

static json_t *scores_json(const struct learner_scores *scores, const struct delta_model *model)
{
    json_t *list = json_array();

    for (size_t k = 0; k < scores->class_count; k++) {
        if (scores->classes[k].images == 0)
            continue;
        json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "id", model->classes[k].text,
                                              "images", (json_int_t)scores->classes[k].images,
                                              "correct", (json_int_t)scores->classes[k].correct));
    }
    return list;
}

static void print_text(const struct learner_scores *scores, const struct delta_model *model,
                       double top1, const char *device)
{
    for (size_t k = 0; k < scores->class_count; k++)
        if (scores->classes[k].images)
            printf("%-24s %5zu of %5zu  %6.2f %%\n", model->classes[k].text,
                   scores->classes[k].correct, scores->classes[k].images,
                   100.0 * (double)scores->classes[k].correct / (double)scores->classes[k].images);
    printf("top-1 %.2f %% on %zu images, %.1f s on %s\n", top1, scores->images, scores->seconds,
           device);
}

/* At most `limit` images of each class, all classes kept. */
static enum delta_status keep_first(struct learner_samples *data, size_t limit,
                                    struct delta_error *err)
{
    return limit ? learner_samples_keep(data, data->classes, data->class_count, limit, err)
                 : DELTA_OK;
}

int learner_cmd_eval(int argc, char **argv)
{
    struct learner_common common = LEARNER_COMMON_INIT;
    const char *model_path = NULL, *source = NULL, *order = NULL, *split = "test";
    int64_t classes = 0, limit = 0;
    bool all = false;
    struct delta_opt opts[] = {
        {"model", DELTA_OPT_TEXT, &model_path, .arg = "FILE", .help = "model to test",
         .required = true},
        {"data", DELTA_OPT_TEXT, &source, .arg = "SOURCE", .help = "labelled images",
         .env = "FROSTLINE_DATA", .required = true},
        {"split", DELTA_OPT_CHOICE, &split, .choices = "train|test", .help = "part of the data"},
        {"order", DELTA_OPT_TEXT, &order, .arg = "FILE",
         .help = "labels of unnamed outputs, one a line"},
        {"classes", DELTA_OPT_INT, &classes, .arg = "N",
         .help = "number of outputs that the model must have, 0 = any", .low = 0, .high = 65535},
        {"limit", DELTA_OPT_INT, &limit, .arg = "N", .help = "images per class, 0 = all", .low = 0,
         .high = 1e9},
        {"all-classes", DELTA_OPT_FLAG, &all, .help = "count images of unknown classes as wrong"},
        LEARNER_OPT_DEVICE(common),
        LEARNER_OPT_BUDGET(common),
        LEARNER_OPT_JSON(common),
        {0}};
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_model model = DELTA_MODEL_INIT;
    struct learner_scores scores = {0};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest digest;
    char device[16], hex[DELTA_DIGEST_HEX];
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);
    enum delta_status st;

    if (rc >= 0)
        return rc;
    const struct learner_budget *budget = learner_common_budget(&common, help.verb);
    st = learner_model_open(&model, &data, model_path, source,
                            strcmp(split, "test") == 0 ? LEARNER_SPLIT_TEST : LEARNER_SPLIT_TRAIN,
                            order, (size_t)classes, &digest, &err);
    if (!st)
        st = all ? keep_first(&data, (size_t)limit, &err)
                 : learner_samples_known(&data, &model, (size_t)limit, &err);
    if (!st)
        st = learner_evaluate(&scores, &model, &data, budget, &err);
    learner_common_done(&common);
    if (!st) {
        const double top1 =
            scores.images ? 100.0 * (double)scores.correct / (double)scores.images : 0;
        learner_device_name(device, sizeof device, &model, budget);
        delta_digest_hex(hex, &digest);
        if (common.json) {
            json_t *json =
                json_pack("{s:f, s:I, s:I, s:f, s:s, s:s, s:o}", "top1", top1, "images",
                          (json_int_t)scores.images, "correct", (json_int_t)scores.correct,
                          "seconds", scores.seconds, "device", device, "model", hex, "classes",
                          scores_json(&scores, &model));
            learner_common_json(&common, json);
            learner_print_json(json);
        } else {
            print_text(&scores, &model, top1, device);
        }
    }
    learner_scores_release(&scores);
    learner_samples_release(&data);
    delta_model_release(&model);
    return st ? delta_cli_fail(&help, &err) : 0;
}
