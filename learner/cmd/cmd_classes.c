#include <stdio.h>
#include <stdlib.h>

#include "learner_verbs.h"

static const struct delta_verb_help help = {
    .program = LEARNER_PROGRAM,
    .verb = "classes",
    .operands = "",
    .summary = "Lists the classes of a data source, in its own order or in that of --order.",
    .details = LEARNER_DATA_HELP,
};

int learner_cmd_classes(int argc, char **argv)
{
    struct learner_common common = LEARNER_COMMON_INIT;
    const char *source = NULL, *order = NULL;
    struct delta_opt opts[] = {{"data", DELTA_OPT_TEXT, &source, .arg = "SOURCE",
                                .help = "labelled images", .env = "FROSTLINE_DATA",
                                .required = true},
                               {"order", DELTA_OPT_TEXT, &order, .arg = "FILE",
                                .help = "labels in the wanted order, one a line"},
                               LEARNER_OPT_JSON(common),
                               {0}};
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_class_id *classes = NULL;
    struct delta_error err = DELTA_ERROR_INIT;
    size_t count = 0;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);
    enum delta_status st;

    if (rc >= 0)
        return rc;
    st = learner_samples_open(&data, source, LEARNER_SPLIT_TEST, &err);
    if (!st)
        st = learner_classes_ordered(&classes, &count, &data, order, &err);
    if (!st && common.json) {
        json_t *list = json_array();
        for (size_t i = 0; i < count; i++)
            json_array_append_new(list, json_string(classes[i].text));
        learner_print_json(json_pack("{s:o}", "classes", list));
    }
    for (size_t i = 0; !st && !common.json && i < count; i++)
        printf("%s\n", classes[i].text);
    free(classes);
    learner_samples_release(&data);
    return st ? delta_cli_fail(&help, &err) : 0;
}
