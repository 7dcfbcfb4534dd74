/* Deltas: the difference from a base version to a target version, and its file `.fld`.
 *
 * base + delta gives the target's digest, bit for bit, or an error. A delta carries only tensors
 * that changed; where base and target share the freeze plan, only live elements travel, without
 * indices. See delta/FORMAT.md. Containers (.flm and .fld) share one frame and one signature
 * block, so signing is the same for both.
 */
#ifndef DELTA_DELTA_H
#define DELTA_DELTA_H

#include "delta/key.h"
#include "delta/model.h"

/* Who made a delta, from what, and how well it tests. Numbers only, never samples. */
struct delta_provenance {
    char device[64];         /* certificate's common name */
    char method[32];         /* "frostline", "freeze", "merge", ... */
    char software[32];       /* "frostline 0.1.0" */
    int64_t created_ms;      /* wall clock, since 1970 */
    uint32_t new_samples;    /* images of new classes used */
    uint32_t replay_samples; /* exemplars used */
    uint32_t tested_old;     /* images behind the next two, 0 = not tested */
    double old_before;       /* accuracy on held-out old classes, 0..1 */
    double old_after;
    uint32_t tested_new;
    double new_recall;
};

/* What a maker of a delta wants. The first five keep every bit. */
enum delta_choice {
    DELTA_CHOICE_AUTO, /* per tensor what measures smallest */
    DELTA_CHOICE_RAW,
    DELTA_CHOICE_ZSTD,
    DELTA_CHOICE_DIFF,
    DELTA_CHOICE_CELL,
    DELTA_CHOICE_BF16, /* changed values rounded to bfloat16 */
    DELTA_CHOICE_INT8  /* moves rounded to a grid of `step` */
};
/* fails: USAGE (lists the names) */
DELTA_MUST_USE enum delta_status delta_choice_parse(const char *name, enum delta_choice *choice,
                                                    struct delta_error *err);

struct delta_options {
    const struct delta_provenance *provenance; /* NULL: left out */
    int zstd_level;                            /* 0: default (9) */
    enum delta_choice encoding;                /* another than AUTO: where it is below raw's size */
    double step; /* INT8: grid in units of the root mean square move of a row; 0: default (0.5) */
    /* BF16, INT8: error feedback. What rounding took away from earlier targets (as a model of the
     * target's tensors; tensors it lacks count as zero, rows it lacks too) is added before rounding
     * and replaced by what is taken away now. The caller keeps it. NULL: none */
    struct delta_model *residual;
    /* BF16, INT8: if not NULL, the target as rounded, which is where the delta leads; written on
     * success only, owned by the caller. */
    struct delta_model *rounded;
};

/* Rounds in place what moved from base to target, so that a delta between them needs few bits:
 * delta_diff() finds the grid by itself and leads to the rounded target, bit for bit. Tensors with
 * rows of fewer than 64 values keep theirs.
 *   step     grid of a row in units of its root mean square move; 0: left exact
 *   head     the same of the classifier's weight, whose new rows move all the way from zero
 *   fails    MISMATCH (other tensors than the base's), NO_MEMORY, LIMIT */
DELTA_MUST_USE enum delta_status delta_round(struct delta_model *target,
                                             const struct delta_model *base, double step,
                                             double head, struct delta_error *err);

/* The difference; out is initialised here and holds an unsigned file image. Any two versions of
 * one network will do: when the target's parent is not the base, its parent travels too.
 *   fails    MISMATCH (another architecture, other tensors, a tensor
 *            whose rows changed by something else than the number of classes), NONFINITE (target),
 *            FORMAT (provenance), LIMIT, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_diff(const struct delta_model *base,
                                            const struct delta_model *target,
                                            const struct delta_options *options,
                                            struct delta_buf *out, struct delta_error *err);

/* The same, calling `watch` (may be NULL) after each tensor: large tensors take seconds. */
typedef void delta_watch(void *context, double done, double total);
DELTA_MUST_USE enum delta_status delta_diff_watched(const struct delta_model *base,
                                                    const struct delta_model *target,
                                                    const struct delta_options *options,
                                                    delta_watch *watch, void *context,
                                                    struct delta_buf *out, struct delta_error *err);

enum delta_encoding {
    DELTA_ENCODING_RAW,  /* float32 as they are */
    DELTA_ENCODING_ZSTD, /* XOR with the base, byte planes, zstd */
    DELTA_ENCODING_DIFF, /* difference of bit patterns, byte planes, zstd */
    DELTA_ENCODING_CELL, /* cells moved, entropy-coded; place within the cell */
    DELTA_ENCODING_BF16, /* the same of bfloat16 values */
    DELTA_ENCODING_INT8  /* base + q * scale, q entropy-coded */
};
const char *delta_encoding_name(enum delta_encoding encoding);

/* One changed tensor as the header tells it. */
struct delta_entry {
    char name[DELTA_TENSOR_NAME_MAX + 1];
    uint32_t rank;
    uint64_t
        shape[DELTA_TENSOR_RANK_MAX]; /* the target's; may be longer than the base's in dim 0 */
    enum delta_encoding encoding;
    bool live_only;    /* values of live elements only, in order: no frozen element can change */
    bool grown_only;   /* values of rows that the base lacks: no element of the base can change */
    bool sparse;       /* positions travel with the values: any element can change */
    uint64_t elements; /* values encoded */
    uint64_t offset;   /* into the payload area */
    uint64_t bytes;    /* encoded */
    struct delta_digest sha256;
    struct delta_digest target_sha256; /* of the whole target tensor */
};

/* A freeze plan that the target has and that is not the base's with live rows behind it. */
struct delta_plan_change {
    char name[DELTA_TENSOR_NAME_MAX + 1];
    enum delta_freeze_mode mode;
    size_t count;            /* bits; 0 for LIVE and ALL */
    struct delta_bytes bits; /* borrowed; data is NULL where only the front was opened */
    uint64_t offset;         /* of the bitmap in the payload area */
    struct delta_digest sha256;
};

/* An opened delta: structure is sound, payload digests are checked, trust is not. */
struct delta_reader {
    struct delta_digest id; /* SHA-256 of the header: what a signature signs */
    struct delta_digest base;
    struct delta_digest target;
    struct delta_arch arch;
    bool has_provenance;
    struct delta_provenance provenance;
    struct delta_class_id *classes_added; /* appended to the base's list */
    size_t classes_added_count;
    size_t classes_dropped; /* from the end of the base's list, before others are appended */
    struct delta_entry *entries;
    size_t entry_count;
    bool has_parent; /* false: the target's parent is the base */
    struct delta_digest parent;
    struct delta_plan_change *plans;
    size_t plan_count;
    struct delta_bytes header;     /* borrowed */
    struct delta_bytes signatures; /* borrowed; empty: unsigned */
    struct delta_bytes payload;    /* borrowed; data is NULL where only the front was opened */
    uint64_t payload_at;           /* offset of the payload area in the file */
    /* Digests of the payload area's pieces of `chunk_bytes` bytes, the last one shorter, for
     * downloads that are checked and resumed piece by piece. 0 where the maker gave none. */
    uint64_t chunk_bytes;
    size_t chunk_count;
    const uint8_t *chunk_sha256; /* borrowed, [chunk_count, DELTA_DIGEST_BYTES] */
};

/* Opens a delta held in memory. Checks structure and payload digests, not trust.
 *   file     borrowed; must outlive *out
 *   out      written on success only; end with delta_reader_release()
 *   fails    TRUNCATED, FORMAT, LIMIT, DIGEST, UNSUPPORTED, NO_MEMORY
 *   threads  a reader belongs to one thread at a time */
DELTA_MUST_USE enum delta_status
delta_reader_init(struct delta_reader *out, struct delta_bytes file, struct delta_error *err);
void delta_reader_release(struct delta_reader *reader);

/* All of a container but its payload area, read from a file of any size. */
struct delta_front {
    struct delta_buf bytes; /* owned */
    uint64_t file_len;
};
/* Reads no byte of the payload area.  fails: NOT_FOUND, IO, TRUNCATED, FORMAT, LIMIT, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_front_read(struct delta_front *front, const char *path,
                                                  struct delta_error *err);
void delta_front_release(struct delta_front *front);
/* As delta_container_verify(). */
DELTA_MUST_USE enum delta_status delta_front_verify(const struct delta_front *front,
                                                    const struct delta_keyring *ring,
                                                    struct delta_digest *signer,
                                                    struct delta_error *err);
struct delta_peek; /* file.h */
/* Refuses what is no container, and one whose lengths, signatures or header are wrong, without its
 * payload.
 *   ring     NULL: the header is checked; else a key of it must have signed the header, which is
 *            left unparsed
 *   fails    as delta_reader_init() but DIGEST; as delta_front_verify() */
DELTA_MUST_USE enum delta_status delta_front_judge(struct delta_peek *peek,
                                                   const struct delta_keyring *ring,
                                                   struct delta_error *err);
/* As delta_reader_init(), but no payload is at hand: payload.data and the plans' bits are NULL, and
 * no payload digest was checked. Enough to look and to plan a download, not for delta_apply().
 *   front    outlives *out */
DELTA_MUST_USE enum delta_status delta_reader_init_front(struct delta_reader *out,
                                                         const struct delta_front *front,
                                                         struct delta_error *err);
/* Checks piece `index` of the payload area.
 *   fails    DIGEST, MISMATCH (no such piece, another length) */
DELTA_MUST_USE enum delta_status delta_reader_check_chunk(const struct delta_reader *reader,
                                                          size_t index, struct delta_bytes piece,
                                                          struct delta_error *err);

/* base + delta, file to file. Memory: the largest tensor, its freeze bitmap, both headers and at
 * most 8 MiB, whatever the files' size. The target's header, hence its digest, is checked before
 * the first payload is read, and every tensor before the new file takes its name; a failure leaves
 * `out_path` as it was. The result is unsigned.
 *   ring     NULL: the delta's signature is not asked for. The base's is never looked at: it is
 *            named by the delta.
 *   version  may be NULL; the target's digest
 *   fails    as delta_apply() and delta_container_verify(); IO */
DELTA_MUST_USE enum delta_status delta_apply_file(const char *base_path, const char *delta_path,
                                                  const char *out_path,
                                                  const struct delta_keyring *ring,
                                                  struct delta_digest *version,
                                                  struct delta_error *err);

/* base + delta. `out` is written on success only.
 * Allocates no more than the base, its rows grown by the classes added, and one tensor besides.
 *   fails    BASE_UNKNOWN (base has another digest), DIGEST, FORMAT, MISMATCH, LIMIT,
 *            NONFINITE (names tensor and element), NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_apply(const struct delta_model *base,
                                             const struct delta_reader *reader,
                                             struct delta_model *out, struct delta_error *err);

/* ---- signatures of containers, model or delta ---- */

enum delta_container_kind { DELTA_CONTAINER_MODEL, DELTA_CONTAINER_DELTA };

/* What kind of container this is, by its magic.  fails: TRUNCATED, FORMAT */
DELTA_MUST_USE enum delta_status delta_container_kind(struct delta_bytes file,
                                                      enum delta_container_kind *kind,
                                                      struct delta_error *err);

/* Adds this key's signature over the header (replacing an older one of the same key).
 *   file     grows by at most 1088 bytes: its cap must leave that room
 *   fails    TRUNCATED, FORMAT, LIMIT (cap, more than eight signatures), NO_MEMORY */
DELTA_MUST_USE enum delta_status
delta_container_sign(struct delta_buf *file, const struct delta_key *key, struct delta_error *err);

/* Checks that a key of the ring signed the header. The payloads are bound by digests in it and
 * are checked by delta_model_decode / delta_reader_init, not here.
 *   signer   may be NULL; id of the key whose signature held
 *   fails    SIGNATURE (a signature is wrong), UNTRUSTED (unsigned, or no key of the ring) */
DELTA_MUST_USE enum delta_status delta_container_verify(struct delta_bytes file,
                                                        const struct delta_keyring *ring,
                                                        struct delta_digest *signer,
                                                        struct delta_error *err);

/* Ids of the keys that claim to have signed; nothing is verified. *count <= 8. */
DELTA_MUST_USE enum delta_status delta_container_signers(struct delta_bytes file,
                                                         struct delta_digest ids[8], size_t *count,
                                                         struct delta_error *err);

/* A model that may be installed: only verification produces one. */
struct delta_trusted_model {
    struct delta_model model;
    struct delta_digest version;
};
void delta_trusted_model_release(struct delta_trusted_model *trusted);

/* A whole model file signed by a key of the ring. */
DELTA_MUST_USE enum delta_status delta_trust_model(struct delta_trusted_model *out,
                                                   struct delta_bytes file,
                                                   const struct delta_keyring *ring,
                                                   struct delta_error *err);
/* A signed delta applied to a base whose digest it names; base must itself be trusted. */
DELTA_MUST_USE enum delta_status delta_trust_delta(struct delta_trusted_model *out,
                                                   const struct delta_trusted_model *base,
                                                   struct delta_bytes file,
                                                   const struct delta_keyring *ring,
                                                   struct delta_error *err);

#endif
