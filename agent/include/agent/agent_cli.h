/* The program frostline-agent in-process, so that tests can call it. */
#ifndef AGENT_CLI_H
#define AGENT_CLI_H

int agent_cli_main(int argc, char **argv); /* returns the exit status */

#endif
