/* A device of the fleet: enrols once, then learns classes from its inbox, offers what it learned to
 * the coordinator, and installs the fleet's versions. Everything it owns lies in one directory;
 * samples never leave it. Each call belongs to one thread; one process runs a directory. */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "delta/status.h"

struct agent_enrol_options {
    const char *dir;     /* made when missing, mode 0700 */
    const char *server;  /* "https://host:port" */
    const char *ca_path; /* the operator's; the only CA that the device will ever trust */
    const char *token;
    const char *device;         /* [a-z0-9._-], 1..63 bytes */
    const char *exemplars_path; /* copied into the directory, 0600; may be NULL */
};

/* Gets a certificate for this device. Enrolling again with the same directory renews it.
 *   stop     set by a signal handler; may be NULL
 *   fails    USAGE, NOT_FOUND, NET statuses, UNTRUSTED, REFUSED (token, name taken) */
DELTA_MUST_USE enum delta_status agent_enrol(const struct agent_enrol_options *options,
                                             const volatile sig_atomic_t *stop,
                                             struct delta_error *err);

struct agent_options {
    const char *dir;
    int64_t poll_s;        /* 0: what the channel document says */
    double settle_s;       /* a class is taken when nothing in its folder changed for so long */
    int64_t min_images;    /* and it holds so many */
    const char *method;    /* "frostline" | "freeze" | ... */
    const char *stages;    /* frostline: "A" (default): its rows merge with other devices' rows */
    double max_drop;       /* health check: accuracy on old classes may fall by so much, 0..1 */
    double max_old_drop;   /* guard of learning; < 0: the method's own */
    double min_new_recall; /* likewise */
    const char *device;    /* where to compute, as learner_net_options says: "cpu", "cuda:bf16" */
    int64_t threads;       /* 0: all cores */
    int64_t seed;
    int64_t learn_s;   /* learning is given up after so long */
    int64_t memory_mb; /* of learning; 0: unlimited. On the CPU the address space, too */
    bool open_network; /* learn without seccomp where the kernel lacks it */
    bool once;         /* until nothing is left to do, then return */
};
struct agent_options agent_options_defaults(void);

/* Runs until *stop is set (or, with `once`, until nothing is left to do).
 *   fails    CONFIG (not enrolled), EXISTS (another process runs this directory), ENV statuses at
 *            the start; with `once` also what kept it from finishing */
DELTA_MUST_USE enum delta_status agent_run(const struct agent_options *options,
                                           const volatile sig_atomic_t *stop,
                                           struct delta_error *err);

/* What the directory tells, as one JSON object (see agent.8.md); free() *text. Takes no lock: a
 * running agent is not disturbed.  fails: CONFIG (not enrolled), NO_MEMORY */
DELTA_MUST_USE enum delta_status agent_status_json(const char *dir, char **text,
                                                   struct delta_error *err);

#endif
