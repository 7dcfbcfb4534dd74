#include "intake.h"

#include <string.h>

#include "delta/delta.h"
#include "delta/file.h"

static enum delta_status check_signature(const struct server_device *device,
                                         struct delta_bytes file, struct delta_error *err)
{
    struct delta_public_key key;
    struct delta_keyring ring = {.count = 0};
    enum delta_status st =
        delta_public_key_parse(&key, delta_bytes(device->key_der, device->key_len), err);

    if (!st)
        st = delta_keyring_add(&ring, &key, err);
    if (!st)
        st = delta_container_verify(file, &ring, NULL, err);
    if (st == DELTA_UNTRUSTED)
        delta_fail(err, st,
                   "contribution is not signed by the key of device '%s'; sign it with the key "
                   "the device enrolled with",
                   device->name);
    return st;
}

static enum delta_status check_provenance(const struct server_device *device,
                                          const struct delta_reader *reader,
                                          struct delta_error *err)
{
    if (!reader->has_provenance || strcmp(reader->provenance.device, device->name) != 0)
        return delta_fail(
            err, DELTA_MISMATCH, "provenance names '%s', the contribution came from '%s'",
            reader->has_provenance ? reader->provenance.device : "nobody", device->name);
    return DELTA_OK;
}

static bool same_arch(const struct delta_arch *a, const struct delta_arch *b)
{
    return strcmp(a->name, b->name) == 0 && strcmp(a->stem, b->stem) == 0 && a->width == b->width &&
           a->channels == b->channels && a->height == b->height &&
           a->image_width == b->image_width && memcmp(a->mean, b->mean, sizeof a->mean) == 0 &&
           memcmp(a->std, b->std, sizeof a->std) == 0;
}

/* Only the classifier grows, and only by rows. */
static enum delta_status check_shapes(const struct delta_reader *reader,
                                      const struct delta_model *base, struct delta_error *err)
{
    struct delta_tensor *weight, *bias;
    enum delta_status st = delta_model_head(base, &weight, &bias, err);

    if (st)
        return st;
    if (reader->classes_dropped)
        return delta_fail(err, DELTA_MISMATCH, "it would take %zu classes from the fleet",
                          reader->classes_dropped);
    if (!same_arch(&reader->arch, &base->arch))
        return delta_fail(err, DELTA_MISMATCH, "it is for another architecture than its base");
    for (size_t i = 0; i < reader->entry_count; i++) {
        const struct delta_entry *entry = &reader->entries[i];
        const struct delta_tensor *tensor = delta_model_find(base, entry->name);
        bool same = tensor && tensor->rank == entry->rank;
        for (uint32_t d = 0; same && d < entry->rank; d++)
            same = entry->shape[d] == tensor->shape[d] ||
                   (d == 0 && (tensor == weight || tensor == bias) &&
                    entry->shape[0] == base->class_count + reader->classes_added_count);
        if (!same)
            return delta_fail(err, DELTA_MISMATCH,
                              "tensor '%s' is not in its base or has another shape", entry->name);
    }
    return DELTA_OK;
}

/* By format: a tensor with frozen elements travels without them. */
static enum delta_status check_frozen_absent(const struct delta_reader *reader,
                                             const struct delta_model *base,
                                             struct delta_error *err)
{
    for (size_t i = 0; i < reader->entry_count; i++) {
        const struct delta_entry *entry = &reader->entries[i];
        const struct delta_tensor *tensor = delta_model_find(base, entry->name);
        if (!entry->live_only && !entry->grown_only &&
            delta_tensor_live_count(tensor) != tensor->count)
            return delta_fail(err, DELTA_MISMATCH,
                              "tensor '%s' carries elements that its base has frozen; learn with "
                              "the base's freeze plan",
                              entry->name);
    }
    return DELTA_OK;
}

/* And in fact: what the base has frozen is bit-identical in the target. */
static enum delta_status check_frozen_same(const struct delta_model *base,
                                           const struct delta_model *target,
                                           struct delta_error *err)
{
    for (size_t t = 0; t < base->tensor_count; t++) {
        const struct delta_tensor *from = &base->tensors[t];
        const struct delta_tensor *to = delta_model_find(target, from->name);
        if (!to || to->count < from->count)
            return delta_fail(err, DELTA_MISMATCH, "tensor '%s' is gone", from->name);
        if (memcmp(from->data, to->data, from->count * sizeof(float)) == 0)
            continue;
        for (size_t i = 0; i < from->count; i++)
            if (memcmp(&from->data[i], &to->data[i], sizeof(float)) != 0 &&
                delta_tensor_is_frozen(from, i))
                return delta_fail(err, DELTA_MISMATCH,
                                  "tensor '%s': element %zu is frozen in the base and was changed",
                                  from->name, i);
    }
    return DELTA_OK;
}

static enum delta_status check_target(const struct delta_reader *reader,
                                      const struct delta_model *base, struct delta_error *err)
{
    struct delta_model target = DELTA_MODEL_INIT;
    enum delta_status st = check_shapes(reader, base, err);

    if (!st)
        st = check_frozen_absent(reader, base, err);
    if (!st)
        st = delta_apply(base, reader, &target, err);
    if (st)
        return st;
    st = check_frozen_same(base, &target, err);
    if (!st)
        st = delta_model_check_finite(&target, err);
    delta_model_release(&target);
    for (size_t i = 0; i < reader->classes_added_count && !st; i++)
        st = delta_class_id_check(reader->classes_added[i].text, err);
    return st;
}

static enum delta_status check_quota(struct server_keeper *keeper,
                                     const struct server_device *device, uint32_t max_pending,
                                     struct delta_error *err)
{
    uint64_t count;
    enum delta_status st = server_store_pending_of(keeper->store, device->name, &count, err);

    if (!st && count >= max_pending)
        st = delta_fail(err, DELTA_LIMIT,
                        "device '%s' has %u contributions waiting already; wait until they are "
                        "merged",
                        device->name, max_pending);
    return st;
}

static enum delta_status check_opened(struct server_keeper *keeper,
                                      const struct server_device *device, struct delta_bytes file,
                                      const struct delta_reader *reader, uint32_t max_pending,
                                      struct server_contribution *out, bool *blame,
                                      struct delta_error *err)
{
    struct server_version version;
    struct delta_model base = DELTA_MODEL_INIT;
    char path[SERVER_PATH_MAX];
    enum delta_status st = check_signature(device, file, err);

    if (!st)
        st = check_provenance(device, reader, err);
    if (st)
        return st;
    out->base = reader->base;
    out->new_samples = reader->provenance.new_samples;
    st = server_store_version(keeper->store, &reader->base, &version, err);
    if (st)
        return st;
    memcpy(out->channel, version.channel, sizeof out->channel);
    server_places_blob(&keeper->places, &version.blob, path);
    st = delta_model_load(&base, path, NULL, err);
    if (st)
        return delta_fail(err, DELTA_IO, "version file '%s' cannot be read", path);
    st = check_target(reader, &base, err);
    *blame = st && delta_status_class(st) == DELTA_CLASS_INPUT;
    delta_model_release(&base);
    return st ? st : check_quota(keeper, device, max_pending, err);
}

enum delta_status server_intake_check(struct server_keeper *keeper,
                                      const struct server_device *device, const char *path,
                                      uint32_t max_pending, struct server_contribution *out,
                                      bool *blame, struct delta_error *err)
{
    struct delta_map map;
    struct delta_reader reader;
    enum delta_status st = delta_map_open(&map, path, err);

    *blame = false;
    memcpy(out->device, device->name, sizeof out->device);
    out->received_ms = delta_clock_wall_ms(&keeper->clock);
    out->bytes = map.bytes.len;
    out->state = SERVER_CONTRIBUTION_PENDING;
    if (st)
        return st;
    st = delta_reader_init(&reader, map.bytes, err);
    if (!st) {
        st = check_opened(keeper, device, map.bytes, &reader, max_pending, out, blame, err);
        delta_reader_release(&reader);
    }
    delta_map_release(&map);
    return st;
}
