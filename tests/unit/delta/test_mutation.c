/* Random damage to good files, from a fixed seed: parsers may refuse or accept, never crash, leak
 * or overrun. Worth most under the sanitizers. FROSTLINE_MUTATIONS overrides the number of rounds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "delta/channel.h"
#include "delta/file.h"
#include "delta/msg.h"
#include "delta/safetensors.h"
#include "delta_fixture.h"
#include "quant.h"

static uint64_t seed;

static uint32_t draw(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed >> 20) % below);
}

static size_t rounds(void)
{
    const char *text = getenv("FROSTLINE_MUTATIONS");

    return text ? (size_t)strtoul(text, NULL, 10) : 20000;
}

/* A damaged copy of its own size, so that the sanitizer sees every overrun. */
static uint8_t *damaged(struct delta_bytes good, size_t *len)
{
    static const uint8_t nasty[] = {0x00, 0x01, 0x7f, 0x80, 0xc0, 0xc4, 0xcf, 0xdb,
                                    0xdd, 0xdf, 0xff, '[',  '{',  '"',  ']',  '}'};
    const size_t front = good.len < 700 ? good.len : 700; /* headers are where the parsers are */
    uint8_t *copy = malloc(good.len + 64);

    memcpy(copy, good.data, good.len);
    *len = good.len;
    for (uint32_t n = 1 + draw(4); n; n--) {
        const size_t at = draw((uint32_t)(draw(4) ? front : good.len));
        switch (draw(6)) {
        case 0:
            copy[at] ^= (uint8_t)(1u << draw(8));
            break;
        case 1:
            copy[at] = nasty[draw(sizeof nasty)];
            break;
        case 2:
            copy[at] = (uint8_t)draw(256);
            break;
        case 3:
            *len = draw(8) ? *len : at;
            break;
        case 4: /* a piece copied over another */
            if (at + 16 < good.len)
                memmove(copy + at, copy + draw((uint32_t)good.len - 16), draw(16));
            break;
        default: /* a piece cut out */
            if (*len > at + 16) {
                const size_t cut = 1 + draw(8);
                memmove(copy + at, copy + at + cut, *len - at - cut);
                *len -= cut;
            }
        }
    }
    uint8_t *exact = malloc(*len ? *len : 1);
    memcpy(exact, copy, *len);
    free(copy);
    return exact;
}

typedef enum delta_status parse_fn(struct delta_bytes bytes, void *context);

static void hammer(const char *what, struct delta_bytes good, parse_fn *parse, void *context,
                   size_t count)
{
    size_t accepted = 0;

    seed = 0x9e3779b97f4a7c15;
    assert_int_equal(parse(good, context), DELTA_OK);
    for (size_t i = 0; i < count; i++) {
        size_t len;
        uint8_t *bytes = damaged(good, &len);
        accepted += parse(delta_bytes(bytes, len), context) == DELTA_OK;
        free(bytes);
    }
    print_message("%s: %zu damaged files, %zu still parse\n", what, count, accepted);
}

static enum delta_status parse_model(struct delta_bytes bytes, void *context)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest name, again;
    struct delta_model model;
    enum delta_status st = delta_model_decode(&model, bytes, &name, &err);

    (void)context;
    if (st)
        return st;
    /* what is accepted has one name */
    assert_ok(delta_model_digest(&model, &again, &err));
    assert_memory_equal(name.bytes, again.bytes, 32);
    delta_model_release(&model);
    return DELTA_OK;
}

static enum delta_status parse_delta(struct delta_bytes bytes, void *context)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_reader reader;
    struct delta_model out;
    enum delta_status st = delta_reader_init(&reader, bytes, &err);

    if (st)
        return st;
    if (!delta_apply(context, &reader, &out, &err))
        delta_model_release(&out);
    delta_reader_release(&reader);
    return DELTA_OK;
}

static enum delta_status parse_signed(struct delta_bytes bytes, void *context)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest ids[8];
    size_t count;

    (void)context;
    return delta_container_signers(bytes, ids, &count, &err);
}

static enum delta_status parse_safetensors(struct delta_bytes bytes, void *context)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_safetensors_info info;
    struct delta_model model;
    enum delta_status st = delta_safetensors_decode(&model, bytes, &info, &err);

    (void)context;
    if (st)
        return st;
    delta_safetensors_info_release(&info);
    delta_model_release(&model);
    return DELTA_OK;
}

static enum delta_status parse_msg(struct delta_bytes bytes, void *context)
{
    struct delta_msg msg;
    enum delta_status st = delta_msg_parse(&msg, bytes, NULL);

    (void)context;
    if (!st)
        delta_msg_release(&msg);
    return st;
}

static enum delta_status parse_channel(struct delta_bytes bytes, void *context)
{
    struct delta_channel channel;

    return delta_channel_open(&channel, bytes, context, NULL);
}

static void mutated_models(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model;
    struct delta_buf file;

    (void)state;
    fixture_model(&model);
    assert_ok(delta_model_encode(&model, &file, &err));
    assert_ok(delta_container_sign(&file, fixture_key(), &err));
    hammer("model", delta_buf_bytes(&file), parse_model, NULL, rounds());
    hammer("signature block", delta_buf_bytes(&file), parse_signed, NULL, rounds());
    delta_buf_release(&file);
    delta_model_release(&model);
}

static void mutated_deltas(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model base, target;
    struct delta_class_id id;
    struct delta_buf file;

    (void)state;
    fixture_model(&base);
    assert_ok(delta_model_copy(&target, &base, &err));
    assert_ok(delta_class_id_make(&id, "dog", &err));
    assert_ok(delta_model_grow_head(&target, &id, 1, &err));
    delta_model_find(&target, "fc.weight")->data[14] = 3;
    delta_model_find(&target, "conv1.weight")->data[30] = 3;
    delta_model_find(&target, "conv1.weight")->freeze.bits[0] = 2;
    assert_ok(delta_diff(&base, &target, NULL, &file, &err));
    hammer("delta", delta_buf_bytes(&file), parse_delta, &base, rounds());
    delta_buf_release(&file);
    delta_model_release(&base);
    delta_model_release(&target);
}

/* In a file the payload's digest would speak first: here the decoders are alone. */
#define VALUES 300

static enum delta_status parse_payload(struct delta_bytes bytes, void *context)
{
    static uint32_t values[VALUES];
    const struct delta_tensor tensor = {.rank = 2, .shape = {3, VALUES / 3}, .count = VALUES};
    struct delta_pull pull;

    memset(values, 0x3f, sizeof values);
    delta_pull_memory(&pull, bytes);
    return delta_codec_decode(context, &pull, &tensor, VALUES, values, NULL);
}

static void mutated_payloads(void **state)
{
    static const struct {
        const char *name;
        enum delta_choice choice;
        enum delta_encoding want;
        uint32_t mask, stride;
    } rows[] = {
        {"zstd payload", DELTA_CHOICE_ZSTD, DELTA_ENCODING_ZSTD, UINT32_MAX, 1},
        {"diff payload", DELTA_CHOICE_DIFF, DELTA_ENCODING_DIFF, UINT32_MAX, 1},
        {"cell payload", DELTA_CHOICE_CELL, DELTA_ENCODING_CELL, UINT32_MAX, 1},
        {"bf16 payload", DELTA_CHOICE_CELL, DELTA_ENCODING_BF16, 0xffff0000, 1},
        {"cell payload with positions", DELTA_CHOICE_CELL, DELTA_ENCODING_CELL, UINT32_MAX, 9}};
    const struct delta_tensor tensor = {.rank = 2, .shape = {3, VALUES / 3}, .count = VALUES};
    struct delta_error err = DELTA_ERROR_INIT;
    uint32_t values[VALUES], base[VALUES];

    (void)state;
    for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++) {
        struct delta_coding coding;
        struct delta_buf out;
        memset(base, 0x3f, sizeof base);
        for (uint32_t i = 0; i < VALUES; i++)
            values[i] = i % rows[row].stride ? base[i] : (base[i] + i * i * 777) & rows[row].mask;
        const struct delta_codec_job job = {&tensor, VALUES, base, values, rows[row].choice, 1};
        delta_buf_init(&out, 1 << 16);
        assert_ok(delta_codec_encode(&job, &out, &coding, &err));
        assert_int_equal(coding.encoding, rows[row].want);
        hammer(rows[row].name, delta_buf_bytes(&out), parse_payload, &coding, rounds());
        delta_buf_release(&out);
    }
}

static void mutated_int8_payloads(void **state)
{
    const struct delta_tensor tensor = {.rank = 2, .shape = {3, VALUES / 3}, .count = VALUES};
    struct delta_coding coding = {DELTA_ENCODING_INT8, DELTA_SCOPE_ALL, VALUES};
    struct delta_error err = DELTA_ERROR_INIT;
    uint32_t values[VALUES], base[VALUES];
    struct delta_quant quant;
    struct delta_buf out;

    (void)state;
    memset(base, 0x3f, sizeof base);
    for (uint32_t i = 0; i < VALUES; i++)
        values[i] = base[i] + i * 777;
    assert_ok(
        delta_quant_round(&quant, &tensor, DELTA_SCOPE_ALL, VALUES, 0.25, 0.5, base, values, &err));
    assert_true(quant.rows);
    delta_buf_init(&out, 1 << 16);
    assert_ok(delta_quant_put(&out, &quant, &err));
    hammer("int8 payload", delta_buf_bytes(&out), parse_payload, &coding, rounds());
    delta_quant_release(&quant);
    delta_buf_release(&out);
}

static void mutated_safetensors(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct harness_scratch scratch;
    struct delta_model model;
    struct delta_buf file;

    (void)state;
    harness_scratch_make(&scratch);
    fixture_model(&model);
    assert_ok(
        delta_safetensors_save(&model, DELTA_SAFETENSORS_F32, harness_path(&scratch, "x"), &err));
    assert_ok(delta_file_read(harness_path(&scratch, "x"), 1 << 20, &file, &err));
    hammer("safetensors", delta_buf_bytes(&file), parse_safetensors, NULL, rounds());
    delta_buf_release(&file);
    delta_model_release(&model);
    harness_scratch_remove(&scratch);
}

static void mutated_messages(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_channel channel = {.name = "stable", .permille = 10, .edge_count = 1};
    struct delta_keyring ring;
    struct delta_buf sealed;

    (void)state;
    fixture_ring(&ring, fixture_key());
    assert_ok(delta_channel_seal(&channel, fixture_key(), &sealed, &err));
    hammer("message", delta_buf_bytes(&sealed), parse_msg, NULL, 5 * rounds());
    hammer("channel", delta_buf_bytes(&sealed), parse_channel, &ring, rounds() / 10);
    delta_buf_release(&sealed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mutated_models),      cmocka_unit_test(mutated_deltas),
        cmocka_unit_test(mutated_payloads),    cmocka_unit_test(mutated_int8_payloads),
        cmocka_unit_test(mutated_safetensors), cmocka_unit_test(mutated_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
