#include "delta/delta_cli.h"

#include "cmd.h"

int delta_cli_main(int argc, char **argv)
{
    static const struct delta_verb verbs[] = {
        {"inspect", "show what a model, delta or safetensors file holds", cmd_inspect},
        {"verify", "answer whether a file is sound and whether to trust it", cmd_verify},
        {"diff", "show how any two versions differ", cmd_diff},
        {"log", "show the chain of versions in a directory", cmd_log},
        {"cat", "write one tensor's values", cmd_cat},
        {"make", "make the delta between two versions", cmd_make},
        {"apply", "make the target model from base and deltas", cmd_apply},
        {"invert", "make the delta back to the base", cmd_invert},
        {"squash", "make one delta of a chain", cmd_squash},
        {"digest", "print the names of versions", cmd_digest},
        {"keygen", "make a signing key", cmd_keygen},
        {"sign", "sign a model or delta", cmd_sign},
        {"import", "safetensors or npz to .flm", cmd_import},
        {"export", "model to safetensors or npz", cmd_export},
        {"push", "put a model or delta into an OCI image layout", cmd_push},
        {"pull", "get one out of it, or list them", cmd_pull},
        {NULL, NULL, NULL},
    };

    return delta_cli_run(CMD_PROGRAM,
                         "Looks into, makes, checks and applies model files (.flm) and deltas "
                         "(.fld).",
                         verbs, argc, argv);
}
