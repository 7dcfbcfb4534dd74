/* diff: how any two versions differ. Makes nothing; 'make' does. */
#include <stdio.h>

#include "cmd.h"

static int show(const struct cmd_file files[2], const struct delta_comparison *comparison,
                bool json)
{
    const struct cmd_view view = {NULL, comparison, &files[0].model};

    if (json) {
        json_t *root = cmd_json_comparison(comparison);
        json_object_set_new(root, "base", cmd_json_digest(&files[0].version));
        json_object_set_new(root, "target", cmd_json_digest(&files[1].version));
        return cmd_print_json(root);
    }
    printf("%-11s%s\n", "from", files[0].path);
    cmd_print_digest("", &files[0].version);
    printf("%-11s%s\n", "to", files[1].path);
    cmd_print_digest("", &files[1].version);
    if (!comparison->same_arch)
        printf("%-11sanother architecture or input\n", "network");
    cmd_print_classes_changed(&view);
    cmd_print_changes(&view);
    return cmd_finish(0);
}

int cmd_diff(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "diff",
        "A B",
        "Shows how any two versions differ: classes, and every tensor.",
        "A and B are models (.flm or safetensors), in whatever order and of whatever\n"
        "descent. Head rows are compared by class. 'make' makes the delta between two\n"
        "versions.",
        2,
        2};
    bool json = false;
    struct delta_opt opts[] = {
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_comparison comparison = {.count = 0};
    struct cmd_file files[2] = {{.path = NULL}, {.path = NULL}};
    enum delta_status st = DELTA_OK;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    for (int i = 0; i < 2 && !st; i++) {
        st = cmd_model_open(&files[i], argv[first + i], &err);
        delta_buf_release(&files[i].bytes); /* the model holds a copy */
    }
    if (!st)
        st = delta_compare(&files[0].model, &files[1].model, &comparison, &err);
    rc = st ? delta_cli_fail(&help, &err) : show(files, &comparison, json);
    delta_comparison_release(&comparison);
    cmd_file_release(&files[0]);
    cmd_file_release(&files[1]);
    return rc;
}
