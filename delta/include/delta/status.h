/* Status codes and error details: the one table behind every failure in the tree.
 *
 * Every fallible function returns `enum delta_status` and takes a `struct delta_error *` last.
 * The class of a status decides the reaction: NET retries with backoff, ENV (disk, memory) waits
 * and reports, INPUT and TRUST reject and never retry the same bytes, BUG stops.
 * Values are stored and sent; they are never reused.
 */
#ifndef DELTA_STATUS_H
#define DELTA_STATUS_H

#include <stdarg.h>
#include <stddef.h>

#define DELTA_MUST_USE __attribute__((warn_unused_result))
#define DELTA_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

enum delta_class {
    DELTA_CLASS_NONE,  /* success, or "no" as an answer */
    DELTA_CLASS_USAGE, /* the caller's command line or configuration */
    DELTA_CLASS_INPUT, /* the bytes are wrong; the same bytes stay wrong */
    DELTA_CLASS_TRUST, /* the bytes or the peer are not trusted */
    DELTA_CLASS_NET,   /* the peer did not answer as it should; later may work */
    DELTA_CLASS_ENV,   /* disk, memory, permissions on this machine */
    DELTA_CLASS_BUG    /* ours */
};

/*    name,         value, class, text */
#define DELTA_STATUS_MAP(X)                                                                        \
    X(OK, 0, NONE, "ok")                                                                           \
    X(INTERNAL, 1, BUG, "internal error")                                                          \
    X(TRUNCATED, 2, INPUT, "input ends early")                                                     \
    X(FORMAT, 3, INPUT, "malformed input")                                                         \
    X(LIMIT, 4, INPUT, "input exceeds a limit")                                                    \
    X(DIGEST, 5, INPUT, "digest does not match")                                                   \
    X(BASE_UNKNOWN, 6, INPUT, "base version is not known here")                                    \
    X(MISMATCH, 7, INPUT, "parts do not fit together")                                             \
    X(EXISTS, 8, INPUT, "exists already")                                                          \
    X(NOT_FOUND, 9, INPUT, "not found")                                                            \
    X(UNSUPPORTED, 10, INPUT, "not supported")                                                     \
    X(NONFINITE, 11, INPUT, "number is not finite")                                                \
    X(REFUSED, 12, INPUT, "peer refused the request")                                              \
    X(REJECTED, 13, NONE, "rejected by a check")                                                   \
    X(SIGNATURE, 14, TRUST, "signature does not match")                                            \
    X(UNTRUSTED, 15, TRUST, "key or peer is not trusted")                                          \
    X(EXPIRED, 16, TRUST, "document has expired")                                                  \
    X(ROLLBACK, 17, TRUST, "document is older than one seen")                                      \
    X(IO, 18, ENV, "input/output error")                                                           \
    X(NO_SPACE, 19, ENV, "no space left on device")                                                \
    X(NO_MEMORY, 20, ENV, "out of memory")                                                         \
    X(CONNECT, 21, NET, "cannot connect")                                                          \
    X(TIMEOUT, 22, NET, "peer took too long")                                                      \
    X(BUSY, 23, NET, "peer is busy")                                                               \
    X(USAGE, 24, USAGE, "wrong usage")                                                             \
    X(CONFIG, 25, USAGE, "wrong configuration")                                                    \
    X(INTERRUPTED, 26, ENV, "interrupted")

enum delta_status {
#define DELTA_STATUS_ENUM(name, value, class, text) DELTA_##name = (value),
    DELTA_STATUS_MAP(DELTA_STATUS_ENUM)
#undef DELTA_STATUS_ENUM
};

/* Detail of a failure, owned by the caller, fixed in size so that failing never allocates. */
struct delta_error {
    enum delta_status status;
    char text[480]; /* one line, lower case, no full stop; names the file and the remedy */
};

#define DELTA_ERROR_INIT                                                                           \
    {                                                                                              \
        DELTA_OK, ""                                                                               \
    }

/* Fills *err (may be NULL) and returns `status`, so that `return delta_fail(err, ...)` reads well.
 */
enum delta_status delta_fail(struct delta_error *err, enum delta_status status, const char *fmt,
                             ...) DELTA_PRINTF(3, 4);

/* Maps errno to IO, NO_SPACE, NO_MEMORY or NOT_FOUND; the text becomes "<what>: <strerror>". */
enum delta_status delta_fail_errno(struct delta_error *err, const char *fmt, ...)
    DELTA_PRINTF(2, 3);

/* Puts "<prefix>: " before the text of a failure that comes from below; keeps the status. */
enum delta_status delta_fail_in(struct delta_error *err, enum delta_status status, const char *fmt,
                                ...) DELTA_PRINTF(3, 4);

const char *delta_status_text(enum delta_status status);
const char *delta_status_name(enum delta_status status); /* "SIGNATURE" */
enum delta_class delta_status_class(enum delta_status status);

/* From a stored or received number; an unknown one becomes INTERNAL. */
enum delta_status delta_status_from(int value);

/* Exit status of a program: 0 ok, 1 no, 2 usage, 3 input, 4 trust, 5 network, 6 environment, 7 bug
 */
int delta_status_exit(enum delta_status status);

#endif
