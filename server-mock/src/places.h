/* Where things lie in a coordinator's directory.
 *
 *   ca.pem ca.key            the fleet's CA: signs TLS certificates
 *   server.pem server.key    the coordinator's own certificate
 *   release.key              signs models, deltas and channel documents
 *   operator.pem operator.key  a person's certificate for the lists
 *   frostline.db             SQLite
 *   blobs/<2 hex>/<sha256>   immutable files under their digest
 *   uploads/<device>-<sha256>.part   unfinished uploads
 *   run.lock release.lock    one coordinator; one publisher at a time
 */
#ifndef SERVER_PLACES_H
#define SERVER_PLACES_H

#include "delta/hash.h"

#define SERVER_PATH_MAX 1024

struct server_places {
    char dir[SERVER_PATH_MAX - 256]; /* room for every name below fits beside it */
    char ca_pem[SERVER_PATH_MAX];
    char ca_key[SERVER_PATH_MAX];
    char server_pem[SERVER_PATH_MAX];
    char server_key[SERVER_PATH_MAX];
    char release_key[SERVER_PATH_MAX];
    char operator_pem[SERVER_PATH_MAX];
    char operator_key[SERVER_PATH_MAX];
    char database[SERVER_PATH_MAX];
    char blobs[SERVER_PATH_MAX];
    char uploads[SERVER_PATH_MAX];
    char run_lock[SERVER_PATH_MAX];
    char release_lock[SERVER_PATH_MAX];
};

/* fails: LIMIT (path too long) */
DELTA_MUST_USE enum delta_status server_places_init(struct server_places *out, const char *dir,
                                                    struct delta_error *err);
void server_places_blob(const struct server_places *places, const struct delta_digest *digest,
                        char out[SERVER_PATH_MAX]);
/* `device` has passed delta_name_check(). */
void server_places_upload(const struct server_places *places, const char *device,
                          const struct delta_digest *digest, char out[SERVER_PATH_MAX]);

/* Writes a blob durably under its digest; one that is there already is left alone.
 *   fails    IO, NO_SPACE */
DELTA_MUST_USE enum delta_status server_blob_write(const struct server_places *places,
                                                   struct delta_bytes bytes,
                                                   struct delta_digest *digest,
                                                   struct delta_error *err);
/* Moves a complete, synced file into the blob directory. */
DELTA_MUST_USE enum delta_status server_blob_adopt(const struct server_places *places,
                                                   const char *path,
                                                   const struct delta_digest *digest,
                                                   struct delta_error *err);

#endif
