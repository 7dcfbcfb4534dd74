/* A/B slots: where the fleet's versions are installed. `current` names the slot in use and its
 * version; it alone decides, and it is replaced atomically. A version goes into the other slot
 * first, is opened from there, and only then becomes current; killed at any point, the old or the
 * new version opens. Models in slots carry this device's signature (or the release key's): only
 * what verification produced, and this device wrote, opens again. */
#ifndef AGENT_SLOT_H
#define AGENT_SLOT_H

#include "identity.h"

struct agent_slots {
    char dir[AGENT_PATH_MAX];
    int current;                 /* 0 = a, 1 = b, -1 = nothing installed */
    struct delta_digest version; /* of the current slot; zero = none */
};

/* Reads `current`. A pointer that is broken, or whose slot does not hold what it says, gives way
 * to the other slot if that one opens (*fell_back), else to "nothing installed".
 *   ring     who may have signed an installed model */
DELTA_MUST_USE enum delta_status agent_slots_open(struct agent_slots *slots, const char *dir,
                                                  const struct delta_keyring *ring, bool *fell_back,
                                                  struct delta_error *err);

/* Reads `current` and nothing else; repairs nothing. For those who only look. */
DELTA_MUST_USE enum delta_status agent_slots_peek(struct agent_slots *slots, const char *dir,
                                                  struct delta_error *err);

/* "<dir>/slot-a/model.flm"; slot 0 or 1. */
DELTA_MUST_USE enum delta_status agent_slot_path(char out[AGENT_PATH_MAX], const char *dir,
                                                 int slot, struct delta_error *err);

/* The slot that is not current: where the next version goes. */
static inline int agent_slot_other(const struct agent_slots *slots)
{
    return slots->current == 0 ? 1 : 0;
}

/* The installed model.  fails: NOT_FOUND (nothing installed), TRUST and INPUT statuses */
DELTA_MUST_USE enum delta_status agent_slot_load(const struct agent_slots *slots, int slot,
                                                 const struct delta_keyring *ring,
                                                 struct delta_trusted_model *out,
                                                 struct delta_error *err);

/* Moves a finished, signed model file into the other slot. `file` may be gone already when the
 * slot holds that version from an attempt before. The current version is not touched.
 *   fails    DIGEST when the slot does not hold `version` afterwards */
DELTA_MUST_USE enum delta_status agent_slot_stage(const struct agent_slots *slots, const char *file,
                                                  const struct delta_digest *version,
                                                  const struct delta_keyring *ring,
                                                  struct delta_error *err);

/* The other slot becomes current. Repeating it after success changes nothing. */
DELTA_MUST_USE enum delta_status agent_slot_commit(struct agent_slots *slots,
                                                   const struct delta_digest *version,
                                                   const struct delta_keyring *ring,
                                                   struct delta_error *err);

/* Back to the other slot, if a model opens there.  fails: NOT_FOUND and as load */
DELTA_MUST_USE enum delta_status agent_slot_rollback(struct agent_slots *slots,
                                                     const struct delta_keyring *ring,
                                                     struct delta_error *err);

#endif
