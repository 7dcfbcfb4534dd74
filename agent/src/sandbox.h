/* Runs a job in a child process of its own: no network (seccomp), no other program, limited memory
 * and time, low priority, none of the parent's descriptors. What reads foreign images and trains
 * on them runs here; a crash there is a failure here, and never the agent's end. */
#ifndef AGENT_SANDBOX_H
#define AGENT_SANDBOX_H

#include <jansson.h>

#include "delta/status.h"
#include "env.h"

struct agent_limits {
    int64_t time_ms;     /* 0 = 15 min */
    size_t memory_bytes; /* address space; 0 = unlimited (and under sanitizers) */
    bool open_network;   /* true: on a kernel without seccomp, learn all the same */
};

/* The job, in the child. `result` is an object to fill. */
typedef enum delta_status agent_job(void *context, json_t *result, struct delta_error *err);

/*   result_path  a file that the child writes and the parent reads and removes
 *   result       what the job filled in, whatever its status; json_decref() it; NULL when the
 *                child ended without telling
 *   fails        what the job fails with; LIMIT (time), NO_MEMORY, INTERNAL (it crashed),
 *                INTERRUPTED, CONFIG (no seccomp here; the text says what to do) */
DELTA_MUST_USE enum delta_status agent_sandbox_run(agent_job *job, void *context,
                                                   const char *result_path,
                                                   const struct agent_limits *limits,
                                                   const struct agent_env *env, json_t **result,
                                                   struct delta_error *err);

#endif
