/* Contributions: HEAD tells how many bytes are here, PUT appends and admits, GET tells the state.
 * An unfinished upload is the file uploads/<device>-<sha256>.part; its size is what is held, so a
 * killed coordinator needs no bookkeeping to resume. It never holds the last byte: that one is
 * added in the same step as the admission, under the name .whole, so that "all is here" and "it is
 * admitted" cannot fall apart; killed in between, the upload starts over. Two connections that
 * upload the same bytes write the same bytes to the same places; the digest decides in the end. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta/log.h"
#include "intake.h"
#include "routes.h"

#define UPLOADS_PER_DEVICE 8   /* unfinished; the oldest gives way */
#define UPLOADS_SCAN_MAX 65536 /* files in uploads/ */

struct upload {
    struct delta_digest digest;
    char path[SERVER_PATH_MAX];
    char whole[SERVER_PATH_MAX + 8];
    int fd;
    bool has_last;
    uint8_t last;           /* the last byte of the whole, not yet in the file */
    uint64_t at, end, size; /* next byte; end of this request's part; whole */
    bool whole_here;        /* a row in the store: only its state is to be told */
    struct server_contribution known;
};

static int64_t held(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 ? (int64_t)info.st_size : 0;
}

static void put_state(struct server_exchange *x, int status, const struct server_contribution *c)
{
    struct delta_buf body;
    struct delta_msg_out msg = {&body, DELTA_OK};
    const bool brief = status == 201;

    delta_buf_init(&body, 1024);
    delta_msg_map(&msg, brief ? 2 : 3);
    if (brief) {
        delta_msg_str(&msg, "id");
        delta_msg_bin(&msg, c->digest.bytes, sizeof c->digest.bytes);
    }
    if (!brief) {
        delta_msg_str(&msg, "reason");
        delta_msg_str(&msg, c->reason);
    }
    delta_msg_str(&msg, "state");
    delta_msg_str(&msg, server_contribution_state_name(c->state));
    if (!brief) {
        delta_msg_str(&msg, "version");
        delta_msg_bin(&msg, c->version.bytes,
                      delta_digest_is_zero(&c->version) ? 0 : sizeof c->version.bytes);
    }
    server_reply_message(&x->reply, status, delta_buf_bytes(&body));
    delta_buf_release(&body);
}

/* ---- room ---- */

/* Keeps the number of unfinished uploads of a device bounded: the oldest gives way. */
static void make_room(struct server_exchange *x)
{
    struct delta_dir_list list;
    char prefix[72], oldest[SERVER_PATH_MAX] = "";
    time_t oldest_at = 0;
    size_t count = 0;

    if (delta_dir_read(&list, x->context->keeper.places.uploads, UPLOADS_SCAN_MAX, NULL))
        return;
    snprintf(prefix, sizeof prefix, "%s-", x->device.name);
    for (size_t i = 0; i < list.count; i++) {
        char path[SERVER_PATH_MAX];
        struct stat info;
        if (strncmp(list.names[i], prefix, strlen(prefix)) != 0 ||
            strlen(list.names[i]) < strlen(prefix) + DELTA_DIGEST_HEX - 1 + strlen(".part") ||
            strlen(list.names[i]) > strlen(prefix) + DELTA_DIGEST_HEX - 1 + strlen(".whole") ||
            delta_path_join(path, sizeof path, x->context->keeper.places.uploads, list.names[i],
                            NULL) ||
            stat(path, &info) != 0)
            continue;
        if (count++ == 0 || info.st_mtime < oldest_at) {
            oldest_at = info.st_mtime;
            memcpy(oldest, path, sizeof oldest);
        }
    }
    if (count >= UPLOADS_PER_DEVICE) {
        delta_log_warn("upload", "dropped the oldest unfinished upload of device=%s",
                       x->device.name);
        unlink(oldest);
    }
    delta_dir_list_release(&list);
}

static void refuse(struct server_exchange *x, int status, enum delta_status code, const char *text,
                   int64_t have)
{
    struct delta_error err;

    delta_fail(&err, code, "%s", text);
    server_reply_error(&x->reply, status, &err, have);
}

/* ---- begin: may these bytes come? ---- */

/* What part of the whole this request carries; false when refused. */
static bool read_part(struct server_exchange *x, struct upload *up)
{
    const struct server_request *request = x->request;
    uint64_t last;

    if (request->content_range[0]) {
        if (!server_http_content_range(request->content_range, &up->at, &last, &up->size)) {
            refuse(x, 400, DELTA_FORMAT, "Content-Range must be 'bytes FIRST-LAST/SIZE'", -1);
            return false;
        }
        up->end = last + 1;
    } else {
        up->at = 0;
        up->end = up->size = request->body_bytes;
    }
    if (!up->size || (request->length_known && request->body_bytes != up->end - up->at)) {
        refuse(x, 400, DELTA_FORMAT,
               "body must be as long as Content-Range says, or have a Content-Length", -1);
        return false;
    }
    if (up->size > x->context->max_contribution_bytes) {
        refuse(x, 413, DELTA_LIMIT, "contribution is larger than this coordinator takes", -1);
        return false;
    }
    return true;
}

static void begin_put(struct server_exchange *x, struct upload *up)
{
    struct delta_error err = DELTA_ERROR_INIT;
    int64_t have;

    if (x->is_operator) {
        refuse(x, 403, DELTA_UNTRUSTED, "only devices contribute", -1);
        return;
    }
    if (up->whole_here) {
        put_state(x, 200, &up->known);
        return;
    }
    if (!read_part(x, up))
        return;
    have = held(up->path);
    if (have == 0 && up->at == 0)
        make_room(x);
    if (up->at != (uint64_t)have) {
        refuse(x, 409, DELTA_MISMATCH, "upload continues where the coordinator has its end", have);
        return;
    }
    up->fd = open(up->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (up->fd < 0) {
        delta_fail_errno(&err, "cannot keep the upload");
        server_reply_failure(&x->reply, &err);
    }
}

void server_upload_begin(struct server_exchange *x)
{
    struct server_store *store = x->context->keeper.store;
    struct upload *up = delta_calloc(1, sizeof *up);
    struct delta_error err = DELTA_ERROR_INIT;
    enum delta_status st;

    if (!up) {
        refuse(x, 503, DELTA_NO_MEMORY, "out of memory", -1);
        return;
    }
    x->state = up;
    up->fd = -1;
    if (!delta_digest_parse(&up->digest, x->argument)) {
        refuse(x, 400, DELTA_FORMAT, "path must end in a SHA-256 of 64 hex digits", -1);
        return;
    }
    st = server_store_contribution(store, &up->digest, &up->known, &err);
    if (st && st != DELTA_NOT_FOUND) {
        server_reply_failure(&x->reply, &err);
        return;
    }
    up->whole_here = !st && (x->is_operator || strcmp(up->known.device, x->device.name) == 0);
    server_places_upload(&x->context->keeper.places, x->is_operator ? "none" : x->device.name,
                         &up->digest, up->path);
    snprintf(up->whole, sizeof up->whole, "%.*s.whole", (int)(strlen(up->path) - strlen(".part")),
             up->path);
    if (x->request->method == SERVER_PUT)
        begin_put(x, up);
}

/* ---- bytes ---- */

void server_upload_piece(struct server_exchange *x, struct delta_bytes piece)
{
    struct upload *up = x->state;
    struct delta_error err = DELTA_ERROR_INIT;

    if (x->reply.status)
        return;
    if (piece.len > up->end - up->at) {
        refuse(x, 400, DELTA_FORMAT, "body is longer than Content-Range says", -1);
        return;
    }
    if (piece.len && up->at + piece.len == up->size) {
        up->last = piece.data[--piece.len];
        up->has_last = true;
    }
    while (piece.len) {
        const ssize_t put = pwrite(up->fd, piece.data, piece.len, (off_t)up->at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            delta_fail_errno(&err, "cannot keep the upload; it may be resumed later");
            delta_log_error("upload", "device=%s: %s", x->device.name, err.text);
            server_reply_failure(&x->reply, &err);
            return;
        }
        up->at += (uint64_t)put;
        piece.data += put;
        piece.len -= (size_t)put;
    }
    up->at += up->has_last;
}

/* ---- the whole is here ---- */

static enum delta_status check_whole(struct upload *up, struct delta_error *err)
{
    struct delta_digest digest;
    uint64_t size;
    enum delta_status st;

    if (pwrite(up->fd, &up->last, 1, (off_t)up->size - 1) != 1 || fsync(up->fd) != 0)
        return delta_fail_errno(err, "cannot keep the upload; it may be resumed later");
    st = delta_sha256_file(up->whole, &digest, &size, err);
    if (!st && (size != up->size || !delta_digest_equal(&digest, &up->digest)))
        st = delta_fail(err, DELTA_DIGEST,
                        "uploaded bytes do not match their digest; they were dropped, upload "
                        "them again");
    return st;
}

static enum delta_status check_and_keep(struct server_exchange *x, struct upload *up,
                                        struct server_contribution *c, struct delta_error *err)
{
    struct server_keeper *keeper = &x->context->keeper;
    bool blame = false;
    enum delta_status st = check_whole(up, err);

    if (st)
        return st;
    c->digest = up->digest;
    st = server_intake_check(keeper, &x->device, up->whole, x->context->max_pending_per_device, c,
                             &blame, err);
    if (st && blame) {
        struct delta_error unheard;
        c->state = SERVER_CONTRIBUTION_REJECTED;
        snprintf(c->reason, sizeof c->reason, "%s: %.200s", delta_status_name(st), err->text);
        if (server_store_contribution_add(keeper->store, c, &unheard))
            delta_log_warn("upload", "cannot record a refusal: %s", unheard.text);
    }
    if (st)
        return st;
    /* The file first, then the row: a row always has its file. */
    st = server_blob_adopt(&keeper->places, up->whole, &up->digest, err);
    return st ? st : server_store_contribution_add(keeper->store, c, err);
}

static bool is_ours(enum delta_status st)
{
    return delta_status_class(st) == DELTA_CLASS_ENV || delta_status_class(st) == DELTA_CLASS_NET ||
           delta_status_class(st) == DELTA_CLASS_BUG;
}

static enum delta_status admit(struct server_exchange *x, struct upload *up,
                               struct server_contribution *c, struct delta_error *err)
{
    enum delta_status st;

    if (rename(up->path, up->whole) < 0) {
        if (errno == ENOENT)
            return delta_fail(err, DELTA_BUSY, "another connection completes this upload");
        return delta_fail_errno(err, "cannot keep the upload; it may be resumed later");
    }
    st = check_and_keep(x, up, c, err);
    if (st && !is_ours(st)) {
        unlink(up->whole);
    } else if (st && delta_file_exists(up->whole)) {
        /* Nothing is wrong with the bytes: only the last one is to come again. */
        if (ftruncate(up->fd, (off_t)up->size - 1) < 0 || rename(up->whole, up->path) < 0)
            unlink(up->whole);
    }
    return st;
}

static void finish_put(struct server_exchange *x, struct upload *up)
{
    struct server_contribution c = {.new_samples = 0};
    struct delta_error err = DELTA_ERROR_INIT;
    enum delta_status st;

    if (up->at != up->end) {
        refuse(x, 400, DELTA_TRUNCATED, "body is shorter than Content-Range says", held(up->path));
        return;
    }
    if (up->end < up->size) {
        struct delta_buf body;
        struct delta_msg_out msg = {&body, DELTA_OK};
        delta_buf_init(&body, 64);
        delta_msg_map(&msg, 1);
        delta_msg_str(&msg, "have");
        delta_msg_uint(&msg, up->end);
        server_reply_message(&x->reply, 202, delta_buf_bytes(&body));
        delta_buf_release(&body);
        return;
    }
    st = admit(x, up, &c, &err);
    if (st == DELTA_EXISTS || st == DELTA_BUSY) { /* a second connection was faster */
        if (!server_store_contribution(x->context->keeper.store, &up->digest, &up->known, &err)) {
            put_state(x, 200, &up->known);
            return;
        }
    }
    if (st) {
        delta_log_warn("upload", "refused device=%s status=%s: %s", x->device.name,
                       delta_status_name(st), err.text);
        server_reply_error(&x->reply, is_ours(st) ? server_reply_status(st) : 422, &err, -1);
        return;
    }
    delta_log_info("upload", "admitted device=%s bytes=%llu new_samples=%u", x->device.name,
                   (unsigned long long)c.bytes, c.new_samples);
    put_state(x, 201, &c);
}

void server_upload_finish(struct server_exchange *x)
{
    struct upload *up = x->state;

    if (x->request->method == SERVER_PUT) {
        finish_put(x, up);
    } else if (up->whole_here && x->request->method == SERVER_GET) {
        put_state(x, 200, &up->known);
    } else {
        const int64_t have = up->whole_here ? (int64_t)up->known.bytes : held(up->path);
        if (x->request->method == SERVER_HEAD && have > 0) {
            x->reply.status = 200;
            server_reply_header(&x->reply, "Upload-Offset: %lld", (long long)have);
            server_reply_header(&x->reply, "Cache-Control: no-store");
        } else {
            refuse(x, 404, DELTA_NOT_FOUND, "no such contribution", -1);
        }
    }
}

void server_upload_release(struct server_exchange *x)
{
    struct upload *up = x->state;

    if (up && up->fd >= 0)
        close(up->fd);
    free(up);
    x->state = NULL;
}
