/* Programs with verbs and one option table per verb, which drives parsing (getopt_long),
 * environment fallbacks, --help, `--help=man` (troff, from which the man pages are made) and
 * `PROGRAM --help=bash` (completion).
 * These functions belong to programs: unlike the rest of the library they print. */
#ifndef DELTA_CLI_H
#define DELTA_CLI_H

#include "delta/buf.h"

enum delta_opt_kind {
    DELTA_OPT_FLAG,  /* bool */
    DELTA_OPT_TEXT,  /* const char *, borrowed from argv or the environment */
    DELTA_OPT_LIST,  /* struct delta_opt_list: may be given several times */
    DELTA_OPT_INT,   /* int64_t within [low, high] */
    DELTA_OPT_REAL,  /* double within [low, high] */
    DELTA_OPT_CHOICE /* const char *, one of `choices` "a|b|c" */
};

#define DELTA_OPT_LIST_MAX 64
struct delta_opt_list {
    const char *items[DELTA_OPT_LIST_MAX];
    size_t count;
};

struct delta_opt {
    const char *name; /* "ratio" for --ratio; NULL ends a table */
    enum delta_opt_kind kind;
    void *value;         /* already holds the default */
    const char *arg;     /* "FILE"; NULL for flags */
    const char *help;    /* one line, with the default in words where it is not obvious */
    const char *env;     /* environment variable used when the option is absent; may be NULL */
    const char *choices; /* CHOICE only */
    double low, high;    /* INT and REAL */
    bool required;
};

struct delta_verb_help {
    const char *program;  /* "frostline-delta" */
    const char *verb;     /* "inspect"; NULL for a program without verbs */
    const char *operands; /* "FILE..."; "" for none */
    const char *summary;  /* one line */
    const char *details;  /* paragraphs; may be NULL */
    int min_operands;
    int max_operands; /* -1: any number */
};

/* Parses argv[1..]; argv[0] is the verb. Handles --help.
 *   returns  -1 to go on, operands are argv[*first .. argc-1]; otherwise the exit status
 *            (0 after --help, 2 after a usage error, which has been printed) */
DELTA_MUST_USE int delta_opt_parse(const struct delta_verb_help *help, struct delta_opt *opts,
                                   int argc, char **argv, int *first);

struct delta_verb {
    const char *name; /* NULL ends a table */
    const char *summary;
    int (*run)(int argc, char **argv); /* argv[0] = verb; returns the exit status */
};

/* Runs argv[1] as a verb; prints help for --help, help, or nothing; --version. */
DELTA_MUST_USE int delta_cli_run(const char *program, const char *summary,
                                 const struct delta_verb *verbs, int argc, char **argv);

/* Prints "program verb: text" to stderr and returns the exit status of the error's class. */
int delta_cli_fail(const struct delta_verb_help *help, const struct delta_error *err);

/* A progress line on stderr: redrawn in place on a terminal, every 10 s elsewhere. Shows share
 * done and time left. Silent during the first two seconds. */
struct delta_progress {
    const char *label;
    int64_t started_ms;
    int64_t shown_ms;
    bool drawn;
    bool quiet;
};
void delta_progress_start(struct delta_progress *progress, const char *label, bool quiet);
void delta_progress_at(struct delta_progress *progress, double done, double total);
void delta_progress_end(struct delta_progress *progress);

/* "12.3 KB" with powers of 1000, for people. */
const char *delta_human_bytes(char out[16], double bytes);

#endif
