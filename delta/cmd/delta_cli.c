#include "delta/delta_cli.h"

#include "cmd.h"

int delta_cli_main(int argc, char **argv)
{
    static const struct delta_verb verbs[] = {
        {"inspect", "show what a model, delta or safetensors file holds", cmd_inspect},
        {"verify", "check structure, digests, signature, and base if given", cmd_verify},
        {"diff", "make a delta from two models, or show what differs", cmd_diff},
        {"apply", "make the target model from base and delta", cmd_apply},
        {"digest", "print the names of versions", cmd_digest},
        {"keygen", "make a signing key", cmd_keygen},
        {"sign", "sign a model or delta", cmd_sign},
        {"import", "safetensors to .flm", cmd_import},
        {"export", "model to safetensors", cmd_export},
        {NULL, NULL, NULL},
    };

    return delta_cli_run(CMD_PROGRAM,
                         "Looks into, makes, checks and applies model files (.flm) and deltas "
                         "(.fld).",
                         verbs, argc, argv);
}
