#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "pack.h"
#include "provenance.h"
#include "rounding.h"

/* Lost at most when a download breaks off or is damaged; 32 bytes each in the header. */
#define CHUNK_BYTES ((size_t)1 << 20)

/* One tensor of the base beside the target's of the same name. */
struct change {
    const struct delta_tensor *base;
    const struct delta_tensor *target;
    bool changed; /* values or shape */
    bool planned; /* freeze plan, beyond rows that grew */
    struct delta_rounding rounding;
    struct delta_coding coding;
    size_t bytes;
    struct delta_digest sha256;
    struct delta_digest target_sha256;
    struct delta_digest bits_sha256;
};

struct work {
    struct change *changes; /* in name order */
    size_t count;
    struct delta_buf payload;
    size_t classes_added, classes_dropped;
    const struct delta_options *options;
};

static enum delta_status check_pair(const struct delta_tensor *base,
                                    const struct delta_tensor *target, const struct work *work,
                                    struct delta_error *err)
{
    if (strcmp(base->name, target->name) != 0)
        return delta_fail(err, DELTA_MISMATCH, "only one of the models has tensor '%s'",
                          strcmp(base->name, target->name) < 0 ? base->name : target->name);
    if (base->rank != target->rank ||
        memcmp(base->shape + 1, target->shape + 1, (base->rank - 1) * sizeof base->shape[0]) != 0)
        return delta_fail(err, DELTA_MISMATCH, "tensor '%s' has another shape in the target",
                          base->name);
    if (target->shape[0] != base->shape[0] &&
        target->shape[0] + work->classes_dropped != base->shape[0] + work->classes_added)
        return delta_fail(err, DELTA_MISMATCH,
                          "tensor '%s' goes from %llu to %llu rows, but %zu classes are new and "
                          "%zu go",
                          base->name, (unsigned long long)base->shape[0],
                          (unsigned long long)target->shape[0], work->classes_added,
                          work->classes_dropped);
    return DELTA_OK;
}

static enum delta_status pair_up(const struct delta_model *base, const struct delta_model *target,
                                 struct work *work, struct delta_error *err)
{
    size_t *a = NULL, *b = NULL;
    enum delta_status st;

    if (base->tensor_count != target->tensor_count)
        return delta_fail(err, DELTA_MISMATCH, "the base has %zu tensors, the target %zu",
                          base->tensor_count, target->tensor_count);
    work->count = base->tensor_count;
    work->changes = delta_calloc(work->count, sizeof *work->changes);
    if (!work->changes)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu tensors", work->count);
    st = delta_model_order(base, &a, err);
    if (!st)
        st = delta_model_order(target, &b, err);
    for (size_t i = 0; i < work->count && !st; i++) {
        work->changes[i].base = &base->tensors[a[i]];
        work->changes[i].target = &target->tensors[b[i]];
        st = check_pair(work->changes[i].base, work->changes[i].target, work, err);
    }
    free(a);
    free(b);
    return st;
}

static enum delta_status check_models(const struct delta_model *base,
                                      const struct delta_model *target, struct delta_error *err)
{
    if (!delta_arch_equal(&base->arch, &target->arch))
        return delta_fail(err, DELTA_MISMATCH,
                          "base and target differ in architecture ('%s' width %u, '%s' width %u) "
                          "or input",
                          base->arch.name, base->arch.width, target->arch.name, target->arch.width);
    return delta_model_check_finite(target, err);
}

/* Classes that both lists begin with. */
static size_t common_classes(const struct delta_model *base, const struct delta_model *target)
{
    size_t i = 0;

    while (i < base->class_count && i < target->class_count &&
           strcmp(base->classes[i].text, target->classes[i].text) == 0)
        i++;
    return i;
}

static bool same_plan(const struct delta_freeze *a, const struct delta_freeze *b)
{
    return a->mode == b->mode && a->count == b->count &&
           (a->count == 0 || memcmp(a->bits, b->bits, delta_freeze_bytes(a)) == 0);
}

static enum delta_status pad_payload(struct delta_buf *payload, struct delta_error *err)
{
    size_t at = payload->len;

    if (!delta_frame_align(&at))
        return delta_fail(err, DELTA_LIMIT, "payloads are too large");
    return delta_buf_extend(payload, at - payload->len, NULL, err);
}

static const uint32_t *patterns(const struct delta_tensor *tensor)
{
    return (const uint32_t *)(const void *)tensor->data;
}

static enum delta_status encode_values(struct work *work, struct change *change,
                                       const struct delta_tensor *grown, struct delta_error *err)
{
    const struct delta_codec_job job = {
        .tensor = grown,
        .base_count = change->base->count < grown->count ? change->base->count : grown->count,
        .base = patterns(grown),
        .target = patterns(change->target),
        .choice = work->options->encoding,
        .level = work->options->zstd_level};
    const struct delta_rounding *rounding = &change->rounding;
    enum delta_status st = pad_payload(&work->payload, err);

    if (st)
        return st;
    const size_t start = work->payload.len;
    if (rounding->payload.len && rounding->payload.len < 2 * rounding->coding.count) {
        change->coding = rounding->coding;
        st = delta_buf_append(&work->payload, rounding->payload.data, rounding->payload.len, err);
    } else {
        st = delta_codec_encode(&job, &work->payload, &change->coding, err);
    }
    if (st)
        return st;
    change->bytes = work->payload.len - start;
    change->sha256 = delta_sha256(delta_bytes(work->payload.data + start, change->bytes));
    change->target_sha256 =
        delta_sha256(delta_bytes(change->target->data, change->target->count * sizeof(float)));
    return DELTA_OK;
}

static enum delta_status encode_change(struct work *work, struct change *change,
                                       struct delta_error *err)
{
    const struct delta_tensor *base = change->base, *target = change->target;
    struct delta_tensor grown = {.rank = 0};
    enum delta_status st = DELTA_OK;

    change->changed = base->count != target->count ||
                      memcmp(base->data, target->data, base->count * sizeof(float)) != 0;
    if (base->count == target->count) {
        change->planned = !same_plan(&base->freeze, &target->freeze);
        return change->changed ? encode_values(work, change, base, err) : DELTA_OK;
    }
    st = delta_tensor_resized(base, target->shape[0], &grown, err);
    if (!st)
        change->planned = !same_plan(&grown.freeze, &target->freeze);
    if (!st)
        st = encode_values(work, change, &grown, err);
    free(grown.data);
    free(grown.freeze.bits);
    return st;
}

/* Bitmaps of changed plans lie behind all values. */
static enum delta_status encode_plans(struct work *work, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; i < work->count && !st; i++) {
        const struct delta_freeze *plan = &work->changes[i].target->freeze;
        const struct delta_bytes bits = delta_bytes(plan->bits, delta_freeze_bytes(plan));
        if (!work->changes[i].planned || bits.len == 0)
            continue;
        work->changes[i].bits_sha256 = delta_sha256(bits);
        st = pad_payload(&work->payload, err);
        if (!st)
            st = delta_buf_append(&work->payload, bits.data, bits.len, err);
    }
    return st;
}

/* ---- header ---- */

static void put_digest(struct delta_msg_out *out, const char *key, const struct delta_digest *value)
{
    delta_msg_str(out, key);
    delta_msg_bin(out, value->bytes, DELTA_DIGEST_BYTES);
}

static void put_entry(struct delta_msg_out *out, const struct change *change)
{
    delta_msg_map(out, 8);
    delta_msg_str(out, "enc");
    delta_msg_str(out, delta_encoding_name(change->coding.encoding));
    delta_msg_str(out, "len");
    delta_msg_uint(out, change->bytes);
    delta_msg_str(out, "n");
    delta_msg_uint(out, change->coding.count);
    delta_msg_str(out, "name");
    delta_msg_str(out, change->target->name);
    delta_msg_str(out, "scope");
    delta_msg_str(out, delta_scope_name(change->coding.scope));
    put_digest(out, "sha", &change->sha256);
    delta_msg_str(out, "shape");
    delta_shape_pack(out, change->target->rank, change->target->shape);
    put_digest(out, "to", &change->target_sha256);
}

static void put_plan(struct delta_msg_out *out, const struct change *change)
{
    const struct delta_freeze *plan = &change->target->freeze;
    const bool bits = plan->count > 0;

    delta_msg_map(out, bits ? 4 : 2);
    if (bits) {
        delta_msg_str(out, "bits");
        delta_msg_uint(out, plan->count);
    }
    delta_msg_str(out, "mode");
    delta_msg_str(out, delta_freeze_name(plan->mode));
    delta_msg_str(out, "name");
    delta_msg_str(out, change->target->name);
    if (bits)
        put_digest(out, "sha", &change->bits_sha256);
}

static void put_lists(struct delta_msg_out *out, const struct work *work, bool plans)
{
    size_t count = 0;

    for (size_t i = 0; i < work->count; i++)
        count += plans ? work->changes[i].planned : work->changes[i].changed;
    delta_msg_array(out, count);
    for (size_t i = 0; i < work->count; i++) {
        if (plans && work->changes[i].planned)
            put_plan(out, &work->changes[i]);
        if (!plans && work->changes[i].changed)
            put_entry(out, &work->changes[i]);
    }
}

/* What the header says about the two ends. */
struct ends {
    const struct delta_model *target_model;
    size_t first_new; /* index of the first added class */
    struct delta_digest base, target;
    const struct delta_provenance *provenance;
};

/* Digests of the payload area's pieces. */
static void put_chunks(struct delta_msg_out *out, struct delta_bytes payload)
{
    const size_t count = payload.len / CHUNK_BYTES + (payload.len % CHUNK_BYTES != 0);
    uint8_t *list = delta_calloc(count, DELTA_DIGEST_BYTES);

    if (!list) {
        out->status = DELTA_NO_MEMORY;
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const size_t at = i * CHUNK_BYTES, left = payload.len - at;
        const struct delta_digest digest =
            delta_sha256(delta_bytes(payload.data + at, left < CHUNK_BYTES ? left : CHUNK_BYTES));
        memcpy(list + i * DELTA_DIGEST_BYTES, digest.bytes, DELTA_DIGEST_BYTES);
    }
    delta_msg_str(out, "chunks");
    delta_msg_map(out, 2);
    delta_msg_str(out, "bytes");
    delta_msg_uint(out, CHUNK_BYTES);
    delta_msg_str(out, "sha");
    delta_msg_bin(out, list, count * DELTA_DIGEST_BYTES);
    free(list);
}

static enum delta_status encode_header(const struct ends *ends, const struct work *work,
                                       struct delta_buf *out, struct delta_error *err)
{
    const struct delta_model *target = ends->target_model;
    const bool own_parent = !delta_digest_equal(&target->parent, &ends->base);
    struct delta_msg_out msg = {out, DELTA_OK};
    bool plans = false;
    size_t used;

    delta_buf_init(out, DELTA_HEADER_MAX);
    for (size_t i = 0; i < work->count; i++)
        plans |= work->changes[i].planned;
    const bool chunks =
        work->payload.len > CHUNK_BYTES; /* a single one needs no digest of its own */
    const bool drop = work->classes_dropped > 0;
    delta_msg_map(&msg, 7u + (ends->provenance != NULL) + own_parent + plans + chunks + 2u * drop);
    delta_msg_str(&msg, "arch");
    delta_arch_pack(&msg, &target->arch);
    put_digest(&msg, "base", &ends->base);
    if (chunks)
        put_chunks(&msg, delta_buf_bytes(&work->payload));
    delta_msg_str(&msg, "classes");
    delta_msg_array(&msg, work->classes_added);
    for (size_t i = ends->first_new; i < target->class_count; i++)
        delta_msg_str(&msg, target->classes[i].text);
    if (drop) {
        delta_msg_str(&msg, "drop");
        delta_msg_uint(&msg, work->classes_dropped);
    }
    delta_msg_str(&msg, "kind");
    delta_msg_str(&msg, "delta");
    if (ends->provenance) {
        delta_msg_str(&msg, "made");
        delta_provenance_pack(&msg, ends->provenance);
    }
    if (drop) {
        delta_msg_str(&msg, "need");
        delta_msg_array(&msg, 1);
        delta_msg_str(&msg, "drop");
    }
    if (own_parent) {
        delta_msg_str(&msg, "parent");
        delta_msg_bin(&msg, target->parent.bytes,
                      delta_digest_is_zero(&target->parent) ? 0 : DELTA_DIGEST_BYTES);
    }
    if (plans) {
        delta_msg_str(&msg, "plan");
        put_lists(&msg, work, true);
    }
    delta_msg_str(&msg, "schema");
    delta_msg_uint(&msg, DELTA_SCHEMA);
    put_digest(&msg, "target", &ends->target);
    delta_msg_str(&msg, "tensors");
    put_lists(&msg, work, false);
    if (msg.status)
        return delta_fail(err, msg.status, "delta header exceeds %zu bytes", DELTA_HEADER_MAX);
    return delta_msg_scan(delta_buf_bytes(out), &used, err);
}

static bool rounds(const struct delta_options *options)
{
    return options->encoding == DELTA_CHOICE_BF16 || options->encoding == DELTA_CHOICE_INT8;
}

/* Rounds every tensor of `rounded`, the target's copy, before it gets its name. */
static enum delta_status round_changes(struct work *work, struct delta_model *rounded,
                                       struct delta_model *residual, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; i < work->count && !st; i++) {
        struct change *change = &work->changes[i];
        struct delta_tensor *left =
            residual ? delta_model_find(residual, change->base->name) : NULL;
        st = delta_round_tensor(&change->rounding, change->base,
                                &rounded->tensors[change->target - rounded->tensors], left,
                                work->options->encoding, work->options->step, err);
        if (st)
            st = delta_fail_in(err, st, "tensor '%s'", change->base->name);
    }
    return st;
}

static enum delta_status diff(struct work *work, struct ends *ends, const struct delta_model *base,
                              delta_watch *watch, void *context, struct delta_buf *out,
                              struct delta_error *err)
{
    const struct delta_model *target = ends->target_model;
    const double total = (double)delta_model_bytes(target) / sizeof(float);
    struct delta_buf header = {0};
    double done = 0;
    uint8_t *payload;
    enum delta_status st = delta_model_digest(base, &ends->base, err);

    if (!st)
        st = delta_model_digest(target, &ends->target, err);
    for (size_t i = 0; i < work->count && !st; i++) {
        st = encode_change(work, &work->changes[i], err);
        done += (double)work->changes[i].target->count;
        if (watch)
            watch(context, done, total);
    }
    if (!st)
        st = encode_plans(work, err);
    if (!st)
        st = encode_header(ends, work, &header, err);
    if (!st)
        st = delta_frame_build(DELTA_CONTAINER_DELTA, delta_buf_bytes(&header), work->payload.len,
                               out, &payload, err);
    if (!st && work->payload.len)
        memcpy(payload, work->payload.data, work->payload.len);
    delta_buf_release(&header);
    return st;
}

static void work_release(struct work *work)
{
    for (size_t i = 0; i < work->count && work->changes; i++)
        delta_buf_release(&work->changes[i].rounding.payload);
    free(work->changes);
    delta_buf_release(&work->payload);
}

enum delta_status delta_diff_watched(const struct delta_model *base,
                                     const struct delta_model *target,
                                     const struct delta_options *options, delta_watch *watch,
                                     void *context, struct delta_buf *out, struct delta_error *err)
{
    static const struct delta_options defaults;
    struct work work = {.options = options ? options : &defaults};
    struct ends ends = {.target_model = target,
                        .first_new = common_classes(base, target),
                        .provenance = work.options->provenance};
    struct delta_model rounded = DELTA_MODEL_INIT, residual = DELTA_MODEL_INIT;
    const bool lossy = rounds(work.options);
    enum delta_status st = check_models(base, target, err);

    *out = (struct delta_buf){0};
    delta_buf_init(&work.payload, DELTA_CONTAINER_MAX);
    if (!st && ends.provenance)
        st = delta_provenance_check(ends.provenance, err);
    if (!st && lossy) {
        st = delta_model_copy(&rounded, target, err);
        ends.target_model = &rounded;
    }
    if (!st && lossy && work.options->residual)
        st = delta_residual_begin(&residual, work.options->residual, target, err);
    if (st)
        goto done;
    work.classes_added = target->class_count - ends.first_new;
    work.classes_dropped = base->class_count - ends.first_new;
    st = pair_up(base, ends.target_model, &work, err);
    if (!st && lossy)
        st = round_changes(&work, &rounded, work.options->residual ? &residual : NULL, err);
    if (!st)
        st = diff(&work, &ends, base, watch, context, out, err);
    if (st)
        goto done;
    if (lossy && work.options->residual) {
        delta_model_release(work.options->residual);
        *work.options->residual = residual;
        residual = (struct delta_model)DELTA_MODEL_INIT;
    }
    if (lossy && work.options->rounded) {
        *work.options->rounded = rounded;
        rounded = (struct delta_model)DELTA_MODEL_INIT;
    }
done:
    delta_model_release(&rounded);
    delta_model_release(&residual);
    work_release(&work);
    return st;
}

enum delta_status delta_diff(const struct delta_model *base, const struct delta_model *target,
                             const struct delta_options *options, struct delta_buf *out,
                             struct delta_error *err)
{
    return delta_diff_watched(base, target, options, NULL, NULL, out, err);
}
