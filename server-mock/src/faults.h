/* A coordinator that misbehaves on demand, for tests of clients.
 *
 * SPEC is a comma-separated list of rules ROUTE:ACTION[:times=N], applied to the first N matching
 * requests (default: all). ROUTE: any enrol channel blob contribution report status.
 *   drop-after=BYTES   cut the connection after so many bytes of the answer's body; for an upload
 *                      after so many bytes of the request's body
 *   delay=MS           wait before answering
 *   status=CODE        answer with this HTTP status and do nothing else
 *   truncate=BYTES     a complete answer whose body ends after so many bytes
 *   flip=BYTE          flip the lowest bit of this byte of the answer's body
 */
#ifndef SERVER_FAULTS_H
#define SERVER_FAULTS_H

#include "delta/status.h"

#include <stdbool.h>
#include <stdint.h>

#define SERVER_FAULT_RULES 16

enum server_fault_action {
    SERVER_FAULT_NONE,
    SERVER_FAULT_DROP,
    SERVER_FAULT_DELAY,
    SERVER_FAULT_STATUS,
    SERVER_FAULT_TRUNCATE,
    SERVER_FAULT_FLIP
};

struct server_fault {
    enum server_fault_action action;
    uint64_t value;
};

struct server_faults {
    struct {
        char route[16];
        struct server_fault fault;
        uint64_t left; /* requests it still applies to */
    } rules[SERVER_FAULT_RULES];
    size_t count;
};

/* spec NULL or "": none.  fails: CONFIG */
DELTA_MUST_USE enum delta_status server_faults_parse(struct server_faults *out, const char *spec,
                                                     struct delta_error *err);
/* The rule for this request, if any; uses it up once. Event loop only. */
struct server_fault server_faults_take(struct server_faults *faults, const char *route);

#endif
