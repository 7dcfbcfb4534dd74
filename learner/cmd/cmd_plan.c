#include <stdio.h>

#include "learner_verbs.h"

static const struct delta_verb_help help = {
    .program = LEARNER_PROGRAM,
    .verb = "plan",
    .operands = "",
    .summary = "Chooses which weights later increments may not move, and writes the model with it.",
    .details =
        "Importance is (gradient x weight)^2 with the gradient of the mean cross-entropy over "
        "the data; in each layer the top share is frozen. Batch norm is frozen whole, the "
        "classifier stays live. A safetensors model gets its class names from the "
        "data.\n\n" LEARNER_BUDGET_HELP "When the time is up, it fails.\n\n" LEARNER_DATA_HELP,
};

static void count_live(const struct delta_model *model, size_t *live, size_t *total)
{
    *live = *total = 0;
    for (size_t i = 0; i < model->tensor_count; i++) {
        *live += delta_tensor_live_count(&model->tensors[i]);
        *total += model->tensors[i].count;
    }
}

static void print_result(const struct delta_model *model, const struct delta_digest *digest,
                         const char *out, const struct learner_samples *data,
                         const struct learner_importance_check *found,
                         const struct learner_common *common)
{
    const size_t images = data->count;
    char hex[DELTA_DIGEST_HEX];
    size_t live, total;

    delta_digest_hex(hex, digest);
    count_live(model, &live, &total);
    if (common->json) {
        json_t *json = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "out", out, "model", hex, "live",
                                 (json_int_t)live, "elements", (json_int_t)total, "images",
                                 (json_int_t)images, "classes", (json_int_t)model->class_count);
        if (found->weights)
            json_object_set_new(json, "rank_correlation", json_real(found->rank_correlation));
        learner_common_json(common, json);
        learner_print_json(json);
    } else {
        printf("%zu of %zu elements stay live, by %zu images; '%s' is %s\n", live, total, images,
               out, hex);
        if (found->weights)
            printf("rank correlation of (gradient x weight)^2 and the squared change of the loss "
                   "without the weight: %.3f on %zu weights\n",
                   found->rank_correlation, found->weights);
    }
}

int learner_cmd_plan(int argc, char **argv)
{
    struct learner_common common = LEARNER_COMMON_INIT;
    const char *model_path = NULL, *source = NULL, *order = NULL, *out = NULL;
    int64_t per_class = 50;
    const char *mask = "importance", *live = NULL;
    int64_t check = 0;
    bool filters = false;
    double ratio = 0.9;
    struct learner_importance_check found = {0};
    struct delta_opt opts[] = {
        {"model", DELTA_OPT_TEXT, &model_path, .arg = "FILE", .help = "model to plan for",
         .required = true},
        {"data", DELTA_OPT_TEXT, &source, .arg = "SOURCE",
         .help = "images of the classes that it knows", .env = "FROSTLINE_DATA", .required = true},
        {"order", DELTA_OPT_TEXT, &order, .arg = "FILE",
         .help = "labels of unnamed outputs, one a line"},
        {"ratio", DELTA_OPT_REAL, &ratio, .arg = "R", .help = "share of each layer to freeze",
         .low = 0, .high = 1},
        {"filters", DELTA_OPT_FLAG, &filters,
         .help = "freeze whole filters, by the sum over their weights"},
        {"mask", DELTA_OPT_CHOICE, &mask, .choices = "importance|magnitude|random",
         .help = "what is ranked"},
        {"live", DELTA_OPT_TEXT, &live, .arg = "PREFIX[,...]",
         .help = "only layers whose names begin so may learn; 'last': those of the last stage, "
                 "'last-block': of its last block"},
        {"check", DELTA_OPT_INT, &check, .arg = "N",
         .help = "also set N random weights to zero, one by one, and tell how importance and the "
                 "measured change of the loss rank them; costs N passes over the images",
         .low = 0, .high = 1e6},
        {"per-class", DELTA_OPT_INT, &per_class, .arg = "N",
         .help = "images per class to judge by, 0 = all", .low = 0, .high = 1e9},
        {"out", DELTA_OPT_TEXT, &out, .arg = "FILE", .help = "model file to write",
         .required = true},
        LEARNER_OPT_DEVICE(common),
        LEARNER_OPT_BUDGET(common),
        LEARNER_OPT_JSON(common),
        {0}};
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest digest;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);
    enum delta_status st;

    if (rc >= 0)
        return rc;
    const struct learner_budget *budget = learner_common_budget(&common, help.verb);
    st = learner_model_open(&model, &data, model_path, source, LEARNER_SPLIT_TRAIN, order, 0, NULL,
                            &err);
    if (!st)
        st = learner_samples_known(&data, &model, (size_t)per_class, &err);
    if (!st)
        st = learner_freeze_plan_by(
            &model, &data,
            &(struct learner_plan_choice){
                .ratio = ratio, .filters = filters, .mask = mask, .live = live},
            budget, &err);
    if (!st && check)
        st = learner_importance_measure(&found, &model, &data, (size_t)check, budget, &err);
    learner_common_done(&common);
    if (!st)
        st = delta_model_save(&model, out, &err);
    if (!st)
        st = delta_model_digest(&model, &digest, &err);
    if (!st)
        print_result(&model, &digest, out, &data, &found, &common);
    learner_samples_release(&data);
    delta_model_release(&model);
    return st ? delta_cli_fail(&help, &err) : 0;
}
