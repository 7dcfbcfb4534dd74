/* The program frostline-learn in-process, so that tests can call it. */
#ifndef LEARNER_LEARNER_CLI_H
#define LEARNER_LEARNER_CLI_H

int learner_cli_main(int argc, char **argv); /* returns the exit status */

#endif
