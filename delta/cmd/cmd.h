/* What the verbs of frostline-delta share: opening a file of any kind, keys from --key, signature
 * states, JSON on stdout. Belongs to the program: prints and returns exit statuses.
 */
#ifndef DELTA_CMD_H
#define DELTA_CMD_H

#include <jansson.h>

#include "delta/cli.h"
#include "delta/compare.h"
#include "delta/delta.h"
#include "delta/file.h"
#include "delta/npz.h"
#include "delta/safetensors.h"

#define CMD_PROGRAM "frostline-delta"
/* Largest file any verb reads: a full model with its header. */
#define CMD_FILE_MAX (DELTA_MODEL_MAX_BYTES + ((size_t)96 << 20))

int cmd_apply(int argc, char **argv);
int cmd_cat(int argc, char **argv);
int cmd_diff(int argc, char **argv);
int cmd_digest(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_import(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_invert(int argc, char **argv);
int cmd_keygen(int argc, char **argv);
int cmd_log(int argc, char **argv);
int cmd_make(int argc, char **argv);
int cmd_pull(int argc, char **argv);
int cmd_push(int argc, char **argv);
int cmd_sign(int argc, char **argv);
int cmd_squash(int argc, char **argv);
int cmd_verify(int argc, char **argv);

enum cmd_kind { CMD_MODEL, CMD_DELTA, CMD_SAFETENSORS, CMD_NPZ };

/* Foreign files hold a model, but neither parent nor freeze plan nor signature. */
static inline bool cmd_is_foreign(enum cmd_kind kind)
{
    return kind == CMD_SAFETENSORS || kind == CMD_NPZ;
}

/* An opened file: structure and digests hold, trust is not looked at. */
struct cmd_file {
    const char *path;
    enum cmd_kind kind;
    struct delta_buf bytes;      /* the reader borrows from it */
    struct delta_model model;    /* all but DELTA */
    struct delta_digest version; /* all but DELTA */
    struct delta_reader reader;  /* DELTA */
};

/* out: end with cmd_file_release(); errors name the file. */
DELTA_MUST_USE enum delta_status cmd_file_open(struct cmd_file *out, const char *path,
                                               struct delta_error *err);
/* The bytes alone, once a few of them did not tell that the file will be refused; errors name it.
 *   ring     NULL or without keys: structure is looked at; else one of them must have signed */
DELTA_MUST_USE enum delta_status cmd_file_read(const char *path, const struct delta_keyring *ring,
                                               struct delta_buf *out, struct delta_error *err);
/* Fills the rest of a file whose path and bytes are set; release it either way. */
DELTA_MUST_USE enum delta_status cmd_file_parse(struct cmd_file *file, struct delta_error *err);
/* The same for a container, but with keys in the ring one of them must have signed it: nothing is
 * unpacked for a stranger.  fails: SIGNATURE, UNTRUSTED */
DELTA_MUST_USE enum delta_status cmd_file_parse_trusted(struct cmd_file *file,
                                                        const struct delta_keyring *ring,
                                                        struct delta_error *err);
/* As cmd_file_open(), but a delta is FORMAT. */
DELTA_MUST_USE enum delta_status cmd_model_open(struct cmd_file *out, const char *path,
                                                struct delta_error *err);
void cmd_file_release(struct cmd_file *file);
const char *cmd_kind_name(enum cmd_kind kind);

/* What must not be written: what is read, and what is no file. Either may be NULL.
 *   fails    USAGE, EXISTS */
DELTA_MUST_USE enum delta_status cmd_refuse_onto(const char *out, const char *input,
                                                 struct delta_error *err);

DELTA_MUST_USE enum delta_status cmd_keyring(struct delta_keyring *ring,
                                             const struct delta_opt_list *paths,
                                             struct delta_error *err);

/* Structure (every length and digest holds) and trust (a key that the caller trusts signed it) are
 * two questions with two answers. */
enum cmd_trust {
    CMD_TRUST_NOT_CHECKED, /* no key was given */
    CMD_TRUST_HELD,
    CMD_TRUST_REFUSED
};

struct cmd_signature {
    enum cmd_trust trust;
    struct delta_digest signers[8]; /* claimed */
    size_t count;
    bool is_signed; /* bears a signature, by whomever */
    struct delta_digest trusted_by;
    enum delta_status status; /* REFUSED: SIGNATURE or UNTRUSTED */
    struct delta_error why;   /* REFUSED */
};

/* Signature state of an opened file. A ring without keys asks nobody: NOT_CHECKED. */
void cmd_signature(const struct cmd_file *file, const struct delta_keyring *ring,
                   struct cmd_signature *out);
/* Opens a delta; with keys in the ring it must be signed by one of them. */
DELTA_MUST_USE enum delta_status cmd_delta_open(struct cmd_file *out, const char *path,
                                                const struct delta_keyring *ring,
                                                struct delta_error *err);

/* Prints and releases `root`, adding "schema": 1. Returns 0, or 6 when stdout failed. */
int cmd_print_json(json_t *root);
json_t *cmd_json_text(const char *text);                    /* bytes that are no UTF-8 become '?' */
json_t *cmd_json_digest(const struct delta_digest *digest); /* null for a zero one */

/* ---- for people, within 80 columns; colours on a terminal only ---- */

/* What is known about a change: either may be NULL, not both. */
struct cmd_view {
    const struct delta_reader *reader;         /* the delta */
    const struct delta_comparison *comparison; /* of base and target; NULL: no base at hand */
    const struct delta_model *base;            /* for the class list; may be NULL */
};

void cmd_print_delta(const struct delta_reader *reader); /* ends, network, provenance */
void cmd_print_classes_changed(const struct cmd_view *view);
void cmd_print_changes(const struct cmd_view *view); /* the table of tensors and its sums */
void cmd_print_model(const struct delta_model *model);
void cmd_print_digest(const char *label, const struct delta_digest *digest);
const char *cmd_scope_name(const struct delta_entry *entry);
const char *cmd_encoding_name(const struct delta_entry *entry);
const char *cmd_freeze_name(enum delta_freeze_mode mode);
uint64_t cmd_entry_total(const struct delta_entry *entry); /* elements of the target's tensor */

/* One self-contained page; everything in it that comes from a file is escaped. */
DELTA_MUST_USE enum delta_status cmd_write_html(const char *path, const struct cmd_file *file,
                                                const struct cmd_signature *signature,
                                                const struct cmd_view *view,
                                                struct delta_error *err);

json_t *cmd_json_delta(const struct cmd_view *view);
json_t *cmd_json_comparison(const struct delta_comparison *comparison);
json_t *cmd_json_model(const struct delta_model *model);
json_t *cmd_json_signature(const struct cmd_signature *signature);

/* fflush with a check: exit status `status`, or 6 with a message when stdout is full. */
int cmd_finish(int status);

#endif
