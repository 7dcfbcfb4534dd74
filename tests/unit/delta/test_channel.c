#include "delta/channel.h"

#include <stdio.h>
#include <string.h>

#include "delta_fixture.h"

static struct delta_channel sample(void)
{
    struct delta_channel c = {.name = "stable",
                              .serial = 7,
                              .issued_ms = 1000,
                              .expires_ms = 9000,
                              .poll_s = 30,
                              .permille = 500,
                              .model_bytes = 123456,
                              .edge_count = 2};

    memset(c.rollout.bytes, 1, 32);
    memset(c.version.bytes, 2, 32);
    memset(c.model_blob.bytes, 3, 32);
    for (size_t i = 0; i < 2; i++) {
        memset(c.edges[i].from.bytes, 4 + (int)i, 32);
        memset(c.edges[i].blob.bytes, 6 + (int)i, 32);
        c.edges[i].bytes = 100 + i;
    }
    return c;
}

static void channel_round_trip(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const struct delta_channel c = sample();
    struct delta_channel back;
    struct delta_keyring ring;
    struct delta_buf sealed;

    (void)state;
    fixture_ring(&ring, fixture_key());
    assert_ok(delta_channel_seal(&c, fixture_key(), &sealed, &err));
    assert_ok(delta_channel_open(&back, delta_buf_bytes(&sealed), &ring, &err));
    assert_string_equal(back.name, c.name);
    assert_int_equal(back.serial, c.serial);
    assert_int_equal(back.issued_ms, c.issued_ms);
    assert_int_equal(back.expires_ms, c.expires_ms);
    assert_int_equal(back.poll_s, c.poll_s);
    assert_int_equal(back.permille, c.permille);
    assert_false(back.paused);
    assert_memory_equal(&back.rollout, &c.rollout, 32);
    assert_memory_equal(&back.version, &c.version, 32);
    assert_memory_equal(&back.model_blob, &c.model_blob, 32);
    assert_int_equal(back.model_bytes, c.model_bytes);
    assert_int_equal(back.edge_count, 2);
    assert_memory_equal(back.edges, c.edges, 2 * sizeof c.edges[0]);
    delta_buf_release(&sealed);
}

static void channel_every_flipped_bit_and_truncation_is_detected(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const struct delta_channel c = sample();
    struct delta_keyring ring, other;
    struct delta_channel back;
    struct delta_buf sealed;

    (void)state;
    fixture_ring(&ring, fixture_key());
    fixture_ring(&other, fixture_other_key());
    assert_ok(delta_channel_seal(&c, fixture_key(), &sealed, &err));
    assert_status(delta_channel_open(&back, delta_buf_bytes(&sealed), &other, &err),
                  DELTA_UNTRUSTED);
    for (size_t bit = 0; bit < sealed.len * 8; bit++) {
        sealed.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        if (!delta_channel_open(&back, delta_buf_bytes(&sealed), &ring, &err))
            fail_msg("bit %zu went unnoticed", bit);
        sealed.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    for (size_t len = 0; len < sealed.len; len++)
        assert_true(delta_channel_open(&back, delta_bytes(sealed.data, len), &ring, &err) !=
                    DELTA_OK);
    delta_buf_release(&sealed);
}

static void channel_refuses_to_seal_nonsense(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_channel c = sample();
    struct delta_buf sealed;

    (void)state;
    c.permille = 1001;
    assert_status(delta_channel_seal(&c, fixture_key(), &sealed, &err), DELTA_LIMIT);
    c = sample();
    c.expires_ms = 1;
    assert_status(delta_channel_seal(&c, fixture_key(), &sealed, &err), DELTA_FORMAT);
    c = sample();
    memcpy(c.name, "../x", 5);
    assert_status(delta_channel_seal(&c, fixture_key(), &sealed, &err), DELTA_FORMAT);
    c = sample();
    c.edge_count = 17;
    assert_status(delta_channel_seal(&c, fixture_key(), &sealed, &err), DELTA_LIMIT);
}

/* SHA-256(32 x 0x01 || "device-1") begins with 0756f60f96c3cc52, which is 530 modulo 1000:
 * computed elsewhere. */
#define COHORT_PLACE 530

static void channel_cohort_follows_the_protocol(void **state)
{
    struct delta_channel c = sample();
    size_t reached = 0;

    (void)state;
    c.permille = 0;
    assert_false(delta_channel_reaches(&c, "device-1"));
    c.permille = 1000;
    assert_true(delta_channel_reaches(&c, "device-1"));
    c.permille = COHORT_PLACE;
    assert_false(delta_channel_reaches(&c, "device-1"));
    c.permille = COHORT_PLACE + 1;
    assert_true(delta_channel_reaches(&c, "device-1"));
    c.permille = 250;
    for (int i = 0; i < 4000; i++) {
        char name[32];
        snprintf(name, sizeof name, "cam-%d", i);
        reached += delta_channel_reaches(&c, name);
    }
    assert_in_range(reached, 850, 1150);
}

static void names_are_checked(void **state)
{
    static const char *const good[] = {"a", "0", "cam-01", "edge.fleet_7", "_x"};
    static const char *const bad[] = {
        "",
        ".",
        "..",
        "-a",
        ".a",
        "A",
        "a/b",
        "a b",
        "a\n",
        "\xc3\xa9",
        "0123456789012345678901234567890123456789012345678901234567890123"};
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_ok(delta_name_check("device", good[i], &err));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_true(delta_name_check("device", bad[i], &err) != DELTA_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(channel_round_trip),
        cmocka_unit_test(channel_every_flipped_bit_and_truncation_is_detected),
        cmocka_unit_test(channel_refuses_to_seal_nonsense),
        cmocka_unit_test(channel_cohort_follows_the_protocol),
        cmocka_unit_test(names_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
