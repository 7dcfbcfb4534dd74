#include "server_fleet.h"

#include <mbedtls/x509_csr.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ca.h"
#include "delta/file.h"
#include "delta/log.h"
#include "server/server_cli.h"

static void discard(void *context, enum delta_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

void fleet_make(struct fleet *fleet)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_version version;
    const char *model;

    memset(fleet, 0, sizeof *fleet);
    if (!getenv("FLEET_VERBOSE"))
        delta_log_set(DELTA_LOG_ERROR, discard, NULL);
    harness_scratch_make(&fleet->scratch);
    snprintf(fleet->dir, sizeof fleet->dir, "%s/coordinator", fleet->scratch.path);
    char *argv[] = {"frostline-server", "init", "--dir", fleet->dir, "--name", "127.0.0.1", NULL};
    assert_int_equal(server_cli_main(6, argv), 0);
    assert_ok(server_keeper_open(&fleet->keeper, fleet->dir, NULL, &err));
    fixture_model(&fleet->base);
    model = harness_path(&fleet->scratch, "base.flm");
    assert_ok(delta_model_save(&fleet->base, model, &err));
    assert_ok(server_publish(&fleet->keeper, "main", model, NULL, 1000, &version, &err));
    fleet->version = version.digest;
}

void fleet_remove(struct fleet *fleet)
{
    fleet_stop(fleet);
    server_keeper_release(&fleet->keeper);
    delta_model_release(&fleet->base);
    harness_scratch_remove(&fleet->scratch);
}

static void *run_server(void *context)
{
    struct delta_error err = DELTA_ERROR_INIT;

    if (server_run(context, &err))
        fprintf(stderr, "server_run: %s\n", err.text);
    return NULL;
}

void fleet_start(struct fleet *fleet, const struct server_options *options)
{
    struct server_options o = options ? *options : (struct server_options){.port = 0};
    struct delta_error err = DELTA_ERROR_INIT;
    pthread_t *thread = calloc(1, sizeof *thread);

    o.dir = fleet->dir;
    o.host = "127.0.0.1";
    assert_ok(server_new(&fleet->server, &o, &err));
    fleet->port = server_port(fleet->server);
    assert_int_equal(pthread_create(thread, NULL, run_server, fleet->server), 0);
    fleet->thread = thread;
}

void fleet_stop(struct fleet *fleet)
{
    if (!fleet->server)
        return;
    server_stop(fleet->server);
    pthread_join(*(pthread_t *)fleet->thread, NULL);
    free(fleet->thread);
    server_free(fleet->server);
    fleet->server = NULL;
}

void fleet_token(struct fleet *fleet, const char *token, uint64_t uses)
{
    const struct delta_digest digest = delta_sha256(delta_bytes(token, strlen(token)));
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(server_store_token_add(fleet->keeper.store, &digest, "main", uses,
                                     delta_clock_wall_ms(&fleet->keeper.clock) + 3600000, &err));
}

void device_make(struct device *device, const struct fleet *fleet, const char *name)
{
    struct delta_error err = DELTA_ERROR_INIT;

    memset(device, 0, sizeof *device);
    snprintf(device->name, sizeof device->name, "%s", name);
    snprintf(device->key_path, sizeof device->key_path, "%s/%s.key", fleet->scratch.path, name);
    assert_ok(delta_key_generate(&device->key, &err));
    assert_ok(delta_key_replace(&device->key, device->key_path, &err)); /* a name made anew */
}

void device_release(struct device *device)
{
    delta_key_release(&device->key);
}

void device_enrol_quietly(struct device *device, struct fleet *fleet)
{
    const int64_t now = delta_clock_wall_ms(&fleet->keeper.clock);
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_device row = {.key_len = 0};
    struct server_certificate crt;
    struct delta_public_key key;
    struct server_ca *ca;
    char token[80];

    snprintf(token, sizeof token, "quiet-%s", device->name);
    fleet_token(fleet, token, 1);
    const struct delta_digest digest = delta_sha256(delta_bytes(token, strlen(token)));
    assert_ok(delta_key_public(&device->key, &key, &err));
    snprintf(row.name, sizeof row.name, "%s", device->name);
    row.key_id = key.id;
    row.key_len = key.len;
    memcpy(row.key_der, key.der, key.len);
    assert_ok(server_store_enrol(fleet->keeper.store, &row, &digest, false, now, &err));
    assert_ok(server_ca_load(&ca, fleet->keeper.places.ca_pem, fleet->keeper.places.ca_key, &err));
    assert_ok(server_ca_issue_client(ca, &key, device->name, "device", now, 0, &crt, &err));
    snprintf(device->crt_path, sizeof device->crt_path, "%s/%s.pem", fleet->scratch.path,
             device->name);
    assert_ok(server_certificate_save(&crt, device->crt_path, &err));
    server_ca_free(ca);
}

/* ---- contributions ---- */

static void change(struct delta_model *model, const struct learned *learned)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_tensor *layer = delta_model_find(model, "layer.weight");
    const size_t old = model->class_count;
    struct delta_tensor *weight, *bias;
    struct delta_class_id ids[4];
    size_t count = 0;

    for (size_t i = 0; i < layer->count && learned->slice != 0; i++)
        if (!delta_tensor_is_frozen(layer, i))
            layer->data[i] += learned->slice;
    if (learned->touch_frozen)
        for (size_t i = 0; i < layer->count; i++)
            if (delta_tensor_is_frozen(layer, i)) {
                layer->data[i] += 1;
                break;
            }
    if (learned->forget) {
        assert_ok(delta_model_head(model, &weight, &bias, &err));
        weight->count -= weight->shape[1];
        weight->shape[0] = bias->shape[0] = bias->count = --model->class_count;
        return;
    }
    for (; count < 4 && learned->classes[count]; count++)
        assert_ok(delta_class_id_make(&ids[count], learned->classes[count], &err));
    if (!count)
        return;
    assert_ok(delta_model_grow_head(model, ids, count, &err));
    assert_ok(delta_model_head(model, &weight, &bias, &err));
    for (size_t i = old * 4; i < weight->count; i++)
        weight->data[i] = learned->row;
    for (size_t i = old; i < bias->count; i++)
        bias->data[i] = -learned->row;
}

void device_learn(const struct device *device, const struct delta_model *base,
                  const struct learned *learned, struct delta_buf *out)
{
    struct delta_provenance provenance = {
        .method = "frostline", .software = "frostline test", .new_samples = learned->new_samples};
    const struct delta_options options = {.provenance = &provenance, .zstd_level = 3};
    struct delta_model target;
    struct delta_error err = DELTA_ERROR_INIT;

    snprintf(provenance.device, sizeof provenance.device, "%s",
             learned->provenance ? learned->provenance : device->name);
    assert_ok(delta_model_copy(&target, base, &err));
    change(&target, learned);
    assert_ok(delta_model_digest(base, &target.parent, &err));
    assert_ok(delta_diff(base, &target, &options, out, &err));
    assert_ok(delta_container_sign(out, &device->key, &err));
    delta_model_release(&target);
}

static int random_bytes(void *context, unsigned char *out, size_t len)
{
    (void)context;
    return delta_random(out, len, NULL) ? -1 : 0;
}

void device_request(const struct device *device, const char *name, bool spoiled, uint8_t *out,
                    size_t room, size_t *len)
{
    mbedtls_x509write_csr csr;
    char subject[160];

    snprintf(subject, sizeof subject, "CN=%s", name);
    mbedtls_x509write_csr_init(&csr);
    mbedtls_x509write_csr_set_md_alg(&csr, MBEDTLS_MD_SHA256);
    mbedtls_x509write_csr_set_key(&csr, device->key.context);
    assert_int_equal(mbedtls_x509write_csr_set_subject_name(&csr, subject), 0);
    int rc = mbedtls_x509write_csr_der(&csr, out, room, random_bytes, NULL);
    assert_true(rc > 0);
    *len = (size_t)rc;
    memmove(out, out + room - *len, *len);
    if (spoiled)
        out[*len - 1] ^= 1;
    mbedtls_x509write_csr_free(&csr);
}

void fleet_await(struct fleet *fleet, const struct delta_digest *digest,
                 struct server_contribution *out)
{
    const struct timespec pause = {0, 20000000};
    struct delta_error err = DELTA_ERROR_INIT;

    for (int i = 0; i < 500; i++) {
        assert_ok(server_store_contribution(fleet->keeper.store, digest, out, &err));
        if (out->state != SERVER_CONTRIBUTION_PENDING)
            return;
        nanosleep(&pause, NULL);
    }
    fail_msg("the contribution is still pending after 10 s");
}
