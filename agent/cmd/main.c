#include "agent/agent_cli.h"

int main(int argc, char **argv)
{
    return agent_cli_main(argc, argv);
}
