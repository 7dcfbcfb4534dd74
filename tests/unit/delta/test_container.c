#include <stdlib.h>
#include <string.h>

#include "delta_fixture.h"

static struct delta_buf signed_model(void)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_model model;
    struct delta_buf file;

    fixture_model(&model);
    assert_ok(delta_model_encode(&model, &file, &err));
    assert_ok(delta_container_sign(&file, fixture_key(), &err));
    delta_model_release(&model);
    return file;
}

/* What a device does with a file: both must hold. The cheap check comes first, for speed. */
static enum delta_status judge(struct delta_bytes file, const struct delta_keyring *ring,
                               struct delta_error *err)
{
    struct delta_model model;
    enum delta_status st = delta_model_decode(&model, file, NULL, err);

    if (st)
        return st;
    delta_model_release(&model);
    return delta_container_verify(file, ring, NULL, err);
}

static void container_signature_round_trip(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file = signed_model();
    struct delta_keyring ring, other;
    struct delta_digest signer, ids[8];
    enum delta_container_kind kind;
    size_t count;

    (void)state;
    fixture_ring(&ring, fixture_key());
    fixture_ring(&other, fixture_other_key());
    assert_ok(delta_container_kind(delta_buf_bytes(&file), &kind, &err));
    assert_int_equal(kind, DELTA_CONTAINER_MODEL);
    assert_ok(delta_container_verify(delta_buf_bytes(&file), &ring, &signer, &err));
    assert_memory_equal(signer.bytes, ring.keys[0].id.bytes, 32);
    assert_status(delta_container_verify(delta_buf_bytes(&file), &other, NULL, &err),
                  DELTA_UNTRUSTED);
    /* a second signature joins, the same key's again replaces */
    assert_ok(delta_container_sign(&file, fixture_other_key(), &err));
    assert_ok(delta_container_sign(&file, fixture_key(), &err));
    assert_ok(delta_container_signers(delta_buf_bytes(&file), ids, &count, &err));
    assert_int_equal(count, 2);
    assert_ok(judge(delta_buf_bytes(&file), &other, &err));
    assert_ok(judge(delta_buf_bytes(&file), &ring, &err));
    delta_buf_release(&file);
}

static void container_unsigned_is_untrusted(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_keyring ring;
    struct delta_model model;
    struct delta_buf file;
    size_t count;

    (void)state;
    fixture_ring(&ring, fixture_key());
    fixture_model(&model);
    assert_ok(delta_model_encode(&model, &file, &err));
    assert_status(delta_container_verify(delta_buf_bytes(&file), &ring, NULL, &err),
                  DELTA_UNTRUSTED);
    assert_ok(
        delta_container_signers(delta_buf_bytes(&file), (struct delta_digest[8]){0}, &count, &err));
    assert_int_equal(count, 0);
    delta_buf_release(&file);
    delta_model_release(&model);
}

static void container_every_flipped_bit_is_detected(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file = signed_model();
    struct delta_keyring ring;

    (void)state;
    fixture_ring(&ring, fixture_key());
    assert_ok(judge(delta_buf_bytes(&file), &ring, &err));
    for (size_t bit = 0; bit < file.len * 8; bit++) {
        file.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        if (!judge(delta_buf_bytes(&file), &ring, &err))
            fail_msg("bit %zu of %zu went unnoticed", bit, file.len * 8);
        file.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    delta_buf_release(&file);
}

static void container_every_truncation_is_detected(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file = signed_model();
    struct delta_model model;

    (void)state;
    for (size_t len = 0; len < file.len; len++) {
        /* an exact copy, so that the sanitizer sees a read beyond the end */
        uint8_t *copy = malloc(len ? len : 1);
        memcpy(copy, file.data, len);
        assert_status(delta_model_decode(&model, delta_bytes(copy, len), NULL, &err),
                      DELTA_TRUNCATED);
        free(copy);
    }
    assert_ok(delta_buf_append(&file, "x", 1, &err));
    assert_status(delta_model_decode(&model, delta_buf_bytes(&file), NULL, &err), DELTA_FORMAT);
    delta_buf_release(&file);
}

static void container_lengths_that_lie_cost_nothing(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file = signed_model();
    struct delta_model model;

    (void)state;
    for (size_t at = 8; at < 24; at++) {
        const uint8_t kept = file.data[at];
        file.data[at] = 0xff;
        assert_true(delta_model_decode(&model, delta_buf_bytes(&file), NULL, &err) != DELTA_OK);
        file.data[at] = kept;
    }
    delta_buf_release(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(container_signature_round_trip),
        cmocka_unit_test(container_unsigned_is_untrusted),
        cmocka_unit_test(container_every_flipped_bit_is_detected),
        cmocka_unit_test(container_every_truncation_is_detected),
        cmocka_unit_test(container_lengths_that_lie_cost_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
