/* The program frostline-delta in-process, so that tests can call it. */
#ifndef DELTA_DELTA_CLI_H
#define DELTA_DELTA_CLI_H

int delta_cli_main(int argc, char **argv); /* returns the exit status */

#endif
