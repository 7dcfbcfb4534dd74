#include "fake_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"

struct device_jobs device_jobs;

/* ---- jobs ---- */

static enum delta_status run_here(agent_job *job, void *context, const char *result_path,
                                  const struct agent_limits *limits, const struct agent_env *env,
                                  json_t **result, struct delta_error *err)
{
    (void)result_path;
    (void)limits;
    (void)env;
    *result = json_object();
    return job(context, *result, err);
}

static void grow(struct delta_model *model, const struct delta_class_id *id)
{
    struct delta_error err;
    struct delta_tensor *weight, *bias;

    assert_ok(delta_model_grow_head(model, id, 1, &err));
    assert_ok(delta_model_head(model, &weight, &bias, &err));
    weight->data[weight->count - 1] = 0.5f + (float)id->text[0];
}

static enum delta_status fake_learn(void *context, json_t *result, struct delta_error *unused)
{
    const struct agent_learn_order *order = context;
    struct delta_error err;
    struct delta_model base, local, offer;
    struct delta_provenance from = {.method = "fake"};
    const struct delta_options options = {.provenance = &from, .zstd_level = 1};
    struct delta_buf file;
    json_t *rows = json_array();
    size_t good = 0, offered = 0;

    device_jobs.learned++;
    device_jobs.last_classes[0] = '\0';
    assert_ok(delta_model_load(&base, order->base_path, NULL, &err));
    assert_ok(delta_model_copy(&local, &base, &err));
    assert_ok(delta_model_copy(&offer, &base, &err));
    for (size_t i = 0; i < order->count; i++) {
        const struct agent_job_class *class = &order->classes[i];
        const bool bad = device_jobs.learn_status == DELTA_REJECTED ||
                         strcmp(class->id.text, device_jobs.refuse_class) == 0;
        strncat(device_jobs.last_classes, class->id.text, 60);
        strncat(device_jobs.last_classes, class->contribute ? "+ " : " ", 3);
        json_array_append_new(rows, json_pack("{s:s, s:i, s:s}", "id", class->id.text, "status",
                                              bad ? DELTA_REJECTED : 0, "text",
                                              bad ? "recall is 3 %" : ""));
        if (bad)
            continue;
        grow(&local, &class->id);
        good++;
        if (class->contribute) {
            grow(&offer, &class->id);
            offered++;
        }
    }
    json_object_set_new(result, "classes", rows);
    snprintf(from.device, sizeof from.device, "%s", order->device);
    if (good && !device_jobs.learn_status) {
        assert_ok(delta_model_save(&local, order->local_path, &err));
        if (offered) {
            assert_ok(delta_diff(&base, &offer, &options, &file, &err));
            assert_ok(delta_file_write(order->offer_path, delta_buf_bytes(&file), 0600, &err));
            delta_buf_release(&file);
        }
    }
    json_object_set_new(result, "offered", json_boolean(offered));
    delta_model_release(&base);
    delta_model_release(&local);
    delta_model_release(&offer);
    if (device_jobs.learn_status)
        return delta_fail(unused, device_jobs.learn_status, "told to fail");
    return good ? DELTA_OK : delta_fail(unused, DELTA_REJECTED, "guard said no");
}

static enum delta_status fake_check(void *context, json_t *result, struct delta_error *err)
{
    const struct agent_check_order *order = context;
    struct delta_model model;
    enum delta_status st = delta_model_load(&model, order->new_path, NULL, err);

    if (st)
        return st;
    delta_model_release(&model);
    device_jobs.checked++;
    json_object_set_new(result, "tested", json_integer(40));
    json_object_set_new(result, "old_before", json_real(0.75));
    json_object_set_new(result, "old_after", json_real(0.5));
    return device_jobs.check_status
               ? delta_fail(err, device_jobs.check_status, "accuracy falls from 75 %% to 50 %%")
               : DELTA_OK;
}

static enum delta_status fake_adopt(void *context, json_t *result, struct delta_error *err)
{
    const struct agent_adopt_order *order = context;

    (void)result;
    (void)err;
    device_jobs.adopted += (unsigned)order->count;
    return DELTA_OK;
}

/* ---- life ---- */

static void enrol(struct device *d)
{
    static const char names[] = "{\"schema\": 1, \"device\": \"cam-1\", \"channel\": \"main\","
                                " \"server\": \"https://127.0.0.1:1\"}";
    struct delta_error err;
    struct delta_public_key key;
    struct delta_key own;
    char path[400];

    assert_ok(agent_identity_key(&own, d->dir, &err));
    delta_key_release(&own);
    snprintf(path, sizeof path, "%s/release-keys", d->dir);
    assert_ok(delta_dir_make(path, 0700, &err));
    snprintf(path, sizeof path, "%s/release-keys/key.der", d->dir);
    assert_ok(delta_key_public(&d->release, &key, &err));
    assert_ok(delta_file_write(path, delta_bytes(key.der, key.len), 0644, &err));
    snprintf(path, sizeof path, "%s/device.json", d->dir);
    assert_ok(delta_file_write(path, delta_bytes(names, strlen(names)), 0644, &err));
}

void device_init(struct device *d)
{
    struct delta_error err;

    memset(d, 0, sizeof *d);
    memset(&device_jobs, 0, sizeof device_jobs);
    harness_scratch_make(&d->scratch);
    snprintf(d->dir, sizeof d->dir, "%s/device", d->scratch.path);
    fake_coord_init(&d->fake);
    d->env = fake_coord_env(&d->fake);
    d->options = agent_options_defaults();
    d->options.dir = d->dir;
    d->options.once = true;
    d->options.poll_s = 60;
    assert_ok(delta_key_generate(&d->release, &err));
    assert_ok(delta_key_generate(&d->stranger, &err));
    enrol(d);
}

void device_release(struct device *d)
{
    delta_key_release(&d->release);
    delta_key_release(&d->stranger);
    delta_buf_release(&d->last_model);
    fake_coord_release(&d->fake);
    harness_scratch_remove(&d->scratch);
}

/* ---- publishing ---- */

void device_model(struct delta_model *model, const char *classes, float value)
{
    struct delta_error err;
    struct delta_class_id id;
    struct delta_tensor *tensor;
    char list[256], *rest = list, *word;
    uint64_t count = 0;

    *model = (struct delta_model)DELTA_MODEL_INIT;
    snprintf(model->arch.name, sizeof model->arch.name, "resnet18");
    snprintf(model->arch.stem, sizeof model->arch.stem, "cifar");
    model->arch.width = 16;
    model->arch.channels = 3;
    model->arch.height = model->arch.image_width = 32;
    for (int i = 0; i < 3; i++)
        model->arch.std[i] = 1;
    snprintf(list, sizeof list, "%s", classes);
    while ((word = strtok_r(rest, " ", &rest))) {
        assert_ok(delta_class_id_make(&id, word, &err));
        assert_ok(delta_model_add_class(model, &id, &err));
        count++;
    }
    assert_ok(
        delta_model_add_tensor(model, "fc.weight", 2, (const uint64_t[]){count, 2}, &tensor, &err));
    tensor->data[0] = value;
    assert_ok(delta_model_add_tensor(model, "fc.bias", 1, &count, NULL, &err));
}

void device_seal(struct device *d, const struct delta_key *key)
{
    struct delta_error err;

    delta_buf_release(&d->fake.document);
    assert_ok(delta_channel_seal(&d->channel, key, &d->fake.document, &err));
}

static void add_edge(struct device *d, const struct delta_model *target, unsigned how)
{
    struct delta_error err;
    struct delta_model old, lie;
    struct delta_buf file;
    struct delta_channel_edge *edge = &d->channel.edges[0];
    const struct delta_options options = {.zstd_level = 1};

    assert_ok(delta_model_decode(&old, delta_buf_bytes(&d->last_model), &edge->from, &err));
    if (how & DEVICE_LYING_DELTA) {
        assert_ok(delta_model_copy(&lie, target, &err));
        lie.tensors[0].data[0] += 1;
        assert_ok(delta_diff(&old, &lie, &options, &file, &err));
        delta_model_release(&lie);
    } else {
        assert_ok(delta_diff(&old, target, &options, &file, &err));
    }
    assert_ok(
        delta_container_sign(&file, how & DEVICE_BAD_DELTA ? &d->stranger : &d->release, &err));
    fake_coord_add_blob(&d->fake, delta_buf_bytes(&file), &edge->blob);
    edge->bytes = file.len;
    d->channel.edge_count = 1;
    delta_buf_release(&file);
    delta_model_release(&old);
}

struct delta_digest device_publish(struct device *d, const char *classes, float value, unsigned how)
{
    struct delta_error err;
    struct delta_model model;
    struct delta_buf file;
    const uint64_t serial = d->channel.serial;

    device_model(&model, classes, value);
    d->channel = (struct delta_channel){.name = "main",
                                        .serial = serial + 1,
                                        .issued_ms = d->fake.now_ms,
                                        .expires_ms = d->fake.now_ms + 86400000,
                                        .poll_s = 60,
                                        .permille = 1000,
                                        .rollout = {{1}}};
    assert_ok(delta_model_digest(&model, &d->channel.version, &err));
    if (d->last_model.len && !(how & DEVICE_NO_EDGE))
        add_edge(d, &model, how);
    assert_ok(delta_model_encode(&model, &file, &err));
    delta_buf_release(&d->last_model);
    delta_buf_init(&d->last_model, file.len + 1);
    assert_ok(delta_buf_append(&d->last_model, file.data, file.len, &err));
    assert_ok(
        delta_container_sign(&file, how & DEVICE_BAD_MODEL ? &d->stranger : &d->release, &err));
    fake_coord_add_blob(&d->fake, delta_buf_bytes(&file), &d->channel.model_blob);
    d->channel.model_bytes = file.len;
    delta_buf_release(&file);
    delta_model_release(&model);
    device_seal(d, how & DEVICE_BAD_DOCUMENT ? &d->stranger : &d->release);
    return d->channel.version;
}

/* ---- running ---- */

struct agent *device_open(struct device *d)
{
    const struct agent_jobs jobs = {run_here, fake_learn, fake_check, fake_adopt};
    struct agent *agent = calloc(1, sizeof *agent);
    struct delta_error err;

    assert_ok(agent_core_init(agent, &d->options, &d->env, &jobs, &err));
    agent_coord_init(&agent->coord, fake_coord_transport(&d->fake), &agent->env);
    return agent;
}

enum delta_status device_run(struct device *d, struct delta_error *err)
{
    struct agent *agent = device_open(d);
    const enum delta_status st = agent_core_loop(agent, err);

    agent_core_release(agent);
    free(agent);
    return st;
}

void device_drop(struct device *d, const char *folder, int images)
{
    struct delta_error err;
    char path[600];

    snprintf(path, sizeof path, "%s/inbox/%s", d->dir, folder);
    assert_ok(delta_dir_make(path, 0755, &err));
    for (int i = 0; i < images; i++) {
        snprintf(path, sizeof path, "%s/inbox/%s/%d.png", d->dir, folder, i);
        assert_ok(delta_file_write(path, delta_bytes(path, strlen(path)), 0644, &err));
    }
}
