#include "slot.h"

#include <stdio.h>
#include <string.h>

#include "delta/file.h"
#include "delta/log.h"

#define MODULE "slot"
#define POINTER "current"

static const char *const names[2] = {"slot-a", "slot-b"};

enum delta_status agent_slot_path(char out[AGENT_PATH_MAX], const char *dir, int slot,
                                  struct delta_error *err)
{
    char name[32];

    snprintf(name, sizeof name, "%s/model.flm", names[slot == 1]);
    return delta_path_join(out, AGENT_PATH_MAX, dir, name, err);
}

enum delta_status agent_slot_load(const struct agent_slots *slots, int slot,
                                  const struct delta_keyring *ring, struct delta_trusted_model *out,
                                  struct delta_error *err)
{
    char path[AGENT_PATH_MAX];
    struct delta_buf file;
    enum delta_status st;

    if (slot != 0 && slot != 1)
        return delta_fail(err, DELTA_NOT_FOUND, "'%s': no version is installed yet", slots->dir);
    st = agent_slot_path(path, slots->dir, slot, err);
    if (!st)
        st = delta_file_read(path, DELTA_MODEL_MAX_BYTES, &file, err);
    if (st)
        return st;
    st = delta_trust_model(out, delta_buf_bytes(&file), ring, err);
    delta_buf_release(&file);
    return st ? delta_fail_in(err, st, "'%s'", path) : DELTA_OK;
}

static bool holds(const struct agent_slots *slots, int slot, const struct delta_keyring *ring,
                  const struct delta_digest *version)
{
    struct delta_trusted_model model;
    struct delta_error ignored;
    bool same;

    if (agent_slot_load(slots, slot, ring, &model, &ignored))
        return false;
    same = delta_digest_equal(&model.version, version);
    delta_trusted_model_release(&model);
    return same;
}

/* "a <hex>\n" */
static enum delta_status read_pointer(const struct agent_slots *slots, int *slot,
                                      struct delta_digest *version, struct delta_error *err)
{
    char path[AGENT_PATH_MAX], hex[DELTA_DIGEST_HEX];
    struct delta_buf file;
    enum delta_status st = delta_path_join(path, sizeof path, slots->dir, POINTER, err);

    if (!st)
        st = delta_file_read(path, 256, &file, err);
    if (st)
        return st;
    st = delta_fail(err, DELTA_FORMAT, "'%s' is broken", path);
    if (file.len == 2 + 64 + 1 && (file.data[0] == 'a' || file.data[0] == 'b') &&
        file.data[1] == ' ' && file.data[66] == '\n') {
        memcpy(hex, file.data + 2, 64);
        hex[64] = '\0';
        *slot = file.data[0] == 'b';
        if (delta_digest_parse(version, hex))
            st = DELTA_OK;
    }
    delta_buf_release(&file);
    return st;
}

static enum delta_status write_pointer(struct agent_slots *slots, int slot,
                                       const struct delta_digest *version, struct delta_error *err)
{
    char path[AGENT_PATH_MAX], hex[DELTA_DIGEST_HEX], text[80];
    enum delta_status st = delta_path_join(path, sizeof path, slots->dir, POINTER, err);

    if (st)
        return st;
    delta_digest_hex(hex, version);
    snprintf(text, sizeof text, "%c %s\n", slot ? 'b' : 'a', hex);
    st = delta_file_write(path, delta_bytes(text, strlen(text)), 0644, err);
    if (st)
        return st;
    slots->current = slot;
    slots->version = *version;
    return DELTA_OK;
}

enum delta_status agent_slot_rollback(struct agent_slots *slots, const struct delta_keyring *ring,
                                      struct delta_error *err)
{
    struct delta_trusted_model model;
    const int other = agent_slot_other(slots);
    enum delta_status st = agent_slot_load(slots, other, ring, &model, err);

    if (st)
        return st;
    st = write_pointer(slots, other, &model.version, err);
    delta_trusted_model_release(&model);
    return st;
}

enum delta_status agent_slots_peek(struct agent_slots *slots, const char *dir,
                                   struct delta_error *err)
{
    enum delta_status st;

    *slots = (struct agent_slots){.current = -1};
    if (strlen(dir) >= sizeof slots->dir)
        return delta_fail(err, DELTA_LIMIT, "device directory path is too long");
    snprintf(slots->dir, sizeof slots->dir, "%s", dir);
    st = read_pointer(slots, &slots->current, &slots->version, err);
    if (st)
        slots->current = -1;
    return st == DELTA_NOT_FOUND ? DELTA_OK : st;
}

enum delta_status agent_slots_open(struct agent_slots *slots, const char *dir,
                                   const struct delta_keyring *ring, bool *fell_back,
                                   struct delta_error *err)
{
    enum delta_status st;
    char path[AGENT_PATH_MAX];
    struct delta_error why;

    *fell_back = false;
    *slots = (struct agent_slots){.current = -1};
    if (strlen(dir) >= sizeof slots->dir)
        return delta_fail(err, DELTA_LIMIT, "device directory path is too long");
    snprintf(slots->dir, sizeof slots->dir, "%s", dir);
    for (int i = 0; i < 2; i++) {
        st = delta_path_join(path, sizeof path, dir, names[i], err);
        if (!st)
            st = delta_dir_make(path, 0700, err);
        if (st)
            return st;
    }
    st = read_pointer(slots, &slots->current, &slots->version, &why);
    if (!st && holds(slots, slots->current, ring, &slots->version))
        return DELTA_OK;
    if (st == DELTA_NOT_FOUND)
        return DELTA_OK; /* a new device */
    if (st && delta_status_class(st) == DELTA_CLASS_ENV) {
        slots->current = -1;
        return delta_fail(err, st, "%s", why.text);
    }
    delta_log_error(MODULE, "current version does not open%s%s; trying the other slot",
                    st ? ": " : "", st ? why.text : "");
    /* With a broken pointer both slots are candidates. */
    for (int tries = 0; tries < (st ? 2 : 1); tries++) {
        if (st)
            slots->current = tries;
        if (!agent_slot_rollback(slots, ring, &why)) {
            *fell_back = true;
            return DELTA_OK;
        }
    }
    slots->current = -1;
    slots->version = (struct delta_digest){{0}};
    return DELTA_OK;
}

enum delta_status agent_slot_stage(const struct agent_slots *slots, const char *file,
                                   const struct delta_digest *version,
                                   const struct delta_keyring *ring, struct delta_error *err)
{
    char path[AGENT_PATH_MAX];
    const int other = agent_slot_other(slots);
    enum delta_status st = agent_slot_path(path, slots->dir, other, err);

    if (!st && delta_file_exists(file))
        st = delta_file_rename(file, path, err);
    if (st)
        return st;
    if (!holds(slots, other, ring, version))
        return delta_fail(err, DELTA_DIGEST, "'%s' does not hold the version that was staged",
                          path);
    return DELTA_OK;
}

enum delta_status agent_slot_commit(struct agent_slots *slots, const struct delta_digest *version,
                                    const struct delta_keyring *ring, struct delta_error *err)
{
    const int other = agent_slot_other(slots);

    if (slots->current >= 0 && delta_digest_equal(&slots->version, version))
        return DELTA_OK;
    if (!holds(slots, other, ring, version))
        return delta_fail(err, DELTA_DIGEST, "'%s' does not hold the version to commit",
                          names[other]);
    return write_pointer(slots, other, version, err);
}
