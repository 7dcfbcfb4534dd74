/* Class ids: the fleet-wide, stable identity of a class is its normalised name. */
#ifndef DELTA_CLASS_ID_H
#define DELTA_CLASS_ID_H

#include "delta/status.h"

#define DELTA_CLASS_ID_MAX 63 /* bytes, without the NUL */

struct delta_class_id {
    char text[DELTA_CLASS_ID_MAX + 1];
};

/* Normalises a name from a folder, a label file or a peer: ASCII lower case, runs of blanks become
 * one '_', then only [a-z0-9._-] remain, not starting with '.' or '-'.
 *   fails    FORMAT names the offending character, LIMIT when too long, FORMAT when empty */
DELTA_MUST_USE enum delta_status delta_class_id_make(struct delta_class_id *out, const char *name,
                                                     struct delta_error *err);
/* FORMAT unless `text` is already in normal form (what a peer must send). */
DELTA_MUST_USE enum delta_status delta_class_id_check(const char *text, struct delta_error *err);

#endif
