/* The store: what it keeps over a reopen, tokens and names, ancestry, atomic releases. */
#include "harness.h"

#include <stdio.h>
#include <string.h>

#include "delta/file.h"
#include "store/store.h"

static struct delta_digest named(const char *text)
{
    return delta_sha256(delta_bytes(text, strlen(text)));
}

static struct server_device device_named(const char *name, const char *key)
{
    struct server_device device = {.key_id = named(key), .key_len = 3, .key_der = {1, 2, 3}};

    snprintf(device.name, sizeof device.name, "%s", name);
    return device;
}

static void store_survives_a_reopen(void **state)
{
    struct harness_scratch scratch;
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_store *store;
    struct server_device device = device_named("cam", "key"), back;
    const struct delta_digest token = named("token");
    char value[16];
    const char *path;

    (void)state;
    harness_scratch_make(&scratch);
    path = harness_path(&scratch, "x.db");
    assert_status(server_store_open(&store, path, false, &err), DELTA_NOT_FOUND);
    assert_ok(server_store_open(&store, path, true, &err));
    assert_ok(server_store_set(store, "names", "a b", &err));
    assert_ok(server_store_token_add(store, &token, "main", 1, 1000, &err));
    assert_ok(server_store_enrol(store, &device, &token, false, 10, &err));
    server_store_close(store);
    assert_status(server_store_open(&store, path, true, &err), DELTA_EXISTS);
    assert_ok(server_store_open(&store, path, false, &err));
    assert_ok(server_store_get(store, "names", value, sizeof value, &err));
    assert_string_equal(value, "a b");
    assert_status(server_store_get(store, "else", value, sizeof value, &err), DELTA_NOT_FOUND);
    assert_ok(server_store_device(store, "cam", &back, &err));
    assert_string_equal(back.channel, "main");
    assert_true(delta_digest_equal(&back.key_id, &device.key_id));
    assert_int_equal(back.key_len, 3);
    server_store_close(store);
    assert_ok(delta_file_write(path, delta_bytes("not a database at all", 21), 0644, &err));
    assert_status(server_store_open(&store, path, false, &err), DELTA_FORMAT);
    harness_scratch_remove(&scratch);
}

static void tokens_are_counted_and_names_are_kept(void **state)
{
    struct harness_scratch scratch;
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_store *store;
    const struct delta_digest token = named("token"), other = named("other");
    struct server_device a = device_named("a", "key-a"), b = device_named("b", "key-b");
    struct server_device thief = device_named("a", "key-x");

    (void)state;
    harness_scratch_make(&scratch);
    assert_ok(server_store_open(&store, harness_path(&scratch, "x.db"), true, &err));
    assert_ok(server_store_token_add(store, &token, "main", 1, 1000, &err));
    assert_status(server_store_enrol(store, &a, &other, false, 10, &err), DELTA_UNTRUSTED);
    assert_status(server_store_enrol(store, &a, &token, false, 1000, &err), DELTA_UNTRUSTED);
    assert_ok(server_store_enrol(store, &a, &token, false, 10, &err));
    /* used up for another device, yet the same key may ask again: its answer may have been lost */
    assert_status(server_store_enrol(store, &b, &token, false, 10, &err), DELTA_UNTRUSTED);
    assert_ok(server_store_enrol(store, &a, &token, false, 10, &err));
    assert_status(server_store_enrol(store, &a, &other, false, 10, &err), DELTA_UNTRUSTED);
    assert_ok(server_store_enrol(store, &a, &other, true, 5000, &err));
    assert_status(server_store_enrol(store, &thief, &token, false, 10, &err), DELTA_UNTRUSTED);
    assert_ok(server_store_revoke(store, "a", 20, &err));
    assert_status(server_store_enrol(store, &a, &token, true, 30, &err), DELTA_UNTRUSTED);
    assert_ok(server_store_remove(store, "a", &err));
    assert_status(server_store_remove(store, "a", &err), DELTA_NOT_FOUND);
    assert_ok(server_store_token_add(store, &other, "main", 1, 1000, &err));
    assert_ok(server_store_enrol(store, &thief, &other, false, 10, &err));
    server_store_close(store);
    harness_scratch_remove(&scratch);
}

/* Releases version `name` (parent `parent` or NULL) on channel main. */
static enum delta_status release(struct server_store *store, const char *name, const char *parent,
                                 uint64_t number, uint64_t serial_before, struct delta_error *err)
{
    struct server_version version = {.digest = named(name),
                                     .blob = named("blob"),
                                     .bytes = 9,
                                     .channel = "main",
                                     .number = number,
                                     .origin = "published"};
    struct delta_channel channel = {.name = "main",
                                    .serial = serial_before + 1,
                                    .permille = 1000,
                                    .version = version.digest,
                                    .rollout = named("r")};

    if (parent)
        version.parent = named(parent);
    const struct server_release r = {.version = &version,
                                     .channel = &channel,
                                     .document = delta_bytes(name, strlen(name)),
                                     .serial_before = serial_before};
    return server_store_release_version(store, &r, err);
}

static void releases_are_whole_or_not_at_all(void **state)
{
    struct harness_scratch scratch;
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_store *store;
    const struct delta_digest a = named("a"), b = named("b"), c = named("c"), x = named("x");
    struct delta_channel channel;
    struct server_version version;
    struct delta_buf document;
    uint32_t steps;

    (void)state;
    harness_scratch_make(&scratch);
    assert_ok(server_store_open(&store, harness_path(&scratch, "x.db"), true, &err));
    assert_ok(release(store, "a", NULL, 1, 0, &err));
    assert_ok(release(store, "b", "a", 2, 1, &err));
    assert_ok(release(store, "c", "b", 3, 2, &err));
    /* someone else was faster: nothing of it stays */
    assert_status(release(store, "x", "c", 4, 2, &err), DELTA_BUSY);
    assert_status(server_store_version(store, &x, &version, &err), DELTA_BASE_UNKNOWN);
    assert_ok(server_store_channel(store, "main", &channel, &document, &err));
    assert_int_equal(channel.serial, 3);
    assert_memory_equal(document.data, "c", 1);
    assert_true(delta_digest_equal(&channel.version, &c));
    assert_int_equal(channel.model_bytes, 9);
    delta_buf_release(&document);
    assert_ok(server_store_distance(store, &c, &a, &steps, &err));
    assert_int_equal(steps, 2);
    assert_ok(server_store_distance(store, &b, &b, &steps, &err));
    assert_int_equal(steps, 0);
    assert_status(server_store_distance(store, &a, &c, &steps, &err), DELTA_NOT_FOUND);
    assert_status(server_store_distance(store, &c, &x, &steps, &err), DELTA_NOT_FOUND);
    assert_status(server_store_channel(store, "else", NULL, NULL, &err), DELTA_NOT_FOUND);
    server_store_close(store);
    harness_scratch_remove(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(store_survives_a_reopen),
        cmocka_unit_test(tokens_are_counted_and_names_are_kept),
        cmocka_unit_test(releases_are_whole_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
