/* Writes the golden files of schema 1: golden_make DIR. Run once per released schema; the files in
 * good/ are then kept for ever and never made again, because readers must stay able to read what
 * was written then. The files in bad/ are named after the status that they must give.
 *
 * golden.pem in good/ is a key for these tests alone.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "container.h"
#include "delta/file.h"
#include "delta_fixture.h"

static struct delta_error err = DELTA_ERROR_INIT;
static const char *root;
static struct delta_key key;

static void must(enum delta_status st, const char *what)
{
    if (!st)
        return;
    fprintf(stderr, "golden_make: %s: %s: %s\n", what, delta_status_name(st), err.text);
    exit(1);
}

static void put(const char *name, struct delta_bytes bytes)
{
    char path[1024];

    snprintf(path, sizeof path, "%s/%s", root, name);
    must(delta_file_write(path, bytes, 0644, &err), name);
}

static struct delta_buf copy_of(const struct delta_buf *from)
{
    struct delta_buf to;

    delta_buf_init(&to, 1 << 20);
    must(delta_buf_append(&to, from->data, from->len, &err), "copy");
    return to;
}

/* `from` with one byte changed. */
static void put_changed(const char *name, const struct delta_buf *from, size_t at, uint8_t value)
{
    struct delta_buf copy = copy_of(from);

    copy.data[at] = value;
    put(name, delta_buf_bytes(&copy));
    delta_buf_release(&copy);
}

/* A file with this header and the payload of `from`, signed. */
static void put_forged(const char *name, const struct delta_buf *from, struct delta_bytes header,
                       struct delta_bytes payload)
{
    struct delta_frame frame;
    struct delta_buf out;
    uint8_t *at;

    must(delta_frame_parse(&frame, delta_buf_bytes(from), &err), name);
    if (!payload.data)
        payload = frame.payload;
    must(delta_frame_build(frame.kind, header, payload.len, &out, &at, &err), name);
    memcpy(at, payload.data, payload.len);
    must(delta_container_sign(&out, &key, &err), name);
    put(name, delta_buf_bytes(&out));
    delta_buf_release(&out);
}

struct swap {
    const void *from, *to;
    size_t len;
};

/* `from` with header bytes replaced (same length) and signed again. */
static void put_swapped(const char *name, const struct delta_buf *from, const struct swap *swaps,
                        size_t count, struct delta_bytes payload)
{
    struct delta_frame frame;
    struct delta_buf header;

    must(delta_frame_parse(&frame, delta_buf_bytes(from), &err), name);
    delta_buf_init(&header, 1 << 20);
    must(delta_buf_append(&header, frame.header.data, frame.header.len, &err), name);
    for (size_t i = 0; i < count; i++) {
        uint8_t *at = memmem(header.data, header.len, swaps[i].from, swaps[i].len);
        if (!at) {
            fprintf(stderr, "golden_make: %s: pattern %zu is not in the header\n", name, i);
            exit(1);
        }
        memcpy(at, swaps[i].to, swaps[i].len);
    }
    put_forged(name, from, delta_buf_bytes(&header), payload);
    delta_buf_release(&header);
}

#define SWAP1(name, from, a, b)                                                                    \
    put_swapped(name, from, &(struct swap){a, b, sizeof(a) - 1}, 1, delta_bytes(NULL, 0))

static void bad_frames(const struct delta_buf *file, const char *ext)
{
    struct delta_frame frame;
    struct delta_buf longer = copy_of(file);
    char name[128];

#define NAME(text) (snprintf(name, sizeof name, "bad/%s.%s", text, ext), name)
    must(delta_frame_parse(&frame, delta_buf_bytes(file), &err), "frame");
    const size_t signatures = DELTA_FRAME_PREFIX + frame.header.len;
    put(NAME("TRUNCATED-empty"), delta_bytes("", 0));
    put(NAME("TRUNCATED-prefix"), delta_bytes(file->data, 20));
    put(NAME("TRUNCATED-header"), delta_bytes(file->data, 100));
    put(NAME("TRUNCATED-payload"), delta_bytes(file->data, file->len - 1));
    must(delta_buf_append(&longer, "", 1, &err), "append");
    put(NAME("FORMAT-trailing-byte"), delta_buf_bytes(&longer));
    put_changed(NAME("FORMAT-magic"), file, 0, 'F');
    put_changed(NAME("UNSUPPORTED-frame-version"), file, 7, 2);
    put_changed(NAME("LIMIT-header-length"), file, 11, 0x7f);
    put_changed(NAME("LIMIT-payload-length"), file, 23, 0x7f);
    put_changed(NAME("FORMAT-padding"), file, signatures + frame.signatures.len, 1);
    put_changed(NAME("DIGEST-flipped-payload-bit"), file, file->len - 1,
                file->data[file->len - 1] ^ 0x10);
    put_changed(NAME("SIGNATURE-flipped-bit"), file, signatures + frame.signatures.len - 1,
                file->data[signatures + frame.signatures.len - 1] ^ 1);
    /* a header byte in a class name: every digest holds, the signature does not */
    put_changed(NAME("SIGNATURE-renamed-class"), file,
                (size_t)((uint8_t *)memmem(file->data, file->len, "dog", 3) - file->data), 'f');
    delta_buf_release(&longer);
}

/* Headers that no writer makes. */
static void bad_headers(const struct delta_buf *file, const char *ext)
{
    static const uint8_t bomb[] = {0xdd, 0x20, 0x00, 0x00, 0x00};
    static const uint8_t nil[] = {0x81, 0xa1, 'a', 0xc0};
    static const uint8_t twice[] = {0x82, 0xa1, 'a', 1, 0xa1, 'a', 1};
    static const uint8_t longer[] = {0x81, 0xa1, 'a', 0xcc, 1};
    uint8_t deep[64], extra[4];
    char name[128];

    memset(deep, 0x91, sizeof deep);
    deep[63] = 1;
    memcpy(extra,
           "\x81\xa1"
           "a\x01",
           4);
    put_forged(NAME("TRUNCATED-array-of-half-a-billion"), file, delta_bytes(bomb, sizeof bomb),
               delta_bytes(NULL, 0));
    put_forged(NAME("FORMAT-nil"), file, delta_bytes(nil, sizeof nil), delta_bytes(NULL, 0));
    put_forged(NAME("FORMAT-duplicate-key"), file, delta_bytes(twice, sizeof twice),
               delta_bytes(NULL, 0));
    put_forged(NAME("FORMAT-number-not-shortest"), file, delta_bytes(longer, sizeof longer),
               delta_bytes(NULL, 0));
    put_forged(NAME("FORMAT-no-schema"), file, delta_bytes(extra, 4), delta_bytes(NULL, 0));
    put_forged(NAME("LIMIT-depth"), file, delta_bytes(deep, sizeof deep), delta_bytes(NULL, 0));
    SWAP1(NAME("UNSUPPORTED-schema"), file, "schema\x01", "schema\x02");
}

/* `from` with the first `a` of its header replaced by `b`, of whatever length, and signed again. */
static void put_replaced(const char *name, const struct delta_buf *from, struct delta_bytes a,
                         struct delta_bytes b)
{
    struct delta_frame frame;
    struct delta_buf header;

    must(delta_frame_parse(&frame, delta_buf_bytes(from), &err), name);
    const uint8_t *at = memmem(frame.header.data, frame.header.len, a.data, a.len);
    if (!at) {
        fprintf(stderr, "golden_make: %s: the pattern is not in the header\n", name);
        exit(1);
    }
    const size_t before = (size_t)(at - frame.header.data);
    delta_buf_init(&header, 1 << 20);
    must(delta_buf_append(&header, frame.header.data, before, &err), name);
    must(delta_buf_append(&header, b.data, b.len, &err), name);
    must(delta_buf_append(&header, at + a.len, frame.header.len - before - a.len, &err), name);
    put_forged(name, from, delta_buf_bytes(&header), delta_bytes(NULL, 0));
    delta_buf_release(&header);
}

#define TEXT(text) delta_bytes(text, sizeof(text) - 1)
#define REPLACED(name, from, a, b) put_replaced(name, from, TEXT(a), TEXT(b))
#define TWO_TO_63 "\xcf\x80\0\0\0\0\0\0\0"

/* Sizes that do not fit anywhere, numbers of the wrong sort, forms that are not canonical. */
static void bad_numbers(const struct delta_buf *model, const struct delta_buf *diff)
{
    static const uint8_t order[] = {0x82, 0xa1, 'b', 1, 0xa1, 'a', 1};
    static const uint8_t single[] = {0x81, 0xa1, 'a', 0xca, 0, 0, 0, 0};
    static const uint8_t extension[] = {0x81, 0xa1, 'a', 0xc7, 1, 1, 0};
    static const uint8_t text[] = {0x81, 0xa1, 'a', 0xdb, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t wide[] = {0x81, 0xa1, 'a', 0xda, 0, 1, 'x'};

    REPLACED("bad/LIMIT-n-two-to-63.fld", diff, "\xa1n\x01", "\xa1n" TWO_TO_63);
    REPLACED("bad/LIMIT-len-two-to-63.fld", diff, "\xa3len\x04", "\xa3len" TWO_TO_63);
    REPLACED("bad/LIMIT-shape-two-to-63.fld", diff, "shape\x91\x05", "shape\x91" TWO_TO_63);
    REPLACED("bad/LIMIT-shape-two-to-63.flm", model, "shape\x91\x04", "shape\x91" TWO_TO_63);
    REPLACED("bad/FORMAT-negative-n.fld", diff, "\xa1n\x01", "\xa1n\xff");
    REPLACED("bad/NONFINITE-nan-mean.flm", model, "mean\x93\xcb\x3f\xe0", "mean\x93\xcb\x7f\xf8");
    put_forged("bad/FORMAT-keys-out-of-order.fld", diff, delta_bytes(order, sizeof order),
               delta_bytes(NULL, 0));
    put_forged("bad/FORMAT-float32.fld", diff, delta_bytes(single, sizeof single),
               delta_bytes(NULL, 0));
    put_forged("bad/FORMAT-extension-type.fld", diff, delta_bytes(extension, sizeof extension),
               delta_bytes(NULL, 0));
    put_forged("bad/TRUNCATED-string-of-4-gib.fld", diff, delta_bytes(text, sizeof text),
               delta_bytes(NULL, 0));
    put_forged("bad/FORMAT-length-not-shortest.fld", diff, delta_bytes(wide, sizeof wide),
               delta_bytes(NULL, 0));
}

static void bad_models(const struct delta_model *model, const struct delta_buf *file)
{
    struct delta_model copy;
    struct delta_buf out;

    SWAP1("bad/UNSUPPORTED-dtype.flm", file,
          "dtype\xa3"
          "f32",
          "dtype\xa3"
          "f64");
    SWAP1("bad/UNSUPPORTED-freeze-mode.flm", file,
          "freeze\xa4"
          "rows",
          "freeze\xa4"
          "cols");
    SWAP1("bad/FORMAT-kind.flm", file, "\xa5model", "\xa5modem");
    SWAP1("bad/FORMAT-class-not-normal.flm", file,
          "\xa3"
          "dog",
          "\xa3"
          "Dog");
    SWAP1("bad/FORMAT-class-twice.flm", file,
          "\xa3"
          "dog",
          "\xa3"
          "cat");
    SWAP1("bad/FORMAT-tensor-order.flm", file, "bn1.weight", "zn1.weight");
    SWAP1("bad/LIMIT-shape.flm", file, "shape\x94\x04\x03\x03\x03", "shape\x94\x04\x00\x03\x03");
    must(delta_model_copy(&copy, model, &err), "copy");
    copy.tensors[0].data[1] = NAN;
    must(delta_model_encode(&copy, &out, &err), "nan");
    must(delta_container_sign(&out, &key, &err), "nan");
    put("bad/NONFINITE-nan.flm", delta_buf_bytes(&out));
    delta_buf_release(&out);
    delta_model_release(&copy);
}

static void bad_deltas(const struct delta_model *base, const struct delta_model *target,
                       const struct delta_buf *file)
{
    static const uint8_t zero[32];
    struct delta_reader reader;
    struct delta_model other;
    struct delta_buf out, payload;

    must(delta_reader_init(&reader, delta_buf_bytes(file), &err), "reader");
    SWAP1("bad/UNSUPPORTED-encoding.fld", file, "enc\xa3raw", "enc\xa3rot");
    SWAP1("bad/UNSUPPORTED-scope.fld", file, "scope\xa3new", "scope\xa3odd");
    SWAP1("bad/FORMAT-kind.fld", file,
          "\xa5"
          "delta",
          "\xa5"
          "delto");
    SWAP1("bad/FORMAT-more-values-than-elements.fld", file, "\xa1n\x01", "\xa1n\x7f");
    SWAP1("bad/MISMATCH-unknown-tensor.fld", file, "fc.bias", "fc.bian");
    SWAP1("bad/MISMATCH-arch.fld", file, "width\x10", "width\x20");
    put_swapped("bad/DIGEST-target.fld", file, &(struct swap){reader.target.bytes, zero, 32}, 1,
                delta_bytes(NULL, 0));
    /* one infinite value, and every digest right */
    struct delta_model forged;
    struct delta_digest name, to, sha;
    const struct delta_entry *entry = &reader.entries[1];
    const float infinite = INFINITY;
    must(delta_model_copy(&forged, target, &err), "copy");
    struct delta_tensor *bias = delta_model_find(&forged, "fc.bias");
    bias->data[4] = infinite;
    must(delta_model_digest(&forged, &name, &err), "digest");
    to = delta_sha256(delta_bytes(bias->data, bias->count * sizeof(float)));
    sha = delta_sha256(delta_bytes(&infinite, 4));
    delta_buf_init(&payload, 1 << 20);
    must(delta_buf_append(&payload, reader.payload.data, reader.payload.len, &err), "payload");
    memcpy(payload.data + entry->offset, &infinite, 4);
    const struct swap swaps[] = {{reader.target.bytes, name.bytes, 32},
                                 {entry->target_sha256.bytes, to.bytes, 32},
                                 {entry->sha256.bytes, sha.bytes, 32}};
    put_swapped("bad/NONFINITE-infinite.fld", file, swaps, 3, delta_buf_bytes(&payload));
    /* the right delta for another base */
    must(delta_model_copy(&other, base, &err), "copy");
    other.tensors[0].data[0] += 1;
    must(delta_diff(&other, target, NULL, &out, &err), "diff");
    must(delta_container_sign(&out, &key, &err), "sign");
    put("bad/BASE_UNKNOWN-other-base.fld", delta_buf_bytes(&out));
    delta_buf_release(&out);
    delta_buf_release(&payload);
    delta_model_release(&forged);
    delta_model_release(&other);
    delta_reader_release(&reader);
}

/* A zstd payload that states a megabyte, under right digests. */
static void bad_bomb(const struct delta_buf *file)
{
    static uint8_t zeros[1 << 20];
    struct delta_reader reader;
    struct delta_buf payload;
    struct delta_digest sha;
    uint8_t frame[4096];

    must(delta_reader_init(&reader, delta_buf_bytes(file), &err), "reader");
    const struct delta_entry *entry = &reader.entries[0]; /* conv1.weight, zstd */
    if (entry->encoding != DELTA_ENCODING_ZSTD)
        must(DELTA_INTERNAL, "the first entry is not compressed");
    const size_t len = ZSTD_compress(frame, sizeof frame, zeros, sizeof zeros, 19);
    const size_t skip = (entry->bytes + 63) / 64 * 64, at = (len + 63) / 64 * 64;
    delta_buf_init(&payload, 1 << 20);
    must(delta_buf_append(&payload, frame, len, &err), "bomb");
    must(delta_buf_extend(&payload, at - len, NULL, &err), "bomb");
    must(delta_buf_append(&payload, reader.payload.data + skip, reader.payload.len - skip, &err),
         "bomb");
    sha = delta_sha256(delta_bytes(frame, len));
    const uint8_t have[] = {0xa3, 'l', 'e', 'n', (uint8_t)entry->bytes};
    const uint8_t want[] = {0xa3, 'l', 'e', 'n', (uint8_t)len};
    if (entry->bytes > 127 || len > 127)
        must(DELTA_INTERNAL, "lengths need two bytes");
    const struct swap swaps[] = {{have, want, sizeof have}, {entry->sha256.bytes, sha.bytes, 32}};
    put_swapped("bad/FORMAT-zstd-bomb.fld", file, swaps, 2, delta_buf_bytes(&payload));
    delta_buf_release(&payload);
    delta_reader_release(&reader);
}

static void bad_signers(const struct delta_buf *file, const struct delta_model *model)
{
    struct delta_buf out;

    (void)file;
    must(delta_model_encode(model, &out, &err), "encode");
    put("bad/UNTRUSTED-unsigned.flm", delta_buf_bytes(&out));
    must(delta_container_sign(&out, fixture_key(), &err), "sign");
    put("bad/UNTRUSTED-other-key.flm", delta_buf_bytes(&out));
    delta_buf_release(&out);
}

static void make_target(struct delta_model *out, const struct delta_model *base)
{
    struct delta_class_id id;
    uint64_t state = 42;

    must(delta_model_copy(out, base, &err), "copy");
    must(delta_model_digest(base, &out->parent, &err), "digest");
    must(delta_class_id_make(&id, "elk", &err), "class");
    must(delta_model_grow_head(out, &id, 1, &err), "grow");
    delta_model_find(out, "fc.bias")->data[4] = -0.0f;
    struct delta_tensor *w = delta_model_find(out, "fc.weight");
    for (size_t i = w->count - w->shape[1]; i < w->count; i++)
        w->data[i] = fixture_value(&state);
    delta_model_find(out, "conv1.weight")->data[30] += 0.125f; /* live */
    delta_model_find(out, "layer.weight")->data[5] += 0.5f;    /* frozen */
    must(delta_tensor_set_freeze(delta_model_find(out, "layer.weight"), DELTA_FREEZE_ROWS,
                                 (const uint8_t[]){0x0a}, 4, &err),
         "plan");
}

static void load_key(void)
{
    struct delta_public_key public_key;
    char path[1024], open[1024];

    snprintf(path, sizeof path, "%s/good/golden.pem", root);
    snprintf(open, sizeof open, "%s/good/golden.pub.pem", root);
    if (delta_key_load(&key, path, &err)) {
        must(delta_key_generate(&key, &err), "key");
        must(delta_key_save(&key, path, &err), "key");
        must(delta_key_public(&key, &public_key, &err), "key");
        must(delta_public_key_save(&public_key, open, &err), "key");
    }
}

int main(int argc, char **argv)
{
    static const struct delta_provenance made = {.device = "golden",
                                                 .method = "frostline",
                                                 .software = "golden_make 1",
                                                 .created_ms = 1700000000000,
                                                 .new_samples = 20,
                                                 .replay_samples = 60,
                                                 .tested_old = 30,
                                                 .old_before = 0.5,
                                                 .old_after = 0.25,
                                                 .tested_new = 4,
                                                 .new_recall = 0.75};
    const struct delta_options options = {.provenance = &made, .encoding = DELTA_CHOICE_ZSTD};
    struct delta_class_id id;
    struct delta_model base, target;
    struct delta_buf model, diff;

    if (argc != 2)
        return 2;
    root = argv[1];
    load_key();
    fixture_model(&base);
    must(delta_class_id_make(&id, "dog", &err), "class");
    must(delta_model_grow_head(&base, &id, 1, &err), "grow");
    delta_model_find(&base, "fc.bias")->data[3] = -0.0f;
    must(delta_model_encode(&base, &model, &err), "model");
    must(delta_container_sign(&model, &key, &err), "model");
    put("good/schema-1.flm", delta_buf_bytes(&model));
    make_target(&target, &base);
    must(delta_diff(&base, &target, &options, &diff, &err), "diff");
    must(delta_container_sign(&diff, &key, &err), "diff");
    put("good/schema-1.fld", delta_buf_bytes(&diff));
    bad_frames(&model, "flm");
    bad_headers(&model, "flm");
    bad_headers(&diff, "fld");
    bad_models(&base, &model);
    bad_deltas(&base, &target, &diff);
    bad_bomb(&diff);
    bad_numbers(&model, &diff);
    bad_signers(&model, &base);
    delta_buf_release(&model);
    delta_buf_release(&diff);
    delta_model_release(&base);
    delta_model_release(&target);
    delta_key_release(&key);
    return 0;
}
