/* Writes the golden files of the encodings: golden_encodings DIR. Run once: what lies in good/ is
 * kept for ever and never made again (see golden_make.c).
 *
 * One base, wide enough that payloads have two blocks and symbols four lanes, and one delta for
 * each encoding. Of its tensors one changes nearly everywhere, one here and there, one in live
 * weights only, and the head grows.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "delta_fixture.h"

static struct delta_error err = DELTA_ERROR_INIT;
static const char *root;
static struct delta_key key;

static void must(enum delta_status st, const char *what)
{
    if (!st)
        return;
    fprintf(stderr, "golden_encodings: %s: %s: %s\n", what, delta_status_name(st), err.text);
    exit(1);
}

static void put(const char *name, struct delta_buf *file)
{
    char path[1024];

    snprintf(path, sizeof path, "%s/good/%s", root, name);
    file->cap += 2048;
    must(delta_container_sign(file, &key, &err), name);
    must(delta_file_write(path, delta_buf_bytes(file), 0644, &err), name);
    delta_buf_release(file);
}

/* Few different values, so that the file packs well in an archive of sources. */
static float plain(uint64_t *state)
{
    return (float)(int)(fixture_value(state) * 64) / 256.0f + 0.01f;
}

static void add(struct delta_model *model, const char *name, uint32_t rank, const uint64_t *shape,
                uint64_t seed)
{
    struct delta_tensor *tensor;

    must(delta_model_add_tensor(model, name, rank, shape, &tensor, &err), name);
    for (size_t i = 0; i < tensor->count; i++)
        tensor->data[i] = plain(&seed);
}

static void make_base(struct delta_model *out)
{
    const uint64_t wide[2] = {5, 6600}, live[4] = {8, 8, 3, 3}, sparse[2] = {64, 80};
    struct delta_tensor *tensor;
    uint8_t bits[72];

    fixture_model(out);
    add(out, "wide.weight", 2, wide, 1);
    add(out, "live.weight", 4, live, 2);
    add(out, "sparse.weight", 2, sparse, 3);
    for (size_t i = 0; i < sizeof bits; i++)
        bits[i] = (uint8_t)(0xb7 ^ i);
    tensor = delta_model_find(out, "live.weight");
    must(delta_tensor_set_freeze(tensor, DELTA_FREEZE_WEIGHTS, bits, tensor->count, &err), "plan");
}

static void make_target(struct delta_model *out, const struct delta_model *base)
{
    struct delta_tensor *wide, *live, *sparse, *head;
    struct delta_class_id id;
    uint64_t state = 7;

    must(delta_model_copy(out, base, &err), "copy");
    must(delta_model_digest(base, &out->parent, &err), "digest");
    must(delta_class_id_make(&id, "elk", &err), "class");
    must(delta_model_grow_head(out, &id, 1, &err), "grow");
    wide = delta_model_find(out, "wide.weight");
    live = delta_model_find(out, "live.weight");
    sparse = delta_model_find(out, "sparse.weight");
    head = delta_model_find(out, "fc.weight");
    for (size_t i = 0; i < wide->count; i++) /* signs and exponents change too */
        if (i % 3 == 0)
            wide->data[i] += fixture_value(&state) * 0.05f;
    for (size_t i = 0; i < live->count; i++)
        if (!delta_tensor_is_frozen(live, i))
            live->data[i] += fixture_value(&state) * 0.01f;
    for (size_t i = 5; i < sparse->count; i += 97 + i % 11)
        sparse->data[i] += fixture_value(&state) * 0.1f;
    sparse->data[0] = -0.0f;
    sparse->data[200] = 3e38f;
    sparse->data[201] = 1e-41f; /* denormal */
    for (size_t i = 0; i < head->count; i++)
        head->data[i] += fixture_value(&state) * 0.1f;
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"auto", "raw", "zstd", "diff", "cell", "bf16", "int8"};
    struct delta_model base, target;
    struct delta_buf file;
    char name[1024];

    if (argc != 2)
        return 2;
    root = argv[1];
    snprintf(name, sizeof name, "%s/good/golden.pem", root);
    must(delta_key_load(&key, name, &err), name);
    make_base(&base);
    make_target(&target, &base);
    must(delta_model_encode(&base, &file, &err), "base");
    put("schema-1-wide.flm", &file);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct delta_options options = {.zstd_level = 19};
        must(delta_choice_parse(names[i], &options.encoding, &err), names[i]);
        must(delta_diff(&base, &target, &options, &file, &err), names[i]);
        snprintf(name, sizeof name, "schema-1-%s.fld", names[i]);
        put(name, &file);
    }
    delta_model_release(&base);
    delta_model_release(&target);
    delta_key_release(&key);
    return 0;
}
