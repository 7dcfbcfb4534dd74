/* digest: names of versions. */
#include <stdio.h>

#include "cmd.h"

int cmd_digest(int argc, char **argv)
{
    static const struct delta_verb_help help = {
        CMD_PROGRAM,
        "digest",
        "FILE...",
        "Prints the name of a model version, or of the version a delta leads to.",
        "One line per file: digest, two blanks, file name.",
        1,
        -1};
    bool json = false;
    struct delta_opt opts[] = {
        {.name = "json", .kind = DELTA_OPT_FLAG, .value = &json, .help = "print one JSON object"},
        {.name = NULL}};
    struct delta_error err = DELTA_ERROR_INIT;
    json_t *list;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    list = json_array();
    for (int i = first; i < argc; i++) {
        struct cmd_file file;
        char hex[DELTA_DIGEST_HEX];
        if (cmd_file_open(&file, argv[i], &err)) {
            json_decref(list);
            return delta_cli_fail(&help, &err);
        }
        delta_digest_hex(hex, file.kind == CMD_DELTA ? &file.reader.target : &file.version);
        if (json)
            json_array_append_new(list, json_pack("{s:o, s:s, s:s}", "file", cmd_json_text(argv[i]),
                                                  "kind", cmd_kind_name(file.kind), "digest", hex));
        else
            printf("%s  %s\n", hex, argv[i]);
        cmd_file_release(&file);
    }
    if (json)
        return cmd_print_json(json_pack("{s:o}", "digests", list));
    json_decref(list);
    return cmd_finish(0);
}
