#include "fake_coord.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/msg.h"
#include "harness.h"

static int64_t now(void *context)
{
    return ((struct fake_coord *)context)->now_ms;
}

static uint32_t random_of(void *context)
{
    return ((struct fake_coord *)context)->random;
}

static bool sleep_of(void *context, int64_t ms)
{
    struct fake_coord *fake = context;

    fake->now_ms += ms;
    fake->slept_ms += ms;
    fake->sleeps++;
    return !fake->stop;
}

static bool stopped(void *context)
{
    return ((struct fake_coord *)context)->stop;
}

struct agent_env fake_coord_env(struct fake_coord *fake)
{
    return (struct agent_env){{now, now, fake}, random_of, sleep_of, stopped, fake};
}

void fake_coord_init(struct fake_coord *fake)
{
    memset(fake, 0, sizeof *fake);
    fake->now_ms = 1700000000000;
    delta_buf_init(&fake->document, DELTA_CHANNEL_MAX_BYTES);
    delta_buf_init(&fake->upload, (size_t)64 << 20);
}

void fake_coord_release(struct fake_coord *fake)
{
    delta_buf_release(&fake->document);
    delta_buf_release(&fake->upload);
    for (size_t i = 0; i < fake->blob_count; i++)
        delta_buf_release(&fake->blobs[i].bytes);
}

void fake_coord_add_blob(struct fake_coord *fake, struct delta_bytes bytes, struct delta_digest *id)
{
    struct fake_blob *blob = &fake->blobs[fake->blob_count++];
    struct delta_error err;

    delta_buf_init(&blob->bytes, bytes.len + 1);
    assert_ok(delta_buf_append(&blob->bytes, bytes.data, bytes.len, &err));
    blob->id = delta_sha256(bytes);
    if (id)
        *id = blob->id;
}

static enum delta_status answer_text(struct agent_response *response, long status,
                                     const char *error, const char *name, struct delta_error *err)
{
    struct delta_msg_out msg = {&response->body, DELTA_OK};

    response->status = status;
    delta_msg_map(&msg, 2);
    delta_msg_str(&msg, "error");
    delta_msg_str(&msg, error);
    delta_msg_str(&msg, "status");
    delta_msg_str(&msg, name);
    return msg.status ? delta_fail(err, msg.status, "fake answer") : DELTA_OK;
}

static enum delta_status serve_document(struct fake_coord *fake,
                                        const struct agent_request *request,
                                        struct agent_response *response, struct delta_error *err)
{
    const struct delta_digest digest = delta_sha256(delta_buf_bytes(&fake->document));
    char hex[DELTA_DIGEST_HEX];

    fake->polls++;
    if (fake->document.len == 0)
        return answer_text(response, 404, "no such channel", "NOT_FOUND", err);
    delta_digest_hex(hex, &digest);
    snprintf(response->etag, sizeof response->etag, "\"%s\"", hex);
    response->status = 200;
    if (request->if_none_match && strcmp(request->if_none_match, response->etag) == 0)
        response->status = 304;
    else
        return delta_buf_append(&response->body, fake->document.data, fake->document.len, err);
    return DELTA_OK;
}

static enum delta_status serve_blob(struct fake_coord *fake, const struct agent_request *request,
                                    struct agent_response *response, struct delta_error *err)
{
    struct delta_digest id;

    fake->blob_gets++;
    assert_true(delta_digest_parse(&id, request->path + strlen("/v1/blob/")));
    for (size_t i = 0; i < fake->blob_count; i++) {
        struct delta_bytes bytes = delta_buf_bytes(&fake->blobs[i].bytes);
        const uint64_t from = fake->no_ranges ? 0 : request->range_from;
        if (!delta_digest_equal(&fake->blobs[i].id, &id))
            continue;
        response->status = from ? 206 : 200;
        if (from)
            response->range_from = (int64_t)from;
        uint64_t len = bytes.len - from;
        const bool breaks = fake->break_after && fake->break_after < len;
        if (breaks)
            len = fake->break_after;
        for (uint64_t done = 0; done < len;) { /* in pieces, as a network would */
            uint8_t piece[1000];
            const size_t n = len - done < sizeof piece ? (size_t)(len - done) : sizeof piece;
            memcpy(piece, bytes.data + from + done, n);
            if (fake->flip)
                piece[0] ^= 1;
            const enum delta_status st =
                request->sink(request->sink_context, response->status, delta_bytes(piece, n), err);
            if (st)
                return st;
            done += n;
        }
        if (breaks) {
            fake->break_after = 0;
            return delta_fail(err, DELTA_CONNECT, "fake connection broke");
        }
        return DELTA_OK;
    }
    return answer_text(response, 404, "no such blob", "NOT_FOUND", err);
}

static enum delta_status answer_state(struct fake_coord *fake, struct agent_response *response,
                                      long status, struct delta_error *err)
{
    static const char *const names[] = {"pending", "merged", "rejected"};
    struct delta_msg_out msg = {&response->body, DELTA_OK};

    response->status = status;
    delta_msg_map(&msg, 3);
    delta_msg_str(&msg, "reason");
    delta_msg_str(&msg, fake->verdict == AGENT_VERDICT_REJECTED ? "test says no" : "");
    delta_msg_str(&msg, "state");
    delta_msg_str(&msg, names[fake->verdict]);
    delta_msg_str(&msg, "version");
    delta_msg_bin(&msg, "", 0);
    return msg.status ? delta_fail(err, msg.status, "fake answer") : DELTA_OK;
}

static enum delta_status take_put(struct fake_coord *fake, const struct agent_request *request,
                                  struct agent_response *response, struct delta_error *err)
{
    enum delta_status st;

    fake->puts++;
    if (fake->refuse_code)
        return answer_text(response, fake->refuse_code, "base is unknown", "BASE_UNKNOWN", err);
    if (request->upload_offset != fake->upload.len)
        return answer_text(response, 409, "offset differs", "MISMATCH", err);
    fake->upload_size = request->upload_size;
    st = delta_buf_append(&fake->upload, request->body.data, request->body.len, err);
    if (st)
        return st;
    fake->admitted = fake->upload.len == request->upload_size;
    if (fake->lose_put_answer) {
        fake->lose_put_answer = false;
        return delta_fail(err, DELTA_CONNECT, "fake answer lost");
    }
    if (fake->admitted)
        return answer_state(fake, response, 201, err);
    response->status = 202;
    return DELTA_OK;
}

static enum delta_status serve_contribution(struct fake_coord *fake,
                                            const struct agent_request *request,
                                            struct agent_response *response,
                                            struct delta_error *err)
{
    if (request->method == AGENT_PUT)
        return take_put(fake, request, response, err);
    if (request->method == AGENT_HEAD) {
        response->status = fake->upload.len ? 200 : 404;
        if (fake->upload.len)
            response->upload_offset = (int64_t)fake->upload.len;
        return DELTA_OK;
    }
    if (!fake->admitted)
        return answer_text(response, 404, "no such contribution", "NOT_FOUND", err);
    return answer_state(fake, response, 200, err);
}

static enum delta_status take_report(struct fake_coord *fake, const struct agent_request *request,
                                     struct agent_response *response, struct delta_error *unused)
{
    struct delta_msg msg;
    struct agent_report *report = &fake->last_report;
    struct delta_error err;
    uint64_t tested;

    (void)unused;
    assert_ok(delta_msg_parse(&msg, request->body, &err));
    const struct delta_msg_value root = delta_msg_root(&msg);
    assert_ok(delta_msg_get_str(root, "event", report->event, sizeof report->event, &err));
    assert_ok(delta_msg_get_str(root, "reason", report->reason, sizeof report->reason, &err));
    assert_ok(delta_msg_get_real(root, "old", &report->old, &err));
    assert_ok(delta_msg_get_uint(root, "tested", UINT32_MAX, &tested, &err));
    assert_ok(
        delta_msg_get_fixed(root, "version", report->version.bytes, DELTA_DIGEST_BYTES, &err));
    report->tested = (uint32_t)tested;
    delta_msg_release(&msg);
    fake->reports++;
    response->status = 204;
    return DELTA_OK;
}

static enum delta_status exchange(void *context, const struct agent_request *request,
                                  struct agent_response *response, struct delta_error *err)
{
    static const char *const methods[] = {"GET", "HEAD", "POST", "PUT"};
    struct fake_coord *fake = context;
    const size_t used = strlen(fake->pieces);

    *response = (struct agent_response){0, {0}, "", -1, -1, -1, -1};
    delta_buf_init(&response->body, (size_t)1 << 20);
    fake->exchanges++;
    snprintf(fake->pieces + used, sizeof fake->pieces - used, "%s %llu,", methods[request->method],
             (unsigned long long)(request->method == AGENT_PUT ? request->upload_offset
                                                               : request->range_from));
    if (fake->fail_next) {
        fake->fail_next--;
        return delta_fail(err, fake->fail_status, "fake failure");
    }
    if (fake->busy_next) {
        fake->busy_next--;
        response->retry_after_ms = fake->busy_after_ms;
        return answer_text(response, 503, "busy", "BUSY", err);
    }
    if (strncmp(request->path, "/v1/channel/", 12) == 0)
        return serve_document(fake, request, response, err);
    if (strncmp(request->path, "/v1/blob/", 9) == 0)
        return serve_blob(fake, request, response, err);
    if (strncmp(request->path, "/v1/contribution/", 17) == 0)
        return serve_contribution(fake, request, response, err);
    if (strcmp(request->path, "/v1/report") == 0)
        return take_report(fake, request, response, err);
    return answer_text(response, 404, "no such route", "NOT_FOUND", err);
}

struct agent_transport fake_coord_transport(struct fake_coord *fake)
{
    return (struct agent_transport){fake, exchange};
}
