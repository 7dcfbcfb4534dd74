#include "learner/learner_cli.h"

int main(int argc, char **argv)
{
    return learner_cli_main(argc, argv);
}
