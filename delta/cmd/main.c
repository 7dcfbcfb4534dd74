#include "delta/delta_cli.h"

int main(int argc, char **argv)
{
    return delta_cli_main(argc, argv);
}
