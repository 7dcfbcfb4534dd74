#include "server/server_cli.h"

int main(int argc, char **argv)
{
    return server_cli_main(argc, argv);
}
