/* Admission: every reason to refuse, and that the order of arrival does not matter afterwards. */
#include "server_fleet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "intake.h"
#include "places.h"

struct world {
    struct fleet fleet;
    struct device device, other;
};

static void make(struct world *w)
{
    fleet_make(&w->fleet);
    device_make(&w->device, &w->fleet, "cam-1");
    device_make(&w->other, &w->fleet, "cam-2");
    device_enrol_quietly(&w->device, &w->fleet);
    device_enrol_quietly(&w->other, &w->fleet);
}

static void drop(struct world *w)
{
    device_release(&w->device);
    device_release(&w->other);
    fleet_remove(&w->fleet);
}

static enum delta_status check(struct world *w, const struct delta_buf *file, uint32_t max_pending,
                               bool *blame, struct delta_error *out)
{
    struct delta_error err = DELTA_ERROR_INIT;
    const char *path = harness_path(&w->fleet.scratch, "x.part");
    struct server_contribution c = {.bytes = 0};
    struct server_device row;

    assert_ok(delta_file_write(path, delta_buf_bytes(file), 0600, &err));
    assert_ok(server_store_device(w->fleet.keeper.store, w->device.name, &row, &err));
    return server_intake_check(&w->fleet.keeper, &row, path, max_pending, &c, blame, out);
}

static const struct learned fox = {.classes = {"fox"}, .row = 1, .slice = 0.25f, .new_samples = 9};

static void flip(struct delta_buf *file, size_t at)
{
    file->data[at] ^= 1;
}

static void intake_admits_what_is_right(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    struct world w;
    bool blame;

    (void)state;
    make(&w);
    device_learn(&w.device, &w.fleet.base, &fox, &file);
    assert_ok(check(&w, &file, 16, &blame, &err));
    assert_false(blame);
    delta_buf_release(&file);
    drop(&w);
}

static void intake_refuses_wrong_bytes(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    struct world w;
    bool blame;

    (void)state;
    make(&w);
    device_learn(&w.device, &w.fleet.base, &fox, &file);
    /* one flipped bit anywhere is refused, and never blamed on the device */
    for (size_t at = 0; at < file.len; at += 7) {
        flip(&file, at);
        assert_int_not_equal(check(&w, &file, 16, &blame, &err), DELTA_OK);
        if (delta_status_class(err.status) != DELTA_CLASS_INPUT &&
            delta_status_class(err.status) != DELTA_CLASS_TRUST)
            fail_msg("byte %zu: %s: %s", at, delta_status_name(err.status), err.text);
        flip(&file, at);
    }
    flip(&file, file.len - 1);
    assert_status(check(&w, &file, 16, &blame, &err), DELTA_DIGEST);
    flip(&file, file.len - 1);
    for (size_t len = file.len - 1; len > 64; len /= 2) {
        struct delta_buf part = file;
        part.len = len;
        assert_status(check(&w, &part, 16, &blame, &err), DELTA_TRUNCATED);
    }
    delta_buf_release(&file);
    drop(&w);
}

static void intake_refuses_wrong_signers(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct learned lie = fox;
    struct delta_buf file;
    struct world w;
    bool blame;

    (void)state;
    make(&w);
    device_learn(&w.other, &w.fleet.base, &fox, &file); /* another device's contribution */
    assert_status(check(&w, &file, 16, &blame, &err), DELTA_UNTRUSTED);
    assert_false(blame);
    delta_buf_release(&file);
    lie.provenance = "cam-2"; /* own key, another's name */
    device_learn(&w.device, &w.fleet.base, &lie, &file);
    assert_status(check(&w, &file, 16, &blame, &err), DELTA_MISMATCH);
    assert_non_null(strstr(err.text, "cam-2"));
    delta_buf_release(&file);
    drop(&w);
}

static void intake_refuses_unknown_bases_and_frozen_elements(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct learned moved = fox;
    struct delta_model stranger;
    struct delta_buf file;
    struct world w;
    bool blame;

    (void)state;
    make(&w);
    assert_ok(delta_model_copy(&stranger, &w.fleet.base, &err));
    stranger.tensors[0].data[0] += 1;
    device_learn(&w.device, &stranger, &fox, &file);
    assert_status(check(&w, &file, 16, &blame, &err), DELTA_BASE_UNKNOWN);
    assert_false(blame); /* it may be published yet */
    delta_buf_release(&file);
    delta_model_release(&stranger);
    moved.touch_frozen = true;
    device_learn(&w.device, &w.fleet.base, &moved, &file);
    assert_status(check(&w, &file, 16, &blame, &err), DELTA_MISMATCH);
    assert_non_null(strstr(err.text, "frozen"));
    assert_true(blame);
    delta_buf_release(&file);
    moved = (struct learned){.new_samples = 9, .forget = true};
    device_learn(&w.device, &w.fleet.base, &moved, &file);
    assert_status(check(&w, &file, 16, &blame, &err), DELTA_MISMATCH);
    assert_non_null(strstr(err.text, "take 1 classes from the fleet"));
    assert_true(blame);
    delta_buf_release(&file);
    drop(&w);
}

static void intake_has_a_quota(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_contribution c = {.device = "cam-1", .channel = "main", .bytes = 1};
    struct delta_buf file;
    struct world w;
    bool blame;

    (void)state;
    make(&w);
    c.base = w.fleet.version;
    device_learn(&w.device, &w.fleet.base, &fox, &file);
    for (uint8_t i = 1; i <= 2; i++) {
        c.digest.bytes[0] = i;
        assert_ok(server_store_contribution_add(w.fleet.keeper.store, &c, &err));
    }
    assert_ok(check(&w, &file, 3, &blame, &err));
    assert_status(check(&w, &file, 2, &blame, &err), DELTA_LIMIT);
    assert_false(blame);
    delta_buf_release(&file);
    drop(&w);
}

/* Puts a contribution in place without the network. */
static void admit(struct fleet *fleet, const struct device *device, const struct delta_model *base,
                  const struct learned *learned)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_contribution c = {.bytes = 0};
    struct server_device row;
    struct delta_buf file;
    const char *path = harness_path(&fleet->scratch, "y.part");
    bool blame;

    device_learn(device, base, learned, &file);
    assert_ok(delta_file_write(path, delta_buf_bytes(&file), 0600, &err));
    assert_ok(server_store_device(fleet->keeper.store, device->name, &row, &err));
    assert_ok(server_intake_check(&fleet->keeper, &row, path, 16, &c, &blame, &err));
    assert_ok(server_blob_write(&fleet->keeper.places, delta_buf_bytes(&file), &c.digest, &err));
    assert_ok(server_store_contribution_add(fleet->keeper.store, &c, &err));
    delta_buf_release(&file);
}

static const struct learned offers[3] = {
    {.classes = {"fox"}, .row = 1, .slice = 0.1f, .new_samples = 9},
    {.classes = {"elk"}, .row = 2, .slice = 0.37f, .new_samples = 5},
    {.classes = {"fox", "owl"}, .row = 3, .slice = -0.11f, .new_samples = 4}};

/* The same contributions in three orders of arrival give the same version, bit for bit. (The
 * files differ from run to run, ECDSA being random; hence one set of files, three stores.) */
static void merge_does_not_depend_on_arrival(void **state)
{
    static const size_t orders[3][3] = {{0, 1, 2}, {2, 1, 0}, {1, 2, 0}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf files[3];
    struct delta_digest digests[3];
    struct world w;

    (void)state;
    make(&w);
    for (size_t i = 0; i < 3; i++)
        device_learn(i == 1 ? &w.other : &w.device, &w.fleet.base, &offers[i], &files[i]);
    for (size_t o = 0; o < 3; o++) {
        struct world other;
        struct server_merge_result result;
        make(&other);
        for (size_t i = 0; i < 3; i++) {
            const size_t at = orders[o][i];
            struct server_contribution c = {.channel = "main",
                                            .base = other.fleet.version,
                                            .new_samples = offers[at].new_samples,
                                            .received_ms = (int64_t)i};
            snprintf(c.device, sizeof c.device, "%s", at == 1 ? "cam-2" : "cam-1");
            assert_ok(server_blob_write(&other.fleet.keeper.places, delta_buf_bytes(&files[at]),
                                        &c.digest, &err));
            assert_ok(server_store_contribution_add(other.fleet.keeper.store, &c, &err));
        }
        assert_ok(server_merge_channel(&other.fleet.keeper, "main", 0, &result, &err));
        assert_int_equal(result.merged, 3);
        assert_true(result.released);
        digests[o] = result.version.digest;
        drop(&other);
    }
    assert_true(delta_digest_equal(&digests[0], &digests[1]));
    assert_true(delta_digest_equal(&digests[0], &digests[2]));
    for (size_t i = 0; i < 3; i++)
        delta_buf_release(&files[i]);
    drop(&w);
}

/* Two merges; the second takes a contribution with a stale base; every edge leads to the newest. */
static void merges_follow_each_other_and_edges_lead_there(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_merge_result one, two;
    struct delta_channel channel;
    struct delta_keyring ring = {.count = 0};
    struct delta_trusted_model target;
    struct delta_buf document;
    struct world w;

    (void)state;
    make(&w);
    admit(&w.fleet, &w.device, &w.fleet.base, &offers[0]);
    assert_ok(server_merge_channel(&w.fleet.keeper, "main", 0, &one, &err));
    admit(&w.fleet, &w.other, &w.fleet.base, &offers[1]);
    assert_ok(server_merge_channel(&w.fleet.keeper, "main", 0, &two, &err));
    assert_int_equal(two.merged, 1);
    assert_int_equal(two.version.number, 3);
    assert_ok(server_merge_channel(&w.fleet.keeper, "main", 0, &one, &err));
    assert_int_equal(one.merged + one.rejected, 0);
    assert_ok(delta_keyring_add(&ring, &w.fleet.keeper.release_public, &err));
    assert_ok(server_store_channel(w.fleet.keeper.store, "main", NULL, &document, &err));
    assert_ok(delta_channel_open(&channel, delta_buf_bytes(&document), &ring, &err));
    assert_int_equal(channel.serial, 3);
    assert_int_equal(channel.edge_count, 2);
    for (size_t i = 0; i < 2; i++) {
        struct delta_trusted_model base;
        struct server_version version;
        struct delta_buf model, edge;
        char path[SERVER_PATH_MAX];
        assert_ok(
            server_store_version(w.fleet.keeper.store, &channel.edges[i].from, &version, &err));
        server_places_blob(&w.fleet.keeper.places, &version.blob, path);
        assert_ok(delta_file_read(path, 1 << 20, &model, &err));
        assert_ok(delta_trust_model(&base, delta_buf_bytes(&model), &ring, &err));
        server_places_blob(&w.fleet.keeper.places, &channel.edges[i].blob, path);
        assert_ok(delta_file_read(path, 1 << 20, &edge, &err));
        assert_int_equal(edge.len, channel.edges[i].bytes);
        assert_ok(delta_trust_delta(&target, &base, delta_buf_bytes(&edge), &ring, &err));
        assert_true(delta_digest_equal(&target.version, &two.version.digest));
        assert_true(delta_model_class_index(&target.model, "fox") >= 0);
        assert_true(delta_model_class_index(&target.model, "elk") >= 0);
        delta_trusted_model_release(&target);
        delta_trusted_model_release(&base);
        delta_buf_release(&model);
        delta_buf_release(&edge);
    }
    delta_buf_release(&document);
    drop(&w);
}

static void merge_rejects_the_revoked_and_the_left_behind(void **state)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_merge_result result;
    struct server_version version;
    struct server_contribution c[2];
    size_t count = 2;
    struct delta_model fresh;
    const char *path;
    struct world w;

    (void)state;
    make(&w);
    path = harness_path(&w.fleet.scratch, "fresh.flm");
    admit(&w.fleet, &w.device, &w.fleet.base, &offers[0]);
    admit(&w.fleet, &w.other, &w.fleet.base, &offers[1]);
    assert_ok(server_store_revoke(w.fleet.keeper.store, "cam-1", 1, &err));
    /* a retrained base that descends from nothing */
    assert_ok(delta_model_copy(&fresh, &w.fleet.base, &err));
    fresh.tensors[0].data[0] += 1;
    assert_ok(delta_model_save(&fresh, path, &err));
    assert_ok(server_publish(&w.fleet.keeper, "main", path, NULL, 0, &version, &err));
    assert_int_equal(version.number, 2);
    assert_status(server_publish(&w.fleet.keeper, "main", path, NULL, 0, &version, &err),
                  DELTA_EXISTS);
    assert_ok(server_store_pending_list(w.fleet.keeper.store, "main", c, &count, &err));
    assert_int_equal(count, 2);
    assert_ok(server_merge_channel(&w.fleet.keeper, "main", 0, &result, &err));
    assert_int_equal(result.rejected, 2);
    assert_false(result.released);
    for (size_t i = 0; i < 2; i++) {
        assert_ok(server_store_contribution(w.fleet.keeper.store, &c[i].digest, &c[i], &err));
        assert_int_equal(c[i].state, SERVER_CONTRIBUTION_REJECTED);
        assert_non_null(
            strstr(c[i].reason, strcmp(c[i].device, "cam-1") == 0 ? "revoked" : "learn again"));
    }
    delta_model_release(&fresh);
    drop(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(intake_admits_what_is_right),
        cmocka_unit_test(intake_refuses_wrong_bytes),
        cmocka_unit_test(intake_refuses_wrong_signers),
        cmocka_unit_test(intake_refuses_unknown_bases_and_frozen_elements),
        cmocka_unit_test(intake_has_a_quota),
        cmocka_unit_test(merge_does_not_depend_on_arrival),
        cmocka_unit_test(merges_follow_each_other_and_edges_lead_there),
        cmocka_unit_test(merge_rejects_the_revoked_and_the_left_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
