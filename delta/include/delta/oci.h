/* A plain directory as an OCI image layout (image-spec v1.1: oci-layout, index.json, blobs/sha256/)
 * that holds models and deltas as model-spec artifacts (github.com/modelpack/model-spec, media
 * types application/vnd.cncf.model.*.v1), so that tools which mirror registries carry them.
 *
 * One artifact is one manifest with one layer: the .flm or .fld file as it is, signature included.
 * What is pulled is checked against size and SHA-256 at each step from index.json down; names and
 * annotations of a layout never become paths. The layout itself is not signed: trust comes from
 * the signature within the file.
 */
#ifndef DELTA_OCI_H
#define DELTA_OCI_H

#include "delta/delta.h"

#define DELTA_OCI_NAME_MAX 128
#define DELTA_OCI_MANIFESTS_MAX 4096 /* entries of index.json */

/* One artifact of ours as index.json tells it; nothing below the index is looked at. */
struct delta_oci_item {
    char name[DELTA_OCI_NAME_MAX + 1]; /* org.opencontainers.image.ref.name */
    struct delta_digest manifest;
};

struct delta_oci_list {
    struct delta_oci_item *items; /* in the order of index.json */
    size_t count;
    size_t ignored; /* entries that are no model artifacts, or have no name */
};

/* fails: NOT_FOUND, FORMAT, UNSUPPORTED, LIMIT, IO, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_oci_read(struct delta_oci_list *out, const char *dir,
                                                struct delta_error *err);
void delta_oci_list_release(struct delta_oci_list *list);

/* Adds a model or delta file under a name, which then no longer names what it named before;
 * blobs stay. Makes the layout where `dir` is absent or empty. Atomic: a reader finds the old
 * index or the new one, and every blob that it names.
 *   name      letters, digits and . _ : @ / + -, a letter or digit first
 *   manifest  may be NULL; digest of the manifest written
 *   fails     FORMAT (name; dir is something else; file is neither model nor delta), EXISTS
 *             (another process is pushing), IO, NO_SPACE, NO_MEMORY, and what opening the file says
 */
DELTA_MUST_USE enum delta_status delta_oci_push(const char *dir, const char *name,
                                                struct delta_bytes file,
                                                struct delta_digest *manifest,
                                                struct delta_error *err);

/* The file that a name stands for. Structure and signature are the caller's to check.
 *   out      initialised here
 *   fails    NOT_FOUND, FORMAT, UNSUPPORTED, LIMIT, DIGEST (a blob is not what names it), IO,
 *            NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_oci_pull(const char *dir, const char *name,
                                                struct delta_buf *out, struct delta_error *err);

#endif
