#include "delta/oci.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container.h"
#include "delta/file.h"
#include "json_in.h"

#define PATH_ROOM 4352
#define JSON_MAX ((size_t)1 << 20) /* of index.json, a manifest, a config */

#define TYPE_INDEX "application/vnd.oci.image.index.v1+json"
#define TYPE_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define TYPE_ARTIFACT "application/vnd.cncf.model.manifest.v1+json"
#define TYPE_CONFIG "application/vnd.cncf.model.config.v1+json"
#define TYPE_WEIGHT "application/vnd.cncf.model.weight.v1.raw"
#define NOTE_NAME "org.opencontainers.image.ref.name"
#define NOTE_PATH "org.cncf.model.filepath"

void delta_oci_list_release(struct delta_oci_list *list)
{
    if (!list)
        return;
    free(list->items);
    *list = (struct delta_oci_list){.count = 0};
}

static enum delta_status check_name(const char *name, struct delta_error *err)
{
    static const char also[] = "._:@/+-";
    const size_t len = strlen(name);

    if (len == 0 || len > DELTA_OCI_NAME_MAX)
        return delta_fail(err, DELTA_FORMAT, "a name has 1 to %d bytes", DELTA_OCI_NAME_MAX);
    for (size_t i = 0; i < len; i++) {
        const char c = name[i];
        const bool plain =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!plain && (i == 0 || !strchr(also, c)))
            return delta_fail(err, DELTA_FORMAT,
                              "a name has letters, digits and '%s', a letter or digit first", also);
    }
    return DELTA_OK;
}

/* ---- reading JSON that anybody may have written ---- */

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static enum delta_status read_json(const char *dir, const char *name, json_t **out,
                                   struct delta_error *err)
{
    char path[PATH_ROOM];
    struct delta_buf file;
    enum delta_status st = delta_path_join(path, sizeof path, dir, name, err);

    if (!st)
        st = delta_file_read(path, JSON_MAX, &file, err);
    if (st)
        return st;
    st = delta_json_parse(delta_buf_bytes(&file), out, err);
    delta_buf_release(&file);
    return st ? delta_fail_in(err, st, "'%s'", path) : DELTA_OK;
}

struct descriptor {
    struct delta_digest digest;
    uint64_t size;
};

/* Only "sha256:" and 64 hex digits: nothing else of a descriptor gets near a path. */
static enum delta_status read_descriptor(const json_t *object, const char *type, uint64_t most,
                                         struct descriptor *out, struct delta_error *err)
{
    static const char prefix[] = "sha256:";
    const char *digest = text_of(object, "digest");
    const json_t *size = json_object_get(object, "size");
    char hex[DELTA_DIGEST_HEX];

    if (strcmp(text_of(object, "mediaType"), type) != 0)
        return delta_fail(err, DELTA_UNSUPPORTED, "media type '%.80s' instead of %s",
                          text_of(object, "mediaType"), type);
    if (strncmp(digest, prefix, sizeof prefix - 1) != 0 ||
        !delta_digest_parse(&out->digest, digest + sizeof prefix - 1))
        return delta_fail(err, DELTA_FORMAT, "'%.80s' is no SHA-256 digest", digest);
    delta_digest_hex(hex, &out->digest);
    if (strcmp(hex, digest + sizeof prefix - 1) != 0)
        return delta_fail(err, DELTA_FORMAT, "digest '%.80s' is not in lower case", digest);
    if (!json_is_integer(size) || json_integer_value(size) < 0)
        return delta_fail(err, DELTA_FORMAT, "its size is no number");
    out->size = (uint64_t)json_integer_value(size);
    if (out->size > most)
        return delta_fail(err, DELTA_LIMIT, "states %" PRIu64 " bytes, the limit is %" PRIu64,
                          out->size, most);
    return DELTA_OK;
}

static enum delta_status blob_path(char out[PATH_ROOM], const char *dir,
                                   const struct delta_digest *digest, struct delta_error *err)
{
    char hex[DELTA_DIGEST_HEX], below[DELTA_DIGEST_HEX + 16];

    delta_digest_hex(hex, digest);
    snprintf(below, sizeof below, "blobs/sha256/%s", hex);
    return delta_path_join(out, PATH_ROOM, dir, below, err);
}

static enum delta_status read_blob(const char *dir, const struct descriptor *want,
                                   struct delta_buf *out, struct delta_error *err)
{
    char path[PATH_ROOM];
    struct delta_digest have;
    enum delta_status st = blob_path(path, dir, &want->digest, err);

    *out = (struct delta_buf){0};
    if (!st)
        st = delta_file_read(path, (size_t)want->size, out, err);
    if (st == DELTA_LIMIT)
        return delta_fail(err, DELTA_DIGEST, "'%s' has more than the %" PRIu64 " bytes stated",
                          path, want->size);
    if (st)
        return st;
    have = delta_sha256(delta_buf_bytes(out));
    if (out->len == want->size && delta_digest_equal(&have, &want->digest))
        return DELTA_OK;
    delta_buf_release(out);
    return delta_fail(err, DELTA_DIGEST, "'%s' is not what its name says; the layout is damaged",
                      path);
}

static enum delta_status read_json_blob(const char *dir, const struct descriptor *want,
                                        json_t **out, struct delta_error *err)
{
    struct delta_buf blob;
    enum delta_status st = read_blob(dir, want, &blob, err);

    if (st)
        return st;
    st = delta_json_parse(delta_buf_bytes(&blob), out, err);
    delta_buf_release(&blob);
    return st;
}

/* ---- the layout ---- */

static enum delta_status read_index(const char *dir, json_t **out, struct delta_error *err)
{
    json_t *layout = NULL;
    const json_t *list;
    enum delta_status st = read_json(dir, "oci-layout", &layout, err);

    *out = NULL;
    if (st == DELTA_NOT_FOUND)
        st = delta_fail_in(err, st, "'%s' is no OCI image layout", dir);
    if (!st && strcmp(text_of(layout, "imageLayoutVersion"), "1.0.0") != 0)
        st = delta_fail(err, DELTA_UNSUPPORTED, "'%s': image layout version '%.20s'", dir,
                        text_of(layout, "imageLayoutVersion"));
    json_decref(layout);
    if (!st)
        st = read_json(dir, "index.json", out, err);
    if (st)
        return st;
    list = json_object_get(*out, "manifests");
    if (json_integer_value(json_object_get(*out, "schemaVersion")) != 2 || !json_is_array(list))
        st = delta_fail(err, DELTA_FORMAT, "'%s/index.json' is no image index", dir);
    else if (json_array_size(list) > DELTA_OCI_MANIFESTS_MAX)
        st = delta_fail(err, DELTA_LIMIT, "'%s/index.json' lists %zu manifests", dir,
                        json_array_size(list));
    if (st) {
        json_decref(*out);
        *out = NULL;
    }
    return st;
}

static const char *name_of(const json_t *entry)
{
    return text_of(json_object_get(entry, "annotations"), NOTE_NAME);
}

/* Is this entry's manifest one of ours? Tools that copy layouts leave the type out of the index. */
static bool is_artifact(const char *dir, const json_t *entry, const struct descriptor *manifest)
{
    const json_t *stated = json_object_get(entry, "artifactType");
    json_t *json = NULL;
    bool yes;

    if (stated)
        return strcmp(text_of(entry, "artifactType"), TYPE_ARTIFACT) == 0;
    yes = !read_json_blob(dir, manifest, &json, NULL) &&
          strcmp(text_of(json, "artifactType"), TYPE_ARTIFACT) == 0;
    json_decref(json);
    return yes;
}

enum delta_status delta_oci_read(struct delta_oci_list *out, const char *dir,
                                 struct delta_error *err)
{
    json_t *index;
    const json_t *list;
    enum delta_status st = read_index(dir, &index, err);

    *out = (struct delta_oci_list){.count = 0};
    if (st)
        return st;
    list = json_object_get(index, "manifests");
    out->items = delta_calloc(json_array_size(list), sizeof *out->items);
    if (!out->items)
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu names", json_array_size(list));
    for (size_t i = 0; i < json_array_size(list) && !st; i++) {
        const json_t *entry = json_array_get(list, i);
        struct delta_oci_item *item = &out->items[out->count];
        struct descriptor manifest;
        if (check_name(name_of(entry), NULL) ||
            read_descriptor(entry, TYPE_MANIFEST, JSON_MAX, &manifest, NULL) ||
            !is_artifact(dir, entry, &manifest)) {
            out->ignored++;
            continue;
        }
        snprintf(item->name, sizeof item->name, "%s", name_of(entry));
        item->manifest = manifest.digest;
        out->count++;
    }
    json_decref(index);
    if (st)
        delta_oci_list_release(out);
    return st;
}

/* ---- pull ---- */

static enum delta_status find_manifest(const char *dir, const char *name, struct descriptor *out,
                                       struct delta_error *err)
{
    const json_t *found = NULL, *list;
    json_t *index;
    enum delta_status st = read_index(dir, &index, err);

    if (st)
        return st;
    list = json_object_get(index, "manifests");
    for (size_t i = 0; i < json_array_size(list) && !st; i++) {
        if (strcmp(name_of(json_array_get(list, i)), name) != 0)
            continue;
        if (found)
            st = delta_fail(err, DELTA_FORMAT, "the index has two entries of this name");
        found = json_array_get(list, i);
    }
    if (!st && !found)
        st = delta_fail(err, DELTA_NOT_FOUND, "'%s' has nothing of this name", dir);
    if (!st)
        st = read_descriptor(found, TYPE_MANIFEST, JSON_MAX, out, err);
    json_decref(index);
    return st;
}

/* The one layer with weights, and that the config is there and whole. */
static enum delta_status read_manifest(const char *dir, const json_t *manifest,
                                       struct descriptor *layer, struct delta_error *err)
{
    const json_t *list = json_object_get(manifest, "layers"), *found = NULL;
    struct descriptor config;
    struct delta_buf blob;
    enum delta_status st;

    if (strcmp(text_of(manifest, "artifactType"), TYPE_ARTIFACT) != 0)
        return delta_fail(err, DELTA_UNSUPPORTED, "artifact type '%.80s' is no model",
                          text_of(manifest, "artifactType"));
    st = read_descriptor(json_object_get(manifest, "config"), TYPE_CONFIG, JSON_MAX, &config, err);
    if (!st)
        st = read_blob(dir, &config, &blob, err);
    if (st)
        return delta_fail_in(err, st, "config");
    delta_buf_release(&blob);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        if (strncmp(text_of(entry, "mediaType"), "application/vnd.cncf.model.weight.v1.", 37) != 0)
            continue; /* documents, code */
        if (found)
            return delta_fail(err, DELTA_UNSUPPORTED, "more than one layer of weights");
        found = entry;
    }
    if (!found)
        return delta_fail(err, DELTA_UNSUPPORTED, "no layer of weights");
    st = read_descriptor(found, TYPE_WEIGHT, DELTA_CONTAINER_MAX, layer, err);
    return st ? delta_fail_in(err, st, "layer") : DELTA_OK;
}

enum delta_status delta_oci_pull(const char *dir, const char *name, struct delta_buf *out,
                                 struct delta_error *err)
{
    struct descriptor manifest, layer;
    enum delta_container_kind kind;
    json_t *json = NULL;
    enum delta_status st = find_manifest(dir, name, &manifest, err);

    *out = (struct delta_buf){0};
    if (!st)
        st = read_json_blob(dir, &manifest, &json, err);
    if (!st)
        st = read_manifest(dir, json, &layer, err);
    if (!st)
        st = read_blob(dir, &layer, out, err);
    if (!st)
        st = delta_container_kind(delta_buf_bytes(out), &kind, err);
    json_decref(json);
    if (st) {
        delta_buf_release(out);
        return delta_fail_in(err, st, "'%.128s'", name);
    }
    return DELTA_OK;
}

/* ---- push ---- */

/* Whether the blob lies there already, whole. What is no file of this size is not even read. */
static bool has_blob(const char *path, const struct delta_digest *digest, size_t len)
{
    struct stat info;
    struct delta_digest have;

    return lstat(path, &info) == 0 && S_ISREG(info.st_mode) && (uint64_t)info.st_size == len &&
           !delta_sha256_file(path, &have, NULL, NULL) && delta_digest_equal(&have, digest);
}

static enum delta_status write_blob(const char *dir, struct delta_bytes bytes, const char *type,
                                    json_t **descriptor, struct delta_error *err)
{
    const struct delta_digest digest = delta_sha256(bytes);
    char path[PATH_ROOM], hex[DELTA_DIGEST_HEX];
    enum delta_status st = blob_path(path, dir, &digest, err);

    delta_digest_hex(hex, &digest);
    *descriptor = NULL;
    if (!st && !has_blob(path, &digest, bytes.len))
        st = delta_file_write(path, bytes, 0644, err);
    if (!st) {
        *descriptor = json_pack("{s:s, s:o, s:I}", "mediaType", type, "digest",
                                json_sprintf("sha256:%s", hex), "size", (json_int_t)bytes.len);
        if (!*descriptor)
            st = delta_fail(err, DELTA_NO_MEMORY, "cannot describe a blob");
    }
    return st;
}

/* Takes `json`. */
static enum delta_status write_json_blob(const char *dir, json_t *json, const char *type,
                                         json_t **descriptor, struct delta_error *err)
{
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    enum delta_status st = DELTA_OK;

    *descriptor = NULL;
    if (!text)
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot encode JSON");
    if (!st)
        st = write_blob(dir, delta_bytes(text, strlen(text)), type, descriptor, err);
    free(text);
    json_decref(json);
    return st;
}

/* "11.2m": one digit after the point at most, as the model-spec has it. */
static json_t *param_size(uint64_t values)
{
    static const char letters[] = "kmbt";
    double size = (double)values / 1000;
    size_t unit = 0;

    while (size >= 999.95 && unit + 2 < sizeof letters) {
        size /= 1000;
        unit++;
    }
    return json_sprintf("%.1f%c", size, letters[unit]);
}

/* What a registry's pages show of the file. */
struct about {
    enum delta_container_kind kind;
    struct delta_digest version, base; /* base: deltas */
    char family[32];
    uint64_t values;
};

static enum delta_status look_into(struct delta_bytes file, struct about *out,
                                   struct delta_error *err)
{
    struct delta_reader reader;
    struct delta_model model;
    enum delta_status st = delta_container_kind(file, &out->kind, err);

    if (!st && out->kind == DELTA_CONTAINER_DELTA) {
        st = delta_reader_init(&reader, file, err);
        if (st)
            return st;
        out->version = reader.target;
        out->base = reader.base;
        memcpy(out->family, reader.arch.name, sizeof out->family);
        for (size_t i = 0; i < reader.entry_count; i++)
            out->values += reader.entries[i].elements;
        delta_reader_release(&reader);
        return DELTA_OK;
    }
    if (!st)
        st = delta_model_decode(&model, file, &out->version, err);
    if (st)
        return st;
    memcpy(out->family, model.arch.name, sizeof out->family);
    for (size_t i = 0; i < model.tensor_count; i++)
        out->values += model.tensors[i].count;
    delta_model_release(&model);
    return DELTA_OK;
}

static enum delta_status write_manifest(const char *dir, const char *name, struct delta_bytes file,
                                        const struct about *about, json_t **descriptor,
                                        struct delta_error *err)
{
    const bool delta = about->kind == DELTA_CONTAINER_DELTA;
    char version[DELTA_DIGEST_HEX], base[DELTA_DIGEST_HEX];
    json_t *layer = NULL, *config = NULL, *notes;
    enum delta_status st = write_blob(dir, file, TYPE_WEIGHT, &layer, err);

    delta_digest_hex(version, &about->version);
    delta_digest_hex(base, &about->base);
    if (!st) {
        json_object_set_new(layer, "annotations",
                            json_pack("{s:s}", NOTE_PATH, delta ? "delta.fld" : "model.flm"));
        config = json_pack("{s:{s:s, s:s, s:s}, s:{s:s, s:s, s:o, s:s}, s:{s:s, s:[O]}}",
                           "descriptor", "name", name, "family", about->family, "version", version,
                           "config", "architecture", "cnn", "format",
                           delta ? "frostline-delta" : "frostline-model", "paramSize",
                           param_size(about->values), "precision", "float32", "modelfs", "type",
                           "layers", "diffIds", json_object_get(layer, "digest"));
        st = write_json_blob(dir, config, TYPE_CONFIG, &config, err);
    }
    if (!st) {
        notes = json_pack("{s:s, s:s}", "org.opencontainers.image.title", name, "frostline.version",
                          version);
        if (delta)
            json_object_set_new(notes, "frostline.base", json_string(base));
        st = write_json_blob(dir,
                             json_pack("{s:i, s:s, s:s, s:o, s:[o], s:o}", "schemaVersion", 2,
                                       "mediaType", TYPE_MANIFEST, "artifactType", TYPE_ARTIFACT,
                                       "config", config, "layers", layer, "annotations", notes),
                             TYPE_MANIFEST, descriptor, err);
        return st;
    }
    json_decref(layer);
    json_decref(config);
    return st;
}

/* `dir` is a layout already, or an empty directory that may become one; made where it is absent. */
static enum delta_status check_place(const char *dir, struct delta_error *err)
{
    struct delta_dir_list list = {NULL, 0};
    char path[PATH_ROOM];
    enum delta_status st = delta_path_join(path, sizeof path, dir, "oci-layout", err);

    if (st || delta_file_exists(path))
        return st;
    st = delta_dir_make(dir, 0755, err);
    if (!st)
        st = delta_dir_read(&list, dir, 16, err);
    /* an index alone is what a power cut left of making a layout */
    if (st == DELTA_LIMIT || list.count > 1 ||
        (list.count == 1 && strcmp(list.names[0], "index.json") != 0))
        st = delta_fail(err, DELTA_FORMAT, "'%s' is no OCI layout, and not empty", dir);
    delta_dir_list_release(&list);
    return st;
}

/* Under the lock: whoever came second finds the layout that the first has made. */
static enum delta_status make_layout(const char *dir, struct delta_error *err)
{
    static const char layout[] = "{\"imageLayoutVersion\":\"1.0.0\"}\n";
    static const char index[] =
        "{\"schemaVersion\":2,\"mediaType\":\"" TYPE_INDEX "\",\"manifests\":[]}\n";
    char path[PATH_ROOM];
    enum delta_status st = delta_path_join(path, sizeof path, dir, "oci-layout", err);

    if (st || delta_file_exists(path))
        return st;
    st = delta_path_join(path, sizeof path, dir, "index.json", err);
    if (!st)
        st = delta_file_write(path, delta_bytes(index, sizeof index - 1), 0644, err);
    if (!st)
        st = delta_path_join(path, sizeof path, dir, "oci-layout", err);
    return st ? st : delta_file_write(path, delta_bytes(layout, sizeof layout - 1), 0644, err);
}

/* Takes `entry`. */
static enum delta_status update_index(const char *dir, const char *name, json_t *entry,
                                      struct delta_error *err)
{
    char path[PATH_ROOM];
    char *text = NULL;
    json_t *index = NULL, *list;
    enum delta_status st = read_index(dir, &index, err);

    if (st)
        goto done;
    list = json_object_get(index, "manifests");
    for (size_t i = json_array_size(list); i > 0; i--)
        if (strcmp(name_of(json_array_get(list, i - 1)), name) == 0)
            json_array_remove(list, i - 1);
    json_object_set_new(entry, "artifactType", json_string(TYPE_ARTIFACT));
    json_object_set_new(entry, "annotations", json_pack("{s:s}", NOTE_NAME, name));
    if (json_array_append(list, entry) == 0)
        text = json_dumps(index, JSON_INDENT(2) | JSON_SORT_KEYS);
    if (!text)
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot encode the index");
    else if (strlen(text) > JSON_MAX)
        st = delta_fail(err, DELTA_LIMIT, "the index would exceed %zu bytes", JSON_MAX);
    if (!st)
        st = delta_path_join(path, sizeof path, dir, "index.json", err);
    if (!st)
        st = delta_file_write(path, delta_bytes(text, strlen(text)), 0644, err);
done:
    free(text);
    json_decref(index);
    json_decref(entry);
    return st;
}

enum delta_status delta_oci_push(const char *dir, const char *name, struct delta_bytes file,
                                 struct delta_digest *manifest, struct delta_error *err)
{
    struct about about = {.values = 0};
    struct descriptor written;
    char path[PATH_ROOM];
    json_t *entry = NULL;
    int lock = -1;
    enum delta_status st = check_name(name, err);

    if (!st)
        st = look_into(file, &about, err);
    if (!st)
        st = check_place(dir, err);
    if (!st)
        st = delta_path_join(path, sizeof path, dir, ".push-lock", err);
    if (!st)
        st = delta_file_lock(path, &lock, err);
    if (!st)
        st = make_layout(dir, err);
    if (!st)
        st = delta_path_join(path, sizeof path, dir, "blobs/sha256", err);
    if (!st)
        st = delta_dir_make(path, 0755, err);
    if (!st)
        st = write_manifest(dir, name, file, &about, &entry, err);
    if (!st)
        st = read_descriptor(entry, TYPE_MANIFEST, JSON_MAX, &written, err);
    if (!st && manifest)
        *manifest = written.digest;
    if (!st)
        st = update_index(dir, name, entry, err);
    else
        json_decref(entry);
    if (lock >= 0)
        close(lock);
    return st;
}
