#include "delta/class_id.h"

#include <stdbool.h>
#include <string.h>

static bool allowed(char c, bool first)
{
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_')
        return true;
    return !first && (c == '.' || c == '-');
}

enum delta_status delta_class_id_make(struct delta_class_id *out, const char *name,
                                      struct delta_error *err)
{
    struct delta_class_id id;
    size_t len = 0;
    bool blank = false;

    for (const char *p = name; *p; p++) {
        char c = *p;
        if (c == ' ' || c == '\t') {
            blank = len > 0;
            continue;
        }
        if (c >= 'A' && c <= 'Z')
            c = (char)(c - 'A' + 'a');
        if (len + blank + 1 > DELTA_CLASS_ID_MAX)
            return delta_fail(err, DELTA_LIMIT, "class name '%.40s...' is longer than %d bytes",
                              name, DELTA_CLASS_ID_MAX);
        if (blank)
            id.text[len++] = '_';
        blank = false;
        if (!allowed(c, len == 0))
            return delta_fail(err, DELTA_FORMAT,
                              "class name '%s': byte 0x%02x is not allowed there; use letters, "
                              "digits, '.', '_', '-'",
                              name, (unsigned char)*p);
        id.text[len++] = c;
    }
    if (len == 0)
        return delta_fail(err, DELTA_FORMAT, "class name is empty");
    id.text[len] = '\0';
    *out = id;
    return DELTA_OK;
}

enum delta_status delta_class_id_check(const char *text, struct delta_error *err)
{
    struct delta_class_id id;
    const enum delta_status st = delta_class_id_make(&id, text, err);

    if (st)
        return st;
    if (strcmp(id.text, text) != 0)
        return delta_fail(err, DELTA_FORMAT, "class id '%s' is not in normal form, which is '%s'",
                          text, id.text);
    return DELTA_OK;
}
