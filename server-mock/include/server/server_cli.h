/* The program frostline-server in-process, so that tests can call it. */
#ifndef SERVER_CLI_H
#define SERVER_CLI_H

int server_cli_main(int argc, char **argv); /* returns the exit status */

#endif
