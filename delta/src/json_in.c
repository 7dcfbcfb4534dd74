#include "json_in.h"

enum delta_status delta_json_parse(struct delta_bytes text, json_t **out, struct delta_error *err)
{
    json_error_t detail;
    size_t brackets = 0;

    *out = NULL;
    for (size_t i = 0; i < text.len; i++)
        brackets += text.data[i] == '[' || text.data[i] == '{';
    if (brackets > DELTA_JSON_BRACKETS_MAX)
        return delta_fail(err, DELTA_LIMIT, "more than %d brackets", DELTA_JSON_BRACKETS_MAX);
    *out = json_loadb((const char *)text.data, text.len, JSON_REJECT_DUPLICATES, &detail);
    if (!*out)
        return delta_fail(err, DELTA_FORMAT, "not JSON: %.200s at byte %d", detail.text,
                          detail.position);
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return delta_fail(err, DELTA_FORMAT, "not a JSON object");
    }
    return DELTA_OK;
}
