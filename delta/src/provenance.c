#include "provenance.h"

#include <string.h>

static enum delta_status check_text(const char *what, const char *text, struct delta_error *err)
{
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e)
            return delta_fail(err, DELTA_FORMAT, "provenance: %s holds byte 0x%02x", what,
                              (unsigned char)*p);
    return DELTA_OK;
}

enum delta_status delta_provenance_check(const struct delta_provenance *p, struct delta_error *err)
{
    const double shares[] = {p->old_before, p->old_after, p->new_recall};
    enum delta_status st = check_text("device", p->device, err);

    if (!st)
        st = check_text("method", p->method, err);
    if (!st)
        st = check_text("software", p->software, err);
    if (!st && p->created_ms < 0)
        st = delta_fail(err, DELTA_FORMAT, "provenance: a time before 1970");
    for (size_t i = 0; i < 3 && !st; i++)
        if (!(shares[i] >= 0 && shares[i] <= 1))
            st = delta_fail(err, DELTA_FORMAT, "provenance: accuracy %g is not within 0 and 1",
                            shares[i]);
    return st;
}

void delta_provenance_pack(struct delta_msg_out *out, const struct delta_provenance *p)
{
    delta_msg_map(out, 7);
    delta_msg_str(out, "at");
    delta_msg_uint(out, (uint64_t)p->created_ms);
    delta_msg_str(out, "by");
    delta_msg_str(out, p->device);
    delta_msg_str(out, "method");
    delta_msg_str(out, p->method);
    delta_msg_str(out, "new");
    delta_msg_array(out, 3);
    delta_msg_uint(out, p->new_samples);
    delta_msg_uint(out, p->tested_new);
    delta_msg_real(out, p->new_recall);
    delta_msg_str(out, "old");
    delta_msg_array(out, 3);
    delta_msg_uint(out, p->tested_old);
    delta_msg_real(out, p->old_before);
    delta_msg_real(out, p->old_after);
    delta_msg_str(out, "replay");
    delta_msg_uint(out, p->replay_samples);
    delta_msg_str(out, "sw");
    delta_msg_str(out, p->software);
}

static enum delta_status to_count(struct delta_msg_value value, const char *name, uint32_t *out,
                                  struct delta_error *err)
{
    uint64_t n = 0;
    const enum delta_status st = delta_msg_to_uint(value, name, UINT32_MAX, &n, err);

    *out = (uint32_t)n;
    return st;
}

static enum delta_status triple(struct delta_msg_value map, const char *key,
                                struct delta_msg_value *out, struct delta_error *err)
{
    const enum delta_status st = delta_msg_get_array(map, key, 3, out, err);

    if (!st && delta_msg_count(*out) != 3)
        return delta_fail(err, DELTA_FORMAT, "key '%s' does not have 3 elements", key);
    return st;
}

enum delta_status delta_provenance_unpack(struct delta_msg_value map, struct delta_provenance *out,
                                          struct delta_error *err)
{
    struct delta_provenance p = {.created_ms = 0};
    struct delta_msg_value fresh, old;
    uint64_t at = 0;
    enum delta_status st = delta_msg_get_uint(map, "at", INT64_MAX, &at, err);

    p.created_ms = (int64_t)at;
    if (!st)
        st = delta_msg_get_str(map, "by", p.device, sizeof p.device, err);
    if (!st)
        st = delta_msg_get_str(map, "method", p.method, sizeof p.method, err);
    if (!st)
        st = triple(map, "new", &fresh, err);
    if (!st)
        st = to_count(delta_msg_at(fresh, 0), "new", &p.new_samples, err);
    if (!st)
        st = to_count(delta_msg_at(fresh, 1), "new", &p.tested_new, err);
    if (!st)
        st = delta_msg_to_real(delta_msg_at(fresh, 2), "new", &p.new_recall, err);
    if (!st)
        st = triple(map, "old", &old, err);
    if (!st)
        st = to_count(delta_msg_at(old, 0), "old", &p.tested_old, err);
    if (!st)
        st = delta_msg_to_real(delta_msg_at(old, 1), "old", &p.old_before, err);
    if (!st)
        st = delta_msg_to_real(delta_msg_at(old, 2), "old", &p.old_after, err);
    if (!st)
        st = to_count(delta_msg_find(map, "replay"), "replay", &p.replay_samples, err);
    if (!st)
        st = delta_msg_get_str(map, "sw", p.software, sizeof p.software, err);
    if (!st)
        st = delta_provenance_check(&p, err);
    if (!st)
        *out = p;
    return st;
}
