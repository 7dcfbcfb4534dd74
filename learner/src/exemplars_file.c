/* The exemplar file. Local to a device, but read as hostile: a card can be swapped or worn.
 *
 *   8 bytes   "FROSTEX1"
 *   4 bytes   length of the header, little-endian
 *   header    MessagePack map: probe, replay (each: channels, classes, height, labels = bin of
 *             little-endian uint16, width), schema = 1
 *   pixels    replay, then probe, planar RGB
 *   32 bytes  SHA-256 of everything before
 */
#include "learner/exemplars.h"

#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "delta/hash.h"
#include "delta/msg.h"
#include "sources.h"

#define MAGIC "FROSTEX1"
#define MAGIC_BYTES 8
#define FRONT_BYTES (MAGIC_BYTES + 4)
#define SCHEMA 1
#define MAX_HEADER ((size_t)8 << 20)
#define MAX_FILE ((size_t)1 << 30)

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

static enum delta_status put_header(struct delta_buf *header,
                                    const struct learner_exemplars *exemplars,
                                    struct delta_error *err)
{
    struct delta_msg_out out = {header, DELTA_OK};
    enum delta_status st;

    delta_msg_map(&out, 3);
    delta_msg_str(&out, "probe");
    st = put_set(&out, &exemplars->probe, err);
    if (st)
        return st;
    delta_msg_str(&out, "replay");
    st = put_set(&out, &exemplars->replay, err);
    if (st)
        return st;
    delta_msg_str(&out, "schema");
    delta_msg_uint(&out, SCHEMA);
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
    const struct delta_bytes parts[2] = {pixels_of(&exemplars->replay),
                                         pixels_of(&exemplars->probe)};
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
    for (int i = 0; !st && i < 2; i++)
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

static enum delta_status decode(struct learner_exemplars *out, struct delta_bytes file,
                                struct delta_error *err)
{
    struct delta_msg msg = {0};
    struct delta_msg_value map;
    struct delta_digest digest;
    uint64_t schema;
    size_t header = 0, wanted;
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
    if (!st && schema != SCHEMA)
        st = delta_fail(err, DELTA_UNSUPPORTED, "schema %llu is newer than this program",
                        (unsigned long long)schema);
    if (!st)
        st = get_set(&out->replay, delta_msg_find(map, "replay"), file.len, err);
    if (!st)
        st = get_set(&out->probe, delta_msg_find(map, "probe"), file.len, err);
    delta_msg_release(&msg);
    if (st)
        return st;
    const struct delta_bytes parts[2] = {pixels_of(&out->replay), pixels_of(&out->probe)};
    wanted = FRONT_BYTES + header + parts[0].len + parts[1].len;
    if (wanted != file.len)
        return delta_fail(err, wanted > file.len ? DELTA_TRUNCATED : DELTA_FORMAT,
                          "file has %zu bytes where %zu belong", file.len, wanted);
    memcpy(out->replay.pixels, file.data + FRONT_BYTES + header, parts[0].len);
    memcpy(out->probe.pixels, file.data + FRONT_BYTES + header + parts[0].len, parts[1].len);
    return DELTA_OK;
}

enum delta_status learner_exemplars_load(struct learner_exemplars *out, const char *path,
                                         struct delta_error *err)
{
    struct learner_exemplars made = {LEARNER_SAMPLES_INIT, LEARNER_SAMPLES_INIT};
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
