#include "exp_results.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "delta/file.h"

#define MAX_RESULTS_BYTES ((size_t)1 << 30)
#define MAX_LINE_BYTES ((size_t)16 << 20)
#define DUMP (JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(10))

void exp_lines_release(struct exp_lines *lines)
{
    json_decref(lines->plan);
    json_decref(lines->runs);
    json_decref(lines->keys);
    *lines = (struct exp_lines){.plan = NULL};
}

static enum delta_status keep_run(struct exp_lines *lines, json_t *object, const char *path,
                                  size_t line, struct delta_error *err)
{
    const char *key = json_string_value(json_object_get(object, "key"));

    if (!key)
        return delta_fail(err, DELTA_FORMAT, "'%s', line %zu: a run without a key", path, line);
    if (json_object_get(lines->keys, key))
        return DELTA_OK;
    if (json_array_append(lines->runs, object) || json_object_set(lines->keys, key, object))
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    return DELTA_OK;
}

static enum delta_status keep_line(struct exp_lines *lines, const char *text, size_t len,
                                   const char *path, size_t line, struct delta_error *err)
{
    json_error_t error;
    json_t *object = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    const char *kind = json_string_value(json_object_get(object, "kind"));
    enum delta_status st = DELTA_OK;

    if (!json_is_object(object)) {
        st = delta_fail(err, DELTA_FORMAT, "'%s', line %zu is not a JSON object: %s", path, line,
                        object ? "another type" : error.text);
    } else if (json_integer_value(json_object_get(object, "schema")) != EXP_SCHEMA || !kind) {
        st = delta_fail(err, DELTA_FORMAT, "'%s', line %zu is not a result of schema %d", path,
                        line, EXP_SCHEMA);
    } else if (strcmp(kind, "plan") == 0) {
        json_decref(lines->plan);
        lines->plan = json_incref(object);
    } else if (strcmp(kind, "run") == 0) {
        st = keep_run(lines, object, path, line, err);
    }
    json_decref(object);
    return st;
}

/* A last line without its end was being written when the power went, whatever it parses as. */
enum delta_status exp_lines_read(struct exp_lines *lines, const char *path, struct delta_error *err)
{
    struct exp_lines made = {.runs = json_array(), .keys = json_object()};
    struct delta_buf file = {0};
    enum delta_status st = DELTA_OK;

    if (!made.runs || !made.keys)
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    if (!st && delta_file_exists(path))
        st = delta_file_read(path, MAX_RESULTS_BYTES, &file, err);
    for (size_t at = 0, line = 1; !st && at < file.len; line++) {
        const char *start = (const char *)file.data + at;
        const char *end = memchr(start, '\n', file.len - at);
        if (!end) {
            made.cut = true;
            break;
        }
        st = keep_line(&made, start, (size_t)(end - start), path, line, err);
        at += (size_t)(end - start) + 1;
        made.whole = at;
    }
    delta_buf_release(&file);
    if (st)
        exp_lines_release(&made);
    else
        *lines = made;
    return st;
}

enum delta_status exp_lines_append(int fd, const json_t *object, const char *path,
                                   struct delta_error *err)
{
    char *text = json_dumps(object, DUMP);
    const size_t len = text ? strlen(text) : 0;
    enum delta_status st = DELTA_OK;

    if (!text || len > MAX_LINE_BYTES) {
        st = delta_fail(err, DELTA_LIMIT, "a result of %zu bytes is too long for '%s'", len, path);
    } else {
        text[len] = '\n'; /* in place of the NUL: one write for all of it */
        for (size_t done = 0; !st && done < len + 1;) {
            const ssize_t wrote = write(fd, text + done, len + 1 - done);
            if (wrote < 0 && errno == EINTR)
                continue;
            if (wrote < 0)
                st = delta_fail_errno(err, "cannot write '%s'", path);
            else
                done += (size_t)wrote;
        }
        if (!st && fsync(fd) != 0)
            st = delta_fail_errno(err, "cannot write '%s'", path);
    }
    free(text);
    return st;
}
