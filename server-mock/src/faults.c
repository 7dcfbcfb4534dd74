#include "faults.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool number(const char *text, uint64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoull(text, &end, 10);
    return !errno && end != text && *end == '\0' && text[0] != '-';
}

static bool parse_action(const char *word, const char *value, struct server_fault *out)
{
    static const struct {
        const char *name;
        enum server_fault_action action;
    } table[] = {{"drop-after", SERVER_FAULT_DROP},
                 {"delay", SERVER_FAULT_DELAY},
                 {"status", SERVER_FAULT_STATUS},
                 {"truncate", SERVER_FAULT_TRUNCATE},
                 {"flip", SERVER_FAULT_FLIP}};

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(word, table[i].name) == 0) {
            out->action = table[i].action;
            return number(value, &out->value) &&
                   (out->action != SERVER_FAULT_STATUS || (out->value >= 400 && out->value < 600));
        }
    return false;
}

static bool parse_part(struct server_faults *out, char *part)
{
    static const char routes[] = " any enrol channel blob contribution report status ";
    size_t i = out->count;
    char *save = NULL;
    char *word = strtok_r(part, ":", &save);
    char wanted[24];

    if (!word || strlen(word) >= sizeof out->rules[i].route)
        return false;
    wanted[0] = ' ';
    memcpy(wanted + 1, word, strlen(word));
    memcpy(wanted + 1 + strlen(word), " ", 2);
    if (!strstr(routes, wanted))
        return false;
    memcpy(out->rules[i].route, word, strlen(word) + 1);
    out->rules[i].left = UINT64_MAX;
    out->rules[i].fault.action = SERVER_FAULT_NONE;
    while ((word = strtok_r(NULL, ":", &save))) {
        char *value = strchr(word, '=');
        if (!value)
            return false;
        *value++ = '\0';
        if (strcmp(word, "times") == 0 ? !number(value, &out->rules[i].left)
                                       : !parse_action(word, value, &out->rules[i].fault))
            return false;
    }
    out->count++;
    return out->rules[i].fault.action != SERVER_FAULT_NONE;
}

enum delta_status server_faults_parse(struct server_faults *out, const char *spec,
                                      struct delta_error *err)
{
    enum delta_status st = DELTA_OK;
    char *copy, *save = NULL;

    memset(out, 0, sizeof *out);
    if (!spec || !*spec)
        return DELTA_OK;
    copy = strdup(spec);
    if (!copy)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate fault rules");
    for (char *part = strtok_r(copy, ",", &save); part && !st; part = strtok_r(NULL, ",", &save))
        if (out->count == SERVER_FAULT_RULES || !parse_part(out, part))
            st = delta_fail(err, DELTA_CONFIG,
                            "faults '%s': not ROUTE:ACTION=VALUE[:times=N], e.g. "
                            "blob:drop-after=10000:times=2",
                            spec);
    free(copy);
    return st;
}

struct server_fault server_faults_take(struct server_faults *faults, const char *route)
{
    for (size_t i = 0; i < faults->count; i++) {
        if (!faults->rules[i].left || (strcmp(faults->rules[i].route, route) != 0 &&
                                       strcmp(faults->rules[i].route, "any") != 0))
            continue;
        faults->rules[i].left--;
        return faults->rules[i].fault;
    }
    return (struct server_fault){SERVER_FAULT_NONE, 0};
}
