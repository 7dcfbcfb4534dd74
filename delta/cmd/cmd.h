/* What the verbs of frostline-delta share: opening a file of any kind, keys from --key, signature
 * states, JSON on stdout. Belongs to the program: prints and returns exit statuses.
 */
#ifndef DELTA_CMD_H
#define DELTA_CMD_H

#include <jansson.h>

#include "delta/cli.h"
#include "delta/delta.h"
#include "delta/file.h"
#include "delta/safetensors.h"

#define CMD_PROGRAM "frostline-delta"

int cmd_inspect(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_apply(int argc, char **argv);
int cmd_diff(int argc, char **argv);
int cmd_sign(int argc, char **argv);
int cmd_keygen(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_import(int argc, char **argv);
int cmd_digest(int argc, char **argv);

enum cmd_kind { CMD_MODEL, CMD_DELTA, CMD_SAFETENSORS };

/* An opened file: structure and digests hold, trust is not looked at. */
struct cmd_file {
    const char *path;
    enum cmd_kind kind;
    struct delta_buf bytes;      /* the reader borrows from it */
    struct delta_model model;    /* MODEL, SAFETENSORS */
    struct delta_digest version; /* MODEL, SAFETENSORS */
    struct delta_reader reader;  /* DELTA */
};

/* out: end with cmd_file_release(); errors name the file. */
DELTA_MUST_USE enum delta_status cmd_file_open(struct cmd_file *out, const char *path,
                                               struct delta_error *err);
/* As above, but a delta is FORMAT. */
DELTA_MUST_USE enum delta_status cmd_model_open(struct cmd_file *out, const char *path,
                                                struct delta_error *err);
void cmd_file_release(struct cmd_file *file);
const char *cmd_kind_name(enum cmd_kind kind);

DELTA_MUST_USE enum delta_status cmd_keyring(struct delta_keyring *ring,
                                             const struct delta_opt_list *paths,
                                             struct delta_error *err);

enum cmd_trust { CMD_UNSIGNED, CMD_SIGNED, CMD_TRUSTED };

struct cmd_signature {
    enum cmd_trust trust;
    struct delta_digest signers[8]; /* claimed */
    size_t count;
    struct delta_digest trusted_by;
};

/* Signature state of an opened file. With keys in the ring a wrong signature is SIGNATURE and a
 * missing one UNTRUSTED; without, nothing is verified. */
DELTA_MUST_USE enum delta_status cmd_signature(const struct cmd_file *file,
                                               const struct delta_keyring *ring,
                                               struct cmd_signature *out, struct delta_error *err);

/* Prints and releases `root`, adding "schema": 1. Returns 0, or 6 when stdout failed. */
int cmd_print_json(json_t *root);
json_t *cmd_json_text(const char *text);                    /* bytes that are no UTF-8 become '?' */
json_t *cmd_json_digest(const struct delta_digest *digest); /* null for a zero one */

/* For people, within 80 columns. */
void cmd_print_delta(const struct delta_reader *reader);
void cmd_print_model(const struct delta_model *model);
void cmd_print_digest(const char *label, const struct delta_digest *digest);
json_t *cmd_json_delta(const struct delta_reader *reader);
json_t *cmd_json_model(const struct delta_model *model);

/* fflush with a check: exit status `status`, or 6 with a message when stdout is full. */
int cmd_finish(int status);

#endif
