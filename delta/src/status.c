#include "delta/status.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Words of a file or a peer get into these texts: what could move a terminal's cursor, or make two
 * lines of one, is shown as '?'. */
static void make_plain(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

enum delta_status delta_fail(struct delta_error *err, enum delta_status status, const char *fmt,
                             ...)
{
    if (err) {
        va_list args;
        va_start(args, fmt);
        err->status = status;
        vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
        make_plain(err->text);
    }
    return status;
}

enum delta_status delta_fail_errno(struct delta_error *err, const char *fmt, ...)
{
    const int code = errno;
    enum delta_status status = DELTA_IO;

    if (code == ENOSPC || code == EDQUOT || code == EFBIG)
        status = DELTA_NO_SPACE;
    else if (code == ENOMEM)
        status = DELTA_NO_MEMORY;
    else if (code == ENOENT || code == ENOTDIR)
        status = DELTA_NOT_FOUND;
    else if (code == EINTR)
        status = DELTA_INTERRUPTED;
    if (err) {
        va_list args;
        va_start(args, fmt);
        err->status = status;
        vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
        const size_t used = strlen(err->text);
        snprintf(err->text + used, sizeof err->text - used, ": %s", strerror(code));
        make_plain(err->text);
    }
    return status;
}

enum delta_status delta_fail_in(struct delta_error *err, enum delta_status status, const char *fmt,
                                ...)
{
    if (err) {
        char prefix[sizeof err->text];
        char below[sizeof err->text];
        va_list args;

        va_start(args, fmt);
        vsnprintf(prefix, sizeof prefix, fmt, args);
        va_end(args);
        memcpy(below, err->text, sizeof below);
        below[sizeof below - 1] = '\0';
        err->status = status;
        const size_t head = strlen(prefix);
        memcpy(err->text, prefix, head + 1);
        if (head < sizeof err->text)
            snprintf(err->text + head, sizeof err->text - head, ": %s", below);
        make_plain(err->text);
    }
    return status;
}

struct status_row {
    const char *name;
    const char *text;
    enum delta_class class;
};

static const struct status_row *status_row(enum delta_status status)
{
    static const struct status_row rows[] = {
#define STATUS_ROW(name, value, class, text) [value] = {#name, text, DELTA_CLASS_##class},
        DELTA_STATUS_MAP(STATUS_ROW)
#undef STATUS_ROW
    };
    const size_t at = (size_t)status;

    if (at >= sizeof rows / sizeof rows[0] || !rows[at].name)
        return &rows[DELTA_INTERNAL];
    return &rows[at];
}

const char *delta_status_text(enum delta_status status)
{
    return status_row(status)->text;
}

const char *delta_status_name(enum delta_status status)
{
    return status_row(status)->name;
}

enum delta_class delta_status_class(enum delta_status status)
{
    return status_row(status)->class;
}

enum delta_status delta_status_from(int value)
{
    switch (value) {
#define STATUS_CASE(name, number, class, text) case number:
        DELTA_STATUS_MAP(STATUS_CASE)
#undef STATUS_CASE
        return (enum delta_status)value;
    default:
        return DELTA_INTERNAL;
    }
}

int delta_status_exit(enum delta_status status)
{
    if (status == DELTA_OK)
        return 0;
    switch (delta_status_class(status)) {
    case DELTA_CLASS_NONE:
        return 1;
    case DELTA_CLASS_USAGE:
        return 2;
    case DELTA_CLASS_INPUT:
        return 3;
    case DELTA_CLASS_TRUST:
        return 4;
    case DELTA_CLASS_NET:
        return 5;
    case DELTA_CLASS_ENV:
        return 6;
    case DELTA_CLASS_BUG:
        break;
    }
    return 7;
}
