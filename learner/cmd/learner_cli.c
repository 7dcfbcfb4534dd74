#include "learner/learner_cli.h"

#include "learner_verbs.h"

int learner_cli_main(int argc, char **argv)
{
    static const struct delta_verb verbs[] = {
        {"eval", "test a model on labelled images", learner_cmd_eval},
        {"learn", "add new classes to a model", learner_cmd_learn},
        {"pretrain", "train a base model from scratch", learner_cmd_pretrain},
        {"plan", "choose which weights are frozen", learner_cmd_plan},
        {"exemplars", "choose the old samples that a device keeps", learner_cmd_exemplars},
        {"experiment", "run a plan of experiments, report on one", learner_cmd_experiment},
        {"networks", "list the networks and what they cost", learner_cmd_networks},
        {"classes", "list the classes of a data source", learner_cmd_classes},
        {"export-images", "write images of a data source as PNG files", learner_cmd_export_images},
        {NULL, NULL, NULL},
    };

    return delta_cli_run(LEARNER_PROGRAM, "Trains image classifiers and teaches them new classes.",
                         verbs, argc, argv);
}
