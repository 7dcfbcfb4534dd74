#include "exp_json.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_MAX_LEN 200

/* ---- places and lines ---- */

static size_t write_place(char *out, size_t size, const struct exp_place *place)
{
    size_t used = place->up ? write_place(out, size, place->up) : 0;

    if (used < size && place->key)
        used += (size_t)snprintf(out + used, size - used, "%s%s", used ? "." : "", place->key);
    else if (used < size && place->up)
        used += (size_t)snprintf(out + used, size - used, "[%zu]", place->index);
    return used < size ? used : size - 1;
}

/* Walks valid JSON text and looks for one path. */
struct walker {
    const char *at;
    size_t line, found;
    char path[PATH_MAX_LEN];
    const char *wanted;
};

static void skip_blank(struct walker *w)
{
    for (; *w->at == ' ' || *w->at == '\t' || *w->at == '\r' || *w->at == '\n'; w->at++)
        w->line += *w->at == '\n';
}

static void walk_string(struct walker *w, char *out, size_t size)
{
    size_t used = 0;

    for (w->at++; *w->at && *w->at != '"'; w->at++) {
        if (*w->at == '\\' && w->at[1])
            w->at++;
        if (used + 1 < size)
            out[used++] = *w->at;
    }
    if (size)
        out[used] = '\0';
    w->at += *w->at == '"';
}

static void walk_value(struct walker *w);

static void walk_members(struct walker *w, char close)
{
    const size_t mark = strlen(w->path);
    char key[PATH_MAX_LEN];

    w->at++;
    for (size_t index = 0; *w->at; index++) {
        skip_blank(w);
        if (*w->at == ',') {
            w->at++;
            skip_blank(w);
        }
        if (*w->at == close || !*w->at)
            break;
        if (close == '}') {
            walk_string(w, key, sizeof key);
            snprintf(w->path + mark, sizeof w->path - mark, "%s%s", mark ? "." : "", key);
            if (!w->found && strcmp(w->path, w->wanted) == 0)
                w->found = w->line;
            skip_blank(w);
            w->at += *w->at == ':';
        } else {
            snprintf(w->path + mark, sizeof w->path - mark, "[%zu]", index);
        }
        walk_value(w);
        w->path[mark] = '\0';
    }
    w->at += *w->at == close;
}

static void walk_value(struct walker *w)
{
    skip_blank(w);
    if (!w->found && strcmp(w->path, w->wanted) == 0)
        w->found = w->line;
    if (*w->at == '{')
        walk_members(w, '}');
    else if (*w->at == '[')
        walk_members(w, ']');
    else if (*w->at == '"')
        walk_string(w, NULL, 0);
    else
        w->at += strcspn(w->at, ",]} \t\r\n");
}

size_t exp_line_of(const char *text, const struct exp_place *place)
{
    char wanted[PATH_MAX_LEN] = "";
    struct walker w = {.at = text, .line = 1, .wanted = wanted};

    write_place(wanted, sizeof wanted, place);
    walk_value(&w);
    return w.found;
}

enum delta_status exp_refuse(struct delta_error *err, const struct exp_source *source,
                             const struct exp_place *place, const char *fmt, ...)
{
    char path[PATH_MAX_LEN] = "", text[460];
    const size_t line = source->text ? exp_line_of(source->text, place) : 0;
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    write_place(path, sizeof path, place);
    if (!path[0])
        return delta_fail(err, DELTA_FORMAT, "'%s': %s", source->path, text);
    if (!line)
        return delta_fail(err, DELTA_FORMAT, "'%s', %s: %s", source->path, path, text);
    return delta_fail(err, DELTA_FORMAT, "'%s', line %zu, %s: %s", source->path, line, path, text);
}

/* ---- values ---- */

struct reading {
    const struct exp_source *source;
    struct delta_error *err;
};

static enum delta_status read_number(double *out, const struct exp_field *field,
                                     const json_t *value, const struct exp_place *place,
                                     const struct reading *r)
{
    const bool whole = field->kind == EXP_INT || field->kind == EXP_INTS;
    const double number = json_number_value(value);

    if (field->kind == EXP_BOOLS && json_is_boolean(value)) {
        *out = json_is_true(value);
        return DELTA_OK;
    }
    if (field->kind == EXP_BOOLS)
        return exp_refuse(r->err, r->source, place, "true or false is wanted");
    if (!json_is_number(value) || (whole && !json_is_integer(value)))
        return exp_refuse(r->err, r->source, place, "%s is wanted",
                          whole ? "a whole number" : "a number");
    if (number < field->low || number > field->high)
        return exp_refuse(r->err, r->source, place, "%.10g is not within %.10g and %.10g", number,
                          field->low, field->high);
    *out = number;
    return DELTA_OK;
}

static enum delta_status read_text(const char **out, const json_t *value,
                                   const struct exp_place *place, const struct reading *r)
{
    const char *text = json_string_value(value);

    if (!text || !text[0])
        return exp_refuse(r->err, r->source, place, "a text in quotes is wanted");
    if (json_string_length(value) != strlen(text))
        return exp_refuse(r->err, r->source, place, "a text may not hold a NUL");
    *out = text;
    return DELTA_OK;
}

static enum delta_status read_list(void *out, const struct exp_field *field, const json_t *value,
                                   const struct exp_place *place, const struct reading *r)
{
    const bool list = json_is_array(value);
    const size_t count = list ? json_array_size(value) : 1;
    struct exp_numbers *numbers = out;
    struct exp_texts *texts = out;
    enum delta_status st = DELTA_OK;

    if (count == 0 || count > EXP_LIST_MAX)
        return exp_refuse(r->err, r->source, place, "a list of 1 to %d values is wanted",
                          EXP_LIST_MAX);
    for (size_t i = 0; !st && i < count; i++) {
        const struct exp_place here = {place, NULL, i};
        const json_t *one = list ? json_array_get(value, i) : value;
        if (field->kind == EXP_TEXTS)
            st = read_text(&texts->values[i], one, list ? &here : place, r);
        else
            st = read_number(&numbers->values[i], field, one, list ? &here : place, r);
    }
    if (!st && field->kind == EXP_TEXTS)
        texts->count = count;
    else if (!st)
        numbers->count = count;
    return st;
}

static enum delta_status read_value(char *base, const struct exp_field *field, const json_t *value,
                                    const struct exp_place *place, const struct reading *r)
{
    void *out = base + field->offset;
    double number = 0;
    enum delta_status st = DELTA_OK;

    switch (field->kind) {
    case EXP_TEXT:
        return read_text(out, value, place, r);
    case EXP_INT:
        st = read_number(&number, field, value, place, r);
        if (!st)
            *(int64_t *)out = json_integer_value(value);
        return st;
    case EXP_REAL:
        return read_number(out, field, value, place, r);
    case EXP_BOOL:
        if (!json_is_boolean(value))
            return exp_refuse(r->err, r->source, place, "true or false is wanted");
        *(bool *)out = json_is_true(value);
        return DELTA_OK;
    case EXP_OBJECTS:
        if (!json_is_array(value) || json_array_size(value) == 0)
            return exp_refuse(r->err, r->source, place, "a list of objects is wanted");
        return DELTA_OK;
    case EXP_OBJECT:
        if (!json_is_object(value))
            return exp_refuse(r->err, r->source, place, "an object is wanted");
        return DELTA_OK;
    default:
        return read_list(out, field, value, place, r);
    }
}

static const struct exp_field *find_field(const struct exp_field *fields, const char *key)
{
    for (; fields && fields->name; fields++)
        if (strcmp(fields->name, key) == 0)
            return fields;
    return NULL;
}

static void list_known(char *out, size_t size, const struct exp_field *fields, size_t used)
{
    for (; fields && fields->name && used < size; fields++)
        used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", fields->name);
}

enum delta_status exp_read(void *out, const struct exp_field *fields, const struct exp_field *more,
                           const json_t *object, const struct exp_source *source,
                           const struct exp_place *place, struct delta_error *err)
{
    const struct reading r = {source, err};
    const char *key;
    json_t *value;

    if (!json_is_object(object))
        return exp_refuse(err, source, place, "an object is wanted");
    json_object_foreach((json_t *)object, key, value)
    {
        const struct exp_place here = {place, key, 0};
        const struct exp_field *field = find_field(fields, key);
        char known[400] = "";
        if (!field)
            field = find_field(more, key);
        if (!field) {
            list_known(known, sizeof known, fields, 0);
            list_known(known, sizeof known, more, strlen(known));
            return exp_refuse(err, source, &here, "unknown key; there are %s", known);
        }
        const enum delta_status st = read_value(out, field, value, &here, &r);
        if (st)
            return st;
    }
    for (const struct exp_field *field = fields; field->name; field++)
        if (field->required && !json_object_get(object, field->name))
            return exp_refuse(err, source, place, "key '%s' is missing", field->name);
    return DELTA_OK;
}
