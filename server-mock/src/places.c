#include "places.h"

#include <stdio.h>
#include <string.h>

#include "delta/file.h"

enum delta_status server_places_init(struct server_places *out, const char *dir,
                                     struct delta_error *err)
{
    const struct {
        char *at;
        const char *name;
    } table[] = {{out->ca_pem, "ca.pem"},
                 {out->ca_key, "ca.key"},
                 {out->server_pem, "server.pem"},
                 {out->server_key, "server.key"},
                 {out->release_key, "release.key"},
                 {out->operator_pem, "operator.pem"},
                 {out->operator_key, "operator.key"},
                 {out->database, "frostline.db"},
                 {out->blobs, "blobs"},
                 {out->uploads, "uploads"},
                 {out->run_lock, "run.lock"},
                 {out->release_lock, "release.lock"}};

    if (snprintf(out->dir, sizeof out->dir, "%s", dir) >= (int)sizeof out->dir)
        return delta_fail(err, DELTA_LIMIT, "path '%s' is too long", dir);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const enum delta_status st =
            delta_path_join(table[i].at, SERVER_PATH_MAX, dir, table[i].name, err);
        if (st)
            return st;
    }
    return DELTA_OK;
}

void server_places_blob(const struct server_places *places, const struct delta_digest *digest,
                        char out[SERVER_PATH_MAX])
{
    char hex[DELTA_DIGEST_HEX];

    delta_digest_hex(hex, digest);
    snprintf(out, SERVER_PATH_MAX, "%s/%.2s/%s", places->blobs, hex, hex);
}

void server_places_upload(const struct server_places *places, const char *device,
                          const struct delta_digest *digest, char out[SERVER_PATH_MAX])
{
    char hex[DELTA_DIGEST_HEX];

    delta_digest_hex(hex, digest);
    snprintf(out, SERVER_PATH_MAX, "%s/%s-%s.part", places->uploads, device, hex);
}

static enum delta_status blob_dir(const struct server_places *places,
                                  const struct delta_digest *digest, struct delta_error *err)
{
    char dir[SERVER_PATH_MAX + 4];
    enum delta_status st;

    snprintf(dir, sizeof dir, "%s/%02x", places->blobs, digest->bytes[0]);
    if (delta_file_exists(dir))
        return DELTA_OK;
    st = delta_dir_make(dir, 0755, err);
    return st ? st : delta_file_sync_dir(places->blobs, err);
}

enum delta_status server_blob_write(const struct server_places *places, struct delta_bytes bytes,
                                    struct delta_digest *digest, struct delta_error *err)
{
    char path[SERVER_PATH_MAX];
    enum delta_status st;

    *digest = delta_sha256(bytes);
    server_places_blob(places, digest, path);
    if (delta_file_exists(path))
        return DELTA_OK;
    st = blob_dir(places, digest, err);
    return st ? st : delta_file_write(path, bytes, 0644, err);
}

enum delta_status server_blob_adopt(const struct server_places *places, const char *path,
                                    const struct delta_digest *digest, struct delta_error *err)
{
    char to[SERVER_PATH_MAX];
    const enum delta_status st = blob_dir(places, digest, err);

    if (st)
        return st;
    server_places_blob(places, digest, to);
    return delta_file_rename(path, to, err);
}
