#include "coord.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta/log.h"
#include "delta/msg.h"

#define MODULE "coord"
#define MAX_ANSWER ((size_t)64 << 10)

void agent_coord_init(struct agent_coord *coord, struct agent_transport transport,
                      const struct agent_env *env)
{
    *coord = (struct agent_coord){transport, env, agent_retry_defaults(), DELTA_OK, -1};
}

/* ---- answers that say no ---- */

/* {"error": text, "status": NAME} of a 4xx or 5xx; a proxy in between may send anything else. */
static void read_refusal(struct agent_coord *coord, const struct agent_response *response,
                         char *text, size_t size)
{
    struct delta_msg msg;
    struct delta_error ignored;
    char name[32];
    const struct delta_bytes body = delta_buf_bytes(&response->body);

    snprintf(text, size, "HTTP status %ld", response->status);
    if (body.len == 0 || delta_msg_parse(&msg, body, &ignored))
        return;
    const struct delta_msg_value root = delta_msg_root(&msg);
    char said[200];
    if (!delta_msg_get_str(root, "error", said, sizeof said, &ignored))
        snprintf(text, size, "%s", said);
    if (!delta_msg_get_str(root, "status", name, sizeof name, &ignored))
        for (int i = 1; i < 64; i++)
            if (strcmp(delta_status_name(delta_status_from(i)), name) == 0)
                coord->peer_status = delta_status_from(i);
    delta_msg_release(&msg);
    for (char *p = text; *p; p++) /* a peer's words go to a terminal */
        if ((unsigned char)*p < 0x20 || (unsigned char)*p == 0x7f)
            *p = '?';
}

static enum delta_status judge(struct agent_coord *coord, const char *what,
                               const struct agent_response *response, struct delta_error *err)
{
    const long code = response->status;
    char text[256];

    coord->peer_status = DELTA_OK;
    coord->retry_after_ms = response->retry_after_ms;
    if ((code >= 200 && code < 300) || code == 304)
        return DELTA_OK;
    read_refusal(coord, response, text, sizeof text);
    if (code == 408)
        return delta_fail(err, DELTA_TIMEOUT, "%s: coordinator: %s", what, text);
    if (code == 429 || code >= 500)
        return delta_fail(err, DELTA_BUSY, "%s: coordinator is busy (%ld): %s", what, code, text);
    if (code == 404)
        return delta_fail(err, DELTA_NOT_FOUND, "%s: coordinator: %s", what, text);
    if (code >= 300 && code < 400)
        return delta_fail(err, DELTA_REFUSED,
                          "%s: coordinator answers with a redirect (%ld), which is not followed; "
                          "enrol with its real address",
                          what, code);
    if (code == 401 || code == 403)
        return delta_fail(err, DELTA_REFUSED, "%s: coordinator refuses this device: %s", what,
                          text);
    if (coord->peer_status)
        return delta_fail(err, DELTA_REFUSED, "%s: coordinator refuses: %s (%s)", what, text,
                          delta_status_name(coord->peer_status));
    return delta_fail(err, DELTA_REFUSED, "%s: coordinator refuses: %s", what, text);
}

/* ---- one call with retries ---- */

/* True: wait is over, try again. False: the failure stands. */
static bool again(struct agent_coord *coord, struct agent_retry *retry, enum delta_status st,
                  const struct delta_error *err)
{
    int64_t wait_ms;

    if (!agent_retry_next(retry, st, coord->env->random(coord->env->context), coord->retry_after_ms,
                          &wait_ms) ||
        wait_ms > AGENT_PATIENCE_MS)
        return false;
    delta_log_debug(MODULE, "try again in_ms=%lld tried=%u: %s", (long long)wait_ms, retry->tried,
                    err ? err->text : "");
    return coord->env->sleep_ms(coord->env->context, wait_ms);
}

/* `response` is live on success only. */
static enum delta_status call(struct agent_coord *coord, const char *what,
                              const struct agent_request *request, struct agent_response *response,
                              struct delta_error *err)
{
    struct agent_retry retry;
    enum delta_status st;

    agent_retry_init(&retry, &coord->retry);
    do {
        coord->peer_status = DELTA_OK;
        coord->retry_after_ms = -1;
        st = coord->transport.exchange(coord->transport.context, request, response, err);
        st = st ? delta_fail_in(err, st, "%s", what) : judge(coord, what, response, err);
        if (!st)
            return DELTA_OK;
        agent_response_release(response);
    } while (again(coord, &retry, st, err));
    return st;
}

static void blob_path(char *out, size_t size, const char *route, const struct delta_digest *digest)
{
    char hex[DELTA_DIGEST_HEX];

    delta_digest_hex(hex, digest);
    snprintf(out, size, "/v1/%s/%s", route, hex);
}

/* ---- enrolment ---- */

static enum delta_status copy_bin(struct delta_msg_value root, const char *key, uint8_t *out,
                                  size_t room, size_t *len, struct delta_error *err)
{
    struct delta_bytes bytes;
    const enum delta_status st = delta_msg_get_bin(root, key, &bytes, err);

    if (st)
        return st;
    if (bytes.len == 0 || bytes.len > room)
        return delta_fail(err, DELTA_LIMIT, "'%s' has %zu bytes", key, bytes.len);
    memcpy(out, bytes.data, bytes.len);
    *len = bytes.len;
    return DELTA_OK;
}

static enum delta_status read_enrolment(struct agent_enrolment *out, struct delta_bytes body,
                                        struct delta_error *err)
{
    struct delta_msg msg;
    enum delta_status st = delta_msg_parse(&msg, body, err);

    if (st)
        return st;
    const struct delta_msg_value root = delta_msg_root(&msg);
    st = copy_bin(root, "ca", out->ca, sizeof out->ca, &out->ca_len, err);
    if (!st)
        st = copy_bin(root, "certificate", out->certificate, sizeof out->certificate,
                      &out->certificate_len, err);
    if (!st)
        st = delta_msg_get_str(root, "channel", out->channel, sizeof out->channel, err);
    if (!st)
        st = delta_name_check("channel", out->channel, err);
    if (!st)
        st = copy_bin(root, "release_key", out->release_key, sizeof out->release_key,
                      &out->release_key_len, err);
    delta_msg_release(&msg);
    return st;
}

enum delta_status agent_coord_enrol(struct agent_coord *coord, struct delta_bytes csr,
                                    const char *device, const char *token,
                                    struct agent_enrolment *out, struct delta_error *err)
{
    struct delta_buf body;
    struct agent_response response;
    enum delta_status st;

    delta_buf_init(&body, 16384);
    struct delta_msg_out msg = {&body, DELTA_OK};
    delta_msg_map(&msg, 3);
    delta_msg_str(&msg, "csr");
    delta_msg_bin(&msg, csr.data, csr.len);
    delta_msg_str(&msg, "device");
    delta_msg_str(&msg, device);
    delta_msg_str(&msg, "token");
    delta_msg_str(&msg, token);
    if (msg.status) {
        delta_buf_release(&body);
        return delta_fail(err, msg.status, "cannot build the enrolment request");
    }
    const struct agent_request request = {.method = AGENT_POST,
                                          .kind = AGENT_TRAFFIC_ENROLMENT,
                                          .path = "/v1/enrol",
                                          .body = delta_buf_bytes(&body),
                                          .max_response_bytes = MAX_ANSWER};
    st = call(coord, "enrolment", &request, &response, err);
    delta_buf_release(&body);
    if (st)
        return st;
    st = read_enrolment(out, delta_buf_bytes(&response.body), err);
    agent_response_release(&response);
    return st ? delta_fail_in(err, st, "enrolment: coordinator's answer") : DELTA_OK;
}

/* ---- polling ---- */

enum delta_status agent_coord_poll(struct agent_coord *coord, const char *channel, char etag[80],
                                   struct delta_buf *sealed, bool *changed, struct delta_error *err)
{
    char path[128];
    struct agent_response response;
    enum delta_status st;

    *changed = false;
    delta_buf_init(sealed, DELTA_CHANNEL_MAX_BYTES);
    snprintf(path, sizeof path, "/v1/channel/%s", channel);
    const struct agent_request request = {.method = AGENT_GET,
                                          .kind = AGENT_TRAFFIC_POLL,
                                          .path = path,
                                          .if_none_match = etag[0] ? etag : NULL,
                                          .max_response_bytes = DELTA_CHANNEL_MAX_BYTES};
    st = call(coord, "poll", &request, &response, err);
    if (st)
        return st;
    if (response.status == 200) {
        *changed = true;
        snprintf(etag, 80, "%s", response.etag);
        *sealed = response.body; /* moved */
        return DELTA_OK;
    }
    if (response.status != 304)
        st = delta_fail(err, DELTA_FORMAT, "poll: unexpected HTTP status %ld", response.status);
    agent_response_release(&response);
    return st;
}

/* ---- downloads ---- */

struct download {
    int fd;
    const char *part;
    uint64_t have, bytes;
    bool started; /* the first piece of this answer was seen */
};

static enum delta_status take_piece(void *context, long status, struct delta_bytes piece,
                                    struct delta_error *err)
{
    struct download *download = context;

    /* A server may answer a range with the whole: then it begins again. */
    if (!download->started && status == 200 && download->have) {
        if (ftruncate(download->fd, 0) < 0 || lseek(download->fd, 0, SEEK_SET) < 0)
            return delta_fail_errno(err, "cannot restart '%s'", download->part);
        download->have = 0;
    }
    download->started = true;
    if (piece.len > download->bytes - download->have)
        return delta_fail(err, DELTA_LIMIT,
                          "'%s': coordinator sends more than the %llu bytes "
                          "it announced",
                          download->part, (unsigned long long)download->bytes);
    while (piece.len) {
        const ssize_t put = write(download->fd, piece.data, piece.len);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return delta_fail_errno(err, "cannot write '%s'", download->part);
        piece.data += put;
        piece.len -= (size_t)put;
        download->have += (uint64_t)put;
    }
    return DELTA_OK;
}

static enum delta_status open_part(struct download *download, struct delta_error *err)
{
    struct stat info;

    download->fd = open(download->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (download->fd < 0)
        return delta_fail_errno(err, "cannot open '%s'", download->part);
    if (fstat(download->fd, &info) < 0)
        return delta_fail_errno(err, "cannot stat '%s'", download->part);
    download->have = (uint64_t)info.st_size;
    if (download->have > download->bytes) {
        if (ftruncate(download->fd, 0) < 0)
            return delta_fail_errno(err, "cannot restart '%s'", download->part);
        download->have = 0;
    }
    if (lseek(download->fd, (off_t)download->have, SEEK_SET) < 0)
        return delta_fail_errno(err, "cannot seek in '%s'", download->part);
    return DELTA_OK;
}

/* One request for what is missing. */
static enum delta_status fetch_rest(struct agent_coord *coord, enum agent_traffic kind,
                                    const struct delta_digest *blob, struct download *download,
                                    struct delta_error *err)
{
    char path[128];
    struct agent_response response;
    const uint64_t from = download->have;
    enum delta_status st;

    blob_path(path, sizeof path, "blob", blob);
    download->started = false;
    const struct agent_request request = {.method = AGENT_GET,
                                          .kind = kind,
                                          .path = path,
                                          .range_from = from,
                                          .max_response_bytes = SIZE_MAX,
                                          .sink = take_piece,
                                          .sink_context = download};
    coord->peer_status = DELTA_OK;
    coord->retry_after_ms = -1;
    st = coord->transport.exchange(coord->transport.context, &request, &response, err);
    st = st ? delta_fail_in(err, st, "download") : judge(coord, "download", &response, err);
    if (!st && response.status == 206 && response.range_from != (int64_t)from)
        st = delta_fail(err, DELTA_FORMAT, "download: asked from byte %llu, got byte %lld",
                        (unsigned long long)from, (long long)response.range_from);
    if (!st && response.status != 200 && response.status != 206)
        st = delta_fail(err, DELTA_FORMAT, "download: unexpected HTTP status %ld", response.status);
    /* An answer that ended early without libcurl noticing is a broken connection too. */
    if (!st && download->have < download->bytes)
        st = delta_fail(err, DELTA_CONNECT, "download: broke off after %llu of %llu bytes",
                        (unsigned long long)download->have, (unsigned long long)download->bytes);
    if (response.status == 416)
        download->have = 0; /* what we hold makes no sense to the coordinator */
    agent_response_release(&response);
    return st;
}

static enum delta_status finish_part(const struct download *download,
                                     const struct delta_digest *blob, const char *path,
                                     struct delta_error *err)
{
    struct delta_digest digest;
    uint64_t size;
    enum delta_status st;

    if (fsync(download->fd) < 0)
        return delta_fail_errno(err, "cannot sync '%s'", download->part);
    st = delta_sha256_file(download->part, &digest, &size, err);
    if (st)
        return st;
    if (size != download->bytes || !delta_digest_equal(&digest, blob))
        return delta_fail(err, DELTA_DIGEST, "download: content does not have the digest of '%s'",
                          path);
    return delta_file_rename(download->part, path, err);
}

enum delta_status agent_coord_fetch(struct agent_coord *coord, enum agent_traffic kind,
                                    const struct delta_digest *blob, uint64_t bytes,
                                    const char *path, struct delta_error *err)
{
    char part[4096];
    struct download download = {-1, part, 0, bytes, false};
    struct agent_retry retry;
    enum delta_status st;

    if ((size_t)snprintf(part, sizeof part, "%s.part", path) >= sizeof part)
        return delta_fail(err, DELTA_LIMIT, "path '%.100s...' is too long", path);
    st = open_part(&download, err);
    agent_retry_init(&retry, &coord->retry);
    while (!st && download.have < bytes) {
        const uint64_t before = download.have;
        st = fetch_rest(coord, kind, blob, &download, err);
        if (!st)
            break;
        if (download.have > before) /* it moves: the tries start again */
            agent_retry_init(&retry, &coord->retry);
        if (!again(coord, &retry, st, err))
            break;
        st = DELTA_OK;
    }
    if (!st)
        st = finish_part(&download, blob, path, err);
    if (download.fd >= 0)
        close(download.fd);
    /* Bytes that are wrong stay wrong; bytes that are few are kept for the next time. */
    if (st == DELTA_DIGEST || st == DELTA_LIMIT || st == DELTA_FORMAT || st == DELTA_REFUSED)
        unlink(part);
    return st;
}

/* ---- contributions ---- */

static enum delta_status read_answer(struct agent_answer *answer, struct delta_bytes body,
                                     struct delta_error *err)
{
    struct delta_msg msg;
    struct delta_bytes version;
    char state[16];
    enum delta_status st = delta_msg_parse(&msg, body, err);

    *answer = (struct agent_answer){AGENT_VERDICT_PENDING, "", {{0}}};
    if (st)
        return st;
    const struct delta_msg_value root = delta_msg_root(&msg);
    st = delta_msg_get_str(root, "state", state, sizeof state, err);
    if (!st && delta_msg_has(root, "reason"))
        st = delta_msg_get_str(root, "reason", answer->reason, sizeof answer->reason, err);
    if (!st && delta_msg_has(root, "version")) {
        st = delta_msg_get_bin(root, "version", &version, err);
        if (!st && version.len == DELTA_DIGEST_BYTES)
            memcpy(answer->version.bytes, version.data, DELTA_DIGEST_BYTES);
    }
    if (!st && strcmp(state, "merged") == 0)
        answer->verdict = AGENT_VERDICT_MERGED;
    else if (!st && strcmp(state, "rejected") == 0)
        answer->verdict = AGENT_VERDICT_REJECTED;
    delta_msg_release(&msg);
    return st;
}

/* How much of it the coordinator holds; 0 when it never saw it. */
static enum delta_status held_there(struct agent_coord *coord, const struct delta_digest *digest,
                                    uint64_t *offset, struct delta_error *err)
{
    char path[128];
    struct agent_response response;
    enum delta_status st;

    blob_path(path, sizeof path, "contribution", digest);
    const struct agent_request request = {.method = AGENT_HEAD,
                                          .kind = AGENT_TRAFFIC_CONTRIBUTION,
                                          .path = path,
                                          .max_response_bytes = MAX_ANSWER};
    *offset = 0;
    st = call(coord, "contribution", &request, &response, err);
    if (st == DELTA_NOT_FOUND)
        return DELTA_OK;
    if (st)
        return st;
    if (response.upload_offset > 0)
        *offset = (uint64_t)response.upload_offset;
    agent_response_release(&response);
    return DELTA_OK;
}

/* Sends file[offset..]; *done when the coordinator has judged it. Returns at the first failure. */
static enum delta_status send_piece(struct agent_coord *coord, const struct delta_digest *digest,
                                    struct delta_bytes file, uint64_t offset, bool *done,
                                    struct agent_answer *answer, struct delta_error *err)
{
    char path[128];
    struct agent_response response;
    size_t len = file.len - (size_t)offset;
    enum delta_status st;

    if (len > AGENT_UPLOAD_PIECE)
        len = AGENT_UPLOAD_PIECE;
    blob_path(path, sizeof path, "contribution", digest);
    const struct agent_request request = {.method = AGENT_PUT,
                                          .kind = AGENT_TRAFFIC_CONTRIBUTION,
                                          .path = path,
                                          .body = delta_bytes(file.data + offset, len),
                                          .upload_offset = offset,
                                          .upload_size = file.len,
                                          .max_response_bytes = MAX_ANSWER};
    coord->peer_status = DELTA_OK;
    coord->retry_after_ms = -1;
    st = coord->transport.exchange(coord->transport.context, &request, &response, err);
    if (st)
        st = delta_fail_in(err, st, "contribution");
    else if (response.status == 409) /* out of step, perhaps after a lost answer: ask, go on */
        st = delta_fail(err, DELTA_CONNECT, "contribution: coordinator holds another offset");
    else
        st = judge(coord, "contribution", &response, err);
    if (!st && (response.status == 200 || response.status == 201)) {
        *done = true;
        st = read_answer(answer, delta_buf_bytes(&response.body), err);
    }
    agent_response_release(&response);
    return st;
}

enum delta_status agent_coord_offer(struct agent_coord *coord, const struct delta_digest *digest,
                                    struct delta_bytes file, struct agent_answer *answer,
                                    struct delta_error *err)
{
    struct agent_retry retry;
    uint64_t offset, furthest = 0;
    bool done = false, ask = true;
    enum delta_status st;

    if (file.len == 0)
        return delta_fail(err, DELTA_TRUNCATED, "contribution is empty");
    agent_retry_init(&retry, &coord->retry);
    while (!done) {
        if (ask) {
            st = held_there(coord, digest, &offset, err);
            if (st)
                return st;
            if (offset >= file.len)
                return agent_coord_ask(coord, digest, answer, err);
        }
        if (offset > furthest) { /* it moves: the tries start again */
            furthest = offset;
            agent_retry_init(&retry, &coord->retry);
        }
        st = send_piece(coord, digest, file, offset, &done, answer, err);
        ask = st != DELTA_OK;
        if (!st)
            offset +=
                file.len - offset > AGENT_UPLOAD_PIECE ? AGENT_UPLOAD_PIECE : file.len - offset;
        else if (!again(coord, &retry, st, err))
            return st;
        if (!done && !ask && offset >= file.len)
            return delta_fail(err, DELTA_FORMAT,
                              "contribution: coordinator has every byte and says nothing");
    }
    return DELTA_OK;
}

enum delta_status agent_coord_ask(struct agent_coord *coord, const struct delta_digest *digest,
                                  struct agent_answer *answer, struct delta_error *err)
{
    char path[128];
    struct agent_response response;
    enum delta_status st;

    blob_path(path, sizeof path, "contribution", digest);
    const struct agent_request request = {.method = AGENT_GET,
                                          .kind = AGENT_TRAFFIC_CONTRIBUTION,
                                          .path = path,
                                          .max_response_bytes = MAX_ANSWER};
    st = call(coord, "contribution", &request, &response, err);
    if (st)
        return st;
    st = read_answer(answer, delta_buf_bytes(&response.body), err);
    agent_response_release(&response);
    return st;
}

/* ---- reports ---- */

enum delta_status agent_coord_report(struct agent_coord *coord, const struct agent_report *report,
                                     struct delta_error *err)
{
    struct delta_buf body;
    struct agent_response response;
    enum delta_status st;

    delta_buf_init(&body, 1024);
    struct delta_msg_out msg = {&body, DELTA_OK};
    delta_msg_map(&msg, 5);
    delta_msg_str(&msg, "event");
    delta_msg_str(&msg, report->event);
    delta_msg_str(&msg, "old");
    delta_msg_real(&msg, report->old);
    delta_msg_str(&msg, "reason");
    delta_msg_str(&msg, report->reason);
    delta_msg_str(&msg, "tested");
    delta_msg_uint(&msg, report->tested);
    delta_msg_str(&msg, "version");
    delta_msg_bin(&msg, report->version.bytes, DELTA_DIGEST_BYTES);
    if (msg.status) {
        delta_buf_release(&body);
        return delta_fail(err, msg.status, "cannot build the report");
    }
    const struct agent_request request = {.method = AGENT_POST,
                                          .kind = AGENT_TRAFFIC_REPORT,
                                          .path = "/v1/report",
                                          .body = delta_buf_bytes(&body),
                                          .max_response_bytes = MAX_ANSWER};
    st = call(coord, "report", &request, &response, err);
    delta_buf_release(&body);
    if (!st)
        agent_response_release(&response);
    return st;
}
