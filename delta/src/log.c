#include "delta/log.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void sink_stderr(void *context, enum delta_log_level level, const char *line)
{
    (void)context;
    (void)level;
    const ssize_t put = write(STDERR_FILENO, line, strlen(line));
    (void)put; /* nowhere left to report to */
}

/* The only mutable global of the tree: set once before threads start. */
static struct {
    enum delta_log_level level;
    delta_log_sink *sink;
    void *context;
} log_state = {DELTA_LOG_INFO, sink_stderr, NULL};

void delta_log_set(enum delta_log_level level, delta_log_sink *sink, void *context)
{
    log_state.level = level;
    log_state.sink = sink ? sink : sink_stderr;
    log_state.context = context;
}

void delta_log(enum delta_log_level level, const char *module, const char *fmt, ...)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    char line[1024];
    struct timespec now;
    struct tm utc;
    va_list args;
    int used;

    if (level > log_state.level)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    used = snprintf(line, sizeof line,
                    "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %s %s: ", utc.tm_year + 1900,
                    utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                    now.tv_nsec / 1000000, names[level], module);
    va_start(args, fmt);
    vsnprintf(line + used, sizeof line - (size_t)used - 1, fmt, args);
    va_end(args);
    /* One line per call, whatever a peer put into a string. */
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    const size_t len = strlen(line);
    line[len] = '\n';
    line[len + 1] = '\0';
    log_state.sink(log_state.context, level, line);
}
