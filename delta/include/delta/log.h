/* Log lines: time, level, module, text with key=value pairs. Goes to stderr unless a sink is set.
 * Never log keys, tokens or samples. Threads: any; each line is written by one call. */
#ifndef DELTA_LOG_H
#define DELTA_LOG_H

#include "delta/status.h"

enum delta_log_level { DELTA_LOG_ERROR, DELTA_LOG_WARN, DELTA_LOG_INFO, DELTA_LOG_DEBUG };

typedef void delta_log_sink(void *context, enum delta_log_level level, const char *line);

/* Lines above `level` are dropped. Default: INFO to stderr. Call before threads start. */
void delta_log_set(enum delta_log_level level, delta_log_sink *sink, void *context);

void delta_log(enum delta_log_level level, const char *module, const char *fmt, ...)
    DELTA_PRINTF(3, 4);

#define delta_log_error(module, ...) delta_log(DELTA_LOG_ERROR, module, __VA_ARGS__)
#define delta_log_warn(module, ...) delta_log(DELTA_LOG_WARN, module, __VA_ARGS__)
#define delta_log_info(module, ...) delta_log(DELTA_LOG_INFO, module, __VA_ARGS__)
#define delta_log_debug(module, ...) delta_log(DELTA_LOG_DEBUG, module, __VA_ARGS__)

#endif
