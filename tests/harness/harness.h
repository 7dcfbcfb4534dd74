/* What tests share: cmocka's includes in the order it wants, scratch directories, where the
 * optional reference data lies, child programs. */
#ifndef HARNESS_H
#define HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include "delta/status.h"

/* A status as an assertion: on failure the error's text is printed. */
#define assert_ok(call)                                                                            \
    do {                                                                                           \
        const enum delta_status assert_st = (call);                                                \
        if (assert_st)                                                                             \
            fail_msg("%s: %s: %s", #call, delta_status_name(assert_st), err.text);                 \
    } while (0)
/* Needs a `struct delta_error err` in scope, as assert_ok does. */
#define assert_status(call, wanted)                                                                \
    do {                                                                                           \
        const enum delta_status assert_st = (call);                                                \
        if (assert_st != (wanted))                                                                 \
            fail_msg("%s: %s instead of %s: %s", #call, delta_status_name(assert_st),              \
                     delta_status_name(wanted), err.text);                                         \
    } while (0)

/* A fresh directory under $TMPDIR or /tmp; removed with its content by harness_scratch_remove. */
struct harness_scratch {
    char path[256];
};
void harness_scratch_make(struct harness_scratch *scratch);
void harness_scratch_remove(struct harness_scratch *scratch);
/* "<scratch>/<name>", in one of eight rotating static buffers. */
const char *harness_path(const struct harness_scratch *scratch, const char *name);

/* Reference data beside the project: "<root>/../shared/<name>", or below $FROSTLINE_SHARED. NULL
 * when it is not there; prints a SKIP line then, and the caller calls skip(). */
const char *harness_shared(const char *name);

/* About how many times slower plain loops run than natively, as $FROSTLINE_TEST_SLOWDOWN says; 1
 * without it. The presets set it for sanitizers and emulators, where minutes of an oracle's plain
 * loops say what they say elsewhere: a test that checks many alike may check one in so many. */
size_t harness_slowdown(void);

/* Runs a program of ours ("frostline-delta") with arguments, NULL-terminated. Returns its exit
 * status, 128+signal when killed; stdout and stderr are kept (NUL-terminated, truncated). */
struct harness_result {
    int status;
    char out[65536];
    char err[16384];
};
void harness_run(struct harness_result *result, const char *program, ...) __attribute__((sentinel));
/* Path of a program of ours. */
const char *harness_program(const char *name);

#endif
