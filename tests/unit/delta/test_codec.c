/* codec, cell, planes, places, rans: what goes in comes out, whatever the bits; what was damaged is
 * refused or gives other values, and never more. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "cell.h"
#include "codec.h"
#include "delta_fixture.h"

static uint64_t seed = 88172645463325252u;

static uint32_t draw(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}

static uint32_t pattern_of(float f)
{
    uint32_t pattern;

    memcpy(&pattern, &f, sizeof pattern);
    return pattern;
}

/* About normal, sum of four evenly distributed. */
static float bell(float scale)
{
    double sum = 0;

    for (int i = 0; i < 4; i++)
        sum += (double)draw() / 4294967296.0 - 0.5;
    return (float)(sum * scale);
}

/* ---- kinds of values: adversarial ones first ---- */

enum kind {
    EVERY_PATTERN, /* NaN, infinities and denormals among them */
    NOTHING_LIKE_BASE,
    SIGNED_ZEROS,
    DENORMALS,
    EXTREMES,
    ONE_VALUE,
    NEIGHBOURS,
    MOVES_WITHIN,
    MOVES_ACROSS_ZERO,
    FEW_MOVES,
    FROM_ZERO,
    BFLOATS,
    TINY_MOVES_OF_LARGE_VALUES,
    KINDS
};

static void fill(enum kind kind, uint32_t *base, uint32_t *target, size_t count)
{
    static const uint32_t zeros[] = {0, 0x80000000, 0x3f800000};
    static const uint32_t extremes[] = {0,          0x80000000, 0x7f7fffff, 0xff7fffff, 1,
                                        0x80000001, 0x00800000, 0x007fffff, 0x3f800000, 0x7effffff};

    for (size_t i = 0; i < count; i++) {
        const float w = bell(0.1f);
        base[i] = target[i] = pattern_of(w);
        switch (kind) {
        case EVERY_PATTERN:
            base[i] = draw();
            target[i] = draw();
            break;
        case NOTHING_LIKE_BASE:
            target[i] = pattern_of(bell(1e20f));
            break;
        case SIGNED_ZEROS:
            base[i] = zeros[draw() % 3];
            target[i] = zeros[draw() % 3];
            break;
        case DENORMALS:
            base[i] = draw() & 0x800fffff;
            target[i] = draw() & 0x80ffffff;
            break;
        case EXTREMES:
            base[i] = extremes[draw() % 10];
            target[i] = extremes[draw() % 10];
            break;
        case ONE_VALUE:
            base[i] = 0x3f800000;
            target[i] = 0x40490fdb;
            break;
        case NEIGHBOURS:
            target[i] = base[i] + draw() % 3 - 1;
            break;
        case MOVES_WITHIN:
            target[i] = pattern_of(w + bell(0.001f));
            break;
        case MOVES_ACROSS_ZERO:
            target[i] = pattern_of(w + bell(0.3f));
            break;
        case FEW_MOVES:
            if (draw() % 50 == 0)
                target[i] = pattern_of(w + bell(0.01f));
            break;
        case FROM_ZERO:
            base[i] = 0;
            break;
        case BFLOATS:
            target[i] = pattern_of(w + bell(0.05f)) & 0xffff0000;
            break;
        case TINY_MOVES_OF_LARGE_VALUES:
            base[i] = pattern_of(1e6f + bell(1e5f));
            target[i] = base[i] + draw() % 5;
            break;
        case KINDS:
            break;
        }
    }
}

/* A plan of this mode for a tensor of `rows` rows; bits are the caller's to free. */
static void plan(struct delta_tensor *tensor, enum delta_freeze_mode mode)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const size_t bits = mode == DELTA_FREEZE_ROWS ? tensor->shape[0] : tensor->count;
    uint8_t *map = malloc(bits / 8 + 1);

    for (size_t i = 0; i < bits / 8 + 1; i++)
        map[i] = (uint8_t)(draw() | draw());
    assert_ok(delta_tensor_set_freeze(tensor, mode, map, bits, &err));
    free(map);
}

static void assert_round_trip(const struct delta_codec_job *job, struct delta_coding *coding,
                              size_t *bytes)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const size_t count = job->tensor->count;
    uint32_t *data = malloc(count * sizeof *data);
    struct delta_pull pull;
    struct delta_buf out;

    delta_buf_init(&out, 1 << 26);
    assert_ok(delta_codec_encode(job, &out, coding, &err));
    if (coding->scope != DELTA_SCOPE_SOME)
        assert_true(coding->encoding == DELTA_ENCODING_RAW ? out.len == 4 * coding->count
                                                           : out.len < 4 * coding->count);
    memcpy(data, job->base, count * sizeof *data);
    delta_pull_memory(&pull, delta_buf_bytes(&out));
    assert_ok(delta_codec_decode(coding, &pull, job->tensor, job->base_count, data, &err));
    assert_memory_equal(data, job->target, count * sizeof *data);
    *bytes = out.len;
    delta_buf_release(&out);
    free(data);
}

static void every_choice_round_trips_every_kind(void **state)
{
    static const size_t sizes[] = {1, 2, 3, 63, 1023, 1025, 32768, 70001};
    static const enum delta_choice choices[] = {DELTA_CHOICE_AUTO, DELTA_CHOICE_RAW,
                                                DELTA_CHOICE_ZSTD, DELTA_CHOICE_DIFF,
                                                DELTA_CHOICE_CELL};

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (enum kind kind = 0; kind < KINDS; kind++) {
            struct delta_tensor tensor = {
                .rank = 1, .shape = {sizes[s]}, .count = sizes[s], .freeze = {0}};
            uint32_t *base = malloc(4 * sizes[s]), *target = malloc(4 * sizes[s]);
            fill(kind, base, target, sizes[s]);
            for (size_t c = 0; c < sizeof choices / sizeof choices[0]; c++) {
                const struct delta_codec_job job = {&tensor, sizes[s], base, target, choices[c], 1};
                struct delta_coding coding;
                size_t bytes;
                assert_round_trip(&job, &coding, &bytes);
            }
            free(base);
            free(target);
        }
}

static void plans_and_grown_rows_round_trip(void **state)
{
    enum { ROWS = 100, LEN = 130 };
    static uint32_t base[ROWS * LEN], target[ROWS * LEN];

    (void)state;
    for (int mode = 0; mode < 4; mode++)
        for (int frozen_moves = 0; frozen_moves < 2; frozen_moves++)
            for (size_t old = ROWS - 1; old <= ROWS; old++) {
                struct delta_tensor tensor = {
                    .rank = 2, .shape = {old, LEN}, .count = old * LEN, .freeze = {0}};
                struct delta_coding coding;
                size_t bytes;
                if (mode == DELTA_FREEZE_ROWS || mode == DELTA_FREEZE_WEIGHTS)
                    plan(&tensor, (enum delta_freeze_mode)mode);
                tensor.freeze.mode = (enum delta_freeze_mode)mode;
                tensor.shape[0] = ROWS;
                tensor.count = ROWS * LEN;
                const struct delta_codec_job job = {&tensor, old * LEN, base, target, 0, 1};
                fill(MOVES_ACROSS_ZERO, base, target, ROWS * LEN);
                for (size_t i = 0; i < ROWS * LEN; i++) {
                    if (i >= old * LEN)
                        base[i] = 0;
                    if (delta_tensor_is_frozen(&tensor, i) && (!frozen_moves || i % 7))
                        target[i] = base[i];
                }
                if (memcmp(base, target, sizeof base) != 0)
                    assert_round_trip(&job, &coding, &bytes);
                free(tensor.freeze.bits);
            }
}

/* Positions travel where few moved, and cost about their entropy. */
static void few_changes_travel_with_positions(void **state)
{
    enum { N = 400000 };
    static uint32_t base[N], target[N];
    struct delta_tensor tensor = {.rank = 1, .shape = {N}, .count = N, .freeze = {0}};

    (void)state;
    for (int permille = 1; permille <= 300; permille = permille * 3 + 1) {
        const struct delta_codec_job job = {&tensor, N, base, target, DELTA_CHOICE_AUTO, 1};
        struct delta_coding coding;
        size_t bytes, moved = 0;
        fill(NEIGHBOURS, base, target, N);
        for (size_t i = 0; i < N; i++) {
            float w;
            memcpy(&w, &base[i], sizeof w);
            target[i] = (int)(draw() % 1000) < permille ? pattern_of(w + bell(0.01f)) : base[i];
            moved += target[i] != base[i];
        }
        assert_round_trip(&job, &coding, &bytes);
        assert_int_equal(coding.scope, DELTA_SCOPE_SOME);
        assert_int_equal(coding.count, moved);
        printf("%zu of %d moved: %zu bytes, entropy %.0f\n", moved, N, bytes,
               delta_codec_floor_bytes(&job, coding.scope));
        /* within 2 % and 250 bytes, for tables, of positions' and cells' entropy */
        assert_true((double)bytes < 1.02 * delta_codec_floor_bytes(&job, coding.scope) + 250);
    }
}

/* The bar of issue "deltas": against what a bit pattern's difference costs in byte planes. */
static void cells_beat_planes_on_moved_weights(void **state)
{
    enum { N = 100000 };
    static uint32_t base[N], target[N];
    struct delta_tensor tensor = {.rank = 1, .shape = {N}, .count = N, .freeze = {0}};
    struct delta_coding coding;
    size_t cell, planes;

    (void)state;
    fill(MOVES_ACROSS_ZERO, base, target, N);
    const struct delta_codec_job one = {&tensor, N, base, target, DELTA_CHOICE_CELL, 19};
    const struct delta_codec_job two = {&tensor, N, base, target, DELTA_CHOICE_DIFF, 19};
    assert_round_trip(&one, &coding, &cell);
    assert_int_equal(coding.encoding, DELTA_ENCODING_CELL);
    assert_round_trip(&two, &coding, &planes);
    printf("cells %zu, planes %zu bytes\n", cell, planes);
    assert_true((double)cell < 0.95 * (double)planes);
    assert_true((double)cell < 1.01 * delta_codec_floor_bytes(&one, DELTA_SCOPE_ALL));
}

/* ---- damage ---- */

struct sample {
    struct delta_tensor tensor;
    struct delta_buf payload;
    struct delta_coding coding;
    uint32_t *base, *target;
};

static void sample_make(struct sample *s, enum kind kind, enum delta_choice choice, size_t count)
{
    struct delta_error err = DELTA_ERROR_INIT;

    *s = (struct sample){.tensor = {.rank = 1, .shape = {count}, .count = count}};
    s->base = malloc(4 * count);
    s->target = malloc(4 * count);
    fill(kind, s->base, s->target, count);
    const struct delta_codec_job job = {&s->tensor, count, s->base, s->target, choice, 1};
    delta_buf_init(&s->payload, 1 << 24);
    assert_ok(delta_codec_encode(&job, &s->payload, &s->coding, &err));
}

static void sample_release(struct sample *s)
{
    delta_buf_release(&s->payload);
    free(s->base);
    free(s->target);
}

static enum delta_status decode(const struct sample *s, const uint8_t *bytes, size_t len,
                                uint32_t *out)
{
    struct delta_pull pull;

    memcpy(out, s->base, 4 * s->tensor.count);
    delta_pull_memory(&pull, delta_bytes(bytes, len));
    return delta_codec_decode(&s->coding, &pull, &s->tensor, s->tensor.count, out, NULL);
}

static void payloads_cut_or_extended_are_refused(void **state)
{
    static const enum delta_choice choices[] = {DELTA_CHOICE_RAW, DELTA_CHOICE_ZSTD,
                                                DELTA_CHOICE_DIFF, DELTA_CHOICE_CELL};

    (void)state;
    for (int few = 0; few < 2; few++)
        for (size_t c = 0; c < 4; c++) {
            struct sample s;
            uint32_t out[1500];
            sample_make(&s, few ? FEW_MOVES : MOVES_WITHIN, choices[c], 1500);
            for (size_t len = 0; len <= s.payload.len + 1; len++) {
                uint8_t *copy = calloc(len ? len : 1, 1); /* its own size: overruns show */
                memcpy(copy, s.payload.data, len < s.payload.len ? len : s.payload.len);
                const enum delta_status st = decode(&s, copy, len, out);
                assert_int_equal(st, len == s.payload.len ? DELTA_OK : DELTA_FORMAT);
                free(copy);
            }
            assert_memory_equal(out, s.base, 0);
            sample_release(&s);
        }
}

/* Entropy-coded streams end in a known state: most flips are seen before any digest is. */
static void flipped_bits_are_bounded(void **state)
{
    struct sample s;
    uint32_t *out = malloc(4 * 3000);
    size_t refused = 0, flips = 0;

    (void)state;
    for (int few = 0; few < 2; few++) {
        sample_make(&s, few ? FEW_MOVES : MOVES_ACROSS_ZERO, DELTA_CHOICE_CELL, 3000);
        for (size_t bit = 0; bit < 8 * s.payload.len; bit += 1 + draw() % 5) {
            s.payload.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            const enum delta_status st = decode(&s, s.payload.data, s.payload.len, out);
            assert_true(st == DELTA_OK || st == DELTA_FORMAT);
            /* one bit never gives the same values back, unless refused */
            assert_true(st || memcmp(out, s.target, 4 * s.tensor.count) != 0);
            refused += st != DELTA_OK;
            flips++;
            s.payload.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
        sample_release(&s);
    }
    assert_true(refused > 0 && refused < flips);
    free(out);
}

static void zstd_frames_that_lie_are_refused(void **state)
{
    static uint8_t zeros[1 << 20];
    struct delta_error err = DELTA_ERROR_INIT;
    struct sample s;
    uint8_t frame[4096];
    uint32_t out[64];
    ZSTD_CCtx *ctx = ZSTD_createCCtx();

    (void)state;
    sample_make(&s, NEIGHBOURS, DELTA_CHOICE_ZSTD, 64);
    s.coding = (struct delta_coding){DELTA_ENCODING_ZSTD, DELTA_SCOPE_ALL, 64};
    for (int diff = 0; diff < 2; diff++) {
        s.coding.encoding = diff ? DELTA_ENCODING_DIFF : DELTA_ENCODING_ZSTD;
        /* a bomb: a megabyte stated where 256 bytes are due */
        size_t len = ZSTD_compress(frame, sizeof frame, zeros, sizeof zeros, 19);
        assert_status(decode(&s, frame, len, out), DELTA_FORMAT);
        /* the size left unsaid */
        ZSTD_CCtx_setParameter(ctx, ZSTD_c_contentSizeFlag, 0);
        len = ZSTD_compress2(ctx, frame, sizeof frame, zeros, 256);
        assert_status(decode(&s, frame, len, out), DELTA_FORMAT);
        /* with a checksum, as it should be, and with a second frame behind it */
        ZSTD_CCtx_setParameter(ctx, ZSTD_c_contentSizeFlag, 1);
        ZSTD_CCtx_setParameter(ctx, ZSTD_c_checksumFlag, 1);
        len = ZSTD_compress2(ctx, frame, sizeof frame, zeros, 256);
        assert_ok(decode(&s, frame, len, out));
        const size_t more = ZSTD_compress(frame + len, sizeof frame - len, "x", 1, 3);
        assert_status(decode(&s, frame, len + more, out), DELTA_FORMAT);
        frame[len - 1] ^= 1;
        assert_status(decode(&s, frame, len, out), DELTA_FORMAT);
    }
    ZSTD_freeCCtx(ctx);
    sample_release(&s);
}

static void wrong_tables_are_refused(void **state)
{
    static const uint8_t tables[][12] = {
        /* first, number-1, p, length, bits */
        {0, 0, 12, 1, 0, 0},                      /* order too high */
        {255, 1, 0, 1, 0, 0},                     /* beyond the last symbol */
        {0, 0, 0, 0, 0},                          /* no bits */
        {0, 0, 11, 3, 0, 0x01, 0, 0},             /* adds up to nothing */
        {0, 0, 0, 4, 0, 0x00, 0x40, 0x00, 0x00},  /* 14 zeros: no difference is so large */
        {0, 1, 11, 4, 0, 0xff, 0xff, 0xff, 0xff}, /* more than 4096 */
    };
    struct delta_rans_table *table = malloc(sizeof *table);

    (void)state;
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        struct delta_pull pull;
        delta_pull_memory(&pull, delta_bytes(tables[i], 5u + tables[i][3]));
        assert_int_equal(delta_rans_get_table(&pull, table, NULL), DELTA_FORMAT);
    }
    free(table);
}

/* Every distribution survives normalising, rare symbols included. */
static void frequencies_add_up_and_keep_rare_symbols(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_rans_table *table = malloc(sizeof *table);

    (void)state;
    for (int round = 0; round < 300; round++) {
        uint32_t counts[256], sum = 0;
        struct delta_rans_freqs freqs;
        struct delta_pull pull;
        struct delta_buf out;
        for (int i = 0; i < 256; i++)
            counts[i] = draw() % 3 ? 0 : draw() >> (draw() % 32);
        if (round == 0)
            memset(counts, 0, sizeof counts);
        if (round == 1)
            for (int i = 0; i < 256; i++)
                counts[i] = i == 77 ? UINT32_MAX : 1;
        delta_rans_normalise(counts, &freqs);
        for (int i = 0; i < 256; i++) {
            sum += freqs.freq[i];
            assert_true(!counts[i] || freqs.freq[i]);
        }
        assert_int_equal(sum, DELTA_RANS_TOTAL);
        delta_buf_init(&out, 1 << 16);
        assert_ok(delta_rans_put_table(&out, &freqs, &err));
        delta_pull_memory(&pull, delta_buf_bytes(&out));
        assert_ok(delta_rans_get_table(&pull, table, &err));
        for (int i = 0; i < 256; i++)
            if (freqs.freq[i])
                assert_int_equal(table->slot[freqs.start[i]] & 255, i);
        delta_buf_release(&out);
    }
    free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_choice_round_trips_every_kind),
        cmocka_unit_test(plans_and_grown_rows_round_trip),
        cmocka_unit_test(few_changes_travel_with_positions),
        cmocka_unit_test(cells_beat_planes_on_moved_weights),
        cmocka_unit_test(payloads_cut_or_extended_are_refused),
        cmocka_unit_test(flipped_bits_are_bounded),
        cmocka_unit_test(zstd_frames_that_lie_are_refused),
        cmocka_unit_test(wrong_tables_are_refused),
        cmocka_unit_test(frequencies_add_up_and_keep_rare_symbols),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
