#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "learner_verbs.h"

static const struct delta_verb_help help = {
    .program = LEARNER_PROGRAM,
    .verb = "export-images",
    .operands = "",
    .summary = "Writes images as PNG files into one folder per class, as an inbox takes them.",
    .details = LEARNER_DATA_HELP,
};

int learner_cmd_export_images(int argc, char **argv)
{
    struct learner_common common = LEARNER_COMMON_INIT;
    const char *source = NULL, *order = NULL, *split = "train", *wanted = NULL, *out = NULL;
    int64_t per_class = 0;
    struct delta_opt opts[] = {
        {"data", DELTA_OPT_TEXT, &source, .arg = "SOURCE", .help = "labelled images",
         .env = "FROSTLINE_DATA", .required = true},
        {"split", DELTA_OPT_CHOICE, &split, .choices = "train|test", .help = "part of the data"},
        {"classes", DELTA_OPT_TEXT, &wanted, .arg = "A,B|N",
         .help = "these classes, or the first N; all when absent"},
        {"order", DELTA_OPT_TEXT, &order, .arg = "FILE",
         .help = "labels in the order that 'the first N' means"},
        {"per-class", DELTA_OPT_INT, &per_class, .arg = "N", .help = "images per class, 0 = all",
         .low = 0, .high = 1e9},
        {"out", DELTA_OPT_TEXT, &out, .arg = "DIR", .help = "where the class folders go",
         .required = true},
        LEARNER_OPT_JSON(common),
        {0}};
    struct learner_samples data = LEARNER_SAMPLES_INIT, part = LEARNER_SAMPLES_INIT;
    struct delta_class_id *classes = NULL;
    struct delta_error err = DELTA_ERROR_INIT;
    size_t count = 0;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);
    enum delta_status st;

    if (rc >= 0)
        return rc;
    st = learner_samples_open(
        &data, source, strcmp(split, "test") == 0 ? LEARNER_SPLIT_TEST : LEARNER_SPLIT_TRAIN, &err);
    if (!st)
        st = learner_classes_pick(&classes, &count, wanted, &data, order, &err);
    if (!st)
        st = learner_samples_select(&part, &data, classes, count, (size_t)per_class, &err);
    if (!st)
        st = learner_samples_export(&part, out, &err);
    if (!st && common.json)
        learner_print_json(json_pack("{s:I, s:I, s:s}", "images", (json_int_t)part.count, "classes",
                                     (json_int_t)count, "out", out));
    else if (!st)
        printf("%zu images of %zu classes in '%s'\n", part.count, count, out);
    free(classes);
    learner_samples_release(&part);
    learner_samples_release(&data);
    return st ? delta_cli_fail(&help, &err) : 0;
}
