/* Admission of a contribution, before any arithmetic on it reaches a version. In the order of
 * PROTOCOL.md: structure, signature by the device's key, provenance, base known, architecture and
 * shapes, frozen elements absent, finite numbers, class ids, quota. (Size is checked while it is
 * received.) Refuses with one line that says what is wrong and what to do.
 */
#ifndef SERVER_INTAKE_H
#define SERVER_INTAKE_H

#include "release.h"

/* Checks a received file; nothing is stored.
 *   device   enrolled and connected; its key must have signed
 *   out      filled as far as checks went; state PENDING on success
 *   blame    true: the verdict is about these very bytes by this very device, for ever (worth
 *            recording); false: it may be otherwise later, or the bytes may not be the device's
 *   fails    TRUNCATED FORMAT LIMIT DIGEST UNSUPPORTED (structure), SIGNATURE UNTRUSTED, MISMATCH
 *            (provenance, architecture, shapes, frozen, classes), BASE_UNKNOWN, NONFINITE,
 *            LIMIT (quota); IO, NO_MEMORY */
DELTA_MUST_USE enum delta_status server_intake_check(struct server_keeper *keeper,
                                                     const struct server_device *device,
                                                     const char *path, uint32_t max_pending,
                                                     struct server_contribution *out, bool *blame,
                                                     struct delta_error *err);

#endif
