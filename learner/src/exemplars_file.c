/* The exemplar file. Local to a device, but read as hostile: a card can be swapped or worn.
 *
 *   8 bytes   "FROSTEX1"
 *   4 bytes   length of the header, little-endian
 *   header    MessagePack map: features (may be absent; body = bin of 32 bytes, d = values a
 *             feature), latents (may be absent; below = bin of 32 bytes, layers, values = of a
 *             latent), probe, replay (each: channels, classes, height, labels = bin of
 *             little-endian uint16, width), schema = 3 (1: without features and latents, 2:
 *             without latents)
 *   pixels    replay, then probe, planar RGB
 *   features  where the header has them: replay, then probe, little-endian float32
 *   latents   where the header has them: of replay, little-endian bfloat16
 *   32 bytes  SHA-256 of everything before
 */
#include "learner/exemplars.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "delta/hash.h"
#include "delta/msg.h"
#include "exemplar_features.h"
#include "sources.h"

#define MAGIC "FROSTEX1"
#define MAGIC_BYTES 8
#define FRONT_BYTES (MAGIC_BYTES + 4)
#define SCHEMA 3
#define MAX_HEADER ((size_t)8 << 20)
#define MAX_FILE ((size_t)1 << 30)
#define MAX_FEATURE 65536 /* values */
#define MAX_LAYERS 4096

static enum delta_status put_set(struct delta_msg_out *out, const struct learner_samples *set,
                                 struct delta_error *err)
{
    size_t bytes;
    uint8_t *labels = delta_size_mul(set->count, 2, &bytes) ? delta_calloc(bytes + 1, 1) : NULL;

    if (!labels)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < set->count; i++) {
        labels[2 * i] = (uint8_t)(set->labels[i] & 0xff);
        labels[2 * i + 1] = (uint8_t)(set->labels[i] >> 8);
    }
    delta_msg_map(out, 5);
    delta_msg_str(out, "channels");
    delta_msg_uint(out, set->channels);
    delta_msg_str(out, "classes");
    delta_msg_array(out, set->class_count);
    for (size_t k = 0; k < set->class_count; k++)
        delta_msg_str(out, set->classes[k].text);
    delta_msg_str(out, "height");
    delta_msg_uint(out, set->height);
    delta_msg_str(out, "labels");
    delta_msg_bin(out, labels, bytes);
    delta_msg_str(out, "width");
    delta_msg_uint(out, set->width);
    free(labels);
    return DELTA_OK;
}

/* Those of fewer or more images than there are would be misread. */
static bool has_features(const struct learner_exemplars *exemplars)
{
    const struct learner_features *features = &exemplars->features;

    return features->d && features->replay_count == exemplars->replay.count &&
           features->probe_count == exemplars->probe.count;
}

static bool has_latents(const struct learner_exemplars *exemplars)
{
    return exemplars->latents.values && exemplars->latents.count == exemplars->replay.count;
}

static void put_latents(struct delta_msg_out *out, const struct learner_latents *latents)
{
    delta_msg_str(out, "latents");
    delta_msg_map(out, 3);
    delta_msg_str(out, "below");
    delta_msg_bin(out, latents->below.bytes, sizeof latents->below.bytes);
    delta_msg_str(out, "layers");
    delta_msg_uint(out, latents->layers);
    delta_msg_str(out, "values");
    delta_msg_uint(out, latents->values);
}

static void put_features(struct delta_msg_out *out, const struct learner_features *features)
{
    delta_msg_str(out, "features");
    delta_msg_map(out, 2);
    delta_msg_str(out, "body");
    delta_msg_bin(out, features->body.bytes, sizeof features->body.bytes);
    delta_msg_str(out, "d");
    delta_msg_uint(out, features->d);
}

static enum delta_status put_header(struct delta_buf *header,
                                    const struct learner_exemplars *exemplars,
                                    struct delta_error *err)
{
    struct delta_msg_out out = {header, DELTA_OK};
    enum delta_status st;

    delta_msg_map(&out, (uint32_t)(3 + has_features(exemplars) + has_latents(exemplars)));
    if (has_features(exemplars))
        put_features(&out, &exemplars->features);
    if (has_latents(exemplars))
        put_latents(&out, &exemplars->latents);
    delta_msg_str(&out, "probe");
    st = put_set(&out, &exemplars->probe, err);
    if (st)
        return st;
    delta_msg_str(&out, "replay");
    st = put_set(&out, &exemplars->replay, err);
    if (st)
        return st;
    delta_msg_str(&out, "schema");
    delta_msg_uint(&out, has_latents(exemplars) ? SCHEMA : has_features(exemplars) ? 2 : 1);
    if (out.status)
        return delta_fail(err, out.status, "too many exemplars for one file");
    return DELTA_OK;
}

static struct delta_bytes pixels_of(const struct learner_samples *set)
{
    return delta_bytes(set->pixels, set->count * learner_samples_image_bytes(set));
}

enum delta_status learner_exemplars_save(const struct learner_exemplars *exemplars,
                                         const char *path, struct delta_error *err)
{
    const struct learner_features *features = &exemplars->features;
    const struct learner_latents *latents = &exemplars->latents;
    const size_t row = has_features(exemplars) ? features->d * sizeof(float) : 0;
    const size_t latent = has_latents(exemplars) ? latents->values * sizeof *latents->rows : 0;
    const struct delta_bytes parts[] = {pixels_of(&exemplars->replay), pixels_of(&exemplars->probe),
                                        delta_bytes(features->replay, row * features->replay_count),
                                        delta_bytes(features->probe, row * features->probe_count),
                                        delta_bytes(latents->rows, latent * latents->count)};
    struct delta_buf header, file;
    struct delta_digest digest;
    enum delta_status st;

    delta_buf_init(&header, MAX_HEADER);
    delta_buf_init(&file, MAX_FILE);
    st = put_header(&header, exemplars, err);
    if (st)
        goto done;
    uint8_t front[FRONT_BYTES] = MAGIC;
    for (int i = 0; i < 4; i++)
        front[MAGIC_BYTES + i] = (uint8_t)(header.len >> (8 * i));
    st = delta_buf_append(&file, front, sizeof front, err);
    if (!st)
        st = delta_buf_append(&file, header.data, header.len, err);
    for (size_t i = 0; !st && i < sizeof parts / sizeof parts[0]; i++)
        st = delta_buf_append(&file, parts[i].data, parts[i].len, err);
    if (st)
        goto done;
    digest = delta_sha256(delta_buf_bytes(&file));
    st = delta_buf_append(&file, digest.bytes, sizeof digest.bytes, err);
    if (!st)
        st = delta_file_write(path, delta_buf_bytes(&file), 0600, err);
done:
    if (st)
        st = delta_fail_in(err, st, "exemplars '%s'", path);
    delta_buf_release(&header);
    delta_buf_release(&file);
    return st;
}

/* Class list and labels of one set; pixels are still to be copied: `room` bytes at most. */
static enum delta_status get_set(struct learner_samples *out, struct delta_msg_value map,
                                 size_t room, struct delta_error *err)
{
    uint64_t channels, height, width;
    struct delta_msg_value classes;
    struct delta_bytes labels;
    enum delta_status st;

    if ((st = delta_msg_get_uint(map, "channels", 3, &channels, err)) ||
        (st = delta_msg_get_uint(map, "height", LEARNER_SAMPLES_MAX_SIDE, &height, err)) ||
        (st = delta_msg_get_uint(map, "width", LEARNER_SAMPLES_MAX_SIDE, &width, err)) ||
        (st = delta_msg_get_array(map, "classes", LEARNER_SAMPLES_MAX_CLASSES, &classes, err)) ||
        (st = delta_msg_get_bin(map, "labels", &labels, err)))
        return st;
    if (labels.len % 2)
        return delta_fail(err, DELTA_FORMAT, "labels: odd length");
    /* no more is reserved than the file brings; the product has at most 43 bits */
    if (channels * height * width * (labels.len / 2) > room)
        return delta_fail(err, DELTA_TRUNCATED, "pixels end early");
    st = learner_samples_reserve(out, (uint32_t)channels, (uint32_t)height, (uint32_t)width,
                                 labels.len / 2, delta_msg_count(classes), err);
    for (size_t k = 0; !st && k < out->class_count; k++) {
        char *text = out->classes[k].text;
        st = delta_msg_to_str(delta_msg_at(classes, k), "class", text, sizeof out->classes[k].text,
                              err);
        if (!st)
            st = delta_class_id_check(text, err);
    }
    for (size_t i = 0; !st && i < out->count; i++) {
        out->labels[i] = labels.data[2 * i] | labels.data[2 * i + 1] << 8;
        if ((size_t)out->labels[i] >= out->class_count)
            st = delta_fail(err, DELTA_FORMAT, "label %d of %zu classes", out->labels[i],
                            out->class_count);
    }
    return st;
}

/* Name and size; the values are still to be copied: `room` bytes at most. */
static enum delta_status get_features(struct learner_exemplars *out, struct delta_msg_value root,
                                      size_t room, struct delta_error *err)
{
    struct learner_features *features = &out->features;
    const struct delta_msg_value map = delta_msg_find(root, "features");
    struct delta_bytes body;
    uint64_t d;
    enum delta_status st;

    if (!delta_msg_has(root, "features"))
        return DELTA_OK;
    if ((st = delta_msg_get_bin(map, "body", &body, err)) ||
        (st = delta_msg_get_uint(map, "d", MAX_FEATURE, &d, err)))
        return st;
    if (body.len != sizeof features->body.bytes || d == 0)
        return delta_fail(err, DELTA_FORMAT, "features: a digest of %zu bytes, %llu values each",
                          body.len, (unsigned long long)d);
    if (room / sizeof(float) / d < out->replay.count + out->probe.count)
        return delta_fail(err, DELTA_TRUNCATED, "features end early");
    features->replay = delta_calloc(out->replay.count * d + 1, sizeof(float));
    features->probe = delta_calloc(out->probe.count * d + 1, sizeof(float));
    if (!features->replay || !features->probe)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for features");
    memcpy(features->body.bytes, body.data, sizeof features->body.bytes);
    features->d = d;
    features->replay_count = out->replay.count;
    features->probe_count = out->probe.count;
    return DELTA_OK;
}

/* The same of the latents. */
static enum delta_status get_latents(struct learner_exemplars *out, struct delta_msg_value root,
                                     size_t room, struct delta_error *err)
{
    struct learner_latents *latents = &out->latents;
    const struct delta_msg_value map = delta_msg_find(root, "latents");
    struct delta_bytes below;
    uint64_t layers, values;
    enum delta_status st;

    if (!delta_msg_has(root, "latents"))
        return DELTA_OK;
    if ((st = delta_msg_get_bin(map, "below", &below, err)) ||
        (st = delta_msg_get_uint(map, "layers", MAX_LAYERS, &layers, err)) ||
        (st = delta_msg_get_uint(map, "values", LEARNER_LATENT_VALUES_MAX, &values, err)))
        return st;
    if (below.len != sizeof latents->below.bytes || values == 0)
        return delta_fail(err, DELTA_FORMAT, "latents: a digest of %zu bytes, %llu values each",
                          below.len, (unsigned long long)values);
    if (room / sizeof *latents->rows / values < out->replay.count)
        return delta_fail(err, DELTA_TRUNCATED, "latents end early");
    if (out->replay.count * values * sizeof *latents->rows > LEARNER_LATENT_BYTES_MAX)
        return delta_fail(err, DELTA_LIMIT, "latents of more than %zu bytes",
                          LEARNER_LATENT_BYTES_MAX);
    latents->rows = delta_calloc(out->replay.count * values + 1, sizeof *latents->rows);
    if (!latents->rows)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for latents");
    memcpy(latents->below.bytes, below.data, sizeof latents->below.bytes);
    latents->layers = layers;
    latents->values = values;
    latents->count = out->replay.count;
    return DELTA_OK;
}

static enum delta_status check_latents(const struct learner_latents *latents,
                                       struct delta_error *err)
{
    for (size_t i = 0; i < latents->count * latents->values; i++)
        if ((latents->rows[i] & 0x7f80) == 0x7f80)
            return delta_fail(err, DELTA_NONFINITE, "latents: value %zu is not finite", i);
    return DELTA_OK;
}

static enum delta_status check_values(const float *values, size_t count, struct delta_error *err)
{
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return delta_fail(err, DELTA_NONFINITE, "features: value %zu is not finite", i);
    return DELTA_OK;
}

/* What follows the header, in the order of the file. */
static enum delta_status get_body(struct learner_exemplars *out, struct delta_bytes body,
                                  struct delta_error *err)
{
    const struct learner_features *features = &out->features;
    const struct learner_latents *latents = &out->latents;
    const size_t row = features->d * sizeof(float);
    const struct {
        void *to;
        size_t bytes;
    } parts[] = {{out->replay.pixels, pixels_of(&out->replay).len},
                 {out->probe.pixels, pixels_of(&out->probe).len},
                 {features->replay, row * features->replay_count},
                 {features->probe, row * features->probe_count},
                 {latents->rows, latents->count * latents->values * sizeof *latents->rows}};
    size_t wanted = 0, at = 0;

    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        wanted += parts[i].bytes;
    if (wanted != body.len)
        return delta_fail(err, wanted > body.len ? DELTA_TRUNCATED : DELTA_FORMAT,
                          "%zu bytes behind the header where %zu belong", body.len, wanted);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (parts[i].bytes)
            memcpy(parts[i].to, body.data + at, parts[i].bytes);
        at += parts[i].bytes;
    }
    enum delta_status st =
        check_values(features->replay, features->d * features->replay_count, err);
    if (!st)
        st = check_values(features->probe, features->d * features->probe_count, err);
    return st ? st : check_latents(latents, err);
}

static enum delta_status decode(struct learner_exemplars *out, struct delta_bytes file,
                                struct delta_error *err)
{
    struct delta_msg msg = {0};
    struct delta_msg_value map;
    struct delta_digest digest;
    uint64_t schema;
    size_t header = 0;
    enum delta_status st;

    if (file.len < FRONT_BYTES + DELTA_DIGEST_BYTES)
        return delta_fail(err, DELTA_TRUNCATED, "file ends early");
    if (memcmp(file.data, MAGIC, MAGIC_BYTES) != 0)
        return delta_fail(err, DELTA_FORMAT, "not a file of exemplars");
    file.len -= DELTA_DIGEST_BYTES;
    digest = delta_sha256(file);
    if (memcmp(digest.bytes, file.data + file.len, DELTA_DIGEST_BYTES) != 0)
        return delta_fail(err, DELTA_DIGEST,
                          "file is damaged or cut; make it again with 'frostline-learn exemplars'");
    for (int i = 0; i < 4; i++)
        header |= (size_t)file.data[MAGIC_BYTES + i] << (8 * i);
    if (header > file.len - FRONT_BYTES)
        return delta_fail(err, DELTA_TRUNCATED, "header ends early");
    st = delta_msg_parse(&msg, delta_bytes(file.data + FRONT_BYTES, header), err);
    if (st)
        return st;
    map = delta_msg_root(&msg);
    st = delta_msg_get_uint(map, "schema", UINT32_MAX, &schema, err);
    if (!st && (schema < 1 || schema > SCHEMA))
        st = delta_fail(err, DELTA_UNSUPPORTED, "schema %llu is newer than this program",
                        (unsigned long long)schema);
    if (!st)
        st = get_set(&out->replay, delta_msg_find(map, "replay"), file.len, err);
    if (!st)
        st = get_set(&out->probe, delta_msg_find(map, "probe"), file.len, err);
    if (!st && schema > 1)
        st = get_features(out, map, file.len, err);
    if (!st && schema > 2)
        st = get_latents(out, map, file.len, err);
    delta_msg_release(&msg);
    if (st)
        return st;
    return get_body(
        out, delta_bytes(file.data + FRONT_BYTES + header, file.len - FRONT_BYTES - header), err);
}

enum delta_status learner_exemplars_load(struct learner_exemplars *out, const char *path,
                                         struct delta_error *err)
{
    struct learner_exemplars made = LEARNER_EXEMPLARS_INIT;
    struct delta_buf file;
    enum delta_status st = delta_file_read(path, MAX_FILE, &file, err);

    if (st)
        return st;
    st = decode(&made, delta_buf_bytes(&file), err);
    delta_buf_release(&file);
    if (st) {
        learner_exemplars_release(&made);
        return delta_fail_in(err, st, "exemplars '%s'", path);
    }
    *out = made;
    return DELTA_OK;
}
