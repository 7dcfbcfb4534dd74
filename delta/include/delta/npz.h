/* NumPy's archives (.npz): a zip of one .npy per tensor, stored without compression, as
 * numpy.savez writes them. The member "frostline.json" tells architecture and classes in the
 * words of a safetensors file's metadata; where it is absent, names and shapes have to do.
 *
 * Refuses compressed members (numpy.savez_compressed), encryption and zip64: a tool that unpacks
 * what strangers send has no use for them.
 */
#ifndef DELTA_NPZ_H
#define DELTA_NPZ_H

#include "delta/safetensors.h"

/* Whether these are the first bytes of a zip archive. */
bool delta_npz_is(struct delta_bytes file);

struct delta_peek; /* file.h */
/* Refuses, by its last bytes alone, an archive whose directory does not lie where it should.
 *   fails    TRUNCATED, FORMAT, LIMIT, IO, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_npz_judge(struct delta_peek *peek, struct delta_error *err);

/* Class ids, hint and info as delta_safetensors_decode_as() tells.
 *   hint     may be NULL
 *   info     may be NULL
 *   fails    TRUNCATED, FORMAT (members that overlap or lie), DIGEST (a member's CRC-32),
 *            UNSUPPORTED, LIMIT, NO_MEMORY; the text names the member */
DELTA_MUST_USE enum delta_status delta_npz_decode(struct delta_model *out, struct delta_bytes file,
                                                  const struct delta_arch_hint *hint,
                                                  struct delta_safetensors_info *info,
                                                  struct delta_error *err);
/* Atomically.  fails: LIMIT (more than 4 GiB), IO, NO_SPACE, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_npz_save(const struct delta_model *model, const char *path,
                                                struct delta_error *err);

#endif
