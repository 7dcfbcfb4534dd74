/* Base file and delta file to target file, a tensor at a time. The target's header follows from the
 * two headers alone, so a wrong pair is refused before any payload is read. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codec.h"
#include "delta/file.h"
#include "outline.h"

#define PIECE ((size_t)1 << 20) /* one read or write */

/* What becomes of one tensor. Indexed like the base's tensors. */
struct step {
    const struct delta_entry *entry;      /* NULL: values stay */
    const struct delta_plan_change *plan; /* NULL: the base's plan, extended */
    size_t base_count;
    struct delta_freeze grown; /* owned bits of a plan that growing or cutting made; else count 0 */
};

struct apply {
    struct delta_outline base;
    struct delta_reader reader;
    struct delta_front base_front, delta_front;
    struct delta_model target; /* as an outline: no values */
    struct delta_tensor_digests *digests;
    struct step *steps;
    int base_fd, delta_fd;
    struct delta_newfile file;
    bool named;       /* the error tells the file already */
    uint64_t written; /* bytes of the payload area */
    float *data;      /* [largest tensor] */
    uint8_t *bits;    /* [largest bitmap] */
    uint8_t *piece;   /* [DELTA_PULL_MAX] */
};

static enum delta_status wrong_base(const struct apply *a, struct delta_error *err)
{
    char have[DELTA_DIGEST_HEX], want[DELTA_DIGEST_HEX];

    delta_digest_hex(have, &a->base.version);
    delta_digest_hex(want, &a->reader.base);
    return delta_fail(err, DELTA_BASE_UNKNOWN,
                      "delta is for base %.16s, but this model is %.16s; fetch that base or "
                      "another delta",
                      want, have);
}

static enum delta_status open_both(struct apply *a, const char *base_path, const char *delta_path,
                                   const struct delta_keyring *ring, struct delta_error *err)
{
    enum delta_status st = delta_front_read(&a->delta_front, delta_path, err);

    if (st) {
        a->named = true;
        return st;
    }
    if (ring)
        st = delta_front_verify(&a->delta_front, ring, NULL, err);
    if (!st)
        st = delta_reader_init_front(&a->reader, &a->delta_front, err);
    if (st)
        return st;
    st = delta_front_read(&a->base_front, base_path, err);
    if (!st) {
        st = delta_outline_init(&a->base, &a->base_front, err);
        if (st)
            st = delta_fail_in(err, st, "'%s'", base_path);
    }
    a->named = st != DELTA_OK;
    if (st)
        return st;
    a->base_fd = open(base_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    a->delta_fd = open(delta_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (a->base_fd < 0 || a->delta_fd < 0)
        return delta_fail_errno(err, "cannot open '%s'", a->base_fd < 0 ? base_path : delta_path);
    if (!delta_digest_equal(&a->base.version, &a->reader.base))
        return wrong_base(a, err);
    if (!delta_arch_equal(&a->base.model.arch, &a->reader.arch))
        return delta_fail(err, DELTA_MISMATCH, "base and delta differ in architecture or input");
    return DELTA_OK;
}

/* ---- reading ---- */

static enum delta_status read_base(const struct apply *a, uint64_t offset, void *out, size_t len,
                                   struct delta_error *err)
{
    uint8_t *to = out;

    while (len) {
        const ssize_t got = pread(a->base_fd, to, len < PIECE ? len : PIECE, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return delta_fail_errno(err, "cannot read the base");
        if (got == 0)
            return delta_fail(err, DELTA_TRUNCATED, "the base ends %zu bytes early", len);
        to += got;
        offset += (uint64_t)got;
        len -= (size_t)got;
    }
    return DELTA_OK;
}

static enum delta_status check(struct delta_bytes part, const struct delta_digest *want,
                               const char *what, struct delta_error *err)
{
    const struct delta_digest have = delta_sha256(part);

    if (!delta_digest_equal(&have, want))
        return delta_fail(err, DELTA_DIGEST, "%s differs from its digest; the file is damaged",
                          what);
    return DELTA_OK;
}

/* ---- the target's outline ---- */

static enum delta_status add_classes(struct apply *a, struct delta_error *err)
{
    const size_t gone = a->reader.classes_dropped, more = a->reader.classes_added_count;

    if (gone > a->base.model.class_count)
        return delta_fail(err, DELTA_MISMATCH, "drops %zu classes of %zu", gone,
                          a->base.model.class_count);
    const size_t old = a->base.model.class_count - gone;
    if (old + more > DELTA_MODEL_MAX_CLASSES)
        return delta_fail(err, DELTA_LIMIT, "%zu classes, the limit is %d", old + more,
                          DELTA_MODEL_MAX_CLASSES);
    a->target.classes = delta_calloc(old + more, sizeof *a->target.classes);
    if (!a->target.classes)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu classes", old + more);
    memcpy(a->target.classes, a->base.model.classes, old * sizeof *a->target.classes);
    memcpy(a->target.classes + old, a->reader.classes_added, more * sizeof *a->target.classes);
    a->target.class_count = old + more;
    return DELTA_OK;
}

/* Growing turns a plan of mode `all` into one of rows, of which the old ones are frozen. */
static enum delta_status grow_plan(struct step *step, struct delta_tensor *tensor, size_t old_rows,
                                   struct delta_digest *digest, struct delta_error *err)
{
    uint8_t *bits;

    if (tensor->freeze.mode != DELTA_FREEZE_ALL)
        return DELTA_OK;
    step->grown = (struct delta_freeze){DELTA_FREEZE_ROWS, NULL, old_rows};
    bits = delta_calloc(delta_freeze_bytes(&step->grown), 1);
    if (!bits)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a freeze plan");
    for (size_t i = 0; i < old_rows; i++)
        bits[i / 8] |= (uint8_t)(1u << (i % 8));
    step->grown.bits = bits;
    tensor->freeze = (struct delta_freeze){DELTA_FREEZE_ROWS, NULL, old_rows};
    *digest = delta_sha256(delta_bytes(bits, delta_freeze_bytes(&step->grown)));
    return DELTA_OK;
}

/* A plan longer than the tensor that is left: its bits are in the base. */
static enum delta_status cut_plan(struct apply *a, size_t i, struct delta_error *err)
{
    struct delta_tensor *tensor = &a->target.tensors[i];
    const size_t limit = delta_freeze_limit(tensor, tensor->freeze.mode);
    struct delta_freeze *cut = &a->steps[i].grown;
    const struct delta_bytes all = {NULL, delta_freeze_bytes(&tensor->freeze)};
    enum delta_status st;

    if (tensor->freeze.count <= limit)
        return DELTA_OK;
    *cut = tensor->freeze;
    cut->bits = delta_calloc(all.len, 1);
    if (!cut->bits)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a freeze plan");
    st = read_base(a, a->base.bits_at[i], cut->bits, all.len, err);
    if (!st)
        st = check(delta_bytes(cut->bits, all.len), &a->base.digests[i].bits,
                   "the base's freeze bitmap", err);
    if (st)
        return st;
    delta_freeze_cut(cut, limit);
    tensor->freeze.count = cut->count;
    a->digests[i].bits = delta_sha256(delta_bytes(cut->bits, delta_freeze_bytes(cut)));
    return DELTA_OK;
}

static enum delta_status plan_entry(struct apply *a, size_t i, const struct delta_entry *entry,
                                    struct delta_error *err)
{
    struct delta_tensor *tensor = &a->target.tensors[i];
    const uint64_t old = tensor->shape[0];

    a->steps[i].entry = entry;
    a->digests[i].data = entry->target_sha256;
    if (tensor->rank != entry->rank || memcmp(tensor->shape + 1, entry->shape + 1,
                                              (tensor->rank - 1) * sizeof tensor->shape[0]) != 0)
        return delta_fail(err, DELTA_MISMATCH, "the base has another shape");
    if (entry->shape[0] == old)
        return DELTA_OK;
    if (!delta_rows_fit(old, entry->shape[0], &a->reader))
        return delta_fail(err, DELTA_MISMATCH,
                          "goes from %llu to %llu rows, but %zu classes are new and %zu go",
                          (unsigned long long)old, (unsigned long long)entry->shape[0],
                          a->reader.classes_added_count, a->reader.classes_dropped);
    tensor->shape[0] = entry->shape[0];
    enum delta_status st = delta_shape_count(tensor->rank, tensor->shape, &tensor->count, err);
    if (!st && entry->shape[0] < old) {
        a->steps[i].base_count = tensor->count;
        return cut_plan(a, i, err);
    }
    return st ? st : grow_plan(&a->steps[i], tensor, (size_t)old, &a->digests[i].bits, err);
}

static enum delta_status plan_freeze(struct apply *a, size_t i,
                                     const struct delta_plan_change *plan, struct delta_error *err)
{
    struct delta_tensor *tensor = &a->target.tensors[i];

    if (plan->count > delta_freeze_limit(tensor, plan->mode))
        return delta_fail(err, DELTA_FORMAT, "a freeze plan of %zu bits, %zu are possible",
                          plan->count, delta_freeze_limit(tensor, plan->mode));
    a->steps[i].plan = plan;
    tensor->freeze = (struct delta_freeze){plan->mode, NULL, plan->count};
    a->digests[i].bits = plan->sha256;
    return DELTA_OK;
}

/* Both lists are in order of names, as are the base's tensors. */
static enum delta_status plan_steps(struct apply *a, struct delta_error *err)
{
    const struct delta_reader *r = &a->reader;
    size_t e = 0, p = 0;
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; i < a->target.tensor_count && !st; i++) {
        const char *name = a->target.tensors[i].name;
        a->steps[i].base_count = a->target.tensors[i].count;
        if (e < r->entry_count && strcmp(r->entries[e].name, name) == 0)
            st = plan_entry(a, i, &r->entries[e++], err);
        if (!st && p < r->plan_count && strcmp(r->plans[p].name, name) == 0)
            st = plan_freeze(a, i, &r->plans[p++], err);
        if (st)
            st = delta_fail_in(err, st, "tensor '%s'", name);
    }
    if (!st && (e < r->entry_count || p < r->plan_count))
        st = delta_fail(err, DELTA_MISMATCH, "the base has no tensor '%s'",
                        e < r->entry_count ? r->entries[e].name : r->plans[p].name);
    if (!st && delta_model_bytes(&a->target) > DELTA_MODEL_MAX_BYTES)
        st =
            delta_fail(err, DELTA_LIMIT, "the model would exceed %zu bytes", DELTA_MODEL_MAX_BYTES);
    return st;
}

static enum delta_status plan_target(struct apply *a, struct delta_error *err)
{
    const size_t count = a->base.model.tensor_count;
    enum delta_status st;

    a->target.arch = a->base.model.arch;
    a->target.parent = a->reader.has_parent ? a->reader.parent : a->reader.base;
    a->target.tensors = delta_calloc(count, sizeof *a->target.tensors);
    a->digests = delta_calloc(count, sizeof *a->digests);
    a->steps = delta_calloc(count, sizeof *a->steps);
    if (!a->target.tensors || !a->digests || !a->steps)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu tensors", count);
    memcpy(a->target.tensors, a->base.model.tensors, count * sizeof *a->target.tensors);
    memcpy(a->digests, a->base.digests, count * sizeof *a->digests);
    a->target.tensor_count = count;
    st = add_classes(a, err);
    return st ? st : plan_steps(a, err);
}

/* ---- writing ---- */

static enum delta_status write_part(struct apply *a, struct delta_bytes part,
                                    struct delta_error *err)
{
    static const uint8_t zeros[DELTA_FRAME_ALIGN];
    const size_t pad = (size_t)(-a->written & (DELTA_FRAME_ALIGN - 1));
    enum delta_status st = delta_newfile_write(&a->file, delta_bytes(zeros, pad), err);

    a->written += pad + part.len;
    return st ? st : delta_newfile_write(&a->file, part, err);
}

/* The bitmap of the base's tensor, as a plan that lives until the next call. */
static enum delta_status base_plan(struct apply *a, size_t i, struct delta_freeze *out,
                                   struct delta_error *err)
{
    const struct delta_freeze *plan = &a->base.model.tensors[i].freeze;
    enum delta_status st = DELTA_OK;

    *out = *plan;
    if (a->steps[i].grown.count) {
        *out = a->steps[i].grown;
        return DELTA_OK;
    }
    if (plan->count == 0)
        return DELTA_OK;
    const struct delta_bytes bits = delta_bytes(a->bits, delta_freeze_bytes(plan));
    st = read_base(a, a->base.bits_at[i], a->bits, bits.len, err);
    if (!st)
        st = check(bits, &a->base.digests[i].bits, "the base's freeze bitmap", err);
    if (!st && plan->count % 8 && bits.data[bits.len - 1] >> (plan->count % 8))
        st = delta_fail(err, DELTA_FORMAT, "the freeze bitmap has bits beyond its end");
    out->bits = a->bits;
    return st;
}

static enum delta_status decode(struct apply *a, size_t i, const struct delta_freeze *plan,
                                struct delta_error *err)
{
    const struct delta_entry *entry = a->steps[i].entry;
    const size_t base_count = a->steps[i].base_count;
    struct delta_tensor tensor = a->target.tensors[i];
    const struct delta_coding coding = {entry->encoding, delta_entry_scope(entry),
                                        (size_t)entry->elements};
    struct delta_hash hash = {NULL};
    struct delta_pull pull;
    struct delta_digest have;
    enum delta_status st;

    tensor.freeze = *plan;
    memset(a->data + base_count, 0, (tensor.count - base_count) * sizeof *a->data);
    const size_t places = delta_scope_count(&tensor, coding.scope, base_count);
    if (coding.scope == DELTA_SCOPE_SOME ? coding.count > places : coding.count != places)
        return delta_fail(err, DELTA_MISMATCH, "brings %zu values, the base's plan has %zu places",
                          coding.count, places);
    st = delta_hash_init(&hash, err);
    if (st)
        return st;
    delta_pull_file(&pull, a->delta_fd, a->reader.payload_at + entry->offset, (size_t)entry->bytes,
                    a->piece, &hash);
    st = delta_codec_decode(&coding, &pull, &tensor, base_count, (uint32_t *)(void *)a->data, err);
    have = delta_hash_finish(&hash);
    if (!st && !delta_digest_equal(&have, &entry->sha256))
        st = delta_fail(err, DELTA_DIGEST, "its payload differs from its digest");
    return st;
}

/* A bitmap that the delta brings. */
static enum delta_status delta_plan(struct apply *a, const struct delta_plan_change *plan,
                                    struct delta_error *err)
{
    const size_t len = plan->count / 8 + (plan->count % 8 != 0);
    struct delta_pull pull;
    enum delta_status st = DELTA_OK;

    delta_pull_file(&pull, a->delta_fd, a->reader.payload_at + plan->offset, len, a->piece, NULL);
    for (size_t at = 0; at < len && !st; at += DELTA_PULL_MAX) {
        const size_t n = len - at < DELTA_PULL_MAX ? len - at : DELTA_PULL_MAX;
        const uint8_t *bytes;
        st = delta_pull_take(&pull, n, &bytes, err);
        if (!st)
            memcpy(a->bits + at, bytes, n);
    }
    if (!st)
        st = check(delta_bytes(a->bits, len), &plan->sha256, "the freeze bitmap", err);
    if (!st && plan->count % 8 && a->bits[len - 1] >> (plan->count % 8))
        st = delta_fail(err, DELTA_FORMAT, "the freeze bitmap has bits beyond its end");
    return st;
}

static enum delta_status check_finite(const struct apply *a, const struct delta_tensor *tensor,
                                      struct delta_error *err)
{
    const uint32_t *values = (const uint32_t *)(const void *)a->data;

    for (size_t k = 0; k < tensor->count; k++)
        if ((values[k] & 0x7f800000) == 0x7f800000)
            return delta_fail(err, DELTA_NONFINITE, "element %zu is not finite", k);
    return DELTA_OK;
}

static enum delta_status do_tensor(struct apply *a, size_t i, struct delta_error *err)
{
    const struct delta_tensor *tensor = &a->target.tensors[i];
    const struct delta_plan_change *change = a->steps[i].plan;
    const struct delta_bytes data = delta_bytes(a->data, tensor->count * sizeof *a->data);
    struct delta_freeze plan;
    enum delta_status st =
        read_base(a, a->base.data_at[i], a->data, a->steps[i].base_count * sizeof *a->data, err);

    if (!st)
        st = base_plan(a, i, &plan, err);
    if (!st && a->steps[i].entry)
        st = decode(a, i, &plan, err);
    if (!st)
        st = check(data, &a->digests[i].data, a->steps[i].entry ? "the result" : "the base", err);
    if (!st)
        st = check_finite(a, tensor, err);
    if (!st)
        st = write_part(a, data, err);
    if (!st && change && change->count) {
        st = delta_plan(a, change, err);
        plan = (struct delta_freeze){change->mode, a->bits, change->count};
    }
    if (!st && tensor->freeze.count)
        st = write_part(a, delta_bytes(plan.bits, delta_freeze_bytes(&plan)), err);
    return st;
}

static size_t payload_bytes(const struct delta_model *model)
{
    size_t offset = 0;

    for (size_t i = 0; i < model->tensor_count; i++) {
        (void)delta_frame_align(&offset); /* bounded by DELTA_MODEL_MAX_BYTES */
        offset += model->tensors[i].count * sizeof(float);
        if (model->tensors[i].freeze.count) {
            (void)delta_frame_align(&offset);
            offset += delta_freeze_bytes(&model->tensors[i].freeze);
        }
    }
    return offset;
}

/* The front of the new file, if base and delta lead to the target that the delta names. */
static enum delta_status write_front(struct apply *a, const char *out_path, struct delta_error *err)
{
    struct delta_buf header = {0}, front = {0};
    struct delta_digest name;
    enum delta_status st = delta_model_header(&a->target, a->digests, &header, err);

    if (st)
        return st;
    name = delta_sha256(delta_buf_bytes(&header));
    if (!delta_digest_equal(&name, &a->reader.target))
        st = delta_fail(err, DELTA_DIGEST, "base and delta do not give the stated target");
    if (!st)
        st = delta_frame_front(DELTA_CONTAINER_MODEL, delta_buf_bytes(&header),
                               payload_bytes(&a->target), &front, err);
    if (!st) {
        st = delta_newfile_open(&a->file, out_path, 0644, err);
        a->named = st != DELTA_OK;
    }
    if (!st)
        st = delta_newfile_write(&a->file, delta_buf_bytes(&front), err);
    delta_buf_release(&header);
    delta_buf_release(&front);
    return st;
}

static enum delta_status allocate(struct apply *a, struct delta_error *err)
{
    size_t values = 0, bits = 0;

    for (size_t i = 0; i < a->target.tensor_count; i++) {
        const size_t before = delta_freeze_bytes(&a->base.model.tensors[i].freeze);
        const size_t after = delta_freeze_bytes(&a->target.tensors[i].freeze);
        const size_t more = before > after ? before : after;
        values = a->target.tensors[i].count > values ? a->target.tensors[i].count : values;
        bits = more > bits ? more : bits;
    }
    a->data = delta_calloc_aligned(values, sizeof *a->data);
    a->bits = delta_calloc(bits, 1);
    a->piece = delta_calloc(DELTA_PULL_MAX, 1);
    if (!a->data || !a->bits || !a->piece)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a tensor of %zu values", values);
    return DELTA_OK;
}

static void apply_release(struct apply *a)
{
    for (size_t i = 0; i < a->target.tensor_count && a->steps; i++)
        free(a->steps[i].grown.bits);
    for (size_t i = 0; i < a->target.tensor_count; i++) /* borrowed or none */
        a->target.tensors[i].freeze.bits = NULL;
    delta_newfile_release(&a->file);
    delta_model_release(&a->target);
    free(a->digests);
    free(a->steps);
    free(a->data);
    free(a->bits);
    free(a->piece);
    if (a->base_fd >= 0)
        close(a->base_fd);
    if (a->delta_fd >= 0)
        close(a->delta_fd);
    delta_reader_release(&a->reader);
    delta_outline_release(&a->base);
    delta_front_release(&a->base_front);
    delta_front_release(&a->delta_front);
}

enum delta_status delta_apply_file(const char *base_path, const char *delta_path,
                                   const char *out_path, const struct delta_keyring *ring,
                                   struct delta_digest *version, struct delta_error *err)
{
    struct apply a = {.base_fd = -1, .delta_fd = -1, .file = DELTA_NEWFILE_INIT};
    enum delta_status st = open_both(&a, base_path, delta_path, ring, err);

    if (!st)
        st = plan_target(&a, err);
    if (!st)
        st = allocate(&a, err);
    if (!st)
        st = write_front(&a, out_path, err);
    for (size_t i = 0; i < a.target.tensor_count && !st; i++) {
        st = do_tensor(&a, i, err);
        if (st && st != DELTA_NO_SPACE)
            st = delta_fail_in(err, st, "tensor '%s'", a.target.tensors[i].name);
    }
    if (!st) {
        st = delta_newfile_commit(&a.file, err);
        a.named = st != DELTA_OK;
    }
    a.named |= st == DELTA_NO_SPACE;
    if (!st && version)
        *version = a.reader.target;
    apply_release(&a);
    return st && !a.named ? delta_fail_in(err, st, "'%s'", delta_path) : st;
}
