/* The verbs of frostline-server; each returns an exit status. */
#ifndef SERVER_VERBS_H
#define SERVER_VERBS_H

int server_verb_init(int argc, char **argv);
int server_verb_publish(int argc, char **argv);
int server_verb_token(int argc, char **argv);
int server_verb_run(int argc, char **argv);
int server_verb_merge(int argc, char **argv);
int server_verb_revoke(int argc, char **argv);
int server_verb_remove(int argc, char **argv);
int server_verb_status(int argc, char **argv);
int server_verb_devices(int argc, char **argv);
int server_verb_versions(int argc, char **argv);
int server_verb_contributions(int argc, char **argv);

#endif
