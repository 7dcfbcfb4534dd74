/* JSON that anybody may have written, parsed within bounds. Private to the folder. */
#ifndef DELTA_JSON_IN_H
#define DELTA_JSON_IN_H

#include <jansson.h>

#include "delta/buf.h"

/* The parser takes up to some forty times as much memory as the text has bytes, and much more than
 * that for brackets, which are counted first. */
#define DELTA_JSON_BRACKETS_MAX 65536

/* One object, without duplicate keys and with nothing behind it.
 *   out      json_decref() it; NULL on failure
 *   fails    FORMAT, LIMIT (brackets); the text does not name the file */
DELTA_MUST_USE enum delta_status delta_json_parse(struct delta_bytes text, json_t **out,
                                                  struct delta_error *err);

#endif
