#include <stdio.h>
#include <string.h>

#include "learner_verbs.h"

static const struct delta_verb_help help = {
    .program = LEARNER_PROGRAM,
    .verb = "exemplars",
    .operands = "",
    .summary = "Chooses the old samples that a device keeps for replay, and probes for its tests.",
    .details =
        "Replay samples are herded: greedily those whose mean feature comes closest to the "
        "class mean. Probes are drawn by seed from the others and never trained on. The file "
        "stays on the device; its mode is 0600.\n\n"
        "With the samples the file keeps what the network makes of them: features, and latents, "
        "which are what the layers below the last block make of the samples to replay. They "
        "take some kilobytes a sample and save about a third of the time to learn a class. Where "
        "they do not fit in the memory that --memory allows, or in 256 MB, none are "
        "kept.\n\n" LEARNER_BUDGET_HELP "When the time is up, it fails.\n\n" LEARNER_DATA_HELP,
};

int learner_cmd_exemplars(int argc, char **argv)
{
    struct learner_common common = LEARNER_COMMON_INIT;
    const char *model_path = NULL, *source = NULL, *order = NULL, *out = NULL, *latents = "yes";
    int64_t per_class = 20, probes = 5, pool = 100;
    struct delta_opt opts[] = {
        {"model", DELTA_OPT_TEXT, &model_path, .arg = "FILE", .help = "model whose features count",
         .required = true},
        {"data", DELTA_OPT_TEXT, &source, .arg = "SOURCE",
         .help = "images of the classes that it knows", .env = "FROSTLINE_DATA", .required = true},
        {"order", DELTA_OPT_TEXT, &order, .arg = "FILE",
         .help = "labels of unnamed outputs, one a line"},
        {"per-class", DELTA_OPT_INT, &per_class, .arg = "N", .help = "samples to replay per class",
         .low = 1, .high = 10000},
        {"probes", DELTA_OPT_INT, &probes, .arg = "N", .help = "samples to test with per class",
         .low = 0, .high = 10000},
        {"pool", DELTA_OPT_INT, &pool, .arg = "N",
         .help = "images per class to choose from, 0 = all", .low = 0, .high = 1e9},
        {"latents", DELTA_OPT_CHOICE, &latents, .choices = "yes|no", .help = "keep latents"},
        {"out", DELTA_OPT_TEXT, &out, .arg = "FILE", .help = "exemplar file to write",
         .required = true},
        LEARNER_OPT_DEVICE(common),
        LEARNER_OPT_BUDGET(common),
        LEARNER_OPT_SEED(common),
        LEARNER_OPT_JSON(common),
        {0}};
    struct learner_exemplars exemplars = LEARNER_EXEMPLARS_INIT;
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_error err = DELTA_ERROR_INIT;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);
    enum delta_status st;

    if (rc >= 0)
        return rc;
    const struct learner_budget *budget = learner_common_budget(&common, help.verb);
    st = learner_model_open(&model, &data, model_path, source, LEARNER_SPLIT_TRAIN, order, 0, NULL,
                            &err);
    if (!st)
        st = learner_samples_known(&data, &model, (size_t)pool, &err);
    if (!st)
        st = learner_exemplars_choose_within(&exemplars, &model, &data, (size_t)per_class,
                                             (size_t)probes, budget, &err);
    if (!st && strcmp(latents, "yes") == 0)
        st = learner_exemplars_keep_latents(&exemplars, &model, budget, &err);
    learner_common_done(&common);
    if (!st)
        st = learner_exemplars_save(&exemplars, out, &err);
    if (!st && common.json) {
        json_t *json = json_pack(
            "{s:s, s:I, s:I, s:I, s:I}", "out", out, "replay", (json_int_t)exemplars.replay.count,
            "probe", (json_int_t)exemplars.probe.count, "classes", (json_int_t)data.class_count,
            "latents", (json_int_t)exemplars.latents.count);
        learner_common_json(&common, json);
        learner_print_json(json);
    } else if (!st)
        printf("%zu samples to replay%s and %zu probes of %zu classes in '%s'\n",
               exemplars.replay.count, exemplars.latents.count ? " with latents" : "",
               exemplars.probe.count, data.class_count, out);
    learner_exemplars_release(&exemplars);
    learner_samples_release(&data);
    delta_model_release(&model);
    return st ? delta_cli_fail(&help, &err) : 0;
}
